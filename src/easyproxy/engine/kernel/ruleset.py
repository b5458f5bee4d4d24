"""The rules for a snapshot, as the text of one nft transaction. Pure: nothing here runs nft or reads the system.

Everything stands in one table of our own. A transaction empties its chains and fills them anew, so packets meet the old
rules or the new ones and nothing in between; counters, and the sets that count sessions, stay while they are wanted.
NAT rules see only the first packet of a flow: no change of them touches a living session.

The way of a first packet: ``prerouting`` (from elsewhere) or ``output`` (from this machine) looks up the listener, whose chain
refuses or goes on to the pool's chain, which draws a slot and goes to the backend's chain, which rewrites the address.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil

from easyproxy.engine.kernel.reach import FAMILIES, families_of, family_of, is_any, is_loopback
from easyproxy.engine.kernel.slots import owners
from easyproxy.model import Address, Backend, Listener, Pool, Rate, Snapshot
from easyproxy.strategy.hashing import hash_name

TABLE = "easyproxy"
POKE_MARK = 0x45505259
"""Packets with this mark are our own questions to a client whose session was closed; see ``poke``."""

_FOR_EVER_S = 432_000  # five days, the kernel's own for established flows
_FINISHED_S, CLOSED_S = 2, 10
"""How long the kernel remembers a flow whose ends have both finished, or one that was reset. Its own two minutes would fill the
table with the dead, and each look at the flows goes through all of them."""
_SEED = 0x5EED
MAX_CLOSING = 30_000
"""How many closed sessions at once have their backends told in transparent mode."""
MAX_CLIENTS = 65_536
"""Addresses of clients whose rates are followed at the same time, for each listener and family."""
MAX_UNUSED = 4096
"""Counts of backends and listeners that are not there now, and may come back; where more have gathered, all are dropped."""
NOTES = "notes"
"""A chain that no packet meets: what comments of its rules say lives as long as our rules, also when we are killed."""
KINDS = ("chain", "counter", "set", "ct timeout")
"""Of objects that stand in the table beside its rules."""
EDITION = "edition=3"
"""The note of a table whose objects we may go on with. Raise it when what an object is changes and its name does not."""
_HOOKS = {
    "prerouting": "type nat hook prerouting priority dstnat;",
    "output": "type nat hook output priority -100;",
    "postrouting": "type nat hook postrouting priority srcnat;",
    "pokes": "type filter hook output priority raw;",
}
_GUARDS = {
    # What is not translated comes to this machine where backends answer us, and no forwarded packet has to meet the rules.
    "masquerade": ("input", "type filter hook input priority filter;"),
    "transparent": ("before", "type filter hook prerouting priority filter;"),
}
"""A chain of rules against packets that would go untranslated to whom they are not for; by ``Options.source``."""
_IP = {4: "ip", 6: "ip6"}


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for all listeners.

    Attributes:
        source: ``masquerade`` or ``transparent``.
        is_draining: nobody is taken.
        notes: short texts that stand with the rules for whoever comes after us.
        full: backends, by id, that have as many sessions as they may, as far as is known: the others are drawn.
        unseen_s: for how long packets of a flow may go by unseen by conntrack; it must not think them idle meanwhile.
    """

    source: str = "masquerade"
    is_draining: bool = False
    notes: tuple[str, ...] = ()
    full: frozenset[str] = frozenset()
    unseen_s: int = 0

    @property
    def guard(self) -> str:
        """The chain of ``_GUARDS``."""
        return _GUARDS[self.source][0]


@dataclass(frozen=True, slots=True)
class Layout:
    """A rendered transaction, and what stands after it.

    Attributes:
        text: the transaction.
        objects: (kind, name) pairs.
        rules: as they were added, in order.
    """

    text: str
    objects: frozenset[tuple[str, str]] = frozenset()
    rules: tuple[str, ...] = ()

    def leaves_as_it_is(self, former: Layout | None) -> bool:
        """Whether nothing would be otherwise after it than it is after the former one."""
        return former is not None and (self.objects, self.rules) == (former.objects, former.rules)


@dataclass(slots=True)
class _Draft:
    """Objects in the order in which they must be made, and the rules of every chain."""

    objects: dict[tuple[str, str], str] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)

    def chain(self, name: str, hook: str = "") -> str:
        self.objects["chain", name] = f" {{ {hook} }}" if hook else ""
        return name

    def counter(self, name: str) -> str:
        self.objects["counter", name] = ""
        return f'counter name "{name}"'

    def rule(self, chain: str, text: str, comment: str = "") -> None:
        # Names are an operator's free text; whatever could end the quotation or the line is left out.
        safe = re.sub(r"[^\w.:/=\[\] -]", "_", comment, flags=re.ASCII)[:100]
        self.rules.append(f"add rule inet {TABLE} {chain} {text}" + (f' comment "{safe}"' if safe else ""))


def key_of(name: str) -> str:
    """Short form of a name, the same in every run, that nft takes as an identifier."""
    return f"{hash_name(name):016x}"


def drawn(pool: Pool, family: int, full: Collection[str] = ()) -> list[Backend]:
    """List those who get new sessions: of the backends that have room, or else of all, those of the lowest priority number."""
    able = [backend for backend in pool.backends if family_of(backend.address) == family]
    able = [backend for backend in able if backend.id not in full] or able
    first = min((backend.priority for backend in able), default=0)
    return [backend for backend in able if backend.priority == first]


def render(snapshot: Snapshot, options: Options, former: Layout | None = None) -> Layout:
    """Write the transaction that puts a snapshot in force, given what the last one has left.

    Without ``former`` nothing is known about the table, so it is made anew. Listeners must have numeric addresses and
    ports, and :func:`refusals` must have found nothing.
    """
    draft = _Draft()
    for name, hook in _HOOKS.items():
        draft.chain(name, hook)
    draft.chain(*_GUARDS[options.source])
    pools = [snapshot.pool_by_name[name] for name in dict.fromkeys(item.pool for item in snapshot.listeners)]
    for pool in pools:
        for family in FAMILIES:
            _pool(draft, pool, family, options)
    for listener in snapshot.listeners:
        for family in families_of(listener):
            _listener(draft, listener, snapshot.pool_by_name[listener.pool], family, options)
    if options.source == "transparent":
        _strays(draft, options)
    # Nothing below is about a packet of a translated flow, as nearly all are.
    draft.rule(options.guard, "ct status dnat accept")
    _entrances(draft, snapshot.listeners, options)
    for pool in pools:
        for family in FAMILIES:
            _source(draft, snapshot, pool, family, options)
    # Loopback addresses are nobody's business elsewhere, also where ``route_localnet`` lets us forward to them.
    draft.rule(
        options.guard, 'iifname != "lo" ip daddr 127.0.0.0/8 meta l4proto tcp ct status & dnat == 0 drop'
    )
    draft.rule("pokes", f"meta mark {POKE_MARK:#x} notrack")
    draft.chain(NOTES)
    _note(draft, (EDITION, *options.notes))
    lines = [f"add table inet {TABLE}"]
    if former is None:
        lines += [f"delete table inet {TABLE}", f"add table inet {TABLE}"]
    else:
        lines.append(f"flush table inet {TABLE}")
    known = former.objects if former is not None else frozenset()
    lines += [
        f"add {kind} inet {TABLE} {name}{details}"
        for (kind, name), details in draft.objects.items()
        if (kind, name) not in known
    ]
    lines += draft.rules
    kept = _unused(known, draft) | draft.objects.keys()
    lines += [f"delete {kind} inet {TABLE} {name}" for kind, name in sorted(known - kept)]
    return Layout("\n".join(lines) + "\n", frozenset(kept), tuple(draft.rules))


def _unused(known: frozenset[tuple[str, str]], draft: _Draft) -> set[tuple[str, str]]:
    """Say what nobody uses now and what is kept all the same: a backend that comes back has the sessions that it had."""
    counting = {name.partition("_")[0] for kind, name in draft.objects if kind == "set"}
    unused = {
        (kind, name)
        for kind, name in known - draft.objects.keys()
        if kind == "counter" or (kind == "set" and name[0] == "n" and name.partition("_")[0] not in counting)
    }
    return unused if len(unused) <= MAX_UNUSED else set()


def noting(notes: Iterable[str]) -> str:
    """Write a transaction that puts these notes in the place of the former ones, and makes the table if there is none."""
    draft = _Draft()
    _note(draft, notes)
    chain = f"chain inet {TABLE} {NOTES}"
    return "\n".join([f"add table inet {TABLE}", f"add {chain}", f"flush {chain}", *draft.rules, ""])


def _note(draft: _Draft, notes: Iterable[str]) -> None:
    for note in notes:
        draft.rule(NOTES, "return", note)


def _pool(draft: _Draft, pool: Pool, family: int, options: Options) -> None:
    """Draw a slot. The chain is shared by the listeners of the pool, and so are its turns."""
    backends = drawn(pool, family, options.full)
    if not backends:
        return
    chain = draft.chain(f"p{key_of(pool.name)}_{family}")
    targets = [_backend(draft, backend) for backend in backends]
    if len(targets) == 1:
        draft.rule(chain, f"goto {targets[0]}", pool.name)
        return
    table = owners(pool.strategy, tuple(backends))
    match pool.strategy:
        case "round_robin":
            draw = f"numgen inc mod {len(table)}"
        case "random":
            draw = f"numgen random mod {len(table)}"
        case _:
            draw = f"jhash {_IP[family]} saddr mod {len(table)} seed {_SEED:#x}"
    slots = ", ".join(f"{slot} : goto {targets[owner]}" for slot, owner in enumerate(table))
    draft.rule(chain, f"{draw} vmap {{ {slots} }}", pool.name)


def _backend(draft: _Draft, backend: Backend) -> str:
    family = family_of(backend.address)
    key = key_of(backend.id)
    chain = f"b{key}"
    if ("chain", chain) in draft.objects:  # two pools share it
        return chain
    draft.chain(chain)
    counted = draft.counter(chain)
    if family == 6 and not is_loopback(backend.address):
        # IPv6 has no route_localnet: packets from ::1 leave no machine, and the client would wait for ever.
        draft.rule(chain, "ip6 saddr ::1 reject with tcp reset")
    if backend.max_sessions:
        _limit(draft, chain, key, backend.max_sessions, draft.counter(f"b{key}_full"))
    target = str(backend.address)
    draft.rule(
        chain,
        f"meta l4proto tcp {counted} dnat {_IP[family]} to {target}",
        f"{backend.id} at {backend.address}",
    )
    return chain


def _limit(draft: _Draft, chain: str, key: str, limit: int, counted: str) -> None:
    """Refuse what exceeds a number of sessions.

    The count lives in a set, since what a rule counts by itself is forgotten with the rule at the next snapshot. The
    set's element keeps the limit that it was made with, so another limit is another set.
    """
    name = f"n{key}_{limit}"
    draft.objects["set", name] = " { type inet_proto; size 4; flags dynamic; }"
    draft.rule(chain, f"add @{name} {{ meta l4proto ct count over {limit} }} {counted} reject with tcp reset")


def _listener(draft: _Draft, listener: Listener, pool: Pool, family: int, options: Options) -> None:
    key = key_of(listener.name)
    chain = draft.chain(f"l{key}_{family}")
    # A packet from the middle of a session of the relay engine, from before this listener was the kernel's, and from
    # before the kernel followed flows at all: whoever has a socket for it gets it.
    draft.rule(chain, "tcp flags & (fin | syn | rst | ack) != syn socket wildcard 0 accept")
    # A packet from the middle of a session that is no more (closed by us, or forgotten after a silence): its sender
    # is told at once. Without this the kernel would take it for a new session and give it to another backend.
    draft.rule(chain, "tcp flags & (fin | syn | rst | ack) != syn reject with tcp reset", listener.name)
    if not options.is_draining:
        if listener.client_rate is not None:
            _rate(draft, chain, key, listener.client_rate, listener.client_burst, family)
        if listener.max_sessions:
            _limit(draft, chain, key, listener.max_sessions, draft.counter(f"l{key}_full"))
        draft.rule(chain, draft.counter(f"l{key}"))
        if drawn(pool, family):
            draft.rule(chain, f'ct timeout set "{_timeouts(draft, listener, pool, family, options)}"')
            draft.rule(chain, f"goto p{key_of(pool.name)}_{family}")
    draft.rule(chain, f"{draft.counter(f'l{key}_none')} reject with tcp reset")


def _rate(draft: _Draft, chain: str, key: str, rate: Rate, burst: int, family: int) -> None:
    """Refuse a client whose address opens new sessions too often: a token bucket for each address, or /64 of IPv6.

    Like the counts of sessions they live in a set of their own, which stays over snapshots as long as rate and burst do. Who
    has not come for as long as it takes to fill his bucket is forgotten. When the set is full, further addresses are not
    limited: rules go on to the next where they cannot add.
    """
    unit = {1: "second", 60: "minute", 3600: "hour"}[rate.per_s]
    kind, address = (
        ("ipv4_addr", "ip saddr") if family == 4 else ("ipv6_addr", "ip6 saddr & ffff:ffff:ffff:ffff::")
    )
    seconds = ceil(burst * rate.interval_ns / 1e9)
    name = f"r{key}_{rate.count}_{rate.per_s}_{burst}_{family}"
    draft.objects["set", name] = (
        f" {{ type {kind}; size {MAX_CLIENTS}; flags dynamic,timeout; timeout {seconds}s; }}"
    )
    draft.rule(
        chain,
        f"update @{name} {{ {address} limit rate over {rate.count}/{unit} burst {burst} packets }} "
        f"{draft.counter(f'l{key}_rate')} reject with tcp reset",
    )


def _timeouts(draft: _Draft, listener: Listener, pool: Pool, family: int, options: Options) -> str:
    """Silence after which the kernel forgets a flow, by the listener's and the pool's own times; in whole seconds."""
    idle, half, connect = (
        ceil(seconds) + unseen if seconds else _FOR_EVER_S
        for seconds, unseen in (
            (listener.idle_timeout_s, options.unseen_s),
            (listener.half_closed_timeout_s, options.unseen_s),
            (pool.connect_timeout_s, 0),
        )
    )
    name = f"t{idle}_{half}_{connect}_{family}"
    draft.objects["ct timeout", name] = (
        f" {{ protocol tcp; l3proto {_IP[family]}; policy = {{ syn_sent: {connect}, established: {idle}, unack: {idle}, "
        f"fin_wait: {half}, close_wait: {half}, time_wait: {_FINISHED_S}, close: {CLOSED_S} }}; }}"
    )
    return name


def _entrances(draft: _Draft, listeners: Iterable[Listener], options: Options) -> None:
    """Send first packets to their listener's chain; a listener with an address goes before one for every address."""
    named: dict[int, list[str]] = {4: [], 6: []}
    ports: dict[int, list[str]] = {4: [], 6: []}
    for listener in listeners:
        for family in families_of(listener):
            target = f"goto l{key_of(listener.name)}_{family}"
            if is_any(listener):
                ports[family].append(f"{listener.bind.port} : {target}")
            else:
                named[family].append(f"{listener.bind.host} . {listener.bind.port} : {target}")
    for family in FAMILIES:
        ip = _IP[family]
        for chain in ("prerouting", "output"):
            if named[family]:
                draft.rule(chain, f"{ip} daddr . tcp dport vmap {{ {', '.join(named[family])} }}")
            if ports[family]:
                nfproto = f"meta nfproto ipv{family} fib daddr type local"
                draft.rule(chain, f"{nfproto} tcp dport vmap {{ {', '.join(ports[family])} }}")
        # A packet outside of its flow's window passes by NAT, and whoever gets it untranslated answers with a reset.
        if named[family]:
            places = ", ".join(item.partition(" :")[0] for item in named[family])
            draft.rule(options.guard, f"ct state invalid {ip} daddr . tcp dport {{ {places} }} drop")
        if ports[family]:
            places = ", ".join(item.partition(" :")[0] for item in ports[family])
            nfproto = f"meta nfproto ipv{family} fib daddr type local"
            draft.rule(options.guard, f"ct state invalid {nfproto} tcp dport {{ {places} }} drop")


def closing(flows: Iterable[tuple[Address, Address]]) -> str:
    """Write a transaction after which packets from these backends to these clients are answered with a reset, for a while.

    In transparent mode such a packet goes to a client, who may have no way back; otherwise it comes to us, and we reset it.
    """
    elements: dict[int, list[str]] = {4: [], 6: []}
    for back, client in flows:
        elements[family_of(back)].append(f"{back.host} . {back.port} . {client.host} . {client.port}")
    return "".join(
        f"add element inet {TABLE} closing_{family} {{ {', '.join(found)} }}\n"
        for family, found in elements.items()
        if found
    )


def _strays(draft: _Draft, options: Options) -> None:
    for family, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        ends = f"{kind} . inet_service . {kind} . inet_service"
        draft.objects["set", f"closing_{family}"] = (
            f" {{ type {ends}; timeout {CLOSED_S}s; size {2 * MAX_CLOSING}; }}"
        )
        ip = _IP[family]
        tuple_ = f"{ip} saddr . tcp sport . {ip} daddr . tcp dport"
        draft.rule(options.guard, f"{tuple_} @closing_{family} reject with tcp reset")


def _source(draft: _Draft, snapshot: Snapshot, pool: Pool, family: int, options: Options) -> None:
    """Decide what address the backends see. Loopback flows keep theirs: that interface has no other to offer."""
    backends = [backend for backend in pool.backends if family_of(backend.address) == family]
    if not backends:
        return
    ip = _IP[family]
    ports = [item.bind.port for item in snapshot.listeners if item.pool == pool.name]
    ours = f'oifname != "lo" meta l4proto tcp ct status dnat ct original proto-dst {_set(ports)}'
    to = f"{ip} daddr . tcp dport {_set(f'{item.address.host} . {item.address.port}' for item in backends)}"
    if not all(is_loopback(backend.address) for backend in backends):
        for text in _translations(pool, backends, family, options):
            draft.rule("postrouting", f"{ours} {to} {text}", pool.name)
    draft.rule(
        options.guard,
        f"ct state invalid {to.replace('daddr', 'saddr').replace('dport', 'sport')} drop",
        pool.name,
    )


def _translations(pool: Pool, backends: list[Backend], family: int, options: Options) -> Iterator[str]:
    ip = _IP[family]
    source = pool.source
    if source is not None and source.host and family_of(source) == family:
        yield f"snat {ip} to {source.host}"
    elif options.source == "masquerade":
        yield "masquerade"
    else:
        # A backend that is itself the client would be answered directly, past us; our own addresses are no client's.
        hosts = sorted({backend.address.host for backend in backends})
        yield f"{ip} saddr {_set(hosts)} masquerade"
        yield "fib saddr type local masquerade"


def _set(items: Iterable[object]) -> str:
    return f"{{ {', '.join(dict.fromkeys(map(str, items)))} }}"
