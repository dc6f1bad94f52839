# Every target is the line that README shows. PYTHON chooses the interpreter of a new environment.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test check bench bench-models bench-slices bench-edge install wheelhouse

demo: $(VENV)/.installed
	$(BIN)/aimass demo $(ARGS)

test: $(VENV)/.installed
	$(BIN)/pytest $(ARGS)

check: $(VENV)/.installed
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks $(ARGS)

# DATA is a folder with public data sets, which are not shipped: docs/benchmarks.md.
bench-models: $(VENV)/.installed
	$(BIN)/python -m benchmarks.models --data $(DATA) $(ARGS)

bench-slices: $(VENV)/.installed
	$(BIN)/python -m benchmarks.slices $(ARGS)

bench-edge: $(VENV)/.installed
	$(BIN)/python -m benchmarks.edge $(ARGS)

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

wheelhouse:
	$(BIN)/pip wheel -q --no-deps -w dist/wheelhouse .
	$(BIN)/pip download -q --platform manylinux_2_28_aarch64 --python-version 3.11 --only-binary=:all: --find-links dist/wheelhouse -d dist/wheelhouse "aimass[edge]"
