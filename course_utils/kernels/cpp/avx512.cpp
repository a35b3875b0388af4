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
#include "avx512.h"

namespace {

// 16 bytes of a row at a time. Codes of up to 4 bits select one of the values s (q − z) held in a register.
struct FloatTile {
    static constexpr int sums = 16;

    template <int BITS, bool BLOCKS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const Planes<BITS> planes(w);
        constexpr int first = planes.first, parts = planes.parts, share = first == 4 ? 2 : 4;  // bits of `ones` for a byte
        constexpr Numbers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        const __m512i values = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)E2M1));
        const __m512 code = _mm512_cvtepi32_ps(BLOCKS ? values : (__m512i)(lane & ((1 << BITS) - 1))), unit = _mm512_set1_ps(unit_of(w));
        const float* x = in.x + token * in.stride;
        alignas(64) float scales[R][16], zeros[R][16];
        __m512 sum[R][T];
        EACH(r, R) EACH(t, T) sum[r][t] = _mm512_setzero_ps();
        int64_t b = 0;
        for (int64_t g = 0; g < w.groups; g++) {
            if (g % 16 == 0) EACH(r, R) {
                _mm512_store_ps(scales[r], read_scales(w, block.row + r * block.step, g));
                _mm512_store_ps(zeros[r], times_zeros<BITS>(w, block.row + r * block.step, g, _mm512_set1_ps(1)));
            }
            __m512 scale[R], zero[R], table[R];
            EACH(r, R) {
                scale[r] = _mm512_mul_ps(_mm512_set1_ps(scales[r][g % 16]), unit);
                zero[r] = _mm512_set1_ps(zeros[r][g % 16]);
                table[r] = _mm512_mul_ps(scale[r], _mm512_sub_ps(code, zero[r]));
            }
            const int64_t end = end_of(w, planes, b);
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

// Each of 16 bytes four times: bits 2 i and 2 i + 1 of the i-th belong to parts 0 and 1.
inline __m512i four_times(__m128i bytes) {
    constexpr Numbers byte = Numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x01010101;
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), (__m512i)byte);
}

// Number p of `width` bits in each byte becomes the bits of a code from `low` on.
inline __m512i with_bits(__m512i codes, __m512i bytes, int width, int low, int p) {
    const int up = low - p * width;
    const __m512i moved = up > 0 ? _mm512_slli_epi16(bytes, up) : up < 0 ? _mm512_srli_epi16(bytes, -up) : bytes;
    return _mm512_ternarylogic_epi32(codes, moved, _mm512_set1_epi8(char(((1 << width) - 1) << low)), 0xf8);  // codes | (moved & mask)
}

// What a step reads of a row: 64 bytes of the first plane, and those of the others spread over them.
template <int BITS>
struct Codes {
    using P = Planes<BITS>;
    static constexpr int first = P::first;
    __m512i bytes, twos, ones;

    Codes(const uint8_t* row, const Planes<BITS>& planes, const Step& step) {
        bytes = _mm512_maskz_loadu_epi8(step.all, row + step.b);
        if (P::twos) twos = nibbles(_mm256_maskz_loadu_epi8(step.half, row + planes.twos_at + step.b / 2));
        const uint8_t* from = row + planes.ones_at + step.b / P::ones_share;
        if (P::ones && first == 2) ones = nibbles(_mm256_maskz_loadu_epi8(step.half, from));
        if (P::ones && first == 4) ones = four_times(_mm_maskz_loadu_epi8(step.quarter, from));
    }
    // The codes of part p of the bytes.
    __m512i part(int p) const {
        __m512i codes = BITS == 8 ? bytes : _mm512_and_si512(p ? _mm512_srli_epi16(bytes, p * first) : bytes, _mm512_set1_epi8((1 << first) - 1));
        if (P::twos) codes = with_bits(codes, twos, 2, 4, p);
        if (P::ones && first == 2) codes = with_bits(codes, ones, 1, 2, p);
        if (P::ones && first == 4) {
            const __mmask64 is_one = _mm512_test_epi8_mask(ones, _mm512_set1_epi32(0x40100401 << p));
            codes = _mm512_mask_add_epi8(codes, is_one, codes, _mm512_set1_epi8(1 << (BITS - 1)));
        }
        return codes;
    }
};

// 64 bytes of a row at a time: a part of one group, or several small groups whose scales are spread over their lanes.
template <int N>  // digits of a token
struct Int8Tile {
    static constexpr int sums = N == 1 ? 8 : 4;

    // What the sums of digits make together: 256 times the sum of x / q_scale if there are several. Neighbouring digits are
    // joined as whole numbers where a group is `few` bytes: 32 steps, of sums below 2¹⁷ each, leave room for eight bits.
    static inline __m512 number_of(const __m512i (&sum)[N], bool few) {
        if constexpr (N == 1) return _mm512_cvtepi32_ps(sum[0]);
        else {
            if (!few) {
                __m512 number = _mm512_setzero_ps();
                for (int n = N; n-- > 0;) number = _mm512_fmadd_ps(number, _mm512_set1_ps(1 / 256.f), _mm512_cvtepi32_ps(sum[n]));
                return _mm512_mul_ps(number, _mm512_set1_ps(256));
            }
            const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(sum[0], 8), sum[1]);
            const __m512i low = N == 3 ? sum[2] : _mm512_add_epi32(_mm512_slli_epi32(sum[2], 8), sum[N - 1]);
            return _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_set1_ps(N == 3 ? 0x1p-8f : 0x1p-16f), _mm512_cvtepi32_ps(high));
        }
    }

    template <int BITS, bool BLOCKS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const Planes<BITS> planes(w);
        const int8_t* q = in.q + token * in.stride;
        const int64_t groups = together(w, 64), bytes = groups * w.group_bytes;
        int32_t lanes[16];
        for (int i = 0; i < 16; i++) lanes[i] = i * int(groups) / 16;
        const __m512i group_of = _mm512_loadu_si512(lanes);
        alignas(64) float scales[R][16];
        const __m512i values = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)E2M1));
        __m512 total[R][T], per_number[T];  // what turns in.sum and what `number_of` gives into sums of x
        EACH(t, T) per_number[t] = _mm512_set1_ps(in.q_scale[token + t] * unit_of(w) * (N == 1 ? 1 : 1 / 256.f));
        EACH(r, R) EACH(t, T) total[r][t] = _mm512_setzero_ps();
        for (int64_t b = 0, g = 0; g < w.groups; g += groups) {
            if (g % 16 == 0) EACH(r, R) {  // total −= Σ_g s_g z_g Σ q, what a sum over codes holds too much
                __m512 scale = read_scales(w, block.row + r * block.step, g);
                if (T == 1) scale = _mm512_mul_ps(scale, per_number[0]);
                const __m512 both = times_zeros<BITS>(w, block.row + r * block.step, g, scale);
                _mm512_store_ps(scales[r], scale);
                EACH(t, T) {
                    const float* from = in.sum + (token + t) * w.groups + g;
                    const __m512 sums = _mm512_maskz_loadu_ps(first_lanes(w.groups - g), from);
                    total[r][t] = _mm512_fnmadd_ps(T == 1 ? both : _mm512_mul_ps(both, per_number[t]), sums, total[r][t]);
                }
            }
            __m512i sum[R][T][N];
            EACH(r, R) EACH(t, T) EACH(n, N) sum[r][t][n] = _mm512_setzero_si512();
            const int64_t end = b + bytes < planes.length ? b + bytes : planes.length;
            do {
                const Step step(b, end - b);
                const Ask<BITS> ask(planes, b);
                constexpr int C = R > 1 ? 2 : 1;  // rows for which activations are loaded once
                EACH(first, R / C) {
                    const uint8_t* row = block.codes + first * C * block.code_step;
                    const Codes<BITS> even(row, planes, step), odd(row + (C - 1) * block.code_step, planes, step);
                    EACH(c, C) ask.of(row + c * block.code_step);
                    __m512i codes[planes.parts][2];
                    auto make = [&](int p) __attribute__((always_inline)) {
                        codes[p][0] = even.part(p), codes[p][1] = C > 1 ? odd.part(p) : codes[p][0];
                        if (BLOCKS) EACH(c, C) codes[p][c] = _mm512_shuffle_epi8(values, codes[p][c]);
                    };
                    constexpr bool LATE = N > 1 || planes.parts > 2;  // codes are made only when they are needed: sums fill the registers
                    if (!LATE) EACH(p, planes.parts) make(p);
                    EACH(p, planes.parts) {
                        if (LATE) make(p);
                        EACH(t, T) EACH(n, N) {
                            const __m512i x = _mm512_loadu_si512(q + t * in.stride + (p * N + n) * 64);
                            EACH(c, C) {
                                __m512i& s = sum[first * C + c][t][n];
                                s = _mm512_dpbusd_epi32(s, codes[p][c], x);
                            }
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
                    const __m512 number = number_of(sum[r][t], bytes <= 2048);
                    total[r][t] = _mm512_fmadd_ps(T == 1 ? scale : _mm512_mul_ps(scale, per_number[t]), number, total[r][t]);
                }
            }
        }
        EACH(r, R) EACH(t, T) y[r][t] = _mm512_reduce_add_ps(total[r][t]);
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

const Kernels avx512 = {"avx512", 16, 64, all_tiles<FloatTile>, all_tiles<Int8Tile<1>>, integer_rows,
                        all_tiles<Int8Tile<FEW_DIGITS>>, all_tiles<Int8Tile<MANY_DIGITS>>, avx512_tables};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
