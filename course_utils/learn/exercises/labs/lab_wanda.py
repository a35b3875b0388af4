"""Lab 3.2: input norms over batches, Wanda's mask, SparseGPT in blocks of columns and with N of
every M.
"""

from typing import Any

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import kept, turn, with_ties
from ..formalization import scores
from ..formalization.gptq import damped_hessian, factor_of_hessian, inverse_cholesky
from ..formalization.scores import lowest, matrix, rows_of

# --- norms, gathered batch by batch ---


def batch_inputs(rng: torch.Generator) -> dict:
    """Batches of different length, in turn long ones, very many, and many inputs; one input has a
    mean far from zero.
    """
    lengths, inputs = turn(
        rng, ((3, 5, 2), 6), ((4, 1, 263), 4), ((2, 1, 3) * 46, 5), ((3, 2), 137)
    )
    batches = [torch.randn(n, inputs, generator=rng, dtype=torch.float64) for n in lengths]
    for batch in batches:
        batch[:, 2] += 2
    return {"batches": batches}


def input_norm(batches: list[Tensor]) -> Tensor:
    """‖X_j‖₂ = √(Σ over all tokens of all batches of x_j²)."""
    squares = torch.zeros(batches[0].shape[1], dtype=batches[0].dtype)
    for batch in batches:
        for token in batch:
            squares += token**2
    return squares.sqrt()


# --- Wanda ---


def wanda_inputs(rng: torch.Generator) -> dict:
    """In every second trial many scores are equal; the share seldom gives a whole number of
    weights.
    """
    rows, n = turn(rng, (5, 8), (5, 11), (3, 263), (137, 7), every=2)
    norm = torch.logspace(-0.8, 0.8, n, dtype=torch.float64)[torch.randperm(n, generator=rng)]
    weight = matrix(rng, rows, n)
    if turn(rng, False, True):
        norm = 2.0 ** torch.randint(-1, 2, (n,), generator=rng).double()
        weight = with_ties(rng, weight)
    return {
        "weight": weight,
        "input_norm": norm,
        "sparsity": turn(rng, 0.0, 0.27, 0.42, 0.65, 1.0, every=2),
    }


def stay_in_rows(given: dict, mask: Tensor) -> Tensor:
    """What of a mask counts: the scores that stay in each row."""
    return kept(given["weight"].abs() * given["input_norm"], mask)


def by_limit(weight, input_norm, sparsity):
    """Everything above the largest score that should go: of equal ones all go."""
    return torch.stack(
        [scores.limited(row, round(sparsity * len(row))) for row in weight.abs() * input_norm]
    )


def argsort_as_rank(weight, input_norm, sparsity):
    """One argsort gives the place of each rank, not the rank of each place."""
    return (weight.abs() * input_norm).argsort(dim=1) >= round(sparsity * weight.shape[1])


def wanda_mask(weight: Tensor, input_norm: Tensor, sparsity: float) -> Tensor:
    """In each row, False at the lowest |W_ij| ‖X_j‖₂."""
    return rows_of(weight.abs() * input_norm, round(sparsity * weight.shape[1]))


def with_score(score):
    return lambda weight, input_norm, sparsity: rows_of(
        score(weight, input_norm), round(sparsity * weight.shape[1])
    )


# --- SparseGPT ---


def layer_inputs(rng: torch.Generator) -> dict:
    rows, columns, size = turn(rng, (5, 12, 4), (5, 15, 5), (137, 16, 8), (5, 12, 6), (3, 262, 131))
    return {
        "weight": matrix(rng, rows, columns),
        "H": damped_hessian(rng, columns),
        "sparsity": turn(rng, 0.27, 0.48, 0.72),
        "block_size": size,
    }


def surgeon(W: Tensor, U: Tensor, H: Tensor, part: slice) -> Tensor:
    """w_ij² / [H_F⁻¹]_jj, where [H_F⁻¹]_jj = U_jj²."""
    return (W[:, part] / U.diagonal()[part]) ** 2


def walk(weight, H, at_once, choose, *, U=None, score=surgeon, fixed=False, error=None, reach=None):
    """Column by column: a mask where a block begins, zero what goes, move the columns to come.

    `fixed`: score the original weights. `error(lost, U, i)`: what is moved. `reach(i)`: the last
    column that moves.
    """
    U = inverse_cholesky(H) if U is None else U
    W, columns = weight.clone(), weight.shape[1]
    keep = torch.ones_like(weight, dtype=torch.bool)
    for i in range(columns):
        if i % at_once == 0:
            part = slice(i, i + at_once)
            keep[:, part] = choose(score(weight if fixed else W, U, H, part))
        lost = W[:, i] * ~keep[:, i]
        moved = lost / U[i, i] if error is None else error(lost, U, i)
        end = columns if reach is None else reach(i)
        W[:, i + 1 : end] -= torch.outer(moved, U[i, i + 1 : end])
    return W * keep


def prune_layer(weight: Tensor, H: Tensor, sparsity: float, block_size: int, **changes) -> Tensor:
    """In each block of columns the lowest scores of all rows together go."""
    return walk(
        weight,
        H,
        block_size,
        lambda score: lowest(score, round(sparsity * score.numel())),
        **changes,
    )


def changed(prune, **changes):
    return lambda **given: prune(**given, **changes)


def with_factor_of_hessian(prune):
    return lambda **given: prune(**given, U=factor_of_hessian(given["H"]))


def each_row(weight, H, sparsity, block_size):
    return walk(
        weight, H, block_size, lambda score: rows_of(score, round(sparsity * score.shape[1]))
    )


def within_blocks(weight, H, sparsity, block_size):
    return prune_layer(
        weight, H, sparsity, block_size, reach=lambda i: (i // block_size + 1) * block_size
    )


# --- N of every M ---


def pattern_inputs(rng: torch.Generator) -> dict:
    """N is not M − N, so that no confusion goes unseen."""
    (n, m), (rows, columns) = (
        turn(rng, (1, 4), (3, 4), (1, 3), (2, 6)),
        turn(rng, (4, 12), (4, 24), (139, 12), (4, 12), (3, 264)),
    )
    return {"weight": matrix(rng, rows, columns), "H": damped_hessian(rng, columns), "n": n, "m": m}


def prune_n_of_m(weight: Tensor, H: Tensor, n: int, m: int, **changes) -> Tensor:
    """The same walk; where a group of m columns begins, each row chooses the n that stay."""
    return walk(weight, H, m, lambda score: scores.n_of_m(score, n, m), **changes)


def no_error(lost, U, i):
    return torch.zeros_like(lost)


SHARED: dict[str, dict[str, Any]] = {
    "no_update": {"error": no_error},
    "mask_from_the_start": {"fixed": True},
}
SHARED["wanda_score"] = {"score": lambda W, U, H, part: W[:, part] ** 2 * H.diagonal()[part]}
SHARED["magnitude_score"] = {"score": lambda W, U, H, part: W[:, part] ** 2}
SHARED["score_multiplied"] = {"score": lambda W, U, H, part: (W[:, part] * U.diagonal()[part]) ** 2}
SHARED["not_squared"] = {"score": lambda W, U, H, part: W[:, part] ** 2 / U.diagonal()[part]}
SHARED["sign"] = {"error": lambda lost, U, i: -lost / U[i, i]}
SHARED["not_divided"] = {"error": lambda lost, U, i: lost}

EXERCISES = [
    Exercise(
        id="lab_wanda.input_norm",
        inputs=batch_inputs,
        spec=input_norm,
        lesson="lab-3.2-wanda",
        trials=4,
        mistakes={
            "last_batch": lambda batches: batches[-1].norm(dim=0),
            "sum_of_norms": lambda batches: sum(batch.norm(dim=0) for batch in batches),
            "mean_of_norms": lambda batches: (
                sum(batch.norm(dim=0) for batch in batches) / len(batches)
            ),
            "not_rooted": lambda batches: torch.cat(batches).square().sum(0),
            "mean_square": lambda batches: torch.cat(batches).square().mean(0).sqrt(),
            "spread": lambda batches: (
                torch.cat(batches).std(0, correction=0) * sum(map(len, batches)) ** 0.5
            ),
            "norms_of_tokens": lambda batches: torch.cat(batches).norm(dim=1),
        },
    ),
    Exercise(
        id="lab_wanda.mask",
        inputs=wanda_inputs,
        spec=wanda_mask,
        lesson="lab-3.2-wanda",
        trials=20,
        counts=stay_in_rows,
        mistakes={
            "layer_wise": lambda weight, input_norm, sparsity: lowest(
                weight.abs() * input_norm, round(sparsity * weight.numel())
            ),
            "inputs_forgotten": with_score(lambda weight, norm: weight.abs()),
            "signed": with_score(lambda weight, norm: weight * norm),
            "divided": with_score(lambda weight, norm: weight.abs() / norm),
            "squared_norm": with_score(lambda weight, norm: weight.abs() * norm**2),
            "inverted": lambda weight, input_norm, sparsity: (
                ~wanda_mask(weight, input_norm, sparsity)
            ),
            "threshold": by_limit,
            "argsort_as_rank": argsort_as_rank,
            "keeps_sparsity": lambda weight, input_norm, sparsity: rows_of(
                weight.abs() * input_norm, weight.shape[1] - round(sparsity * weight.shape[1])
            ),
        },
        properties={
            "count": lambda inputs, result: bool(
                ((~result).sum(1) == round(inputs["sparsity"] * inputs["weight"].shape[1])).all()
            ),
        },
    ),
    Exercise(
        id="lab_wanda.prune_layer",
        inputs=layer_inputs,
        spec=prune_layer,
        lesson="lab-3.2-wanda",
        trials=5,
        mistakes={
            "hessian_not_inverse": with_factor_of_hessian(prune_layer),
            **{name: changed(prune_layer, **changes) for name, changes in SHARED.items()},
            "one_block": lambda **given: prune_layer(
                **{**given, "block_size": given["weight"].shape[1]}
            ),
            "each_row": each_row,
            "within_blocks": within_blocks,
        },
    ),
    Exercise(
        id="lab_wanda.prune_n_of_m",
        inputs=pattern_inputs,
        spec=prune_n_of_m,
        lesson="lab-3.2-wanda",
        trials=5,
        mistakes={
            "hessian_not_inverse": with_factor_of_hessian(prune_n_of_m),
            **{name: changed(prune_n_of_m, **changes) for name, changes in SHARED.items()},
            "removes_n": lambda weight, H, n, m: prune_n_of_m(weight, H, m - n, m),
            "along_outputs": lambda weight, H, n, m: walk(
                weight,
                H,
                m,
                lambda score: torch.stack(
                    [lowest(c, round(len(c) * (m - n) / m)) for c in score.T], 1
                ),
            ),
        },
    ),
]
