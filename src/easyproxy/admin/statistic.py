"""``/statistic``: the page of the first EasyProxy, backends (on or off) and clients with their sessions. Pure.

It stays for those who have it in a bookmark or a script; the status page tells more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from easyproxy.control.status import ClientStatus, Status


@dataclass(frozen=True, slots=True)
class StatisticBackend:
    """A backend as the old page showed it: ``on`` is whether it takes sessions now."""

    address: str
    sessions: int
    on: bool


@dataclass(frozen=True, slots=True)
class StatisticClient:
    """A client address and its live sessions."""

    address: str
    sessions: int


@dataclass(frozen=True, slots=True)
class Statistic:
    """All that the old page shows."""

    backends: tuple[StatisticBackend, ...]
    clients: tuple[StatisticClient, ...]


def gather(status: Status, clients: Sequence[ClientStatus]) -> Statistic:
    """Take from the status what the old page shows."""
    return Statistic(
        backends=tuple(
            StatisticBackend(backend.address, backend.counters.sessions, backend.state == "ready")
            for pool in status.pools
            for backend in pool.backends
        ),
        clients=tuple(StatisticClient(client.address, client.sessions) for client in clients),
    )


def render(statistic: Statistic) -> str:
    """Render as a page without scripts. Every text from outside is escaped."""
    backends = "\n".join(
        f'<tr><td>{escape(backend.address)}</td><td class="number">{backend.sessions}</td>'
        f'<td class="{"on" if backend.on else "off"}">{"on" if backend.on else "off"}</td></tr>'
        for backend in statistic.backends
    )
    clients = "\n".join(
        f'<tr><td>{escape(client.address)}</td><td class="number">{client.sessions}</td></tr>'
        for client in statistic.clients
    )
    nobody = '<tr><td colspan="2" class="quiet">No client is connected.</td></tr>'
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Statistic · EasyProxy</title>
<link rel="icon" href="/static/icon-plain.svg">
<link rel="stylesheet" href="/static/base.css">
<link rel="stylesheet" href="/static/statistic.css">
<main>
<h1>Statistic</h1>
<p class="quiet">The short view. The <a href="/">status page</a> tells more.</p>
<h2>Backends</h2>
<table>
<thead><tr><th scope="col">Address</th><th scope="col" class="number">Sessions</th><th scope="col">State</th></tr></thead>
<tbody>
{backends}
</tbody>
</table>
<h2>Clients</h2>
<table>
<thead><tr><th scope="col">Address</th><th scope="col" class="number">Sessions</th></tr></thead>
<tbody>
{clients or nobody}
</tbody>
</table>
</main>
</html>
"""
