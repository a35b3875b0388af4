// Products of activations with a weight matrix that stays packed: y = x Wᵀ + b, with w = scale (code − zero), or with
// w = factor · scale · E2M1(code) in blocks (MXFP4, NVFP4), whose last one in a row may be shorter.
#pragma once
#include <cstdint>
#include <cstring>

enum Scales : int32_t { FLOAT, HALF, E8M0, E4M3 };  // IEEE single and half precision; bytes: 2^(e − 127), FP8

struct Weight {
    const uint8_t* codes;  // (rows, row_bytes), each row as `packing.pack_planes` writes it
    const void* scale;     // (rows, groups)
    const uint8_t* zero;   // (rows, zero_bytes), each row a stream of numbers of `bits` bits; null: 2^(bits − 1) everywhere
    const float* factor;   // of all scales of blocks; null: 1
    int64_t rows, columns, groups;
    int64_t row_bytes, zero_bytes, group_size, group_bytes;
    int32_t bits;  // 1 to 8
    int32_t scales;

    bool blocks() const { return scales >= E8M0; }
    int64_t end(int64_t group) const { return (group + 1) * group_size < columns ? (group + 1) * group_size : columns; }
};

// E2M1's numbers v as 2 v + 12: whole and not negative, so that blocks are products of integers with the zero point 12.
constexpr uint8_t E2M1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
constexpr int E2M1_ZERO = 12;

// What turns scales of blocks into those of 2 v.
inline float unit_of(const Weight& w) { return !w.blocks() ? 1 : w.factor ? *w.factor / 2 : 0.5f; }

inline float power_of_two(uint32_t exponent) {  // 2^(exponent − 127); 0: 2^−127, 255: NaN
    const uint32_t bits = exponent << 23 | (((exponent + 1) & 255) < 2 ? 1u << 22 : 0);
    float power;
    std::memcpy(&power, &bits, 4);
    return power;
}

inline float block_scale(int32_t scales, uint8_t byte) {
    if (scales == E8M0) return power_of_two(byte);
    const uint32_t e = byte >> 3 & 15, m = byte & 7;
    const float size = float(e ? m + 8 : m) * power_of_two(117 + (e ? e : 1));
    return (byte & 127) == 127 ? power_of_two(255) : byte & 128 ? -size : size;
}

// Bits of a code in the first plane of a row: the largest of 8, 4, 2 and 1 that `bits` holds. It has the low bits.
constexpr int first_plane(int bits) { return bits & 8 ? 8 : bits & 4 ? 4 : bits & 2 ? 2 : 1; }

// A token as float32 may be written in digits of 8 bits: x = q_scale (q₀ + q₁ / 256 + q₂ / 256² + q₃ / 256³), good to
// max |x| / 2³², or without q₃ to max |x| / 2²⁴. Then the instructions for bytes multiply floats as well. A token in INT8 is q₀ alone.
constexpr int FEW_DIGITS = 3, MANY_DIGITS = 4;

// Activations of several tokens. Either x is given, or q, with scales and sums.
// A row of `stride` numbers is in the order in which a kernel reads it, which takes `step` bytes of the first plane at a
// time: for each step first the numbers for part 0 of each byte, then for part 1, …, and if there are digits, q₀, q₁, … of each
// part. A step ends with the unit, which is `together` groups; what is missing is 0. The portable products want rows as they are.
struct Input {
    int64_t tokens, stride;
    const float* x;
    const int8_t* q;
    const float* q_scale;  // (tokens)
    const float* sum;      // (tokens, groups): the sum of x over each group of columns; of x / q_scale where q is given, 256 times that for digits
};

// Groups that are read in one step, their scales spread over the lanes.
inline int64_t together(const Weight& w, int step) {
    return step == 64 && w.group_bytes >= 4 && step % w.group_bytes == 0 ? step / w.group_bytes : 1;
}

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
    int float_step, int8_step;  // bytes of a row's first plane that are read at a time; 0: a whole row
    Rows* float_rows;
    Rows* int8_rows;
    IntegerRows* integer_rows;
    Rows *few_digit_rows, *many_digit_rows;  // for one token in digits, in steps of int8_step, where that is faster than float_rows; or null
    Rows* table_rows;  // for one token, floats or INT8 in their order, and codes of 1 bit, in groups of whole 32 columns, for INT8 up to 256; or null
};

extern const Kernels portable;
#if defined(__x86_64__)
#define X86 1
extern const Kernels avx2, avx512;
Rows avx512_tables;
#elif defined(__aarch64__)
#define ARM64 1
extern const Kernels neon, dotprod;
#endif
