"""All kinds of conversation that drivers hold with real servers are followed to their end: none is taken for another."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path

import asyncpg
import pymysql
import pytest
from proxy import simple
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor
from servers.mariadb import MariaDb

from easyproxy import Balancer
from easyproxy.model import Address

pytestmark = pytest.mark.anyio


def followed(address: str, protocol: str) -> dict[str, object]:
    drain = {"when": "between_transactions", "protocol": protocol}
    return simple({"name": "db", "address": address}, drain=drain, check={"type": "none"})


async def known(balancer: Balancer) -> str:
    """Return what is known of the one session."""
    [session] = await balancer.sessions()
    return session.transaction


async def test_postgresql(postgresql):
    async with Balancer(followed(postgresql.address, "postgresql")) as balancer:
        port = Address.parse(balancer.addresses["l"]).port
        client = await asyncpg.connect(
            host="127.0.0.1", port=port, user="tester", database="postgres", ssl=False
        )

        async def is_over() -> None:
            assert await known(balancer) == "none"

        await is_over()
        await client.execute("CREATE TABLE followed (n int, v text); SELECT 1; SELECT 2")
        await is_over()
        await client.executemany("INSERT INTO followed VALUES ($1, $2)", [(n, "Z") for n in range(3000)])
        await is_over()
        await client.copy_records_to_table("followed", records=[(n, "x" * 50) for n in range(20_000)])
        await is_over()
        await client.copy_from_query("SELECT * FROM followed", output=io.BytesIO())
        await is_over()
        for wrong in ("SELECT broken", "SELECT 1; SELECT 1/0"):
            with contextlib.suppress(asyncpg.PostgresError):
                await client.execute(wrong)
            await is_over()
        with contextlib.suppress(asyncpg.PostgresError):
            await client.copy_to_table("followed", source=io.BytesIO(b"no number\n"))
        await is_over()
        async with client.transaction():
            assert await known(balancer) == "open"
            async for _ in client.cursor("SELECT * FROM followed", prefetch=100):
                pass
            assert await known(balancer) == "open"
        await is_over()
        with contextlib.suppress(asyncpg.PostgresError):
            async with client.transaction():
                await client.execute("SELECT broken")
        await is_over()
        await client.add_listener("channel", lambda *_: None)
        await client.execute("NOTIFY channel")
        await is_over()
        await client.execute("DROP TABLE followed")
        await client.close()


async def test_mariadb(mariadbs, tmp_path):
    template = Path(mariadbs[0].folder).parent / "template"
    server = MariaDb("local", template, tmp_path / "local", options=("--local-infile=1",))
    (tmp_path / "rows").write_text("".join(f"{n}\tv{n}\n" for n in range(1, 20_000)))
    try:
        async with Balancer(followed(server.address, "mysql")) as balancer:
            port = Address.parse(balancer.addresses["l"]).port
            client = await asyncio.to_thread(
                pymysql.connect,
                host="127.0.0.1",
                port=port,
                user="app",
                database="shop",
                autocommit=True,
                client_flag=CLIENT.MULTI_STATEMENTS,
                local_infile=True,
                ssl_disabled=True,
            )

            def run(statement: str, kind: type | None) -> None:
                with contextlib.suppress(pymysql.MySQLError), client.cursor(kind) as cursor:
                    cursor.execute(statement)
                    cursor.fetchall()
                    while cursor.nextset():
                        cursor.fetchall()

            async def after(statement: str, kind: type | None = None) -> str:
                await asyncio.to_thread(run, statement, kind)
                return (await known(balancer)).partition(":")[0]

            for statement in (
                "SELECT 1",
                "SELECT 1; SELECT 2; DO 0; SELECT 3",
                "CREATE PROCEDURE p() BEGIN SELECT 1; SELECT * FROM sale; END",
                "CALL p()",
                f"LOAD DATA LOCAL INFILE '{tmp_path / 'rows'}' INTO TABLE sale",
                "LOAD DATA LOCAL INFILE '/nowhere' INTO TABLE sale",
                "SELECT REPEAT('x', 20000000)",
                "SELECT NULL, '', REPEAT('y', 300)",
                "PREPARE s FROM 'SELECT ?'",
                "EXECUTE s USING 1",
            ):
                assert await after(statement) == "none", statement
            assert await after("SELECT * FROM sale", SSCursor) == "none"
            assert await after("SELECT broken") == "unknown"
            assert await after("SELECT 1") == "none"
            assert await after("BEGIN; SELECT 1; SELECT broken") == "unknown"
            assert await after("SELECT 1") == "open", "the statement before the wrong one had begun it"
            assert await after("ROLLBACK") == "none"
            assert await after("XA START 'a'") == await after("XA END 'a'") == "open"
            assert await after("XA ROLLBACK 'a'") == "none"
            assert await after("SET autocommit = 0") == "none"
            assert await after("SELECT COUNT(*) FROM sale") == "open"
            assert await after("COMMIT") == "none"
            for call in (client.ping, lambda: client.select_db("shop")):
                await asyncio.to_thread(call)
                assert await known(balancer) == "none"
            await asyncio.to_thread(client.close)
    finally:
        server.stop()
