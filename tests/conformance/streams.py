"""Endless random data that is the same every time, and the check that nothing of it was lost, added or swapped.

No sockets here. A stream costs no memory however long it is: its chunks are slices of one block at random offsets.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

CHUNK = 256 * KIB
_BLOCK = memoryview(random.Random("block").randbytes(4 * MIB + CHUNK))


class Stream:
    """``size`` bytes that follow from ``seed``."""

    def __init__(self, seed: str, size: int) -> None:
        self.seed = seed
        self.size = size

    def chunks(self) -> Iterator[memoryview]:
        """Yield the bytes in order, in pieces of up to 256 KiB."""
        offsets = random.Random(self.seed)
        left = self.size
        while left:
            offset = offsets.randrange(4 * MIB)
            length = min(CHUNK, left)
            yield _BLOCK[offset : offset + length]
            left -= length

    def digest(self) -> str:
        """Return the SHA-256 of the whole."""
        sha = hashlib.sha256()
        for chunk in self.chunks():
            sha.update(chunk)
        return sha.hexdigest()


class Check:
    """Compares what arrives, in pieces of any size, with a stream; says where the first wrong byte stands.

    The digest is computed over what really arrived, so that a test can state its claim on hashes.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.received = 0
        self._sha = hashlib.sha256()
        self._chunks = stream.chunks()
        self._expected = memoryview(b"")

    def feed(self, data: memoryview) -> None:
        """Take the next bytes. Raises AssertionError at the first difference."""
        self._sha.update(data)
        while data:
            if not self._expected:
                self._expected = next(self._chunks, memoryview(b""))
                assert self._expected, f"{len(data)} bytes too many after {self.received}"
            length = min(len(data), len(self._expected))
            if data[:length] != self._expected[:length]:
                wrong = next(i for i in range(length) if data[i] != self._expected[i])
                raise AssertionError(
                    f"byte {self.received + wrong} of {self.stream.size} is not the one that was sent"
                )
            self.received += length
            data = data[length:]
            self._expected = self._expected[length:]

    @property
    def complete(self) -> bool:
        """Whether every byte of the stream has arrived."""
        return self.received == self.stream.size

    def digest(self) -> str:
        """Return the SHA-256 of what has arrived."""
        return self._sha.hexdigest()
