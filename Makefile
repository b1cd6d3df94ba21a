# make parity: build .venv, check every implementation, print the table.
# make test:   build .venv if it is not there, run the tests, in WORKERS processes.
# make test-oldest, make test-newest: run the PyTorch tests with the oldest supported and the newest
#              version, each in its own environment, which may have gigabytes of CUDA.
# make gpu:    run everything that needs a GPU, without a network, with PYTHON and its packages;
#              INTERPRET=1: a short run without a GPU, with .venv.
PYTHON ?= python3
WORKERS ?= 2
INSTALLED := .venv/installed
# Keras fixes its backend when it is imported: one run of its tests for each.
KERAS_TESTS := tests/both tests/project/test_fixtures.py tests/segact_tf segact_tf
# Tests of layers and models that also run on another backend than TensorFlow.
MODEL_TESTS := $(wildcard tests/parity/test_weights*.py tests/parity/test_model*.py) \
	tests/parity/test_fused_layers.py tests/parity/test_padding_by_function.py \
	tests/parity/test_unknown_layers.py tests/parity/test_published_nets.py
# Each worker gets neighbours, which share fixtures and compiled code.
PYTEST := .venv/bin/python -m pytest -q -n $(WORKERS) --dist worksteal

.PHONY: parity test test-oldest test-newest lint figures benchmarks gpu

parity: $(INSTALLED)
	.venv/bin/segact-parity run --require-all
	.venv/bin/segact-parity train --require-all

# JAX compiles each program once for all processes and runs.
parity test: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.venv/jax
parity test: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

# A thread for each worker: threads that wait for others would take the cores from both.
test test-oldest test-newest: export OMP_NUM_THREADS ?= 1
test test-oldest test-newest: export TF_NUM_INTRAOP_THREADS ?= 1

test: $(INSTALLED)
	KERAS_BACKEND=jax SEGACT_ONLY=keras $(PYTEST) $(KERAS_TESTS)
	KERAS_BACKEND=torch SEGACT_ONLY=keras $(PYTEST) $(KERAS_TESTS) $(MODEL_TESTS)
	KERAS_BACKEND=tensorflow $(PYTEST)

test-oldest: .venv-2.4/installed
test-newest: .venv-newest/installed
test-oldest test-newest:
	$(<D)/bin/python -m pytest -q -n $(WORKERS) tests/segact_torch tests/both

.venv-2.4/installed: TORCH := torch==2.4.*
.venv-newest/installed: TORCH := --upgrade torch
.venv-%/installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
		$(TORCH) --editable ".[torch,parity]" pytest pytest-xdist hypothesis
	touch $@

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

figures: $(INSTALLED)
	.venv/bin/python scripts/draw_activations.py
	.venv/bin/segact-parity conventions --figure docs/images/conventions.png

benchmarks: $(INSTALLED)
	.venv/bin/python -m benchmarks --json docs/performance.json \
		--figure docs/images/performance.png --page docs/results/performance.md

gpu: $(if $(INTERPRET),$(INSTALLED))
	$(if $(INTERPRET),.venv/bin/python -m scripts.gpu --interpret,$(PYTHON) -m scripts.gpu)

$(INSTALLED): pyproject.toml setup.py constraints.txt $(wildcard segact_torch/_backends/loops/*)
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev]"
	touch $@
