"""Distributions: values find their range, workers' cells add up, and a successor goes on from former totals."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay import tally
from easyproxy.engine.relay.life import REASONS
from easyproxy.engine.relay.ranges import BYTES, BYTES_OF, CONNECT, CONNECT_OF, LENGTH, LENGTH_OF
from easyproxy.engine.seam import Distribution

SLOTS = {"listener:front": 1, "pool:p": 2, "backend:p/a": 3, "backend:p/b": 4}


@pytest.fixture
def shared():
    """Make shared counters, closed after the test: shared(workers) gives a view for each, the last is control's."""
    opened = []

    def make(workers):
        fd = c.Counters.create(workers)
        views = [c.Counters(fd, workers, index) for index in range(workers + 1)]
        opened.append((fd, views))
        return views

    yield make
    for fd, views in opened:
        for view in views:
            view.close()
        os.close(fd)


def place(bounds: tuple[float, ...], value: float) -> int:
    return sum(value > bound for bound in bounds)


@given(st.integers(0, 2**62))
def test_a_number_of_bytes_lies_in_the_first_range_whose_end_it_does_not_exceed(count):
    assert BYTES_OF[((count or 1) - 1).bit_length()] == place(BYTES.bounds, count)


@given(st.integers(0, 2**50), st.sampled_from([(CONNECT, CONNECT_OF), (LENGTH, LENGTH_OF)]))
def test_a_time_lies_in_the_first_range_whose_end_lies_above_it(microseconds, ranges):
    kind, of_bits = ranges
    exactly = microseconds / 1_000_000 in kind.bounds
    found = of_bits[microseconds.bit_length()]
    assert found == place(kind.bounds, microseconds / 1_000_000) + exactly


def test_cells_of_distributions_overlap_neither_each_other_nor_the_counters():
    taken = [*range(c.B_RETRIES + 1)]
    for first, kind in ((c.B_CONNECT, CONNECT), (c.B_LENGTH, LENGTH), (c.B_UP, BYTES), (c.B_DOWN, BYTES)):
        taken += range(first, first + kind.cells)
    assert len(set(taken)) == len(taken)
    assert max(taken) < c.FIELDS
    sums = (c.B_CONNECT_SUM, c.B_LENGTH_SUM, c.B_UP_SUM, c.B_DOWN_SUM)
    assert sums == (c.B_LENGTH - 1, c.B_UP - 1, c.B_DOWN - 1, max(taken))


def fill(view: c.Counters, times: int = 1) -> None:
    cells = view.cells
    cells[view.base(1) + c.L_SESSIONS] += 2 * times
    cells[view.base(1) + c.L_ACCEPTED] += 5 * times
    cells[view.base(2) + c.P_QUEUED] += times
    cells[view.base(3) + c.B_SESSIONS] += times
    cells[view.base(3) + c.B_TOTAL] += 3 * times
    cells[view.base(3) + c.B_CONNECT + 2] += 3 * times
    cells[view.base(3) + c.B_CONNECT_SUM] += 600 * times
    cells[view.base(3) + c.B_DOWN + 16] += times
    cells[view.base(3) + c.B_DOWN_SUM] += 2**40 * times
    cells[view.base(c.ENDS_SLOT) + REASONS.index("no_backend")] += 4 * times
    cells[view.base(c.ENDS_SLOT) + c.E_LOST] += times


def read(view: c.Counters):
    return tally.statistics(view, SLOTS, workers=2, worker_restarts=0, worker_python="")


def test_the_cells_of_all_workers_add_up_to_the_statistics(shared):
    one, two, control = shared(2)
    fill(one)
    fill(two, 2)
    found = read(control)
    assert (found.listeners["front"].sessions, found.listeners["front"].accepted) == (6, 15)
    assert found.queued == {"p": 3}
    assert (found.ends["no_backend"], found.lost_reports) == (12, 3)
    a = found.distributions["p/a"]
    assert a.connect_s == Distribution(CONNECT.bounds, (0, 0, 9) + (0,) * 18, 0.0018)
    assert a.connect_s.percentile(0.5) == pytest.approx(0.000256)
    assert (a.bytes_from_backend.counts[-1], a.bytes_from_backend.sum) == (3, 3 * 2**40)
    assert sum(found.distributions["p/b"].connect_s.counts) == 0
    assert found.distributions["p/b"].connect_s.bounds == CONNECT.bounds


def test_what_a_former_process_counted_is_gone_on_from_and_living_sessions_are_not(shared):
    worker, _, former = shared(2)
    fill(worker)
    totals = tally.totals(former, {**SLOTS, "backend:p/gone": 5})
    worker, _, _, successor = shared(3)
    tally.inherit(successor, SLOTS, totals)
    fill(worker)
    found = read(successor)
    assert (found.listeners["front"].sessions, found.listeners["front"].accepted) == (2, 10)
    assert found.queued == {"p": 1}
    assert (found.backends["p/a"].sessions, found.backends["p/a"].total) == (1, 6)
    assert found.distributions["p/a"].connect_s.counts[2] == 6
    assert found.distributions["p/a"].connect_s.sum == pytest.approx(0.0012)
    assert (found.ends["no_backend"], found.lost_reports) == (8, 2)


def test_a_dead_worker_takes_nothing_inherited_along(shared):
    """Behaviour 32: totals outlive the worker that counted them."""
    worker, _, control = shared(2)
    fill(worker)
    tally.inherit(control, SLOTS, tally.totals(control, SLOTS))
    control.clear_gauges(0, [*SLOTS.values()])
    found = read(control)
    assert (found.listeners["front"].sessions, found.backends["p/a"].sessions) == (0, 0)
    assert (found.backends["p/a"].total, found.distributions["p/a"].connect_s.counts[2]) == (6, 6)


def test_counters_survive_a_change_of_ranges_and_distributions_start_anew(shared):
    worker, _, control = shared(2)
    fill(worker)
    totals = {**tally.totals(control, SLOTS), "layout": "of another version"}
    _, _, successor = shared(2)
    tally.inherit(successor, SLOTS, totals)
    found = read(successor)
    assert found.backends["p/a"].total == 3
    assert sum(found.distributions["p/a"].connect_s.counts) == 0
