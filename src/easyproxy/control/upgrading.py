"""Being relieved by a new program: what of the balancer goes to the successor, and what is told of it.

How the two programs speak is :mod:`.upgrade`'s; here stand the conditions, the order and the words.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Protocol

from easyproxy.control.events import Kind
from easyproxy.control.operations import RefusedError
from easyproxy.control.upgrade import Estate, Upgrade, UpgradeError
from easyproxy.control.will import plain_events, plain_overrides, plain_posts, verdicts_of
from easyproxy.engine.seam import HandsOver
from easyproxy.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from easyproxy.control.failover import Post
    from easyproxy.control.journal import Journal
    from easyproxy.control.operations import Author
    from easyproxy.control.registry import Registry
    from easyproxy.control.reloading import Reloading
    from easyproxy.control.steering import Steering
    from easyproxy.control.upgrade import Successor
    from easyproxy.control.wire import Frame
    from easyproxy.engine.seam import Engine

ALL_EVENTS = 1_000_000


class Door(Protocol):
    """The admin server, as far as a successor is concerned."""

    def descriptor(self) -> int:
        """The listening socket's descriptor."""

    def leave(self, *, to_successor: bool) -> None:
        """Accept no more."""


class Upgrading:
    """Hands a balancer over, at most once.

    Attributes:
        command: starts the successor; empty where this program was not started by ``easyproxy run``.
        successor: who has taken over; None until then.
        kept: sessions that the successor has not taken, and that end here.
        handed_over: is set when this program may end.
    """

    def __init__(
        self,
        engine: Engine,
        steering: Steering,
        registry: Registry,
        reloading: Reloading,
        posts: Mapping[str, Post],
        journal: Journal,
    ) -> None:
        self._engine = engine
        self._steering = steering
        self._registry = registry
        self._reloading = reloading
        self._posts = posts
        self._journal = journal
        self._attempt: asyncio.Task[str] | None = None
        self.command: Sequence[str] = ()
        self.successor: Successor | None = None
        self.kept = 0
        self.handed_over = asyncio.Event()

    async def run(self, author: Author, door: Door | None) -> str:
        """Start the new program and hand everything over; return what there is to say of it.

        It goes on when the caller is cancelled (an admin client that has gone); :meth:`abort` ends it.

        Raises:
            RefusedError: it is not possible, or did not come about; this program goes on.
        """
        engine = self._possible()
        self._attempt = asyncio.get_running_loop().create_task(self._run(engine, author, door))
        self._attempt.add_done_callback(_look_at)
        try:
            return await asyncio.shield(self._attempt)
        except asyncio.CancelledError:
            if self._attempt.cancelled():
                raise RefusedError("this program was told to end meanwhile") from None
            raise

    async def abort(self) -> None:
        """Give up an upgrade that is under way, because this program ends."""
        if self._attempt is not None and self.successor is None:
            self._attempt.cancel()
            await asyncio.wait({self._attempt})

    async def _run(self, engine: HandsOver, author: Author, door: Door | None) -> str:
        # No change may come in between: it would be lost. After a success nothing is changed here any more.
        await self._steering.lock.acquire()
        try:
            self._journal.tell(Kind.UPGRADE_STARTED, "", " ".join(self.command), author=author)
            upgrade = Upgrade(engine, self.command, self._steering.filed.upgrade_timeout)
            self.successor, ready = await upgrade.run(self._estate(door))
        except UpgradeError as error:
            self._steering.lock.release()
            text = f"{error}; this program goes on as before"
            self._journal.tell(Kind.UPGRADE_FAILED, "", text, level="error", author=author)
            raise RefusedError(f"the upgrade has failed: {text}") from error
        except BaseException:
            self._steering.lock.release()
            raise
        try:
            await self._leave(engine, door, ready)
            self._journal.tell(Kind.UPGRADED, "", str(self.successor), author=author)
        finally:
            self.handed_over.set()
        return str(self.successor)

    def _possible(self) -> HandsOver:
        """Return the engine as one that can hand over. Raises RefusedError where nothing can come of it."""
        engine = self._engine
        if self._attempt is not None and (not self._attempt.done() or self.successor is not None):
            raise RefusedError("an upgrade is under way")
        if not self.command or not isinstance(engine, HandsOver) or not engine.can_hand_over:
            raise RefusedError(
                "only a program that was started with easyproxy run can be upgraded; restart the one that embeds this"
            )
        if os.getpid() == 1:
            raise RefusedError(
                "this is process 1 of a container, which ends with it: replace the container instead"
            )
        if self._reloading.state.confirm_until:
            raise RefusedError(
                "a reload waits to be confirmed; confirm it (easyproxy reload --confirm) or roll it back first"
            )
        return engine

    def _estate(self, door: Door | None) -> Estate:
        frames: list[tuple[Frame, list[int]]] = [
            ({"op": "overrides", "overrides": plain_overrides(self._steering.overrides)}, []),
            ({"op": "verdicts", "verdicts": verdicts_of(self._registry)}, []),
            ({"op": "posts", "posts": plain_posts(self._posts)}, []),
        ]
        admin = self._steering.filed.admin
        if door is not None and admin is not None:
            frames.append(({"op": "admin", "bind": str(admin.bind)}, [door.descriptor()]))
        return Estate(frames, self._last_words)

    def _last_words(self) -> Mapping[str, object]:
        return {
            "events": plain_events(self._journal.events.newest(limit=ALL_EVENTS)),
            "posts": plain_posts(self._posts),
        }

    async def _leave(self, engine: HandsOver, door: Door | None, ready: Frame) -> None:
        if door is not None:
            door.leave(to_successor=bool(ready["admin"]))
        try:
            self.kept = await engine.leave(ready["dropped"])
        except EngineError as error:  # they are ended all the same
            self._journal.trouble(f"after the upgrade: {error}")


def _look_at(attempt: asyncio.Task[str]) -> None:
    """Look at how it ended, so that nobody complains when the caller has gone; it has been told."""
    if not attempt.cancelled():
        attempt.exception()
