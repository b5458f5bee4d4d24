"""Redis without persistence."""

from __future__ import annotations

from pathlib import Path

from ports import free_port
from programs import Program, is_listening


class Redis:
    """One redis-server."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._program = Program(
            [
                "redis-server",
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
                *("--save", "", "--appendonly", "no"),
            ],
            folder / "output.txt",
        )
        try:
            self._program.wait_until(lambda: is_listening(self.port), "redis accepts connections")
        except BaseException:
            self._program.stop()
            raise

    @property
    def log(self) -> str:
        return self._program.text()

    def stop(self) -> None:
        self._program.stop()
