# make demo      see it work: both variants on the built-in dataset, and what the memory changes
# make plan      what a run of params.yaml will cost on this machine: seconds, disk and memory of each stage
# make ablation  what each setting of the memory does: 25 variants, some with 3 seeds -> docs/results.md (3 pretrainings, 35 trainings; two hours)
# make long      how long a memory lasts, beside 16 and 64 evenly spaced frames -> docs/results.md (half an hour, after make demo)
# make gap       why images and texts of one encoder lie apart, and what it costs: docs/gap.md (minutes, after make demo)
# make attend    an LSTM that looks at a video net's features: four kinds of attention, and explanations that are scored (after make demo)
# make questions what glimpses of a video answer, and what a memory of every frame: 7 models -> docs/results.md (after make demo)
# make vlm       what a vision-language model says of the same videos: docs/vlm.md (after make demo; needs a server, or a model to fetch)
# make table     one table of all captioners, what they score and what they cost; first makes what is missing of them (an hour after make demo)
# make retry     download again what failed for a temporary reason, and update everything downstream
# make app       caption your own videos on a page: open the address it prints (after make demo)
# make test      check it: lint, types, tests
# make lint      the first two of those
# make deps      write into dvc.yaml which modules each stage imports
# make lock      pin requirements*.txt again, from requirements*.in
# make clean     remove the environment and the tools' caches; data, models and metrics stay
#
# Each makes the environment it needs in .venv, from Python 3.11 to 3.14, and installs nothing outside this folder.
#
# This folder may lie anywhere and be called anything: recipes name files relative to it, so that no path has to survive the
# shell, and nothing outside it can be removed.

.PHONY: help history demo demo-frames@videos demo-frames@pictures+backbones demo-embed@videos \
    demo-embed@pictures+pretrain demo-baseline demo-memory plan ablation ablation-even ablation-odd long attend attend-others attend-space-time \
    gap gap-causes gap-coca questions questions-even questions-odd vlm table one-frame app retry test lint deps lock clean
.DELETE_ON_ERROR:

# The first Python that is new enough and can make environments (Debian's python3 without python3-venv cannot). Asked by
# running it: pyenv leaves a python3.13 on the path that only says that it is not activated.
USABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHONS := python3.12 python3.11 python3.13 python3.14 python3 python

# First on the path, so that the `python` in dvc.yaml is the environment's. (A named shell, because macOS's make looks
# simple commands up on the path it was started with.)
SHELL := bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_CACHE_DIR := .venv/uv-cache

# DVC's experiments are commits, which git refuses to make for nobody.
ifeq ($(and $(shell git config user.name),$(shell git config user.email)),)
export GIT_AUTHOR_NAME ?= nobody
export GIT_AUTHOR_EMAIL ?= nobody@localhost
export GIT_COMMITTER_NAME ?= nobody
export GIT_COMMITTER_EMAIL ?= nobody@localhost
endif

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# DVC's experiments are commits, and the tests copy what git tracks: a downloaded archive has neither.
history:
	@[ -e .git ] && git rev-parse -q --verify HEAD >/dev/null 2>&1 || { echo "error: this folder has no git history. Clone the project" \
	    "with git, or type here: git init && git add -A && git commit -m start" >&2; exit 1; }

# What needs nothing of each other runs side by side, a core each: most of it computes on one thread. Of each pair the second
# is shown; the first keeps out of its way (nice), and is shown if it fails.
demo: export OMP_NUM_THREADS := 1
demo: history .venv/installed
	@for name in baseline memory; do dvc exp remove -q $$name >/dev/null 2>&1 || true; done  # of an earlier demo
	@mkdir -p .dvc/tmp
	dvc repro download@pictures download@videos
	@$(MAKE) -j2 --no-print-directory demo-frames@videos demo-frames@pictures+backbones
	@$(MAKE) -j2 --no-print-directory demo-embed@videos demo-embed@pictures+pretrain
	@rm -f .dvc/tmp/baseline.log
	@$(MAKE) -j2 --no-print-directory demo-baseline demo-memory
	dvc metrics diff baseline memory
	python -m pipeline.compare baseline memory
	python -m pipeline.report baseline memory
	@echo
	@echo 'Scores are in percent; "CIDEr.order" is CIDEr of the segments of kind "order" (README.md says what the kinds are).'
	@echo 'Where to look next: metrics/report.html (open it in a browser), data/captions.csv (the captions), metrics/segments.parquet (the scores of each),'
	@echo 'data/videos/media (the videos), params.yaml (every number; try: dvc exp run -S memory.k=32), and README.md.'
	@echo 'dvc is in .venv/bin: source .venv/bin/activate'

# --single-item: not what comes before them, of which DVC lets one command at a time make sure.
REPRO := dvc --wait-for-lock repro --single-item

demo-frames@videos demo-embed@videos: demo-%:
	nice $(REPRO) $* >.dvc/tmp/$*.log 2>&1 || { cat .dvc/tmp/$*.log >&2; exit 1; }

demo-frames@pictures+backbones demo-embed@pictures+pretrain: demo-%:
	$(REPRO) $(subst +, ,$*)

# In a folder of DVC's own, and so beside the other experiment, which has this one. DVC prepares one experiment at a time.
demo-baseline:
	dvc exp run --temp -n baseline -S memory.enabled=false >.dvc/tmp/baseline.log 2>&1 || { cat .dvc/tmp/baseline.log >&2; exit 1; }

demo-memory:
	@for _ in {1..600}; do grep -qsE '^(Reproducing|ERROR)' .dvc/tmp/baseline.log && break; sleep 0.1; done
	dvc --wait-for-lock exp run -n memory -S memory.enabled=true

plan: .venv/installed
	python -m pipeline.plan

# Most variants have one training, of one core: every second one beside the others.
ablation: export OMP_NUM_THREADS := 1
ablation: history .venv/installed
	dvc repro embed@videos studies/ablation/dvc.yaml:pretrained
	@mkdir -p .dvc/tmp
	@$(MAKE) -j2 --no-print-directory ablation-even ablation-odd
	dvc repro studies/ablation/dvc.yaml

VARIANTS := dvc stage list --name-only studies/ablation/dvc.yaml | grep :variant@ | sed -n

ablation-even:
	{ $(VARIANTS) 'n;p' | xargs -r nice $(REPRO); } >.dvc/tmp/ablation-even.log 2>&1 || { cat .dvc/tmp/ablation-even.log >&2; exit 1; }

ablation-odd:
	$(VARIANTS) 'p;n' | xargs -r $(REPRO)

long: history .venv/installed
	dvc repro studies/long/dvc.yaml

# The CoCa and the small CLIPs need nothing of each other: side by side, a core each.
gap: export OMP_NUM_THREADS := 1
gap: history .venv/installed
	dvc repro frames@pictures embed@videos
	@mkdir -p .dvc/tmp
	@$(MAKE) -j2 --no-print-directory gap-causes gap-coca
	dvc repro studies/gap/dvc.yaml
	python -m studies.gap.show

gap-causes:
	nice $(REPRO) studies/gap/dvc.yaml:causes studies/gap/dvc.yaml:decoder >.dvc/tmp/gap-causes.log 2>&1 || { cat .dvc/tmp/gap-causes.log >&2; exit 1; }

gap-coca:
	$(REPRO) studies/gap/dvc.yaml:coca studies/gap/dvc.yaml:describe

# Space-time attention takes as long to learn as the other kinds together.
attend: export OMP_NUM_THREADS := 1
attend: history .venv/installed
	dvc repro studies/attend/dvc.yaml:cells
	@mkdir -p .dvc/tmp
	@$(MAKE) -j2 --no-print-directory attend-others attend-space-time
	dvc repro studies/attend/dvc.yaml
	python -m studies.attend.table

attend-others:
	nice $(REPRO) $(foreach stage,learn caption evaluate,$(foreach kind,none temporal spatial,studies/attend/dvc.yaml:$(stage)@$(kind))) \
	    >.dvc/tmp/attend-others.log 2>&1 || { cat .dvc/tmp/attend-others.log >&2; exit 1; }

attend-space-time:
	$(REPRO) studies/attend/dvc.yaml:learn@space-time

# A training takes one core: every second model, with its answers, beside the others; and captions, of which there is one.
questions: export OMP_NUM_THREADS := 1
questions: history .venv/installed
	dvc repro studies/questions/dvc.yaml:ask
	@mkdir -p .dvc/tmp
	@$(MAKE) -j2 --no-print-directory questions-even questions-odd
	dvc repro studies/questions/dvc.yaml
	python -m studies.questions.show

ASKED := dvc stage list --name-only studies/questions/dvc.yaml | grep -E
ANSWERED := sed 'p; s/:learn/:answer/' | uniq

questions-even:
	{ { $(ASKED) :learn@ | sed -n 'n;p'; $(ASKED) ':(describe|learn-captions@)'; } | $(ANSWERED) | xargs -r nice $(REPRO); } \
	    >.dvc/tmp/questions-even.log 2>&1 || { cat .dvc/tmp/questions-even.log >&2; exit 1; }

questions-odd:
	$(ASKED) :learn@ | sed -n 'p;n' | $(ANSWERED) | xargs -r $(REPRO)

vlm: history .venv/installed-vlm
	dvc repro studies/vlm/dvc.yaml

# A captioner that sees the last frame of a segment, and nothing else.
one-frame: history .venv/installed
	dvc exp run --temp -n one-frame -S memory.enabled=false -S baseline.frames=last -S baseline.count=1

table: history .venv/installed
	@for name in $$(python -m pipeline.table --missing); do $(MAKE) --no-print-directory $$name || exit 1; done
	python -m pipeline.table --insert

retry: history .venv/installed
	@# DVC takes the stages for up to date: nothing changed here, but the network may have.
	dvc repro --force --single-item download@pictures download@videos
	dvc repro

app: .venv/installed
	python -m pipeline.app

test: history lint
	OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-dev
	ruff check
	ruff format --check
	mypy

deps: .venv/installed
	python -m pipeline.deps

# The same version of a package on every Python that is promised (fewest), or what is tested is not what runs elsewhere.
# UV_CUSTOM_COMPILE_COMMAND is what the files' headers say made them.
lock: export UV_CUSTOM_COMPILE_COMMAND := make lock
lock: .venv/bin/python
	python -m pip install -q uv
	for name in requirements requirements-dev requirements-ray requirements-s3 requirements-vlm requirements-lmdb requirements-umap; do \
	    python -m uv pip compile -q $$name.in -o $$name.txt --python-version 3.11 --universal --fork-strategy fewest \
	        --override requirements-overrides.txt --no-emit-index-url --no-emit-find-links || exit 1; \
	done
	@rm -rf .venv/uv-cache

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find bench docs pipeline stages studies tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@for python in $${PYTHON:+"$$PYTHON"} $(if $(PYTHON),,$(PYTHONS)); do \
	    "$$python" -c '$(USABLE)' >/dev/null 2>&1 && exec "$$python" -m venv .venv; \
	done; \
	echo "error: found no Python 3.11 to 3.14 with venv and ensurepip (tried $${PYTHON:-$(PYTHONS)}; Debian and Ubuntu:" \
	    "apt-get install python3-venv). Name another: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1

# uv installs in half pip's time, with the system's certificates as pip. It knows nothing of pip's settings (a mirror): where
# it fails, pip does it.
# --no-deps: the files name everything, and leave out what requirements-overrides.txt says.
INSTALL = python -m pip install -q uv && python -m uv pip install --system-certs --no-deps --compile-bytecode --python .venv/bin/python -r $< \
    || python -m pip install --no-deps -r $<

.venv/installed: requirements.txt | .venv/bin/python
	$(INSTALL)
	@rm -rf .venv/uv-cache
	@touch $@

.venv/installed-vlm: requirements-vlm.txt .venv/installed
	$(INSTALL)
	@rm -rf .venv/uv-cache
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(INSTALL)
	@rm -rf .venv/uv-cache
	@touch $@
