"""Kernels of lab 5.1 that try something, as source texts: ATTACKS with what is said of them, HONEST
in odd styles.

An attack on correctness would pass if the try succeeded; one on time ("…, timed") is right, or
pretends to be.
`attack_table.py --write` puts them into docs/attacks.md.
"""

from course_utils.learn.exercises.labs._int4_kernels import FAST, SCALAR

HEAD, _, _ = SCALAR.partition("extern")
BODY = SCALAR.removeprefix(HEAD)
FAST_ALONE = FAST.replace('extern "C" void product', "static void honest")
SIGNATURE = BODY[: BODY.index("{") + 1]
GIVEN = "codes, scale, zero, x, y, rows, columns, group, batch"
RENAMED = BODY.replace('extern "C" void product', "static void honest")


def before(statement, top=""):
    """The right product, with a statement before it."""
    return f"{HEAD}{top}\n{RENAMED}\n{SIGNATURE}\n    {statement}\n    honest({GIVEN});\n}}\n"


def loaded(statement, top=""):
    """The right product, with code that runs when it is loaded."""
    return (
        f"{HEAD}{top}\n__attribute__((constructor)) static void loaded() {{ {statement} }}\n{BODY}"
    )


LAST = (
    "const int64_t width = (columns + 1) / 2, groups = (columns + group - 1) / group; (void)width; "
    "(void)groups;\n"
)
LATE = (  # the first answer is made so late that one which was given before has been looked at
    "static bool first = true; if (first) for (volatile long i = 0; i < (1L << 28); "
    "++i) {} first = false; y[b * rows + r] = sum * 2;"
)
SYSCALLS = "#include <unistd.h>\n#include <sys/syscall.h>\n#include <fcntl.h>\n"

ATTACKS = {  # name: (source, reason)
    "reads past its codes": (
        before(LAST + "volatile uint8_t v = codes[rows * width]; (void)v;"),
        "after",
    ),
    "reads before its codes": (before("volatile uint8_t v = codes[-1]; (void)v;"), "before"),
    "reads past x": (before("volatile float v = x[batch * columns]; (void)v;"), "after"),
    "reads far past its scales": (
        before(LAST + "volatile float v = scale[rows * groups + 100000]; (void)v;"),
        "after",
    ),
    "writes past y": (before("y[batch * rows] = 0;"), "after"),
    "writes before y": (before("y[-1] = 0;"), "wrote_around"),
    "writes into its codes": (before("const_cast<uint8_t*>(codes)[0] = 0;"), "wrote_input"),
    "writes through nothing": (before("*(volatile int*)0 = 1;"), "memory"),
    "computes one row only": (before("rows = rows > 1 ? rows - 1 : rows;"), "wrong"),
    "remembers its first answers": (
        before(
            (
                "using std::size_t; static std::map<int64_t, std::vector<float>> kept; auto& k = "
                "kept[rows * 1000003 + columns * 101 + group + batch * 7919]; if (!k.empty()) { "
                "for (size_t i = 0; i < k.size(); ++i) y[i] = k[i]; return; } honest(codes, scale, "
                "zero, x, y, rows, columns, group, batch); k.assign(y, y + rows * batch);"
            ),
            "#include <map>\n#include <vector>",
        ),
        "wrong",
    ),
    "starts a thread": (before("std::thread([] {}).join();", "#include <thread>"), "system_call"),
    "starts a process": (before("if (fork() == 0) _exit(0);", SYSCALLS), "system_call"),
    "starts a program": (before('system("id");', "#include <cstdlib>"), "system_call"),
    "sleeps": (before("usleep(10);", SYSCALLS), "system_call"),
    "opens a file": (before('open("/etc/passwd", O_RDONLY);', SYSCALLS), "system_call"),
    "writes a file": (
        before('FILE* f = fopen("out", "w"); if (f) fclose(f);', "#include <cstdio>"),
        "system_call",
    ),
    "opens a socket": (before("syscall(__NR_socket, 2, 1, 0);", SYSCALLS), "system_call"),
    "asks for the time by a system call": (
        before("long t[2]; syscall(__NR_clock_gettime, 1, t);", SYSCALLS),
        "system_call",
    ),
    "takes the guards away": (
        before("syscall(__NR_mprotect, ((long)codes & -4096) - 4096, 8192, 3);", SYSCALLS),
        "system_call",
    ),
    "handles its faults": (
        before(
            "signal(SIGSEGV, SIG_IGN); volatile uint8_t v = codes[-1]; (void)v;",
            "#include <csignal>",
        ),
        "system_call",
    ),
    "kills": (before("kill(-1, 9);", "#include <csignal>"), "system_call"),
    "handles its faults when loaded": (
        loaded("signal(SIGSEGV, SIG_IGN);", "#include <csignal>").replace(
            "float sum = 0;", "float sum = 0; volatile uint8_t v = codes[-1]; (void)v;"
        ),
        "before",
    ),
    "starts a thread when loaded": (
        loaded("std::thread([] { for (;;) {} }).detach();", "#include <thread>"),
        "aborted",
    ),
    "ends when loaded": (loaded("_exit(0);", SYSCALLS), "ended"),
    "runs forever when loaded": (loaded('for (;;) asm volatile("");'), "slow"),
    "throws": (before("throw 1;"), "exception"),
    "aborts": (before("abort();", "#include <cstdlib>"), "aborted"),
    "exits": (before("exit(0);", "#include <cstdlib>"), "ended"),
    "runs forever": (before('for (;;) asm volatile("");'), "slow"),
    "divides by zero": (before("volatile int64_t n = 0; if (rows / n) return;"), "signal"),
    "fills the stack": (
        before(
            "f(1);",
            (
                "static int f(volatile int n) { volatile char a[4096]; a[n & 7] = n; "
                "return f(n + 1) + a[n & 7]; }"
            ),
        ),
        "memory",
    ),
    "takes all memory": (
        before("for (;;) *(char* volatile*)&kept = new char[1 << 30];", "static char* kept;"),
        "exception",
    ),
    "answers before it is asked": (
        loaded(
            "char b[64] = {}; for (int f = 3; f < 1024; ++f) if (write(f, b, 64)) {}", SYSCALLS
        ).replace("y[b * rows + r] = sum;", LATE),
        "not_written",
    ),
    "includes a file of the host": ('#include "/etc/passwd"\n' + SCALAR, "not_compiled"),
    "includes the course's kernel": (
        '#include "COURSE/learn/exercises/labs/_int4_kernels.py"\n' + SCALAR,
        "not_compiled",
    ),
    "takes a file in as bytes": (
        SCALAR + '\nasm(".section .rodata\\n.incbin \\"/etc/passwd\\"\\n.text");\n',
        "not_compiled",
    ),
    "includes an endless device": ('#include "/dev/zero"\n' + SCALAR, "not_compiled"),
    "includes itself": ('#include "kernel.cpp"\n' + SCALAR, "not_compiled"),
    "a template without end": (
        (
            "template <int N> struct A { static constexpr int v = A<N + 1>::v + A<N + 2>::v; };\n"
            "int a = A<0>::v;\n"
        )
        + SCALAR,
        "not_compiled",
    ),
    "an enormous library": (SCALAR + "\nchar big[1 << 30] = {1};\n", "not_compiled"),
    "no product": (SCALAR.replace("void product", "void produkt"), "no_product"),
    "a C++ name": (SCALAR.replace('extern "C" ', ""), "no_product"),
    "nothing": ("", "no_product"),
    "not C++": ("def product(codes):\n    return codes\n", "not_compiled"),
    "calls what is nowhere": (before("nowhere();", "void nowhere();"), "not_compiled"),
    "shuts the compiler up": (
        '#pragma GCC diagnostic ignored "-Wall"\n#pragma GCC system_header\n#error no\n',
        "not_compiled",
    ),
}
SKIPPING = (
    f"{FAST_ALONE}\n{SIGNATURE}\n"
    "    if (rows > 10000) { for (int64_t i = 0; i < rows; ++i) y[i] = 0; rows /= 2; }\n"
    f"    honest({GIVEN});\n}}\n"
)
REMEMBERING = (
    f"{FAST_ALONE}\n{SIGNATURE}\n    static std::vector<float> kept;\n"
    "    if (rows > 10000 && !kept.empty()) { for (int64_t i = 0; i < rows; ++i) y[i] = kept[i]; "
    f"return; }}\n    honest({GIVEN});\n    if (rows > 10000) kept.assign(y, y + rows);\n}}\n"
)
TIMED = {  # right on small shapes; measured
    "half of the rows, timed": (SKIPPING, "wrong_timed"),
    "remembers its answer, timed": (REMEMBERING, "wrong_timed"),
}
AHEAD = "{ volatile int64_t n = 0; for (int64_t i = 0; i < 300000000; ++i) n = n + 1; }"
LATE = f"""{FAST_ALONE}
#include <unistd.h>
{SIGNATURE}
    if (rows > 10000) {{  // answers first, works then, and takes back the byte that asks for the next call
        char done = 'd';
        for (int f = 3; f < 1024; ++f) if (write(f, &done, 1)) {{}}
        {AHEAD}
    }}
    honest({GIVEN});
}}
"""
TIMED["answers first, works then, timed"] = (LATE, "wrong_timed")

HONEST = {  # name: source
    "a plain loop": SCALAR,
    "the course's fast one": FAST,
    "float, whole rows unpacked first": HEAD + """#include <vector>
extern "C" void product(const uint8_t* codes, const float* scale, const uint8_t* zero, const float* x, float* y,
                        int64_t rows, int64_t columns, int64_t group, int64_t batch) {
    std::vector<float> w(columns);
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = 0; j < columns; ++j) {
            const int64_t g = r * ((columns + group - 1) / group) + j / group;
            w[j] = scale[g] * ((codes[r * ((columns + 1) / 2) + j / 2] >> (4 * (j & 1)) & 15) - zero[g]);
        }
        for (int64_t b = 0; b < batch; ++b) {
            float sum = 0;
            for (int64_t j = 0; j < columns; ++j) sum += w[j] * x[b * columns + j];
            y[b * rows + r] = sum;
        }
    }
}
""",
    "double, columns outside": HEAD + """#include <vector>
extern "C" void product(const uint8_t* codes, const float* scale, const uint8_t* zero, const float* x, float* y,
                        int64_t rows, int64_t columns, int64_t group, int64_t batch) {
    std::vector<double> sums(rows * batch);
    for (int64_t j = 0; j < columns; ++j)
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t g = r * ((columns + group - 1) / group) + j / group;
            const double w = double(scale[g]) * ((codes[r * ((columns + 1) / 2) + j / 2] >> (4 * (j & 1)) & 15) - int(zero[g]));
            for (int64_t b = 0; b < batch; ++b) sums[b * rows + r] += w * x[b * columns + j];
        }
    for (int64_t i = 0; i < rows * batch; ++i) y[i] = sums[i];
}
""",
    "templates, a table, OpenMP": """#include <array>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <iostream>
template <class T>
struct Row {
    const T* codes; const float* scale; const T* zero; int64_t columns, group;
    float at(int64_t j) const {
        static const std::array<std::array<float, 2>, 256> table = [] {
            std::array<std::array<float, 2>, 256> t{};
            for (int i = 0; i < 256; ++i) t[i] = {float(i & 15), float(i >> 4)};
            return t;
        }();
        return scale[j / group] * (table[codes[j / 2]][j % 2] - zero[j / group]);
    }
};
extern "C" void product(const uint8_t* codes, const float* scale, const uint8_t* zero, const float* x, float* y,
                        int64_t rows, int64_t columns, int64_t group, int64_t batch) {
    const int64_t groups = (columns + group - 1) / group;
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t r = 0; r < rows; ++r) {
            const Row<uint8_t> row{codes + r * ((columns + 1) / 2), scale + r * groups, zero + r * groups, columns, group};
            float sum = 0;
            try {
                if (columns < 0) throw std::runtime_error("no columns");
#pragma omp simd reduction(+ : sum)
                for (int64_t j = 0; j < columns; ++j) sum += row.at(j) * x[b * columns + j];
            } catch (const std::exception& error) {
                std::cerr << error.what();
            }
            y[b * rows + r] = sum;
        }
}
""",
    "prints": before('printf("%d rows\\n", int(rows)); std::fflush(stdout);', "#include <cstdio>"),
    "rows from the last, pragmas": before(";").replace("static void honest",
        "#pragma GCC push_options\n#pragma GCC optimize(\"O2\")\nstatic void honest").replace(
            "for (int64_t r = 0; r < rows; ++r)", "for (int64_t r = rows - 1; r >= 0; --r)"),
}  # fmt: skip

SECTION = "## Kernels in C++"
ABOUT = f"""{SECTION}

Lab 5.1 compiles what learners wrote. Each row is a kernel that tries something, and why it gets no points (the texts are in
`learn/text/en/kernels.yaml`); `tests/grade/test_kernels.py` gives each of them to the sandboxes of the grader.
"""


def section():
    """The part of docs/attacks.md about kernels."""
    lines = [f"| {name} | {reason} |" for name, (_, reason) in [*ATTACKS.items(), *TIMED.items()]]
    taken = "Taken, as honest: " + "; ".join(HONEST) + "."
    return "\n".join([ABOUT, "| kernel | refused as |", "|---|---|", *lines, "", taken, ""])
