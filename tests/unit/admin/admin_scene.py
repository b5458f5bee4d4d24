"""A balancer with something of everything, at a moment that stands still."""

from __future__ import annotations

from dataclasses import replace

from admin_balancer import MemoryBalancer

from easyproxy.control.status import (
    BackendStatus,
    ClientStatus,
    ListenerStatus,
    PoolStatus,
    ProbeStatus,
    Status,
)
from easyproxy.engine.seam import BackendCounters, ListenerCounters, SessionInfo

NOW = 1_700_000_000.0


def backend(
    name: str, state: str = "ready", reason: str = "2 probes in a row succeeded", **more
) -> BackendStatus:
    default = BackendStatus(
        id=f"web/{name}",
        name=name,
        address="10.0.0.1:80",
        state=state,
        since=NOW - 90,
        reason=reason,
        weight=1,
        effective_weight=1.0,
        max_sessions=0,
        backup=False,
        last_probe=ProbeStatus(NOW - 1, "success", "connected", 0.0004),
        last_error="",
        last_error_at=0.0,
        counters=BackendCounters(
            sessions=3, total=1234, bytes_from_client=2048, bytes_from_backend=3 * 2**20
        ),
    )
    return replace(default, **more)


def pool(*backends: BackendStatus, name: str = "web") -> PoolStatus:
    return PoolStatus(name=name, strategy="round_robin", check="tcp every 2 s", queued=0, backends=backends)


def status(*pools: PoolStatus) -> Status:
    return Status(
        version="1.2.3",
        started_at=NOW - 7300,
        now=NOW,
        engine="relay",
        workers=2,
        worker_restarts=0,
        listeners=(
            ListenerStatus("front", "127.0.0.1:9527", "web", 100, ListenerCounters(sessions=5, accepted=77)),
        ),
        pools=pools or (pool(backend("a"), backend("b")),),
        ends={"clean": 70, "client_reset": 2},
        lost_reports=0,
    )


class Scene(MemoryBalancer):
    """A balancer with sessions and clients, whose status a test sets (``now``)."""

    def __init__(self, now: Status | None = None) -> None:
        super().__init__(now or status())
        self.live_clients = [ClientStatus("10.1.0.1", 4, 100, 2000), ClientStatus("10.1.0.2", 1, 10, 20)]
        self.live_sessions = [
            SessionInfo(
                f"0-{number}", "front", "web/a", f"10.1.0.1:{50000 + number}", "relaying", 9.0, 1.0, 5, 6, 0
            )
            for number in range(12)
        ]
