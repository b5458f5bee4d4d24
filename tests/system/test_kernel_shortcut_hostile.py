"""The shortcut and who means harm: frames that no session has sent, by somebody who does not see what sessions send.

Needs root, nft, and a kernel that has it (Linux 6.6).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import pytest

from easyproxy.engine.kernel.conntrack import Conntrack
from easyproxy.engine.kernel.ruleset import CLOSED_S
from easyproxy.engine.kernel.settings import Setting
from system.forging import ACK, RST, Wire, frame, mac_of, one_cpu
from system.kernel_engine import FRONT_PORT, Balancer, running
from system.kernel_net import CLIENT, FRONT, Net, ip, read_line
from system.shortcut_traffic import (
    MEGABYTE,
    become_known,
    chatter,
    directions,
    exchange,
    serve,
    targets,
    until,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft"),
]

ETH_P_IP = 0x0800
PLACE = FRONT[4], FRONT_PORT


@pytest.fixture
def source() -> str:
    return "masquerade"


@pytest.fixture
async def balancer(net: Net, source: str) -> AsyncIterator[Balancer]:
    net.route_back()
    async with running(net, source) as made:
        yield made
    assert [text for text in made.complaints if "shortcut" in text] == []


@contextlib.contextmanager
def wire(net: Net, namespace: str) -> Iterator[Wire]:
    """Whoever stands in a namespace, and what he can send to the balancer."""
    to = mac_of(f"v{namespace}")
    with net.inside(namespace):
        made = Wire("eth0", to)
    with contextlib.closing(made):
        yield made


async def test_nobody_has_packets_of_another_sent_to_himself(net: Net, balancer: Balancer) -> None:
    """A frame in the name of a client, which the kernel drops, and then one of one's own with the same numbers, which it forwards."""
    net.serve("a")
    await serve(balancer)
    ip("-n", net.name("b"), "addr", "add", "10.77.12.3/24", "dev", "eth0")
    own = ("10.77.12.2", 4000), ("10.77.12.3", 4000)
    with net.connect(*PLACE) as sock, wire(net, "b") as attacker, one_cpu():
        read_line(sock)
        victim = sock.getsockname(), PLACE
        for _ in range(1000):
            attacker.send(frame(*victim, sequence=5, acknowledged=6, spoil=1))
            attacker.send(frame(*own, sequence=5, acknowledged=6))
        assert not targets(balancer) & {host for host, _ in own}
        await asyncio.to_thread(exchange, sock, 4 * MEGABYTE)


async def test_a_session_lives_on_after_a_reset_that_only_fits_what_was_forged_before(
    net: Net, balancer: Balancer
) -> None:
    net.serve("a")
    await serve(balancer)
    with chatter(net) as talk, wire(net, "client") as attacker:
        ends = talk.sock.getsockname(), PLACE
        await until(lambda: directions(balancer) == 2)
        attacker.send(frame(*ends, sequence=1000, data=b"x" * 10, flags=ACK))
        attacker.send(frame(*ends, sequence=1010, flags=RST))
        for _ in range(3):
            assert len(await balancer.engine.sessions()) == 1
            await talk.more()


async def test_whoever_comes_again_from_the_port_of_a_session_that_was_reset_stays(
    net: Net, balancer: Balancer
) -> None:
    net.serve("a")
    await serve(balancer)
    local = CLIENT[4], 45000

    def connect() -> socket.socket:
        with net.inside("client"):
            return socket.create_connection(PLACE, timeout=20, source_address=local)

    for _ in range(10):
        sock = connect()
        read_line(sock)
        while directions(balancer) < 2:
            await asyncio.to_thread(exchange, sock, MEGABYTE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        with connect() as again:
            read_line(again)
            for _ in range(3):
                assert len(await balancer.engine.sessions()) == 1
                await asyncio.to_thread(exchange, again, MEGABYTE)
            again.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_what_comes_by_another_device_is_for_the_kernel_to_judge(net: Net, balancer: Balancer) -> None:
    """Its filter of sources (``rp_filter``) lets nobody speak in the name of a client who is elsewhere."""
    net.serve("a")
    await serve(balancer)
    for device in ("all", "va", "vb", "vclient"):
        Setting(f"net.ipv4.conf.{device}.rp_filter", "1", "").set_to("1")
    with net.connect(*PLACE) as sock:
        read_line(sock)
        await become_known(balancer, sock)
        with net.inside("a"):
            heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(ETH_P_IP))
        ends = sock.getsockname(), PLACE
        with heard, wire(net, "b") as attacker, wire(net, "client") as client:
            heard.settimeout(20)
            sock.sendall(b"hello\n")  # from here on the lease holds for a while
            assert read_line(sock) == "hello"
            for _ in range(20):
                attacker.send(frame(*ends, data=b"forged"))
            client.send(frame(*ends, data=b"the last"))
            texts = []
            while b"the last" not in texts:
                texts.append(heard.recv(2000)[-8:])
    assert b"hello\n" in {text[-6:] for text in texts}
    assert b"forged" not in {text[-6:] for text in texts}


@pytest.mark.parametrize("source", ["masquerade", "transparent"])
async def test_an_idle_session_lives_on_after_a_reset_that_fits_nothing(net: Net, balancer: Balancer) -> None:
    """Conntrack is liberal, lets it pass to an end that refuses it, and gives the flow ten seconds to show that it is alive."""
    net.serve("a")
    await serve(balancer)
    with (
        net.connect(*PLACE) as sock,
        wire(net, "client") as attacker,
        contextlib.closing(Conntrack()) as table,
    ):
        read_line(sock)
        assert len(await balancer.engine.sessions()) == 1
        number = 1 << 30  # half of all numbers are before what the kernel has seen, and dropped
        while table_s(table) > CLOSED_S:
            number = (number + (1 << 31)) % (1 << 32)
            attacker.send(frame(sock.getsockname(), PLACE, sequence=number, flags=RST))
        await balancer.engine.sessions()
        await until(lambda: table_s(table) > CLOSED_S)
        sock.sendall(b"still there\n")
        assert read_line(sock) == "still there"


def table_s(table: Conntrack) -> int:
    """How long the kernel gives the only flow."""
    (flow,) = list(table.flows())
    return flow.timeout_s
