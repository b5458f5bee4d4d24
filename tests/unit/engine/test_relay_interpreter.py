"""Which Python runs the workers: what is taken, what is passed over, and that another one does the work as well."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from pathlib import Path

import pytest
from relay_rig import backend, relay, until

from easyproxy.engine.relay import RelayEngine, interpreter
from easyproxy.engine.relay.interpreter import choose, is_roots_alone, same
from easyproxy.errors import EngineError
from easyproxy.model import Pool

NAME = f"python{sys.version_info[0]}.{sys.version_info[1]}"
REAL = os.path.realpath(sys.executable)
ABI = sysconfig.get_config_var("SOABI")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder that is searched, as if only root could write there, by a build that is not optimised."""
    monkeypatch.setattr(interpreter, "PLACES", (str(tmp_path),))
    monkeypatch.setattr(interpreter, "is_roots_alone", os.path.exists)
    monkeypatch.setattr(interpreter, "_is_optimised", lambda: False)
    monkeypatch.setattr(interpreter, "TRIAL_S", 60.0)  # the machine may be busy
    return tmp_path


def _script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def _answer(seconds: float, version=sys.version_info[:3], abi=ABI) -> str:
    return f"echo '{json.dumps([version, abi, seconds])}'"


def test_the_faster_build_of_the_same_version_is_taken(place):
    path = _script(place / NAME, _answer(1e-9))
    found = choose("auto")
    assert found.path == path
    assert "times as fast" in str(found)


@pytest.mark.parametrize(
    "body",
    [
        _answer(1e9),
        _answer(1e-9, version=(sys.version_info[0], sys.version_info[1] + 1, 0)),
        _answer(1e-9, abi="cpython-313t-x86_64-linux-gnu"),
        "exit 3",
        "echo Hello",
        "echo '[1, 2]'",
        "printf '\\377\\376'",
        "kill -9 $$",
    ],
    ids=["slower", "another version", "another ABI", "ends", "chatters", "half", "no text", "killed"],
)
def test_one_that_is_no_better_or_odd_is_passed_over_without_a_word(place, body):
    _script(place / NAME, body)
    assert choose("auto") == same()


def test_one_that_hangs_is_passed_over(place, monkeypatch):
    monkeypatch.setattr(interpreter, "TRIAL_S", 0.5)
    _script(place / NAME, "exec sleep 600")
    assert choose("auto") == same()


def test_an_optimised_build_looks_for_no_other(place, monkeypatch):
    _script(place / NAME, _answer(1e-9))
    monkeypatch.setattr(interpreter, "_is_optimised", lambda: True)
    assert choose("auto") == same()


def test_only_what_nobody_but_root_can_write_is_tried(tmp_path, monkeypatch):
    path = _script(tmp_path / NAME, _answer(1e-9))
    assert not is_roots_alone(path), "its folders belong to a user, or can be written by all"
    assert not is_roots_alone(str(tmp_path / "missing"))
    assert is_roots_alone("/bin/sh")
    monkeypatch.setattr(interpreter, "PLACES", (str(tmp_path),))
    assert interpreter._candidates() == []


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nonexistent/python", "No such file or directory"),
        ("/bin/true", "does not answer as Python does"),
        ("/bin/false", "ended with code 1"),
    ],
)
def test_a_path_that_leads_to_no_such_python_is_refused_in_words(path, why):
    with pytest.raises(EngineError, match=f"worker_python: {path} cannot run workers: .*{why}"):
        choose(path)


def _arguments(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


@pytest.mark.anyio
async def test_an_engine_with_a_wrong_path_does_not_start():
    engine = RelayEngine(worker_python="/bin/false")
    try:
        with pytest.raises(EngineError, match="worker_python: /bin/false"):
            await engine.start(lambda _: None)
    finally:
        await engine.stop()


@pytest.mark.anyio
async def test_workers_of_a_named_python_serve_and_import_users_strategies(tmp_path, monkeypatch):
    """It starts with nothing of the environment; what is installed here is handed over, with its .pth files."""
    packages, hooked = tmp_path / "site-packages", tmp_path / "hooked"
    packages.mkdir()
    hooked.mkdir()
    (packages / "editable.pth").write_text(f"{hooked}\n")
    (hooked / "chosen_by_a_test.py").write_text(
        "from easyproxy.strategy.first import First\nclass Mine(First):\n    '''As First.'''\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    async with relay(workers=1, processes=True, worker_python=sys.executable) as rig:
        monkeypatch.setattr(
            sys, "path", [*sys.path, str(hooked)]
        )  # as its .pth file does; the worker reads it itself
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server),), strategy="chosen_by_a_test:Mine"))
        client = await rig.client()
        session = await rig.taken(server)
        await rig.send(client, b"hello")
        assert await rig.read(session, 5) == b"hello"
        assert not rig.complaints
        assert rig.engine.statistics().worker_python.startswith(sys.executable)
        [pid] = rig.engine.worker_pids()
        assert b"-I" in _arguments(pid)


@pytest.mark.anyio
async def test_a_python_that_an_update_has_taken_away_is_replaced_by_our_own(tmp_path):
    path = tmp_path / NAME
    path.symlink_to(REAL)
    async with relay(workers=1, processes=True, worker_python=str(path)) as rig:
        path.unlink()
        [pid] = rig.engine.worker_pids()
        os.kill(pid, 9)
        await until(lambda: rig.engine.worker_pids() not in ([], [pid]))
        assert rig.engine.python == str(same())


def test_a_worker_of_a_thread_asks_for_no_interpreter():
    engine = RelayEngine(workers=1, processes=False, worker_python="/bin/false")
    assert engine.python == str(same())
    engine._counters.close()
    os.close(engine._counters_fd)
