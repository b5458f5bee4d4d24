"""What PyYAML's syntax errors mean to somebody who wrote the file, and where that person should look."""

from __future__ import annotations

import re

import yaml

from easyproxy.config.document import Mark

_BRACKETS = re.compile(r"(?:: |- |^\s*)\[[0-9A-Fa-f:.%\w]*\]:[0-9]")


def mark_of(mark: yaml.Mark | yaml._yaml.Mark) -> Mark:
    """Count from 1, as editors do."""
    return Mark(mark.line + 1, mark.column + 1)


def place_of(error: yaml.MarkedYAMLError) -> Mark:
    """Say where to look: for what has no end or no colon, where it began."""
    began = "end of stream" in (error.problem or "") or error.problem == "could not find expected ':'"
    place = error.context_mark if began and error.context_mark else error.problem_mark or error.context_mark
    return mark_of(place) if place else Mark(1, 1)


def in_words(error: yaml.MarkedYAMLError, text: str) -> str:
    """Say what is wrong and what to do; PyYAML's own words where there are no better ones."""
    problem, context = error.problem or "", error.context or ""
    began = error.context_mark.line + 1 if error.context_mark else 0
    since = f" ({context}, line {began})" if context and began else ""
    return (
        _of_the_line(error, text, problem, context)
        or _of_the_structure(problem, context, began)
        or f"this is not YAML: {problem}{since}"
    )


def _of_the_line(error: yaml.MarkedYAMLError, text: str, problem: str, context: str) -> str:
    place = error.problem_mark
    lines = text.split("\n")
    line = lines[place.line] if place and place.line < len(lines) else ""
    if "\\t" in problem or "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab cannot indent in YAML; use spaces"
    if _BRACKETS.search(line):
        return 'an address that begins with a bracket has to be quoted in YAML: "[::1]:3306"'
    if context == "while scanning an alias":
        return 'text that begins with * has to be quoted in YAML; every address of this machine is ":" and the port'
    if "cannot start any token" in problem and place and place.column < len(line):
        return f"text that begins with {line[place.column]} has to be quoted in YAML"
    return ""


def _of_the_structure(problem: str, context: str, began: int) -> str:
    if problem == "mapping values are not allowed here":
        return "a colon stands where it cannot; check the indentation, or quote the text if it holds a colon and a space"
    if "block" in context and problem.startswith("expected <block end>"):
        return f"this line does not fit the lines above it since line {began}; check the indentation"
    if "flow" in context and problem.startswith("expected ','"):
        closing = "}" if "mapping" in context else "]"
        return f"a comma or {closing} is missing before this; the bracket was opened in line {began}"
    if "quoted scalar" in context and "end of stream" in problem:
        return "this quote has no end"
    if problem == "could not find expected ':'":
        return "a colon and a space are missing after this key"
    return ""
