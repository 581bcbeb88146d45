#!/usr/bin/env bash
# The clients that people use, each against the local route and a cloud route (tests/sdk/clients).
# Arguments are names of clients; none: all of them.
set -euo pipefail
cd "$(dirname "$0")/../.."

environments=.venv/clients
clients=tests/sdk/clients
for requirements in "$clients"/*.txt; do
    scripts/pip-into "$environments/$(basename "$requirements" .txt)" "$requirements"
done
scripts/npm-into "$environments/node" "$clients"
ln -sfn "$PWD/$clients" "$environments/node/clients"

built=${CARGO_TARGET_DIR:-target}/debug
exec python3 tests/sdk/clients.py "$built/tollgate-under-test" "$built/standin-cloud" "$environments" "$@"
