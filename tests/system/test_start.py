"""What stands in the way of a start is said in words, with the thing named, and harms nobody else."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from eventually import eventually
from proxy import command, simple
from traffic import Visit, Wrk, ask

from easyproxy.cli.client import post
from ports import free_port


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_instance_on_the_same_port_says_so_and_leaves_the_first_alone(start, nginxes, workers):
    """SO_REUSEPORT, which the workers use, would let it join in silently."""
    first = start({**simple(*nginxes), "workers": workers})
    port = first.port()
    with Visit(port) as visit, Wrk(port, connections=5, close=True) as wrk:
        name = visit.ask()
        second = start({**simple(*nginxes, bind=f"127.0.0.1:{port}"), "workers": workers}, patience=False)
        assert second.program.ended() == 1
        assert f"port {port} is in use" in second.log()
        assert visit.ask() == name
    assert wrk.load.failed == 0, wrk.load
    assert [ask(port) for _ in range(3)]


def test_an_admin_address_in_use_is_named(start, nginxes):
    first = start(
        {**simple(*nginxes), "admin": {"bind": f"127.0.0.1:{(admin := free_port())}"}}, patience=False
    )
    first.program.wait_until(lambda: "serving" in first.log(), "it serves")
    second = start({**simple(*nginxes), "admin": {"bind": f"127.0.0.1:{admin}"}}, patience=False)
    assert second.program.ended() == 1
    assert str(admin) in second.log()


NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_paths_that_the_locale_cannot_write_are_named_with_the_remedy_that_helps(start, nginxes, tmp_path):
    folder = tmp_path / "bücher"
    folder.mkdir()
    config = simple(nginxes[0], bind=f"unix:{folder}/l.sock") | {
        "state_file": f"{folder}/state.json",
        "access_log": f"{folder}/access.log",
    }
    refused = start(config, env=NO_UTF8, patience=False)
    assert refused.program.ended() == 2
    for setting, name in (
        ("listeners[0].bind", "l.sock"),
        ("state_file", "state.json"),
        ("access_log", "access.log"),
    ):
        told = f"{setting}: '{folder}/{name}' cannot be written in the character set of this program, ascii;"
        assert told in refused.log()
    assert "start it with PYTHONUTF8=1" in refused.log()
    start(config, env=NO_UTF8 | {"PYTHONUTF8": "1"})
    assert (folder / "l.sock").is_socket()
    assert (folder / "access.log").is_file()


def test_an_address_of_no_interface_is_named(start, nginxes):
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    balancer = start(simple(*nginxes, bind="192.0.2.1:8080"), patience=False)
    assert balancer.program.ended() == 1
    assert "192.0.2.1:8080: no interface of this machine has that address" in balancer.log()


def test_a_privileged_port_says_what_it_takes(start, nginxes):
    if os.geteuid() == 0:
        # Without that one capability, in a network namespace of its own, where the limit is 1024 wherever we are.
        prefix = (
            "unshare",
            "--net",
            "setpriv",
            "--bounding-set=-net_bind_service",
            "--inh-caps=-net_bind_service",
        )
    elif int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 80:
        prefix = ()
    else:
        pytest.skip("on this machine everybody may listen on port 80, and only root can make another network")
    balancer = start(simple(*nginxes, bind="0.0.0.0:80"), prefix=prefix, patience=False)
    assert balancer.program.ended() == 1
    assert "cannot listen on 0.0.0.0:80: not permitted" in balancer.log()
    assert "CAP_NET_BIND_SERVICE" in balancer.log()
    assert "stopped" not in balancer.log(), "what has not started is not said to have stopped"


def test_too_few_descriptors_for_max_sessions_are_told_at_the_start(start, nginxes):
    """Behaviour 16."""
    config = simple(*nginxes)
    config["listeners"][0]["max_sessions"] = 1000
    # A shell's own limit, hard and soft: the program cannot raise it.
    few = ("sh", "-c", 'ulimit -n 300; exec "$@"', "sh")
    balancer = start(config, prefix=few)
    told = re.search(r"1000 sessions .* need about (\d+) open files .* the limit is 300", balancer.log())
    assert told, balancer.log()
    assert int(told[1]) > 1000
    assert ask(balancer.port()) == "a"


def test_too_few_descriptors_for_max_sessions_are_told_by_a_reload(start, nginxes):
    """Behaviour 16."""
    config = simple(*nginxes)
    config["listeners"][0]["max_sessions"] = 20
    balancer = start(config, prefix=("sh", "-c", 'ulimit -n 300; exec "$@"', "sh"))
    assert "open files" not in balancer.log()
    config["listeners"][0]["max_sessions"] = 1000
    balancer.reload(config)
    told = "1000 sessions (max_sessions of all listeners) need about"
    eventually(lambda: told in balancer.log(), "the log says so")
    done = subprocess.run(
        command("plan", "--admin", str(balancer.admin), str(balancer.file)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told in done.stdout + done.stderr


def test_admin_clients_that_take_every_descriptor_are_told_of_in_a_line(start, nginxes):
    """Behaviour 39: who comes later waits, sessions and a killed worker do not."""
    balancer = start(simple(*nginxes), prefix=("sh", "-c", 'ulimit -n 64; exec "$@"', "sh"))
    port = balancer.port()
    with ExitStack() as stack:
        for _ in range(70):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(balancer.admin.path)
        told = "the admin server accepts nobody for now: Too many open files"
        eventually(lambda: told in balancer.log(), "the log says so")
        assert "Traceback" not in balancer.log()
        assert ask(port) in "abc"
    eventually(balancer.is_answering, "it answers again")


def test_without_memory_that_can_be_shared_it_says_so_and_ends(start, nginxes):
    """What is shared is a file to the kernel, and may be no larger than a file."""
    few = ("sh", "-c", '(ulimit -f 0; exec "$@") 2>&1 | cat', "sh")
    balancer = start(simple(*nginxes), prefix=few, patience=False)
    balancer.program.ended()
    assert "no shared memory for counters: File too large; look at" in balancer.log()
    assert "Traceback" not in balancer.log()


def test_a_log_that_nobody_reads_holds_nobody_up(start, nginxes, tmp_path):
    """A pager that waits for a key, a terminal after Ctrl-S, a log driver that hangs."""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        balancer = start(simple(*nginxes), prefix=("sh", "-c", f'exec "$@" 2>{pipe}', "sh"), patience=False)
        eventually(balancer.is_answering, "it serves")
        for number in range(500):  # more than a pipe holds
            post(
                balancer.admin, "/api/weight", {"backend": "p/a", "weight": 1 + number % 9, "why": "w" * 200}
            )
        assert ask(balancer.port()) in "abc"
        said = b""

        def read() -> bool:
            nonlocal said
            with suppress(BlockingIOError):
                said += os.read(reader, 65536)
            return said.count(b"override set") == 500

        eventually(read, "every line is there")
        for number in range(500):
            post(
                balancer.admin, "/api/weight", {"backend": "p/a", "weight": 1 + number % 9, "why": "w" * 200}
            )
        assert balancer.stop() == 0
    finally:
        os.close(reader)


def test_a_soft_limit_is_raised_without_a_word(start, nginxes):
    """Behaviour 16: the other way round, so that the warning means something."""
    config = simple(*nginxes)
    config["listeners"][0]["max_sessions"] = 1000
    balancer = start(config, prefix=("sh", "-c", 'ulimit -S -n 300; exec "$@"', "sh"))
    assert "open files" not in balancer.log()
    limits = Path(f"/proc/{balancer.workers()[0]}/limits").read_text()
    assert re.search(r"Max open files +(\d+)", limits)[1] != "300"


def test_at_the_limit_of_descriptors_clients_wait_and_are_served(start, nginxes):
    """Behaviour 16: more clients than descriptors; every one is served in the end."""
    balancer = start(simple(*nginxes), prefix=("sh", "-c", 'ulimit -n 120; exec "$@"', "sh"))
    with Wrk(balancer.port(), connections=300, close=True) as wrk:
        eventually(lambda: sum(balancer.totals().values()) > 1500, "traffic flows")
    assert wrk.load.failed == 0, wrk.load
    assert balancer.status()["worker_restarts"] == 0
    assert {each["state"] for each in balancer.backends().values()} == {"ready"}


def test_a_wrong_file_ends_with_2_and_says_where(start):
    balancer = start("listeners: []\npools: {}\nwrokers: 2\n", patience=False)
    assert balancer.program.ended() == 2
    assert "easyproxy.yaml:3:1" in balancer.log()
    assert "did you mean workers?" in balancer.log()
