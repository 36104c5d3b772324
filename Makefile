# hybridlab: `make quickstart` and `make test` are the two a newcomer needs; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SWEEP ?= quickstart
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-browser test-slow test-gpu memcheck lint types format check dashboard clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv and install hybridlab into it, with what its tests need

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hybridlab needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,ruler]'
	@touch $@

quickstart: setup  ## sweep nine mixes on a local Ray cluster, print the table, write the frontier (at most 10 minutes)
	$(BIN)/hybridlab sweep quickstart name=$(SWEEP) $(OVERRIDES)

test: setup  ## run the tests (12 to 15 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser" -n 2 --dist loadfile

test-browser: setup  ## run the dashboard's tests in headless Chromium
	$(BIN)/python -m pytest -m browser

test-slow: setup  ## run the tests that take minutes each
	$(BIN)/python -m pytest -m slow

test-gpu: setup  ## run every kernel, a training step and decoding of every layer on this machine's GPU against fp64
	$(BIN)/python -m pytest -m gpu -n auto -rfx --tb=short tests/kernels tests/architectures

memcheck: setup  ## run compute-sanitizer's memcheck over one small shape of each kernel on this machine's GPU
	$(BIN)/python tests/kernels/memcheck.py

lint: setup  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## check types
	$(BIN)/pyright

format: setup  ## rewrite files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test test-browser  ## everything that must hold before a change lands

dashboard: setup  ## open the dashboard on localhost
	$(BIN)/hybridlab dashboard

clean:  ## remove what make and the tests have made, except runs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
