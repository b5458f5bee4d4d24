"""Where kernel listeners stand: numeric addresses, and ports that no other program takes by mistake.

The kernel would rewrite packets for an address whoever listens there. A bound socket that never listens keeps the port ours,
finds out that another program has it, and lets the system choose one where the configuration says 0.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace

from easyproxy.errors import EngineError
from easyproxy.model import Address, Listener


class Place:
    """The address of one listener; ``close`` gives it up."""

    def __init__(self, listener: Listener) -> None:
        """Bind. Raises EngineError where the address is not to be had."""
        self.asked = listener.bind
        host = listener.bind.host
        try:
            if host:
                found = socket.getaddrinfo(host, listener.bind.port, type=socket.SOCK_STREAM)[0]
                family, where = found[0], found[4]
            else:
                family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
                where = (host, listener.bind.port)
            try:
                self._socket = _bind(family, where, is_dual=not host)
            except OSError:
                if host:
                    raise
                self._socket = _bind(socket.AF_INET, where, is_dual=False)  # IPv6 is switched off
        except OSError as error:
            raise EngineError(
                f"listener {listener.name}: cannot listen on {listener.bind}: {error.strerror or error}"
            ) from error
        port = self._socket.getsockname()[1]
        self.address = Address(str(where[0]) if host else "", port)

    def close(self) -> None:
        """Give the port up."""
        self._socket.close()


def _bind(family: int, where: tuple[object, ...], *, is_dual: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    with ExitStack() as undo:
        undo.callback(sock.close)
        # The relay engine may hold it for a moment, until it knows of the same reload; it is ready to share it then.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_dual)
        sock.bind(where)
        undo.pop_all()
    return sock


class Places:
    """All of them, by the listener's name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Place] = {}

    def addresses(self) -> dict[str, str]:
        """Where each listener stands."""
        return {name: str(place.address) for name, place in self._by_name.items()}

    def prepare(self, listeners: tuple[Listener, ...], undo: ExitStack) -> dict[str, Place]:
        """Keep or take the places of these listeners; those newly taken are given up with ``undo``."""
        by_address = {place.asked: place for place in self._by_name.values() if place.asked.port}
        places = {}
        for listener in listeners:
            place = self._by_name.get(listener.name)
            if place is None or place.asked != listener.bind:
                place = by_address.get(listener.bind)
            if place is None:
                place = Place(listener)
                undo.callback(place.close)
            places[listener.name] = place
        return places

    def settle(self, places: dict[str, Place]) -> None:
        """Take over what was prepared, and give up the rest."""
        former, self._by_name = self._by_name, places
        kept = set(map(id, places.values()))
        for place in former.values():
            if id(place) not in kept:
                place.close()


def placed(listener: Listener, place: Place) -> Listener:
    """Return the listener with the numeric address and port that it has in truth."""
    return replace(listener, bind=place.address)
