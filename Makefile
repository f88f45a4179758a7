# The commands of this project, for people and CI. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tools that a target calls (buf, protoc plugins, envoy) are the ones of the environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-packages chaos fuzz mutants bench lint format proto services constraints clean

help: ## Lists the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# Rebuilt if the requirements change. Versions are those of constraints.txt, the same on every machine.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# What runs the service.
$(VENV)/.run: pyproject.toml clients/python/pyproject.toml constraints.txt
	@$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e clients/python -e .
	@touch $@

# With what tests, checks and benchmarks need.
$(VENV)/.made: $(VENV)/.run
	$(INSTALL) -e clients/python -e '.[dev,bench]'
	@touch $@

run: $(VENV)/.run ## Runs the whole service on http://localhost:8082, without any engine
	@$(BIN)/configsvc up

# Three test files at a time on any machine, because tests spend most of their time waiting.
test: $(VENV)/.made ## Runs all tests, on real services that it starts and stops
	$(BIN)/python -m pytest -n 3 --dist loadfile

# `make test` has the default engine: native on unix sockets, grpcio on TCP addresses.
test-all: test ## Runs all tests, and those that speak gRPC on the other engine, too
	GRPC_ENGINE=grpcio $(BIN)/python -m pytest -n 3 --dist loadfile tests/rpc tests/e2e tests/gateway
	GRPC_ENGINE=native $(BIN)/python -m pytest -n 3 --dist loadfile tests/replicas tests/faults tests/interop

test-packages: $(VENV)/.made ## Tests the client's wheel in fresh environments, at both ends of its version ranges
	$(BIN)/python -m pytest -q clients/python/tests

chaos: $(VENV)/.made ## Injects random faults under load, and checks what clients saw: SECONDS=600 SEED=7
	CHAOS_SECONDS=$(or $(SECONDS),60) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -q -s --timeout 0 tests/chaos/test_chaos.py

fuzz: $(VENV)/.made ## Sends random requests, and checks that a neighbour is not affected: REQUESTS=100000 SEED=7
	FUZZ_REQUESTS=$(or $(REQUESTS),100000) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -q -s --timeout 0 tests/fuzz/test_fuzz.py

mutants: $(VENV)/.made ## Changes the code in small ways and names those that no fast test notices: BASE=main COUNT=40 SEED=7 MODULES="src/…"
	@$(BIN)/python -m scripts.mutants $(if $(BASE),--base $(BASE)) $(if $(MODULES),--modules "$(MODULES)") $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS))

bench: $(VENV)/.made ## Compares speeds with peers, side by side, in 15 minutes, after it built the peers: ONLY="reads writes" OUT=figures
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(OUT),--out $(OUT))

lint: $(VENV)/.made ## Checks the protos, the stubs, the code, the types, the layers, the file lengths, the gateway and the image
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/buf breaking proto --against proto/baseline.binpb
	$(BIN)/python scripts/generate_stubs.py --check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_sizes.py
	$(BIN)/configsvc gateway-config --check
	$(BIN)/hadolint deploy/Dockerfile

format: $(VENV)/.made ## Formats the code and the protos
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format -w proto

proto: $(VENV)/.made ## Generates the stubs in clients/python from proto/
	$(BIN)/python scripts/generate_stubs.py

services: $(VENV)/.made ## Starts PostgreSQL, Valkey, Kafka and ZooKeeper for a try
	@$(BIN)/python -m tests.engines

constraints: $(VENV)/.made ## Writes the versions of this environment to constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable --exclude configsvc --exclude configsvc-client > constraints.txt

clean: ## Removes the files of the other targets
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
