#!/usr/bin/env bash
# The interleavings of the ledger's queue and tickets, by a model checker. A package of its own:
# see tests/modelled/Cargo.toml.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo test --manifest-path tests/modelled/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}/modelled" \
    --locked --quiet -- --nocapture --test-threads 1
