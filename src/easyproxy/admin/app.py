"""The routes of the admin server: the status page, the reading API, readiness, and the old ``/statistic``.

Nothing in here changes the balancer, and no GET ever may. Who may ask is decided in :mod:`.security`; what a state
means is decided in :mod:`.headline`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp

from easyproxy.admin.assets import Asset, load_assets
from easyproxy.admin.headline import Headline, summarise, unserved_pools
from easyproxy.admin.scrape import add_scrape
from easyproxy.admin.security import Guard
from easyproxy.admin.statistic import Statistic, gather, render
from easyproxy.control.status import ClientStatus, Status, View
from easyproxy.engine.seam import SessionInfo

_PUBLIC = ("/", "/favicon.ico", "/healthz", "/readyz")
_LIMIT = 1000  # rows of an answer unless asked for more: a page with 100,000 sessions helps nobody

Limit = Annotated[int, Query(ge=1, le=1_000_000, description="At most so many rows.")]


@dataclass(frozen=True, slots=True)
class StatusReply(Status):
    """The status with its headline."""

    headline: Headline


def create_app(
    view: View, *, hosts: Collection[str] | None, token: str | None = None, haproxy_compatible: bool = False
) -> ASGIApp:
    """Make the ASGI application.

    Args:
        view: what it shows.
        hosts: the values that a Host header may have (:func:`easyproxy.admin.security.allowed_hosts`), or None to
            accept any, which is right for a unix socket only.
        token: what ``Authorization: Bearer`` must carry; None asks for none. The page's own files, ``/healthz`` and
            ``/readyz`` never need it: they name no backend and no client.
        haproxy_compatible: whether ``/stats;csv`` and the metrics of HAProxy's exporter are there, too.

    Raises:
        EasyProxyError: the token is empty.
    """
    # /docs and /redoc of FastAPI load scripts from elsewhere, which our own policy forbids; the description stays.
    app = FastAPI(title="EasyProxy", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    _add_api(app, view)
    _add_health(app, view)
    _add_statistic(app, view)
    add_scrape(app, view, haproxy_compatible=haproxy_compatible)
    _add_page(app, load_assets())
    return Guard(app, hosts=hosts, token=token, public=_PUBLIC, public_prefix="/static/")


def _add_api(app: FastAPI, view: View) -> None:
    @app.get("/api/status", summary="Everything but sessions and clients")
    async def status() -> StatusReply:
        now = view.status()
        return StatusReply(
            **{field.name: getattr(now, field.name) for field in fields(Status)}, headline=summarise(now)
        )

    @app.get("/api/sessions", summary="The live sessions; X-Total-Count says how many there are")
    async def sessions(response: Response, limit: Limit = _LIMIT) -> list[SessionInfo]:
        rows = await view.sessions()
        response.headers["X-Total-Count"] = str(len(rows))
        return rows[:limit]

    @app.get(
        "/api/clients", summary="The live clients, most sessions first; X-Total-Count says how many there are"
    )
    async def clients(response: Response, limit: Limit = _LIMIT) -> list[ClientStatus]:
        rows = await view.clients()
        response.headers["X-Total-Count"] = str(len(rows))
        return rows[:limit]


def _add_health(app: FastAPI, view: View) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, summary="200 while the control process lives")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("alive\n")

    @app.get(
        "/readyz",
        response_class=PlainTextResponse,
        summary="200 when every pool has a ready backend, else 503",
    )
    async def readyz() -> PlainTextResponse:
        # Which pool is not said: this answer needs no token.
        if unserved_pools(view.status()):
            return PlainTextResponse("not ready: a pool has no ready backend\n", 503)
        return PlainTextResponse("ready\n")


def _add_statistic(app: FastAPI, view: View) -> None:
    @app.get(
        "/statistic",
        response_model=Statistic,
        summary="The first EasyProxy's page: JSON when asked for, else HTML",
    )
    async def statistic(request: Request, response: Response) -> Statistic | HTMLResponse:
        found = gather(view.status(), await view.clients())
        accept = request.headers.get("accept", "")
        if "application/json" in accept and "text/html" not in accept:
            response.headers["Vary"] = "Accept"
            return found
        return HTMLResponse(render(found), headers={"Vary": "Accept"})


def _add_page(app: FastAPI, assets: dict[str, Asset]) -> None:
    def answer(request: Request, asset: Asset) -> Response:
        # "no-cache" means: ask each time, and be told 304; an upgrade shows at once.
        headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
        if asset.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(asset.body, media_type=asset.media_type, headers=headers)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return answer(request, assets["index.html"])

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:
        return answer(request, assets["icon-plain.svg"])

    @app.get("/static/{name}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        asset = assets.get(name)
        return answer(request, asset) if asset else PlainTextResponse("There is no such file.\n", 404)
