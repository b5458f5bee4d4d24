"""The live screen of ``easyproxy top`` (textual): tables that follow the balancer, and the few operations one wants at hand.

It asks the admin API from a thread, as often as it was told to but one question at a time, and shows what it last heard
while nobody answers: the filter and another width of the terminal wait for no answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from rich.markup import escape
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.events import Key, Resize
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Label, Static, TabbedContent, TabPane

from easyproxy.cli.asking import user_name
from easyproxy.cli.client import NoAnswerError, RefusedError, TokenError, fetch, post
from easyproxy.cli.tables import COLOURS, COLUMNS, LONGEST, SPARE, fitting, rows_of
from easyproxy.cli.text import counted, printable, span

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker
    from easyproxy.cli.tables import Json, Row

_NARROW = 110
"""Columns of a terminal below which the spare columns of the tables are left out, so that the last one can be read."""
_ROWS = 500


class Question(ModalScreen[str | None]):
    """Asks for a reason before something is changed; answers None when the person thinks better of it."""

    BINDINGS: ClassVar = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.field = Input(
            placeholder="why (may be empty); Enter does it, Escape does not", select_on_focus=False
        )

    def compose(self) -> ComposeResult:
        """Lay it out."""
        with Vertical(id="question"):
            yield Label(escape(self._text))
            yield self.field

    def on_input_submitted(self) -> None:
        """Do it."""
        self.answer()

    def answer(self) -> None:
        """Do it, once: a second Enter may be on its way already."""
        if self.is_current:
            self.dismiss(self.field.value)


class Screen(App[None]):
    """The whole terminal."""

    TITLE = "EasyProxy"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #headline { padding: 0 1; height: auto; min-height: 2; max-height: 5; }
    #filter { display: none; }
    TabbedContent, ContentSwitcher, TabPane, DataTable { height: 1fr; }
    TabPane { padding: 0; }
    Question { align: center middle; }
    #question { width: 70; max-width: 100%; height: auto; padding: 1 2; border: round $accent; background: $surface; }
    #question Label { width: 100%; margin-bottom: 1; }
    """
    BINDINGS: ClassVar = [
        Binding("1", "show('backends')", "Backends", show=False),
        Binding("2", "show('sessions')", "Sessions", show=False),
        Binding("3", "show('clients')", "Clients", show=False),
        Binding("4", "show('events')", "Events", show=False),
        Binding("d", "change('drain')", "Drain"),
        Binding("m", "change('maintenance')", "Maintenance"),
        Binding("r", "change('ready')", "Ready"),
        Binding("c", "close_session", "Close"),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "unfilter", "All rows", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, asker: Asker, every_s: float) -> None:
        super().__init__()
        self._asker = asker
        self._every_s = every_s
        self._before: Json | None = None
        self._heard_rows: dict[str, list[Row]] = {}
        self._is_looking = self._looks_again = False
        self._word = ""
        self.unsaid: list[str] = []
        """What came of changes after the screen had gone; whoever ran it has to say it."""
        self._is_narrow: bool | None = None  # not laid out yet

    def compose(self) -> ComposeResult:
        """Lay it out."""
        yield Static(id="headline", markup=False)
        yield Input(id="filter", placeholder="show only rows that contain ...", select_on_focus=False)
        with TabbedContent(initial="backends"):
            for number, name in enumerate(COLUMNS, 1):
                with TabPane(f"{number} {name.capitalize()}", id=name):
                    yield DataTable(id=f"table-{name}", cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self._lay_out(self.size.width)
        self._table("backends").focus()
        self.set_interval(self._every_s, self.look)
        self.look()

    def on_resize(self, event: Resize) -> None:
        """Give room to what a narrow terminal has no room for, or take it."""
        if self._is_narrow is not None:
            self._lay_out(event.size.width)

    def _lay_out(self, width: int) -> None:
        """Make the columns anew if the terminal has become narrow or wide."""
        is_narrow = width < _NARROW
        if is_narrow == self._is_narrow:
            return
        self._is_narrow = is_narrow
        for name in COLUMNS:
            self._fill(name, anew=True)

    def _table(self, name: str) -> DataTable[Text]:
        return self.query_one(f"#table-{name}", DataTable)

    @property
    def _shown(self) -> str:
        return self.query_one(TabbedContent).active or "backends"

    # -- what it hears

    @property
    def _is_there(self) -> bool:
        """Whether there is anything to show things on: when it ends, what it consists of goes first."""
        return bool(self.query(TabbedContent)) and bool(self.query("#headline"))

    def look(self) -> None:
        """Ask what there is now; while an answer is waited for, when it has come."""
        if self._is_looking:
            self._looks_again = True
        elif self._is_there:
            self._is_looking = True
            self._ask(self._shown)

    @work(thread=True, group="looks")
    def _ask(self, name: str) -> None:
        """Ask, in a thread: the screen stays alive while nobody answers."""
        try:
            status = fetch(self._asker.address, "/api/status", self._asker.token)
            rows = []
            if name != "backends":
                rows = fetch(self._asker.address, f"/api/{name}?limit={_ROWS}", self._asker.token)
        except (NoAnswerError, TokenError, RefusedError) as error:
            self.call_from_thread(self._lost, str(error))
        else:
            self.call_from_thread(self._heard, status, name, rows)
        self.call_from_thread(self._looked)

    def _looked(self) -> None:
        self._is_looking = False
        if self._looks_again:
            self._looks_again = False
            self.look()

    def _lost(self, why: str) -> None:
        if not self._is_there:
            return
        self.query_one("#headline", Static).update(Text(f"✗ {why}", "bold red"))

    def _heard(self, status: Json, name: str, rows: list[Json]) -> None:
        if not self._is_there:
            return
        headline = status["headline"]
        parts = [
            counted(sum(listener["counters"]["sessions"] for listener in status["listeners"]), "session"),
            counted(status["workers"], "worker"),
            f"up {span(status['now'] - status['started_at'])}",
            f"version {status['version']}",
        ]
        self.query_one("#headline", Static).update(
            Text.assemble(
                (printable(headline["title"]), f"bold {COLOURS.get(headline['level'], '')}"),
                f"  {printable(headline['detail'])}\n",
                (", ".join(parts), "dim"),
            )
        )
        self._heard_rows[name] = rows_of(name, status, self._before, rows)
        self._before = status
        self._fill(name)

    def _columns(self, name: str) -> list[int]:
        """Return the numbers of those for which there is room."""
        spare = SPARE.get(name, ()) if self._is_narrow else ()
        return [number for number, column in enumerate(COLUMNS[name]) if column not in spare]

    def _fill(self, name: str, *, anew: bool = False) -> None:
        """Show the rows that were heard last, where the filter lets them; ``anew`` makes the columns anew too."""
        table, word, columns = self._table(name), self._word.lower(), self._columns(name)
        longest = {number: int(self.size.width * LONGEST.get(COLUMNS[name][number], 1)) for number in columns}
        wanted = {
            key: [fitting(cells[number], longest[number]) for number in columns]
            for key, cells in self._heard_rows.get(name, [])
            if not word or any(word in cell.plain.lower() for cell in cells)
        }
        if anew or [str(key.value) for key in table.rows] != list(wanted):
            self._replace(name, wanted, anew=anew)
            return
        # A column only grows: to learn whether it may shrink, all of its cells would be measured for each that changes.
        widths = [column.content_width for column in table.columns.values()]
        for key, cells in wanted.items():
            for number, width, now, then in zip(columns, widths, cells, table.get_row(key), strict=True):
                if now != then:
                    table.update_cell(key, str(number), now, update_width=now.cell_len > width)

    def _replace(self, name: str, rows: dict[str, list[Text]], *, anew: bool) -> None:
        """Lay out a table whose rows came, went or changed places: what is selected and in sight stays so."""
        table = self._table(name)
        at, left, top = table.cursor_row, table.scroll_target_x, table.scroll_target_y
        selected = self._selected(name)
        table.clear(columns=anew)
        if anew:
            for number in self._columns(name):
                table.add_column(COLUMNS[name][number], key=str(number))
        for key, cells in rows.items():
            table.add_row(*cells, key=key)
        table.scroll_to(left, top, animate=False, immediate=True)
        row = list(rows).index(selected) if selected in rows else min(at, len(rows) - 1)
        table.move_cursor(row=max(row, 0), scroll=False)

    # -- what the person does

    def on_key(self, event: Key) -> None:
        """Give what is typed ahead to the field it is meant for: it was sent to what had the focus when it was typed."""
        question = self.screen if isinstance(self.screen, Question) else None
        field = question.field if question else self.query_one("#filter", Input)
        if event.is_printable and event.character and (question or self.focused is field):
            field.replace(event.character, *sorted(field.selection))
            event.prevent_default()
        elif event.key == "enter" and question and self.focused is not field:
            question.answer()

    def action_show(self, name: str) -> None:
        """Turn to another table."""
        self.query_one(TabbedContent).active = name
        self._table(name).focus()

    def on_tabbed_content_tab_activated(self) -> None:
        """Show at once what the tab is about."""
        self._fill(self._shown)
        self.look()

    def action_filter(self) -> None:
        """Ask for the word that rows must contain."""
        box = self.query_one("#filter", Input)
        box.display = True
        self.screen.set_focus(box)
        box.action_select_all()

    def action_unfilter(self) -> None:
        """Show all rows again."""
        box = self.query_one("#filter", Input)
        box.value = self._word = ""
        box.display = False
        self._table(self._shown).focus()
        self._fill(self._shown)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Follow what is typed."""
        if event.input.id == "filter":
            self._word = event.value
            self._fill(self._shown)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go back to the table."""
        if event.input.id == "filter":
            self._table(self._shown).focus()

    def _selected(self, name: str) -> str:
        table = self._table(name)
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def action_change(self, action: str) -> None:
        """Drain, maintenance or ready of the selected backend."""
        backend = self._selected(self._shown)
        if self._shown != "backends" or not backend:
            self.notify("select a backend first (key 1)")
            return

        def answered(why: str | None) -> None:
            if why is not None:
                self._post(f"/api/{action}", {"backend": backend, "why": why})

        self.push_screen(Question(f"{action} {printable(backend)}?"), answered)

    def action_close_session(self) -> None:
        """Close the selected session, or all of the selected client."""
        name = self._shown
        key, selected = {"sessions": "id", "clients": "client"}.get(name, ""), self._selected(name)
        if not key or not selected:
            self.notify("select a session or a client first (keys 2 and 3)")
            return
        where = {key: selected}
        if key == "id":  # ids begin anew with the balancer: the client must be the same too
            where["client"] = next(cells[1].plain for id_, cells in self._heard_rows[name] if id_ == selected)
        what = "session" if key == "id" else "all sessions of"

        def answered(why: str | None) -> None:
            if why is not None:
                self._post("/api/close", {**where, "why": why})

        self.push_screen(Question(f"Close {what} {printable(selected)}?"), answered)

    @work(thread=True, group="changes")
    def _post(self, path: str, body: dict[str, object]) -> None:
        """Ask for a change, in a thread; who ends the screen meanwhile is told afterwards."""
        body = {**{key: value for key, value in body.items() if value}, "who": user_name()}
        try:
            answer = post(self._asker.address, path, body, self._asker.token)
            for made in answer if isinstance(answer, list) else [answer]:
                if warning := made.get("warning"):
                    self._tell(warning, "warning")
        except (NoAnswerError, TokenError, RefusedError) as error:
            self._tell(str(error), "error")
        self.call_from_thread(self.look)

    def _tell(self, text: str, severity: Literal["warning", "error"]) -> None:
        if self.is_running:
            self.call_from_thread(self.notify, printable(text), severity=severity, timeout=10, markup=False)
        else:
            self.unsaid.append(text)
