// What the AVX-512 files share: reading scales and zero points. Included after the instructions were chosen.
#pragma once
#include <cmath>

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

// Scales of 16 blocks, as the numbers that their bytes stand for.
inline __m512 block_scales(int32_t scales, __m128i bytes) {
    const __m512i wide = _mm512_cvtepu8_epi32(bytes), low = _mm512_and_si512(wide, _mm512_set1_epi32(127));
    if (scales == E8M0) {
        const __m512i power = _mm512_slli_epi32(wide, 23), next = _mm512_and_si512(_mm512_add_epi32(wide, _mm512_set1_epi32(1)), _mm512_set1_epi32(255));
        const __mmask16 odd = _mm512_cmple_epu32_mask(next, _mm512_set1_epi32(1));  // 0: 2^−127, 255: NaN
        return _mm512_castsi512_ps(_mm512_mask_or_epi32(power, odd, power, _mm512_set1_epi32(1 << 22)));
    }
    const __m512i sign = _mm512_slli_epi32(_mm512_xor_si512(wide, low), 24);  // half precision has three bits more, and 2^8 less
    const __m512 size = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_slli_epi32(low, 7))), _mm512_set1_ps(256));
    const __mmask16 odd = _mm512_cmpeq_epi32_mask(low, _mm512_set1_epi32(127));
    return _mm512_mask_mov_ps(_mm512_or_ps(size, _mm512_castsi512_ps(sign)), odd, _mm512_set1_ps(NAN));
}

// Scales of 16 groups of a row from group g on; 0 behind the last one.
inline __m512 read_scales(const Weight& w, int64_t row, int64_t g) {
    const __mmask16 mask = first_lanes(w.groups - g);
    const int64_t at = row * w.groups + g;
    if (w.blocks()) {
        const uint8_t* from = static_cast<const uint8_t*>(w.scale) + at;
        ask(from + SCALES_AHEAD);
        return _mm512_maskz_mov_ps(mask, block_scales(w.scales, _mm_maskz_loadu_epi8(mask, from)));
    }
    if (w.scales == HALF) {
        const uint8_t* from = static_cast<const uint8_t*>(w.scale) + 2 * at;
        ask(from + SCALES_AHEAD);
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
    }
    const uint8_t* from = static_cast<const uint8_t*>(w.scale) + 4 * at;
    ask(from + SCALES_AHEAD);
    return _mm512_maskz_loadu_ps(mask, from);
}

// The zero points of these groups, times `scale`.
template <int BITS>
inline __m512 times_zeros(const Weight& w, int64_t row, int64_t g, __m512 scale) {
    if (!w.zero) return _mm512_mul_ps(scale, _mm512_set1_ps(w.blocks() ? E2M1_ZERO : 1 << (BITS - 1)));
    const uint8_t* from = w.zero + row * w.zero_bytes + g * BITS / 8;
    ask(from + SCALES_AHEAD / 4);
    const int64_t left = w.zero_bytes - g * BITS / 8;
    const __m128i packed = _mm_maskz_loadu_epi8(first_lanes(left < 2 * BITS ? left : 2 * BITS), from);
    if (BITS == 1) return _mm512_maskz_mov_ps(_mm_cvtsi128_si32(packed), scale);
    return _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_and_si512(sixteen<BITS>(packed), _mm512_set1_epi32((1 << BITS) - 1))));
}

}  // namespace
