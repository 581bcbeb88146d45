// Succeeds where q4_1.h computes what it should: every product as ggml's own code for this kind of
// processor does, to the last bit, for any number of columns. Built and run by test.sh.
#define TOLLGATE_CHECK
#include "q4_1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef TOLLGATE_TILE
int main(void) {
    puts("this processor has no AVX2: ggml's own code is used");
    return 0;
}
#else
enum { BLOCKS = 19, ROWS = 37, COLUMNS = 21, GAP = 3 };

// One dot product as ggml computes it.
static float dot(const struct tollgate_q4_1 *x, const struct tollgate_q8_1 *y) {
    __m256 lanes = _mm256_setzero_ps();
    float rest = 0;
    for (int block = 0; block < BLOCKS; block++) {
        const __m256 d = _mm256_mul_ps(_mm256_set1_ps(_cvtsh_ss(x[block].d)),
                                       _mm256_set1_ps(_cvtsh_ss(y[block].d)));
        int sums[8] = {0};
        for (int i = 0; i < 32; i++) {
            const int weight = i < 16 ? x[block].qs[i] & 15 : x[block].qs[i - 16] >> 4;
            sums[i / 4] += weight * y[block].qs[i];
        }
        const __m256 products = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)sums));
        lanes = _mm256_fmadd_ps(d, products, lanes);
        rest = __builtin_fmaf(_cvtsh_ss(x[block].m), _cvtsh_ss(y[block].s), rest);
    }
    return tollgate_sum(lanes) + rest;
}

static uint16_t half(void) {
    return _cvtss_sh((float)(rand() % 2001 - 1000) / 997.0f, 0);
}

int main(void) {
    static struct tollgate_q4_1 w[ROWS][BLOCKS + GAP];
    static struct tollgate_q8_1 y[COLUMNS][BLOCKS + GAP];
    static float out[COLUMNS][ROWS + GAP];
    for (int row = 0; row < ROWS; row++) {
        for (int block = 0; block < BLOCKS; block++) {
            w[row][block].d = half();
            w[row][block].m = half();
            for (int i = 0; i < 16; i++) {
                w[row][block].qs[i] = (uint8_t)rand();
            }
        }
    }
    for (int column = 0; column < COLUMNS; column++) {
        for (int block = 0; block < BLOCKS; block++) {
            y[column][block].d = half();
            y[column][block].s = half();
            for (int i = 0; i < 32; i++) {
                // The extremes too.
                y[column][block].qs[i] = (int8_t)(i % 5 == 0 ? (i % 2 ? 127 : -128) : rand());
            }
        }
    }
    for (int columns = 1; columns <= COLUMNS; columns++) {
        memset(out, 0xFF, sizeof out);
        tollgate_product(ROWS, columns, BLOCKS, w[0], BLOCKS + GAP, y[0], BLOCKS + GAP, out[0],
                         ROWS + GAP);
        for (int column = 0; column < COLUMNS; column++) {
            for (int row = 0; row < ROWS + GAP; row++) {
                float asked;
                memset(&asked, 0xFF, sizeof asked);
                if (column < columns && row < ROWS) {
                    asked = dot(w[row], y[column]);
                }
                if (memcmp(&asked, &out[column][row], sizeof asked) != 0) {
                    printf("row %d of column %d of %d: %g, not %g\n", row, column, columns,
                           out[column][row], asked);
                    return 1;
                }
            }
        }
    }
    return 0;
}
#endif
