"""The shortcut without a kernel: what its programs are made of, and what is made of what they count."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from easyproxy.engine.kernel import flows as ct
from easyproxy.engine.kernel.flows import Flow
from easyproxy.engine.kernel.ledger import Ledger
from easyproxy.engine.kernel.shortcut import Shortcut, obstacle
from easyproxy.engine.kernel.shortcut.arriving import arriving
from easyproxy.engine.kernel.shortcut.assembler import Assembler, Reg, network16, pieces
from easyproxy.engine.kernel.shortcut.bpf import HASH, INGRESS
from easyproxy.engine.kernel.shortcut.layout import BACK, EXACT, FIN, FRONT, RST, Layout
from easyproxy.engine.kernel.shortcut.leaving import leaving
from easyproxy.engine.kernel.shortcut.shortcut import places_of
from easyproxy.engine.kernel.shortcut.steps import Maps
from easyproxy.engine.kernel.shortcut.sums import Sums, Taken, ends_of
from easyproxy.errors import EngineError
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot
from unit.engine.kernel_flow import FLOW

SENT, GOT = ends_of(FLOW)
SNAPSHOT = Snapshot(
    1,
    (Listener("front", Address("192.0.2.1", 80), "pool"), Listener("any", Address("", 81), "pool")),
    (
        Pool(
            "pool",
            backends=(
                Backend("pool/a", "a", Address("10.0.0.1", 8080)),
                Backend("pool/b", "b", Address("fd00::1", 8080)),
            ),
        ),
    ),
)


# -- the assembler: RFC 9669, section 3 and 4


@pytest.mark.parametrize(
    ("write", "bytes_"),
    [
        (lambda asm: asm.do("mov", Reg.R1, -1), "b701 0000 ffffffff"),
        (lambda asm: asm.do("add", Reg.R1, Reg.R2), "0f21 0000 00000000"),
        (lambda asm: asm.load(4, Reg.R7, Reg.R6, 76), "6167 4c00 00000000"),
        (lambda asm: asm.store(2, Reg.R10, -8, Reg.R3), "6b3a f8ff 00000000"),
        (lambda asm: asm.store(8, Reg.R10, -8, 5), "7a0a f8ff 05000000"),
        (lambda asm: asm.add_atomically(Reg.R9, 16, Reg.R2), "db29 1000 00000000"),
        (lambda asm: asm.to_network(Reg.R2, 16), "dc02 0000 10000000"),
        (lambda asm: asm.address_of_map(Reg.R1, 3), "1811 0000 03000000 0000 0000 00000000"),
        (lambda asm: asm.call(12), "8500 0000 0c000000"),
        (lambda asm: asm.exit(), "9500 0000 00000000"),
    ],
)
def test_instructions_are_those_of_the_standard(write, bytes_) -> None:
    asm = Assembler()
    write(asm)
    assert asm.code() == bytes.fromhex(bytes_)


def test_jumps_go_forward_and_back_to_their_labels() -> None:
    asm = Assembler()
    asm.label("top")
    asm.jump_if(Reg.R1, "==", 0, "end")
    asm.jump_if(Reg.R1, ">", Reg.R2, "top")
    asm.jump("end")
    asm.label("end")
    asm.exit()
    offsets = [struct.unpack_from("=h", asm.code(), 8 * index + 2)[0] for index in range(3)]
    assert offsets == [2, -2, 0]


def test_a_label_that_stands_nowhere_is_an_error() -> None:
    asm = Assembler()
    asm.jump("nowhere")
    with pytest.raises(KeyError):
        asm.code()


@pytest.mark.parametrize("size", range(0, 40, 2))
def test_pieces_are_the_whole(size: int) -> None:
    found = [byte for offset, step in pieces(size) for byte in range(offset, offset + step)]
    assert found == list(range(size))


def test_a_number_of_a_packet_is_read_as_it_stands_there() -> None:
    assert struct.pack("=H", network16(0x0800)) == b"\x08\x00"


# -- the layout


@pytest.mark.parametrize("family", [4, 6])
def test_numbers_of_an_entry_stand_where_the_kernel_can_add_to_them(family: int) -> None:
    layout = Layout(family)
    for place in (layout.lease, layout.packets, layout.octets, layout.ended, layout.entry, layout.note):
        assert place % 8 == 0
    assert layout.entry_on_stack >= -512
    assert layout.entry_on_stack + layout.entry <= layout.zero_on_stack


@pytest.mark.parametrize("family", [4, 6])
def test_programs_are_short_and_the_same_each_time(family: int) -> None:
    for program in (arriving, leaving):
        code = program(Layout(family), Maps(3, 4, 5))
        assert code == program(Layout(family), Maps(3, 4, 5))
        assert len(code) % 8 == 0
        assert len(code) // 8 < 300


def test_places_are_those_of_the_family() -> None:
    four, six = Layout(4), Layout(6)
    assert places_of(SNAPSHOT, 4) == {
        four.key_of_place(socket.inet_aton("192.0.2.1"), 80, FRONT),
        four.key_of_place(bytes(4), 81, FRONT),
        four.key_of_place(socket.inet_aton("10.0.0.1"), 8080, BACK),
    }
    assert places_of(SNAPSHOT, 6) == {
        six.key_of_place(bytes(16), 81, FRONT),
        six.key_of_place(socket.inet_pton(socket.AF_INET6, "fd00::1"), 8080, BACK),
    }


# -- sums


def moved(flow: Flow) -> tuple[int, int, int, int]:
    return (
        flow.packets_from_client,
        flow.bytes_from_client,
        flow.packets_from_backend,
        flow.bytes_from_backend,
    )


def complete(sums: Sums, taken: dict[bytes, Taken], gone: tuple[bytes, ...] = (), flow: Flow = FLOW) -> Flow:
    (found,) = sums.complete([flow], taken, gone)
    return found


def test_what_took_the_shortcut_is_added() -> None:
    sums = Sums()
    assert complete(sums, {}) is FLOW
    assert moved(complete(sums, {SENT: Taken(1, 10, 0)})) == (4, 310, 4, 400)
    assert moved(complete(sums, {SENT: Taken(2, 20, 0), GOT: Taken(5, 50, 0)})) == (5, 320, 9, 450)


def test_what_an_entry_had_stays_when_it_goes_and_another_comes() -> None:
    sums = Sums()
    complete(sums, {SENT: Taken(2, 20, FIN)}, (SENT,))
    assert moved(complete(sums, {})) == (5, 320, 4, 400)
    assert moved(complete(sums, {SENT: Taken(1, 5, FIN)}, (SENT,))) == (6, 325, 4, 400)
    assert moved(complete(sums, {SENT: Taken(1, 1, 0)})) == (7, 326, 4, 400)
    assert moved(complete(sums, {})) == (6, 325, 4, 400)


def test_a_list_that_misses_a_flow_once_loses_nothing_and_later_nothing_is_kept() -> None:
    sums = Sums()
    complete(sums, {SENT: Taken(2, 20, FIN)}, (SENT,))
    assert list(sums.complete([], {}, ())) == []
    assert moved(complete(sums, {})) == (5, 320, 4, 400)
    for _ in range(2):
        assert list(sums.complete([], {}, ())) == []
    assert complete(sums, {}) is FLOW


@pytest.mark.parametrize("before", [0, 1])
def test_a_flow_that_is_missed_when_its_entry_goes_loses_nothing(before: int) -> None:
    sums = Sums()
    for _ in range(before):
        complete(sums, {SENT: Taken(1, 5, 0)}, (SENT,))
    assert list(sums.complete([], {SENT: Taken(2, 20, FIN)}, (SENT,))) == []
    assert moved(complete(sums, {})) == (5 + before, 320 + 5 * before, 4, 400)
    list(sums.complete([], {SENT: Taken(2, 20, RST | EXACT)}, (SENT,)))
    complete(sums, {})
    assert sums.reset == []


def test_a_list_that_breaks_off_loses_nothing() -> None:
    def broken() -> Iterator[Flow]:
        yield FLOW._replace(id=9, client=(FLOW.client[0], 1))
        raise EngineError("no")

    sums = Sums()
    complete(sums, {GOT: Taken(1, 10, 0)}, (GOT,))
    with pytest.raises(EngineError):
        list(sums.complete(broken(), {SENT: Taken(2, 20, FIN)}, (SENT,)))
    assert moved(complete(sums, {})) == (5, 320, 5, 410)


def test_another_flow_with_the_same_ends_begins_anew() -> None:
    sums = Sums()
    complete(sums, {SENT: Taken(2, 20, FIN)}, (SENT,))
    assert moved(complete(sums, {}, flow=FLOW._replace(id=8))) == moved(FLOW)
    assert moved(complete(sums, {SENT: Taken(1, 1, 0)}, flow=FLOW._replace(id=8))) == (4, 301, 4, 400)


def test_what_a_flow_that_is_gone_has_moved_is_not_counted_for_the_next_with_the_same_ends() -> None:
    """A client uses its port again before the next look."""
    sums, taken = Sums(), {SENT: Taken(2, 20, FIN)}
    gone, new = sums.complete([FLOW._replace(is_gone=True), FLOW._replace(id=8)], taken, {SENT})
    assert moved(gone) == (5, 320, 4, 400)
    assert moved(new) == moved(FLOW)


@pytest.mark.parametrize("ended", [RST | EXACT, FIN])
def test_who_has_ended_and_is_alive_is_another_flow_with_the_same_number(ended: int) -> None:
    """The kernel makes the number of where it keeps a flow, and a client that comes again may be kept where it was."""
    sums = Sums()
    dead = FLOW if ended & RST else FLOW._replace(state=ct.TIME_WAIT)
    complete(sums, {SENT: Taken(2, 20, ended)}, (SENT,), dead)
    assert complete(sums, {}) is FLOW
    assert sums.reset == []


def test_a_reset_that_was_due_ends_the_flow_and_another_does_not() -> None:
    """Anybody may send a reset with some number; TCP asks back, and so the session may go on (RFC 5961)."""
    sums = Sums()
    blind = complete(sums, {SENT: Taken(1, 10, RST)}, (SENT,))
    assert (blind.state, blind.has_reset, sums.reset) == (ct.ESTABLISHED, True, [])
    due = complete(sums, {SENT: Taken(1, 10, RST | EXACT)}, (SENT,))
    assert (due.state, due.has_reset) == (ct.CLOSE, True)
    assert [flow.id for flow in sums.reset] == [FLOW.id]
    ended = complete(Sums(), {SENT: Taken(1, 10, RST | EXACT)}, flow=FLOW._replace(state=ct.TIME_WAIT))
    assert ended.state == ct.TIME_WAIT


def test_what_a_flow_had_that_is_gone_after_a_reset_is_counted_once() -> None:
    """The kernel was told to forget it, and took it for established until then."""
    sums = Sums()
    complete(sums, {SENT: Taken(1, 10, RST | EXACT)}, (SENT,))
    gone = complete(sums, {}, flow=FLOW._replace(is_gone=True))
    assert moved(gone) == (4, 310, 4, 400)
    assert complete(sums, {}) is FLOW


def test_the_entries_of_a_flow_that_is_gone_are_to_be_dropped() -> None:
    sums, taken = Sums(), {SENT: Taken(1, 10, 0)}
    gone, new = sums.complete([FLOW._replace(is_gone=True), FLOW._replace(id=8)], taken, set())
    assert (moved(gone), moved(new)) == ((4, 310, 4, 400), moved(FLOW))
    assert [flow.id for flow in sums.orphaned] == [FLOW.id]
    assert complete(sums, {}) is FLOW
    assert sums.orphaned == []


def test_a_flow_that_is_gone_is_not_to_be_deleted() -> None:
    sums = Sums()
    gone = complete(sums, {SENT: Taken(1, 10, RST | EXACT)}, flow=FLOW._replace(is_gone=True))
    assert gone.has_reset
    assert sums.reset == []


def test_a_flow_that_vanishes_after_a_reset_was_reset() -> None:
    ledger = Ledger()
    ledger.know(SNAPSHOT)
    ledger.look([FLOW._replace(has_reset=True)], 0)
    _, ends = ledger.look([FLOW._replace(has_reset=True, is_gone=True)], 10_000)
    assert [end.reason for end in ends] == ["reset"]


# -- the shortcut


class FakeMap:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.content: dict[bytes, bytes] = {}
        self.is_closed = False

    def put(self, key: bytes, value: bytes) -> None:
        self.content[key] = value

    def drop(self, key: bytes) -> None:
        self.content.pop(key, None)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        yield from list(self.content.items())

    def close(self) -> None:
        self.is_closed = True


class FakeBpf:
    """Keeps what the kernel would, and says no when it is told to.

    Attributes:
        open: descriptors of programs and attachments.
        maps: made so far, by descriptor.
        attached: (ifindex, where) by descriptor.
    """

    def __init__(self) -> None:
        self._last = 2
        self.open: set[int] = set()
        self.maps: dict[int, FakeMap] = {}
        self.kinds: dict[int, int] = {}
        self.attached: dict[int, tuple[int, int]] = {}
        self.refused: dict[int, Exception] = {}
        self.refuses_programs = ""

    def _new(self) -> int:
        self._last += 1
        return self._last

    def map(self, kind: int, key: int, value: int, entries: int) -> FakeMap:
        del key, value, entries
        made = self.maps[self._last + 1] = FakeMap(self._new())
        self.kinds[made.descriptor] = kind
        return made

    def load(self, code: bytes) -> int:
        assert code
        if self.refuses_programs:
            raise EngineError(self.refuses_programs)
        self.open.add(made := self._new())
        return made

    def attach(self, program: int, ifindex: int, where: int) -> int:
        assert program in self.open
        if ifindex in self.refused:
            raise self.refused[ifindex]
        self.open.add(made := self._new())
        self.attached[made] = ifindex, where
        return made

    def is_attached(self, attachment: int) -> bool:
        return attachment in self.attached

    def close(self, descriptor: int) -> None:
        self.open.remove(descriptor)
        self.attached.pop(descriptor, None)

    @property
    def flows(self) -> FakeMap:
        """Entries of the family that came first."""
        return next(made for number, made in self.maps.items() if self.kinds[number] == HASH)


@pytest.fixture
def bpf() -> FakeBpf:
    return FakeBpf()


@pytest.fixture
def devices() -> set[int]:
    return {2, 3}


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def shortcut(bpf: FakeBpf, devices: set[int], complaints: list[str]) -> Shortcut:
    made = Shortcut(complaints.append, bpf=lambda: bpf, devices=lambda: dict.fromkeys(devices, True))
    made.know(Snapshot(1, SNAPSHOT.listeners[:1], SNAPSHOT.pools))
    return made


def entry(packets: int, octets: int, ended: int = 0, lease: int = 1 << 62) -> bytes:
    layout = Layout(4)
    return bytes(layout.lease) + struct.pack("=QQQIxxxx", lease, packets, octets, ended)


def test_nothing_is_done_before_there_is_anything_to_look_out_for(bpf: FakeBpf) -> None:
    shortcut = Shortcut(bpf=lambda: bpf, devices=lambda: {2: True})
    shortcut.look()
    shortcut.know(Snapshot(1))
    shortcut.look()
    assert bpf.open == set()
    assert not shortcut.is_in_force


def test_devices_come_and_go(bpf: FakeBpf, shortcut: Shortcut, devices: set[int]) -> None:
    shortcut.look()
    assert {number for number, _ in bpf.attached.values()} == {2, 3}
    devices ^= {2, 4}
    shortcut.look()
    shortcut.look()
    assert {number for number, _ in bpf.attached.values()} == {3, 4}
    assert len(bpf.attached) == 2 * 2 * len(devices) / 2


def test_a_device_that_goes_meanwhile_is_no_error(
    bpf: FakeBpf, shortcut: Shortcut, complaints: list[str]
) -> None:
    bpf.refused[2] = OSError(errno.ENODEV, "No such device")
    shortcut.look()
    assert {number for number, _ in bpf.attached.values()} == {3}
    assert shortcut.is_in_force
    assert complaints == []


def test_a_device_that_was_replaced_by_one_with_its_number_has_it_again(
    bpf: FakeBpf, shortcut: Shortcut
) -> None:
    shortcut.look()
    for dead in [number for number, (ifindex, _) in bpf.attached.items() if ifindex == 2]:
        del bpf.attached[dead]
    shortcut.look()
    assert sorted(number for number, _ in bpf.attached.values()) == [2, 2, 3, 3]
    assert len(bpf.open) == 2 + 4


def test_places_follow_the_snapshot(bpf: FakeBpf, shortcut: Shortcut) -> None:
    shortcut.look()
    places = [made for made in bpf.maps.values() if made.content]
    assert [set(made.content) for made in places] == [
        places_of(Snapshot(1, SNAPSHOT.listeners[:1], SNAPSHOT.pools), 4)
    ]
    shortcut.know(Snapshot(2, SNAPSHOT.listeners[:1], (Pool("pool"),)))
    shortcut.look()
    assert len(places[0].content) == 1


def test_what_has_ended_or_is_old_is_dropped_after_it_was_counted(bpf: FakeBpf, shortcut: Shortcut) -> None:
    shortcut.look()
    bpf.flows.content = {SENT: entry(2, 20, FIN), GOT: entry(5, 50, lease=1)}
    (flow,) = shortcut.complete([FLOW])
    assert moved(flow) == (5, 320, 9, 450)
    assert bpf.flows.content == {}
    (flow,) = shortcut.complete([FLOW])
    assert moved(flow) == (5, 320, 9, 450)


def test_what_was_counted_is_still_counted_after_it_was_closed(bpf: FakeBpf, shortcut: Shortcut) -> None:
    shortcut.look()
    bpf.flows.content = {SENT: entry(2, 20)}
    shortcut.close()
    assert bpf.open == set()
    assert all(made.is_closed for made in bpf.maps.values())
    for _ in range(2):
        (flow,) = shortcut.complete([FLOW])
        assert moved(flow) == (5, 320, 4, 400)


def test_flows_that_are_closed_are_forgotten_in_both_directions(bpf: FakeBpf, shortcut: Shortcut) -> None:
    shortcut.look()
    bpf.flows.content = {SENT: entry(2, 20), GOT: entry(5, 50), bytes(12): entry(1, 1)}
    shortcut.forget([FLOW])
    assert list(bpf.flows.content) == [bytes(12)]
    shortcut.forget([FLOW._replace(family=6)])  # nothing of that family is known


@pytest.mark.parametrize("where", ["programs", "devices"])
def test_a_refusal_is_said_once_and_leaves_nothing(
    bpf: FakeBpf, shortcut: Shortcut, complaints: list[str], where: str
) -> None:
    if where == "programs":
        bpf.refuses_programs = "no"
    else:
        bpf.refused[3] = EngineError("no")
    shortcut.look()
    shortcut.look()
    assert len(complaints) == 1
    assert "without the shortcut: no" in complaints[0]
    assert bpf.open == set()
    assert all(made.is_closed for made in bpf.maps.values())
    assert list(shortcut.complete([FLOW])) == [FLOW]


def test_what_is_in_the_way_is_told(bpf: FakeBpf) -> None:
    assert obstacle(lambda: bpf) == ""
    assert bpf.open == set()
    bpf.refused[1] = EngineError("it needs Linux 6.6 or newer")
    assert obstacle(lambda: bpf) == "it needs Linux 6.6 or newer"
    assert bpf.open == set()

    def none() -> FakeBpf:
        raise EngineError("bpf(2) is not known on vax")

    assert obstacle(none) == "bpf(2) is not known on vax"


def test_who_learns_is_attached_before_who_puts_notes_down(bpf: FakeBpf, shortcut: Shortcut) -> None:
    shortcut.look()
    for number in (2, 3):
        wheres = [where for at, where in bpf.attached.values() if at == number]
        assert wheres[-1] == INGRESS


def test_a_program_of_32_bits_on_a_kernel_of_64_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would call another system call than bpf(2)."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.maxsize", 2**31 - 1)
    assert obstacle() == "it needs a Python of 64 bits"
