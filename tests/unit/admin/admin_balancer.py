"""A balancer in memory: all of Operations, true to its protocol, over a status that stands still."""

from __future__ import annotations

from dataclasses import replace

from easyproxy.config.load import from_dict, loads
from easyproxy.control.events import Events, Kind
from easyproxy.control.naming import find_backend
from easyproxy.control.operations import (
    Action,
    Author,
    Candidate,
    Choice,
    Difference,
    Explanation,
    Override,
    Plan,
    RefusedError,
    ReloadState,
    Stacks,
    UnknownError,
)
from easyproxy.control.simulate import client_host
from easyproxy.control.status import BackendStatus, ClientStatus, ProbeStatus, Status
from easyproxy.engine.seam import BackendCounters, SessionInfo, Statistics, Where

STANCES = {Action.DRAIN: "draining", Action.MAINTENANCE: "maintenance"}
SLOTS = ({Action.DRAIN, Action.MAINTENANCE}, {Action.WEIGHT}, {Action.ADD, Action.REMOVE})


class MemoryBalancer:
    """Sessions and the file are what a test puts in; everything else follows from what is asked of it.

    Attributes:
        now: the status without any override.
        file: the text of its configuration file, in YAML.
        calls: every change that was asked for, whether it was made or not.
    """

    def __init__(self, now: Status) -> None:
        self.now = now
        self.file = (
            "listeners: [{bind: '127.0.0.1:9527', pool: web}]\npools: {web: {backends: ['10.0.0.1:80']}}\n"
        )
        self.live_sessions: list[SessionInfo] = []
        self.live_clients: list[ClientStatus] = []
        self.happened = Events(lambda: self.now.now)
        self.calls: list[tuple[str, Author]] = []
        self._overrides: list[Override] = []
        self._made = 0
        self._reload = ReloadState()

    # -- View

    def status(self) -> Status:
        pools = []
        for pool in self.now.pools:
            backends = [self._seen(one) for one in pool.backends if not self._laid(one.id, Action.REMOVE)]
            backends += [
                self._seen(_added(one, self.now.now))
                for one in self._overrides
                if one.action is Action.ADD and one.backend.partition("/")[0] == pool.name
            ]
            pools.append(replace(pool, backends=tuple(backends)))
        return replace(self.now, pools=tuple(pools))

    def statistics(self) -> Statistics:
        return Statistics()

    def processes(self) -> dict[str, int]:
        return {}

    async def sessions(self) -> list[SessionInfo]:
        return list(self.live_sessions)

    async def clients(self) -> list[ClientStatus]:
        return list(self.live_clients)

    # -- reading

    def events(self, after=0, limit=200):
        return self.happened.newest(after, limit)

    def follow_events(self):
        return self.happened.follow()

    def overrides(self):
        return list(self._overrides)

    def effective_config(self):
        return loads(self.file, "yaml").model_dump(mode="json")

    def reload_state(self):
        return self._reload

    async def explain(self, kind, subject):
        if kind == "backend":
            found = self._backend(subject)
            return Explanation(kind, found.id, f"{found.id} is {found.state}", (found.reason,))
        rows = [
            row
            for row in self.live_sessions
            if subject == (row.id if kind == "session" else row.client.rpartition(":")[0])
        ]
        if not rows and kind == "session":
            raise UnknownError(f"there is no session {subject} (any more)")
        session = rows[0] if kind == "session" else None
        choice = self.simulate(subject)[0] if kind == "client" else None
        return Explanation(
            kind, subject, f"{len(rows)} sessions", (), tuple(self.events()), session=session, choice=choice
        )

    def simulate(self, client, *, pool="", without=frozenset()):
        client_host(client)  # raises RefusedError
        status = self.status()
        if pool and pool not in {one.name for one in status.pools}:
            raise UnknownError(f"there is no pool {pool}")
        left_out = {self._backend(name).id for name in without}
        return [
            Choice(
                one.name,
                one.strategy,
                client,
                tuple(
                    Candidate(
                        backend.id,
                        0 if backend.id in left_out else rank,
                        "left out" if backend.id in left_out else "",
                    )
                    for rank, backend in enumerate(one.backends, 1)
                ),
                is_certain=True,
            )
            for one in status.pools
            if pool in ("", one.name)
        ]

    async def stacks(self):
        return Stacks({"control": "thread MainThread:\n  here\n", "relay 0": "thread MainThread:\n  there\n"})

    # -- changing

    async def override(self, backend, action, author, *, value=None, ttl_s=0.0, deadline_s=0.0):
        self.calls.append((f"{action} {backend}", author))
        if action is Action.ADD:
            pool, _, name = backend.partition("/")
            if pool not in {one.name for one in self.now.pools}:
                raise UnknownError(f"there is no pool {pool}")
            if backend in self._ids():
                raise RefusedError(f"there is a backend {name} already")
        else:
            backend = self._backend(backend).id
        self._made += 1
        fresh = Override(
            f"o{self._made}",
            backend,
            action,
            author,
            self.now.now,
            value=value,
            until=self.now.now + ttl_s if ttl_s else 0.0,
            deadline=self.now.now + deadline_s if deadline_s else 0.0,
        )
        slot = next(slot for slot in SLOTS if action in slot)
        self._overrides = [one for one in self._overrides if one.backend != backend or one.action not in slot]
        self._overrides.append(fresh)
        self.happened.add(Kind.OVERRIDE_SET, backend, f"{action} of {backend}", author=author)
        return fresh

    async def restore(self, backend, author):
        self.calls.append((f"restore {backend}", author))
        backend = self._backend(backend).id
        gone = [one for one in self._overrides if one.backend == backend and one.action in STANCES]
        for one in gone:
            self._take_away(one, author)
        return gone

    async def forget(self, override, author):
        self.calls.append((f"forget {override}", author))
        for one in self._overrides:
            if one.id == override:
                self._take_away(one, author)
                return one
        raise UnknownError(f"there is no override {override}")

    async def close_sessions(self, where, author):
        self.calls.append((f"close {where}", author))
        if where == Where():
            raise RefusedError("say which sessions: by id, client, backend or listener")
        ending = [row for row in self.live_sessions if _matches(row, where)]
        if not ending and where.id:
            raise UnknownError(f"there is no session {where.id} (any more)")
        self.live_sessions = [row for row in self.live_sessions if row not in ending]
        return len(ending)

    async def plan(self, text=None, form="yaml"):
        loads(self.file if text is None else text, form)  # raises ConfigError
        found = () if text is None else (Difference("setting", "text", "changed", "as given"),)
        return Plan("easyproxy.yaml" if text is None else "text", found)

    async def reload_file(self, author, *, rollback_after_s=0.0):
        self.calls.append(("reload", author))
        found = await self.plan()
        until = self.now.now + rollback_after_s if rollback_after_s else 0.0
        self._reload = ReloadState(self.now.now, "applied", "", until)
        return found

    async def confirm(self, author):
        return self._decide("confirm", "confirmed", author)

    async def rollback(self, author):
        return self._decide("rollback", "rolled_back", author)

    async def upgrade(self, author):
        self.calls.append(("upgrade", author))
        return "version 9.9.9, process 4711"

    # -- inside

    def _decide(self, what, outcome, author):
        self.calls.append((what, author))
        if not self._reload.confirm_until:
            raise RefusedError("nothing waits to be confirmed")
        self._reload = replace(self._reload, outcome=outcome, confirm_until=0.0)
        return self._reload

    def _ids(self):
        return {backend.id: backend for pool in self.status().pools for backend in pool.backends}

    def _backend(self, name) -> BackendStatus:
        found = self._ids()
        return found[find_backend(name, found)]

    def _laid(self, backend, *actions):
        return [one for one in self._overrides if one.backend == backend and one.action in actions]

    def _seen(self, backend: BackendStatus) -> BackendStatus:
        for one in self._laid(backend.id, *STANCES):
            backend = replace(
                backend, state=STANCES[one.action], reason=f"{one.author.who}: {one.author.why}"
            )
        for one in self._laid(backend.id, Action.WEIGHT):
            backend = replace(backend, weight=one.value, effective_weight=float(one.value))
        return replace(backend, overrides=tuple(one.id for one in self._laid(backend.id, *Action)))

    def _take_away(self, override, author):
        self._overrides.remove(override)
        self.happened.add(
            Kind.OVERRIDE_FORGOTTEN, override.backend, f"{override.action} forgotten", author=author
        )


def _matches(row: SessionInfo, where: Where) -> bool:
    host = row.client.rpartition(":")[0]
    pairs = (
        (where.id, row.id),
        (where.client, host),
        (where.backend, row.backend),
        (where.listener, row.listener),
    )
    return all(not wanted or wanted == found for wanted, found in pairs)


def _added(override: Override, now: float) -> BackendStatus:
    found = (
        from_dict(
            {
                "listeners": [{"bind": "127.0.0.1:0", "pool": "p"}],
                "pools": {"p": {"backends": [override.value]}},
                "admin": "off",
            }
        )
        .pools["p"]
        .backends[0]
    )
    return BackendStatus(
        id=override.backend,
        name=found.name,
        address=str(found.address),
        state="checking",
        since=override.at,
        reason="not probed yet",
        weight=found.weight,
        effective_weight=float(found.weight),
        max_sessions=found.max_sessions,
        backup=found.backup,
        last_probe=ProbeStatus(now, "success", "", 0.0),
        last_error="",
        last_error_at=0.0,
        counters=BackendCounters(),
    )
