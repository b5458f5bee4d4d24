"""The engine without a kernel: rules go to a stand-in, so no privilege is needed. With traffic: tests/system."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from easyproxy.engine.kernel import KernelEngine
from easyproxy.engine.kernel import engine as module
from easyproxy.engine.kernel.ledger import Books, Ended
from easyproxy.engine.kernel.nft import NO_PRIVILEGE, explain
from easyproxy.engine.kernel.poke import packet
from easyproxy.engine.kernel.ruleset import EDITION, NOTES, key_of, noting
from easyproxy.engine.kernel.settings import FORWARD, Settings
from easyproxy.engine.seam import ListenerCounters, Where
from easyproxy.errors import EngineError
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot
from unit.engine.kernel_fake import FakeRules
from unit.engine.kernel_flow import FLOW

A = Backend("pool/a", "a", Address("127.0.0.1", 9))


def snapshot(version: int, *backends: Backend, strategy: str = "round_robin") -> Snapshot:
    listener = Listener("front", Address("127.0.0.1", 0), "pool")
    return Snapshot(version, (listener,), (Pool("pool", strategy, backends),))


@pytest.fixture
def rules() -> FakeRules:
    return FakeRules()


@pytest.fixture
async def engine(rules: FakeRules, anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> KernelEngine:
    del anyio_backend
    monkeypatch.setattr(module, "needed", lambda _snapshot, **_wanted: [])
    return KernelEngine(rules=rules)


@pytest.mark.anyio
async def test_the_same_snapshot_again_is_no_transaction(engine: KernelEngine, rules: FakeRules) -> None:
    engine.apply(snapshot(1, A))
    engine.apply(snapshot(1, A))
    assert len(rules.transactions) == 1
    await engine.stop()


@pytest.mark.anyio
async def test_a_snapshot_that_changes_no_rule_is_no_transaction(
    engine: KernelEngine, rules: FakeRules
) -> None:
    """So the turns of round robin go on where they were."""
    engine.apply(snapshot(1, A))
    other = replace(snapshot(2, A).pools[0], retries=7)
    engine.apply(Snapshot(2, snapshot(2).listeners, (other,)))
    assert len(rules.transactions) == 1
    engine.apply(snapshot(3))
    assert len(rules.transactions) == 2
    await engine.stop()


@pytest.mark.anyio
async def test_a_listener_keeps_its_port_over_snapshots(engine: KernelEngine) -> None:
    engine.apply(snapshot(1, A))
    before = engine.addresses()
    engine.apply(snapshot(2))
    assert engine.addresses() == before
    assert not before["front"].endswith(":0")
    await engine.stop()
    assert engine.addresses() == {}


@pytest.mark.anyio
async def test_a_refused_snapshot_changes_nothing(engine: KernelEngine, rules: FakeRules) -> None:
    engine.apply(snapshot(1, A))
    before = engine.addresses(), rules.table
    with pytest.raises(EngineError, match="no strategy first"):
        engine.apply(snapshot(2, A, strategy="first"))
    assert (engine.addresses(), rules.table) == before
    await engine.stop()


@pytest.mark.anyio
async def test_a_first_snapshot_that_nft_refuses_gives_its_port_back(
    engine: KernelEngine, rules: FakeRules
) -> None:
    rules.refuse = "nft refused the rule of pool/a: no"
    with pytest.raises(EngineError, match="rule of pool/a"):
        engine.apply(snapshot(1, A))
    assert engine.addresses() == {}
    await engine.stop()


@pytest.mark.anyio
async def test_a_table_that_somebody_has_touched_is_made_anew(engine: KernelEngine, rules: FakeRules) -> None:
    engine.apply(snapshot(1, A))
    rules.remove()
    engine.apply(snapshot(2))
    assert rules.exists()
    await engine.stop()
    assert not rules.exists()


@pytest.mark.anyio
@pytest.mark.parametrize("is_of_this_edition", [True, False])
async def test_what_a_former_run_has_counted_goes_on_where_it_has_the_same_meaning(
    rules: FakeRules, monkeypatch: pytest.MonkeyPatch, is_of_this_edition: bool
) -> None:
    monkeypatch.setattr(module, "needed", lambda _snapshot, **_wanted: [])
    limited = replace(A, max_sessions=5)
    former = KernelEngine(rules=rules)
    former.apply(snapshot(1, limited))
    await former.leave_to_successor()
    if not is_of_this_edition:
        rules.add(noting(["edition=0"]))
    engine = KernelEngine(rules=rules)
    engine.apply(snapshot(1, limited, strategy="maglev"))
    count_is_new = f"add set inet easyproxy n{key_of('pool/a')}_5" in rules.transactions[-1]
    assert count_is_new is not is_of_this_edition
    await engine.stop()


@pytest.mark.anyio
async def test_an_unknown_reason_to_close_is_refused(engine: KernelEngine) -> None:
    with pytest.raises(ValueError, match="operator, backend_down, failover, lagging, drained"):
        await engine.close_sessions(Where(), "boredom")


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(EngineError, match="masquerade or transparent"):
        KernelEngine(source="opaque")


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("netlink: Error: cache initialization failed: Operation not permitted", NO_PRIVILEGE),
        ("/dev/stdin:2:1-3: Error: syntax error", "nft refused 'add chain x': syntax error"),
        ("", "nft failed: without a word"),
    ],
)
def test_errors_of_nft_are_told_in_our_words(stderr: str, words: str) -> None:
    assert explain(stderr, "add table y\nadd chain x\n") == words


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_poke_is_a_segment_with_a_right_checksum(family: int) -> None:
    hosts = ("192.0.2.1", "192.0.2.2") if family == socket.AF_INET else ("fd00::1", "fd00::2")
    source, target = (socket.inet_pton(family, host) for host in hosts)
    made = packet((source, 80), (target, 5000))
    segment = made[-20:]
    assert segment[:4] == (80).to_bytes(2, "big") + (5000).to_bytes(2, "big")
    pseudo = source + target + (6).to_bytes(2, "big") + (20).to_bytes(2, "big")
    words = [int.from_bytes((pseudo + segment)[at : at + 2], "big") for at in range(0, len(pseudo) + 20, 2)]
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


@pytest.fixture
def forwarding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernel setting stands that says whether packets are forwarded; they are not."""
    monkeypatch.setattr("easyproxy.engine.kernel.settings._ROOT", tmp_path)
    path = tmp_path / "net/ipv4/ip_forward"
    path.parent.mkdir(parents=True)
    path.write_text("0\n")
    return path


def value(path: Path) -> str:
    return path.read_text().strip()


def test_settings_are_set_and_put_back(forwarding: Path) -> None:
    with pytest.raises(EngineError, match=r"net.ipv4.ip_forward is 0: .*; sysctl -w net.ipv4.ip_forward=1"):
        Settings(manages=False).ensure([FORWARD])
    settings = Settings(manages=True)
    written: list[tuple[str, ...]] = []
    settings.ensure([FORWARD], lambda: written.append((*settings.notes, value(forwarding))))
    assert written == [("net.ipv4.ip_forward=0", "0")]
    assert value(forwarding) == "1"
    assert settings.restore() == ["net.ipv4.ip_forward=0"]
    assert value(forwarding) == "0"
    assert settings.restore() == []


def test_settings_of_a_former_run_are_put_back(forwarding: Path) -> None:
    forwarding.write_text("1")
    settings = Settings(manages=False)
    settings.adopt(
        ["net.ipv4.ip_forward=0", "kernel.panic=1", "net.ipv4.conf.all.route_localnet=-", "=", "x"]
    )
    assert settings.ensure([FORWARD]) == []
    assert settings.restore() == ["net.ipv4.ip_forward=0"]
    assert value(forwarding) == "0"


def test_what_somebody_else_has_set_since_stays(forwarding: Path) -> None:
    settings = Settings(manages=True)
    settings.ensure([FORWARD])
    forwarding.write_text("2")
    assert settings.restore() == []
    assert value(forwarding) == "2"


@pytest.mark.anyio
async def test_what_settings_were_stands_with_the_rules(
    forwarding: Path, rules: FakeRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the program was killed between setting them and its first rules, or where its rules were refused."""
    monkeypatch.setattr(module, "needed", lambda _snapshot, **_wanted: [FORWARD])

    with monkeypatch.context() as patch:
        patch.setattr(rules, "replace", rules.refusing)
        with pytest.raises(EngineError, match="no"):
            KernelEngine(rules=rules, manage_sysctl=True).apply(snapshot(1, A))
    for end in (KernelEngine.leave_to_successor, KernelEngine.stop):
        engine = KernelEngine(rules=rules, manage_sysctl=True)
        engine.apply(snapshot(1, A))
        engine.apply(snapshot(2))
        assert rules.comments(NOTES) == [EDITION, "net.ipv4.ip_forward=0"]
        assert value(forwarding) == "1"
        await end(engine)
    assert value(forwarding) == "0"
    assert not rules.exists()


@pytest.mark.anyio
async def test_a_first_snapshot_that_is_refused_leaves_no_settings(
    forwarding: Path, rules: FakeRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "needed", lambda _snapshot, **_wanted: [FORWARD])
    engine = KernelEngine(rules=rules, manage_sysctl=True)
    monkeypatch.setattr(rules, "replace", rules.refusing)
    with pytest.raises(EngineError, match="no"):
        engine.apply(snapshot(1, A))
    await engine.stop()
    assert value(forwarding) == "0"
    assert not rules.exists()


def test_who_was_turned_away_is_counted_by_reason() -> None:
    engine = KernelEngine(rules=FakeRules())
    front, a = f"l{key_of('front')}", f"b{key_of('pool/a')}"
    engine._packets = {
        front: 9,
        f"{front}_rate": 1,
        f"{front}_full": 2,
        f"{front}_none": 3,
        a: 7,
        f"{a}_full": 4,
    }
    engine._snapshot = snapshot(1, A)
    counted = engine.statistics()
    assert counted.ends == {"rate_limited": 1, "refused": 2, "no_backend": 3, "queue_timeout": 4}
    assert counted.listeners["front"] == ListenerCounters(accepted=9, refused=3, no_backend=3)


def test_counters_of_a_backend_have_its_key() -> None:
    engine = KernelEngine(rules=FakeRules())
    engine._packets = {f"b{key_of('pool/a')}": 7}
    engine._snapshot = snapshot(1, A)
    assert engine.statistics().backends["pool/a"].total == 7


# -- looking, without a kernel


class Sight:
    """Stands in for the real one: each look finds what ``found`` says next, and then nothing."""

    can_poke, has_missed, look_s = True, False, 0.0

    def __init__(self) -> None:
        self.found: list[list[Ended] | Exception] = []
        self.looks = 0
        self.may_return = threading.Event()
        self.may_return.set()

    def look(self) -> tuple[Books, list[Ended]]:
        self.may_return.wait()
        self.looks += 1
        found = self.found.pop(0) if self.found else []
        if isinstance(found, Exception):
            raise found
        return Books(), found

    def close(self) -> None:
        pass


ENDED = Ended(FLOW, "front", "pool/a", 1.0, 2.0, "reset", "")


class Looking:
    """An engine at work that looks only when it is asked to, and what it has told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rules: FakeRules, refresh_s: float = 3600.0) -> None:
        self.sight, self.rules = Sight(), rules
        monkeypatch.setattr(module, "needed", lambda _snapshot, **_wanted: [])
        monkeypatch.setattr(module, "Sight", lambda *_: self.sight)
        self.told: list[object] = []
        self.complaints: list[str] = []
        self.engine = KernelEngine(rules=rules, refresh_s=refresh_s, complain=self.complaints.append)

    async def __aenter__(self) -> Self:
        await self.engine.start(self.told.append)
        self.engine.apply(snapshot(1, A))
        await self.engine.sessions()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop()


@pytest.mark.anyio
async def test_an_end_is_told_also_when_nft_fails_after_it_was_seen(
    rules: FakeRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Looking(monkeypatch, rules) as it:
        it.sight.found = [[ENDED]]
        with monkeypatch.context() as failing:
            failing.setattr(rules, "counters", lambda: rules.refusing(""))
            with pytest.raises(EngineError, match="no"):
                await it.engine.sessions()
        await it.engine.sessions()
        assert it.told == [ENDED.told()]


@pytest.mark.anyio
async def test_an_end_is_told_also_when_whoever_asked_has_gone_meanwhile(
    rules: FakeRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Looking(monkeypatch, rules) as it:
        it.sight.found = [[ENDED]]
        it.sight.may_return.clear()
        asking = asyncio.create_task(it.engine.sessions())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        it.sight.may_return.set()
        await it.engine.sessions()
        assert it.told == [ENDED.told()]


@pytest.mark.anyio
async def test_a_mistake_in_a_look_is_told_and_ends_neither_the_looking_nor_the_cleaning_up(
    rules: FakeRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Looking(monkeypatch, rules, refresh_s=0.0) as it:
        it.sight.found = [KeyError("a mistake")]
        looks = it.sight.looks
        while it.sight.looks < looks + 3:  # noqa: ASYNC110 - a thread does it
            await asyncio.sleep(0)
        assert len(it.complaints) == 1
        assert "KeyError: 'a mistake'" in it.complaints[0]
    assert not rules.exists()


@pytest.mark.anyio
async def test_sessions_that_cannot_be_closed_at_the_end_are_told_and_the_rules_go(
    rules: FakeRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Looking(monkeypatch, rules) as it:
        it.sight.found = [EngineError("no answer")]
    assert it.complaints == ["kernel engine: not every session is closed: no answer"]
    assert not rules.exists()
