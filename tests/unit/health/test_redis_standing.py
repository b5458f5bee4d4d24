"""Where a Redis or Valkey server stands, from what INFO says."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.redis.resp import read_info
from easyproxy.health.checks.redis.standing import judge

PRIMARY = {"redis_version": "7.0.15", "redis_mode": "standalone", "loading": "0", "role": "master"}
PRIMARY |= {"connected_slaves": "2", "master_repl_offset": "1234"}
REPLICA = {
    **PRIMARY,
    "role": "slave",
    "master_host": "10.0.0.1",
    "master_port": "6379",
    "slave_repl_offset": "1200",
}
REPLICA |= {"master_link_status": "up", "master_last_io_seconds_ago": "1", "master_sync_in_progress": "0"}
DOWN = {"master_link_status": "down", "master_last_io_seconds_ago": "-1"}


def test_a_primary_says_how_many_follow_it():
    finding = judge(PRIMARY)
    assert finding.detail == "primary, 7.0.15"
    assert dict(finding.facts.notes) == {"position": "1234", "replicas": "2"}


def test_a_replica_with_its_link_up_is_up_to_date():
    finding = judge(REPLICA)
    assert finding.detail == "replica, up to date, 7.0.15"
    assert dict(finding.facts.notes) == {"position": "1200", "follows": "10.0.0.1:6379", "link": "up"}


def test_a_broken_link_makes_the_lag_unknown():
    finding = judge({**REPLICA, **DOWN, "master_link_down_since_seconds": "7"})
    assert finding.facts.lag_s == -1.0
    assert "its link to its primary is down for 7 s" in finding.detail


def test_a_link_that_was_never_up_is_none():
    finding = judge(
        {**REPLICA, **DOWN, "master_link_down_since_seconds": "-1", "master_sync_in_progress": "1"}
    )
    assert finding.facts.lag_s == math.inf
    assert "it is taking over all data of its primary, and was never up" in finding.detail


def test_silence_for_longer_than_a_primary_is_silent_makes_the_lag_unknown():
    assert judge({**REPLICA, "master_last_io_seconds_ago": "11"}).facts.lag_s == 0
    finding = judge({**REPLICA, "master_last_io_seconds_ago": "12"})
    assert finding.facts.lag_s == -1.0
    assert "its primary has said nothing for 12 s" in finding.detail


def test_a_server_that_loads_says_how_far_it_is():
    with pytest.raises(ProbeFailed, match=r"is loading its data \(42.5 %, about 7 s left\)"):
        judge({**PRIMARY, "loading": "1", "loading_loaded_perc": "42.5", "loading_eta_seconds": "7"})


def test_a_primary_that_hands_over_says_so():
    finding = judge({**PRIMARY, "master_failover_state": "waiting-for-sync"})
    assert finding.facts.role == "primary"
    assert "handing over" in finding.detail


def test_valkey_is_called_by_its_name():
    assert judge({**PRIMARY, "valkey_version": "8.1.1"}).facts.version == "Valkey 8.1.1"
    info = {**PRIMARY, "valkey_version": "9.0.0", "server_mode": "standalone"}
    del info["redis_mode"]
    assert judge(info).detail == "primary, Valkey 9.0.0"


def test_a_role_that_is_not_known_is_none():
    finding = judge({**PRIMARY, "role": "active-replica"})
    assert finding.facts.role == ""
    assert "it calls itself active-replica" in finding.detail


@given(st.text(max_size=300), st.dictionaries(st.sampled_from(sorted(REPLICA)), st.text(max_size=20)))
def test_whatever_it_says_is_a_finding_or_a_failure(text, changed):
    with contextlib.suppress(ProbeFailed):
        assert judge({**REPLICA, **read_info(text), **changed}).detail
