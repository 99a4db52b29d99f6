# The commands of this project. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Parallel test processes, and one compute thread in each of them, so that they do not fight for the cores.
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -q --durations=15 --durations-min=8

.PHONY: help setup demo doctor test test-fast lint format clean
.DEFAULT_GOAL := help

help: ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv with the tested versions (about a minute)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), but Python 3.10 to 3.13 is needed; try: make setup PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## collect simulator episodes, train the tiny model, judge it
	@$(BIN)/python -m src.train

doctor: ## is this computer ready? (needs nothing installed)
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m src.doctor; else $(PYTHON) -m src.doctor; fi

test: $(STAMP) ## all tests: the fast ones first, then the slow ones
	@$(PYTEST) -m "not slow"
	@$(PYTEST) -m slow

test-fast: $(STAMP) ## the fast tests
	@$(PYTEST) -m "not slow"

lint: $(STAMP) ## style and types
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

format: $(STAMP) ## let ruff set style and import order
	@$(BIN)/python -m ruff check --fix -q .
	@$(BIN)/python -m ruff format -q .

clean: ## remove caches and the environment; runs and data stay
	rm -rf $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
