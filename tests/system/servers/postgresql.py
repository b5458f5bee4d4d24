"""PostgreSQL, which refuses to run as root: then it runs as the user ``postgres`` that Debian's package makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from ports import free_port
from programs import Program, is_listening
from servers.certificate import certify

USER = "postgres" if os.geteuid() == 0 else None


def binary(name: str) -> str:
    """Find a program of the newest installed PostgreSQL; Debian keeps them apart from the path."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    for home in reversed(homes):
        if (home / name).exists():
            return str(home / name)
    pytest.fail(f"PostgreSQL's {name} is not installed; tests/packages.sh installs what the tests need")


class PostgreSql:
    """One PostgreSQL; everybody on this machine may log in as ``tester``.

    Args:
        connections: how many it takes.
        has_tls: it encrypts for those who ask, with a certificate that nobody trusts.
        is_closed: it stays in recovery and takes nobody, as one that is starting up.
    """

    def __init__(self, *, connections: int = 200, has_tls: bool = False, is_closed: bool = False) -> None:
        self._has_tls = has_tls
        self._connections = connections
        self._is_closed = is_closed
        # pytest's own folders are closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="easyproxy-postgresql-"))
        self._program: Program | None = None
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        if USER is not None:
            shutil.chown(self.folder, USER, USER)
        data = self.folder / "data"
        made = subprocess.run(
            [
                binary("initdb"),
                *("-D", str(data), "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"),
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **({} if USER is None else {"user": USER, "group": USER, "extra_groups": []}),
        )
        assert made.returncode == 0, made.stdout + made.stderr
        ready = "ready to accept connections"
        if self._is_closed:
            (data / "standby.signal").touch()
            ready = "entering standby mode"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._program = Program(
            [
                binary("postgres"),
                *("-D", str(data), "-k", str(self.folder), "-p", str(self.port)),
                *(
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    "fsync=off",
                    "-c",
                    f"max_connections={self._connections}",
                ),
                *("-c", "log_connections=off", "-c", f"hot_standby={'off' if self._is_closed else 'on'}"),
                *self._tls_settings(),
            ],
            self.folder / "log.txt",
            user=USER,
            cwd=self.folder,
        )
        self._program.wait_until(
            lambda: ready in self.log and is_listening(self.port),
            "PostgreSQL accepts connections",
        )

    def _tls_settings(self) -> list[str]:
        if not self._has_tls:
            return []
        key, certificate = certify(self.folder)
        for file in (key, certificate):
            if USER is not None:
                shutil.chown(file, USER, USER)
        return ["-c", "ssl=on", "-c", f"ssl_cert_file={certificate}", "-c", f"ssl_key_file={key}"]

    @property
    def log(self) -> str:
        return self._program.text() if self._program is not None else ""

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
