"""Bytes through one worker, turn by turn: partial writes, promotion to splice and back, urgent data, broken peers."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import socket
import struct
import threading

import pytest
from relay_steps import stepping

from easyproxy.engine.relay import flow as flow_module
from easyproxy.engine.relay.core import BUFFER_BYTES
from easyproxy.engine.relay.flow import TAIL_UNSURE
from easyproxy.engine.relay.life import State
from easyproxy.engine.relay.pipes import PipePool

PORTABLE = pytest.mark.parametrize("portable", [False, True], ids=["epoll", "selectors"])
MIB = 1024 * 1024


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def unacknowledged(sock: socket.socket) -> int:
    """Bytes, and the FIN, that have not reached the peer's kernel (SIOCOUTQ, tcp(7))."""
    return int.from_bytes(fcntl.ioctl(sock, 0x5411, b"\0\0\0\0"), "little")


class Reader(threading.Thread):
    """Reads a socket to its end, as fast as it can."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.sock, self.data, self.error = sock, bytearray(), None
        self.start()

    def run(self) -> None:
        try:
            while part := self.sock.recv(MIB):
                self.data += part
        except OSError as error:
            self.error = error


def sending(sock: socket.socket, data: bytes, *, then_fin: bool = True) -> threading.Thread:
    """Send in a thread of its own."""

    def work() -> None:
        sock.sendall(data)
        if then_fin:
            sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def pumped(steps, *threads: threading.Thread) -> None:
    """Turn the loop until the threads have ended."""
    while any(thread.is_alive() for thread in threads):
        steps.step(0.01)
    for thread in threads:
        thread.join()


@PORTABLE
def test_what_a_target_does_not_take_waits_and_nothing_more_is_read(portable):
    """Behaviour 5: at most one buffer or one pipe is held, and it all arrives in the end."""
    data = random.Random(1).randbytes(48 * MIB)
    with stepping(portable=portable) as steps:
        client, backend, session = steps.connect()
        sender = sending(backend, data)
        steps.until(lambda: session.inbound.is_blocked)
        for _ in range(20):
            steps.step(0.002)
        held = session.inbound
        assert len(held.pending or b"") <= BUFFER_BYTES
        reader = Reader(client)
        client_fin = threading.Thread(target=lambda: (reader.join(), client.shutdown(socket.SHUT_WR)))
        client_fin.start()
        pumped(steps, sender, reader, client_fin)
        steps.until(lambda: session.state is State.CLOSED)
        assert hashlib.sha256(reader.data).digest() == hashlib.sha256(data).digest()
        assert steps.ends == ["backend_fin"]


def test_a_stream_is_promoted_to_splice_and_small_messages_bring_it_back():
    with stepping() as steps:
        client, backend, session = steps.connect()
        data = random.Random(2).randbytes(16 * MIB)
        sender, got = sending(backend, data, then_fin=False), bytearray()
        modes = set()
        client.settimeout(0)
        while len(got) < len(data):
            steps.step(0.001)
            modes.add(session.inbound.is_bulk)
            try:
                got += client.recv(MIB)
            except BlockingIOError:
                continue
        sender.join()
        assert got == data
        assert True in modes
        client.settimeout(20)
        for number in range(3):
            message = b"message %d" % number
            backend.sendall(message)
            steps.settle()
            assert client.recv(100) == message
        assert not session.inbound.is_bulk
        assert session.inbound.pipe is None
        assert len(steps.core.pipes._idle) == 1
        assert session.inbound.moved == len(data) + 27


def test_without_pipes_a_stream_goes_on_copying(monkeypatch):
    monkeypatch.setattr(PipePool, "take", lambda _: None)
    with stepping() as steps:
        client, backend, session = steps.connect()
        data = random.Random(3).randbytes(8 * MIB)
        sender, reader = sending(backend, data), Reader(client)
        pumped(steps, sender, reader)
        assert reader.data == data
        assert session.inbound.pipe is None


@pytest.mark.parametrize("bulk", [False, True], ids=["copied", "spliced"])
@pytest.mark.parametrize("source", ["client", "backend"])
def test_urgent_data_stays_in_the_stream_where_its_sender_put_it(bulk, source):
    """Behaviour 7, for senders that use MSG_OOB: every byte, in its place, whatever moves the stream."""
    before = random.Random(4).randbytes(6 * MIB if bulk else 1000)
    after = random.Random(5).randbytes(500_000 if bulk else 1000)
    with stepping() as steps:
        client, backend, session = steps.connect()
        sender, receiver = (client, backend) if source == "client" else (backend, client)
        flow = session.outbound if source == "client" else session.inbound
        urgent = threading.Event()

        def send() -> None:
            sender.sendall(before)
            assert urgent.wait(20)
            sender.send(b"!", socket.MSG_OOB)
            sender.sendall(after)

        thread = threading.Thread(target=send)
        thread.start()
        got = bytearray()
        receiver.settimeout(0)
        expected = before + b"!" + after
        for turn in range(20_000):
            if bulk and not urgent.is_set():
                flow.is_bulk = True  # also where its sender is too slow for it
            steps.step(0.0005)
            if len(got) > len(before) // 2 or flow.moved >= len(before) // 2:
                urgent.set()
            try:
                got += receiver.recv(MIB)
            except BlockingIOError:
                if turn > 2000 and not thread.is_alive() and not steps.step(0.05):
                    break
            if len(got) == len(expected):
                break
        urgent.set()
        thread.join()
        assert len(got) == len(expected)
        assert got == expected


@PORTABLE
@pytest.mark.parametrize("source", ["client", "backend"])
def test_a_reset_is_passed_on_and_its_side_is_the_reason(portable, source):
    """Behaviour 8."""
    with stepping(portable=portable) as steps:
        client, backend, session = steps.connect()
        breaks, other = (client, backend) if source == "client" else (backend, client)
        breaks.sendall(b"last words")
        reset(breaks)
        steps.until(lambda: session.state is State.CLOSED)
        steps.settle()
        reader = Reader(other)
        pumped(steps, reader)
        assert isinstance(reader.error, ConnectionResetError)
        assert reader.data in (b"last words", b"")
        assert steps.ends == [f"{source}_reset"]


@PORTABLE
@pytest.mark.parametrize("ends", ["fin_then_reset", "data_fin_then_reset"])
def test_what_was_said_before_fin_and_reset_is_delivered(portable, ends):
    """Behaviour 9: the backend answers, ends, and resets because the client still sends."""
    data = b"all of the answer" * 1000 if ends.startswith("data") else b""
    with stepping(portable=portable) as steps:
        client, backend, session = steps.connect()
        client.sendall(b"unread request")
        steps.settle()
        backend.sendall(data)
        backend.close()  # unread data makes it a reset after the answer
        client.sendall(b"more")
        steps.settle()
        reader = Reader(client)
        client.settimeout(5)
        pumped(steps, reader)
        if data:
            assert bytes(reader.data) in (data, b"") or data.startswith(bytes(reader.data))
        steps.until(lambda: session.state is State.CLOSED)
        assert steps.ends in (["backend_reset"], ["backend_fin"])
        if steps.ends == ["backend_fin"]:
            assert reader.data == data


@pytest.mark.parametrize("first", ["write", "read"])
def test_a_backend_that_answers_and_vanishes_is_heard_to_the_end(first):
    """Behaviour 9: FIN came before the reset, so the client is owed every byte, and its own reset comes after."""
    with stepping() as steps:
        client, backend, _ = steps.connect()
        answer = random.Random(6).randbytes(40_000)
        backend.sendall(answer)
        backend.shutdown(socket.SHUT_WR)
        while unacknowledged(backend):
            pass
        if first == "read":
            steps.settle()
        reset(backend)
        client.sendall(b"too late")
        reader = Reader(client)
        while reader.is_alive():
            steps.step(0.005)
            steps.core.now += 0.01
            steps.worker._tick()
        reader.join()
        assert reader.data == answer
        steps.until(lambda: steps.ends)  # the reader may be done before the worker has seen the reset
        assert steps.ends == ["backend_reset"]


@PORTABLE
def test_bytes_are_counted_when_the_other_side_has_taken_them(portable):
    with stepping(portable=portable) as steps:
        client, backend, session = steps.connect()
        flows = session.outbound, session.inbound

        def cells() -> list[int]:
            return [steps.core.counters.sum(3, field) for field in range(4)]

        for sent in range(5, 20, 5):
            client.sendall(b"12345")
            backend.sendall(b"123")
            steps.until(lambda sent=sent: [flow.moved for flow in flows] == [sent, sent * 3 // 5])
            steps.worker._tick()
            assert cells() == [
                1,
                1,
                sent,
                sent * 3 // 5,
            ]  # sessions, total, from the client, from the backend
        client.sendall(b"bye")
        steps.until(lambda: flows[0].moved == 18)
        assert cells()[1:] == [1, 15, 9]  # since the last tick
        client.close()
        steps.until(lambda: steps.ends)
        assert cells()[1:] == [1, 18, 9]
        steps.worker._tick()
        assert cells()[1:] == [1, 18, 9]


@PORTABLE
def test_bytes_of_who_came_since_the_last_tick_are_counted_at_the_end(portable):
    with stepping(portable=portable) as steps:
        client, backend, session = steps.connect()
        client.sendall(b"12345")
        client.shutdown(socket.SHUT_WR)
        steps.until(lambda: session.outbound is not None and session.outbound.moved == 5)
        backend.sendall(b"123")
        backend.close()
        steps.until(lambda: steps.ends)
        assert [steps.core.counters.sum(3, field) for field in range(1, 4)] == [1, 5, 3]
        assert not steps.core.moving


def test_a_pipe_that_was_never_emptied_is_not_used_again():
    pool = PipePool()
    try:
        pipe = pool.take()
        os.write(pipe.write_end, b"a broken session's bytes")
        pipe.held = 24
        pool.give(pipe)
        other = pool.take()
        assert other is not pipe
        with pytest.raises(BlockingIOError):
            os.read(other.read_end, 100)
        pool.give(other)
        assert pool.take() is other
        pool.give(other)
    finally:
        pool.close()


def test_urgent_data_leaves_a_flow_that_reads_until_there_is_no_more():
    with stepping() as steps:
        client, backend, session = steps.connect()
        client.send(b"!", socket.MSG_OOB)
        steps.settle()
        assert session.outbound.tail == TAIL_UNSURE
        backend.settimeout(5)
        assert backend.recv(10) == b"!"


def test_a_turn_is_short_enough_that_others_get_theirs():
    assert flow_module.TURN * BUFFER_BYTES <= 2 * MIB


@pytest.mark.parametrize("size", [1, 5000, BUFFER_BYTES - 1, BUFFER_BYTES])
@pytest.mark.parametrize("towards", ["client", "backend"])
def test_the_last_bytes_and_the_fin_arrive_whole_however_little_the_target_takes(size, towards):
    """Behaviour 2: what the FIN follows is sent together with it, and may not fit."""
    data = random.Random(size).randbytes(size)
    with stepping() as steps:
        client, backend, session = steps.connect()
        steps.settle()
        source, target = (backend, client) if towards == "client" else (client, backend)
        target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for fd in (session.client_fd, session.socket.fileno()):
            narrow = socket.socket(fileno=os.dup(fd))
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            narrow.close()
        sender = sending(source, data)
        steps.step(0.05)
        reader = Reader(target)
        pumped(steps, sender, reader)
        assert reader.error is None
        assert reader.data == data


def test_the_last_bytes_and_the_fin_go_in_one_segment():
    """One packet less, and the peer wakes up once: tcp(7), TCP_INFO, tcpi_data_segs_in and tcpi_segs_in."""
    with stepping() as steps:
        client, backend, _ = steps.connect()
        steps.settle()
        before = segments_in(client)
        backend.sendall(b"answer")
        backend.close()
        steps.settle()
        assert client.recv(100) == b"answer"
        assert client.recv(100) == b""
        assert segments_in(client) - before == 1


def segments_in(sock: socket.socket) -> int:
    """Segments that have arrived, those without data too (struct tcp_info, linux/tcp.h)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int.from_bytes(info[140:144], "little")


@pytest.mark.parametrize("is_known", [True, False])
def test_a_connection_that_another_process_has_too_says_nothing_once_it_is_closed_here(is_known):
    """While an upgrade is under way: its last events would be taken for those of the session that gets its number next."""
    with stepping(portable=False) as steps:
        client = steps.client()
        server, _ = steps.server.accept()
        steps.settle()
        [session] = steps.core.sessions.values()
        with server, socket.socket(fileno=os.dup(session.client_fd)) as copy:
            if is_known:
                steps.core.shared.add(session.client_fd)
            client.shutdown(socket.SHUT_WR)
            server.shutdown(socket.SHUT_WR)
            steps.until(lambda: session.state is State.CLOSED)
            steps.settle()
            copy.shutdown(socket.SHUT_RDWR)
            reset(client)
            heard = steps.core.poller.poll(0.05, 512)
            assert bool(heard) is not is_known
            assert not steps.core.shared
