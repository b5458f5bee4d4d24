"""Who takes writes, whatever the servers say: never two with a fence, and never the one that history has left behind."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.control.failover import FIRST, KEEP, REFUSE, SPLIT_BRAIN, Decision, Server, judge, to_close

A, B, C = "p/a", "p/b", "p/c"


def primary(id_: str, **more) -> Server:
    return Server(id_, is_ready=True, role="primary", **more)


def replica(id_: str, **more) -> Server:
    return Server(id_, is_ready=True, role="replica", **more)


def gone(server: Server) -> Server:
    return Server(server.id, is_ready=False, role=server.role, timeline=server.timeline, is_doubtful=True)


def test_the_one_that_says_so_takes_writes():
    assert judge([replica(A), primary(B), replica(C)], ()).writers == (B,)


@pytest.mark.parametrize(
    "servers",
    [[], [replica(A), replica(B)], [gone(primary(A)), replica(B)], [Server(A, is_ready=True, role="")]],
)
def test_where_none_says_so_none_does_and_it_is_said_why(servers):
    decision = judge(servers, [A])
    assert decision.writers == ()
    assert not decision.is_split
    assert decision.why


def test_a_first_failed_probe_takes_no_writer_away():
    silent = primary(A, is_doubtful=True)
    assert judge([silent, replica(B)], [A]).writers == (A,)


def test_the_later_timeline_wins_at_once_also_against_one_that_serves():
    for split_brain in SPLIT_BRAIN:
        decision = judge([primary(A, timeline=3), primary(B, timeline=4)], [A], split_brain=split_brain)
        assert decision.writers == (B,)
        assert "timeline 4" in decision.why


def test_while_the_old_one_is_only_silent_neither_takes_writes():
    decision = judge([primary(A, is_doubtful=True), primary(B)], [A], split_brain=KEEP)
    assert decision.writers == ()
    assert not decision.is_split
    assert "verdict is waited for" in decision.why


def test_a_failed_probe_of_another_takes_no_writes_away_from_the_one_that_the_rule_names():
    """A node of Galera, or a second primary, that does not answer for once."""
    rivals = [primary(A), primary(B, is_doubtful=True), primary(C)]
    assert judge(rivals, [A], split_brain=KEEP).writers == (A,)
    assert judge(rivals, [C], split_brain=FIRST).writers == (A,)
    assert judge([primary(A, is_doubtful=True), primary(B)], [B], split_brain=FIRST).writers == ()


@pytest.mark.parametrize(
    ("split_brain", "current", "writers"),
    [
        (REFUSE, [A], ()),
        (REFUSE, [], ()),
        (KEEP, [A], (A,)),
        (KEEP, [B], (B,)),
        (KEEP, [], ()),
        (KEEP, [C], ()),
        (FIRST, [B], (A,)),
    ],
)
def test_two_primaries_without_timelines_are_what_the_rule_says(split_brain, current, writers):
    decision = judge([primary(A), primary(B)], current, split_brain=split_brain)
    assert decision.writers == writers
    assert decision.is_split is not bool(writers)


@pytest.mark.parametrize(
    ("rule", "rivals"),
    [("keep", (B,)), ("first", ())],
)
def test_who_says_so_too_is_a_rival_unless_that_is_usual(rule, rivals):
    assert judge([primary(A), primary(B)], [A], split_brain=rule).rivals == rivals
    assert judge([primary(A), primary(B, is_doubtful=True)], [A], split_brain=rule).rivals == ()


def test_equal_timelines_decide_nothing():
    assert judge([primary(A, timeline=2), primary(B, timeline=2)], [A]).is_split
    three = [primary(A, timeline=1), primary(B, timeline=2), primary(C, timeline=2)]
    assert judge(three, [A], split_brain=KEEP).is_split, "who is behind is out of the question"
    assert judge(three, [A], split_brain=FIRST).writers == (B,)


def test_a_timeline_that_is_not_known_decides_nothing():
    assert judge([primary(A, timeline=0), primary(B, timeline=2)], [A]).is_split


def test_without_a_fence_all_of_them_do():
    assert judge([primary(A), primary(B)], [A], fence=False).writers == (A, B)


SERVERS = st.lists(
    st.builds(
        Server,
        id=st.just(""),
        is_ready=st.booleans(),
        role=st.sampled_from(["primary", "replica", ""]),
        timeline=st.integers(0, 3),
        is_doubtful=st.booleans(),
    ),
    max_size=5,
).map(lambda found: [Server(f"p/{i}", *_rest(server)) for i, server in enumerate(found)])
IDS = [f"p/{i}" for i in range(5)]


def _rest(server: Server) -> tuple[object, ...]:
    return server.is_ready, server.role, server.timeline, server.is_doubtful


@given(SERVERS, st.sets(st.sampled_from(IDS)), st.sampled_from(SPLIT_BRAIN))
def test_with_a_fence_at_most_one_that_claims_it_takes_writes(servers, current, split_brain):
    decision = judge(servers, current, split_brain=split_brain)
    assert len(decision.writers) <= 1
    claimants = {server.id for server in servers if server.claims}
    assert set(decision.writers) <= claimants
    if len(claimants) == 1:
        assert set(decision.writers) == claimants
    for writer, other in itertools.product(decision.writers, claimants):
        timelines = {server.id: server.timeline for server in servers}
        if all(timelines[claimant] for claimant in claimants):
            assert timelines[writer] >= timelines[other]


def test_sessions_of_the_old_primary_end_before_the_new_one_serves():
    decision = judge([gone(primary(A)), primary(B)], [A])
    assert to_close({A}, decision, [gone(primary(A)), primary(B)]) == {A}


def test_sessions_of_a_silent_primary_wait_until_another_takes_its_place():
    servers = [gone(primary(A)), replica(B)]
    assert to_close({A}, judge(servers, [A]), servers) == set()


def test_sessions_of_a_demoted_primary_end_at_once():
    servers = [replica(A), replica(B)]
    assert to_close({A}, judge(servers, [A]), servers) == {A}


def test_with_two_primaries_nobody_goes_on_writing():
    servers = [primary(A), primary(B)]
    assert to_close({A}, judge(servers, [A]), servers) == {A}


def test_a_server_that_left_the_pool_is_closed_when_another_takes_writes():
    assert to_close({C}, Decision((B,), ""), [primary(B)]) == {C}
    assert to_close({C}, Decision((), ""), [replica(B)]) == set()
