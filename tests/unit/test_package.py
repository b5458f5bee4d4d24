"""What importing costs, and whether the examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import easyproxy

HEAVY = {
    "asyncio", "click", "fastapi", "h11", "prometheus_client", "pydantic", "pydantic_core", "starlette", "structlog",
    "uvicorn", "yaml",
}  # fmt: skip
LIGHT = {"easyproxy", "easyproxy.version"}
# __main__ runs the program when it is imported.
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(easyproxy.__path__, "easyproxy.")
    if not module.name.endswith(".__main__")
)


def loaded_by(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter and return the modules that it has loaded."""
    code = f"import sys, json; before = set(sys.modules); {statement}; print(json.dumps([*set(sys.modules) - before]))"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True, text=True)
    return set(json.loads(run.stdout))


def of_ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] == "easyproxy"}


def test_a_worker_loads_the_standard_library_the_engine_the_model_and_strategies_only():
    """A worker is small and starts at once; the design's claim about processes."""
    modules = loaded_by("import easyproxy.engine.relay.process")
    assert {name.split(".")[0] for name in modules} <= sys.stdlib_module_names | {"easyproxy"}
    assert modules & HEAVY == set()
    parts = {name.split(".")[1] for name in of_ours(modules) if "." in name}
    assert parts <= {"engine", "errors", "model", "stacks", "strategy", "version"}


def test_the_kernel_engine_is_loaded_only_where_a_listener_names_it():
    def loaded(engine):
        config = {
            "listeners": [{"bind": "127.0.0.1:0", "pool": "p", "engine": engine}],
            "pools": {"p": {"backends": ["127.0.0.1:1"]}},
        }
        return loaded_by(f"from easyproxy import Balancer; Balancer({config!r})")

    assert {name for name in loaded("relay") if "engine.kernel" in name or "composite" in name} == set()
    assert {"easyproxy.engine.kernel", "easyproxy.engine.composite"} <= loaded("kernel")


def test_importing_the_package_loads_nothing_else():
    modules = loaded_by("import easyproxy")
    assert of_ours(modules) <= LIGHT
    assert modules & HEAVY == set()


def test_the_models_import_nothing_of_ours():
    loaded = of_ours(loaded_by("import easyproxy.model, easyproxy.errors"))
    assert loaded <= LIGHT | {"easyproxy.model", "easyproxy.errors"}


@pytest.mark.parametrize("name", easyproxy.__all__)
def test_everything_that_users_import_is_there(name):
    assert getattr(easyproxy, name)


def test_what_is_not_there_is_said_as_python_says_it():
    with pytest.raises(AttributeError, match=r"easyproxy.*Nonsense"):
        _ = easyproxy.Nonsense
    with pytest.raises(AttributeError, match=r"relay.*Nonsense"):
        _ = importlib.import_module("easyproxy.engine.relay").Nonsense


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_are_true(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_some_modules_do_have_examples():
    """The test above cannot pass for want of anything to run."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {name for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples}
    assert {"easyproxy.model", "easyproxy.health.verdict", "easyproxy.control.compose"} <= found
