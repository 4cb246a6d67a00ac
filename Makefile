# Each target is complete on a machine that has Python 3.11 to 3.13 and make: it prepares .venv first.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: train test test-slow lint format type-check wheel clean
.DEFAULT_GOAL := test

# The stamp is younger than the environment's definition exactly when everything in it is installed.
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

train: .venv/.installed
	$(BIN)/recsys-vae train $(ARGS)

# Bytecode is kept, whatever the shell says: the tests import everything in two processes and start dozens more.
test test-slow: export PYTHONDONTWRITEBYTECODE =

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

test-slow: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow $(ARGS)

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: .venv/.installed
	$(BIN)/python -m build --wheel

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
