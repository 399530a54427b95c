# A newcomer needs only `make run` and `make test`; both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-benchmarks test-clusters test-thorough lint check clean

run: $(VENV)/.installed ## a real search in minutes, on two CPU cores
	$(BIN)/tinysearch run spaces/hybrid.yaml --budget quick

test: $(VENV)/.installed ## all tests; those that start Ray mostly wait, so three processes use two cores
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-benchmarks: $(VENV)/.installed ## the benchmarks from start to end, on small problems
	$(BIN)/python -m pytest -n 2 -m benchmark

test-clusters: $(VENV)/.installed ## jobs that are stopped, requeued and submitted again: minutes each
	$(BIN)/python -m pytest -m long

test-thorough: $(VENV)/.installed ## more cases of the same tests, such as a kill at every point
	$(BIN)/python -m pytest -n 2 -m thorough

lint: $(VENV)/.installed ## layout, lint, types (a minute at first, then seconds), the generated schema
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/tinysearch schema | diff - spaces/schema.json

check: lint test ## everything that a change must pass

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "tinysearch needs Python 3.11 to 3.13, not %d.%d; make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean: ## the virtual environment and caches; studies in runs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
