# A developer's daily commands. Each sets the environment up when it is missing (see tools/environment.sh).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help check lint format unit real ray packaging test quickstart lock wheel clean
environment = source tools/environment.sh && rayward_environment

help:           ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 14

check: lint unit  ## what to run before every commit: lint, types, unit tests

lint:           ## ruff, mypy --strict, import contracts, Python 3.9 for the agent, shellcheck
	@$(environment) && tools/lint.sh

format:         ## let ruff format and fix what it can
	@$(environment) && ruff format . && ruff check --fix .

unit:           ## unit tests, two at a time
	@./test -n 2 -q tests/unit

real:           ## tests with real processes, one at a time
	@./test --ignore=tests/unit tests

ray:            ## of these, the ones that start Ray
	@./test -m ray --ignore=tests/unit tests

packaging:      ## the wheel, the scripts, the documents
	@./test tests/packaging

test:           ## everything, as continuous integration does
	@./test

quickstart:     ## the guide, played on this machine
	@./quickstart

lock:           ## write requirements.lock anew from pyproject.toml (needs network; UPGRADE=1 takes the newest)
	@$(environment) && pip install --quiet --target build/uv uv && PYTHONPATH=build/uv python -m uv pip compile \
	    --quiet --universal --python-version 3.10 --extra dev --generate-hashes --no-header \
	    --no-emit-index-url $${UPGRADE:+--upgrade} pyproject.toml --output-file requirements.lock

wheel:          ## build the wheel into dist/
	@$(environment) && python -m hatchling build -t wheel

clean:          ## remove what builds and runs leave in this tree
	@rm -rf build dist out .pytest_cache .ruff_cache .mypy_cache
