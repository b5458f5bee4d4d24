from __future__ import annotations

import pytest

from easyproxy.engine.kernel import flows as ct
from easyproxy.engine.kernel.flows import Flow
from easyproxy.engine.kernel.ledger import Ledger, id_of
from easyproxy.engine.seam import Where
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot
from unit.engine.kernel_flow import FLOW, packed

SNAPSHOT = Snapshot(
    1,
    (Listener("front", Address("192.0.2.1", 80), "pool", life_timeout_s=50),),
    (Pool("pool", backends=(Backend("pool/a", "a", Address("10.0.0.1", 8080)),)),),
)


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    made.know(SNAPSHOT)
    return made


def test_bytes_are_counted_once_over_many_looks(ledger: Ledger) -> None:
    ledger.look([FLOW], 0)
    ledger.look([FLOW._replace(bytes_from_client=500)], 1)
    books, _ = ledger.look([FLOW._replace(bytes_from_client=500, state=ct.TIME_WAIT)], 2)
    assert books.bytes_from_client == {"pool/a": 500}
    assert books.bytes_from_backend == {"pool/a": 400}
    assert ledger.look([], 3)[0].bytes_from_client == {"pool/a": 500}


def test_flows_of_others_are_nothing_to_us(ledger: Ledger) -> None:
    books, ended = ledger.look([FLOW._replace(front=(packed("192.0.2.1"), 81), state=ct.CLOSE)], 0)
    assert not books.bytes_from_client
    assert not ended


def test_a_backend_that_left_keeps_its_flows(ledger: Ledger) -> None:
    ledger.know(Snapshot(2, SNAPSHOT.listeners, (Pool("pool"),)))
    books, _ = ledger.look([FLOW], 0)
    assert books.sessions_by_backend == {"pool/a": 1}


def test_a_backend_from_before_our_time_is_told_by_its_address(ledger: Ledger) -> None:
    books, _ = ledger.look([FLOW._replace(back=(packed("10.0.0.9"), 1))], 0)
    assert books.sessions_by_backend == {"pool/10.0.0.9:1": 1}


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (FLOW._replace(state=ct.TIME_WAIT, first_fin="backend"), "backend_fin"),
        (FLOW._replace(state=ct.TIME_WAIT, first_fin="client"), "client_fin"),
        (FLOW._replace(state=ct.CLOSE), "reset"),
        (FLOW._replace(state=ct.CLOSE, packets_from_client=1, packets_from_backend=1), "connect_failed"),
    ],
)
def test_an_ended_flow_is_told_once_with_its_reason(ledger: Ledger, last: Flow, reason: str) -> None:
    """Behaviour 8."""
    ledger.look([FLOW], 0)
    _, ended = ledger.look([last], 5)
    assert [(end.reason, end.age_s, end.backend) for end in ended] == [(reason, 5, "pool/a")]
    assert ledger.look([last], 6)[1] == []
    books, ended = ledger.look([], 7)
    assert ended == []
    assert books.ends == {reason: 1}
    assert books.sessions_by_listener == {}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (ct.SYN_SENT, "connect_failed"),
        (ct.ESTABLISHED, "idle_timeout"),
        (ct.FIN_WAIT, "half_closed_timeout"),
        (ct.LAST_ACK, "fin"),
    ],
)
def test_a_flow_that_the_kernel_forgot_ended_by_its_silence(ledger: Ledger, state: int, reason: str) -> None:
    """Behaviour 14."""
    ledger.look([FLOW._replace(state=state)], 0)
    books, ended = ledger.look([FLOW._replace(state=state, timeout_s=0, is_gone=True)], 3600)
    assert [end.reason for end in ended] == [reason]
    assert books.ends == {reason: 1}
    assert books.sessions_by_listener == {}


def test_a_flow_that_is_given_up_before_its_time_was_not_idle(ledger: Ledger) -> None:
    """For a reset outside of what the kernel knows of the window, it shortens the time of a flow."""
    ledger.look([FLOW], 0)
    ledger.look([FLOW._replace(bytes_from_backend=500)], 3000)
    _, ended = ledger.look([FLOW._replace(bytes_from_backend=500, is_gone=True)], 3700)
    assert [end.reason for end in ended] == ["reset"]
    assert [flow.id for flow in ledger.forgotten] == [FLOW.id]


def test_a_flow_that_came_and_went_between_two_looks_is_accounted_for(ledger: Ledger) -> None:
    gone = FLOW._replace(state=ct.TIME_WAIT, is_gone=True)
    books, ended = ledger.look([gone, gone._replace(id=8, state=ct.CLOSE, handle=b"t8")], 0)
    assert [(end.reason, end.backend) for end in ended] == [("fin", "pool/a"), ("reset", "pool/a")]
    assert books.bytes_from_backend == {"pool/a": 800}
    assert books.sessions_by_listener == {}
    assert ledger.look([], 1)[1] == []


def test_a_client_that_uses_its_port_again_has_two_sessions(ledger: Ledger) -> None:
    books, ended = ledger.look([FLOW._replace(state=ct.TIME_WAIT, is_gone=True), FLOW._replace(id=8)], 0)
    assert [end.told().id for end in ended] == [id_of(FLOW)]
    assert books.sessions_by_listener == {"front": 1}


def test_an_ended_flow_that_is_gone_is_not_told_again_but_counted_to_the_last(ledger: Ledger) -> None:
    ended = FLOW._replace(state=ct.TIME_WAIT, first_fin="backend")
    ledger.look([ended], 0)
    books, told = ledger.look([ended._replace(is_gone=True, first_fin="", bytes_from_client=340)], 5)
    assert told == []
    assert books.bytes_from_client == {"pool/a": 340}
    assert books.ends == {"backend_fin": 1}


def test_an_ended_flow_that_goes_between_hearing_and_looking_is_not_told_again(ledger: Ledger) -> None:
    ended = FLOW._replace(state=ct.TIME_WAIT, first_fin="backend")
    ledger.look([ended], 0)
    ledger.look([], 1)
    books, told = ledger.look([ended._replace(is_gone=True, first_fin="")], 2)
    assert told == []
    assert books.ends == {"backend_fin": 1}


def test_who_finished_first_is_remembered_of_a_flow_that_is_gone(ledger: Ledger) -> None:
    """The kernel does not say it again."""
    ledger.look([FLOW._replace(state=ct.FIN_WAIT, first_fin="backend")], 0)
    _, ended = ledger.look([FLOW._replace(state=ct.TIME_WAIT, is_gone=True)], 5)
    assert [(end.reason, end.detail) for end in ended] == [("backend_fin", "")]


def test_a_flow_that_vanishes_unheard_ends_with_the_look_after_the_next(ledger: Ledger) -> None:
    """The next one hears how it went, unless the kernel could not keep it for us."""
    ledger.look([FLOW], 0)
    books, ended = ledger.look([], 3600)
    assert ended == []
    assert books.sessions_by_listener == {}
    _, ended = ledger.look([], 3601)
    assert [end.reason for end in ended] == ["idle_timeout"]
    assert ledger.look([], 3602)[1] == []


@pytest.mark.parametrize(
    ("before", "now", "passed", "is_doubted"),
    [
        (3590, 10, 1, True),
        (3590, 7, 5, True),
        (11, 10, 1, False),  # it is idle
        (20, 5, 15, False),
        (10, 9, 1, False),  # both ends have been asked
        (3590, 3589, 1, False),
    ],
)
def test_a_flow_whose_time_was_cut_short_is_doubted(
    ledger: Ledger, before: int, now: int, passed: int, *, is_doubted: bool
) -> None:
    ledger.look([FLOW._replace(timeout_s=before)], 100)
    assert ledger.doubted == []
    ledger.look([last := FLOW._replace(timeout_s=now)], 100 + passed)
    assert ledger.doubted == [last] * is_doubted


def test_a_flow_that_a_list_has_missed_goes_on(ledger: Ledger) -> None:
    ledger.look([FLOW], 0)
    books, ended = ledger.look([], 1, lambda flow: flow == FLOW)
    assert ended == []
    assert books.sessions_by_listener == {"front": 1}
    assert ledger.forgotten == []


def test_live_sessions_are_described(ledger: Ledger) -> None:
    ledger.look([FLOW], 10)
    (info,) = ledger.infos(25)
    assert (info.client, info.state, info.age_s, info.idle_s) == ("192.0.2.7:5000", "relaying", 15, 10)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (Where(), 1),
        (Where(client="192.0.2.7", backend="pool/a", listener="front", id=id_of(FLOW)), 1),
        (Where(client="192.0.2.8"), 0),
        (Where(backend="pool/b"), 0),
    ],
)
def test_sessions_match_by_every_given_field(ledger: Ledger, where: Where, count: int) -> None:
    ledger.look([FLOW], 0)
    assert len(ledger.matching(where)) == count


def test_what_was_closed_by_us_is_not_told_again(ledger: Ledger) -> None:
    ledger.look([FLOW], 0)
    ends = ledger.closed(ledger.matching(Where()), "operator", 3)
    assert [end.reason for end in ends] == ["operator"]
    books, ended = ledger.look([], 4)
    assert ended == []
    assert books.ends == {"operator": 1}


def test_a_session_beyond_its_life_is_found(ledger: Ledger) -> None:
    """Behaviour 14."""
    ledger.look([FLOW], 0)
    assert ledger.too_old(50) == []
    assert [session.backend for session in ledger.too_old(51)] == ["pool/a"]
