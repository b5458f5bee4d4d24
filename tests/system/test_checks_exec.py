"""The exec check with real commands."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from checks_support import look, target

from easyproxy.engine.seam import Observation, Outcome
from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.exec import TAIL_BYTES, ExecCheck
from easyproxy.health.monitor import Monitor
from easyproxy.model import Address

pytestmark = pytest.mark.anyio
ADDRESS = Address("127.0.0.1", 4321)


def shell(script: str, **env: str) -> ExecCheck:
    return ExecCheck(("/bin/sh", "-c", script), env)


def is_alive(pid: int) -> bool:
    """A killed process may wait for its parent to reap it: then it runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until_gone(*pids: int) -> None:
    """SIGKILL was sent, but it takes effect later; the suite's time limit ends a wait in vain."""
    while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110 - these are no children of ours to wait for
        await asyncio.sleep(0.01)


async def test_exit_0_is_success_and_the_last_line_is_the_detail():
    seen = await look(ADDRESS, shell("echo one; echo two >&2; echo; echo ' \033[1mthree '; echo"))
    assert (seen.outcome, seen.detail) == (Outcome.SUCCESS, "[1mthree")


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("echo lagging; exit 3", "exit status 3: lagging"),
        ("exit 1", "exit status 1"),
        ("kill -KILL $$", "killed by SIGKILL"),
    ],
)
async def test_another_end_is_a_failure_with_its_reason(script, detail):
    seen = await look(ADDRESS, shell(script))
    assert (seen.outcome, seen.detail) == (Outcome.FAILED, detail)


async def test_a_command_that_is_not_there_says_so():
    seen = await look(ADDRESS, ExecCheck(("/no/such/program",)))
    assert seen.detail == "cannot start /no/such/program: No such file or directory"


async def test_the_command_finds_the_backend_in_its_environment_and_no_secret_of_ours(monkeypatch):
    monkeypatch.setenv("ADMIN_TOKEN", "secret")
    script = "import os, json; print(json.dumps({k: v for k, v in os.environ.items() if 'EASY' in k or 'TOKEN' in k}))"
    found = await ExecCheck((sys.executable, "-c", script), {"MY_TOKEN": "x"}).probe(
        target(ADDRESS, ExecCheck(("x",)))
    )
    assert found == (
        '{"MY_TOKEN": "x", "EASYPROXY_BACKEND_ADDRESS": "127.0.0.1:4321", "EASYPROXY_BACKEND_HOST": "127.0.0.1",'
        ' "EASYPROXY_BACKEND_PORT": "4321", "EASYPROXY_BACKEND_NAME": "a", "EASYPROXY_BACKEND_POOL": "p"}'
    )


async def test_there_is_no_shell():
    seen = await look(ADDRESS, ExecCheck(("echo", "$(id)", ";", "ls")))
    assert seen.detail == "$(id) ; ls"


async def test_a_timeout_kills_the_command_with_its_grandchildren(tmp_path):
    """Behaviour 26: a probe ends what it started."""
    pids = tmp_path / "pids"
    script = (
        f"(sh -c 'echo $$ >> {pids}; sleep 600' & sleep 600) & echo $$ >> {pids}; trap '' TERM; sleep 600"
    )
    seen = await look(ADDRESS, shell(script), timeout_s=5)  # it has to start three of them meanwhile
    assert (seen.outcome, seen.detail) == (Outcome.TIMEOUT, "no answer within 5 s")
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 2
    await until_gone(*started)


async def test_stopping_the_monitor_ends_the_commands_that_run(tmp_path):
    pids = tmp_path / "pids"
    seen: list[Observation] = []
    monitor = Monitor(seen.append, lambda _: False)
    check = shell(f"echo $$ >> {pids}; sleep 600")
    monitor.watch(
        [replace(target(ADDRESS, check, timeout_s=600), backend=f"p/{number}") for number in range(3)]
    )
    while len(lines(pids)) < 3:  # noqa: ASYNC110 - another program writes them
        await asyncio.sleep(0.01)
    await monitor.stop()
    assert seen == []
    await until_gone(*map(int, lines(pids)))


async def test_what_a_command_left_in_the_background_neither_delays_nor_outlives_the_probe(tmp_path):
    pid = tmp_path / "pid"
    seen = await look(ADDRESS, shell(f"sleep 600 & echo $! > {pid}; echo done"), timeout_s=30)
    assert (seen.outcome, seen.detail) == (Outcome.SUCCESS, "done")
    await until_gone(int(pid.read_text()))


async def test_much_output_neither_blocks_the_command_nor_fills_our_memory():
    script = f"import sys; sys.stdout.write('x' * {TAIL_BYTES * 1000} + '\\nlast\\n')"
    seen = await look(ADDRESS, ExecCheck((sys.executable, "-c", script)), timeout_s=30)
    assert (seen.outcome, seen.detail) == (Outcome.SUCCESS, "last")


async def test_no_descriptor_is_left_over():
    async def once() -> None:
        with pytest.raises(ProbeFailed):
            await shell("exit 1").probe(target(ADDRESS, shell("")))
        with pytest.raises(ProbeFailed):
            await ExecCheck(("/no/such/program",)).probe(target(ADDRESS, shell("")))

    await once()
    before = descriptors()
    for _ in range(20):
        await once()
    assert descriptors() == before


async def test_a_unix_socket_backend_is_named_by_its_path():
    address = Address(path="/run/x.sock")
    found = await shell(
        'echo "$EASYPROXY_BACKEND_ADDRESS $EASYPROXY_BACKEND_HOST [$EASYPROXY_BACKEND_PORT]"'
    ).probe(target(address, shell("")))
    assert found == "unix:/run/x.sock /run/x.sock []"
