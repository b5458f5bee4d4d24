"""Commands that change what serves: drain, maintenance, ready, weight, add, remove, overrides, forget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from easyproxy.cli.asking import EXIT_REFUSED, asks, authored, epilog_of
from easyproxy.cli.naming import BackendName, OverrideId, PoolName, find_backend, find_with_pool
from easyproxy.cli.text import counted, printable, remaining, span, table
from easyproxy.cli.times import TimeParam
from easyproxy.model import MAX_WEIGHT

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker

Json = dict[str, Any]

_BACKEND = click.argument("backend", type=BackendName())
_FOR = click.option(
    "--for",
    "ttl",
    type=TimeParam(),
    default="",
    help="End it by itself after 30s, 10m, 2h ...  [default: never]",
)

_DEADLINE = click.option(
    "--deadline",
    type=TimeParam(),
    default="",
    help="Close the sessions that are left after 30s, 5m ...  [default: the pool's drain.deadline]",
)


@click.command(
    "drain",
    epilog=epilog_of(
        "drain db/10.0.0.1:3306 --why 'kernel update' --for 30m",
        "drain 10.0.0.1:3306 --deadline 5m && easyproxy top",
    ),
)
@_BACKEND
@_FOR
@_DEADLINE
@authored
@asks
def drain(asker: Asker, *, backend: str, ttl: str, deadline: str, author: Json) -> None:
    """Give a backend no new sessions; it is still probed.

    Established sessions go on, or leave as the pool's drain says.
    """
    _lay_over(asker, "/api/drain", backend, {"ttl": ttl, "deadline": deadline, **author})


@click.command("maintenance", epilog=epilog_of("maintenance db/10.0.0.1:3306 --why 'new disk'"))
@_BACKEND
@_FOR
@_DEADLINE
@click.option("--close", "close_sessions", is_flag=True, help="Close its sessions too, at once.")
@authored
@asks
def maintenance(
    asker: Asker, *, backend: str, ttl: str, deadline: str, close_sessions: bool, author: Json
) -> None:
    """Give a backend no new sessions and do not probe it either."""
    found = _lay_over(asker, "/api/maintenance", backend, {"ttl": ttl, "deadline": deadline, **author})
    if close_sessions:
        closed = asker.post("/api/close", {"backend": found["id"], **author})
        if not asker.as_json:
            click.echo(f"{counted(closed['closed'], 'session')} closed")


@click.command("ready", epilog=epilog_of("ready db/10.0.0.1:3306"))
@_BACKEND
@authored
@asks
def ready(asker: Asker, *, backend: str, author: Json) -> None:
    """End the drain or maintenance of a backend: it serves again when it is healthy."""
    found = find_backend(asker, backend)
    answer = asker.post("/api/ready", {"backend": found["id"], **author})
    warning = next((gone["warning"] for gone in answer), "")
    ended = " and ".join(gone["action"] for gone in answer)
    line = f"{found['id']}: {f'{ended} has ended' if ended else 'there is no drain or maintenance to end'}"
    asker.show(answer, [printable(line)], warning=warning)


@click.command(
    "weight", epilog=epilog_of("weight db/10.0.0.1:3306 3", "weight db/10.0.0.1:3306 10 --for 1h --why test")
)
@_BACKEND
@click.argument("weight", type=click.IntRange(1, MAX_WEIGHT))
@_FOR
@authored
@asks
def weight(asker: Asker, *, backend: str, weight: int, ttl: str, author: Json) -> None:
    """Change the weight of a backend: its share of new sessions."""
    _lay_over(asker, "/api/weight", backend, {"weight": weight, "ttl": ttl, **author})


@click.command(
    "add", epilog=epilog_of("add db 10.0.0.4:3306", "add db 10.0.0.5:3306 --weight 2 --backup --for 8h")
)
@click.argument("pool", type=PoolName())
@click.argument("address")
@click.option("--name", default="", help="What it is called.  [default: its address]")
@click.option("--weight", type=click.IntRange(1, MAX_WEIGHT), default=None, help="Its share of new sessions.")
@click.option("--max-sessions", type=click.IntRange(0), default=None, help="Sessions at the same time.")
@click.option("--backup", is_flag=True, help="Serve only while no other backend can.")
@_FOR
@authored
@asks
def add(
    asker: Asker,
    *,
    pool: str,
    address: str,
    name: str,
    weight: int | None,
    max_sessions: int | None,
    backup: bool,
    ttl: str,
    author: Json,
) -> None:
    """Add a backend to a pool; it is probed before it gets its first client."""
    settings = {"name": name, "weight": weight, "max_sessions": max_sessions, "backup": backup or None}
    backend = {"address": address} | {
        key: value for key, value in settings.items() if value not in (None, "")
    }
    answer = asker.post("/api/backends/add", {"pool": pool, "backend": backend, "ttl": ttl, **author})
    asker.show(answer, _made(answer), warning=answer["warning"])


@click.command("remove", epilog=epilog_of("remove db/10.0.0.4:3306"))
@_BACKEND
@_FOR
@authored
@asks
def remove(asker: Asker, *, backend: str, ttl: str, author: Json) -> None:
    """Take a backend out of its pool; its sessions go on, or leave as the pool's drain says."""
    _lay_over(asker, "/api/backends/remove", backend, {"ttl": ttl, **author})


@click.command("overrides", epilog=epilog_of("overrides", "overrides --json"))
@asks
def overrides(asker: Asker) -> None:
    """List what operators have laid over the configuration file: by whom, why, until when."""
    answer = asker.get("/api/overrides")
    asker.show(answer, _listing(answer, time.time()))


@click.command("forget", epilog=epilog_of("overrides", "forget 7f3a"))
@click.argument("override", type=OverrideId())
@authored
@asks
def forget(asker: Asker, *, override: str, author: Json) -> None:
    """Take one override away, by its id (easyproxy overrides lists them)."""
    known = [item["id"] for item in asker.get("/api/overrides")]
    found = [name for name in known if name == override] or [
        name for name in known if name.startswith(override)
    ]
    if len(found) != 1:
        what = "is the beginning of several overrides" if found else "is no override"
        asker.fail(
            f"{printable(override)} {what}; there is {', '.join(map(printable, found or known)) or 'none'}",
            EXIT_REFUSED,
        )
    answer = asker.post("/api/overrides/forget", {"id": found[0], **author})
    asker.show(answer, [f"{printable(found[0])} is taken away"], warning=answer["warning"])


def _lay_over(asker: Asker, path: str, backend: str, body: Json) -> Json:
    pool, found = find_with_pool(asker, backend)
    answer = asker.post(path, {"backend": found["id"], **body})
    lines = [*_made(answer), *_standing(answer, pool, found["counters"]["sessions"])]
    asker.show(answer, lines, warning=answer["warning"])
    return found


def _made(answer: Json) -> Iterator[str]:
    line = f"{printable(answer['backend'])}: {described(answer)}"
    if answer.get("until"):
        line += f", for {span(answer['until'] - answer['at'])}"
    yield line


def _standing(answer: Json, pool: Json, sessions: int) -> Iterator[str]:
    """Say what becomes of the sessions of a backend that gets no new ones."""
    if not sessions or answer["action"] not in ("drain", "maintenance", "remove"):
        return
    one = sessions == 1
    how = f"{'goes' if one else 'go'} on"
    if pool["drain"] == "between_transactions":
        how = f"{'ends' if one else 'each end'} between two transactions"
    limit_s = answer["deadline"] - answer["at"] if answer.get("deadline") else pool["drain_deadline_s"]
    limit = f", for {span(limit_s)} at most" if limit_s else ""
    yield f"{counted(sessions, 'established session')} {how}{limit}"


def described(override: Json) -> str:
    """Say what an override does.

    >>> described({"action": "weight", "value": 3}), described({"action": "drain", "value": None})
    ('weight 3', 'drain')
    >>> described({"action": "drain", "at": 100.0, "deadline": 400.0})
    'drain, deadline 5 min'
    >>> described({"action": "add", "value": {"address": "10.0.0.9:80", "name": "c", "weight": 2}})
    'added at 10.0.0.9:80, weight 2'
    >>> described({"action": "add", "value": {"address": "10.0.0.9:80", "backup": True}})
    'added at 10.0.0.9:80, backup'
    """
    if override["action"] == "weight":
        return f"weight {override['value']}"
    if override["action"] == "add" and isinstance(override["value"], dict):
        value = override["value"]
        rest = [
            key if item is True else f"{key} {item}"
            for key, item in value.items()
            if key not in ("address", "name")
        ]
        return printable(", ".join([f"added at {value.get('address')}", *rest]))
    what = printable({"remove": "removed"}.get(override["action"], override["action"]))
    return (
        f"{what}, deadline {span(override['deadline'] - override['at'])}"
        if override.get("deadline")
        else what
    )


def _ends(until: float, now: float) -> str:
    if not until:
        return "-"
    return f"in {remaining(until - now)}" if until > now else "overdue"


def _listing(overrides: list[Json], now: float) -> Iterator[str]:
    if not overrides:
        yield "No overrides: the configuration file is in force as it is."
        return
    rows = [
        (
            printable(item["id"]),
            printable(item["backend"]),
            described(item),
            printable(item["author"]["who"]),
            span(now - item["at"]) + " ago",
            _ends(item["until"], now),
            printable(item["author"]["why"]) or "-",
        )
        for item in overrides
    ]
    yield from table(("ID", "BACKEND", "CHANGE", "BY", "MADE", "ENDS", "WHY"), rows)
    for item in overrides:
        if item["conflict"]:
            yield click.style(f"! {printable(item['id'])}: {printable(item['conflict'])}", fg="yellow")
