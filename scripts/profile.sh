#!/usr/bin/env bash
# Learns which code requests run through and how often, for scripts/release: builds tollgate and the
# bench with counters, puts the bench's loads on a cloud route and on the local model, and writes
# bench/release.profdata. The bare proxy that tollgate is compared with is counted in the same way,
# so that it gains as much. Ten to twenty minutes on two cores; worth it when the way of a request, the
# dependencies or the toolchain have changed.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

# rustc's own, or one that can read what it writes: of the same major version.
version=$(rustc --version --verbose)
llvm=$(sed -n 's/^LLVM version: \([0-9]*\).*/\1/p' <<<"$version")
host=$(sed -n 's/^host: //p' <<<"$version")
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || profdata=$(command -v "llvm-profdata-$llvm") || {
    echo "error: no llvm-profdata of LLVM $llvm: \`rustup component add llvm-tools\`, or Debian's package llvm-$llvm" >&2
    exit 1
}

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
target=$CARGO_TARGET_DIR/profiling
# The build's own programs count too, and are not wanted.
RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-generate" LLVM_PROFILE_FILE=$work/build/%m-%p.profraw \
    cargo build --release --locked --target-dir "$target" -p gateway -p bench --bins
export LLVM_PROFILE_FILE=$work/raw/%m-%p.profraw

"$target/release/bench" overhead --subjects bare,grouped,strict --rounds 1 --out "$work/overhead"

mkdir "$work/local"
cat >"$work/local/tollgate.toml" <<TOML
[server]
listen = "127.0.0.1:8657"
[routes.edge]
kind = "local"
file = "$PWD/models/SmolLM2-135M-Instruct-Q4_1.gguf"
model = "SmolLM2-135M-Instruct"
usd_per_hour = "0.05"
[policy]
shipped = "edge-first"
TOML
"$target/release/tollgate" serve --config "$work/local/tollgate.toml" --data-dir "$work/local/data" \
    >"$work/local/log" 2>&1 &
server=$!
until curl -sf http://127.0.0.1:8657/ready >/dev/null; do
    kill -0 "$server" || { cat "$work/local/log" >&2; exit 1; }
    sleep 0.2
done
"$target/release/bench" engine --url http://127.0.0.1:8657 --key "$(<"$work/local/data/first.key")" \
    --rounds 1 --shared-rounds 1 --streams 1,4 --out "$work/engine"
kill "$server"
wait "$server" || true
server=

"$profdata" merge --sparse -o bench/release.profdata "$work"/raw/*.profraw
ls -l bench/release.profdata
