#!/usr/bin/env bash
# Runs the openai package's smoke tests and the README's commands against a gateway started for them
# (tests/sdk/).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/pip-into .venv/sdk tests/sdk/requirements.txt
PYTHONPATH=$PWD/.venv/sdk exec python3 tests/sdk/run.py "${CARGO_TARGET_DIR:-target}/debug/tollgate-under-test"
