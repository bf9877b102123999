#!/usr/bin/env bash
# Runs every test and ends with a summary. A failed build step ends the run at once, since nothing after it
# could be trusted; a failed test step does not keep the others from running. The exit status is 0 only if
# every step passed.
set -uo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
model2=target/test-models/SmolLM2-135M-Instruct.Q4_1.gguf

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
    if [ ${#failed[@]} -eq 0 ] && [ "$passed" -eq 9 ]; then
        printf 'make test: all %d steps passed in %d s\n' "$passed" $SECONDS
        exit 0
    fi
    printf 'make test: FAILED: %s (%d steps passed, %d s)\n' "${failed[*]:-}" "$passed" $SECONDS
    exit 1
}

pytest_with() { JAN_SERVER_BIN=$target/release/jan-server JAN_TEST_MODEL=$1 .venv/bin/python -m pytest tests/python; }

node_with() {
    JAN_SERVER_BIN=$target/release/jan-server JAN_TEST_MODEL=$1 PATH="$PWD/.venv/bin:$PATH" \
        .venv/bin/python tests/python/with_server.py -- node --test "tests/node/*.test.js"
}

case $target in /*) ;; *) target=$PWD/$target ;; esac

step "set-up" tests/setup/setup.sh test || finish
step "rustfmt" cargo fmt --all --check
step "build" cargo build --release --locked || finish
step "clippy" cargo clippy --release --locked --workspace --all-targets -- -D warnings
step "cargo test" cargo test --release --locked --workspace
step "Python SDK and whole-server tests, bundled model" pytest_with ""
step "Node SDK tests, bundled model" node_with ""
step "Python SDK and whole-server tests, SmolLM2" pytest_with "$PWD/$model2"
step "Node SDK tests, SmolLM2" node_with "$PWD/$model2"
finish
