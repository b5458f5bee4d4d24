"""What the model accepts and refuses, and how a refusal reads."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from config_samples import config_with, message_for, problems_of, refusals
from hypothesis import given, settings
from hypothesis import strategies as st

from easyproxy.config.checks import CHECK_MODELS, HttpCheckSettings
from easyproxy.config.fields import FileMode
from easyproxy.config.load import examine_text, from_dict, loads
from easyproxy.config.schema import Config
from easyproxy.control.compose import Standing, backend_id, compose
from easyproxy.engine.relay.slots import Slots
from easyproxy.engine.relay.wire import keys_of
from easyproxy.errors import ConfigError
from easyproxy.health.checks import CHECKS, make
from easyproxy.model import MAX_COUNTED, Address

ISSUE = """
listeners:
  - bind: 127.0.0.1:9527          # IPv4, [IPv6]:port, :port, unix:/path
    pool: mysql
    max_sessions: 10000
    idle_timeout: 1h
pools:
  mysql:
    strategy: round_robin
    connect_timeout: 3s
    retries: 2
    check: {type: tcp, interval: 2s, timeout: 1s, rise: 2, fall: 3}
    backends:
      - 10.0.0.1:3306
      - {address: 10.0.0.2:3306, weight: 2, max_sessions: 200}
      - {address: 10.0.0.3:3306, backup: true}
admin: {bind: 127.0.0.1:7259}
workers: auto
"""


def test_the_documented_example_is_read():
    config = loads(ISSUE, "yaml")
    listener, pool = config.listeners[0], config.pools["mysql"]
    assert (listener.name, listener.bind, listener.idle_timeout) == (
        "127.0.0.1:9527",
        Address("127.0.0.1", 9527),
        3600,
    )
    assert [(b.name, b.weight, b.max_sessions, b.backup) for b in pool.backends] == [
        ("10.0.0.1:3306", 1, 0, False),
        ("10.0.0.2:3306", 2, 200, False),
        ("10.0.0.3:3306", 1, 0, True),
    ]
    assert set(pool.check.options()) == {"send", "expect", "tls", "tls_verify", "tls_ca", "server_name"}


def test_every_error_is_told_at_once_with_its_place():
    """Behaviour 31."""
    text = """listeners:
  - bind: 22:22
    pool: mysq
    max_session: 10
    idle_timeout: 30
pools:
  mysql:
    strategy: leastconn
    retries: "3"
    retries: 4
    check: {timeout: 5s, path: /x}
    backends:
      - 10.0.0.256:3306
      - {address: :3306, weight: 0}
      - {adress: 10.0.0.1:3306, backup: yes}
admin: {bind: ":7259"}
workers: atuo
"""
    expected = """
f:2:11: listeners[0].bind: '22:22' does not start with a numeric address; write the address itself, localhost, or :22 for every address of this machine
f:3:11: listeners[0].pool: there is no pool 'mysq'; did you mean mysql?
f:4:5: listeners[0].max_session: there is no setting 'max_session' in a listener; did you mean max_sessions?
f:5:19: listeners[0].idle_timeout: 30 has no unit; write 30s for seconds or 30ms for milliseconds
f:8:15: pools.mysql.strategy: 'leastconn' is not a known strategy; did you mean least_connections?
f:9:14: pools.mysql.retries: '3' is text; write the number without quotes: 3
f:10:5: the key 'retries' stands here for the second time; the first is in line 9
f:11:22: pools.mysql.check.timeout: 5s is longer than the interval of 2s; write 2s or less, or a longer interval
f:11:26: pools.mysql.check.path: a tcp check has no setting 'path'; http has: write type: http
f:13:9: pools.mysql.backends[0]: '10.0.0.256:3306' does not hold an IPv4 address (four numbers from 0 to 255)
f:14:19: pools.mysql.backends[1].address: ':3306' does not say which host; write 127.0.0.1:3306 for this machine
f:14:34: pools.mysql.backends[1].weight: 0 is out of range; 1 to 256 is allowed
f:15:10: pools.mysql.backends[2].adress: there is no setting 'adress' in a backend; did you mean address?
f:15:41: pools.mysql.backends[2].backup: 'yes' is not true or false; write true
f:16:15: admin.bind: ':7259' can be reached from other machines, and there is no token; write 127.0.0.1:7259, or add token_file or token
f:17:10: workers: 'atuo' is not known here; did you mean auto?
"""
    assert refusals(text) == expected.strip().splitlines()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (config_with(listener={"bind": 3306}), "3306 is a port alone, not an address; write"),
        (config_with(listener={"bind": "*:3306"}), "for every address of this machine write :3306"),
        (config_with(listener={"bind": "db.example.net:1"}), "does not start with a numeric address"),
        (config_with(listener={"bind": "::1:80"}), "is ambiguous; write an IPv6 address in brackets"),
        (config_with(listener={"bind": "unix:run"}), "write unix:/absolute/path"),
        (config_with(listener={"bind": "127.0.0.1:70000"}), "ports end at 65535"),
        (config_with(listener={"overload": "on"}), "'on' is not known here; write wait or refuse"),
        (config_with(listener={"max_sessions": True}), "true is not a whole number from 0 to"),
        (config_with(listener={"max_sessions": 1.0}), "1.0 is not a whole number"),
        (config_with(listener={"max_sessions": -1}), "-1 is out of range; 0 to 10000000 is allowed"),
        (config_with(listener={"client_rate": 20}), "'20' is not a rate; it does not say in how much time: write 20/s, 20/min"),
        (config_with(listener={"client_rate": "20 per second"}), "is not a rate; write 20/s"),
        (config_with(listener={"client_rate": "5/10s"}), "is not a rate; write 30/min"),
        (config_with(listener={"client_rate": "0/s"}), "lets nobody in; write 0 for no limit"),
        (config_with(listener={"client_rate": True}), "true is not a rate; write one, for example 20/s"),
        (config_with(listener={"client_rate": "1/s", "bind": "unix:/x"}), "clients of a unix socket have no address"),
        (config_with(listener={"client_rate": "1/h", "client_burst": 48}), "it would take 2d until so many may come at once"),
        (config_with(listener={"mode": 660, "bind": "unix:/x"}), 'a file mode is text; write it in quotes, as chmod takes it: "0660"'),
        (config_with(listener={"mode": "rw", "bind": "unix:/x"}), "'rw' is not a file mode; write three octal digits"),
        (config_with(listener={"mode": "0680", "bind": "unix:/x"}), "'0680' is not a file mode"),
        (config_with(listener={"mode": "04755", "bind": "unix:/x"}), "'04755' is not a file mode"),
        (config_with(listener={"mode": "0660"}), "only a unix socket has a file that permissions hold for; leave it out"),
        (config_with(listener={"group": "db"}), "only a unix socket has a file"),
        (config_with(listener={"client_burst": -1}), "-1 is out of range; 0 to 1000000"),
        (config_with(listener={"pool": ["db"]}), "a list is not text; write one text"),
        (config_with(listener={"name": 10}), '10 is not text here; put it in quotes: "10"'),
        (config_with(listener={"name": "a\nb"}), "holds the control character"),
        (config_with(listener={"name": "a\u202eb"}), "holds the control character"),
        (config_with(listener={"name": "\ud800"}), "half of a surrogate pair"),
        (config_with(listener={"user_timeout": "400d"}), "out of range; 100ms to 24d (or 0 for"),
        (config_with(listener={"weight": 1}), "there is no setting 'weight' in a listener; it belongs to a backend"),
        (config_with(backend={"address": "10.0.0.1"}), "'10.0.0.1' has no port; write host:port"),
        (config_with(backend={"address": "10.0.0.1:80:80"}), "'10.0.0.1:80:80' has two colons; write host:port"),
        (config_with(pool={"backends": [None]}), "nothing stands where a mapping belongs; write an address, or"),
        (config_with(frontend=1), "there is no setting 'frontend' in the top level; did you mean listeners?"),
        (config_with(backend={"address": "10.0.0.1:0"}), "has port 0, where no server can listen"),
        (config_with(backend={"address": "0.0.0.0:80"}), "is no server's address; write 127.0.0.1:80"),
        (config_with(backend={"address": "<b>:80"}), "does not hold a host name"),
        (config_with(backend={"address": "127.0.0.1:9527"}), "is the listener 127.0.0.1:9527 itself"),
        (config_with(pool={"source": "10.0.0.1:5"}), "'10.0.0.1:5' is not an IP address"),
        (config_with(pool={"backends": []}), "pools.db.backends: it is empty; at least one is needed"),
        (config_with(pool={"backends": "10.0.0.1:80"}), "'10.0.0.1:80' stands where a list belongs"),
        (config_with(pool={"backends": ["h:1", "H.:1"]}), "'H.:1' is already in this pool as pools.db.backends[0]"),
        (config_with(pool={"backends": ["h:1", {"address": "h:2", "name": "h:1"}]}), "the name 'h:1' is already taken"),
        (config_with(pool={"strategy": "ip_hash"}), "did you mean source_hash?"),
        (config_with(pool={"strategy": "zzz"}), "write round_robin, random"),
        (config_with(check={"type": "htttp"}), "pools.db.check.type: 'htttp' is not a type of check; did you mean http?"),
        (config_with(check="htttp"), "pools.db.check: 'htttp' is not a type of check"),
        (config_with(check=[]), "a list stands where a check belongs"),
        (config_with(check={"type": "none", "zzz": "x"}), "there is no setting 'zzz' in a none check; it has"),
        (config_with(check={"type": "http", "expect_status": "99"}), "'99' is not an HTTP status"),
        (config_with(check={"type": "http", "expect_status": [200, "399-300"]}), "ends before it begins; write 300-399"),
        (config_with(check={"type": "http", "path": "health"}), "'health' is not a path; it starts with /"),
        (config_with(check={"type": "http", "headers": {"A B": "x"}}), "'A B' is not a header name"),
        (config_with(check={"type": "http", "headers": {"A": "x\r\nB: y"}}), "is not a header's value: one line of ASCII"),
        (config_with(check={"type": "exec"}), "pools.db.check: command is missing"),
        (config_with(check={"type": "exec", "command": "ls -l"}), 'no shell reads it; write ["ls", "-l"]'),
        (config_with(check={"fast_interval": "3s"}), "3s is longer than the interval of 2s"),
        (config_with(check={"jitter": 0.9}), "0.9 is not a number from 0 to 0.5"),
        (config_with(admin={"bind": "0.0.0.0:1"}), "can be reached from other machines, and there is no token"),
        (config_with(admin={"bind": "127.0.0.1:9527"}), "admin.bind: '127.0.0.1:9527' is already taken by listeners[0]"),
        (config_with(admin={"token": "x" * 16, "token_file": "/t"}), "give either token or token_file"),
        (config_with(admin=None), "nothing is given here; write off"),
        (config_with(admin="of"), "'of' stands where a mapping belongs"),
        (config_with(workers=0), "workers: 0 is out of range; 1 to 256"),
        (config_with(log={"level": "warn"}), "did you mean warning?"),
        (config_with(listener={"pool": "dbs"}), "there is no pool 'dbs'; did you mean db?"),
        (config_with(listener={"pool": "zzz"}), "there is no pool 'zzz'; there is 'db'"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_told_with_what_is_right(raw, expected):
    assert expected in message_for(raw)


@pytest.mark.parametrize("switch", ["off", "none"])
def test_the_admin_server_can_be_off(switch):
    assert loads(f"{ISSUE.replace('{bind: 127.0.0.1:7259}', switch)}", "yaml").admin is None


def test_an_admin_server_in_the_open_needs_a_token():
    """Behaviour 36."""
    open_to_all = {"bind": "[2001:db8::1]:7259"}
    assert "there is no token" in message_for(config_with(admin=open_to_all))
    assert config_with(admin={**open_to_all, "token": "0123456789abcdef"}, load=True).admin is not None
    for private in ("127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/a.sock", "[::ffff:127.0.0.1]:1"):
        assert config_with(admin={"bind": private}, load=True).admin is not None


def test_a_token_is_in_no_message_repr_or_dump():
    """Behaviour 37."""
    config = config_with(admin={"token": "TopSecretTopSecret"}, load=True)
    assert "TopSecret" not in repr(config) + str(config.model_dump()) + config.model_dump_json()
    for bad in ("TopSecret", "TopSecret TopSecret", {"TopSecret": 1}, ["TopSecret"]):
        assert "TopSecret" not in str(problems_of(config_with(admin={"token": bad})))


def test_listeners_on_one_address_are_refused():
    def listeners(*binds):
        return {
            **config_with(),
            "listeners": [
                {"bind": bind, "pool": "db", "name": bind + str(i)} for i, bind in enumerate(binds)
            ],
        }

    assert "is already taken by listeners[0].bind" in message_for(listeners(":80", ":80"))
    assert "which includes it: :80" in message_for(listeners(":80", "127.0.0.1:80"))
    assert "127.0.0.1:80 is part of it" in message_for(listeners("127.0.0.1:80", ":80"))
    assert from_dict(listeners("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:80", "127.0.0.2:80"))


def test_two_listeners_of_one_name_are_refused():
    raw = config_with()
    raw["listeners"] = [{"bind": f":{port}", "pool": "db", "name": "x"} for port in (1, 2)]
    assert "the name 'x' is already taken by listeners[0]" in message_for(raw)


def test_a_strategy_that_the_engine_cannot_express_is_refused():
    able = frozenset({"round_robin", "random"})
    raw = config_with(pool={"strategy": "maglev"})
    assert "this engine cannot choose by maglev; it can by round_robin and random" in message_for(
        raw, strategies=able
    )
    assert (
        from_dict(config_with(pool={"strategy": "acme.lb:Mine"}), strategies=able).pools["db"].strategy
        == "acme.lb:Mine"
    )


@pytest.mark.parametrize(
    ("old", "new"), [("poll", "round_robin"), ("iphash", "source_hash"), ("random", "random")]
)
def test_old_names_of_strategies_are_accepted(old, new):
    assert config_with(pool={"strategy": old}, load=True).pools["db"].strategy == new


@pytest.mark.parametrize(
    ("given", "normal"),
    [(200, "200"), ("200-399", "200-399"), ([200, "301 - 302"], "200,301-302"), ("200, 204", "200,204")],
)
def test_expected_statuses_come_in_every_usual_form(given, normal):
    check = config_with(check={"type": "http", "expect_status": given}, load=True).pools["db"].check
    assert isinstance(check, HttpCheckSettings)
    assert check.expect_status == normal


def test_a_short_interval_shortens_the_defaults_that_depend_on_it():
    check = config_with(check={"interval": "300ms"}, load=True).pools["db"].check
    assert (check.timeout, check.fast_interval) == (0.3, 0.3)


def test_a_check_of_ones_own_gets_its_options():
    check = config_with(check={"type": "acme.checks:Lag", "options": {"max": 3}}, load=True).pools["db"].check
    assert (check.type, check.options()) == ("acme.checks:Lag", {"max": 3})


def test_doubtful_settings_are_warnings_with_places():
    text = ISSUE.replace("    idle_timeout: 1h\n", "    idle_timeout: 1h\n    client_burst: 5\n").replace(
        "pools:\n",
        "pools:\n  spare:\n    check: {server_name: x}\n    backends: [{address: h:1, backup: true}]\n",
    )
    warnings = [str(warning) for warning in examine_text(text, "yaml", "f").warnings]
    assert warnings == [
        "f:7:5: listeners[0].client_burst: it has no effect without client_rate",
        "f:9:3: pools.spare: no listener uses this pool; its backends are checked for nothing",
        "f:10:13: pools.spare.check.server_name: server_name has no effect without tls: true",
        "f:11:5: pools.spare.backends: every backend is a backup; backup then changes nothing",
    ]


def test_a_configuration_is_frozen_and_survives_a_dump():
    config = loads(ISSUE, "yaml")
    with pytest.raises(Exception, match="frozen"):
        config.workers = 3
    again = from_dict(json.loads(config.model_dump_json(exclude_none=True)))
    assert again == config
    assert Config(**config.model_dump(exclude_none=True)) == config


def test_a_thousand_errors_are_not_all_printed():
    text = "listeners:\n" + "  - {}\n" * 1000
    lines = refusals(text)
    assert len(lines) == 101
    assert lines[0].startswith("f:1:1: pools is missing")
    assert lines[-1] == "f: 1901 further problems are not shown"


def test_thousands_of_unknown_keys_are_counted_and_not_all_examined():
    lines = refusals("".join(f"k{number}: 1\n" for number in range(5000)))
    assert lines[2].startswith("f:1:1: k0: there is no setting 'k0' in the top level")
    assert lines[-1] == "f: 4902 further problems are not shown"


SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["10.0.0.1:80", ":80", "3s", "none", "off", "tcp", "http", "db", "a:b", "\ud800", "<<", "200-399"]
    )
)
KEYS = st.sampled_from(
    [
        "listeners",
        "pools",
        "admin",
        "workers",
        "log",
        "bind",
        "pool",
        "name",
        "backends",
        "address",
        "check",
        "type",
        "interval",
        "timeout",
        "token",
        "command",
        "options",
        "headers",
        "expect_status",
        "strategy",
        "db",
        "service",
        "port",
        "host",
        "drain_timeout",
    ]
)
RAW = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=30,
)


@settings(max_examples=400)
@given(st.dictionaries(KEYS, RAW, max_size=6))
def test_any_data_is_a_configuration_or_a_config_error(raw):
    try:
        from_dict(raw)
    except ConfigError as error:
        str(error).encode()  # printable, whatever came in


@settings(max_examples=300)
@given(
    st.text(max_size=80) | st.binary(max_size=80).map(lambda data: data.decode("latin-1")),
    st.sampled_from(["yaml", "toml", "json"]),
)
def test_any_text_is_a_configuration_or_a_config_error(text, form):
    with pytest.raises(ConfigError):
        loads(text, form)


@settings(max_examples=300)
@given(st.data())
def test_a_broken_example_is_a_configuration_or_a_config_error(data):
    start = data.draw(st.integers(0, len(ISSUE) - 1))
    end = data.draw(st.integers(start, min(len(ISSUE), start + 12)))
    text = ISSUE[:start] + data.draw(st.text(alphabet="ab:{}[]-*&!\"' \n\t0#", max_size=4)) + ISSUE[end:]
    try:
        loads(text, "yaml", "f")
    except ConfigError as error:
        places = [problem.where for problem in error.problems]
        if not all(place.startswith("f:") for place in places):
            pytest.fail(f"a problem without its place: {error}")


EDGE = st.text(max_size=6) | st.sampled_from(
    ["", "\0", "é", "€", "\r\n", "Host", "Content-Length", "chunked", "a b", "%", "["]
)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={"send": EDGE, "expect": EDGE, "tls": st.booleans(), "server_name": EDGE, "tls_ca": EDGE},
    ).map(lambda options: {"type": "tcp", **options})
    | st.fixed_dictionaries(
        {},
        optional={
            "method": EDGE | st.just("HEAD"),
            "path": EDGE.map(lambda text: "/" + text),
            "host": EDGE,
            "expect_status": st.integers(90, 610) | st.lists(st.integers(100, 599), max_size=2),
            "headers": st.dictionaries(EDGE, EDGE, max_size=2),
        },
    ).map(lambda options: {"type": "http", **options})
    | st.fixed_dictionaries(
        {"command": st.lists(EDGE, max_size=2)}, optional={"env": st.dictionaries(EDGE, EDGE, max_size=2)}
    ).map(lambda options: {"type": "exec", **options})
    | st.fixed_dictionaries({}, optional={"user": EDGE}).map(lambda options: {"type": "mysql", **options})
)
def test_a_check_that_is_accepted_can_be_made(check):
    try:
        accepted = from_dict(config_with(check=check)).pools["db"].check
    except ConfigError:
        return
    make(accepted.type, accepted.options())


@pytest.mark.parametrize("kind", ["tcp", "http", "exec", "mysql"])
def test_every_option_of_a_check_is_a_setting(kind):
    ours = set(CHECK_MODELS[kind].model_fields) - CHECK_MODELS[kind].common
    assert ours == {field.name for field in dataclasses.fields(CHECKS[kind]) if field.init}


@pytest.mark.parametrize("more", [0, 1])
def test_no_more_is_taken_than_the_engine_has_counters_for_when_every_backend_is_ready(more):
    taken = 3 + 4  # three listeners, and their pools: one in two roles, one in none, and one that nobody uses
    backends = [f"127.{n >> 16}.{n >> 8 & 255}.{n & 255}:1" for n in range(MAX_COUNTED - taken - 2 + more)]
    raw = {
        "listeners": [
            {"bind": "127.0.0.1:0", "name": "writes", "pool": "orders", "role": "primary"},
            {"bind": "127.0.0.1:0", "name": "reads", "pool": "orders", "role": "replica"},
            {"bind": "127.0.0.1:0", "name": "all", "pool": "web"},
        ],
        "pools": {
            "orders": {"check": "redis", "backends": backends},
            "web": {"backends": ["10.0.0.1:80"]},
            "unused": {"backends": ["10.0.0.2:80"]},
        },
    }
    if more:
        [problem] = problems_of(raw)
        assert problem.path == "pools"
        assert problem.message.startswith("listeners, pools and backends are 16,384, and 16,383 are the most")
        return
    config = from_dict(raw)
    standings = {
        backend_id(name, backend): Standing(is_ready=True, address=backend.address, role="primary")
        for name, pool in config.pools.items()
        for backend in pool.backends
    }
    keys = keys_of(compose(config, standings, now=0.0, writers=standings))
    Slots().assign(keys, lambda _slot: False, lambda _slot: None)


def test_the_schema_refuses_a_file_mode_that_is_none_as_the_reader_does():
    pattern = FileMode().schema()["pattern"]
    assert [bool(re.search(pattern, mode)) for mode in ("", "660", "0660", "rw", "0680", "04755")] == [
        *[True] * 3,
        *[False] * 3,
    ]
