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

inline __mmask16 first_lanes(int64_t n) { return n >= 16 ? 0xffff : (1u << n) - 1; }

typedef int32_t Numbers __attribute__((vector_size(64)));

// Scales and zero points of 16 groups of a row from group g on; scales are 0 behind the last group.
template <int BITS>
inline void read_groups(const Weight& w, int64_t row, int64_t g, float* scale, float* zero) {
    const __mmask16 mask = first_lanes(w.groups - g);
    const int64_t at = row * w.groups + g;
    if (w.half) {
        const uint16_t* from = static_cast<const uint16_t*>(w.scale) + at;
        __builtin_prefetch(from + SCALES_AHEAD / 2);
        _mm512_store_ps(scale, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from)));
    } else {
        const float* from = static_cast<const float*>(w.scale) + at;
        __builtin_prefetch(from + SCALES_AHEAD / 4);
        _mm512_store_ps(scale, _mm512_maskz_loadu_ps(mask, from));
    }
    if (!w.zero) return read_zeros<BITS>(w, row, g, zero);
    const uint8_t* from = w.zero + row * w.zero_bytes + g * BITS / 8;
    __builtin_prefetch(from + SCALES_AHEAD / 4);
    const int64_t left = w.zero_bytes - g * BITS / 8;
    const __m512i packed = _mm512_castsi128_si512(_mm_maskz_loadu_epi8(first_lanes(left < 2 * BITS ? left : 2 * BITS), from));
    constexpr Numbers bit = Numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * BITS;
    __m512i codes = _mm512_srlv_epi32(_mm512_permutexvar_epi32((__m512i)(bit >> 5), packed), (__m512i)(bit & 31));
    if (32 % BITS) {  // some begin in one number of 32 bits and end in the next
        const __m512i next = _mm512_permutexvar_epi32((__m512i)((bit >> 5) + 1), packed);
        codes = _mm512_or_si512(codes, _mm512_sllv_epi32(next, (__m512i)(32 - (bit & 31))));
    }
    _mm512_store_ps(zero, _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32((1 << BITS) - 1))));
}

// The bytes of a step of 64 that exist, and those of planes with half and a quarter as many.
struct Step {
    int64_t b;
    __mmask64 all;
    __mmask32 half;
    __mmask16 quarter;

    Step(int64_t b, int64_t left)
        : b(b), all(left >= 64 ? ~0ull : (1ull << left) - 1), half(left >= 64 ? ~0u : (1u << (left + 1) / 2) - 1), quarter(first_lanes((left + 3) / 4)) {}
};

// Each byte twice: the first with its low four bits, the second with its high four bits as low ones. What is above is waste.
inline __m512i nibbles(__m256i bytes) {
    const __m512i twice = _mm512_cvtepu8_epi16(bytes);
    return _mm512_or_si512(twice, _mm512_slli_epi16(twice, 4));
}

// Each byte four times, pair i of its bits as the low bits of the i-th.
inline __m512i pairs(__m128i bytes) {
    const __m512i one = _mm512_cvtepu8_epi32(bytes), two = _mm512_or_si512(one, _mm512_slli_epi32(one, 12));
    return _mm512_or_si512(two, _mm512_slli_epi32(two, 6));
}

// Number p of `width` bits in each byte becomes the bits of codes[p] from `low` on.
template <int PARTS>
inline void add_bits(__m512i bytes, int width, int low, __m512i (&codes)[PARTS]) {
    const __m512i mask = _mm512_set1_epi8(char(((1 << width) - 1) << low));
    EACH(p, PARTS) {
        const int up = low - p * width;
        const __m512i moved = up > 0 ? _mm512_slli_epi16(bytes, up) : up < 0 ? _mm512_srli_epi16(bytes, -up) : bytes;
        codes[p] = _mm512_ternarylogic_epi32(codes[p], moved, mask, 0xf8);  // codes | (moved & mask)
    }
}

// The codes whose low bits are the 64 bytes of a step: codes[p] are those of part p.
template <int BITS, int PARTS>
inline void read_codes(const uint8_t* row, const Planes<BITS>& planes, const Step& step, __m512i (&codes)[PARTS]) {
    constexpr int first = planes.first;
    const __m512i bytes = _mm512_maskz_loadu_epi8(step.all, row + step.b);
    EACH(p, PARTS)
        codes[p] = BITS == 8 ? bytes : _mm512_and_si512(_mm512_srli_epi16(bytes, p * first), _mm512_set1_epi8((1 << first) - 1));
    if (planes.twos) add_bits(nibbles(_mm256_maskz_loadu_epi8(step.half, row + planes.twos_at + step.b / 2)), 2, 4, codes);
    const uint8_t* ones = row + planes.ones_at + step.b / planes.ones_share;
    if (planes.ones && first == 2) add_bits(nibbles(_mm256_maskz_loadu_epi8(step.half, ones)), 1, 2, codes);
    if (planes.ones && first == 4) add_bits(pairs(_mm_maskz_loadu_epi8(step.quarter, ones)), 1, BITS - 1, codes);
}

// 64 bytes of a row at a time: a part of one group, or several small groups whose scales are spread over their lanes.
template <int N>  // digits of a token
struct Tile {
    static constexpr int sums = N == 1 ? 8 : 2;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const Planes<BITS> planes(w);
        const int8_t* q = in.q + token * in.stride;
        const int64_t groups = together(w, 64), unit = groups * w.group_bytes;
        int32_t lanes[16];
        for (int i = 0; i < 16; i++) lanes[i] = i * int(groups) / 16;
        const __m512i group_of = _mm512_loadu_si512(lanes);
        alignas(64) float scales[R][16], zeros[R][16];
        __m512 total[R][T];
        EACH(r, R) EACH(t, T) total[r][t] = _mm512_setzero_ps();
        for (int64_t b = 0, g = 0; g < w.groups; g += groups) {
            if (g % 16 == 0) EACH(r, R) {  // total −= Σ_g s_g z_g Σ q, what a sum over codes holds too much
                read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
                const __m512 both = _mm512_mul_ps(_mm512_load_ps(scales[r]), _mm512_load_ps(zeros[r]));
                EACH(t, T) {
                    const float* from = in.sum + (token + t) * w.groups + g;
                    total[r][t] = _mm512_fnmadd_ps(both, _mm512_maskz_loadu_ps(first_lanes(w.groups - g), from), total[r][t]);
                }
            }
            __m512i sum[R][T][N];
            EACH(r, R) EACH(t, T) EACH(n, N) sum[r][t][n] = _mm512_setzero_si512();
            const int64_t end = b + unit < planes.length ? b + unit : planes.length;
            do {
                const Step step(b, end - b);
                const Ask<BITS> ask(planes, b);
                EACH(r, R) {
                    const uint8_t* row = block.codes + r * block.code_step;
                    ask.of(row);
                    __m512i codes[planes.parts];
                    read_codes(row, planes, step, codes);
                    EACH(p, planes.parts) EACH(t, T) EACH(n, N) {
                        const int8_t* at = q + t * in.stride + (p * N + n) * 64;
                        sum[r][t][n] = _mm512_dpbusd_epi32(sum[r][t][n], codes[p], _mm512_loadu_si512(at));
                    }
                }
                b += 64, q += planes.parts * N * 64;
            } while (b < end);
            b = end;
            const __m512i lane = _mm512_add_epi32(group_of, _mm512_set1_epi32(g % 16));
            EACH(r, R) {
                const __m512 scale = _mm512_permutexvar_ps(lane, _mm512_load_ps(scales[r]));
                EACH(t, T) {
                    __m512 number = _mm512_cvtepi32_ps(sum[r][t][N - 1]);
                    EACH(n, N - 1) number = _mm512_fmadd_ps(number, _mm512_set1_ps(1 / 256.f), _mm512_cvtepi32_ps(sum[r][t][N - 2 - n]));
                    total[r][t] = _mm512_fmadd_ps(scale, number, total[r][t]);
                }
            }
        }
        EACH(r, R) EACH(t, T) y[r][t] = in.q_scale[token + t] * _mm512_reduce_add_ps(total[r][t]);
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
    for (int t = 0; t < T; t++) y[(token + t) * width] = _mm512_reduce_add_epi32(sum[t]) - 128 * int32_t(in.sum[token + t]);
}

void integer_rows(const int8_t* w, const Input& in, int32_t* y, int64_t width, Range rows) {
    for (int64_t row = rows.first; row < rows.last; row++) {
        int64_t t = 0;
        for (; t + 8 <= in.tokens; t += 8) integer_tile<8>(w + row * in.stride, in, t, width, y + row);
        for (; t < in.tokens; t++) integer_tile<1>(w + row * in.stride, in, t, width, y + row);
    }
}

}  // namespace

const Kernels avx512 = {"avx512", 64, DIGITS, all_tiles<Tile<DIGITS>>, all_tiles<Tile<1>>, integer_rows};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
