"""The kernel engine with real traffic between network namespaces. Needs root and nft."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from easyproxy.engine.kernel import KernelEngine, clean, requirements, ruleset
from easyproxy.engine.kernel.conntrack import Conntrack
from easyproxy.engine.kernel.nft import Nft
from easyproxy.engine.kernel.slots import STRATEGIES
from easyproxy.engine.seam import SessionEnd, Where
from easyproxy.errors import EngineError
from easyproxy.model import Address, Rate
from system.kernel_engine import FRONT_PORT, Balancer, backend, ending, nft, running
from system.kernel_net import BACKEND, CLIENT, FRONT, INNER, PORT, Net, ip, read_line, sysctl

pytestmark = [
    pytest.mark.root,
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft"),
]


@pytest.fixture
def source() -> str:
    return "masquerade"


@pytest.fixture
async def balancer(net: Net, source: str) -> AsyncIterator[Balancer]:
    async with running(net, source) as made:
        yield made


def ask(net: Net, host: str = FRONT[4], port: int = FRONT_PORT, namespace: str = "client") -> list[str]:
    """Connect, and return the backend's name and whom it saw."""
    with net.connect(host, port, namespace=namespace) as sock:
        return read_line(sock).split()


@pytest.mark.parametrize("strategy", ["round_robin", "random"])
async def test_new_sessions_are_shared_by_weight(net: Net, balancer: Balancer, strategy: str) -> None:
    """Behaviour 27."""
    net.serve("a")
    net.serve("b")
    balancer.serve(backend("a", weight=3), backend("b"), strategy=strategy)
    seen = Counter(ask(net)[0] for _ in range(80))
    if strategy == "round_robin":
        assert seen == {"a": 60, "b": 20}
    else:
        assert 40 <= seen["a"] <= 75  # 60 expected; beyond it by more than five standard deviations otherwise


@pytest.mark.parametrize("strategy", ["source_hash", "maglev"])
async def test_a_client_address_keeps_its_backend(net: Net, balancer: Balancer, strategy: str) -> None:
    """Behaviour 27."""
    net.serve("a")
    net.serve("b")
    balancer.serve(backend("a"), backend("b"), strategy=strategy)
    assert len({ask(net)[0] for _ in range(10)}) == 1


@pytest.mark.parametrize("family", [4, 6])
async def test_with_masquerade_backends_need_no_route_to_the_client(
    net: Net, balancer: Balancer, family: int
) -> None:
    net.serve("a", family=family)
    balancer.serve(backend("a", family=family), bind=str(Address(FRONT[family], FRONT_PORT)))
    name, seen = ask(net, FRONT[family])
    assert name == "a"
    assert seen != CLIENT[family]


@pytest.mark.parametrize("source", ["transparent"])
@pytest.mark.parametrize("family", [4, 6])
async def test_transparent_backends_see_the_client(net: Net, balancer: Balancer, family: int) -> None:
    net.route_back()
    net.serve("a", family=family)
    balancer.serve(backend("a", family=family), bind=str(Address(FRONT[family], FRONT_PORT)))
    assert ask(net, FRONT[family]) == ["a", CLIENT[family]]


@pytest.mark.parametrize("source", ["masquerade", "transparent"])
async def test_a_backend_can_be_its_own_client(net: Net, balancer: Balancer, source: str) -> None:
    del source
    net.route_back()
    net.serve("a")
    balancer.serve(backend("a"))
    assert ask(net, namespace="a")[0] == "a"


@pytest.mark.parametrize("source", ["masquerade", "transparent"])
async def test_clients_on_the_balancer_itself_are_served(net: Net, balancer: Balancer, source: str) -> None:
    del source
    net.route_back()
    net.serve("a")
    balancer.serve(backend("a"), bind=f"127.0.0.1:{FRONT_PORT}")
    assert ask(net, "127.0.0.1", namespace="balancer") == ["a", INNER["a", 4]]
    balancer.serve(backend("a"), bind=f":{FRONT_PORT}")
    for host in (FRONT[4], "127.0.0.1"):
        assert ask(net, host, namespace="balancer")[0] == "a"
    assert ask(net)[0] == "a"


async def test_a_listener_on_every_address_serves_both_families_each_with_its_own_backends(
    net: Net, balancer: Balancer
) -> None:
    net.serve("a", family=6)
    net.serve("b", family=4)
    balancer.serve(backend("a", family=6), backend("b"), bind=f":{FRONT_PORT}")
    assert ask(net, FRONT[6])[0] == ask(net, FRONT[6], namespace="balancer")[0] == "a"
    assert ask(net, FRONT[4])[0] == ask(net, "127.0.0.1", namespace="balancer")[0] == "b"
    with pytest.raises(ConnectionRefusedError):  # no packet from ::1 leaves a machine
        ask(net, "::1", namespace="balancer")


async def test_a_session_without_a_packet_is_reset_on_both_sides(net: Net, balancer: Balancer) -> None:
    """Behaviour 14."""
    server = net.serve("a", family=6)
    balancer.serve(backend("a", family=6), bind=str(Address(FRONT[6], FRONT_PORT)), idle_timeout_s=1)
    with net.connect(FRONT[6], FRONT_PORT) as sock:
        read_line(sock)
        assert await ending(sock) == "reset"
    assert await asyncio.to_thread(server.broken.get, timeout=10) == "reset"


async def test_without_a_ready_backend_the_client_is_reset_at_once(net: Net, balancer: Balancer) -> None:
    """Behaviour 12."""
    balancer.serve()
    with pytest.raises(ConnectionRefusedError):
        ask(net)
    await balancer.engine.sessions()
    assert balancer.engine.statistics().listeners["front"].no_backend == 1


async def test_established_sessions_stay_through_changes_and_draining(net: Net, balancer: Balancer) -> None:
    """Behaviours 30 and 34."""
    net.serve("a")
    net.serve("b")
    balancer.serve(backend("a"))
    with net.connect(FRONT[4], FRONT_PORT) as sock:
        assert read_line(sock).startswith("a ")
        balancer.serve(backend("b"))
        sock.sendall(b"still there\n")
        assert read_line(sock) == "still there"
        assert ask(net)[0] == "b"
        (info,) = [one for one in await balancer.engine.sessions() if one.backend == "pool/a"]
        assert (info.listener, info.state, info.engine) == ("front", "relaying", "kernel")
        draining = asyncio.create_task(balancer.engine.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            ask(net)
        sock.sendall(b"and still\n")
        assert read_line(sock) == "and still"
        sock.close()
        await draining


@pytest.mark.parametrize("source", ["masquerade", "transparent"])
@pytest.mark.parametrize("where", ["client", "balancer"])
async def test_closed_sessions_are_reset_on_both_sides_even_when_idle(
    net: Net, balancer: Balancer, source: str, where: str
) -> None:
    """Behaviour 28."""
    del source
    net.route_back()
    server = net.serve("a")
    balancer.serve(backend("a"))
    with net.connect(FRONT[4], FRONT_PORT, namespace=where) as sock:
        read_line(sock)
        balancer.serve()
        assert await balancer.engine.close_sessions(Where(backend="pool/a"), "backend_down") == 1
        assert await ending(sock) == "reset"
    assert await asyncio.to_thread(server.broken.get, timeout=10) == "reset"
    ends = [report for report in balancer.reports if isinstance(report, SessionEnd)]
    assert [end.reason for end in ends] == ["backend_down"]
    assert await balancer.engine.sessions() == []


async def test_who_waits_for_a_backend_that_went_down_is_served_by_another(
    net: Net, balancer: Balancer
) -> None:
    """Behaviour 28: a connect that was not answered is forgotten, and what the client sends next is a new one."""
    net.serve("b")
    with net.inside("a"):
        nft("add table inet deaf; add chain inet deaf in { type filter hook input priority 0; policy drop; }")
    balancer.serve(backend("a"))
    with net.inside("client"):
        sock = socket.socket()
    with sock:
        sock.setblocking(False)
        front = FRONT[4], FRONT_PORT
        connect = asyncio.create_task(asyncio.get_running_loop().sock_connect(sock, front))
        await asyncio.sleep(0)
        (session,) = await balancer.engine.sessions()
        assert (session.backend, session.state) == ("pool/a", "connecting")
        balancer.serve(backend("b"))
        assert await balancer.engine.close_sessions(Where(backend="pool/a"), "backend_down") == 1
        async with asyncio.timeout(20):
            await connect
        sock.settimeout(20)
        assert read_line(sock).startswith("b ")


async def test_half_closed_sessions_are_reset_on_both_sides(net: Net, balancer: Balancer) -> None:
    """Behaviour 28."""
    with net.inside("a"):
        server = socket.create_server((BACKEND["a", 4], PORT))
    balancer.serve(backend("a"))
    with server, net.connect(FRONT[4], FRONT_PORT) as client:
        served, _ = server.accept()
        with served:
            client.shutdown(socket.SHUT_WR)
            assert served.recv(1) == b""
            (session,) = await balancer.engine.sessions()
            assert session.state == "half_closed_by_client"
            assert await balancer.engine.close_sessions(Where(backend="pool/a"), "backend_down") == 1
            assert await ending(client) == "reset"
            broken = select.poll()
            broken.register(served, select.POLLERR)
            assert await asyncio.to_thread(broken.poll, 20_000)


async def test_changes_lose_no_flow_between_machines(net: Net, balancer: Balancer) -> None:
    """Behaviours 29 and 30; the conformance suite has a thousand changes on one machine."""
    net.serve("a")
    net.serve("b")
    both = (backend("a"), backend("b"))
    balancer.serve(*both)
    established = [net.connect(FRONT[4], FRONT_PORT) for _ in range(20)]
    for sock in established:
        read_line(sock)
    for change in range(200):
        balancer.serve(*(both if change % 3 == 0 else both[change % 2 :][:1]))
        assert ask(net)[0] in "ab"
        sock = established[change % 20]
        sock.sendall(f"{change}\n".encode())
        assert read_line(sock) == str(change)
    for sock in established:
        sock.close()


@pytest.mark.parametrize("family", [4, 6])
async def test_a_single_flow_can_be_asked_for_and_deleted(net: Net, balancer: Balancer, family: int) -> None:
    net.serve("a", family=family)
    balancer.serve(backend("a", family=family), bind=str(Address(FRONT[family], FRONT_PORT)))
    with contextlib.closing(Conntrack()) as table, net.connect(FRONT[family], FRONT_PORT) as sock:
        read_line(sock)
        (flow,) = [each for each in table.flows() if each.is_live]
        assert table.has(flow)
        assert table.delete([flow]) == 1
        assert not table.has(flow)
        assert table.delete([flow]) == 0


async def test_a_list_that_is_broken_off_is_not_the_answer_to_the_next_question(
    net: Net, balancer: Balancer
) -> None:
    net.serve("a")
    balancer.serve(backend("a"))
    with contextlib.closing(Conntrack()) as table, net.connect(FRONT[4], FRONT_PORT) as sock:
        read_line(sock)
        flow = next(each for each in table.flows() if each.is_live)
        assert table.has(flow)
        next(table.flows())
        assert flow.identity in {each.identity for each in table.flows()}
        next(table.flows())
        assert table.delete([flow]) == 1


async def test_bytes_sessions_and_ends_are_counted(net: Net, balancer: Balancer) -> None:
    net.serve("a")
    told: list[SessionEnd] = []
    balancer.engine.tell_every_session(told.extend)
    balancer.serve(backend("a"))
    with net.connect(FRONT[4], FRONT_PORT) as sock:
        read_line(sock)
        sock.sendall(b"x" * 100_000)
        left = 100_000
        while left:
            left -= len(sock.recv(65536))
        await balancer.engine.sessions()
        counted = balancer.engine.statistics()
        assert counted.listeners["front"].sessions == counted.backends["pool/a"].sessions == 1
    async with asyncio.timeout(10):
        while not told:
            await balancer.engine.sessions()
    counted = balancer.engine.statistics()
    assert counted.listeners["front"].accepted == counted.backends["pool/a"].total == 1
    assert 100_000 < counted.backends["pool/a"].bytes_from_client < 200_000
    assert 100_000 < counted.backends["pool/a"].bytes_from_backend < 200_000
    assert (told[0].reason, told[0].backend) == ("client_fin", "pool/a")
    assert await balancer.engine.recent_ends(Where(listener="front")) == told


@pytest.mark.parametrize("family", [4, 6])
async def test_sessions_that_come_and_go_between_two_looks_are_accounted_for(
    net: Net, balancer: Balancer, family: int
) -> None:
    """The hardest: all from one port, so that each takes the place of the one before."""
    net.serve("a", family=family)
    told: list[SessionEnd] = []
    balancer.engine.tell_every_session(told.extend)
    balancer.serve(backend("a", family=family), bind=str(Address(FRONT[family], FRONT_PORT)))
    await balancer.engine.sessions()

    def converse() -> None:
        for _ in range(50):
            with (
                net.inside("client"),
                socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6) as sock,
            ):
                sock.settimeout(20)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )  # a reset, and no TIME_WAIT
                sock.bind(("", 40_000))
                sock.connect((FRONT[family], FRONT_PORT))
                read_line(sock)
                sock.sendall(b"x" * 1000)
                left = 1000
                while left:
                    left -= len(sock.recv(left))

    await asyncio.to_thread(converse)
    async with asyncio.timeout(30):
        while len(told) < 50:
            await balancer.engine.sessions()
    counted = balancer.engine.statistics()
    assert {end.reason for end in told} == {"reset"}
    assert len({end.id for end in told}) == len(told) == counted.backends["pool/a"].total == 50
    assert all(1000 < end.bytes_from_client < 3000 for end in told)
    assert counted.backends["pool/a"].bytes_from_client == sum(end.bytes_from_client for end in told)
    assert counted.listeners["front"].sessions == 0


async def test_limits_hold_over_changes(net: Net, balancer: Balancer) -> None:
    """Behaviours 18 and 19."""
    net.serve("a")
    balancer.serve(backend("a", max_sessions=2))
    with net.connect(FRONT[4], FRONT_PORT) as first, net.connect(FRONT[4], FRONT_PORT) as second:
        read_line(first)
        read_line(second)
        balancer.serve(backend("a", max_sessions=2, weight=2))
        with pytest.raises(ConnectionRefusedError):
            ask(net)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                assert ask(net)[0] == "a"
                break
            await asyncio.sleep(0.05)


async def test_a_full_backend_is_passed_over_until_it_has_room(net: Net, balancer: Balancer) -> None:
    """Behaviour 19, from the next look on; until then its share of the clients is refused."""
    net.serve("a")
    net.serve("b")
    balancer.serve(backend("a", max_sessions=1), backend("b"))

    def answers() -> set[str]:
        found = set()
        for _ in range(4):
            try:
                found.add(ask(net)[0])
            except ConnectionRefusedError:
                found.add("refused")
        return found

    async def until(holds: Callable[[set[str]], bool]) -> None:
        async with asyncio.timeout(20):
            while True:
                if holds(answers()):
                    return
                await asyncio.sleep(0.05)

    with net.connect(FRONT[4], FRONT_PORT) as sock:
        assert read_line(sock).startswith("a ")
        await until(lambda found: found == {"b"})
        balancer.serve(backend("a", max_sessions=1), backend("b", weight=2))
        assert answers() == {"b"}
    await until(lambda found: "a" in found)


@pytest.mark.parametrize("remove", [clean, lambda: nft("flush", "ruleset")], ids=["clean", "flush"])
async def test_rules_that_somebody_removes_are_there_again(
    net: Net, balancer: Balancer, remove: Callable[[], object]
) -> None:
    net.serve("a")
    balancer.serve(backend("a"))
    await balancer.engine.sessions()
    remove()
    async with asyncio.timeout(20):
        while True:
            if Nft().exists():
                break
            await asyncio.sleep(0.05)
    assert ask(net)[0] == "a"
    assert any("somebody had removed the table" in text for text in balancer.complaints)


def is_served(net: Net, source: str, front: str) -> bool:
    """Whether a client with this address of its own gets in."""
    with net.inside("client"):
        try:
            with socket.create_connection(
                (front, FRONT_PORT), timeout=20, source_address=(source, 0)
            ) as sock:
                return read_line(sock).startswith("a ")
        except ConnectionRefusedError:
            return False


async def test_of_ipv6_the_first_half_of_an_address_is_one_client(net: Net, balancer: Balancer) -> None:
    net.serve("a", family=6)
    neighbour, other = "fd77:1::abcd:0:1", "fd77:1:0:1::2"
    for address in (neighbour, other):
        ip("-n", net.name("client"), "-6", "addr", "add", f"{address}/48", "dev", "eth0", "nodad")
    ip("-n", net.name("balancer"), "-6", "route", "add", "fd77:1::/48", "dev", "vclient")
    bind = str(Address(FRONT[6], FRONT_PORT))
    balancer.serve(backend("a", family=6), bind=bind, client_rate=Rate(1, 3600), client_burst=2)
    hosts = (CLIENT[6], neighbour, CLIENT[6], neighbour, other, other, other)
    seen = [is_served(net, host, FRONT[6]) for host in hosts]
    assert seen == [True, True, False, False, True, True, False]
    await balancer.engine.sessions()
    counted = balancer.engine.statistics()
    assert (counted.listeners["front"].refused, counted.ends["rate_limited"]) == (3, 3)


async def test_addresses_beyond_those_that_can_be_followed_are_served(
    net: Net, balancer: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ruleset, "MAX_CLIENTS", 2)
    net.serve("a")
    for host in range(3, 6):
        ip("-n", net.name("client"), "addr", "add", f"10.77.1.{host}/24", "dev", "eth0")
    balancer.serve(backend("a"), client_rate=Rate(1, 3600), client_burst=1)
    first, *further = [f"10.77.1.{host}" for host in range(2, 6)]
    assert [is_served(net, first, FRONT[4]), is_served(net, first, FRONT[4])] == [True, False]
    assert [is_served(net, host, FRONT[4]) for host in further * 2][-2:] == [True, True]
    assert not is_served(net, first, FRONT[4])


async def test_what_cannot_be_is_refused_and_the_former_snapshot_stays(net: Net, balancer: Balancer) -> None:
    net.serve("a")
    balancer.serve(backend("a"))
    with pytest.raises(EngineError, match=r"no strategy least_connections"):
        balancer.serve(backend("a"), strategy="least_connections")
    with pytest.raises(EngineError, match=r"does not translate between IPv4 and IPv6"):
        balancer.serve(backend("a", family=6))
    assert ask(net)[0] == "a"
    assert "least_connections" not in STRATEGIES


async def test_an_address_in_use_is_said(net: Net, balancer: Balancer) -> None:
    del net
    with (
        socket.create_server((FRONT[4], FRONT_PORT)),
        pytest.raises(EngineError, match="Address already in use"),
    ):
        balancer.serve(backend("a"))


async def test_stopping_leaves_nothing(net: Net) -> None:
    with net.inside("balancer"):
        nft("add", "table", "inet", "somebody")
        made = Balancer("masquerade")
        await made.engine.start(made.reports.append)
        made.serve(backend("a"))
        assert sysctl("net.ipv4.ip_forward") == "1"
        await made.engine.stop()
        assert nft("list", "ruleset").split() == ["table", "inet", "somebody", "{", "}"]
        assert sysctl("net.ipv4.ip_forward") == "0"
        assert clean() is None


async def test_missing_settings_are_named_with_the_command(net: Net) -> None:
    with net.inside("balancer"):
        made = Balancer("masquerade")
        made.engine = KernelEngine(complain=made.complaints.append)
        assert any("sysctl -w net.ipv4.ip_forward=1" in text for text in requirements())
        await made.engine.start(made.reports.append)
        try:
            with pytest.raises(EngineError, match=r"sysctl -w net.ipv4.ip_forward=1"):
                made.serve(backend("a"))
        finally:
            await made.engine.stop()


_PROGRAM = f"""
import asyncio, sys
from easyproxy.engine.kernel import KernelEngine
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot
async def main():
    engine = KernelEngine(manage_sysctl=True)
    await engine.start(lambda report: None)
    backend = Backend("pool/a", "a", Address("{BACKEND["a", 4]}", {PORT}), max_sessions=int(sys.argv[1]))
    engine.apply(Snapshot(1, (Listener("front", Address("{FRONT[4]}", {FRONT_PORT}), "pool"),),
        (Pool("pool", backends=(backend,)),)))
    print("ready", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""


def started(net: Net, max_sessions: int = 0) -> subprocess.Popen[str]:
    """Start a program with an engine in the balancer's namespace."""
    words = [sys.executable, "-c", _PROGRAM, str(max_sessions)]
    with net.inside("balancer"):
        program = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


async def test_sessions_go_on_while_the_balancer_is_killed_and_started_again(net: Net) -> None:
    net.serve("a")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(started(net))
        sock = stack.enter_context(net.connect(FRONT[4], FRONT_PORT))
        read_line(sock)
        first.send_signal(signal.SIGKILL)
        first.wait()
        sock.sendall(b"nobody at home\n")
        assert read_line(sock) == "nobody at home"
        assert ask(net)[0] == "a"  # new sessions too
        second = stack.enter_context(started(net))
        sock.sendall(b"somebody again\n")
        assert read_line(sock) == "somebody again"
        assert ask(net)[0] == "a"
        second.send_signal(signal.SIGKILL)
        second.wait()
        with net.inside("balancer"):
            assert sysctl("net.ipv4.ip_forward") == "1"
            restored = clean()
            assert restored is not None
            assert "net.ipv4.ip_forward=0" in restored
            assert sysctl("net.ipv4.ip_forward") == "0"
            assert not Nft().exists()


async def test_a_limit_holds_for_the_sessions_that_a_killed_balancer_has_left(net: Net) -> None:
    net.serve("a")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(started(net, 2))
        for _ in range(2):
            read_line(stack.enter_context(net.connect(FRONT[4], FRONT_PORT)))
        first.send_signal(signal.SIGKILL)
        first.wait()
        second = stack.enter_context(started(net, 2))
        with pytest.raises(ConnectionRefusedError):
            ask(net)
        second.send_signal(signal.SIGKILL)


async def test_settings_that_a_killed_balancer_has_made_are_put_back_by_the_next(net: Net) -> None:
    with net.inside("balancer"):
        before = {name: sysctl(name) for name in ("net.ipv4.ip_forward", "net.netfilter.nf_conntrack_acct")}
        with started(net) as program:
            program.send_signal(signal.SIGKILL)
        assert {sysctl(name) for name in before} == {"1"}
        made = Balancer("masquerade")
        made.engine = KernelEngine()
        await made.engine.start(made.reports.append)
        made.serve(backend("a"))
        await made.engine.stop()
        assert {name: sysctl(name) for name in before} == before
