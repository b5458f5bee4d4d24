"""PostgreSQL with streaming replication: a primary, standbys made from it, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from eventually import eventually
from proxy import name_of

from ports import free_port
from programs import Program, run_client
from servers.postgresql import USER, binary

AS_USER = {} if USER is None else {"user": USER, "group": USER, "extra_groups": []}
WORD = "hunter2-hunter2"
"""The password of every account that has one."""
PLACES = 40
"""For so many clients."""

_ACCESS = """
local all all trust
host replication replicator 127.0.0.1/32 trust
host all app 127.0.0.1/32 trust
host all trusted 127.0.0.1/32 trust
host all weak 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
hostssl all secure 127.0.0.1/32 scram-sha-256
hostnossl all secure 127.0.0.1/32 reject
host all outcast 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
"""
_ACCOUNTS = f"""
CREATE ROLE replicator REPLICATION LOGIN;
CREATE ROLE app LOGIN;
CREATE ROLE trusted LOGIN;
CREATE ROLE monitor LOGIN PASSWORD '{WORD}' IN ROLE pg_monitor;
CREATE ROLE blind LOGIN PASSWORD '{WORD}';
CREATE ROLE secure LOGIN PASSWORD '{WORD}' IN ROLE pg_monitor;
CREATE ROLE clear LOGIN PASSWORD '{WORD}' IN ROLE pg_monitor;
CREATE ROLE narrow LOGIN PASSWORD '{WORD}' CONNECTION LIMIT 0;
SET password_encryption = 'md5';
CREATE ROLE weak LOGIN PASSWORD '{WORD}' IN ROLE pg_monitor;
CREATE TABLE written (attempt bigint PRIMARY KEY, port int);
GRANT ALL ON written TO app;
"""


def run(*argv: str, cwd: Path) -> None:
    """Run one of PostgreSQL's programs as the user who owns its files."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, **AS_USER)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"


class Node:
    """One server of a cluster. It survives being killed: ``start`` begins again where it was."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir()
        if USER is not None:
            shutil.chown(folder, USER, USER)
        self.data = folder / "data"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.socket = folder / f".s.PGSQL.{self.port}"
        self._program: Program | None = None
        self._orphans: list[int] = []

    def start(self, *options: str, patience: bool = True) -> None:
        # It refuses to start while processes of a killed postmaster hold the shared memory.
        eventually(lambda: not any(map(name_of, self._orphans)), f"what was left of {self.name} has ended")
        settings = [
            *("listen_addresses=127.0.0.1", "fsync=off", f"max_connections={PLACES}", "wal_keep_size=128MB"),
            *("shared_buffers=16MB", "wal_retrieve_retry_interval=200ms", "max_wal_senders=10"),
            "log_checkpoints=off",  # they come from time to time
            *options,
        ]
        self._program = Program(
            [
                binary("postgres"),
                *("-D", str(self.data), "-k", str(self.folder), "-p", str(self.port)),
                *(word for setting in settings for word in ("-c", setting)),
            ],
            self.folder / "log.txt",
            user=USER,
            cwd=self.folder,
        )
        if patience:
            self._program.wait_until(self.answers, f"{self.name} answers")

    def answers(self) -> bool:
        done = subprocess.run(self._psql("SELECT 1"), capture_output=True, check=False)
        return done.returncode == 0

    def _psql(self, statement: str) -> list[str]:
        where = ("-h", str(self.folder), "-p", str(self.port), "-U", "tester", "-d", "postgres")
        return [binary("psql"), *where, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]

    def sql(self, statement: str) -> str:
        """Run a statement as the superuser, over the unix socket."""
        return run_client(*self._psql(statement)).strip()

    def set(self, name: str, value: str) -> None:
        """Change a setting for good."""
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")

    def promote(self) -> None:
        self.sql("SELECT pg_promote()")

    def is_caught_up(self) -> bool:
        """Whether a standby streams, and has replayed all that came."""
        return (
            self.sql(
                "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
                " AND coalesce(latest_end_lsn, '0/0') <= pg_last_wal_replay_lsn()"
            )
            == "1"
        )

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def log_since(self, before: str) -> list[str]:
        """What was written since, without what a server says of itself from time to time."""
        return [line for line in self.log[len(before) :].splitlines() if "checkpoint" not in line]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the postmaster alone."""
        assert self._program is not None
        self._program.send(number)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server."""
        assert self._program is not None
        for pid in (self._program.pid, *self._children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _children(self) -> list[int]:
        """Return its processes: they have sessions of their own (setsid), so a process group does not do."""
        assert self._program is not None
        tasks = Path(f"/proc/{self._program.pid}/task/{self._program.pid}/children")
        return [int(pid) for pid in tasks.read_text().split()]

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is the fast shutdown, SIGKILL a crash. A crash leaves its processes to notice by themselves."""
        if self._program is None:
            return
        if self._program.process.poll() is None:
            self._orphans = self._children()
            self._program.send(signal.SIGCONT)
            self._program.send(number)
        self._program.ended()
        self._program = None

    @property
    def is_running(self) -> bool:
        return self._program is not None


class Cluster:
    """A primary ``a``, and standbys that are made from it. Certificates in ``folder``: ``ca.pem`` is for ``db.example``."""

    def __init__(self) -> None:
        # pytest's own folders are closed to other users; a socket's path may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ep-pg-"))
        self.folder.chmod(0o755)
        self.nodes: list[Node] = []

    def primary(self, name: str, *options: str) -> Node:
        """Make and start a primary of its own."""
        node = self._node(name)
        run(
            binary("initdb"),
            *("-D", str(node.data), "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"),
            cwd=node.folder,
        )
        (node.data / "pg_hba.conf").write_text(_ACCESS)
        key, certificate = node.data / "server.key", node.data / "server.crt"
        run_client(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
            *("-keyout", str(key), "-out", str(certificate)),
            *("-subj", "/CN=db.example", "-addext", "subjectAltName=DNS:db.example"),
        )
        shutil.copy(certificate, self.folder / "ca.pem")
        for path in (key, certificate):
            path.chmod(0o600)
            if USER is not None:
                shutil.chown(path, USER, USER)
        node.start("ssl=on", *options)
        node.sql(_ACCOUNTS)
        return node

    def standby(self, name: str, primary: Node, *options: str) -> Node:
        """Make a standby by a base backup, and wait until it has caught up."""
        node = self._node(name)
        run(
            binary("pg_basebackup"),
            *("-D", str(node.data), "-h", "127.0.0.1", "-p", str(primary.port), "-U", "replicator"),
            *("-R", "-X", "stream", "--checkpoint=fast", "--no-sync"),
            cwd=node.folder,
        )
        node.start("ssl=on", *options)
        eventually(node.is_caught_up, f"{name} has caught up")
        return node

    def _node(self, name: str) -> Node:
        node = Node(name, self.folder / name)
        self.nodes.append(node)
        return node

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)
