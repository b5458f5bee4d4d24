"""What a browser gets: the status page with its files, and the old ``/statistic``; and what a probe of ours asks."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from easyproxy.admin.assets import Asset
from easyproxy.admin.headline import unserved_pools
from easyproxy.admin.replies import refusals
from easyproxy.admin.statistic import Statistic, gather, render
from easyproxy.control.status import View

_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


def add_page(app: FastAPI, assets: dict[str, Asset]) -> None:
    """Add the status page. It names no backend and no client: what it shows, it asks the API for."""

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
        if name not in assets:
            raise HTTPException(404)
        return answer(request, assets[name])


def add_statistic(router: APIRouter, view: View) -> None:
    """Add the first EasyProxy's page."""

    @router.get(
        "/statistic",
        response_model=Statistic,
        summary="The first EasyProxy's page: JSON when asked for, else HTML",
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def statistic(request: Request, response: Response) -> Statistic | HTMLResponse:
        found = gather(view.status(), await view.clients())
        accept = request.headers.get("accept", "")
        if "application/json" in accept and "text/html" not in accept:
            response.headers["Vary"] = "Accept"
            return found
        return HTMLResponse(render(found), headers={"Vary": "Accept"})


def add_health(app: FastAPI, view: View) -> None:
    """Add what an orchestrator asks. Needs no token, so it says nothing of pools or backends."""

    @app.get(
        "/healthz",
        response_class=PlainTextResponse,
        summary="200 while the control process lives",
        responses=refusals(403),
    )
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("alive\n")

    @app.get(
        "/readyz",
        response_class=PlainTextResponse,
        summary="200 when every pool has a ready backend and no stop was asked for, else 503",
        responses={503: {**_TEXT, "description": "Not ready: no new clients, please."}, **refusals(403)},
    )
    async def readyz() -> PlainTextResponse:
        now = view.status()
        if now.is_draining:
            return PlainTextResponse("not ready: draining, no new sessions\n", 503)
        if unserved_pools(now):
            return PlainTextResponse("not ready: a pool has no ready backend\n", 503)
        return PlainTextResponse("ready\n")
