# The two commands a newcomer needs: `make demo` and `make test`. Everything is built under target/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOOLS := $(CURDIR)/target/tools/bin
BASE_IMAGE := $(CURDIR)/target/base-image
RELEASE := $(CURDIR)/target/release
export SEALWRIGHT_TOOLS ?= $(TOOLS)
export SEALWRIGHT_BASE_IMAGE ?= $(BASE_IMAGE)

STATE ?=
ADDR ?= 127.0.0.1:8443
# Platform that the software TEE of `make demo` and `make serve` stands for.
TEE ?= snp
TEES := snp tdx se
ifneq ($(words $(TEE))$(filter $(TEES),$(TEE)),1$(TEE))
$(error TEE is '$(TEE)', wanted one of: $(TEES))
endif

DIR ?= $(or $(SEALWRIGHT_VECTORS),$(CURDIR)/../shared/vectors)

# Other verifiers as oracles and yardsticks; their crypto crates are in no lock file of ours.
PEERS := cd tests/peers && CARGO_TARGET_DIR=$(CURDIR)/target/peers SEALWRIGHT_VECTORS=$(abspath $(DIR))

.PHONY: help demo test vectors fuzz mutants lint serve bench tools engine binaries prerequisites base-image

help:
	@printf '%s\n' \
	  'make demo    build, verify and tamper with a real image against a development server (NOT HARDWARE) [TEE=snp|tdx|se]' \
	  'make test    all tests, real components included' \
  'make vectors answers recorded Evidence of real hardware, case by case   [DIR=DIR]' \
	  'make fuzz    fuzz targets of every parser, one after the other   [SECONDS=60] [TARGET=name]' \
  'make mutants whether the tests notice changes of the verifier, formats and key process (hours)   [PACKAGE=name]' \
  'make lint    formatting and lints, as CI demands them' \
	  'make serve   development server in the foreground   [STATE=DIR] [ADDR=IP:PORT] [TEE=snp|tdx|se]' \
	  'make bench   the figures of docs/benchmarks.md'

prerequisites:
	@scripts/prerequisites.sh

engine: prerequisites
	@guest-image/build-engine.sh $(TOOLS)

base-image: prerequisites
	@scripts/base-image.sh $(BASE_IMAGE)

tools: engine base-image
	@tests/tools/kernel-headers.sh $(TOOLS)
	@tests/tools/build-tools.sh $(TOOLS)

# stdout belongs to the programs (make serve prints one JSON line there), so cargo talks on stderr only.
binaries: engine
	@cargo build --release --locked -p sealwright-client -p sealwright-build-server -p sealwright-enclave-keys -p sealwright-tests --bins >&2

demo: binaries base-image
	@TEE=$(TEE) scripts/demo.sh

serve: binaries base-image
	@state='$(STATE)'; . scripts/lib.sh; exec $(RELEASE)/dev-server --state "$${state:-$$(state_place serve)}" --listen $(ADDR) --tools $(TOOLS) --tee $(TEE)

# Tests of a started server want the binaries beside their own, and cargo builds those of other packages only if asked.
test: tools binaries
	cargo test --release --locked --workspace --no-fail-fast
	$(PEERS) cargo test --release --locked
	scripts/big-endian.sh

vectors: prerequisites
	@cargo run --release --locked --quiet -p sealwright-tests --bin vectors -- $(abspath $(DIR))

# bash has a variable SECONDS of its own, so make's is handed over as an argument.
fuzz: prerequisites
	@scripts/fuzz.sh $(or $(SECONDS),60) $(TARGET)

mutants: tools
	@scripts/mutants.sh $(PACKAGE)

lint: prerequisites
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cd tests/peers && cargo fmt --check
	cd tests/fuzz && cargo fmt --check
	cd tests/mutants && cargo fmt --check
	cd tests/fuzz && RUSTFLAGS='--cfg fuzzing' CARGO_TARGET_DIR=$(CURDIR)/target/lint/fuzz cargo clippy --locked --all-targets -- -D warnings
	cd tests/mutants && CARGO_TARGET_DIR=$(CURDIR)/target/lint/mutants cargo clippy --locked --all-targets -- -D warnings

bench: tools binaries
	@scripts/bench.sh
	@cargo bench --locked --quiet -p sealwright-tests --bench verification | tee -a $(CURDIR)/target/benchmarks.md
	@$(PEERS) cargo run --release --locked --quiet | tee -a $(CURDIR)/target/benchmarks.md
