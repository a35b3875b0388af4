// Runs products whose numbers come from stdin and go to stdout: a way to test the kernels of another processor under
// an emulator. Without input it prints the names of the kernels, best first. The case's layout is in test_arm.py.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels.h"

extern "C" {
const char* kernel_name(int i);
void packed_product(const Weight* w, const float* x, int64_t tokens, const float* bias, float* y, int int8, int kernel, int threads);
void integer_product(const int8_t* w, const int8_t* q, int64_t tokens, int64_t rows, int64_t columns, int32_t* y, int kernel, int threads);
}

template <typename Number>
std::vector<Number> read(int64_t count) {
    std::vector<Number> numbers(count);
    if (int64_t(fread(numbers.data(), sizeof(Number), count, stdin)) != count) exit(2);
    return numbers;
}

int main() {
    int64_t h[15];
    bool any = false;
    while (fread(h, sizeof h, 1, stdin) == 1) {
        any = true;
        const int64_t rows = h[0], columns = h[1], groups = h[2], tokens = h[9];
        const int int8 = int(h[12]), kernel = int(h[13]);
        if (int8 == 2) {  // both sides are integers
            const auto w = read<int8_t>(rows * columns), q = read<int8_t>(tokens * columns);
            std::vector<int32_t> y(tokens * rows);
            integer_product(w.data(), q.data(), tokens, rows, columns, y.data(), kernel, 1);
            fwrite(y.data(), 4, y.size(), stdout);
            continue;
        }
        const auto codes = read<uint8_t>(rows * h[3]), scale = read<uint8_t>(rows * groups * (h[8] == FLOAT ? 4 : h[8] == HALF ? 2 : 1));
        const auto zero = read<uint8_t>(h[10] ? rows * h[4] : 0);
        const auto factor = read<float>(h[14]);
        const auto x = read<float>(tokens * columns), bias = read<float>(h[11] ? rows : 0);
        const Weight w = {codes.data(), scale.data(), h[10] ? zero.data() : nullptr, h[14] ? factor.data() : nullptr, rows, columns, groups, h[3], h[4],
                          h[5], h[6], int32_t(h[7]), int32_t(h[8])};
        std::vector<float> y(tokens * rows);
        packed_product(&w, x.data(), tokens, h[11] ? bias.data() : nullptr, y.data(), int8, kernel, 1);
        fwrite(y.data(), 4, y.size(), stdout);
    }
    for (int i = 0; !any && kernel_name(i); i++) puts(kernel_name(i));
}
