"""Answers that are right only up to n, on the large inputs that some labs have in their hidden
tests.
"""

import pytest
import torch
from up_to_n import SIZES, cut, load, points

from course_utils.quantization import rtn
from course_utils.quantization.grids import scale_and_zero


@pytest.fixture(scope="module")
def opened():
    labs = (
        "lab-2.1-quantizer",
        "lab-2.2-pruner",
        "lab-3.1-gptq",
        "lab-4.1-rate-distortion",
        "lab-4.2-lottery-ticket",
    )
    return {name: load(name) for name in labs}


# --- Level 2 ---


def test_a_threshold_from_a_hundred_thousand_weights_is_wrong(opened):
    lab22 = opened["lab-2.2-pruner"]
    right = lab22.reference["global_masks"]

    def sampled(weights, sparsity):
        every = torch.cat([w.abs().flatten() for w in weights.values()])
        if len(every) <= 100_000:
            return right(weights, sparsity)
        few = (
            every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:100_000]]
            .sort()
            .values
        )
        return {name: w.abs() >= few[round(sparsity * len(few))] for name, w in weights.items()}

    assert (
        points(lab22, "global-masks-test") == 8
        and points(lab22, "global-masks-test", global_masks=sampled) == 0
    )


def test_a_table_in_half_precision_is_wrong(opened):
    lab21 = opened["lab-2.1-quantizer"]
    right = lab21.reference["nf4_encode"]
    half = lambda weight, table, block_size: right(weight, table.half().to(table.dtype), block_size)  # noqa: E731
    assert (
        points(lab21, "nf4-encode-test") == 8
        and points(lab21, "nf4-encode-test", nf4_encode=half) == 0
    )


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


def rounded_beyond(function, n, dim):
    """GPTQ of the first n rows, or groups, and rounding of the others."""

    def quantize_layer(weight, H, bits, group_size):
        done = rtn.quantize_layer(weight, bits=bits, group_size=group_size)
        plain = done.codes, done.grid.scale, done.grid.zero_point
        good = function(weight, H, bits, group_size)
        ends = (n, n, n) if dim == 0 else (n * group_size, n, n)
        return tuple(
            torch.cat([g.narrow(dim, 0, min(m, g.shape[dim])),
                       p.to(g.dtype).narrow(dim, min(m, g.shape[dim]), max(0, g.shape[dim] - m))],
                       dim)
                     for g, p, m in zip(good, plain, ends, strict=True))  # fmt: skip

    return quantize_layer


def test_right_answers_of_lab_31_get_their_points(opened):
    lab31 = opened["lab-3.1-gptq"]
    for name in (
        "hessian",
        "inverse-cholesky",
        "column-update",
        "quantize-layer",
        "pack-int4",
        "packed-linear",
        "act-order",
    ):
        assert points(lab31, f"{name}-test") > 0
    assert points(lab31, "quantize-layer-test", quantize_layer=layer(10**6)) > 0
    assert (
        points(
            lab31,
            "quantize-layer-test",
            quantize_layer=rounded_beyond(lab31.reference["quantize_layer"], 10**6, 0),
        )
        > 0
    )


@pytest.mark.parametrize("n", SIZES)
def test_right_up_to_n_is_wrong_in_lab_31(opened, n):
    right = opened["lab-3.1-gptq"].reference

    def result(name, dim):
        return {name: lambda *given: cut(right[name](*given), n, dim)}

    def few_groups(x, packed, scale, zero):
        return right["packed_linear"](x, packed, cut(scale, n, 1), zero)

    def few_rows(*given):
        codes, *rest = right["act_order"](*given)
        return cut(codes, n, 0), *rest

    wrong = [
        ("hessian-test", {"hessian": lambda x: 2 / len(x) * x[:n].T @ x[:n]}),
        ("hessian-test", {"hessian": lambda x: 2 / min(n, len(x)) * x[:n].T @ x[:n]}),
        ("quantize-layer-test", {"quantize_layer": layer(n)}),
        ("column-update-test", {"column_update": moves(right["column_update"], n)}),
        *(("quantize-layer-test",
           {"quantize_layer": rounded_beyond(right["quantize_layer"], n, dim)}) for dim in (0, 1)),
        ("packed-linear-test", {"packed_linear": few_groups}),
        ("act-order-test", {"act_order": few_rows}),
        ("inverse-cholesky-test", result("inverse_cholesky", 1)),
        *((f"{name.replace('_', '-')}-test", result(name, dim)) for name in ("pack_int4",
            "packed_linear") for dim in (0, 1)),
    ]  # fmt: skip
    for test, functions in wrong:
        assert points(opened["lab-3.1-gptq"], test, **functions) == 0, (test, n)


# --- lab 4.2, whose hidden tests have many layers, batches and rounds ---


@pytest.mark.parametrize("n", SIZES)
def test_right_up_to_n_is_wrong_in_lab_42(opened, n):
    lab42 = opened["lab-4.2-lottery-ticket"]
    right = lab42.reference

    def few(masks):
        return dict(list(masks.items())[:n])

    wrong = {
        "next_masks": [
            lambda trained, masks, rate: {**masks, **right["next_masks"](trained, few(masks), rate)}
        ],
        "train_masked": [
            lambda start, mask, batches, labels, *how: right["train_masked"](
                start, mask, batches[:n], labels[:n], *how
            )
        ],
        "find_ticket": [
            lambda start, train, rounds, rate: right["find_ticket"](
                start, train, min(n, rounds), rate
            ),
            lambda start, train, rounds, rate: [
                {**{k: torch.ones_like(w).bool() for k, w in start.items()}, **few(masks)}
                for masks in right["find_ticket"](start, train, rounds, rate)
            ],
        ],
        "random_masks": [
            lambda masks, seed: {
                **{k: torch.ones_like(m) for k, m in masks.items()},
                **right["random_masks"](few(masks), seed),
            }
        ],
    }
    for name, functions in wrong.items():
        test = f"{name.replace('_', '-')}-test"
        assert points(lab42, test) > 0
        for function in functions:
            assert points(lab42, test, **{name: function}) == 0, name


# --- lab 4.1, whose codes are as long as a layer ---


@pytest.mark.parametrize("n", (1000, 4000, 65_536, 100_000))
def test_a_coder_that_is_right_up_to_n_is_wrong(opened, n):
    lab41 = opened["lab-4.1-rate-distortion"]
    right = lab41.reference
    wrong = {
        "encode": lambda symbols, frequencies: right["encode"](symbols[:n], frequencies),
        "decode": lambda stream, frequencies, count: cut(
            right["decode"](stream, frequencies, count), n, 0
        ),
    }
    for name, function in wrong.items():
        assert points(lab41, f"{name}-test", **{name: function}) == 0, name
    if n == 1000:
        kinds = {
            "encode": lambda symbols, frequencies: right["encode"](
                symbols.clamp(max=n - 1), frequencies
            ),
            "decode": lambda stream, frequencies, count: right["decode"](
                stream, frequencies, count
            ).clamp(max=n - 1),
        }
        for name, function in kinds.items():
            assert (
                points(lab41, f"{name}-test", **{name: right[name]})
                > 0
                == points(lab41, f"{name}-test", **{name: function})
            ), name


@pytest.mark.parametrize(("dim", "n"), [*((0, n) for n in SIZES), *((1, n) for n in (*SIZES, 256))])
def test_a_walk_that_is_right_up_to_n_is_wrong(opened, dim, n):
    lab41 = opened["lab-4.1-rate-distortion"]
    assert (
        points(lab41, "walk-test", walk=lambda *given: cut(lab41.reference["walk"](*given), n, dim))
        == 0
    )
