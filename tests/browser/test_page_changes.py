"""What an operator does at the page, and what comes of it in the balancer."""

from __future__ import annotations

import json
import re
import subprocess
from copy import deepcopy
from pathlib import Path

import pytest
from eventually import eventually
from page import Look, Operator
from playwright.sync_api import APIResponse, Route, expect
from proxy import command
from stage import Backend, Begin, Stage

from easyproxy.cli.client import post


def state_in_the_terminal(stage: Stage, backend: str) -> str:
    """What ``easyproxy status --json`` says of a backend."""
    said = subprocess.run(
        command("status", "--json", "--admin", str(stage.admin)), capture_output=True, text=True, check=False
    )
    status = json.loads(said.stdout)
    return next(
        each["state"] for pool in status["pools"] for each in pool["backends"] if each["name"] == backend
    )


def test_a_backend_is_taken_out_and_made_ready_again(stage: Stage, look: Look) -> None:
    """Behaviour 34."""
    clients = [stage.connect() for _ in range(4)]
    operator = look(stage)
    dialog = operator.choose("red", "Drain")
    expect(dialog).to_contain_text("Its 2 sessions go on until they end.")
    expect(dialog).to_contain_text("New sessions of shop go to blue.")
    dialog.get_by_label("How long").select_option("30 minutes")
    operator.send("Drain", who="anna", why="kernel update")
    expect(operator.row("red")).to_contain_text("Draining")
    expect(operator.row("red")).to_contain_text("by anna · kernel update")
    assert state_in_the_terminal(stage, "red") == "draining"
    (override,) = stage.ask("/api/overrides")
    assert override["author"] == {"who": "anna", "why": "kernel update"}
    assert override["until"] - override["at"] == pytest.approx(1800)
    for client in clients:
        client.say()
    before = stage.totals()["red"]
    for _ in range(4):
        stage.connect()
    assert stage.totals()["red"] == before

    operator.choose("red", "Maintenance")
    expect(operator.dialog.get_by_label("Who")).to_have_value("anna")  # remembered
    operator.dialog.get_by_label("Close what is left after").fill("2h")
    expect(operator.dialog).to_contain_text(
        "Its 2 sessions go on until they end; what is left after 2h is closed."
    )
    operator.send("Put into maintenance")
    expect(operator.row("red")).to_contain_text("Maintenance")
    expect(operator.row("red")).to_contain_text("maintenance, deadline 2 h 00 min")
    stage.wait_for_state("red", "maintenance")

    operator.choose("red", "Make ready")
    operator.send("Make ready")
    expect(operator.row("red")).to_contain_text("Ready")
    stage.wait_for_state("red", "ready")
    assert stage.ask("/api/overrides") == []


def test_a_change_that_will_not_survive_a_restart_says_so(begin: Begin, look: Look) -> None:
    stage = begin("red", "blue")
    (stage.folder / "easyproxy.overrides.json").mkdir()  # in the way of the state file
    warning = re.compile(
        "Warning: the change is in force but will not survive .* cannot be written: Is a directory"
    )
    for what, state in (("Drain", "Draining"), ("Make ready", "Ready")):
        operator = look(stage)
        operator.choose("red", what)
        operator.send(what)
        expect(operator.page.get_by_role("status").get_by_text(warning)).to_be_visible()
        expect(operator.row("red")).to_contain_text(state)


def test_a_weight_is_changed_and_taken_back(stage: Stage, look: Look) -> None:
    operator = look(stage)
    operator.choose("red", "Weight").get_by_label("Weight").fill("3")
    operator.send("Set weight", why="it has room")
    expect(operator.row("red")).to_contain_text("weight 1 → 3")
    assert stage.backend("red")["weight"] == 3
    before = stage.totals()
    for _ in range(8):
        stage.connect()
    assert {name: total - before[name] for name, total in stage.totals().items()} == {"red": 6, "blue": 2}

    laid = operator.section("Configuration")
    expect(laid).to_contain_text("it has room")
    laid.get_by_role("button", name="Forget: shop/red weight 1 → 3").click()
    operator.send("Forget")
    expect(laid).to_contain_text("what the file says is in force")
    assert stage.backend("red")["weight"] == 1


def test_a_backend_is_added_and_removed(stage: Stage, look: Look, tmp_path: Path) -> None:
    other = Backend("green", tmp_path)
    try:
        add_and_remove(look(stage), stage, other.address)
    finally:
        other.stop()


def add_and_remove(operator: Operator, stage: Stage, address: str) -> None:
    operator.page.get_by_role("button", name="Add a backend to shop").click()
    operator.dialog.get_by_label("Address").fill("127.0.0.1:none")
    operator.dialog.get_by_role("button", name="Add", exact=True).click()
    alert = operator.dialog.get_by_role("alert")
    expect(alert).to_contain_text("backend.address")  # said where the person acted, who can go on from there
    operator.dialog.get_by_label("Address").fill(address)
    operator.dialog.get_by_label("Name").fill("green")
    operator.send("Add")
    expect(operator.row("green")).to_contain_text("Ready")
    assert stage.backend("green")["address"] == address

    operator.choose("green", "Remove")
    operator.send("Remove")
    expect(operator.row("green")).to_have_count(0)
    assert "green" not in stage.backends()


def test_a_session_is_found_and_closed(stage: Stage, look: Look) -> None:
    stays, goes = stage.connect("127.0.0.2"), stage.connect("127.0.0.3")
    operator = look(stage)
    table = operator.section("Live sessions")
    explain = table.get_by_role("button", name=re.compile("Explain the session"))
    expect(explain).to_have_count(2)
    table.get_by_role("searchbox").fill("127.0.0.3")
    expect(explain).to_have_count(1)
    table.get_by_role("button", name=f"Close the session of {goes.address}").click()
    expect(operator.dialog).to_contain_text(f"{goes.address} to shop/")
    operator.send("Close")
    assert goes.sees_the_end()
    expect(table).to_contain_text("No session is found.")
    table.get_by_role("searchbox").fill("")
    expect(explain).to_have_text([stays.address])
    stays.say()


def test_sessions_are_closed_by_client_and_by_backend(stage: Stage, look: Look) -> None:
    of_client = [stage.connect("127.0.0.2") for _ in range(2)]
    others = [stage.connect("127.0.0.3") for _ in range(2)]
    operator = look(stage)
    operator.section("Clients").get_by_role("button", name="Close the sessions of 127.0.0.2").click()
    expect(operator.dialog).to_contain_text("2 sessions now")
    operator.send("Close")
    assert all(client.sees_the_end() for client in of_client)
    for client in others:
        client.say()
    operator.choose("red", "Close its sessions")
    expect(operator.dialog).to_contain_text("1 session now")
    operator.send("Close")
    eventually(lambda: stage.live() == {"red": 0, "blue": 1}, "one session of blue is left")


def test_sessions_are_searched_by_backend_and_listener_and_more_are_loaded(stage: Stage, look: Look) -> None:
    for _ in range(60):
        stage.connect()
    operator = look(stage)
    table = operator.section("Live sessions")
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(20)
    expect(table).to_contain_text("20 of 60")
    table.get_by_role("button", name="Load 20 more").click()
    expect(rows).to_have_count(40)
    table.get_by_role("button", name="Load 20 more").click()
    expect(rows).to_have_count(60)
    table.get_by_label("Backend", exact=True).select_option("shop/blue")
    expect(rows).to_have_count(30)
    expect(table).to_contain_text("30 found")
    table.get_by_label("Backend", exact=True).select_option("Every backend")
    table.get_by_role("searchbox").fill("red")
    expect(rows).to_have_count(30)


def test_a_reload_shows_its_plan_and_goes_back_on_demand(stage: Stage, look: Look) -> None:
    client = stage.connect()
    operator = look(stage)
    settings = deepcopy(stage.settings)
    pool = settings["pools"]["shop"]
    pool["backends"][0]["weight"] = 5
    pool["strategy"] = "maglev"
    stage.write(settings)
    operator.page.locator("#reload").click()
    expect(operator.dialog).to_contain_text("backend shop/red")
    expect(operator.dialog).to_contain_text("maglev")
    operator.dialog.get_by_label("Go back by itself").select_option("after 10 minutes, unless confirmed")
    operator.send("Reload")
    attention = operator.section("Needs attention")
    expect(attention).to_contain_text("waits to be confirmed")
    expect(operator.section("shop")).to_contain_text("maglev")
    assert stage.backend("red")["weight"] == 5

    attention.get_by_role("button", name="Go back now").click()
    operator.send("Go back")
    expect(operator.page.get_by_text("waits to be confirmed")).to_have_count(0)
    expect(operator.section("shop")).to_contain_text("round robin")
    assert stage.backend("red")["weight"] == 1
    client.say()

    operator.page.locator("#reload").click()
    operator.dialog.get_by_label("Go back by itself").select_option("after 10 minutes, unless confirmed")
    operator.send("Reload")
    attention.get_by_role("button", name="Keep it").click()
    operator.send("Keep it")
    expect(operator.page.get_by_text("waits to be confirmed")).to_have_count(0)
    assert stage.ask("/api/reload")["outcome"] == "confirmed"
    assert stage.backend("red")["weight"] == 5


def test_a_wrong_file_is_told_with_its_places_before_anything_is_done(stage: Stage, look: Look) -> None:
    """Behaviour 31."""
    operator = look(stage)
    settings = deepcopy(stage.settings)
    settings["pools"]["shop"]["strategy"] = "fast"
    settings["pools"]["shop"]["backends"][0]["weight"] = 300
    stage.write(settings)
    operator.page.locator("#reload").click()
    alert = operator.dialog.get_by_role("alert")
    expect(alert).to_contain_text("pools.shop.strategy")
    expect(alert.get_by_role("listitem")).to_have_count(2)
    expect(operator.dialog.get_by_role("button", name="Reload", exact=True)).to_be_disabled()


def test_a_change_in_conflict_with_the_file_is_prominent(stage: Stage, look: Look) -> None:
    operator = look(stage)
    operator.choose("red", "Weight").get_by_label("Weight").fill("3")
    operator.send("Set weight")
    expect(operator.row("red")).to_contain_text("weight 1 → 3")
    settings = deepcopy(stage.settings)
    settings["pools"]["shop"]["backends"][0]["weight"] = 7
    stage.reload(settings)
    attention = operator.section("Needs attention")
    expect(attention).to_contain_text("Conflict at shop/red")
    attention.get_by_role("button", name="Forget the change").click()
    operator.send("Forget")
    expect(operator.page.get_by_text("Conflict at")).to_have_count(0)
    eventually(lambda: stage.backend("red")["weight"] == 7, "the file decides again")


def test_the_keyboard_alone_does_it_all(stage: Stage, look: Look) -> None:
    operator = look(stage)
    page = operator.page
    keys = page.keyboard
    keys.press("Tab")
    expect(page.get_by_role("link", name="Skip to the pools")).to_be_focused()
    keys.press("Enter")
    actions = page.get_by_role("button", name="Actions on red")
    for _ in range(20):
        keys.press("Tab")
        if actions.evaluate("node => node === document.activeElement"):
            break
    expect(actions).to_be_focused()
    keys.press("Enter")
    expect(page.get_by_role("menuitem", name="Explain")).to_be_focused()
    keys.press("Escape")
    expect(actions).to_be_focused()
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    expect(page.get_by_role("menuitem", name="Drain")).to_be_focused()
    keys.press("Enter")
    expect(operator.dialog.get_by_label("Why")).to_be_focused()
    keys.press("Escape")
    expect(operator.dialog).to_have_count(0)
    expect(actions).to_be_focused()
    keys.press("Enter")
    expect(page.get_by_role("menuitem", name="Explain")).to_be_focused()
    keys.press("ArrowDown")
    expect(page.get_by_role("menuitem", name="Drain")).to_be_focused()
    keys.press("Enter")
    expect(operator.dialog.get_by_label("Why")).to_be_focused()
    keys.type("no mouse")
    keys.press("Enter")
    expect(operator.dialog).to_have_count(0)
    expect(operator.row("red")).to_contain_text("Draining")
    expect(operator.row("red")).to_contain_text("no mouse")
    expect(actions).to_be_focused()  # rows were updated meanwhile, the focus stayed


def test_a_click_tells_the_story_of_a_backend_a_session_and_a_client(stage: Stage, look: Look) -> None:
    client = stage.connect("127.0.0.7")
    operator = look(stage)
    page, story = operator.page, operator.dialog
    for button, title, told in (
        ("red", "Backend shop/red", "connected"),
        (f"Explain the session of {client.address}", "Session ", "127.0.0.7"),
        ("Explain client 127.0.0.7", "Client 127.0.0.7", "1 session"),
    ):
        page.get_by_role("button", name=button, exact=True).click()
        expect(story.get_by_role("heading", level=2)).to_contain_text(title)
        expect(story.locator(".story")).to_contain_text(told)
        expect(story.locator(".lines li")).not_to_have_count(0)
        page.keyboard.press("Escape")
        expect(story).to_have_count(0)
        expect(page.get_by_role("button", name=button, exact=True)).to_be_focused()


def test_a_refusal_that_comes_after_the_dialog_was_closed_is_told(stage: Stage, look: Look) -> None:
    operator = look(stage)
    page = operator.page
    held: list[Route] = []
    page.route("**/api/drain", lambda route: held.append(route))  # noqa: PLW0108 - it marks what it gets
    operator.choose("red", "Drain")
    with page.expect_request("**/api/drain"):
        operator.dialog.get_by_role("button", name="Drain", exact=True).click()
    page.keyboard.press("Escape")
    expect(operator.dialog).to_have_count(0)
    post(stage.admin, "/api/backends/remove", {"backend": "shop/red"})
    held[0].continue_()
    told = page.get_by_role("status").get_by_text("Drain red?")
    expect(told).to_contain_text("there is no backend shop/red")


def test_an_older_answer_that_comes_late_does_not_undo_a_newer_one(stage: Stage, look: Look) -> None:
    operator = look(stage)
    page = operator.page
    laid = operator.section("Configuration")
    expect(page.locator("#reload-line")).to_contain_text(
        "reload"
    )  # it has asked, and goes on when something happens
    asked: list[tuple[Route, APIResponse | None]] = []

    def answer(route: Route) -> None:
        asked.append((route, None))
        if len(asked) == 1:
            asked[0] = (route, route.fetch())  # as it is now; it arrives later
        elif len(asked) == 2:
            route.continue_()
        else:
            route.abort()

    page.route("**/api/overrides", answer)
    with page.expect_request("**/api/overrides"):
        made = post(stage.admin, "/api/weight", {"backend": "shop/red", "weight": 3})
    expect(operator.section("Events")).to_contain_text("override set")
    while not asked or asked[0][1] is None:
        page.evaluate("0")
    post(stage.admin, "/api/overrides/forget", {"id": made["id"]})
    expect(operator.section("Events")).to_contain_text("override forgotten")
    # By then it has asked what there is after that, unless it waits for the answer to what it asked before.
    page.evaluate("new Promise((done) => setTimeout(done, 500))")
    route, response = asked[0]
    with page.expect_response("**/api/overrides"):
        route.fulfill(response=response)
    page.evaluate("new Promise((done) => setTimeout(done, 500))")  # it has been taken by then
    expect(laid.get_by_text("what the file says is in force")).to_be_visible()


def test_a_session_is_not_taken_for_another_one_with_its_id(begin: Begin, look: Look) -> None:
    stage = begin("red")
    former = stage.connect("127.0.0.2")
    operator = look(stage)
    close = operator.section("Live sessions").get_by_role(
        "button", name=f"Close the session of {former.address}"
    )
    close.click()
    (session,) = stage.ask("/api/sessions")
    stage.program.kill()
    stage.restart()
    other = stage.connect("127.0.0.3")
    assert stage.ask("/api/sessions")[0]["id"] == session["id"]
    operator.dialog.get_by_role("button", name="Close", exact=True).click()
    expect(operator.dialog.get_by_role("alert")).to_contain_text("there is no session")
    other.say()


def test_the_sessions_of_a_backend_that_leaves_stay_the_ones_that_are_shown(stage: Stage, look: Look) -> None:
    for _ in range(4):
        stage.connect()
    operator = look(stage)
    table = operator.section("Live sessions")
    choice = table.get_by_label("Backend", exact=True)
    choice.select_option("shop/red")
    expect(table).to_contain_text("2 found")
    post(stage.admin, "/api/backends/remove", {"backend": "shop/red"})
    expect(operator.row("red")).to_have_count(0)
    expect(choice).to_have_value("shop/red")
    expect(table).to_contain_text("2 found")


def test_a_filter_stays_in_sight_while_it_holds_rows_back(begin: Begin, look: Look) -> None:
    stage = begin(*(f"node-{number}" for number in range(13)))
    operator = look(stage)
    find = operator.page.get_by_role("searchbox", name="Find a backend of shop")
    find.fill("node-12")
    expect(operator.row("node-1")).to_have_count(0)
    post(stage.admin, "/api/backends/remove", {"backend": "shop/node-3"})
    expect(operator.section("shop")).to_contain_text("12 of 12 ready")
    expect(find).to_be_focused()
    find.fill("")
    expect(operator.row("node-1")).to_be_visible()


def test_a_second_click_on_its_button_closes_a_menu(stage: Stage, look: Look) -> None:
    operator = look(stage)
    actions = operator.page.get_by_role("button", name="Actions on red", exact=True)
    menu = operator.page.get_by_role("menu")
    for _ in range(2):
        actions.click()
        expect(menu).to_be_visible()
        actions.click()
        expect(menu).to_have_count(0)
        expect(actions).to_have_attribute("aria-expanded", "false")
