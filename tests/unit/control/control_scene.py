"""A registry whose backends a test puts into states, with the status that follows."""

from __future__ import annotations

from easyproxy.config.load import from_dict
from easyproxy.control.overview import overview
from easyproxy.control.registry import Registry
from easyproxy.control.simulate import simulate
from easyproxy.engine.seam import BackendCounters, Observation, Outcome, Statistics
from easyproxy.strategy import Context, load
from easyproxy.strategy.tiers import Tiers

THREE = ({"name": "a"}, {"name": "b", "weight": 2}, {"name": "c"})


class Scene:
    """A registry whose backends a test puts into states."""

    def __init__(self, strategy: str = "round_robin", *backends: dict[str, object], **pool: object) -> None:
        made = [
            {"name": name, "address": f"10.0.0.{number}:1"} | more
            for number, (name, more) in enumerate(
                [(one.pop("name"), one) for one in [dict(each) for each in backends]], 1
            )
        ]
        self.registry = Registry(
            from_dict(
                {
                    "listeners": [{"name": "l", "bind": "127.0.0.1:9000", "pool": "p"}],
                    "pools": {"p": {"strategy": strategy, "backends": made, **pool}},
                }
            )
        )
        self.sessions: dict[str, int] = {}
        self.queued = 0
        for name in self.registry.entries:
            self.see(name, Outcome.SUCCESS, "connected")

    def see(self, backend: str, outcome: Outcome, detail: str) -> None:
        for _ in range(3):
            self.registry.observe(Observation(backend, outcome, detail, 100.0), now=100.0)

    def status(self):
        counters = {name: BackendCounters(sessions=count) for name, count in self.sessions.items()}
        statistics = Statistics(backends=counters, queued={"p": self.queued})
        return overview(self.registry, statistics, {}, engine="relay", started_at=0, now=200.0, clock=200.0)

    def ask(self, client: str = "10.0.0.9", **more):
        [choice] = simulate(self.registry.snapshot(200.0), self.status(), client, **more)
        return choice

    def ranked(self, client: str = "10.0.0.9", **more) -> list[str]:
        return [one.backend for one in self.ask(client, **more).candidates if one.rank]

    def engine_order(self, client: str) -> list[str]:
        """Ask as a worker of the engine does."""
        [pool] = self.registry.snapshot(200.0).pools
        context = Context(lambda: 0, lambda backend: self.sessions.get(backend.id, 0), lambda: 0.5)
        return [one.id for one in Tiers(load(pool.strategy), context, pool.backends).candidates(client)]
