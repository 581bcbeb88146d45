#!/usr/bin/env bash
# The offload path, really run: llama.cpp's Vulkan backend on Mesa's software device, which needs no
# GPU. Compiles llama.cpp a second time (minutes), in a target folder of its own.
#
# Debian 12's Vulkan headers are too old for llama.cpp: Debian 13's are unpacked into a folder and
# nothing of them is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "$0: Vulkan's software device is installed from Debian, as root" | tee -a "${TOLLGATE_SKIPPED:-/dev/null}" >&2
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
if ! command -v glslc >/dev/null || ! compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' >/dev/null || ! compgen -G '/usr/lib/*-linux-gnu/libvulkan.so' >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends glslc mesa-vulkan-drivers libvulkan-dev >&2
fi

headers=$PWD/target/vulkan-headers
if [ ! -e "$headers/usr/include/vulkan/vulkan.hpp" ]; then
    echo "fetching Vulkan's headers (Debian 13)" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/parts"
    # The mirror that this machine uses already, of a later release.
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 debian || echo http://deb.debian.org/debian)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
    apt=(apt-get -qq -o Dir::State::lists="$work/lists" -o Dir::Cache::archives="$work/archives"
        -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/parts"
        -o APT::Sandbox::User=root)
    "${apt[@]}" update >&2
    (cd "$work" && "${apt[@]}" download libvulkan-dev spirv-headers >&2)
    mkdir -p "$headers"
    for package in "$work"/*.deb; do dpkg-deb -x "$package" "$headers"; done
fi

export CPLUS_INCLUDE_PATH=$headers/usr/include${CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}
# ggml asks CMake for the headers' package as well.
export CMAKE_PREFIX_PATH=$headers/usr
# The software device, whatever else the machine has.
export GGML_VK_VISIBLE_DEVICES=0 TOLLGATE_GPU_TESTS=software
VK_DRIVER_FILES=$(compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' | head -n1)
export VK_DRIVER_FILES
export TOLLGATE_MODEL=${TOLLGATE_MODEL:-$PWD/models/SmolLM2-135M-Instruct-Q4_1.gguf}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/vulkan
exec cargo test --locked -p local-engine --features vulkan --test engine gpu:: -- --nocapture --test-threads 1
