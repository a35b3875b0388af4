// The loops around a tile: ROWS rows of the weight times a few tokens. Included after the instructions were chosen.
#pragma once
#include "kernels.h"

// A loop over rows or tokens of a tile, written out: otherwise the sums are kept in memory and not in registers.
#if defined(__clang__)
#define EACH(i, n) _Pragma("clang loop unroll(full)") for (int i = 0; i < (n); i++)
#else
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#endif

// A function that does nothing but ask for memory is taken for one without effect by GCC, and its calls are left out.
#define ALWAYS __attribute__((always_inline))

namespace {

struct Block {  // rows of a weight at equal distances
    int64_t row, step;
    const uint8_t* codes;  // of the first row
    int64_t code_step;
};

// The planes of a row: what is left of a code beside the first plane is in a plane of 2 bits, one of 1 bit, or both.
// `share` bytes of the first plane go with one byte of the other.
template <int BITS>
struct Planes {
    static constexpr int first = first_plane(BITS), parts = 8 / first;
    static constexpr bool twos = first > 2 && BITS & 2, ones = first > 1 && BITS & 1;
    static constexpr int twos_share = first > 2 ? first / 2 : 1, ones_share = first;
    int64_t length, row_bytes, twos_at, ones_at;  // of the first plane, of a row; where in a row the other planes begin

    explicit Planes(const Weight& w)
        : length(w.blocks() ? w.row_bytes : w.groups * w.group_bytes), row_bytes(w.row_bytes), twos_at((w.columns * first + 7) / 8),
          ones_at(twos_at + (twos ? (w.columns + 3) / 4 : 0)) {}
};

// Memory is asked this many bytes early for what a row's stream will need, and for its scales and zero points; an
// address behind the end does no harm.
constexpr int64_t AHEAD = 1024, SCALES_AHEAD = 256;

// Into the second-level cache: what ROWS rows with up to three planes each are asked for drives itself from the first.
ALWAYS inline void ask(const uint8_t* from) { __builtin_prefetch(from, 0, 2); }

// Asks for what lies AHEAD of byte b of a row's first plane, which may be in the next row, and for what belongs to it.
template <int BITS>
struct Ask {
    int64_t first, twos, ones;

    Ask(const Planes<BITS>& planes, int64_t b) {
        const bool here = b + AHEAD < planes.length;
        const int64_t at = here ? b + AHEAD : b + AHEAD - planes.length, row = here ? 0 : planes.row_bytes;
        using P = Planes<BITS>;
        first = row + at, twos = row + planes.twos_at + at / P::twos_share, ones = row + planes.ones_at + at / P::ones_share;
    }
    ALWAYS void of(const uint8_t* row) const {
        ask(row + first);
        if (Planes<BITS>::twos) ask(row + twos);
        if (Planes<BITS>::ones) ask(row + ones);
    }
};

// 16 numbers of `width` bits, number i on; behind the end of a row of `bytes` bytes, any numbers. Eight take width bytes.
ALWAYS inline void read_16(const uint8_t* row, int64_t bytes, int64_t i, int width, float* to) {
    for (int part = 0; part < 2; part++) {
        const int64_t at = (i / 8 + part) * width, left = bytes - at;
        uint64_t eight = 0;
        for (int j = 0; j < width && j < left; j++) eight |= uint64_t(row[at + j]) << (8 * j);
        EACH(j, 8) to[8 * part + j] = float(int32_t(eight >> (j * width)) & ((1 << width) - 1));
    }
}

// Zero points of the 16 groups of a row from group g on; where there is no group, any number.
template <int BITS>
inline void read_zeros(const Weight& w, int64_t row, int64_t g, float* to) {
    if (w.zero)
        read_16(w.zero + row * w.zero_bytes, w.zero_bytes, g, BITS, to);
    else
        EACH(i, 16) to[i] = float(w.blocks() ? E2M1_ZERO : 1 << (BITS - 1));
}

// Where a group that begins at byte b of the first plane ends: behind the last whole byte of it that a row has.
template <int BITS>
inline int64_t end_of(const Weight& w, const Planes<BITS>& planes, int64_t b) {
    return b + w.group_bytes < planes.length ? b + w.group_bytes : planes.length;
}

// T tokens from token t on, with so many rows at a time that their Tile::sums sums fit in the registers.
template <typename Tile, int BITS, bool BLOCKS, int T>
void run(const Weight& w, const Input& in, int64_t t, const Block& block, const float* bias, float* y) {
    constexpr int R = Tile::sums < T ? 1 : Tile::sums / T < ROWS ? Tile::sums / T : ROWS;
    float sums[R][T];
    for (int first = 0; first < ROWS; first += R) {
        const int64_t row = block.row + first * block.step;
        Tile::template rows<BITS, BLOCKS, T, R>(w, in, t, {row, block.step, w.codes + row * w.row_bytes, block.code_step}, sums);
        for (int r = 0; r < R; r++)
            for (int i = 0; i < T; i++) {
                const int64_t at = row + r * block.step;
                y[(t + i) * w.rows + at] = sums[r][i] + (bias ? bias[at] : 0);
            }
    }
}

template <typename Tile, int BITS, bool BLOCKS>
void run_all(const Weight& w, const Input& in, const float* bias, float* y, int64_t row, int64_t step) {
    const Block block{row, step, nullptr, step * w.row_bytes};
    int64_t t = 0;
    for (; t + 4 <= in.tokens; t += 4) run<Tile, BITS, BLOCKS, 4>(w, in, t, block, bias, y);
    for (; t + 2 <= in.tokens; t += 2) run<Tile, BITS, BLOCKS, 2>(w, in, t, block, bias, y);
    for (; t < in.tokens; t++) run<Tile, BITS, BLOCKS, 1>(w, in, t, block, bias, y);
}

// All rows of the range and all tokens. The ROWS rows of a block lie far apart, so that memory is read in ROWS
// unbroken streams. Rows left over are done together with some that were done before; fewer than ROWS, one at a time.
template <typename Tile, int BITS, bool BLOCKS = false>
void each_tile(const Weight& w, const Input& in, const float* bias, float* y, Range rows) {
    const int64_t n = rows.last - rows.first, apart = n / ROWS;
    for (int64_t i = 0; i < apart; i++) run_all<Tile, BITS, BLOCKS>(w, in, bias, y, rows.first + i, apart);
    if (apart && n % ROWS) run_all<Tile, BITS, BLOCKS>(w, in, bias, y, rows.last - ROWS, 1);
    if (!apart)
        for (int64_t row = rows.first; row < rows.last; row++) run_all<Tile, BITS, BLOCKS>(w, in, bias, y, row, 0);
}

template <typename Tile>  // its `rows`: R rows at equal distances times T tokens; `sums`: the most that R · T may be
void all_tiles(const Weight& w, const Input& in, const float* bias, float* y, Range rows) {
    constexpr Rows* tiles[] = {each_tile<Tile, 1>, each_tile<Tile, 2>, each_tile<Tile, 3>, each_tile<Tile, 4>,
                               each_tile<Tile, 5>, each_tile<Tile, 6>, each_tile<Tile, 7>, each_tile<Tile, 8>};
    (w.blocks() ? each_tile<Tile, 4, true> : tiles[w.bits - 1])(w, in, bias, y, rows);
}

}  // namespace
