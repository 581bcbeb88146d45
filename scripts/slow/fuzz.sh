#!/usr/bin/env bash
# Mutated inputs for the local engine's readers of foreign bytes, SECONDS_EACH for each of the five
# targets: 20 here, 600 by `make fuzz`.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${CARGO_TARGET_DIR:-target}/debug/fuzz" --seconds "${SECONDS_EACH:-20}"
