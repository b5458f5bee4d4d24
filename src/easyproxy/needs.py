"""What this machine lacks for a configuration: asked before a balancer starts or reloads, and by ``easyproxy check``.

The engine itself sees only snapshots, which hold the backends that are ready; what the others need must be there as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyproxy.control.compose import Standing, backend_id, compose
from easyproxy.errors import EngineError

if TYPE_CHECKING:
    from easyproxy.config.schema import Config
    from easyproxy.model import Snapshot


def needs_kernel(config: Config) -> bool:
    """Whether any listener is the kernel engine's."""
    return any(listener.engine == "kernel" for listener in config.listeners)


def lacking(config: Config, *, only_vital: bool = False) -> list[str]:
    """Say what is missing, each with its remedy; ``only_vital`` leaves out what can be lived without."""
    if not needs_kernel(config):
        return []
    from easyproxy.engine.kernel import requirements  # noqa: PLC0415 - loaded only by those who use it

    kernel = config.kernel
    return requirements(
        _whole(config), manages=kernel.manage_sysctl, only_vital=only_vital, shortcut=kernel.shortcut
    )


def refuse_if_lacking(config: Config) -> None:
    """Raise EngineError where something is missing that it cannot be served without."""
    if missing := lacking(config, only_vital=True):
        raise EngineError("\n".join(missing))


def _whole(config: Config) -> Snapshot:
    """Compose the kernel engine's part as if every backend were ready; what is behind a name is not known here."""
    from easyproxy.engine.composite import share  # noqa: PLC0415 - as above

    standings = {
        backend_id(name, backend): Standing(
            is_ready=True, address=backend.address if backend.address.is_numeric else None
        )
        for name, pool in config.pools.items()
        for backend in pool.backends
    }
    return share(compose(config, standings, now=0.0), "kernel")
