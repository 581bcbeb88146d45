# The build environment, sourced by scripts/with-env. It depends on the machine alone, so that two
# commands never disagree about it: each GGML_*, CMAKE_* and LIBCLANG_* value is an input of
# llama.cpp's build, and another value compiles it again (minutes).
#
# shellcheck shell=bash

tollgate_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$tollgate_root/target}

# Adds a flag to a variable of flags, unless it is there: what runs under with-env may source this again,
# and another text of CFLAGS is another build.
tollgate_flag() {
    local flags=${!1-}
    [[ " $flags " == *" $2 "* ]] || export "$1=${flags:+$flags }$2"
}

# AVX-512, where the processor has all four parts that llama.cpp can use; and AMX, which multiplies
# matrices several times as fast, where it works too. Never `target-cpu=native`: it turns AMX on
# without the header that it needs under some compilers.
tollgate_cpu_has() {
    local flag
    for flag in "$@"; do
        grep -m1 '^flags' /proc/cpuinfo 2>/dev/null | grep -qw "$flag" || return 1
    done
}
# Whether AMX is there, permitted and right, and the compiler knows it.
tollgate_amx_works() {
    local source=$tollgate_root/scripts/amx.cpp header=$tollgate_root/scripts/amx.h
    local probe=$CARGO_TARGET_DIR/amx-probe
    tollgate_cpu_has amx_tile amx_int8 || return 1
    # Flags are parted at white space.
    [[ $tollgate_root != *[[:space:]]* ]] || return 1
    if [ ! "$probe" -nt "$source" ] || [ ! "$probe" -nt "$header" ]; then
        mkdir -p "$CARGO_TARGET_DIR"
        "${CXX:-c++}" -O2 -mamx-tile -mamx-int8 -include "$header" \
            -o "$probe.$$" "$source" 2>/dev/null && mv "$probe.$$" "$probe" || return 1
    fi
    "$probe"
}
if tollgate_cpu_has avx512f avx512vbmi avx512_vnni avx512_bf16; then
    export GGML_AVX512=ON GGML_AVX512_VBMI=ON GGML_AVX512_VNNI=ON GGML_AVX512_BF16=ON
    if tollgate_amx_works; then
        export GGML_AMX_TILE=ON GGML_AMX_INT8=ON
        tollgate_flag CXXFLAGS "-include $tollgate_root/scripts/amx.h"
    fi
fi

# Huge pages for what llama.cpp computes with, and a faster product for one kind of weights. From the target
# folder, so that trees that share one share the build.
if [[ $(uname) == Linux && $CARGO_TARGET_DIR != *[[:space:]]* ]]; then
    mkdir -p "$CARGO_TARGET_DIR"
    for tollgate_header in pages.h q4_1.h; do
        # cmake runs elsewhere.
        tollgate_placed=$(cd "$CARGO_TARGET_DIR" && pwd)/$tollgate_header
        if ! cmp -s "$tollgate_root/scripts/$tollgate_header" "$tollgate_placed"; then
            cp "$tollgate_root/scripts/$tollgate_header" "$tollgate_placed.$$"
            mv "$tollgate_placed.$$" "$tollgate_placed"
        fi
        tollgate_flag CFLAGS "-include $tollgate_placed"
    done
    # An input of the build, for cargo does not look into them.
    GGML_TOLLGATE_HEADERS=$(cat "$tollgate_root"/scripts/{pages,q4_1}.h | cksum)
    export GGML_TOLLGATE_HEADERS=${GGML_TOLLGATE_HEADERS// /-}
fi

if command -v ccache >/dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi

# What scripts/need.sh took from PyPI, where Debian's packages were not to be had.
tollgate_wheels=$tollgate_root/.venv/build
if [ -x "$tollgate_wheels/cmake/data/bin/cmake" ] && [[ :$PATH: != *":$tollgate_wheels/cmake/data/bin:"* ]]; then
    export PATH=$tollgate_wheels/cmake/data/bin:$PATH
fi
if [ -e "$tollgate_wheels/clang/native/libclang.so" ]; then
    export LIBCLANG_PATH=$tollgate_wheels/clang/native
    # The wheel has no compiler headers (stddef.h …): gcc's do.
    BINDGEN_EXTRA_CLANG_ARGS=-I$(gcc -print-file-name=include)
    export BINDGEN_EXTRA_CLANG_ARGS
fi
