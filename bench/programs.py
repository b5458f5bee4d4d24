"""Starting and ending the programs of a run. Each is ended by its own process group, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_GRACE_S = 3.0


class ProgramFailed(Exception):  # noqa: N818 - it names the event
    """A program could not be started, or ended with an error; the message holds its last words."""


@contextlib.contextmanager
def running(
    argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as the context lasts; its output goes to ``log``.

    It gets a process group of its own, so that Ctrl-C reaches only the bench, which then ends it and its children.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=log.parent,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a program and its children: SIGTERM, and SIGKILL to the whole group for what is left of it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def output_of(argv: Sequence[str], timeout_s: float) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        ProgramFailed: it cannot be started, ended with an error, or took longer than ``timeout_s``.
    """
    with tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramFailed(f"{argv[0]}: {error}") from error
        try:
            printed, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{argv[0]}: still running after {timeout_s:.0f} s") from None
        finally:
            if process.returncode is None:
                end(process)
            if process.stdout is not None:
                process.stdout.close()
        errors.seek(0)
        said = errors.read()
    if process.returncode:
        raise ProgramFailed(f"{argv[0]} ended with {process.returncode}: {last_line(said or printed)}")
    return printed


def last_line(text: str) -> str:
    """Return the last line that is not blank.

    >>> last_line("a\\nb\\n\\n")
    'b'
    """
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
