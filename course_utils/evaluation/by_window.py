"""One number for each window of text, so that two models can be compared window by window
(`comparison`).
"""

from typing import Any

import torch
from torch import Tensor

from course_utils.errors import CompressionError
from course_utils.models import data

from .subject import Subject, scoring


def nats_by_window(model: Subject, ids: Tensor) -> Tensor:
    """(n,) nats per predicted token of each of (n, context) windows; exp of their mean is the
    perplexity.
    """
    with scoring(model, _context(ids)) as ready:
        return data.nats_by_window(ready, ids)


@torch.no_grad()
def predictions(model: Subject, ids: Tensor) -> Tensor:
    """(n, context, vocabulary) log-probabilities of the next token, float32: keep them to compare
    several models with one.
    """
    with scoring(model, _context(ids)) as ready:
        return torch.cat([_log_p(ready, rows).cpu() for rows in ids.split(_batch(ready, ids))])


@torch.no_grad()
def kl_by_window(original: Subject | Tensor, model: Subject, ids: Tensor) -> Tensor:
    """(n,) KL(p ‖ q) = Σ p ln(p / q) in nats, the mean over the tokens of each of (n, context)
    windows.

    p is the original's distribution of the next token, q the model's. `original` may be its
    `predictions(…, ids)`.
    """
    if isinstance(original, Tensor) and original.shape[:2] != ids.shape:
        raise CompressionError(
            f"original: predictions for {tuple(original.shape[:2])} tokens, ids are "
            f"{tuple(ids.shape)}; give both the same windows."
        )
    found = []
    with scoring(model, _context(ids)) as ready:
        for i, rows in zip(
            range(0, len(ids), size := _batch(ready, ids)), ids.split(size), strict=True
        ):
            p = (
                original[i : i + size].to(ready.device)
                if isinstance(original, Tensor)
                else predictions(original, rows).to(ready.device)
            )
            terms = torch.where(p > -torch.inf, p.exp() * (p - _log_p(ready, rows)), 0.0)
            found.append(terms.sum(-1, dtype=torch.float64).mean(1).cpu())
    return torch.cat(found)


def _log_p(model: Any, rows: Tensor) -> Tensor:
    return (
        model(input_ids=rows.long().to(model.device), use_cache=False)
        .logits.float()
        .log_softmax(-1)
    )


def _batch(model: Any, ids: Tensor) -> int:
    """Windows at a time: at most 128 MB of logits, or one window."""
    return max(1, min(16, 2**25 // (ids.shape[1] * model.config.vocab_size)))


def _context(ids: Tensor) -> int:
    if ids.dim() != 2 or not ids.numel():
        raise CompressionError(
            f"ids: shape {tuple(ids.shape)}; expected (windows, context) token ids."
        )
    return ids.shape[1]
