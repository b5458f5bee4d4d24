"""How often an address may come: the rule by itself, the table that remembers, and what is kept over snapshots."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.engine.relay import rate as rate_module
from easyproxy.engine.relay.rate import Meter, Table, arrive, make_table, number_of, table_of
from easyproxy.engine.relay.rates import Rates
from easyproxy.model import Address, Listener, Rate

SECOND = 1_000_000_000
RATE = Rate(10, 1)


@pytest.fixture
def table() -> Iterator[int]:
    fd = make_table()
    yield fd
    os.close(fd)


def admitted(times: list[int], interval: int, burst: int) -> list[int]:
    """Return the times at which one address that comes at ``times`` is let in."""
    due, found = 0, []
    for now in times:
        if then := arrive(due, now, interval, (burst - 1) * interval):
            due = then
            found.append(now)
    return found


WAITS = st.lists(st.integers(0, 50), max_size=60)
INTERVALS, BURSTS = st.integers(1, 20), st.integers(1, 10)


def times_of(waits: list[int]) -> list[int]:
    return [1000 + sum(waits[: index + 1]) for index in range(len(waits))]


@given(WAITS, INTERVALS, BURSTS)
def test_it_is_a_token_bucket(waits: list[int], interval: int, burst: int) -> None:
    """``burst`` tokens, one more each interval, one for each session."""
    times, level, last, wanted = times_of(waits), burst * interval, 0, []
    for now in times:
        level = min(burst * interval, level + now - last)
        last = now
        if level >= interval:
            level -= interval
            wanted.append(now)
    assert admitted(times, interval, burst) == wanted


@given(WAITS, INTERVALS, BURSTS)
def test_no_stretch_of_time_has_more_than_the_burst_and_one_for_each_interval(
    waits: list[int], interval: int, burst: int
) -> None:
    found = admitted(times_of(waits), interval, burst)
    for first in range(len(found)):
        for last in range(first, len(found)):
            assert last - first + 1 <= burst + (found[last] - found[first]) // interval


@given(WAITS, INTERVALS, BURSTS)
def test_who_comes_no_oftener_than_allowed_is_never_refused(
    waits: list[int], interval: int, burst: int
) -> None:
    times = times_of([wait + interval for wait in waits])
    assert admitted(times, interval, burst) == times


@given(WAITS, WAITS, INTERVALS, BURSTS)
def test_attempts_that_are_refused_cost_nothing(
    waits: list[int], more: list[int], interval: int, burst: int
) -> None:
    """Whoever goes on trying is let in at the same times as whoever waits for his turn."""
    found = admitted(sorted(times_of(waits) + times_of(more)), interval, burst)
    assert admitted(found, interval, burst) == found


def test_every_address_has_its_own_count(table: int) -> None:
    meter = Meter(table, RATE, 3)
    for host in ("192.0.2.1", "192.0.2.2", "2001:db8:0:1::1", "2001:db8:0:2::1"):
        assert [meter.admits(host, SECOND) for _ in range(5)] == [True] * 3 + [False] * 2
    assert meter.admits("192.0.2.1", SECOND + RATE.interval_ns)


def test_all_processes_count_in_one_table(table: int) -> None:
    one, other = Meter(table, RATE, 2), Meter(table, RATE, 2)
    assert [one.admits("192.0.2.1", SECOND), other.admits("192.0.2.1", SECOND)] == [True, True]
    assert [one.admits("192.0.2.1", SECOND), other.admits("192.0.2.1", SECOND)] == [False, False]


def test_one_that_is_held_up_takes_nothing_back_that_others_have_counted_meanwhile(
    table: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = Meter(table, RATE, 4), Meter(table, RATE, 4)

    def held_up(*times: int) -> int:
        monkeypatch.undo()
        assert [other.admits("192.0.2.1", SECOND) for _ in range(4)] == [True] * 4
        return arrive(*times)

    monkeypatch.setattr(rate_module, "arrive", held_up)
    assert slow.admits("192.0.2.1", SECOND), "it had looked before"
    assert not other.admits("192.0.2.1", SECOND)


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%lo", "fe80::2", True),
        ("0.0.0.1", "::1", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_of_ipv6_the_first_half_is_one_client(one: str, other: str, are_one: bool) -> None:
    assert (number_of(one) == number_of(other)) is are_one


def test_thousands_of_addresses_at_their_limit_hardly_touch_anybody_else(table: int) -> None:
    """With 3,000 of them one in 500 shares both its cells with such addresses; on the way there about two are expected."""
    meter = Meter(table, Rate(1, 3600), 1)
    hosts = [f"10.{number >> 8}.{number & 255}.1" for number in range(3000)]
    refused = sum(not meter.admits(host, SECOND) for host in hosts)
    assert refused <= 20
    assert not any(meter.admits(host, SECOND) for host in hosts)


def test_another_table_has_other_cells() -> None:
    """Who knows one table by heart knows nothing of the next."""
    places = set()
    for _ in range(8):
        fd = make_table()
        meter = Meter(fd, RATE, 1)
        meter.admits("192.0.2.1", SECOND)
        places.add(tuple(index for index, cell in enumerate(meter._cells[4:]) if cell))
        os.close(fd)
    assert len(places) == 8


def listener(name: str, rate: Rate | None = RATE, burst: int = 5, bind: str = "127.0.0.1:0") -> Listener:
    return Listener(name, Address.parse(bind), "p", client_rate=rate, client_burst=burst)


def test_a_table_is_kept_for_as_long_as_rate_and_burst_are() -> None:
    rates = Rates({})

    def taken(*listeners: Listener) -> dict[str, Table]:
        with contextlib.ExitStack() as undo:
            tables = rates.prepare(listeners, undo)
            undo.pop_all()
        rates.settle(tables)
        return tables

    first = taken(listener("a"), listener("b"), listener("c", None), listener("d", bind="unix:/x"))
    assert set(first) == {"a", "b"}
    second = taken(listener("a"), listener("b", burst=6))
    assert second["a"] is first["a"]
    assert second["b"] is not first["b"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first["b"].fd)
    rates.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first["a"].fd)


def test_what_was_prepared_in_vain_is_closed() -> None:
    rates = Rates({})
    with contextlib.ExitStack() as undo:
        fd = rates.prepare([listener("a")], undo)["a"].fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_frame_brings_a_table_back() -> None:
    table = Table(Rate(100, 60), 7, 3)
    assert table_of(table.frame("a"), 3) == table
