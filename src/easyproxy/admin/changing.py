"""The routes that change something: all POST, all with a JSON body, each one operation of the balancer.

What a body may say is in :mod:`.bodies`, how it is read in :mod:`.intake`. Nothing is decided here: a change that is
not possible is refused by the balancer, as a whole.
"""

from __future__ import annotations

from fastapi import APIRouter, Request

from easyproxy.admin.bodies import (
    Adding,
    BackendChange,
    Change,
    Closing,
    Draining,
    Forgetting,
    Overriding,
    Planning,
    Reloading,
    Weighting,
)
from easyproxy.admin.replies import ClosedReply, UpgradeReply, refusals
from easyproxy.control.operations import Action, Author, Operations, Override, Plan, ReloadState
from easyproxy.control.overrides import mapping_of
from easyproxy.engine.seam import Where

ANONYMOUS = "api"
"""Who made a change when nothing says who."""

_ALWAYS = (400, 413, 415, 422)


def add_changing(router: APIRouter, operations: Operations) -> None:
    """Add the routes; ``router`` makes :class:`.intake.ChangingRoute` of them."""
    _add_overriding(router, operations)
    _add_membership(router, operations)
    _add_sessions(router, operations)
    _add_file(router, operations)


def author(change: Change, request: Request) -> Author:
    """Say who asks: as the body says, or the user behind the unix socket."""
    peer: str = getattr(request.state, "peer", "")
    return Author(change.who.strip() or peer or ANONYMOUS, change.why.strip())


def _add_overriding(router: APIRouter, operations: Operations) -> None:
    responses = refusals(*_ALWAYS, 404, 409)

    @router.post(
        "/api/drain",
        summary="Give a backend no new sessions; established ones go on, and it is still probed",
        responses=responses,
    )
    async def drain(change: Draining, request: Request) -> Override:
        return await operations.override(
            change.backend,
            Action.DRAIN,
            author(change, request),
            ttl_s=change.ttl,
            deadline_s=change.deadline,
        )

    @router.post(
        "/api/maintenance",
        summary="Give a backend no new sessions, and do not probe it either",
        responses=responses,
    )
    async def maintenance(change: Draining, request: Request) -> Override:
        return await operations.override(
            change.backend,
            Action.MAINTENANCE,
            author(change, request),
            ttl_s=change.ttl,
            deadline_s=change.deadline,
        )

    @router.post(
        "/api/ready",
        summary="End drain and maintenance of a backend; returns what was taken away",
        responses=responses,
    )
    async def ready(change: BackendChange, request: Request) -> list[Override]:
        return await operations.restore(change.backend, author(change, request))

    @router.post("/api/weight", summary="Change a backend's share of new sessions", responses=responses)
    async def weight(change: Weighting, request: Request) -> Override:
        return await operations.override(
            change.backend,
            Action.WEIGHT,
            author(change, request),
            value=change.weight,
            ttl_s=change.ttl,
        )

    @router.post("/api/overrides/forget", summary="Take one override away", responses=responses)
    async def forget(change: Forgetting, request: Request) -> Override:
        return await operations.forget(change.id, author(change, request))


def _add_membership(router: APIRouter, operations: Operations) -> None:
    responses = refusals(*_ALWAYS, 404, 409)

    @router.post(
        "/api/backends/add",
        summary="Add a backend to a pool; it is probed before it gets its first client",
        responses=responses,
    )
    async def add(change: Adding, request: Request) -> Override:
        return await operations.override(
            f"{change.pool}/{change.backend.name}",
            Action.ADD,
            author(change, request),
            value=mapping_of(change.backend),
            ttl_s=change.ttl,
        )

    @router.post(
        "/api/backends/remove",
        summary="Take a backend out of its pool; its sessions go on",
        responses=responses,
    )
    async def remove(change: Overriding, request: Request) -> Override:
        return await operations.override(
            change.backend, Action.REMOVE, author(change, request), ttl_s=change.ttl
        )


def _add_sessions(router: APIRouter, operations: Operations) -> None:
    @router.post(
        "/api/close",
        summary="Close sessions now, both sides",
        responses=refusals(*_ALWAYS, 404, 409),
    )
    async def close(change: Closing, request: Request) -> ClosedReply:
        where = Where(backend=change.backend, client=change.client, listener=change.listener, id=change.id)
        return ClosedReply(await operations.close_sessions(where, author(change, request)))


def _add_file(router: APIRouter, operations: Operations) -> None:
    responses = refusals(*_ALWAYS, 409)

    @router.post(
        "/api/plan", summary="Say what a configuration would change; nothing changes", responses=responses
    )
    async def plan(change: Planning) -> Plan:
        return await operations.plan(change.text, change.form)

    @router.post(
        "/api/reload",
        summary="Load the file again and put it in force, as a whole or not at all",
        responses=responses,
    )
    async def reload_file(change: Reloading, request: Request) -> Plan:
        return await operations.reload_file(author(change, request), rollback_after_s=change.rollback_after)

    @router.post(
        "/api/reload/confirm",
        summary="Keep what an unconfirmed reload has put in force",
        responses=responses,
    )
    async def confirm(change: Change, request: Request) -> ReloadState:
        return await operations.confirm(author(change, request))

    @router.post(
        "/api/reload/rollback",
        summary="Go back to the configuration before the last reload",
        responses=responses,
    )
    async def rollback(change: Change, request: Request) -> ReloadState:
        return await operations.rollback(author(change, request))

    @router.post(
        "/api/upgrade",
        summary="Start the new program and hand everything over, established sessions included",
        responses=responses,
    )
    async def upgrade(change: Change, request: Request) -> UpgradeReply:
        return UpgradeReply(await operations.upgrade(author(change, request)))
