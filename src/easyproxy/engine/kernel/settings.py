"""Kernel settings that the engine depends on: what a snapshot needs, what is missing, setting it and putting it back.

Reads and writes ``/proc/sys`` and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from easyproxy.engine.kernel.ruleset import family_of, is_any
from easyproxy.errors import EngineError
from easyproxy.model import Address, Snapshot

_ROOT = Path("/proc/sys")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, in the notation of sysctl(8), and why it is wanted."""

    name: str
    value: str
    why: str
    is_needed: bool = True
    """Without it the kernel does not serve; otherwise something is only not seen."""

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

    @property
    def is_met(self) -> bool:
        """Whether it is as wanted."""
        return self.read() == self.value

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
ALWAYS = (ACCOUNTING, LOOSE)


def needed(snapshot: Snapshot) -> list[Setting]:
    """List what a snapshot depends on."""
    wanted = list(ALWAYS)
    for listener in snapshot.listeners:
        pool = snapshot.pool_by_name[listener.pool]
        here = _is_loopback(listener.bind)
        for backend in pool.backends:
            there = _is_loopback(backend.address)
            if not there:
                wanted.append(FORWARD if family_of(backend.address) == 4 else FORWARD_6)
            if family_of(backend.address) == 4 and (here != there or is_any(listener)):
                # A listener on every address serves others without it.
                wanted.append(replace(LOCALNET, is_needed=here or not is_any(listener)))
    return list(dict.fromkeys(wanted))


def _is_loopback(address: Address) -> bool:
    return address.host == "::1" or address.host.startswith("127.")


class Settings:
    """Sees to settings; ``manages`` allows it to set them, and then :meth:`restore` puts them back."""

    def __init__(self, *, manages: bool) -> None:
        self._manages = manages
        self._former: dict[Setting, str] = {}

    def ensure(self, wanted: list[Setting]) -> list[str]:
        """Set what is missing, if allowed. Return what is missing and can be lived without.

        Raises:
            EngineError: something needed is missing; the message has the commands.
        """
        missing = [setting for setting in wanted if not setting.is_met]
        if self._manages:
            for setting in missing:
                former = setting.read()
                try:
                    setting.path.write_text(setting.value)
                except OSError as error:
                    raise EngineError(
                        f"cannot set {setting.name}={setting.value}: {error.strerror}"
                    ) from error
                self._former.setdefault(setting, former)
            return []
        fatal = [str(setting) for setting in missing if setting.is_needed]
        if fatal:
            raise EngineError(
                f"the kernel is not set up for this: {'. '.join(fatal)} (or allow it with kernel: {{manage_sysctl: true}})"
            )
        return [str(setting) for setting in missing]

    def restore(self) -> None:
        """Put back what :meth:`ensure` has set."""
        for setting, former in self._former.items():
            setting.path.write_text(former)
        self._former.clear()
