#!/usr/bin/env bash
# Runs a part of the whole-server tests with the bundled model and the release binary.
#   sdk.sh                      all Python and Node tests
#   sdk.sh EXPRESSION           the Python tests that `pytest -k EXPRESSION` chooses
#   sdk.sh NAME.test.js         one file of tests/node
set -euo pipefail
cd "$(dirname "$0")/../.."
filter=${1:-}
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
export JAN_SERVER_BIN=$target/release/jan-server JAN_TEST_MODEL=${JAN_TEST_MODEL:-}

python_tests() { .venv/bin/python -m pytest tests/python "$@"; }
node_tests() {
    PATH="$PWD/.venv/bin:$PATH" .venv/bin/python tests/python/with_server.py -- node --test "tests/node/$1"
}

case $filter in
"")
    python_tests
    node_tests "*.test.js"
    ;;
*.test.js) node_tests "${filter##*/}" ;;
*) python_tests -k "$filter" ;;
esac
