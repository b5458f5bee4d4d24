"""A backend of a test's own: it listens in a thread, and talks to each client as the test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def listening(talk: Callable[[socket.socket], None], *, at_once: bool = False) -> Iterator[int]:
    """Serve clients one after another, or ``at_once`` each in a thread of its own; give the port.

    ``talk`` owns the client's socket only when each has its thread; else it is closed when ``talk`` returns.
    """
    server = socket.create_server(("127.0.0.1", 0), backlog=256)

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            if at_once:
                threading.Thread(target=talk, args=(client,), daemon=True).start()
                continue
            with client:
                talk(client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
