from __future__ import annotations

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from click.testing import CliRunner

from easyproxy.cli import main
from easyproxy.model import Address


def run(*arguments, **options):
    return CliRunner().invoke(main, ["status", *map(str, arguments)], catch_exceptions=False, **options)


def change(scene, *backends):
    """Replace fields of the pool's backends, in their order."""
    pool = scene.now.pools[0]
    changed = [replace(one, **fields) for one, fields in zip(pool.backends, backends, strict=True)]
    scene.now = replace(scene.now, pools=(replace(pool, backends=tuple(changed)),))


@contextlib.contextmanager
def answering(answer):
    """Stand in for another program: give every client the same answer, until the end."""
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor(1) as pool:

        def serve_all():
            with contextlib.suppress(OSError):
                while True:
                    client, _ = other.accept()
                    with client:
                        client.sendall(answer)
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(65536):  # closing over unread bytes would be a reset
                            pass

        pool.submit(serve_all)
        yield "127.0.0.1:{1}".format(*other.getsockname())
        other.shutdown(socket.SHUT_RDWR)


DOWN = {"state": "down", "reason": "connection refused"}


def test_it_tells_pools_listeners_clients_and_sessions(serve):
    result = run("--admin", serve())
    assert result.exit_code == 0
    for words in (
        "✓ All 2 backends ready",
        "Pool web  2 of 2 ready, round_robin, check: tcp every 2 s",
        "relay engine, 2 workers, up 2 h 01 min, version 1.2.3",
        "127.0.0.1:9527",
        "5/100",
        "Clients  2",
        "Sessions  12",
        "0-9",
        "and 2 more",
    ):
        assert words in result.output
    assert "0-11" not in result.output


def test_a_narrow_terminal_gets_fewer_columns_and_no_line_that_is_broken(serve, scene):
    change(scene, DOWN, {})
    wide, narrow = (
        run("--admin", serve(), env={"COLUMNS": columns}).output.splitlines() for columns in ("200", "80")
    )
    assert any("FROM/TO CLIENTS" in line for line in wide)
    assert max(map(len, wide)) > 80
    assert max(map(len, narrow)) <= 80
    heading = next(line for line in narrow if "STATE" in line)
    assert heading.split()[-1] == "WHY"
    assert any(line.endswith("connection refused") for line in narrow)


@pytest.mark.parametrize("name", ["front", "127.0.0.1:9527"])
def test_a_listener_is_shown_by_the_name_that_sessions_and_options_call_it(serve, scene, name):
    [listener] = scene.now.listeners
    scene.now = replace(scene.now, listeners=(replace(listener, name=name),))
    lines = run("--admin", serve()).output.partition("Listeners\n")[2].splitlines()
    shown = [line.split()[:2] for line in lines[:2]]
    if name == listener.address:
        assert shown == [["ADDRESS", "POOL"], [listener.address, "web"]]
    else:
        assert shown == [["LISTENER", "ADDRESS"], [name, listener.address]]


def test_all_lists_every_session(serve):
    assert "0-11" in run("--all", "--admin", serve()).output


def test_a_backend_is_shown_with_since_when_and_why_and_its_last_error(serve, scene):
    change(
        scene,
        DOWN | {"last_error": "connect: connection refused", "last_error_at": scene.now.now - 200},
        {},
    )
    result = run("--admin", serve())
    row = next(line for line in result.output.splitlines() if "✗ down" in line)
    assert "1 min" in row
    assert row.endswith("connection refused")
    assert "last error of a, 3 min ago: connect: connection refused" in result.output


@pytest.mark.parametrize(("backends", "code"), [(({}, DOWN), 0), ((DOWN, DOWN), 1)])
def test_the_exit_status_says_whether_every_pool_is_served(serve, scene, backends, code):
    change(scene, *backends)
    address = serve()
    assert run("--admin", address).exit_code == code
    assert run("--admin", address, "--json").exit_code == code


def test_json_is_one_document_with_everything(serve):
    document = json.loads(run("--json", "--admin", serve()).output)
    assert document["headline"]["level"] == "ok"
    assert len(document["sessions"]) == 12
    assert document["clients"][0]["address"] == "10.1.0.1"
    assert [backend["name"] for backend in document["pools"][0]["backends"]] == ["a", "b"]


def test_a_url_and_a_unix_socket_are_admin_addresses_too(serve, tmp_path):
    assert run("--admin", f"http://{serve()}/").exit_code == 0
    assert run("--admin", serve(Address(path=str(tmp_path / "s")))).exit_code == 0


def test_when_nobody_answers_it_says_where_and_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    result = run("--admin", address)
    assert result.exit_code == 3
    assert f"no balancer answers at {address} (Connection refused)" in result.stderr
    assert "easyproxy run" in result.stderr
    assert run("--admin", "unix:/nonexistent/admin.sock").exit_code == 3


def test_another_kind_of_server_is_not_taken_for_ours():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "127.0.0.1:{1}".format(*other.getsockname())

        def answer():
            client, _ = other.accept()
            with client:
                client.recv(4096)
                client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<h1>Hello</h1>")

        thread = threading.Thread(target=answer)
        thread.start()
        result = run("--admin", address)
        thread.join()
    assert result.exit_code == 3
    assert "is not EasyProxy" in result.stderr


@pytest.mark.parametrize("body", ["{}", "[]", "[1]", "null", "1", "[" * 50_000])
@pytest.mark.parametrize(
    "command",
    [["status"], ["drain", "web/a"], ["reload"], ["upgrade"], ["close", "--client", "192.0.2.1"]],
    ids=lambda command: command[0],
)
def test_json_of_another_program_is_told_in_words(body, command):
    with answering(b"HTTP/1.0 200 OK\r\n\r\n" + body.encode()) as address:
        result = CliRunner().invoke(main, [*command, "--admin", address], catch_exceptions=False)
    assert result.exit_code == 3
    assert "is not EasyProxy" in result.stderr


@pytest.mark.parametrize("nowhere", ["..:1", "a" * 300 + ":80"])
def test_a_name_that_no_machine_can_have_does_not_answer(nowhere):
    result = run("--admin", nowhere)
    assert result.exit_code == 3
    assert "no balancer answers at" in result.stderr


@pytest.mark.parametrize("wrong", ["nonsense", "https://127.0.0.1:1", "unix:relative"])
def test_a_wrong_address_is_a_usage_error(wrong):
    result = run("--admin", wrong)
    assert result.exit_code == 2
    assert wrong in result.stderr


def test_a_token_is_read_from_a_file_and_asked_for_by_name(serve, tmp_path):
    address = serve(token="t" * 20)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("t" * 20 + "\n")
    wrong.write_text("w" * 20)
    assert run("--admin", address, "--token-file", right).exit_code == 0
    missing = run("--admin", address)
    assert missing.exit_code == 2
    assert "--token-file" in missing.stderr
    refused = run("--admin", address, "--token-file", wrong)
    assert refused.exit_code == 2
    assert "does not accept this token" in refused.stderr
    assert "w" * 20 not in refused.stderr


@pytest.mark.parametrize("text", ["", "s3cret-one\ns3cret-two\n", "s3cret-ж", "s3cret one"])
def test_what_cannot_be_a_token_is_refused_without_showing_it(serve, tmp_path, text):
    file = tmp_path / "token"
    file.write_text(text, "utf-8")
    result = run("--admin", serve(token="t" * 20), "--token-file", file)
    assert result.exit_code == 2
    assert f"the token file {file} does not hold a token" in result.stderr
    assert "s3cret" not in result.output


def test_the_configuration_names_the_address_and_the_token_file(serve, tmp_path):
    token = tmp_path / "token"
    token.write_text("t" * 20)
    address = serve(token="t" * 20)
    file = tmp_path / "easyproxy.yaml"
    file.write_text(
        "listeners: [{bind: '127.0.0.1:9527', pool: p}]\n"
        "pools: {p: {backends: ['127.0.0.1:1']}}\n"
        f"admin: {{bind: '{address}', token_file: '{token}'}}\n"
    )
    assert run("--config", file).exit_code == 0


def test_names_cannot_command_the_terminal(serve, scene):
    change(scene, {"name": "\x1b]0;owned\x07", "reason": "two\nlines"}, {})
    output = run("--admin", serve(), color=True).output
    assert "\x1b]" not in output
    assert "two\nlines" not in output


def test_colours_go_only_to_a_terminal_that_wants_them(serve):
    address = serve()
    assert "\x1b[" in run("--admin", address, color=True, env={"TERM": "xterm", "NO_COLOR": None}).output
    assert "\x1b[" not in run("--admin", address).output
    assert "\x1b[" not in run("--admin", address, color=True, env={"NO_COLOR": "1"}).output


def test_a_terminal_without_unicode_gets_plain_symbols(serve):
    result = CliRunner(charset="latin-1").invoke(main, ["status", "--admin", str(serve())])
    assert "+ All 2 backends ready" in result.output


def test_what_refuses_cannot_drive_the_terminal():
    with answering(b'HTTP/1.0 409 No\r\n\r\n{"error": "no\\u001b[31m\\rred"}') as address:
        result = run("--admin", address, color=True)
    assert result.exit_code == 1
    assert "\x1b" not in result.stderr
    assert "\r" not in result.stderr


def test_an_argument_that_is_no_utf8_is_answered_like_any_other(serve):
    result = CliRunner().invoke(
        main, ["explain", "\udcff", "--kind", "client", "--admin", serve()], catch_exceptions=False
    )
    assert result.exit_code == 1
    assert "is not an address of a client" in result.stderr


def test_top_draws_on_nothing_but_a_terminal(serve):
    result = CliRunner().invoke(main, ["top", "--admin", serve()], catch_exceptions=False)
    assert result.exit_code == 2
    assert "easyproxy status" in result.stderr


def test_it_names_the_engines_where_one_is_not_the_relay_engine(scene, serve):
    address = serve()
    assert "ENGINE" not in run("--admin", address).output
    listener = scene.now.listeners[0]
    scene.now = replace(
        scene.now,
        listeners=(listener, replace(listener, name="fast", engine="kernel")),
        engine="relay+kernel",
    )
    output = run("--admin", address).output
    assert "TURNED AWAY  ENGINE" in output
    assert "kernel\n" in output
    assert "relay+kernel engine" in output
