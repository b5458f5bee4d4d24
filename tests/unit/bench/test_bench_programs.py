"""The small programs and the running of others."""

import socket
import subprocess
import sys

import pytest
from bench.programs import ProgramFailed, output_of, running
from bench.servers import wire
from bench.topology import loopback


def test_idle_sessions_are_opened_used_and_held_until_stdin_ends(tmp_path):
    with (
        loopback(1) as topology,
        running(wire("hold", "127.0.0.1", str(topology.first_port)), tmp_path / "log"),
    ):
        _until_it_accepts(topology.first_port)
        with subprocess.Popen(
            wire("idle", "127.0.0.1", str(topology.first_port), "300"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            assert client.stdout.readline() == "open 300\n"
            assert client.poll() is None
            client.stdin.close()
            assert client.wait(30) == 0


def _until_it_accepts(port):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            continue
        return


def test_a_program_that_fails_is_reported_with_its_last_words():
    with pytest.raises(ProgramFailed, match="ended with 3: no such thing"):
        output_of(
            [sys.executable, "-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"], 30
        )


def test_a_program_that_cannot_be_started_is_reported():
    with pytest.raises(ProgramFailed, match="does-not-exist"):
        output_of(["/does-not-exist"], 30)


def test_a_program_that_never_ends_is_ended():
    with pytest.raises(ProgramFailed, match="still running"):
        output_of([sys.executable, "-c", "import sys; sys.stdin.close(); import time; time.sleep(600)"], 0.2)
