"""Which slot of the shared counters belongs to which listener, pool or backend. Pure.

A backend that leaves the snapshot keeps its slot, because its sessions and its totals live on; a slot is given to
somebody else only when all have been given out, and then the one that left longest ago goes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyproxy.engine.relay.counters import ENDS_SLOT, SLOTS
from easyproxy.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable


class Slots:
    """Slots by key (``backend:pool/name``), in the order of their last use."""

    def __init__(self, size: int = SLOTS) -> None:
        self.by_key: dict[str, int] = {}
        self._size = size
        self._next = ENDS_SLOT + 1

    def assign(
        self, keys: Iterable[str], is_idle: Callable[[int], bool], clear: Callable[[int], None]
    ) -> None:
        """Give each key a slot; known keys keep theirs.

        Raises:
            EngineError: there are more listeners, pools and backends than slots.
        """
        wanted = dict.fromkeys(keys)
        for key in wanted:
            slot = self.by_key.pop(key, None)
            if slot is None:
                slot = self._free(wanted, is_idle, clear)
            self.by_key[key] = slot

    def _free(
        self, wanted: Collection[str], is_idle: Callable[[int], bool], clear: Callable[[int], None]
    ) -> int:
        if self._next < self._size:
            self._next += 1
            return self._next - 1
        for key, slot in self.by_key.items():
            if key not in wanted and is_idle(slot):
                del self.by_key[key]
                clear(slot)
                return slot
        raise EngineError(
            f"more than {self._size - 1:,} listeners, pools and backends are in use, those included that still have sessions"
        )
