"""Which Python runs the worker processes: this one, or a faster build of the same version on this machine.

A build of CPython with profile-guided optimisation does a worker's job in about three quarters of the time of a plain
one, and plain ones are what version managers make unless told otherwise. A worker needs the standard library and this
package only, so another build of the same version serves as well. What a build says of itself is not enough (Debian's
keeps silent about its optimisation): it is put to a trial.

Nothing here talks to workers or knows of sessions.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyproxy.engine.relay.trial import best_time
from easyproxy.errors import EngineError

TRIAL_S = 1.5
"""A candidate that has not finished its trial by then is not taken: nobody waits long for workers."""
NAMED_S = 20.0
"""The same for one that the configuration names: without it there are none."""
GAIN = 0.93
"""A candidate is taken when its trial takes less than this share of our own time."""
PLACES = ("/usr/bin", "/usr/local/bin", "/opt/python/bin")
"""Where a system keeps its interpreters: nobody but root may write there."""

_MODULE = "easyproxy.engine.relay.process"
_ROOT = str(Path(__file__).resolve().parents[3])  # the folder that holds the package
# The package comes last: in a folder of installed packages something else may bear a name of the standard library's.
_START = f"import sys; sys.path.append(sys.argv.pop(1)); from {_MODULE} import main; main()"
_TRIAL = "import sys; sys.path.append(sys.argv.pop(1)); from easyproxy.engine.relay.trial import main; main()"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python for the workers. ``why`` is empty where it is the one that runs this process."""

    path: str
    version: str
    why: str = ""

    def command(self) -> list[str]:
        """Return what starts a worker, up to its own arguments."""
        if not self.why:
            # -P: the working directory must not shadow the standard library.
            return [self.path, "-P", "-m", _MODULE]
        return [*_alone(self.path), "-c", _START, _ROOT]

    def __str__(self) -> str:
        """Write it for people."""
        return f"{self.path} ({self.version}{', ' if self.why else ''}{self.why})"


def same() -> Interpreter:
    """Return the Python that runs this process."""
    return Interpreter(sys.executable, _dotted(sys.version_info[:3]))


def choose(wanted: str = "auto") -> Interpreter:
    """Return the Python for the workers: ``same``, the path of one, or with ``auto`` the faster one. Takes its time.

    Raises EngineError when a path does not lead to one that can run workers.
    """
    if wanted == "same":
        return same()
    if wanted != "auto":
        return _named(wanted)
    if _is_optimised():
        return same()
    for path in _candidates():
        found = _faster(path)
        if found is not None:
            return found
    return same()


def _named(path: str) -> Interpreter:
    found = _try(path, NAMED_S)
    if isinstance(found, str):
        raise EngineError(f"worker_python: {path} cannot run workers: {found}")
    return Interpreter(path, _dotted(found[0]), "named in the configuration")


def _faster(path: str) -> Interpreter | None:
    found = _try(path, TRIAL_S)
    if isinstance(found, str):
        return None
    own = best_time()
    version, _abi, took = found
    if took > GAIN * own:
        return None
    return Interpreter(path, _dotted(version), f"{own / took:.1f} times as fast")


def _is_optimised() -> bool:
    """Whether this build says that it is an optimised one. One that is and does not say so is tried against others."""
    said = " ".join(
        str(sysconfig.get_config_var(name) or "") for name in ("CONFIG_ARGS", "PY_CFLAGS", "PY_CORE_CFLAGS")
    )
    return "--enable-optimizations" in said or "-fprofile-use" in said


def _candidates() -> list[str]:
    """Return other interpreters of this version that only root can have put there."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = os.path.realpath(sys.executable)
    paths = (f"{place}/{name}" for place in PLACES)
    return [path for path in paths if os.path.realpath(path) != own and is_roots_alone(path)]


def is_roots_alone(path: str) -> bool:
    """Whether a file, and every folder on the way to it, belongs to root and can be written by nobody else."""
    try:
        real = Path(path).resolve(strict=True)
        return all(_is_safe(part.stat()) for part in (real, *real.parents, *Path(path).absolute().parents))
    except OSError:
        return False


def _is_safe(found: os.stat_result) -> bool:
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _alone(path: str) -> list[str]:
    """Return how to run one with nothing of the environment, and nobody's packages but the standard library."""
    return [path, "-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]


def _try(path: str, within_s: float) -> list[Any] | str:
    """Put an interpreter to the trial: return its version, its ABI and its seconds, or what is wrong with it."""
    try:
        done = subprocess.run(
            [*_alone(path), "-c", _TRIAL, _ROOT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=within_s,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {within_s:g} seconds"
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
    try:
        version, abi, took = json.loads(done.stdout)
        found = [list(version), abi, float(took)]
    except (ValueError, TypeError):
        return "it does not answer as Python does"
    if found[0][:2] != list(sys.version_info[:2]) or abi != sysconfig.get_config_var("SOABI"):
        return f"it is Python {_dotted(version)} ({abi}), and {_dotted(sys.version_info[:3])} is needed"
    return found


def _dotted(version: Any) -> str:  # noqa: ANN401 - a tuple of ours, or the list of a trial
    return ".".join(str(part) for part in version)
