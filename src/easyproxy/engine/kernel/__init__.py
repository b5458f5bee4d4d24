"""The kernel engine: nftables forwards packets, and this program only says where.

What the rest of EasyProxy uses stands here. The way through: ``engine`` takes a snapshot, ``reach`` says what cannot be had,
``slots`` and ``ruleset`` turn it into text, ``nft`` puts that in force. ``sight`` looks at flows and ends them: ``conntrack`` reads
them, ``ledger`` says what they mean, ``counts`` tells it, ``poke`` makes the end prompt. ``shortcut`` is what packets of established flows may take.
"""

from __future__ import annotations

from easyproxy.engine.kernel import conntrack
from easyproxy.engine.kernel.engine import KernelEngine
from easyproxy.engine.kernel.nft import NO_PRIVILEGE, Nft
from easyproxy.engine.kernel.ruleset import NOTES
from easyproxy.engine.kernel.settings import ALWAYS, FORWARD, LIBERAL, Settings, needed
from easyproxy.engine.kernel.shortcut import Shortcut, obstacle
from easyproxy.errors import EngineError
from easyproxy.model import Snapshot

__all__ = ["KernelEngine", "Shortcut", "clean", "requirements"]


def requirements(
    snapshot: Snapshot | None = None,
    *,
    manages: bool = False,
    only_vital: bool = False,
    shortcut: bool = True,
) -> list[str]:
    """List what this machine lacks for the kernel engine, each with its remedy; empty when all is there.

    Args:
        snapshot: what it is to serve; without, what depends on that (IPv6, loopback addresses) is left out.
        manages: whether the engine may set kernel settings itself; then those are not missing.
        only_vital: leave out what it can live without.
        shortcut: whether the shortcut is wanted.
    """
    missing = []
    try:
        Nft().exists()
        if not conntrack.is_permitted():
            missing.append(NO_PRIVILEGE)
    except EngineError as error:
        missing.append(str(error))
    if not manages:
        extra = [LIBERAL] if shortcut else []
        wanted = [FORWARD, *ALWAYS, *extra] if snapshot is None else needed(snapshot, shortcut=shortcut)
        wanted = [setting for setting in wanted if setting.is_needed or not only_vital]
        missing += [str(setting) for setting in wanted if not setting.is_met]
    if shortcut and not only_vital and (why := obstacle()):
        missing.append(f"established sessions go the kernel's long way, without the shortcut: {why}")
    return missing


def clean() -> list[str] | None:
    """Remove everything of ours from the kernel; return the settings that were put back; None where there was nothing.

    Sessions that the kernel still forwards for us are broken by that. Raises EngineError.
    """
    rules, settings = Nft(), Settings(manages=True)
    settings.adopt(rules.comments(NOTES))
    restored = settings.restore()
    return restored if rules.remove() else None
