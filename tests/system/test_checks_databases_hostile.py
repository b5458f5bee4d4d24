"""Servers that lie, talk without end, or fall silent: the postgresql and redis checks stay within their bounds."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Awaitable, Callable

import pytest
from checks_support import look, serving, target
from pydantic import SecretStr

from easyproxy.engine.seam import Outcome
from easyproxy.health.checks import Check
from easyproxy.health.checks.postgresql import PostgresqlCheck
from easyproxy.health.checks.redis import RedisCheck

pytestmark = pytest.mark.anyio
PATIENCE_S = 10.0
WORD = "hunter2-hunter2"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

OPEN = PostgresqlCheck()
LOGIN = PostgresqlCheck(user="monitor", password=SecretStr(WORD))
TLS = PostgresqlCheck(tls=True)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def wants(number: int, data: bytes = b"") -> bytes:
    return message(b"R", struct.pack("!i", number) + data)


SASL = wants(10, b"SCRAM-SHA-256\0\0")
LET_IN = wants(0) + message(b"S", b"server_version\x0015.3\0") + message(b"Z", b"I")


def saying(*answers: bytes, then: bytes = b"") -> Callable[..., Awaitable[None]]:
    """Answer one piece after another of what the client sends, then say ``then`` for as long as anybody listens."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            if not await reader.read(64 * 1024):
                return
            writer.write(answer)
            await writer.drain()
        while then:
            writer.write(then)
            await writer.drain()
        await reader.read()

    return talk


async def seen(talk: Callable[..., Awaitable[None]], check: Check) -> tuple[Outcome, str]:
    async with serving(talk) as address:
        observation = await look(address, check, PATIENCE_S)
    assert WORD not in observation.detail
    assert len(observation.detail) <= 200
    assert observation.detail.isprintable()
    return observation.outcome, observation.detail


@pytest.mark.parametrize(
    ("check", "answers", "words"),
    [
        (
            OPEN,
            [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
            "does not speak PostgreSQL's protocol: 'HTTP/1.1 400 Bad Request'",
        ),
        (OPEN, [message(b"Z", b"I")], "does not speak PostgreSQL's protocol"),
        (OPEN, [b"R\0\0\0\2"], "does not speak PostgreSQL's protocol"),
        (OPEN, [b"R\x7f\xff\xff\xff"], "sent more than the 64 KiB that a probe reads"),
        (OPEN, [b"Ecould not fork new process for connection: no memory\n\0"], "could not fork new process"),
        (OPEN, [message(b"E", b"SFATAL\0C57P03\0Mstart\x1b[31ming\0\0")], "start [31ming (57P03)"),
        (OPEN, [message(b"E", b"M" + b"x" * 20_000 + b"\0\0")], "xxx"),
        (OPEN, [message(b"E", b"")], "refuses without a word"),
        (TLS, [b"N"], "does not offer TLS"),
        (TLS, [b"S" + wants(0)], "sent something behind its answer about TLS"),
        (TLS, [b"H"], "does not speak PostgreSQL's protocol"),
        (LOGIN, [wants(5, b"salt"), wants(5, b"salt")], "goes on asking when the login is done"),
        (LOGIN, [SASL, wants(11, b"r=else,s=c2FsdA==,i=4096")], "its nonce does not continue ours"),
        (LOGIN, [SASL, wants(12, b"v=")], "it does not go on as it should"),
        (LOGIN, [LET_IN, message(b"Z", b"I")], "answered a question with nothing"),
        (
            LOGIN,
            [LET_IN, message(b"D", b"\0\1\0\0\0\4t") + message(b"Z", b"I")],
            "does not keep to PostgreSQL's protocol",
        ),
        (LOGIN, [LET_IN, message(b"D", b"\0\1\0\0\0\1t") + message(b"Z", b"I")], "answered something else"),
        (
            LOGIN,
            [LET_IN, message(b"E", b"SERROR\0CXX000\0Mbroken\0\0") + message(b"Z", b"I")],
            "broken (XX000)",
        ),
    ],
)
async def test_a_postgresql_that_does_not_keep_to_the_protocol_has_failed(check, answers, words):
    outcome, detail = await seen(saying(*answers), check)
    assert outcome is Outcome.FAILED
    assert words in detail


@pytest.mark.parametrize(
    ("check", "answers", "then"),
    [
        (OPEN, [b""], message(b"N", b"Mnotice\0\0" * 100)),
        (LOGIN, [LET_IN], message(b"D", b"\0\1\0\0\0\1t") * 100),
        (LOGIN, [LET_IN], message(b"S", b"name\0value\0") * 100),
    ],
)
async def test_a_postgresql_that_talks_without_end_has_failed(check, answers, then):
    outcome, detail = await seen(saying(*answers, then=then), check)
    assert (outcome, detail) == (Outcome.FAILED, "sent more than the 64 KiB that a probe reads")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (wants(7), "wants a login by GSS"),
        (wants(99), "wants a login by method 99"),
        (wants(10, b"OTHER\0\0"), "wants a login by OTHER"),
        (wants(3), "wants to read the password, which needs tls: true"),
    ],
)
async def test_a_login_that_we_do_not_do_is_said_and_takes_nobody_away(method, words):
    outcome, detail = await seen(saying(method), LOGIN)
    assert outcome is Outcome.SUCCESS
    assert words in detail


def scram(iterations: int, signature: bytes) -> Callable[..., Awaitable[None]]:
    """Go along with SCRAM, without knowing the password."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(SASL)
        nonce = (await reader.read(1024)).rpartition(b"r=")[2]
        salt = base64.b64encode(b"salt")
        writer.write(wants(11, b"r=" + nonce + b"more,s=" + salt + b",i=%d" % iterations))
        await reader.read(1024)
        writer.write(wants(12, b"v=" + signature) + LET_IN)
        await reader.read()

    return talk


async def test_a_server_cannot_keep_us_busy_with_hashing():
    outcome, detail = await seen(scram(2_000_000_000, b""), LOGIN)
    assert outcome is Outcome.FAILED
    assert "it names no salt or no number of iterations" in detail
    outcome, detail = await seen(scram(2_000_000, b""), LOGIN)
    assert "it wants the password hashed 2000000 times" in detail


@pytest.mark.parametrize("iterations", [1, 4096, 50_000])
async def test_a_server_that_does_not_know_the_password_is_not_believed(iterations):
    outcome, detail = await seen(scram(iterations, base64.b64encode(bytes(32))), LOGIN)
    assert outcome is Outcome.FAILED
    assert "it does not know the password itself" in detail


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak Redis's protocol: 'HTTP/1.1 400 Bad Request'"),
        (b"+PONG\r\n$999999999\r\n", "sent more than the 256 KiB that a probe reads"),
        (b"+PONG\r\n$-2\r\n", "does not speak Redis's protocol"),
        (b"x" * 2000, "sent a line of more than 1024 bytes"),
        (b"-DENIED Redis is running in protected mode\r\n", "DENIED"),
        (b"-LOADING Redis is\x1b[31m loading\r\n" * 4, "LOADING Redis is [31m loading"),
        (b"-BUSY a script\r\n" * 4, "BUSY a script"),
        (b"+PONG\r\n" + b"-ERR unknown command\r\n" * 3, "ERR unknown command"),
    ],
)
async def test_a_redis_that_does_not_keep_to_the_protocol_has_failed(answer, words):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64 * 1024)
        writer.write(answer)
        await writer.drain()

    outcome, detail = await seen(talk, RedisCheck())
    assert outcome is Outcome.FAILED
    assert words in detail


async def test_a_redis_that_talks_without_end_has_failed():
    outcome, detail = await seen(saying(b"$200000\r\n", then=b"x" * 10_000), RedisCheck())
    assert outcome is Outcome.FAILED
    assert "does not speak" in detail or "sent" in detail


async def test_what_a_redis_says_of_itself_is_cut_to_one_harmless_line():
    info = b"redis_version:" + b"\x1b" * 500 + b"\r\nrole:" + b"m" * 5000 + b"\r\n"
    body = b"$%d\r\n%s\r\n" % (len(info), info)
    outcome, detail = await seen(saying(b"+PONG\r\n" + body * 3), RedisCheck())
    assert outcome is Outcome.SUCCESS
    assert "role unknown: it calls itself mmm" in detail


@pytest.mark.parametrize(
    ("check", "answers"),
    [
        (OPEN, []),
        (OPEN, [wants(0)]),
        (LOGIN, [SASL]),
        (LOGIN, [wants(5, b"salt")]),
        (LOGIN, [LET_IN]),
        (LOGIN, [LET_IN, message(b"D", b"\0\1")]),
        (TLS, []),
        (TLS, [b"S"]),
        (RedisCheck(), []),
        (RedisCheck(password=SecretStr(WORD)), [b"+OK\r\n$5\r\n"]),
    ],
)
async def test_a_probe_that_is_cancelled_at_any_point_closes_its_connection(check, answers):
    silent, ended = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.read(64 * 1024)
            writer.write(answer)
        if answers == [] or check is TLS:
            await reader.read(64 * 1024)
        silent.set()
        try:
            while await reader.read(64 * 1024):
                pass
        except ConnectionError:
            pass
        ended.set()

    async with serving(talk) as address:
        probe = asyncio.create_task(check.probe(target(address, check, 60)))
        await silent.wait()
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        async with asyncio.timeout(30):
            await ended.wait()
