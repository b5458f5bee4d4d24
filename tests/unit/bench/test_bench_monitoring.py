"""The table of what being watched costs."""

from __future__ import annotations

from bench.accounting import Cpu
from bench.monitoring import UNWATCHED, VARIANTS, WATCHED, Used, table


def test_cpu_time_is_given_for_each_session_and_rates_beside_the_neighbour():
    bursts = {name: [] for name in VARIANTS}
    bursts[UNWATCHED] = [Used(1000, 500.0, Cpu(0.03, 0.06), Cpu(0.01, 0.0))] * 2
    bursts[WATCHED] = [Used(1000, 490.0, Cpu(0.04, 0.06), Cpu(0.02, 0.0))]
    found = table(
        {name: bursts[name] for name in (UNWATCHED, WATCHED)},
        [{UNWATCHED: 1.0, WATCHED: 0.97}, {UNWATCHED: 1.0, WATCHED: 1.01}, {WATCHED: 0.98}],
    ).splitlines()
    assert found[2] == "| nobody looks | 500 | 30.0 us | 10.0 us | 60.0 us | 1.000 (1.00 to 1.00) |"
    assert found[3] == (
        "| page and metrics every second | 490 | 40.0 us | 20.0 us | 60.0 us | 0.980 (0.97 to 1.01) |"
    )
