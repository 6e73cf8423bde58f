# `make help` lists the targets. PYTHON=/path/to/python uses that environment instead of ./.venv.
.POSIX:
.PHONY: help dev check docs test test-full browser results

python = "$${PYTHON:-.venv/bin/python}"
N = 240

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile

dev: .venv/dev-ready ## create the environment for tests and checks (.venv, unless PYTHON is set)

.venv/dev-ready: setup.py constraints.txt
	@if [ -n "$$PYTHON" ]; then exit 0; fi; \
	root=$$(pwd) && . ./egs/_run.sh && make_venv '[dev]' && touch .venv/dev-ready

.venv/full-ready: .venv/dev-ready
	@if [ -n "$$PYTHON" ]; then exit 0; fi; \
	root=$$(pwd) && . ./egs/_run.sh && make_venv '[dev,full]' && touch .venv/full-ready

check: dev ## run ruff and basedpyright
	@mkdir -p .typing && ln -sfn .. .typing/sonolume
	$(python) -m ruff check .
	$(python) -m basedpyright --pythonpath "$$(command -v $(python))"

docs: dev ## check that all links, anchors and pictures of the pages exist
	$(python) -m pytest -q tests/test_links.py

test: check ## run the checks and all but the longest tests, as in CI
	$(python) -m pytest -q -n 2 --dist worksteal

test-full: check browser .venv/full-ready ## run the checks and all tests, which train all shipped parts from scratch
	$(python) -m pytest -q -n 2 --dist worksteal -m 'not benchmark'

browser: dev ## install Chromium for the tests of the app, where that is allowed; they are skipped without it
	@for one in chromium chromium-browser google-chrome; do command -v "$$one" >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get install -y -qq chromium >/dev/null; then exit 0; fi; \
	echo "no Chromium: install it with your system's packages, or the tests of the app are skipped" >&2

results: dev ## score all shipped parts on N samples each (make results N=600) and update the table in README.md
	$(python) bins/results.py --num_samples "$(N)"
