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
    if (w.half) {
        uint16_t half[16] = {};
        std::memcpy(half, static_cast<const uint16_t*>(w.scale) + at, 2 * n);
        EACH(i, 4) vst1q_f32(scale + 4 * i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half + 4 * i))));
    } else
        std::memcpy(scale, static_cast<const float*>(w.scale) + at, 4 * n);
    read_zeros<BITS>(w, row, g, zero);
}

template <int BITS>
inline int nth(uint8_t byte, int part) {  // the code in a part of a byte
    return byte >> (part * BITS) & ((1 << BITS) - 1);
}

struct FloatTile {
    static constexpr int sums = 8;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const float* x = in.x + token * in.stride;
        float scales[R][16], zeros[R][16];
        float32x4_t sum[R][T];
        EACH(r, R) EACH(t, T) sum[r][t] = vdupq_n_f32(0), y[r][t] = 0;
        int64_t b = 0;
        for (int64_t g = 0; g < w.groups; g++) {
            if (g % 16 == 0) EACH(r, R) read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
            const int64_t end = b + w.group_bytes;
            for (; b + 8 <= end; b += 8)
                EACH(r, R) {
                    const uint8_t* from = block.codes + r * block.code_step + b;
                    __builtin_prefetch(from + ahead_of(w, b));
                    const uint8x8_t bytes = vld1_u8(from);
                    EACH(part, 8 / BITS) {
                        const uint8x8_t shifted = vshl_u8(bytes, vdup_n_s8(-part * BITS));
                        const uint16x8_t codes = vmovl_u8(vand_u8(shifted, vdup_n_u8((1 << BITS) - 1)));
                        EACH(half, 2) {
                            const uint32x4_t four = vmovl_u16(half ? vget_high_u16(codes) : vget_low_u16(codes));
                            const float32x4_t less = vsubq_f32(vcvtq_f32_u32(four), vdupq_n_f32(zeros[r][g % 16]));
                            const float32x4_t value = vmulq_n_f32(less, scales[r][g % 16]);
                            const float* at = x + b + part * in.part + 4 * half;
                            EACH(t, T) sum[r][t] = vfmaq_f32(sum[r][t], value, vld1q_f32(at + t * in.stride));
                        }
                    }
                }
            for (; b < end; b++)
                EACH(r, R) EACH(part, 8 / BITS) {
                    const int code = nth<BITS>(block.codes[r * block.code_step + b], part);
                    const float value = scales[r][g % 16] * (code - zeros[r][g % 16]);
                    EACH(t, T) y[r][t] += value * x[t * in.stride + b + part * in.part];
                }
        }
        EACH(r, R) EACH(t, T) y[r][t] += vaddvq_f32(sum[r][t]);
    }
};

// sums[i] += Σ of four products
inline int32x4_t add_products(int32x4_t sums, int8x16_t a, int8x16_t b) {
#ifdef DOTPROD
    return vdotq_s32(sums, a, b);
#else
    sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    return vpadalq_s16(sums, vmull_high_s8(a, b));
#endif
}

inline uint8x16_t load(const void* from, int64_t bytes) {  // 16, or 8 and zeros
    const uint8_t* at = static_cast<const uint8_t*>(from);
    return bytes >= 16 ? vld1q_u8(at) : vcombine_u8(vld1_u8(at), vdup_n_u8(0));
}

struct Int8Tile {
    static constexpr int sums = 8;

    template <int BITS, int T, int R>
    static void rows(const Weight& w, const Input& in, int64_t token, const Block& block, float (&y)[R][T]) {
        const int8_t* q = in.q + token * in.stride;
        constexpr int middle = BITS == 8 ? 128 : 0;  // codes of 8 bits become signed: code − 128
        float scales[R][16], zeros[R][16];
        float32x4_t sum[R][T];
        float rest[R][T] = {};  // − Σ_g s_g z_g Σ q_x, and what does not fill a vector
        EACH(r, R) EACH(t, T) sum[r][t] = vdupq_n_f32(0);
        int64_t b = 0;
        for (int64_t g = 0; g < w.groups; g++) {
            if (g % 16 == 0) EACH(r, R) read_groups<BITS>(w, block.row + r * block.step, g, scales[r], zeros[r]);
            int32x4_t products[R][T];
            int32_t others[R][T];
            EACH(r, R) EACH(t, T) {
                products[r][t] = vdupq_n_s32(0);
                others[r][t] = (middle - int32_t(zeros[r][g % 16])) * int32_t(in.q_sum[(token + t) * w.groups + g]);
            }
            const int64_t end = b + w.group_bytes;
            auto step = [&](int64_t left) __attribute__((always_inline)) {
                EACH(r, R) {
                    const uint8_t* from = block.codes + r * block.code_step + b;
                    __builtin_prefetch(from + ahead_of(w, b));
                    const uint8x16_t bytes = load(from, left);
                    EACH(part, 8 / BITS) {
                        const uint8x16_t shifted = part ? vshlq_u8(bytes, vdupq_n_s8(-part * BITS)) : bytes;
                        const uint8x16_t codes = BITS == 8 ? veorq_u8(shifted, vdupq_n_u8(128))
                                                           : vandq_u8(shifted, vdupq_n_u8((1 << BITS) - 1));
                        const int8_t* at = q + b + part * in.part;
                        EACH(t, T) {
                            const int8x16_t numbers = vreinterpretq_s8_u8(load(at + t * in.stride, left));
                            products[r][t] = add_products(products[r][t], vreinterpretq_s8_u8(codes), numbers);
                        }
                    }
                }
            };
            for (; b + 16 <= end; b += 16) step(16);
            if (b + 8 <= end) step(8), b += 8;
            for (; b < end; b++)
                EACH(r, R) EACH(part, 8 / BITS) {
                    const int code = nth<BITS>(block.codes[r * block.code_step + b], part) - middle;
                    EACH(t, T) others[r][t] += code * q[t * in.stride + b + part * in.part];
                }
            EACH(r, R) EACH(t, T) {
                sum[r][t] = vfmaq_n_f32(sum[r][t], vcvtq_f32_s32(products[r][t]), scales[r][g % 16]);
                rest[r][t] += scales[r][g % 16] * float(others[r][t]);
            }
        }
        EACH(r, R) EACH(t, T) y[r][t] = in.q_scale[token + t] * (vaddvq_f32(sum[r][t]) + rest[r][t]);
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
    all_tiles<FloatTile>, all_tiles<Int8Tile>, integer_rows};

#if defined(DOTPROD) && defined(__clang__)
#pragma clang attribute pop
#endif
#endif
