"""Two engines as one: snapshots are split and applied whole or not at all, what they tell is put together."""

from __future__ import annotations

import pytest
from fake_engine import FakeEngine, FakeRelay, counted, end, session

from easyproxy.engine.composite import CompositeEngine
from easyproxy.engine.merging import merged
from easyproxy.engine.relay import RelayEngine
from easyproxy.engine.seam import (
    BackendCounters,
    BackendDistributions,
    Distribution,
    Engine,
    HandsOver,
    ListenerCounters,
    Statistics,
    Where,
)
from easyproxy.errors import EngineError
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot

POOLS = tuple(Pool(name, backends=(Backend(f"{name}/b", "b", Address("10.0.0.1", 1)),)) for name in "abc")


def listener(name, pool, engine="relay", port=0):
    return Listener(name, Address("127.0.0.1", port or 9000 + ord(name)), pool, engine=engine)


MIXED = Snapshot(1, (listener("x", "a"), listener("y", "b", "kernel"), listener("z", "a", "kernel")), POOLS)


class Pair:
    def __init__(self, **options):
        self.log: list[str] = []
        self.told: list[str] = []
        self.relay = FakeRelay("relay", ("round_robin", "first"), self.log)
        self.kernel = FakeEngine("kernel", ("round_robin",), self.log)
        self.engine = CompositeEngine(self.relay, self.kernel, complain=self.told.append, **options)

    async def started(self):
        await self.engine.start(print)
        self.log.clear()
        return self


@pytest.fixture
async def pair():
    return await Pair().started()


def names(engine):
    return [one.name for one in engine.snapshot.listeners]


@pytest.mark.anyio
async def test_it_is_an_engine_that_can_hand_over(pair):
    engine: Engine = pair.engine
    assert isinstance(engine, HandsOver)
    assert (engine.name, engine.strategies) == ("relay+kernel", {"round_robin", "first"})


@pytest.mark.anyio
async def test_each_engine_gets_its_listeners_and_the_kernel_only_the_pools_that_they_need(pair):
    pair.engine.apply(MIXED)
    assert (names(pair.relay), names(pair.kernel)) == (["x"], ["y", "z"])
    assert [pool.name for pool in pair.kernel.snapshot.pools] == ["a", "b"]
    assert pair.relay.snapshot.pools == POOLS
    assert pair.engine.addresses().keys() == {"x", "y", "z"}


@pytest.mark.anyio
async def test_the_same_snapshot_again_changes_nothing(pair):
    pair.engine.apply(MIXED)
    done = list(pair.log)
    pair.engine.apply(MIXED)
    assert pair.log == done


@pytest.mark.anyio
@pytest.mark.parametrize("refuses", ["relay", "kernel"])
async def test_when_one_refuses_both_keep_the_former_snapshot(pair, refuses):
    pair.engine.apply(MIXED)
    before = pair.relay.snapshot, pair.kernel.snapshot
    getattr(pair, refuses).refuses = ["an address is in use"]
    changed = Snapshot(2, (listener("x", "b"), listener("y", "c", "kernel"), listener("v", "c")), POOLS)
    with pytest.raises(EngineError, match="an address is in use"):
        pair.engine.apply(changed)
    assert (pair.relay.snapshot, pair.kernel.snapshot) == before
    pair.engine.apply(changed)  # it was not taken for granted
    assert (names(pair.relay), names(pair.kernel)) == (["x", "v"], ["y"])


@pytest.mark.anyio
async def test_the_first_snapshot_is_taken_back_to_nothing(pair):
    pair.relay.refuses = ["an address is in use"]
    with pytest.raises(EngineError):
        pair.engine.apply(MIXED)
    assert (names(pair.relay), names(pair.kernel)) == ([], [])


@pytest.mark.anyio
async def test_when_going_back_fails_both_reasons_are_told(pair):
    pair.engine.apply(MIXED)
    pair.relay.refuses = ["an address is in use"]
    pair.kernel.refuses = ["", "nft failed"]
    with pytest.raises(EngineError, match=r"in use; and the kernel engine could not go back: nft failed"):
        pair.engine.apply(Snapshot(2, (listener("x", "b"), listener("y", "c", "kernel")), POOLS))


@pytest.mark.anyio
@pytest.mark.parametrize(("to", "order"), [("kernel", ["kernel", "relay"]), ("relay", ["relay", "kernel"])])
async def test_a_listener_that_changes_its_engine_is_served_before_it_is_left(pair, to, order):
    other = "relay" if to == "kernel" else "kernel"
    pair.engine.apply(Snapshot(1, (listener("x", "a", other),), POOLS))
    pair.log.clear()
    pair.engine.apply(Snapshot(2, (listener("x", "a", to),), POOLS))
    assert pair.log == [f"{name} apply" for name in order]


@pytest.mark.anyio
async def test_ports_that_the_kernel_engine_takes_over_are_shared_while_it_does_and_no_longer(pair):
    seen = []
    pair.kernel.on_apply = lambda: seen.append(pair.relay.shared)
    pair.engine.apply(Snapshot(1, (listener("x", "a", port=8001), listener("y", "a", "kernel", 8002)), POOLS))
    pair.engine.apply(Snapshot(2, (listener("x", "a", "kernel", 8001),), POOLS))
    assert seen == [{8002}, {8001}]
    assert not pair.relay.shared
    pair.kernel.refuses = ["no"]
    with pytest.raises(EngineError):
        pair.engine.apply(Snapshot(3, (listener("x", "a", "kernel", 8003),), POOLS))
    assert not pair.relay.shared


@pytest.mark.anyio
async def test_an_engine_that_is_none_is_named(pair):
    with pytest.raises(EngineError, match="listener x: there is no engine warp; there is relay and kernel"):
        pair.engine.apply(Snapshot(1, (listener("x", "a", "warp"),), POOLS))


@pytest.mark.anyio
async def test_what_both_tell_is_put_together(pair):
    pair.relay.live, pair.kernel.live = [session("r", "a/b", "relay")], [session("k", "a/b", "kernel")]
    pair.relay.ended, pair.kernel.ended = [end("r", "a/b", 5.0), end("s", "c/b", 1.0)], [end("k", "a/b", 2.0)]
    assert [one.engine for one in await pair.engine.sessions()] == ["relay", "kernel"]
    assert [one.id for one in await pair.engine.recent_ends(Where())] == ["s", "k", "r"]
    assert [one.id for one in await pair.engine.recent_ends(Where(backend="a/b"))] == ["k", "r"]
    assert pair.engine.process_ids() == {"relay 0": 1, "kernel 0": 1}
    assert await pair.engine.stacks() == {"relay 0": "at work", "kernel 0": "at work"}
    assert await pair.engine.close_sessions(Where(backend="a/b"), "backend_down") == 2
    assert await pair.engine.sessions() == []


@pytest.mark.anyio
async def test_every_session_of_both_is_told_also_when_asked_for_before_the_start():
    pair = Pair()
    pair.engine.tell_every_session(print)
    assert pair.relay.taker is pair.kernel.taker is print
    await pair.started()
    assert pair.relay.sink is pair.kernel.sink is print


@pytest.mark.anyio
async def test_both_drain_and_stop_also_when_the_first_has_trouble(pair):
    await pair.engine.drain(5)
    pair.relay.stop_raises = True
    with pytest.raises(EngineError, match="relay has trouble"):
        await pair.engine.stop()
    assert pair.log == ["relay drain 5", "kernel drain 5", "relay stop", "kernel stop"]


@pytest.mark.anyio
async def test_what_could_not_start_is_stopped():
    pair = Pair()
    pair.kernel.cannot_start = "no privilege"
    with pytest.raises(EngineError, match="no privilege"):
        await pair.engine.start(print)
    await pair.engine.stop()
    assert pair.log == ["relay start", "kernel start", "relay stop", "kernel stop"]


# -- an upgrade


@pytest.mark.anyio
async def test_a_successor_leaves_the_kernel_alone_until_it_has_taken_over():
    new = await Pair(dormant=True).started()
    new.engine.apply(MIXED)
    assert new.log == ["relay apply"]
    await new.engine.adopt([1], ["k"], 1.0)
    assert await new.engine.wake("totals") == 7
    assert new.log == ["relay apply", "relay adopt", "relay wake totals", "kernel start", "kernel apply"]
    assert names(new.kernel) == ["y", "z"]


@pytest.mark.anyio
async def test_a_successor_that_fails_before_takes_nothing_away():
    new = await Pair(dormant=True).started()
    new.engine.apply(MIXED)
    await new.engine.stop()
    assert new.log == ["relay apply", "relay stop"]


@pytest.mark.anyio
async def test_what_fails_after_taking_over_is_told_and_tried_again_with_the_next_snapshot():
    new = await Pair(dormant=True).started()
    new.engine.apply(MIXED)
    new.kernel.refuses = ["nft failed"]
    assert await new.engine.wake("totals") == 7
    assert new.told == ["after the upgrade, listeners with engine: kernel are not served: nft failed"]
    new.engine.apply(MIXED)
    assert names(new.kernel) == ["y", "z"]


@pytest.mark.anyio
async def test_without_the_other_engine_the_sessions_that_came_along_are_served_all_the_same():
    new = await Pair(dormant=True).started()
    new.engine.apply(MIXED)
    new.kernel.cannot_start = "no privilege"
    assert await new.engine.wake("totals") == 7
    assert new.told == ["after the upgrade, listeners with engine: kernel are not served: no privilege"]
    new.engine.apply(Snapshot(2, (listener("v", "c"), *MIXED.listeners), POOLS))
    assert names(new.relay) == ["v", "x"]


@pytest.mark.anyio
async def test_the_old_program_leaves_the_rules_to_a_successor_that_has_this_engine(pair):
    new = await Pair(dormant=True).started()
    pair.engine.apply(MIXED)
    pair.log.clear()
    assert await pair.engine.leave(new.engine.dropped()) == 3
    await pair.engine.drain(1)
    await pair.engine.stop()
    assert pair.log == ["kernel leave to successor", "relay leave ['gone']", "relay drain 1", "relay stop"]
    assert names(pair.kernel) == ["y", "z"]


@pytest.mark.anyio
async def test_the_old_program_takes_the_rules_away_for_a_successor_that_has_not(pair):
    pair.engine.apply(MIXED)
    pair.log.clear()
    await pair.engine.leave(["gone"])
    assert pair.log == ["kernel apply", "kernel leave to successor", "relay leave ['gone']"]
    assert names(pair.kernel) == []


@pytest.mark.anyio
async def test_the_old_program_leaves_also_when_the_rules_cannot_be_taken_away(pair):
    pair.engine.apply(MIXED)
    pair.log.clear()
    pair.kernel.refuses = ["nft failed"]
    await pair.engine.leave(["gone"])
    assert pair.log == ["kernel leave to successor", "relay leave ['gone']"]
    assert pair.told == ["after the upgrade, the kernel engine still takes clients: nft failed"]


@pytest.mark.anyio
async def test_the_sessions_that_are_handed_over_are_the_relay_engines(pair):
    pair.engine.apply(MIXED)
    pair.relay.live, pair.kernel.live = [session("r", "a/b", "relay")], [session("k", "a/b", "kernel")]
    engine = pair.engine
    assert (engine.session_count(), engine.keys(), engine.worker_count) == (1, ["listener:x"], 2)
    assert engine.can_hand_over
    assert (engine.legacy(), engine.totals()) == (pair.relay.legacy(), pair.relay.totals())
    assert await engine.give([1, 2], 1.0) == 2
    assert await engine.thaw() == 0


# -- alone


@pytest.mark.anyio
async def test_the_relay_engine_alone_refuses_a_listener_that_is_not_its_own():
    engine = RelayEngine(workers=1, processes=False)
    await engine.start(print)
    try:
        with pytest.raises(EngineError, match=r"listener y: engine: kernel .* easyproxy upgrade does that"):
            engine.apply(MIXED)
        assert engine.addresses() == {}
    finally:
        await engine.stop()


# -- counters


def test_counters_of_both_are_added_up():
    one = counted(
        "p/a", 2, queued={"p": 1}, ends={"operator": 1}, workers=2, worker_restarts=1, worker_python="3"
    )
    other = counted("p/a", 3, listener="m", ends={"operator": 2, "reset": 1}, lost_reports=4)
    found = merged(one, other)
    assert found.backends == {"p/a": BackendCounters(sessions=5, total=5)}
    assert found.listeners["l"].sessions == 2
    assert found.listeners["m"].sessions == 3
    assert (found.queued, found.ends) == ({"p": 1}, {"operator": 3, "reset": 1})
    assert (found.workers, found.worker_restarts, found.lost_reports, found.worker_python) == (2, 1, 4, "3")
    assert merged(one, one).listeners == {"l": ListenerCounters(sessions=4, accepted=4)}


def test_distributions_of_the_same_ranges_are_added_up_and_others_are_not_mixed():
    def of(*distributions):
        return [Statistics(distributions={"b": BackendDistributions(each)}) for each in distributions]

    same = merged(*of(Distribution((1.0,), (1, 2), 3.0), Distribution((1.0,), (10, 20), 30.0)))
    assert same.distributions["b"].connect_s == Distribution((1.0,), (11, 22), 33.0)
    more = Distribution((2.0,), (3, 4), 9.0)
    assert merged(*of(Distribution((1.0,), (1, 2), 3.0), more)).distributions["b"].connect_s == more
    assert merged(Statistics(), of(more)[0]).distributions["b"].connect_s == more
