VENV := .venv
RUN := $(VENV)/bin/
# Each stamp is written last, so a failed installation leaves none.
USE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
SUITABLE := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
# Run, not only looked up: version managers put commands on PATH that exist and do not work.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && { echo $$python; break; }; done)

.PHONY: help demo setup test lint style types contracts check clean
.NOTPARALLEL:

help:  ## Print the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(USE)  ## Install, then train and evaluate on demonstration data
	$(RUN)rgsud demo

setup: $(DEV)  ## Install with the tools for development

test: $(DEV)  ## Run every test, three files at a time, since many wait for servers
	$(RUN)python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: style types contracts  ## Check style, types and import contracts

style: $(DEV)
	$(RUN)ruff check
	$(RUN)ruff format --check

types: $(DEV)
	$(RUN)mypy

contracts: $(DEV)
	$(RUN)lint-imports

check: lint test  ## Run lint and test

clean:  ## Remove the environment, caches and build products; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip comes last into an environment: where it is missing, an earlier attempt was cut off.
$(VENV)/bin/pip:
	@'$(PYTHON)' -c '$(SUITABLE)' 2>/dev/null || { \
		echo "RGSUD needs Python 3.11 or 3.12 with its venv module: install one, or name one with 'make PYTHON=/path/to/python3.12 ...'." >&2; \
		exit 1; }
	'$(PYTHON)' -m venv --clear $(VENV)

$(USE): pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(RUN)python -m pip install -c constraints.txt -e '.[train]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(RUN)python -m pip install -c constraints.txt -e '.[dev]'
	@touch $(USE) $@
