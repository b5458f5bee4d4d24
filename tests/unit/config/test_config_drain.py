"""How a pool's sessions end: what cannot be followed is refused where it stands, with what to write instead."""

from __future__ import annotations

import pytest
from config_samples import config_with, message_for

from easyproxy.config.load import examine_text
from easyproxy.control.compose import conversation_of

BETWEEN = "between_transactions"


def drain_of(**pool):
    return config_with(pool=pool, load=True).pools["db"]


def test_by_default_sessions_end_by_themselves_and_have_no_deadline():
    pool = drain_of()
    assert (pool.drain.when, pool.drain.deadline, conversation_of(pool)) == ("sessions_end", 0, "")


def test_a_word_alone_is_enough_where_the_check_tells_the_protocol():
    assert conversation_of(drain_of(drain=BETWEEN, check={"type": "mysql"})) == "mysql"
    assert conversation_of(drain_of(drain={"when": BETWEEN}, check="mysql")) == "mysql"


def test_a_greeting_tells_the_protocol_too():
    pool = {"drain": BETWEEN, "greeting": "postgresql"}
    assert conversation_of(drain_of(**pool, check={"type": "tcp"})) == "postgresql"
    assert conversation_of(drain_of(**pool, check={"type": "ours:Check"})) == "postgresql"
    assert conversation_of(drain_of(**pool, check={"type": "mysql"})) == "mysql"


def test_a_protocol_that_is_named_stands_before_that_of_the_check():
    drain = {"when": BETWEEN, "protocol": "postgresql", "deadline": "5m"}
    pool = drain_of(drain=drain, check={"type": "tcp"})
    assert (conversation_of(pool), pool.drain.deadline) == ("postgresql", 300)
    assert conversation_of(drain_of(drain=drain, check={"type": "mysql"})) == "postgresql"


@pytest.mark.parametrize("check", ["tcp", "http", "none", "ours:Check", None])
@pytest.mark.parametrize("drain", [BETWEEN, {"when": BETWEEN}])
def test_a_protocol_that_nobody_knows_is_asked_for(check, drain):
    raw = config_with(pool={"drain": drain}, check=check and {"type": check})
    assert message_for(raw) == (
        f"pools.db.drain: which protocol its clients speak is not known: its check is '{check or 'tcp'}', and it has no greeting; write"
        " {when: between_transactions, protocol: mysql or postgresql}"
    )


def test_a_greeting_that_tells_no_protocol_is_named():
    raw = config_with(pool={"drain": BETWEEN, "greeting": "any"}, check={"type": "tcp"})
    assert "its check is 'tcp', its greeting 'any'; write {when: " in message_for(raw)


def test_the_kernel_engine_cannot_follow_anybody():
    raw = config_with(listener={"engine": "kernel"}, pool={"drain": BETWEEN}, check={"type": "mysql"})
    assert message_for(raw).startswith(
        "pools.db.drain: listeners[0] has engine: kernel, which does not see what sessions say"
    )
    raw["pools"]["db"]["drain"] = {"deadline": "1m"}
    assert config_with(listener={"engine": "kernel"}, pool={"drain": {"deadline": "1m"}}, load=True)


@pytest.mark.parametrize(
    "drain", ["between_transaction", {"when": "never"}, {"protocol": "redis"}, {"deadline": 5}]
)
def test_wrong_words_are_told(drain):
    assert message_for(config_with(pool={"drain": drain})).startswith("pools.db.drain")


def test_what_has_no_effect_is_a_warning():
    text = """
listeners:
  - {bind: "127.0.0.1:9527", pool: db}
  - {bind: "127.0.0.1:9528", pool: db, engine: kernel}
  - {bind: "127.0.0.1:9529", pool: web}
pools:
  db: {backends: ["10.0.0.1:1"], drain: between_transactions, check: mysql, retries: 0, queue_timeout: 0}
  web: {backends: ["10.0.0.2:1"], drain: {protocol: mysql}}
"""
    found = [f"{problem.path}: {problem.message}" for problem in examine_text(text, "yaml", "f").warnings]
    assert found == [
        "pools.db.drain: between_transactions has no effect for listeners[1], whose engine is kernel: it does not see what sessions say",
        "pools.web.drain.protocol: it has no effect without when: between_transactions",
    ]
