"""What a pool may want to hear of its backends."""

from __future__ import annotations

import pytest
from config_samples import config_with, message_for

from easyproxy.config.load import examine_text
from easyproxy.control.compose import Standing, compose
from easyproxy.model import Address


def test_by_default_the_handshake_is_enough():
    pool = config_with(load=True).pools["db"]
    assert (pool.greeting, pool.greeting_timeout) == ("none", 5.0)


@pytest.mark.parametrize(("wrong", "near"), [("mysqll", "mysql"), ("redis", "any, mysql")])
def test_a_wrong_word_is_told_with_the_right_ones(wrong, near):
    message = message_for(config_with(pool={"greeting": wrong}))
    assert message.startswith("pools.db.greeting: ")
    assert near in message


@pytest.mark.parametrize(
    ("word", "in_snapshot"),
    [("none", ""), ("any", "any"), ("mysql", "mysql"), ("postgresql", "postgresql")],
)
def test_it_goes_into_the_snapshot(word, in_snapshot):
    config = config_with(pool={"greeting": word, "greeting_timeout": "2s"}, load=True)
    standings = {
        f"db/{backend.name}": Standing(True, Address("10.0.0.1", 1))
        for backend in config.pools["db"].backends
    }
    [pool] = compose(config, standings, 0.0).pools
    assert (pool.greeting, pool.greeting_timeout_s) == (in_snapshot, 2.0)


@pytest.mark.parametrize("greeting", ["any", "mysql"])
def test_backends_that_greet_first_may_race(greeting):
    config = config_with(pool={"greeting": greeting, "hedge": True}, load=True)
    [pool] = compose(config, {"db/10.0.0.1:3306": Standing(True, Address("10.0.0.1", 1))}, 0.0).pools
    assert pool.hedge


@pytest.mark.parametrize("greeting", [{}, {"greeting": "none"}, {"greeting": "postgresql"}])
def test_others_cannot_race(greeting):
    assert message_for(config_with(pool={"hedge": True, **greeting})).startswith(
        "pools.db.hedge: only backends that greet"
    )


@pytest.mark.parametrize("greeting", ["", ", greeting: none"])
def test_a_time_out_for_nothing_is_a_warning(greeting):
    text = f"""
listeners: [{{bind: "127.0.0.1:9527", pool: db}}]
pools:
  db: {{backends: ["10.0.0.1:1"], greeting_timeout: 1s{greeting}}}
"""
    found = [f"{problem.path}: {problem.message}" for problem in examine_text(text, "yaml", "f").warnings]
    assert found == ["pools.db.greeting_timeout: it has no effect without greeting"]
