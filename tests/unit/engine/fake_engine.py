"""An engine that moves nothing, and keeps every promise of the seam: whole snapshots, refusals that change nothing."""

from __future__ import annotations

from easyproxy.engine.seam import BackendCounters, ListenerCounters, SessionEnd, SessionInfo, Statistics
from easyproxy.errors import EngineError
from easyproxy.model import Snapshot


class FakeEngine:
    """It notes in ``log``, which engines may share, what is done to it."""

    def __init__(self, name, strategies=("round_robin",), log=None):
        self.name = name
        self.strategies = frozenset(strategies)
        self.log = [] if log is None else log
        self.snapshot = Snapshot(0)
        self.refuses = []  # a message for each apply; "" is none
        self.cannot_start = ""
        self.stop_raises = False
        self.taker = self.sink = None
        self.live: list[SessionInfo] = []
        self.ended: list[SessionEnd] = []
        self.counted = Statistics()
        self.on_apply = lambda: None

    def note(self, what):
        self.log.append(f"{self.name} {what}")

    async def start(self, sink):
        self.note("start")
        if self.cannot_start:
            raise EngineError(self.cannot_start)
        self.sink = sink

    def apply(self, snapshot):
        if snapshot == self.snapshot:
            return
        if self.refuses and (why := self.refuses.pop(0)):
            raise EngineError(why)
        self.note("apply")
        self.on_apply()
        self.snapshot = snapshot

    async def settled(self):
        self.note("settled")

    def addresses(self):
        return {one.name: str(one.bind) for one in self.snapshot.listeners}

    def statistics(self):
        return self.counted

    def process_ids(self):
        return {f"{self.name} 0": 1}

    async def sessions(self):
        return self.live

    async def recent_ends(self, where):
        return [end for end in self.ended if where.backend in ("", end.backend)]

    def tell_every_session(self, taker):
        self.taker = taker

    async def stacks(self):
        return {f"{self.name} 0": "at work"}

    async def close_sessions(self, where, reason="operator"):
        gone = [one for one in self.live if where.backend in ("", one.backend)]
        self.live = [one for one in self.live if one not in gone]
        self.note(f"close {reason}")
        return len(gone)

    async def drain(self, deadline_s):
        self.note(f"drain {deadline_s:g}")

    async def stop(self):
        self.note("stop")
        if self.stop_raises:
            raise EngineError(f"{self.name} has trouble")

    async def leave_to_successor(self):
        self.note("leave to successor")


class FakeRelay(FakeEngine):
    """One that can hand its sessions over, too."""

    can_hand_over = True
    worker_count = 2
    shared = frozenset()

    def share_ports(self, ports):
        self.shared = frozenset(ports)

    def totals(self):
        return {"slots": {}}

    def session_count(self):
        return len(self.live)

    def legacy(self):
        return [({"op": "workers"}, [])]

    def keys(self):
        return [f"listener:{one.name}" for one in self.snapshot.listeners]

    async def give(self, links, within_s):  # noqa: ARG002 - the seam's
        self.note("give")
        return len(links)

    async def thaw(self):
        self.note("thaw")
        return 0

    async def leave(self, dropped):
        self.note(f"leave {list(dropped)}")
        return 3

    def dropped(self):
        return ["gone"]

    async def adopt(self, links, keys, within_s):  # noqa: ARG002 - as above
        self.note("adopt")
        return len(links)

    async def wake(self, totals):
        self.note(f"wake {totals}")
        return 7


def session(name, backend, engine):
    return SessionInfo(
        name, "l", backend, "10.0.0.9:1", "relaying", 1.0, 0.0, 10, 20, worker=0, engine=engine
    )


def end(name, backend, started_at):
    return SessionEnd(name, "l", backend, "10.0.0.9:1", "client_fin", 1.0, 10, 20, started_at=started_at)


def counted(backend, sessions, listener="l", **more):
    return Statistics(
        listeners={listener: ListenerCounters(sessions=sessions, accepted=sessions)},
        backends={backend: BackendCounters(sessions=sessions, total=sessions)},
        **more,
    )
