"""What an attack on the engine once found, each as the claim that it broke."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from _socket import socket as raw_socket

import pytest
from relay_rig import backend, relay, until
from relay_steps import stepping

from easyproxy.engine.relay import close
from easyproxy.engine.relay.life import State
from easyproxy.errors import EngineError
from easyproxy.model import Address, Backend, Pool

_PORTABLE = pytest.mark.parametrize("portable", [False, True], ids=["epoll", "portable"])


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@_PORTABLE
def test_a_backend_that_greets_and_resets_before_anybody_looks_is_heard_and_its_reset_passed_on(portable):
    """Behaviours 1 and 8: SO_ERROR takes the error, so the end that read(2) shows next is no clean one."""
    with (
        stepping(portable=portable) as steps,
        socket.create_connection(steps.front.getsockname(), 20) as client,
    ):
        steps.until(lambda: steps.core.sessions)
        [session] = steps.core.sessions.values()
        assert session.dial is not None, "the backend's answer is not looked at yet"
        accepted, _ = steps.server.accept()
        accepted.sendall(b"hello")
        _reset(accepted)
        steps.until(lambda: session.state is State.CLOSED)
        steps.after(1.0)
        assert client.recv(100) == b"hello"
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        assert steps.ends == ["backend_reset"]


def test_a_place_at_a_backend_is_free_when_its_connection_is_closed_and_not_before():
    """Behaviour 19: what was written is still under way, so the connection lingers, and with it its place."""
    with stepping() as steps:
        _client, _backend, session = steps.connect()
        held = session.backend
        cells = steps.core.cells
        session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with contextlib.suppress(BlockingIOError):
            while session.socket.send(b"x" * 65536):  # the backend reads nothing: some stays unacknowledged
                pass
        steps.obey({"op": "close", "request": 1, "where": _anybody(), "reason": "operator"})
        while steps.worker._jobs:
            steps.worker._work()
        assert session.state is State.CLOSED
        steps.step()
        assert len(steps.core.lingering) == 1
        assert cells[held.cell] == 1
        steps.after(1.0)
        assert not steps.core.lingering
        assert cells[held.cell] == 0


def _anybody() -> dict[str, str]:
    return {"backend": "", "client": "", "listener": "", "id": ""}


@pytest.mark.anyio
async def test_stopping_while_clients_wait_for_a_place_leaves_nobody_hanging():
    async with relay() as rig:
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server, max_sessions=1),), queue_timeout_s=30))
        clients = [await rig.client() for _ in range(8)]
        await rig.taken(server)
        await until(lambda: rig.engine.statistics().queued["p"] == 7)
        server.close()  # whoever gets the place now is refused, and lets the next one try
        await rig.engine.stop()
        for client in clients:
            with pytest.raises(ConnectionResetError):
                await rig.read(client)


@pytest.mark.anyio
async def test_a_backend_behind_an_interface_that_is_not_there_is_refused_by_control_and_not_met_by_a_worker():
    """Behaviour 31."""
    async with relay() as rig:
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server),)))
        with pytest.raises(EngineError, match="there is no such interface"):
            rig.apply(Pool("p", backends=(Backend("p/b", "b", Address("fe80::1%nosuch0", 80)),)))
        await rig.client()
        await rig.taken(server)
        assert rig.engine.statistics().worker_restarts == 0


class ShutSocket(raw_socket):
    """A connection as macOS has it once it is reset: no option can be set any more (setsockopt(2) there, EINVAL)."""

    def setsockopt(self, *_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def test_a_connection_whose_options_cannot_be_set_is_no_mistake_of_ours():
    with stepping(idle_timeout_s=5, connect_timeout_s=1) as steps:
        client, backend, session = steps.connect()
        old = session.socket
        new = ShutSocket(old.family, old.type, 0, old.detach())
        session.socket = session.outbound.target = session.inbound.source = new
        for word in (b"one", b"two", b"three"):
            client.sendall(word)
            steps.settle()
            assert backend.recv(10) == word
        steps.after(3)
        assert session.armed
        steps.after(5)
        assert steps.ends == ["idle_timeout"]


def test_bytes_of_which_the_system_cannot_say_whether_they_are_sent_get_their_time():
    with socket.create_server(("127.0.0.1", 0)) as listening:  # the kernel has no answer for one (tcp(7))
        with pytest.raises(OSError, match="Invalid argument"):
            fcntl.ioctl(listening, termios.TIOCOUTQ, bytes(4))
        assert not close._is_sent(listening.fileno())
