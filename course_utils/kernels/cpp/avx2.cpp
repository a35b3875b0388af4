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
    if (w.blocks()) {
        EACH(i, 16) scale[i] = i < n ? block_scale(w.scales, static_cast<const uint8_t*>(w.scale)[at + i]) : 0;
    } else if (w.scales == HALF) {
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

inline __m128i load(const uint8_t* from, int64_t bytes) {  // 16, or fewer and zeros
    if (bytes >= 16) return _mm_loadu_si128((const __m128i*)from);
    if (bytes == 8) return _mm_loadl_epi64((const __m128i*)from);
    alignas(16) uint8_t some[16] = {};
    std::memcpy(some, from, bytes);
    return _mm_load_si128((const __m128i*)some);
}

// Each byte twice: the first with its low four bits, the second with its high four bits as low ones. What is above is waste.
inline __m256i nibbles(__m128i bytes) {
    const __m256i twice = _mm256_cvtepu8_epi16(bytes);
    return _mm256_or_si256(twice, _mm256_slli_epi16(twice, 4));
}

// Each byte four times, pair i of its bits as the low bits of the i-th.
inline __m256i pairs(__m128i bytes) {
    const __m256i one = _mm256_cvtepu8_epi32(bytes), two = _mm256_or_si256(one, _mm256_slli_epi32(one, 12));
    return _mm256_or_si256(two, _mm256_slli_epi32(two, 6));
}

// Number p of `width` bits in each byte becomes the bits of codes[p] from `low` on.
template <int PARTS>
inline void add_bits(__m256i bytes, int width, int low, __m256i (&codes)[PARTS]) {
    const __m256i mask = _mm256_set1_epi8(char(((1 << width) - 1) << low));
    EACH(p, PARTS) {
        const int up = low - p * width;
        const __m256i moved = up > 0 ? _mm256_slli_epi16(bytes, up) : _mm256_srli_epi16(bytes, -up);
        codes[p] = _mm256_or_si256(codes[p], _mm256_and_si256(moved, mask));
    }
}

// The codes whose low bits are in 32 bytes of a row, or in the `left` that there are: codes[p] are those of part p.
template <int BITS, int PARTS>
inline void read_codes(const uint8_t* row, const Planes<BITS>& planes, int64_t b, int64_t left, __m256i (&codes)[PARTS]) {
    using P = Planes<BITS>;
    constexpr int first = P::first;
    const __m256i bytes = left >= 32 ? _mm256_loadu_si256((const __m256i*)(row + b))
                                     : _mm256_set_m128i(left > 16 ? load(row + b + 16, left - 16) : _mm_setzero_si128(), load(row + b, left));
    EACH(p, PARTS)
        codes[p] = BITS == 8 ? bytes : _mm256_and_si256(_mm256_srli_epi16(bytes, p * first), _mm256_set1_epi8((1 << first) - 1));
    if (P::twos) add_bits(nibbles(load(row + planes.twos_at + b / 2, (left + 1) / 2)), 2, 4, codes);
    const uint8_t* ones = row + planes.ones_at + b / P::ones_share;
    if (P::ones && first == 2) add_bits(nibbles(load(ones, (left + 1) / 2)), 1, 2, codes);
    if (P::ones && first == 4) add_bits(pairs(load(ones, left >= 32 ? 8 : (left + 3) / 4)), 1, BITS - 1, codes);
}

// sums[i] += Σ of four products, for 32 codes and 32 activations
template <int BITS>
inline void add_products(__m256i& sums, __m256i codes, const int8_t* q) {
    const __m256i ones = _mm256_set1_epi16(1), numbers = _mm256_loadu_si256((const __m256i*)q);
    if (BITS < 8) {  // codes up to 127: two products fit in 16 bits
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, numbers), ones));
        return;
    }
    EACH(half, 2) {
        const __m128i c = half ? _mm256_extracti128_si256(codes, 1) : _mm256_castsi256_si128(codes);
        const __m128i a = half ? _mm256_extracti128_si256(numbers, 1) : _mm256_castsi256_si128(numbers);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_cvtepu8_epi16(c), _mm256_cvtepi8_epi16(a)));
    }
}

template <int BITS>
inline void add_products(__m256& sums, __m256i codes, const float* x) {
    EACH(i, 4) {
        const __m128i half = i < 2 ? _mm256_castsi256_si128(codes) : _mm256_extracti128_si256(codes, 1);
        const __m256i eight = _mm256_cvtepu8_epi32(i % 2 ? _mm_srli_si128(half, 8) : half);
        sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(eight), _mm256_loadu_ps(x + 8 * i), sums);
    }
}

inline const float* numbers(const Input& in, float) { return in.x; }
inline const int8_t* numbers(const Input& in, int8_t) { return in.q; }
inline __m256 no_sums(float) { return _mm256_setzero_ps(); }
inline __m256i no_sums(int8_t) { return _mm256_setzero_si256(); }
inline __m256 real(__m256 sums) { return sums; }
inline __m256 real(__m256i sums) { return _mm256_cvtepi32_ps(sums); }

template <typename Number>  // of the activations: float or int8_t
struct Tile {
    static constexpr int sums = 4;

    template <int BITS, bool BLOCKS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const Planes<BITS> planes(w);
        const Number* x = numbers(in, Number()) + token * in.stride;
        float scales[R][16], zeros[R][16];
        float unit[T];
        EACH(t, T) unit[t] = unit_of(w) * (in.q ? in.q_scale[token + t] : 1);
        __m256 all[R][T];
        EACH(r, R) EACH(t, T) all[r][t] = _mm256_setzero_ps(), y[r][t] = 0;
        int64_t b = 0;
        for (int64_t g = 0; g < w.groups; g++) {
            if (g % 16 == 0) EACH(r, R) read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
            decltype(no_sums(Number())) some[R][T];
            EACH(r, R) EACH(t, T) some[r][t] = no_sums(Number());
            const int64_t end = end_of(w, planes, b);
            for (; b < end; b += 32, x += planes.parts * 32) {
                const Ask<BITS> ask(planes, b);
                EACH(r, R) {
                    const uint8_t* row = block.codes + r * block.code_step;
                    ask.of(row);
                    __m256i codes[planes.parts];
                    read_codes(row, planes, b, end - b, codes);
                    if (BLOCKS) EACH(p, planes.parts) codes[p] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)E2M1)), codes[p]);
                    EACH(p, planes.parts) EACH(t, T) add_products<BITS>(some[r][t], codes[p], x + p * 32 + t * in.stride);
                }
            }
            b = end;
            EACH(r, R) EACH(t, T) {
                const float scale = scales[r][g % 16] * unit[t];
                all[r][t] = _mm256_fmadd_ps(_mm256_set1_ps(scale), real(some[r][t]), all[r][t]);
                y[r][t] -= scale * zeros[r][g % 16] * in.sum[(token + t) * w.groups + g];
            }
        }
        EACH(r, R) EACH(t, T) y[r][t] = total(all[r][t]) + y[r][t];
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

const Kernels avx2 = {"avx2", 32, 32, all_tiles<Tile<float>>, all_tiles<Tile<int8_t>>, integer_rows, nullptr, nullptr, nullptr};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
