"""What the API answers: the shapes that are not the balancer's own, and how every refusal looks.

A refusal is always ``{"error": "...", "problems": [...]}``, whoever refuses: a route, the framework or the guard.
Nothing in here repeats what was sent, except for names, and those cut short: a body may hold secrets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from easyproxy.admin.headline import Headline, summarise
from easyproxy.control.operations import RefusedError, UnknownError
from easyproxy.control.status import BackendStatus, PoolStatus, Status
from easyproxy.errors import ConfigError, EasyProxyError, Problem

log = logging.getLogger("easyproxy.admin")

_SHOWN = 20  # problems of a body; those of a configuration are bounded where it is read
_NAME = 100  # characters of a name that somebody made up


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReply(Status):
    """The status with its headline."""

    headline: Headline


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReply(BackendStatus):
    """A backend with the pool that it belongs to."""

    pool: str


@dataclass(frozen=True, slots=True)
class VersionReply:
    """Which program answers.

    Attributes:
        started_at: seconds since the epoch.
        pid: of the control process.
    """

    version: str
    python: str
    engine: str
    started_at: float
    pid: int


@dataclass(frozen=True, slots=True)
class ClosedReply:
    """How many sessions were closed."""

    closed: int


@dataclass(frozen=True, slots=True)
class UpgradeReply:
    """What the new program says of itself."""

    successor: str


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Why nothing was done.

    Attributes:
        error: in words.
        problems: every single mistake, where there are several; left out where there is none to name.
    """

    error: str
    problems: list[Problem] | None = None


def status_reply(status: Status) -> StatusReply:
    """Add the headline."""
    return StatusReply(**_values(status), headline=summarise(status))


def backend_reply(pool: PoolStatus, backend: BackendStatus) -> BackendReply:
    """Add the pool."""
    return BackendReply(**_values(backend), pool=pool.name)


def _values(value: Status | BackendStatus) -> dict[str, Any]:
    """The fields of a value, not their fields: ``asdict`` would copy every backend."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


# -- refusals

_WORDS = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    403: "The Host is not served here, or a page of another site asks.",
    404: "What was named does not exist.",
    409: "The change is refused; nothing has changed.",
    413: "The body is too large.",
    415: "The body is not declared as application/json.",
    422: "The request does not say what it should, or the configuration is wrong; `problems` names each mistake.",
    503: "Too many of these are open already.",
}


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Declare the refusals of a route for its OpenAPI document."""
    # Not as a model: FastAPI would make one for each code of each route, and start three times as slowly.
    schema = {"$ref": "#/components/schemas/ErrorReply"}
    return {
        code: {"description": _WORDS[code], "content": {"application/json": {"schema": schema}}}
        for code in codes
    }


def refusal(
    status: int, error: str, problems: Iterable[Problem] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """Make the answer of a refusal."""
    found = [
        {"where": problem.where, "path": problem.path, "message": problem.message} for problem in problems
    ]
    # ASCII: half of a surrogate pair, which JSON can carry, cannot be written as UTF-8.
    body = json.dumps({"error": error, "problems": found} if found else {"error": error}) + "\n"
    return Response(body, status, headers, media_type="application/json")


def add_refusals(app: FastAPI) -> None:
    """Turn every exception into a refusal, and describe the form of refusals."""
    describe = app.openapi

    def describe_with_refusals() -> dict[str, Any]:
        if app.openapi_schema is None:
            form = TypeAdapter(ErrorReply).json_schema(ref_template="#/components/schemas/{model}")
            parts = {**form.pop("$defs"), "ErrorReply": form}
            describe()["components"]["schemas"].update(parts)
        return describe()

    app.openapi = describe_with_refusals  # type: ignore[method-assign]

    @app.exception_handler(HTTPException)
    async def of_framework(_request: Request, error: HTTPException) -> Response:
        words = {404: "there is nothing at this path", 405: "this path does not know the method"}
        text = words.get(error.status_code, str(error.detail))
        return refusal(error.status_code, text, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def of_request(_request: Request, error: RequestValidationError) -> Response:
        # The input is left out of every message: it may be a configuration with its passwords.
        found = [
            Problem("", _place(item["loc"]), _shortened(str(item["msg"]), 500))
            for item in error.errors()[:_SHOWN]
        ]
        return refusal(422, "the request does not say what it should", found)

    @app.exception_handler(ConfigError)
    async def of_configuration(_request: Request, error: ConfigError) -> Response:
        count = len(error.problems)
        text = f"the configuration is wrong in {count} places" if count > 1 else "the configuration is wrong"
        return refusal(422, text, error.problems)

    @app.exception_handler(UnknownError)
    async def of_unknown(_request: Request, error: UnknownError) -> Response:
        return refusal(404, str(error))

    @app.exception_handler(RefusedError)
    async def of_refused(request: Request, error: RefusedError) -> Response:
        # A question changes nothing, so nothing stands in its way: it is the question that is wrong.
        return refusal(409 if request.method == "POST" else 422, str(error))

    @app.exception_handler(EasyProxyError)
    async def of_engine(_request: Request, error: EasyProxyError) -> Response:
        return refusal(409, str(error))

    @app.exception_handler(Exception)
    async def of_mistake(request: Request, error: Exception) -> Response:
        log.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
        return refusal(500, "a mistake in EasyProxy; its log says where, and we would like to see it")


def _place(location: Iterable[object]) -> str:
    """Name the place of a mistake: ``backend.weight``, ``limit``."""
    parts = [str(part) for part in location]
    return ".".join(_shortened(part, _NAME) for part in parts[1:]) or parts[0]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
