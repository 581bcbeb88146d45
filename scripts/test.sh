#!/usr/bin/env bash
# Runs every test; `--slow` adds what takes long. Called by `make test` and `make test-all` inside
# scripts/with-env. The last thing printed is the test runner's own summary; before it stands what could
# not be looked at on this machine. TOLLGATE_REQUIRE=disk,ptrace,sliding makes a failure of that.
set -euo pipefail
cd "$(dirname "$0")/.."

slow=false
[ "${1:-}" = --slow ] && slow=true
export TOLLGATE_MODEL=${TOLLGATE_MODEL:-$PWD/models/SmolLM2-135M-Instruct-Q4_1.gguf}
if $slow; then
    # A model with a sliding window, for the tests that skip themselves without it.
    scripts/gemma.sh
    export TOLLGATE_SLOW_TESTS=1 PROPTEST_CASES=${PROPTEST_CASES:-4096}
fi

skipped=$(mktemp) said=$(mktemp)
trap 'rm -f "$skipped" "$said"' EXIT
export TOLLGATE_SKIPPED=$skipped

nextest=false
cargo nextest --version >/dev/null 2>&1 && nextest=true

echo "== doc tests" >&2
cargo test --workspace --locked --doc --quiet

echo "== build" >&2
cargo test --workspace --locked --no-run

if grep -m1 '^flags' /proc/cpuinfo 2>/dev/null | grep -qw avx2; then
    echo "== what is put into llama.cpp: right, and called" >&2
    probe=$(mktemp)
    for flags in "-mavx2 -mfma -mf16c" -march=native; do
        # shellcheck disable=SC2086 # several flags
        "${CC:-cc}" -O3 -Wall -Wextra -Werror $flags -o "$probe" scripts/q4_1.c
        "$probe"
    done
    rm -f "$probe"
    # What nobody calls is not in the library.
    built=("$CARGO_TARGET_DIR"/debug/build/llama-cpp-sys-2-*/out/lib*/libggml-cpu.a)
    if ! nm "$(ls -t "${built[@]}" | head -n 1)" 2>/dev/null | grep tollgate_product >/dev/null; then
        echo "llama.cpp does not call what scripts/q4_1.h puts into it" >&2
        exit 1
    fi
fi

echo "== the way releases are built, on the smallest crate" >&2
scripts/release -p policies

echo "== client SDKs" >&2
scripts/sdk.sh

echo "== conformance" >&2
scripts/conformance.sh

# One that fails, be it for want of a program, keeps none of the others from being run.
failed=()
if $slow; then
    shopt -s nullglob
    for script in scripts/slow/*.sh; do
        echo "== $script" >&2
        "$script" || failed+=("$script")
    done
fi

echo "== tests" >&2
if $nextest; then
    color=never
    [ -t 2 ] && color=always
    {
        cargo nextest run --workspace --locked --config-file tests/nextest.toml --no-fail-fast \
            --color "$color" 2>&1 1>&3 | tee "$said" >&2
    } 3>&1 || failed+=(tests)
else
    cargo test --workspace --locked --lib --bins --tests --no-fail-fast || failed+=(tests)
fi
if [ -s "$skipped" ]; then
    echo "== not checked on this machine" >&2
    sort "$skipped" >&2
    grep -a Summary "$said" | tail -n 1 >&2 || true
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "== failed: ${failed[*]}" >&2
    exit 1
fi
