from __future__ import annotations

import re
from dataclasses import replace
from importlib import resources

import pytest
from admin_client import ask
from admin_scene import Scene, backend, pool, status

from easyproxy.admin.server import AdminServer
from easyproxy.model import Address

pytestmark = pytest.mark.anyio
LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture
def scene():
    return Scene()


@pytest.fixture
async def admin(scene):
    async with AdminServer(scene, LOOPBACK) as server:
        yield server.address


async def test_the_status_is_json_with_its_headline(admin):
    answer = (await ask(admin, "/api/status")).json()
    assert answer["headline"] == {
        "level": "ok",
        "title": "All 2 backends ready",
        "detail": "Its pool is served.",
    }
    assert answer["pools"][0]["backends"][1]["counters"]["total"] == 1234
    assert answer["listeners"][0]["address"] == "127.0.0.1:9527"


async def test_sessions_and_clients_are_cut_and_say_how_many_there_are(admin):
    answer = await ask(admin, "/api/sessions?limit=5")
    assert [session["id"] for session in answer.json()] == ["0-0", "0-1", "0-2", "0-3", "0-4"]
    assert answer.headers["x-total-count"] == "12"
    answer = await ask(admin, "/api/clients")
    assert [client["address"] for client in answer.json()] == ["10.1.0.1", "10.1.0.2"]
    assert (await ask(admin, "/api/clients?limit=0")).status == 422


async def test_the_api_describes_itself(admin):
    paths = (await ask(admin, "/api/openapi.json")).json()["paths"]
    assert {
        "/api/status",
        "/api/sessions",
        "/api/clients",
        "/healthz",
        "/readyz",
        "/statistic",
    } <= paths.keys()
    assert {"get", "post"} == {method for path in paths.values() for method in path}


async def test_ready_means_that_every_pool_has_a_ready_backend(admin, scene):
    assert (await ask(admin, "/readyz")).status == 200
    scene.now = status(pool(backend("a"), backend("b", "down")), pool(backend("c", "down"), name="other"))
    assert (await ask(admin, "/readyz")).status == 503
    assert (await ask(admin, "/healthz")).status == 200


async def test_the_old_page_is_html_for_a_browser_and_json_when_asked_for(admin, scene):
    scene.now = status(pool(backend("a"), backend("b", "down", address="10.0.0.2:80")))
    page = await ask(admin, "/statistic", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert page.headers["content-type"].startswith("text/html")
    assert re.search(r"10\.0\.0\.2:80</td>.*?>off<", page.body)
    found = await ask(admin, "/statistic", Accept="application/json")
    assert found.json() == {
        "backends": [
            {"address": "10.0.0.1:80", "sessions": 3, "on": True},
            {"address": "10.0.0.2:80", "sessions": 3, "on": False},
        ],
        "clients": [{"address": "10.1.0.1", "sessions": 4}, {"address": "10.1.0.2", "sessions": 1}],
    }
    assert page.headers["vary"] == found.headers["vary"] == "Accept"


async def test_markup_in_a_name_is_inert_on_the_old_page(admin, scene):
    """Behaviour 38."""
    scene.now = status(pool(backend("x", address='<script>alert("1")</script>')))
    scene.live_clients = [replace(scene.live_clients[0], address="<img src=x onerror=alert(1)>")]
    body = (await ask(admin, "/statistic")).body
    assert "<script" not in body
    assert "<img" not in body
    assert "&lt;script&gt;" in body


async def test_the_policy_forbids_inline_script_and_framing_on_every_answer(admin):
    """Behaviour 38."""
    for path in ("/", "/statistic", "/api/status", "/static/app.js", "/nowhere"):
        headers = (await ask(admin, path)).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_page_needs_no_inline_script_and_parses_no_markup():
    """Behaviour 38: the policy forbids the first; the second would be the hole beside it."""
    static = resources.files("easyproxy.admin").joinpath("static")
    page = static.joinpath("index.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    scripts = [file for file in static.iterdir() if file.name.endswith(".js")]
    assert scripts
    for script in scripts:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script.read_text()
        )


async def test_every_file_that_the_page_names_is_served(admin):
    page = await ask(admin, "/")
    assert page.headers["content-type"].startswith("text/html")
    names = set(re.findall(r'"(/static/[^"]+)"', page.body))
    while names:
        name = names.pop()
        answer = await ask(admin, name)
        assert answer.status == 200, name
        if name.endswith(".js"):
            assert answer.headers["content-type"].startswith("text/javascript")
            names |= {f"/static/{other}" for other in re.findall(r'from "\./([^"]+)"', answer.body)}
    for level in ("ok", "checking", "warning", "critical", "unknown"):
        assert (await ask(admin, f"/static/icon-{level}.svg")).status == 200


async def test_no_path_leads_out_of_the_static_files(admin):
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2fetc%2fpasswd", "/static/"):
        assert (await ask(admin, path)).status == 404


async def test_an_unchanged_file_is_not_sent_again(admin):
    first = await ask(admin, "/static/base.css")
    again = await ask(admin, "/static/base.css", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, "")
