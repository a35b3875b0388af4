"""Additive codebooks: the beam against all sums, the vectors against least squares, turns that
never raise the error.
"""

import itertools

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.quantization import additive


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def every_sum(x, codebooks):
    """The least squared distance of each row to any sum,
    one choice at a time in double precision.
    """
    M, K, _ = codebooks.shape
    least = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for choice in itertools.product(range(K), repeat=M):
        total = sum(codebooks[m, k].double() for m, k in enumerate(choice))
        least = torch.minimum(least, (x.double() - total).square().sum(1))
    return least


def test_a_wide_beam_is_exhaustive():
    x, codebooks = draw(40, 4) * 2, draw(3, 4, 4, seed=1)
    wanted = every_sum(x, codebooks)
    found = {
        b: (additive.decode(additive.encode(x, codebooks, b), codebooks) - x)
        .square()
        .sum(1)
        .double()
        for b in (1, 4, 16)
    }
    torch.testing.assert_close(found[16], wanted, rtol=1e-5, atol=1e-6)
    assert (found[1] >= wanted - 1e-5).all() and (found[1] > wanted + 1e-3).any(), (
        "greedy misses some"
    )
    assert wanted.sum() <= found[4].sum() <= found[1].sum()


def test_vectors_are_those_of_least_squares():
    x, before = draw(200, 3), draw(2, 4, 3, seed=2)
    codes = additive.encode(x, before, 4)
    after = additive.best_vectors(x, codes, before)
    ones = torch.cat([torch.nn.functional.one_hot(codes[:, m], 4) for m in range(2)], 1).double()
    solved = torch.linalg.lstsq(ones, x.double(), driver="gelsd").solution
    torch.testing.assert_close(
        additive.decode(codes, after).double(), ones @ solved, rtol=1e-4, atol=1e-4
    )


def test_no_turn_raises_the_error():
    vectors, errors = additive.learn(draw(600, 8), codebooks=2, entries=16, rounds=5, beam=4)
    assert vectors.shape == (2, 16, 8) and torch.equal(vectors.half().float(), vectors)
    assert (
        all(after <= before * (1 + 1e-5) for before, after in itertools.pairwise(errors))
        and errors[-1] < 0.97 * errors[0]
    )


def test_layers_hold_codes_scales_and_codebooks():
    layer = additive.quantize_layer(draw(32, 20), codebooks=3, entries=8, rounds=1)
    # 3 vectors a row, 3 codes of 3 bits
    assert layer.packed.shape == (32, -(-3 * 3 * 3 // 8)) and layer.vectors.shape == (3, 8, 8)
    by_hand = sum(layer.vectors[m][layer.codes[..., m].long()].float() for m in range(3)).flatten(
        1
    )[:, :20]
    assert torch.equal(layer.weight, by_hand * layer.scale.float())


def test_bad_input_is_named():
    for settings, message in (
        ({"entries": 100}, "entries=100"), ({"codebooks": 0}, "codebooks=0"),
        ({"width": 0}, "width=0"), ({"beam": 0, "entries": 4}, "beam=0"), ({}, "only 8 vectors"),
        ({"vectors": torch.zeros(1, 2, 3)}, r"\(1, 2, 3\)"),
    ):  # fmt: skip
        with pytest.raises(CompressionError, match=message):
            additive.quantize_layer(draw(4, 16), **settings)
