"""The upgrade as the old program runs it: start the successor, hand everything over, or go on as if nothing had been.

::

    old                                                  new
    hello {protocol, version, pid}           ─────►      (started with one end of a socket pair)
                                             ◄─────      hello
    what to begin with: listening sockets,   ─────►      loads its configuration, starts workers that sleep,
    tickets, verdicts, overrides                         does its first probe round
                                             ◄─────      ready
    workers stand still; links {keys}        ─────►      workers take in sessions
    (sessions go from worker to worker)      ◄─────      adopted
    commit {totals, events}                  ─────►      workers take over, link by link
                                             ◄─────      serving
    workers leave; the program ends

Whatever goes wrong before *commit* leaves the old program as it was. After it the workers' links decide for each
share of the sessions (:mod:`easyproxy.engine.relay.giving`): what the successor's workers have not taken stays here.
Every wait has a limit, and a successor that has failed is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from easyproxy.control.wire import Frame, Wire, WireError
from easyproxy.control.wording import counted
from easyproxy.errors import EasyProxyError, EngineError
from easyproxy.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from easyproxy.engine.seam import HandsOver

log = logging.getLogger("easyproxy")

PROTOCOL = 1
"""Grows when one program could misunderstand the other; programs of different numbers refuse each other."""
ENVIRONMENT = "EASYPROXY_PREDECESSOR"
"""Tells the successor which descriptor leads to its predecessor."""
TRANSFER_S = 5.0
SESSIONS_PER_S = 2000
"""How long the workers may stand still: TRANSFER_S, and a second more for so many sessions."""
TELLING_S = 1.0
"""So much longer the successor may take to say what it has: it cannot have what our workers have not given."""
SERVING_WITHIN_S = 10.0
END_WITHIN_S = 2.0


class UpgradeError(EasyProxyError):
    """The upgrade did not happen; the message says why. The old program goes on."""


@dataclass(frozen=True, slots=True)
class Successor:
    """Who has taken over. ``still_s`` is how long no byte was relayed."""

    pid: int
    version: str
    sessions: int
    still_s: float

    def __str__(self) -> str:
        """Render for people."""
        return (
            f"version {self.version} has taken over (pid {self.pid}) with {counted(self.sessions, 'session')}, "
            f"which stood still for {self.still_s * 1000:.0f} ms"
        )


def command_line() -> list[str]:
    """Return what started this program, for starting the one that is installed now.

    A script is started itself and not with the interpreter of this process: its first line names the one that it
    was installed for, which may be another by now.
    """
    arguments = sys.orig_argv[1:]
    if arguments and not arguments[0].startswith("-") and os.access(arguments[0], os.X_OK):
        return [str(Path(arguments[0]).absolute()), *arguments[1:]]
    return [sys.executable, *arguments]


def _environment(fd: int) -> dict[str, str]:
    # sd_watchdog_enabled(3): signs of life are the successor's duty, too, and WATCHDOG_PID is not its number.
    kept = {name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"}
    return {**kept, ENVIRONMENT: str(fd)}


@dataclass(frozen=True, slots=True)
class Estate:
    """What the old program hands over beside the engine's part.

    Attributes:
        frames: what the successor begins with, with descriptors that stay the caller's.
        last_words: what is sent with *commit*, asked for while the workers stand still.
    """

    frames: Sequence[tuple[Frame, list[int]]]
    last_words: Callable[[], Mapping[str, object]]


class Upgrade:
    """One attempt. Owns the successor's process until it serves.

    Args:
        engine: whose sessions are handed over.
        command: starts the successor.
        start_within_s: until it is ready to take over.
    """

    def __init__(self, engine: HandsOver, command: Sequence[str], start_within_s: float) -> None:
        self._engine = engine
        self._command = list(command)
        self._start_within_s = start_within_s
        self._process: subprocess.Popen[bytes] | None = None
        self._is_committed = False
        self._loop = asyncio.get_running_loop()

    async def run(self, estate: Estate) -> tuple[Successor, Frame]:
        """Hand everything over; return who has it now, and what it said of itself when it was ready.

        Raises:
            UpgradeError: the old program goes on, with every session that the successor has not taken.
        """
        wire = self._start()
        try:
            ready = await self._prepare(wire, estate)
            successor = await self._hand_over(wire, estate, ready)
        except (WireError, EngineError) as error:
            why = await self._give_up(wire, str(error))
            raise UpgradeError(why) from error
        except BaseException:
            await self._give_up(wire, "")
            raise
        wire.close()
        if self._process is not None:
            self._process.returncode = 0  # it is no child of ours that somebody would have to wait for
        return successor, ready

    def _start(self) -> Wire:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    pass_fds=[theirs.fileno()],
                    env=_environment(theirs.fileno()),
                )
            except (OSError, ValueError) as error:
                ours.close()
                raise UpgradeError(f"{self._command[0]} cannot be started: {error}") from error
        return Wire(ours, "the new program")

    async def _prepare(self, wire: Wire, estate: Estate) -> Frame:
        """Do everything that can be done while the old program serves; return *ready*."""
        deadline = self._loop.time() + self._start_within_s
        wire.send({"op": "hello", "protocol": PROTOCOL, "version": __version__, "pid": os.getpid()})
        hello = await wire.expect("hello", self._start_within_s)
        if hello.get("protocol") != PROTOCOL:
            raise WireError(
                f"version {hello.get('version')} hands over in another way than {__version__} "
                f"({hello.get('protocol')} instead of {PROTOCOL}); end this program and start the other"
            )
        for frame, fds in [*self._engine.legacy(), *estate.frames]:
            wire.send(frame, fds)
        wire.send({"op": "begin"})
        return await wire.expect("ready", max(0.0, deadline - self._loop.time()))

    async def _hand_over(self, wire: Wire, estate: Estate, ready: Frame) -> Successor:
        workers, theirs = self._engine.worker_count, max(1, int(ready["workers"]))
        pairs: list[tuple[socket.socket, socket.socket]] = []
        within_s = TRANSFER_S + self._engine.session_count() / SESSIONS_PER_S
        began = self._loop.time()
        try:
            for _ in range(max(workers, theirs)):
                pairs.append(socket.socketpair())  # noqa: PERF401 - those made before an error are closed
            wire.send({"op": "links", "keys": self._engine.keys()}, [end.fileno() for _, end in pairs])
            parts = (
                self._loop.create_task(self._engine.give([end.fileno() for end, _ in pairs], within_s)),
                self._loop.create_task(wire.expect("adopted", within_s + TELLING_S)),
            )
            for _, end in pairs:
                end.close()  # what the successor has is the only other end: its death is seen
            try:
                sessions, adopted = await asyncio.gather(*parts)
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
        except OSError as error:
            raise WireError(f"no further descriptors: {error.strerror}") from error
        finally:
            for end, other in pairs:
                end.close()
                other.close()
        if adopted["sessions"] != sessions:
            raise WireError(f"{adopted['sessions']} of {sessions} sessions have arrived")
        self._is_committed = True
        wire.send({"op": "commit", "totals": self._engine.totals(), **estate.last_words()})
        serving = await wire.expect("serving", SERVING_WITHIN_S)
        still_s = serving["woke_at"] - began
        return Successor(serving["pid"], serving["version"], serving["sessions"], still_s)

    async def _give_up(self, wire: Wire, why: str) -> str:
        """End the successor and go on with what is ours; return why, with how the successor has ended."""
        try:
            await self._engine.thaw()
        except EngineError as error:
            log.error("after a failed upgrade: %s", error)
        has_ended = await wire.ended(0.2) if why else False
        wire.close()
        code = await self._end(by_itself=has_ended)
        if code is not None and why.endswith("has ended"):
            how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
            return f"the new program {how} before it had taken over"
        return why

    async def _end(self, *, by_itself: bool) -> int | None:
        """End the successor; return its status if it has ended ``by_itself``."""
        process = self._process
        if process is None:
            return None

        def bury() -> int | None:
            if by_itself:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(END_WITHIN_S)
            # What its workers have taken lives on in them when it is killed; when it is asked to end, it resets that.
            if not self._is_committed:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_WITHIN_S)
            process.kill()
            process.wait()
            return None

        return await self._loop.run_in_executor(None, bury)
