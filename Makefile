# A fresh Debian 12 with python3, python3-venv and make is enough for every target. `test`
# installs more Debian packages where it may; the tests marked kernel also want root.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
SUITES := $(addprefix tests/,wire sock tcp udp ping ip link sim io sockets kernel)

FAST   := build/fast
COMPILE = $(BIN)/python -m tools.compiled
# What imports from $(FAST) must not look into the current directory first.
ONFAST  = PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)/$(FAST):$(CURDIR)"

.PHONY: help venv demo fast test test-fast test-long lint format bench clean

help:
	@echo "make venv | demo | test | test-long | lint | format | bench | clean   (ARGS=...)"
	@echo "make fast | test-fast   with a compiled core; make bench PURE=1   without"

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
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint,fast]' || { \
	  echo "ustack: pip could not install the dependencies (above); where no wheel exists for this" \
	       "machine: apt install gcc python3-dev" >&2; exit 1; }
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/ustack demo $(ARGS)

test: $(STAMP)
	@.ci/packages
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

# The core compiled, for `make bench` and `make test-fast`. Never in the source tree.
fast: $(STAMP)
	@$(COMPILE) $(FAST)

test-fast: fast
	@.ci/packages
	$(ONFAST) USTACK_REQUIRE_COMPILED=1 $(BIN)/python -m pytest -m "not slow" \
	  -o "pythonpath=$(FAST) ." $(SUITES) $(ARGS)

test-long: $(STAMP)
	@.ci/packages
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest --timeout=900 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.check_sizes
	$(BIN)/python -m tools.check_parity

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Compiled where that is possible, unless PURE=1.
bench: $(STAMP)
	@if [ -z "$(PURE)" ] && $(COMPILE) --check; then \
	  $(COMPILE) $(FAST) && $(ONFAST) $(BIN)/python -m tools.bench $(ARGS); \
	else \
	  $(BIN)/python -m tools.bench $(ARGS); \
	fi

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
