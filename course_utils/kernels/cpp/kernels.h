// Products of activations with a weight matrix that stays packed: y = x Wᵀ + b, with w = scale (code − zero).
#pragma once
#include <cstdint>
#include <cstring>

struct Weight {
    const uint8_t* codes;  // (rows, ceil(columns · bits / 8)); with 4 bits the even columns are the low nibbles
    const void* scale;     // (rows, groups), float, or IEEE half precision if `half`
    const uint8_t* zero;   // (rows, ceil(groups · bits / 8)), packed like the codes; null: 2^(bits − 1) everywhere
    int64_t rows, columns, groups;
    int64_t row_bytes, group_size, group_bytes;
    int32_t bits;  // 4 or 8
    int32_t half;
};

// Activations of several tokens. Either x is given, or q with its scales and sums: x = q_scale q.
// A row holds `stride` numbers. `split`: the even columns first, the odd ones from stride / 2 on, so that byte j of a
// row of 4-bit codes belongs to numbers j and stride / 2 + j. Whatever lies behind the last column is 0.
struct Input {
    int64_t tokens, stride;
    bool split;
    const float* x;
    const int8_t* q;
    const float* q_scale;  // (tokens)
    const float* q_sum;    // (tokens, groups): the sum of q over each group of columns, a whole number
};

// Rows that a kernel may look at together. Memory answers faster when several places are asked for at once: reading 8
// rows side by side was 1.5 times as fast as one after the other on the server processor of docs/benchmarks.md.
constexpr int ROWS = 8;

struct Scratch {  // room for what `read_row` finds in ROWS rows: ROWS · space(groups) numbers each
    float *scale, *zero;
};

// Numbers kept for a row's groups. Behind the last one there are 16 zeros at least, so that vectors may be loaded there.
inline int64_t space(int64_t groups) { return groups + 16; }

struct Range {
    int64_t first, last;
};

// y (tokens, w.rows) for the rows first … last − 1 of the weight; `bias` may be null
using Rows = void(const Weight& w, const Input& in, const float* bias, float* y, Range rows, Scratch scratch);
// y (tokens, rows) = q Wᵀ, both int8, exact; here a row of the weight holds in.stride numbers
using IntegerRows = void(const int8_t* w, const Input& in, int32_t* y, int64_t width, Range rows);

struct Kernels {
    const char* name;
    Rows* float_rows;
    Rows* int8_rows;
    IntegerRows* integer_rows;
};

extern const Kernels portable;
#if defined(__x86_64__)
#define X86 1
extern const Kernels avx2, avx512;
#endif

namespace {

// n numbers of half precision, and n codes packed as in a Weight, as floats; every file has these in its instructions.
void widen(const uint16_t* half, float* to, int64_t n);
void widen(const uint8_t* packed, int bits, float* to, int64_t n);

// Scale and zero point of every group of one row.
inline void read_row(const Weight& w, int64_t row, float* scale, float* zero) {
    if (w.half)
        widen(static_cast<const uint16_t*>(w.scale) + row * w.groups, scale, w.groups);
    else
        std::memcpy(scale, static_cast<const float*>(w.scale) + row * w.groups, sizeof(float) * w.groups);
    if (w.zero)
        widen(w.zero + row * ((w.groups * w.bits + 7) / 8), w.bits, zero, w.groups);
    else
        for (int64_t g = 0; g < w.groups; g++) zero[g] = float(1 << (w.bits - 1));
}

}  // namespace
