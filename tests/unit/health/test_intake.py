"""What a probe reads: exact amounts out of a budget, however the bytes come."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.intake import Intake


class Pieces:
    """Stands for a connection; gives the pieces one by one."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def read_some(self, limit: int) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if len(piece) > limit:
            self._pieces.insert(0, piece[limit:])
        return piece[:limit]


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=20), st.data())
def test_the_bytes_are_the_same_however_they_are_cut(pieces, data):
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def read() -> bytes:
        intake = Intake(Pieces(*pieces), len(whole))
        return b"".join([await intake.exactly(size) for size in sizes])

    assert asyncio.run(read()) == whole


def test_lines_end_with_cr_lf():
    async def read() -> list[bytes]:
        intake = Intake(Pieces(b"one\r", b"\ntwo\r\nthree"), 100)
        return [await intake.line(10), await intake.line(10), await intake.exactly(5)]

    assert asyncio.run(read()) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("wanted", [2049, 2**31])
def test_no_length_that_a_server_names_gets_more_than_the_budget(wanted):
    intake = Intake(Pieces(b"x" * 4096), 2048)
    with pytest.raises(ProbeFailed, match="more than the 2 KiB"):
        asyncio.run(intake.exactly(wanted))


def test_a_line_without_end_is_given_up():
    with pytest.raises(ProbeFailed, match="a line of more than 10 bytes"):
        asyncio.run(Intake(Pieces(b"x" * 100), 1000).line(10))


def test_an_early_end_is_an_end_and_not_a_short_answer():
    with pytest.raises(EOFError):
        asyncio.run(Intake(Pieces(b"abc"), 100).exactly(4))


def test_what_came_too_early_is_seen_and_not_taken():
    async def look() -> tuple[bool, bytes]:
        intake = Intake(Pieces(b"abcdef"), 100)
        await intake.exactly(3)
        return intake.is_empty, intake.held(2)

    assert asyncio.run(look()) == (False, b"de")
