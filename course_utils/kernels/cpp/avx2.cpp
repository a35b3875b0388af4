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

// Scales and zero points of 16 groups of a row from group g on.
template <int BITS>
inline void read_groups(const Weight& w, int64_t row, int64_t g, float* scale, float* zero) {
    const int64_t n = w.groups - g < 16 ? w.groups - g : 16, at = row * w.groups + g;
    if (w.half) {
        alignas(16) uint16_t half[16] = {};
        std::memcpy(half, static_cast<const uint16_t*>(w.scale) + at, 2 * n);
        for (int i = 0; i < 16; i += 8) _mm256_storeu_ps(scale + i, _mm256_cvtph_ps(_mm_load_si128((const __m128i*)(half + i))));
    } else
        std::memcpy(scale, static_cast<const float*>(w.scale) + at, 4 * n);
    read_zeros<BITS>(w, row, g, zero);
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
inline int nth(uint8_t byte, int part) {  // the code in a part of a byte
    return byte >> (part * BITS) & ((1 << BITS) - 1);
}

struct FloatTile {
    static constexpr int sums = 4;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const float* x = in.x + token * in.stride;
        const __m256i low_bits = _mm256_set1_epi32((1 << BITS) - 1);
        float scales[R][16], zeros[R][16];
        __m256 sum[R][T];
        EACH(r, R) EACH(t, T) sum[r][t] = _mm256_setzero_ps(), y[r][t] = 0;
        int64_t b = 0;
        for (int64_t g = 0; g < w.groups; g++) {
            if (g % 16 == 0) EACH(r, R) read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
            const int64_t end = b + w.group_bytes;
            for (; b + 8 <= end; b += 8)
                EACH(r, R) {
                    const uint8_t* from = block.codes + r * block.code_step + b;
                    __builtin_prefetch(from + ahead_of(w, b));
                    const __m256 scale = _mm256_set1_ps(scales[r][g % 16]), zero = _mm256_set1_ps(zeros[r][g % 16]);
                    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from));
                    EACH(part, 8 / BITS) {
                        const __m256i codes = _mm256_and_si256(_mm256_srli_epi32(bytes, part * BITS), low_bits);
                        const __m256 value = _mm256_mul_ps(scale, _mm256_sub_ps(_mm256_cvtepi32_ps(codes), zero));
                        const float* at = x + b + part * in.part;
                        EACH(t, T) sum[r][t] = _mm256_fmadd_ps(value, _mm256_loadu_ps(at + t * in.stride), sum[r][t]);
                    }
                }
            for (; b < end; b++)
                EACH(r, R) EACH(part, 8 / BITS) {
                    const int code = nth<BITS>(block.codes[r * block.code_step + b], part);
                    const float value = scales[r][g % 16] * (code - zeros[r][g % 16]);
                    EACH(t, T) y[r][t] += value * x[t * in.stride + b + part * in.part];
                }
        }
        EACH(r, R) EACH(t, T) y[r][t] += total(sum[r][t]);
    }
};

// sums[i] += Σ of four products, for 32 codes and 32 activations
template <int BITS>
inline __m256i add_products(__m256i sum, __m256i codes, __m256i q) {
    const __m256i ones = _mm256_set1_epi16(1);
    if (BITS <= 4)  // codes up to 15: two products fit in 16 bits
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, q), ones));
    for (int half = 0; half < 2; half++) {
        const __m128i c = half ? _mm256_extracti128_si256(codes, 1) : _mm256_castsi256_si128(codes);
        const __m128i a = half ? _mm256_extracti128_si256(q, 1) : _mm256_castsi256_si128(q);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(c), _mm256_cvtepi8_epi16(a)));
    }
    return sum;
}

inline __m256i load(const void* from, int64_t bytes) {  // 32, or 16 or 8 and zeros
    if (bytes >= 32) return _mm256_loadu_si256((const __m256i*)from);
    return _mm256_zextsi128_si256(bytes >= 16 ? _mm_loadu_si128((const __m128i*)from) : _mm_loadl_epi64((const __m128i*)from));
}

struct Int8Tile {
    static constexpr int sums = 4;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const int8_t* q = in.q + token * in.stride;
        const __m256i low_bits = _mm256_set1_epi8(char((1 << BITS) - 1));
        float scales[R][16], zeros[R][16];
        __m256 sum[R][T];
        float rest[R][T] = {};  // − Σ_g s_g z_g Σ q_x, and what does not fill a vector
        EACH(r, R) EACH(t, T) sum[r][t] = _mm256_setzero_ps();
        int64_t b = 0;
        for (int64_t g = 0; g < w.groups; g++) {
            if (g % 16 == 0) EACH(r, R) read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
            __m256i products[R][T];
            int32_t others[R][T];
            EACH(r, R) EACH(t, T) {
                products[r][t] = _mm256_setzero_si256();
                others[r][t] = -int32_t(zeros[r][g % 16]) * int32_t(in.q_sum[(token + t) * w.groups + g]);
            }
            const int64_t end = b + w.group_bytes;
            auto step = [&](int64_t left) __attribute__((always_inline)) {
                EACH(r, R) {
                    const uint8_t* from = block.codes + r * block.code_step + b;
                    __builtin_prefetch(from + ahead_of(w, b));
                    const __m256i bytes = load(from, left);
                    EACH(part, 8 / BITS) {
                        const __m256i shifted = part ? _mm256_srli_epi16(bytes, part * BITS) : bytes;
                        const __m256i codes = BITS == 8 ? shifted : _mm256_and_si256(shifted, low_bits);
                        const int8_t* at = q + b + part * in.part;
                        EACH(t, T) products[r][t] = add_products<BITS>(products[r][t], codes, load(at + t * in.stride, left));
                    }
                }
            };
            for (; b + 32 <= end; b += 32) step(32);
            if (b + 16 <= end) step(16), b += 16;
            if (b + 8 <= end) step(8), b += 8;
            for (; b < end; b++)
                EACH(r, R) EACH(part, 8 / BITS) {
                    const int code = nth<BITS>(block.codes[r * block.code_step + b], part);
                    EACH(t, T) others[r][t] += code * q[t * in.stride + b + part * in.part];
                }
            EACH(r, R) EACH(t, T) {
                const __m256 scale = _mm256_set1_ps(scales[r][g % 16]);
                sum[r][t] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products[r][t]), sum[r][t]);
                rest[r][t] += scales[r][g % 16] * float(others[r][t]);
            }
        }
        EACH(r, R) EACH(t, T) y[r][t] = in.q_scale[token + t] * (total(sum[r][t]) + rest[r][t]);
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
