"""The rule by which an unconfirmed reload goes back by itself."""

from __future__ import annotations

import pytest

from easyproxy.control.worse import LEAST, WINDOW_S, Connects, Record, verdict
from easyproxy.engine.seam import BackendCounters, Statistics


def judge(before, after, *, ready_before=2, ready_now=2, pools=("p",)):
    return verdict(
        pools,
        before={"p": before},
        after={"p": after},
        ready_before={"p": ready_before},
        ready_now={"p": ready_now},
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Connects(100, 0), Connects(100, 0)),
        (Connects(100, 0), Connects(0, LEAST - 1)),  # too few to tell
        (Connects(100, 0), Connects(1000, LEAST)),  # a small share
        (Connects(50, 50), Connects(50, 50)),  # as bad as before
        (Connects(50, 50), Connects(45, 55)),
        (Connects(), Connects()),
    ],
)
def test_as_good_as_before_stays(before, after):
    assert judge(before, after) == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Connects(100, 0), Connects(10, LEAST)),
        (Connects(), Connects(0, LEAST)),
        (Connects(50, 50), Connects(30, 70)),
    ],
)
def test_a_larger_share_of_failed_connects_goes_back(before, after):
    why = judge(before, after)
    assert f"{after.failed} of {after.failed + after.stood} connects" in why
    assert why.startswith("pool p")


def test_a_pool_that_lost_its_last_ready_backend_goes_back():
    assert judge(Connects(), Connects(), ready_now=0) == "pool p had 2 ready and has none now"


def test_a_pool_that_had_none_before_does_not():
    assert judge(Connects(), Connects(), ready_before=0, ready_now=0) == ""


def test_pools_that_the_reload_did_not_touch_are_not_its_fault():
    assert judge(Connects(100, 0), Connects(0, 100), ready_now=0, pools=("q",)) == ""


def look(record, now, **counters):
    backends = {
        key.replace("_", "/"): BackendCounters(total=total, connect_errors=errors)
        for key, (total, errors) in counters.items()
    }
    record.look(now, Statistics(backends=backends))


def test_connects_are_added_up_by_pool_from_the_growth_of_counters():
    record = Record()
    look(record, 0, p_a=(1000, 100), q_a=(5, 0))
    look(record, 1, p_a=(1010, 101), p_b=(3, 2), q_a=(5, 0))
    look(record, 2, p_a=(1020, 101), p_b=(3, 2), q_a=(6, 0))
    assert record.connects() == {"p": Connects(23, 3), "q": Connects(1, 0)}
    assert record.connects(since=1) == {"p": Connects(10, 0), "q": Connects(1, 0)}


def test_what_is_older_than_the_window_is_forgotten():
    record = Record()
    for now in (0, 1, WINDOW_S, WINDOW_S + 1):
        look(record, now, p_a=(int(now) * 10, 0))
    assert record.connects()["p"].stood == 10 * WINDOW_S


def test_a_backend_that_counts_anew_does_not_count_backwards():
    record = Record()
    look(record, 0, p_a=(1000, 7))
    look(record, 1, p_a=(4, 1))
    assert record.connects() == {"p": Connects(4, 1)}
