"""The one place that puts programs and maps into the kernel: bpf(2), called directly, since no C library has it.

Everything lives as long as its descriptor, and not longer: a program that is killed leaves nothing behind. Layouts:
linux/bpf.h. Nothing here knows what programs do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator
from typing import Protocol

from easyproxy.errors import EngineError

_SYSCALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "loongarch64": 280}
_MAP_CREATE, _UPDATE, _DELETE, _LOAD, _INFO, _LOOKUP_BATCH, _LINK_CREATE = 0, 2, 3, 5, 15, 24, 28
HASH, PER_CPU_ARRAY = 1, 6
_NO_PREALLOCATION = 1
_CLASSIFIER = 3
INGRESS, EGRESS = 46, 47
_BEFORE_ALL = 1 << 3
_LICENSE = b"Dual MIT/GPL\0"
_LOG_BYTES = 1 << 16
_BATCH = 4096
_COUNT_OF_BATCH = 32
"""Where the kernel writes how many it has read."""
_LINK_INFO = struct.Struct("=16xI4x")
"""Of what the kernel tells about a link: the device."""
_NAME = b"easyproxy"

NO_PRIVILEGE = "it needs the privilege to load programs into the kernel (CAP_BPF)"


class Map(Protocol):
    """A table that programs in the kernel and we use; ``close`` it."""

    descriptor: int

    def put(self, key: bytes, value: bytes) -> None:
        """Set what a key has. Raises EngineError."""

    def drop(self, key: bytes) -> None:
        """Forget a key; nothing happens where it is not there."""

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Read everything. What comes meanwhile may be missing, what goes may be there."""

    def close(self) -> None:
        """Give it up; it goes when no program uses it any more."""


class Bpf(Protocol):
    """What the shortcut asks of the kernel."""

    def map(self, kind: int, key: int, value: int, entries: int) -> Map:
        """Make a map. Raises EngineError."""

    def load(self, code: bytes) -> int:
        """Have a program checked and compiled; return its descriptor. Raises EngineError."""

    def attach(self, program: int, ifindex: int, where: int) -> int:
        """Have packets of a device of this thread's network namespace meet a program as long as the descriptor that is returned is open.

        Arriving packets meet those of others that are there before it, leaving ones after it.

        Raises EngineError, OSError with ENODEV where there is no such device.
        """

    def is_attached(self, attachment: int) -> bool:
        """Whether its device is still there; another one may have its number by now."""

    def close(self, descriptor: int) -> None:
        """Give a program or an attachment up."""


class Kernel:
    """The real one."""

    def __init__(self) -> None:
        """Raises EngineError where this machine cannot have it."""
        self._call = _Call()

    def map(self, kind: int, key: int, value: int, entries: int) -> KernelMap:
        """Make a map; a hash takes memory only for what is in it."""
        flags = _NO_PREALLOCATION if kind == HASH else 0
        made = self._call(
            _MAP_CREATE, struct.pack("=IIIIIII16s", kind, key, value, entries, flags, 0, 0, _NAME)
        )
        return KernelMap(self._call, made, key, value)

    def load(self, code: bytes) -> int:
        """Load a program for packets, a classifier."""
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return self._load(code, 0, 0)
        except EngineError as refusal:
            try:
                return self._load(code, ctypes.addressof(log), _LOG_BYTES)
            except EngineError:
                words = log.value.decode(errors="replace").strip().splitlines()
                raise EngineError(f"{refusal}: {words[-2]}" if len(words) > 1 else str(refusal)) from refusal

    def _load(self, code: bytes, log: int, log_size: int) -> int:
        held, license_ = ctypes.create_string_buffer(code), ctypes.create_string_buffer(_LICENSE)
        where = ctypes.addressof(held), ctypes.addressof(license_)
        first = struct.pack("=IIQQ", _CLASSIFIER, len(code) // 8, *where)
        return self._call(
            _LOAD, first + struct.pack("=IIQII16s", int(log_size > 0), log_size, log, 0, 0, _NAME)
        )

    def attach(self, program: int, ifindex: int, where: int) -> int:
        """Make a link of the kind tcx, which Linux 6.6 brought."""
        try:
            first = _BEFORE_ALL if where == EGRESS else 0
            return self._call(_LINK_CREATE, struct.pack("=IIIIIIQ", program, ifindex, where, first, 0, 0, 0))
        except EngineError as error:
            if error.__cause__ is not None and getattr(error.__cause__, "errno", 0) == errno.EINVAL:
                raise EngineError("it needs Linux 6.6 or newer") from error
            raise

    def is_attached(self, attachment: int) -> bool:
        """Ask of the link; when its device has gone it has none."""
        info = ctypes.create_string_buffer(_LINK_INFO.size)
        self._call(_INFO, struct.pack("=IIQ", attachment, len(info), ctypes.addressof(info)))
        ifindex: int = _LINK_INFO.unpack(info)[0]
        return ifindex != 0

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)


class KernelMap:
    """The real map."""

    def __init__(self, call: _Call, descriptor: int, key: int, value: int) -> None:
        self._call = call
        self.descriptor = descriptor
        self._key, self._value = key, value

    def put(self, key: bytes, value: bytes) -> None:
        """Set what a key has."""
        held, content = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
        self._call(_UPDATE, self._element(ctypes.addressof(held), ctypes.addressof(content)))

    def drop(self, key: bytes) -> None:
        """Forget a key."""
        held = ctypes.create_string_buffer(key)
        with contextlib.suppress(FileNotFoundError):
            self._call(_DELETE, self._element(ctypes.addressof(held), 0))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Read everything, many at a time."""
        keys = ctypes.create_string_buffer(_BATCH * self._key)
        values = ctypes.create_string_buffer(_BATCH * self._value)
        from_here, to_there = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
        begin, is_last = 0, False
        while not is_last:
            places = begin, *map(ctypes.addressof, (to_there, keys, values))
            attributes = ctypes.create_string_buffer(
                struct.pack("=QQQQIIQQ", *places, _BATCH, self.descriptor, 0, 0)
            )
            try:
                self._call.on(_LOOKUP_BATCH, attributes)
            except FileNotFoundError:
                is_last = True
            (count,) = struct.unpack_from("=I", attributes, _COUNT_OF_BATCH)
            found_keys, found_values = keys.raw, values.raw
            for index in range(count):
                key, value = index * self._key, index * self._value
                yield found_keys[key : key + self._key], found_values[value : value + self._value]
            from_here, to_there = to_there, from_here
            begin = ctypes.addressof(from_here)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def _element(self, key: int, value: int) -> bytes:
        return struct.pack("=IIQQQ", self.descriptor, 0, key, value, 0)


class _Call:
    """The system call."""

    def __init__(self) -> None:
        number = _SYSCALLS.get(platform.machine())
        if number is None or sys.platform != "linux":
            raise EngineError(f"bpf(2) is not known on {sys.platform} {platform.machine()}")
        if sys.maxsize < 1 << 32:  # the kernel's machine, but another number is bpf(2) for this program
            raise EngineError("it needs a Python of 64 bits")
        self._number = number
        self._call = ctypes.CDLL(None, use_errno=True).syscall

    def __call__(self, command: int, attributes: bytes) -> int:
        return self.on(command, ctypes.create_string_buffer(attributes, len(attributes)))

    def on(self, command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
        """Raise EngineError; FileNotFoundError for ENOENT, and OSError for ENODEV, which are no errors to everybody."""
        result: int = self._call(self._number, command, attributes, len(attributes))
        if result >= 0:
            return result
        error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if error.errno in (errno.ENOENT, errno.ENODEV):
            raise error
        if error.errno == errno.EPERM:
            raise EngineError(NO_PRIVILEGE) from error
        raise EngineError(f"the kernel refused it: {error.strerror}") from error
