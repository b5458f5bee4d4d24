"""The two kinds of address that settings have: where this machine listens, and where a server does."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from easyproxy.config.document import shown
from easyproxy.config.fields import CONTROL, JsonSchema, Kind, wrong
from easyproxy.model import Address

LISTEN_PATTERN = r"^((localhost|[0-9.]*|\[[0-9A-Fa-f:.]+(%[^\]]+)?\]):[0-9]{1,5}|unix:/.+)$"
BACKEND_PATTERN = r"^((\[[0-9A-Fa-f:.]+(%[^\]]+)?\]|[A-Za-z0-9_.-]+):[0-9]{1,5}|unix:/.+)$"
_HOST_NAME = re.compile(r"(?=.{1,253}$)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?)+", re.ASCII)
_LOOKS_NUMERIC = re.compile(r"[0-9.]+", re.ASCII)


def _address(value: object, example: str) -> Address:
    if isinstance(value, Address):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535:
        raise wrong(f"{value} is a port alone, not an address; write {example}")
    if not isinstance(value, str):
        raise wrong(f"{shown(value)} is not an address; write {example}")
    is_broken = any(0xD800 <= ord(char) <= 0xDFFF for char in value)
    if CONTROL.search(value) or (is_broken and not value.startswith("unix:")):  # of a path more can be said
        raise wrong(f"{shown(value)} holds a control character; write {example}")
    if len(value) > 300:
        raise wrong(f"{shown(value)} is too long for an address; write {example}")
    if ":" not in value:
        raise wrong(f"{shown(value)} has no port; write {example}")
    if value.count(":") == 2 and "::" not in value and "[" not in value and not value.startswith("unix:"):
        raise wrong(f"{shown(value)} has two colons; write {example}")
    try:
        return Address.parse(value)
    except ValueError as error:
        raise wrong(str(error)) from None


@dataclass(frozen=True, slots=True)
class ListenAddress(Kind):
    """An address of this machine: numeric, ``localhost``, empty for all of them, or a unix socket."""

    def read(self, value: object) -> Address:
        """Read an address that a socket can be bound to without asking a name service."""
        if isinstance(value, str) and value.startswith("*:"):
            raise wrong(
                f"{shown(value)} is not an address; for every address of this machine write {value[1:]}"
            )
        address = _address(
            value, "an address of this machine, for example 127.0.0.1:3306, :3306 or unix:/run/db.sock"
        )
        if address.host and not address.is_numeric and address.host != "localhost":
            raise wrong(
                f"{shown(str(address))} does not start with a numeric address;"
                f" write the address itself, localhost, or :{address.port} for every address of this machine"
            )
        return address

    def write(self, value: Address) -> str:
        """Write as text."""
        return str(value)

    def schema(self) -> JsonSchema:
        """Give the pattern."""
        return {
            "type": "string",
            "pattern": LISTEN_PATTERN,
            "examples": ["127.0.0.1:3306", ":3306", "[::1]:3306", "unix:/run/easyproxy/db.sock"],
        }


@dataclass(frozen=True, slots=True)
class BackendAddress(Kind):
    """A server: name or numeric address, with a port; or a unix socket."""

    def read(self, value: object) -> Address:
        """Read an address that can be connected to."""
        address = _address(value, "host:port, for example 10.0.0.1:3306")
        if address.path:
            return address
        if not address.host:
            raise wrong(
                f"{shown(str(address))} does not say which host; write 127.0.0.1:{address.port} for this machine"
            )
        if address.port == 0:
            raise wrong(f"{shown(str(address))} has port 0, where no server can listen")
        if address.is_numeric:
            if ipaddress.ip_address(address.host.partition("%")[0]).is_unspecified:
                raise wrong(
                    f"{shown(str(address))} is no server's address; write 127.0.0.1:{address.port} for this machine"
                )
        elif _LOOKS_NUMERIC.fullmatch(address.host):
            raise wrong(f"{shown(str(address))} does not hold an IPv4 address (four numbers from 0 to 255)")
        elif not _HOST_NAME.fullmatch(address.host):
            raise wrong(
                f"{shown(str(address))} does not hold a host name (letters, digits, hyphens and dots)"
            )
        return address

    def write(self, value: Address) -> str:
        """Write as text."""
        return str(value)

    def schema(self) -> JsonSchema:
        """Give the pattern."""
        return {
            "type": "string",
            "pattern": BACKEND_PATTERN,
            "examples": [
                "10.0.0.1:3306",
                "db1.example.net:3306",
                "[fd00::1]:3306",
                "unix:/run/mysqld/mysqld.sock",
            ],
        }
