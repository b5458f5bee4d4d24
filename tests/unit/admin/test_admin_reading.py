from __future__ import annotations

import os
from dataclasses import replace

import pytest
from admin_client import ask
from admin_scene import NOW, Scene, backend, pool, status

from easyproxy.admin.server import AdminServer
from easyproxy.control.events import Kind
from easyproxy.control.operations import Action, Author
from easyproxy.model import Address

pytestmark = pytest.mark.anyio


@pytest.fixture
def scene():
    return Scene(status(pool(backend("a"), backend("b")), pool(replace(backend("c"), id="db/c"), name="db")))


@pytest.fixture
async def admin(scene):
    async with AdminServer(scene, Address("127.0.0.1", 0)) as server:
        yield server.address


async def test_parts_of_the_status_can_be_had_alone(admin):
    whole = (await ask(admin, "/api/status")).json()
    assert (await ask(admin, "/api/listeners")).json() == whole["listeners"]
    assert (await ask(admin, "/api/pools")).json() == whole["pools"]
    rows = (await ask(admin, "/api/backends")).json()
    assert [(row["pool"], row["id"]) for row in rows] == [("web", "web/a"), ("web", "web/b"), ("db", "db/c")]
    assert {name: rows[2][name] for name in rows[2] if name != "pool"} == whole["pools"][1]["backends"][0]


async def test_one_backend_is_found_by_id_or_by_its_name_alone(admin):
    for name in ("db/c", "c"):
        assert (await ask(admin, f"/api/backend?id={name}")).json()["id"] == "db/c"
    answer = await ask(admin, "/api/backend?id=web%2Fx")
    assert (answer.status, answer.json()["error"][:28]) == (404, "there is no backend web/x; d")
    assert (await ask(admin, "/api/backend")).status == 422


async def test_sessions_are_those_that_match_every_condition(admin, scene):
    first = scene.live_sessions[0]
    scene.live_sessions += [
        replace(first, id="1-0", client="[fd00::1]:50000", backend="web/b", listener="back"),
        replace(first, id="1-1", client="unix", backend=""),
    ]
    for query, ids in (
        ("client=fd00::1", ["1-0"]),
        ("client=unix", ["1-1"]),
        ("client=10.1.0", []),
        ("backend=web/b&listener=back", ["1-0"]),
        ("backend=web/b&listener=front", []),
        ("id=0-7", ["0-7"]),
        ("listener=back&id=", ["1-0"]),
    ):
        answer = await ask(admin, f"/api/sessions?{query}")
        assert [row["id"] for row in answer.json()] == ids
        assert answer.headers["x-total-count"] == str(len(ids))


async def test_events_are_the_newest_after_an_id_oldest_first(admin, scene):
    for number in range(5):
        scene.happened.add(Kind.TROUBLE, "web/a", f"event {number}", author=Author("ann", "test"))
    answer = (await ask(admin, "/api/events?after=1&limit=2")).json()
    assert [event["id"] for event in answer] == [4, 5]
    assert answer[-1] == {
        "id": 5,
        "at": NOW,
        "kind": "trouble",
        "subject": "web/a",
        "text": "event 4",
        "level": "info",
        "author": {"who": "ann", "why": "test"},
    }
    for wrong in ("after=-1", "limit=0", "limit=10001", "after=x", "after=99999999999999999999"):
        assert (await ask(admin, f"/api/events?{wrong}")).status == 422


async def test_overrides_configuration_and_reload_are_told(admin, scene):
    await scene.override("web/a", Action.WEIGHT, Author("ann"), value=3)
    assert (await ask(admin, "/api/overrides")).json()[0]["value"] == 3
    assert (await ask(admin, "/api/config")).json()["listeners"][0]["bind"] == "127.0.0.1:9527"
    assert (await ask(admin, "/api/reload")).json()["outcome"] == "none"


async def test_which_program_answers(admin):
    answer = (await ask(admin, "/api/version")).json()
    assert (answer["version"], answer["pid"]) == ("1.2.3", os.getpid())


async def test_a_story_is_told_of_three_kinds_of_things(admin):
    answer = (await ask(admin, "/api/explain?kind=backend&subject=web/a")).json()
    assert answer["headline"] == "web/a is ready"
    answer = (await ask(admin, "/api/explain?kind=session&subject=0-3")).json()
    assert (answer["session"]["id"], answer["session"]["state"]) == ("0-3", "relaying")
    answer = (await ask(admin, "/api/explain?kind=client&subject=10.1.0.1")).json()
    assert answer["choice"]["candidates"][0] == {"backend": "web/a", "rank": 1, "why": ""}
    assert (await ask(admin, "/api/explain?kind=session&subject=9-9")).status == 404
    assert (await ask(admin, "/api/explain?kind=weather&subject=x")).status == 422


async def test_where_a_client_would_go_without_some(admin):
    answer = (await ask(admin, "/api/simulate?client=10.0.0.1&without=web/a&without=c")).json()
    assert [[one["rank"] for one in choice["candidates"]] for choice in answer] == [[0, 2], [0]]
    assert len((await ask(admin, "/api/simulate?client=10.0.0.1&pool=db")).json()) == 1
    assert (await ask(admin, "/api/simulate?client=10.0.0.1&pool=x")).status == 404
    assert (await ask(admin, "/api/simulate")).status == 422


@pytest.mark.parametrize("query", ["simulate?client=nobody", "explain?kind=client&subject=nobody"])
async def test_what_is_no_address_is_a_wrong_request(admin, query):
    answer = await ask(admin, f"/api/{query}")
    assert answer.status == 422
    assert "is not an address of a client" in answer.json()["error"]


async def test_an_unknown_parameter_is_refused_by_name(admin):
    answer = await ask(admin, "/api/simulate?client=10.0.0.1&pol=db")
    assert answer.status == 422
    assert "pol" in answer.json()["error"]


async def test_the_stacks_of_every_process_are_text(admin):
    answer = await ask(admin, "/debug")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body.startswith("==== control ====\nthread MainThread:\n  here\n")
    assert "==== relay 0 ====" in answer.body


async def test_a_balancer_that_drains_is_not_ready(admin, scene):
    assert (await ask(admin, "/readyz")).status == 200
    scene.now = replace(scene.now, is_draining=True)
    assert (await ask(admin, "/readyz")).status == 503
    assert (await ask(admin, "/healthz")).status == 200


async def test_what_is_not_there_is_refused_in_the_form_of_every_refusal(admin):
    for path, method, code in (
        ("/api/nothing", "GET", 404),
        ("/api/status", "POST", 405),
        ("/static/x", "GET", 404),
    ):
        answer = await ask(admin, path, method=method)
        assert answer.status == code
        assert list(answer.json()) == ["error"]


async def test_the_document_declares_the_form_of_every_refusal(admin):
    document = (await ask(admin, "/api/openapi.json")).json()
    assert {"error", "problems"} == document["components"]["schemas"]["ErrorReply"]["properties"].keys()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"]
            declared = set(operation["responses"])
            assert "403" in declared
            if method == "post":
                assert {"400", "413", "415", "422"} <= declared, path
            else:
                assert {"400", "413", "415"}.isdisjoint(declared), path
            for code in declared - {"200"}:
                if (path, code) == ("/readyz", "503"):
                    continue
                schema = operation["responses"][code]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorReply"}
