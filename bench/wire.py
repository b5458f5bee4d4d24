"""Tiny network programs that the bench starts inside a namespace: ``python -m bench.wire ping|hold|idle ...``.

ping HOST PORT SECONDS   wait until a Redis behind HOST:PORT answers a PING
hold HOST PORT           accept for ever; answer whatever a client sends with the same bytes, and keep it connected
idle HOST PORT COUNT     open COUNT sessions, exchange 64 bytes on each, print "open COUNT", end when stdin ends
"""

from __future__ import annotations

import selectors
import socket
import sys
import time

_GREETING = b"." * 64
_AT_ONCE = 128  # connects under way at a time: below every peer's accept backlog


def ping(host: str, port: int, seconds: float) -> None:
    """Wait until a Redis answers through HOST:PORT; exit with an error after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(64).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"nothing answers on {host}:{port}")


def hold(host: str, port: int) -> None:
    """Accept, echo and keep."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server((host, port), backlog=4096)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            ready = key.fileobj
            if ready is listener:
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                selector.register(accepted, selectors.EVENT_READ)
            elif isinstance(ready, socket.socket):
                try:
                    data = ready.recv(4096)
                    ready.send(data)
                except OSError:
                    data = b""
                if not data:
                    selector.unregister(ready)
                    ready.close()


def idle(host: str, port: int, count: int) -> None:
    """Open sessions, use each once, and hold them until stdin ends."""
    sessions: list[socket.socket] = []
    while len(sessions) < count:
        group = [
            socket.create_connection((host, port), timeout=10)
            for _ in range(min(_AT_ONCE, count - len(sessions)))
        ]
        for session in group:
            session.sendall(_GREETING)
        for session in group:
            received = 0
            while received < len(_GREETING):
                data = session.recv(len(_GREETING))
                if not data:
                    raise SystemExit(f"{host}:{port} closed a session after {len(sessions)}")
                received += len(data)
        sessions += group
    print(f"open {len(sessions)}", flush=True)
    sys.stdin.read()


def main(name: str, host: str, port: str, *rest: str) -> None:
    """Run one of the programs."""
    if name == "ping":
        ping(host, int(port), float(rest[0]))
    elif name == "hold":
        hold(host, int(port))
    elif name == "idle":
        idle(host, int(port), int(rest[0]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
