"""The shortcut with real traffic between network namespaces: nothing is lost by it, and it never knows better than the kernel.

Needs root, nft, and a kernel that has it (Linux 6.6).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator

import pytest

from easyproxy.engine.kernel import KernelEngine, Shortcut
from easyproxy.engine.kernel.conntrack import Conntrack
from easyproxy.engine.kernel.settings import ACCOUNTING, FORWARD, LIBERAL
from easyproxy.engine.kernel.shortcut import obstacle
from easyproxy.engine.kernel.shortcut.assembler import Assembler, Reg
from easyproxy.engine.kernel.shortcut.bpf import EGRESS, Kernel
from easyproxy.engine.seam import SessionEnd, Where
from easyproxy.model import Address, Listener, Pool, Snapshot
from system.forging import Wire, frame, mac_of, one_cpu
from system.kernel_engine import FRONT_PORT, Balancer, backend, ending, nft, running
from system.kernel_net import BACKEND, CLIENT, FRONT, INNER, PORT, Net, ip, read_line
from system.shortcut_traffic import (
    MEGABYTE,
    become_known,
    chatter,
    directions,
    exchange,
    lease_ends,
    serve,
    until,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft"),
]

both_families = pytest.mark.parametrize("family", [4, 6])
both_sources = pytest.mark.parametrize("source", ["masquerade", "transparent"])


@pytest.fixture
def source() -> str:
    return "masquerade"


@pytest.fixture
async def balancer(net: Net, source: str) -> AsyncIterator[Balancer]:
    assert obstacle() == ""
    net.route_back()
    async with running(net, source) as made:
        yield made
    assert [text for text in made.complaints if "shortcut" in text] == []


@both_sources
@both_families
async def test_what_takes_it_arrives_whole_and_is_counted(
    net: Net, balancer: Balancer, source: str, family: int
) -> None:
    """Behaviours 1 and 34."""
    del source
    net.serve("a", family=family)
    await serve(balancer, family=family)
    told: list[SessionEnd] = []
    balancer.engine.tell_every_session(told.extend)
    size = 40 * MEGABYTE
    with net.connect(FRONT[family], FRONT_PORT) as sock, contextlib.closing(Conntrack()) as table:
        read_line(sock)
        await become_known(balancer, sock)  # by chance, which may take its time
        (known,) = await balancer.engine.sessions()
        (before,) = [each for each in table.flows() if each.is_live]
        await asyncio.to_thread(exchange, sock, size)
        (session,) = await balancer.engine.sessions()
        assert size < session.bytes_from_client - known.bytes_from_client < 1.2 * size
        assert size < session.bytes_from_backend - known.bytes_from_backend < 1.2 * size
        (flow,) = [each for each in table.flows() if each.is_live]
        seen = flow.bytes_from_client - before.bytes_from_client
        assert seen < size / 2, "the kernel was to see some of it only"
    async with asyncio.timeout(30):
        while not told:
            await balancer.engine.sessions()
    assert told[0].reason == "client_fin"
    assert session.bytes_from_client <= told[0].bytes_from_client < session.bytes_from_client + 0.2 * size
    counted = balancer.engine.statistics().backends["pool/a"]
    assert counted.bytes_from_client == told[0].bytes_from_client
    assert counted.bytes_from_backend == told[0].bytes_from_backend


async def test_a_session_may_be_idle_as_long_as_any_other(net: Net, balancer: Balancer) -> None:
    """The kernel has seen data whose acknowledgement took the shortcut: it gives such a flow five minutes by itself."""
    net.serve("a")
    await serve(balancer)
    with chatter(net) as talk:
        await until(lambda: directions(balancer) == 2)
        for _ in range(20):
            await talk.more(1000)
            with contextlib.closing(Conntrack()) as table:
                (flow,) = [each for each in table.flows() if each.is_live]
            assert flow.timeout_s > 3500
        assert flow.packets_from_client < talk.lines / 2


async def test_who_talks_all_the_time_is_never_idle(net: Net, balancer: Balancer) -> None:
    """However short ``idle_timeout`` is: the kernel sees little of him."""
    net.serve("a")
    balancer.serve(backend("a"), idle_timeout_s=1.0)
    await balancer.engine.sessions()
    await until(lambda: balancer.shortcut.is_in_force)
    for _ in range(5):
        with chatter(net) as talk:
            await until(lambda t=talk: directions(balancer) == 2 or bool(t.problem))
            for _ in range(8):
                leases = lease_ends(balancer)
                await until(
                    lambda t=talk, known=leases: known.isdisjoint(lease_ends(balancer)) or bool(t.problem)
                )
            if not talk.problem or talk.longest_pause_s < 0.5:
                await talk.more()
                return
    pytest.fail("it was idle each time, because this machine stands still again and again")


async def test_after_one_side_has_finished_the_other_goes_on(net: Net, balancer: Balancer) -> None:
    """Behaviours 5 and 6."""
    with net.inside("a"):
        server = socket.create_server((BACKEND["a", 4], PORT))
    await serve(balancer)
    data = random.Random(1).randbytes(20 * MEGABYTE)
    with server, net.connect(FRONT[4], FRONT_PORT) as client:
        served, _ = server.accept()

        def answer() -> None:
            with served:
                got = b"".join(iter(lambda: served.recv(1 << 18), b""))
                served.sendall(got[::-1])

        def ask() -> bytes:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(1 << 18), b""))

        answering = asyncio.create_task(asyncio.to_thread(answer))
        assert await asyncio.to_thread(ask) == data[::-1]
        await answering


@both_families
async def test_a_reset_ends_the_session_and_gives_its_place_free(
    net: Net, balancer: Balancer, family: int
) -> None:
    """Behaviours 7 and 19. The kernel's own window is where it was when it last saw the flow."""
    server = net.serve("a", family=family)
    balancer.serve(backend("a", family=family, max_sessions=1), bind=str(Address(FRONT[family], FRONT_PORT)))
    await balancer.engine.sessions()
    await until(lambda: balancer.shortcut.is_in_force)
    with net.connect(FRONT[family], FRONT_PORT) as sock:
        read_line(sock)
        await become_known(balancer, sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert await asyncio.to_thread(server.broken.get, timeout=20) == "reset"
    async with asyncio.timeout(8):  # the kernel by itself needs ten seconds
        while True:
            if not await balancer.engine.sessions():
                break
            await asyncio.sleep(0.05)
    assert [end.reason for end in await balancer.engine.recent_ends(Where())] == ["reset"]
    with net.connect(FRONT[family], FRONT_PORT) as sock:
        assert read_line(sock).startswith("a ")


@both_sources
async def test_closed_sessions_end_while_they_talk(net: Net, balancer: Balancer, source: str) -> None:
    """Behaviour 28."""
    del source
    server = net.serve("a")
    await serve(balancer)
    with chatter(net) as talk:
        await until(lambda: directions(balancer) == 2)
        assert await balancer.engine.close_sessions(Where(backend="pool/a"), "operator") == 1
        assert await talk.over() == "reset"
    assert await asyncio.to_thread(server.broken.get, timeout=20) == "reset"


async def test_it_may_come_and_go_at_any_time(net: Net, balancer: Balancer) -> None:
    """As when the balancer is killed, and started again."""
    net.serve("a")
    await serve(balancer)
    with net.connect(FRONT[4], FRONT_PORT) as sock, chatter(net) as talk:
        read_line(sock)
        moving = asyncio.create_task(asyncio.to_thread(exchange, sock, 200 * MEGABYTE))
        for _ in range(20):
            await balancer.engine._in_thread(balancer.shortcut.close)
            await talk.more(20)
            await balancer.engine.sessions()
            await talk.more(20)
        await moving
        await talk.more()
        counted = [one.bytes_from_client for one in await balancer.engine.sessions()]
        assert 200 * MEGABYTE < max(counted) < 240 * MEGABYTE


async def test_it_follows_the_kernel_to_another_address_of_the_next_hop(net: Net, balancer: Balancer) -> None:
    net.serve("a")
    await serve(balancer)
    with chatter(net) as talk:
        await until(lambda: directions(balancer) == 2)
        ip("-n", net.name("a"), "link", "set", "eth0", "address", "02:00:00:00:77:01")
        ip("-n", net.name("balancer"), "neigh", "flush", "dev", "va")
        await talk.more(1000)


async def test_what_the_kernel_forgets_ends(net: Net, balancer: Balancer) -> None:
    """Whoever deletes a flow from the kernel's table ends it, with the next packet that goes the long way."""
    net.serve("a")
    await serve(balancer)
    with chatter(net) as talk:
        await until(lambda: directions(balancer) == 2)
        with contextlib.closing(Conntrack()) as table:
            assert table.delete([each for each in table.flows() if each.is_live]) == 1
        assert await talk.over() == "reset"


@both_families
async def test_a_way_that_becomes_narrow_is_found_out(net: Net, balancer: Balancer, family: int) -> None:
    """The sender is told by the kernel (RFC 1191), to whom a packet that was too large before goes no more."""
    net.serve("a", family=family)
    await serve(balancer, family=family)
    with net.connect(FRONT[family], FRONT_PORT) as sock:
        read_line(sock)
        await become_known(balancer, sock)
        for namespace, device in (("balancer", "va"), ("a", "eth0")):
            ip("-n", net.name(namespace), "link", "set", device, "mtu", "1300")
        await asyncio.to_thread(exchange, sock, 8 * MEGABYTE)


async def test_flows_of_others_are_left_alone(net: Net, balancer: Balancer) -> None:
    """Also those that go to a backend of ours past us, and by a translation that is somebody else's."""
    net.serve("a")
    await serve(balancer)
    nft("add table ip somebody; add chain ip somebody in { type nat hook prerouting priority dstnat; }")
    nft(f"add rule ip somebody in tcp dport 8081 dnat to {BACKEND['a', 4]}:{PORT}")
    ip("-n", net.name("client"), "route", "add", "default", "via", FRONT[4])
    for host, port in ((BACKEND["a", 4], PORT), (FRONT[4], 8081)):
        with net.connect(host, port) as sock:
            read_line(sock)
            await asyncio.to_thread(exchange, sock, 8 * MEGABYTE)
            assert directions(balancer) == 0
    with chatter(net):
        await until(lambda: directions(balancer) == 2)


async def test_flows_of_others_to_the_port_of_a_listener_on_every_address_are_left_alone(
    net: Net, balancer: Balancer
) -> None:
    """As on a router that masquerades, whose clients connect to that port all over the world."""
    net.serve("a")
    net.serve("b", port=FRONT_PORT)
    balancer.serve(backend("a"), bind=f":{FRONT_PORT}")
    await balancer.engine.sessions()
    await until(lambda: balancer.shortcut.is_in_force)
    nft("add table ip somebody; add chain ip somebody out { type nat hook postrouting priority srcnat; }")
    nft("add rule ip somebody out oifname vb masquerade")
    ip("-n", net.name("client"), "route", "add", "default", "via", FRONT[4])
    with net.connect(BACKEND["b", 4], FRONT_PORT) as sock:
        assert read_line(sock).startswith("b ")
        await asyncio.to_thread(exchange, sock, 24 * MEGABYTE)
        assert directions(balancer) == 0
    with chatter(net):
        await until(lambda: directions(balancer) == 2)


async def test_it_is_only_there_while_the_kernel_is_liberal(net: Net, balancer: Balancer) -> None:
    net.serve("a")
    await serve(balancer)
    for value in ("0", "1"):
        LIBERAL.set_to(value)
        await until(lambda wanted=value == "1": balancer.shortcut.is_in_force is wanted)
        with chatter(net) as talk:
            await talk.more(1000)
            if value == "0":
                assert directions(balancer) == 0
            else:
                await until(lambda: directions(balancer) == 2)


async def test_without_the_setting_it_is_said_and_served(net: Net) -> None:
    net.serve("a")
    with net.inside("balancer"):
        for setting in (FORWARD, ACCOUNTING):
            setting.set_to(setting.value)
        complaints: list[str] = []
        engine = KernelEngine(shortcut=Shortcut(complaints.append), complain=complaints.append)
        await engine.start(lambda _report: None)
        try:
            listener = Listener("front", Address(FRONT[4], FRONT_PORT), "pool")
            engine.apply(Snapshot(1, (listener,), (Pool("pool", backends=(backend("a"),)),)))
            with chatter(net) as talk:
                await talk.more()
            assert any("be_liberal=1" in text and "shortcut" in text for text in complaints)
        finally:
            await engine.stop()


async def test_a_device_that_comes_later_has_it_too(net: Net, balancer: Balancer) -> None:
    net.serve("a")
    await serve(balancer)
    before = {number for lane in balancer.shortcut._lanes.values() for number in lane.devices}
    ip("-n", net.name("balancer"), "link", "add", "late", "type", "veth", "peer", "name", "late2")
    await until(
        lambda: (
            len({n for lane in balancer.shortcut._lanes.values() for n in lane.devices}) == len(before) + 2
        )
    )
    ip("-n", net.name("balancer"), "link", "del", "late")
    await until(lambda: {n for lane in balancer.shortcut._lanes.values() for n in lane.devices} == before)
    with net.connect(FRONT[4], FRONT_PORT) as sock:
        assert read_line(sock).startswith("a ")
        sock.shutdown(socket.SHUT_WR)
        assert await ending(sock) == "fin"


async def test_short_frames_that_a_card_has_padded_are_learned_from(net: Net, balancer: Balancer) -> None:
    """Ethernet's least is 60 bytes, and bare acknowledgements without timestamps are 54; the kernel cuts the rest off."""
    net.serve("a")
    await serve(balancer)
    to = mac_of("vclient")
    with net.inside("client"):
        wire = Wire("eth0", to)
    with contextlib.closing(wire), net.connect(FRONT[4], FRONT_PORT) as sock, one_cpu():
        read_line(sock)
        short = frame(sock.getsockname(), (FRONT[4], FRONT_PORT)).ljust(60, b"\0")
        for _ in range(5000):
            wire.send(short)

        def sources() -> set[bytes]:
            return {key[:4] for lane in balancer.shortcut._lanes.values() for key, _ in lane._flows.items()}

        await until(lambda: socket.inet_aton(CLIENT[4]) in sources())
        await asyncio.to_thread(exchange, sock, 4 * MEGABYTE)


async def test_what_somebody_elses_program_does_to_what_leaves_is_done_once(
    net: Net, balancer: Balancer
) -> None:
    """It goes for packets of the shortcut as for all others, so it must not be learned as well."""
    asm = Assembler()
    asm.load(4, Reg.R2, Reg.R1, 76)
    asm.load(4, Reg.R3, Reg.R1, 80)
    asm.do("mov", Reg.R4, Reg.R2)
    asm.do("add", Reg.R4, 14)
    asm.jump_if(Reg.R4, ">", Reg.R3, "end")
    asm.load(1, Reg.R4, Reg.R2, 11)
    asm.do("xor", Reg.R4, 1)
    asm.store(1, Reg.R2, 11, Reg.R4)
    asm.label("end")
    asm.do("mov", Reg.R0, -1)
    asm.exit()
    kernel = Kernel()
    program = kernel.load(asm.code())
    theirs = kernel.attach(program, socket.if_nametoindex("va"), EGRESS)
    net.serve("a")
    await serve(balancer)
    try:
        with net.connect(FRONT[4], FRONT_PORT) as sock:
            read_line(sock)
            await become_known(balancer, sock)
            with net.inside("a"):
                heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0800))
            with heard:
                heard.settimeout(20)
                sources = set()
                for number in range(200):
                    sock.sendall(b"%d\n" % number)
                    read_line(sock)
                while b"199\n" not in (got := heard.recv(2000)):
                    if got[30:34] == socket.inet_aton(BACKEND["a", 4]):
                        sources.add(got[6:12])
    finally:
        kernel.close(theirs)
        kernel.close(program)
    mac = mac_of("va")
    assert sources == {mac[:5] + bytes([mac[5] ^ 1])}


@pytest.mark.parametrize("source", ["transparent"])
async def test_what_conntrack_meets_inside_of_a_bridge_is_counted_once(
    net: Net, balancer: Balancer, source: str
) -> None:
    """With ``bridge-nf-call-iptables``, as Docker sets it: packets have been counted before they come out of the bridge."""
    del source
    name = net.name("balancer")
    ip("-n", name, "link", "add", "bridge", "type", "bridge")
    ip("-n", name, "addr", "flush", "dev", "va")
    ip("-n", name, "link", "set", "va", "master", "bridge")
    ip("-n", name, "addr", "add", f"{INNER['a', 4]}/24", "dev", "bridge")
    ip("-n", name, "link", "set", "bridge", "up")
    net.serve("a")
    await serve(balancer)
    size = 24 * MEGABYTE
    with net.connect(FRONT[4], FRONT_PORT) as sock:
        read_line(sock)
        await asyncio.to_thread(exchange, sock, size)
        (session,) = await balancer.engine.sessions()
    assert size < session.bytes_from_client < 1.2 * size
    assert size < session.bytes_from_backend < 1.2 * size


async def test_a_device_with_the_number_of_one_that_has_gone_has_it_too(net: Net, balancer: Balancer) -> None:
    net.serve("a")
    await serve(balancer)
    kernel, number = Kernel(), 4242
    lane = balancer.shortcut._lanes[4]
    add = ("-n", net.name("balancer"), "link", "add", "late", "index", str(number), "type", "veth")
    ip(*add)
    await until(lambda: number in lane.devices)
    former = lane.devices[number]
    ip("-n", net.name("balancer"), "link", "del", "late")
    ip(*add)
    await until(lambda: lane.devices.get(number) not in (None, former))
    assert [kernel.is_attached(link) for link in lane.devices[number]] == [True, True]


async def test_copies_that_somebody_elses_rules_make_are_not_learned_from(
    net: Net, balancer: Balancer
) -> None:
    """They leave before the packet that they are of, for somebody who only listens."""
    net.serve("a")
    nft("add table ip somebody; add chain ip somebody on { type filter hook forward priority 0; }")
    try:
        nft(f"add rule ip somebody on tcp dport {PORT} dup to {BACKEND['b', 4]} device vb")
    except subprocess.CalledProcessError:
        pytest.skip("this kernel has no dup")
    await serve(balancer)
    with chatter(net) as talk:
        await until(lambda: directions(balancer) > 0)
        await talk.more(2000)
