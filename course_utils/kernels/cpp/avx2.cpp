// AVX2 with FMA.
#include "kernels.h"

#ifdef X86
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include "tiles.h"

namespace {

void widen(const uint16_t* half, float* to, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(half + i))));
    for (; i < n; i++) to[i] = _cvtsh_ss(half[i]);
}

void widen(const uint8_t* packed, int bits, float* to, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = bits == 8 ? packed[i] : packed[i / 2] >> (i % 2 * 4) & 15;
}

inline float total(__m256 v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline int32_t total(__m256i v) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i two = _mm_add_epi32(four, _mm_srli_si128(four, 8));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_srli_si128(two, 4)));
}

template <int BITS>
inline int nth(uint8_t byte, int half) {  // the code in a byte, or in one half of it
    return BITS == 8 ? byte : byte >> (4 * half) & 15;
}

struct FloatTile {
    static constexpr int sums = 4;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block) {
        const float* x = in.x + token * in.stride;
        __m256 sum[R][T];
        float rest[R][T] = {};
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++) sum[r][t] = _mm256_setzero_ps();
        for (int64_t g = 0; g < w.groups; g++) {
            int64_t b = g * w.group_bytes;
            const int64_t end = b + w.group_bytes;
            for (; b + 8 <= end; b += 8)
                for (int r = 0; r < R; r++) {
                    const __m256 scale = _mm256_set1_ps(block.scale[r][g]), zero = _mm256_set1_ps(block.zero[r][g]);
                    const __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(block.codes[r] + b)));
                    for (int half = 0; half < (BITS == 4 ? 2 : 1); half++) {
                        const __m256i part = BITS == 8 ? codes
                                             : half    ? _mm256_srli_epi32(codes, 4)
                                                       : _mm256_and_si256(codes, _mm256_set1_epi32(15));
                        const __m256 value = _mm256_mul_ps(scale, _mm256_sub_ps(_mm256_cvtepi32_ps(part), zero));
                        const float* at = x + b + half * in.stride / 2;
                        for (int t = 0; t < T; t++)
                            sum[r][t] = _mm256_fmadd_ps(value, _mm256_loadu_ps(at + t * in.stride), sum[r][t]);
                    }
                }
            for (; b < end; b++)
                for (int r = 0; r < R; r++)
                    for (int half = 0; half < (BITS == 4 ? 2 : 1); half++) {
                        const float value = block.scale[r][g] * (nth<BITS>(block.codes[r][b], half) - block.zero[r][g]);
                        for (int t = 0; t < T; t++) rest[r][t] += value * x[t * in.stride + b + half * in.stride / 2];
                    }
        }
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++)
                block.y[r][(token + t) * w.rows] = total(sum[r][t]) + rest[r][t] + block.bias[r];
    }
};

// sums[i] += Σ of four products, for 32 codes and 32 activations
template <int BITS>
inline __m256i add_products(__m256i sum, __m256i codes, __m256i q) {
    const __m256i ones = _mm256_set1_epi16(1);
    if (BITS == 4)  // codes up to 15: two products fit in 16 bits
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, q), ones));
    for (int half = 0; half < 2; half++) {
        const __m128i c = half ? _mm256_extracti128_si256(codes, 1) : _mm256_castsi256_si128(codes);
        const __m128i a = half ? _mm256_extracti128_si256(q, 1) : _mm256_castsi256_si128(q);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(c), _mm256_cvtepi8_epi16(a)));
    }
    return sum;
}

inline __m256i load(const void* from, int64_t bytes) {  // 32, or 16 and zeros
    if (bytes >= 32) return _mm256_loadu_si256((const __m256i*)from);
    return _mm256_inserti128_si256(_mm256_setzero_si256(), _mm_loadu_si128((const __m128i*)from), 0);
}

struct Int8Tile {
    static constexpr int sums = 4;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block) {
        const int8_t* q = in.q + token * in.stride;
        __m256 sum[R][T];
        float rest[R][T] = {};  // − Σ_g s_g z_g Σ q_x, and what does not fill a vector
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++) sum[r][t] = _mm256_setzero_ps();
        for (int64_t g = 0; g < w.groups; g++) {
            __m256i products[R][T];
            int32_t others[R][T];
            for (int r = 0; r < R; r++)
                for (int t = 0; t < T; t++) {
                    products[r][t] = _mm256_setzero_si256();
                    others[r][t] = -int32_t(block.zero[r][g]) * int32_t(in.q_sum[(token + t) * w.groups + g]);
                }
            int64_t b = g * w.group_bytes;
            const int64_t end = b + w.group_bytes;
            auto step = [&](int64_t left) __attribute__((always_inline)) {
                for (int r = 0; r < R; r++) {
                    ask(block.codes[r] + b);
                    const __m256i codes = load(block.codes[r] + b, left);
                    for (int half = 0; half < (BITS == 4 ? 2 : 1); half++) {
                        const __m256i shifted = half ? _mm256_srli_epi16(codes, 4) : codes;
                        const __m256i part = BITS == 8 ? codes : _mm256_and_si256(shifted, _mm256_set1_epi8(15));
                        const int8_t* at = q + b + half * in.stride / 2;
                        for (int t = 0; t < T; t++)
                            products[r][t] = add_products<BITS>(products[r][t], part, load(at + t * in.stride, left));
                    }
                }
            };
            for (; b + 32 <= end; b += 32) step(32);
            if (b + 16 <= end) step(16), b += 16;
            for (; b < end; b++)
                for (int r = 0; r < R; r++)
                    for (int half = 0; half < (BITS == 4 ? 2 : 1); half++)
                        for (int t = 0; t < T; t++)
                            others[r][t] += nth<BITS>(block.codes[r][b], half) * q[t * in.stride + b + half * in.stride / 2];
            for (int r = 0; r < R; r++)
                for (int t = 0; t < T; t++) {
                    const __m256 scale = _mm256_set1_ps(block.scale[r][g]);
                    sum[r][t] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products[r][t]), sum[r][t]);
                    rest[r][t] += block.scale[r][g] * float(others[r][t]);
                }
        }
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++) {
                const float scaled = in.q_scale[token + t] * (total(sum[r][t]) + rest[r][t]);
                block.y[r][(token + t) * w.rows] = scaled + block.bias[r];
            }
    }
};

void integer_rows(const int8_t* w, const Input& in, int32_t* y, int64_t width, Range rows) {
    for (int64_t row = rows.first; row < rows.last; row++)
        for (int64_t t = 0; t < in.tokens; t++) {
            const int8_t *a = w + row * in.stride, *q = in.q + t * in.stride;
            __m256i products = _mm256_setzero_si256();
            int64_t c = 0;
            for (; c + 16 <= in.stride; c += 16) {
                const __m256i left = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(a + c)));
                const __m256i right = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(q + c)));
                products = _mm256_add_epi32(products, _mm256_madd_epi16(left, right));
            }
            int32_t sum = total(products);
            for (; c < in.stride; c++) sum += a[c] * q[c];
            y[t * width + row] = sum;
        }
}

}  // namespace

const Kernels avx2 = {"avx2", all_tiles<FloatTile>, all_tiles<Int8Tile>, integer_rows};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
