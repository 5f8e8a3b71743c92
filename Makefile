# Every target but release-check first installs what it needs into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# images of containers often set it, and pip has compiled nothing: every process would compile all that it imports
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install dev demo compare evidence bench soak fuzz test test-processors test-floats test-slow lint format docs release-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Another interpreter: make install PYTHON=python3.12"

install: $(INSTALLED)demo ## make .venv with the command epic-pl and what the demo needs
	@echo "Installed. Next: make demo, or: source .venv/bin/activate && epic-pl --help"

dev: $(INSTALLED)dev ## install all tools of a contributor, too

# One stamp for each extra: again only when the package's metadata changes; an interrupted install leaves none.
# Python compiles what it imports, once; pip would compile all packages, which takes as long as the rest.
$(INSTALLED)%: pyproject.toml
	@$(PYTHON) -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' || { \
		echo "epic_pl needs Python 3.11 or newer with its venv module (on Debian: apt-get install python3-venv). '$(PYTHON)' is not that: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing epic_pl[$*] into $(VENV); the first time takes a minute or two ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-compile -e '.[$*]'
	@touch $@

demo: $(INSTALLED)demo ## train EPIC on statements about images beside controls, predict, explain; about 4 minutes on 2 cores
	@$(BIN)/python benchmarks/demo.py $(ARGS)

# test splits of the first task are small, so each seed has its own
compare: $(INSTALLED)compare,demo ## all methods with three seeds on both OpenMoji tasks; hours on 2 cores, resumes
	@for task in "openmoji.yaml --splits" openmoji_entailment.yaml; do \
		OMP_NUM_THREADS=1 $(BIN)/epic-pl compare --config $$task --variants rivals.yaml \
			--methods LinearProbe,NoPrompts,LateFusionMLP,NoInteraction,EPIC,variants --alone LateFusionMLP $(ARGS) || exit 1; \
	done

evidence: $(INSTALLED)test ## the comparisons of docs/results.md on locked test splits; hours, resumes, notes the ledger
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/evidence.py $(ARGS)

bench: $(INSTALLED)compare,demo ## cost of a training step with each method
	@$(BIN)/python benchmarks/step_cost.py $(ARGS)

soak: $(INSTALLED)demo ## kill runs at random for 30 minutes, resume them, and compare
	@$(BIN)/python benchmarks/soak.py $(ARGS)

fuzz: $(INSTALLED)test ## feed damaged files and requests to every reader for 30 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py $(ARGS)

test: $(INSTALLED)test ## run the tests but for the slow ones, a worker for each core
	@$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m "not slow" --ignore tests/house $(ARGS)

# what makes torch and its libraries compute as on a processor without newer instructions
LIKE_this :=
LIKE_plain := ATEN_CPU_CAPABILITY=default
LIKE_avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE
LIKE_onednn-avx2 := ONEDNN_MAX_CPU_ISA=AVX2
PROCESSORS ?= this plain avx2 onednn-avx2

test-processors: $(addprefix test-like-,$(PROCESSORS)) ## run `make test` as on four processors, whose rounding differs

test-like-%: $(INSTALLED)test
	@echo "==> processor: $* $(LIKE_$*)"
	@env $(LIKE_$*) $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-floats: ## the same on two of them for tests of the core that compare floats; a minute
	@$(MAKE) --no-print-directory test-processors PROCESSORS="plain avx2" \
		ARGS='-m "floats and not slow" tests/features tests/inference tests/module tests/nn $(ARGS)'

test-slow: $(INSTALLED)test ## run the slow tests
	@$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m slow $(ARGS)

lint: $(INSTALLED)lint,test ## check style, formatting, types, import rules, README's numbers, and what pages and names promise
	$(BIN)/ruff check --quiet --no-cache
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports
	@$(BIN)/python tools/check_claims.py
	$(BIN)/pytest --quiet tests/house

format: $(INSTALLED)lint ## fix style and formatting
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

docs: $(INSTALLED)docs ## build the documentation into docs/_build/html, warnings as errors
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -b html docs docs/_build/html
	@$(BIN)/python tools/check_links.py docs/_build/html
	@echo "docs: docs/_build/html/index.html"

release-check: ## build the last commit, install that into clean environments, and use it; about half an hour
	@$(PYTHON) tools/release_check.py $(ARGS)

clean: ## remove build products and caches, keep .venv and runs/
	@rm -rf build dist src/*.egg-info docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
