"""The listening sockets of all listeners, as the control process has them: found, opened, kept, handed on, closed.

A listener keeps its sockets when it gets another name or other settings, and takes those of its address that somebody else has opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyproxy.engine.relay.inherited import LentSocket, address_of, close_group, lend, own
from easyproxy.engine.relay.listening import is_reachable, open_listener, share, tune
from easyproxy.errors import EngineError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Iterable, Iterator
    from contextlib import ExitStack

    from easyproxy.engine.relay.inherited import Inherited
    from easyproxy.model import Listener

    Groups = dict[str, list[socket.socket]]
    """By listener: one socket for all workers, or those that a predecessor of another version had for each."""


class Sockets:
    """Owns every listening socket, those that no listener has taken yet included; ``close`` it.

    Args:
        inherited: what others have opened; it is closed with this.
        complain: takes a line of text about a socket whose file somebody has removed.
    """

    def __init__(self, inherited: Inherited, complain: Callable[[str], None]) -> None:
        self.groups: Groups = {}
        self._inherited = inherited
        self._complain = complain
        self._listeners: dict[str, Listener] = {}
        self._lost: set[str] = set()  # and that was told

    # -- a snapshot

    def changed(self, listeners: Iterable[Listener]) -> list[Listener]:
        """Name those that are not in force as they are."""
        return [listener for listener in listeners if self._listeners.get(listener.name) != listener]

    def prepare(self, listeners: Iterable[Listener], undo: ExitStack, *, may_open: bool) -> Groups:
        """Find or open the sockets of these listeners; those newly opened are closed with ``undo``. Raises EngineError."""
        by_bind = {listener.bind: self.groups.get(name) for name, listener in self._listeners.items()}
        groups: Groups = {}
        for listener in listeners:
            former = self._listeners.get(listener.name)
            is_same = former is not None and former.bind == listener.bind
            # Port 0 is another port for every listener.
            group = self.groups.get(listener.name) if is_same else None
            if group is None and (listener.bind.port or listener.bind.path):
                group = by_bind.get(listener.bind)
            if group is None:
                if not may_open:
                    continue
                group = self._inherited.take(listener) or [open_listener(listener, self._all())]
                undo.callback(close_group, group)
            groups[listener.name] = group
        return groups

    def tune(self, groups: Groups, listeners: Iterable[Listener]) -> None:
        """Give those that have changed their settings. The last step: it is not undone. Raises EngineError."""
        for listener in self.changed(listeners):
            tune(groups.get(listener.name, []), listener)

    def settle(self, groups: Groups, listeners: Iterable[Listener]) -> Groups:
        """Take over what was prepared, and close the rest; return those that are not where they were."""
        former, self.groups = self.groups, groups
        self._listeners = {listener.name: listener for listener in listeners}
        self._lost &= self._listeners.keys()
        for group in former.values():
            if all(group is not kept for kept in groups.values()):
                close_group(group)
        return {name: group for name, group in groups.items() if former.get(name) is not group}

    def reopen_lost(self) -> Groups:
        """Listen anew where somebody has removed the file of a unix socket: no client finds the old one. Return the new ones.

        One that cannot be opened again is told once; the next call is the next attempt.
        """
        found: Groups = {}
        for name, group in self.groups.items():
            if all(is_reachable(sock) or isinstance(sock, LentSocket) for sock in group):
                continue
            path = self._listeners[name].bind.path
            try:
                found[name] = [open_listener(self._listeners[name])]
            except EngineError as error:
                if name not in self._lost:
                    self._lost.add(name)
                    self._complain(f"{error}. Somebody has removed its file; no client reaches it")
                continue
            self._lost.discard(name)
            self._complain(f"listener {name}: somebody had removed {path}; it is there again")
        for name, group in found.items():
            for sock in self.groups[name]:
                sock.close()  # without its file: that is the new one's
            self.groups[name] = group
        return found

    # -- of all of them

    def addresses(self) -> dict[str, str]:
        """Where each listener really listens."""
        return {name: str(address_of(group[0])) for name, group in self.groups.items()}

    def share(self, ports: Collection[int]) -> None:
        """Let others of this user bind to these ports beside ours, and to no others."""
        share(list(self._all()), ports)

    def _all(self) -> Iterator[socket.socket]:
        for group in (*self.groups.values(), *self._inherited.sockets()):
            yield from group

    def stop_listening(self) -> None:
        """Close those of all listeners."""
        for group in self.groups.values():
            close_group(group)
        self.groups = {}

    def close(self) -> None:
        """Close everything."""
        self.stop_listening()
        self._inherited.close()

    # -- an upgrade

    def lend(self, dropped: Collection[str]) -> None:
        """Leave the files of all but these listeners to a successor."""
        for name, group in self.groups.items():
            if name not in dropped:
                lend(group)

    def untaken(self) -> list[str]:
        """Name the listeners of a predecessor that are none here."""
        return self._inherited.untaken()

    def own(self) -> None:
        """Make those of a predecessor our own."""
        for group in self.groups.values():
            own(group)

    def begin(self) -> None:
        """Listen as the listeners say, where a predecessor has listened as his did, and close what no listener has taken."""
        for name, listener in self._listeners.items():
            try:
                tune(self.groups.get(name, []), listener)
            except EngineError as error:  # there is no way back any more
                self._complain(str(error))
        self._inherited.close_untaken()
