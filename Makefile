# `make demo` regenerates the study on the embedded digits; `make test` runs every check. Both set up .venv first.
PYTHON ?= python3
SHELL := /bin/bash
READY := .venv/.ready
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo test status bench bench-peers lab lock clean

# The runs first, as many at a time as there are cores; then what needs them all.
demo: $(READY)
	python -m seladv.lanes digits
	dvc repro table-digits
	dvc repro fidelity-digits
	dvc repro --single-item claims
	@cat results/digits.md
	@echo "Verdicts on the paper's claims: $(CURDIR)/results/claims.md"
	@echo "All results on one page: $(CURDIR)/results/report.html"
	@echo "How well the proxies of gradient matching stand in for it: $(CURDIR)/results/fidelity/digits.md"
	@echo "Figures: $(CURDIR)/results/figures/digits"
	@echo "Executed notebooks: $(CURDIR)/runs/digits"

test: $(READY)
	ruff check .
	ruff format --check .
	mypy
	pytest --numprocesses logical --dist loadfile

# Which of the committed results belong to the code and the parameters as they are.
status: $(READY)
	@python -m seladv.status

# A quarter of an hour on two cores that nothing else uses; the peers are left out where `make bench-peers` never ran.
# KINETO_LOG_LEVEL=6: the profiler keeps its chatter to itself.
bench: $(READY)
	KINETO_LOG_LEVEL=6 python -m benchmarks results/bench

bench-peers: $(READY)
	python -m pip install --quiet --require-hashes --no-deps --upgrade --target benchmarks/.peers \
	  -r benchmarks/requirements-peers.txt

# For this machine alone, and with a token, which is JupyterLab's own default. LAB: further options.
lab: $(READY)
	jupyter lab --ServerApp.ip=localhost notebooks/explore.ipynb $(LAB)

# The reference page, out of the docstrings.
.PHONY: docs
docs: $(READY)
	pdoc --docformat google --no-show-source --output-directory build/reference seladv
	@echo "Reference: $(CURDIR)/build/reference/index.html"

# Resolves the newest versions that pyproject.toml allows, for every Python and platform at once.
lock: $(READY)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --generate-hashes \
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
