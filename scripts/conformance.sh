#!/usr/bin/env bash
# The OpenAI-compatibility conformance kit, where there is one: TOLLGATE_CONFORMANCE names its
# folder, which must be there then (it has a run.sh that takes BASE_URL, API_KEY and MODEL). Once against the local route, once
# against a cloud route to the stand-in.
set -euo pipefail
cd "$(dirname "$0")/.."

kit=${TOLLGATE_CONFORMANCE:-../shared/conformance}
if [ ! -x "$kit/run.sh" ]; then
    if [ -n "${TOLLGATE_CONFORMANCE:-}" ]; then
        echo "error: TOLLGATE_CONFORMANCE is $kit, and there is no run.sh there" >&2
        exit 1
    fi
    echo "skipped: no conformance kit (set TOLLGATE_CONFORMANCE to its folder)" >&2
    exit 0
fi
kit=$(cd "$kit" && pwd)
scripts/pip-into .venv/conformance "$kit/requirements.txt"
export PYTHONPATH=$PWD/.venv/conformance
built=${CARGO_TARGET_DIR:-target}/debug
python3 tests/sdk/conformance.py "$kit" "$built/tollgate-under-test"
python3 tests/sdk/conformance.py "$kit" "$built/tollgate-under-test" "$built/standin-cloud"
