# make study   install, run the active study, print its tables
# make test    install, run the tests
# make test-cluster   the long ones: Ray nodes that are started and killed, searches that are killed, a refactoring that is adopted
# make ui      MLflow UI on this machine
# make lint    ruff and mypy
# make clean   remove what can be made again; the trial store and downloads stay
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: study test test-cluster ui lint clean

study: .venv/installed
	dvc repro
	@ablate table

test: .venv/installed
	pytest -n auto --dist loadfile

test-cluster: .venv/installed
	pytest -m cluster

ui: .venv/installed
	ablate ui

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

# The lock names every package with its hash. uv installs it in seconds; where uv cannot be had, pip takes minutes and does the same.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11, for example")'
	if $(BIN)/python -m pip install --quiet uv; \
	then $(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock; \
	else $(BIN)/python -m pip install --require-hashes -r requirements.lock; fi
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv data/prepared data/datasets.json data/images.parquet search plan results tables curves figures report metrics.json logs dvc_plots \
	       .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Kept: store/ (trained trials), search.db (points of searches), data/raw (downloads), mlflow.db and mlartifacts/ (runs), .dvc/cache."
