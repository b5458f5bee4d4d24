"""From a client to a backend in cases that need a certain order of events."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import pytest
from relay_rig import backend, relay, until

from easyproxy.engine.seam import Observation, Outcome, Where
from easyproxy.model import Address, Backend, Pool
from easyproxy.strategy.base import Strategy

pytestmark = pytest.mark.anyio


class Faulty(Strategy):
    """A user's strategy that fails for every client."""

    def build(self, backends: Sequence[Backend]) -> None:
        pass

    def candidates(self, client: str) -> Iterator[Backend]:
        raise RuntimeError(client)
        yield


async def test_a_unix_client_that_sends_and_leaves_while_it_waits_is_delivered(tmp_path):
    """Behaviour 4: closing a unix socket is not a reset, and what was sent before is whole."""
    async with relay() as rig:
        server = rig.server()
        pool = Pool("p", backends=(backend("p", "a", server, max_sessions=1),), queue_timeout_s=30)
        rig.apply(pool, bind=Address(path=str(tmp_path / "front.sock")))
        first = await rig.client()
        holder = await rig.taken(server)
        waiting = await rig.client()
        await until(lambda: rig.engine.statistics().queued["p"] == 1)
        await rig.send(waiting, b"fire and forget")
        waiting.close()
        await rig.send(first, b"still")  # a later event of the same worker: the one before was seen
        assert await rig.read(holder, 5) == b"still"
        first.close()
        holder.close()
        session = await rig.taken(server)
        assert await rig.read(session) == b"fire and forget"
        session.close()
        await until(lambda: rig.sessions == 0)


async def test_a_unix_client_that_leaves_without_a_word_is_not_waited_for(tmp_path):
    """Behaviour 10."""
    async with relay() as rig:
        server = rig.server()
        pool = Pool("p", backends=(backend("p", "a", server, max_sessions=1),), queue_timeout_s=30)
        rig.apply(pool, bind=Address(path=str(tmp_path / "front.sock")))
        first = await rig.client()
        await rig.taken(server)
        waiting = await rig.client()
        await until(lambda: rig.engine.statistics().queued["p"] == 1)
        waiting.close()
        await until(lambda: rig.engine.statistics().ends["client_gave_up"] == 1)
        assert rig.engine.statistics().queued["p"] == 0
        first.close()


async def test_a_faulty_strategy_leaves_the_order_of_priorities():
    """The stand-in serves only when no other can, also when the user's strategy has failed."""
    async with relay() as rig:
        spare, main = rig.server(), rig.server()
        backends = (backend("p", "spare", spare, priority=1), backend("p", "main", main))
        rig.apply(Pool("p", strategy=f"{__name__}:Faulty", backends=backends))
        client = await rig.client()
        session = await rig.taken(main)
        await rig.send(session, b"main")
        assert await rig.read(client, 4) == b"main"
        await until(lambda: rig.complaints)
        assert "RuntimeError" in rig.complaints[0]


@pytest.mark.parametrize("strategy", ["power_of_two", "least_connections"])
async def test_a_dial_under_way_survives_that_other_backends_leave(strategy):
    """Behaviours 13 and 29."""
    async with relay() as rig:
        server = rig.server()
        with socket.socket() as full:  # nobody accepts, so a connect to it stays under way
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            dead = [Backend(f"p/{n}", str(n), Address(*full.getsockname())) for n in range(3)]
            fill = [socket.socket() for _ in range(4)]
            for sock in fill:
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())
            good = backend("p", "good", server, priority=1)
            rig.apply(Pool("p", strategy, (*dead, good), connect_timeout_s=0.5, retries=5))
            client = await rig.client()
            await until(lambda: rig.engine.statistics().backends and rig.sessions == 1)
            await until(lambda: sum(rig.engine.statistics().backends[one.id].sessions for one in dead) == 1)
            taken = [one for one in dead if rig.engine.statistics().backends[one.id].sessions]
            rig.apply(Pool("p", strategy, (*taken, good), connect_timeout_s=0.5, retries=5))
            session = await rig.taken(server)
            await rig.send(client, b"in the end")
            assert await rig.read(session, 10) == b"in the end"
            assert not rig.complaints
            for sock in fill:
                sock.close()


async def test_sessions_are_closed_only_for_a_reason_that_exists():
    async with relay() as rig:
        rig.apply(Pool("p"))
        for reason in ("nonsense", "connected", "client_fin"):
            with pytest.raises(ValueError, match=f"{reason!r} is no reason"):
                await rig.engine.close_sessions(Where(), reason)
        assert await rig.engine.close_sessions(Where(), "operator") == 0


async def test_a_backend_that_fails_at_once_is_not_told_to_have_taken_as_long_as_the_one_before(tmp_path):
    async with relay() as rig:
        silent = rig.server()
        silent.listen(0)  # a full backlog: connects to it neither succeed nor fail
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        gone = Backend("p/gone", "gone", Address(path=str(tmp_path / "nobody")))
        pool = Pool(
            "p", strategy="first", backends=(backend("p", "silent", silent), gone), connect_timeout_s=0.3
        )
        rig.apply(pool)
        await rig.client()
        await until(lambda: len(rig.reports) == 3)
        for filler in fillers:
            filler.close()
        timeout, refused = (one for one in rig.reports if isinstance(one, Observation))
        assert (timeout.backend, timeout.outcome) == ("p/silent", Outcome.TIMEOUT)
        assert timeout.duration_s >= 0.3
        assert (refused.backend, refused.outcome, refused.duration_s) == ("p/gone", Outcome.REFUSED, 0.0)
