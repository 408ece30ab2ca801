# For GNU make 3.81 (macOS) and newer. PYTHON names the interpreter that the
# environment is made with; each environment needs `make clean` to change it.

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
HOST = 127.0.0.1
PORT = 5000
# What the suite is run by, and arguments for pytest.
RUNNER = $(BIN)/python
ARGS =
# How many processes share the tests; a module's tests stay together. 0 is this one.
# Three suit two processors: a third of the time is spent waiting.
JOBS = 3
PYTEST = $(RUNNER) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# The runs of `make test-flaky`.
RUNS = 1 2 3 4 5 6 7 8 9 10
# The benchmarks' environment: nothing in it that isn't measured or needed for it.
BENCH_VENV = .venv-bench
# The least part of the code that the suite has to reach, in percent.
COVERAGE = 95

METADATA = setup.cfg pyproject.toml

.DELETE_ON_ERROR:
.PHONY: run test test-flaky lint types coverage docs bench dist clean

run: $(VENV)/run.stamp
	$(BIN)/flask --app example_app prefork-run --host $(HOST) --port $(PORT)

test: $(VENV)/test.stamp
	$(PYTEST) $(ARGS)

# Each time in another order; pytest tells its number, and ARGS=--seed=NUMBER gives
# that order again.
test-flaky: $(VENV)/test.stamp
	for run in $(RUNS); do \
		$(PYTEST) $(ARGS) || exit; \
	done

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# Some tests' processes become other users, who must be able to leave their data too.
coverage: $(VENV)/dev.stamp
	set -e; data=$$(mktemp -d); trap 'rm -rf "$$data"' EXIT; chmod 1777 "$$data"; \
	COVERAGE_FILE="$$data/.coverage" $(MAKE) test RUNNER='$(BIN)/coverage run'; \
	$(BIN)/coverage combine --quiet "$$data"
	$(BIN)/coverage report --fail-under=$(COVERAGE)

docs: $(VENV)/docs.stamp
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

# Hours. ARGS=--smoke shows in minutes that all works, ARGS=--resume goes on with
# what was interrupted; `$(BENCH_VENV)/bin/python benchmarks --help` knows more.
bench: $(BENCH_VENV)/bench.stamp
	$(BENCH_VENV)/bin/python benchmarks all $(ARGS)

dist: $(VENV)/dev.stamp
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(BENCH_VENV) .tox build dist htmlcov *.egg-info .coverage .coverage.*
	rm -rf docs/_build
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps tell what is installed. They are renewed when the metadata changes.

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
