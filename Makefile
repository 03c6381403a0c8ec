# make demo | make test | make help. Needs only Python 3.11+, make and a network that has PyPI.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
OUT    ?= outputs/demo

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input

# PASSIVE: torch's OpenMP threads otherwise spin while they wait, ten times slower on a busy machine.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test lint install install-test clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) JOBS=$(JOBS) (test processes) OUT=$(OUT) (demo)"

demo: $(VENV)/.installed ## train the baseline and RewardSDS side by side, show both (5 minutes)
	@$(BIN)/python custom/threestudio-reward-sds/experiments/demo.py --output $(OUT)

test: $(VENV)/.installed-test ## lint, format check and every test; what .ci/run runs
	@echo "== lint ==" && $(BIN)/ruff check .
	@echo "== format ==" && $(BIN)/ruff format --check .
	@echo "== tests ==" && OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)
	@echo "== passed: lint, format, tests =="

install: $(VENV)/.installed ## the virtual environment for running
install-test: $(VENV)/.installed-test ## the virtual environment for developing

# Stamps: pip runs once per change of a requirements file.
$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is older or missing: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "== installing into $(VENV), once, about a minute and a half =="
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.installed-test: requirements-test.txt $(VENV)/.installed
	@$(PIP) -r requirements-test.txt
	@touch $@

clean: ## remove the virtual environment and caches; results under outputs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .threestudio_cache
