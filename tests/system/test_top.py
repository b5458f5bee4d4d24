"""The live screen: keys pressed in it, against the running program."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import ExitStack

import pytest
from proxy import simple
from textual.events import Key
from textual.widgets import DataTable, Input, Label, Static
from traffic import Visit

from easyproxy.cli.asking import Asker
from easyproxy.cli.client import fetch, post
from easyproxy.cli.screen import Screen

pytestmark = pytest.mark.anyio
PATIENCE_S = 30


async def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        await asyncio.sleep(0.05)


@pytest.fixture
def balancer(start, nginxes):
    return start(simple(*nginxes))


@pytest.fixture
def screen(balancer):
    return Screen(Asker(balancer.admin, None, as_json=False, command="top"), every_s=0.2)


def rows(screen: Screen, name: str) -> list[list[str]]:
    table = screen.query_one(f"#table-{name}", DataTable)
    return [[cell.plain for cell in table.get_row_at(number)] for number in range(table.row_count)]


async def test_it_follows_the_backends_and_drains_one_with_a_reason(screen, balancer):
    async with screen.run_test(size=(140, 30)) as pilot:
        await until(
            lambda: [row[1] for row in rows(screen, "backends")] == ["a", "b", "c"], "backends are shown"
        )
        assert "ready" in str(screen.query_one("#headline", Static).render())
        await pilot.press("down", "d")
        await until(lambda: isinstance(screen.focused, Input), "it asks for the reason")
        await pilot.press(*"disk", "enter")
        await until(lambda: rows(screen, "backends")[1][2] == "draining", "the row says so")
        assert balancer.backends()["b"]["state"] == "draining"
        await pilot.press("m")
        await until(lambda: isinstance(screen.focused, Input), "it asks again")
        await pilot.press("escape", "r")
        await until(lambda: isinstance(screen.focused, Input), "it asks a third time")
        await pilot.press("enter")
        await until(
            lambda: rows(screen, "backends")[1][2] == "ready", "it is ready, and never was in maintenance"
        )


async def test_sessions_are_filtered_and_closed(screen, balancer):
    with Visit(balancer.port()) as one, Visit(balancer.port()) as two:
        one.ask()
        two.ask()
        async with screen.run_test(size=(140, 30)) as pilot:
            await pilot.press("2")
            await until(lambda: len(rows(screen, "sessions")) == 2, "both sessions are shown")
            await pilot.press("slash", *one.local.rpartition(":")[2], "enter")
            await until(lambda: [row[1] for row in rows(screen, "sessions")] == [one.local], "one is left")
            await pilot.press("c")
            await until(lambda: isinstance(screen.focused, Input), "it asks")
            await pilot.press("enter")
            await until(lambda: rows(screen, "sessions") == [], "it is gone")
        assert not one.is_alive()
        assert two.is_alive()


async def test_a_narrow_terminal_leaves_out_what_can_be_spared_and_still_says_why(screen):
    async with screen.run_test(size=(80, 24)) as pilot:
        table = screen.query_one("#table-backends", DataTable)

        def headings() -> list[str]:
            return [column.label.plain for column in table.columns.values()]

        await until(lambda: rows(screen, "backends"), "backends are shown")
        assert "Connect" not in headings()
        assert headings()[-1] == "Why"
        assert table.virtual_size.width <= 80
        await pilot.resize_terminal(140, 24)
        await until(lambda: "Connect" in headings() and rows(screen, "backends"), "there is room for all")
        await pilot.press("d")
        await until(lambda: isinstance(screen.focused, Input), "it asks")
        await pilot.press("escape")


async def test_what_is_selected_and_in_sight_stays_when_rows_leave(screen, balancer):
    with ExitStack() as stack:
        visits = [stack.enter_context(Visit(balancer.port())) for _ in range(30)]
        for visit in visits:
            visit.ask()
        async with screen.run_test(size=(140, 20)) as pilot:
            table = screen.query_one("#table-sessions", DataTable)
            await pilot.press("2")
            await until(lambda: len(rows(screen, "sessions")) == 30, "all sessions are shown")
            await pilot.press(*["down"] * 20)
            await until(lambda: table.cursor_row == 20 and table.scroll_target_y > 0, "it is selected")
            selected, top = rows(screen, "sessions")[table.cursor_row], table.scroll_target_y
            assert 0 < top < table.max_scroll_y - 2
            leaves = rows(screen, "sessions")[12]
            post(balancer.admin, "/api/close", {"id": leaves[0]})
            await until(lambda: len(rows(screen, "sessions")) == 29, "one has left")
            await until(
                lambda: rows(screen, "sessions")[table.cursor_row][0] == selected[0], "it is selected still"
            )
            await until(lambda: table.scroll_offset.y == top, "what was in sight is")
            at = table.cursor_row
            post(balancer.admin, "/api/close", {"id": selected[0]})
            await until(lambda: len(rows(screen, "sessions")) == 28, "the selected one has left")
            await until(lambda: table.cursor_row == at, "its neighbour has its place, not the first one")


async def test_what_is_typed_at_once_goes_where_it_is_meant_to_and_a_second_enter_does_nothing(
    screen, balancer
):
    def type_at_once(*keys: str) -> None:
        for key in keys:
            screen.post_message(Key(key, key if len(key) == 1 else None))

    async with screen.run_test(size=(140, 30)) as pilot:
        await until(lambda: rows(screen, "backends"), "backends are shown")
        type_at_once("down", "d", *"mqr1", "enter", "enter")
        await until(lambda: balancer.backends()["b"]["state"] == "draining", "it drains the one below")
        (override,) = fetch(balancer.admin, "/api/overrides")
        assert override["author"]["why"] == "mqr1"
        type_at_once("slash", *"drain")
        await until(
            lambda: [row[2] for row in rows(screen, "backends")] == ["draining"], "those that drain are left"
        )
        assert screen.query_one("#filter", Input).value == "drain"
        await pilot.press("escape")
    assert [event["kind"] for event in fetch(balancer.admin, "/api/events")].count("override_set") == 1


async def test_what_was_heard_is_filtered_and_laid_out_anew_while_nobody_answers(screen, balancer):
    async with screen.run_test(size=(140, 30)) as pilot:
        table = screen.query_one("#table-backends", DataTable)
        await until(lambda: rows(screen, "backends"), "backends are shown")
        await pilot.press("down", "down")
        balancer.stop()
        await until(
            lambda: "no balancer answers" in str(screen.query_one("#headline", Static).render()), "it says so"
        )
        await pilot.resize_terminal(80, 24)
        await until(lambda: len(table.columns) < 12, "it is narrow")
        assert [row[1] for row in rows(screen, "backends")] == ["a", "b", "c"]
        assert table.cursor_row == 2
        await pilot.press("slash", "r", "e", "f")
        await until(lambda: rows(screen, "backends") == [], "none is found")
        await pilot.press("escape")
        await until(lambda: len(rows(screen, "backends")) == 3, "all are shown")


async def test_one_question_at_a_time_is_asked_however_long_the_answer_takes(screen, balancer, monkeypatch):
    asked = []

    def counted(*what):
        asked.append(what)
        try:
            return fetch(*what)
        finally:
            asked.remove(what)

    monkeypatch.setattr("easyproxy.cli.screen.fetch", counted)
    async with screen.run_test(size=(140, 30)) as pilot:
        await until(lambda: rows(screen, "backends"), "backends are shown")
        balancer.program.send(signal.SIGSTOP)
        try:
            for key in "12341234":
                await pilot.press(key)
                await pilot.pause(0.2)
                assert len(asked) <= 1
        finally:
            balancer.program.send(signal.SIGCONT)
        await until(lambda: rows(screen, "events"), "the answer has come, and what was turned to meanwhile")


async def test_a_change_whose_answer_comes_after_the_screen_has_ended_is_told_all_the_same(screen, balancer):
    async with screen.run_test(size=(140, 30)) as pilot:
        await until(lambda: rows(screen, "backends"), "backends are shown")
        balancer.program.send(signal.SIGSTOP)
        await pilot.press("d")
        await until(lambda: isinstance(screen.focused, Input), "it asks")
        await pilot.press("enter", "q")
    balancer.program.kill()
    await until(lambda: screen.unsaid, "it is told")
    assert "whether it has done what was asked is not known" in screen.unsaid[0]


async def test_many_long_names_leave_room_for_what_is_said_of_them(start, nginxes):
    settings = simple(*nginxes)
    pool = settings["pools"].pop("p")
    pool["backends"] = [
        {"name": f"node-{number}.database.eu-central-1.example.com", "address": f"127.0.0.{number}:9"}
        for number in range(1, 61)
    ]
    name = "the-databases-of-the-accounting-department"
    settings["pools"][name] = pool
    settings["listeners"][0]["pool"] = name
    screen = Screen(Asker(start(settings).admin, None, as_json=False, command="top"), every_s=0.2)
    async with screen.run_test(size=(80, 24)) as pilot:
        await until(lambda: rows(screen, "backends"), "backends are shown")
        assert rows(screen, "backends")[0][:2] == ["the-d…ment", "node-1.d…ple.com"]
        why = screen.query_one("#table-backends", DataTable).ordered_columns[-1]
        assert why.label.plain == "Why"
        assert screen.query_one("#table-backends", DataTable)._get_column_region(6).x <= 62, (
            "connection refused"
        )
        await pilot.press("4")
        await until(lambda: len(rows(screen, "events")) > 60, "events are shown")
        assert screen.query_one("#table-events", DataTable)._get_column_region(2).x <= 30
        await pilot.press("1")
        await pilot.press("slash", *"node-17.database.eu")
        await until(
            lambda: [row[1] for row in rows(screen, "backends")] == ["node-17.…ple.com"], "one is left"
        )
        await pilot.press("enter", "d")
        await until(lambda: isinstance(screen.focused, Input), "it asks")
        asked = str(screen.screen.query_one(Label).render())
        assert asked == f"drain {name}/node-17.database.eu-central-1.example.com?"


async def test_a_warning_about_a_change_is_shown(screen, balancer):
    for name in "bc":
        post(balancer.admin, "/api/drain", {"backend": f"p/{name}"})
    async with screen.run_test(size=(140, 30)) as pilot:
        await until(lambda: rows(screen, "backends"), "backends are shown")
        await pilot.press("d")
        await until(lambda: isinstance(screen.focused, Input), "it asks")
        await pilot.press("enter")
        await until(
            lambda: any("no backend of pool p is ready" in note.message for note in screen._notifications),
            "it warns",
        )


async def test_a_look_that_comes_at_once_does_not_end_a_change(screen):
    async with screen.run_test(size=(140, 30)) as pilot:
        await until(lambda: rows(screen, "backends"), "backends are shown")
        await pilot.press("d")
        await until(lambda: isinstance(screen.focused, Input), "it asks")
        change = screen._post

        def change_and_look(*asked) -> None:
            change(*asked)
            screen.look()

        screen._post = change_and_look
        await pilot.press("enter")
        await until(lambda: rows(screen, "backends")[0][2] == "draining", "it drains")


async def test_who_stops_answering_is_told_and_the_screen_goes_on(screen, balancer):
    async with screen.run_test(size=(140, 30)):
        await until(lambda: rows(screen, "backends"), "backends are shown")
        balancer.stop()
        await until(
            lambda: "no balancer answers" in str(screen.query_one("#headline", Static).render()), "it says so"
        )
        assert len(rows(screen, "backends")) == 3
