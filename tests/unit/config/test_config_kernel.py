"""``engine: kernel``: what it cannot do is refused at its place with a remedy, and never ignored."""

from __future__ import annotations

import pytest
from config_samples import config_with, message_for, problems_of

from easyproxy.config.kernel import KERNEL_STRATEGIES
from easyproxy.config.load import examine_text, from_dict
from easyproxy.config.schema import Config
from easyproxy.control.compose import Standing, compose
from easyproxy.control.overrides import effective
from easyproxy.engine.kernel import KernelEngine
from easyproxy.errors import ConfigError

IN_KERNEL = {"engine": "kernel"}


def kernel_with(listener=None, **more):
    return config_with(listener={**IN_KERNEL, **(listener or {})}, **more)


def both_with(pool):
    """Make raw data with one pool behind a listener of each engine."""
    raw = kernel_with(pool=pool)
    raw["listeners"].append({"bind": "127.0.0.1:9528", "pool": "db"})
    return raw


def warnings_of(text):
    return [f"{problem.path}: {problem.message}" for problem in examine_text(text, "yaml", "f").warnings]


def test_a_listener_is_served_by_the_relay_engine_unless_it_says_otherwise():
    config = config_with(load=True)
    assert config.listeners[0].engine == "relay"
    assert (config.kernel.source, config.kernel.manage_sysctl) == ("masquerade", False)


def test_the_word_reaches_the_engine():
    config = from_dict(kernel_with(kernel={"source": "transparent", "manage_sysctl": True}))
    snapshot = compose(config, {"db/10.0.0.1:3306": Standing(is_ready=False, address=None)}, now=0.0)
    assert snapshot.listeners[0].engine == "kernel"
    assert (config.kernel.source, config.kernel.manage_sysctl) == ("transparent", True)


def test_the_strategies_are_those_that_the_engine_lists():
    assert set(KERNEL_STRATEGIES) == KernelEngine.strategies


@pytest.mark.parametrize("strategy", ["round_robin", "poll", "random", "source_hash", "iphash", "maglev"])
def test_strategies_that_rules_can_express_are_accepted(strategy):
    assert from_dict(kernel_with(pool={"strategy": strategy}))


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("least_connections", "its rules cannot compare numbers of sessions"),
        ("power_of_two", "its rules cannot compare numbers of sessions"),
        ("first", "it goes on to the next only when a connect fails, which the kernel does not do"),
        ("own:Strategy", "no Python runs where it chooses"),
    ],
)
def test_other_strategies_are_refused_with_the_reason(strategy, why):
    assert message_for(kernel_with(pool={"strategy": strategy})) == (
        f"pools.db.strategy: listeners[0] has engine: kernel, which cannot choose by {strategy!r}: {why};"
        " write round_robin, random, source_hash or maglev, or engine: relay there"
    )


def test_a_misspelt_strategy_is_told_once():
    message = message_for(kernel_with(pool={"strategy": "leest_connections"}))
    assert message.endswith("did you mean least_connections?")


@pytest.mark.parametrize(
    ("listener", "start"),
    [
        ({"bind": "unix:/run/x.sock"}, "listeners[0].bind: 'unix:/run/x.sock' is a unix socket"),
        ({"overload": "wait"}, "listeners[0].overload: with engine: kernel no client waits"),
        ({"backlog": 100}, "listeners[0].backlog: it has no effect with engine: kernel"),
        ({"keepalive": "1m"}, "listeners[0].keepalive: it has no effect with engine: kernel"),
        ({"user_timeout": "1m"}, "listeners[0].user_timeout: it has no effect with engine: kernel"),
    ],
)
def test_what_a_listener_cannot_have_is_refused(listener, start):
    message = message_for(kernel_with(listener))
    assert message.startswith(start)
    assert message.endswith("engine: relay")


@pytest.mark.parametrize("key", ["keepalive", "user_timeout"])
@pytest.mark.parametrize("value", ["none", 0, "0s"])
def test_what_says_without_is_right_because_so_it_is(key, value):
    assert from_dict(kernel_with({key: value}))


@pytest.mark.parametrize(
    "listener",
    [
        {"bind": "127.0.0.1:0"},
        {"idle_timeout": "1h"},
        {"half_closed_timeout": "1m"},
        {"max_lifetime": "1h"},
        {"max_sessions": 10, "overload": "refuse"},
    ],
)
def test_what_the_kernel_can_do_is_accepted(listener):
    assert from_dict(kernel_with(listener, pool={"connect_timeout": "2s", "close_sessions_on_down": True}))


@pytest.mark.parametrize(
    ("key", "value", "without"),
    [
        ("retries", 2, 0),
        ("queue_timeout", "5s", 0),
        ("greeting", "any", "none"),
        ("greeting", "mysql", "none"),
    ],
)
def test_what_a_pool_cannot_have_is_refused(key, value, without):
    message = message_for(kernel_with(pool={key: value}))
    assert message.startswith(f"pools.db.{key}: it has no effect with engine: kernel")
    assert f"leave it out or write {without}" in message
    assert from_dict(kernel_with(pool={key: without}))


def test_a_pool_of_both_engines_keeps_settings_that_one_of_them_has():
    text = """
listeners:
  - {bind: 127.0.0.1:1, pool: p, engine: kernel}
  - {bind: 127.0.0.1:2, pool: p}
pools:
  p: {retries: 1, backends: [10.0.0.1:1]}
"""
    assert [line.partition(":")[0] for line in warnings_of(text)] == ["pools.p.retries"]
    assert message_for(both_with({"strategy": "least_connections"})).startswith("pools.db.strategy")


def test_a_limit_that_turns_away_instead_of_waiting_is_said():
    text = """
listeners: [{{bind: 127.0.0.1:1, pool: p, engine: kernel, max_sessions: 5{more}}}]
pools: {{p: {{backends: [10.0.0.1:1]}}}}
"""
    assert "the next client is refused at this limit" in warnings_of(text.format(more=""))[0]
    assert warnings_of(text.format(more=", overload: refuse")) == []


@pytest.mark.parametrize(
    ("address", "start"),
    [
        ("unix:/run/x.sock", "'unix:/run/x.sock' is a unix socket"),
        ("[fd00::1]:3306", "'[fd00::1]:3306' is IPv6, and listeners[0] takes IPv4"),
        ("[fe80::1%eth0]:3306", "'[fe80::1%eth0]:3306' is link-local"),
    ],
)
def test_backends_that_packets_cannot_reach_are_refused(address, start):
    raw = kernel_with({"bind": "[::]:9527"} if "fe80" in address else {}, backend={"address": address})
    assert message_for(raw).startswith(f"pools.db.backends[0].address: {start}")


def test_a_listener_of_both_families_may_have_backends_of_either():
    assert from_dict(kernel_with({"bind": ":9527"}, backend={"address": "[fd00::1]:3306"}))


def test_one_backend_is_refused_once_for_all_its_listeners():
    raw = kernel_with(backend={"address": "unix:/run/x.sock"})
    raw["listeners"].append({**raw["listeners"][0], "bind": "127.0.0.1:9528"})
    assert len(problems_of(raw)) == 1


def test_defaults_that_have_no_effect_are_no_error_also_when_they_come_as_models():
    config = from_dict(kernel_with())
    assert effective(config, ()) == config
    assert Config.model_validate({"listeners": config.listeners, "pools": config.pools}) == config


def test_words_of_the_kernel_section_are_strict():
    assert message_for(kernel_with(kernel={"source": "masq"})).startswith(
        "kernel.source: 'masq' is not known"
    )
    with pytest.raises(ConfigError, match=r"engine: 'kernl' is not known here; did you mean kernel\?"):
        from_dict(config_with(listener={"engine": "kernl"}))
