"""The example of a check of one's own, as the documentation shows it, against real Redis servers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from checks_support import look, serving

from easyproxy.engine.seam import Observation, Outcome
from easyproxy.health.checks import make
from easyproxy.health.checks.base import Check
from easyproxy.model import Address
from ports import free_port

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "checks" / "redis_role.py"


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE.parent)


@contextlib.asynccontextmanager
async def redis(tmp_path: Path, *options: str) -> AsyncIterator[Address]:
    program = shutil.which("redis-server")
    assert program, "redis-server is needed: apt-get install redis-server"
    port = free_port()
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(tmp_path),
        *options,
    ]
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                assert server.returncode is None
                await asyncio.sleep(0.01)
        writer.close()
        yield Address("127.0.0.1", port)
    finally:
        server.terminate()
        await server.wait()


async def settled(address: Address, check: Check, words: str) -> Observation:
    """Look until the server has settled; the suite's time limit ends a wait in vain."""
    while words not in (seen := await look(address, check)).detail:  # noqa: ASYNC110 - another program settles
        await asyncio.sleep(0.05)
    return seen


async def test_only_the_server_with_the_wanted_role_is_healthy(tmp_path):
    check = make("redis_role:RedisRole", {"role": "master"})
    async with (
        redis(tmp_path) as master,
        redis(tmp_path, "--replicaof", "127.0.0.1", str(master.port)) as replica,
    ):
        assert (await settled(master, check, "1 replicas")).outcome is Outcome.SUCCESS
        refused = await look(replica, check)
        assert (refused.outcome, refused.detail) == (Outcome.FAILED, "the role is slave, not master")
        assert (
            await look(replica, make("redis_role:RedisRole", {"role": "slave"}))
        ).outcome is Outcome.SUCCESS


async def test_a_server_that_wants_a_password_or_talks_nonsense_is_told_in_words(tmp_path):
    async with redis(tmp_path, "--requirepass", "secret") as address:
        seen = await look(address, make("redis_role:RedisRole"))
        assert (seen.outcome, seen.detail) == (Outcome.FAILED, "Redis says NOAUTH Authentication required.")

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"QUIT\r\n")
        writer.write(b"role:\x1b[31m\r\n")

    async with serving(nonsense) as address:
        assert (await look(address, make("redis_role:RedisRole"))).detail == "the role is [31m, not master"


def test_the_documentation_shows_the_example_as_it_is():
    page = (ROOT / "docs" / "health.md").read_text()
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert EXAMPLE.read_text() in shown
