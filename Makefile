# `make demo` and `make test` set up .venv themselves; nothing else has to be installed first but Python >= 3.10.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope

.DEFAULT_GOAL := help
# The page and the stand-in Hub run until Ctrl-C.
.PHONY: help demo space hub test test-slow check docs dist format clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(READY): setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "medsyn needs Python 3.10 or newer, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[generate,train,dicom,demo,docs,dev]'
	touch $@

demo: $(READY)  ## build a phantom dataset, pre-train and probe a small encoder (about ten minutes)
	$(BIN)/medsyn demo

space: $(READY)  ## open the demo page on this machine
	$(BIN)/medsyn space

hub: $(READY)  ## run a stand-in Hub on this machine, to try publishing on
	$(BIN)/python -m scripts.hub

test: $(READY)  ## run the test suite
	$(PYTEST) $(PYTEST_ARGS)

test-slow: $(READY)  ## run the long tests too
	$(PYTEST) -m "" $(PYTEST_ARGS)

check: $(READY)  ## lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## build the documentation site in site/
	$(BIN)/mkdocs build --strict

dist: $(READY)  ## build wheel and sdist in dist/ and check them
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

format: $(READY)  ## fix what lint and format can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the targets made, .venv included
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache demo-results
