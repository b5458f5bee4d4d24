"""The workers of a relay engine: starting them, talking to them, replacing one that died."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from easyproxy.engine.relay.channel import Channel
from easyproxy.engine.relay.counters import anonymous_file
from easyproxy.engine.relay.interpreter import same
from easyproxy.engine.relay.process import OF_THE_GROUP, serve
from easyproxy.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from easyproxy.engine.relay.channel import Frame
    from easyproxy.engine.relay.rate import Table

LONG_LIFE_S = 5.0
"""A worker that lived so long died of something new: its successor starts at once."""
STARTS_WITHIN_S = 30.0
"""One that has said nothing yet, and is younger, may still be starting: a busy machine takes long for it."""
STOP_WITHIN_S = 5.0
LONGEST_PAUSE_S = 5.0
"""Between the deaths of workers that never live long, and between attempts to start one."""
_DOUBLINGS = 10


class Member:
    """One worker as the control process sees it."""

    def __init__(self, index: int, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self.index = index
        self.channel = channel
        self.tickets: set[str] = set()  # pools whose ticket counter it has
        self.rates: dict[str, Table] = {}  # listeners whose meter it has
        self.process: subprocess.Popen[bytes] | None = None
        self.thread: threading.Thread | None = None
        self.stacks_fd = -1  # where a process writes its stacks when it does not answer; owned
        self.born_at = loop.time()
        self.has_spoken = False
        self._loop = loop
        self._is_writing = False

    @property
    def pid(self) -> int:
        """Its process id; 0 for a thread."""
        return self.process.pid if self.process is not None else 0

    @property
    def is_starting(self) -> bool:
        """Whether nothing can be expected of it yet."""
        return not self.has_spoken and self._loop.time() < self.born_at + STARTS_WITHIN_S

    def send(self, frame: Frame, fds: list[int] | None = None) -> None:
        """Queue a command; never waits."""
        self.channel.send(frame, fds)
        if self.channel.outbox and not self._is_writing and not self.channel.is_closed:
            self._is_writing = True
            self._loop.add_writer(self.channel.fileno(), self._flush)

    def _flush(self) -> None:
        if self.channel.flush():
            self._is_writing = False
            self._loop.remove_writer(self.channel.fileno())

    def close(self) -> None:
        """Stop talking to it."""
        self._loop.remove_reader(self.channel.fileno())
        self._loop.remove_writer(self.channel.fileno())
        self.channel.close()
        if self.stacks_fd >= 0:
            os.close(self.stacks_fd)
            self.stacks_fd = -1


class Crew:
    """All workers of one engine. Owns their processes, threads and channels."""

    def __init__(
        self,
        hello: Frame,
        counters_fd: int,
        *,
        processes: bool,
        on_frame: Callable[[Member, Frame], None],
        on_death: Callable[[Member, str], None],
        on_birth: Callable[[Member], None],
        complain: Callable[[str], None],
        generation: int = 0,
    ) -> None:
        self._hello = hello
        self._counters_fd = counters_fd
        self._in_processes = processes
        self._on_frame = on_frame
        self._on_death = on_death
        self._on_birth = on_birth
        self._complain = complain
        self._members: dict[int, Member] = {}
        self._generation = generation  # beyond those of a predecessor: names of sessions stay unique
        self._is_stopping = False
        self._leavers: list[Member] = []
        self._short_lives = 0
        self._burials: set[asyncio.Task[None]] = set()
        # Threads of our own: those of the loop may all be busy with name lookups that hang.
        self._gravediggers = ThreadPoolExecutor(thread_name_prefix="easyproxy-burial")
        self.interpreter = same()
        """Which Python runs workers that are hired from now on."""
        self.restarts = 0

    @property
    def next_generation(self) -> int:
        """A number that no worker of this crew has had, nor one that it was promised to."""
        return self._generation + self.restarts + 1

    def promise_generation(self) -> int:
        """Give a successor's workers a number that none of this crew will have, whoever dies meanwhile."""
        promised = self.next_generation
        self._generation += 1
        return promised

    def begin_at(self, generation: int) -> None:
        """Give workers that are hired from now on this number, or a higher one."""
        self._generation = max(self._generation, generation - self.restarts - 1)

    def members(self) -> list[Member]:
        """Return the living workers."""
        return list(self._members.values())

    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [member.pid for member in self._members.values() if member.pid]

    def start(self, workers: int) -> None:
        """Start so many workers. Raises EngineError when the system refuses."""
        for index in range(workers):
            self._hire(index, generation=self._generation)

    def _hire(self, index: int, generation: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise EngineError(f"relay worker {index} cannot be started: {error}") from error
        channel = Channel(ours)
        member = Member(index, channel, loop)
        try:
            if self._in_processes:
                member.stacks_fd = anonymous_file("easyproxy-stacks")
                if not os.access(self.interpreter.path, os.X_OK):  # an update of the system has taken it away
                    self.interpreter = same()
                member.process = self._spawn(self.interpreter.command(), theirs, member.stacks_fd)
            else:
                member.thread = threading.Thread(
                    target=serve, args=(Channel(theirs),), name=f"easyproxy-relay-{index}", daemon=True
                )
                member.thread.start()
        except (
            OSError,
            RuntimeError,
        ) as error:  # the latter of threading: the system gives no further thread
            member.close()
            theirs.close()
            raise EngineError(f"relay worker {index} cannot be started: {error}") from error
        loop.add_reader(channel.fileno(), self._readable, member)
        self._members[index] = member
        member.send(
            {**self._hello, "index": index, "generation": generation, "path": sys.path}, [self._counters_fd]
        )
        self._on_birth(member)

    @staticmethod
    def _spawn(command: list[str], theirs: socket.socket, stacks_fd: int) -> subprocess.Popen[bytes]:
        # A fresh interpreter, not a fork: the control process has threads and megabytes of libraries that a worker
        # has no use for.
        # Ctrl-C may come before it can ignore that: what is blocked here stays blocked there (execve(2)).
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_GROUP)
        try:
            process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(stacks_fd)],
                pass_fds=[theirs.fileno(), stacks_fd],
                stdin=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return process

    def _readable(self, member: Member) -> None:
        for frame, _fds in member.channel.receive():
            member.has_spoken = True
            self._on_frame(member, frame)
        if member.channel.is_closed:
            self._gone(member)

    def _gone(self, member: Member) -> None:
        member.close()
        if self._members.get(member.index) is member:
            del self._members[member.index]
        if self._is_stopping:
            self._leavers.append(member)
            return
        task = asyncio.get_running_loop().create_task(self._replace(member))
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    async def _replace(self, member: Member) -> None:
        code = await self._buried(member)
        how = (
            "ended"
            if code is None
            else f"was ended by signal {-code}"
            if code < 0
            else f"ended with code {code}"
        )
        # A successor that dies at once, again and again, must not take the machine's time.
        lived = asyncio.get_running_loop().time() - member.born_at
        self._short_lives = 0 if lived >= LONG_LIFE_S else self._short_lives + 1
        self.restarts += 1
        self._on_death(member, how)
        if self._short_lives > 1:
            self.interpreter = same()  # if it was another one that is to blame
            await asyncio.sleep(min(0.05 * 2 ** min(self._short_lives, _DOUBLINGS), LONGEST_PAUSE_S))
        pause = 0.1
        while not self._is_stopping:
            try:
                self._hire(member.index, generation=self._generation + self.restarts)
            except (EngineError, OSError) as error:  # the system refuses for now (EAGAIN, ENOMEM, EMFILE)
                half_made = self._members.pop(member.index, None)
                if half_made is not None:  # it could not be given what it needs; closing its channel ends it
                    half_made.close()
                if pause == LONGEST_PAUSE_S:
                    self._complain(f"relay worker {member.index} has no successor yet: {error}")
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
            else:
                return

    async def _buried(self, member: Member) -> int | None:
        return await asyncio.get_running_loop().run_in_executor(self._gravediggers, self._bury, member)

    @staticmethod
    def _bury(member: Member) -> int | None:
        """Wait for its end; it has closed its channel, so one that does not end soon is stuck."""
        if member.thread is not None:
            member.thread.join(STOP_WITHIN_S)
        if member.process is None:
            return None
        try:
            return member.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            member.process.kill()
            return member.process.wait()

    def dismiss(self) -> None:
        """Replace nobody from now on: the workers leave, because a successor has their work."""
        self._is_stopping = True

    async def stop(self) -> None:
        """End all workers at once and wait for them."""
        self._is_stopping = True
        for task in tuple(self._burials):
            task.cancel()
        members = list(self._members.values())
        for member in members:
            member.send({"op": "stop"})
        for member in members:
            await self._buried(member)
            if not member.channel.is_closed:  # its last words
                self._readable(member)
        for member in members:
            with contextlib.suppress(ValueError):
                member.close()
        self._members.clear()
        for member in self._leavers:
            await self._buried(member)
        self._leavers.clear()
        self._gravediggers.shutdown(wait=False)
