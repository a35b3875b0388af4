// The walk over the columns of GPTQ, for one block of columns: round a column, hand its error to the columns behind it.
// Rows of the weight do not meet, so each thread takes some of them through all columns while they lie in its cache.
// Where the processor has multiply-add, it is used where torch uses it (for whole vectors), and nowhere else.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#endif
#include <cstdint>

namespace {

struct Walk {
    float* w;                 // (in, rows): a column of the weight is a row here; becomes what the codes stand for
    const float* u;           // (in, in), upper triangular
    const float *scale, *zero;  // (groups, rows)
    const int64_t* group_of;  // (in)
    uint8_t* codes;           // (in, rows)
    float* errors;            // (last − first, rows)
    int64_t in, rows, first, last;
    float largest;
};

template <bool FUSED>
#if defined(__GNUC__)
__attribute__((always_inline))
#endif
inline void walk(const Walk& a, int64_t from, int64_t to) {
#if defined(__clang__)
#pragma clang fp contract(off)
#endif
    const float magic = 0x1.8p23f;  // near it, floats are whole numbers: adding it rounds, ties to even
    const int64_t n = to - from;
    for (int64_t i = a.first; i < a.last; i++) {
        float* __restrict w = a.w + i * a.rows + from;
        float* __restrict e = a.errors + (i - a.first) * a.rows + from;
        uint8_t* __restrict codes = a.codes + i * a.rows + from;
        const float* __restrict s = a.scale + a.group_of[i] * a.rows + from;
        const float* __restrict z = a.zero + a.group_of[i] * a.rows + from;
        const float pivot = a.u[i * a.in + i], largest = a.largest;
        for (int64_t r = 0; r < n; r++) {
            float v = w[r] / s[r];
            v = v > 1e6f ? 1e6f : v;  // further out the clamp below decides anyway
            v = v < -1e6f ? -1e6f : v;
            float q = (v + magic) - magic + z[r];
            q = q > 0 ? q : 0;
            q = q < largest ? q : largest;
            codes[r] = uint8_t(int32_t(q));
            const float on_grid = (q - z[r]) * s[r];
            e[r] = (w[r] - on_grid) / pivot;
            w[r] = on_grid;
        }
        for (int64_t j = i + 1; j < a.last; j++) {
            const float u = a.u[i * a.in + j];
            float* __restrict later = a.w + j * a.rows + from;
            for (int64_t r = 0; r < n; r++) later[r] = FUSED ? __builtin_fmaf(-u, e[r], later[r]) : later[r] - u * e[r];
        }
    }
}

void walk_plain(const Walk& a, int64_t from, int64_t to) { walk<false>(a, from, to); }

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void walk_avx2(const Walk& a, int64_t from, int64_t to) { walk<true>(a, from, to); }
#endif

}  // namespace

// Columns first … last − 1 of w (in, rows), in place; codes and errors are filled in.
extern "C" void gptq_columns(float* w, const float* u, const float* scale, const float* zero, const int64_t* group_of, uint8_t* codes,
                             float* errors, int64_t in, int64_t rows, int64_t first, int64_t last, int largest, int threads) {
    const Walk a = {w, u, scale, zero, group_of, codes, errors, in, rows, first, last, float(largest)};
    auto use = walk_plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) use = walk_avx2;
#endif
    const int64_t chunk = 256;  // rows · 128 columns · 4 bytes: half of a small second-level cache
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t from = 0; from < rows; from += chunk) use(a, from, from + chunk < rows ? from + chunk : rows);
}
