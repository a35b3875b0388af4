"""Answers that are right only up to n rows, columns, tokens or layers, or that save work: no check and no hidden test takes them.

Hidden tests call the checks with other seeds (`test_hidden_tests.py`), so the inputs of a check decide.
"""

import itertools
import re

import pytest
import torch

from course_utils.grade import lab
from course_utils.learn.checks import checking, exercise, trials
from course_utils.learn.page import catalogue
from course_utils.pruning.masks import n_of_m
from course_utils.quantization.grids import scale_and_zero

SIZES = (8, 16, 20, 32, 64, 128)
LABS = sorted(path.name for path in (catalogue.ROOT / "solutions").iterdir() if path.is_dir())
CHECKED = re.compile(r'check\("([\w.]+)", (\w+)')
# Arguments that may stay small: a table of 16 numbers, a shape, functions and where they start, six orders. H and U are square and
# symmetric or triangular: what is cut off makes them singular.
SMALL = {"table", "shape", "steps", "results", "start", "H", "U"}
RESULT = "the result"


@pytest.fixture(scope="module")
def opened():
    return {name: lab.load(catalogue.ROOT, name) for name in LABS}


def graded(opened, name):
    """(exercise, function, its right answer) of each test of a lab that calls `check`."""
    return [(*found.groups(), opened[name].reference[found[2]]) for test in opened[name].tests if (found := CHECKED.search(test.source))]


def points(opened, test, **functions):
    """What the other lines of a test give, its checks left out; 0 where they raise."""
    (found,) = [t for t in opened.tests if t.grade_id == test]
    namespace = {**opened.namespace, **opened.reference, **functions, "check": lambda *_, **__: True}
    try:
        return lab.run_test(found.source.replace("verdict.message", "''"), namespace, found.points)
    except AssertionError:
        return 0


# --- beyond n, whatever an exercise is about ---


def cut(value, n, dim):
    """A value with nothing beyond n along a dimension (zeros in tensors, an end of lists)."""
    if isinstance(value, torch.Tensor):
        if not -value.dim() <= dim < value.dim() or value.shape[dim] <= n:
            return value
        first = value.narrow(dim, 0, n)
        rest = value.narrow(dim, n, value.shape[dim] - n)
        return torch.cat([first, torch.zeros_like(rest)], dim)
    if isinstance(value, dict):
        kept = list(value.items())[: n if dim == 0 else None]
        return {name: cut(item, n, dim) for name, item in kept}
    if isinstance(value, list):
        return [cut(item, n, dim) for item in value[: n if dim == 0 else None]]
    return tuple(cut(item, n, dim) for item in value) if isinstance(value, tuple) else value


def extent(value, dim):
    """The largest extent along a dimension of a value, or of what it holds."""
    held = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    inner = [extent(item, dim) for item in held]
    if isinstance(value, torch.Tensor):
        return value.shape[dim] if dim < value.dim() else 0
    return max([len(held) if dim == 0 and isinstance(value, (dict, list)) else 0, *inner])


def ending(function, n, dim, argument):
    """The function that reads nothing beyond n along a dimension of an argument, or gives nothing beyond in its result."""

    def answer(**given):
        if argument != RESULT:
            return function(**{**given, argument: cut(given[argument], n, dim)})
        return cut(function(**given), n, dim)

    return answer


def shows(item, draw, want, function):
    """Whether the check sees on these inputs that the function is wrong."""
    try:
        result = function(**trials.clone(draw))
    except Exception:
        return True
    return checking._apart(item, trials.Trial(draw, result), want) is not None


@pytest.mark.parametrize("name", [name for name in LABS if name != "lab-3.1-gptq"])
def test_nothing_beyond_n_is_left_out_unseen(opened, name):
    for topic, _, right in graded(opened, name):
        item = exercise.find(topic)
        draws = [trials.draw(item, 5 + i) for i in range(item.trials)]
        wants = [right(**trials.clone(draw)) for draw in draws]
        assert checking.judge(topic, right, seed=5)
        for argument, dim in itertools.product([*draws[0], RESULT], range(4)):
            most = [extent(want if argument == RESULT else draw[argument], dim) for draw, want in zip(draws, wants, strict=True)]
            if max(most) < 2 or argument in SMALL:
                continue
            assert max(most) > max(SIZES), f"{topic}: {argument} has {max(most)} or fewer along dimension {dim} in all draws"
            large = sorted(range(item.trials), key=most.__getitem__, reverse=True)
            for n in SIZES:
                wrong = ending(right, n, dim, argument)
                assert any(shows(item, draws[i], wants[i], wrong) for i in large), (topic, argument, dim, n)


# --- answers that save work ---


def rounded(function, rounding):
    """Shares that are rounded to a whole number of weights otherwise, in each row."""

    def answer(**given):
        whole = given["weight"].shape[1]
        return function(**{**given, "sparsity": rounding(given["sparsity"] * whole) / whole})

    return answer


def of_the_whole(weight, input_norm, sparsity):
    """The number that goes, counted in the whole matrix and laid on the rows."""
    score = weight.abs() * input_norm
    gone = score.argsort(dim=1)[:, : -(-round(sparsity * weight.numel()) // len(weight))]
    return torch.ones_like(weight, dtype=torch.bool).scatter(1, gone, False)


LAZY = [
    ("budget.kv_cache_bytes", lambda layers, heads, kv_heads, head_dim, context, batch, bits: 2 * layers * kv_heads * head_dim * context * batch * (bits // 8)),
    ("budget.kv_cache_bytes", lambda layers, heads, kv_heads, head_dim, context, batch, bits: 2 * layers * kv_heads * head_dim * context * batch * max(1, bits // 8)),
    ("budget.weight_bytes", lambda parameters, bits: parameters // 1_000_000 * bits / 8 * 1e6),
    ("budget.weight_bytes", lambda parameters, bits: parameters // 8 * bits),
    ("budget.weight_bytes", lambda parameters, bits: parameters * (bits // 8)),
    ("lab_distillation.paired_interval", lambda alone, distilled, t: (abs(float((alone - distilled).mean())), float(t * (alone - distilled).std() / len(alone) ** 0.5))),
    ("budget.smallest_within", lambda sizes, losses, limit: sizes.index(min(s for s, loss in zip(sizes, losses, strict=True) if loss <= limit)) if min(losses) <= limit else -1),
    ("lab_pruner.n_of_m", lambda score, n, m: n_of_m(score.abs(), n, m)),
    ("lab_wanda.mask", of_the_whole),
    ("lab_wanda.input_norm", lambda batches: sum(batch.square().sum(0) for batch in batches[:4]).sqrt()),
    ("distillation_losses.attention", lambda student_map, teacher_map, mask: (teacher_map * (teacher_map / student_map).log()).sum(-1).transpose(1, 2)[mask].mean()),
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(LAZY)))
def test_an_answer_that_saves_work_is_wrong(place):
    name, wrong = LAZY[place]
    assert not any(checking.judge(name, wrong, seed=seed) for seed in range(4))


@pytest.mark.parametrize("rounding", [int, lambda share: -int(-share // 1)])
def test_shares_are_rounded_as_the_task_says(opened, rounding):
    right = opened["lab-3.2-wanda"].reference
    assert not any(checking.judge("lab_wanda.mask", rounded(right["wanda_mask"], rounding), seed=seed) for seed in range(4))


def test_a_seed_that_is_not_used_is_wrong(opened):
    """Lab 4.2's random masks: with the same seed the same ones, which a check of single results cannot see."""
    shuffled = lambda masks, seed: {name: m.flatten()[torch.randperm(m.numel())].view(m.shape) for name, m in masks.items()}  # noqa: E731
    assert points(opened["lab-4.2-lottery-ticket"], "random-masks-test") == 6 and points(opened["lab-4.2-lottery-ticket"], "random-masks-test", random_masks=shuffled) == 0


# --- lab 3.1, whose hidden tests have large inputs of their own ---


def layer(batch):
    """GPTQ whose errors never leave a batch of columns."""

    def quantize_layer(weight, H, bits, group_size):
        W, U = weight.clone(), torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
        codes, scales, zeros = torch.empty_like(W), [], []
        for i in range(W.shape[1]):
            if i % group_size == 0:
                part = W[:, i : i + group_size]
                s, z = scale_and_zero(part.amin(1), part.amax(1), bits, False)
                scales.append(s)
                zeros.append(z)
            codes[:, i] = torch.clamp(torch.round(W[:, i] / s) + z, 0, 2**bits - 1)
            error, end = (W[:, i] - s * (codes[:, i] - z)) / U[i, i], (i // batch + 1) * batch
            W[:, i:end] -= torch.outer(error, U[i, i:end])
        return codes.byte(), torch.stack(scales, 1), torch.stack(zeros, 1)

    return quantize_layer


def moves(function, n):
    def column_update(weight, U, i, quantized):
        moved = weight.clone()
        moved[:, i : i + n] = function(weight, U, i, quantized)[:, i : i + n]
        return moved

    return column_update


def test_right_answers_of_lab_31_get_their_points(opened):
    for name in ("hessian", "column-update", "quantize-layer", "pack-int4", "packed-linear"):
        assert points(opened["lab-3.1-gptq"], f"{name}-test") > 0
    assert points(opened["lab-3.1-gptq"], "quantize-layer-test", quantize_layer=layer(10**6)) > 0


@pytest.mark.parametrize("n", SIZES)
def test_right_up_to_n_is_wrong_in_lab_31(opened, n):
    right = opened["lab-3.1-gptq"].reference

    def result(name, dim):
        return {name: lambda *given: cut(right[name](*given), n, dim)}

    wrong = [
        ("hessian-test", {"hessian": lambda x: 2 / len(x) * x[:n].T @ x[:n]}), ("hessian-test", {"hessian": lambda x: 2 / min(n, len(x)) * x[:n].T @ x[:n]}),
        ("quantize-layer-test", {"quantize_layer": layer(n)}), ("column-update-test", {"column_update": moves(right["column_update"], n)}),
        *((f"{name.replace('_', '-')}-test", result(name, dim)) for name in ("pack_int4", "packed_linear") for dim in (0, 1)),
    ]  # fmt: skip
    for test, functions in wrong:
        assert points(opened["lab-3.1-gptq"], test, **functions) == 0, (test, n)
