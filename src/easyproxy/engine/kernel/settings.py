"""Kernel settings that the engine depends on: what a snapshot needs, what is missing, setting it and putting it back.

Reads and writes ``/proc/sys`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from easyproxy.engine.kernel.reach import family_of, is_any, is_loopback
from easyproxy.errors import EngineError
from easyproxy.model import Snapshot

_ROOT = Path("/proc/sys")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, in the notation of sysctl(8), and why it is wanted."""

    name: str
    value: str
    why: str
    is_needed: bool = True
    """Without it the kernel does not serve; otherwise something is only not seen."""
    as_good: str = ""
    """Another value that does as well."""

    @property
    def path(self) -> Path:
        """Where the kernel keeps it."""
        return _ROOT / self.name.replace(".", "/")

    def read(self) -> str:
        """Its value now; empty where this kernel does not have it."""
        try:
            return self.path.read_text().strip()
        except OSError:
            return ""

    def set_to(self, value: str) -> None:
        """Write it. Raises EngineError."""
        try:
            self.path.write_text(value)
        except OSError as error:
            raise EngineError(f"cannot set {self.name}={value}: {error.strerror}") from error

    @property
    def is_met(self) -> bool:
        """Whether it is as wanted."""
        return self.read() in (self.value, self.as_good or self.value)

    def __str__(self) -> str:
        """Say what is missing, and the command that sets it."""
        return f"{self.name} is {self.read() or 'unknown'}: {self.why}; sysctl -w {self.name}={self.value}"


FORWARD = Setting("net.ipv4.ip_forward", "1", "the kernel forwards no packet to a backend elsewhere")
FORWARD_6 = Setting(
    "net.ipv6.conf.all.forwarding", "1", "the kernel forwards no IPv6 packet to a backend elsewhere"
)
LOCALNET = Setting(
    "net.ipv4.conf.all.route_localnet", "1", "loopback addresses do not lead to or from other machines"
)
LOOSE = Setting(
    "net.netfilter.nf_conntrack_tcp_loose",
    "1",
    "clients of sessions that were closed are not told with a reset",
)
ACCOUNTING = Setting(
    "net.netfilter.nf_conntrack_acct", "1", "bytes and packets of sessions are not counted", is_needed=False
)
LIBERAL = Setting(
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "1",
    "the kernel insists on seeing every packet, so established sessions go its long way, without the shortcut",
    is_needed=False,
)
EVENTS = Setting(
    "net.netfilter.nf_conntrack_events",
    "1",
    "sessions that come and go between two looks are not seen",
    is_needed=False,
    as_good="2",  # where somebody listens, and we do
)
TIMES = Setting(
    "net.netfilter.nf_conntrack_timestamp",
    "1",
    "how long sessions took is known roughly, and of two of one client's port one may be missed",
    is_needed=False,
)
ALWAYS = (ACCOUNTING, EVENTS, TIMES, LOOSE)
_KNOWN = {setting.name: setting for setting in (FORWARD, FORWARD_6, LOCALNET, LIBERAL, *ALWAYS)}


def needed(snapshot: Snapshot, *, shortcut: bool = False) -> list[Setting]:
    """List what a snapshot depends on, and the shortcut if it is wanted."""
    wanted = [*ALWAYS, LIBERAL] if shortcut else list(ALWAYS)
    for listener in snapshot.listeners:
        pool = snapshot.pool_by_name[listener.pool]
        here = is_loopback(listener.bind)
        for backend in pool.backends:
            there = is_loopback(backend.address)
            if not there:
                wanted.append(FORWARD if family_of(backend.address) == 4 else FORWARD_6)
            if family_of(backend.address) == 4 and (here != there or is_any(listener)):
                # A listener on every address serves others without it.
                wanted.append(replace(LOCALNET, is_needed=here or not is_any(listener)))
    return list(dict.fromkeys(wanted))


class Settings:
    """Sees to settings; ``manages`` allows it to set them, and then :meth:`restore` puts them back.

    What they were is to be noted where a successor finds it, since a program that is killed puts nothing back.
    """

    def __init__(self, *, manages: bool) -> None:
        self._manages = manages
        self._former: dict[Setting, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be put back, for :meth:`adopt`: ``net.ipv4.ip_forward=0``."""
        return tuple(f"{setting.name}={former}" for setting, former in self._former.items())

    def adopt(self, notes: Iterable[str]) -> None:
        """Take over what a former run has noted; what is no note of ours counts for nothing."""
        for note in notes:
            name, _, former = note.partition("=")
            if name in _KNOWN and former.isascii() and former.isdigit():
                self._former.setdefault(_KNOWN[name], former)

    def ensure(self, wanted: list[Setting], write_down: Callable[[], None] = lambda: None) -> list[str]:
        """Set what is missing, if allowed. Return what is missing and can be lived without.

        Args:
            wanted: what shall be.
            write_down: keeps :attr:`notes`; called before anything is set.

        Raises:
            EngineError: something needed is missing; the message has the commands.
        """
        missing = [setting for setting in wanted if not setting.is_met]
        if self._manages and missing:
            for setting in missing:
                self._former.setdefault(_KNOWN[setting.name], setting.read())
            write_down()
            for setting in missing:
                setting.set_to(setting.value)
            return []
        fatal = [str(setting) for setting in missing if setting.is_needed]
        if fatal:
            raise EngineError(
                f"the kernel is not set up for this: {'. '.join(fatal)} (or allow it with kernel: {{manage_sysctl: true}})"
            )
        return [str(setting) for setting in missing]

    def restore(self) -> list[str]:
        """Put back what :meth:`ensure` has set, unless somebody else has set it since; return it as :attr:`notes` are.

        Raises:
            EngineError: a setting cannot be set; the others are.
        """
        done, problems = [], []
        for setting, former in self._former.items():
            try:
                if setting.read() == setting.value != former:
                    setting.set_to(former)
                    done.append(f"{setting.name}={former}")
            except EngineError as error:
                problems.append(str(error))
        self._former.clear()
        if problems:
            raise EngineError(". ".join(problems))
        return done
