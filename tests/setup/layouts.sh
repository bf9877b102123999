#!/usr/bin/env bash
# Runs the tests whose answers could depend on the layout of the KV cache with each layout that is not the default.
# layouts.sh short: those that `make test` has time for; layouts.sh all: all of them, and some with SmolLM2.
set -uo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
smollm2=$PWD/target/test-models/SmolLM2-135M-Instruct.Q4_1.gguf
short=(tests/python/test_architectures.py)
all=("${short[@]}" tests/python/test_{crash,reproducible,same_answer,hostile_cache,hostile_places,kv_disk,structured,completions}.py)

status=0
# run LAYOUT MODEL FILE...
run() {
    printf '\n--> kv_layout = %s, %s\n' "$1" "${2:-bundled model}"
    JAN_TEST_LAYOUT=$1 JAN_TEST_MODEL=$2 JAN_SERVER_BIN=$target/release/jan-server \
        .venv/bin/python -m pytest "${@:3}" || status=1
}

case ${1:-} in
    # The default has the unified cache wherever a test's requests come one after another.
    short) run lanes "" "${short[@]}" ;;
    all)
        for layout in lanes unified; do
            run $layout "" "${all[@]}"
            # Its other tests need `engine.reproducible`, which has the unified cache.
            run $layout "$smollm2" "${short[@]}"
        done
        ;;
    *)
        echo "usage: layouts.sh short|all" >&2
        exit 2
        ;;
esac
exit $status
