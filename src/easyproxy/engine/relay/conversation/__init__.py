"""What client and server of a session say to each other, as far as it tells whether a transaction is open. Pure.

Both directions are followed message by message from the first byte on. Looking only at the last bytes would be cheaper and
wrong: what a row holds may look like the end of an answer, and a read may end right behind it (docs/decisions/0009). Whatever is
not understood is lost for good: then nothing is known, and nothing is closed for it.
"""

from __future__ import annotations

from easyproxy.engine.relay.conversation.base import BUSY, NONE, OPEN, UNKNOWN, Conversation
from easyproxy.engine.relay.conversation.mysql import MySql
from easyproxy.engine.relay.conversation.postgresql import PostgreSql

CONVERSATIONS: dict[str, type[Conversation]] = {"mysql": MySql, "postgresql": PostgreSql}
"""By the word of ``Pool.conversation``."""

__all__ = ["BUSY", "CONVERSATIONS", "NONE", "OPEN", "UNKNOWN", "Conversation", "MySql", "PostgreSql"]
