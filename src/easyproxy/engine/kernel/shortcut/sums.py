"""What flows are when that is added which took the shortcut, past the kernel's own counting. Pure."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from easyproxy.engine.kernel import flows as ct
from easyproxy.engine.kernel.flows import Flow
from easyproxy.engine.kernel.shortcut.layout import EXACT, RST

_PORTS = struct.Struct(">HH")


class Taken(NamedTuple):
    """What one direction of a flow sent by the shortcut, and how its entry ended."""

    packets: int
    bytes: int
    ended: int


_NOTHING = Taken(0, 0, 0)


class _Past(NamedTuple):
    """What entries that are no more had, and whose they were.

    The kernel may give a flow the number of one with the same ends that has ended: who was dead and is alive is another.
    """

    flow: tuple[int, int, bytes] | None
    """None: no flow was seen that it could belong to."""
    is_live: bool
    taken: Taken
    is_missed: bool = False


class Sums:
    """Adds what entries have to what the kernel says of flows, from look to look."""

    def __init__(self) -> None:
        self._past: dict[bytes, _Past] = {}
        self.reset: list[Flow] = []
        """Of the last look: flows that an end has reset for certain, and that the kernel still takes for established."""
        self.orphaned: list[Flow] = []
        """Of the last look: flows that are gone, and whose entries are still there."""

    def complete(
        self, flows: Iterable[Flow], taken: dict[bytes, Taken], gone: Collection[bytes]
    ) -> Iterator[Flow]:
        """Yield every flow with all that it moved; to be walked to the end.

        Args:
            flows: as the kernel counts them, those first that are gone.
            taken: entries as they are now, by their ends; those of flows that are gone are taken out.
            gone: of these, the ones that will not be there at the next look.
        """
        self.reset = []
        self.orphaned = []
        former, self._past = self._past, {}
        try:
            for flow in flows:
                if not taken and not former:
                    yield flow
                    continue
                client, backend = ends_of(flow)
                sent = _sum(_before(former.get(client), flow), taken.get(client))
                got = _sum(_before(former.get(backend), flow), taken.get(backend))
                if sent is _NOTHING and got is _NOTHING:
                    yield flow
                    continue
                whole = self._with(flow, sent, got)
                if flow.is_gone:
                    self._let_go(flow, former, taken, gone)
                    yield whole
                    continue
                for key, total in ((client, sent), (backend, got)):
                    if key in gone:
                        self._past[key] = _Past(flow.identity, whole.is_live, total)
                    elif (before := _before(former.get(key), flow)) is not None:
                        self._past[key] = _Past(flow.identity, whole.is_live, before)
                yield whole
        finally:
            # A list of flows may miss one that is there, or break off; the next has it.
            for key in taken.keys() & gone:
                self._past.setdefault(key, _missed(former.get(key), taken[key]))
            for key, past in former.items():
                if not past.is_missed:
                    self._past.setdefault(key, past._replace(is_missed=True))

    def _let_go(
        self, flow: Flow, former: dict[bytes, _Past], taken: dict[bytes, Taken], gone: Collection[bytes]
    ) -> None:
        """See that nothing of a flow that is gone is counted for the next with the same ends."""
        keys = ends_of(flow)
        if any(key in taken and key not in gone for key in keys):
            self.orphaned.append(flow)
        for key in keys:
            former.pop(key, None)
            taken.pop(key, None)

    def _with(self, flow: Flow, sent: Taken, got: Taken) -> Flow:
        ended = sent.ended | got.ended
        is_reset = bool(ended & RST) and flow.state not in ct.ENDED
        flow = flow._replace(
            packets_from_client=flow.packets_from_client + sent.packets,
            bytes_from_client=flow.bytes_from_client + sent.bytes,
            packets_from_backend=flow.packets_from_backend + got.packets,
            bytes_from_backend=flow.bytes_from_backend + got.bytes,
            has_reset=is_reset,
        )
        if is_reset and ended & EXACT:
            if flow.is_live:
                self.reset.append(flow)
            return flow._replace(state=ct.CLOSE)
        return flow


def _before(past: _Past | None, flow: Flow) -> Taken | None:
    """What a flow had in entries that are no more."""
    if past is None or past.flow not in (flow.identity, None) or (flow.is_live and not past.is_live):
        return None
    return past.taken


def _missed(past: _Past | None, now: Taken) -> _Past:
    """What to keep of an entry that goes, when its flow was not seen: not that it is over, for the next to be seen may be another."""
    now = now._replace(ended=now.ended & ~EXACT)
    if past is None:
        return _Past(None, is_live=True, taken=now, is_missed=True)
    return past._replace(taken=_sum(past.taken, now), is_missed=True)


def _sum(before: Taken | None, now: Taken | None) -> Taken:
    if before is None or now is None:
        return before or now or _NOTHING
    return Taken(before.packets + now.packets, before.bytes + now.bytes, before.ended | now.ended)


def ends_of(flow: Flow) -> tuple[bytes, bytes]:
    """Write the ends of a flow as packets have them when they arrive: from the client, and from the backend."""
    (client, client_port), (front, front_port) = flow.client, flow.front
    (back, back_port), (seen, seen_port) = flow.back, flow.seen
    return (
        client + front + _PORTS.pack(client_port, front_port),
        back + seen + _PORTS.pack(back_port, seen_port),
    )
