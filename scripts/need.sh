#!/usr/bin/env bash
# Installs what building lacks: cmake and libclang (llama.cpp, and bindgen for its Rust interface).
# As root from Debian; otherwise from PyPI into .venv/build. Does nothing, and needs no network,
# when everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

say() { printf '%s\n' "$*" >&2; }
stop() { say "error: $*"; exit 1; }

rustup="install it with rustup (https://rustup.rs), then run this again"
command -v cargo >/dev/null || stop "no Rust toolchain: $rustup"
# rustup brings the version of rust-toolchain.toml; a distribution's cargo may be too old to read Cargo.toml.
needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
found=$(cargo --version) || stop "cargo does not run, see above"
found=$(cut -d' ' -f2 <<<"$found")
printf '%s\n' "$needed" "$found" | sort -V -C || stop "Rust $found is too old, $needed or later is needed: $rustup"
command -v g++ >/dev/null || stop "no C++ compiler: install g++ (Debian: apt-get install g++), then run this again"

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    # Only what bindgen looks for: libclang-cpp, which other packages bring, is another library.
    local pattern
    for pattern in /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64; do
        compgen -G "$pattern/libclang.so*" >/dev/null && return 0
        compgen -G "$pattern/libclang-[0-9]*.so*" >/dev/null && return 0
    done
    return 1
}
has_libgomp() { [ -e "$(gcc -print-file-name=libgomp.so.1 2>/dev/null || true)" ]; }

missing=()
command -v cmake >/dev/null || missing+=(cmake)
has_libclang || missing+=(libclang)
has_libgomp || missing+=(libgomp)
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing from Debian: ${missing[*]}"
    packages=()
    for part in "${missing[@]}"; do
        case $part in
            cmake) packages+=(cmake) ;;
            libclang) packages+=(libclang-dev) ;;
            libgomp) packages+=(libgomp1) ;;
        esac
    done
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
    command -v cmake >/dev/null && has_libclang && has_libgomp ||
        stop "${packages[*]} are installed, and what building needs is not found all the same"
    exit 0
fi

has_libgomp || stop "no libgomp: install g++ together with its OpenMP library (Debian: libgomp1), then run this again"
say "installing from PyPI into .venv/build: ${missing[*]}"
scripts/pip-into .venv/build scripts/build-requirements.txt
