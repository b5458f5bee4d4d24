"""The balancer inside a program of one's own: ``async with Balancer(config)``, in this very process."""

from __future__ import annotations

import asyncio
import threading

import pytest
from eventually import comes_true
from proxy import simple
from traffic import Visit, Wrk, ask

from easyproxy import Balancer
from easyproxy.errors import ConfigError, EngineError
from easyproxy.model import Address

pytestmark = pytest.mark.anyio


def ours(before: set[threading.Thread]) -> list[str]:
    """Name the threads of the balancer that were not there before."""
    names = [thread.name for thread in threading.enumerate() if thread not in before]
    return [name for name in names if name.startswith("easyproxy")]


def port_of(balancer: Balancer, listener: str = "l") -> int:
    return Address.parse(balancer.addresses[listener]).port


async def asked(balancer: Balancer, clients: int = 6) -> list[str]:
    return [await asyncio.to_thread(ask, port_of(balancer)) for _ in range(clients)]


async def test_it_serves_between_enter_and_exit(nginxes):
    async with Balancer(simple(*nginxes)) as balancer:
        port = port_of(balancer)
        assert port, "port 0 was resolved"
        answers = await asked(balancer)
        assert answers == answers[:3] * 2
        assert sorted(answers[:3]) == ["a", "b", "c"]
        status = balancer.status()
        assert [backend.counters.total for backend in status.pools[0].backends] == [2, 2, 2]
        assert {backend.state for backend in status.pools[0].backends} == {"ready"}
        assert balancer.admin_address is None, "a program that asks for no admin server gets none"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(ask, port)


async def test_it_leaves_no_thread_and_no_task_behind(nginxes):
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with Balancer(simple(*nginxes)) as balancer:
        assert ours(threads)
        with await asyncio.to_thread(Visit, port_of(balancer)) as visit:
            await asyncio.to_thread(visit.ask)
            assert [session.backend for session in await balancer.sessions()] == ["p/a"]
            assert [(client.address, client.sessions) for client in await balancer.clients()] == [
                ("127.0.0.1", 1)
            ]
    # A thread pool's idle threads take a moment to notice that it was closed.
    await comes_true(lambda: not ours(threads), "no thread is left")
    assert asyncio.all_tasks() == tasks


async def test_two_of_them_serve_in_one_program(nginxes):
    a, b, c = nginxes
    async with Balancer(simple(a)) as one, Balancer(simple(b, c)) as two:
        assert port_of(one) != port_of(two)
        assert set(await asked(one)) == {"a"}
        assert set(await asked(two)) == {"b", "c"}
        await one.stop()
        assert set(await asked(two)) == {"b", "c"}


async def test_reload_changes_backends_and_keeps_sessions(nginxes):
    a, b, c = nginxes
    async with Balancer(simple(a)) as balancer:
        with await asyncio.to_thread(Visit, port_of(balancer)) as visit:
            assert await asyncio.to_thread(visit.ask) == "a"
            await balancer.reload(simple(b, c))
            assert set(await asked(balancer)) == {"b", "c"}
            assert await asyncio.to_thread(visit.ask) == "a"
            with pytest.raises(ConfigError) as refused:
                await balancer.reload({"listeners": [], "pools": 3, "wrong": 1})
            assert len(refused.value.problems) >= 2, "every error at once"
            assert set(await asked(balancer)) == {"b", "c"}


async def test_drain_lets_sessions_end_and_takes_no_new_ones(nginxes):
    """Behaviour 34, inside a program."""
    async with Balancer(simple(*nginxes)) as balancer:
        port = port_of(balancer)
        visit = await asyncio.to_thread(Visit, port)
        with visit:
            name = await asyncio.to_thread(visit.ask)
            draining = asyncio.create_task(balancer.drain(600))
            await comes_true(lambda: not balancer.addresses, "the listening sockets are closed")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.to_thread(ask, port)
            assert await asyncio.to_thread(visit.ask) == name
            assert not draining.done()
        await draining


async def test_drain_closes_what_is_left_at_its_deadline(nginxes):
    """Behaviour 34, inside a program."""
    async with Balancer(simple(*nginxes)) as balancer:
        with await asyncio.to_thread(Visit, port_of(balancer)) as visit:
            await asyncio.to_thread(visit.ask)
            await balancer.drain(0.2)
            assert not await asyncio.to_thread(visit.is_alive)


async def test_an_address_in_use_is_an_engine_error_and_leaves_nothing_open(nginxes):
    async with Balancer(simple(*nginxes)) as first:
        taken = f"127.0.0.1:{port_of(first)}"
        with pytest.raises(EngineError, match=f"port {port_of(first)} is in use"):
            async with Balancer(simple(*nginxes, bind=taken)):
                pass
        assert set(await asked(first)) == {"a", "b", "c"}


async def test_on_change_tells_of_a_backend_that_leaves(nginxes):
    changes = []
    async with Balancer(simple(*nginxes), on_change=changes.append) as balancer:
        nginxes[1].kill()
        await comes_true(
            lambda: ("p/b", "down") in [(each.backend, each.state) for each in changes], "b is down"
        )
        assert set(await asked(balancer)) == {"a", "c"}


async def test_wrk_is_served_by_the_thread(nginxes):
    async with Balancer(simple(*nginxes)) as balancer:
        with Wrk(port_of(balancer), connections=20) as wrk:
            await comes_true(lambda: moved(balancer) > 1_000_000, "a million bytes were answered")
        assert wrk.load.failed == 0, wrk.load
        assert wrk.load.requests > 20


def moved(balancer: Balancer) -> int:
    return sum(backend.counters.bytes_from_backend for backend in balancer.status().pools[0].backends)
