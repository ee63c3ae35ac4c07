# Every target runs from a clean clone; the first one that needs the environment makes it.
# `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := .venv/bin/python
STAMP := .venv/.ready
ARGS ?=
JSON ?= bench.json

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## system packages (needs root) and the locked Python environment

$(STAMP): requirements/dev.lock pyproject.toml scripts/setup
	scripts/setup
	touch $@

demo: $(STAMP) ## the main job on six real machines; ARGS="--exit --json demo.json"
	.venv/bin/upkeep demo $(ARGS)

check: $(STAMP) ## lint, types and the fast tests: under 90 s
	.venv/bin/ruff format --check src tests bench
	.venv/bin/ruff check src tests bench
	.venv/bin/mypy
	$(PYTHON) -m pytest -n 2 -m "not machines and not slow"
	$(PYTHON) -m upkeep.sim --seeds 1..50

test: $(STAMP) ## everything that one machine can: real machines, crashes, browser
	$(PYTHON) -m pytest -n 2 -m "not machines"
	$(PYTHON) -m pytest -m machines -k "not libvirt or debian"

test-libvirt: $(STAMP) ## the whole platform contract on emulated virtual machines: ten minutes
	$(PYTHON) -m pytest -m machines -k "libvirt"

fix: $(STAMP) ## format and mend what can be mended
	.venv/bin/ruff format src tests bench
	.venv/bin/ruff check --fix src tests bench

bench: $(STAMP) ## figures and their budgets, ten minutes, needs root; JSON=bench.json
	$(PYTHON) -m bench --json $(JSON)

sim: $(STAMP) ## SEEDS=1..3000
	$(PYTHON) -m upkeep.sim --seeds $(or $(SEEDS),1..200)

mutants: $(STAMP) ## plant bugs, one at a time; the simulator must find each
	$(PYTHON) -m tests.sim.mutants

fidelity: $(STAMP) ## run the tests that cite the sheets' numbers; write docs/fidelity.md
	$(PYTHON) -m tests.fidelity.table

lock: ## write the lock files anew from pyproject.toml (needs uv)
	uv pip compile -q --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--python-version 3.11 --upgrade pyproject.toml -o requirements/server.lock
	uv pip compile -q --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--python-version 3.11 --upgrade --extra dev --extra libvirt pyproject.toml \
		-o requirements/dev.lock
	for wanted in requirements/client-*.in; do \
		uv pip compile -q --generate-hashes --no-header --no-emit-index-url --no-annotate \
			--python-version 3.11 $$wanted -o $${wanted%.in}.lock || exit 1; \
	done

.PHONY: help setup demo check test test-libvirt fix bench sim mutants fidelity lock
