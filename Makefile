# Two commands for a newcomer: `make run` and `make test`. Needed: Python 3.11 or newer, make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
# Neighbours stay together, so that a module's service or ledger is made once; the idle take over.
PYTEST := $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal

.PHONY: run test test-long lint format bench lock clean

run: $(VENV)/run
	$(BIN)/secrets-broker dev

test: $(VENV)/dev
	$(PYTEST) $(PYTEST_ARGS)

# What only machines need, and nobody waits for: the tests that are marked as long.
test-long: $(VENV)/dev
	$(PYTEST) -m long $(PYTEST_ARGS)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs wrk (https://github.com/wg/wrk), which distributions package.
bench: $(VENV)/dev
	$(BIN)/python -m bench.run
	$(BIN)/python -m bench.rotation
	$(BIN)/python -m bench.export
	$(BIN)/python -m bench.verify
	$(BIN)/python -m bench.names
	$(BIN)/python -m bench.evidence
	$(BIN)/python -m bench.authenticity
	$(BIN)/python -m bench.access
	$(BIN)/python -m bench.batch

# After a change of dependencies in pyproject.toml. The last one is what the image is built with.
lock: $(VENV)/dev
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --no-emit-index-url \
		--extra embedded --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --no-emit-index-url \
		--extra embedded --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	echo 'setuptools>=80' | $(BIN)/uv pip compile --quiet --generate-hashes --universal \
		--no-emit-index-url --output-file requirements-build.lock -

clean:
	rm -rf $(VENV) build *.egg-info

# The stamp files say what is installed; a newer lock file installs again.
$(VENV)/run: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: -r requirements-dev.lock
	touch $@
