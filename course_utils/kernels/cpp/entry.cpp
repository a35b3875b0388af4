// What Python calls: which kernels this processor has, and the products with their rows shared among threads.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <type_traits>
#include <vector>

#include "kernels.h"
#if defined(ARM64) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace {

#ifdef ARM64
bool has_dotprod() {
#ifdef __linux__
    return getauxval(AT_HWCAP) & (1 << 20);  // HWCAP_ASIMDDP
#else
    return true;  // Apple's and Windows' ARM processors have it
#endif
}
#endif

const Kernels* found(int i) {  // the i-th of those that run here, best first
    const Kernels* all[3];
    int n = 0;
#ifdef X86
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq"))
        all[n++] = &avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all[n++] = &avx2;
#elif defined(ARM64)
    if (has_dotprod()) all[n++] = &dotprod;
    all[n++] = &neon;
#endif
    all[n++] = &portable;
    return i < n ? all[i] : nullptr;
}

template <typename Work>
void share(int64_t rows, int threads, Work work) {
    if (rows == 0) return;  // the loop below would make steps of 0
    const int64_t chunk = ((rows + threads - 1) / threads + ROWS - 1) / ROWS * ROWS;
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
    for (int64_t first = 0; first < rows; first += chunk) work(Range{first, first + chunk < rows ? first + chunk : rows});
}

// How a row of activations is laid out for a kernel (see Input), in columns of the weight.
struct Order {
    int64_t columns, unit, parts, step, digits;

    int64_t steps() const { return (unit + parts * step - 1) / (parts * step); }  // of a unit
    int64_t size() const { return (columns + unit - 1) / unit * steps() * step * parts * digits; }

    // One digit of a row, or floats; `to` is where the first one belongs. Places that nothing belongs to are left alone.
    template <int PARTS, typename Number>
    void place(const Number* row, Number* to) const {
        for (int64_t begin = 0; begin < columns; begin += unit) {
            const int64_t end = std::min(begin + unit, columns);
            for (int64_t s = 0; s < steps(); s++)
                for (int64_t p = 0; p < PARTS; p++, to += digits * step) {
                    const int64_t first = begin + s * step * PARTS + p;
                    const int64_t n = std::min(step, (end - first + PARTS - 1) / PARTS);
                    for (int64_t i = 0; i < n; i++) to[i] = row[first + i * PARTS];
                }
        }
    }
    template <typename Number>
    void place(const Number* row, Number* to) const {
        if (parts == 1) place<1>(row, to);
        if (parts == 2) place<2>(row, to);
        if (parts == 4) place<4>(row, to);
        if (parts == 8) place<8>(row, to);
    }
};

template <typename Number>
inline float sum_of(const Number* q, int64_t n) {
    std::conditional_t<std::is_integral_v<Number>, int64_t, double> sum = 0;
    for (int64_t i = 0; i < n; i++) sum += q[i];
    return float(sum);
}

float largest(const float* x, int64_t n) {  // max |x|; NaN or infinity where one is among them
    int32_t most = 0;  // floats of one sign are ordered like their bits
    for (int64_t i = 0; i < n; i++) {
        int32_t bits;
        std::memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float found;
    std::memcpy(&found, &most, 4);
    return found;
}

// s = max |x| / 127 (1 where all are 0), as `reference.round_tokens` has it; NaN for an x with NaN or infinity.
float scale_of(const float* x, int64_t columns) {
    const float most = largest(x, columns);
    return !std::isfinite(most) ? NAN : most > 0 ? std::max(most / 127, FLT_MIN) : 1;
}

// q = round(x / s), ties to even.
void round_token(const float* x, int64_t columns, float scale, int8_t* q) {
    if (std::isnan(scale)) return;
    const float magic = 0x1.8p23f;  // near it, floats are whole numbers: adding it rounds
    for (int64_t c = 0; c < columns; c++) q[c] = int8_t(int32_t(x[c] / scale + magic - magic));
}

// 256^(digits − 1), what the last digit of x / s is counted in.
double last_digit(int digits) { return double(int64_t(1) << 8 * (digits - 1)); }

// Few digits do where what they leave, up to max |x| / 2²⁴ in each of n columns and by chance √n times that in a sum, is no more
// than float32 leaves: Σ |x| / 2²⁴.
int digits_for(const float* x, int64_t columns) {
    const double parts = 0x1p20, most = largest(x, columns), factor = most > 0 ? parts / most : 0;
    int64_t sum = 0;  // of |x| in so many parts of the largest: whole numbers, which a compiler may add in any order
    for (int64_t c = 0; c < columns; c++) sum += int32_t(std::fabs(x[c]) * factor);
    return std::sqrt(double(columns)) * parts <= double(sum) ? FEW_DIGITS : MANY_DIGITS;
}

// The digits of x as one whole number, rounded: x / s in units of the last digit.
void whole_token(const float* x, int64_t columns, float scale, int digits, int32_t* q) {
    const double factor = last_digit(digits) / scale, magic = 0x1.8p52;
    for (int64_t c = 0; c < columns; c++) q[c] = int32_t(x[c] * factor + magic - magic);
}

// Takes the last digit, −128 to 127, off each number.
void take_digit(int32_t* numbers, int64_t columns, int8_t* digit) {
    for (int64_t c = 0; c < columns; c++) {
        digit[c] = int8_t(numbers[c]);
        numbers[c] = (numbers[c] - digit[c]) >> 8;
    }
}

}  // namespace

extern "C" {

const char* kernel_name(int i) { return found(i) ? found(i)->name : nullptr; }

// y (tokens, rows) from x (tokens, columns), rounded to int8 token by token first if `int8`.
void packed_product(const Weight* w, const float* x, int64_t tokens, const float* bias, float* y, int int8, int kernel, int threads) {
    const Kernels* use = found(kernel);
    const int smallest = w->bits & -w->bits;  // bits of a code in the last plane
    if (w->groups > 1 && w->group_size % (8 / smallest)) use = &portable;  // groups that begin inside a byte
    if (int8 && w->group_size > 65536) use = &portable;                    // sums that may not fit in 32 bits
    if (!int8 && !std::isfinite(largest(x, tokens * w->columns))) use = &portable;
    const bool by_tables = tokens == 1 && use->table_rows && w->bits == 1 && w->group_size % 32 == 0 && !(int8 && w->group_size > 256);
    const bool in_digits = !int8 && tokens == 1 && use->few_digit_rows && w->group_size <= 65536 && !by_tables;
    const int64_t columns = w->columns, parts = 8 / first_plane(w->bits);
    const int digits = int8 ? 1 : in_digits ? digits_for(x, columns) : 0, step = by_tables ? 0 : digits ? use->int8_step : use->float_step;
    Order order = {columns, together(*w, step) * w->group_size, parts, step, std::max(digits, 1)};
    if (!step) order = {columns, columns, 1, columns, 1};
    Input in = {};
    in.tokens = tokens;
    in.stride = order.size();
    std::vector<float> floats(digits ? 0 : tokens * in.stride), scales(tokens), sums(tokens * w->groups);
    std::vector<int8_t> integers(digits ? tokens * in.stride : 0), row(columns);
    std::vector<int32_t> whole(columns);
    for (int64_t t = 0; t < tokens; t++) {
        const float* from = x + t * columns;
        float* sum = sums.data() + t * w->groups;
        int8_t* to = integers.data() + t * in.stride;
        scales[t] = scale_of(from, columns);
        if (digits == 0) {
            order.place(from, floats.data() + t * in.stride);
            for (int64_t g = 0; g < w->groups; g++) sum[g] = sum_of(from + g * w->group_size, w->end(g) - g * w->group_size);
        }
        if (digits == 1) {
            round_token(from, columns, scales[t], row.data());
            order.place(row.data(), to);
            for (int64_t g = 0; g < w->groups; g++) sum[g] = sum_of(row.data() + g * w->group_size, w->end(g) - g * w->group_size);
        }
        if (digits > 1) {
            whole_token(from, columns, scales[t], digits, whole.data());
            for (int64_t g = 0; g < w->groups; g++) sum[g] = sum_of(whole.data() + g * w->group_size, w->end(g) - g * w->group_size) * float(256 / last_digit(digits));
            for (int d = digits; d-- > 0;) {
                take_digit(whole.data(), columns, row.data());
                order.place(row.data(), to + d * order.step);
            }
        }
    }
    in.x = floats.data(), in.q = digits ? integers.data() : nullptr, in.q_scale = scales.data(), in.sum = sums.data();
    Rows* product = by_tables ? use->table_rows : int8 ? use->int8_rows : use->float_rows;
    if (in_digits) product = digits == FEW_DIGITS ? use->few_digit_rows : use->many_digit_rows;
    share(w->rows, threads, [&](Range rows) { product(*w, in, bias, y, rows); });
}

// y (tokens, rows) = q Wᵀ exactly; q (tokens, columns) and w (rows, columns) int8.
void integer_product(const int8_t* w, const int8_t* q, int64_t tokens, int64_t rows, int64_t columns, int32_t* y, int kernel, int threads) {
    std::vector<float> sums(tokens);
    for (int64_t t = 0; t < tokens; t++) sums[t] = sum_of(q + t * columns, columns);
    Input in = {};
    in.tokens = tokens, in.stride = columns, in.q = q, in.sum = sums.data();
    share(rows, threads, [&](Range range) { found(kernel)->integer_rows(w, in, y, rows, range); });
}
}
