PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Else the command line would begin itself anew in a locale that is not UTF-8: in a test, pytest.
export PYTHONUTF8 := 1

.PHONY: demo help test test-versions newest mutants lint slurm browser clean

demo: $(STAMP)  ## download → tokenizer → pack → pretrain → finetune → validate → benchmark, on this machine
	$(BIN)/sllm submit configs/smoke.yaml --on local

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/make \1\t\2/p' Makefile | expand -t 20

# Three processes for two cores, a file of tests at a time and in their order: one of them mostly waits, for Slurm.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder
test: $(STAMP) lint slurm browser  ## lint, and all tests
	$(BIN)/pytest $(PARALLEL)

# Short, and of what depends on other packages most. What numba compiles under one version is none of the others'.
VERSIONS := oldest newest
SHORT := $(addprefix tests/,test_imports.py config model export inference training/test_training.py tokenizer/test_codec.py \
  data/test_sources.py data/test_task_items.py jobs/test_cli.py jobs/slurm/test_cluster.py evaluation/test_tasks.py report/test_page.py)
test-versions: $(VERSIONS:%=.venv-%/.installed)  ## some of the tests under the floors of pyproject.toml, and under new versions
	@for age in $(VERSIONS); do \
	  echo "the $$age versions: $$(.venv-$$age/bin/python -c 'import torch; print("torch", torch.__version__)')"; \
	  PYTHONPATH=$$PWD NUMBA_CACHE_DIR=$$PWD/.venv-$$age/numba .venv-$$age/bin/pytest -q -p no:cacheprovider $(PARALLEL) \
	    -m "not corpus and (not slow or kills)" $(SHORT) || exit 1; \
	done

# Several GB each: of these versions PyPI has torch with CUDA only. Few of the 200 MB of Python are ever imported: not compiled.
.venv-oldest/.installed: requirements-oldest.txt
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/pip install --quiet --no-compile --requirement requirements-oldest.txt
	touch $@

.venv-newest/.installed: requirements-newest.txt
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/pip install --quiet --no-compile --requirement requirements-newest.txt
	touch $@

# Written down, so that a commit that passed passes, whatever others release.
newest:  ## write the newest versions there are today to requirements-newest.txt
	$(PYTHON) -m venv --clear .venv-newest
	sed 's/==.*//' requirements-oldest.txt | .venv-newest/bin/pip install --quiet --no-compile --requirement /dev/stdin
	(sed -n '1{/^#/p}' requirements-newest.txt; .venv-newest/bin/pip freeze) > .venv-newest/versions
	mv .venv-newest/versions requirements-newest.txt
	touch .venv-newest/.installed

# The tests start Slurm daemons of their own; RUNLEVEL=1 keeps the system's off.
slurm: $(STAMP)  ## Debian's packages of Slurm, and of locales to test with, where they may be installed
	@missing=$$($(BIN)/python -c 'from jobs.tools.dev_cluster import missing_packages; print(*missing_packages())'); \
	if [ ! -e /usr/share/i18n/charmaps/EUC-KR.gz ]; then missing="$$missing locales"; fi; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	install="apt-get install -y --no-install-recommends $$missing"; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive $$install -qq >/dev/null; then exit 0; fi; \
	echo "Missing, so that tests/slurm or tests of locales will be skipped: $$missing. With root's rights on Debian or Ubuntu: $$install"

# The tests look at the page of a run in it.
browser:  ## Debian's Chromium, and a font with Hangul, where they may be installed
	@missing=""; \
	for name in chromium chromium-browser google-chrome; do found="$$found$$(command -v $$name)"; done; \
	test -n "$$found" || missing="chromium"; \
	test -n "$$(fc-list :lang=ko 2>/dev/null)" || missing="$$missing fonts-noto-cjk"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	install="apt-get install -y --no-install-recommends $$missing"; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$install -qq >/dev/null; then exit 0; fi; \
	echo "Missing, so that tests/report/test_browser.py will be skipped, or sees boxes: $$missing. With root's rights on Debian or Ubuntu: $$install"

mutants: $(STAMP)  ## mistakes put into a copy of the tree one at a time: those which the tests do not notice
	$(BIN)/python tests/mutants.py

lint: $(STAMP)  ## ruff and mypy, as CI and pre-commit run them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Exact versions, and torch's build without CUDA: the machine this is for has two cores and no GPU.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("sllm needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## remove what make installed, and runs and data
	rm -rf .venv .venv-oldest .venv-newest runs data
