"""What flows are when that is added which took the shortcut, past the kernel's own counting. Pure."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
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
    """What entries that are no more had, and whose they were."""

    flow: tuple[int, int, bytes]
    taken: Taken
    is_missed: bool = False


class Sums:
    """Adds what entries have to what the kernel says of flows, from look to look."""

    def __init__(self) -> None:
        self._past: dict[bytes, _Past] = {}
        self.reset: list[Flow] = []
        """Of the last look: flows that an end has reset for certain, and that the kernel still takes for established."""

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
        former, self._past = self._past, {}
        for flow in flows:
            if not taken and not former:
                yield flow
                continue
            (client, backend), identity = ends_of(flow), flow.identity
            sent = self._sum(client, identity, former, taken, gone)
            got = self._sum(backend, identity, former, taken, gone)
            if flow.is_gone:  # what comes after it with the same ends has nothing of this
                for ends in (client, backend):
                    taken.pop(ends, None)
            yield self._with(flow, sent, got) if sent is not got else flow
        # A list of flows may miss one that is there; the next has it.
        for key, past in former.items():
            if not past.is_missed:
                self._past.setdefault(key, past._replace(is_missed=True))

    def _sum(
        self,
        key: bytes,
        flow: tuple[int, int, bytes],
        former: Mapping[bytes, _Past],
        taken: Mapping[bytes, Taken],
        gone: Collection[bytes],
    ) -> Taken:
        past, now = former.get(key), taken.get(key)
        before = past.taken if past is not None and past.flow == flow else None
        if now is None or before is None:
            total = now or before
            if total is None:
                return _NOTHING
        else:
            total = Taken(now.packets + before.packets, now.bytes + before.bytes, now.ended | before.ended)
        if key in gone:
            self._past[key] = _Past(flow, total)
        elif before is not None:
            self._past[key] = _Past(flow, before)
        return total

    def _with(self, flow: Flow, sent: Taken, got: Taken) -> Flow:
        ended = sent.ended | got.ended
        is_reset = bool(ended & RST) and flow.is_live
        flow = flow._replace(
            packets_from_client=flow.packets_from_client + sent.packets,
            bytes_from_client=flow.bytes_from_client + sent.bytes,
            packets_from_backend=flow.packets_from_backend + got.packets,
            bytes_from_backend=flow.bytes_from_backend + got.bytes,
            has_reset=is_reset,
        )
        if is_reset and ended & EXACT and not flow.is_gone:
            self.reset.append(flow)
            return flow._replace(state=ct.CLOSE)
        return flow


def ends_of(flow: Flow) -> tuple[bytes, bytes]:
    """Write the ends of a flow as packets have them when they arrive: from the client, and from the backend."""
    (client, client_port), (front, front_port) = flow.client, flow.front
    (back, back_port), (seen, seen_port) = flow.back, flow.seen
    return (
        client + front + _PORTS.pack(client_port, front_port),
        back + seen + _PORTS.pack(back_port, seen_port),
    )
