"""Lines of the access log: both formats to the letter, and nothing that a name holds can break them."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.control.access_lines import TERMINATION, haproxy_line, json_line
from easyproxy.engine.relay.life import REASONS
from easyproxy.engine.seam import Attempt, SessionEnd

END = SessionEnd(
    id="1.0.42",
    listener="front",
    backend="mysql/db1",
    client="192.0.2.7:50312",
    reason="client_fin",
    age_s=12.3456789,
    bytes_from_client=1234,
    bytes_from_backend=567890,
    started_at=1_790_000_000.0625,
    connect_s=0.0011264,
)
FAILED = replace(
    END,
    backend="",
    reason="connect_failed",
    connect_s=-1.0,
    bytes_from_client=0,
    bytes_from_backend=0,
    detail="mysql/db2: Connection refused",
    tried=(
        Attempt("mysql/db1", "at its max_sessions"),
        Attempt("mysql/db2", os.strerror(errno.ECONNREFUSED)),
    ),
)

# What Logstash knows as HAPROXYTCP, without syslog's head.
HAPROXYTCP = re.compile(
    r"(?P<client>[0-9A-Za-z.:]+):(?P<port>\d+) \[(?P<at>\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d\.\d{3})\] "
    r"(?P<frontend>\S+) (?P<backend>[^/ ]+)/(?P<server>\S+) (?P<tw>-?\d+)/(?P<tc>-?\d+)/(?P<tt>\+?\d+) "
    r"(?P<bytes>\+?\d+) (?P<state>[-A-Za-z]{2}) "
    r"-?\d+/-?\d+/-?\d+/-?\d+/(?P<retries>\+?\d+) -?\d+/-?\d+\n"
)


@pytest.fixture
def utc(monkeypatch):
    """Let the local time be UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_session_as_json():
    assert json_line(END) == (
        '{"time":"2026-09-21T14:13:20.062Z","id":"1.0.42","client":"192.0.2.7:50312","listener":"front",'
        '"backend":"mysql/db1","connect_s":0.001126,"total_s":12.345679,'
        '"bytes_from_client":1234,"bytes_from_backend":567890,"reason":"client_fin"}\n'
    )


def test_candidates_that_were_passed_over_and_the_cause_as_json():
    assert json_line(FAILED) == (
        '{"time":"2026-09-21T14:13:20.062Z","id":"1.0.42","client":"192.0.2.7:50312","listener":"front",'
        '"backend":"","tried":[{"backend":"mysql/db1","why":"at its max_sessions"},'
        '{"backend":"mysql/db2","why":"Connection refused"}],"connect_s":null,"total_s":12.345679,'
        '"bytes_from_client":0,"bytes_from_backend":0,"reason":"connect_failed",'
        '"detail":"mysql/db2: Connection refused"}\n'
    )


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(
    ("end", "line"),
    [
        (END, "192.0.2.7:50312 [21/Sep/2026:14:13:20.062] front mysql/db1 0/1/12345 567890 -- -1/-1/-1/-1/0 -1/-1"),
        (FAILED, "192.0.2.7:50312 [21/Sep/2026:14:13:20.062] front mysql/db2 -1/-1/12345 0 SC -1/-1/-1/-1/2 -1/-1"),
        (
            replace(FAILED, reason="no_backend", tried=()),
            "192.0.2.7:50312 [21/Sep/2026:14:13:20.062] front front/<NOSRV> -1/-1/12345 0 SC -1/-1/-1/-1/0 -1/-1",
        ),
        (
            replace(END, client="[2001:db8::7]:50312", tried=(Attempt("mysql/db2", "Connection refused"),)),
            "2001:db8::7:50312 [21/Sep/2026:14:13:20.062] front mysql/db1 0/1/12345 567890 -- -1/-1/-1/-1/+1 -1/-1",
        ),
        (
            replace(END, client="unix", listener="the front", backend="a b/c d"),
            "unix:0 [21/Sep/2026:14:13:20.062] the_front a_b/c_d 0/1/12345 567890 -- -1/-1/-1/-1/0 -1/-1",
        ),
    ],
)  # fmt: skip
def test_a_session_as_haproxy_writes_it(end, line):
    assert haproxy_line(end) == line + "\n"


def test_every_reason_has_a_termination_state():
    assert set(TERMINATION) == {*REASONS, "fin", "reset"}  # the last two are the kernel engine's


@pytest.mark.parametrize(
    ("reason", "connecting", "relaying"),
    [("operator", "KC", "KD"), ("backend_down", "DC", "DD"), ("life_timeout", "PC", "PD"), ("drained", "KC", "KD")],
)  # fmt: skip
def test_a_cut_tells_the_phase_that_it_hit(reason, connecting, relaying):
    assert f" {connecting} " in haproxy_line(replace(FAILED, reason=reason))
    assert f" {relaying} " in haproxy_line(replace(END, reason=reason))


def test_a_connect_that_timed_out_is_told_from_one_that_was_refused():
    late = replace(FAILED, tried=(Attempt("mysql/db2", os.strerror(errno.ETIMEDOUT)),))
    assert " sC " in haproxy_line(late)


NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)


@given(
    st.builds(
        SessionEnd,
        id=st.just("0.0.1"),
        listener=NAMES,
        backend=NAMES.map(lambda name: f"pool/{name}") | st.just(""),
        client=st.sampled_from(["127.0.0.1:1", "[::1]:65535", "unix"]),
        reason=st.sampled_from(REASONS),
        age_s=st.floats(0, 1e8),
        bytes_from_client=st.integers(0, 2**62),
        bytes_from_backend=st.integers(0, 2**62),
        detail=NAMES | st.just(""),
        started_at=st.floats(0, 4e9),
        connect_s=st.floats(0, 1e4) | st.just(-1.0),
        tried=st.lists(st.builds(Attempt, NAMES.map(lambda name: f"pool/{name}"), NAMES)).map(tuple),
    )
)
def test_any_session_is_one_line_that_a_reader_understands(end):
    line = json_line(end)
    assert line.count("\n") == 1
    found = json.loads(line)
    assert (found["listener"], found["backend"], found.get("detail", "")) == (
        end.listener,
        end.backend,
        end.detail,
    )
    assert found["bytes_from_client"] == end.bytes_from_client
    assert [(one["backend"], one["why"]) for one in found.get("tried", ())] == [
        (attempt.backend, attempt.why) for attempt in end.tried
    ]
    assert haproxy_line(end).count("\n") == 1
    backends = [each[len("pool/") :] for each in (end.backend, *(one.backend for one in end.tried)) if each]
    # No name is blank.
    if "/" not in end.listener and all(name.split() for name in (end.listener, *backends)):
        matched = HAPROXYTCP.fullmatch(haproxy_line(end))
        assert matched
        assert int(matched["bytes"]) == end.bytes_from_backend
