"""The live screen of ``easyproxy top`` (textual): tables that follow the balancer, and the few operations one wants at hand.

It asks the admin API from a thread, as often as it was told to, and shows what it last heard while nobody answers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from rich.markup import escape
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Label, Static, TabbedContent, TabPane

from easyproxy.cli.asking import user_name
from easyproxy.cli.client import NoAnswerError, RefusedError, TokenError, fetch, post
from easyproxy.cli.report import why_of
from easyproxy.cli.text import latency, printable, size, span

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker

Json = dict[str, Any]
Row = tuple[str, list[Text]]

_COLOURS = {
    "ready": "green",
    "ok": "green",
    "down": "red",
    "critical": "red",
    "error": "red",
    "warning": "yellow",
    "draining": "yellow",
    "maintenance": "yellow",
    "checking": "blue",
}
_COLUMNS = {
    "backends": (
        "Pool",
        "Backend",
        "State",
        "For",
        "Sessions",
        "",
        "New/s",
        "In/s",
        "Out/s",
        "Errors",
        "Connect",
        "Why",
    ),
    "sessions": ("Session", "Client", "Backend", "Listener", "State", "Age", "Idle", "Sent", "Received"),
    "clients": ("Client", "Sessions", "Sent", "Received"),
    "events": ("When", "What", "Text", "By"),
}
_NARROW = 110
"""Columns of a terminal below which the spare columns of the tables are left out, so that the last one can be read."""
_SPARE = {"backends": ("", "In/s", "Out/s", "Connect"), "sessions": ("Listener", "Idle")}
_ROWS = 500
_BAR = 10


def bar(share: float) -> str:
    """Draw a share of 1 as a bar of ten cells.

    >>> bar(0.5), bar(2.0)
    ('█████     ', '██████████')
    """
    eighths = round(max(0.0, min(1.0, share)) * _BAR * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(_BAR)


class Question(ModalScreen[str | None]):
    """Asks for a reason before something is changed; answers None when the person thinks better of it."""

    BINDINGS: ClassVar = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Lay it out."""
        with Vertical(id="question"):
            yield Label(escape(self._text))
            yield Input(placeholder="why (may be empty); Enter does it, Escape does not")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Do it."""
        self.dismiss(event.value)


class Screen(App[None]):
    """The whole terminal."""

    TITLE = "EasyProxy"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #headline { padding: 0 1; height: auto; min-height: 2; max-height: 5; }
    #filter { display: none; }
    #filter.shown { display: block; }
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
        self._word = ""
        self._is_narrow: bool | None = None  # not laid out yet

    def compose(self) -> ComposeResult:
        """Lay it out."""
        yield Static(id="headline", markup=False)
        yield Input(id="filter", placeholder="show only rows that contain ...")
        with TabbedContent(initial="backends"):
            for number, name in enumerate(_COLUMNS, 1):
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
        if self._is_narrow is not None and self._lay_out(event.size.width):
            self.look()

    def _lay_out(self, width: int) -> bool:
        """Make the columns anew if the terminal has become narrow or wide; whether it has."""
        is_narrow = width < _NARROW
        if is_narrow == self._is_narrow:
            return False
        self._is_narrow = is_narrow
        for name, columns in _COLUMNS.items():
            table = self._table(name)
            table.clear(columns=True)
            for number, column in enumerate(columns):
                if not is_narrow or column not in _SPARE.get(name, ()):
                    table.add_column(column, key=str(number))
        return True

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
        """Ask what there is now."""
        if self._is_there:
            self._ask(self._shown)

    @work(thread=True, exclusive=True, group="looks")
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

    def _lost(self, why: str) -> None:
        if not self._is_there:
            return
        self.query_one("#headline", Static).update(Text(f"✗ {why}", "bold red"))

    def _heard(self, status: Json, name: str, rows: list[Json]) -> None:
        if not self._is_there:
            return
        headline = status["headline"]
        parts = [
            f"{sum(listener['counters']['sessions'] for listener in status['listeners'])} sessions",
            f"{status['workers']} workers",
            f"up {span(status['now'] - status['started_at'])}",
            f"version {status['version']}",
        ]
        self.query_one("#headline", Static).update(
            Text.assemble(
                (printable(headline["title"]), f"bold {_COLOURS.get(headline['level'], '')}"),
                f"  {printable(headline['detail'])}\n",
                (", ".join(parts), "dim"),
            )
        )
        match name:
            case "sessions":
                made = [_session(row) for row in rows]
            case "clients":
                made = [_client(row) for row in rows]
            case "events":
                made = [_event(row) for row in reversed(rows)]
            case _:
                made = _backends(status, self._before)
        self._fill(self._table(name), made)
        self._before = status

    def _fill(self, table: DataTable[Text], rows: list[Row]) -> None:
        word = self._word.lower()
        wanted = {
            key: cells for key, cells in rows if not word or any(word in cell.plain.lower() for cell in cells)
        }
        known = [str(key.value) for key in table.rows]
        shown = [int(str(key.value)) for key in table.columns]
        if known != list(wanted):  # who came or went changes the order, so it is laid out anew
            keeps = known[table.cursor_row] if 0 <= table.cursor_row < len(known) else ""
            table.clear()
            for key, cells in wanted.items():
                table.add_row(*(cells[number] for number in shown), key=key)
            if keeps in wanted:
                table.move_cursor(row=list(wanted).index(keeps), scroll=False)
            return
        for key, cells in wanted.items():
            for number in shown:
                table.update_cell(key, str(number), cells[number], update_width=True)

    # -- what the person does

    def action_show(self, name: str) -> None:
        """Turn to another table."""
        self.query_one(TabbedContent).active = name
        self._table(name).focus()
        self.look()

    def on_tabbed_content_tab_activated(self) -> None:
        """Show at once what the tab is about."""
        self.look()

    def action_filter(self) -> None:
        """Ask for the word that rows must contain."""
        box = self.query_one("#filter", Input)
        box.add_class("shown")
        box.focus()

    def action_unfilter(self) -> None:
        """Show all rows again."""
        box = self.query_one("#filter", Input)
        box.value = self._word = ""
        box.remove_class("shown")
        self._table(self._shown).focus()
        self.look()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Follow what is typed."""
        if event.input.id == "filter":
            self._word = event.value
            self.look()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go back to the table."""
        if event.input.id == "filter":
            self._table(self._shown).focus()

    def _selected(self) -> str:
        table = self._table(self._shown)
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def action_change(self, action: str) -> None:
        """Drain, maintenance or ready of the selected backend."""
        backend = self._selected()
        if self._shown != "backends" or not backend:
            self.notify("select a backend first (key 1)")
            return

        def answered(why: str | None) -> None:
            if why is not None:
                self._post(f"/api/{action}", {"backend": backend, "why": why})

        self.push_screen(Question(f"{action} {printable(backend)}?"), answered)

    def action_close_session(self) -> None:
        """Close the selected session, or all of the selected client."""
        key, selected = {"sessions": "id", "clients": "client"}.get(self._shown, ""), self._selected()
        if not key or not selected:
            self.notify("select a session or a client first (keys 2 and 3)")
            return
        what = "session" if key == "id" else "all sessions of"

        def answered(why: str | None) -> None:
            if why is not None:
                self._post("/api/close", {key: selected, "why": why})

        self.push_screen(Question(f"Close {what} {printable(selected)}?"), answered)

    @work(thread=True, group="changes")
    def _post(self, path: str, body: dict[str, object]) -> None:
        """Ask for a change, in a thread. A look ends the looks that wait before it; it must not end this."""
        body = {**{key: value for key, value in body.items() if value}, "who": user_name()}
        try:
            answer = post(self._asker.address, path, body, self._asker.token)
            for made in answer if isinstance(answer, list) else [answer]:
                if warning := made.get("warning"):
                    self.call_from_thread(self.notify, warning, severity="warning", timeout=10, markup=False)
        except (NoAnswerError, TokenError, RefusedError) as error:
            self.call_from_thread(self.notify, str(error), severity="error", timeout=10, markup=False)
        self.call_from_thread(self.look)


def _coloured(word: str) -> Text:
    return Text(printable(word), _COLOURS.get(word, ""))


def _right(text: object) -> Text:
    return Text(str(text), justify="right")


def _plain(*words: object) -> list[Text]:
    return [Text(printable(word)) for word in words]


def _backends(status: Json, before: Json | None) -> list[Row]:
    former = {b["id"]: b["counters"] for pool in before["pools"] for b in pool["backends"]} if before else {}
    seconds = status["now"] - before["now"] if before else 0.0
    rows = []
    for pool in status["pools"]:
        busiest = max((b["counters"]["sessions"] for b in pool["backends"]), default=0)
        for backend in pool["backends"]:
            now = backend["counters"]
            then = former.get(backend["id"])

            def rate(field: str, now: Json = now, then: Json | None = then) -> float:
                return max(0.0, (now[field] - then[field]) / seconds) if then and seconds > 0 else 0.0

            most = backend["max_sessions"] or busiest
            errors = now["connect_errors"] + now["backend_resets"] + now["timeouts"]
            limit = f"/{backend['max_sessions']}" if backend["max_sessions"] else ""
            cells = [
                *_plain(pool["name"], backend["name"]),
                _coloured(backend["state"]),
                _right(span(status["now"] - backend["since"])),
                _right(f"{now['sessions']}{limit}"),
                Text(bar(now["sessions"] / most if most else 0.0), "cyan"),
                _right(f"{rate('total'):.0f}"),
                _right(size(rate("bytes_from_client"))),
                _right(size(rate("bytes_from_backend"))),
                Text(str(errors), "red" if errors else "", justify="right"),
                _right(latency(backend["connect_p95_s"]) if backend["connect_p95_s"] else "-"),
                Text(printable(why_of(backend)), "dim"),
            ]
            rows.append((backend["id"], cells))
    return rows


def _session(row: Json) -> Row:
    return row["id"], [
        *_plain(row["id"], row["client"], row["backend"] or "-", row["listener"], row["state"]),
        _right(span(row["age_s"])),
        _right(span(row["idle_s"])),
        _right(size(row["bytes_from_client"])),
        _right(size(row["bytes_from_backend"])),
    ]


def _client(row: Json) -> Row:
    return row["address"], [
        *_plain(row["address"]),
        _right(row["sessions"]),
        _right(size(row["bytes_from_client"])),
        _right(size(row["bytes_from_backend"])),
    ]


def _event(row: Json) -> Row:
    author = row.get("author") or {"who": ""}
    return str(row["id"]), [
        Text(time.strftime("%H:%M:%S", time.localtime(row["at"]))),
        Text(printable(row["subject"]), _COLOURS.get(row["level"], "")),
        *_plain(row["text"], author["who"]),
    ]
