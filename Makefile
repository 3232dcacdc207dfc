# Two commands matter: `make book` and `make test`. Both make their own environment first.
PYTHON ?= python3
PY     := .venv/bin/python
READY  := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help book html pdf test lint clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(READY)  ## run every chapter at its defaults and render the book to _build/html
	$(PY) -m lla_helpers build --execute

html: $(READY)  ## render the stored outputs to _build/html, without running anything
	$(PY) -m lla_helpers build

pdf: $(READY)  ## the same pages as one file to print, _build/book.pdf (needs Chromium)
	$(PY) -m lla_helpers build --pdf

test: $(READY)  ## everything that continuous integration runs
	$(PY) -m ruff check . && $(PY) -m ruff format --check .
	$(PY) -m lla_helpers check
	$(PY) -m tests.browser
	$(PY) -m pytest

lint: $(READY)  ## format the code and mend what ruff can mend
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

clean:  ## remove _build (the environment stays)
	rm -rf _build

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "The book needs Python 3.11 or newer; name one: make PYTHON=python3.12 book" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $(READY)
