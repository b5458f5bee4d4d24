"""The routes that monitoring reads: ``/metrics``, and with ``haproxy_compatible`` what HAProxy's users have.

The balancer is looked at in the event loop, which is quick; the text is written in a thread of its own, one at a
time, so that a thousand backends hold up neither health checks nor another reader.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, runtime_checkable

from fastapi import APIRouter, Request, Response

from easyproxy.admin.exposition import Metric, Moment, expose
from easyproxy.admin.haproxy import csv
from easyproxy.admin.haproxy_metrics import HAPROXY_METRICS
from easyproxy.admin.metrics import METRICS
from easyproxy.admin.processes import uses
from easyproxy.control.operations import ReloadState
from easyproxy.control.status import View


@runtime_checkable
class _Reloadable(Protocol):
    def reload_state(self) -> ReloadState: ...


def add_scrape(router: APIRouter, view: View, *, haproxy_compatible: bool = False) -> None:
    """Add the routes."""
    metrics: tuple[Metric, ...] = (*METRICS, *HAPROXY_METRICS) if haproxy_compatible else METRICS
    turn = asyncio.Lock()

    @router.get(
        "/metrics",
        summary="For a Prometheus server: its text form, or OpenMetrics when that is accepted",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
    )
    async def scrape(request: Request) -> Response:
        async with turn:
            distributions, processes = view.statistics().distributions, view.processes()
            reload = view.reload_state() if isinstance(view, _Reloadable) else None
            status = view.status()

            def write() -> tuple[bytes, str]:
                moment = Moment(status, distributions, reload, uses(processes))
                return expose(metrics, moment, request.headers.get("accept", ""))

            body, media_type = await asyncio.to_thread(write)
        # Not media_type=: Starlette would add a second charset.
        return Response(body, headers={"Content-Type": media_type, "Vary": "Accept"})

    if haproxy_compatible:

        @router.get(
            "/stats;csv",
            summary="HAProxy's statistics, in its CSV form (management guide, section 9.1)",
            response_class=Response,
            responses={200: {"content": {"text/plain": {}}}},
        )
        async def stats() -> Response:
            return Response(csv(view.status()), media_type="text/plain")
