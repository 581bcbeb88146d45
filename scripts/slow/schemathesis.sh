#!/usr/bin/env bash
# schemathesis: asks a running gateway, with the real model and the stand-in as its cloud, what its own
# OpenAPI document allows and what it does not. Three minutes, a fixed seed.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/pip-into .venv/schemathesis tests/sdk/fuzz-requirements.txt
built=${CARGO_TARGET_DIR:-target}/debug
PYTHONPATH=$PWD/.venv/schemathesis:$PWD/tests/sdk exec python3 tests/sdk/fuzz.py \
    "$built/tollgate-under-test" "$built/standin-cloud"
