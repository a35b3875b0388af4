// AVX-512 with VNNI. Real numbers: a 4-bit code selects one of the 16 values s (q − z) held in a register. Integers:
// `dpbusd` multiplies unsigned by signed bytes and adds four neighbouring products to each 32-bit sum.
#include "kernels.h"

#ifdef X86
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")
#endif
#include "tiles.h"

namespace {

inline __mmask32 first_lanes(int64_t n) { return n >= 32 ? ~0u : (1u << n) - 1; }

void widen(const uint16_t* half, float* to, int64_t n) {
    for (int64_t i = 0; i < n; i += 16)
        _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n - i), half + i)));
}

void widen(const uint8_t* packed, int bits, float* to, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        __m512i codes;
        if (bits == 8) {
            codes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_lanes(n - i), packed + i));
        } else {  // byte j becomes the 64 bits that hold codes 2j and 2j + 1
            const __mmask16 mask = first_lanes((n - i + 1) / 2) & 0xff;
            const __m512i bytes = _mm512_cvtepu8_epi64(_mm_maskz_loadu_epi8(mask, packed + i / 2));
            codes = _mm512_and_si512(_mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28)), _mm512_set1_epi32(15));
        }
        _mm512_storeu_ps(to + i, _mm512_cvtepi32_ps(codes));
    }
}

struct FloatTile {
    static constexpr int sums = 8;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block) {
        const __m512 counting = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        const float* x = in.x + token * in.stride;
        __m512 sum[R][T];
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++) sum[r][t] = _mm512_setzero_ps();
        for (int64_t g = 0; g < w.groups; g++) {
            __m512 scale[R], zero[R], table[R];
            for (int r = 0; r < R; r++) {
                scale[r] = _mm512_set1_ps(block.scale[r][g]);
                zero[r] = _mm512_set1_ps(block.zero[r][g]);
                table[r] = _mm512_mul_ps(scale[r], _mm512_sub_ps(counting, zero[r]));
            }
            auto step = [&](int64_t b, __mmask16 mask) __attribute__((always_inline)) {  // 16 bytes of each row
                for (int r = 0; r < R; r++) {
                    if (T == 1) ask(block.codes[r] + b);
                    const __m512i codes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, block.codes[r] + b));
                    for (int half = 0; half < (BITS == 4 ? 2 : 1); half++) {
                        const __m512 value =
                            BITS == 8 ? _mm512_mul_ps(scale[r], _mm512_sub_ps(_mm512_cvtepi32_ps(codes), zero[r]))
                                      : _mm512_permutexvar_ps(half ? _mm512_srli_epi32(codes, 4) : codes, table[r]);
                        const float* at = x + b + half * in.stride / 2;
                        for (int t = 0; t < T; t++)
                            sum[r][t] = _mm512_fmadd_ps(value, _mm512_maskz_loadu_ps(mask, at + t * in.stride), sum[r][t]);
                    }
                }
            };
            int64_t b = g * w.group_bytes;
            const int64_t end = b + w.group_bytes;
            for (; b + 16 <= end; b += 16) step(b, 0xffff);
            if (b < end) step(b, first_lanes(end - b));
        }
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++)
                block.y[r][(token + t) * w.rows] = _mm512_reduce_add_ps(sum[r][t]) + block.bias[r];
    }
};

// Σ_g s_g z_g Σ q_x: what a sum over codes holds more than the one over codes less zero points
inline float too_much(const Weight& w, const float* scale, const float* zero, const float* q_sum) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t g = 0; g < w.groups; g += 16) {
        const __m512 q = _mm512_maskz_loadu_ps(first_lanes(w.groups - g), q_sum + g);
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(scale + g), _mm512_mul_ps(_mm512_loadu_ps(zero + g), q), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

// 64 bytes of a row at a time: a part of one group, or several small groups whose scales are spread over their lanes.
struct Int8Tile {
    static constexpr int sums = 8;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block) {
        const int8_t* q = in.q + token * in.stride;
        const int64_t together = w.group_bytes >= 4 && 64 % w.group_bytes == 0 ? 64 / w.group_bytes : 1;
        const int64_t unit = together * w.group_bytes, length = w.groups * w.group_bytes;
        int32_t lanes[16];
        for (int i = 0; i < 16; i++) lanes[i] = i * int(together) / 16;
        const __m512i group_of = _mm512_loadu_si512(lanes), low_bits = _mm512_set1_epi8(15);
        __m512 total[R][T];
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++) total[r][t] = _mm512_setzero_ps();
        for (int64_t b = 0, g = 0; b < length; g += together) {
            __m512i sum[R][T];
            for (int r = 0; r < R; r++)
                for (int t = 0; t < T; t++) sum[r][t] = _mm512_setzero_si512();
            auto step = [&](__mmask64 mask) __attribute__((always_inline)) {
                for (int r = 0; r < R; r++) {
                    ask(block.codes[r] + b);
                    const __m512i bytes = _mm512_maskz_loadu_epi8(mask, block.codes[r] + b);
                    for (int half = 0; half < (BITS == 4 ? 2 : 1); half++) {
                        const __m512i part =
                            BITS == 8 ? bytes : _mm512_and_si512(half ? _mm512_srli_epi16(bytes, 4) : bytes, low_bits);
                        const int8_t* at = q + b + half * in.stride / 2;
                        for (int t = 0; t < T; t++)
                            sum[r][t] = _mm512_dpbusd_epi32(sum[r][t], part, _mm512_loadu_si512(at + t * in.stride));
                    }
                }
            };
            const int64_t end = b + unit < length ? b + unit : length;
            for (; b + 64 <= end; b += 64) step(~0ull);
            if (b < end) step((1ull << (end - b)) - 1), b = end;
            for (int r = 0; r < R; r++) {
                const __m512 scale = _mm512_permutexvar_ps(group_of, _mm512_loadu_ps(block.scale[r] + g));
                for (int t = 0; t < T; t++) total[r][t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sum[r][t]), total[r][t]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++) {
                const float less = too_much(w, block.scale[r], block.zero[r], in.q_sum + (token + t) * w.groups);
                const float sum = _mm512_reduce_add_ps(total[r][t]) - less;
                block.y[r][(token + t) * w.rows] = in.q_scale[token + t] * sum + block.bias[r];
            }
    }
};

// dpbusd wants one side unsigned: w + 128 instead of w, which adds 128 Σ q to each sum.
template <int T>
void integer_tile(const int8_t* w, const Input& in, int64_t token, int64_t width, int32_t* y) {
    const int8_t* q = in.q + token * in.stride;
    __m512i sum[T];
    for (int t = 0; t < T; t++) sum[t] = _mm512_setzero_si512();
    for (int64_t c = 0; c < in.stride; c += 64) {
        const int64_t left = in.stride - c;
        const __mmask64 mask = left >= 64 ? ~0ull : (1ull << left) - 1;
        const __m512i shifted = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, w + c), _mm512_set1_epi8(-128));
        for (int t = 0; t < T; t++)
            sum[t] = _mm512_dpbusd_epi32(sum[t], shifted, _mm512_maskz_loadu_epi8(mask, q + t * in.stride + c));
    }
    for (int t = 0; t < T; t++) y[(token + t) * width] = _mm512_reduce_add_epi32(sum[t]) - 128 * int32_t(in.q_sum[token + t]);
}

void integer_rows(const int8_t* w, const Input& in, int32_t* y, int64_t width, Range rows) {
    for (int64_t row = rows.first; row < rows.last; row++) {
        int64_t t = 0;
        for (; t + 8 <= in.tokens; t += 8) integer_tile<8>(w + row * in.stride, in, t, width, y + row);
        for (; t < in.tokens; t++) integer_tile<1>(w + row * in.stride, in, t, width, y + row);
    }
}

}  // namespace

const Kernels avx512 = {"avx512", all_tiles<FloatTile>, all_tiles<Int8Tile>, integer_rows};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
