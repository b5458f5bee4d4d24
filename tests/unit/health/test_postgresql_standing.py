"""Where a PostgreSQL server stands: role, timeline and lag, from what it answers."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.postgresql.messages import read_error, read_row
from easyproxy.health.checks.postgresql.standing import _COLUMNS, Progress, judge

STREAMING = {
    "pid": 7,
    "status": "streaming",
    "received_tli": 3,
    "latest_end_lsn": "0/300",
    "sender_host": "10.0.0.1",
    "sender_port": 5432,
}
PRIMARY = {
    "in_recovery": "false",
    "version": "15.18 (Debian 15.18-0+deb12u1)",
    "read_only": "off",
    "walfile": "000000030000000000000001",
    "written": "0/300",
}
REPLICA = {
    "in_recovery": "true",
    "version": "16.2",
    "read_only": "off",
    "received": "0/300",
    "replayed": "0/300",
    "age": "3600.5",
    "paused": "false",
    "receiver": json.dumps(STREAMING),
    "timeline": "2",
    "streams": "true",
    "restores": "false",
}


def found(row: dict[str, str | None], progress: Progress | None = None, now: float = 0.0, **more: str | None):
    values = {**row, **more}
    return judge([values.get(name) for name in _COLUMNS], progress or Progress(), now, "monitor")


def receiver(**more: object) -> str:
    return json.dumps({**STREAMING, **more})


def test_a_primary_has_the_timeline_of_the_file_that_it_writes():
    finding = found(PRIMARY)
    assert finding.detail == "primary, 15.18"
    assert (finding.facts.role, finding.facts.timeline, finding.facts.lag_s) == ("primary", 3, -1.0)
    assert found(PRIMARY, walfile="0000001A0000000000000001").facts.timeline == 26


def test_a_primary_whose_transactions_begin_read_only_says_so():
    finding = found(PRIMARY, read_only="on")
    assert finding.facts.role == "primary"
    assert "default_transaction_read_only is on" in finding.detail


def test_a_replica_that_has_replayed_all_has_no_lag_however_old_the_last_transaction_is():
    finding = found(REPLICA)
    assert finding.detail == "replica, up to date, 16.2"
    assert (finding.facts.lag_s, finding.facts.timeline) == (0.0, 3)
    assert dict(finding.facts.notes)["follows"] == "10.0.0.1:5432"


def test_what_its_primary_has_and_it_has_not_received_counts_as_well():
    assert found(REPLICA, receiver=receiver(latest_end_lsn="0/400")).facts.lag_s == 3600.5


def test_the_last_look_at_which_it_had_all_is_a_better_bound_than_an_old_transaction():
    progress = Progress()
    found(REPLICA, progress, 100.0)
    behind = found(REPLICA, progress, 102.0, received="0/400")
    assert behind.facts.lag_s == 2.0
    assert found(REPLICA, progress, 103.0, received="0/400", age="0.5").facts.lag_s == 0.5


def test_a_long_transaction_that_is_replayed_as_it_comes_is_no_lag_to_speak_of():
    progress = Progress()
    lags = [
        found(
            REPLICA, progress, float(second), received=f"0/{second + 2:X}00", replayed=f"0/{second + 1:X}00"
        ).facts.lag_s
        for second in range(1, 10)
    ]
    assert lags == [3600.5, *[1.0] * 8]


def test_paused_replay_is_said_and_its_lag_grows():
    progress = Progress()
    lags = []
    for second in range(4):
        finding = found(REPLICA, progress, float(second), received=f"0/{300 + second * 100}", paused="true")
        lags.append(finding.facts.lag_s)
    assert lags == [0.0, 1.0, 2.0, 3.0]
    assert "its replay is paused" in finding.detail
    assert dict(finding.facts.notes)["replay"] == "paused"


def test_a_clock_that_differs_makes_no_negative_lag():
    assert found(REPLICA, received="0/400", age="-5.0").facts.lag_s == 0.0


def test_one_that_has_lost_its_primary_does_not_say_how_far_it_is_behind():
    finding = found(REPLICA, receiver=None)
    assert finding.facts.lag_s == -1.0
    assert "its WAL receiver is not streaming, last transaction 3600 s ago" in finding.detail
    assert finding.facts.timeline == 2


def test_a_time_without_connection_counts_when_it_is_connected_again():
    progress = Progress()
    found(REPLICA, progress, 100.0)
    for second in range(101, 160):
        found(REPLICA, progress, float(second), receiver=None)
    again = found(REPLICA, progress, 160.0, receiver=receiver(latest_end_lsn="0/900"))
    assert again.facts.lag_s == 60.0


def test_one_that_streams_on_another_state_is_named():
    finding = found(REPLICA, receiver=receiver(status="waiting"))
    assert "its WAL receiver is waiting" in finding.detail
    assert finding.facts.lag_s == -1.0


def test_one_that_is_set_up_to_follow_nobody_does_not_follow():
    finding = found(REPLICA, receiver=None, streams="false")
    assert finding.facts.lag_s == math.inf
    assert "not set up to follow another" in finding.detail


def test_one_that_is_fed_by_an_archive_is_as_far_behind_as_its_last_transaction():
    finding = found(REPLICA, receiver=None, streams="false", restores="true", received=None)
    assert finding.facts.lag_s == 3600.5
    assert "it follows an archive" in finding.detail


def test_without_pg_monitor_a_receiver_that_runs_is_taken_to_stream():
    finding = found(REPLICA, receiver='{"pid": 7, "status": null}', streams=None)
    assert finding.facts.lag_s == 0.0
    assert "GRANT pg_monitor TO monitor" in dict(finding.facts.notes)["rights"]


def test_one_that_goes_back_in_its_log_is_on_another_history():
    progress = Progress()
    assert progress.behind_s(0.0, 100, 100) == 0
    assert progress.behind_s(5.0, 50, 40) is None


def test_marks_are_bounded_however_long_replay_is_paused():
    progress = Progress()
    for second in range(10_000):
        progress.behind_s(float(second), 100 + second, 100)
    assert len(progress._marks) <= 256
    assert progress.behind_s(10_000.0, 10_100, 100) == 10_000.0
    level = progress.behind_s(10_001.0, 10_100, 10_050)
    assert level is not None
    assert 40 < level < 10_001


@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=20))
def test_whatever_it_answers_is_a_finding_or_a_failure(values):
    with contextlib.suppress(ProbeFailed):
        judge(values, Progress(), 0.0)


@given(st.text(max_size=60), st.text(max_size=20))
def test_whatever_its_receiver_says_is_a_finding_or_a_failure(said, age):
    with contextlib.suppress(ProbeFailed):
        found(REPLICA, receiver=said or None, age=age)


@pytest.mark.parametrize("said", ["[" * 100_000, "7", '"x"', "{"])
def test_a_receiver_that_is_no_mapping_is_refused(said):
    with pytest.raises(ProbeFailed, match="what its WAL receiver does"):
        found(REPLICA, receiver=said)


@given(st.binary(max_size=100))
def test_a_row_is_read_or_refused(body):
    with contextlib.suppress(ValueError):
        assert isinstance(read_row(body), list)


def test_an_error_speaks_of_the_account_or_of_the_server():
    def error(state: str, routine: str = ""):
        return read_error(f"SFATAL\0C{state}\0Mno\0R{routine}\0\0".encode())

    assert error("28P01").is_about_login
    assert error("3D000").is_about_login
    assert error("53300", "InitializeSessionUserId").is_about_login
    assert not error("53300", "InitProcess").is_about_login
    assert not error("57P03").is_about_login
