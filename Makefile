# Two commands matter: `make demo` and `make test`. Each one installs what it needs first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo demo-entailment bench compare test lint format docs clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Another interpreter: make install PYTHON=python3.12"

install: $(STAMP) ## make .venv and install epic_pl in it, editable, with all its tools

# Made anew only when the package's metadata changes; an interrupted install leaves no stamp.
$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
		echo "No '$(PYTHON)' on this machine. Install Python 3.11 or newer, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "epic_pl needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' comes without its venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing epic_pl into $(VENV) ($$($(PYTHON) -V)); the first time takes a few minutes ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@
	@echo "Installed: $(BIN)/epic-pl"

demo: $(STAMP) ## train EPIC on both tasks of real pictures and names, beside what it has to beat (no model hub needed)
	@$(BIN)/python benchmarks/openmoji.py

demo-entailment: $(STAMP) ## only the task that interaction alone can solve: is this statement true of this picture?
	@$(BIN)/python benchmarks/openmoji.py --config openmoji_entailment.yaml

bench: $(STAMP) ## what a training step costs with each method (ARGS="--json" and others go to it)
	@$(BIN)/python benchmarks/step_cost.py $(ARGS)

# the 291 test samples of the first task tell few methods apart: each seed has a split of its own
compare: $(STAMP) ## all methods with three seeds on both OpenMoji tasks; 70 to 90 minutes on two CPU cores, resumes
	@for task in "openmoji.yaml --splits" openmoji_entailment.yaml; do \
		OMP_NUM_THREADS=1 $(BIN)/epic-pl compare --config $$task --variants rivals.yaml --seeds 3 --jobs 2 \
			--methods linear_probe,late_fusion_mlp,prompts_only,epic,variants || exit 1; \
	done

test: $(STAMP) ## run the tests, a worker for each core (ARGS="-k cache" and others go to pytest)
	@$(BIN)/pytest --numprocesses auto --dist loadfile $(ARGS)

lint: $(STAMP) ## check style, formatting, types and the import rule
	@echo "ruff check" && $(BIN)/ruff check --quiet
	@echo "ruff format" && $(BIN)/ruff format --check --quiet
	@echo "mypy" && $(BIN)/mypy --no-error-summary
	@echo "import-linter" && $(BIN)/lint-imports
	@echo "lint: clean"

format: $(STAMP) ## mend what can be mended by machine
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

docs: $(STAMP) ## build the documentation into docs/_build/html, warnings as errors
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -b html docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

clean: ## remove what was built and cached, keep .venv and runs/
	@rm -rf build dist src/*.egg-info docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
