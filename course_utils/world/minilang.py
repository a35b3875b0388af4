"""A mini-language of list pipelines: `even | add 3 | sum`, with its English and its interpreter."""

from collections.abc import Callable

MAX_ABS = 10**9  # beyond this a pipeline is treated as wrong rather than computed

# name → (function of (list, number), English phrases); {n} marks operations that take a number
OPERATIONS: dict[str, tuple[Callable[[list[int], int], list[int]], tuple[str, ...]]] = {
    "even": (
        lambda v, n: [x for x in v if x % 2 == 0],
        ("keep the even numbers", "remove the odd numbers"),
    ),
    "odd": (
        lambda v, n: [x for x in v if x % 2],
        ("keep the odd numbers", "remove the even numbers"),
    ),
    "above {n}": (
        lambda v, n: [x for x in v if x > n],
        ("keep numbers above {n}", "keep what is more than {n}"),
    ),
    "below {n}": (
        lambda v, n: [x for x in v if x < n],
        ("keep numbers below {n}", "keep what is less than {n}"),
    ),
    "add {n}": (lambda v, n: [x + n for x in v], ("add {n} to each", "increase each by {n}")),
    "sub {n}": (
        lambda v, n: [x - n for x in v],
        ("subtract {n} from each", "decrease each by {n}"),
    ),
    "mul {n}": (lambda v, n: [x * n for x in v], ("multiply each by {n}", "scale each by {n}")),
    "square": (lambda v, n: [x * x for x in v], ("square each", "multiply each by itself")),
    "sort": (lambda v, n: sorted(v), ("sort them", "put them in order")),
    "reverse": (lambda v, n: v[::-1], ("reverse them", "turn the list around")),
    "take {n}": (lambda v, n: v[:n], ("take the first {n}", "keep only the first {n}")),
    "drop {n}": (lambda v, n: v[n:], ("drop the first {n}", "skip the first {n}")),
}
REDUCTIONS: dict[str, tuple[Callable[[list[int]], int], tuple[str, ...]]] = {
    "sum": (sum, ("return the sum", "add them all up")),
    "max": (lambda v: max(v, default=0), ("return the largest", "find the biggest")),
    "min": (lambda v: min(v, default=0), ("return the smallest", "find the least")),
    "count": (len, ("count them", "return how many there are")),
}


def run_program(source: str, values: list[int]) -> list[int] | int:
    """Run a pipeline on a list of integers. A reduction may only come last.

    Raises ValueError that names the step when the program is not well formed.
    """
    steps = [step.split() for step in source.strip().split("|")]
    result: list[int] = list(values)
    for position, words in enumerate(steps):
        text = " ".join(words)
        if text in REDUCTIONS:
            if position != len(steps) - 1:
                raise ValueError(
                    f"step {position + 1}, {text!r}: a reduction must be the last step."
                )
            return REDUCTIONS[text][0](result)
        takes_number = len(words) == 2 and _is_number(words[1])
        name = f"{words[0]} {{n}}" if takes_number else text
        if name not in OPERATIONS:
            raise ValueError(f"step {position + 1}, {text!r}: unknown operation.")
        result = OPERATIONS[name][0](result, int(words[1]) if takes_number else 0)
        if any(abs(x) > MAX_ABS for x in result):
            raise ValueError(f"step {position + 1}, {text!r}: a number grew beyond {MAX_ABS}.")
    return result


def may_begin(text: str) -> bool:
    """Whether some program that `run_program` takes begins with this text; numbers that grow too
    large are not looked for.
    """
    *whole, last = text.split("|")
    if not all(_is_operation(step.split()) for step in whole):
        return False
    words, complete = last.split(), last != last.rstrip()
    if not words:
        return True
    for name in (*OPERATIONS, *REDUCTIONS):
        wanted = name.split()
        if len(words) > len(wanted) or words[: len(words) - 1] != wanted[: len(words) - 1]:
            continue
        place, word = wanted[len(words) - 1], words[-1]
        if place == word or not complete and place.startswith(word):
            return True
        if place == "{n}" and _is_number(word):
            return True
    return False


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 4


def _is_operation(words: list[str]) -> bool:
    if len(words) == 2 and _is_number(words[1]):
        return f"{words[0]} {{n}}" in OPERATIONS
    return " ".join(words) in OPERATIONS
