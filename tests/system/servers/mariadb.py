"""MariaDB: several servers from one fresh data directory, each strict about clients that leave without a word."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from ports import free_port
from programs import Program, find, run_client

_AS_ROOT = ["--user=root"] if os.geteuid() == 0 else []


def install(folder: Path) -> Path:
    """Make a data directory to copy for each server: root without a password, and no test database."""
    run_client(
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={folder}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--innodb-log-file-size=8M",
        *_AS_ROOT,
    )
    return folder


class MariaDb:
    """One mariadbd. ``prefix`` starts it elsewhere, for example in a network namespace; ``options`` are further ones."""

    def __init__(
        self,
        name: str,
        template: Path,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        prefix: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True)
        shutil.copytree(template, folder / "data")
        self.port = free_port()
        self.address = f"{host}:{self.port}"
        self.socket = folder / "s"
        self._command = [
            *prefix,
            find("mariadbd"),
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            f"--socket={self.socket}",
            f"--pid-file={folder / 'pid'}",
            f"--port={self.port}",
            f"--bind-address={host}",
            "--max-connections=600",
            "--max-connect-errors=3",
            "--performance-schema=on",
            "--log-warnings=4",
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-use-native-aio=0",
            *_AS_ROOT,
            *options,
        ]
        self.start()
        try:
            self.sql(
                "SET sql_log_bin = 0; CREATE USER easyproxy@'%'; CREATE USER app@'%'; GRANT ALL ON *.* TO app@'%';"
                "CREATE DATABASE shop; CREATE TABLE shop.sale (id BIGINT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT)"
            )
        except BaseException:
            self._program.stop()
            raise

    def start(self) -> None:
        """Start it, for the first time or again; it is where it was."""
        self._program = Program(self._command, self.folder / "error.log")
        try:
            self._program.wait_until(self._answers, "MariaDB accepts connections")
        except BaseException:
            self._program.stop()
            raise

    def _answers(self) -> bool:
        # A whole login, and not over TCP: nothing may be counted before the tests begin, nor late, when they have begun.
        ping = [find("mariadb-admin"), "--no-defaults", f"--socket={self.socket}", "-uroot", "ping"]
        return subprocess.run(ping, capture_output=True, check=False).returncode == 0

    def sql(self, statement: str) -> list[list[str]]:
        """Ask it directly, over its unix socket; return the rows."""
        return [line.split("\t") for line in self.sql_text(statement, "-N", "-B").splitlines()]

    def sql_text(self, statement: str, *form: str) -> str:
        """Ask it directly; return the answer in the client's own form."""
        return run_client(
            "mariadb", "--no-defaults", f"--socket={self.socket}", "-uroot", *form, "-e", statement
        )

    def count(self, variable: str) -> int:
        """Read a counter of SHOW GLOBAL STATUS."""
        return int(self.sql(f"SHOW GLOBAL STATUS LIKE '{variable}'")[0][1])

    def probes(self) -> int:
        """Return how often the heartbeat's account has logged in."""
        rows = self.sql(
            "SELECT SUM(TOTAL_CONNECTIONS) FROM performance_schema.accounts WHERE USER = 'easyproxy'"
        )
        return 0 if rows[0][0] == "NULL" else int(rows[0][0])

    def pause(self) -> None:
        """Stop it where it stands: its kernel goes on accepting for it."""
        self._program.send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._program.send(signal.SIGCONT)

    @property
    def log(self) -> str:
        return self._program.text()

    def kill(self) -> None:
        """Crash it."""
        self._program.kill()

    def freeze(self) -> None:
        """Stop its process where it is: the kernel goes on taking connections for it."""
        self._program.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._program.send(signal.SIGCONT)

    def stop(self) -> None:
        self.thaw()
        self._program.stop()
