#!/usr/bin/env bash
# The OpenAI-compatibility conformance kit, where there is one: TOLLGATE_CONFORMANCE names its
# folder (it has a run.sh that takes BASE_URL, API_KEY and MODEL).
set -euo pipefail
cd "$(dirname "$0")/../.."

kit=${TOLLGATE_CONFORMANCE:-../shared/conformance}
if [ ! -x "$kit/run.sh" ]; then
    echo "skipped: no conformance kit (set TOLLGATE_CONFORMANCE to its folder)" >&2
    exit 0
fi
kit=$(cd "$kit" && pwd)
scripts/pip-into .venv/conformance "$kit/requirements.txt"
export PYTHONPATH=$PWD/.venv/conformance
exec python3 tests/sdk/conformance.py "${CARGO_TARGET_DIR:-target}/debug/tollgate-under-test" "$kit"
