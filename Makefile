# make parity: build .venv, judge every implementation, print the table.
# make test:   build .venv if it is not there, run the tests.
PYTHON ?= python3
INSTALLED := .venv/installed

.PHONY: parity test lint figures

parity: $(INSTALLED)
	.venv/bin/segact-parity run

test: $(INSTALLED)
	.venv/bin/python -m pytest

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

figures: $(INSTALLED)
	.venv/bin/python scripts/draw_activations.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev]"
	touch $@
