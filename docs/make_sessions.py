"""Writes docs/sessions.md from the table of a session's life: ``python docs/make_sessions.py``.

The words that explain stand here; which transitions there are, and what each side is told, comes from the table.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from easyproxy.engine.relay.life import TABLE, Ending, Event, State, Transition

PAGE = Path(__file__).with_name("sessions.md")

ENDINGS = {
    Ending.KEEP: "stays open",
    Ending.FIN: "FIN",
    Ending.CLOSE: "closed",
    Ending.RESET: "reset",
    Ending.RESET_WHEN_SENT: "all that it is owed, then reset",
}

HEAD = """\
# The life of a session

<!-- Written by docs/make_sessions.py from easyproxy.engine.relay.life.TABLE. Change those. -->

A session is one client connection and its backend connection. Its life is a table: what may happen in which state, what
each side is then told, and the reason that counters and logs give. The words are explained in the
[lexicon](lexicon.md).

"""

MIDDLE = """
Three rules hold in all of it:

- A FIN is passed on when every byte before it has been handed over, and only to the other side.
- Whatever is cut short never looks like a clean end: both sides get a reset.
- A side that had its FIN before the other one broke is owed every byte: its reset waits until they are acknowledged.

A session that is closed `between_transactions` is none that is cut: nothing is under way in either direction. Both sides are told in their protocol's words as
far as that has any (PostgreSQL: the error 57P01 to the client, Terminate to the backend; MySQL: COM_QUIT to the backend), and get a FIN
([decision 9](decisions/0009-between-transactions.md)).

## The table

"""


def diagram(table: dict[tuple[State, Event], Transition]) -> str:
    """Draw the table in Mermaid's language: one arrow for each pair of states, with all its events."""
    arrows: dict[tuple[State, State], list[str]] = defaultdict(list)
    for (state, event), answer in table.items():
        arrows[state, answer.state].append(event.value)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.CONNECTING.value}: accepted"]
    for (state, follower), events in arrows.items():
        lines.append(f"    {state.value} --> {follower.value}: {'<br>'.join(events)}")
    lines += [f"    {State.CLOSED.value} --> [*]", "```"]
    return "\n".join(lines) + "\n"


def rows(table: dict[tuple[State, Event], Transition]) -> str:
    """Write the table in Markdown, by state."""
    lines = [
        "| in state | when | then | the client's side | the backend's side | reason |",
        "|---|---|---|---|---|---|",
    ]
    for state in State:
        for (before, event), answer in table.items():
            if before is state:
                # Before a session has a backend there is nobody else to tell.
                backend = "" if state is State.CONNECTING and answer.reason else ENDINGS[answer.backend]
                reason = f"`{answer.reason}`" if answer.reason else ""
                lines.append(
                    f"| {state.value} | {event.value} | {answer.state.value} | {ENDINGS[answer.client]} | {backend} | {reason} |"
                )
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    return HEAD + diagram(TABLE) + MIDDLE + rows(TABLE)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
