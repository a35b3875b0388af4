// The process in which a kernel that nobody has read runs: it calls `product` when it is asked to, and does nothing else.
//
//     runner LIBRARY CONTROL INPUTS OUTPUTS    (three descriptors)
//
// INPUTS, which can only be read here, begins with the number of trials and a `Trial` for each; every buffer is mapped
// between pages that nobody may touch. For each int32 from CONTROL that trial is called, and one byte answers. What went
// wrong is left in the first page of OUTPUTS. Whoever started this process trusts none of it: results are compared, and
// time is taken, outside. After the library is loaded a system call that a product has no use for ends the process.
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <initializer_list>
#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

namespace {

constexpr int64_t GUARD = 1 << 20;
constexpr int BUFFERS = 5;  // codes, scale, zero, x, y

using Product = void (*)(const uint8_t *, const float *, const uint8_t *, const float *, float *, int64_t, int64_t, int64_t,
                         int64_t);

struct Buffer {
    int64_t offset, length, start, bytes;  // whole pages of a file; where the buffer begins in them, and its size
};
struct Trial {
    int64_t rows, columns, group, batch;
    Buffer buffers[BUFFERS];
};
struct Status {
    int64_t state, buffer, place;
};
enum State { LOADING = 1, NOT_LOADED, NO_PRODUCT, RUNNING, MEMORY, EXCEPTION, SIGNAL };

Status *status;
const Trial *current;
char *(*places)[BUFFERS];
const Trial *trials;

void fell(int number, siginfo_t *about, void *) {
    status->state = SIGNAL;
    status->buffer = number;
    if ((number == SIGSEGV || number == SIGBUS) && current) {
        status->state = MEMORY;
        status->buffer = -1;
        char *address = static_cast<char *>(about->si_addr);
        for (int i = 0; i < BUFFERS; ++i) {
            const Buffer &b = current->buffers[i];
            char *begin = places[current - trials][i], *pages = begin - b.start;
            if (address >= pages - GUARD && address < pages + b.length + GUARD) {
                status->buffer = i;
                status->place = address - begin;
            }
        }
    }
    _exit(3);
}

char *mapped(int file, const Buffer &buffer, int access) {
    char *room = static_cast<char *>(
        mmap(nullptr, buffer.length + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (room == MAP_FAILED) _exit(4);
    int flags = MAP_SHARED | MAP_FIXED;
#ifdef MAP_POPULATE
    flags |= MAP_POPULATE;
#endif
    if (mmap(room + GUARD, buffer.length, access, flags, file, buffer.offset) == MAP_FAILED) _exit(4);
    return room + GUARD + buffer.start;
}

#ifdef __linux__
template <int N>
void allow(const int (&calls)[N], unsigned otherwise) {
    sock_filter lines[2 * N + 4];
    lines[0] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
    for (int i = 0; i < N; ++i) {
        lines[2 * i + 1] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(calls[i]), 0, 1);
        lines[2 * i + 2] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    lines[2 * N + 1] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_mmap, 0, 1);  // malloc, when the heap is full
    lines[2 * N + 2] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM);
    lines[2 * N + 3] = BPF_STMT(BPF_RET | BPF_K, otherwise);
    sock_fprog program = {static_cast<unsigned short>(2 * N + 4), lines};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);  // where the kernel has no filters there are none
}

const int TO_RUN[] = {__NR_read, __NR_write, __NR_futex, __NR_brk, __NR_exit, __NR_exit_group, __NR_rt_sigprocmask,
                      __NR_rt_sigreturn, __NR_gettid, __NR_getpid, __NR_tgkill, __NR_madvise, __NR_fstat,
                      __NR_newfstatat, __NR_getrandom, __NR_lseek, __NR_ioctl};
const int TO_LOAD[] = {__NR_read, __NR_write, __NR_futex, __NR_brk, __NR_exit, __NR_exit_group, __NR_rt_sigprocmask,
                       __NR_rt_sigreturn, __NR_gettid, __NR_getpid, __NR_tgkill, __NR_madvise, __NR_fstat,
                       __NR_newfstatat, __NR_getrandom, __NR_lseek, __NR_ioctl, __NR_openat, __NR_close, __NR_mmap, __NR_mprotect,
                       __NR_munmap, __NR_pread64, __NR_prctl, __NR_prlimit64, __NR_getcwd, __NR_readlinkat};
#endif

void answer(int control, char byte) {
    if (write(control, &byte, 1) != 1) _exit(0);
}

}  // namespace

int main(int count, char **words) {
    if (count != 5) return 2;
    const int control = atoi(words[2]), inputs = atoi(words[3]), outputs = atoi(words[4]);
    status = static_cast<Status *>(mmap(nullptr, sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED, outputs, 0));
    const auto *size = static_cast<const int64_t *>(mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, inputs, 0));
    if (status == MAP_FAILED || size == MAP_FAILED) return 4;
    const int64_t n = *size;
    void *head = mmap(nullptr, sizeof(int64_t) + n * sizeof(Trial), PROT_READ, MAP_SHARED, inputs, 0);
    if (head == MAP_FAILED) return 4;
    trials = reinterpret_cast<const Trial *>(static_cast<const int64_t *>(head) + 1);
    places = static_cast<char *(*)[BUFFERS]>(malloc(n * sizeof(*places)));
    for (int64_t i = 0; i < n; ++i)
        for (int k = 0; k < BUFFERS; ++k) {
            const bool written = k == BUFFERS - 1;
            places[i][k] = mapped(written ? outputs : inputs, trials[i].buffers[k],
                                  written ? PROT_READ | PROT_WRITE : PROT_READ);
        }
    close(inputs);
    close(outputs);

    stack_t stack = {};
    stack.ss_size = 1 << 16;
    stack.ss_sp = malloc(stack.ss_size);
    sigaltstack(&stack, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = fell;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigaction(number, &action, nullptr);

    status->state = LOADING;
#ifdef __linux__
    mallopt(M_MMAP_MAX, 0);  // memory comes from one heap: there is no mmap later on
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    allow(TO_LOAD, SECCOMP_RET_ERRNO | EPERM);
#endif
    void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        status->state = NOT_LOADED;
        return 3;
    }
    const auto product = reinterpret_cast<Product>(dlsym(library, "product"));
    if (!product) {
        status->state = NO_PRODUCT;
        return 3;
    }
#ifdef __linux__
    allow(TO_RUN, SECCOMP_RET_KILL_PROCESS);
#endif
    status->state = RUNNING;
    answer(control, 'r');
    for (int32_t asked; read(control, &asked, sizeof asked) == sizeof asked;) {
        if (asked < 0 || asked >= n) break;
        current = trials + asked;
        char **at = places[asked];
        try {
            product(reinterpret_cast<const uint8_t *>(at[0]), reinterpret_cast<const float *>(at[1]),
                    reinterpret_cast<const uint8_t *>(at[2]), reinterpret_cast<const float *>(at[3]),
                    reinterpret_cast<float *>(at[4]), current->rows, current->columns, current->group, current->batch);
        } catch (...) {
            status->state = EXCEPTION;
            _exit(3);
        }
        answer(control, 'd');
    }
    _exit(0);
}
