"""A learner's function may take its arguments in any way that Python has; the names are those of
the task.
"""

import pytest

from course_utils.learn.checks import calling, checking, forms


def good(w):
    return 7 * w / w.abs().max(dim=1, keepdim=True).values


def by_name_only(*, w):
    return good(w)


def by_place_only(rows, /):
    return good(rows)


def under_any_name(**given):
    return good(given["w"])


def anything_by_place(*args, **kwargs):
    return good(args[0])


def anything_by_name(*args, **kwargs):
    return good(kwargs["w"])


class WithoutHash:
    __hash__ = None

    def __call__(self, *args, **kwargs):
        return good(args[0])


@pytest.mark.parametrize(
    "function",
    [
        by_name_only,
        by_place_only,
        under_any_name,
        anything_by_place,
        anything_by_name,
        WithoutHash(),
    ],
)
def test_arguments_are_handed_over_as_a_function_takes_them(function):
    assert checking.judge("toy.rows", function)


def test_nothing_is_gained_by_raising_now_and_then():
    calls = []

    def now_and_then(*args, **kwargs):
        calls.append(1)
        if len(calls) % 2:
            raise IndexError("not now")
        return good(args[0] if args else kwargs["w"])

    verdict = checking.judge("toy.rows", now_and_then)
    assert not verdict and "IndexError" in verdict.message and "not now" in verdict.message


@pytest.mark.parametrize(
    ("function", "taken"),
    [
        (lambda weight, /, *, bits: 0, ((1,), {"bits": 2})),
        (lambda weight, *rest: 0, ((1, 2), {})),
        (lambda *rest, bits: 0, ((1,), {"bits": 2})),
        (lambda w, b, /: 0, ((1, 2), {})),
        (lambda bits, weight: 0, ((2, 1), {})),
        (lambda weight, bits, extra=3: 0, ((1, 2), {})),
        (lambda bits, weight, /: 0, None),
        (lambda bits, *rest: 0, None),
        (lambda weight: 0, None),
        (lambda weight, bits, third: 0, None),
    ],
)
def test_names_decide_and_places_only_where_there_are_no_names(function, taken):
    given = {"weight": 1, "bits": 2}
    if taken is None:
        with pytest.raises(TypeError):
            calling.ways(function, given)
    else:
        assert calling.ways(function, given) == [taken]


def test_what_gives_its_items_only_once_is_a_list():
    for made in (
        iter([1, 2]),
        (n for n in (1, 2)),
        {1: 0, 2: 0}.keys(),
        {0: 1, 1: 2}.values(),
        map(int, "12"),
    ):
        assert forms.settled(made) == [1, 2]
    assert forms.settled((zip([1], [2], strict=True), 3)) == ([(1, 2)], 3)
