"""How often a configuration has servers probed, before anybody does so."""

from __future__ import annotations

import json

import pytest

from easyproxy.config.load import examine_text


def told(**pools) -> list[str]:
    """Return the warnings for pools given as ``(how many backends, check)``."""
    raw = {
        "listeners": [{"bind": f":{port}", "pool": name} for port, name in enumerate(pools, 1000)],
        "pools": {
            name: {"check": check, "backends": [f"10.0.{i // 250}.{i % 250}:1" for i in range(count)]}
            for name, (count, check) in pools.items()
        },
    }
    return warnings_of(raw)


def warnings_of(raw: object) -> list[str]:
    return [
        f"{warning.path}: {warning.message}"
        for warning in examine_text(json.dumps(raw, indent=1), "json", "f").warnings
    ]


def test_very_many_probes_a_second_are_told_with_the_figure_and_an_interval_that_helps():
    [warning] = told(p=(1500, {"type": "tcp", "interval": "500ms"}))
    assert warning == (
        "pools.p.check.interval: 3,000 probes a second are more than the 1,000 that leave the control process enough time"
        " for everything else; lengthen interval, to 1.5s for example"
    )
    assert told(p=(1500, {"type": "tcp", "interval": "1.5s"})) == []


def test_probes_are_added_up_over_pools_and_told_at_the_one_that_asks_for_the_most():
    quick = {"type": "http", "interval": "1s"}
    [warning] = told(a=(400, quick), b=(700, quick), c=(1000, "none"))
    assert warning.startswith("pools.b.check.interval: 1,100 probes a second, 700 of them for this pool, are")
    assert "to 1.1s for example" in warning


@pytest.mark.parametrize("check", ["tcp", {"type": "tcp"}, {"type": "mysql", "interval": "2s"}])
def test_two_thousand_backends_with_the_defaults_are_no_reason_to_warn(check):
    assert told(p=(2000, check)) == []
    assert told(p=(2001, check))[0].startswith("pools.p.check.interval: 1,001 probes a second")


@pytest.mark.parametrize(
    ("kind", "max_lag", "is_told"),
    [
        ("postgresql", "1s", True),
        ("postgresql", "1.9s", True),
        ("postgresql", "2s", False),
        ("postgresql", "none", False),
        ("mysql", "1s", True),
        ("mysql", "5s", False),
    ],
)
def test_a_lag_that_is_shorter_than_what_is_seen_of_it_is_told(kind, max_lag, is_told):
    raw = {
        "listeners": [{"bind": ":1000", "pool": "db", "role": "replica"}],
        "pools": {
            "db": {
                "check": {
                    "type": kind,
                    "user": "u",
                    "password_env": "W",
                    "interval": "1s",
                    "max_lag": max_lag,
                },
                "backends": ["10.0.0.1:1"],
            }
        },
    }
    expected = (
        "pools.db.check.max_lag: probes are 1s apart, and nothing is known between them: replicas that are well may count as lagging; give at least 2s,"
        " or shorten interval"
    )
    assert warnings_of(raw) == ([expected] if is_told else [])
