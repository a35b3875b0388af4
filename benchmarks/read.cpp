// The plainest use of memory: add up n 64-bit numbers, in 8 streams, because one alone does not reach the full speed.
#include <cstdint>

extern "C" uint64_t read_all(const uint64_t* numbers, int64_t n, int threads) {
    uint64_t sum = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : sum) if (threads > 1)
    for (int t = 0; t < threads; t++) {
        const int64_t part = n / threads / 8 / 64 * 64;
        const uint64_t* from = numbers + n / threads * t;
        for (int64_t i = 0; i < part; i += 8)
            for (int stream = 0; stream < 8; stream++)
                for (int j = 0; j < 8; j++) sum += from[stream * part + i + j];
    }
    return sum;
}
