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
    const int32_t* q_sum;  // (tokens, groups): the sum of q over each group of columns
};

// Rows that a kernel may look at together. Memory answers faster when several places are asked for at once: on one
// core, reading 8 rows side by side went at twice the speed of one after the other.
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

inline float half_to_float(uint16_t h) {  // finite numbers only
    uint32_t magnitude = uint32_t(h & 0x7fff) << 13, sign = uint32_t(h & 0x8000) << 16;
    float f;
    std::memcpy(&f, &magnitude, 4);
    f *= 0x1p112f;  // the exponents' biases are 127 and 15
    std::memcpy(&magnitude, &f, 4);
    magnitude |= sign;
    std::memcpy(&f, &magnitude, 4);
    return f;
}

inline int code(const uint8_t* packed, int64_t i, int bits) {
    return bits == 8 ? packed[i] : (packed[i / 2] >> (i % 2 * 4)) & 15;
}

// Scale and zero point of every group of one row.
inline void read_row(const Weight& w, int64_t row, float* scale, float* zero) {
    if (w.half) {
        const uint16_t* s = static_cast<const uint16_t*>(w.scale) + row * w.groups;
        for (int64_t g = 0; g < w.groups; g++) scale[g] = half_to_float(s[g]);
    } else {
        std::memcpy(scale, static_cast<const float*>(w.scale) + row * w.groups, sizeof(float) * w.groups);
    }
    const uint8_t* z = w.zero + row * ((w.groups * w.bits + 7) / 8);
    if (!w.zero) {
        for (int64_t g = 0; g < w.groups; g++) zero[g] = float(1 << (w.bits - 1));
    } else if (w.bits == 8) {
        for (int64_t g = 0; g < w.groups; g++) zero[g] = z[g];
    } else {
        for (int64_t j = 0; j < w.groups / 2; j++) zero[2 * j] = z[j] & 15, zero[2 * j + 1] = z[j] >> 4;
        if (w.groups % 2) zero[w.groups - 1] = z[w.groups / 2] & 15;
    }
}

}  // namespace
