// Succeeds where AMX can be used: the kernel permits it, its instructions run, and a product of
// matrices is right. Built and run by env.sh.
#include <csignal>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

struct TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static void illegal(int) { _exit(1); }

int main() {
    const long request_permission = 0x1023, tile_data = 18;
    signal(SIGILL, illegal);
    if (syscall(SYS_arch_prctl, request_permission, tile_data) != 0) {
        return 1;
    }
    alignas(64) TileConfig config = {};
    config.palette = 1;
    for (int tile = 0; tile < 3; tile++) {
        config.rows[tile] = 16;
        config.row_bytes[tile] = 64;
    }
    _tile_loadconfig(&config);
    static int8_t ones[16 * 64], twos[16 * 64];
    static int32_t product[16 * 16];
    memset(ones, 1, sizeof ones);
    memset(twos, 2, sizeof twos);
    _tile_zero(0);
    _tile_loadd(1, ones, 64);
    _tile_loadd(2, twos, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, product, 64);
    for (int32_t sum : product) {
        if (sum != 64 * 1 * 2) {
            return 1;
        }
    }
    return 0;
}
