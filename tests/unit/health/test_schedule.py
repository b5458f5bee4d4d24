"""When probes are due, as a function of chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.health.checks.base import Target
from easyproxy.health.checks.tcp import TcpCheck
from easyproxy.health.schedule import detection_s, pause_s, second_pause_s
from easyproxy.health.verdict import Rule
from easyproxy.model import Address

chances = st.floats(0, 1, exclude_max=True)
TARGET = Target("p/a", "p", "a", Address("127.0.0.1", 1), TcpCheck(), 2.0, 0.5, 1.0, 0.25)


@given(chances, st.booleans())
def test_intervals_stay_within_their_jitter(chance, changing):
    """Behaviour 22."""
    base = 0.5 if changing else 2.0
    assert 0.75 * base <= pause_s(TARGET, changing=changing, chance=chance) <= 1.25 * base


def test_jitter_uses_its_whole_range_and_centres_on_the_interval():
    assert pause_s(TARGET, changing=False, chance=0.0) == 1.5
    assert pause_s(TARGET, changing=False, chance=0.5) == 2.0
    assert pause_s(TARGET, changing=True, chance=0.5) == 0.5


@given(chances)
def test_the_second_probe_falls_anywhere_in_the_interval_but_not_before_the_fast_one(chance):
    assert 0.5 <= second_pause_s(TARGET, chance=chance) < 2.0


@given(st.lists(chances, min_size=5, max_size=5), st.integers(1, 5), st.floats(0, 1))
def test_no_run_of_probes_takes_longer_than_the_published_detection_time(chance, fall, share):
    """Behaviour 23: simulate a backend that dies right after a good probe began."""
    took = TARGET.timeout_s * share
    now = pause_s(TARGET, changing=False, chance=chance[0])
    for index in range(1, fall):
        now += max(took, pause_s(TARGET, changing=True, chance=chance[index]))
    assert now + took <= detection_s(TARGET, Rule(fall=fall)) + 1e-9


@pytest.mark.parametrize(
    "times", [{"interval_s": 0}, {"fast_interval_s": -1}, {"timeout_s": 0}, {"jitter": 1.0}]
)
def test_times_that_make_no_sense_are_refused(times):
    with pytest.raises(ValueError, match="p/a"):
        Target("p/a", "p", "a", Address("127.0.0.1", 1), TcpCheck(), **times)
