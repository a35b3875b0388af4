"""Lab 2.2: masks over the whole model, N of every M, channels and heads that leave the tensors."""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import kept as stays
from ..draws import turn, with_ties
from ..formalization import scores
from ..formalization.scores import lowest, matrix

# --- one ranking over all layers ---


def model_inputs(rng: torch.Generator) -> dict:
    """Layers of different size of weights, more of them negative: three, or very many; now and then
    none or all of them go.

    In every second trial many weights are equal in magnitude, and the share seldom gives a whole
    number of weights.
    """
    small = {"q_proj": (5, 8), "up_proj": (6, 4), "down_proj": (3, 13)}
    many = {f"layers.{i}.up_proj": (2, 3) for i in range(137)}
    large = {"q_proj": (5, 8), "up_proj": (137, 2), "down_proj": (2, 263)}
    shapes = turn(rng, small, large, small, small, many, small, small)
    sizes = torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64)[
        torch.randperm(3, generator=rng)
    ].tolist()
    found = {
        name: sizes[i % 3] * (matrix(rng, *shape) - 0.3)
        for i, (name, shape) in enumerate(shapes.items())
    }
    if turn(rng, False, True):
        found = {name: with_ties(rng, weight) for name, weight in found.items()}
    return {
        "weights": found,
        "sparsity": turn(rng, 0.28, 0.42, 0.0, 0.51, 0.73, 1.0, 0.62, every=2),
    }


def global_masks(weights: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """False at the sparsity · n smallest |θ| of all layers together."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    kept = lowest(sizes, round(sparsity * len(sizes))).split(
        [weight.numel() for weight in weights.values()]
    )
    return {name: part.view_as(weights[name]) for name, part in zip(weights, kept, strict=True)}


def stay_in_all(given: dict, masks: dict) -> Tensor:
    """What of the masks counts: the magnitudes that stay, of all layers together."""
    sizes = torch.cat([weight.abs().flatten() for weight in given["weights"].values()])
    return stays(sizes, torch.cat([masks[name].flatten() for name in given["weights"]]))


def by_limit(weights, sparsity):
    """Everything above the largest magnitude that should go: of equal ones all go."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    limit = torch.cat([torch.tensor([-1.0]).to(sizes), sizes.sort().values])[
        round(sparsity * len(sizes))
    ]
    return {name: weight.abs() > limit for name, weight in weights.items()}


def counted_by(rounding):
    """The number that goes, rounded otherwise."""

    def masks(weights, sparsity):
        n = sum(weight.numel() for weight in weights.values())
        return global_masks(weights, rounding(round(sparsity * n, 9)) / n)

    return masks


def changed(before, after=lambda name, mask: mask):
    """Global masks of weights that `before` has changed, changed by `after`."""

    def masks(weights, sparsity):
        found = global_masks({name: before(weight) for name, weight in weights.items()}, sparsity)
        return {name: after(name, mask) for name, mask in found.items()}

    return masks


def signed(weights, sparsity):
    lowest_of_all = min(float(weight.min()) for weight in weights.values())
    return global_masks(
        {name: weight - lowest_of_all for name, weight in weights.items()}, sparsity
    )


def signed_scores(rng: torch.Generator) -> dict:
    """Half of the scores lie below zero every other time: the highest stay, not the largest."""
    given = scores.n_of_m_inputs(rng)
    return {**given, "score": given["score"] - turn(rng, 0.5, 0.0, every=2)}


# --- channels ---


def energy_inputs(rng: torch.Generator) -> dict:
    outputs, channels, tokens = turn(rng, (5, 9, 20), (3, 137, 7), (137, 5, 11), (2, 3, 263))
    loud = torch.rand(channels, generator=rng) + 0.1
    return {
        "down": torch.randn(outputs, channels, generator=rng, dtype=torch.float64),
        "x": torch.randn(tokens, channels, generator=rng, dtype=torch.float64) * loud,
    }


def channel_energy(down: Tensor, x: Tensor) -> Tensor:
    """(1/N) Σ_n x_nj² · Σ_i W_ij²: the mean square of what channel j adds to the output."""
    energy = torch.zeros(down.shape[1], dtype=down.dtype)
    for j in range(down.shape[1]):
        for token in x:
            energy[j] += (token[j] * down[:, j]).square().sum() / len(x)
    return energy


def mlp_inputs(rng: torch.Generator) -> dict:
    hidden, channels, stay = turn(rng, (6, 8, 3), (137, 9, 5), (7, 263, 139))
    gate, up = (torch.randn(channels, hidden, generator=rng, dtype=torch.float64) for _ in range(2))
    kept = torch.randperm(channels, generator=rng)[:stay].sort().values
    return {
        "gate": gate,
        "up": up,
        "down": torch.randn(hidden, channels, generator=rng, dtype=torch.float64),
        "kept": kept,
    }


def remove_channels(
    gate: Tensor, up: Tensor, down: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of gate and up, columns of down."""
    rows = kept.tolist()
    return (
        torch.stack([gate[c] for c in rows]),
        torch.stack([up[c] for c in rows]),
        torch.stack([down[:, c] for c in rows], 1),
    )


def zeroed(gate, up, down, kept):
    mask = torch.zeros(len(gate), dtype=gate.dtype)
    mask[kept] = 1
    return gate * mask[:, None], up * mask[:, None], down * mask


# --- heads ---


def head_inputs(rng: torch.Generator) -> dict:
    """Grouped-query attention: each key-value head serves two or three query heads.

    In turn many heads, wide ones, many inputs.
    """
    kv_heads, ratio, size, hidden = turn(
        rng, (4, 2, 3, 7), (4, 3, 4, 137), (211, 2, 2, 3), (4, 3, 131, 2)
    )
    heads = kv_heads * ratio
    q, k, v = (
        torch.randn(n * size, hidden, generator=rng, dtype=torch.float64)
        for n in (heads, kv_heads, kv_heads)
    )
    o = torch.randn(hidden, heads * size, generator=rng, dtype=torch.float64)
    kept = torch.randperm(kv_heads, generator=rng)[: kv_heads * 2 // 3 + 1].sort().values
    return {"q": q, "k": k, "v": v, "o": o, "kept": kept, "heads": heads, "kv_heads": kv_heads}


def remove_heads(q, k, v, o, kept, heads, kv_heads):
    """For each key-value head that stays: its rows of k and v, the rows of q of its query heads,
    and their columns of o.
    """
    size, ratio = k.shape[0] // kv_heads, heads // kv_heads
    rows: list[list[torch.Tensor]] = [[], [], [], []]
    for head in kept.tolist():
        own, shared = (
            slice(head * size, (head + 1) * size),
            slice(head * ratio * size, (head + 1) * ratio * size),
        )
        for place, part in zip(rows, (q[shared], k[own], v[own], o[:, shared].T), strict=True):
            place.append(part)
    new = [torch.cat(parts) for parts in rows]
    return new[0], new[1], new[2], new[3].T


def with_heads(change):
    """Wrong heads: `change(right, given)` gives (q, k, v, o)."""

    def wrong(q, k, v, o, kept, heads, kv_heads):
        given = {"q": q, "k": k, "v": v, "o": o, "kept": kept, "heads": heads, "kv_heads": kv_heads}
        return change(remove_heads(**given), given)

    return wrong


def others(kept: Tensor, count: int) -> Tensor:
    return torch.tensor([i for i in range(count) if i not in kept.tolist()])


def strided_queries(right, given):
    """Query head h taken to share key-value head h mod kv_heads."""
    size = given["k"].shape[0] // given["kv_heads"]
    chosen = [h for h in range(given["heads"]) if h % given["kv_heads"] in given["kept"].tolist()]
    index = torch.cat([torch.arange(h * size, (h + 1) * size) for h in chosen])
    return given["q"][index], right[1], right[2], given["o"][:, index]


def one_query_each(right, given):
    """Only query heads with the numbers of the key-value heads stay."""
    size = given["k"].shape[0] // given["kv_heads"]
    index = torch.cat([torch.arange(h * size, (h + 1) * size) for h in given["kept"].tolist()])
    return given["q"][index], right[1], right[2], given["o"][:, index]


EXERCISES = [
    Exercise(
        id="lab_pruner.global_masks",
        inputs=model_inputs,
        spec=global_masks,
        lesson="lab-2.2-pruner",
        trials=14,
        counts=stay_in_all,
        mistakes={
            "each_layer": lambda weights, sparsity: {
                n: scores.magnitude_mask(w, sparsity) for n, w in weights.items()
            },
            "signed": signed,
            "inverted": changed(lambda w: w, lambda name, mask: ~mask),
            "keeps_sparsity": lambda weights, sparsity: global_masks(weights, 1 - sparsity),
            "normalized": changed(lambda w: w / w.norm()),
            "threshold": by_limit,
            "rounded_down": counted_by(math.floor),
            "rounded_up": counted_by(math.ceil),
            "first_layer_only": lambda weights, sparsity: {
                n: m | (n != next(iter(weights)))
                for n, m in global_masks(weights, sparsity).items()
            },
        },
        properties={
            "count": lambda inputs, result: (
                sum(int((~mask).sum()) for mask in result.values())
                == round(
                    inputs["sparsity"]
                    * sum(weight.numel() for weight in inputs["weights"].values())
                )
            ),
        },
    ),
    Exercise(
        id="lab_pruner.n_of_m",
        inputs=signed_scores,
        spec=scores.n_of_m,
        lesson="lab-2.2-pruner",
        trials=8,
        counts=scores.stay_in_groups,
        mistakes={
            "along_outputs": lambda score, n, m: scores.n_of_m(score.T, n, m).T,
            "strided": scores.strided,
            "removes_n": lambda score, n, m: scores.n_of_m(score, m - n, m),
            "keeps_lowest": lambda score, n, m: scores.n_of_m(-score, n, m),
            "whole_rows": lambda score, n, m: scores.rows_of(score, score.shape[1] * (m - n) // m),
            "threshold": scores.by_limit_of_groups,
        },
    ),
    Exercise(
        id="lab_pruner.channel_energy",
        inputs=energy_inputs,
        spec=channel_energy,
        lesson="lab-2.2-pruner",
        trials=4,
        mistakes={
            "inputs_forgotten": lambda down, x: down.square().sum(0),
            "weights_forgotten": lambda down, x: x.square().mean(0),
            "summed_over_tokens": lambda down, x: x.square().sum(0) * down.square().sum(0),
            "rooted": lambda down, x: (x.square().mean(0) * down.square().sum(0)).sqrt(),
            "mean_before_square": lambda down, x: x.mean(0).square() * down.square().sum(0),
            "signed_sum": lambda down, x: x.square().mean(0) * down.sum(0).square(),
            "rows": lambda down, x: (x @ down.T).square().mean(0),
            "mean_over_outputs": lambda down, x: x.square().mean(0) * down.square().mean(0),
        },
    ),
    Exercise(
        id="lab_pruner.remove_channels",
        inputs=mlp_inputs,
        spec=remove_channels,
        lesson="lab-2.2-pruner",
        mistakes={
            "zeros_instead": zeroed,
            "output_untouched": lambda gate, up, down, kept: (gate[kept], up[kept], down),
            "gate_only": lambda gate, up, down, kept: (gate[kept], up, down[:, kept]),
            "others_kept": lambda gate, up, down, kept: remove_channels(
                gate, up, down, others(kept, len(gate))
            ),
            "first_ones": lambda gate, up, down, kept: remove_channels(
                gate, up, down, torch.arange(len(kept))
            ),
            "transposed": lambda gate, up, down, kept: (gate[kept], up[kept], down[:, kept].T),
        },
    ),
    Exercise(
        id="lab_pruner.remove_heads",
        inputs=head_inputs,
        spec=remove_heads,
        lesson="lab-2.2-pruner",
        trials=5,
        mistakes={
            "output_untouched": with_heads(lambda right, given: (*right[:3], given["o"])),
            "keys_untouched": with_heads(
                lambda right, given: (right[0], given["k"], given["v"], right[3])
            ),
            "queries_untouched": with_heads(lambda right, given: (given["q"], *right[1:])),
            "one_query_each": with_heads(one_query_each),
            "strided_queries": with_heads(strided_queries),
            "others_kept": with_heads(
                lambda _, given: remove_heads(
                    **{**given, "kept": others(given["kept"], given["kv_heads"])}
                )
            ),
            "first_ones": with_heads(
                lambda _, given: remove_heads(**{**given, "kept": torch.arange(len(given["kept"]))})
            ),
            "values_untouched": with_heads(
                lambda right, given: (right[0], right[1], given["v"], right[3])
            ),
        },
    ),
]
