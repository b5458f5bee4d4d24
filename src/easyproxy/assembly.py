"""What a balancer is made of, as its configuration asks for it: the engine, how many workers, where overrides are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from easyproxy.config.load import from_dict, load
from easyproxy.config.schema import STATE_OFF, Config
from easyproxy.engine.relay import RelayEngine
from easyproxy.engine.relay.succession import Legacy
from easyproxy.engine.relay.talkative import AUTO, OFF
from easyproxy.needs import needs_kernel

if TYPE_CHECKING:
    from easyproxy.control.heir import Heir
    from easyproxy.control.journal import Journal
    from easyproxy.engine.relay.inherited import Inherited
    from easyproxy.engine.seam import Engine

Source = Config | Mapping[str, object] | str | Path
"""A configuration, a mapping of the same shape, or the path of a file."""


def config_of(source: Source) -> Config:
    """Read and check a configuration. Raises ConfigError with every error at once."""
    if isinstance(source, Config):
        return source
    strategies = RelayEngine.strategies
    if isinstance(source, str | Path):
        return load(source, strategies=strategies)
    return from_dict(source, strategies=strategies)


def engine_for(
    config: Config, journal: Journal, *, in_processes: bool, inherited: Inherited | None, heir: Heir | None
) -> Engine:
    """Make the engine that can serve this configuration; it is not started yet.

    Args:
        config: what the program starts with.
        journal: takes what goes wrong in the engine.
        in_processes: workers are processes, as many as the configuration says; otherwise one thread.
        inherited: listening sockets that somebody else has opened; the engine's from now on.
        heir: what a predecessor leaves; the engine sleeps until it has.
    """
    relay = RelayEngine(
        workers=worker_count(config) if in_processes else 1,
        processes=in_processes,
        orphan_drain_s=config.drain_timeout,
        worker_python=config.worker_python,
        io_uring=AUTO if config.io_uring else OFF,
        inherited=inherited,
        legacy=Legacy.of(heir.take_frames(Legacy.KINDS)) if heir is not None else None,
        complain=journal.trouble,
        worker_died=journal.worker_died,
    )
    if not needs_kernel(config):
        return relay
    # Loaded only by those who use it.
    from easyproxy.engine.composite import CompositeEngine  # noqa: PLC0415
    from easyproxy.engine.kernel import KernelEngine, Shortcut  # noqa: PLC0415

    kernel = KernelEngine(
        source=config.kernel.source,
        manage_sysctl=config.kernel.manage_sysctl,
        shortcut=Shortcut(journal.trouble) if config.kernel.shortcut else None,
        complain=journal.trouble,
    )
    return CompositeEngine(relay, kernel, dormant=heir is not None, complain=journal.trouble)


def worker_count(config: Config) -> int:
    """Resolve ``workers: auto``: one for each CPU that this process may use."""
    if isinstance(config.workers, int):
        return config.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def state_place(config: Config, default: str | Path | None) -> Path | None:
    """Say where overrides are kept: what the configuration says, else ``default``; None is nowhere."""
    if config.state_file is not None:
        return None if config.state_file == STATE_OFF else Path(config.state_file)
    return Path(default) if default is not None else None
