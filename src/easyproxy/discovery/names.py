"""Addresses of backends that are configured by name: asked of the system's resolver again and again.

A name with several addresses stands for one backend: it keeps the address it has as long as the answer still holds
it, so that a resolver that rotates its answers moves nobody.
"""

from __future__ import annotations

import asyncio
import socket

from easyproxy.discovery.resolver import Resolver
from easyproxy.model import Address

RESOLVE_EVERY_S = 10.0
_WITHIN_S = 5.0
_resolver = Resolver()


async def resolve(address: Address, present: Address | None) -> Address:
    """Find the numeric address of ``address``, preferring ``present``.

    Raises:
        OSError: the resolver does not know the name, or does not answer within 5 s.
    """
    if address.is_numeric:
        return address
    try:
        async with asyncio.timeout(_WITHIN_S):
            hosts = await asyncio.wrap_future(_resolver.ask(address.host))
    except TimeoutError:
        raise OSError(f"the resolver did not answer for {address.host} within {_WITHIN_S:g} s") from None
    except socket.gaierror as error:
        raise OSError(f"{address.host} cannot be resolved: {error.strerror}") from error
    except UnicodeError as error:  # an empty or overlong part (RFC 1035, section 2.3.4)
        raise OSError(f"{address.host} cannot be resolved: {error}") from error
    found = [Address(host, address.port) for host in hosts]
    if not found:
        raise OSError(f"{address.host} has no address")
    return present if present in found else found[0]
