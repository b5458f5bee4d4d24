"""Listening sockets that somebody else opened: which listener takes them, and who closes what."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import anyio
import pytest

from easyproxy.engine.relay import RelayEngine
from easyproxy.engine.relay.inherited import Group, Inherited, LentSocket
from easyproxy.engine.seam import SessionEnd
from easyproxy.model import Address, Listener, Pool, Snapshot


def listening(host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server(
        (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, dualstack_ipv6=host == "::"
    )


@contextlib.contextmanager
def inherited(*groups: Group):
    each = Inherited(groups)
    try:
        yield each
    finally:
        each.close()


def taken(each: Inherited, bind: Address, name: str = "front") -> bool:
    sockets = each.take(Listener(name, bind, "p"))
    for sock in sockets or ():
        sock.close()
    return sockets is not None


@pytest.mark.parametrize(
    ("opened", "written", "is_taken"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "", True),
        ("0.0.0.0", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("::", "", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_a_socket_serves_the_listener_that_means_its_address(opened, written, is_taken):
    sock = listening(opened)
    with inherited(Group("", (sock,))) as each:
        assert taken(each, Address(written, sock.getsockname()[1])) is is_taken


def test_another_port_is_another_address():
    with inherited(Group("front", (listening(),))) as each:
        assert not taken(each, Address("127.0.0.1", 9))


def test_port_0_takes_only_a_socket_of_its_own_name():
    with inherited(Group("front", (listening(),))) as each:
        assert not taken(each, Address("127.0.0.1", 0), "back")
        assert taken(each, Address("127.0.0.1", 0), "front")


def test_what_was_given_is_taken_once_and_what_was_lent_again_and_again():
    given, lent = listening(), listening()
    with inherited(Group("", (given,)), Group("", (lent,), is_lent=True)) as each:
        places = [Address("127.0.0.1", sock.getsockname()[1]) for sock in (given, lent)]
        assert [taken(each, place) for place in (*places, *places)] == [True, True, False, True]


def test_what_no_listener_wants_is_named():
    sock = listening()
    port = sock.getsockname()[1]
    with inherited(Group("", (sock,))) as each:
        assert each.unused([Listener("front", Address("127.0.0.1", port), "p")]) == []
        assert each.unused([Listener("front", Address("127.0.0.1", 9), "p")]) == [f"127.0.0.1:{port}"]


@pytest.mark.anyio
@pytest.mark.parametrize("workers", [1, 2])
async def test_all_workers_serve_one_inherited_socket_and_its_lender_keeps_it(tmp_path: Path, workers: int):
    """Clients are told apart by their end: a pool without backends resets each (behaviour 12)."""
    path = str(tmp_path / "front.sock")
    with socket.socket(socket.AF_UNIX) as lender, listening() as tcp:
        lender.bind(path)
        lender.listen()
        ends: list[SessionEnd] = []
        lent = [Group("", (LentSocket(fileno=sock.dup().detach()),), is_lent=True) for sock in (lender, tcp)]
        engine = RelayEngine(workers=workers, inherited=Inherited(lent))
        await engine.start(lambda report: ends.append(report) if isinstance(report, SessionEnd) else None)
        try:
            listeners = (
                Listener("unix", Address(path=path), "p"),
                Listener("tcp", Address("127.0.0.1", tcp.getsockname()[1]), "p"),
            )
            engine.apply(Snapshot(1, listeners, (Pool("p"),)))
            assert engine.addresses() == {"unix": f"unix:{path}", "tcp": str(listeners[1].bind)}
            engine.apply(Snapshot(2, (), (Pool("p"),)))  # both listeners go ...
            engine.apply(Snapshot(3, listeners, (Pool("p"),)))  # ... and come back
            await _is_turned_away(socket.AF_UNIX, path)
            await _is_turned_away(socket.AF_INET, tcp.getsockname())
        finally:
            await engine.stop()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(
                path
            )  # had the file been removed, the lender would be left with a socket nobody finds


async def _is_turned_away(family, where) -> None:
    with socket.socket(family) as client:
        client.settimeout(20)

        def end() -> bytes:
            try:
                client.connect(where)  # the reset may be here before connect(2) has returned
                return client.recv(1)
            except ConnectionResetError:
                return b""

        assert await anyio.to_thread.run_sync(end) == b""
