"""The shortcut as the engine has it: programs at every device, places they look out for, and what they have counted."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from easyproxy.engine.kernel.flows import Flow
from easyproxy.engine.kernel.reach import FAMILIES, families_of, family_of, is_any
from easyproxy.engine.kernel.shortcut.arriving import arriving
from easyproxy.engine.kernel.shortcut.bpf import EGRESS, HASH, INGRESS, PER_CPU_ARRAY, Bpf, Kernel
from easyproxy.engine.kernel.shortcut.devices import ethernet_devices
from easyproxy.engine.kernel.shortcut.layout import BACK, FRONT, Layout
from easyproxy.engine.kernel.shortcut.leaving import leaving
from easyproxy.engine.kernel.shortcut.steps import Maps
from easyproxy.engine.kernel.shortcut.sums import Sums, Taken, ends_of
from easyproxy.errors import EngineError
from easyproxy.model import Snapshot

MAX_ENTRIES = 1 << 18
"""Directions of flows, for each family; those beyond go the long way."""
_MAX_PLACES = 1 << 16
_IDLE_NS = 60_000_000_000
_LOOPBACK = 1
_COUNTED = struct.Struct("=QQQI")
_THERE = struct.pack("=I", 1)


class Shortcut:
    """Sends packets of established flows past the kernel's tracking of flows; ``close`` it.

    It only ever repeats what the kernel has done with the flow a moment ago. Without it, with a part of it, or after it was
    closed in the middle of everything, flows go on the long way. All but :meth:`know` belongs to one thread, whose network
    namespace it is for.

    Args:
        complain: takes a line of text when it is not to be had.
        bpf: makes the way into the kernel; a test has another one.
        devices: lists the devices, as :func:`ethernet_devices` does.
    """

    def __init__(
        self,
        complain: Callable[[str], None] = lambda _text: None,
        *,
        bpf: Callable[[], Bpf] = Kernel,
        devices: Callable[[], dict[int, bool]] = ethernet_devices,
    ) -> None:
        self._complain = complain
        self._make_bpf = bpf
        self._devices = devices
        self._places: dict[int, frozenset[bytes]] = {}
        self._lanes: dict[int, _Lane] = {}
        self._left: dict[bytes, Taken] = {}
        self._sums = Sums()
        self._is_refused = False

    @property
    def reset(self) -> list[Flow]:
        """Of the last look: flows that an end has reset, and that the kernel still takes for established."""
        return self._sums.reset

    @property
    def is_in_force(self) -> bool:
        """Whether any device has it."""
        return any(lane.devices for lane in self._lanes.values())

    def know(self, snapshot: Snapshot) -> None:
        """Learn where clients come and where backends are; from any thread. Addresses must be numeric."""
        self._places = {family: places_of(snapshot, family) for family in FAMILIES}

    def look(self) -> None:
        """Be at all devices, and look out for all places."""
        if self._is_refused:
            return
        try:
            for family, places in self._places.items():
                if places and family not in self._lanes:
                    self._lanes[family] = _Lane(family, self._make_bpf())
            if self._lanes:
                devices = self._devices()
                for family, lane in self._lanes.items():
                    lane.attach(devices)
                    lane.look_out_for(self._places.get(family, frozenset()))
        except EngineError as error:
            self._is_refused = True
            self.close()
            self._complain(
                f"kernel engine: established sessions go the kernel's long way, without the shortcut: {error}"
            )

    def complete(self, flows: Iterable[Flow]) -> Iterator[Flow]:
        """Yield every flow with what it has moved by the shortcut, too; to be walked to the end."""
        taken: dict[bytes, Taken] = {}
        gone: set[bytes] = set()
        for lane in self._lanes.values():
            lane.read(taken, gone)
        taken |= self._left
        gone |= self._left.keys()
        self._left = {}
        yield from self._sums.complete(flows, taken, gone)
        self.forget(self._sums.orphaned)

    def forget(self, flows: Iterable[Flow]) -> None:
        """Have the next packet of these flows, in either direction, go the long way."""
        for flow in flows:
            if flow.family in self._lanes:
                self._lanes[flow.family].forget(ends_of(flow))

    def close(self) -> None:
        """Leave all devices; from here on everything goes the long way. What was counted is still to be had."""
        for lane in self._lanes.values():
            lane.detach()
            with contextlib.suppress(EngineError):
                lane.read(self._left, set())
            lane.close()
        self._lanes = {}


class _Lane:
    """One family: its maps, its programs, and where they are attached."""

    def __init__(self, family: int, bpf: Bpf) -> None:
        self._bpf = bpf
        self._layout = Layout(family)
        self._looked_out_for: frozenset[bytes] = frozenset()
        self.devices: dict[int, tuple[int, ...]] = {}
        """By number what is attached there: the program for packets that leave, and mostly that for those that arrive."""
        with contextlib.ExitStack() as undo:
            self._flows = bpf.map(HASH, self._layout.ends, self._layout.entry, MAX_ENTRIES)
            undo.callback(self._flows.close)
            self._places = bpf.map(HASH, self._layout.place, len(_THERE), _MAX_PLACES)
            undo.callback(self._places.close)
            self._notes = bpf.map(PER_CPU_ARRAY, 4, self._layout.note, 1)
            undo.callback(self._notes.close)
            maps = Maps(self._flows.descriptor, self._places.descriptor, self._notes.descriptor)
            self._arriving = bpf.load(arriving(self._layout, maps))
            undo.callback(bpf.close, self._arriving)
            self._leaving = bpf.load(leaving(self._layout, maps))
            undo.pop_all()

    def close(self) -> None:
        self.detach()
        for program in (self._arriving, self._leaving):
            self._bpf.close(program)
        for map_ in (self._flows, self._places, self._notes):
            map_.close()

    def detach(self) -> None:
        self.attach({})

    def attach(self, wanted: Mapping[int, bool]) -> None:
        for number, links in list(self.devices.items()):
            if wanted.get(number) is not (len(links) > 1) or not self._bpf.is_attached(links[0]):
                del self.devices[number]
                for link in links:
                    self._bpf.close(link)
        for number in wanted.keys() - self.devices.keys():
            with contextlib.ExitStack() as undo:
                try:
                    # Whoever learns stands before whoever puts notes down.
                    out = self._bpf.attach(self._leaving, number, EGRESS)
                    undo.callback(self._bpf.close, out)
                    into = (self._bpf.attach(self._arriving, number, INGRESS),) if wanted[number] else ()
                    self.devices[number] = out, *into
                except OSError as error:
                    if error.errno != errno.ENODEV:  # it has gone meanwhile
                        raise
                    continue
                undo.pop_all()

    def look_out_for(self, places: frozenset[bytes]) -> None:
        former, self._looked_out_for = self._looked_out_for, places
        for key in former - places:
            self._places.drop(key)
        for key in places - former:
            self._places.put(key, _THERE)

    def read(self, taken: dict[bytes, Taken], gone: set[bytes]) -> None:
        """Add what every entry has, and drop those that have ended or that nobody has used for a while."""
        old = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - _IDLE_NS
        lost = []
        for key, entry in self._flows.items():
            lease, packets, bytes_, ended = _COUNTED.unpack_from(entry, self._layout.lease)
            taken[key] = Taken(packets, bytes_, ended)
            if ended or lease < old:
                lost.append(key)
        for key in lost:
            self._flows.drop(key)
        gone.update(lost)

    def forget(self, ends: Iterable[bytes]) -> None:
        for key in ends:
            self._flows.drop(key)


def obstacle(bpf: Callable[[], Bpf] = Kernel) -> str:
    """Say why this machine cannot have the shortcut; empty when it can. Tries it where no packet is learned from."""
    try:
        lane = _Lane(4, bpf())
        try:
            lane.attach({_LOOPBACK: True})
        finally:
            lane.close()
    except EngineError as error:
        return str(error)
    return ""


def places_of(snapshot: Snapshot, family: int) -> frozenset[bytes]:
    """List the keys of all places of one family."""
    layout = Layout(family)
    domain = socket.AF_INET if family == 4 else socket.AF_INET6
    found = set()
    for listener in snapshot.listeners:
        if family not in families_of(listener):
            continue
        host = bytes(layout.address) if is_any(listener) else socket.inet_pton(domain, listener.bind.host)
        found.add(layout.key_of_place(host, listener.bind.port, FRONT))
        for backend in snapshot.pool_by_name[listener.pool].backends:
            if family_of(backend.address) == family:
                host = socket.inet_pton(domain, backend.address.host)
                found.add(layout.key_of_place(host, backend.address.port, BACK))
    return frozenset(found)
