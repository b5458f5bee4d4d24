"""A session: all that a worker keeps of one client connection and its backend connection. Data only.

What may follow what in it is :mod:`.life`'s. Who finds its backend and who moves its bytes is named here only by what
others ask of them: they are :mod:`.dial` and :mod:`.flow`, which know the session and are not needed to read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

from easyproxy.engine.relay.life import State
from easyproxy.engine.relay.names import client_text

if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from easyproxy.engine.relay.conversation import Conversation
    from easyproxy.engine.relay.runtime import BackendRuntime, ListenerRuntime

_CONNECTING = State.CONNECTING  # looking it up on the Enum costs a call (Python 3.11)

NEWCOMER = -1
"""Instead of a place in the timer wheel: who has come since the last tick gets one with the next."""


class Dialling(Protocol):
    """The search for a session's backend, while it is CONNECTING."""

    def ready(self, fd: int, mask: int) -> None:
        """Take an event of the client's or of the backend's socket."""

    def watch(self, want: Callable[[int, int], None]) -> None:
        """Tell a level-triggered poller what to wait for."""

    def start(self) -> None:
        """Begin; the session may be over when this returns."""

    def settle(self) -> None:
        """It takes longer than a tick: have the client watched, and the time."""

    def expired(self) -> None:
        """The wheel has come round: see which deadline it was."""

    def start_over(self) -> None:
        """Give up the attempt under way, whose backend has become the wrong one, and begin anew."""

    def resume(self) -> None:
        """Wait on in another pool or another program."""

    def release(self) -> None:
        """Leave what it waits in; the session is over, or another pool takes it on."""


class Flowing(Protocol):
    """One direction of a session, once its backend stands."""

    back: Self | None
    """The opposite direction, as long as the session lives."""
    moved: int
    """Bytes that the target has taken."""
    counted: int
    """Of these, what is counted; below 0 for one that has come since the last tick."""
    tail: int
    """What a short read says; a word of :mod:`.flow`."""
    session: Session
    """Whose direction it is."""
    streak: int
    """Full reads in a row; below 0: short ones, since the last tick."""

    @property
    def target_gone(self) -> bool:
        """Whether the target's reset is known."""

    @property
    def is_blocked(self) -> bool:
        """Whether it holds bytes that the target has not taken."""

    def ready(self, fd: int, mask: int) -> None:
        """Take an event of the source's socket."""

    def watch(self, want: Callable[[int, int], None]) -> None:
        """Tell a level-triggered poller what to wait for on the source's socket."""

    def pump(self) -> None:
        """Move what is there."""

    def count(self) -> None:
        """Add to the backend's counters what has moved since the last time."""

    def release(self) -> None:
        """Give everything back; the session is over."""


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
        self.outbound: Flowing | None = None  # client to backend
        self.inbound: Flowing | None = None  # backend to client
        self.dial: Dialling | None = None  # while CONNECTING
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
