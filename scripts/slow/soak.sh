#!/usr/bin/env bash
# Whether the engine holds out at twice its capacity, SOAK_SECONDS long: 120 here, 1800 by
# `make bench-soak`. In a short run memory may grow by more: its first quarter, which warms up, is short.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/release -p bench --bins >&2
exec "${CARGO_TARGET_DIR:-target}/release/bench" soak --model "$TOLLGATE_MODEL" \
    --seconds "${SOAK_SECONDS:-120}" --growth-max-percent 10
