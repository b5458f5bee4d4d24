"""The wheel: never early, at most a tick late, whatever happens to the clock and while it is being walked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from easyproxy.engine.relay.timers import HORIZON, TICK_S, Wheel

SLACK_S = 1e-6
"""What floats may lose when seconds are divided into ticks."""


class Thing:
    """What the wheel needs of a session."""

    def __init__(self, name: int = 0) -> None:
        self.name = name
        self.tick = 0

    def __hash__(self) -> int:
        return self.name  # so that a run can be repeated


class WheelMachine(RuleBasedStateMachine):
    """A wheel beside a dictionary of deadlines."""

    things = [Thing(name) for name in range(6)]  # noqa: RUF012 - made anew for every run below

    @initialize(start=st.floats(0, 1e6))
    def begin(self, start):
        self.now = start
        self.wheel = Wheel(start)
        self.things = [Thing(name) for name in range(6)]
        self.deadlines: dict[Thing, tuple[float, float]] = {}

    def put(self, thing, after):
        self.wheel.place(thing, self.now + after)
        # What lies in the past is looked at in the next tick, what lies beyond the horizon at the horizon.
        self.deadlines[thing] = (min(self.now + after, self.now + (HORIZON - 1) * TICK_S), self.now)

    afters = st.one_of(st.floats(-1, 5), st.floats(0, 3 * HORIZON * TICK_S))
    names = st.integers(0, 5)

    @rule(name=names, after=afters)
    def place(self, name, after):
        self.put(self.things[name], after)

    @rule(name=names)
    def remove(self, name):
        self.wheel.remove(self.things[name])
        self.deadlines.pop(self.things[name], None)

    @rule(
        by=st.one_of(st.floats(0, 1), st.floats(0, 3 * HORIZON * TICK_S)),
        deeds=st.lists(st.tuples(st.sampled_from(["place", "remove"]), names, afters), max_size=8),
    )
    def advance(self, by, deeds):
        """Let time pass; whoever is yielded does something to others, as sessions that wake others do."""
        self.now += by
        deeds = list(deeds)
        for thing in self.wheel.due(self.now):
            assert thing.tick == 0
            deadline, _ = self.deadlines.pop(thing)  # a KeyError: it was taken out before, or yielded twice
            assert self.now >= deadline - SLACK_S
            if deeds:
                deed, name, after = deeds.pop()
                if deed == "place":
                    self.put(self.things[name], after)
                else:
                    self.remove(name)
        for thing, (deadline, placed) in self.deadlines.items():
            late = self.now - max(deadline, placed)
            assert late <= TICK_S + SLACK_S or placed == self.now, f"{thing.name} is {late:.3f} s late"

    @rule()
    @precondition(lambda self: self.deadlines)
    def everybody_comes_in_the_end(self):
        for _ in range(3):
            self.now += HORIZON * TICK_S
            for thing in self.wheel.due(self.now):
                del self.deadlines[thing]
        assert not self.deadlines

    @invariant()
    def it_holds_those_who_wait_and_nobody_else(self):
        if hasattr(self, "wheel"):
            held = {thing for slot in self.wheel._slots.values() for thing in slot}
            assert held == self.deadlines.keys()
            assert all(slot for slot in self.wheel._slots.values())


TestWheel = WheelMachine.TestCase
TestWheel.settings = settings(max_examples=60, stateful_step_count=20)


def test_a_clock_that_jumped_far_loses_nobody_who_is_put_further_on_meanwhile():
    """A process that was stopped for a long time (behaviour 14 afterwards)."""
    wheel, thing = Wheel(1000.0), Thing()
    wheel.place(thing, 1001.0)
    now = 1000.0 + 2 * HORIZON * TICK_S
    for session in wheel.due(now):
        wheel.place(session, now + 10 * HORIZON * TICK_S)
    assert list(wheel.due(now + HORIZON * TICK_S)) == [thing]


@given(st.floats(0, 1e6), st.floats(0, 300), st.floats(0, 300))
def test_later_is_what_would_be_seen_too_late(now, placed, wanted):
    wheel, thing = Wheel(now), Thing()
    wheel.place(thing, now + placed)
    if wheel.is_later(thing, now + wanted):
        assert placed > wanted - TICK_S
    else:
        assert placed < wanted + TICK_S + SLACK_S


@given(st.floats(0, 1e6), st.floats(0, 300), st.floats(0, 300))
def test_who_is_brought_forward_stands_where_the_earlier_deadline_is(now, placed, wanted):
    wheel, thing, other = Wheel(now), Thing(), Thing()
    wheel.place(thing, now + placed)
    wheel.bring_forward(thing, now + wanted)
    wheel.bring_forward(other, now + min(placed, wanted))
    assert thing.tick == other.tick > 0, "and who stands nowhere is placed"


@pytest.mark.parametrize("jump", [0.0, -5.0])
def test_a_clock_that_stands_or_goes_back_wakes_nobody(jump):
    wheel, thing = Wheel(100.0), Thing()
    wheel.place(thing, 99.0)
    assert list(wheel.due(100.0 + jump)) == []
    assert list(wheel.due(100.0 + TICK_S * 1.5)) == [thing]
