"""Files: what is no file, no text, too large; the old file; the examples; the documentation; the command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from config_samples import config_with, message_for

from easyproxy.cli.check import command as check
from easyproxy.cli.schema import command as schema
from easyproxy.config import json_schema, reference
from easyproxy.config.load import examine, load, loads, read_lines, read_token
from easyproxy.errors import ConfigError
from easyproxy.model import Address

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "configuration.md"
OLD = {
    "service": "mysql service",
    "host": "127.0.0.1",
    "port": 9527,
    "webport": 7259,
    "strategy": "poll",
    "heartbeat": 60,
    "maxprocessor": 1,
    "backends": [{"host": "11.239.169.230", "port": 3306}],
}


def refusal(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.problems) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.yaml", None, "there is no such file"),
        ("a", None, "there is no such file"),
        ("a.conf", b"", "it must end in .yaml, .yml, .toml or .json"),
        ("a.yaml", b"a: \xff", "a.yaml:1:4: the byte 0xff is not UTF-8"),
        ("a.yaml", b"x: \xc3\xa9\ny: \xff", "a.yaml:2:4: the byte 0xff"),
        ("a.json", "{}".encode("utf-16"), "the file is UTF-16; save it as UTF-8"),
        ("a.toml", b"#" * (2 * 1024**2 + 1), "the file is larger than 2 MiB"),
    ],
)
def test_what_cannot_be_read_is_a_config_error(tmp_path, name, content, expected):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert expected in refusal(path)


def test_a_directory_is_a_config_error(tmp_path):
    (tmp_path / "a.yaml").mkdir()
    assert "this is a directory" in refusal(tmp_path / "a.yaml")


def test_nobody_waits_for_the_writer_of_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    assert "no regular file" in refusal(tmp_path / "a.yaml")
    assert read_lines(tmp_path / "a.yaml") == []


def test_a_name_that_no_file_can_have_is_a_config_error():
    assert "cannot be read" in refusal("a\0b.yaml")


def test_a_byte_order_mark_says_nothing(tmp_path):
    path = tmp_path / "a.JSON"
    path.write_text(json.dumps(config_with()), encoding="utf-8-sig")
    assert load(path).pools


def test_the_old_file_works_as_it_is():
    config = loads(json.dumps(OLD), "json")
    listener, pool = config.listeners[0], config.pools["mysql service"]
    assert (listener.bind, listener.pool) == (Address("127.0.0.1", 9527), "mysql service")
    assert (pool.strategy, pool.check.interval, config.workers) == ("round_robin", 60, 1)
    assert [backend.address for backend in pool.backends] == [Address("11.239.169.230", 3306)]
    assert config.admin.bind == Address("127.0.0.1", 7259)


def test_the_old_files_open_statistics_become_private_with_a_warning(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**OLD, "host": "0.0.0.0"}, indent=1))
    loaded = examine(path)
    assert loaded.config.admin.bind == Address("127.0.0.1", 7259)
    assert [warning.where for warning in loaded.warnings] == [f"{path}:5:13"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"strategy": "pol"}, "strategy: 'pol' is not known here; did you mean poll?"),
        ({"heartbeat": "60"}, "heartbeat: '60' is text; write the number without quotes: 60"),
        (
            {"webprot": 1},
            "webprot: there is no setting 'webprot' in a file of the old EasyProxy; did you mean webport?",
        ),
        ({"webport": 9527}, "webport: 9527 is already the port that clients use"),
        ({"host": "example.net"}, "host: 'example.net:9527' does not start with a numeric address"),
        (
            {"backends": [{"host": "10.0.0.256", "port": 1}]},
            "backends[0].host: '10.0.0.256:1' does not hold an IPv4",
        ),
        (
            {"backends": [{"host": "a", "port": 1}] * 2},
            "backends[1].host: 'a:1' is already in the list as backends[0]",
        ),
        ({"backends": [{"host": "a"}]}, "backends[0]: port is missing; add port"),
        ({"backends": []}, "backends: it is empty; at least one is needed"),
    ],
)
def test_a_wrong_old_file_is_refused_with_places(change, expected):
    with pytest.raises(ConfigError) as caught:
        loads(json.dumps({**OLD, **change}), "json", "old.json")
    assert any(f": {expected}" in str(problem) for problem in caught.value.problems), str(caught.value)
    assert all(problem.where.startswith("old.json:1:") for problem in caught.value.problems)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_the_old_file_may_hold_ipv6(host):
    assert loads(json.dumps({**OLD, "host": host}), "json").listeners[0].bind == Address("::1", 9527)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.*")), ids=lambda path: path.name)
def test_the_examples_are_right(path):
    if path.suffix in (".yaml", ".toml", ".json"):
        assert examine(path).warnings == ()


def test_the_shipped_json_schema_is_current():
    assert json_schema.SHIPPED.read_text(encoding="utf-8") == json_schema.render(), (
        "renew it: python -m easyproxy.config.json_schema"
    )


def test_the_configuration_page_has_exactly_the_models_settings_and_defaults():
    page = PAGE.read_text(encoding="utf-8")
    assert reference.renew(page) == page, (
        "renew it: python -m easyproxy.config.reference docs/configuration.md"
    )
    assert reference.missing(page) == set()


def test_every_setting_says_what_it_does():
    for model in reference.TABLES.values():
        for name, setting in model.model_fields.items():
            assert setting.description, f"{model.__name__}.{name}"


@pytest.mark.parametrize("name", ["configuration.md", "mysql.md", "postgresql.md", "redis.md"])
def test_the_yaml_of_the_page_is_right(name):
    page = PAGE.with_name(name).read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]
    whole = [block for block in blocks if "listeners:" in block and "pools:" in block]
    assert whole
    for block in whole:
        assert loads(block, "yaml", "page")
    for block in blocks:
        if block.startswith("check:"):
            text = block + "backends: [h:1]\n"
            pool = "".join(f"    {line}\n" for line in text.splitlines())
            assert loads(f"listeners: [{{bind: ':1', pool: p}}]\npools:\n  p:\n{pool}", "yaml", "page")


def test_check_prints_one_line_for_a_right_file():
    result = CliRunner().invoke(check, [str(ROOT / "examples" / "mysql.yaml")])
    assert result.exit_code == 0
    assert result.output.endswith(": ok: 1 listener, 1 pool, 3 backends, admin on 127.0.0.1:7259\n")


TLS = {"type": "tcp", "tls": True, "tls_ca": "/no/ca.pem"}


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"listener": {"bind": "unix:/x", "group": "no-such"}}, "listeners[0].group: missing here: there is no group no-such"),
        ({"admin": {"token_file": "/no/token"}}, "/no/token: warning: admin.token_file: missing here: there is no"),
        ({"pool": {"strategy": "no_such:Class"}}, "pools.db.strategy: missing here: strategy 'no_such:Class': cannot"),
        ({"check": {"type": "no_such:Class"}}, "pools.db.check: missing here: check no_such:Class: cannot import"),
        ({"check": TLS}, "pools.db.check.tls_ca: missing here: cannot use the certificates in /no/ca.pem: No such"),
        (
            {"check": {"type": "redis", "password_file": "/no/password"}},
            "pools.db.check.password_file: missing here: cannot read /no/password: there is no such file",
        ),
    ],
)  # fmt: skip
def test_check_warns_of_what_the_file_names_and_this_machine_lacks(tmp_path, settings, missing):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(config_with(**settings)))
    result = CliRunner().invoke(check, [str(path)])
    assert (result.exit_code, missing in result.output) == (0, True), result.output
    assert result.output.endswith(", 1 warning\n")
    assert CliRunner().invoke(check, ["--strict", str(path)]).exit_code == 2


def test_check_finds_classes_beside_the_file_and_leaves_credentials_to_the_service(tmp_path):
    (tmp_path / "beside_the_file.py").write_text(
        "from easyproxy.strategy.first import First\nfrom easyproxy.health.checks.tcp import TcpCheck\n"
    )
    path = tmp_path / "a.json"
    settings = config_with(
        pool={"strategy": "beside_the_file:First"}, check={"type": "beside_the_file:TcpCheck"}
    )
    settings["pools"]["cache"] = {
        "backends": ["10.0.0.1:6379"],
        "check": {"type": "redis", "password_file": "credential"},
    }
    settings["listeners"].append({"bind": "127.0.0.1:9528", "pool": "cache"})
    path.write_text(json.dumps(settings))
    result = CliRunner().invoke(check, ["--strict", str(path)])
    assert result.exit_code == 0, result.output


def test_check_prints_every_error_with_its_line_and_exits_with_2(tmp_path):
    """Behaviour 31."""
    path = tmp_path / "a.yaml"
    path.write_text(
        "listeners:\n  - {bind: ':1', pool: x, bakclog: 1}\npools:\n  y: {backends: [h:1], retries: x}\n"
    )
    result = CliRunner().invoke(check, [str(path)])
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        f"{path}:2:24: error: listeners[0].pool: there is no pool 'x'; there is 'y'",
        "     2 |   - {bind: ':1', pool: x, bakclog: 1}",
        "                                ^",
        f"{path}:2:27: error: listeners[0].bakclog: there is no setting 'bakclog' in a listener; did you mean backlog?",
        "     2 |   - {bind: ':1', pool: x, bakclog: 1}",
        "                                   ^",
        f"{path}:4:33: error: pools.y.retries: 'x' is not a whole number from 0 to 100",
        "     4 |   y: {backends: [h:1], retries: x}",
        "                                         ^",
        f"{path}: 3 errors; this file cannot be run",
    ]


def test_check_speaks_json(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("workers = 0\n")
    result = CliRunner().invoke(check, ["--json", str(path)])
    found = json.loads(result.output)
    assert (result.exit_code, found["ok"], found["warnings"]) == (2, False, [])
    assert {
        "line": 1,
        "column": 11,
        "path": "workers",
        "message": "0 is out of range; 1 to 256 is allowed",
    } in found["errors"]


def test_warnings_are_told_and_count_only_when_strict(tmp_path):
    path = tmp_path / "a.json"
    raw = config_with()
    raw["pools"]["spare"] = {"backends": ["h:1"]}
    path.write_text(json.dumps(raw))
    plain, strict = (CliRunner().invoke(check, [*args, str(path)]) for args in ([], ["--strict"]))
    assert (plain.exit_code, strict.exit_code) == (0, 2)
    assert "warning: pools.spare: no listener uses this pool" in plain.output
    assert "a.json: ok: " in plain.output
    assert "1 warning" in plain.output
    assert "a.json: 1 warning, and --strict allows none" in strict.output
    assert "ok: " not in strict.output


def test_check_quotes_no_line_with_a_secret_and_nothing_that_a_terminal_obeys(tmp_path):
    """Behaviour 37."""
    path = tmp_path / "a.json"
    path.write_text('{"admin": {"token": "short-secret"},\n"x": "\x9b31m"}')
    result = CliRunner().invoke(check, [str(path)])
    assert result.exit_code == 2
    assert "short-secret" not in result.output
    assert "\x9b" not in result.output


def test_schema_prints_the_shipped_schema():
    result = CliRunner().invoke(schema)
    assert result.output == json_schema.SHIPPED.read_text(encoding="utf-8")


def test_a_token_is_read_from_its_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    assert read_token(config_with(admin={"token_file": str(path)}, load=True).admin) == "0123456789abcdef"
    path.write_text("short\n")
    with pytest.raises(ConfigError, match="16 to 512 are allowed"):
        read_token(config_with(admin={"token_file": str(path)}, load=True).admin)
    path.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        read_token(config_with(admin={"token_file": str(path)}, load=True).admin)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("access_log: {path: FILE}", "3:20: access_log.path"),
        ("access_log: FILE", "3:13: access_log"),
        ("state_file: FILE", "3:13: state_file"),
    ],
)
def test_what_we_write_into_may_not_be_the_configuration_file(tmp_path, setting, place):
    (tmp_path / "link").symlink_to(tmp_path)
    path = tmp_path / "easyproxy.yaml"
    path.write_text(
        "listeners: [{bind: '127.0.0.1:0', pool: p}]\npools: {p: {backends: ['127.0.0.1:1']}}\n"
        + setting.replace("FILE", f"{tmp_path}/link/./easyproxy.yaml")
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:{place}: it is this configuration file; name another file"


@pytest.mark.parametrize(
    ("where", "other"),
    [
        ("state_file", {"state_file": "/run/x"}),
        ("admin.token_file", {"admin": {"token_file": "/run//x"}}),
        ("admin.bind", {"admin": {"bind": "unix:/run/x"}}),
        ("listeners[0].bind", {"listener": {"bind": "unix:/run/./x"}}),
        ("pools.db.backends[0]", {"backend": {"address": "unix:/run/x"}}),
        ("pools.db.check.tls_ca", {"check": {"type": "tcp", "tls": True, "tls_ca": "/run/x"}}),
        ("pools.db.check.password_file", {"check": {"type": "redis", "password_file": "/run/x"}}),
        ("worker_python", {"worker_python": "/run/x"}),
    ],
)
@pytest.mark.parametrize("log", ["/run/x", {"path": "/run/x"}])
def test_the_access_log_has_a_file_of_its_own(where, other, log):
    place = "access_log" if isinstance(log, str) else "access_log.path"
    told = f"{place}: '/run/x' is already taken by {where}; name another file"
    assert message_for(config_with(access_log=log, **other)) == told


def test_the_state_file_has_a_file_of_its_own():
    told = "state_file: '/run/x' is already taken by admin.token_file; name another file"
    assert message_for(config_with(state_file="/run/x", admin={"token_file": "/run/x"})) == told
    config_with(state_file="off", access_log="stdout", admin="off", load=True)
    config_with(state_file="/run/x", access_log="/run/y", listener={"bind": "unix:/run/z"}, load=True)
