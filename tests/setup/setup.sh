#!/usr/bin/env bash
# Installs what is missing and says what it cannot install.
#   setup.sh check   what `make check` needs: a C++ compiler, the Rust toolchain, PostgreSQL and pgbouncer
#   setup.sh build   what building needs: cmake, make, a C++17 compiler, libclang, the Rust toolchain
#   setup.sh test    that, and what the tests need: Python environments, Node, SDKs, Chromium, a second model
# It does nothing, and quickly, where everything is there already.
set -euo pipefail
cd "$(dirname "$0")/../.."
goal=${1:-build}

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# bindgen loads libclang when llama.cpp's bindings are generated.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    # libclang-cpp, which other packages bring, is another library.
    local folder name
    for folder in '/usr/lib/llvm-*/lib' '/usr/lib*' '/usr/lib/*'; do
        for name in 'libclang.so*' 'libclang-[0-9]*.so*'; do
            compgen -G "$folder/$name" >/dev/null && return 0
        done
    done
    [ -e /Library/Developer/CommandLineTools/usr/lib/libclang.dylib ] && return 0
    compgen -G '/Applications/Xcode*.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib/libclang.dylib' \
        >/dev/null && return 0
    compgen -G '/opt/homebrew/opt/llvm/lib/libclang.dylib' >/dev/null && return 0
    compgen -G '/usr/local/opt/llvm/lib/libclang.dylib' >/dev/null
}

# Prints the missing tools, one a line, by the names that `package_of` knows.
missing_tools() {
    { have c++ || have g++ || have clang++; } || echo c++
    # Tests start servers of their own with them, in temporary folders.
    [ "$goal" = build ] || have_postgresql || echo postgresql
    [ "$goal" = build ] || have_pgbouncer || echo pgbouncer
    [ "$goal" != check ] || return 0
    have cmake || echo cmake
    have make || echo make
    have_libclang || echo libclang
    [ "$goal" = test ] || return 0
    # Creating an environment needs ensurepip, which Debian keeps in a package of its own.
    { have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null; } || echo python3
    have curl || echo curl
    have_chromium || echo chromium
}

# Where actors/src/store/postgres/testing.rs and tests/python/postgres.py look for them.
have_postgresql() { have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
have_pgbouncer() { have pgbouncer || [ -x /usr/sbin/pgbouncer ]; }

# The names that tests/python/chromium.py knows.
have_chromium() { have chromium || have chromium-browser || have google-chrome-stable || have google-chrome; }

# package_of MANAGER TOOL: the packages that bring the tool.
package_of() {
    case "$1:$2" in
    apt:c++) echo build-essential ;;
    apt:libclang) echo libclang-dev ;;
    apt:python3) echo python3 python3-venv ;;
    dnf:c++) echo gcc-c++ ;;
    dnf:postgresql) echo postgresql-server ;;
    dnf:libclang) echo clang-devel ;;
    brew:libclang) echo llvm ;;
    brew:python3) echo python@3.12 ;;
    *) echo "$2" ;;
    esac
}

# keep_services_down ROOT: no service starts when its package is installed. The tests need the programs alone. Debian asks
# this program before it starts one; a machine's own is left alone.
keep_services_down() {
    [ -e /usr/sbin/policy-rc.d ] && return 0
    printf '#!/bin/sh\nexit 101\n' | $1 tee /usr/sbin/policy-rc.d >/dev/null
    $1 chmod +x /usr/sbin/policy-rc.d
    trap "$1 rm -f /usr/sbin/policy-rc.d" EXIT
}

install_missing() {
    # Word lists rather than arrays: macOS has bash 3.2.
    local missing packages="" manager root="" tool
    missing=$(missing_tools | xargs)
    [ -n "$missing" ] || return 0
    if have apt-get; then manager=apt; elif have dnf; then manager=dnf; elif have brew; then manager=brew
    else die "missing: $missing. Install them with your system's package manager and run this again."; fi
    # Homebrew has it as an application, which is on no path: it is for its user to install.
    case "$manager:$missing" in
    brew:*chromium*)
        die "there is no Chromium or Google Chrome on the path. Install one (brew install --cask chromium), put a link
to its program called chromium on your path, and run this again." ;;
    esac
    for tool in $missing; do packages="$packages $(package_of "$manager" "$tool")"; done
    if [ "$manager" != brew ] && [ "$(id -u)" -ne 0 ]; then
        have sudo || die "missing: $missing. As root, install:$packages"
        root=sudo
        say "installing needs root, so sudo may ask for your password"
    fi
    say "installing$packages"
    case $manager in
    apt)
        $root apt-get update -qq
        case $missing in *postgresql*|*pgbouncer*) keep_services_down "$root" ;; esac
        $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
        ;;
    dnf) $root dnf install -y -q $packages ;;
    brew) brew install $packages ;;
    esac
    missing=$(missing_tools | xargs)
    [ -z "$missing" ] || die "still missing after installing: $missing"
}

check_rust() {
    local need found
    need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    have cargo && have rustc || die "there is no Rust toolchain. Install one with rustup:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
then open a new shell (or run: . \"\$HOME/.cargo/env\") and run this again. Rust $need or newer is needed."
    found=$(rustc --version | awk '{print $2}')
    [ "$(printf '%s\n' "$need" "${found%%-*}" | sort -V | head -1)" = "$need" ] ||
        die "Rust $found is too old; $need or newer is needed. Run: rustup update stable"
    [ "$goal" != build ] || return 0
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        have rustup || die "rustfmt and clippy are missing; install them with your Rust toolchain's packages"
        say "adding rustfmt and clippy to the Rust toolchain"
        rustup component add rustfmt clippy
    fi
}

# Python packages and Node live in .venv; the stamp holds what they were installed from.
set_up_clients() {
    local wanted
    wanted=$(cat tests/python/requirements.txt tests/node/package-lock.json | cksum)
    if [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ] && [ -d tests/node/node_modules/openai ]; then return 0; fi
    say "setting up the Python environment in .venv"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt
    say "installing the Node packages"
    (cd tests/node && PATH="$PWD/../../.venv/bin:$PATH" npm ci --no-audit --no-fund --loglevel=error)
    printf '%s' "$wanted" >.venv/installed
}

# set_up_apart NAME: an environment of its own, target/NAME-venv, for what cannot live beside today's SDK: the Python
# SDK before 1.0 (openai-old) and instructor, which wants an older SDK and older packages.
set_up_apart() {
    local venv=target/$1-venv requirements=tests/python/requirements-$1.txt wanted
    wanted=$(cksum <"$requirements")
    if [ "$(cat "$venv/installed" 2>/dev/null)" = "$wanted" ]; then return 0; fi
    say "setting up $1 in $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    printf '%s' "$wanted" >"$venv/installed"
}

install_missing
check_rust
if [ "$goal" = test ]; then
    set_up_clients
    set_up_apart openai-old
    set_up_apart instructor
    .venv/bin/python tests/setup/models.py smollm2
    # Large, and not needed for anything else.
    .venv/bin/python tests/setup/templates.py ||
        say "there are no chat templates to compare: tests/python/test_chat_templates.py has a test less, and says so"
fi
