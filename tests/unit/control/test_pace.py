"""Changes are put in force together. The clock and the timer are the test's own."""

from __future__ import annotations

import pytest

from easyproxy.control.pace import Pace


class Timer:
    def __init__(self, at: float, call) -> None:
        self.at, self.call, self.is_cancelled = at, call, False

    def cancel(self) -> None:
        self.is_cancelled = True


class World:
    """A clock that stands still except while ``apply`` runs, which takes one second."""

    def __init__(self) -> None:
        self.now, self.applied, self.timers, self.error = 100.0, 0, [], None
        self.pace = Pace(self.apply, clock=lambda: self.now, later=self.later)

    def apply(self) -> None:
        self.now += 1.0
        self.applied += 1
        if self.error is not None:
            raise self.error

    def later(self, seconds: float, call) -> Timer:
        self.timers.append(Timer(self.now + seconds, call))
        return self.timers[-1]

    def fire(self) -> None:
        timer = self.timers.pop()
        assert not timer.is_cancelled
        self.now = timer.at
        timer.call()


def test_one_change_is_in_force_at_once() -> None:
    world = World()
    world.pace.soon()
    assert world.applied == 1
    assert not world.timers


def test_a_thousand_changes_are_two_snapshots_and_the_second_waits_for_one_apply() -> None:
    world = World()
    for _ in range(1000):
        world.pace.soon()
    assert world.applied == 1
    assert [timer.at - world.now for timer in world.timers] == [1.0]
    world.fire()
    assert world.applied == 2


def test_the_next_change_after_a_rest_is_in_force_at_once() -> None:
    world = World()
    world.pace.soon()
    world.now += 1.0
    world.pace.soon()
    assert world.applied == 2


def test_what_must_be_now_takes_along_what_waits() -> None:
    world = World()
    world.pace.soon()
    world.pace.soon()
    world.pace.now()
    assert world.applied == 2
    assert world.timers[0].is_cancelled


def test_a_change_that_fails_is_told_once_and_tried_again_by_itself_until_it_is_in_force(caplog) -> None:
    world = World()
    world.error = RuntimeError("no descriptor")
    world.pace.soon()
    world.fire()
    assert [record.message for record in caplog.records] == [
        "what has changed could not be put in force; it is tried again"
    ]
    world.error = None
    world.fire()
    assert world.applied == 3
    assert not world.timers
    world.error = RuntimeError("nft failed")
    world.now += 1.0
    world.pace.soon()
    assert len(caplog.records) == 2


def test_an_error_of_what_must_be_now_is_the_callers_alone() -> None:
    world = World()
    world.error = RuntimeError("an address in use")
    with pytest.raises(RuntimeError):
        world.pace.now()
    assert not world.timers


def test_what_waited_before_an_error_still_comes() -> None:
    """A reload is refused; that a backend has gone down meanwhile is put in force all the same."""
    world = World()
    world.pace.soon()
    world.pace.soon()
    world.error = RuntimeError("an address in use")
    with pytest.raises(RuntimeError):
        world.pace.now()
    world.error = None
    world.fire()
    assert world.applied == 3
