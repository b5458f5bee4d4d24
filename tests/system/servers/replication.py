"""MariaDB with replicas: GTID, semi-synchronous, each read-only until it is promoted, as one would run it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from eventually import eventually

from servers.mariadb import MariaDb

NAMES = ("a", "b", "c")
MONITOR, WRITER, REPLICATOR = "monitor", "writer", "replicator"
PASSWORD = "watching-the-servers"  # noqa: S105 - of this test's own servers

_ACCOUNTS = f"""
SET sql_log_bin = 0;
CREATE USER {MONITOR}@'%' IDENTIFIED BY '{PASSWORD}';
GRANT SLAVE MONITOR ON *.* TO {MONITOR}@'%';
CREATE USER {REPLICATOR}@'%'; GRANT REPLICATION SLAVE ON *.* TO {REPLICATOR}@'%';
CREATE USER {WRITER}@'%'; GRANT SELECT, INSERT ON shop.* TO {WRITER}@'%';
CREATE TABLE shop.numbered (
  id BIGINT PRIMARY KEY, server INT NOT NULL, at DATETIME(6) NOT NULL, session BIGINT NOT NULL
);
"""


def _options(number: int) -> tuple[str, ...]:
    return (
        f"--server-id={number}",
        "--log-bin=binlog",
        "--binlog-format=ROW",
        "--log-slave-updates=1",
        "--gtid-strict-mode=1",
        "--read-only=1",
        "--slave-net-timeout=5",
        "--plugin-load-add=auth_ed25519",
        # A commit is acknowledged when a replica has it. Without a replica it waits for longer than any test takes.
        # Who is promoted turns it on: a replica that has it waits for replicas of its own.
        "--rpl-semi-sync-slave-enabled=1",
        "--rpl-semi-sync-master-timeout=3600000",
        "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
    )


class Replication:
    """The servers ``a``, ``b`` and ``c``, by name; ``a`` is the primary at first.

    Attributes:
        changed_at: when a server was last promoted or made a replica, by the monotonic clock.
    """

    def __init__(self, template: Path, folder: Path) -> None:
        self.servers: dict[str, MariaDb] = {}
        self.changed_at = 0.0
        try:
            for number, name in enumerate(NAMES, 1):
                server = MariaDb(name, template, folder / name, options=_options(number))
                self.servers[name] = server
                server.sql(_ACCOUNTS)
            self.lead("a")
            for name in NAMES[1:]:
                self.follow(name, "a")
            for name in NAMES[1:]:
                eventually(lambda n=name: self.lag(n) == 0, f"{name} follows")
        except BaseException:
            self.stop()
            raise

    def __getitem__(self, name: str) -> MariaDb:
        return self.servers[name]

    def lead(self, name: str) -> None:
        """Promote a server: it follows nobody, and takes writes."""
        self[name].sql(
            "STOP ALL SLAVES; RESET SLAVE ALL; SET GLOBAL rpl_semi_sync_master_enabled = 1; SET GLOBAL read_only = 0"
        )
        self.changed_at = time.monotonic()

    def follow(self, name: str, primary: str) -> None:
        """Make a server a replica of another."""
        self[name].sql(
            "SET GLOBAL read_only = 1; SET GLOBAL rpl_semi_sync_master_enabled = 0; STOP ALL SLAVES;"
            # One that was a primary has a position too: that of its own log.
            "SET GLOBAL gtid_slave_pos = @@gtid_current_pos;"
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {self[primary].port},"
            f" MASTER_USER = '{REPLICATOR}', MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1;"
            "START SLAVE"
        )
        self.changed_at = time.monotonic()

    def status(self, name: str) -> Mapping[str, str]:
        """Return what SHOW SLAVE STATUS says."""
        text = self[name].sql_text("SHOW SLAVE STATUS\\G")
        pairs = (line.partition(":") for line in text.splitlines())
        return {key.strip(): value.strip() for key, colon, value in pairs if colon}

    def lag(self, name: str) -> int | None:
        """Return by how much a replica is behind; None if it does not know."""
        value = self.status(name).get("Seconds_Behind_Master", "NULL")
        return None if value == "NULL" else int(value)

    def position(self, name: str) -> int:
        """Return how far the log of a server goes: the number of its last transaction, received or executed."""
        texts = [self[name].sql("SELECT @@gtid_current_pos")[0][0], self.status(name).get("Gtid_IO_Pos", "")]
        return max(
            (
                int(each.rsplit("-", 1)[1])
                for text in texts
                for each in text.split(",")
                if each.count("-") == 2
            ),
            default=0,
        )

    def wait_until_applied(self, name: str, position: int) -> None:
        """Wait until a replica has executed all up to a position, as who promotes it must."""

        def applied() -> bool:
            text = self[name].sql("SELECT @@gtid_current_pos")[0][0]
            return any(int(each.rsplit("-", 1)[1]) >= position for each in text.split(",") if each)

        eventually(applied, f"{name} has executed all that it was sent")

    def furthest(self, *names: str) -> str:
        """Return the one of several replicas that has received the most."""
        return max(names, key=self.position)

    def stop(self) -> None:
        for server in self.servers.values():
            server.stop()
