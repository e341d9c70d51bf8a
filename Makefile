# Every target works as the first command after a clone: what it needs is installed into .venv once,
# and again when pyproject.toml or constraints.txt change. `make` alone lists the targets.

# The interpreter that .venv is made with; `make install PYTHON=/path/to/python3.12` chooses another.
PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo $$each; break; fi; done)

VENV := .venv
comma := ,
RUN := $(VENV)/bin/python
# Needed by some of the Pythons that are supported, and perhaps not by this one.
CONDITIONAL_PINS := async-timeout
# Tests and demonstrations start hundreds of processes: each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##
# Installing

.PHONY: install
install: $(VENV)/installed-dev ## install everything for developing into .venv

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "No Python 3.11 or later was found; install one, or name it: make PYTHON=/path/to/python3" >&2; \
	  exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is not Python 3.11 or later; name another: make PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) lacks the module venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

# Installs $(1) and marks it with the stamps $(2). An installation that was broken off can leave
# packages that pip neither reads nor replaces: the next one begins with an empty .venv.
define install_into_venv
	@if [ -e $(VENV)/unfinished ]; then $(PYTHON) -m venv --clear $(VENV); fi
	@touch $(VENV)/unfinished
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'
	@rm $(VENV)/unfinished
	@touch $(2)
endef

# What running takes, and what developing takes beyond that.
$(VENV)/installed-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install_into_venv,.[embedded],$@)

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install_into_venv,.[embedded$(comma)dev],$(VENV)/installed-run $@)

.PHONY: constraints
constraints: | $(VENV)/bin/python ## pin the newest versions that fit into constraints.txt
	rm -rf .build/constraints
	$(RUN) -m venv .build/constraints
	.build/constraints/bin/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[embedded,dev,docs]' $(CONDITIONAL_PINS)
	{ echo '# Versions that are tested together; written by `make constraints`.'; \
	  .build/constraints/bin/python -m pip freeze --exclude-editable; } > constraints.txt
	rm -rf .build/constraints

##
# Running

.PHONY: demo
demo: $(VENV)/installed-run ## show the service at work, from nothing, and check every answer
	$(VENV)/bin/credit-service demo

.PHONY: up
up: $(VENV)/installed-run ## run everything until Ctrl-C: databases, worker, server
	$(VENV)/bin/credit-service up

##
# Developing

# Tests wait for servers now and then, so there are more at a time than processors. Files go out in
# their order, the many quick ones of tests/unit last: what is left then is short.
PYTEST = $(RUN) -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: test
test: TESTS ?= tests/fuzz tests/golden tests/integration tests/model tests/unit
test: $(VENV)/installed-dev ## run the tests, against the real PostgreSQL and Valkey: TESTS=folder
	$(PYTEST) $(TESTS)

.PHONY: test-system
test-system: $(VENV)/installed-dev ## run the tests of the whole stack: commands, console in a browser
	$(PYTEST) tests/browser tests/system

.PHONY: test-tools
test-tools: $(VENV)/installed-dev ## install what some tests use: Chromium, Node packages, promtool
	$(RUN) -m tests.tools

.PHONY: test-debian
test-debian: $(VENV)/installed-dev ## the tests of storage and edge on the system's own PostgreSQL and Redis
	$(RUN) scripts/debian.py $(or $(TESTS),tests/integration)

.PHONY: check
check: $(VENV)/installed-dev ## check style, types, imports, generated code, migrations, contract
	$(RUN) -m ruff format --check --quiet .
	$(RUN) -m ruff check --quiet .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) scripts/contract.py check
	$(RUN) scripts/contract.py lint
	$(RUN) scripts/contract.py breaking
	$(RUN) scripts/migrations.py check

.PHONY: golden
golden: $(VENV)/installed-dev ## write the golden transcripts anew; read their diff before keeping it
	UPDATE_GOLDEN=1 $(RUN) -m pytest tests/golden

.PHONY: pictures
pictures: $(VENV)/installed-dev ## take the pictures of the console for docs/images anew
	SCREENSHOTS=docs/images $(RUN) -m pytest tests/browser -m pictures

.PHONY: chaos
chaos: $(VENV)/installed-dev ## the fault campaign, about 12 minutes: SEED=N replays one
	$(RUN) -m tests.faults $(if $(SEED),--seed $(SEED))

.PHONY: chaos-short
chaos-short: $(VENV)/installed-dev ## the fault campaign, about 2 minutes, every kind of fault once
	$(RUN) -m tests.faults --short $(if $(SEED),--seed $(SEED))

.PHONY: fuzz
fuzz: $(VENV)/installed-dev ## bad inputs by the thousand against a real stack, about 8 minutes: SEED=7 ONLY=files:12
	$(RUN) -m tests.fuzz $(if $(SEED),--seed $(SEED)) $(addprefix --only ,$(ONLY))

.PHONY: model
model: $(VENV)/installed-dev ## 300 runs of 40 steps beside a model in plain Python, about 4 minutes
	MODEL_RUNS=300 MODEL_STEPS=40 $(RUN) -m pytest tests/model --timeout 3600 -p no:xdist \
	  $(if $(SEED),--hypothesis-seed $(SEED))

.PHONY: properties
properties: $(VENV)/installed-dev ## the property tests of tests/unit with random examples, about 1 minute
	$(RUN) -m pytest -m hypothesis --numprocesses 2 --hypothesis-profile random \
	  $(if $(SEED),--hypothesis-seed $(SEED)) tests/unit

.PHONY: chaos-controls
chaos-controls: $(VENV)/installed-dev ## take each guard out in turn: the campaign must turn red
	$(RUN) -m tests.faults.controls $(if $(SEED),--seed $(SEED))

.PHONY: load
load: $(VENV)/installed-dev ## the load campaign, about 16 minutes: overload, outage, attacks: PART=name
	$(RUN) -m tests.load $(PART)

.PHONY: format
format: $(VENV)/installed-dev ## put the code into form and mend what can be mended by itself
	$(RUN) -m ruff check --fix --quiet .
	$(RUN) -m ruff format --quiet .

.PHONY: generate
generate: $(VENV)/installed-dev ## generate credit_service/v1 from protos/
	$(RUN) scripts/contract.py generate

.PHONY: migration
migration: $(VENV)/installed-dev ## write a migration for what changed in the tables: MESSAGE="add x"
	$(RUN) scripts/migrations.py new "$(MESSAGE)"

.PHONY: bench
bench: $(VENV)/installed-dev ## measure against the limits: JSON=FILE keeps the figures
	$(RUN) -m benchmarks $(if $(JSON),--json $(JSON))

.PHONY: bench-quick
bench-quick: $(VENV)/installed-dev ## the same, shorter and on smaller tables
	$(RUN) -m benchmarks --quick $(if $(JSON),--json $(JSON))

.PHONY: operations
operations: $(VENV)/installed-dev ## write the tables of docs/operations.md and the dashboards anew
	$(RUN) scripts/configuration.py write
	$(RUN) scripts/dashboards.py write

# Apart from .venv: what `make test` installs stays small.
.build/docs/bin/zensical: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN) -m venv .build/docs
	.build/docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt zensical
	@touch $@

.PHONY: docs
docs: .build/docs/bin/zensical ## build the documentation as a site, .build/site/index.html
	.build/docs/bin/zensical build --strict

.build/audit/bin/python: | $(VENV)/bin/python
	$(RUN) -m venv .build/audit
	$@ -m pip install --quiet --disable-pip-version-check pip-audit cyclonedx-bom

.PHONY: audit
audit: .build/audit/bin/python ## ask the network for known vulnerabilities of what is pinned
	.build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

.PHONY: sbom
sbom: $(VENV)/installed-dev .build/audit/bin/python ## write what is installed to .build/sbom.json, as CycloneDX
	.build/audit/bin/cyclonedx-py environment $(RUN) --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file .build/sbom.json

.PHONY: clean
clean: ## remove caches and builds; keeps .venv
	rm -rf .build build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache .coverage
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
