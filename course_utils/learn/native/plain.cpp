// A plain read of what a product reads, with nothing computed from it: the speed that a kernel is compared with.
#include <cstdint>
#include <cstring>

typedef uint64_t Words __attribute__((vector_size(64)));  // compiled to whatever the processor reads at once

static uint64_t read(const void *from, int64_t bytes) {
    const char *data = static_cast<const char *>(from);
    Words sums[2] = {};
    int64_t i = 0;
    for (; i + 128 <= bytes; i += 128) {
        Words words[2];
        std::memcpy(words, data + i, 128);
        sums[0] += words[0], sums[1] += words[1];
    }
    uint64_t all = 0;
    for (; i < bytes; ++i) all += static_cast<unsigned char>(data[i]);
    for (int k = 0; k < 8; ++k) all += sums[0][k] + sums[1][k];
    return all;
}

extern "C" void product(const uint8_t *codes, const float *scale, const uint8_t *zero, const float *x, float *y, int64_t rows,
                        int64_t columns, int64_t group, int64_t batch) {
    const int64_t each = (columns + group - 1) / group;  // groups of a row
    y[0] = static_cast<float>(read(codes, rows * ((columns + 1) / 2)) + read(scale, rows * each * 4) +
                              read(zero, rows * each) + read(x, batch * columns * 4));
}
