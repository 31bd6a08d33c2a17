# Everything builds its own .venv: a bare machine needs Python 3.11 or newer, and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long test-flower check lint types docs site notebooks package format clean

demo: .venv/ready
	$(BIN)/unbatch demo --out out/demo

test: .venv/ready
	$(BIN)/python -m pytest -m "not long"

test-long: .venv/ready
	$(BIN)/python -m pytest -m long
	$(BIN)/python benchmarks/honesty.py --trials 3000
	$(BIN)/python benchmarks/honesty.py --trials 1000 --attack span

# Flower pins typer, rich and packaging below the versions that the other tests run with: an environment of its own.
test-flower: .venv-flower/ready
	.venv-flower/bin/python -m pytest --dist loadfile tests/flower src/unbatch/flower
	.venv-flower/bin/python -m pytest -n 0 tests/experiments/test_ray.py

check: lint types test

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

# Pages that are drawn from results are drawn again; then the site, which lies in site/: `python -m http.server -d site`.
docs: .venv/ready
	$(BIN)/python benchmarks/write_docs.py
	$(MAKE) site

# Material tells of its successor, Zensical, at every start; that is in its beta, and does not take our hooks yet.
site: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest -n 0 tests/test_site.py

# What the cells print and draw is kept in the notebooks, for the site.
notebooks: .venv/ready
	UNBATCH_WRITE_NOTEBOOKS=1 $(BIN)/python -m pytest -n 0 tests/test_notebooks.py

# The wheel and the sdist in dist/; the wheel is tried in an environment that holds nothing else.
package: .venv/ready
	$(BIN)/python -m pytest -n 0 tests/test_packaging.py
	$(BIN)/python -m build --outdir dist

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The exact pins are in constraints.txt: a looser pin of torch can pull gigabytes of CUDA.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unbatch needs Python 3.11 or newer: set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch --editable '.[dev]'
	touch $@

.venv-flower/ready: pyproject.toml constraints-flower.txt
	$(PYTHON) -m venv .venv-flower
	.venv-flower/bin/pip install --quiet --disable-pip-version-check --constraint constraints-flower.txt torch 'flwr[simulation]' \
		beartype hypothesis mypy pytest pytest-timeout pytest-xdist --editable .
	touch $@

clean:
	rm -rf .venv .venv-flower out build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
