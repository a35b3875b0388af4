"""Lesson 3.6: the exponent of a measured cost and its error, what GPTQ multiplies, fixed costs,
operations of a training run.
"""

import math

import torch

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick


def measurements(rng: torch.Generator) -> dict:
    """Noisy times of a power law at unevenly spaced sizes."""
    n = int(torch.randint(4, 8, (), generator=rng))
    exponent = 0.5 + 2 * float(torch.rand((), generator=rng))
    steps = (1 + 2 * torch.rand(n, generator=rng, dtype=torch.float64)).cumsum(0)
    sizes = [round(10 * 2 ** float(s)) for s in steps]
    noise = (0.2 * torch.randn(n, generator=rng, dtype=torch.float64)).exp().tolist()
    return {
        "sizes": sizes,
        "seconds": [1e-4 * s**exponent * e for s, e in zip(sizes, noise, strict=True)],
    }


def line(x: list, y: list) -> tuple[float, list, float]:
    """Slope, residuals and Σ (x − x̄)² of the least-squares line."""
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - x_mean) ** 2 for a in x)
    slope = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / spread
    return slope, [b - y_mean - slope * (a - x_mean) for a, b in zip(x, y, strict=True)], spread


def logs(values: list) -> list:
    return [math.log(v) for v in values]


def exponent(sizes: list, seconds: list) -> float:
    """The least-squares slope of log t on log N."""
    return line(logs(sizes), logs(seconds))[0]


def through_the_origin(sizes, seconds):
    x, y = logs(sizes), logs(seconds)
    return sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)


def slope_error(sizes: list, seconds: list) -> float:
    """√( Σ r² / (n − 2) / Σ (x − x̄)² ) for the line through x = log N, y = log t."""
    _, left, spread = line(logs(sizes), logs(seconds))
    return math.sqrt(sum(r * r for r in left) / (len(sizes) - 2) / spread)


def with_formula(formula, transform=logs):
    """A wrong error: formula(Σ r², n, S)."""

    def error(sizes, seconds):
        _, left, spread = line(transform(sizes), transform(seconds))
        return formula(sum(r * r for r in left), len(sizes), spread)

    return error


def shapes(rng: torch.Generator) -> dict:
    return {
        "rows": int(torch.randint(3, 30, (), generator=rng)),
        "columns": pick(rng, 5, 8, 17, 40),
    }


def walk_multiplications(rows: int, columns: int) -> int:
    """GPTQ's walk: each row's error at column i is multiplied once for each later column."""
    count = 0
    for _ in range(rows):
        for i in range(columns):
            count += columns - (i + 1)
    return count


# --- which part of GPTQ is largest ---


def matrices(rng: torch.Generator) -> dict:
    """One of four kinds by seed: many tokens, few tokens and few rows, many rows, tokens just above
    the columns.
    """
    kind = rng.initial_seed() % 4
    columns = pick(rng, 512, 1024, 4096)
    many, few = (float(torch.rand((), generator=rng)) for _ in range(2))
    rows, tokens = {
        0: (0.5 + 8 * many, 20 + 40 * few),
        1: (1.2 + 0.6 * many, 0.3 + 0.5 * few),
        2: (3.0 + 0.6 * many, 1.1 + 0.3 * few),
        3: (0.2 + 0.7 * many, 1.2 + 0.5 * few),
    }[kind]
    return {"rows": int(rows * columns), "columns": columns, "tokens": int(tokens * columns)}


def largest_part(rows: int, columns: int, tokens: int, *, half=0.5, hessian=None, walk=None) -> str:
    """ "Hessian" (tokens · d_col²), "factor" (d_col³) or "walk" (d_row · d_col (d_col − 1) / 2):
    what multiplies most.
    """
    parts = {
        "Hessian": tokens * columns**2 if hessian is None else hessian(rows, columns, tokens),
        "factor": columns**3,
        "walk": half * rows * columns * (columns - 1) if walk is None else walk(rows, columns),
    }
    return max(parts, key=lambda name: parts[name])


# --- a fixed cost beside one that grows ---


def fixed_and_growing(rng: torch.Generator) -> dict:
    fixed, each = (10 ** (-4 + 2 * float(torch.rand((), generator=rng))) for _ in range(2))
    return {"fixed": fixed, "each": each / 100, "size": pick(rng, 10, 100, 1000)}


def local_exponent(fixed: float, each: float, size: float) -> float:
    """D log t / d log N of t = fixed + each · N, which is each · N / (fixed + each · N)."""
    return each * size / (fixed + each * size)


# --- operations of a training run ---


def training_runs(rng: torch.Generator) -> dict:
    student = pick(rng, 2, 3, 5) * 10**6
    return {
        "student": student, "teacher": student * pick(rng, 4, 7, 10),
        "tokens": pick(rng, 1000, 30_000), "passes": pick(rng, 2, 3, 5),
        "stored": rng.initial_seed() % 2 == 0,
    }  # fmt: skip


def training_operations(
    student: int, teacher: int, tokens: int, passes: int, stored: bool, *, forward=2,
    backward=4, asked=2,
    teacher_passes=None,
) -> int:  # fmt: skip
    """Passes · tokens · 6 N_S, and 2 N_T a token for each pass in which the teacher answers: one if
    answers are stored.
    """
    times = (1 if stored else passes) if teacher_passes is None else teacher_passes(passes, stored)
    return passes * tokens * (forward + backward) * student + times * tokens * asked * teacher


def with_run(**change):
    return lambda **given: training_operations(**given, **change)


EXERCISES = [
    Exercise(
        id="costs.exponent", kind="formula", difficulty=1, minutes=5,
        inputs=measurements, spec=exponent, tolerance=1e-6, lesson="3.6-what-it-costs", trials=4,
        mistakes={
            "no_logarithms": lambda sizes, seconds: line(sizes, seconds)[0],
            "log_of_time_only": lambda sizes, seconds: line(sizes, logs(seconds))[0],
            "log_of_size_only": lambda sizes, seconds: line(logs(sizes), seconds)[0],
            "ends_only": lambda sizes, seconds:
                math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0]),
            "other_way_round": lambda sizes, seconds: line(logs(seconds), logs(sizes))[0],
            "through_the_origin": through_the_origin,
            "two_logarithms": lambda sizes, seconds:
                line([math.log2(s) for s in sizes], logs(seconds))[0],
        },
    ),
    Exercise(
        id="costs.slope_error", kind="formula", difficulty=2, minutes=5,
        inputs=measurements, spec=slope_error, tolerance=1e-6, lesson="3.6-what-it-costs", trials=4,
        mistakes={
            "divided_by_n": with_formula(lambda r, n, S: math.sqrt(r / n / S)),
            "one_parameter": with_formula(lambda r, n, S: math.sqrt(r / (n - 1) / S)),
            "residuals_only": with_formula(lambda r, n, S: math.sqrt(r / (n - 2))),
            "not_the_root": with_formula(lambda r, n, S: r / (n - 2) / S),
            "of_the_mean": with_formula(lambda r, n, S: math.sqrt(r / (n - 2) / n)),
            "no_logarithms": with_formula(lambda r, n, S: math.sqrt(r / (n - 2) / S), list),
        },
    ),
    Exercise(
        id="costs.walk_multiplications", kind="step", difficulty=1, minutes=5,
        inputs=shapes, spec=walk_multiplications, tolerance=0, lesson="3.6-what-it-costs",
        trials=6,
        mistakes={
            "all_columns": lambda rows, columns: rows * columns**2,
            "about": lambda rows, columns: rows * columns**2 / 2,
            "without_half": lambda rows, columns: rows * columns * (columns - 1),
            "itself_too": lambda rows, columns: rows * columns * (columns + 1) // 2,
            "one_row": lambda rows, columns: columns * (columns - 1) // 2,
            "rows_for_columns": lambda rows, columns: columns * rows * (rows - 1) // 2,
            "all_pairs": lambda rows, columns: (rows * columns) ** 2,
        },
    ),
    Exercise(
        id="costs.largest_part", kind="decide", difficulty=1, minutes=5,
        inputs=matrices, spec=largest_part, lesson="3.6-what-it-costs", trials=8,
        mistakes={
            "without_half": lambda rows, columns, tokens:
                largest_part(rows, columns, tokens, half=1),
            "all_pairs": lambda rows, columns, tokens:
                largest_part(rows, columns, tokens, walk=lambda r, c: (r * c) ** 2),
            "hessian_linear": lambda rows, columns, tokens:
                largest_part(rows, columns, tokens, hessian=lambda r, c, n: n * c),
            "always_hessian": lambda rows, columns, tokens: "Hessian",
            "rows_for_columns": lambda rows, columns, tokens: largest_part(columns, rows, tokens),
        },
    ),
    Exercise(
        id="costs.local_exponent", kind="step", difficulty=2, minutes=8,
        inputs=fixed_and_growing, spec=local_exponent, lesson="3.6-what-it-costs", trials=4,
        mistakes={
            "one": lambda fixed, each, size: 1.0,
            "share_of_fixed": lambda fixed, each, size: fixed / (fixed + each * size),
            "slope": lambda fixed, each, size: each,
            "of_time": lambda fixed, each, size: each / (fixed + each * size),
            "ratio": lambda fixed, each, size: each * size / fixed,
        },
    ),
    Exercise(
        id="costs.training_operations", kind="design", difficulty=2, minutes=8,
        inputs=training_runs, spec=training_operations, lesson="3.6-what-it-costs", trials=6,
        mistakes={
            "teacher_learns": with_run(asked=6),
            "forward_only": with_run(backward=0),
            "never_stored": with_run(teacher_passes=lambda passes, stored: passes),
            "always_stored": with_run(teacher_passes=lambda passes, stored: 1),
            "teacher_free": with_run(teacher_passes=lambda passes, stored: 0 if stored else passes),
            "one_pass": lambda student, teacher, tokens, passes, stored:
                training_operations(student, teacher, tokens, 1, stored),
            "backward_once": with_run(backward=2),
        },
    ),
]  # fmt: skip
