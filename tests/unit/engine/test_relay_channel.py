"""Frames and descriptors between control and worker: whole, in order, and nothing left open."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.engine.relay.channel import MAX_FRAME, Channel
from easyproxy.engine.relay.wire import plain_snapshot, snapshot_from
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot


@pytest.fixture
def pair():
    ends = [Channel(sock) for sock in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def raw():
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    yield ours, channel
    ours.close()
    channel.close()


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def packed(frame) -> bytes:
    body = json.dumps(frame).encode()
    return struct.pack("!I", len(body)) + body


def test_frames_arrive_whole_and_in_order_wherever_the_stream_is_cut(raw):
    ours, channel = raw
    frames = [{"op": "a"}, {"op": "b", "text": "ä" * 5}, {}, {"op": "c", "list": [1, 2, None]}]
    stream = b"".join(packed(frame) for frame in frames)
    for cut in range(len(stream) + 1):
        got = []
        for part in (stream[:cut], stream[cut:]):
            ours.sendall(part)
            got += [frame for frame, _ in channel.receive()]
        assert got == frames
    assert not channel.is_closed


def test_descriptors_arrive_with_their_frame_and_are_the_receivers_own(pair):
    left, right = pair
    pipes = [os.pipe() for _ in range(3)]
    left.send({"op": "none"})
    left.send({"op": "one"}, [pipes[0][0]])
    left.send({"op": "two"}, [pipes[1][0], pipes[2][0]])
    for _, write in pipes:
        os.write(write, b"%d" % write)
    frames = right.receive()
    assert [(frame["op"], len(fds)) for frame, fds in frames] == [("none", 0), ("one", 1), ("two", 2)]
    for (read, write), fd in zip(pipes, [fd for _, fds in frames for fd in fds], strict=True):
        os.close(read)  # the sender's own; the receiver's goes on
        assert os.read(fd, 10) == b"%d" % write
        os.close(fd)
        os.close(write)


def test_a_descriptor_may_be_closed_by_its_owner_before_its_frame_gets_its_turn(pair):
    left, right = pair
    big = {"op": "big", "text": "x" * 3_000_000}
    left.send(big)
    read, write = os.pipe()
    left.send({"op": "late"}, [write])
    os.close(write)
    assert len(left.outbox) == 2
    frames = []
    while len(frames) < 2:
        frames += right.receive()
        left.flush()
    (first, _), (second, [fd]) = frames
    assert (first, second["op"]) == (big, "late")
    os.write(fd, b"through")
    assert os.read(read, 10) == b"through"
    os.close(fd)
    os.close(read)


def test_what_goes_at_once_needs_no_descriptor_more(pair, monkeypatch):
    def refuse(_fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", refuse)
    left, right = pair
    left.send({"op": "one"}, [0])
    [(frame, [fd])] = right.receive()
    os.close(fd)
    assert frame["op"] == "one"


def test_a_frame_that_can_neither_go_nor_wait_is_not_sent_and_leaves_nothing_open(pair, monkeypatch):
    left, _right = pair
    left.send({"op": "big", "text": "x" * 3_000_000})
    before, duplicate, calls = descriptors(), os.dup, []

    def refuse_the_second(fd: int) -> int:
        calls.append(fd)
        if len(calls) > 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return duplicate(fd)

    monkeypatch.setattr(os, "dup", refuse_the_second)
    with pytest.raises(OSError, match="open files"):
        left.send({"op": "late"}, [0, 1])
    assert len(left.outbox) == 1
    assert descriptors() == before


def test_what_the_peer_does_not_read_waits_in_the_outbox_and_loses_nothing(pair):
    left, right = pair
    for number in range(50):
        left.send({"n": number, "fill": "y" * 50_000})
    waiting = len(left.outbox)
    assert waiting
    assert not left.flush()
    numbers = []
    while len(numbers) < 50:
        numbers += [frame["n"] for frame, _ in right.receive()]
        left.flush()
    assert numbers == list(range(50))
    assert left.flush()
    assert not left.outbox


def test_closing_leaves_no_descriptor_open(pair):
    left, right = pair
    read, write = os.pipe()
    before = descriptors()
    for _ in range(5):
        left.send({"op": "untaken", "fill": "z" * 100_000}, [read, write])
    given = [fd for _, fds in right.receive() for fd in fds]
    assert left.outbox
    left.close()
    right.close()
    for fd in given:
        os.close(fd)
    after = descriptors()
    assert after - before == set()
    os.close(read)
    os.close(write)


def test_a_peer_that_is_gone_is_noticed_and_what_came_before_is_given_out(pair):
    left, right = pair
    left.send({"op": "last words"})
    left.close()
    assert [frame for frame, _ in right.receive()] == [{"op": "last words"}]
    assert right.is_closed
    before = descriptors()
    right.send({"op": "to nobody"}, [0])
    assert not right.outbox
    assert descriptors() == before


def test_a_send_finds_out_that_the_peer_is_gone(pair):
    left, right = pair
    right.close()
    left.send({"op": "anything"})
    assert left.is_closed
    assert left.flush()


def test_a_frame_beyond_the_limit_closes_the_channel_without_waiting_for_it(raw):
    ours, channel = raw
    ours.sendall(packed({"op": "fine"}) + struct.pack("!I", MAX_FRAME + 1) + b"{")
    assert [frame for frame, _ in channel.receive()] == [{"op": "fine"}]
    assert channel.is_closed


def test_a_frame_of_exactly_the_limit_is_waited_for(raw):
    ours, channel = raw
    ours.sendall(struct.pack("!I", MAX_FRAME) + b"{")
    assert channel.receive() == []
    assert not channel.is_closed


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe{}", b"not json"])
def test_garbage_closes_the_channel_and_raises_nothing(raw, body):
    ours, channel = raw
    ours.sendall(packed({"op": "fine"}) + struct.pack("!I", len(body)) + body)
    assert [frame for frame, _ in channel.receive()] == [{"op": "fine"}]
    assert channel.is_closed
    assert channel.receive() == []


texts = st.text(max_size=12)
seconds = st.floats(0, 1e9)
whole = st.integers(0, 2**31)
addresses = st.one_of(
    st.builds(Address, host=texts, port=st.integers(0, 65535)),
    st.builds(Address, path=texts.map("/{}".format)),
)
backends = st.builds(
    Backend, id=texts, name=texts, address=addresses, weight=whole, max_sessions=whole, priority=whole
)
pools = st.builds(
    Pool,
    name=texts,
    strategy=texts,
    backends=st.lists(backends, max_size=3).map(tuple),
    connect_timeout_s=seconds,
    retries=whole,
    queue_timeout_s=seconds,
    source=st.none() | addresses,
)
listeners = st.builds(
    Listener,
    name=texts,
    bind=addresses,
    pool=texts,
    max_sessions=whole,
    overload=texts,
    backlog=whole,
    idle_timeout_s=seconds,
    half_closed_timeout_s=seconds,
    life_timeout_s=seconds,
    user_timeout_s=seconds,
    keepalive_s=seconds,
)
snapshots = st.builds(
    Snapshot,
    version=whole,
    listeners=st.lists(listeners, max_size=3).map(tuple),
    pools=st.lists(pools, max_size=3, unique_by=lambda pool: pool.name).map(tuple),
)


@given(snapshots)
def test_a_snapshot_survives_the_wire(snapshot):
    arrived = snapshot_from(json.loads(json.dumps(plain_snapshot(snapshot))))
    assert arrived == snapshot
    assert arrived.pool_by_name == snapshot.pool_by_name


def test_a_received_descriptor_is_not_inherited_by_children(pair):
    left, right = pair
    left.send({"op": "x"}, [0])
    [(_, [fd])] = right.receive()
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_bytes_that_are_no_json_come_with_their_frame_wherever_the_stream_is_cut(raw):
    ours, channel = raw
    stream = packed({"op": "a", "blob": 4}) + b"\0{}\xff" + packed({"op": "b"})
    for cut in range(len(stream) + 1):
        got = []
        for part in (stream[:cut], stream[cut:]):
            ours.sendall(part)
            got += [frame for frame, _ in channel.receive()]
        assert got == [{"op": "a", "blob": b"\0{}\xff"}, {"op": "b"}]


def test_descriptors_that_find_no_room_are_noticed(pair):
    left, right = pair
    left.send({"op": "many"}, [0] * 20, are_lent=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 5, hard))
    try:
        assert right.receive() == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert right.is_closed
    assert right.is_truncated


def test_after_one_side_has_shut_the_other_cannot_send_but_what_it_sent_before_arrives(pair):
    left, right = pair
    left.send({"op": "before"})
    right.shut()
    left.send({"op": "after"})
    assert left.is_closed
    assert [frame for frame, _ in right.receive()] == [{"op": "before"}]


def test_a_frame_that_claims_descriptors_that_did_not_come_closes_the_channel(raw):
    ours, channel = raw
    ours.sendall(packed({"op": "x", "fds": 1}))
    assert channel.receive() == []
    assert channel.is_closed
