"""A mistake of ours in the handling of one session costs that session, and is told."""

from __future__ import annotations

import contextlib
import socket

import pytest
from relay_rig import backend, relay, until

from easyproxy.engine.relay.flow import Flow
from easyproxy.engine.seam import SessionEnd
from easyproxy.model import Pool

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("portable", [False, True], ids=["epoll", "portable"])
async def test_a_mistake_in_one_session_ends_that_session_alone(monkeypatch, portable):
    real = Flow.pump

    def pump(flow: Flow) -> None:
        with contextlib.suppress(BlockingIOError):
            if flow.source.recv(4, socket.MSG_PEEK) == b"boom":
                raise ZeroDivisionError("made by the test")
        real(flow)

    monkeypatch.setattr(Flow, "pump", pump)
    async with relay(processes=False, portable=portable) as rig:
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server),)))
        good, bad = await rig.client(), await rig.client()
        good_end, bad_end = await rig.taken(server), await rig.taken(server)
        await rig.send(bad, b"boom")
        with pytest.raises(ConnectionResetError):
            await rig.read(bad)
        with pytest.raises(ConnectionResetError):
            await rig.read(bad_end)
        await rig.send(good, b"still here")
        assert await rig.read(good_end, 10) == b"still here"
        await until(lambda: rig.complaints)
        assert "ZeroDivisionError: made by the test" in rig.complaints[0]
        await until(lambda: rig.sessions == 1)
        await until(lambda: any(isinstance(report, SessionEnd) for report in rig.reports))
        ends = [report for report in rig.reports if isinstance(report, SessionEnd)]
        assert [end.reason for end in ends] == ["internal_error"]
        assert rig.engine.statistics().worker_restarts == 0
