#!/usr/bin/env bash
# Runs whole-server tests with storage.kind = "postgres", on throw-away PostgreSQL servers.
#   postgres.sh short    servers on one database, export and import between both kinds of store: about a minute
#   postgres.sh whole    that, and all tests of what is stored; once more behind pgbouncer what concerns the database
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
export JAN_SERVER_BIN=${JAN_SERVER_BIN:-$target/release/jan-server} JAN_TEST_MODEL=
python=${JAN_TEST_PYTHON:-.venv/bin/python}

# tests_on STORAGE FILE...
tests_on() {
    local storage=$1
    shift
    JAN_TEST_STORAGE=$storage "$python" -m pytest "${@/#/tests/python/}"
}

short=(test_postgres.py test_export.py)
whole=(test_audit.py test_auth_access.py test_auth_admin_credentials.py test_auth_auto.py test_auth_crash.py
    test_auth_google.py test_auth_key_management.py test_auth_key_scopes.py test_auth_keys.py test_auth_limits.py
    test_auth_logs.py test_auth_made_up.py test_auth_sdk.py test_auth_sessions.py test_conversations.py
    test_conversations_chat.py test_conversations_crash.py test_conversations_sdk.py test_hostile_guests.py
    test_hostile_import.py test_hostile_shares.py test_hostile_store.py test_responses_kept.py test_responses_sdk.py
    test_usage.py)

case ${1:-short} in
short) tests_on postgres "${short[@]}" ;;
whole)
    tests_on postgres "${short[@]}" "${whole[@]}"
    tests_on pgbouncer "${short[@]}" test_conversations.py test_auth_sessions.py
    ;;
*) echo "postgres.sh short|whole" >&2; exit 2 ;;
esac
