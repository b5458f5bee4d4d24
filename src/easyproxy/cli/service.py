"""``easyproxy run`` under a service manager: the sockets that it gives, and the words in which it is told how things are."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from easyproxy.admin.headline import summarise
from easyproxy.control.activation import activated
from easyproxy.engine.relay.inherited import Group, Inherited
from easyproxy.model import Listener

if TYPE_CHECKING:
    from collections.abc import Iterable

    from easyproxy.config.schema import Config
    from easyproxy.control.status import Status

log = logging.getLogger("easyproxy")


def sockets_given(config: Config) -> Inherited:
    """Take over the listening sockets of a service manager, and warn of those that no listener of ``config`` has."""
    groups, problems = activated()
    inherited = Inherited(Group(each.name, each.sockets, is_lent=True) for each in groups)
    for problem in problems:
        log.warning("socket activation: %s", problem)
    for address in inherited.unused(_named(config)):
        log.warning(
            "socket activation: no listener is configured for %s; its clients wait without an answer", address
        )
    return inherited


def _named(config: Config) -> Iterable[Listener]:
    return (Listener(listener.name, listener.bind, listener.pool) for listener in config.listeners)


def words(status: Status) -> str:
    """Say in one line how things are: ``All 3 backends ready; 12 sessions``."""
    sessions = sum(listener.counters.sessions for listener in status.listeners)
    return f"{summarise(status).title}; {sessions} {'session' if sessions == 1 else 'sessions'}"
