"""Overrides through a real balancer: sessions, probes, shares, reloads, restarts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from eventually import comes_true
from proxy import QUICK, simple
from traffic import Visit, Wrk, ask

from easyproxy import Balancer
from easyproxy.control.operations import Action, Author, RefusedError, UnknownError
from easyproxy.engine.seam import Where
from easyproxy.errors import ConfigError
from easyproxy.model import Address

pytestmark = pytest.mark.anyio

ANN = Author("ann", "kernel update")
SLOW = {"type": "tcp", **QUICK, "interval": "60s", "fast_interval": "60s"}
"""A check that looks once, so that whatever is looked at later is looked at for a reason."""


def port_of(balancer: Balancer) -> int:
    return Address.parse(balancer.addresses["l"]).port


async def asked(balancer: Balancer, clients: int = 6) -> Counter[str]:
    return Counter([await asyncio.to_thread(ask, port_of(balancer)) for _ in range(clients)])


def states(balancer: Balancer) -> dict[str, str]:
    return {one.name: one.state for pool in balancer.status().pools for one in pool.backends}


def one(balancer: Balancer, name: str):
    return next(one for pool in balancer.status().pools for one in pool.backends if one.name == name)


def kinds(balancer: Balancer, subject: str) -> list[str]:
    return [event.kind for event in balancer.events(limit=1000) if event.subject == subject]


async def test_a_drained_backend_keeps_its_sessions_and_gets_no_new_ones(nginxes):
    """Behaviour 34."""
    async with Balancer(simple(*nginxes)) as balancer:
        visits = [await asyncio.to_thread(Visit, port_of(balancer)) for _ in range(3)]
        names = [await asyncio.to_thread(visit.ask) for visit in visits]
        assert sorted(names) == ["a", "b", "c"]
        with Wrk(port_of(balancer), connections=10, close=True) as wrk:
            made = await balancer.override("a", Action.DRAIN, ANN)
            total = one(balancer, "a").counters.total
            others = one(balancer, "b").counters.total
            await comes_true(lambda: one(balancer, "b").counters.total > others + 200, "traffic goes on")
            # A client whose connect was under way in that very moment may still arrive.
            assert one(balancer, "a").counters.total <= total + 10
            assert [await asyncio.to_thread(visit.ask) for visit in visits] == names
            await balancer.restore("a", ANN)
            await comes_true(lambda: one(balancer, "a").counters.total > total + 50, "a gets its share again")
        assert wrk.load.failed == 0, wrk.load
        for visit in visits:
            visit.close()
        assert (made.backend, made.author, made.warning) == ("p/a", ANN, "")
        told = [event for event in balancer.events() if event.subject == "p/a"]
        assert [event.kind for event in told][-4:] == [
            "override_set", "backend_draining", "override_forgotten", "backend_ready",
        ]  # fmt: skip
        assert {event.author for event in told[-4:]} == {ANN}


async def test_a_drain_closes_what_is_left_at_its_deadline(nginxes):
    """Behaviour 34."""
    async with Balancer(simple(*nginxes[:2])) as balancer:
        visits = [await asyncio.to_thread(Visit, port_of(balancer)) for _ in range(2)]
        names = [await asyncio.to_thread(visit.ask) for visit in visits]
        later = await balancer.override("b", Action.MAINTENANCE, ANN, deadline_s=3600)
        soon = await balancer.override("a", Action.DRAIN, ANN, deadline_s=0.1)
        assert (later.deadline - later.at, soon.deadline - soon.at) == pytest.approx((3600, 0.1))
        await comes_true(lambda: kinds(balancer, "p/a")[-1] == "sessions_closed", "its session is closed")
        alive = [await asyncio.to_thread(visit.is_alive) for visit in visits]
        assert dict(zip(names, alive, strict=True)) == {"a": False, "b": True}
        assert states(balancer)["a"] == "draining", "it goes on being drained"
        lines = (await balancer.explain("backend", "a")).lines
        assert any(line.startswith("what is left of its sessions was closed at ") for line in lines)
        for visit in visits:
            visit.close()


async def test_a_drain_has_the_deadline_of_its_pool_unless_it_has_its_own_or_ends_before(nginxes):
    async with Balancer(simple(*nginxes[:2], drain={"deadline": "5m"})) as balancer:

        async def lasts(**limits: float) -> float:
            made = await balancer.override("a", Action.DRAIN, ANN, **limits)
            return round(made.deadline - made.at, 3) if made.deadline else 0

        assert await lasts() == 300
        assert await lasts(deadline_s=60) == 60
        assert await lasts(ttl_s=600) == 300
        assert await lasts(ttl_s=300) == 0
        with pytest.raises(RefusedError, match="a deadline of 60 s never comes when it ends after 60 s"):
            await lasts(ttl_s=60, deadline_s=60)
        with pytest.raises(RefusedError, match="a deadline of -1 s is out of range"):
            await lasts(deadline_s=-1)
        with pytest.raises(RefusedError, match="weight takes no deadline"):
            await balancer.override("a", Action.WEIGHT, ANN, value=3, deadline_s=60)


async def test_a_backend_that_dies_while_draining_says_both(nginxes):
    async with Balancer(simple(*nginxes)) as balancer:
        await balancer.override("b", Action.DRAIN, ANN)
        nginxes[1].kill()
        await comes_true(lambda: one(balancer, "b").is_healthy is False, "the probes go on")
        assert (one(balancer, "b").state, one(balancer, "b").reason) == ("draining", "by ann: kernel update")
        assert kinds(balancer, "p/b")[-1] == "backend_health"
        await balancer.restore("b", ANN)
        assert states(balancer)["b"] == "down"


async def test_maintenance_stops_the_probes_and_a_probe_must_succeed_afterwards(nginxes):
    async with Balancer(simple(*nginxes)) as balancer:
        await balancer.override("p/c", Action.MAINTENANCE, ANN)
        seen = one(balancer, "c").last_probe
        nginxes[2].kill()
        looked = one(balancer, "a").last_probe
        for _ in range(3):  # meanwhile the others are looked at
            await comes_true(lambda: one(balancer, "a").last_probe != looked, "a is probed")  # noqa: B023
            looked = one(balancer, "a").last_probe
        assert one(balancer, "c").last_probe == seen
        assert one(balancer, "c").is_healthy is None
        await balancer.restore("c", ANN)
        assert states(balancer)["c"] in ("checking", "down")
        await comes_true(lambda: states(balancer)["c"] == "down", "the first probe decides")
        nginxes[2].start()
        await comes_true(lambda: states(balancer)["c"] == "ready", "c is back")
        assert set(await asked(balancer)) == {"a", "b", "c"}


async def test_the_last_ready_backend_may_be_drained_with_a_warning(nginxes):
    async with Balancer(simple(nginxes[0])) as balancer:
        made = await balancer.override("a", Action.DRAIN, ANN)
        assert "no backend of pool p is ready" in made.warning
        assert balancer.overrides()[0].warning == "", "it is about that moment"
        [event] = [event for event in balancer.events() if event.kind == "override_set"]
        assert event.level == "warning"
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(ask, port_of(balancer))


async def test_what_will_not_survive_a_restart_says_so_and_why(nginxes, tmp_path):
    folder = tmp_path / "not-there-yet"
    async with Balancer(simple(*nginxes[:2]), state_file=folder / "state.json") as balancer:
        unkept = f"will not survive a restart: {folder / 'state.json'} cannot be written: No such file or directory"
        drain = await balancer.override("a", Action.DRAIN, ANN)
        weight = await balancer.override("b", Action.WEIGHT, ANN, value=3)
        assert states(balancer)["a"] == "draining", "it is in force"
        for made in (drain, weight, await balancer.forget(weight.id, ANN)):
            assert unkept in made.warning
        last = await balancer.override("b", Action.MAINTENANCE, ANN)
        assert "no backend of pool p is ready" in last.warning
        assert unkept in last.warning, "one warning does not hide the other"
        [ended] = await balancer.restore("b", ANN)
        assert unkept in ended.warning
        assert [one.warning for one in balancer.overrides()] == [""], "it is about that moment"
        folder.mkdir()
        assert (await balancer.override("b", Action.WEIGHT, ANN, value=3)).warning == ""


async def test_a_weight_changes_the_shares_of_new_sessions(nginxes):
    async with Balancer(simple(*nginxes[:2], check=SLOW)) as balancer:
        await balancer.override("a", Action.WEIGHT, ANN, value=3)
        assert await asked(balancer, 8) == {"a": 6, "b": 2}
        await balancer.override("a", Action.WEIGHT, ANN, value=1)
        assert await asked(balancer, 8) == {"a": 4, "b": 4}
        assert len(balancer.overrides()) == 1, "it replaces the former one"


async def test_an_added_backend_is_probed_before_it_serves(nginxes):
    a, b, c = nginxes
    async with Balancer(simple(a, check=SLOW)) as balancer:
        made = await balancer.override("p", Action.ADD, ANN, value={"name": "b", "address": b.address})
        assert (made.backend, states(balancer)["b"]) == ("p/b", "ready")
        assert one(balancer, "b").last_probe is not None
        assert set(await asked(balancer)) == {"a", "b"}
        c.kill()
        await balancer.override("p/c", Action.ADD, ANN, value=c.address)
        assert states(balancer)["c"] == "down"
        assert set(await asked(balancer)) == {"a", "b"}
        assert kinds(balancer, "p/c") == ["backend_added", "override_set"]


async def test_a_removed_backend_lets_its_sessions_go_on_and_comes_back_when_that_is_forgotten(nginxes):
    async with Balancer(simple(*nginxes)) as balancer:
        with await asyncio.to_thread(Visit, port_of(balancer)) as visit:
            name = await asyncio.to_thread(visit.ask)
            made = await balancer.override(name, Action.REMOVE, ANN)
            assert name not in states(balancer)
            assert name not in await asked(balancer)
            assert await asyncio.to_thread(visit.ask) == name
            with pytest.raises(UnknownError):
                await balancer.close_sessions(Where(backend="p/nosuch"), ANN)
            with pytest.raises(UnknownError, match=f"there is no backend {name}"):
                await balancer.override(name, Action.DRAIN, ANN)
            await balancer.forget(made.id, ANN)
            assert states(balancer)[name] == "ready"
            assert await asyncio.to_thread(visit.ask) == name
            await balancer.override(name, Action.REMOVE, ANN)
            assert await balancer.close_sessions(Where(backend=f"p/{name}"), ANN) == 1, "though it is gone"


async def test_adding_what_was_removed_and_removing_what_was_added_leave_nothing(nginxes):
    a, b, _ = nginxes
    async with Balancer(simple(a, b, check=SLOW)) as balancer:
        await balancer.override("b", Action.REMOVE, ANN)
        await balancer.override("p", Action.ADD, ANN, value={"name": "b", "address": b.address})
        assert balancer.overrides() == []
        await balancer.override("b", Action.REMOVE, ANN)
        await balancer.override("p", Action.ADD, ANN, value={"name": "x", "address": b.address})
        await balancer.override("x", Action.DRAIN, ANN)
        await balancer.override("x", Action.REMOVE, ANN)
        assert [each.action for each in balancer.overrides()] == [Action.REMOVE]
        assert kinds(balancer, "p/x")[-1] == "override_dissolved"


@pytest.mark.parametrize(
    ("backend", "action", "value", "error", "message"),
    [
        ("d", Action.DRAIN, None, UnknownError, "there is p/a, p/b"),
        ("q", Action.ADD, "127.0.0.1:1", UnknownError, "there is no pool q"),
        ("a", Action.WEIGHT, 0, RefusedError, "drain the backend"),
        ("a", Action.WEIGHT, None, RefusedError, "not a whole number"),
        ("a", Action.DRAIN, 5, RefusedError, "takes no value"),
        ("p", Action.ADD, None, RefusedError, "is missing"),
        ("p/a", Action.ADD, "127.0.0.1:1", RefusedError, "there is a backend p/a already"),
        ("p/x", Action.ADD, {"address": "127.0.0.1:1", "name": "y"}, RefusedError, "at once"),
    ],
)
async def test_what_is_wrong_is_refused_in_words_and_changes_nothing(
    nginxes, backend, action, value, error, message
):
    async with Balancer(simple(*nginxes[:2], check=SLOW)) as balancer:
        before = balancer.config
        with pytest.raises(error, match=message):
            await balancer.override(backend, action, ANN, value=value)
        for ttl in (-1, float("nan"), float("inf"), 1e12):
            with pytest.raises(RefusedError, match="time to live"):
                await balancer.override("a", Action.DRAIN, ANN, ttl_s=ttl)
        assert (balancer.overrides(), balancer.config) == ([], before)
        assert [event for event in balancer.events() if event.kind.startswith("override")] == []


async def test_an_address_that_is_there_already_and_an_empty_pool_are_refused(nginxes):
    a, *_ = nginxes
    async with Balancer(simple(a, check=SLOW)) as balancer:
        with pytest.raises(RefusedError, match="already in this pool"):
            await balancer.override("p", Action.ADD, ANN, value={"name": "twin", "address": a.address})
        with pytest.raises(RefusedError, match="leave no backend"):
            await balancer.override("a", Action.REMOVE, ANN)
        assert await asked(balancer, 2) == {"a": 2}


async def test_an_override_ends_by_itself_when_its_time_is_over(nginxes):
    async with Balancer(simple(*nginxes)) as balancer:
        made = await balancer.override("a", Action.DRAIN, ANN, ttl_s=0.5)
        assert made.until == pytest.approx(made.at + 0.5)
        ended = ["override_expired", "backend_ready"]
        await comes_true(lambda: kinds(balancer, "p/a")[-2:] == ended, "it has ended")
        assert balancer.overrides() == []
        assert states(balancer)["a"] == "ready"


async def test_what_cannot_end_stays_in_conflict_until_somebody_decides(nginxes):
    a, b, _ = nginxes
    async with Balancer(simple(a, b, check=SLOW)) as balancer:
        await balancer.override("b", Action.REMOVE, ANN, ttl_s=0.2)
        await balancer.override("p", Action.ADD, ANN, value={"name": "x", "address": b.address})
        await comes_true(lambda: balancer.overrides()[0].conflict, "it cannot end")
        assert "already in this pool" in balancer.overrides()[0].conflict
        assert set(states(balancer)) == {"a", "x"}
        # Something else changes: that is no decision.
        await balancer.override("a", Action.WEIGHT, ANN, value=3)
        assert "should have ended" in balancer.overrides()[0].conflict
        assert kinds(balancer, "p/b").count("override_conflict") == 1
        assert "override_settled" not in kinds(balancer, "p/b")
        # What stood in its way goes: it ends after all.
        await balancer.override("x", Action.REMOVE, ANN)
        await comes_true(lambda: set(states(balancer)) == {"a", "b"}, "it has ended")
        assert [override.action for override in balancer.overrides()] == [Action.WEIGHT]


# -- reloads


async def test_overrides_meet_a_reload_three_ways(nginxes):
    a, b, c = nginxes

    def file(weight: int, *backends):
        first = {"name": "a", "address": a.address, "weight": weight}
        return simple(first, *backends, check=SLOW)

    async with Balancer(file(1, b)) as balancer:
        drain = await balancer.override("b", Action.DRAIN, ANN)
        weight = await balancer.override("a", Action.WEIGHT, ANN, value=5)
        added = await balancer.override("p", Action.ADD, ANN, value={"name": "c", "address": c.address})
        await balancer.reload(file(1, b) | {"drain_timeout": "5s"})
        assert balancer.overrides() == [drain, weight, added], "the file says what it said"
        await balancer.reload(file(3, b))
        assert one(balancer, "a").weight == 5
        assert [bool(each.conflict) for each in balancer.overrides()] == [False, True, False]
        assert kinds(balancer, "p/a")[-1] == "override_conflict"
        await balancer.reload(file(5, b, c))
        assert balancer.overrides() == [drain]
        assert kinds(balancer, "p/a")[-1] == kinds(balancer, "p/c")[-1] == "override_fulfilled"
        await balancer.reload(file(5, c))
        assert balancer.overrides() == []
        assert kinds(balancer, "p/b")[-1] == "override_dissolved"
        assert balancer.filed_config == balancer.config


async def test_a_reload_that_does_not_go_with_the_overrides_is_refused_and_names_them(nginxes):
    a, b, _ = nginxes
    async with Balancer(simple(a, b, check=SLOW)) as balancer:
        made = await balancer.override("b", Action.REMOVE, ANN)
        with pytest.raises(ConfigError, match=f"leave no backend(.|\n)*{made.id}"):
            await balancer.reload(simple(b, check=SLOW))
        assert set(states(balancer)) == {"a"}
        assert balancer.overrides() == [made]


async def test_going_back_to_the_former_file_brings_back_what_the_reload_had_ended(nginxes):
    a, b, _ = nginxes
    first, second = simple(a, b, check=SLOW), simple(a, check=SLOW)
    async with Balancer(first) as balancer:
        drain = await balancer.override("b", Action.DRAIN, ANN)
        await balancer.reload(second)
        assert balancer.overrides() == []
        await balancer.reload(first)
        assert balancer.overrides() == [drain]
        assert states(balancer)["b"] == "draining"
        await balancer.restore("b", ANN)
        await balancer.reload(second)
        await balancer.reload(first)
        assert balancer.overrides() == [], "what an operator took away stays away"


# -- sessions


async def test_sessions_are_closed_by_backend_client_and_id_and_never_all_of_them(nginxes):
    async with Balancer(simple(*nginxes)) as balancer:
        visits = [await asyncio.to_thread(Visit, port_of(balancer)) for _ in range(3)]
        names = [await asyncio.to_thread(visit.ask) for visit in visits]
        with pytest.raises(RefusedError):
            await balancer.close_sessions(Where(), ANN)
        with pytest.raises(UnknownError):
            await balancer.close_sessions(Where(id="9.9.9"), ANN)
        with pytest.raises(UnknownError):
            await balancer.close_sessions(Where(listener="nosuch"), ANN)
        with pytest.raises(RefusedError, match="not an address"):
            await balancer.close_sessions(Where(client="everybody"), ANN)
        assert await balancer.close_sessions(Where(backend="a"), ANN) == 1
        alive = [await asyncio.to_thread(visit.is_alive) for visit in visits]
        assert [name for name, is_alive in zip(names, alive, strict=True) if not is_alive] == ["a"]
        session = (await balancer.sessions())[0].id
        assert await balancer.close_sessions(Where(id=session), ANN) == 1
        assert await balancer.close_sessions(Where(client="127.0.0.1"), ANN) == 1
        assert await balancer.close_sessions(Where(client="127.0.0.1"), ANN) == 0
        told = [event for event in balancer.events() if event.kind == "sessions_closed"]
        assert [event.text.partition(" ")[0] for event in told] == ["1", "1", "1", "0"]
        assert told[0].author == ANN
        for visit in visits:
            visit.close()


async def test_who_follows_the_events_sees_a_drain_at_once_and_the_end(nginxes):
    async with Balancer(simple(*nginxes)) as balancer:
        following = balancer.follow_events()
        await balancer.override("a", Action.DRAIN, ANN)
        assert [(await anext(following)).kind for _ in range(2)] == ["override_set", "backend_draining"]
    assert [event.kind async for event in following][-1] == "stopped"


async def test_the_effective_configuration_shows_overrides_and_no_secret(nginxes):
    config = simple(*nginxes, check={"type": "http", "headers": {"X-Key": "s3cret-value"}, **QUICK})
    config["admin"] = {"bind": "127.0.0.1:0", "token": "0123456789abcdef0123"}
    async with Balancer(config) as balancer:
        await balancer.override("a", Action.WEIGHT, ANN, value=9)
        shown = balancer.effective_config()
        text = json.dumps(shown)
        assert shown["pools"]["p"]["backends"][0]["weight"] == 9
        assert "s3cret-value" not in text
        assert "0123456789abcdef" not in text


async def test_the_stacks_of_the_control_process_and_of_the_worker_are_told(nginxes):
    async with Balancer(simple(*nginxes)) as balancer:
        processes = (await balancer.stacks()).processes
        assert "test_the_stacks_of_the_control_process" in processes["control"]
        assert len(processes) == 2


# -- the real program


@pytest.mark.parametrize("names_it", [True, False], ids=["state_file", "default"])
async def test_overrides_survive_a_restart_of_the_program(start, nginxes, tmp_path, names_it):
    a, b, c = nginxes
    config = simple(a, b)
    state = tmp_path / "balancer-0" / "easyproxy.overrides.json"  # beside the file that start() writes
    if names_it:
        state = tmp_path / "elsewhere.json"
        config["state_file"] = str(state)
    state.parent.mkdir(exist_ok=True)
    async with Balancer(simple(a, b), state_file=state) as before:
        await before.override("a", Action.DRAIN, ANN)
        await before.override("b", Action.WEIGHT, ANN, value=5)
        await before.override("p", Action.ADD, ANN, value={"name": "c", "address": c.address})
        await before.override("b", Action.DRAIN, ANN, ttl_s=0.001)
        laid = before.overrides()
        assert len(laid) == 4
        # It ends with the balancer still remembering the last one, whose time is over by the next start.
        state_then = state.read_text()
    state.write_text(state_then)
    program = await asyncio.to_thread(start, config)
    found = program.backends()
    assert {name: each["state"] for name, each in found.items()} == {
        "a": "draining",
        "b": "ready",
        "c": "ready",
    }
    assert found["b"]["weight"] == 5
    assert found["a"]["overrides"] == [laid[0].id]
    assert {ask(program.port()) for _ in range(6)} == {"b", "c"}
    assert "override expired" in program.log()
    assert "in force again" in program.log()


def test_a_hostile_state_file_keeps_the_program_from_nothing(start, nginxes, tmp_path):
    state = tmp_path / "state.json"
    state.write_text('{"format": "easyproxy overrides"}')
    program = start(simple(*nginxes) | {"state_file": str(state)})
    assert {ask(program.port()) for _ in range(3)} == {"a", "b", "c"}
    assert "is no state file of this version" in program.log()
    assert [one.name.partition("-")[0] for one in tmp_path.glob("state*")] == ["state.json.broken"]


def test_an_override_that_does_not_go_with_the_file_any_more_is_dropped_loudly(start, nginxes, tmp_path):
    state = tmp_path / "state.json"
    twin = {"name": "twin", "address": nginxes[0].address}
    ann = {"who": "ann"}
    overrides = [
        {"id": "o1", "backend": "p/twin", "action": "add", "author": ann, "at": 1, "value": twin},
        {"id": "o2", "backend": "p/a", "action": "weight", "author": ann, "at": 1, "value": 9999, "base": 1},
        {"id": "o3", "backend": "p/gone", "action": "drain", "author": ann, "at": 1},
        {"id": "o4", "backend": "p/b", "action": "drain", "author": ann, "at": 1},
    ]
    state.write_text(json.dumps({"format": "easyproxy overrides", "version": 1, "overrides": overrides}))
    program = start(simple(*nginxes) | {"state_file": str(state)})
    found = program.backends()
    assert {name: each["state"] for name, each in found.items()} == {
        "a": "ready",
        "b": "draining",
        "c": "ready",
    }
    assert program.log().count("override dissolved") == 3
