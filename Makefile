# `make run`: a cluster on this machine. `make test`: everything that must hold. See CONTRIBUTING.md.
SHELL := bash
NODES ?= 3
# What binaries and images are built with; another profile (dev, simulation) is compiled much sooner.
PROFILE ?= release

# A prebuilt RocksDB beside the checkout saves its compilation; elsewhere it is compiled once, for all profiles.
ROCKSDB_ENV := $(wildcard ../shared/rocksdb/env)
WITH_ROCKSDB := $(if $(ROCKSDB_ENV),. $(ROCKSDB_ENV) &&,rocksdb=$$(./scripts/rocksdb) && eval "$$rocksdb" &&)

.PHONY: help deps image manifests run build test lint fmt bench torture simulate simulate-some simulator mutants upgrade-test e2e e2e-full e2e-local clean

help: ## Says what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-10s %s\n", $$1, $$2 }'

deps: ## Installs what the build lacks (Debian, Ubuntu), or says what to install
	@./scripts/deps

build: deps ## Builds the binaries (PROFILE=release)
	$(WITH_ROCKSDB) cargo build --profile $(PROFILE) --locked --bins

image: build ## Builds the container image localhost/kvorum:dev and target/kvorum-image.tar
	PROFILE=$(PROFILE) ./scripts/image

manifests: deps ## Generates the definition of KvCluster (of crates/crd) and manifests/install.yaml (by helm)
	$(WITH_ROCKSDB) cargo build --workspace --locked --bin kvorum-operator
	"$${CARGO_TARGET_DIR:-target}/debug/kvorum-operator" crd > charts/kvorum-operator/files/crd.yaml
	cp charts/kvorum-operator/files/crd.yaml manifests/crd.yaml
	./scripts/manifests > manifests/install.yaml

run: deps ## Runs a cluster of NODES (3) on 127.0.0.1 until Ctrl-C, encrypted with TLS=1; its data stays in target/cluster
	$(WITH_ROCKSDB) NODES=$(NODES) TLS=$(TLS) ./scripts/run

test: deps ## Runs all tests
	$(WITH_ROCKSDB) cargo test --workspace --locked

lint: deps ## Checks format, lints, licences and the direction of dependencies
	cargo fmt --all --check
	$(WITH_ROCKSDB) cargo clippy --workspace --all-targets --locked -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo fetch --quiet --locked && cargo deny --offline --locked check bans licenses sources; \
	else echo "cargo-deny is not installed; 'cargo install --locked cargo-deny' checks licences too"; fi

fmt: ## Formats the code
	cargo fmt --all

bench: build ## Compares with etcd, where it is at hand, and writes bench/RESULTS.md
	./bench/run
	WITH=tls ./bench/run

torture: deps ## Does faults (FAULTS) to a cluster for MINUTES (60), or KILLS of them, and checks what it acknowledged
	$(WITH_ROCKSDB) $(if $(KILLS),,MINUTES=$(or $(MINUTES),60)) cargo test --release --locked -p kvorum-faults --test torture -- --nocapture

simulate: simulator ## Runs clusters in simulated time: SEED (1), SEEDS, MINUTES or HOURS, JOBS (1), FAULTS, OPERATOR=1, TWICE=1, SHRINK=1, PLAN=file
	"$${CARGO_TARGET_DIR:-target}/simulation/kvorum-sim" --seed $(or $(SEED),1) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(HOURS),--hours $(HOURS),$(if $(MINUTES),--minutes $(MINUTES))) --jobs $(or $(JOBS),1) \
		--seconds $(or $(SECONDS),120) --members $(or $(MEMBERS),3) $(if $(FAULTS),--faults $(FAULTS)) $(if $(OPERATOR),--operator) \
		$(if $(TWICE),--twice) $(if $(TRACE),--trace $(TRACE)) $(if $(PLAN),--plan $(PLAN)) \
		$(if $(SHRINK),--until-failure --shrink "$${CARGO_TARGET_DIR:-target}/plan.json")

simulator: deps ## Builds the simulation
	$(WITH_ROCKSDB) cargo build --profile simulation --locked -p kvorum-sim

simulate-some: simulator ## Three minutes of the simulation: equal runs, plans that once failed, new seeds (SEEDS, 24; SEED, from the commit without)
	$(if $(SEED),SEED=$(SEED)) $(if $(SEEDS),SEEDS=$(SEEDS)) $(if $(JOBS),JOBS=$(JOBS)) ./scripts/simulate-some

mutants: deps ## Puts known faults back, one at a time (crates/sim/mutants), and says which the simulation finds
	$(WITH_ROCKSDB) ./scripts/mutants $(MUTANTS)

upgrade-test: deps ## Upgrades a cluster from the first release, which it builds from the history once
	$(WITH_ROCKSDB) cargo build --workspace --locked --bin kvorum-node
	$(WITH_ROCKSDB) KVORUM_BUILD_RELEASES=1 cargo test --workspace --locked --test upgrade -- --nocapture

e2e: deps ## Tests the operator on the Kubernetes of KUBECONFIG, which must have the image (E2E_IMAGE)
	$(WITH_ROCKSDB) ./scripts/e2e e2e

e2e-full: deps ## The same with all that takes longer, for five machines
	$(WITH_ROCKSDB) ./scripts/e2e e2e full

e2e-local: deps ## Brings up the Kubernetes of ../shared/kube, runs e2e (or TARGET=e2e-full) on it, takes it down
	./scripts/e2e-local $${TARGET:-e2e}

clean: ## Removes what was built, and the data of `make run`
	cargo clean
