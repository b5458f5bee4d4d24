"""The suite's own claims: every behaviour that it lists is proved by a test, and every exception is about one of them."""

from __future__ import annotations

import ast
from pathlib import Path

from conformance.engines import CLAIMS, ENGINES


def _claims_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int | str]:
    return {
        argument.value
        for decorator in test.decorator_list
        if isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Name)
        and decorator.func.id == "behaviour"
        for argument in decorator.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int | str)
    }


def _claims_by_test() -> dict[str, set[int | str]]:
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = _claims_of(node)
    return found


def test_every_test_says_what_it_claims() -> None:
    assert [name for name, claims in _claims_by_test().items() if not claims] == []


def test_the_claims_of_the_tests_are_those_of_the_table() -> None:
    assert set().union(*_claims_by_test().values()) == set(CLAIMS)


def test_engines_declare_exceptions_with_a_reason_and_only_for_claims() -> None:
    assert len({entry.name for entry in ENGINES}) == len(ENGINES)
    for entry in ENGINES:
        assert set(entry.exceptions) <= set(CLAIMS), entry.name
        assert all(entry.exceptions.values()), f"{entry.name} owes a reason"
