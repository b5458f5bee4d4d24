"""The access log of the real program: every session and byte of a run is in it, through moves and slow disks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from listening import listening
from proxy import QUICK, RunningBalancer, Settings, simple
from traffic import Wrk, ask

from ports import free_port

ANSWER = b"a" * 3000
RESET = struct.pack("ii", 1, 0)


def lines_of(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def ended(status: Settings) -> int:
    return sum(status["ends"].values())


def wait_until_written(balancer: RunningBalancer) -> Settings:
    """Wait until every session that has ended has its line; return the status of then."""
    balancer.wait_for_no_sessions()
    return eventually(
        lambda: status if (status := balancer.status())["access_log"]["lines"] == ended(status) else {},
        "every session has its line",
    )


def answering() -> contextlib.AbstractContextManager[int]:
    """Serve a backend that says how it ends by the first byte it gets; give its port."""

    def talk(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            kind = client.recv(1)
            if kind == b"r":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return
            if kind == b"a":
                while client.recv(65536):
                    pass
                client.sendall(ANSWER)
            client.recv(1)

    return listening(talk, at_once=True)


def visit(port: int, kind: str, size: int) -> tuple[int, int]:
    """Be one client; return the bytes that it sent and got, as far as it can know."""
    # A reset may come before the connect has returned.
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), 30) as client:
        if kind == "answer":
            client.sendall(b"a" + b"x" * (size - 1))
            client.shutdown(socket.SHUT_WR)
            got = 0
            while data := client.recv(65536):
                got += len(data)
            return size, got
        client.sendall(b"r" if kind == "backend resets" else b"s")
        client.recv(1)  # reset by the backend, or after the idle time-out
    return 1, 0


def test_lines_counters_and_clients_agree_about_every_session_and_byte(start, tmp_path):
    """With retries, resets, time-outs, and clients for whom there is no backend."""
    path = tmp_path / "access.log"
    chance = random.Random(7)
    kinds = ["answer"] * 150 + ["backend resets"] * 30 + ["idle"] * 20
    chance.shuffle(kinds)
    with answering() as port:
        config = {
            "access_log": str(path),
            "listeners": [
                {"bind": "127.0.0.1:0", "name": "l", "pool": "p", "idle_timeout": "3s"},
                {"bind": "127.0.0.1:0", "name": "none", "pool": "away"},
            ],
            "pools": {
                "p": {
                    "check": "none",
                    "strategy": "random",
                    "backends": [
                        {"name": "good", "address": f"127.0.0.1:{port}"},
                        {"name": "away", "address": f"127.0.0.1:{free_port()}"},
                    ],
                },
                "away": {
                    "check": {"type": "tcp", **QUICK},
                    "backends": [{"name": "down", "address": f"127.0.0.1:{free_port()}"}],
                },
            },
        }
        balancer = start(config)
        served, refusing = balancer.port("l"), balancer.port("none")
        with ThreadPoolExecutor(16) as clients:
            found = list(clients.map(lambda kind: (kind, *visit(served, kind, 1 + len(kind) * 900)), kinds))
            list(clients.map(lambda _: visit(refusing, "idle", 1), range(9)))
        status = wait_until_written(balancer)
        lines = lines_of(path)
    assert status["access_log"] == {"path": str(path), "lines": len(lines), "lost": 0}
    assert status["lost_reports"] == 0
    assert Counter(line["reason"] for line in lines) == Counter(
        {reason: count for reason, count in status["ends"].items() if count}
    )
    assert len({line["id"] for line in lines}) == len(lines)
    mine = [line for line in lines if line["listener"] == "l"]
    assert len(mine) == len(kinds) == status["listeners"][0]["counters"]["accepted"]
    assert Counter(line["reason"] for line in mine) == {
        "client_fin": 150,
        "backend_reset": 30,
        "idle_timeout": 20,
    }
    assert [line["reason"] for line in lines if line["listener"] == "none"] == ["no_backend"] * 9
    counters = {each["id"]: each["counters"] for pool in status["pools"] for each in pool["backends"]}
    assert sum(line["bytes_from_client"] for line in lines) == sum(sent for _, sent, _ in found)
    assert sum(line["bytes_from_client"] for line in lines) == counters["p/good"]["bytes_from_client"]
    assert sum(line["bytes_from_backend"] for line in lines) == 150 * len(ANSWER)
    assert sum(got for _, _, got in found) == counters["p/good"]["bytes_from_backend"] == 150 * len(ANSWER)
    retried = [line for line in mine if "tried" in line]
    assert len(retried) == counters["p/away"]["retries"] > 0
    assert all(
        line["tried"] == [{"backend": "p/away", "why": "Connection refused"}] and line["backend"] == "p/good"
        for line in retried
    )


def test_a_file_that_is_moved_under_load_costs_no_line(start, nginxes, tmp_path):
    """SIGUSR1 opens it again, as with nginx; thousands of sessions go on meanwhile."""
    path = tmp_path / "access.log"
    balancer = start({**simple(*nginxes), "access_log": {"path": str(path)}})
    moved = [path.with_suffix(f".{number}") for number in range(3)]
    with Wrk(balancer.port(), close=True) as load:
        for old in moved:
            before = balancer.status()["access_log"]["lines"]
            eventually(lambda: balancer.status()["access_log"]["lines"] > before + 100, "lines are written")  # noqa: B023
            path.rename(old)
            balancer.program.send(signal.SIGUSR1)
            eventually(path.exists, "the file is opened again")
    assert load.load.failed == 0

    def agreed() -> Settings:
        """Clients of wrk that had not been accepted when it ended still come."""
        status = wait_until_written(balancer)
        accepted = status["listeners"][0]["counters"]["accepted"]
        return status if len(lines_of(*moved, path)) == ended(status) == accepted else {}

    status = eventually(agreed, "as many lines as sessions that have ended, and as clients that have come")
    lines = lines_of(*moved, path)
    assert status["access_log"]["lost"] == status["lost_reports"] == 0
    assert sum(line["bytes_from_backend"] for line in lines) == sum(
        each["counters"]["bytes_from_backend"] for each in balancer.backends().values()
    )


def test_a_log_that_nobody_reads_stops_no_session_and_goes_on_when_somebody_comes(start, nginxes, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    balancer = start({**simple(*nginxes), "access_log": str(path)})
    with Wrk(balancer.port(), close=True) as load:
        eventually(lambda: ended(balancer.status()) > 2000, "sessions go on")
    assert load.load.failed == 0
    balancer.wait_for_no_sessions()
    before = balancer.status()
    assert before["access_log"]["lines"] < ended(before)
    with path.open("rb") as pipe:  # somebody comes at last
        reader = threading.Thread(target=lambda: list(pipe))
        reader.start()
        try:
            status = eventually(
                lambda: (
                    now
                    if sum((now := balancer.status())["access_log"][key] for key in ("lines", "lost"))
                    + now["lost_reports"]
                    == ended(now)
                    else {}
                ),
                "every session has its line or is counted as lost",
            )
        finally:
            balancer.stop()
            reader.join()
    assert status["access_log"]["lines"] > before["access_log"]["lines"]


def test_sessions_that_the_end_of_the_program_closes_have_their_lines(start, nginxes, tmp_path):
    path = tmp_path / "access.log"
    balancer = start({**simple(*nginxes), "access_log": str(path), "drain_timeout": "100ms"})
    with contextlib.ExitStack() as open_:
        for _ in range(20):
            open_.enter_context(socket.create_connection(("127.0.0.1", balancer.port()), 30))
        eventually(lambda: balancer.status()["listeners"][0]["counters"]["sessions"] == 20, "all are here")
        balancer.program.send(signal.SIGTERM)
        assert balancer.program.ended() == 0
    assert Counter(line["reason"] for line in lines_of(path)) == {"drained": 20}


@pytest.mark.parametrize("form", ["json", "haproxy"])
def test_standard_output_has_the_lines_and_the_log_of_the_program_stays_apart(start, nginxes, form):
    balancer = start({**simple(nginxes[0]), "access_log": {"path": "stdout", "format": form}})
    assert ask(balancer.port()) == "a"
    wait_until_written(balancer)
    wanted = '"backend":"p/a"' if form == "json" else " l p/a 0/"
    assert any(wanted in line for line in balancer.log().splitlines())


def test_a_place_that_does_not_exist_is_told_before_anybody_is_served(start, nginxes, tmp_path):
    balancer = start(
        {**simple(*nginxes), "access_log": str(tmp_path / "missing" / "access.log")}, patience=False
    )
    assert balancer.program.ended() == 2
    assert f"access_log.path: there is no directory {tmp_path}/missing; create it" in balancer.log()
