# The build environment, sourced by scripts/with-env. It depends on the machine alone, so that two
# commands never disagree about it: each GGML_*, CMAKE_* and LIBCLANG_* value is an input of
# llama.cpp's build, and another value compiles it again (minutes).
#
# shellcheck shell=bash

tollgate_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$tollgate_root/target}

# AVX-512, where the processor has all four parts that llama.cpp can use. Never `target-cpu=native`:
# it also turns on AMX, which some machines advertise and then trap on.
tollgate_cpu_has() {
    local flag
    for flag in "$@"; do
        grep -m1 '^flags' /proc/cpuinfo 2>/dev/null | grep -qw "$flag" || return 1
    done
}
if tollgate_cpu_has avx512f avx512vbmi avx512_vnni avx512_bf16; then
    export GGML_AVX512=ON GGML_AVX512_VBMI=ON GGML_AVX512_VNNI=ON GGML_AVX512_BF16=ON
fi

if command -v ccache >/dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi

# What scripts/need.sh took from PyPI, where Debian's packages were not to be had.
tollgate_wheels=$tollgate_root/.venv/build
if [ -x "$tollgate_wheels/cmake/data/bin/cmake" ]; then
    export PATH=$tollgate_wheels/cmake/data/bin:$PATH
fi
if [ -e "$tollgate_wheels/clang/native/libclang.so" ]; then
    export LIBCLANG_PATH=$tollgate_wheels/clang/native
    # The wheel has no compiler headers (stddef.h …): gcc's do.
    BINDGEN_EXTRA_CLANG_ARGS=-I$(gcc -print-file-name=include)
    export BINDGEN_EXTRA_CLANG_ARGS
fi
