# A fresh Debian 12 with python3, python3-venv and make is enough for every target. `test`
# installs more Debian packages where it may; the tests marked kernel also want root.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp

.PHONY: help venv demo test test-long lint format bench clean

help:
	@echo "make venv | demo | test | test-long | lint | format | bench | clean   (ARGS=...)"

venv: $(STAMP)

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "ustack: $(PYTHON) not found: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "ustack: $(PYTHON) is older than 3.11: run make PYTHON=/path/to/python3.11 (or newer)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "ustack: the venv module is missing: apt install python3-venv" >&2; exit 1; }
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]' || { \
	  echo "ustack: pip could not install the dependencies (above); where no wheel exists for this" \
	       "machine: apt install gcc python3-dev" >&2; exit 1; }
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/ustack demo $(ARGS)

test: $(STAMP)
	@.ci/packages
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-long: $(STAMP)
	@.ci/packages
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest --timeout=900 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.check_sizes

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@$(BIN)/python -m tools.bench $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
