"""Kernels of lab 5.1: one that is right, and one that sets the marks for speed."""

SCALAR = r"""
#include <cstdint>

extern "C" void product(const uint8_t* codes, const float* scale, const uint8_t* zero,
                        const float* x, float* y, int64_t rows, int64_t columns, int64_t group,
                        int64_t batch) {
    const int64_t width = (columns + 1) / 2, groups = (columns + group - 1) / group;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t r = 0; r < rows; ++r) {
            float sum = 0;
            for (int64_t j = 0; j < columns; ++j) {
                const uint8_t pair = codes[r * width + j / 2];
                const int q = j % 2 ? pair >> 4 : pair & 15;
                const int64_t g = r * groups + j / group;
                sum += scale[g] * (q - zero[g]) * x[b * columns + j];
            }
            y[b * rows + r] = sum;
        }
}
"""

FAST = r"""
#include <cmath>
#include <cstdint>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

// Sums of codes times x, one for each group; `half` bytes of codes in a group.
static void sums_of_groups(const uint8_t* codes, const int16_t* even, const int16_t* odd,
                           float* sums, int64_t groups, int64_t half, int64_t width) {
    for (int64_t g = 0; g < groups; ++g) {
        const uint8_t* c = codes + g * half;
        const int16_t *e = even + g * half, *o = odd + g * half;
        int32_t dot = 0;
        if (half == 32 && (g + 1) * half <= width)  // a length that is known is unrolled
            for (int i = 0; i < 32; ++i)
                dot += int16_t(c[i] & 15) * e[i] + int16_t(c[i] >> 4) * o[i];
        else
            for (int64_t i = 0; i < half && g * half + i < width; ++i)
                dot += int16_t(c[i] & 15) * e[i] + int16_t(c[i] >> 4) * o[i];
        sums[g] = dot;
    }
}

#ifdef __AVX2__
// The same for whole groups; a sum is multiplied by scale and unit while it is 8 numbers still.
static float whole_groups(const uint8_t* c, const int16_t* even, const int16_t* odd,
                          const float* scale, const float* unit, int64_t groups, int64_t half) {
    const __m256i low = _mm256_set1_epi16(15);
    __m256 lanes = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; ++g) {
        __m256i dots = _mm256_setzero_si256();
        for (const uint8_t* end = c + half; c < end; c += 16, even += 16, odd += 16) {
            const __m256i pair = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)c));
            const __m256i xe = _mm256_loadu_si256((const __m256i*)even);
            const __m256i xo = _mm256_loadu_si256((const __m256i*)odd);
            const __m256i e = _mm256_madd_epi16(_mm256_and_si256(pair, low), xe);
            const __m256i o = _mm256_madd_epi16(_mm256_srli_epi16(pair, 4), xo);
            dots = _mm256_add_epi32(dots, _mm256_add_epi32(e, o));
        }
        const __m256 factor = _mm256_set1_ps(scale[g] * unit[g]);
        lanes = _mm256_add_ps(lanes, _mm256_mul_ps(factor, _mm256_cvtepi32_ps(dots)));
    }
    float kept[8], total = 0;
    _mm256_storeu_ps(kept, lanes);
    for (float v : kept) total += v;
    return total;
}
#endif

extern "C" void product(const uint8_t* codes, const float* scale, const uint8_t* zero,
                        const float* x, float* y, int64_t rows, int64_t columns, int64_t group,
                        int64_t batch) {
    const int64_t width = (columns + 1) / 2, half = group / 2;
    const int64_t groups = (columns + group - 1) / group;
    std::vector<int16_t> even(groups * half), odd(groups * half);
    std::vector<float> unit(groups), of_x(groups), sums(groups);
    for (int64_t b = 0; b < batch; ++b) {
        for (int64_t g = 0; g < groups; ++g) {  // x = unit * a whole number of 16 bits
            const float* xg = x + b * columns + g * group;
            const int64_t n = columns - g * group < group ? columns - g * group : group;
            float top = 1e-30f;
            for (int64_t j = 0; j < n; ++j) top = std::fmax(top, std::fabs(xg[j]));
            unit[g] = top / 32767;
            of_x[g] = 0;
            for (int64_t i = g * half; i < (g + 1) * half; ++i) even[i] = odd[i] = 0;
            for (int64_t j = 0; j < n; ++j) {
                const float whole = std::nearbyint(xg[j] / unit[g]);
                (j % 2 ? odd : even)[g * half + j / 2] = whole;
                of_x[g] += unit[g] * whole;
            }
        }
        for (int64_t r = 0; r < rows; ++r) {
            const uint8_t *c = codes + r * width, *z = zero + r * groups;
            const float* s = scale + r * groups;
            float total = 0;
            int64_t done = 0;  // groups
#ifdef __AVX2__
            if (half % 16 == 0) {
                done = columns / group;
                total = whole_groups(c, even.data(), odd.data(), s, unit.data(), done, half);
            }
#endif
            const int64_t at = done * half;
            sums_of_groups(c + at, &even[0] + at, &odd[0] + at, &sums[0] + done, groups - done,
                           half, width - at);
            for (int64_t g = done; g < groups; ++g) total += s[g] * unit[g] * sums[g];
            for (int64_t g = 0; g < groups; ++g) total -= s[g] * z[g] * of_x[g];
            y[b * rows + r] = total;
        }
    }
}
"""
