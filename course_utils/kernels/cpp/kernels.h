// Products of activations with a weight matrix that stays packed: y = x Wᵀ + b, with w = scale (code − zero).
#pragma once
#include <cstdint>
#include <cstring>

struct Weight {
    const uint8_t* codes;  // (rows, row_bytes), of which ceil(columns · bits / 8) are read; the first columns are the low bits
    const void* scale;     // (rows, groups), float, or IEEE half precision if `half`
    const uint8_t* zero;   // (rows, zero_bytes), each row a stream of numbers of zero_bits; null: `middle` everywhere
    int64_t rows, columns, groups;
    int64_t row_bytes, zero_bytes, group_size, group_bytes;
    int32_t bits;  // 1, 2, 4 or 8
    int32_t half, zero_bits, middle;
};

// Activations of several tokens. Either x is given, or q with its scales and sums: x = q_scale q.
// A row holds `stride` numbers. A byte of codes has 8 / bits parts, and so has a row: part p holds the columns whose
// codes are part p of a byte, from p · part on. So byte j belongs to the numbers j, part + j, 2 part + j …
// Behind the last column of a part there are 64 zeros at least, so that vectors may be loaded there.
// The portable products want whole rows: there is one part.
struct Input {
    int64_t tokens, stride, part;
    const float* x;
    const int8_t* q;
    const float* q_scale;  // (tokens)
    const float* q_sum;    // (tokens, groups): the sum of q over each group of columns, a whole number
};

// Rows that a kernel may look at together. Memory answers faster when several places are asked for at once: reading 8
// rows side by side was 1.5 times as fast as one after the other on the server processor of docs/benchmarks.md.
constexpr int ROWS = 8;

struct Range {
    int64_t first, last;
};

// y (tokens, w.rows) for the rows first … last − 1 of the weight; `bias` may be null
using Rows = void(const Weight& w, const Input& in, const float* bias, float* y, Range rows);
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
#elif defined(__aarch64__)
#define ARM64 1
extern const Kernels neon, dotprod;
#endif
