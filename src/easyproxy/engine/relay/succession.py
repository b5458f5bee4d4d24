"""The engine's part in an upgrade, as the control processes of both programs see it. No session is touched here.

The old program's engine says what its successor begins with (:func:`legacy`), lets its workers stand still and give
their sessions, and then either goes on or leaves. The new one's takes that in and wakes. The workers' own part is in
:mod:`.giving` and :mod:`.taking`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Self

from easyproxy.engine.relay.inherited import BorrowedSocket, Group, Inherited, LentSocket
from easyproxy.engine.relay.rate import Table, table_of
from easyproxy.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from easyproxy.engine.relay.channel import Frame
    from easyproxy.engine.relay.crew import Crew, Member

ANSWER_WITHIN_S = 5.0
FDS_PER_FRAME = 200


def legacy(
    sockets: Mapping[str, Sequence[socket.socket]],
    tickets: Mapping[str, int],
    rates: Mapping[str, Table],
    *,
    generation: int,
) -> list[tuple[Frame, list[int]]]:
    """Say what a successor begins with, as frames with descriptors that stay the caller's."""
    frames: list[tuple[Frame, list[int]]] = [({"op": "engine", "generation": generation}, [])]
    for name, group in sockets.items():
        is_lent = isinstance(group[0], LentSocket)
        fds = [sock.fileno() for sock in group]
        frames += [
            ({"op": "listener", "name": name, "is_lent": is_lent}, fds[start : start + FDS_PER_FRAME])
            for start in range(0, len(fds), FDS_PER_FRAME)
        ]
    frames += [({"op": "ticket", "pool": pool}, [fd]) for pool, fd in tickets.items()]
    frames += [(table.frame(listener), [table.fd]) for listener, table in rates.items()]
    return frames


class Legacy:
    """What a predecessor has left. Owns the descriptors until an engine takes them, or :meth:`close`."""

    KINDS = frozenset({"engine", "listener", "ticket", "rate"})

    @classmethod
    def of(cls, frames: Iterable[tuple[Frame, list[int]]]) -> Self:
        """Make one of the frames of :func:`legacy`."""
        made = cls()
        for frame, fds in frames:
            made.take(frame, fds)
        return made

    def __init__(self) -> None:
        self.generation = 0
        self.tickets: dict[str, int] = {}
        self.rates: dict[str, Table] = {}
        self._sockets: dict[str, list[int]] = {}
        self._lent: set[str] = set()

    def take(self, frame: Frame, fds: list[int]) -> None:
        """Take one of the frames of :func:`legacy`; others are not for us."""
        match frame["op"]:
            case "engine":
                self.generation = frame["generation"]
            case "listener":
                self._sockets.setdefault(frame["name"], []).extend(fds)
                if frame["is_lent"]:
                    self._lent.add(frame["name"])
            case "ticket":
                self.tickets[frame["pool"]] = fds[0]
            case "rate":
                self.rates[frame["listener"]] = table_of(frame, fds[0])
            case _:
                _close(fds)

    def inherited(self) -> Inherited:
        """Return the listening sockets, for an engine; they are its own from now on."""
        sockets, self._sockets = self._sockets, {}
        return Inherited(
            Group(name, tuple(BorrowedSocket(fileno=fd) for fd in fds), is_lent=name in self._lent)
            for name, fds in sockets.items()
        )

    def take_tickets(self) -> dict[str, int]:
        """Return the ticket counters by pool; they are the caller's from now on."""
        tickets, self.tickets = self.tickets, {}
        return tickets

    def take_rates(self) -> dict[str, Table]:
        """Return the tables of rates by listener; they are the caller's from now on."""
        rates, self.rates = self.rates, {}
        return rates

    def close(self) -> None:
        """Close what no engine has taken."""
        _close(self.take_tickets().values())
        _close(table.fd for table in self.take_rates().values())
        self.inherited().close()


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


class Succession:
    """Asks the workers for their part, and waits for their answers."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._answers: dict[tuple[str, int], asyncio.Future[Frame]] = {}

    def received(self, member: Member, frame: Frame) -> None:
        """Take an answer: *given*, *thawed*, *left* and *awake* by worker, *adopted* by link."""
        key = (frame["op"], frame["link"] if frame["op"] == "adopted" else member.index)
        answer = self._answers.get(key)
        if answer is not None and not answer.done():
            answer.set_result(frame)

    def died(self, member: Member) -> None:
        """Wait for nothing more that needs this worker."""
        for (what, index), answer in self._answers.items():
            if (index == member.index or what == "adopted") and not answer.done():
                answer.set_exception(EngineError(f"relay worker {member.index} died"))

    def _expect(self, what: str, indexes: Iterable[int]) -> list[asyncio.Future[Frame]]:
        loop = asyncio.get_running_loop()
        return [self._answers.setdefault((what, index), loop.create_future()) for index in indexes]

    async def _all(self, what: str, answers: list[asyncio.Future[Frame]], within_s: float) -> list[Frame]:
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.gather(*answers)
        except TimeoutError as error:
            part = "link" if what == "adopted" else "relay worker"
            silent = [
                index
                for (kind, index), answer in self._answers.items()
                if kind == what and answer.cancelled()
            ]
            who = ", ".join(f"{part} {index}" for index in silent)
            raise EngineError(
                f"not every worker has {what} within {within_s:.3g} s: {who} has not"
            ) from error
        finally:
            self._forget(what)

    def _forget(self, what: str) -> None:
        for key in [key for key in self._answers if key[0] == what]:
            answer = self._answers.pop(key)
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # looked at, so that nobody complains

    # -- in the old program

    async def give(self, links: Sequence[int], workers: int, within_s: float) -> int:
        """Let every worker stand still and give its sessions over these links; return how many those were.

        Raises:
            EngineError: a worker is missing, or has not given all in time. Call :meth:`thaw` then.
        """
        members = self._crew.members()
        if len(members) != workers:
            raise EngineError("a worker has died and is being replaced")
        answers = self._expect("given", [member.index for member in members])
        for position, member in enumerate(members):
            member.send({"op": "freeze"}, list(links[position::workers]))
        return sum(frame["count"] for frame in await self._all("given", answers, within_s))

    async def thaw(self) -> int:
        """Let the workers go on; return how many sessions they have kept."""
        return await self._end("thaw", "thawed")

    async def leave(self) -> int:
        """Let the workers end, those that have no session left; return how many are left."""
        self._crew.dismiss()
        return await self._end("leave", "left")

    async def _end(self, command: str, answer: str) -> int:
        members = self._crew.members()
        answers = self._expect(answer, [member.index for member in members])
        for member in members:
            member.send({"op": command})
        return sum(frame["kept"] for frame in await self._all(answer, answers, ANSWER_WITHIN_S))

    # -- in the new program

    async def adopt(self, links: Sequence[int], slots: Mapping[str, int], within_s: float) -> int:
        """Let the workers take in what comes over these links; return how many sessions those are.

        Raises:
            EngineError: a worker could not, or not in time; the message says why.
        """
        members = self._crew.members()
        answers = self._expect("adopted", range(len(links)))
        for position, member in enumerate(members):
            numbers = list(range(position, len(links), len(members)))
            if numbers:
                frame: Frame = {"op": "adopt", "links": numbers, "slots": dict(slots)}
                member.send(frame, [links[number] for number in numbers])
        frames = await self._all("adopted", answers, within_s)
        for frame in frames:
            if frame["count"] < 0:
                raise EngineError(frame["why"])
        return sum(frame["count"] for frame in frames)

    async def wake(self) -> int:
        """Let the workers begin; return how many sessions they go on with.

        It does not fail: the sessions of a worker that has died meanwhile have stayed in the old program.
        """
        members = self._crew.members()
        answers = self._expect("awake", [member.index for member in members])
        for member in members:
            member.send({"op": "wake"})
        done, _ = await asyncio.wait(answers, timeout=ANSWER_WITHIN_S) if answers else (set(), set())
        self._forget("awake")
        return sum(answer.result()["sessions"] for answer in done if answer.exception() is None)
