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
        np.sqrt(variance * np.linalg.inv(np.stack([x, np.ones_like(x)]) @ np.stack([x, np.ones_like(x)]).T)[0, 0])
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


RIGHT = {
    "costs.exponent": [slope_of_sums, by_polyfit, by_solving, lambda sizes, seconds: scaling.fit(sizes, seconds).exponent],
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
    "costs.exponent": [
        (lambda sizes, seconds: slope(sizes, seconds), "no_logarithms"),
        (lambda sizes, seconds: slope(sizes, np.log(seconds)), "log_of_time_only"),
        (lambda sizes, seconds: slope(np.log(sizes), seconds), "log_of_size_only"),
        (lambda sizes, seconds: np.log(seconds[-1] / seconds[0]) / np.log(sizes[-1] / sizes[0]), "ends_only"),
        (lambda sizes, seconds: slope(np.log(seconds), np.log(sizes)), "other_way_round"),
        (
            lambda sizes, seconds: float(np.log(sizes) @ np.log(seconds) / (np.log(sizes) @ np.log(sizes))),
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
