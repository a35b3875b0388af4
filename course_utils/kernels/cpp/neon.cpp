// 64-bit ARM: NEON. dotprod.cpp compiles this file a second time, for processors that have the instruction `sdot`.
#include "kernels.h"

#ifdef ARM64
#include <arm_neon.h>
#ifdef DOTPROD
#define KERNELS dotprod
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#else
#define KERNELS neon
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
        uint16_t half[16] = {};
        std::memcpy(half, static_cast<const uint16_t*>(w.scale) + at, 2 * n);
        EACH(i, 4) vst1q_f32(scale + 4 * i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half + 4 * i))));
    } else
        std::memcpy(scale, static_cast<const float*>(w.scale) + at, 4 * n);
    read_zeros<BITS>(w, row, g, zero);
}

inline uint8x16_t load(const uint8_t* from, int64_t bytes, uint8_t fill = 0) {  // 16, or fewer and `fill`
    if (bytes >= 16) return vld1q_u8(from);
    if (bytes == 8) return vcombine_u8(vld1_u8(from), vdup_n_u8(fill));
    uint8_t some[16];
    std::memset(some, fill, 16);
    std::memcpy(some, from, bytes);
    return vld1q_u8(some);
}

// Each byte 8 / width times, number i of `width` bits as the low bits of the i-th. What is above is waste.
inline uint8x16_t spread(uint8x16_t bytes, int width) {
    const uint8x16_t i = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const uint8x16_t from = width == 4 ? vshrq_n_u8(i, 1) : vshrq_n_u8(i, 2);
    const uint8x16_t down = vmulq_u8(vandq_u8(i, vdupq_n_u8(8 / width - 1)), vdupq_n_u8(width));
    return vshlq_u8(vqtbl1q_u8(bytes, from), vnegq_s8(vreinterpretq_s8_u8(down)));
}

// Number p of `width` bits in each byte becomes the bits of codes[p] from `low` on.
template <int PARTS>
inline void add_bits(uint8x16_t bytes, int width, int low, uint8x16_t (&codes)[PARTS]) {
    EACH(p, PARTS) {
        const uint8x16_t moved = vshlq_u8(bytes, vdupq_n_s8(low - p * width));
        codes[p] = vorrq_u8(codes[p], vandq_u8(moved, vdupq_n_u8(((1 << width) - 1) << low)));
    }
}

// The codes whose low bits are in 16 bytes of a row, or in the `left` that there are: codes[p] are those of part p.
template <int BITS, int PARTS>
inline void read_codes(const uint8_t* row, const Planes<BITS>& planes, int64_t b, int64_t left, uint8x16_t (&codes)[PARTS]) {
    using P = Planes<BITS>;
    constexpr int first = P::first;
    const uint8x16_t bytes = load(row + b, left, BITS == 8 ? 128 : 0);
    EACH(p, PARTS) codes[p] = vandq_u8(vshlq_u8(bytes, vdupq_n_s8(-p * first)), vdupq_n_u8((1 << first) - 1));
    if (P::twos) add_bits(spread(load(row + planes.twos_at + b / 2, left >= 16 ? 8 : (left + 1) / 2), 4), 2, 4, codes);
    const uint8_t* ones = row + planes.ones_at + b / P::ones_share;
    if (P::ones && first == 2) add_bits(spread(load(ones, left >= 16 ? 8 : (left + 1) / 2), 4), 1, 2, codes);
    if (P::ones && first == 4) add_bits(spread(load(ones, left >= 16 ? 4 : (left + 3) / 4), 2), 1, BITS - 1, codes);
}

// sums[i] += Σ of four products
inline int32x4_t add_products(int32x4_t sums, int8x16_t a, int8x16_t b) {
#ifdef DOTPROD
    return vdotq_s32(sums, a, b);
#else
    sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    return vpadalq_s16(sums, vmull_high_s8(a, b));
#endif
}

inline void add_products(int32x4_t& sums, uint8x16_t codes, int middle, const int8_t* q) {
    sums = add_products(sums, vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(middle))), vld1q_s8(q));
}

inline void add_products(float32x4_t& sums, uint8x16_t codes, int middle, const float* x) {
    const int8x16_t numbers = vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(middle)));
    EACH(i, 4) {
        const int16x8_t eight = vmovl_s8(i < 2 ? vget_low_s8(numbers) : vget_high_s8(numbers));
        const int32x4_t four = vmovl_s16(i % 2 ? vget_high_s16(eight) : vget_low_s16(eight));
        sums = vfmaq_f32(sums, vcvtq_f32_s32(four), vld1q_f32(x + 4 * i));
    }
}

inline const float* numbers(const Input& in, float) { return in.x; }
inline const int8_t* numbers(const Input& in, int8_t) { return in.q; }
inline float32x4_t no_sums(float) { return vdupq_n_f32(0); }
inline int32x4_t no_sums(int8_t) { return vdupq_n_s32(0); }
inline float32x4_t real(float32x4_t sums) { return sums; }
inline float32x4_t real(int32x4_t sums) { return vcvtq_f32_s32(sums); }

template <typename Number>  // of the activations: float or int8_t
struct Tile {
    static constexpr int sums = 8;

    template <int BITS, bool BLOCKS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const Planes<BITS> planes(w);
        const Number* x = numbers(in, Number()) + token * in.stride;
        constexpr int middle = BITS == 8 ? 128 : 0;  // codes of 8 bits become signed: code − 128
        float scales[R][16], zeros[R][16];
        float unit[T];
        EACH(t, T) unit[t] = unit_of(w) * (in.q ? in.q_scale[token + t] : 1);
        float32x4_t all[R][T];
        EACH(r, R) EACH(t, T) all[r][t] = vdupq_n_f32(0), y[r][t] = 0;
        int64_t b = 0;
        for (int64_t g = 0; g < w.groups; g++) {
            if (g % 16 == 0) EACH(r, R) read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
            decltype(no_sums(Number())) some[R][T];
            EACH(r, R) EACH(t, T) some[r][t] = no_sums(Number());
            const int64_t end = end_of(w, planes, b);
            for (; b < end; b += 16, x += planes.parts * 16) {
                const Ask<BITS> ask(planes, b);
                EACH(r, R) {
                    const uint8_t* row = block.codes + r * block.code_step;
                    ask.of(row);
                    uint8x16_t codes[planes.parts];
                    read_codes(row, planes, b, end - b, codes);
                    if (BLOCKS) EACH(p, planes.parts) codes[p] = vqtbl1q_u8(vld1q_u8(E2M1), codes[p]);
                    EACH(p, planes.parts) EACH(t, T) add_products(some[r][t], codes[p], middle, x + p * 16 + t * in.stride);
                }
            }
            b = end;
            EACH(r, R) EACH(t, T) {
                const float scale = scales[r][g % 16] * unit[t];
                all[r][t] = vfmaq_n_f32(all[r][t], real(some[r][t]), scale);
                y[r][t] += scale * (middle - zeros[r][g % 16]) * in.sum[(token + t) * w.groups + g];
            }
        }
        EACH(r, R) EACH(t, T) y[r][t] = vaddvq_f32(all[r][t]) + y[r][t];
    }
};

void integer_rows(const int8_t* w, const Input& in, int32_t* y, int64_t width, Range rows) {
    for (int64_t row = rows.first; row < rows.last; row++)
        for (int64_t t = 0; t < in.tokens; t++) {
            const int8_t *a = w + row * in.stride, *q = in.q + t * in.stride;
            int32x4_t products = vdupq_n_s32(0);
            int64_t c = 0;
            for (; c + 16 <= in.stride; c += 16) products = add_products(products, vld1q_s8(a + c), vld1q_s8(q + c));
            int32_t sum = vaddvq_s32(products);
            for (; c < in.stride; c++) sum += a[c] * q[c];
            y[t * width + row] = sum;
        }
}

}  // namespace

const Kernels KERNELS = {
#ifdef DOTPROD
    "dotprod",
#else
    "neon",
#endif
    16, 16, all_tiles<Tile<float>>, all_tiles<Tile<int8_t>>, integer_rows, nullptr, nullptr, nullptr};

#if defined(DOTPROD) && defined(__clang__)
#pragma clang attribute pop
#endif
#endif
