# The commands of this project. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Most tests wait more than they compute. A file stays together: its tests share servers. How many at a time: tests/conftest.py.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help run test packages unit lint bench docs clean

help: ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

run: $(VENV)/.installed ## start the balancer before three small backends, and say what to try
	@$(BIN)/easyproxy demo

test: ## install what the tests need (Debian packages too, when root), run everything
	$(MAKE) -j2 packages lint
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) tests/unit --cov --cov-report=term:skip-covered
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) tests/conformance tests/system tests/browser --durations=10

packages: ## install the servers and clients of the tests (Debian, as root), or say what is missing
	tests/packages.sh

unit: $(VENV)/.dev ## only the quick tests
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) tests/unit

lint: $(VENV)/.dev ## style, types, and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## compare with HAProxy, nginx, Envoy and Traefik in one run (docs/benchmarks.md)
	$(BIN)/python -m bench --json docs/benchmarks.json --plot docs/benchmarks.svg
	$(BIN)/python -m bench report docs/benchmarks.json --into docs/benchmarks.md
	$(BIN)/python -m bench report docs/benchmarks.json --summary --into README.md

$(VENV)/.installed: pyproject.toml
	@echo "Installing into $(VENV); this happens once and takes half a minute."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean: ## remove what was built and installed here
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
