"""Who can be brought together: families of addresses, loopback ones, and what the kernel cannot do, in an operator's words."""

from __future__ import annotations

from easyproxy.engine.kernel.slots import STRATEGIES
from easyproxy.model import Address, Listener, Snapshot

FAMILIES = (4, 6)
_ANY = {"": FAMILIES, "0.0.0.0": (4,), "::": (6,)}  # noqa: S104 - what a configuration may say


def family_of(address: Address) -> int:
    """4 or 6."""
    return 6 if ":" in address.host else 4


def families_of(listener: Listener) -> tuple[int, ...]:
    """Which clients a listener takes."""
    return _ANY.get(listener.bind.host) or (family_of(listener.bind),)


def is_any(listener: Listener) -> bool:
    """Whether it listens on every address of this machine."""
    return listener.bind.host in _ANY


def is_loopback(address: Address) -> bool:
    """Whether it leads to this machine only."""
    return address.host == "::1" or address.host.startswith("127.")


def refusals(snapshot: Snapshot) -> list[str]:
    """Say everything that the kernel cannot do for this snapshot, in words for an operator."""
    found = []
    for listener in snapshot.listeners:
        pool = snapshot.pool_by_name.get(listener.pool)
        if pool is None:
            found.append(f"listener {listener.name}: there is no pool {listener.pool}")
            continue
        if listener.bind.path:
            found.append(
                f"listener {listener.name}: the kernel engine has no unix sockets; use engine: relay"
            )
            continue
        families = families_of(listener)
        for backend in pool.backends:
            if backend.address.path:
                why = "the kernel engine reaches no unix socket"
            elif not backend.address.is_numeric:
                why = f"{backend.address} was not resolved"
            elif "%" in backend.address.host:
                why = "the kernel engine cannot forward to a link-local address"
            elif family_of(backend.address) not in families:
                why = (
                    f"listener {listener.name} takes IPv{families[0]} clients, and the kernel does not translate "
                    f"between IPv4 and IPv6; give an IPv{families[0]} address, or use engine: relay"
                )
            else:
                continue
            found.append(f"backend {backend.id}: {why}")
    for name in dict.fromkeys(listener.pool for listener in snapshot.listeners):
        pool = snapshot.pool_by_name.get(name)
        if pool is not None and pool.strategy not in STRATEGIES:
            known = ", ".join(sorted(STRATEGIES))
            found.append(
                f"pool {name}: the kernel engine has no strategy {pool.strategy}; choose of {known}, or use engine: relay"
            )
    return list(dict.fromkeys(found))
