"""The HTTP check against nginx, and against servers of the test's own where nginx would be too well behaved."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from checks_support import LATE, look, probe, serving, target

from easyproxy.engine.seam import Outcome
from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.http import BODY_BYTES, HttpCheck
from easyproxy.health.checks.tcp import TcpCheck
from easyproxy.model import Address
from ports import free_port

pytestmark = pytest.mark.anyio

CONFIG = """
daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log info;
events {{ worker_connections 64; }}
http {{
  access_log {root}/access.log;
  client_body_temp_path {root}/a; proxy_temp_path {root}/b; fastcgi_temp_path {root}/c;
  uwsgi_temp_path {root}/d; scgi_temp_path {root}/e;
  server {{
    listen 127.0.0.1:{plain}; listen unix:{root}/sock; listen 127.0.0.1:{tls} ssl;
    ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem;
    location = /up {{ return 200 "all is well"; }}
    location = /down {{ return 503 "maintenance"; }}
    location = /moved {{ return 302 /up; }}
    location = /host {{ return 200 "$host $http_x_probe $request_method"; }}
    location = /big {{ alias {root}/big; }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    root: Path
    plain: Address
    tls: Address

    def log(self) -> str:
        return (self.root / "error.log").read_text(errors="replace")


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    root = tmp_path_factory.mktemp("nginx")
    key = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        root / "key.pem",
        "-out",
        root / "cert.pem",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=probe.test", "-addext", "subjectAltName=DNS:probe.test,IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", *key, *names], check=True, capture_output=True)
    (root / "big").write_bytes(b"x" * (BODY_BYTES - 4) + b"end.")
    for path in (root, *root.parents):  # nginx's workers run as another user when the tests run as root
        if (
            path.owner() == Path(root).owner()
            and path != Path(path.anchor)
            and path.stat().st_mode & 0o005 != 0o005
        ):
            path.chmod(path.stat().st_mode | 0o005)
    plain, tls = free_port(), free_port()
    (root / "conf").write_text(CONFIG.format(root=root, plain=plain, tls=tls))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen([program, "-p", root, "-e", root / "error.log", "-c", root / "conf"])
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", plain)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        assert process.poll() is None, (root / "error.log").read_text()
        yield Nginx(root, Address("127.0.0.1", plain), Address("127.0.0.1", tls))
    finally:
        process.terminate()
        process.wait()


async def test_an_expected_status_is_a_success_and_its_words_are_the_detail(nginx):
    assert await probe(nginx.plain, HttpCheck(path="/up")) == "200 OK"
    assert await probe(nginx.plain, HttpCheck(path="/moved")) == "302 Found"
    assert (
        await probe(nginx.plain, HttpCheck(path="/down", expect_status="200, 500-599"))
        == "503 Service Unavailable"
    )
    assert (
        await probe(Address(path=str(nginx.root / "sock")), HttpCheck(path="/up", method="HEAD")) == "200 OK"
    )


async def test_another_status_is_a_failure_that_says_both(nginx):
    seen = await look(nginx.plain, HttpCheck(path="/down"))
    assert (seen.outcome, seen.detail) == (
        Outcome.FAILED,
        "answered 503 Service Unavailable, expected 200-399",
    )


async def test_the_body_must_hold_what_is_expected(nginx):
    assert await probe(nginx.plain, HttpCheck(path="/up", expect_body="is well")) == "200 OK"
    assert await probe(nginx.plain, HttpCheck(path="/big", expect_body="end.")) == "200 OK"
    with pytest.raises(ProbeFailed, match="answered 200 OK without 'is ill' in the body"):
        await probe(nginx.plain, HttpCheck(path="/up", expect_body="is ill"))


async def test_method_host_and_headers_reach_the_server(nginx):
    check = HttpCheck("POST", "/host", "shop.test", headers={"X-Probe": "7"}, expect_body="shop.test 7 POST")
    assert await probe(nginx.plain, check) == "200 OK"


async def test_tls_verifies_by_default_and_says_why_it_refuses(nginx):
    ca = str(nginx.root / "cert.pem")
    assert await probe(nginx.tls, HttpCheck(path="/up", tls=True, tls_ca=ca)) == "200 OK"
    assert (
        await probe(nginx.tls, HttpCheck(path="/up", tls=True, tls_ca=ca, host="probe.test:8443")) == "200 OK"
    )
    assert await probe(nginx.tls, HttpCheck(path="/up", tls=True, tls_verify=False)) == "200 OK"
    unknown = await look(nginx.tls, HttpCheck(path="/up", tls=True))
    assert (unknown.outcome, unknown.detail) == (
        Outcome.FAILED,
        "TLS certificate refused: self-signed certificate",
    )
    other = await look(nginx.tls, HttpCheck(path="/up", tls=True, tls_ca=ca, server_name="other.test"))
    assert "not valid for 'other.test'" in other.detail
    missing = await look(nginx.tls, HttpCheck(tls=True, tls_ca="/no/such/file"))
    assert "cannot use the certificates in /no/such/file" in missing.detail


async def test_the_name_of_the_configuration_is_what_tls_and_http_ask_for(nginx):
    check = HttpCheck(path="/host", expect_body="probe.test ", tls=True, tls_ca=str(nginx.root / "cert.pem"))
    assert await check.probe(replace(target(nginx.tls, check), host="probe.test")) == "200 OK"
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'other\.test'"):
        await check.probe(replace(target(nginx.tls, check), host="other.test"))


async def test_tls_to_a_server_that_speaks_none_is_a_failure(nginx):
    seen = await look(nginx.plain, HttpCheck(tls=True))
    assert (seen.outcome, seen.detail) == (Outcome.FAILED, "TLS failed: wrong version number")


async def test_the_tcp_check_speaks_tls_too(nginx):
    check = TcpCheck("GET /up HTTP/1.0\r\n\r\n", "all is well", tls=True, tls_ca=str(nginx.root / "cert.pem"))
    assert (await probe(nginx.tls, check)).startswith("HTTP/1.1 200 OK")


async def test_content_probes_leave_no_trace_in_the_error_log_even_at_level_info(nginx):
    """Behaviour 26."""
    tls = {"tls": True, "tls_ca": str(nginx.root / "cert.pem")}
    before = nginx.log()
    for _ in range(20):
        await probe(nginx.plain, HttpCheck(path="/up"))
        await probe(nginx.tls, HttpCheck(path="/up", **tls))
        await probe(nginx.plain, TcpCheck())
        await probe(nginx.tls, TcpCheck())
    new = [
        line for line in nginx.log().removeprefix(before).splitlines() if "keepalive connection" not in line
    ]
    late = [line for line in new if "closed connection" in line]
    assert len(late) <= LATE
    assert [line for line in new if line not in late] == []


async def test_a_server_that_does_not_speak_http_is_a_failure():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        await reader.read()

    async with serving(talk) as address:
        seen = await look(address, HttpCheck())
        assert seen.outcome is Outcome.FAILED
        assert seen.detail == "no HTTP: 'SSH-2.0-OpenSSH_9.2p1'"


@pytest.mark.parametrize(
    ("answer", "outcome", "words"),
    [
        (b"", Outcome.FAILED, "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", Outcome.FAILED, "no HTTP"),
        (b"HTTP/1.1 299 \x1b[2Jodd\r\nContent-Length: 0\r\n\r\n", Outcome.SUCCESS, "299"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Outcome.SUCCESS, "204 No Content"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", Outcome.SUCCESS, "200 OK"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, Outcome.FAILED, "no HTTP"),
    ],
)
async def test_odd_answers_are_judged_and_bounded(answer, outcome, words):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with serving(talk) as address:
        seen = await look(address, HttpCheck())
        assert seen.outcome is outcome
        assert words in seen.detail
        assert seen.detail.isprintable()


async def test_an_endless_body_is_cut_off_and_an_endless_wait_ends():
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(endless) as address:
        assert (await look(address, HttpCheck(), timeout_s=30)).detail == "200 OK"
    async with serving(silent) as address:
        seen = await look(address, HttpCheck(), timeout_s=2)
        assert (seen.outcome, seen.detail) == (Outcome.TIMEOUT, "connected, but no answer came in time")
