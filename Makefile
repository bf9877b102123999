# Jan Server. `make run` builds and starts it, `make test` runs every test; both install what is missing.
# Only the release profile is used anywhere, so that llama.cpp is compiled once per checkout.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# rustup's usual place, for shells that do not have it on their path yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
export CARGO_TERM_PROGRESS_WHEN ?= auto

LISTEN ?= 127.0.0.1:8080
FUZZ_SECONDS ?= 600

.PHONY: help setup setup-test build run test fuzz openapi lint fmt bench clean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## Install what building needs (cmake, C++ compiler, libclang) and check the Rust toolchain
	@tests/setup/setup.sh build

setup-test: ## The same, and what the tests need (Python environment, Node, SDKs, a second model)
	@tests/setup/setup.sh test

build: setup ## Build the release binary
	cargo build --release --locked

run: setup ## Build, then serve the bundled model on LISTEN (default 127.0.0.1:8080)
	cargo run --release --locked -- serve --listen $(LISTEN)

test: ## Set up everything and run every test
	@tests/setup/test.sh

fuzz: setup-test ## Try parsers (tests/fuzz) and the whole description, each target for FUZZ_SECONDS (600), from new seeds
	JAN_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --release --locked --workspace --lib fuzz:: -- --nocapture
	cargo build --release --locked
	JAN_TEST_MODEL= JAN_FUZZ_SECONDS=$(FUZZ_SECONDS) JAN_FUZZ_SEED=$${JAN_FUZZ_SEED:-$$RANDOM} \
		.venv/bin/python -m pytest tests/python/test_docs_fuzz.py -s

openapi: setup ## Record the API's description in fixtures/openapi.json, after a change that is meant
	JAN_RECORD_OPENAPI=1 cargo test --release --locked --lib the_description_is_the_recorded_one

lint: setup ## rustfmt and clippy, as `make test` runs them
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

fmt: ## Format the Rust code
	cargo fmt --all

bench: setup-test ## Benchmarks of this server alone; docs/benchmarks.md has the comparison and the soak test
	cargo build --release --locked
	cargo bench --locked --bench serving --no-run
	.venv/bin/python tests/bench/compare.py --out bench-results

clean: ## Remove everything that was built or downloaded here
	rm -rf target .venv tests/node/node_modules bench-results
