"""Methods of authentication that only MySQL serves: the check logs in wherever PyMySQL does, and tells no secret."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pymysql
import pytest
from checks_support import look
from mysql_speaker import OK, Speaker, speaking
from pydantic import SecretStr

from easyproxy.engine.seam import Observation, Outcome
from easyproxy.health.checks.mysql import MysqlCheck
from easyproxy.model import Address

pytestmark = pytest.mark.anyio
WORD = "correct horse battery staple"
NATIVE = "mysql_native_password"
CASES = {
    "hash known": {"method": "caching_sha2_password", "is_cached": True},
    "hash known, after a switch": {
        "method": "caching_sha2_password",
        "is_cached": True,
        "greets_with": NATIVE,
    },
    "hash not known": {"method": "caching_sha2_password"},
    "hash not known, after a switch": {"method": "caching_sha2_password", "greets_with": NATIVE},
    "sha256": {"method": "sha256_password"},
    "sha256, after a switch": {"method": "sha256_password", "greets_with": NATIVE},
    "clear": {"method": "mysql_clear_password", "greets_with": NATIVE},
    "dialog": {"method": "dialog", "greets_with": NATIVE},
}
NEEDS_TLS = {"clear", "dialog"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=db.example",
            ),
            *("-addext", "subjectAltName=DNS:db.example", "-keyout", str(folder / "key"), "-out"),
            str(folder / "pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "pem"


def context(certificate: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, certificate.with_name("key"))
    return made


def pymysql_logs_in(address: Address, certificate: Path | None) -> None:
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(cafile=certificate)
        tls.check_hostname = False
    with pymysql.connect(
        host=address.host, port=address.port, user="monitor", password=WORD, ssl=tls, connect_timeout=20
    ) as connection:
        cursor = connection.cursor()
        cursor.execute("SHOW GLOBAL VARIABLES")
        assert cursor.fetchone() == ("read_only", "OFF")


async def ours(address: Address, certificate: Path | None, word: str = WORD) -> Observation:
    more = (
        {} if certificate is None else {"tls": True, "tls_ca": str(certificate), "server_name": "db.example"}
    )
    found = await look(address, MysqlCheck(user="monitor", password=SecretStr(word), **more))
    assert word not in repr(found)
    return found


@pytest.mark.parametrize(
    ("case", "tls"), [(case, tls) for case in CASES for tls in (False, True) if tls or case not in NEEDS_TLS]
)
async def test_wherever_pymysql_logs_in_the_check_does(case, tls, certificate):
    ca = certificate if tls else None

    def speaker() -> Speaker:
        return Speaker(**CASES[case], password=WORD.encode(), tls=context(certificate) if tls else None)

    with speaking(speaker) as address:
        await asyncio.to_thread(pymysql_logs_in, address, ca)
        found = await ours(address, ca)
        assert (found.outcome, found.detail) == (Outcome.SUCCESS, "primary, 8.4.3")
        wrong = await ours(address, ca, "another")
        assert wrong.detail == "alive, role unknown: Access denied (error 1045), 8.4.3"


@pytest.mark.parametrize("case", [*CASES, "old"])
async def test_without_tls_nothing_that_is_sent_holds_the_password(case):
    cases = CASES | {"old": {"method": "mysql_old_password", "greets_with": NATIVE}}
    speaker = Speaker(**cases[case], password=WORD.encode())
    with speaking(lambda s=speaker: s) as address:
        found = await ours(address, None)
    assert WORD.encode() not in speaker.seen_in_clear
    if case in NEEDS_TLS:
        assert "goes out only with tls: true" in found.detail
        assert found.detail.startswith("alive, role unknown: ")


async def test_an_old_password_is_refused_with_the_reason():
    speaker = Speaker("mysql_old_password", WORD.encode(), greets_with=NATIVE)
    with speaking(lambda s=speaker: s) as address:
        found = await ours(address, None)
    assert found.detail.startswith("alive, role unknown: the account has a password of before MySQL 4.1")


async def test_a_dialog_of_several_questions_is_answered_while_they_are_about_the_password(certificate):
    for questions, is_let_in in (
        ((b"\x04Password: ", b"\x05Password again: "), True),
        ((b"\x04Password: ", b"\x03Name of your first pet: "), False),
    ):
        speaker = Speaker(
            "dialog", WORD.encode(), greets_with=NATIVE, tls=context(certificate), questions=questions
        )
        with speaking(lambda s=speaker: s) as address:
            found = await ours(address, certificate)
        assert (found.detail == "primary, 8.4.3") is is_let_in, found.detail
    assert "asked for more than its password" in found.detail


async def test_what_is_said_in_clear_text_before_tls_is_not_taken_for_said_within(certificate):
    """As in CVE-2021-23222: somebody on the way puts bytes before the handshake."""

    class Injecting(Speaker):
        def _send(self, payload: bytes) -> None:
            super()._send(payload)
            if self._number == 0 and not self._is_tls:
                super()._send(OK)

    speaker = Injecting("caching_sha2_password", WORD.encode(), tls=context(certificate))
    with speaking(lambda s=speaker: s) as address:
        found = await ours(address, certificate)
    assert found.outcome is Outcome.FAILED
    assert WORD.encode() not in speaker.seen_in_clear
