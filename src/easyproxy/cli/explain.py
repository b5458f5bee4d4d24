"""``easyproxy explain`` and ``easyproxy simulate``: why it went there, and where it would go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from easyproxy.cli.asking import EXIT_REFUSED, asks, epilog_of
from easyproxy.cli.live import event_line
from easyproxy.cli.naming import BackendName, PoolName, find_backend, matches
from easyproxy.cli.text import printable, table

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker

Json = dict[str, Any]

_SESSION = re.compile(r"\d+\.\d+\.\d+")
_LIKE_ADDRESS = re.compile(r"unix|.*[.:].*")
"""What may be meant as a client's address; the balancer decides."""

_EXPLAIN = epilog_of(
    "explain 0.0.1234                 a session, also one that ended lately",
    "explain db/10.0.0.1:3306         a backend",
    "explain 10.1.2.3                 a client",
)
_SIMULATE = epilog_of(
    "simulate --client 10.1.2.3",
    "simulate --client 10.1.2.3 --pool db --without db/10.0.0.1:3306",
)


class Subject(BackendName):
    """A session's id, a backend or a client's address."""

    name = "subject"


@click.command("explain", epilog=_EXPLAIN)
@click.argument("subject", metavar="SESSION|BACKEND|CLIENT", type=Subject())
@click.option(
    "--kind",
    type=click.Choice(("session", "backend", "client")),
    default=None,
    help="What SUBJECT is, if it is unclear.",
)
@asks
def explain(asker: Asker, *, subject: str, kind: str | None) -> None:
    """Tell the story of a session, a backend or a client: why there, why down, who closed first."""
    kind = kind or _kind_of(asker, subject)
    if kind == "backend":
        subject = find_backend(asker, subject)["id"]
    answer = asker.get("/api/explain", kind=kind, subject=subject)
    asker.show(answer, _story(answer))


def _kind_of(asker: Asker, subject: str) -> str:
    if _SESSION.fullmatch(subject):
        return "session"
    pools = asker.get("/api/status")["pools"]
    if "/" in subject or matches(pools, subject):
        return "backend"
    if not _LIKE_ADDRESS.fullmatch(subject):
        names = [backend["id"] for pool in pools for backend in pool["backends"]]
        of_pool = [name for name in names if name.partition("/")[0] == subject]
        near = ", ".join(map(printable, of_pool or names[:10])) or "none"
        kind = "a pool, no" if of_pool else "no"
        asker.fail(
            f"{printable(subject)} is {kind} session's id, client's address or backend; there is {near}",
            EXIT_REFUSED,
        )
    return "client"


def _story(answer: Json) -> Iterator[str]:
    yield click.style(printable(answer["headline"]), bold=True)
    for line in answer["lines"]:
        yield f"  {printable(line)}"
    if answer["choice"]:
        yield ""
        yield from _choice(answer["choice"])
    if answer["events"]:
        yield ""
        yield click.style("What happened", bold=True)
        for event in answer["events"]:
            yield f"  {event_line(event)}"


@click.command("simulate", epilog=_SIMULATE)
@click.option(
    "--client", "client_address", metavar="ADDRESS", required=True, help="The client, without a port."
)
@click.option("--pool", type=PoolName(), default="", help="Only in this pool.")
@click.option(
    "--without", type=BackendName(), multiple=True, help="As if this backend were not ready; may be repeated."
)
@asks
def simulate(asker: Asker, *, client_address: str, pool: str, without: tuple[str, ...]) -> None:
    """Say where a client would go now, and what comes next when that fails. Nothing is connected or changed."""
    left_out = [find_backend(asker, name)["id"] for name in without]
    answer = asker.get("/api/simulate", client=client_address, pool=pool, without=left_out)
    asker.show(answer, _choices(answer))


def _choices(choices: list[Json]) -> Iterator[str]:
    for number, choice in enumerate(choices):
        if number:
            yield ""
        yield from _choice(choice)


def _choice(choice: Json) -> Iterator[str]:
    first = next((item for item in choice["candidates"] if item["rank"] == 1), None)
    where = printable(first["backend"]) if first else "nowhere: no backend is ready"
    verb = "goes to" if choice["is_certain"] or not first else "may go to"
    yield click.style(f"{printable(choice['client'])} {verb} {where}", bold=True, fg=None if first else "red")
    yield f"  pool {printable(choice['pool'])}, {printable(choice['strategy'])}"
    if choice["note"]:
        yield f"  {printable(choice['note'])}"
    rows = [
        (str(item["rank"]) if item["rank"] else "-", printable(item["backend"]), printable(item["why"]))
        for item in choice["candidates"]
    ]
    if rows:
        yield from ("  " + line for line in table(("TURN", "BACKEND", "WHY"), rows, right=frozenset({0})))
