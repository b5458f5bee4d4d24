"""The API against a real balancer, by a thousand requests made from its own OpenAPI document."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter

import pytest
from eventually import PATIENCE_S
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from easyproxy import Balancer
from easyproxy.cli.client import fetch

EXAMPLES = 10  # of each operation, as the document says and as it does not
ENDLESS = "/api/stream"

CONFIG = {
    "listeners": [{"bind": "127.0.0.1:0", "pool": "web", "name": "front"}],
    "pools": {
        "web": {"check": "none", "backends": [{"name": "a", "address": "127.0.0.1:9"}, "127.0.0.1:10"]},
        "db": {"check": "none", "backends": ["127.0.0.1:11"]},
    },
    "admin": {"bind": "127.0.0.1:0"},
    "state_file": "off",
}

# Requests that name only what is not there would all end with 404.
THERE = {
    "pool": ["web", "db"],
    "subject": ["web/a", "a", "127.0.0.1"],
    "client": ["127.0.0.1", "::1"],
    "listener": ["front"],
    "text": [json.dumps(CONFIG), "pools: {}"],
    "without": [["web/a"]],
}
BACKENDS = ["web/a", "a", "web/127.0.0.1:10", "db/127.0.0.1:11"]
NEW_BACKENDS = ["127.0.0.1:7", {"address": "127.0.0.1:8", "name": "new", "weight": 3}]


@pytest.fixture(scope="module")
def balancer(tmp_path_factory):
    """A balancer in a thread of its own."""
    file = tmp_path_factory.mktemp("fuzz") / "easyproxy.json"
    file.write_text(json.dumps(CONFIG))
    ready, stop = threading.Event(), []

    async def live():
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        async with Balancer(file) as balancer:
            stop.extend([lambda: loop.call_soon_threadsafe(ended.set), balancer])
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield stop[1]
    finally:
        stop[0]()
        thread.join()


@pytest.fixture(scope="module")
def operations(balancer):
    """What the document describes."""
    import schemathesis  # noqa: PLC0415 - takes a second

    schema = schemathesis.openapi.from_url(
        f"http://{balancer.admin_address}/api/openapi.json", timeout=PATIENCE_S
    )
    found = [result.ok() for result in schema.get_all_operations()]
    assert {operation.method for operation in found} == {"get", "post"}
    return [operation for operation in found if operation.path != ENDLESS]


def name_what_is_there(case, draw, address):
    """Put names of what exists where the case has made some up."""
    for part in (case.body, case.query):
        if not isinstance(part, dict):
            continue
        for key, names in THERE.items():
            if key in part:
                part[key] = draw(st.sampled_from(names))
        if "backend" in part:
            part["backend"] = draw(st.sampled_from(NEW_BACKENDS if "pool" in part else BACKENDS))
        if "id" in part:
            part["id"] = draw(
                st.sampled_from([*(one["id"] for one in fetch(address, "/api/overrides")), "web/a"])
            )


def judge(case, response):
    """Raise when the answer is a 5xx, or not what the document says."""
    from schemathesis.checks import not_a_server_error  # noqa: PLC0415 - as above
    from schemathesis.specs.openapi import checks  # noqa: PLC0415

    case.validate_response(
        response,
        checks=[
            not_a_server_error,
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_headers_conformance,
            checks.response_schema_conformance,
        ],
    )


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_whatever_is_asked_the_answer_is_one_that_the_document_declares(balancer, operations, mode, caplog):
    from schemathesis import GenerationMode  # noqa: PLC0415 - as above

    seen: Counter[int] = Counter()
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],  # what is found is small enough to read
            suppress_health_check=list(HealthCheck),
        )
        @given(
            case=operation.as_strategy(generation_mode=GenerationMode(mode)),
            is_there=st.booleans(),
            data=st.data(),
        )
        def ask(case, is_there, data):
            if is_there:
                name_what_is_there(case, data.draw, balancer.admin_address)
            response = case.call(timeout=PATIENCE_S)
            seen[response.status_code] += 1
            judge(case, response)

        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong where nothing is asked
            ask()
    assert {200, 404, 409} <= seen.keys() if mode == "positive" else seen[422] > seen[200]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
