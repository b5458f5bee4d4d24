"""Counting in shared memory: across real processes, also when one of them is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.life import REASONS
from easyproxy.engine.relay.slots import Slots
from easyproxy.engine.seam import BackendCounters, ListenerCounters
from easyproxy.errors import EngineError


@pytest.fixture
def shared():
    """Make shared counters, closed after the test: shared(workers) gives a view for each."""
    opened = []

    def make(workers):
        fd = c.Counters.create(workers)
        views = [c.Counters(fd, workers, index) for index in range(workers)]
        opened.append((fd, views))
        return views

    yield make
    for fd, views in opened:
        for view in views:
            view.close()
        os.close(fd)


def start(code: str, *fds: int) -> subprocess.Popen[str]:
    """Run Python code in a process that has the descriptors, given as its arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, fds)],
        pass_fds=fds,
        stdout=subprocess.PIPE,
        text=True,
    )


HAMMER = """
    import sys
    from easyproxy.engine.relay.counters import FIELDS, Counters
    fd, worker = int(sys.argv[1]), int(sys.argv[2]) - 100
    counters = Counters(fd, 3, worker)
    taken = worst = 0
    print("ready", flush=True)
    while taken < 3000:
        if counters.take(7, 2):
            taken += 1
            counters.cells[8 * counters.stride + worker * FIELDS] += 1  # inside: counted apart
            worst = max(worst, counters.sum(8, 0))
            counters.cells[8 * counters.stride + worker * FIELDS] -= 1
            counters.give(7)
    counters.close()
    print(worst)
"""


def test_a_limit_over_processes_is_never_passed_and_nobody_starves(shared):
    """Behaviour 19: three processes, two places, 3,000 turns each."""
    [view, *_] = shared(3)
    code = textwrap.dedent(HAMMER)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(view.fd), str(100 + index)],
            pass_fds=[view.fd],
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(3)
    ]
    worst = [int(worker.communicate(timeout=120)[0].split()[-1]) for worker in workers]
    assert max(worst) <= 2
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert view.sum(7, 0) == 0


def test_a_limit_is_filled_to_the_last_place_and_not_beyond(shared):
    one, two = shared(2)
    assert [view.take(5, 3) for view in (one, two, one, two, one)] == [True, True, True, False, False]
    assert one.sum(5, 0) == 3
    two.give(5)
    assert one.take(5, 3)
    assert not two.take(5, 3)
    assert two.take(5, 0), "0 is no limit"


def test_what_a_dead_worker_had_counted_in_is_taken_back_and_nothing_else(shared):
    """Behaviour 32."""
    one, two = shared(2)
    for view in (one, one, two):
        view.take(3, 0)
    one.cells[one.base(3) + c.B_TOTAL] += 2
    one.take(4, 0)
    two.clear_gauges(0, [3])
    assert (two.sum(3, 0), two.sum(3, c.B_TOTAL), two.sum(4, 0)) == (1, 2, 1)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, c.FIELDS - 1), st.integers(-5, 5)),
        max_size=40,
    )
)
def test_a_sum_is_over_all_workers_and_no_cell_is_anothers(additions):
    fd = c.Counters.create(4)
    views = [c.Counters(fd, 4, index) for index in range(4)]
    try:
        expected: dict[tuple[int, int], int] = {}
        for worker, slot, field, value in additions:
            views[worker].cells[views[worker].base(slot) + field] += value
            expected[slot, field] = expected.get((slot, field), 0) + value
        for slot in range(21):
            assert [views[0].sum(slot, field) for field in range(c.FIELDS)] == [
                expected.get((slot, field), 0) for field in range(c.FIELDS)
            ]
        views[1].clear(4)
        assert all(views[2].sum(4, field) == 0 for field in range(c.FIELDS))
        assert views[3].sum(5, 0) == expected.get((5, 0), 0)
    finally:
        for view in views:
            view.close()
        os.close(fd)


def test_every_field_of_the_statistics_and_every_reason_has_a_cell_of_its_own():
    assert tuple(BackendCounters.__dataclass_fields__) == (
        "sessions", "total", "bytes_from_client", "bytes_from_backend", "connect_errors",
        "local_errors", "client_resets", "backend_resets", "timeouts", "retries",
    )  # fmt: skip
    assert len(BackendCounters.__dataclass_fields__) - 1 == c.B_RETRIES
    assert len(ListenerCounters.__dataclass_fields__) - 1 == c.L_ACCEPT_ERRORS
    assert len(REASONS) <= c.E_LOST
    assert max(c.B_RETRIES, c.L_ACCEPT_ERRORS, c.P_QUEUED) < c.FIELDS


def test_an_untouched_table_takes_no_memory():
    fd = c.Counters.create(8)
    try:
        assert os.fstat(fd).st_blocks == 0
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


DRAW = """
    import sys
    from easyproxy.engine.relay.counters import Descriptor, ticket_counter
    ticket = ticket_counter(Descriptor(int(sys.argv[1])))
    for _ in range(20_000):
        print(ticket(), flush=FLUSH)
    while FLUSH:
        print(ticket(), flush=True)
"""


def test_each_ticket_is_given_once_over_processes():
    """Behaviour 27: a round robin over all workers."""
    file = c.Descriptor(c.anonymous_file("tickets"))
    workers = [start(DRAW.replace("FLUSH", "False"), file.fd) for _ in range(3)]
    drawn = [int(line) for worker in workers for line in worker.communicate(timeout=60)[0].split()]
    assert sorted(drawn) == list(range(60_000))
    assert c.ticket_counter(file)() == 60_000


def test_a_process_that_is_killed_while_drawing_loses_no_ticket_but_its_own_last():
    """Behaviour 32."""
    file = c.Descriptor(c.anonymous_file("tickets"))
    victim = start(DRAW.replace("FLUSH", "True"), file.fd)
    witness = start(DRAW.replace("FLUSH", "False"), file.fd)
    assert victim.stdout is not None
    lines = [victim.stdout.readline() for _ in range(3000)]
    os.kill(victim.pid, signal.SIGKILL)
    lines += victim.stdout.readlines()
    victim.communicate(timeout=60)
    drawn = [int(line) for line in lines if line.endswith("\n")]
    drawn += [int(line) for line in witness.communicate(timeout=60)[0].split()]
    following = c.ticket_counter(file)()
    assert len(set(drawn)) == len(drawn)
    assert max(drawn) < following
    # Between drawing and telling, the victim may have been killed: at most one number is nobody's.
    assert following - len(drawn) in (0, 1)


def test_a_ticket_counter_keeps_its_descriptor_open_until_it_is_forgotten():
    file = c.Descriptor(c.anonymous_file("tickets"))
    fd, ticket = file.fd, c.ticket_counter(file)
    del file
    assert [ticket(), ticket()] == [0, 1]
    del ticket
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# -- slots


class Cells:
    """Which slots are busy, and which were cleared."""

    def __init__(self, busy: set[int] = frozenset()) -> None:
        self.busy, self.cleared = set(busy), []

    def assign(self, slots: Slots, keys: str) -> dict[str, int]:
        slots.assign(keys, lambda slot: slot not in self.busy, self.cleared.append)
        return {key: slots.by_key[key] for key in keys}


def test_known_names_keep_their_slots_and_those_who_left_too():
    slots, cells = Slots(size=10), Cells()
    first = cells.assign(slots, "abc")
    assert len(set(first.values())) == 3
    assert 0 not in first.values(), "slot 0 counts the ends of sessions"
    cells.assign(slots, "d")
    assert cells.assign(slots, "cab") == {"c": first["c"], "a": first["a"], "b": first["b"]}
    assert cells.cleared == []


def test_when_all_slots_are_given_out_the_one_that_left_longest_ago_is_cleared_and_given_on():
    slots, cells = Slots(size=4), Cells()
    first = cells.assign(slots, "abc")
    cells.assign(slots, "bc")
    cells.assign(slots, "ab")  # now c left last, and nobody before it
    assert cells.assign(slots, "abd")["d"] == first["c"]
    assert cells.cleared == [first["c"]]
    assert "c" not in slots.by_key


def test_a_slot_with_living_sessions_is_nobody_elses():
    slots = Slots(size=4)
    first = Cells().assign(slots, "abc")
    cells = Cells(busy={first["a"]})
    assert cells.assign(slots, "d")["d"] == first["b"]
    with pytest.raises(EngineError, match="more than 3"):
        Cells(busy=set(first.values())).assign(slots, "e")


def test_names_of_one_snapshot_never_push_each_other_out():
    slots, cells = Slots(size=4), Cells()
    with pytest.raises(EngineError, match="more than 3"):
        cells.assign(slots, "abcd")
    assert cells.cleared == []


def test_many_new_names_cost_no_more_each_than_few():
    class Name(str):
        __slots__ = ()
        looked_up = 0

        def __hash__(self) -> int:
            Name.looked_up += 1
            return super().__hash__()

    Slots().assign([Name(number) for number in range(1000)], lambda _slot: True, lambda _slot: None)
    assert Name.looked_up < 10 * 1000


@given(st.lists(st.frozensets(st.sampled_from("abcdefgh"), max_size=5), max_size=12))
def test_no_two_names_of_a_snapshot_share_a_slot(snapshots):
    slots, cells = Slots(size=6), Cells()
    for names in snapshots:
        given_out = cells.assign(slots, "".join(sorted(names)))
        assert len(set(given_out.values())) == len(names)
        assert set(given_out.values()) <= set(range(1, 6))
