"""The admin application: every room's routes put together, described for OpenAPI, and guarded.

What is read is in :mod:`.reading`, what is changed in :mod:`.changing`, what is followed in :mod:`.stream`, what is
scraped in :mod:`.scrape`, what a browser gets in :mod:`.page`. Who may ask is decided in :mod:`.security`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fastapi import APIRouter, Depends, FastAPI
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp

from easyproxy.admin.assets import load_assets
from easyproxy.admin.changing import add_changing
from easyproxy.admin.intake import ChangingRoute
from easyproxy.admin.page import add_health, add_page, add_statistic
from easyproxy.admin.reading import add_reading, knows_parameters
from easyproxy.admin.replies import add_refusals, refusals
from easyproxy.admin.scrape import add_scrape
from easyproxy.admin.security import Guard
from easyproxy.admin.stream import Stream, add_stream
from easyproxy.control.operations import Operations
from easyproxy.version import __version__

_PUBLIC = ("/", "/favicon.ico", "/healthz", "/readyz")
_DESCRIPTION = """Sees and changes a running balancer. GET never changes anything; whatever does is a POST with a JSON body.

Every refusal is `{"error": "...", "problems": [...]}` with a status code that says of which kind it is; nothing has
changed then. Times are seconds since the epoch, durations are seconds."""


def create_app(
    operations: Operations,
    stream: Stream,
    *,
    hosts: Collection[str] | None,
    token: str | None = None,
    haproxy_compatible: bool = False,
) -> ASGIApp:
    """Make the ASGI application.

    Args:
        operations: the balancer that it shows and changes.
        stream: those who follow it; whoever made it closes it.
        hosts: the values that a Host header may have (:func:`easyproxy.admin.security.allowed_hosts`), or None to
            accept any, which is right for a unix socket only.
        token: what ``Authorization: Bearer`` must carry; None asks for none. The page's own files, ``/healthz`` and
            ``/readyz`` never need it: they name no backend and no client.
        haproxy_compatible: whether ``/stats;csv`` and the metrics of HAProxy's exporter are there, too.

    Raises:
        EasyProxyError: the token is empty.
    """
    app = make_app(operations, stream, asks_token=token is not None, haproxy_compatible=haproxy_compatible)
    return Guard(app, hosts=hosts, token=token, public=_PUBLIC, public_prefix="/static/")


def make_app(
    operations: Operations, stream: Stream, *, asks_token: bool = False, haproxy_compatible: bool = False
) -> FastAPI:
    """Make the application without its guard; its OpenAPI document speaks for both."""
    app = FastAPI(
        title="EasyProxy",
        version=__version__,
        description=_DESCRIPTION,
        # /docs and /redoc of FastAPI load scripts from elsewhere, which our own policy forbids.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        generate_unique_id_function=_name,
        redirect_slashes=False,
    )
    # The guard asks for the token; this only describes it.
    described: Sequence[Dependency] = (
        [Depends(HTTPBearer(auto_error=False, description="The admin token."))] if asks_token else []
    )
    refused = refusals(401, 403) if asks_token else refusals(403)
    reading = APIRouter(
        tags=["reading"], dependencies=[*described, Depends(knows_parameters)], responses=refused
    )
    add_reading(reading, operations)
    add_stream(reading, stream)
    add_statistic(reading, operations)
    add_scrape(reading, operations, haproxy_compatible=haproxy_compatible)
    changing = APIRouter(
        tags=["changing"], dependencies=described, responses=refused, route_class=ChangingRoute
    )
    add_changing(changing, operations)
    app.include_router(reading)
    app.include_router(changing)
    add_health(app, operations)
    add_page(app, load_assets())
    add_refusals(app)
    return app


def _name(route: APIRoute) -> str:
    return route.name
