from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
import stat
from pathlib import Path

import pytest
from admin_client import ask, connect
from admin_scene import Scene

from easyproxy.admin import server as server_module
from easyproxy.admin.server import AdminServer
from easyproxy.errors import EasyProxyError
from easyproxy.model import Address

pytestmark = pytest.mark.anyio
LOOPBACK = Address("127.0.0.1", 0)


async def test_the_port_that_the_system_chose_is_known_after_the_start():
    async with AdminServer(Scene(), LOOPBACK) as server:
        assert server.address.port > 0
        assert (await ask(server.address, "/healthz")).body == "alive\n"


async def test_it_serves_ipv6():
    async with AdminServer(Scene(), Address("::1", 0)) as server:
        assert (await ask(server.address, "/healthz")).status == 200


async def test_every_address_is_those_of_ipv4_where_the_kernel_has_no_ipv6(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    async with AdminServer(Scene(), Address("", 0), token="x" * 20) as server:
        assert (await ask(Address("127.0.0.1", server.address.port), "/healthz")).status == 200


async def test_an_address_in_use_is_said_with_what_to_do():
    async with AdminServer(Scene(), LOOPBACK) as first:
        with pytest.raises(EasyProxyError, match=rf"{first.address}: Address already in use; choose another"):
            await AdminServer(Scene(), first.address).start()
        assert (await ask(first.address, "/healthz")).status == 200


async def test_a_name_that_does_not_resolve_is_said():
    with pytest.raises(EasyProxyError, match=r"no-such-host\.invalid"):
        await AdminServer(Scene(), Address("no-such-host.invalid", 1), token="x" * 20).start()


async def test_signals_stay_with_their_owner():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with AdminServer(Scene(), LOOPBACK):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_after_the_stop_nobody_listens_and_the_address_is_free():
    server = AdminServer(Scene(), LOOPBACK)
    await server.start()
    reader, writer = await connect(server.address)
    await server.stop()
    await server.stop()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await connect(server.address)
    async with AdminServer(Scene(), server.address):
        pass


async def test_a_unix_socket_is_for_its_owner_only_and_is_removed(tmp_path):
    """Behaviour 36."""
    path = tmp_path / "admin.sock"
    async with AdminServer(Scene(), Address(path=str(path))) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await ask(server.address, "/healthz")).status == 200
    assert not path.exists()


async def test_a_unix_socket_that_a_killed_process_left_behind_is_replaced(tmp_path):
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with AdminServer(Scene(), Address(path=str(path))) as server:
        assert (await ask(server.address, "/healthz")).status == 200


async def test_a_unix_socket_that_answers_is_not_replaced(tmp_path):
    address = Address(path=str(tmp_path / "admin.sock"))
    async with AdminServer(Scene(), address):
        with pytest.raises(EasyProxyError, match="Address already in use"):
            await AdminServer(Scene(), address).start()
        assert (await ask(address, "/healthz")).status == 200


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(EasyProxyError, match="Address already in use"):
        await AdminServer(Scene(), Address(path=str(path))).start()
    assert path.read_text() == "data"


async def test_another_socket_in_our_place_is_not_removed(tmp_path):
    path = tmp_path / "admin.sock"
    server = AdminServer(Scene(), Address(path=str(path)))
    await server.start()
    await asyncio.to_thread(_replace_with_socket, path)
    await server.stop()
    assert path.exists()


def _replace_with_socket(path: Path) -> None:
    keep = path.with_suffix(".old")
    path.rename(keep)  # keeps the inode number taken, so that the new socket gets another one
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))


async def test_more_connections_than_the_limit_are_closed_at_once(monkeypatch):
    """Behaviour 39."""
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 3)
    async with AdminServer(Scene(), LOOPBACK) as server:
        idle = [await connect(server.address) for _ in range(3)]
        reader, writer = await connect(server.address)
        assert await _read_to_the_end(reader) == b""
        for _, one in [*idle, (reader, writer)]:
            one.close()
        for _, one in idle:
            await one.wait_closed()


async def test_when_descriptors_run_out_clients_wait_and_the_log_is_not_flooded():
    """Behaviour 39."""
    loop = asyncio.get_running_loop()
    handler, told, is_told = loop.get_exception_handler(), [], asyncio.Event()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def tell(_loop, context) -> None:
        told.append(context["exception"])
        is_told.set()

    async with AdminServer(Scene(), LOOPBACK) as server:
        clients = [socket.socket() for _ in range(10)]
        os.close(lowest_free := os.dup(0))
        loop.set_exception_handler(tell)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            for client in clients:
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", server.address.port))
            async with asyncio.timeout(10):
                await is_told.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            loop.set_exception_handler(handler)
        assert [error.errno for error in told] == [errno.EMFILE]
        for client in clients:
            await loop.sock_sendall(client, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await loop.sock_recv(client, 100)).startswith(b"HTTP/1.1 200 OK")
            client.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET"]
)
async def test_a_client_that_does_not_finish_its_request_is_closed(monkeypatch, sent):
    """Behaviour 39: before the first request, in its middle, and in the middle of a later one."""
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.2)
    async with AdminServer(Scene(), LOOPBACK) as server:
        reader, writer = await connect(server.address)
        writer.write(sent)
        received = await _read_to_the_end(reader)
        assert received.count(b"HTTP/1.1 200 OK") == sent.count(b"\r\n\r\n")
        writer.close()


async def test_a_client_that_does_not_take_its_answer_is_closed(monkeypatch):
    """Behaviour 39."""
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.2)
    scene = Scene()
    scene.live_sessions *= 20_000
    async with AdminServer(scene, LOOPBACK) as server:
        reader, writer = await connect(server.address)
        writer.transport.pause_reading()
        lost = asyncio.Event()
        lose = server_module.H11Protocol.connection_lost
        monkeypatch.setattr(
            server_module.H11Protocol, "connection_lost", lambda *args: (lose(*args), lost.set())
        )
        writer.write(b"GET /api/sessions?limit=240000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await lost.wait()
        writer.close()
        reader.feed_eof()


async def test_who_waits_for_a_change_when_the_server_ends_is_told_so(caplog):
    scene, begun = Scene(), asyncio.Event()

    async def never(*_args, **_options):
        begun.set()
        await asyncio.Event().wait()

    scene.override = never
    async with AdminServer(scene, LOOPBACK) as server:
        asked = asyncio.create_task(
            ask(
                server.address,
                "/api/drain",
                method="POST",
                body=b'{"backend": "web/a"}',
                content_type="application/json",
            )
        )
        await begun.wait()
    answer = await asked
    assert answer.status == 503
    assert "before it was done" in answer.json()["error"]
    assert not any(record.exc_info for record in caplog.records)
    assert not [record for record in caplog.records if "Cancel" in record.getMessage()]


async def _read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := await reader.read(4096):
            received += data
    return received
