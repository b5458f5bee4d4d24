"""``easyproxy run`` under a service manager: the sockets that it gives, and the words in which it is told how things are."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from easyproxy.admin.headline import summarise
from easyproxy.control.activation import activated
from easyproxy.control.notify import Notifier
from easyproxy.control.wording import counted
from easyproxy.engine.relay.inherited import Group, Inherited
from easyproxy.model import Listener

if TYPE_CHECKING:
    from collections.abc import Iterable

    from easyproxy.balancer import Balancer
    from easyproxy.config.schema import Config
    from easyproxy.control.status import Status

log = logging.getLogger("easyproxy")

ENDING_S = 15.0
"""What a service manager may wait beyond ``drain_timeout``: workers, probes and the admin server end, too."""


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
    # Only the relay engine accepts on a socket.
    return (
        Listener(listener.name, listener.bind, listener.pool)
        for listener in config.listeners
        if listener.engine == "relay"
    )


def words(status: Status) -> str:
    """Say in one line how things are: ``All 3 backends ready; 12 sessions``."""
    sessions = sum(listener.counters.sessions for listener in status.listeners)
    return f"{summarise(status).title}; {counted(sessions, 'session')}"


class Told:
    """What a service manager hears of a balancer that serves: ready now, signs of life until :meth:`end`."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._notifier = Notifier.from_environment()
        self.ready()
        self._living = asyncio.get_running_loop().create_task(self._notifier.keep_alive(self._words))

    def _words(self) -> str:
        return words(self._balancer.status())

    def ready(self) -> None:
        """It serves; a reload has ended."""
        self._notifier.ready(self._words())

    def reloading(self) -> None:
        """A reload begins."""
        self._notifier.reloading()

    def stopping(self) -> None:
        """It drains, which may take as long as is configured."""
        self._notifier.stopping("draining", within_s=self._balancer.config.drain_timeout + ENDING_S)

    def successor(self, pid: int) -> None:
        """Another process is the main one from now on, and it alone speaks."""
        self._living.cancel()
        self._notifier.main_process(pid)

    async def end(self) -> None:
        """Say nothing more."""
        self._living.cancel()
        await asyncio.gather(self._living, return_exceptions=True)
        self._notifier.close()
