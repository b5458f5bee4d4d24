"""Redis servers that follow each other, and what becomes of them."""

from __future__ import annotations

import signal
from pathlib import Path

from eventually import eventually

from ports import free_port
from programs import Program, run_client


class RedisNode:
    """One redis-server that can be killed and started again. It keeps its data in ``folder`` only when told to save."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._program: Program | None = None
        self._login: tuple[str, ...] = ()

    def start(self, *options: str, login: tuple[str, ...] = (), patience: bool = True) -> None:
        """Start it; ``login`` are the words by which redis-cli logs in."""
        self._login = login
        self._program = Program(
            [
                "redis-server",
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""),
                *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
                *options,
            ],
            self.folder / "log.txt",
        )
        if patience:
            self._program.wait_until(lambda: "PONG" in self._answer(), f"{self.name} answers")

    def start_sentinel(self, file: Path) -> None:
        """Start it as a Sentinel that watches nobody."""
        self._program = Program(
            ["redis-server", str(file), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"],
            self.folder / "log.txt",
        )
        self._program.wait_until(lambda: "PONG" in self._answer(), f"{self.name} answers")

    def start_tls(self, key: Path, certificate: Path) -> None:
        """Start it with TLS on its only port."""
        files = (
            "--tls-key-file",
            str(key),
            "--tls-cert-file",
            str(certificate),
            "--tls-ca-cert-file",
            str(certificate),
        )
        self.start(
            *("--tls-port", str(self.port), "--port", "0", "--tls-auth-clients", "no", *files),
            login=("--tls", "--cacert", str(certificate), "--sni", "db.example"),
        )

    def _answer(self) -> str:
        try:
            return self.cli("PING")
        except AssertionError as error:
            return str(error).partition("\n")[2]

    def cli(self, *words: str) -> str:
        return run_client(
            "redis-cli", "-p", str(self.port), "--no-auth-warning", *self._login, *words
        ).strip()

    def info(self, section: str) -> dict[str, str]:
        pairs = (line.strip().partition(":") for line in self.cli("INFO", section).splitlines())
        return {name: value for name, colon, value in pairs if colon}

    def follow(self, primary: RedisNode) -> None:
        """Follow ``primary``, and wait until it has all its data."""
        self.cli("REPLICAOF", "127.0.0.1", str(primary.port))
        eventually(lambda: self.info("replication").get("master_link_status") == "up", f"{self.name} follows")

    def promote(self) -> None:
        assert self.cli("REPLICAOF", "NO", "ONE") == "OK"

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        assert self._program is not None
        self._program.send(number)

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._program is not None
        self._program.kill()
        self._program = None

    def stop(self) -> None:
        if self._program is not None:
            self._program.send(signal.SIGCONT)
            self._program.stop()
            self._program = None
