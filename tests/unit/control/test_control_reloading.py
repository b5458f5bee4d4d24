"""Reload, confirm and roll back, with the balancer's side in memory."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from easyproxy.config.load import load, read_source
from easyproxy.control.journal import Journal
from easyproxy.control.operations import Action, Author, Override, RefusedError
from easyproxy.control.overrides import effective
from easyproxy.control.reloading import AGAIN_S, Reloading
from easyproxy.engine.seam import BackendCounters, Statistics
from easyproxy.errors import ConfigError, EngineError

pytestmark = pytest.mark.anyio

ANN = Author("ann", "a try")


class Scene:
    """A balancer that keeps what it is given, and a clock that stands still."""

    def __init__(self, file):
        self.file = file
        self.write()
        self.filed_config = load(file)
        self.counters = {}
        self.down = set()
        self.laid = ()
        self.fails = None
        self.put = []
        self.tries = 0
        self.time = 1000.0
        self.journal = Journal()
        self.reloading = Reloading(
            self, self.journal, file=file, clock=lambda: self.time, now=lambda: self.time + 1e9
        )

    def write(self, *names, **more):
        backends = [{"address": f"127.0.0.1:{9000 + ord(name)}", "name": name} for name in names or "ab"]
        config = {
            "listeners": [{"bind": "127.0.0.1:9001", "pool": "p", "name": "l"}],
            "pools": {"p": {"backends": backends}},
            "admin": "off",
            **more,
        }
        self.file.write_text(json.dumps(config))

    @property
    def names(self):
        return "".join(backend.name for backend in self.config.pools["p"].backends)

    # -- what Reloading sees

    @property
    def config(self):
        return effective(self.filed_config, self.laid)

    def statistics(self):
        return Statistics(backends=dict(self.counters))

    def overrides(self):
        return list(self.laid)

    async def put_in_force(self, config, *, source):
        assert source
        self.tries += 1
        if self.fails:
            raise self.fails
        self.filed_config = config
        self.put.append(config)

    def status(self):
        return SimpleNamespace(
            pools=[
                SimpleNamespace(
                    name=name,
                    backends=[
                        SimpleNamespace(state="down" if backend.name in self.down else "ready")
                        for backend in pool.backends
                    ],
                )
                for name, pool in self.config.pools.items()
            ]
        )

    # -- what the test sees

    def told(self):
        return [(event.kind, event.level) for event in self.journal.events.newest()]

    def last(self):
        return self.journal.events.newest()[-1]

    async def later(self, seconds, *, step=1.0):
        """Let time pass with a look each second."""
        end = self.time + seconds
        while self.time < end:
            self.time += step
            await self.reloading.look()


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path / "easyproxy.json")


async def test_a_reload_puts_the_file_in_force_and_tells_what_changed(scene):
    scene.write("b", "c")
    plan = await scene.reloading.reload_file(ANN)
    assert scene.names == "bc"
    assert [(each.name, each.change) for each in plan.differences] == [("p/c", "added"), ("p/a", "removed")]
    assert scene.reloading.state.outcome == "applied"
    assert (scene.last().kind, scene.last().author) == ("reloaded", ANN)
    assert "1 backend added, 1 backend removed" in scene.last().text


async def test_planning_changes_nothing(scene):
    scene.write("c")
    assert len((await scene.reloading.plan()).differences) == 3
    assert (await scene.reloading.plan(json.dumps(json.loads(scene.file.read_text())), "json")).differences
    assert scene.names == "ab"
    assert scene.put == []
    assert scene.told() == []


async def test_a_text_of_an_unknown_form_cannot_be_planned(scene):
    with pytest.raises(ConfigError, match="'ini' is not known"):
        await scene.reloading.plan("x", "ini")


async def test_a_wrong_file_changes_nothing_and_tells_every_error(scene, caplog):
    """Behaviour 31."""
    scene.write("a", "b", listners=1, drain_timeout=3)
    with pytest.raises(ConfigError) as caught:
        await scene.reloading.reload_file(ANN)
    assert len(caught.value.problems) == 2
    assert scene.put == []
    assert scene.reloading.state.outcome == "refused"
    assert scene.told() == [("reload_refused", "error")]
    for thing in ("listners", "drain_timeout"):
        assert sum(thing in record.getMessage() for record in caplog.records) == 1


async def test_what_the_engine_refuses_changes_nothing(scene):
    scene.write("c")
    scene.fails = EngineError("127.0.0.1:9001 is in use")
    with pytest.raises(EngineError):
        await scene.reloading.reload_file(ANN, rollback_after_s=30)
    assert scene.reloading.state.outcome == "refused"
    assert not scene.reloading.is_waiting
    assert "in use" in scene.last().text


async def test_without_a_file_there_is_nothing_to_reload(scene):
    scene.reloading.file = None
    with pytest.raises(RefusedError, match="no file to load"):
        await scene.reloading.reload_file(ANN)


async def test_an_override_in_conflict_is_part_of_the_plan(scene):
    scene.laid = (Override("1", "p/a", Action.WEIGHT, ANN, 1.0, value=5, base=1),)
    backends = [{"address": "127.0.0.1:9097", "name": "a", "weight": 3}, "127.0.0.1:1"]
    scene.write(pools={"p": {"backends": backends}})
    conflict = next(each for each in (await scene.reloading.plan()).differences if each.what == "override")
    assert conflict.change == "conflict"


# -- confirmed or not


async def test_nobody_confirms_and_it_goes_back(scene):
    scene.write("c")
    await scene.reloading.reload_file(ANN, rollback_after_s=30)
    assert scene.reloading.state.confirm_until == scene.time + 1e9 + 30
    await scene.later(29)
    assert scene.names == "c"
    await scene.later(1)
    assert scene.names == "ab"
    assert scene.reloading.state.outcome == "rolled_back"
    assert scene.reloading.state.confirm_until == 0
    assert scene.last().kind == "reload_rolled_back"
    assert "nobody confirmed it within 30s; the file still holds what was taken back" in scene.last().text


async def test_what_is_confirmed_stays(scene):
    scene.write("c")
    await scene.reloading.reload_file(ANN, rollback_after_s=30)
    await scene.reloading.confirm(ANN)
    await scene.later(60)
    assert scene.names == "c"
    assert scene.reloading.state.outcome == "confirmed"
    with pytest.raises(RefusedError, match="no unconfirmed reload"):
        await scene.reloading.confirm(ANN)


async def test_a_reload_while_one_is_unconfirmed_is_refused_whoever_asks(scene):
    scene.write("c")
    await scene.reloading.reload_file(ANN, rollback_after_s=30)
    state = scene.reloading.state
    scene.write("d")
    with pytest.raises(RefusedError, match="goes back in 30s"):
        await scene.reloading.reload_file(Author("signal"))
    assert scene.names == "c"
    assert scene.reloading.state == state
    await scene.reloading.confirm(ANN)
    await scene.reloading.reload_file(ANN)
    assert scene.names == "d"


async def test_going_back_by_hand_works_before_and_after_confirming(scene):
    for confirm in (False, True):
        scene.write("c")
        await scene.reloading.reload_file(ANN, rollback_after_s=30)
        if confirm:
            await scene.reloading.confirm(ANN)
        state = await scene.reloading.rollback(ANN)
        assert state.outcome == "rolled_back"
        assert scene.names == "ab"
        assert "ann asked for it" in state.detail
        assert not scene.reloading.is_waiting


async def test_there_is_one_step_back_and_no_more(scene):
    with pytest.raises(RefusedError, match="nothing to go back to"):
        await scene.reloading.rollback(ANN)
    scene.write("c")
    await scene.reloading.reload_file(ANN)
    await scene.reloading.reload_file(ANN)  # the same again is no step
    await scene.reloading.rollback(ANN)
    assert scene.names == "ab"
    with pytest.raises(RefusedError, match="nothing to go back to"):
        await scene.reloading.rollback(ANN)


async def test_a_reload_that_changes_nothing_waits_for_nobody(scene):
    await scene.reloading.reload_file(ANN, rollback_after_s=30)
    assert not scene.reloading.is_waiting


async def test_what_somebody_else_has_put_in_force_is_not_taken_back(scene):
    scene.write("c")
    await scene.reloading.reload_file(ANN, rollback_after_s=30)
    scene.write("d")
    await scene.put_in_force(load(scene.file), source="a program")
    await scene.later(60)
    assert scene.names == "d"
    assert not scene.reloading.is_waiting


# -- when it made things worse


async def traffic(scene, seconds, *, stood, failed, backend):
    """So many connects a second."""
    for _ in range(seconds):
        old = scene.counters.get(backend, BackendCounters())
        scene.counters[backend] = BackendCounters(
            total=old.total + stood, connect_errors=old.connect_errors + failed
        )
        await scene.later(1)


async def test_failing_connects_take_it_back_before_the_time(scene):
    await traffic(scene, 20, stood=10, failed=0, backend="p/a")
    scene.write("a", "c")
    await scene.reloading.reload_file(ANN, rollback_after_s=300)
    await traffic(scene, 1, stood=10, failed=1, backend="p/c")
    assert scene.names == "ac"
    await traffic(scene, 3, stood=1, failed=3, backend="p/c")
    assert scene.names == "ab"
    assert "connects to its backends failed" in scene.last().text


async def test_a_pool_that_did_not_change_is_not_its_fault(scene):
    other = {"q": {"backends": ["127.0.0.1:1"]}}
    scene.write("a", pools={"p": {"backends": ["127.0.0.1:2"]}, **other})
    await scene.reloading.reload_file(ANN)
    scene.write("a", pools={"p": {"backends": ["127.0.0.1:3"]}, **other})
    await scene.reloading.reload_file(ANN, rollback_after_s=300)
    await traffic(scene, 20, stood=1, failed=9, backend="q/127.0.0.1:1")
    assert scene.reloading.is_waiting


async def test_connects_that_failed_before_are_not_held_against_it(scene):
    await traffic(scene, 20, stood=5, failed=5, backend="p/a")
    scene.write("a", "c")
    await scene.reloading.reload_file(ANN, rollback_after_s=300)
    await traffic(scene, 20, stood=5, failed=5, backend="p/a")
    assert scene.names == "ac"


async def test_a_pool_without_ready_backends_is_taken_back_at_once(scene):
    scene.down = {"c"}
    scene.write("c")
    with pytest.raises(RefusedError, match="it went back at once: pool p had 2 ready and has none now"):
        await scene.reloading.reload_file(ANN, rollback_after_s=30)
    assert scene.names == "ab"
    assert scene.reloading.state.outcome == "rolled_back"


async def test_without_a_time_nothing_goes_back_by_itself(scene):
    scene.down = {"c"}
    scene.write("c")
    await scene.reloading.reload_file(ANN)
    await scene.later(60)
    assert scene.names == "c"


async def test_when_going_back_fails_it_is_tried_again_and_told_once(scene):
    scene.write("c")
    await scene.reloading.reload_file(ANN, rollback_after_s=30)
    scene.fails = EngineError("the old address is in use")
    await scene.later(30 + 5 * AGAIN_S)
    assert scene.names == "c"
    assert scene.told().count(("trouble", "error")) == 1
    assert scene.tries <= 2 + 5  # the reload itself, and one each AGAIN_S
    scene.fails = None
    await scene.later(AGAIN_S)
    assert scene.names == "ab"


# -- the file changes by itself


async def test_following_a_file_applies_it_once_and_a_comment_is_no_reload(scene):
    scene.write("c")
    await scene.reloading.follow(read_source(scene.file), ANN)
    assert scene.names == "c"
    scene.file.write_text(scene.file.read_text() + "\n\n")
    await scene.reloading.follow(read_source(scene.file), ANN)
    assert len(scene.put) == 1


async def test_what_was_taken_back_is_not_taken_up_by_itself_but_on_request(scene):
    scene.write("c")
    await scene.reloading.reload_file(ANN, rollback_after_s=30)
    await scene.later(31)
    await scene.reloading.follow(read_source(scene.file), ANN)
    assert scene.names == "ab"
    assert "what was taken back" in scene.last().text
    await scene.reloading.reload_file(ANN)
    assert scene.names == "c"
    # Somebody wanted it after all: from now on it is a content like any other.
    scene.write("d")
    await scene.reloading.follow(read_source(scene.file), ANN)
    scene.write("c")
    await scene.reloading.follow(read_source(scene.file), ANN)
    assert scene.names == "c"


async def test_following_waits_for_the_decision_on_an_unconfirmed_reload(scene):
    scene.write("c")
    await scene.reloading.reload_file(ANN, rollback_after_s=30)
    scene.write("d")
    assert not await scene.reloading.follow(read_source(scene.file), ANN)
    assert scene.names == "c"
    await scene.reloading.confirm(ANN)
    assert await scene.reloading.follow(read_source(scene.file), ANN)
    assert scene.names == "d"


async def test_following_a_wrong_file_is_told_and_does_not_raise(scene):
    scene.file.write_text("{")
    await scene.reloading.follow(read_source(scene.file), ANN)
    assert scene.told() == [("reload_refused", "error")]
    assert scene.names == "ab"


async def test_a_mistake_of_our_own_while_following_is_told_and_does_not_raise(scene):
    scene.write("c")
    scene.fails = RuntimeError("boom")
    await scene.reloading.follow(read_source(scene.file), ANN)
    assert scene.told() == [("reload_refused", "error")]
