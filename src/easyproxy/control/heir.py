"""The upgrade as the new program sees it: take what the predecessor hands over, or end and leave everything to it.

The order of messages stands in :mod:`.upgrade`. Until *commit* nothing of this program's doing can be seen outside.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from typing import TYPE_CHECKING, Self

from easyproxy.control.upgrade import ENVIRONMENT, PROTOCOL, SERVING_WITHIN_S
from easyproxy.control.will import events_from, inherit_verdicts, overrides_from, posts_from
from easyproxy.control.wire import Frame, Wire, WireError
from easyproxy.control.wording import counted
from easyproxy.errors import EasyProxyError
from easyproxy.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from easyproxy.control.failover import Post
    from easyproxy.control.operations import Event, Override
    from easyproxy.control.registry import Registry
    from easyproxy.engine.seam import HandsOver

HELLO_WITHIN_S = 10.0
NEXT_WITHIN_S = 60.0
"""A predecessor that is silent for so long has forgotten us."""


def predecessor() -> socket.socket | None:
    """Return the socket to the program that started this one in order to be relieved by it; None for a usual start.

    Takes the environment variable away, so that no child of ours thinks that it is meant.
    """
    text = os.environ.pop(ENVIRONMENT, "")
    try:
        fd = int(text)
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
    except (ValueError, OSError):
        return None
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


class Heir:
    """What comes from the predecessor. Owns the wire, and the descriptors until they are taken.

    Attributes:
        will: what the predecessor knew, by the name of the frame that brought it.
        is_done: this program serves.
        has_given_admin: the admin server listens on the predecessor's socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._wire = Wire(sock, "the old program")
        self._frames: list[tuple[Frame, list[int]]] = []
        self._woke_at = 0.0
        self._sessions = 0
        self.will: dict[str, Frame] = {}
        self.last_words: Frame = {}
        self.has_given_admin = False
        self.is_done = False
        self.pid = 0
        self.version = ""

    @classmethod
    async def met(cls, sock: socket.socket) -> Self:
        """Agree with the predecessor on how to speak, and receive what to begin with. Raises WireError."""
        heir = cls(sock)
        try:
            await heir._meet()
        except WireError as error:
            heir.fail(str(error))
            raise
        return heir

    async def _meet(self) -> None:
        hello = await self._wire.expect("hello", HELLO_WITHIN_S)
        self._wire.send({"op": "hello", "protocol": PROTOCOL, "version": __version__, "pid": os.getpid()})
        if hello.get("protocol") != PROTOCOL:
            raise WireError(
                f"version {hello.get('version')} hands over in another way than {__version__}, the new one"
            )
        self.pid, self.version = int(hello["pid"]), str(hello["version"])
        while True:
            frame, fds = await self._wire.receive(HELLO_WITHIN_S)
            if frame["op"] == "begin":
                return
            if fds or frame["op"] in ("engine", "listener"):
                self._frames.append((frame, fds))
            else:
                self.will[frame["op"]] = frame

    def take_frames(self, kinds: frozenset[str]) -> list[tuple[Frame, list[int]]]:
        """Return the frames of these kinds, whose descriptors are the caller's from now on."""
        taken = [item for item in self._frames if item[0]["op"] in kinds]
        self._frames = [item for item in self._frames if item[0]["op"] not in kinds]
        return taken

    # -- what the predecessor knew

    def overrides(self) -> list[Override]:
        """Return what operators have laid over the file."""
        return overrides_from(self.will.get("overrides", {}).get("overrides", ()))

    def leave_verdicts(self, registry: Registry) -> None:
        """Let a registry know what is known of the backends."""
        inherit_verdicts(registry, self.will.get("verdicts", {}).get("verdicts", {}))

    def posts(self) -> dict[str, Post]:
        """Return who takes writes, as far as it is known now."""
        return posts_from((self.last_words or self.will.get("posts", {})).get("posts", {}))

    def events(self) -> list[Event]:
        """Return what has happened; known once it has taken over."""
        return events_from(self.last_words.get("events", ()))

    def admin_socket(self, bind: str) -> socket.socket | None:
        """Return the socket of the predecessor's admin server when it listens on that address."""
        for frame, fds in self.take_frames(frozenset({"admin"})):
            if frame["bind"] == bind:
                self.has_given_admin = True
                return socket.socket(fileno=fds[0])
            os.close(fds[0])
        return None

    def words(self) -> str:
        """Say whom this program has relieved."""
        return (
            f"version {__version__} goes on for version {self.version} (pid {self.pid}) "
            f"with {counted(self._sessions, 'session')}"
        )

    # -- taking over

    async def take_over(self, engine: HandsOver, *, dropped: Frame) -> None:
        """Take the sessions and let the engine wake; returns when its workers serve.

        Args:
            engine: sleeps, and has the snapshot that it is to serve.
            dropped: what of the predecessor's is not wanted here.

        Raises:
            WireError, EngineError: it did not come about, and the predecessor goes on.
        """
        self._wire.send({"op": "ready", "workers": engine.worker_count, **dropped})
        frame, links = await self._wire.receive(NEXT_WITHIN_S)
        try:
            if frame["op"] != "links":
                raise WireError(f"the old program says {frame['op']!r} where 'links' was expected")
            count = await engine.adopt(links, frame["keys"], NEXT_WITHIN_S)
        finally:
            for fd in links:
                os.close(fd)
        self._wire.send({"op": "adopted", "sessions": count})
        self.last_words = await self._wire.expect("commit", NEXT_WITHIN_S)
        self._sessions = await engine.wake(self.last_words["totals"])
        self._woke_at = time.monotonic()
        self.is_done = True

    async def say_serving(self) -> None:
        """Tell the predecessor that it may go; it has gone, or is about to, when this returns."""
        self._wire.send(
            {
                "op": "serving",
                "pid": os.getpid(),
                "version": __version__,
                "sessions": self._sessions,
                "woke_at": self._woke_at,
            }
        )
        await self._wire.ended(SERVING_WITHIN_S)
        self.close()

    def fail(self, why: str) -> None:
        """Tell the predecessor that nothing comes of it, so that its operator learns why."""
        self._wire.send({"op": "failed", "why": why})
        self.close()

    def close(self) -> None:
        """Close the wire and whatever nobody has taken."""
        for _frame, fds in self._frames:
            for fd in fds:
                os.close(fd)
        self._frames.clear()
        self._wire.close()


def failing(sock: socket.socket | None) -> Callable[[EasyProxyError], None]:
    """Return a function that tells the predecessor, if there is one, why this program cannot even begin."""

    def tell(error: EasyProxyError) -> None:
        if sock is not None and sock.fileno() >= 0:
            from easyproxy.engine.relay.channel import Channel  # noqa: PLC0415 - hardly ever needed

            channel = Channel(sock)
            channel.send({"op": "failed", "why": str(error)})
            channel.close()

    return tell
