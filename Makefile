PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint slurm clean

demo: $(STAMP)  ## download → tokenizer → pack → pretrain → validate → benchmark, on this machine
	$(BIN)/sllm submit configs/smoke.yaml --on local

test: $(STAMP) lint slurm
	$(BIN)/pytest

# The tests start Slurm daemons of their own; RUNLEVEL=1 keeps the system's off.
slurm: $(STAMP)  ## Debian's packages of Slurm, where they may be installed
	@missing=$$($(BIN)/python -c 'from jobs.dev_cluster import missing_packages; print(*missing_packages())'); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	install="apt-get install -y --no-install-recommends $$missing"; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive $$install -qq >/dev/null; then exit 0; fi; \
	echo "Slurm is not here: tests/slurm will be skipped. With root's rights on Debian or Ubuntu: $$install"

lint: $(STAMP)
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

clean:
	rm -rf .venv runs data
