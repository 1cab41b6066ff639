# Every target sets up what it needs. Override PYTHON to choose the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-faults test-lab test-all check lint bench lab lab-demo clean
.DEFAULT_GOAL := check

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "edgedeploy needs Python 3.11 to 3.13; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m tools.demo $(if $(AFRESH),--afresh)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-faults: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile -m fault $(ARGS)

# The road once, and the faults, over the virtual lab; each file waits for its board more than it computes.
test-lab: $(STAMP)
	$(BIN)/python -m pytest -n 4 --dist loadfile -m 'lab and (fault or road)' -k 'not pi4' \
	  $(wildcard tests/*/test_*lab*.py) $(ARGS)

test-all: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile -m '' $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

bench: $(STAMP)
	$(BIN)/python -m tools.bench $(ONLY)

# Virtual boards: root on Debian; docs/lab.md says more.
lab: $(STAMP)
	$(BIN)/python -m tools.lab up

lab-demo: $(STAMP)
	$(BIN)/python -m tools.lab_demo $(BOARDS)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache $(VENV)
