"""Right and wrong answers to the exercises of costs."""

import math

import numpy as np

from course_utils.evaluation import scaling


def by_polyfit(sizes, seconds):
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def by_solving(sizes, seconds):
    A = np.stack([np.log10(sizes), np.ones(len(sizes))], 1)
    return np.linalg.lstsq(A, np.log10(seconds), rcond=None)[0][0]


def slope(x, y):
    return float(np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)[0])


def error_by_covariance(sizes, seconds):
    x, y = np.log(sizes), np.log(seconds)
    a, b = np.polyfit(x, y, 1)
    variance = ((y - a * x - b) ** 2).sum() / (len(x) - 2)
    return float(
        np.sqrt(
            variance
            * np.linalg.inv(np.stack([x, np.ones_like(x)]) @ np.stack([x, np.ones_like(x)]).T)[0, 0]
        )
    )


def error_by_correlation(sizes, seconds):
    x, y = np.log(sizes), np.log(seconds)
    r = np.corrcoef(x, y)[0, 1]
    return abs(y.std() / x.std()) * math.sqrt(max(0.0, 1 - r * r) / (len(x) - 2))


def parts(sizes, seconds, take=np.log):
    x, y = take(np.asarray(sizes, float)), take(np.asarray(seconds, float))
    a, b = np.polyfit(x, y, 1)
    return ((y - a * x - b) ** 2).sum(), len(x), ((x - x.mean()) ** 2).sum()


def wrong_error(formula, take=np.log):
    return lambda sizes, seconds: float(formula(*parts(sizes, seconds, take)))


def slope_of_sums(sizes, seconds):
    """(n Σxy − Σx Σy) / (n Σx² − (Σx)²) in logarithms to the base 10."""
    n, x_sum, y_sum, square_sum, product_sum = len(sizes), 0.0, 0.0, 0.0, 0.0
    for size, time in zip(sizes, seconds, strict=True):
        x, y = math.log10(size), math.log10(time)
        x_sum += x
        y_sum += y
        square_sum += x * x
        product_sum += x * y
    return (n * product_sum - x_sum * y_sum) / (n * square_sum - x_sum**2)


def largest_by_letters(rows, columns, tokens):
    """All three divided by columns²."""
    counts = [tokens, columns, rows * (1 - 1 / columns) / 2]
    return ("Hessian", "factor", "walk")[int(np.argmax(counts))]


def largest_by_sorting(rows, columns, tokens):
    later = columns * columns / 2  # one column in hundreds does not count
    return sorted(
        [
            (tokens * columns * columns, "Hessian"),
            (columns * columns * columns, "factor"),
            (rows * later, "walk"),
        ]
    )[-1][1]


def largest_by_questions(rows, columns, tokens):
    if tokens >= columns and 2 * tokens >= rows:
        return "Hessian"
    return "factor" if 2 * columns >= rows else "walk"


def slope_by_difference(fixed, each, size, step=1e-6):
    up, down = (math.log(fixed + each * size * math.exp(s)) for s in (step, -step))
    return (up - down) / (2 * step)


def operations_by_loop(student, teacher, tokens, passes, stored):
    total = 0
    for i in range(passes):
        total += 2 * student * tokens + 4 * student * tokens
        if i == 0 or not stored:
            total += 2 * teacher * tokens
    return total


def run(
    student_each=6,
    teacher_each=2,
    asked=lambda passes, stored: 1 if stored else passes,
    passed=lambda n: n,
):
    return lambda student, teacher, tokens, passes, stored: (
        tokens
        * (
            student_each * student * passed(passes)
            + teacher_each * teacher * asked(passed(passes), stored)
        )
    )


RIGHT = {
    "costs.largest_part": [largest_by_letters, largest_by_sorting, largest_by_questions],
    "costs.local_exponent": [
        slope_by_difference,
        lambda fixed, each, size: 1 - fixed / (fixed + each * size),
        lambda fixed, each, size: 1 / (1 + fixed / (each * size)),
    ],
    "costs.training_operations": [
        operations_by_loop,
        run(),
        lambda student, teacher, tokens, passes, stored: float(
            2 * tokens * (3 * passes * student + teacher * (passes, 1)[stored])
        ),
    ],
    "costs.exponent": [
        slope_of_sums,
        by_polyfit,
        by_solving,
        lambda sizes, seconds: scaling.fit(sizes, seconds).exponent,
    ],
    "costs.slope_error": [
        error_by_covariance,
        error_by_correlation,
        lambda sizes, seconds: scaling.fit(sizes, seconds).error,
    ],
    "costs.walk_multiplications": [
        lambda rows, columns: rows * columns * (columns - 1) // 2,
        lambda rows, columns: sum(rows * later for later in range(columns)),
        lambda rows, columns: rows * math.comb(columns, 2),
    ],
}
WRONG = {
    "costs.largest_part": [
        (
            lambda rows, columns, tokens: largest_by_letters(2 * rows, columns, tokens),
            "without_half",
        ),
        (
            lambda rows, columns, tokens: max(
                (tokens * columns**2, "Hessian"),
                (columns**3, "factor"),
                (rows**2 * columns**2, "walk"),
            )[1],
            "all_pairs",
        ),
        (
            lambda rows, columns, tokens: largest_by_sorting(rows, columns, tokens / columns),
            "hessian_linear",
        ),
        (lambda rows, columns, tokens: "Hessian", "always_hessian"),
        (
            lambda rows, columns, tokens: largest_by_letters(columns, rows, tokens),
            "rows_for_columns",
        ),
        (lambda rows, columns, tokens: "walk", "all_pairs"),
        (lambda rows, columns, tokens: "factor", None),
        (lambda rows, columns, tokens: "hessian" if tokens > columns else "factor", None),
    ],
    "costs.local_exponent": [
        (lambda fixed, each, size: 1, "one"),
        (lambda fixed, each, size: 1 / (1 + each * size / fixed), "share_of_fixed"),
        (lambda fixed, each, size: (fixed + each * (size + 1)) - (fixed + each * size), "slope"),
        (lambda fixed, each, size: 1 / (fixed / each + size), "of_time"),
        (lambda fixed, each, size: each / fixed * size, "ratio"),
        (lambda fixed, each, size: math.log(fixed + each * size) / math.log(size), None),
        (lambda fixed, each, size: (each * size / (fixed + each * size)) ** 2, None),
    ],
    "costs.training_operations": [
        (run(teacher_each=6), "teacher_learns"),
        (run(student_each=2), "forward_only"),
        (run(asked=lambda passes, stored: passes), "never_stored"),
        (run(asked=lambda passes, stored: 1), "always_stored"),
        (run(asked=lambda passes, stored: passes * (not stored)), "teacher_free"),
        (run(passed=lambda n: 1), "one_pass"),
        (run(student_each=4), "backward_once"),
        (run(student_each=3, teacher_each=1), None),
        (run(teacher_each=0), None),
    ],
    "costs.exponent": [
        (lambda sizes, seconds: slope(sizes, seconds), "no_logarithms"),
        (lambda sizes, seconds: slope(sizes, np.log(seconds)), "log_of_time_only"),
        (lambda sizes, seconds: slope(np.log(sizes), seconds), "log_of_size_only"),
        (
            lambda sizes, seconds: np.log(seconds[-1] / seconds[0]) / np.log(sizes[-1] / sizes[0]),
            "ends_only",
        ),
        (lambda sizes, seconds: slope(np.log(seconds), np.log(sizes)), "other_way_round"),
        (
            lambda sizes, seconds: float(
                np.log(sizes) @ np.log(seconds) / (np.log(sizes) @ np.log(sizes))
            ),
            "through_the_origin",
        ),
        (lambda sizes, seconds: slope(np.log2(sizes), np.log(seconds)), "two_logarithms"),
        (lambda sizes, seconds: 1 / by_polyfit(sizes, seconds), None),
        (lambda sizes, seconds: round(by_polyfit(sizes, seconds)), None),
        (lambda sizes, seconds: 1.0, None),
    ],
    "costs.slope_error": [
        (wrong_error(lambda r, n, s: (r / n / s) ** 0.5), "divided_by_n"),
        (wrong_error(lambda r, n, s: (r / (n - 1) / s) ** 0.5), "one_parameter"),
        (wrong_error(lambda r, n, s: (r / (n - 2)) ** 0.5), "residuals_only"),
        (wrong_error(lambda r, n, s: r / (n - 2) / s), "not_the_root"),
        (wrong_error(lambda r, n, s: (r / (n - 2) / n) ** 0.5), "of_the_mean"),
        (wrong_error(lambda r, n, s: (r / (n - 2) / s) ** 0.5, np.asarray), "no_logarithms"),
        (lambda sizes, seconds: 2 * error_by_covariance(sizes, seconds), None),
        (lambda sizes, seconds: 0.1, None),
    ],
    "costs.walk_multiplications": [
        (lambda rows, columns: rows * columns * columns, "all_columns"),
        (lambda rows, columns: 0.5 * rows * columns * columns, "about"),
        (lambda rows, columns: rows * (columns**2 - columns), "without_half"),
        (lambda rows, columns: rows * sum(range(columns + 1)), "itself_too"),
        (lambda rows, columns: math.comb(columns, 2), "one_row"),
        (lambda rows, columns: columns * math.comb(rows, 2), "rows_for_columns"),
        (lambda rows, columns: rows * rows * columns * columns, "all_pairs"),
        (lambda rows, columns: rows * columns, None),
        (lambda rows, columns: columns**3, None),
    ],
}
