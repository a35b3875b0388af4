// AVX-512 with VNNI. Integers: `dpbusd` multiplies unsigned by signed bytes and adds four neighbouring products to each
// 32-bit sum. One token of floats goes the same way, digit by digit; with several tokens, unpacking costs less than the digits.
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

// 16 numbers of WIDTH bits, each in a lane of 32. What is above is waste.
template <int WIDTH>
inline __m512i sixteen(__m128i packed) {
    constexpr Numbers bit = Numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * WIDTH;
    const __m512i all = _mm512_castsi128_si512(packed), shift = (__m512i)(bit & 31);
    const __m512i numbers = _mm512_srlv_epi32(_mm512_permutexvar_epi32((__m512i)(bit >> 5), all), shift);
    if (32 % WIDTH == 0) return numbers;  // else some begin in one 32 bits and end in the next
    const __m512i next = _mm512_permutexvar_epi32((__m512i)((bit >> 5) + 1), all);
    return _mm512_or_si512(numbers, _mm512_sllv_epi32(next, (__m512i)(32 - (bit & 31))));
}

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
    const __m128i packed = _mm_maskz_loadu_epi8(first_lanes(left < 2 * BITS ? left : 2 * BITS), from);
    _mm512_store_ps(zero, _mm512_cvtepi32_ps(_mm512_and_si512(sixteen<BITS>(packed), _mm512_set1_epi32((1 << BITS) - 1))));
}

// 16 bytes of a row at a time. Codes of up to 4 bits select one of the values s (q − z) held in a register.
struct FloatTile {
    static constexpr int sums = 16;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const Planes<BITS> planes(w);
        constexpr int first = planes.first, parts = planes.parts, share = first == 4 ? 2 : 4;  // bits of `ones` for a byte
        constexpr Numbers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        const __m512 code = _mm512_cvtepi32_ps((__m512i)(lane & ((1 << BITS) - 1)));
        const float* x = in.x + token * in.stride;
        alignas(64) float scales[R][16], zeros[R][16];
        __m512 sum[R][T];
        EACH(r, R) EACH(t, T) sum[r][t] = _mm512_setzero_ps();
        int64_t b = 0;
        for (int64_t g = 0; g < w.groups; g++) {
            if (g % 16 == 0) EACH(r, R) read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
            __m512 scale[R], zero[R], table[R];
            EACH(r, R) {
                scale[r] = _mm512_set1_ps(scales[r][g % 16]);
                zero[r] = _mm512_set1_ps(zeros[r][g % 16]);
                table[r] = _mm512_mul_ps(scale[r], _mm512_sub_ps(code, zero[r]));
            }
            const int64_t end = b + w.group_bytes;
            auto step = [&](int64_t left) __attribute__((always_inline)) {  // 16 bytes of each row, or what is left of a group
                const __mmask16 all = first_lanes(left), half = first_lanes((left + 1) / 2), some = first_lanes((left * share + 7) / 8);
                EACH(r, R) {
                    const uint8_t* row = block.codes + r * block.code_step;
                    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(all, row + b));
                    __m512i twos, ones;
                    if (planes.twos) twos = sixteen<4>(_mm_maskz_loadu_epi8(half, row + planes.twos_at + b / 2));
                    if (planes.ones) ones = sixteen<share>(_mm_maskz_loadu_epi8(some, row + planes.ones_at + b / planes.ones_share));
                    EACH(p, parts) {
                        __m512i codes = p ? _mm512_srli_epi32(bytes, p * first) : bytes;
                        if (BITS > 4 || planes.ones) codes = _mm512_and_si512(codes, _mm512_set1_epi32((1 << first) - 1));
                        if (planes.twos) codes = with_bits(codes, twos, 2, 4, p);
                        if (planes.ones) codes = with_bits(codes, ones, 1, BITS - 1, p);
                        const __m512 value = BITS > 4 ? _mm512_mul_ps(scale[r], _mm512_sub_ps(_mm512_cvtepi32_ps(codes), zero[r]))
                                                      : _mm512_permutexvar_ps(codes, table[r]);
                        EACH(t, T) sum[r][t] = _mm512_fmadd_ps(value, _mm512_loadu_ps(x + t * in.stride + p * 16), sum[r][t]);
                    }
                }
                x += parts * 16;
            };
            for (; b + 16 <= end; b += 16) step(16);
            if (b < end) step(end - b), b = end;
        }
        EACH(r, R) EACH(t, T) y[r][t] = _mm512_reduce_add_ps(sum[r][t]);
    }

    // Number p of `width` bits in each lane becomes the bits of a code from `low` on.
    static inline __m512i with_bits(__m512i codes, __m512i numbers, int width, int low, int p) {
        const int up = low - p * width;
        const __m512i moved = up > 0 ? _mm512_slli_epi32(numbers, up) : _mm512_srli_epi32(numbers, -up);
        return _mm512_ternarylogic_epi32(codes, moved, _mm512_set1_epi32(((1 << width) - 1) << low), 0xf8);  // codes | (moved & mask)
    }
};

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

// Bits 2 i and 2 i + 1 of 16 bytes are bit `low` of the i-th code of codes[0] and codes[1].
inline void add_ones(__m128i bytes, int low, __m512i (&codes)[2]) {
    constexpr Numbers byte = Numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x01010101;  // each byte four times
    const __m512i four = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), (__m512i)byte), one = _mm512_set1_epi8(1 << low);
    EACH(p, 2) {
        const __mmask64 is_one = _mm512_test_epi8_mask(four, _mm512_set1_epi32(0x40100401 << p));
        codes[p] = _mm512_mask_add_epi8(codes[p], is_one, codes[p], one);
    }
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
    using P = Planes<BITS>;
    constexpr int first = P::first;
    const __m512i bytes = _mm512_maskz_loadu_epi8(step.all, row + step.b);
    EACH(p, PARTS)
        codes[p] = BITS == 8 ? bytes : _mm512_and_si512(_mm512_srli_epi16(bytes, p * first), _mm512_set1_epi8((1 << first) - 1));
    if (P::twos) add_bits(nibbles(_mm256_maskz_loadu_epi8(step.half, row + planes.twos_at + step.b / 2)), 2, 4, codes);
    const uint8_t* ones = row + planes.ones_at + step.b / P::ones_share;
    if (P::ones && first == 2) add_bits(nibbles(_mm256_maskz_loadu_epi8(step.half, ones)), 1, 2, codes);
    if constexpr (P::ones && first == 4) add_ones(_mm_maskz_loadu_epi8(step.quarter, ones), BITS - 1, codes);
}

// 64 bytes of a row at a time: a part of one group, or several small groups whose scales are spread over their lanes.
template <int N>  // digits of a token
struct Int8Tile {
    static constexpr int sums = N == 1 ? 8 : 4;

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
                constexpr int C = R > 1 ? 2 : 1;  // rows for which activations are loaded once
                EACH(first, R / C) {
                    __m512i codes[C][planes.parts];
                    EACH(c, C) {
                        const uint8_t* row = block.codes + (first * C + c) * block.code_step;
                        ask.of(row);
                        read_codes(row, planes, step, codes[c]);
                    }
                    EACH(p, planes.parts) EACH(t, T) EACH(n, N) {
                        const __m512i x = _mm512_loadu_si512(q + t * in.stride + (p * N + n) * 64);
                        EACH(c, C) {
                            __m512i& s = sum[first * C + c][t][n];
                            s = _mm512_dpbusd_epi32(s, codes[c][p], x);
                        }
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

const Kernels avx512 = {"avx512", 16, 64, all_tiles<FloatTile>, all_tiles<Int8Tile<1>>, integer_rows, all_tiles<Int8Tile<DIGITS>>};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
