#!/usr/bin/env bash
# FOCUS: the FinOps Foundation's validator reads an export of ours. Its version that runs on
# Python 3.11 knows FOCUS up to 1.0; the columns that 1.2 added are checked by a test of ours.
set -euo pipefail
cd "$(dirname "$0")/../.."

data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
# multimethod 2 took away what the validator's own dependency imports.
printf 'focus-validator==1.0.0\nmultimethod<2\n' > "$data/requirements.txt"
scripts/pip-into .venv/focus "$data/requirements.txt"
TOLLGATE_FOCUS_EXPORT="$data/export.csv" cargo test --workspace --locked --lib --quiet -- \
    a_focus_export_has_a_row_for_every_charge >&2
PYTHONPATH=$PWD/.venv/focus python3 -c 'from focus_validator.main import main; main()' \
    --data-file "$data/export.csv" --validate-version 1.0 --column-namespace x_ \
    --output-type unittest --output-destination "$data/report.xml" || true
python3 - "$data/report.xml" <<'PY'
import sys
import xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
cases = list(root.iter("testcase"))
failed = [case.get("name") for case in cases if case.find("failure") is not None]
print(f"FOCUS 1.0 validator: {len(cases)} checks, {len(failed)} failed")
for name in failed:
    print("  ", name)
sys.exit(bool(failed) or not cases)
PY
