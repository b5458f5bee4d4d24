"""A mistake of ours in the handling of one session costs that session, and is told."""

from __future__ import annotations

import pytest
from relay_rig import backend, relay, until

from easyproxy.engine.relay import flow
from easyproxy.engine.seam import SessionEnd
from easyproxy.model import Pool

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("portable", [False, True], ids=["epoll", "portable"])
async def test_a_mistake_in_one_session_ends_that_session_alone(monkeypatch, portable):
    real = flow._readv

    def readv(fd: int, buffers: list[bytearray]) -> int:
        count = real(fd, buffers)
        if bytes(buffers[0][:4]) == b"boom":
            buffers[0][:4] = b"...."
            raise ZeroDivisionError("made by the test")
        return count

    monkeypatch.setattr(flow, "_readv", readv)
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
