"""The TCP check against real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest
from checks_support import LATE, look, probe, serving

from easyproxy.engine.seam import Outcome
from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.tcp import TcpCheck
from easyproxy.model import Address
from ports import free_port

pytestmark = pytest.mark.anyio


async def echo_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"+" + await reader.readline())
    await reader.read()


async def test_a_listening_backend_is_a_success():
    async with serving(echo_line) as address:
        seen = await look(address, TcpCheck())
        assert (seen.outcome, seen.detail) == (Outcome.SUCCESS, "connected")


async def test_a_closed_port_is_refused():
    seen = await look(Address("127.0.0.1", free_port()), TcpCheck())
    assert (seen.outcome, seen.detail) == (Outcome.REFUSED, "connection refused")


async def test_a_unix_socket_is_probed_and_a_missing_one_is_refused(tmp_path):
    async with serving(echo_line, tmp_path / "s") as address:
        assert (await look(address, TcpCheck(send="PING\n", expect="+PING"))).outcome is Outcome.SUCCESS
    gone = await look(Address(path=str(tmp_path / "none")), TcpCheck())
    assert (gone.outcome, gone.detail) == (Outcome.REFUSED, "there is no such unix socket")


async def test_ipv6_is_probed():
    server = await asyncio.start_server(lambda _, writer: writer.close(), "::1", 0)
    async with server:
        assert await probe(Address("::1", server.sockets[0].getsockname()[1]), TcpCheck()) == "connected"


async def test_a_backlog_that_is_full_is_a_timeout():
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):  # fill it: the kernel drops SYNs beyond
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        seen = await look(Address(*server.getsockname()), TcpCheck(), timeout_s=0.2)
    assert (seen.outcome, seen.detail) == (Outcome.TIMEOUT, "no answer within 0.2 s")


async def test_what_is_expected_is_found_though_it_comes_in_pieces_and_binary():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(2) == b"\x00\xff"
        for piece in (b"gr", b"ee", b"ti\xfe", b"ng"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with serving(talk) as address:
        detail = await probe(address, TcpCheck(send="\x00\xff", expect="eeti\xfen"))
        assert detail.startswith("greeti")


async def test_another_answer_is_a_failure_that_quotes_it_harmlessly():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"-ERR \x1b[2Jloading\r\n")

    async with serving(talk) as address:
        seen = await look(address, TcpCheck(send="PING\n", expect="+PONG"))
        assert seen.outcome is Outcome.FAILED
        assert seen.detail == "expected '+PONG', got '-ERR [2Jloading'"


async def test_a_wrong_answer_on_a_connection_that_stays_open_is_quoted_too():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-LOADING\r\n")
        await reader.read()

    async with serving(talk) as address:
        seen = await look(address, TcpCheck(expect="+PONG"), timeout_s=2)
        assert (seen.outcome, seen.detail) == (Outcome.FAILED, "expected '+PONG', got '-LOADING'")


async def test_silence_where_an_answer_is_expected_is_a_timeout():
    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(talk) as address:
        seen = await look(address, TcpCheck(expect="hello"), timeout_s=2)
        assert (seen.outcome, seen.detail) == (Outcome.TIMEOUT, "connected, but no answer came in time")


async def test_an_endless_answer_is_cut_off():
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with serving(talk) as address:
        with pytest.raises(ProbeFailed, match="not found in the first 64 KiB"):
            await probe(address, TcpCheck(expect="never"))
        assert await probe(address, TcpCheck(send="x")) == "connected"


async def test_a_reset_is_a_reset():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        hard = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)

    async with serving(talk) as address:
        assert (await look(address, TcpCheck(send="x\n", expect="y"))).outcome is Outcome.RESET


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-test\r\n" * 100])
async def test_a_content_probe_ends_with_fin_and_the_server_never_sees_a_reset(greeting):
    """Behaviour 26. A greeting that nobody reads would turn a plain close into RST."""
    ends: asyncio.Queue[bytes | ConnectionError] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(greeting)
            assert await reader.read() in {b"", b"x"}
            ends.put_nowait(b"")
            writer.write(b"bye\r\n")  # what arrives after a full close would be answered by RST
            await writer.drain()
            writer.write_eof()
            ends.put_nowait(await reader.read())
        except ConnectionError as error:
            ends.put_nowait(error)

    async with serving(talk) as address:
        for _ in range(20):
            await probe(address, TcpCheck(expect=greeting[:4].decode(), send="" if greeting else "x"))
            assert [await ends.get(), await ends.get()] == [b"", b""]


async def test_a_server_that_keeps_its_side_open_does_not_spoil_the_success():
    done = asyncio.Event()

    async def talk(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await done.wait()

    async with serving(talk) as address:
        seen = await look(address, TcpCheck(send="x"), timeout_s=2)
        done.set()
        assert seen.outcome is Outcome.SUCCESS


@pytest.mark.skipif(
    not hasattr(socket, "TCP_QUICKACK"), reason="only Linux can hold back the handshake's last ACK"
)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_plain_probe_never_reaches_the_server_s_program(host):
    """Behaviour 26."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        address = Address(host, server.getsockname()[1])
        for _ in range(100):
            assert await probe(address, TcpCheck()) == "connected"

        def accepted() -> int:
            sock, peer = server.accept()
            sock.close()
            return peer[1]

        # A connection made now is the first one that accept sees: the probes are not in the queue before it.
        with socket.create_connection((host, address.port)) as client:
            assert len([*iter(accepted, client.getsockname()[1])]) <= LATE


async def test_a_plain_probe_whose_last_ack_has_left_ends_with_fin(monkeypatch):
    """Behaviour 26: the way of every system but Linux, and of a Linux that was too busy."""
    monkeypatch.setattr("easyproxy.health.checks.knock._QUICKACK", None)
    ends: asyncio.Queue[bytes | ConnectionError] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"220 hello\r\n")
            ends.put_nowait(await reader.read())
            writer.write(b"221 bye\r\n")
            await writer.drain()
            writer.write_eof()
            ends.put_nowait(await reader.read())
        except ConnectionError as error:
            ends.put_nowait(error)

    async with serving(talk) as address:
        for _ in range(20):
            assert await probe(address, TcpCheck()) == "connected"
            assert [await ends.get(), await ends.get()] == [b"", b""]


def test_a_character_that_is_no_byte_is_refused():
    with pytest.raises(ValueError, match="send holds"):
        TcpCheck(send="→")
