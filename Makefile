# `make demo` regenerates the study on the embedded digits; `make test` runs every check. Both set up .venv first.
PYTHON ?= python3
SHELL := /bin/bash
READY := .venv/.ready
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# As many runs at a time as there are GPUs, each on its own, or else as cores, each on one thread. JOBS: another number.
GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c ^GPU)
JOBS ?= $(if $(filter-out 0,$(GPUS)),$(GPUS),$(shell getconf _NPROCESSORS_ONLN))
ON_A_GPU := $(if $(filter-out 0,$(GPUS)),CUDA_VISIBLE_DEVICES=$$(( SLOT % $(GPUS) )))

.PHONY: demo test status bench bench-peers lab page docs lock clean

demo: table-digits

# The stages of every run, several runs at a time; DVC skips what is done. A run writes its output to a log of its own. One
# that fails does not stop the others.
runs-%: $(READY)
	@python -m seladv.study.check > /dev/null  # before DVC, which says less of a mistake in params.yaml
	dvc repro check data-$*
	@mkdir -p runs/$*
	@echo "The runs' own output is in runs/$*/<arm>-<seed>.log."
	@dvc stage list --name-only --all | sed -n 's/^\(.*:\)\?train-$*@//p' | \
	  xargs -P $(JOBS) --process-slot-var=SLOT -I{} bash -c 'log=runs/$*/{}.log; \
	  if $(ON_A_GPU) dvc --wait-for-lock repro --quiet --single-item --allow-missing $(call stage,train-$*@{}) \
	  $(call stage,evaluate-$*@{}) $(call stage,autoattack-$*@{}) > $$log 2>&1; then grep -h uncommitted $$log; echo "$* {}: ready after $$SECONDS s"; \
	  else echo "$* {}: failed. $$log ends with:"; tail -n 5 $$log; exit 1; fi'

# A stage by its name; those of the GPU's protocols are in a pipeline file of their own.
stage = $(if $(filter cifar10 cifar10-200,$*),gpu/dvc.yaml:$(1),$(1))

table-%: runs-%
	dvc repro --quiet --allow-missing $(call stage,table-$*)
	@cat results/$*.md
	@echo "Table: results/$*.csv. Figure: results/figures/$*.png. All figures and verdicts: results/$*.ipynb."

# Runs that are missing, then what has been made by other code, parameters or inputs than those that are here now.
status: $(READY)
	@python -m seladv.study.check > /dev/null
	@dvc repro --quiet check
	@dvc status | awk '/^[^ \t]/ {stage = $$1} /modified:/ {stale[stage] = stale[stage] " " $$2} \
	  /changed command/ {stale[stage] = stale[stage] " its command"} /new:/ {never[stage] = 1} \
	  END {for (stage in stale) if (!(stage in never)) {print "stale: " stage stale[stage]; n++} if (!n) print "nothing is stale"}'

test: $(READY)
	ruff check .
	ruff format --check .
	mypy
	pytest --numprocesses logical --dist loadfile --no-loadscope-reorder

bench: $(READY)
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647 python -m benchmarks results/bench  # as the stages run

bench-peers: $(READY)
	python -m pip install --quiet --require-hashes --no-deps --upgrade --target benchmarks/.peers \
	  -r benchmarks/requirements-peers.txt

# JupyterLab at the root, on copies in runs/lab: exploring leaves the tree clean. For this machine alone and with a token,
# which is JupyterLab's own default. LAB: further options.
lab: $(READY)
	dvc repro --quiet data-digits
	mkdir -p runs/lab
	cp -u notebooks/*.ipynb runs/lab
	jupyter lab --ServerApp.ip=localhost --ServerApp.root_dir=$(CURDIR) runs/lab/explore.ipynb $(LAB)

# The published verdicts as one HTML page that needs no network.
page: $(READY)
	jupyter nbconvert --log-level ERROR --to html --no-input --embed-images --output-dir build --output page \
	  --HTMLExporter.mathjax_url= --HTMLExporter.require_js_url= $(firstword $(wildcard results/claims.ipynb) results/first/claims.ipynb)
	@echo "build/page.html"

# The reference page, out of the docstrings.
docs: $(READY)
	pdoc --docformat google --no-show-source --output-directory build/reference seladv
	@echo "Reference: $(CURDIR)/build/reference/index.html"

# Resolves the newest versions that pyproject.toml allows, for every Python and platform at once.
lock: $(READY)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --generate-hashes --no-strip-extras \
	  --no-annotate --custom-compile-command "make lock" \
	  --quiet --output-file requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=<its path>")'
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --require-hashes -r requirements.lock
	python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf .venv build runs models data
