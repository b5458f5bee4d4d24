"""Sessions that io_uring carries: who they are, and that nothing is lost when anything about them is not usual."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easyproxy.engine.relay import ring as carrying
from easyproxy.engine.relay import talkative, uring
from easyproxy.engine.relay.close import cut
from easyproxy.engine.relay.life import Event, State
from easyproxy.engine.relay.talkative import AUTO, EARLY, FEW, SHORT_READS
from unit.engine.relay_steps import Steps, stepping

pytestmark = pytest.mark.skipif(bool(talkative.why_not()), reason=f"io_uring: {talkative.why_not()}")


def carried(steps: Steps, session) -> bool:
    """Whether the ring carries it."""
    return steps.core.ring is not None and session.client_fd in steps.core.ring._carried


def said(steps: Steps, speaker: socket.socket, hearer: socket.socket, words: bytes) -> None:
    """Have something said, and heard."""
    speaker.sendall(words)
    heard = b""
    hearer.settimeout(0)
    for _ in range(2000):
        steps.step(0.01)
        with contextlib.suppress(BlockingIOError):
            heard += hearer.recv(100_000)
        if len(heard) >= len(words):
            break
    hearer.settimeout(20)
    assert heard == words


def stuffed(session) -> int:
    """Fill what the backend's connection has room for; return how many bytes that took."""
    size = 0
    for step in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                size += session.socket.send(b"." * step)
    return size


def told_together(steps: Steps, *deeds: Callable[[], object]) -> None:
    """Have the kernel see one deed after the other, and tell of all of them in one turn."""
    ring = steps.core.ring
    ring._has_events = True  # a turn that does not wait
    real, left = ring._fetch, list(deeds)

    def together() -> list[int]:
        found = real()
        while left:
            left.pop(0)()
            ring._uring.enter(ring._tail, 0, 0.05)
            found += real()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "_fetch", together)
        steps.step()
    assert not left


@contextlib.contextmanager
def talking(**settings) -> Iterator[tuple[Steps, socket.socket, socket.socket, object]]:
    """One session that is carried: the client's end, the backend's, and the session."""
    with stepping(io_uring=EARLY, **settings) as steps:
        client, backend, session = steps.connect()
        said(steps, client, backend, b"good morning")
        steps.until(lambda: carried(steps, session))
        yield steps, client, backend, session


def crammed(steps: Steps, session, client: socket.socket, backend: socket.socket) -> bytes:
    """Have a client send small messages until the backend's connection takes no more; return what was sent."""
    backend.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    chance, sent = random.Random(7), b""
    while carried(steps, session):
        words = chance.randbytes(1500)
        client.sendall(words)
        sent += words
        steps.settle()
        assert len(sent) < 50_000_000
    return sent


def drained(steps: Steps, hearer: socket.socket, count: int) -> bytes:
    """Read so many bytes."""
    got = bytearray()
    hearer.settimeout(0)
    for _ in range(20_000):
        steps.step(0.002)
        with contextlib.suppress(BlockingIOError):
            got += hearer.recv(100_000)
        if len(got) >= count:
            break
    hearer.settimeout(20)
    return bytes(got)


# -- who is carried


def chatter(steps: Steps, ends: list[tuple], times: int) -> None:
    for _ in range(times):
        for client, backend, _session in ends:
            said(steps, client, backend, b"what?")
    steps.worker._tick()


def test_sessions_that_exchange_many_short_messages_are_carried():
    with stepping(io_uring=AUTO) as steps:
        ends = [steps.connect() for _ in range(FEW)]
        chatter(steps, ends, SHORT_READS - 1)
        assert steps.core.ring is None
        chatter(steps, ends, SHORT_READS)
        assert [carried(steps, session) for _, _, session in ends] == [True] * FEW
        assert steps.core.ring.count == FEW
        for client, backend, _session in ends:
            said(steps, client, backend, b"still here")
            said(steps, backend, client, b"and so am I")


def test_too_few_are_not_worth_it():
    with stepping(io_uring=AUTO) as steps:
        ends = [steps.connect() for _ in range(FEW - 1)]
        chatter(steps, ends, SHORT_READS)
        assert steps.core.ring is None


@pytest.mark.parametrize(
    "how", [{"io_uring": "off"}, {"portable": True, "io_uring": EARLY}], ids=["off", "portable"]
)
def test_none_is_carried_where_that_is_off_or_not_to_be_had(how):
    with stepping(**how) as steps:
        chatter(steps, [steps.connect() for _ in range(FEW)], SHORT_READS)
        assert steps.core.ring is None


def test_a_worker_that_gets_no_ring_says_so_once_and_does_without(monkeypatch):
    def refuse(_self) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(uring.Uring, "__init__", refuse)
    with stepping(io_uring=EARLY) as steps:
        client, backend, session = steps.connect()
        for _ in range(3):
            said(steps, client, backend, b"hello")
        assert not carried(steps, session)
        assert [report["detail"] for report in steps.core.reports] == [
            "io_uring: Operation not permitted; the relay does without"
        ]


def test_a_worker_without_a_free_descriptor_tries_again(monkeypatch):
    def refuse(_self) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with stepping(io_uring=EARLY) as steps:
        client, backend, session = steps.connect()
        with monkeypatch.context() as patch:
            patch.setattr(uring.Uring, "__init__", refuse)
            for _ in range(3):
                said(steps, client, backend, b"hello")
        said(steps, client, backend, b"too soon")
        assert not carried(steps, session)
        steps.core.now += talkative.AGAIN_S
        said(steps, client, backend, b"hello again")
        assert carried(steps, session)
        assert [report["detail"] for report in steps.core.reports] == [
            "io_uring: Too many open files; the relay does without"
        ]


def test_a_worker_whose_python_has_no_ctypes_does_without(monkeypatch):
    """It need not be the Python that the engine itself runs on, which was asked."""
    monkeypatch.delitem(sys.modules, "easyproxy.engine.relay.ring")
    monkeypatch.delitem(sys.modules, "easyproxy.engine.relay.uring")
    monkeypatch.setitem(sys.modules, "_ctypes", None)
    monkeypatch.delitem(sys.modules, "ctypes")
    with stepping(io_uring=EARLY) as steps:
        client, backend, _session = steps.connect()
        for _ in range(3):
            said(steps, client, backend, b"hello")
        assert steps.core.ring is None
        assert [report["detail"] for report in steps.core.reports] == [
            "io_uring: this Python has no ctypes (import of _ctypes halted; None in sys.modules); the relay does without"
        ]


def test_what_the_system_lacks_is_told(monkeypatch):
    def refuse(_self) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(uring.Uring, "__init__", refuse)
    assert talkative.why_not() == "none: Operation not permitted"


def test_no_more_are_carried_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(carrying, "MOST_CARRIED", 2)
    with stepping(io_uring=EARLY) as steps:
        ends = [steps.connect() for _ in range(3)]
        chatter(steps, ends, 1)
        assert sum(carried(steps, session) for _, _, session in ends) == 2
        chatter(steps, ends, 2)


def test_one_whose_target_is_blocked_moves_its_bytes_itself():
    with stepping(io_uring=EARLY) as steps:
        client, backend, session = steps.connect()
        session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        client.setblocking(False)
        full = 0
        while full < 20:  # the kernel may give more room once or twice
            with contextlib.suppress(BlockingIOError):
                client.send(b"x" * 100_000)
            steps.step()
            full = full + 1 if session.outbound.is_blocked else 0
        said(steps, backend, client, b"slowly!")
        assert not carried(steps, session)


# -- bytes


def test_a_message_that_fills_a_buffer_ends_it_and_arrives_whole():
    with talking() as (steps, client, backend, session):
        said(steps, client, backend, random.Random(1).randbytes(uring.BUFFER_BYTES - 1))
        assert carried(steps, session)
        said(steps, client, backend, random.Random(2).randbytes(3 * uring.BUFFER_BYTES + 5))
        assert session.outbound.moved == 12 + uring.BUFFER_BYTES - 1 + 3 * uring.BUFFER_BYTES + 5


def test_what_a_target_does_not_take_is_held_in_order_and_counted_when_it_is_taken():
    """Behaviour 5."""
    with talking() as (steps, client, backend, session):
        sent = crammed(steps, session, client, backend)
        assert session.outbound.is_blocked
        assert session.outbound.moved < 12 + len(sent)
        assert drained(steps, backend, len(sent)) == sent
        assert session.outbound.moved == 12 + len(sent)
        steps.worker._tick()
        assert steps.core.counters.sum(3, 2) == 12 + len(sent)


def test_a_tick_counts_what_was_taken_also_when_it_comes_before_the_send():
    with talking() as (steps, client, backend, session):
        size = stuffed(session)
        client.sendall(b"first")
        while session.outbound.moved == 12:
            steps.core.poll(0.0, 1)  # one turn: it is read, and to be sent with the next one
        steps.worker._tick()
        assert steps.core.counters.sum(3, 2) == 12
        client.sendall(b"second")
        assert drained(steps, backend, size + 11)[size:] == b"firstsecond"
        steps.worker._tick()
        assert steps.core.counters.sum(3, 2) == 12 + 11


def test_the_other_direction_goes_on_while_one_is_blocked():
    with talking() as (steps, client, backend, session):
        sent = crammed(steps, session, client, backend)
        said(steps, backend, client, b"wait a moment")
        assert drained(steps, backend, len(sent)) == sent


def test_several_messages_of_one_side_in_one_turn_arrive_in_order():
    with talking() as (steps, client, backend, session):
        told_together(steps, *(partial(client.sendall, b"%d;" % number) for number in range(5)))
        assert drained(steps, backend, 10) == b"0;1;2;3;4;"
        assert carried(steps, session)


def test_a_full_buffer_in_the_turn_of_a_message_that_is_not_taken_stays_behind_it():
    with talking() as (steps, client, backend, session):
        size, full = stuffed(session), random.Random(3).randbytes(uring.BUFFER_BYTES)
        told_together(steps, partial(client.sendall, b"before"), partial(client.sendall, full))
        assert drained(steps, backend, size + 6 + len(full))[size:] == b"before" + full
        assert session.outbound.moved == 12 + 6 + len(full)


def test_more_messages_at_once_than_there_are_buffers():
    with stepping(io_uring=EARLY) as steps:
        ends = [steps.connect() for _ in range(uring.BUFFERS // 2)]
        chatter(steps, ends, 1)
        assert all(carried(steps, session) for _, _, session in ends)
        for round_ in range(3):
            for client, backend, _session in ends:
                for sock in (client, backend):
                    sock.sendall(b"%d" % round_ * 100)
            extra = steps.connect()
            chatter(steps, [extra], 1)
            for client, backend, _session in ends:
                assert drained(steps, client, 100) == drained(steps, backend, 100) == b"%d" % round_ * 100


def test_buffers_that_run_out_are_waited_for(monkeypatch):
    monkeypatch.setattr(uring, "BUFFERS", 2)
    with stepping(io_uring=EARLY) as steps:
        ends = [steps.connect() for _ in range(6)]
        chatter(steps, ends, 2)
        for client, _backend, _session in ends:
            client.sendall(b"all at once")
        for client, backend, session in ends:
            assert drained(steps, backend, 11) == b"all at once"
            said(steps, backend, client, b"yes")
            assert carried(steps, session)


@pytest.mark.parametrize("source", ["client", "backend"])
def test_urgent_data_stays_in_the_stream(source):
    with talking() as (steps, client, backend, _session):
        speaker, hearer = (client, backend) if source == "client" else (backend, client)
        speaker.sendall(b"before ")
        speaker.send(b"!", socket.MSG_OOB)
        speaker.sendall(b" after")
        assert drained(steps, hearer, 14) == b"before ! after"


class Side:
    """One end of a session in the story below: what it has sent, and what it has got."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.sent = bytearray()
        self.got = bytearray()

    def send(self, words: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            self.sent += words[: self.sock.send(words)]

    def read(self, most: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self.got += self.sock.recv(most)


STORIES = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "read", "step", "step", "tick", "release"]),
        st.integers(0, 1),
        st.integers(1, 6000),
    ),
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@given(story=STORIES, cramped=st.booleans(), seed=st.integers(0, 1000))
def test_whatever_is_said_arrives_once_and_in_order(story, cramped, seed):
    chance = random.Random(seed)
    with talking() as (steps, client, backend, session):
        if cramped:
            for sock in (client, backend, session.client_socket, session.socket):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sides = Side(client), Side(backend)
        for what, which, size in story:
            match what:
                case "send":
                    sides[which].send(chance.randbytes(size))
                case "read":
                    sides[which].read(size)
                case "step":
                    steps.step()
                case "tick":
                    steps.worker._tick()
                case "release" if steps.core.ring is not None:
                    steps.core.ring.release(session)
        for _ in range(3000):
            if [len(side.got) for side in sides] == [len(side.sent) for side in reversed(sides)]:
                break
            steps.step(0.005)
            for side in sides:
                side.read(100_000)
        assert sides[0].got == sides[1].sent
        assert sides[1].got == sides[0].sent
        assert (session.outbound.moved, session.inbound.moved) == (
            len("good morning") + len(sides[0].sent),
            len(sides[1].sent),
        )


# -- endings


@pytest.mark.parametrize("first", ["client", "backend"])
def test_an_end_is_passed_on_after_the_last_bytes_and_the_other_side_goes_on(first):
    with talking() as (steps, client, backend, session):
        one, other = (client, backend) if first == "client" else (backend, client)
        one.sendall(b"that is all")
        one.shutdown(socket.SHUT_WR)
        assert drained(steps, other, 11) == b"that is all"
        steps.settle()
        assert other.recv(1) == b""
        said(steps, other, one, b"I have more to say " * 1000)
        other.shutdown(socket.SHUT_WR)
        steps.until(lambda: session.state is State.CLOSED)
        assert steps.ends == [f"{first}_fin"]
        assert steps.core.ring.count == 0


@pytest.mark.parametrize("source", ["client", "backend"])
@pytest.mark.parametrize("words", [b"", b"last words"])
def test_a_reset_is_passed_on_and_its_side_is_the_reason(source, words):
    """Behaviour 8."""
    with talking() as (steps, client, backend, session):
        breaks, other = (client, backend) if source == "client" else (backend, client)
        if words:
            breaks.sendall(words)
            assert drained(steps, other, len(words)) == words
        breaks.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        breaks.close()
        steps.until(lambda: session.state is State.CLOSED)
        steps.settle()
        with pytest.raises(ConnectionResetError):
            other.recv(1)
        assert steps.ends == [f"{source}_reset"]


@pytest.mark.parametrize("source", ["client", "backend"])
def test_who_resets_while_something_is_on_its_way_to_it(source):
    with talking() as (steps, client, backend, session):
        breaks, other = (client, backend) if source == "client" else (backend, client)
        other.sendall(b"to somebody who has gone")
        breaks.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        breaks.close()
        other.sendall(b"and more")
        steps.until(lambda: session.state is State.CLOSED)
        assert steps.ends == [f"{source}_reset"]


def test_a_reset_behind_held_bytes_is_the_reason():
    with talking() as (steps, client, backend, session):
        crammed(steps, session, client, backend)
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        backend.close()
        steps.until(lambda: session.state is State.CLOSED)
        assert steps.ends == ["backend_reset"]


def test_one_that_is_closed_by_an_operator_is_reset():
    with talking() as (steps, client, backend, session):
        cut(steps.core, session, Event.OPERATOR)
        steps.settle()
        steps.worker._tick()
        steps.settle()
        for sock in (client, backend):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert steps.ends == ["operator"]
        assert steps.core.ring.count == 0


def test_one_that_is_silent_for_too_long_is_closed_and_one_that_talks_is_not():
    with talking(idle_timeout_s=1.0) as (steps, client, backend, session):
        for _ in range(4):
            steps.core.now += 0.5
            client.sendall(b"still awake")
            assert drained(steps, backend, 11) == b"still awake"
            assert carried(steps, session)
            session.active_at = steps.core.now  # the ring goes by the real clock, and this test does not
            steps.worker._tick()
            assert session.state is State.RELAYING
        steps.after(1.5)
        assert session.state is State.CLOSED
        assert steps.ends == ["idle_timeout"]


def test_a_mistake_in_one_session_ends_that_one_alone():
    with stepping(io_uring=EARLY) as steps:
        ends = [steps.connect() for _ in range(2)]
        chatter(steps, ends, 2)
        (client, _, broken), (other, backend, session) = ends
        steps.core.ring._flows[broken.client_fd] = None
        client.sendall(b"x")
        other.sendall(b"y")
        assert drained(steps, backend, 1) == b"y"
        steps.until(lambda: broken.state is State.CLOSED or steps.core.reports)
        assert carried(steps, session)
        assert "NoneType" in steps.core.reports[0]["detail"]


def refuse(steps: Steps, session) -> None:
    """Have epoll not take a session's sockets: more than ``fs.epoll.max_user_watches`` (epoll(7))."""
    theirs, watch = (session.client_fd, session.socket.fileno()), steps.core.watch

    def watch_others(fd: int, bits: int) -> None:
        if fd in theirs:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        watch(fd, bits)

    steps.core.watch = watch_others


@pytest.mark.parametrize("source", ["client", "backend"])
def test_one_that_epoll_does_not_take_back_ends_alone(source):
    with stepping(io_uring=EARLY) as steps:
        ends = [steps.connect() for _ in range(2)]
        chatter(steps, ends, 2)
        (one, other, whole), (client, backend, broken) = ends
        refuse(steps, broken)
        (client if source == "client" else backend).shutdown(socket.SHUT_WR)
        steps.until(lambda: broken.state is State.CLOSED)
        assert steps.ends == ["internal_error"]
        assert "No space left" in steps.core.reports[0]["detail"]
        said(steps, one, other, b"is all well?")
        assert carried(steps, whole)


def test_no_request_is_made_twice_after_a_mistake():
    with stepping(io_uring=EARLY) as steps:
        ends = [steps.connect() for _ in range(3)]
        chatter(steps, ends, 2)
        (one, other, whole), (speaker, slow, blocked), (client, backend, broken) = ends
        size = stuffed(blocked)
        refuse(steps, broken)
        told_together(
            steps,
            partial(client.shutdown, socket.SHUT_WR),
            partial(speaker.sendall, b"not taken"),
            partial(backend.shutdown, socket.SHUT_WR),
        )
        assert drained(steps, slow, size + 9)[size:] == b"not taken"
        said(steps, one, other, b"is all well?")
        assert carried(steps, whole)
        assert [session.state is State.CLOSED for _, _, session in ends] == [False, False, True]


# -- others


def test_whom_epoll_tells_of_is_served_beside_those_that_are_carried():
    with talking() as (steps, client, backend, session):
        assert carried(steps, session)
        for _ in range(3):
            newcomer, server, fresh = steps.connect()
            said(steps, newcomer, server, b"me too")
            newcomer.close()
            server.close()
            steps.until(lambda fresh=fresh: fresh.state is State.CLOSED)
        said(steps, client, backend, b"and I as before")
        assert carried(steps, session)


def test_all_are_given_back_at_once_and_can_be_carried_again():
    with stepping(io_uring=EARLY) as steps:
        ends = [steps.connect() for _ in range(20)]
        chatter(steps, ends, 2)
        for client, _backend, _session in ends:
            client.sendall(b"before")
        steps.core.ring.release_all()
        assert steps.core.ring.count == 0
        assert steps.core.poll == steps.core.poller.poll
        for client, backend, session in ends:
            assert drained(steps, backend, 6) == b"before"
            said(steps, client, backend, b"after")
            said(steps, backend, client, b"again")
            assert carried(steps, session)


def test_one_is_given_back_however_many_others_are_served_before_it(monkeypatch):
    """The kernel gives a call of io_uring_enter(2) a few of those that are ready, in the order in which they became so."""
    monkeypatch.setattr(carrying, "PATIENCE", 2)
    with stepping(io_uring=EARLY) as steps:
        ends = [steps.connect() for _ in range(100)]
        chatter(steps, ends, 1)
        steps.until(lambda: all(carried(steps, session) for _, _, session in ends))
        for client, backend, _session in ends:
            client.sendall(b"one")
            backend.sendall(b"two")
        *others, (_, _, session) = ends
        cut(steps.core, session, Event.OPERATOR)
        assert steps.ends == ["operator"]
        for client, backend, other in others:
            assert (drained(steps, backend, 3), drained(steps, client, 3)) == (b"one", b"two")
            assert carried(steps, other)


def test_a_worker_that_ends_leaves_no_descriptor():
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    with talking():
        pass
    assert len(list(descriptors.iterdir())) == before
