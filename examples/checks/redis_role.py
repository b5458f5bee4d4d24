"""A check of one's own: only the Redis server that has the wanted role is healthy.

Put the file beside the configuration, or where Python finds it (PYTHONPATH):

    pools:
      redis:
        check: {type: "redis_role:RedisRole", options: {role: master}, interval: 2s}
        backends: [10.0.0.1:6379, 10.0.0.2:6379]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks import Check, Target

ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class RedisRole(Check):
    """Asks ``INFO replication``. The fields are the options of the configuration."""

    role: str = "master"

    async def probe(self, target: Target) -> str:
        """Return what an operator reads while the backend is healthy; raise ProbeFailed with the reason if not."""
        reader, writer = await asyncio.open_connection(target.address.host, target.address.port)
        try:
            writer.write(b"INFO replication\r\nQUIT\r\n")
            answer = b""
            # A server may send anything, and for ever: bound what is read. The monitor bounds the time.
            while len(answer) < ANSWER_BYTES and (data := await reader.read(4096)):
                answer += data
        finally:
            writer.close()  # whatever happens, a probe closes what it opened
        if answer.startswith(b"-"):
            raise ProbeFailed(f"Redis says {answer[1:].splitlines()[0].decode(errors='replace')}")
        facts = dict(line.split(b":", 1) for line in answer.splitlines() if b":" in line)
        role = facts.get(b"role", b"unknown").decode(errors="replace")
        if role != self.role:
            raise ProbeFailed(f"the role is {role}, not {self.role}")
        return f"{role} with {int(facts.get(b'connected_slaves', 0))} replicas"
