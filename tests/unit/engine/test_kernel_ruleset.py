from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from easyproxy.engine.kernel import ruleset
from easyproxy.engine.kernel.reach import refusals
from easyproxy.engine.kernel.ruleset import Options, closing, key_of, render
from easyproxy.engine.kernel.slots import HASH_SLOTS, owners
from easyproxy.model import Address, Backend, Listener, Pool, Rate, Snapshot
from unit.engine.kernel_fake import FakeRules

GOLDEN = Path(__file__).parent / "golden"


def backend(name: str, address: str, **settings: int) -> Backend:
    return Backend(f"pool/{name}", name, Address.parse(address), **settings)


A, B = backend("a", "10.0.0.1:3306", weight=2), backend("b", "10.0.0.2:3306", max_sessions=3)
C6 = backend("c", "[fd00::3]:3306")


def snapshot(*backends: Backend, bind: str = "192.0.2.1:3306", **settings: object) -> Snapshot:
    pool = {name: settings.pop(name) for name in ("strategy", "source") if name in settings}
    listener = Listener("front", Address.parse(bind), "pool", **settings)  # type: ignore[arg-type]
    return Snapshot(1, (listener,), (Pool("pool", backends=backends, **pool),))  # type: ignore[arg-type]


def rules_of(text: str, chain: str) -> list[str]:
    return [
        found[1]
        for line in text.splitlines()
        if (found := re.match(rf"add rule inet easyproxy {chain} (.*)", line))
    ]


GOLDENS = {
    "masquerade": (snapshot(A, B, max_sessions=5), Options()),
    "transparent": (snapshot(A, B), Options(source="transparent")),
    "both_families": (snapshot(A, C6, bind=":3306", strategy="random"), Options()),
    "loopback": (snapshot(backend("a", "127.0.0.1:9"), bind="127.0.0.1:3306"), Options()),
    "rate": (
        snapshot(A, C6, bind=":3306", max_sessions=5, client_rate=Rate(100, 60), client_burst=20),
        Options(),
    ),
    "nobody": (snapshot(), Options()),
    "draining": (snapshot(A), Options(is_draining=True)),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_the_text_for_a_snapshot_is_what_was_reviewed(name: str) -> None:
    """Set EASYPROXY_WRITE_GOLDEN to write the files anew, and review the difference."""
    text = render(*GOLDENS[name]).text
    path = GOLDEN / f"{name}.nft"
    if "EASYPROXY_WRITE_GOLDEN" in os.environ:
        path.write_text(text)
    assert text == path.read_text()


def test_a_transaction_fits_what_the_former_one_has_left() -> None:
    fake = FakeRules()
    former = None
    row = [
        snapshot(A, B, max_sessions=5),
        snapshot(B, max_sessions=6),
        snapshot(B, max_sessions=6, client_rate=Rate(5, 1), client_burst=5),
        snapshot(),
        snapshot(A, C6, bind=":3306", strategy="maglev"),
        snapshot(A, B, max_sessions=5),
    ]
    for options in (Options(), Options(is_draining=True), Options(source="transparent")):
        for item in row:
            former = render(item, options, former)
            fake.replace(former.text)
            assert fake.table is not None
            assert set(fake.table.objects) == former.objects


def test_counters_and_counts_of_sessions_stay_over_changes_that_keep_them() -> None:
    first = render(snapshot(A, B), Options())
    second = render(snapshot(B, A), Options(), first)
    assert "delete" not in second.text
    assert "add counter" not in second.text
    assert "add set" not in second.text


def test_what_a_backend_has_is_still_counted_when_it_comes_back() -> None:
    first = render(snapshot(A, B), Options())
    without = render(snapshot(A), Options(), first)
    again = render(snapshot(A, B), Options(), without)
    assert "set inet" not in without.text + again.text
    other = backend("b", "10.0.0.2:3306", max_sessions=4)
    assert "delete set inet" in render(snapshot(A, other), Options(), without).text


def test_counts_of_backends_that_never_come_back_do_not_gather_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ruleset, "MAX_UNUSED", 20)
    former, most = None, 0
    for number in range(50):
        former = render(snapshot(backend(f"b{number}", "10.0.0.2:1", max_sessions=2)), Options(), former)
        most = max(most, len(former.objects))
    assert most < 50
    assert ("set", f"n{key_of('pool/b49')}_2") in former.objects


@pytest.mark.parametrize(
    ("full", "served"),
    [
        ((), "ab"),
        (("b",), "a"),
        (("a", "b"), "c"),  # those of the next priority, as the relay engine does
        (("a", "b", "c"), "ab"),  # whoever is drawn refuses
    ],
)
def test_full_backends_are_passed_over_while_others_have_room(full: tuple[str, ...], served: str) -> None:
    backup = backend("c", "10.0.0.3:3306", priority=1)
    options = Options(full=frozenset(f"pool/{name}" for name in full))
    text = render(snapshot(A, B, backup), options).text
    targets = re.findall(r"goto b(\w+)", " ".join(rules_of(text, f"p{key_of('pool')}_4")))
    assert set(targets) == {key_of(f"pool/{name}") for name in served}


def test_what_addresses_have_opened_stays_over_changes_that_keep_the_rate() -> None:
    first = render(snapshot(A, client_rate=Rate(5, 1), client_burst=5), Options())
    second = render(snapshot(client_rate=Rate(5, 1), client_burst=5), Options(), first)
    assert "set inet" not in second.text
    third = render(snapshot(A, client_rate=Rate(5, 1), client_burst=6), Options(), second)
    assert {"add set inet", "delete set inet"} <= {
        " ".join(line.split()[:3]) for line in third.text.splitlines()
    }


@pytest.mark.parametrize(
    ("rate", "burst", "words"),
    [
        (Rate(20, 1), 20, "limit rate over 20/second burst 20 packets"),
        (Rate(1, 3600), 3, "limit rate over 1/hour burst 3 packets"),
    ],
)
def test_an_address_is_remembered_until_its_burst_may_come_again(rate: Rate, burst: int, words: str) -> None:
    text = render(snapshot(A, client_rate=rate, client_burst=burst), Options()).text
    assert words in text
    assert f"timeout {burst * rate.interval_ns // 1_000_000_000}s;" in text


def test_nothing_but_our_own_table_is_named() -> None:
    for item, options in GOLDENS.values():
        for line in render(item, options).text.splitlines():
            words = line.split()
            assert "easyproxy" in words[3:5]


def test_names_cannot_leave_their_quotation() -> None:
    evil = Backend('pool/x"\n; flush ruleset #', "x", Address.parse("10.0.0.1:1"))
    text = render(snapshot(evil), Options()).text
    assert len([line for line in text.splitlines() if not line.startswith(("add ", "delete "))]) == 0
    assert 'x"' not in text


def test_only_the_first_priority_serves() -> None:
    spare = replace(B, priority=1)
    text = render(snapshot(A, spare), Options()).text
    assert key_of(spare.id) not in text
    assert key_of(B.id) in render(snapshot(spare), Options()).text


def test_a_backend_of_two_pools_has_one_chain() -> None:
    base = snapshot(A)
    both = Snapshot(
        1,
        (*base.listeners, Listener("other", Address.parse("192.0.2.1:81"), "other")),
        (*base.pools, Pool("other", backends=(A,))),
    )
    assert len(rules_of(render(both, Options()).text, f"b{key_of(A.id)}")) == 1


def test_a_source_address_replaces_masquerade() -> None:
    text = render(snapshot(A, source=Address("192.0.2.9")), Options(source="transparent")).text
    (rule,) = rules_of(text, "postrouting")
    assert "snat ip to 192.0.2.9" in rule


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            snapshot(A, strategy="least_connections"),
            "no strategy least_connections; choose of maglev, random",
        ),
        (snapshot(A, bind="unix:/run/x.sock"), "no unix sockets; use engine: relay"),
        (snapshot(C6), "does not translate between IPv4 and IPv6"),
        (snapshot(backend("a", "unix:/run/x.sock")), "reaches no unix socket"),
        (snapshot(backend("a", "db.example:1")), "db.example:1 was not resolved"),
        (snapshot(Backend("p/l", "l", Address("fe80::1%eth0", 1)), bind="[::]:1"), "link-local"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused_with_the_reason(item: Snapshot, words: str) -> None:
    (found,) = refusals(item)
    assert words in found


def test_a_listener_without_its_pool_is_refused() -> None:
    assert refusals(Snapshot(1, snapshot().listeners)) == ["listener front: there is no pool pool"]


def test_closing_names_exactly_one_flow() -> None:
    text = closing([(Address("10.0.0.1", 80), Address("192.0.2.7", 5000))])
    assert text == "add element inet easyproxy closing_4 { 10.0.0.1 . 80 . 192.0.2.7 . 5000 }\n"


@pytest.mark.parametrize("strategy", ["source_hash", "maglev"])
def test_a_backend_that_leaves_moves_about_its_own_share(strategy: str) -> None:
    """Behaviour 27."""
    ten = [backend(str(number), f"10.0.0.{number + 1}:80") for number in range(10)]
    before = [ten[owner].id for owner in owners(strategy, tuple(ten))]
    rest = ten[:4] + ten[5:]
    after = [rest[owner].id for owner in owners(strategy, tuple(rest))]
    moved = sum(one != other for one, other in zip(before, after, strict=True)) / HASH_SLOTS
    own = before.count(ten[4].id) / HASH_SLOTS
    assert own <= moved < 0.2
    assert all(one == other or one == ten[4].id for one, other in zip(before, after, strict=True)) or (
        strategy == "maglev"
    )


@pytest.mark.parametrize("strategy", ["round_robin", "random", "maglev", "source_hash"])
def test_slots_follow_the_weights(strategy: str) -> None:
    """Behaviour 27."""
    three = [replace(A, id="p/1", weight=5), replace(A, id="p/2", weight=3), replace(A, id="p/3", weight=2)]
    table = owners(strategy, tuple(three))
    for index, share in enumerate((0.5, 0.3, 0.2)):
        assert abs(table.count(index) / len(table) - share) < (0.08 if strategy == "source_hash" else 0.01)


@pytest.mark.parametrize("strategy", ["maglev", "source_hash"])
def test_the_order_in_the_configuration_moves_nobody(strategy: str) -> None:
    three = [replace(A, id=f"p/{number}") for number in range(3)]
    table = [three[owner].id for owner in owners(strategy, tuple(three))]
    turned = three[::-1]
    assert table == [turned[owner].id for owner in owners(strategy, tuple(turned))]


def test_silences_are_longer_by_what_goes_by_unseen() -> None:
    text = render(snapshot(A, idle_timeout_s=1.5, half_closed_timeout_s=0.0), Options(unseen_s=1)).text
    assert "syn_sent: 3, established: 3, unack: 3, fin_wait: 432000, close_wait: 432000," in text
