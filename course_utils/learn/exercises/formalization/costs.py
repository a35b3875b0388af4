"""Lesson 3.6: the exponent of a measured cost, its standard error, the multiplications of GPTQ's walk."""

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
    return {"sizes": sizes, "seconds": [1e-4 * s**exponent * e for s, e in zip(sizes, noise, strict=True)]}


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
    return {"rows": int(torch.randint(3, 30, (), generator=rng)), "columns": pick(rng, 5, 8, 17, 40)}


def walk_multiplications(rows: int, columns: int) -> int:
    """GPTQ's walk: each row's error at column i is multiplied once for each later column."""
    count = 0
    for _ in range(rows):
        for i in range(columns):
            count += columns - (i + 1)
    return count


EXERCISES = [
    Exercise(
        id="costs.exponent", inputs=measurements, spec=exponent, tolerance=1e-6, lesson="3.6-what-it-costs", trials=4,
        mistakes={
            "no_logarithms": lambda sizes, seconds: line(sizes, seconds)[0],
            "log_of_time_only": lambda sizes, seconds: line(sizes, logs(seconds))[0],
            "log_of_size_only": lambda sizes, seconds: line(logs(sizes), seconds)[0],
            "ends_only": lambda sizes, seconds: math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0]),
            "other_way_round": lambda sizes, seconds: line(logs(seconds), logs(sizes))[0],
            "through_the_origin": through_the_origin,
            "two_logarithms": lambda sizes, seconds: line([math.log2(s) for s in sizes], logs(seconds))[0],
        },
    ),
    Exercise(
        id="costs.slope_error", inputs=measurements, spec=slope_error, tolerance=1e-6, lesson="3.6-what-it-costs", trials=4,
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
        id="costs.walk_multiplications", inputs=shapes, spec=walk_multiplications, tolerance=0, lesson="3.6-what-it-costs",
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
]  # fmt: skip
