# `make demo` and `make test` install what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo compare evidence bench soak fuzz test lint format docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Another interpreter: make install PYTHON=python3.12"

install: $(STAMP) ## make .venv and install epic_pl in it, editable, with all its tools

# again only when the package's metadata changes; an interrupted install leaves no stamp
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' || { \
		echo "epic_pl needs Python 3.11 or newer with its venv module (on Debian: apt-get install python3-venv). '$(PYTHON)' is not that: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing epic_pl into $(VENV); the first time takes a minute or two ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

demo: $(STAMP) ## train EPIC on real pictures and texts beside two controls, predict, explain; 4 minutes on 2 cores
	@$(BIN)/python benchmarks/openmoji.py $(ARGS)

# test splits of the first task are small, so each seed has its own
compare: $(STAMP) ## all methods with three seeds on both OpenMoji tasks; over an hour on 2 cores, resumes
	@for task in "openmoji.yaml --splits" openmoji_entailment.yaml; do \
		OMP_NUM_THREADS=1 $(BIN)/epic-pl compare --config $$task --variants rivals.yaml --jobs 2 \
			--methods linear_probe,no_prompts,late_fusion_mlp,no_interaction,epic,variants $(ARGS) || exit 1; \
	done

evidence: $(STAMP) ## the comparisons of docs/results.md on locked test splits; hours, resumes, notes the ledger
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/evidence.py $(ARGS)

bench: $(STAMP) ## cost of a training step with each method
	@$(BIN)/python benchmarks/step_cost.py $(ARGS)

soak: $(STAMP) ## kill runs at random for 30 minutes, resume them, and compare
	@$(BIN)/python benchmarks/soak.py $(ARGS)

fuzz: $(STAMP) ## feed damaged files to every reader for 30 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py $(ARGS)

test: $(STAMP) ## run the tests, a worker for each core
	@$(BIN)/pytest --numprocesses auto --dist loadfile $(ARGS)

lint: $(STAMP) ## check style, formatting, types and import rules
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports

format: $(STAMP) ## fix style and formatting
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

docs: $(STAMP) ## build the documentation into docs/_build/html, warnings as errors
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -b html docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

clean: ## remove build products and caches, keep .venv and runs/
	@rm -rf build dist src/*.egg-info docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
