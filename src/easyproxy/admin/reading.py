"""The routes that read. None of them changes anything, and no GET ever may."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse

from easyproxy.admin.replies import (
    BackendReply,
    StatusReply,
    VersionReply,
    backend_reply,
    refusals,
    status_reply,
)
from easyproxy.config.words import listing
from easyproxy.control.naming import find_backend
from easyproxy.control.operations import (
    Choice,
    Event,
    Explanation,
    Operations,
    Override,
    ReloadState,
)
from easyproxy.control.overview import host_of
from easyproxy.control.status import ClientStatus, ListenerStatus, PoolStatus
from easyproxy.engine.seam import SessionInfo

_LIMIT = 1000  # rows of an answer unless asked for more: a page with 100,000 sessions helps nobody
_COUNTED: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "X-Total-Count": {
                "description": "How many there are; the answer is cut at `limit`.",
                "schema": {"type": "integer", "minimum": 0},
            }
        }
    }
}

Row = TypeVar("Row")
Limit = Annotated[int, Query(ge=1, le=1_000_000, description="At most so many rows.")]
Name = Annotated[str, Query(min_length=1, max_length=1024)]
Given = Annotated[str, Query(max_length=1024)]


def add_reading(router: APIRouter, operations: Operations) -> None:
    """Add the routes."""
    _add_overview(router, operations)
    _add_traffic(router, operations)
    _add_changes(router, operations)
    _add_questions(router, operations)


def _add_overview(router: APIRouter, operations: Operations) -> None:
    @router.get("/api/status", summary="Everything but sessions and clients")
    async def status() -> StatusReply:
        return status_reply(operations.status())

    @router.get("/api/listeners", summary="Addresses that accept clients")
    async def listeners() -> list[ListenerStatus]:
        return list(operations.status().listeners)

    @router.get("/api/pools", summary="Pools with their backends")
    async def pools() -> list[PoolStatus]:
        return list(operations.status().pools)

    @router.get("/api/backends", summary="The backends of every pool")
    async def backends() -> list[BackendReply]:
        return [
            backend_reply(pool, backend) for pool in operations.status().pools for backend in pool.backends
        ]

    @router.get("/api/backend", summary="One backend", responses=refusals(404, 422))
    async def backend(
        id: Annotated[  # noqa: A002 - what it is called in every answer
            str,
            Query(
                min_length=1, max_length=1024, description="`pool/name`, or a name that only one pool has."
            ),
        ],
    ) -> BackendReply:
        found = {
            one.id: backend_reply(pool, one) for pool in operations.status().pools for one in pool.backends
        }
        return found[find_backend(id, found)]

    @router.get("/api/version", summary="Which program answers")
    async def version() -> VersionReply:
        now = operations.status()
        return VersionReply(
            version=now.version,
            python=platform.python_version(),
            engine=now.engine,
            started_at=now.started_at,
            pid=os.getpid(),
        )


def _add_traffic(router: APIRouter, operations: Operations) -> None:
    @router.get(
        "/api/sessions",
        summary="The live sessions; every given condition must match",
        responses={**_COUNTED, **refusals(422)},
    )
    async def sessions(
        response: Response,
        *,
        client: Annotated[str, Query(max_length=1024, description="Address without port.")] = "",
        backend: Annotated[str, Query(max_length=1024, description="`pool/name`")] = "",
        listener: Given = "",
        id: Given = "",  # noqa: A002 - what it is called in every answer
        limit: Limit = _LIMIT,
    ) -> list[SessionInfo]:
        rows: Iterable[SessionInfo] = await operations.sessions()
        conditions: list[tuple[str, Callable[[SessionInfo], str]]] = [
            (client, lambda row: host_of(row.client)),
            (backend, lambda row: row.backend),
            (listener, lambda row: row.listener),
            (id, lambda row: row.id),
        ]
        for wanted, of in conditions:
            if wanted:
                rows = [row for row in rows if of(row) == wanted]
        return _cut(list(rows), limit, response)

    @router.get(
        "/api/clients",
        summary="The live clients, most sessions first",
        responses={**_COUNTED, **refusals(422)},
    )
    async def clients(response: Response, limit: Limit = _LIMIT) -> list[ClientStatus]:
        return _cut(await operations.clients(), limit, response)


def _add_changes(router: APIRouter, operations: Operations) -> None:
    @router.get("/api/events", summary="What happened, oldest first", responses=refusals(422))
    async def events(
        after: Annotated[int, Query(ge=0, le=2**53, description="Only those with a greater id.")] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many, the newest.")] = 200,
    ) -> list[Event]:
        return operations.events(after, limit)

    @router.get("/api/overrides", summary="What operators have laid over the file, oldest first")
    async def overrides() -> list[Override]:
        return operations.overrides()

    @router.get("/api/config", summary="The configuration in force, in the file's shape; secrets are masked")
    async def config() -> dict[str, Any]:
        return dict(operations.effective_config())

    @router.get("/api/reload", summary="How the last reload stands")
    async def reload_state() -> ReloadState:
        return operations.reload_state()


def _add_questions(router: APIRouter, operations: Operations) -> None:
    turn = asyncio.Lock()  # every worker has to answer: one at a time

    @router.get("/api/explain", summary="The story of one thing", responses=refusals(404, 409, 422))
    async def explain(
        kind: Literal["session", "backend", "client"],
        subject: Annotated[
            str,
            Query(
                min_length=1,
                max_length=1024,
                description="A session's id, a backend's id or name, a client's address.",
            ),
        ],
    ) -> Explanation:
        return await operations.explain(kind, subject)

    @router.get(
        "/api/simulate",
        summary="Where a client would go now; nothing is connected or changed",
        responses=refusals(404, 409, 422),
    )
    async def simulate(
        client: Annotated[str, Query(min_length=1, max_length=1024, description="Address without port.")],
        pool: Annotated[str, Query(max_length=1024, description="By default every pool.")] = "",
        without: Annotated[
            list[Name] | None,
            Query(max_length=1000, description="Backends to leave out, as if they were not ready."),
        ] = None,
    ) -> list[Choice]:
        return operations.simulate(client, pool=pool, without=frozenset(without or ()))

    @router.get(
        "/debug",
        summary="What every thread of the control process and of every worker is doing",
        response_class=PlainTextResponse,
    )
    async def debug() -> PlainTextResponse:
        async with turn:
            stacks = await operations.stacks()
        return PlainTextResponse(
            "\n".join(f"==== {name} ====\n{text.rstrip()}\n" for name, text in stacks.processes.items())
        )


def knows_parameters(request: Request) -> None:
    """Refuse a parameter that the route does not know: ``pol=db`` would answer for every pool.

    For the API only; what monitors ask may carry more.
    """
    if not request.url.path.startswith("/api/"):
        return
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            few = f"it knows {listing(sorted(known), 'and')}" if known else "it has none"
            raise HTTPException(422, f"there is no parameter {name[:100]!r} here; {few}")


def _cut(rows: list[Row], limit: int, response: Response) -> list[Row]:
    response.headers["X-Total-Count"] = str(len(rows))
    return rows[:limit]
