# make alone says what there is. Everything runs from .venv, which is made when it is missing and refreshed when a pin changes.

VENV ?= .venv
PYTHON = "$(VENV)/bin/python"
BENCHMARKS = mcp_calls routing imports ledger caps llm_service bounds summaries crash cancel edits workers

.PHONY: help setup demo test check format lint types layers shape bench serve pins upstream

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.dev-installed upstream ## make .venv with everything for working on autopack-mcp

demo: $(VENV)/.installed ## watch a whole run happen here, in rehearsal: no model is called (ONCE=1 ends by itself)
	@$(PYTHON) -m autopack_mcp demo $(if $(ONCE),--once)

test: $(VENV)/.dev-installed upstream ## run the tests (ARGS="-k words" for some of them)
	@$(PYTHON) -m pytest $(ARGS)

check: format lint types layers shape test ## everything that must hold: format, lint, types, imports, sizes, tests

bench: $(VENV)/.dev-installed ## measure, one line of JSON per benchmark
	@for name in $(BENCHMARKS); do $(PYTHON) -m benchmarks.$$name --json || exit 1; done

serve: $(VENV)/.installed ## run the server: supervisor, MCP and status page (ARGS="--port 9000")
	@$(PYTHON) -m autopack_mcp serve $(ARGS)

format: $(VENV)/.dev-installed
	@$(PYTHON) -m ruff format --check .

lint: $(VENV)/.dev-installed
	@$(PYTHON) -m ruff check .

types: $(VENV)/.dev-installed
	@$(PYTHON) -m mypy

layers: $(VENV)/.dev-installed
	@"$(VENV)/bin/lint-imports"

shape: $(VENV)/.dev-installed
	@$(PYTHON) -m pytest -q tests/shape

$(VENV)/.installed: requirements/runtime.txt requirements/install.sh pyproject.toml
	@VENV="$(VENV)" sh requirements/install.sh runtime
	@touch "$@"

# The dev pins contain the runtime ones, so that this satisfies both.
$(VENV)/.dev-installed: requirements/dev.txt requirements/runtime.txt requirements/install.sh pyproject.toml
	@VENV="$(VENV)" sh requirements/install.sh dev
	@touch "$(VENV)/.installed" "$@"

upstream: tests/upstream/node_modules/.package-lock.json

# Without npm, or without a way to fetch, the tests that need it say so themselves.
tests/upstream/node_modules/.package-lock.json: tests/upstream/package-lock.json
	@if command -v npm >/dev/null 2>&1; then \
		npm ci --prefix tests/upstream --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null || \
			echo "npm could not install the test upstream; tests that need it will be skipped." >&2; \
	fi

PINS = uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make pins" $(UPGRADE)

# Needs uv. UPGRADE=--upgrade takes newer versions; without it only what pyproject.toml asks for changes.
pins:
	@$(PINS) --group build --output-file requirements/runtime.txt
	@$(PINS) --group dev --extra postgres --extra tokens --extra otlp --constraint requirements/runtime.txt --output-file requirements/dev.txt
