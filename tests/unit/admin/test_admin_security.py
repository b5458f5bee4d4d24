from __future__ import annotations

import logging

import pytest
from admin_client import ask, change
from admin_scene import Scene

from easyproxy.admin.security import allowed_hosts
from easyproxy.admin.server import AdminServer
from easyproxy.errors import EasyProxyError
from easyproxy.model import Address

TOKEN = "a-long-and-secret-token"  # noqa: S105 - it guards a test
LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture
async def admin():
    async with AdminServer(Scene(), LOOPBACK) as server:
        yield server.address


@pytest.fixture
async def guarded():
    async with AdminServer(Scene(), LOOPBACK, token=TOKEN) as server:
        yield server.address


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7259", "127.0.0.1.evil.example", "", "10.0.0.9"]
)
async def test_a_host_that_is_not_ours_is_refused(admin, host):
    """Behaviour 37: a name that was rebound to our address reads nothing."""
    for path in ("/", "/api/status", "/statistic", "/healthz"):
        answer = await ask(admin, path, host=host)
        assert answer.status == 403
        assert "web/a" not in answer.body


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:80", "127.0.0.1:7259", "127.0.0.9", "[::1]:7259", "[::1]"]
)
async def test_names_and_addresses_of_loopback_are_accepted(admin, host):
    """Behaviour 37."""
    assert (await ask(admin, "/api/status", host=host)).status == 200


@pytest.mark.anyio
async def test_head_is_answered_as_get_without_the_body(guarded):
    """RFC 9110, section 9.3.2: monitors ask so."""
    for path in ("/", "/healthz", "/static/base.css"):
        whole, head = await ask(guarded, path), await ask(guarded, path, method="HEAD")
        assert (head.status, head.body) == (200, "")
        assert head.headers["Content-Length"] == whole.headers["Content-Length"]
    assert (await ask(guarded, "/api/status", method="HEAD")).status == 401
    secret = {"Authorization": f"Bearer {TOKEN}"}
    assert (await ask(guarded, "/api/status", method="HEAD", **secret)).status == 200
    assert (await ask(guarded, "/api/stream", method="HEAD", **secret)).status == 405, "it would not end"
    assert (await ask(guarded, "/api/drain", method="HEAD", **secret)).status == 405


@pytest.mark.anyio
async def test_further_names_are_accepted_when_configured():
    async with AdminServer(Scene(), LOOPBACK, hosts=["lb.example"]) as server:
        assert (await ask(server.address, "/api/status", host="LB.example:80")).status == 200
        assert (await ask(server.address, "/api/status", host="lb.example.org")).status == 403


@pytest.mark.anyio
async def test_on_every_address_any_number_is_a_host_but_a_name_is_not():
    """Behaviour 37: only a name can be rebound."""
    async with AdminServer(Scene(), Address("0.0.0.0", 0), token=TOKEN) as server:
        where = Address("127.0.0.1", server.address.port)
        for host, status in (("192.0.2.7:7259", 401), ("evil.example", 403), ("0.0.0.0.evil.example", 403)):
            assert (await ask(where, "/api/status", host=host)).status == status


@pytest.mark.anyio
async def test_a_unix_socket_has_no_host_to_check(tmp_path):
    async with AdminServer(Scene(), Address(path=str(tmp_path / "admin.sock"))) as server:
        assert (await ask(server.address, "/api/status", host="whatever")).status == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    "sent",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": TOKEN}],
)
async def test_without_the_token_nothing_is_told(guarded, sent):
    """Behaviour 37."""
    for path in (
        "/api/status",
        "/api/sessions",
        "/api/clients",
        "/statistic",
        "/api/openapi.json",
        "/nowhere",
    ):
        answer = await ask(guarded, path, **sent)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "10.1.0.1" not in answer.body


@pytest.mark.anyio
async def test_with_the_token_all_is_told_and_the_page_itself_needs_none(guarded):
    """Behaviour 37."""
    assert (await ask(guarded, "/api/status", Authorization=f"bearer {TOKEN}")).status == 200
    for path in ("/", "/static/app.js", "/healthz", "/readyz"):
        assert (await ask(guarded, path)).status == 200


@pytest.mark.anyio
async def test_the_token_is_in_no_log_and_no_answer(guarded, caplog):
    """Behaviour 37."""
    caplog.set_level(logging.DEBUG)
    for sent in (TOKEN, f"{TOKEN}x"):
        answer = await ask(guarded, f"/nowhere?token={TOKEN}", Authorization=f"Bearer {sent}")
        assert TOKEN not in answer.body + str(answer.headers)
    assert TOKEN not in caplog.text


@pytest.mark.anyio
async def test_a_page_of_another_site_can_post_nothing(admin):
    """Behaviour 37."""
    for sent in (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},  # another port of this machine is the same site
        {"Sec_Fetch_Site": "nonsense"},
        {"Origin": "http://evil.example"},
        {"Origin": f"http://{admin}.evil.example"},
        {"Origin": f"http://127.0.0.1:{admin.port + 1}"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "same-origin", "Origin": "http://evil.example"},
    ):
        answer = await change(admin, "/api/drain", {"backend": "web/a"}, **sent)
        assert answer.status == 403, sent
        assert answer.json() == {"error": "a page of another site may not change anything here"}
    assert (await ask(admin, "/api/overrides")).json() == []
    for sent in (
        {"Origin": f"http://{admin}"},
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
    ):
        assert (await change(admin, "/api/drain", {"backend": "web/a"}, **sent)).status == 200


@pytest.mark.anyio
async def test_a_page_of_another_site_makes_us_do_no_work(admin):
    """Behaviour 37: it could not see the answer, but it could hold streams open."""
    for path in ("/api/status", "/api/stream", "/debug", "/metrics", "/statistic"):
        for site in ("cross-site", "same-site"):
            answer = await ask(admin, path, Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors")
            assert answer.status == 403
    link = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert (await ask(admin, "/statistic", Sec_Fetch_Site="cross-site", **link)).status == 200
    assert (await ask(admin, "/", Sec_Fetch_Site="cross-site", **link)).status == 200


@pytest.mark.anyio
async def test_changing_needs_the_token_and_the_right_host(guarded):
    """Behaviour 37."""
    fields = {"backend": "web/a"}
    assert (await change(guarded, "/api/drain", fields)).status == 401
    assert (await change(guarded, "/api/drain", fields, Authorization=f"Bearer {TOKEN}x")).status == 401
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert (await change(guarded, "/api/drain", fields, host="evil.example", **right)).status == 403
    assert (await ask(guarded, "/api/overrides", **right)).json() == []
    assert (await change(guarded, "/api/drain", fields, **right)).status == 200


@pytest.mark.anyio
async def test_the_token_is_in_no_document(guarded):
    """Behaviour 37."""
    right = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/api/config", "/api/openapi.json", "/debug", "/metrics", "/api/events", "/api/version"):
        answer = await ask(guarded, path, **right)
        assert answer.status == 200
        assert TOKEN not in answer.body + str(answer.headers)


@pytest.mark.parametrize("text", [":7259", "0.0.0.0:7259", "[::]:7259", "10.0.0.1:7259", "lb.example:7259"])
def test_an_address_that_others_reach_needs_a_token(text):
    """Behaviour 36."""
    with pytest.raises(EasyProxyError, match=r"admin\.bind.*configure a token"):
        AdminServer(Scene(), Address.parse(text))
    AdminServer(Scene(), Address.parse(text), token=TOKEN)


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1", "unix:/run/x.sock"],
)
def test_loopback_and_unix_sockets_need_none(text):
    """Behaviour 36."""
    AdminServer(Scene(), Address.parse(text))


@pytest.mark.parametrize("token", ["", " \n"])
def test_an_empty_token_is_refused_and_not_taken_for_none(token):
    with pytest.raises(EasyProxyError, match="empty"):
        AdminServer(Scene(), LOOPBACK, token=token)


def test_the_bind_address_is_a_host():
    assert "lb.example" in (allowed_hosts(Address.parse("LB.example:1")) or ())
    assert allowed_hosts(Address.parse("unix:/run/x.sock")) is None
