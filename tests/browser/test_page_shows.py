"""What the page shows, and that it goes on showing it: against a running balancer with backends that die and return."""

from __future__ import annotations

import re
import signal
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from page import Look
from playwright.sync_api import Page, expect
from stage import Begin, Stage


def test_a_backend_that_dies_and_returns_is_seen_without_a_reload_of_the_page(
    begin: Begin, look: Look
) -> None:
    stage = begin("red", "blue")
    operator = look(stage)
    expect(operator.headline).to_have_text("All 2 backends ready")

    stage.servers["blue"].kill()
    expect(operator.headline).to_have_text("1 of 2 backends down")
    expect(operator.row("blue")).to_contain_text("Down")
    expect(operator.row("blue")).to_contain_text("connection refused")
    expect(operator.row("red")).to_contain_text("Ready")
    expect(operator.page).to_have_title(re.compile("1 of 2 backends down"))
    expect(operator.section("Events")).to_contain_text("backend down")

    stage.servers["blue"].start()
    expect(operator.headline).to_have_text("All 2 backends ready")
    expect(operator.row("blue")).to_contain_text("Ready")
    expect(operator.section("Events")).to_contain_text("backend ready")


def test_a_lost_connection_is_said_and_the_page_resumes_by_itself(begin: Begin, look: Look) -> None:
    stage = begin("red")
    operator = look(stage)
    expect(operator.headline).to_have_text("The backend is ready")

    stage.program.kill()
    expect(operator.headline).to_have_text("The balancer does not answer")
    expect(operator.page.locator("#headline-detail")).to_contain_text("Next try in")
    expect(operator.page.locator("#content")).to_have_attribute("data-stale", "")

    stage.restart()
    expect(operator.headline).to_have_text("The backend is ready")
    expect(operator.page.locator("#content")).not_to_have_attribute("data-stale", "")


def test_a_balancer_that_stands_still_is_noticed(begin: Begin, look: Look) -> None:
    stage = begin("red")
    operator = look(stage)
    stage.program.send(signal.SIGSTOP)
    try:
        expect(operator.headline).to_have_text("The balancer does not answer")
    finally:
        stage.program.send(signal.SIGCONT)
    expect(operator.headline).to_have_text("The backend is ready")


def test_without_a_stream_the_page_asks_each_second(stage: Stage, look: Look) -> None:
    operator = look(stage, before=lambda page: page.route("**/api/stream", lambda route: route.abort()))
    expect(operator.headline).to_have_text("All 2 backends ready")
    stage.servers["blue"].kill()
    expect(operator.row("blue")).to_contain_text("Down")


def test_the_token_is_asked_for_and_kept_in_the_tab_only(begin: Begin, look: Look) -> None:
    """Behaviour 37."""
    stage = begin("red", token=SECRET)
    operator = look(stage, is_up=False)
    page = operator.page
    expect(operator.headline).to_have_text("A token is needed")
    expect(page.locator("#content")).to_be_hidden()
    page.get_by_label("Token of the admin server").fill("wrong")
    page.keyboard.press("Enter")
    expect(operator.headline).to_have_text("A token is needed")
    page.get_by_label("Token of the admin server").fill(SECRET)
    page.keyboard.press("Enter")
    expect(operator.headline).to_have_text("The backend is ready")
    operator.choose("red", "Drain")
    operator.send("Drain")
    expect(operator.row("red")).to_contain_text("Draining")

    kept = page.evaluate("[JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]")
    assert SECRET in kept[0]
    assert SECRET not in kept[1] + kept[2]
    assert SECRET not in page.content()
    assert SECRET not in page.url


SECRET = "open-sesame-open-sesame"  # noqa: S105 - of this test
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
HOSTILE = "<img src=x onerror=alert(1)>"


def test_hostile_names_are_inert(begin: Begin, look: Look) -> None:
    """Behaviour 38."""
    stage = begin("<script>alert(1)</script>", HOSTILE, pool="<b>shop")
    for server in stage.servers.values():
        assert server.name in stage.backends()
    stage.connect()
    operator = look(stage)
    page = operator.page
    expect(page.get_by_role("button", name="<script>alert(1)</script>", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="<b>shop")).to_be_visible()
    operator.choose(HOSTILE, "Drain")
    expect(operator.dialog).to_contain_text(f"Drain {HOSTILE}?")
    operator.send("Drain", who="<script>alert(2)</script>", why="<img src=x onerror=alert(3)>")
    expect(operator.row(HOSTILE)).to_contain_text("<script>alert(2)</script>")
    page.get_by_role("button", name=HOSTILE, exact=True).click()
    expect(operator.dialog.get_by_role("listitem").first).to_be_visible()
    assert page.locator("body script, body img").count() == 0
    assert page.locator("b", has_text=re.compile("^shop$")).count() == 0


def test_on_a_telephone_nothing_is_wider_than_the_window(begin: Begin, look: Look) -> None:
    stage = begin("red", "a-backend-with-a-very-long-name." * 3)
    stage.connect()
    operator = look(stage, width=360, scheme="dark")
    page = operator.page
    expect(
        operator.section("Live sessions").get_by_role("button", name=re.compile("Explain"))
    ).to_be_visible()
    assert not operator.is_wider_than_the_window()
    page.get_by_role("button", name="Details of red").click()
    assert not operator.is_wider_than_the_window()
    operator.choose("red", "Weight")
    assert not operator.is_wider_than_the_window()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="red", exact=True).click()
    expect(operator.dialog.get_by_role("listitem").first).to_be_visible()
    assert not operator.is_wider_than_the_window()


def test_on_a_tablet_what_is_said_of_a_session_is_not_broken_into_letters(begin: Begin, look: Look) -> None:
    stage = begin("red")
    stage.settings["pools"]["shop"]["drain"] = {"when": "between_transactions", "protocol": "mysql"}
    stage.reload(stage.settings)
    stage.connect()
    stage.clients[0].say(b"no word of MySQL" * 100)
    operator = look(stage, width=768)
    said = operator.section("Live sessions").get_by_text("what it says is not understood")
    expect(said).to_be_visible()
    lines = said.evaluate(
        "cell => { const all = document.createRange(); all.selectNodeContents(cell);"
        " return new Set([...all.getClientRects()].map((line) => line.top)).size; }"
    )
    assert lines <= 4
    assert not operator.is_wider_than_the_window()


def test_the_page_is_accessible_in_light_and_dark(stage: Stage, look: Look) -> None:
    stage.connect()
    stage.servers["blue"].kill()
    stage.wait_for_state("blue", "down")
    operator = look(stage)
    page = operator.page
    operator.choose("red", "Drain")
    operator.send("Drain")
    expect(operator.row("red")).to_contain_text("Draining")
    assert_accessible(page)
    page.get_by_role("button", name="red", exact=True).click()
    expect(operator.dialog.get_by_role("listitem").first).to_be_visible()
    assert_accessible(page)
    page.keyboard.press("Escape")
    operator.choose("red", "Weight")
    assert_accessible(page)


def assert_accessible(page: Page) -> None:
    """What axe knows to look for: names, roles, contrast, order; https://github.com/dequelabs/axe-core."""
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page).response["violations"]
        assert not [(each["help"], [node["target"] for node in each["nodes"]]) for each in found], scheme


def test_the_colours_can_be_chosen_and_stay_chosen(stage: Stage, look: Look) -> None:
    operator = look(stage)
    page = operator.page
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    button = page.locator("#theme")
    button.click()
    button.click()
    expect(button).to_have_accessible_name("Colours: dark")
    dark = page.evaluate(colour)
    assert dark != light
    page.reload()
    expect(page.locator("#content")).to_be_visible()
    assert page.evaluate(colour) == dark


def test_a_hidden_tab_asks_for_nothing(stage: Stage, look: Look) -> None:
    operator = look(stage)
    page = operator.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("""() => {
        Object.defineProperty(document, "hidden", { get: () => window.away ?? true, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    asked.clear()
    for _ in range(2):
        stage.servers["red"].kill()
        stage.wait_for_state("red", "down")
        stage.servers["red"].start()
        stage.wait_for_state("red", "ready")
    stage.servers["red"].kill()
    stage.wait_for_state("red", "down")
    assert asked == []
    expect(operator.headline).to_have_text("All 2 backends ready")
    page.evaluate("() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')); }")
    expect(operator.headline).to_have_text("1 of 2 backends down")
