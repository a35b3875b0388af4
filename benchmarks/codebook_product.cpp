// Products of one token with weights in codes of 16 bits for eight weights, decoded as they are read. The simplest honest thing:
// plain loops that the compiler may vectorize, one thread, no layout of its own.
#include <cstdint>

// E8P: index = size (8 bits) | signs (7) | shift (1); the eighth sign makes the sum even. table: 256 rows of 8, parity: 256.
extern "C" void e8p(const uint16_t* codes, const float* scale, const float* table, const uint8_t* parity, const float* x, float* y,
                    int rows, int vectors) {
    for (int r = 0; r < rows; ++r) {
        float total[8] = {0}, shift = 0;
        const uint16_t* row = codes + (long)r * vectors;
        for (int v = 0; v < vectors; ++v) {
            const unsigned code = row[v], size = code >> 8, seven = (code >> 1) & 127;
            const unsigned signs = seven | ((__builtin_popcount(seven) + parity[size]) & 1) << 7;
            const float *w = table + 8 * size, *in = x + 8 * v, moved = (code & 1) ? -0.25f : 0.25f;
            float sum = 0;
            for (int i = 0; i < 8; ++i) {
                total[i] += ((signs >> i) & 1 ? -w[i] : w[i]) * in[i];
                sum += in[i];
            }
            shift += moved * sum;
        }
        for (int i = 1; i < 8; ++i) total[0] += total[i];
        y[r] = scale[r] * (total[0] + shift);
    }
}

// Additive codebooks, two of 256: the products of x with every vector first, then two look-ups for each code. products: vectors · 512.
extern "C" void additive(const uint8_t* codes, const float* scale, const float* books, const float* x, float* products, float* y,
                         int rows, int vectors) {
    for (int v = 0; v < vectors; ++v)
        for (int k = 0; k < 512; ++k) {
            float sum = 0;
            for (int i = 0; i < 8; ++i) sum += books[8 * k + i] * x[8 * v + i];
            products[512l * v + k] = sum;
        }
    for (int r = 0; r < rows; ++r) {
        float total = 0;
        const uint8_t* row = codes + 2l * r * vectors;
        for (int v = 0; v < vectors; ++v) total += products[512l * v + row[2 * v]] + products[512l * v + 256 + row[2 * v + 1]];
        y[r] = scale[r] * total;
    }
}

// Trellis with computed values (1MAD), two bits a weight: the register runs through the row, the first code in the low bits of a byte.
extern "C" void one_mad(const uint8_t* codes, const float* scale, const float* x, float* y, int rows, int columns, int state_bits) {
    const uint32_t mask = (1u << state_bits) - 1;
    for (int r = 0; r < rows; ++r) {
        const uint8_t* row = codes + (long)r * (columns / 4);
        uint32_t state = 0;
        for (int b = columns / 4 - 4; b < columns / 4; ++b)
            for (int i = 0; i < 4; ++i) state = state << 2 | ((row[b] >> (2 * i)) & 3);
        float total = 0;
        for (int c = 0; c < columns; ++c) {
            state = state << 2 | ((row[c / 4] >> (2 * (c % 4))) & 3);
            const uint32_t z = (state & mask) * 34038481u + 76625530u;
            total += x[c] * (float)((int)((z & 255) + (z >> 8 & 255) + (z >> 16 & 255) + (z >> 24)) - 510);
        }
        y[r] = scale[r] * total / 147.8f;
    }
}

// The same product with the weights themselves.
extern "C" void dense(const float* weight, const float* x, float* y, int rows, int columns) {
    for (int r = 0; r < rows; ++r) {
        float total[8] = {0};
        for (int c = 0; c < columns; c += 8)
            for (int i = 0; i < 8; ++i) total[i] += weight[(long)r * columns + c + i] * x[c + i];
        for (int i = 1; i < 8; ++i) total[0] += total[i];
        y[r] = total[0];
    }
}
