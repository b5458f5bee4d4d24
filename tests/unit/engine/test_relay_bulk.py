"""Bulk: what splice(2) says when a pipe is full, and when there is nothing to move."""

from __future__ import annotations

import fcntl
import os

from relay_steps import stepping

from easyproxy.engine.relay.pipes import Pipe


def _one_slot_pipe() -> Pipe:
    """A pipe of one page: one small write fills its only slot."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    return Pipe(read_end, write_end, 4096)


def test_a_full_pipe_is_not_taken_for_an_empty_socket():
    """EAGAIN of the first splice means the pipe; the target then takes it all, and the source is still full."""
    with stepping() as steps:
        client, backend, session = steps.connect()
        client.settimeout(20)
        backend.sendall(b"rest" * 2500)
        assert steps.core.poller.poll(5.0, 8), "the edge of these bytes is used up: no other will come"
        flow = session.inbound
        flow.is_bulk = True
        flow.pipe = pipe = _one_slot_pipe()
        os.write(pipe.write_end, b"head")
        pipe.held = 4
        flow.pump()
        steps.settle()
        got = b""
        while len(got) < 10004:
            got += client.recv(65536)
        assert got == b"head" + b"rest" * 2500
        assert flow.pipe is None, "the lease ended with the data"
        assert flow.moved == 10004


def test_discarded_bytes_do_not_keep_a_session_from_its_idle_timeout():
    """The client is gone and a backend that does not read streams on: nothing moves, so the session is idle."""
    with stepping(idle_timeout_s=5.0, half_closed_timeout_s=0.0) as steps:
        _client, backend, session = steps.connect()
        session.inbound.abandon_target()
        for _ in range(5):
            backend.sendall(b"x" * 1000)
            steps.after(1.0)
        assert steps.ends == ["idle_timeout"]
