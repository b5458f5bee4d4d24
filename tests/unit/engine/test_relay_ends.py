"""Rows of ended sessions: what a worker keeps of them, hands over, and loses when nobody takes them."""

from __future__ import annotations

import socket

import pytest
from relay_steps import Steps, stepping

from easyproxy.engine.relay import close, core, messenger
from easyproxy.engine.relay.counters import E_LOST, ENDS_SLOT
from easyproxy.engine.relay.ends import Batch
from easyproxy.engine.seam import Attempt


def end_one(steps: Steps) -> None:
    client, backend, session = steps.connect()
    client.close()
    backend.close()
    steps.until(lambda: session.number not in steps.core.sessions)


def received(steps: Steps) -> list[dict]:
    return [frame for frame, _ in steps.control.receive() if frame["op"] == "ends"]


def test_a_row_becomes_what_control_knows_as_the_end_of_a_session():
    row = [7, "front", "", "::1", 9, "connect_failed", 100.0, 0.0, 103.5, 1, 2, "why", {"p/a": "refused"}]
    [end] = Batch([row], "1.0.", 1000.0)
    assert (end.id, end.client, end.age_s, end.started_at, end.connect_s) == (
        "1.0.7",
        "[::1]:9",
        3.5,
        1100.0,
        -1.0,
    )
    assert end.tried == (Attempt("p/a", "refused"),)
    assert (end.bytes_from_client, end.bytes_from_backend, end.detail) == (1, 2, "why")


def test_a_unix_clients_address_has_no_port():
    row = [1, "front", "p/a", "unix", 0, "client_fin", 1.0, 1.5, 2.0, 0, 0, "", None]
    [end] = Batch([row], "0.0.", 0.0)
    assert (end.client, end.connect_s, end.tried) == ("unix", 0.5, ())


def test_clean_ends_are_handed_over_only_to_who_wants_them():
    with stepping() as steps:
        end_one(steps)
        steps.after(0.3)
        assert received(steps) == []
        steps.obey({"op": "tell", "clean": True})
        end_one(steps)
        steps.after(0.3)
        [frame] = received(steps)
        assert [row[5] for row in frame["rows"]] == ["client_fin"]
        steps.obey({"op": "tell", "clean": False})
        end_one(steps)
        steps.after(0.3)
        assert received(steps) == []
        assert len(steps.core.recent_ends) == 3


def test_what_waits_too_long_is_lost_and_counted_and_the_rest_is_told(monkeypatch):
    monkeypatch.setattr(close, "MAX_ENDS", 3)
    with stepping() as steps:
        steps.obey({"op": "tell", "clean": True})
        for _ in range(5):
            end_one(steps)
        assert steps.core.counters.sum(ENDS_SLOT, E_LOST) == 2
        assert len(steps.core.recent_ends) == 5
        steps.after(0.3)
        [frame] = received(steps)
        assert len(frame["rows"]) == 3


def test_a_control_process_that_does_not_read_is_sent_no_more_than_so_many_frames(monkeypatch):
    monkeypatch.setattr(messenger, "ENDS_PER_FRAME", 1)
    with stepping() as steps:
        steps.worker.messenger.channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        row = (0, "l" * 1000, "", "192.0.2.1", 1, "no_backend", 0.0, 0.0, 0.0, 0, 0, "", None)
        steps.core.ends = [row] * 200
        steps.after(0.3)
        assert len(steps.worker.messenger.channel.outbox) == messenger.MAX_UNSENT_FRAMES
        assert steps.core.ends
        told = 0
        while told < 200:
            told += sum(len(frame["rows"]) for frame in received(steps))
            steps.worker.messenger.channel.flush()
            steps.after(0.1)
        assert steps.core.ends == []


def test_only_so_many_ends_are_remembered():
    with stepping() as steps:
        row = (0, "l", "", "192.0.2.1", 1, "no_backend", 0.0, 0.0, 0.0, 0, 0, "", None)
        steps.core.recent_ends.extend([row] * (core.REMEMBERED_ENDS + 10))
        assert len(steps.core.recent_ends) == core.REMEMBERED_ENDS


@pytest.mark.parametrize("wanted", ["backend", "client", "listener", "id"])
def test_remembered_ends_are_found_by_each_trait_and_not_by_anothers(wanted):
    with stepping() as steps:
        end_one(steps)
        found = {"backend": "p/a", "client": "127.0.0.1", "listener": "l", "id": "0.0.1"}
        nothing = dict.fromkeys(found, "")
        for value, count in ((found[wanted], 1), ("somebody else", 0)):
            steps.obey({"op": "recent", "request": 1, "where": {**nothing, wanted: value}})
            while steps.worker._jobs:
                steps.worker._work()
            frames = [frame for frame, _ in steps.control.receive() if frame["op"] == "recent"]
            assert sum(len(frame["rows"]) for frame in frames) == count
            assert [frame["more"] for frame in frames] == [True, False]
