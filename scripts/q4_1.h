// Put before llama.cpp's C sources where it is built for Linux (see env.sh).
//
// ggml multiplies weights of the kind Q4_1 with a batch one dot product at a time: it unpacks the weights,
// and converts all scales, anew for every column, and that is most of a step's time. This does it once for
// a tile of columns. Each dot product is computed by the operations of ggml's own
// (`ggml_vec_dot_q4_1_q8_1`) in their order, so that it is the same to the last bit, in whatever company a
// column is computed. q4_1.c checks that.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && \
    (defined(GGML_USE_LLAMAFILE) || defined(TOLLGATE_CHECK))
#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

// 32 weights: four bits each times `d`, plus `m`.
struct tollgate_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
};

// 32 activations of a column: each times `d`; `s` is their sum.
struct tollgate_q8_1 {
    uint16_t d, s;
    int8_t qs[32];
};

// Columns of a tile: as many as leave registers for the rest.
#if defined(__AVX512VL__)
#define TOLLGATE_TILE 8
typedef __m256 tollgate_tile;
#define TOLLGATE_EACH(op) _mm256_##op##_ps
#else
#define TOLLGATE_TILE 4
typedef __m128 tollgate_tile;
#define TOLLGATE_EACH(op) _mm_##op##_ps
#endif
// Longest row, in blocks of 32: what is converted of a tile stands on the stack.
#define TOLLGATE_BLOCKS_MAX 1024

// The scales of a tile, block by block. Columns that are not there have zeros.
struct tollgate_scales {
    float d[TOLLGATE_BLOCKS_MAX][TOLLGATE_TILE], s[TOLLGATE_BLOCKS_MAX][TOLLGATE_TILE];
};

// Products of 32 pairs, added up in eight lanes.
static inline __m256 tollgate_products(__m256i weights, __m256i column) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(_mm256_setzero_si256(), weights, column));
#else
    const __m256i pairs = _mm256_maddubs_epi16(weights, column);
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_set1_epi16(1), pairs));
#endif
}

static inline float tollgate_sum(__m256 lanes) {
    __m128 sum = _mm_add_ps(_mm256_extractf128_ps(lanes, 1), _mm256_castps256_ps128(lanes));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static inline void tollgate_convert(struct tollgate_scales *scales, int columns, int64_t blocks,
                                    const struct tollgate_q8_1 *y, int64_t y_stride) {
    for (int64_t block = 0; block < blocks; block++) {
        uint16_t d[8] = {0}, s[8] = {0};
        for (int i = 0; i < columns; i++) {
            d[i] = y[i * y_stride + block].d;
            s[i] = y[i * y_stride + block].s;
        }
#if TOLLGATE_TILE == 8
#define TOLLGATE_HALVES(h) \
    _mm256_cvtph_ps(_mm_set_epi16(h[7], h[6], h[5], h[4], h[3], h[2], h[1], h[0]))
#else
#define TOLLGATE_HALVES(h) _mm_cvtph_ps(_mm_set_epi16(0, 0, 0, 0, h[3], h[2], h[1], h[0]))
#endif
        TOLLGATE_EACH(storeu)(scales->d[block], TOLLGATE_HALVES(d));
        TOLLGATE_EACH(storeu)(scales->s[block], TOLLGATE_HALVES(s));
    }
}

// `rows` rows of weights from `w` times `columns` columns from `y`, whose scales are converted.
// Inlined with a known number of columns, so that each has a register.
static inline __attribute__((always_inline)) void tollgate_rows(
    int columns, int64_t rows, int64_t blocks, const struct tollgate_q4_1 *w, int64_t w_stride,
    const struct tollgate_q8_1 *y, int64_t y_stride, const struct tollgate_scales *scales,
    float *out, int64_t out_stride) {
    const __m128i low = _mm_set1_epi8(0xF);
    for (int64_t row = 0; row < rows; row++, w += w_stride) {
        __m256 lanes[TOLLGATE_TILE];
        for (int i = 0; i < columns; i++) {
            lanes[i] = _mm256_setzero_ps();
        }
        tollgate_tile sums = TOLLGATE_EACH(setzero)();
        for (int64_t block = 0; block < blocks; block++) {
            const __m128i packed = _mm_loadu_si128((const __m128i *)w[block].qs);
            const __m256i unpacked = _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(packed, 4), low),
                                                      _mm_and_si128(packed, low));
            const tollgate_tile d = TOLLGATE_EACH(set1)(_cvtsh_ss(w[block].d));
            const tollgate_tile m = TOLLGATE_EACH(set1)(_cvtsh_ss(w[block].m));
            float both[TOLLGATE_TILE] __attribute__((aligned(32)));
            TOLLGATE_EACH(store)
            (both, TOLLGATE_EACH(mul)(d, TOLLGATE_EACH(loadu)(scales->d[block])));
            sums = TOLLGATE_EACH(fmadd)(m, TOLLGATE_EACH(loadu)(scales->s[block]), sums);
            for (int i = 0; i < columns; i++) {
                const void *qs = y[i * y_stride + block].qs;
                const __m256 products = tollgate_products(unpacked, _mm256_loadu_si256(qs));
                lanes[i] = _mm256_fmadd_ps(_mm256_set1_ps(both[i]), products, lanes[i]);
            }
        }
        float rest[TOLLGATE_TILE] __attribute__((aligned(32)));
        TOLLGATE_EACH(store)(rest, sums);
        for (int i = 0; i < columns; i++) {
            out[i * out_stride + row] = tollgate_sum(lanes[i]) + rest[i];
        }
    }
}

// The same for any number of columns; rows of at most TOLLGATE_BLOCKS_MAX blocks.
static __attribute__((noinline, unused)) void tollgate_product(
    int64_t rows, int64_t columns, int64_t blocks, const struct tollgate_q4_1 *w, int64_t w_stride,
    const struct tollgate_q8_1 *y, int64_t y_stride, float *out, int64_t out_stride) {
    struct tollgate_scales scales;
    while (columns > 0) {
        const int tile = columns < TOLLGATE_TILE ? (int)columns : TOLLGATE_TILE;
        tollgate_convert(&scales, tile, blocks, y, y_stride);
#define TOLLGATE_CASE(n)                                                                      \
    case n:                                                                                   \
        tollgate_rows(n, rows, blocks, w, w_stride, y, y_stride, &scales, out, out_stride);   \
        break;
        switch (tile) {
            TOLLGATE_CASE(1)
            TOLLGATE_CASE(2)
            TOLLGATE_CASE(3)
            TOLLGATE_CASE(4)
#if TOLLGATE_TILE == 8
            TOLLGATE_CASE(5)
            TOLLGATE_CASE(6)
            TOLLGATE_CASE(7)
            TOLLGATE_CASE(8)
#endif
        }
        columns -= tile;
        y += tile * y_stride;
        out += tile * out_stride;
    }
}

#ifdef GGML_USE_LLAMAFILE
#include "ggml-cpu-impl.h"
#include "llamafile/sgemm.h"

// What `llamafile_sgemm` is asked, once for a product: whether it has been done. The threads take parts of
// it in turns from the counter that the caller has set for that.
static __attribute__((unused)) bool tollgate_sgemm(
    const struct ggml_compute_params *params, int64_t rows, int64_t columns, int64_t blocks,
    const void *w, int64_t w_stride, const void *y, int64_t y_stride, void *out,
    int64_t out_stride, int w_type, int y_type, int out_type) {
    // For a single column it is no faster.
    if (w_type != GGML_TYPE_Q4_1 || y_type != GGML_TYPE_Q8_1 || out_type != GGML_TYPE_F32 ||
        columns < 2 || blocks > TOLLGATE_BLOCKS_MAX) {
        return false;
    }
    // Parts small enough that no thread waits long for the last one, and large enough that converting a
    // tile's scales for each is little beside it.
    const int64_t broad = 64, least = 4, most = 32;
    const int64_t across = (columns + broad - 1) / broad;
    const int64_t even = rows * across / (4 * params->nth);
    const int64_t tall = even < least ? least : even > most ? most : even;
    const int64_t parts = (rows + tall - 1) / tall * across;
    for (int64_t part = params->ith; part < parts;
         part = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t row = part / across * tall, column = part % across * broad;
        const int64_t height = rows - row < tall ? rows - row : tall;
        const int64_t width = columns - column < broad ? columns - column : broad;
        tollgate_product(height, width, blocks,
                         (const struct tollgate_q4_1 *)w + row * w_stride, w_stride,
                         (const struct tollgate_q8_1 *)y + column * y_stride, y_stride,
                         (float *)out + column * out_stride + row, out_stride);
    }
    return true;
}

// Where there are several products in one, it is asked for each, and the counter is set once.
#define llamafile_sgemm(...) \
    ((ne12 * ne13 == 1 && tollgate_sgemm(__VA_ARGS__)) || llamafile_sgemm(__VA_ARGS__))
#endif
#endif
