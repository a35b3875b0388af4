"""Answers that are right only up to n rows, columns or tokens: lab 3.1's hidden tests are larger than any likely n."""

import pytest
import torch

from course_utils.grade import lab
from course_utils.learn.page import catalogue
from course_utils.quantization.grids import scale_and_zero

SIZES = (8, 16, 20, 32, 64, 128)


@pytest.fixture(scope="module")
def opened():
    return lab.load(catalogue.ROOT, "lab-3.1-gptq")


def points(opened, test, **functions):
    """What the hidden lines of a test give, the released check left out; 0 where they raise."""
    (found,) = [t for t in opened.tests if t.grade_id == test]
    namespace = {**opened.namespace, **opened.reference, **functions, "check": lambda *_, **__: True}
    try:
        return lab.run_test(found.source.replace("verdict.message", "''"), namespace, found.points)
    except AssertionError:
        return 0


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


def cut(function, n, dim):
    """The function's result with nothing beyond n along a dimension."""

    def shortened(*arguments):
        result = function(*arguments).clone()
        result.narrow(dim, min(n, result.shape[dim]), max(0, result.shape[dim] - n)).zero_()
        return result

    return shortened


def moves(function, n):
    def column_update(weight, U, i, quantized):
        moved = weight.clone()
        moved[:, i : i + n] = function(weight, U, i, quantized)[:, i : i + n]
        return moved

    return column_update


def test_right_answers_get_their_points(opened):
    for name in ("hessian", "column-update", "quantize-layer", "pack-int4", "packed-linear"):
        assert points(opened, f"{name}-test") > 0
    assert points(opened, "quantize-layer-test", quantize_layer=layer(10**6)) > 0


@pytest.mark.parametrize("n", SIZES)
def test_right_up_to_n_is_wrong(opened, n):
    right = opened.reference
    wrong = [
        ("hessian-test", {"hessian": lambda x: 2 / len(x) * x[:n].T @ x[:n]}), ("hessian-test", {"hessian": lambda x: 2 / min(n, len(x)) * x[:n].T @ x[:n]}),
        ("quantize-layer-test", {"quantize_layer": layer(n)}), ("column-update-test", {"column_update": moves(right["column_update"], n)}),
        *(("pack-int4-test", {"pack_int4": cut(right["pack_int4"], n, dim)}) for dim in (0, 1)),
        *(("packed-linear-test", {"packed_linear": cut(right["packed_linear"], n, dim)}) for dim in (0, 1)),
    ]  # fmt: skip
    for test, functions in wrong:
        assert points(opened, test, **functions) == 0, (test, n)
