# Everything builds its own .venv: a bare machine needs Python 3.11 or newer, and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long check lint types docs format clean

demo: .venv/ready
	$(BIN)/unbatch demo --out out/demo

test: .venv/ready
	$(BIN)/python -m pytest -m "not long"

test-long: .venv/ready
	$(BIN)/python -m pytest -m long

check: lint types test

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

docs: .venv/ready
	$(BIN)/python benchmarks/write_docs.py
	$(BIN)/mkdocs build --strict --quiet

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The exact pins are in constraints.txt: a looser pin of torch can pull gigabytes of CUDA.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unbatch needs Python 3.11 or newer: set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
