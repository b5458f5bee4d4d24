"""Each strategy's distribution as clients see it, through the engine, over all its workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from conformance.backends import ScriptedBackend, greet
from conformance.engines import behaviour
from conformance.observe import eventually
from conformance.rig import Rig
from easyproxy.errors import EngineError

pytestmark = pytest.mark.anyio

STRATEGIES = {"round_robin", "random", "source_hash", "least_connections", "power_of_two", "maglev", "first"}


def backends(rig: Rig, names: str) -> list[ScriptedBackend]:
    """Start backends that greet with their name, one letter each."""
    return [rig.backend(name, greet(name.encode())) for name in names]


async def visit(rig: Rig, source: str = "127.0.0.1") -> str:
    """Connect, read who answered, leave."""
    client = await rig.client(source=(source, 0))
    name = await client.read(1)
    client.close()
    return name.decode()


async def settle_many(rig: Rig, count: int) -> Counter[str]:
    """Let clients come one after another and stay."""
    seen: Counter[str] = Counter()
    for _ in range(count):
        client = await rig.client()
        seen[(await client.read(1)).decode()] += 1
    return seen


async def visit_all(rig: Rig, sources: Sequence[str]) -> dict[str, str]:
    """Let one client per source address come, some at a time; return who answered whom."""
    answers: dict[str, str] = {}
    waiting = iter(sources)

    async def work() -> None:
        for source in waiting:
            answers[source] = await visit(rig, source)

    await asyncio.gather(*(work() for _ in range(20)))
    return answers


def sources(count: int) -> list[str]:
    """Return client addresses; every address of 127.0.0.0/8 is this machine."""
    return [f"127.{1 + number // 40_000}.{number // 200 % 200}.{1 + number % 200}" for number in range(count)]


@behaviour(27, "load")
async def test_every_strategy_is_offered(rig: Rig) -> None:
    """Behaviour 27."""
    assert rig.engine.strategies >= STRATEGIES


@behaviour(27)
async def test_round_robin_takes_turns_exactly(rig: Rig) -> None:
    """Behaviour 27: a, b, c, a, b, c for clients that come one after another, with any number of workers."""
    rig.serve(*backends(rig, "abc"), strategy="round_robin")
    assert "".join([await visit(rig) for _ in range(60)]) == "abc" * 20


@behaviour(27)
async def test_weighted_round_robin_is_exact_and_smooth(rig: Rig) -> None:
    """Behaviour 27: weights 4, 2, 1."""
    a, b, c = backends(rig, "abc")
    rig.serve(a.model(weight=4), b.model(weight=2), c.model(weight=1), strategy="round_robin")
    seen = "".join([await visit(rig) for _ in range(70)])
    for start in range(0, 70, 7):
        assert Counter(seen[start : start + 7]) == {"a": 4, "b": 2, "c": 1}
    assert "aaa" not in seen, "the heavy one is spread over the turn"


@behaviour(27)
async def test_random_follows_the_weights(rig: Rig) -> None:
    """Behaviour 27: weights 1 and 2, 600 clients; the bounds are five standard deviations."""
    a, b = backends(rig, "ab")
    rig.serve(a, b.model(weight=2), strategy="random")
    seen = Counter((await visit_all(rig, sources(600))).values())
    assert 200 - 58 <= seen["a"] <= 200 + 58


@pytest.mark.parametrize("strategy", ["source_hash", "maglev"])
@behaviour(27)
async def test_hashing_keeps_clients_follows_weights_and_moves_few(rig: Rig, strategy: str) -> None:
    """Behaviour 27: of three backends with weights 1, 1, 2 one leaves."""
    a, b, c = backends(rig, "abc")
    rig.serve(a, b, c.model(weight=2), strategy=strategy)
    clients = sources(400)
    before = await visit_all(rig, clients)
    assert await visit_all(rig, clients) == before
    seen = Counter(before.values())
    assert 100 - 50 <= seen["a"] <= 100 + 50
    assert 200 - 50 <= seen["c"] <= 200 + 50

    staying = await rig.client(source=(next(source for source in clients if before[source] == "b"), 0))
    assert await staying.read(1) == b"b"
    rig.serve(a, c.model(weight=2), strategy=strategy)
    on_b = [source for source in clients if before[source] == "b"][:40]
    await eventually(lambda: _answers(rig, on_b), lambda seen: "b" not in seen, "nobody at b")
    after = await visit_all(rig, clients)
    moved = [source for source in clients if before[source] != "b" and after[source] != before[source]]
    assert len(moved) <= 40, f"{len(moved)} of {400 - seen['b']} clients moved without need"
    await staying.send(b"living")
    assert await staying.read(6) == b"living"


async def _answers(rig: Rig, clients: Sequence[str]) -> set[str]:
    return set((await visit_all(rig, clients)).values())


@behaviour(27, "load")
async def test_least_connections_counts_over_all_workers(rig: Rig) -> None:
    """Behaviour 27: sessions that stay are spread evenly, and a backend that was left gets the next ones."""
    a, b, c = backends(rig, "abc")
    rig.serve(a, b, c, strategy="least_connections")
    assert await settle_many(rig, 12) == {"a": 4, "b": 4, "c": 4}
    for server in b.connections:
        server.reset()
    await eventually(lambda: rig.counters(b).sessions, 0)
    assert await settle_many(rig, 4) == {"b": 4}


@behaviour(27, "load")
async def test_least_connections_follows_the_weights(rig: Rig) -> None:
    """Behaviour 27: weights 1 and 3."""
    a, b = backends(rig, "ab")
    rig.serve(a, b.model(weight=3), strategy="least_connections")
    assert await settle_many(rig, 16) == {"a": 4, "b": 12}


@behaviour(27, "load")
async def test_power_of_two_prefers_the_less_loaded(rig: Rig) -> None:
    """Behaviour 27: between two backends it always takes the less loaded one; with six nobody is left far behind."""
    rig.serve(*backends(rig, "ab"), strategy="power_of_two")
    two = await settle_many(rig, 20)
    assert abs(two["a"] - two["b"]) <= 1
    many = [rig.backend(name, greet(name.encode())) for name in "uvwxyz"]
    rig.serve(*many, strategy="power_of_two")
    await rig.engine.settled()
    six = await settle_many(rig, 120)
    assert set(six) == set("uvwxyz"), "only the new ones"
    # Chance alone would be within 20 +- 12 (three standard deviations); two choices keep the distance to a few.
    assert max(six.values()) - min(six.values()) <= 10


@behaviour(19, 27)
async def test_first_fills_one_before_the_next(rig: Rig) -> None:
    """Behaviours 19 and 27."""
    a, b = backends(rig, "ab")
    rig.serve(a.model(max_sessions=3), b, strategy="first")
    assert await settle_many(rig, 5) == {"a": 3, "b": 2}
    a.connections[0].reset()
    await eventually(lambda: rig.counters(a).sessions, 2)
    assert await settle_many(rig, 2) == {"a": 1, "b": 1}


@behaviour(27)
async def test_a_backup_serves_only_when_no_other_is_listed(rig: Rig) -> None:
    """Behaviour 27: priority 1 waits behind priority 0, and a snapshot without the latter brings it in."""
    a, b, spare = backends(rig, "abs")
    rig.serve(a, b, spare.model(priority=1))
    assert "".join([await visit(rig) for _ in range(20)]) == "ab" * 10
    rig.serve(spare.model(priority=1))
    await eventually(lambda: _answers(rig, sources(20)), {"s"})


@behaviour(27, "own strategy")
async def test_a_strategy_of_the_users_own_serves(rig: Rig) -> None:
    """Behaviour 27: named ``module:Class``."""
    rig.serve(*backends(rig, "abc"), strategy="conformance.own_strategy:Last")
    assert [await visit(rig) for _ in range(6)] == ["c"] * 6


@behaviour("own strategy")
async def test_a_strategy_that_fails_does_not_stop_the_service(rig: Rig) -> None:
    rig.serve(*backends(rig, "abc"), strategy="conformance.own_strategy:Faulty")
    assert {await visit(rig) for _ in range(6)} <= {"a", "b", "c"}


@behaviour("own strategy", "snapshots")
async def test_a_strategy_that_does_not_exist_refuses_the_snapshot(rig: Rig) -> None:
    a, b = backends(rig, "ab")
    rig.serve(a)
    with pytest.raises(EngineError, match="nowhere"):
        rig.serve(b, strategy="nowhere:Nothing")
    assert [await visit(rig) for _ in range(6)] == ["a"] * 6
