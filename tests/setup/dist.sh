#!/usr/bin/env bash
# Makes the release to ship: dist/jan-server without symbols, and its symbols beside it, where debuggers and the
# program's own backtraces find them. Prints the sizes.
set -euo pipefail
cd "$(dirname "$0")/../.."
built=${CARGO_TARGET_DIR:-target}/release/jan-server
out=dist

rm -rf "$out"
mkdir "$out"
if [ "$(uname)" = Darwin ]; then
    symbols=jan-server.dSYM
    dsymutil "$built" -o "$out/$symbols"
    strip -x -o "$out/jan-server" "$built"
else
    symbols=jan-server.debug
    objcopy --only-keep-debug --compress-debug-sections "$built" "$out/$symbols"
    chmod -x "$out/$symbols"
    # The link holds the name and a checksum, so it is made in the folder of the symbols.
    objcopy --strip-all --add-gnu-debuglink="$out/$symbols" "$built" "$out/jan-server"
fi
cp LICENSE "$out/"
"$out/jan-server" --version

mib() { du -k "$@" | awk '{ kib += $1 } END { printf "%.0f MiB", kib / 1024 }'; }
printf '%s  %s (with symbols in one file: %s)\n' "$out/jan-server" "$(mib "$out/jan-server")" "$(mib "$built")"
printf '%s  %s\n' "$out/$symbols" "$(mib -s "$out/$symbols")"
