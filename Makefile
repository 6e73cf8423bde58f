# `make help` lists what there is. PYTHON=/path/to/python uses that environment instead of ./.venv.
.POSIX:
.PHONY: help dev check test test-full results

python = "$${PYTHON:-.venv/bin/python}"
N = 240

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile

dev: .venv/dev-ready ## environment with everything that tests and checks need (in .venv, or in PYTHON)

.venv/dev-ready: setup.py constraints.txt
	@if [ -n "$$PYTHON" ]; then exit 0; fi; \
	root=$$(pwd) && . ./egs/_run.sh && make_venv '[dev]' && touch .venv/dev-ready

check: dev ## ruff and basedpyright
	@mkdir -p .typing && ln -sfn .. .typing/sonolume
	$(python) -m ruff check .
	$(python) -m basedpyright --pythonpath "$$(command -v $(python))"

test: check ## what CI runs: checks and all tests but the long ones
	$(python) -m pytest -q -n 2 --dist worksteal

test-full: check ## also trains everything from nothing
	$(python) -m pytest -q -n 2 --dist worksteal -m 'not benchmark'

results: dev ## measure all shipped parts on N samples each (make results N=600), and write the README's table of results
	$(python) bins/results.py --num_samples "$(N)"
