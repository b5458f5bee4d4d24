"""The command ``easyproxy check``: tell everything that is wrong with a configuration file, without running it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from easyproxy.cli.asking import writing
from easyproxy.cli.run import beside
from easyproxy.cli.text import counted
from easyproxy.config.load import Loaded, examine, read_lines
from easyproxy.config.schema import Config
from easyproxy.errors import ConfigError, Problem
from easyproxy.needs import absent, lacking

EXIT_REFUSED = 2
_SECRET = re.compile("tok|secret|passw", re.IGNORECASE)  # a line with one of these is not quoted
_WIDEST = 100  # of a quoted source line
_CONTEXT = 40  # characters kept before the place in a longer line


_EXAMPLES = """\b
Examples:
  easyproxy check easyproxy.yaml
  easyproxy check --strict --json /etc/easyproxy.yaml

Exit status: 0 the file can be run, 2 it cannot, or with --strict there are warnings.
"""


@click.command("check", short_help="Tell every error in a configuration file.", epilog=_EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
def command(file: Path, as_json: bool, strict: bool) -> None:
    """Read FILE as `easyproxy run` would, and tell every error at once with its place.

    Nothing is started and no backend is asked. What the file names and this machine lacks (a token, certificates,
    a class of your own, what the kernel engine needs) is a warning: another machine may have it.
    """
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    loaded = None
    try:
        loaded = examine(file)
        beside(file)
        loaded = Loaded(loaded.config, (*loaded.warnings, *_missing_here(loaded.config)))
        warnings = loaded.warnings
    except ConfigError as error:
        errors = tuple(error.problems)
    failed = bool(errors) or (strict and bool(warnings))
    with writing("check"):
        if as_json:
            _print_json(file, failed, errors, warnings)
        else:
            _print_text(file, loaded, errors, warnings, strict=strict)
    sys.exit(EXIT_REFUSED if failed else 0)


def _missing_here(config: Config) -> Iterator[Problem]:
    """Say what this machine lacks for a configuration: warnings, for it may be another than the one that serves."""
    for text in lacking(config):
        yield Problem("", "kernel", f"missing here: {text}")
    for problem in absent(config):
        yield replace(problem, message=f"missing here: {problem.message}")


def _print_text(
    file: Path,
    loaded: Loaded | None,
    errors: tuple[Problem, ...],
    warnings: tuple[Problem, ...],
    *,
    strict: bool,
) -> None:
    lines = read_lines(file)
    for problem in errors:
        _print_problem(problem, click.style("error", fg="red", bold=True), lines)
    for problem in warnings:
        _print_problem(problem, click.style("warning", fg="yellow", bold=True), lines)
    name = click.format_filename(file)
    if loaded is None:
        click.echo(f"{name}: {counted(len(errors), 'error')}; this file cannot be run", err=True)
    elif strict and warnings:
        click.echo(f"{name}: {counted(len(warnings), 'warning')}, and --strict allows none", err=True)
    else:
        click.echo(f"{name}: {summary(loaded)}")


def summary(loaded: Loaded) -> str:
    """Say in one line what a right configuration holds."""
    config = loaded.config
    backends = sum(len(pool.backends) for pool in config.pools.values())
    parts = [
        counted(len(config.listeners), "listener"),
        counted(len(config.pools), "pool"),
        counted(backends, "backend"),
        f"admin on {config.admin.bind}" if config.admin else "no admin server",
    ]
    if loaded.warnings:
        parts.append(counted(len(loaded.warnings), "warning"))
    return "ok: " + ", ".join(parts)


def _print_problem(problem: Problem, label: str, lines: list[str]) -> None:
    place = f"{_safe(problem.where)}: " if problem.where else ""
    path = f"{problem.path}: " if problem.path else ""
    click.echo(f"{place}{label}: {path}{problem.message}", err=True)
    for text in _excerpt(problem, lines):
        click.echo(text, err=True)


def _excerpt(problem: Problem, lines: list[str]) -> list[str]:
    """Quote the line with a caret below the place; never one that could hold a token."""
    parts = problem.where.rsplit(":", 2)
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return []
    number, column = int(parts[1]), int(parts[2]) - 1
    if not 0 < number <= len(lines) or _SECRET.search(lines[number - 1]):
        return []
    line = lines[number - 1]
    start = max(0, column - _CONTEXT) if len(line) > _WIDEST else 0
    shown = _safe(line[start : start + _WIDEST])
    margin = f"{number:>6} | "
    return [click.style(margin, dim=True) + shown.rstrip(), " " * (len(margin) + column - start) + "^"]


def _safe(text: str) -> str:
    """Replace what a terminal would obey; each character by one, so that the caret stays below its place."""
    return "".join(char if char.isprintable() else " " if char == "\t" else "?" for char in text)


def _print_json(file: Path, failed: bool, errors: tuple[Problem, ...], warnings: tuple[Problem, ...]) -> None:
    result = {
        "file": click.format_filename(file),
        "ok": not failed,
        "errors": [_plain(problem) for problem in errors],
        "warnings": [_plain(problem) for problem in warnings],
    }
    click.echo(json.dumps(result, indent=2))


def _plain(problem: Problem) -> dict[str, object]:
    parts = problem.where.rsplit(":", 2)
    known = len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal()
    return {
        "line": int(parts[1]) if known else None,
        "column": int(parts[2]) if known else None,
        "path": problem.path,
        "message": problem.message,
    }
