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
# The least part of the code that the suite has to reach, in percent.
COVERAGE = 75

METADATA = setup.cfg pyproject.toml

.DELETE_ON_ERROR:
.PHONY: run test lint types coverage dist clean

run: $(VENV)/run.stamp
	$(BIN)/flask --app example_app prefork-run --host $(HOST) --port $(PORT)

test: $(VENV)/test.stamp
	$(RUNNER) -m pytest $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/dev.stamp
	$(BIN)/mypy

coverage: $(VENV)/dev.stamp
	$(BIN)/coverage erase
	$(MAKE) test RUNNER='$(BIN)/coverage run'
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=$(COVERAGE)

dist: $(VENV)/dev.stamp
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) .tox build dist htmlcov *.egg-info .coverage .coverage.*
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps tell what is installed. They are renewed when the metadata changes.

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(VENV)/pyvenv.cfg $(METADATA)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/pyvenv.cfg $(METADATA)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/pyvenv.cfg $(METADATA)
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@
