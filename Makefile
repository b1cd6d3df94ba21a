# make parity: build .venv, judge every implementation, print the table.
# make test:   build .venv if it is not there, run the tests.
PYTHON ?= python3
INSTALLED := .venv/installed
# Keras takes its backend when it is imported: one run of its tests for each.
KERAS_TESTS := tests/test_activations.py tests/test_losses.py tests/test_options.py \
	tests/test_conventions.py tests/segact_tf segact_tf

.PHONY: parity test lint figures benchmarks

parity: $(INSTALLED)
	.venv/bin/segact-parity run --require-all

test: $(INSTALLED)
	KERAS_BACKEND=jax SEGACT_ONLY=keras .venv/bin/python -m pytest -q $(KERAS_TESTS)
	KERAS_BACKEND=torch SEGACT_ONLY=keras .venv/bin/python -m pytest -q $(KERAS_TESTS)
	KERAS_BACKEND=tensorflow .venv/bin/python -m pytest

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

figures: $(INSTALLED)
	.venv/bin/python scripts/draw_activations.py
	.venv/bin/segact-parity conventions --figure docs/images/conventions.png

benchmarks: $(INSTALLED)
	.venv/bin/python -m benchmarks --json docs/performance.json \
		--figure docs/images/performance.png --markdown

$(INSTALLED): pyproject.toml setup.py constraints.txt segact_torch/_kernels.c
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev]"
	touch $@
