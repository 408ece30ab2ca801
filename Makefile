# For GNU make 3.81 (macOS) and newer. PYTHON names the interpreter that the
# environment is made with; each environment needs `make clean` to change it.

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
HOST = 127.0.0.1
PORT = 5000
# The port of the status page, on this machine only.
ADMIN = $(if $(filter 9000,$(PORT)),9001,9000)
# The program that runs the suite, and arguments for pytest.
RUNNER = $(BIN)/python
ARGS =
# How many processes share the tests; a module's tests stay together. 0 is this one.
# Five suit two processors: half of the time is spent waiting.
JOBS = 5
PYTEST = $(RUNNER) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# The suite starts thousands of interpreters. Each would compile all modules if their
# bytecode were not kept.
export PYTHONDONTWRITEBYTECODE =
# The runs of `make test-flaky`.
RUNS = 1 2 3 4 5 6 7 8 9 10
# The runs of `make test-pauses`, each with other pauses.
SEEDS = 1 2 3
# The benchmarks' environment. It has only what is measured or needed for it.
BENCH_VENV = .venv-bench
# The lowest coverage of the suite that is accepted, in percent.
COVERAGE = 95

METADATA = setup.cfg pyproject.toml

.DELETE_ON_ERROR:
.PHONY: run test test-flaky test-pauses lint types coverage docs bench dist clean

run: $(VENV)/run.stamp
	@echo 'The example app: http://$(HOST):$(PORT)/'
	@echo 'Its status page: http://127.0.0.1:$(ADMIN)/'
	@echo 'Other ports: make run PORT=8000 ADMIN=8001'
	$(BIN)/flask --app example_app prefork-run --host $(HOST) --port $(PORT) --admin $(ADMIN)

test: $(VENV)/test.stamp
	@echo "The whole suite takes 10 to 25 minutes on two processors, and installs some"
	@echo "apps from a package index. ARGS=tests/http runs a part of it. It uses these"
	@echo "programs, and skips the tests of those that are missing:"
	@PYTHONPATH=tests $(BIN)/python -m programs
	$(PYTEST) $(ARGS)

# Each run has another order. pytest prints its number, and ARGS=--seed=NUMBER repeats
# that order.
test-flaky: $(VENV)/test.stamp
	for run in $(RUNS); do \
		$(PYTEST) $(ARGS) || exit; \
	done

# The servers pause wherever a process hands something to another one. ARGS=tests/faults
# runs a part of it, and SEEDS=2 one of the runs.
test-pauses: $(VENV)/test.stamp
	for seed in $(SEEDS); do \
		$(PYTEST) --pauses=$$seed $(or $(ARGS),tests/faults tests/integration) || exit; \
	done

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# Some tests' processes change their user, and must be able to write their data too.
coverage: RUNNER = $(BIN)/coverage run
coverage: $(VENV)/dev.stamp
	set -e; data=$$(mktemp -d); trap 'rm -rf "$$data"' EXIT; chmod 1777 "$$data"; \
	COVERAGE_FILE="$$data/.coverage" $(PYTEST) $(ARGS); \
	$(BIN)/coverage combine --quiet "$$data"
	$(BIN)/coverage report --fail-under=$(COVERAGE)

docs: $(VENV)/docs.stamp
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

# It takes about 100 minutes. ARGS=--smoke checks in minutes that all works, and
# ARGS=--resume continues an interrupted run. See `$(BENCH_VENV)/bin/python benchmarks --help`.
bench: $(BENCH_VENV)/bench.stamp
	$(BENCH_VENV)/bin/python benchmarks all $(ARGS)

# All that is in the tree goes into them, so a release is made in a clean clone.
dist: $(VENV)/dev.stamp
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

clean:
	rm -rf $(VENV) $(BENCH_VENV) .tox build dist htmlcov *.egg-info .coverage .coverage.*
	rm -rf docs/_build
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps record what is installed. They are made again when the metadata changes.

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/docs.stamp: $(VENV)/pyvenv.cfg $(METADATA)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(BENCH_VENV)/bench.stamp: $(METADATA)
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --editable '.[bench]'
	touch $@

$(VENV)/run.stamp: $(VENV)/pyvenv.cfg $(METADATA)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/pyvenv.cfg $(METADATA)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/pyvenv.cfg $(METADATA)
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@
