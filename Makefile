# The doors. Each sets up what it needs from nothing but Python >= 3.11; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export RAY_USAGE_STATS_ENABLED = 0
# A service is twenty processes: each would compile its modules anew where this is set.
export PYTHONDONTWRITEBYTECODE =

# Tests run in two lanes, one of them for those that start Ray; LANES= runs them in one process.
LANES ?= -n 2
S3_GATEWAY := $(HOME)/.cache/flywheel/versitygw

.DEFAULT_GOAL := help
.PHONY: help setup servers stores fmt check test test-unit test-conformance test-integration e2e \
  test-events-chaos chaos test-api-fuzz test-k8s kafka demo bench bench-peer bench-profile lock clean \
  k8s-render k8s-tools image sbom

help: ## list the doors
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY) ## make .venv from the pinned requirements and install the command `cluster`

$(READY): requirements.lock requirements-setup.lock requirements-oracle.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; set PYTHON to a newer one, as in make setup PYTHON=python3.12" >&2; exit 2; }
	@echo "set-up: making $(VENV) from requirements.lock (about 6 GB, once)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-setup.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
	@# What only tests compare with, and whose own pins are older than ours.
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --require-hashes -r requirements-oracle.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@# Now, and not when a service starts.
	@$(BIN)/python -m recsys.kernels
	@touch $@

fmt: $(READY) ## format the code and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(READY) ## formatter check, linter, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	$(BIN)/lint-imports

servers: $(READY) ## what tests of the stores start: Redis, Postgres, an S3 gateway, the jars of a Kafka broker
	@(command -v redis-server && ls /usr/lib/postgresql/*/bin/initdb) >/dev/null 2>&1 || \
	  (apt-get update -qq && apt-get install -y -qq redis-server postgresql) >&2 || \
	  echo "set-up: redis-server or postgresql is missing and could not be installed; their tests will be skipped" >&2
	@test -x $(S3_GATEWAY) || command -v versitygw >/dev/null 2>&1 || \
	  GOBIN=$(dir $(S3_GATEWAY)) go install github.com/versity/versitygw/cmd/versitygw@v1.8.0 >&2 || \
	  echo "set-up: the S3 gateway could not be built (it needs go); its tests will be skipped" >&2
	@$(BIN)/python -m brokers --fetch-only || \
	  echo "set-up: the Kafka jars could not be fetched; their tests will be skipped" >&2

test: $(READY) servers ## the whole test suite
	$(BIN)/python -m pytest $(LANES)

test-unit: $(READY) ## pure logic: no Ray, no network
	$(BIN)/python -m pytest tests/unit $(LANES)

test-conformance: $(READY) ## one suite per protocol, against every implementation
	$(BIN)/python -m pytest tests/conformance $(LANES)

test-integration: $(READY) ## the real graph on local Ray, over real HTTP
	$(BIN)/python -m pytest tests/integration $(LANES)

e2e: $(READY) ## the whole loop, small
	$(BIN)/python -m pytest tests/e2e $(LANES)

test-events-chaos: $(READY) servers ## 100,000 events through three brokers while everything is killed
	$(BIN)/python -m tests.chaos

chaos: $(READY) servers ## every fault of serving under load, with counts; ONLY=name for one, docs/faults.md
	@command -v wrk >/dev/null || (apt-get update -qq && apt-get install -y -qq wrk) >&2 || \
	  { echo "error: wrk is missing and could not be installed; install it, as in 'apt-get install wrk'" >&2; exit 1; }
	$(BIN)/python -m tests.serving_faults $(foreach name,$(ONLY),--only $(name))

test-api-fuzz: $(READY) ## the HTTP interface against 10,000 generated requests, with and without keys
	$(BIN)/python -m tests.fuzzing --cases $(or $(CASES),10000)
# The API server's own validation and kustomize, from the Go module proxy; CRDs of the operators.
K8S := var/k8s
CRDS ?= $(firstword $(wildcard ../shared/crds) $(K8S)/crds)
PROMETHEUS_OPERATOR := github.com/prometheus-operator/prometheus-operator@v0.90.1

k8s-tools: ## build what test-k8s validates with (minutes, once)
	@mkdir -p $(K8S)/bin
	@test -x $(K8S)/bin/kustomize || GOBIN=$(CURDIR)/$(K8S)/bin nice -n 10 go install sigs.k8s.io/kustomize/kustomize/v5@v5.5.0
	@test -x $(K8S)/bin/kubectl-validate || GOBIN=$(CURDIR)/$(K8S)/bin nice -n 10 go install sigs.k8s.io/kubectl-validate@v0.0.4
	@test -d $(K8S)/monitoring-crds || { \
	  from=$$(go mod download -json $(PROMETHEUS_OPERATOR) | sed -n 's/^.*"Dir": "\(.*\)",$$/\1/p') && \
	  mkdir -p $(K8S)/monitoring-crds && \
	  cp $$from/example/prometheus-operator-crd/*podmonitors.yaml $$from/example/prometheus-operator-crd/*prometheusrules.yaml $(K8S)/monitoring-crds/; }

test-k8s: $(READY) k8s-tools ## manifests: render, validate as the API server does, lint, flows, deploy on a local Ray
	FLYWHEEL_K8S_TOOLS=$(CURDIR)/$(K8S)/bin FLYWHEEL_CRDS=$(CRDS):$(CURDIR)/$(K8S)/monitoring-crds \
	  $(BIN)/python -m pytest tests/unit/cluster/test_ray_object_rules.py tests/unit/cluster/test_service_document.py \
	  tests/unit/cluster/test_network_flows.py tests/unit/cluster/test_job_submission.py \
	  tests/integration/test_overlays.py tests/integration/test_placed_config.py

k8s-render: $(READY) ## make the generated files of k8s/ anew from the settings
	$(BIN)/cluster --config configs/prod.toml --config k8s/overlays/prod/settings.toml k8s render --to k8s/overlays/prod
	$(BIN)/cluster --config k8s/overlays/dev/settings.toml k8s render --one-node --to k8s/overlays/dev
	$(BIN)/cluster k8s render --monitoring --to k8s/base

IMAGE ?= flywheel:dev
image: ## build the image with Docker
	docker build -t $(IMAGE) .

sbom: ## what the image consists of, as CycloneDX
	docker run --rm $(IMAGE) cluster k8s sbom

kafka: $(READY) ## a Kafka broker on 127.0.0.1:9092 to try the other log with, until Ctrl-C
	@$(BIN)/python -m brokers

stores: $(READY) servers ## Kafka, Redis, Postgres and an S3 gateway for configs/prod-local.toml, until Ctrl-C
	@$(BIN)/python -m brokers.stores

demo: $(READY) ## the whole loop on simulated data; ONCE=1 stops after the summary
	@$(BIN)/cluster demo $(if $(ONCE),--once)

# A baseline's own packages, most of whose pins differ from the service's: it runs with ours.
PEER := var/bench-peer
bench: $(READY) ## the speed tables, against the baselines; writes bench/results.json
	@command -v wrk >/dev/null || (apt-get update -qq && apt-get install -y -qq wrk) >&2 || \
	  { echo "error: wrk is missing and could not be installed; install it, as in 'apt-get install wrk'" >&2; exit 1; }
	@$(BIN)/python -m bench

bench-peer: $(READY) ## install BentoML for bench alone, beside the service's packages, so that it is measured too
	@rm -rf $(PEER)
	$(BIN)/uv pip install --quiet --no-deps --require-hashes -r requirements-peer.lock --python $(BIN)/python --target $(PEER)

bench-profile: $(READY) ## where a request's processor time goes; writes bench/cost_profile.md, .json and .svg
	@command -v wrk >/dev/null || (apt-get update -qq && apt-get install -y -qq wrk) >&2 || \
	  { echo "error: wrk is missing and could not be installed; install it, as in 'apt-get install wrk'" >&2; exit 1; }
	@$(BIN)/python -m bench.request_profile

lock: ## compile the locked requirements anew, from pyproject.toml and the versions that stand
	$(BIN)/uv pip compile pyproject.toml --all-extras --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --python-version 3.11 --python-platform linux -o requirements.lock
	grep -o '^uv==[^ ]*' requirements-setup.lock | $(BIN)/uv pip compile - --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --python-version 3.11 -o requirements-setup.lock
	grep -o '^gbstats==[^ ]*' requirements-oracle.lock | $(BIN)/uv pip compile - --no-deps --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url -o requirements-oracle.lock
	grep -o '^[a-z0-9-]*==[^ ]*' requirements-peer.lock | $(BIN)/uv pip compile - --no-deps --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --python-version 3.11 --python-platform linux -o requirements-peer.lock

clean: ## remove what was built; stores under var/ stay
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis $(VENV)
