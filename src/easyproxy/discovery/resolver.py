"""The system's resolver, asked from threads of its own.

getaddrinfo(3) blocks for as long as name servers are silent, tens of seconds with several of them, and cannot be
stopped. So it is kept apart: no other work waits for a thread that waits for it, a name that hangs is not asked for
a second time meanwhile, and the threads are daemons, for which the end of the program does not wait.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from concurrent.futures import Future

AT_ONCE = 64
"""How many names may hang before others have to wait."""


class Resolver:
    """Finds the addresses of names. Any thread may ask; a thread lives as long as there are questions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[str, Future[list[str]]] = {}
        self._waiting: deque[str] = deque()
        self._threads = 0

    def ask(self, host: str) -> Future[list[str]]:
        """Return what will hold the addresses of a name, in the system's order, or the error of getaddrinfo.

        Raises:
            OSError: the system gives no thread.
        """
        with self._lock:
            answer = self._asked.get(host)
            if answer is not None:
                return answer
            if self._threads < AT_ONCE:
                try:
                    threading.Thread(target=self._work, name="easyproxy-names", daemon=True).start()
                except RuntimeError as error:
                    if not self._threads:
                        raise OSError(f"{host} cannot be asked for: {error}") from error
                else:
                    self._threads += 1
            answer = self._asked[host] = Future()
            answer.set_running_or_notify_cancel()  # others may wait for it: nobody cancels it
            self._waiting.append(host)
            return answer

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                host = self._waiting.popleft()
            found: list[str] = []
            failure: Exception | None = None
            try:
                for *_, where in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
                    if isinstance(where[0], str):  # else of a family that this Python does not know
                        found.append(where[0])
            except Exception as error:  # noqa: BLE001 - it is told to those who have asked
                failure = error
            with self._lock:
                answer = self._asked.pop(host)
            if failure is None:
                answer.set_result(found)
            else:
                answer.set_exception(failure)
