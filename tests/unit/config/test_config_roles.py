"""Listeners by role: what cannot be told by the pool's check is refused where it stands."""

from __future__ import annotations

import pytest
from config_samples import config_with, message_for

from easyproxy.config.load import examine_text


def test_by_default_a_listener_is_for_every_server():
    listener = config_with(load=True).listeners[0]
    assert (listener.role, listener.fallback) == (None, None)


@pytest.mark.parametrize("check", ["tcp", "http", "none", None])
def test_a_check_that_knows_no_roles_is_refused(check):
    raw = config_with(listener={"role": "primary"}, check=check and {"type": check})
    assert message_for(raw).startswith(
        f"listeners[0].role: pools.db.check is '{check or 'tcp'}', which does not know who is the primary"
    )


def test_a_check_that_does_not_log_in_is_refused():
    raw = config_with(listener={"role": "replica"}, check={"type": "mysql"})
    assert "pools.db.check has no password" in message_for(raw)


def test_a_check_of_ones_own_may_know_them():
    assert config_with(listener={"role": "primary"}, check={"type": "ours:Check"}, load=True)


def test_only_a_listener_of_replicas_falls_back():
    raw = config_with(listener={"fallback": "primary"})
    assert message_for(raw) == (
        "listeners[0].fallback: only a listener with role: replica can fall back; add that, or leave it out"
    )


@pytest.mark.parametrize(
    ("key", "value", "near"), [("role", "primry", "primary"), ("role", "slave", "primary or replica")]
)
def test_a_wrong_word_is_told_with_the_right_ones(key, value, near):
    assert near in message_for(config_with(listener={key: value}, check={"type": "ours:Check"}))


def test_what_has_no_effect_is_a_warning():
    text = """
listeners: [{bind: "127.0.0.1:9527", pool: db}]
pools:
  db: {backends: ["10.0.0.1:1"], failover: {hold: 5s}, close_sessions_on_lag: true}
"""
    found = [f"{problem.path}: {problem.message}" for problem in examine_text(text, "yaml", "f").warnings]
    assert found == [
        "pools.db.failover: it has no effect: no listener of this pool has role: primary",
        "pools.db.close_sessions_on_lag: it has no effect: no listener of this pool has role: replica",
    ]


def test_the_kernel_engine_holds_nobody():
    text = """
listeners: [{bind: "127.0.0.1:9527", pool: db, role: primary, engine: kernel}]
pools:
  db: {backends: ["10.0.0.1:1"], check: "ours:Check", retries: 0, queue_timeout: 0, failover: {hold: 5s}}
"""
    [found] = examine_text(text, "yaml", "f").warnings
    assert found.path == "pools.db.failover.hold"
    assert "nobody accepts clients there" in found.message
