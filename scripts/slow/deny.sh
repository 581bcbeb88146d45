#!/usr/bin/env bash
# Licences, bans and sources of the dependency tree, where cargo-deny is there (`make deny` gets it).
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v cargo-deny >/dev/null; then
    echo "$0: no cargo-deny (make deny gets it)" | tee -a "${TOLLGATE_SKIPPED:-/dev/null}" >&2
    exit 0
fi
cargo deny --all-features check --hide-inclusion-graph licenses bans sources
