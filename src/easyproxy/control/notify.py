"""What a service manager is told: ready, reloading, stopping, still alive. sd_notify(3) without a dependency.

One datagram of ``KEY=VALUE`` lines to the socket that ``NOTIFY_SOCKET`` names. Without that variable nothing is sent, so
callers need not ask. Telling never waits and never fails: a service manager that does not listen must not end us.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

_DIGITS = 18  # of microseconds: longer than anybody waits
_SOONEST_S = 0.02  # nobody can be asked for signs of life all the time
_STATUS_LENGTH = 400  # what systemctl shows in one line; a datagram must stay small


class Notifier:
    """Tells the service manager; owns one datagram socket, which :meth:`close` closes.

    Args:
        address: of the service manager's socket: a path, or an abstract name behind ``@``; empty for none.
        watchdog_s: how soon the next sign of life must come; 0 when none is expected.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self.watchdog_s = watchdog_s
        # "@name" is a name in the abstract namespace, which unix(7) writes with a leading NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):  # others (vsock:) are for whole machines
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` (sd_watchdog_enabled(3))."""
        watchdog_s = 0.0
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            with contextlib.suppress(ValueError):
                asked = int(environment.get("WATCHDOG_USEC", "0")[:_DIGITS])
                watchdog_s = max(_SOONEST_S, asked / 1e6) if asked > 0 else 0.0
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_s)

    @property
    def is_heard(self) -> bool:
        """Whether there is somebody to tell."""
        return self._socket is not None

    def tell(self, **values: str | int) -> bool:
        """Send these values in one message; return whether it was taken."""
        if self._socket is None:
            return False
        # A value ends at its line: what an operator wrote into a name must not become a message of its own.
        lines = [f"{key}={' '.join(str(value).split())}" for key, value in values.items()]
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError:
            return False
        return True

    def ready(self, status: str = "") -> bool:
        """Say that clients are served, or that a reload has ended."""
        return self.tell(READY=1, **_status(status))

    def reloading(self, status: str = "reloading") -> bool:
        """Say that a reload begins; :meth:`ready` must follow. ``Type=notify-reload`` wants to know since when."""
        return self.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000, **_status(status))

    def stopping(self, status: str = "", within_s: float = 0.0) -> bool:
        """Say that the end begins, and how long it may take (EXTEND_TIMEOUT_USEC; 0 says nothing of it)."""
        extend = {"EXTEND_TIMEOUT_USEC": int(within_s * 1e6)} if within_s > 0 else {}
        return self.tell(STOPPING=1, **extend, **_status(status))

    def status(self, text: str) -> bool:
        """Say in one line what goes on; ``systemctl status`` shows it."""
        return self.tell(**_status(text))

    def main_process(self, pid: int) -> bool:
        """Say that another process goes on for this one (an upgrade)."""
        return self.tell(MAINPID=pid)

    def alive(self) -> bool:
        """Give the sign of life that the watchdog waits for."""
        return self.tell(WATCHDOG=1)

    async def keep_alive(self, status: Callable[[], str], every_s: float = 10.0) -> None:
        """Give signs of life and the status until cancelled; return at once when nobody listens.

        It runs in the event loop that health checks and snapshots need: when the loop stands still, the signs stop.
        """
        if not self.is_heard:
            return
        if self.watchdog_s > 0:  # twice as often as is asked for, as sd_watchdog_enabled(3) recommends
            every_s = min(every_s, self.watchdog_s / 2)
        while True:
            try:
                text = status()
            except Exception:  # noqa: BLE001 - a sentence that cannot be made is no reason to be ended
                text = ""
            self.tell(WATCHDOG=1, **_status(text))
            await asyncio.sleep(every_s)

    def close(self) -> None:
        """Close the socket; whatever is told afterwards is lost."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _status(text: str) -> dict[str, str]:
    return {"STATUS": text[:_STATUS_LENGTH]} if text else {}
