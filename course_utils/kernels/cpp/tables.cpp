// One token times codes of 1 bit, through tables, with AVX-512.
//
// Four bits of a row belong to four neighbouring columns, and what these add to the sum, Σ code x, is one of 16 numbers: a register.
// One instruction looks it up for 16 rows, or 32 with INT8, so nothing is widened and nothing multiplied.
#include "kernels.h"

#ifdef X86
#include <immintrin.h>

#include <vector>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")
#endif
#include "avx512.h"

namespace {

constexpr int LANES = 16, ROWS_AT_ONCE = 2 * LANES;
constexpr int COLUMNS = 32;  // bits of a lane

// 64 bytes of each of 16 rows: lane r of dword[k] is number k of row r. Bytes that a row does not have are 0.
struct Across {
    alignas(64) uint32_t dword[16][LANES];

    void read(const uint8_t* const* rows, int64_t at, int64_t bytes) {
        const __mmask64 some = bytes - at >= 64 ? ~0ull : (1ull << (bytes - at)) - 1;
        __m512i four[16];  // four[4 i + k]: lane of 128 bits j holds number 4 j + k of rows 4 i to 4 i + 3
        EACH(i, 4) {
            __m512i row[4];
            EACH(j, 4) {
                row[j] = _mm512_maskz_loadu_epi8(some, rows[4 * i + j] + at);
            }
            const __m512i a = _mm512_unpacklo_epi32(row[0], row[1]), b = _mm512_unpacklo_epi32(row[2], row[3]);
            const __m512i c = _mm512_unpackhi_epi32(row[0], row[1]), d = _mm512_unpackhi_epi32(row[2], row[3]);
            four[4 * i] = _mm512_unpacklo_epi64(a, b), four[4 * i + 1] = _mm512_unpackhi_epi64(a, b);
            four[4 * i + 2] = _mm512_unpacklo_epi64(c, d), four[4 * i + 3] = _mm512_unpackhi_epi64(c, d);
        }
        EACH(k, 4) {
            const __m512i a = _mm512_shuffle_i32x4(four[k], four[4 + k], 0x44), b = _mm512_shuffle_i32x4(four[8 + k], four[12 + k], 0x44);
            const __m512i c = _mm512_shuffle_i32x4(four[k], four[4 + k], 0xee), d = _mm512_shuffle_i32x4(four[8 + k], four[12 + k], 0xee);
            _mm512_store_si512(dword[k], _mm512_shuffle_i32x4(a, b, 0x88));
            _mm512_store_si512(dword[4 + k], _mm512_shuffle_i32x4(a, b, 0xdd));
            _mm512_store_si512(dword[8 + k], _mm512_shuffle_i32x4(c, d, 0x88));
            _mm512_store_si512(dword[12 + k], _mm512_shuffle_i32x4(c, d, 0xdd));
        }
    }
    __m512i number(int64_t k) const { return _mm512_load_si512(dword[k % 16]); }
};

constexpr int ENTRIES = 64;  // bytes of a table
constexpr int64_t PAGE = 4096, PAGES_OF = 4;  // blocks whose pages are looked up at once

// Floats: a table is the 16 sums of four columns, a lookup is for 16 rows. A lookup takes the lowest four bits of a lane; others
// come there by multiplications, since shifts are done where lookups are.
struct FloatSums {
    __m512 sum[2];

    static void make_tables(const Input& in, int64_t columns, uint8_t* to) {
        constexpr Numbers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        for (int64_t c = 0; c < columns; c += 4, to += ENTRIES) {
            __m512 sums = _mm512_setzero_ps();
            EACH(j, 4) sums = _mm512_mask_add_ps(sums, _mm512_test_epi32_mask((__m512i)lane, _mm512_set1_epi32(1 << j)), sums, _mm512_set1_ps(in.x[c + j]));
            _mm512_store_ps(to, sums);
        }
    }
    void clear() { sum[0] = sum[1] = _mm512_setzero_ps(); }
    void add_columns(const __m512i (&bits)[2], const uint8_t* tables) {
        __m512 found[2][8];
        EACH(half, 2) EACH(i, 4) {
            const __m512 table = _mm512_load_ps(tables + ENTRIES * (4 * half + i));
            EACH(h, 2) {
                const __m512i low = half ? _mm512_srli_epi32(bits[h], 16) : bits[h];
                const __m512i four = i ? _mm512_mulhi_epu16(low, _mm512_set1_epi32(1 << (16 - 4 * i))) : low;
                found[h][4 * half + i] = _mm512_permutexvar_ps(four, table);
            }
        }
        EACH(h, 2) {
            const __m512 a = _mm512_add_ps(_mm512_add_ps(found[h][0], found[h][1]), _mm512_add_ps(found[h][2], found[h][3]));
            const __m512 b = _mm512_add_ps(_mm512_add_ps(found[h][4], found[h][5]), _mm512_add_ps(found[h][6], found[h][7]));
            sum[h] = _mm512_add_ps(sum[h], _mm512_add_ps(a, b));
        }
    }
    __m512 of(int h) const { return sum[h]; }
};

// INT8: the 16 sums fit in 16 bits, a lookup is for 32 rows and takes five bits. So a table holds each sum twice, and row r of the
// first 16 is in the low half of lane r, that of the others in the high half. Groups of up to 256 columns do not overflow.
struct ByteSums {
    __m512i sum;

    static void make_tables(const Input& in, int64_t columns, uint8_t* to) {
        for (int64_t c = 0; c < columns; c += 4, to += ENTRIES) {
            __m512i sums = _mm512_setzero_si512();
            EACH(j, 4) {  // entry i has column j where bit j of i is set
                constexpr uint32_t with[4] = {0xaaaaaaaa, 0xcccccccc, 0xf0f0f0f0, 0xff00ff00};
                sums = _mm512_mask_add_epi16(sums, with[j], sums, _mm512_set1_epi16(in.q[c + j]));
            }
            _mm512_store_si512(to, sums);
        }
    }
    void clear() { sum = _mm512_setzero_si512(); }
    void add_columns(const __m512i (&bits)[2], const uint8_t* tables) {
        constexpr __mmask32 high = 0xaaaaaaaa;
        const __m512i columns[2] = {_mm512_mask_blend_epi16(high, bits[0], _mm512_slli_epi32(bits[1], 16)),
                                    _mm512_mask_blend_epi16(high, _mm512_srli_epi32(bits[0], 16), bits[1])};
        __m512i found[8];
        EACH(half, 2) EACH(i, 4) {
            const __m512i five = i ? _mm512_mulhi_epu16(columns[half], _mm512_set1_epi16(1 << (16 - 4 * i))) : columns[half];
            found[4 * half + i] = _mm512_permutexvar_epi16(five, _mm512_load_si512(tables + ENTRIES * (4 * half + i)));
        }
        const __m512i a = _mm512_add_epi16(_mm512_add_epi16(found[0], found[1]), _mm512_add_epi16(found[2], found[3]));
        const __m512i b = _mm512_add_epi16(_mm512_add_epi16(found[4], found[5]), _mm512_add_epi16(found[6], found[7]));
        sum = _mm512_add_epi16(sum, _mm512_add_epi16(a, b));
    }
    __m512 of(int h) const { return _mm512_cvtepi32_ps(_mm512_srai_epi32(h ? sum : _mm512_slli_epi32(sum, 16), 16)); }
};

struct Rows16 {
    const uint8_t *codes[LANES], *scales[LANES], *zeros[LANES];
    Across code, scale, zero;

    void begin(const Weight& w, int64_t first, int64_t last) {  // behind the last row, the last one again
        for (int64_t r = 0; r < LANES; r++) {
            const int64_t row = first + r < last ? first + r : last - 1;
            codes[r] = w.codes + row * w.row_bytes, zeros[r] = w.zero + row * w.zero_bytes;
            scales[r] = static_cast<const uint8_t*>(w.scale) + row * w.groups * (w.scales == HALF ? 2 : 4);
        }
        if (!w.zero) std::memset(&zero, 255, sizeof zero);
    }

    void read_group(const Weight& w, int64_t g) {  // what is needed from group g on
        const int64_t size = w.scales == HALF ? 2 : 4;
        if (g % (64 / size) == 0) scale.read(scales, g * size, w.groups * size);
        if (w.zero && g % 512 == 0) zero.read(zeros, g / 8, w.zero_bytes);
    }

    // total + s (Σ code x − z Σ x) for a group whose sum over codes is `number`.
    __m512 add_group(const Weight& w, __m512 total, __m512 number, int64_t g, float x) const {
        const __m512i two = scale.number(g / 2);
        const __m512 s = w.scales == HALF ? _mm512_cvtph_ps(_mm512_cvtepi32_epi16(g % 2 ? _mm512_srli_epi32(two, 16) : two))
                                          : _mm512_castsi512_ps(scale.number(g));
        const __mmask16 one = _mm512_test_epi32_mask(zero.number(g / 32), _mm512_set1_epi32(1u << g % 32));
        return _mm512_fmadd_ps(_mm512_mask_sub_ps(number, one, number, _mm512_set1_ps(x)), s, total);
    }
};

// The 32 rows behind those of a block lie in one piece: what is read of it is asked for line by line while the block is done.
struct Next {
    const uint8_t *codes, *scales, *zeros;
    int64_t size;

    Next(const Weight& w, int64_t row)
        : codes(w.codes + row * w.row_bytes), zeros(w.zero + row * w.zero_bytes), size(w.scales == HALF ? 2 : 4) {
        scales = static_cast<const uint8_t*>(w.scale) + row * w.groups * size;
    }
    // A line of each page of `blocks` blocks: to find a page takes as long as to read a line, and many are found side by side.
    ALWAYS void pages(const Weight& w, int64_t blocks) const {
        const int64_t rows = blocks * ROWS_AT_ONCE;
        for (int64_t at = 0; at < rows * w.row_bytes; at += PAGE) ask(codes + at);
        for (int64_t at = 0; at < rows * w.groups * size; at += PAGE) ask(scales + at);
        for (int64_t at = 0; at < rows * w.zero_bytes; at += PAGE) ask(zeros + at);
    }
    ALWAYS void unit(int64_t u) const { EACH(i, 2) ask(codes + u * ROWS_AT_ONCE * 4 + 64 * i); }
    ALWAYS void group(int64_t g) const {
        for (int64_t at = 0; at < size * ROWS_AT_ONCE; at += 64) ask(scales + g * size * ROWS_AT_ONCE + at);
        if (g % 16 == 0) ask(zeros + g / 8 * ROWS_AT_ONCE);
    }
};

// 32 neighbouring rows: at the distances that a power of two makes, they would drive each other from the cache.
template <typename Sums>
void block(const Weight& w, const Input& in, const uint8_t* tables, const float* bias, float* y, int64_t first, int64_t last) {
    const int64_t units = w.columns / COLUMNS, group_units = w.group_size / COLUMNS;
    Rows16 rows[2];
    Sums sums;
    __m512 total[2];
    const Next next(w, first + ROWS_AT_ONCE);
    if (first / ROWS_AT_ONCE % PAGES_OF == 0) Next(w, first + 2 * ROWS_AT_ONCE).pages(w, PAGES_OF);
    EACH(h, 2) rows[h].begin(w, first + h * LANES, last), total[h] = _mm512_setzero_ps();
    for (int64_t u = 0, g = 0, left = 0; u < units; u++) {
        if (u % 16 == 0) EACH(h, 2) rows[h].code.read(rows[h].codes, 4 * u, w.row_bytes);
        if (left == 0) {
            EACH(h, 2) rows[h].read_group(w, g);
            next.group(g);
            sums.clear(), left = group_units;
        }
        next.unit(u);
        const __m512i bits[2] = {rows[0].code.number(u), rows[1].code.number(u)};
        sums.add_columns(bits, tables + u * 8 * ENTRIES);
        if (--left == 0) {
            EACH(h, 2) total[h] = rows[h].add_group(w, total[h], sums.of(h), g, in.sum[g]);
            g++;
        }
    }
    alignas(64) float found[ROWS_AT_ONCE];
    EACH(h, 2) _mm512_store_ps(found + h * LANES, total[h]);
    const float unit = in.q ? in.q_scale[0] : 1;
    for (int64_t r = 0; r < ROWS_AT_ONCE && first + r < last; r++) y[first + r] = found[r] * unit + (bias ? bias[first + r] : 0);
}

template <typename Sums>
void all_blocks(const Weight& w, const Input& in, const float* bias, float* y, Range rows) {
    thread_local std::vector<uint8_t> held;  // kept: pages that are new at each call cost more than the product
    const size_t size = (w.columns / 4 + 1) * ENTRIES;
    if (held.size() < size) held.resize(size);
    uint8_t* tables = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(held.data()) + 63) / 64 * 64);
    Sums::make_tables(in, w.columns, tables);
    for (int64_t row = rows.first; row < rows.last; row += ROWS_AT_ONCE) block<Sums>(w, in, tables, bias, y, row, rows.last);
}

}  // namespace

void avx512_tables(const Weight& w, const Input& in, const float* bias, float* y, Range rows) {
    (in.q ? all_blocks<ByteSums> : all_blocks<FloatSums>)(w, in, bias, y, rows);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
