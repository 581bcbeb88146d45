// Put before llama.cpp's C sources where it is built for Linux (see env.sh).
//
// Weights, KV cache and work space are read from one end to the other at every step, and most of what
// that costs beside the reading is finding the pages. Where a kernel gives huge pages to whom asks for
// them (/sys/kernel/mm/transparent_hugepage/enabled: madvise, as most distributions have it), ggml does
// not ask. This does, for every buffer that holds one. A kernel that has none to give refuses nothing.
#if defined(__linux__) && defined(GGML_SCHED_MAX_COPIES)
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifdef MADV_HUGEPAGE
static inline int tollgate_memalign(void **memory, size_t alignment, size_t size) {
    const uintptr_t huge = (uintptr_t)2 << 20;
    if (size < 2 * huge) {
        return posix_memalign(memory, alignment, size);
    }
    const int refused = posix_memalign(memory, huge, size);
    if (refused == 0) {
        madvise(*memory, size & ~(huge - 1), MADV_HUGEPAGE);
    }
    return refused;
}
#define posix_memalign tollgate_memalign
#endif
#endif
