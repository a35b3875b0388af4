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

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include <immintrin.h>

// The same with vector registers: signs are a mask, the eighth sign comes from a table.
extern "C" void e8p_vectors(const uint16_t* codes, const float* scale, const float* table, const uint8_t* parity, const float* x, float* y,
                            int rows, int vectors) {
    alignas(64) float sums[65536 / 8];
    uint8_t signs[2][128];
    for (int v = 0; v < vectors; ++v) {
        sums[v] = 0;
        for (int i = 0; i < 8; ++i) sums[v] += 0.25f * x[8 * v + i];
    }
    for (int s = 0; s < 128; ++s)
        for (int odd = 0; odd < 2; ++odd) signs[odd][s] = s | ((__builtin_popcount(s) + odd) & 1) << 7;
    const __m256 minus = _mm256_set1_ps(-0.0f);
    for (int r = 0; r < rows; ++r) {
        const uint16_t* row = codes + (long)r * vectors;
        __m256 total[4];
        for (int i = 0; i < 4; ++i) total[i] = _mm256_setzero_ps();
        __m512 shift = _mm512_setzero_ps();
        for (int v = 0; v < vectors; v += 16) {
            const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(row + v)));
            const __m512 some = _mm512_load_ps(sums + v);
            shift = _mm512_add_ps(shift, _mm512_mask_sub_ps(some, _mm512_test_epi32_mask(wide, _mm512_set1_epi32(1)), _mm512_setzero_ps(), some));
            for (int i = 0; i < 16; ++i) {
                const unsigned code = row[v + i], size = code >> 8;
                const __m256 w = _mm256_loadu_ps(table + 8 * size);
                const __mmask8 down = signs[parity[size]][code >> 1 & 127];
                total[i % 4] = _mm256_fmadd_ps(_mm256_mask_xor_ps(w, down, w, minus), _mm256_loadu_ps(x + 8 * (v + i)), total[i % 4]);
            }
        }
        float each[8], sum = _mm512_reduce_add_ps(shift);
        _mm256_storeu_ps(each, _mm256_add_ps(_mm256_add_ps(total[0], total[1]), _mm256_add_ps(total[2], total[3])));
        for (int i = 0; i < 8; ++i) sum += each[i];
        y[r] = scale[r] * sum;
    }
}

// 16 states at a time: 64 bits of the row, their pairs in reverse order, shifted 16 times; `dpbusd` adds the four bytes.
extern "C" void one_mad_vectors(const uint8_t* codes, const float* scale, const float* x, float* y, int rows, int columns, int state_bits) {
    const __m512i mask = _mm512_set1_epi32((1u << state_bits) - 1), times = _mm512_set1_epi32(34038481), plus = _mm512_set1_epi32(76625530);
    const __m512i ones = _mm512_set1_epi8(1), by = _mm512_set_epi64(16, 18, 20, 22, 24, 26, 28, 30), more = _mm512_set_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    float all = 0;
    for (int c = 0; c < columns; ++c) all += x[c];
    for (int r = 0; r < rows; ++r) {
        const uint8_t* row = codes + (long)r * (columns / 4);
        __m512 total = _mm512_setzero_ps();
        uint32_t before;
        __builtin_memcpy(&before, row + columns / 4 - 4, 4);
        for (int c = 0; c < columns; c += 16) {
            uint32_t now;
            __builtin_memcpy(&now, row + c / 4, 4);
            uint64_t both = __builtin_bswap64((uint64_t)now << 32 | before);
            both = (both >> 4 & 0x0f0f0f0f0f0f0f0full) | (both & 0x0f0f0f0f0f0f0f0full) << 4;
            both = (both >> 2 & 0x3333333333333333ull) | (both & 0x3333333333333333ull) << 2;
            before = now;  // the newest code is in the lowest two bits
            const __m512i word = _mm512_set1_epi64((long long)both);
            const __m256i low = _mm512_cvtepi64_epi32(_mm512_srlv_epi64(word, by));
            const __m256i high = _mm512_cvtepi64_epi32(_mm512_srlv_epi64(word, more));
            const __m512i state = _mm512_and_si512(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), mask);
            const __m512i z = _mm512_add_epi32(_mm512_mullo_epi32(state, times), plus);
            const __m512 value = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), z, ones));
            total = _mm512_fmadd_ps(value, _mm512_loadu_ps(x + c), total);
        }
        y[r] = scale[r] * (_mm512_reduce_add_ps(total) - 510 * all) / 147.8f;
    }
}
#endif

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
