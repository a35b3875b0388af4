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
    if (!w.zero || w.zero_bits != BITS) return read_zeros<BITS>(w, row, g, zero);
    const uint8_t* from = w.zero + row * w.zero_bytes + g * BITS / 8;
    __builtin_prefetch(from + SCALES_AHEAD / 4);
    const int64_t left = w.zero_bytes - g * BITS / 8;
    const __m512i packed = _mm512_castsi128_si512(_mm_maskz_loadu_epi8(first_lanes(left < 2 * BITS ? left : 2 * BITS), from));
    constexpr Numbers bit = Numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * BITS;
    const __m512i codes = _mm512_srlv_epi32(_mm512_permutexvar_epi32((__m512i)(bit >> 5), packed), (__m512i)(bit & 31));
    _mm512_store_ps(zero, _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32((1 << BITS) - 1))));
}

struct FloatTile {
    static constexpr int sums = 16;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const __m512i counting = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        const __m512 code = _mm512_cvtepi32_ps(_mm512_and_si512(counting, _mm512_set1_epi32((1 << BITS) - 1)));
        const float* x = in.x + token * in.stride;
        alignas(64) float scales[R][16], zeros[R][16];
        __m512 sum[R][T];
        EACH(r, R) EACH(t, T) sum[r][t] = _mm512_setzero_ps();
        int64_t b = 0, ahead = AHEAD;
        for (int64_t g = 0; g < w.groups; g++) {
            if (g % 16 == 0) {
                ahead = ahead_of(w, b);
                EACH(r, R) read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
            }
            __m512 scale[R], zero[R], table[R];
            EACH(r, R) {
                scale[r] = _mm512_set1_ps(scales[r][g % 16]);
                zero[r] = _mm512_set1_ps(zeros[r][g % 16]);
                table[r] = _mm512_mul_ps(scale[r], _mm512_sub_ps(code, zero[r]));
            }
            const int64_t end = b + w.group_bytes;
            if (T == 1)
                for (int64_t line = b; line < end; line += 64)
                    EACH(r, R) __builtin_prefetch(block.codes + r * block.code_step + line + ahead);
            auto step = [&](__mmask16 mask) __attribute__((always_inline)) {  // 16 bytes of each row
                EACH(r, R) {
                    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, block.codes + r * block.code_step + b));
                    EACH(part, 8 / BITS) {
                        const __m512 value =
                            BITS == 8 ? _mm512_mul_ps(scale[r], _mm512_sub_ps(_mm512_cvtepi32_ps(bytes), zero[r]))
                                      : _mm512_permutexvar_ps(part ? _mm512_srli_epi32(bytes, part * BITS) : bytes, table[r]);
                        const float* at = x + b + part * in.part;
                        EACH(t, T) sum[r][t] = _mm512_fmadd_ps(value, _mm512_maskz_loadu_ps(mask, at + t * in.stride), sum[r][t]);
                    }
                }
            };
            for (; b + 16 <= end; b += 16) step(0xffff);
            if (b < end) step(first_lanes(end - b)), b = end;
        }
        EACH(r, R) EACH(t, T) y[r][t] = _mm512_reduce_add_ps(sum[r][t]);
    }
};

// 64 bytes of a row at a time: a part of one group, or several small groups whose scales are spread over their lanes.
struct Int8Tile {
    static constexpr int sums = 8;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const int8_t* q = in.q + token * in.stride;
        const int64_t together = w.group_bytes >= 4 && 64 % w.group_bytes == 0 ? 64 / w.group_bytes : 1;
        const int64_t unit = together * w.group_bytes, length = w.groups * w.group_bytes;
        int32_t lanes[16];
        for (int i = 0; i < 16; i++) lanes[i] = i * int(together) / 16;
        const __m512i group_of = _mm512_loadu_si512(lanes), low_bits = _mm512_set1_epi8(char((1 << BITS) - 1));
        alignas(64) float scales[R][16], zeros[R][16];
        __m512 total[R][T];
        EACH(r, R) EACH(t, T) total[r][t] = _mm512_setzero_ps();
        for (int64_t b = 0, g = 0; b < length; g += together) {
            if (g % 16 == 0) EACH(r, R) {  // total −= Σ_g s_g z_g Σ q, what a sum over codes holds too much
                read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
                const __m512 both = _mm512_mul_ps(_mm512_load_ps(scales[r]), _mm512_load_ps(zeros[r]));
                EACH(t, T) {
                    const float* from = in.q_sum + (token + t) * w.groups + g;
                    total[r][t] = _mm512_fnmadd_ps(both, _mm512_maskz_loadu_ps(first_lanes(w.groups - g), from), total[r][t]);
                }
            }
            __m512i sum[R][T];
            EACH(r, R) EACH(t, T) sum[r][t] = _mm512_setzero_si512();
            const int64_t end = b + unit < length ? b + unit : length;
            do {
                const __mmask64 mask = end - b >= 64 ? ~0ull : (1ull << (end - b)) - 1;
                const int64_t ahead = ahead_of(w, b);
                EACH(r, R) {
                    const uint8_t* from = block.codes + r * block.code_step + b;
                    __builtin_prefetch(from + ahead);
                    const __m512i bytes = _mm512_maskz_loadu_epi8(mask, from);
                    EACH(part, 8 / BITS) {
                        const __m512i shifted = part ? _mm512_srli_epi16(bytes, part * BITS) : bytes;
                        const __m512i codes = BITS == 8 ? shifted : _mm512_and_si512(shifted, low_bits);
                        const int8_t* at = q + b + part * in.part;
                        EACH(t, T) sum[r][t] = _mm512_dpbusd_epi32(sum[r][t], codes, _mm512_loadu_si512(at + t * in.stride));
                    }
                }
                b += 64;
            } while (b < end);
            b = end;
            const __m512i lane = _mm512_add_epi32(group_of, _mm512_set1_epi32(g % 16));
            EACH(r, R) {
                const __m512 scale = _mm512_permutexvar_ps(lane, _mm512_load_ps(scales[r]));
                EACH(t, T) total[r][t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sum[r][t]), total[r][t]);
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
