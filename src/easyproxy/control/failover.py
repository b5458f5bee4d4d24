"""Who takes writes: a judgement over what the servers of one pool say, and what follows for sessions. Pure.

A server is believed when it says that it is the primary. The questions are what to do when none says so, and when two do: after a
failover an old primary may come back and not know better (split brain), and whatever is written to it is lost or has to be merged by hand.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from easyproxy.config.roles import SPLIT_BRAIN
from easyproxy.control.roles import PRIMARY, REPLICA

REFUSE, KEEP, FIRST = SPLIT_BRAIN
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Server:
    """One backend as this judgement sees it.

    Attributes:
        is_ready: healthy, and its operator lets it serve.
        is_doubtful: it has not answered its last probe; its verdict may be about to change.
        role: what it said last.
        timeline: of PostgreSQL; 0 where there is none.
    """

    id: str
    is_ready: bool
    role: str
    timeline: int = 0
    is_doubtful: bool = False

    @property
    def claims(self) -> bool:
        """Whether it says that it is the primary, and could be."""
        return self.is_ready and self.role == PRIMARY


@dataclass(frozen=True, slots=True)
class Decision:
    """Who may take writes, and why.

    Attributes:
        writers: ids; more than one only without a fence.
        why: in words.
        is_split: several say that they are the primary, and nothing decides between them.
        rivals: who also says that it is the primary, has just confirmed it, and gets no writes.
    """

    writers: tuple[str, ...]
    why: str
    is_split: bool = False
    rivals: tuple[str, ...] = ()


@dataclass(slots=True)
class Post:
    """How writes stand in one pool.

    Attributes:
        writers: who takes them now.
        former: who may still have sessions from when it took them.
        since: when ``writers`` last changed, in seconds since the epoch.
        why: in words.
        is_split: several servers say that they are the primary, and nothing decides.
        rivals: who says so too, while another takes writes.
        closing: whose sessions are being closed.
    """

    writers: tuple[str, ...] = ()
    former: set[str] = field(default_factory=set)
    since: float = 0.0
    why: str = ""
    is_split: bool = False
    rivals: tuple[str, ...] = ()
    closing: set[str] = field(default_factory=set)


def judge(
    servers: Sequence[Server], current: Collection[str], *, fence: bool = True, split_brain: str = REFUSE
) -> Decision:
    """Decide who takes writes.

    Args:
        servers: of the pool, in the configuration's order.
        current: who has taken writes so far.
        fence: at most one server at a time takes writes.
        split_brain: what decides between two where timelines do not: nobody (``refuse``), the one that has served so far
            (``keep``), the configuration's order (``first``).

    >>> a, b = Server("p/a", True, "primary", timeline=1), Server("p/b", True, "primary", timeline=2)
    >>> judge([a, b], ["p/a"])
    Decision(writers=('p/b',), why='p/b is on timeline 2, p/a on 1', is_split=False, rivals=('p/a',))
    """
    claimants = [server for server in servers if server.claims]
    if not claimants:
        return Decision((), _why_none(servers))
    if len(claimants) == 1:
        return Decision((claimants[0].id,), f"{claimants[0].id} says that it is the primary")
    if not fence:
        return Decision(tuple(one.id for one in claimants), "several say so, and there is no fence")
    rivals = claimants
    if all(one.timeline for one in claimants):
        newest = max(one.timeline for one in claimants)
        rivals = [one for one in claimants if one.timeline == newest]
        if len(rivals) == 1:
            behind = ", ".join(f"{one.id} on {one.timeline}" for one in claimants if one is not rivals[0])
            why = f"{rivals[0].id} is on timeline {newest}, {behind}"
            return Decision((rivals[0].id,), why, rivals=_but(rivals[0], claimants))
    return _between(rivals, current, split_brain)


def _between(claimants: Sequence[Server], current: Collection[str], split_brain: str) -> Decision:
    names = " and ".join(one.id for one in claimants)
    serving = [one for one in claimants if one.id in current]
    chosen: Server | None = None
    why = ", and nothing decides between them"
    if split_brain == FIRST:
        chosen, why = claimants[0], "; the first of the configuration is"
    elif split_brain == KEEP and len(serving) == 1:
        chosen, why = serving[0], f"; {serving[0].id} stays the one"
    silent = [one for one in claimants if one.is_doubtful]
    if (chosen is None or chosen.is_doubtful) and silent and len(silent) < len(claimants):
        # One of them is probably gone, and a few probes will tell. Until then neither gets writes.
        said = f"{silent[0].id} has not confirmed it, and another says that it is the primary"
        return Decision((), f"{said}: its verdict is waited for")
    text = f"{names} say that they are the primary{why}"
    if chosen is None:
        return Decision((), text, is_split=True)
    # With the first of the configuration it is usual that all of them say so (Galera).
    return Decision((chosen.id,), text, rivals=() if split_brain == FIRST else _but(chosen, claimants))


def _but(chosen: Server, claimants: Sequence[Server]) -> tuple[str, ...]:
    return tuple(one.id for one in claimants if one is not chosen and not one.is_doubtful)


def _why_none(servers: Sequence[Server]) -> str:
    if not servers:
        return "the pool has no server"
    groups = (
        ("not ready", [one for one in servers if not one.is_ready]),
        ("replica", [one for one in servers if one.is_ready and one.role == REPLICA]),
        ("silent about it", [one for one in servers if one.is_ready and not one.role]),
    )
    said = [f"{_names(found)}: {word}" for word, found in groups if found]
    return f"no server says that it is the primary ({'; '.join(said)})"


def _names(servers: Sequence[Server]) -> str:
    shown = ", ".join(one.id for one in servers[:_SHOWN])
    return f"{shown} and {len(servers) - _SHOWN} more" if len(servers) > _SHOWN else shown


def to_close(former: Collection[str], decision: Decision, servers: Sequence[Server]) -> set[str]:
    """Say whose sessions have to end before anything else: those of servers that have taken writes and may not any more.

    A server that is only silent keeps its sessions until another takes its place: it may answer again.
    """
    by_id = {server.id: server for server in servers}
    owed = set()
    for id_ in set(former) - set(decision.writers):
        server = by_id.get(id_)
        is_demoted = server is not None and server.role == REPLICA and not server.is_doubtful
        if decision.writers or decision.is_split or is_demoted:
            owed.add(id_)
    return owed
