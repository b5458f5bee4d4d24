"""What tests of the shortcut do with it: traffic that takes it, and how to see that it does."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from easyproxy.model import Address
from system.kernel_engine import FRONT_PORT, Balancer, backend
from system.kernel_net import FRONT, Net, read_line

MEGABYTE = 1 << 20


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if holds():
                return
            await asyncio.sleep(0.02)


async def serve(balancer: Balancer, name: str = "a", family: int = 4) -> None:
    """Put the backend behind the listener, and wait until the shortcut is there."""
    balancer.serve(backend(name, family=family), bind=str(Address(FRONT[family], FRONT_PORT)))
    await balancer.engine.sessions()
    await until(lambda: balancer.shortcut.is_in_force)


def exchange(sock: socket.socket, size: int) -> None:
    """Send so much to a backend that echoes, and see that the same comes back."""
    data = random.Random(size).randbytes(MEGABYTE)
    pieces = size // len(data)

    def send() -> None:
        for _ in range(pieces):
            sock.sendall(data)

    sender = threading.Thread(target=send)
    sender.start()
    sent, got, left = hashlib.sha256(), hashlib.sha256(), pieces * len(data)
    for _ in range(pieces):
        sent.update(data)
    while left:
        piece = sock.recv(min(left, 1 << 18))
        assert piece, f"{left} bytes are missing"
        got.update(piece)
        left -= len(piece)
    sender.join()
    assert got.digest() == sent.digest()


def directions(balancer: Balancer) -> int:
    """How many directions of flows have an entry."""
    return sum(1 for lane in balancer.shortcut._lanes.values() for _ in lane._flows.items())


def targets(balancer: Balancer) -> set[str]:
    """To which addresses packets are sent that take it; of IPv4."""
    return {
        socket.inet_ntoa(entry[4:8])
        for family, lane in balancer.shortcut._lanes.items()
        if family == 4
        for _, entry in lane._flows.items()
    }


def lease_ends(balancer: Balancer) -> set[int]:
    """When what is known of directions has to be learned again."""
    return {
        struct.unpack_from("=Q", entry, lane._layout.lease)[0]
        for lane in balancer.shortcut._lanes.values()
        for _, entry in lane._flows.items()
    }


async def become_known(balancer: Balancer, sock: socket.socket) -> None:
    """Move bytes until the shortcut has both directions."""
    async with asyncio.timeout(30):
        while True:
            await asyncio.to_thread(exchange, sock, 4 * MEGABYTE)
            if directions(balancer) == 2:
                return


class Chatter:
    """Sends lines to a backend that echoes, and reads them back, until something ends it; in a thread."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.lines, self.problem = sock, 0, ""
        self.longest_pause_s = 0.0  # because the machine had other things to do
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def _talk(self) -> None:
        last = time.monotonic()

        def note() -> float:
            now = time.monotonic()
            self.longest_pause_s = max(self.longest_pause_s, now - last)
            return now

        try:
            while not self._is_over.is_set():
                self.sock.sendall(b"%d\n" % self.lines)
                assert read_line(self.sock) == str(self.lines)
                self.lines += 1
                last = note()
        except ConnectionResetError:
            note()
            self.problem = "reset"
        except (OSError, EOFError, AssertionError) as error:
            note()
            self.problem = repr(error)

    async def more(self, count: int = 200) -> None:
        """Wait for so many more lines."""
        enough = self.lines + count
        await until(lambda: self.lines >= enough or bool(self.problem))
        assert self.problem == ""

    async def over(self) -> str:
        """Wait for the end that is not ours."""
        await until(lambda: bool(self.problem))
        return self.problem

    def close(self) -> None:
        self._is_over.set()
        self._thread.join(30)
        self.sock.close()


@contextlib.contextmanager
def chatter(net: Net, family: int = 4) -> Iterator[Chatter]:
    sock = net.connect(FRONT[family], FRONT_PORT)
    read_line(sock)
    with contextlib.closing(Chatter(sock)) as made:
        yield made
