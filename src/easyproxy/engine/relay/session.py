"""A session: all that a worker keeps of one client connection and its backend connection. Data only.

What may follow what in it is :mod:`.life`'s; who finds its backend, moves its bytes and ends it stands above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyproxy.engine.relay.life import State
from easyproxy.engine.relay.names import client_text

if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from easyproxy.engine.relay.conversation import Conversation
    from easyproxy.engine.relay.dial import Dial
    from easyproxy.engine.relay.flow import Flow
    from easyproxy.engine.relay.runtime import BackendRuntime, ListenerRuntime

_CONNECTING = State.CONNECTING  # looking it up on the Enum costs a call (Python 3.11)

NEWCOMER = -1
"""Instead of a place in the timer wheel: who has come since the last tick gets one with the next."""


class Session:
    """One client connection and its backend connection. Data only; the worker is its sole owner."""

    __slots__ = (
        "accepted_at",
        "active_at",
        "armed",
        "backend",
        "client_fd",
        "client_socket",
        "connected_at",
        "conversation",
        "dial",
        "host",
        "inbound",
        "listener",
        "number",
        "outbound",
        "port",
        "socket",
        "state",
        "tick",
        "tried",
    )

    def __init__(
        self, number: int, listener: ListenerRuntime, client: socket, host: str, port: int, now: float
    ) -> None:
        self.number = number
        self.listener = listener
        self.client_socket = client
        self.client_fd = client.fileno()
        self.host = host  # numeric, without port; "unix" for a unix socket
        self.port = port
        self.state = _CONNECTING
        self.accepted_at = now
        self.active_at = now
        self.connected_at = 0.0  # 0 while no backend stands
        self.armed = False  # keep-alive towards the backend is set when the session turns out not to be short
        self.tick = NEWCOMER  # where it stands in the timer wheel; 0 is nowhere
        self.backend: BackendRuntime | None = None
        self.socket: socket | None = None  # the backend's connection
        self.outbound: Flow | None = None  # client to backend
        self.inbound: Flow | None = None  # backend to client
        self.dial: Dial | None = None  # while CONNECTING
        self.conversation: Conversation | None = None  # followed where the pool says so
        # Backends that were passed over, and why; None is the usual case.
        self.tried: dict[str, str] | None = None

    def watch(self, want: Callable[[int, int], None]) -> None:
        """Tell a level-triggered poller what to wait for on both sides."""
        if self.dial is not None:
            self.dial.watch(want)
        elif self.outbound is not None and self.inbound is not None:
            self.outbound.watch(want)
            self.inbound.watch(want)

    @property
    def client(self) -> str:
        """The client's address for people: ``host:port``."""
        return client_text(self.host, self.port)
