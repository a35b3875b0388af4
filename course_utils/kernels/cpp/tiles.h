// The loops around a tile: ROWS rows of the weight times a few tokens. Included after the instructions were chosen.
#pragma once
#include "kernels.h"

namespace {

struct Block {  // ROWS rows of a weight and where their results go
    const uint8_t* codes[ROWS];
    const float* scale[ROWS];
    const float* zero[ROWS];
    float bias[ROWS];
    float* y[ROWS];  // of the first token

    __attribute__((always_inline)) Block from(int first) const {  // without the first rows
        Block rest = *this;
        for (int r = 0; r + first < ROWS; r++) {
            rest.codes[r] = codes[r + first], rest.scale[r] = scale[r + first], rest.zero[r] = zero[r + first];
            rest.bias[r] = bias[r + first], rest.y[r] = y[r + first];
        }
        return rest;
    }
};

// Ask memory early for what a row's stream will need; an address behind the end does no harm.
inline void ask(const uint8_t* codes) { __builtin_prefetch(codes + 1024); }

// T tokens from token t on, with so many rows at a time that their Tile::sums sums fit in the registers.
template <typename Tile, int BITS, int T>
void run(const Weight& w, const Input& in, int64_t t, const Block& block) {
    constexpr int R = Tile::sums / T;
    for (int r = 0; r < ROWS; r += R) Tile::template rows<BITS, T, R>(w, in, t, block.from(r));
}

// All rows of the range and all tokens. The ROWS rows of a block lie far apart, so that memory is read in ROWS
// unbroken streams. Where the rows run out, the last one is done several times.
template <typename Tile, int BITS>
void each_tile(const Weight& w, const Input& in, const float* bias, float* y, Range rows, Scratch scratch) {
    const int64_t apart = (rows.last - rows.first + ROWS - 1) / ROWS;
    for (int64_t i = 0; i < apart; i++) {
        Block block;
        for (int r = 0; r < ROWS; r++) {
            const int64_t row = rows.first + r * apart + i, at = row < rows.last ? row : rows.last - 1;
            read_row(w, at, scratch.scale + r * space(w.groups), scratch.zero + r * space(w.groups));
            block.codes[r] = w.codes + at * w.row_bytes;
            block.scale[r] = scratch.scale + r * space(w.groups);
            block.zero[r] = scratch.zero + r * space(w.groups);
            block.bias[r] = bias ? bias[at] : 0;
            block.y[r] = y + at;
        }
        int64_t t = 0;
        for (; t + 4 <= in.tokens; t += 4) run<Tile, BITS, 4>(w, in, t, block);
        for (; t + 2 <= in.tokens; t += 2) run<Tile, BITS, 2>(w, in, t, block);
        for (; t < in.tokens; t++) run<Tile, BITS, 1>(w, in, t, block);
    }
}

template <typename Tile>
void all_tiles(const Weight& w, const Input& in, const float* bias, float* y, Range rows, Scratch scratch) {
    (w.bits == 4 ? each_tile<Tile, 4> : each_tile<Tile, 8>)(w, in, bias, y, rows, scratch);
}

}  // namespace
