// The products as one would write them down; every other file computes the same sums with wider instructions.
#include <vector>

#include "kernels.h"

namespace {

inline float half_to_float(uint16_t h) {  // finite numbers only
    uint32_t magnitude = uint32_t(h & 0x7fff) << 13, sign = uint32_t(h & 0x8000) << 16;
    float f;
    std::memcpy(&f, &magnitude, 4);
    f *= 0x1p112f;  // the exponents' biases are 127 and 15
    std::memcpy(&magnitude, &f, 4);
    magnitude |= sign;
    std::memcpy(&f, &magnitude, 4);
    return f;
}

void read_codes(const Weight& w, const uint8_t* plane, uint8_t* codes) {  // of a row
    std::memset(codes, 0, w.columns);
    for (int width = 8, low = 0; width; width /= 2) {
        if (!(w.bits & width)) continue;
        for (int64_t c = 0; c < w.columns; c++)
            codes[c] |= (plane[c * width / 8] >> (c * width % 8) & ((1 << width) - 1)) << low;
        plane += (w.columns * width + 7) / 8;
        low += width;
    }
    for (int64_t c = 0; w.blocks() && c < w.columns; c++) codes[c] = E2M1[codes[c]];
}

inline float scale_of(const Weight& w, int64_t row, int64_t group) {
    const int64_t at = row * w.groups + group;
    if (w.blocks()) return unit_of(w) * block_scale(w.scales, static_cast<const uint8_t*>(w.scale)[at]);
    return w.scales == HALF ? half_to_float(static_cast<const uint16_t*>(w.scale)[at]) : static_cast<const float*>(w.scale)[at];
}

inline int zero_of(const Weight& w, int64_t row, int64_t group) {
    if (!w.zero) return w.blocks() ? E2M1_ZERO : 1 << (w.bits - 1);
    int number = 0;
    for (int i = 0; i < w.bits; i++) {  // a number may begin in one byte and end in the next
        const int64_t bit = group * w.bits + i;
        number |= (w.zero[row * w.zero_bytes + bit / 8] >> (bit % 8) & 1) << i;
    }
    return number;
}

void float_rows(const Weight& w, const Input& in, const float* bias, float* y, Range rows) {
    std::vector<uint8_t> codes(w.columns);
    for (int64_t row = rows.first; row < rows.last; row++) {
        read_codes(w, w.codes + row * w.row_bytes, codes.data());
        for (int64_t t = 0; t < in.tokens; t++) {
            const float* x = in.x + t * in.stride;
            float sum = 0;
            for (int64_t g = 0; g < w.groups; g++) {
                const float scale = scale_of(w, row, g);
                const int zero = zero_of(w, row, g);
                for (int64_t c = g * w.group_size; c < w.end(g); c++)
                    sum += x[c] * (scale * float(codes[c] - zero));
            }
            y[t * w.rows + row] = sum + (bias ? bias[row] : 0);
        }
    }
}

// y = s_x Σ_g s_g (Σ q_x q_w − z_g Σ q_x): inside a group only integers are multiplied and added.
void int8_rows(const Weight& w, const Input& in, const float* bias, float* y, Range rows) {
    std::vector<uint8_t> codes(w.columns);
    for (int64_t row = rows.first; row < rows.last; row++) {
        read_codes(w, w.codes + row * w.row_bytes, codes.data());
        for (int64_t t = 0; t < in.tokens; t++) {
            const int8_t* q = in.q + t * in.stride;
            float sum = 0;
            for (int64_t g = 0; g < w.groups; g++) {
                int64_t products = 0;
                for (int64_t c = g * w.group_size; c < w.end(g); c++) products += q[c] * codes[c];
                sum += in.q_scale[t] * scale_of(w, row, g) * float(products - zero_of(w, row, g) * int64_t(in.sum[t * w.groups + g]));
            }
            y[t * w.rows + row] = sum + (bias ? bias[row] : 0);
        }
    }
}

void integer_rows(const int8_t* w, const Input& in, int32_t* y, int64_t width, Range rows) {
    for (int64_t row = rows.first; row < rows.last; row++)
        for (int64_t t = 0; t < in.tokens; t++) {
            int32_t sum = 0;
            for (int64_t c = 0; c < in.stride; c++) sum += in.q[t * in.stride + c] * w[row * in.stride + c];
            y[t * width + row] = sum;
        }
}

}  // namespace

const Kernels portable = {"portable", 0, 0, float_rows, int8_rows, integer_rows, nullptr, nullptr, nullptr};
