# `make demo`, `make test` and `make docs` set up .venv from nothing when they have to, and can be run again at any time.
# constraints.txt pins versions for Python 3.11 and newer; choose another interpreter with `make PYTHON=...`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs

# Processes of the tests, as many as there are cores but not more than memory for; and which tests, by marker. Files go
# in their order, in which the long ones come first: by their number of tests, these would come last, one after the other.
WORKERS ?= logical
MARK ?=
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder --durations 10 -m "$(MARK)"

# These models are tiny: more threads would only wait for each other, on a busy machine for minutes.
demo test coverage: export OMP_NUM_THREADS = 1

.PHONY: demo test coverage lint types format docs tutorials bench
.DEFAULT_GOAL := test

$(READY): setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

demo: $(READY)
	$(BIN)/sllmr demo

test: lint types
	$(PYTEST)

# Lines that no test reaches; what runs in other processes does not count.
coverage: $(READY)
	$(PYTEST) --cov=sllmr_plugin --cov-report=term:skip-covered --cov-report=html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site in site/, without network. The theme would tell of its successor at every build; --quiet would hide warnings
# from --strict.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(DOCS_READY)
	$(BIN)/mkdocs build --strict
	@echo "the documentation is in site/; open site/index.html, or $(BIN)/mkdocs serve for the search, too"

# Runs the notebooks of docs/tutorials/ and keeps what they print: after changes to what they show.
tutorials: export OMP_NUM_THREADS = 1
tutorials: $(DOCS_READY)
	$(BIN)/python docs/run_tutorials.py

bench: $(READY)
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/predict_overhead.py
