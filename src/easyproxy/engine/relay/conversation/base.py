"""What every protocol's conversation has: where it stands, what it says of it, how it is handed over. No protocol is named."""

from __future__ import annotations

from typing import Any, ClassVar

NONE, OPEN, BUSY, UNKNOWN = "none", "open", "busy", "unknown"
"""What is known of a session's transaction; words of ``SessionInfo.transaction``."""

ENCRYPTED = "it is encrypted"
COMPRESSED = "it is compressed"
REPLICATION = "it carries a replication stream"
NOT_UNDERSTOOD = "what it says is not understood"
ANOTHER_VERSION = "another version has followed it before"


class Conversation:
    """Follows one session. Feed it every byte in the order in which it was read, before it is passed on.

    A subclass never raises, whatever it is fed: what it does not understand is :meth:`lost`. All its slots hold plain values,
    so that :meth:`to_plain` can hand it over to another process.

    Attributes:
        why: why nothing can be known any more; empty while it is followed.
    """

    __slots__ = ("why",)

    protocol: ClassVar[str]
    """Its word in ``Pool.conversation``."""
    farewell_to_client: ClassVar[bytes] = b""
    """What a server of this protocol says when it ends a connection between two requests."""
    farewell_to_backend: ClassVar[bytes] = b""
    """What a client says when it leaves in good order."""

    why: str

    def from_client(self, data: memoryview) -> None:
        """Take what the client has sent."""
        raise NotImplementedError

    def from_backend(self, data: memoryview) -> None:
        """Take what the backend has sent."""
        raise NotImplementedError

    @property
    def transaction(self) -> str:
        """Whether a transaction is open: ``none`` only when no request is under way either and both sides' last message is whole."""
        raise NotImplementedError

    @property
    def is_fresh(self) -> bool:
        """Whether the client has asked for nothing yet since it has logged in."""
        raise NotImplementedError

    @property
    def doubt(self) -> str:
        """Why ``transaction`` is ``unknown``, in words."""
        return self.why

    def lost(self, why: str = NOT_UNDERSTOOD) -> None:
        """Follow no longer."""
        self.why = why

    def to_plain(self) -> dict[str, Any]:
        """Return all that :meth:`from_plain` needs, as JSON can carry it."""
        return {name: _plain(getattr(self, name)) for name in self._names()}

    def take_plain(self, plain: dict[str, Any]) -> None:
        """Go on where another one was; lost when it knows other things than this one."""
        if set(plain) != set(self._names()):
            self.lost(ANOTHER_VERSION)
            return
        for name, value in plain.items():
            setattr(self, name, value.encode("latin-1") if isinstance(getattr(self, name), bytes) else value)

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return (*Conversation.__slots__, *cls.__slots__)


def _plain(value: object) -> object:
    return value.decode("latin-1") if isinstance(value, bytes) else value
