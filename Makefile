# make demo      see it work: both variants on the built-in dataset, and what the memory changes
# make ablation  what each setting of the memory does: 12 variants, 3 seeds each -> docs/results.md (3 pretrainings, 36 trainings; 1 1/4 hours)
# make retry     download again what failed for a reason that can pass, and bring up to date what hangs on it
# make app       caption your own videos on a page: open the address that it says (after make demo)
# make test      check it: lint, types, tests
# make lint      the first two of those
# make lock      pin requirements*.txt anew from requirements*.in
# make clean     remove the environment and the tools' caches; data, models and metrics stay
#
# Each makes the environment it needs in .venv, from Python 3.11 or 3.12, and installs nothing outside this folder.

.PHONY: help demo ablation app retry test lint lock clean
.DELETE_ON_ERROR:

# The first Python that is new enough and can make environments (Debian's python3 without python3-venv cannot).
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
    "$$p" -c "$(USABLE)" >/dev/null 2>&1 && { command -v "$$p"; break; }; done)

# First on the path, so that the `python` in dvc.yaml is the environment's. (A named shell, because macOS's make looks
# simple commands up on the path it was started with.)
SHELL := bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_CACHE_DIR := $(CURDIR)/.venv/uv-cache

# DVC's experiments are commits, which git refuses to make for nobody.
ifeq ($(and $(shell git config user.name),$(shell git config user.email)),)
export GIT_AUTHOR_NAME ?= nobody
export GIT_AUTHOR_EMAIL ?= nobody@localhost
export GIT_COMMITTER_NAME ?= nobody
export GIT_COMMITTER_EMAIL ?= nobody@localhost
endif

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: .venv/installed
	@for name in baseline memory; do dvc exp remove -q $$name >/dev/null 2>&1 || true; done  # of an earlier demo
	dvc exp run -n baseline -S memory.enabled=false
	dvc exp run -n memory -S memory.enabled=true
	dvc metrics diff baseline memory
	python -m pipeline.compare baseline memory
	python -m pipeline.report baseline memory
	@echo
	@echo 'Scores are in percent; "CIDEr.order" is CIDEr of the segments of kind "order" (README.md says what the kinds are).'
	@echo 'Where to look next: metrics/report.html (open it in a browser), data/captions.csv (what it said), metrics/segments.parquet (how right each caption is),'
	@echo 'data/activitynet/videos (what it saw), params.yaml (every number; try: dvc exp run -S memory.k=32), and README.md.'
	@echo 'dvc is in .venv/bin: source .venv/bin/activate'

ablation: .venv/installed
	@# ablation/pipeline.yaml says why DVC sees it only meanwhile, also if it is interrupted
	trap 'rm -f ablation/dvc.yaml' EXIT; cp ablation/pipeline.yaml ablation/dvc.yaml && dvc repro ablation/dvc.yaml

retry: .venv/installed
	@# DVC takes the stages for up to date: nothing changed here, but the network may have.
	dvc repro --force --single-item download@coco download@activitynet
	dvc repro

app: .venv/installed
	python -m pipeline.app

test: lint
	OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-dev
	ruff check
	ruff format --check
	mypy

# UV_CUSTOM_COMPILE_COMMAND is what the files' headers say made them.
lock: export UV_CUSTOM_COMPILE_COMMAND := make lock
lock: .venv/bin/python
	python -m pip install -q uv
	for name in requirements requirements-dev requirements-ray requirements-s3; do \
	    uv pip compile -q $$name.in -o $$name.txt --python-version 3.11 --universal \
	        --override requirements-overrides.txt --no-emit-index-url --no-emit-find-links || exit 1; \
	done
	@rm -rf $(UV_CACHE_DIR)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: found no Python 3.11 or 3.12 with venv and ensurepip (Debian and Ubuntu:" \
	    "apt-get install python3-venv). Or name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv

# uv installs in half pip's time, with the system's certificates as pip. It knows nothing of pip's settings (a mirror): where
# it fails, pip does it.
# --no-deps: the files name everything, and leave out what requirements-overrides.txt says.
INSTALL = python -m pip install -q uv && uv pip install --system-certs --no-deps --compile-bytecode --python .venv/bin/python -r $< \
    || python -m pip install --no-deps -r $<

.venv/installed: requirements.txt | .venv/bin/python
	$(INSTALL)
	@rm -rf $(UV_CACHE_DIR)
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(INSTALL)
	@rm -rf $(UV_CACHE_DIR)
	@touch $@
