// Put before llama.cpp's C++ sources where it is built with AMX (see env.sh).
//
// GCC's _tile_loadconfig (amxtileintrin.h; GCC bug 114098, repaired in 12.4, 13.3 and 14) tells the
// compiler that the instruction reads 8 bytes of the configuration, not 64: the shapes of the tiles
// are optimised away, and the first tile instruction is an illegal one.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))
#endif
