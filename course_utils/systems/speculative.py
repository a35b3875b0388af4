"""Speculative decoding: a cheap draft writes k tokens, the target judges all of them in one
forward, and what comes out is the target's.

    draft:     x_1 … x_k  from q_1 … q_k, one after the other
    target:    p_1 … p_{k+1}, the distributions after 0 … k of them, in one forward
    accept     x_i with probability min(1, p_i(x_i) / q_i(x_i)), the first that fails ends the round
    then       one token more: from (p_i − q_i)₊ / Σ(p_i − q_i)₊ where x_i failed, from p_{k+1}
               where none did

Each token has the distribution p, whatever q is: q(x) min(1, p/q) + P(reject) · (p − q)₊ / Σ(p −
q)₊ = min(p, q) + (p − q)₊ = p.
Greedy decoding is the case in which p and q hold a single 1. Source: Leviathan, Kalman and Matias
(2023), algorithm 1; Chen et al. (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from course_utils.errors import CompressionError
from course_utils.evaluation.subject import Subject, scoring
from course_utils.models.walk import longest_context


def acceptance(p: Tensor, q: Tensor) -> Tensor:
    """α = Σ min(p, q) = 1 − TV(p, q) over the last axis: the probability that a token drawn from q
    is accepted (eq. 3.5).
    """
    return torch.minimum(p, q).sum(-1)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """(p − q)₊ / Σ (p − q)₊ over the last axis: what a rejected token is drawn from. p itself where
    p = q, which never rejects.
    """
    left = (p - q).clamp(min=0)
    total = left.sum(-1, keepdim=True)
    return torch.where(total > 0, left / total.clamp(min=torch.finfo(p.dtype).tiny), p)


def verify(
    p: Tensor, q: Tensor, tokens: list[int], generator: torch.Generator | None = None
) -> tuple[int, int]:
    """(how many drafted tokens are accepted, the token that follows them), from p (k + 1, V), q (k,
    V) and the k tokens.
    """
    for i, token in enumerate(tokens):
        u = torch.rand((), generator=generator, dtype=torch.float64)
        if u * q[i, token] >= p[i, token]:
            return i, _draw(residual(p[i], q[i]), generator)
    return len(tokens), _draw(p[len(tokens)], generator)


def expected_tokens(alpha: float, k: int) -> float:
    """E[tokens of a round] = 1 + α + … + α^k = (1 − α^{k+1}) / (1 − α) (eq. 1), if each token is
    accepted with α by itself.
    """
    if not 0 <= alpha <= 1 or k < 0:
        raise CompressionError(
            f"alpha={alpha}, k={k}: give a probability, and a number of drafted "
            "tokens that is not negative."
        )
    return float(sum(alpha**j for j in range(k + 1)))


def speed_up(tokens: float, k: int, c: float) -> float:
    """Tokens of a round, divided by what it costs in forwards of the target: k c + 1, with c the
    cost of the draft's forward (theorem 3.8).
    """
    return tokens / (k * c + 1)


class Reader:
    """A model and the keys and values of what it has read.

    What was read and is no longer part of the text is rolled back.

    Architectures whose cache holds more than keys and values, or only a window of them, cannot go
    back: they read the text anew.
    """

    def __init__(self, model: PreTrainedModel, width: int) -> None:
        self.model, self.width = model, width
        self.read: list[int] = []
        self.cache: Any = None
        self.forwards = 0

    @torch.no_grad()
    def distributions(self, tokens: list[int], last: int, temperature: float) -> Tensor:
        """(last, width) distributions after the last `last` prefixes of the text `tokens`, in
        float64; one forward.
        """
        same = 0
        while same < min(len(self.read), len(tokens) - last) and self.read[same] == tokens[same]:
            same += 1
        if self.cache is None or same == 0:
            self.cache, same = None, 0
        elif same < len(self.read):
            self.cache.crop(same - len(self.read))  # so many fewer
        new = torch.tensor([tokens[same:]], device=self.model.device)
        out = self.model(input_ids=new, past_key_values=self.cache, use_cache=True)
        self.cache, self.read, self.forwards = (
            getattr(out, "past_key_values", None),
            list(tokens),
            self.forwards + 1,
        )
        if not isinstance(self.cache, DynamicCache) or any(
            type(layer) is not DynamicLayer for layer in self.cache.layers
        ):
            self.cache = None
        return distribution(out.logits[0, -last:], self.width, temperature)


def distribution(logits: Tensor, width: int, temperature: float) -> Tensor:
    """softmax(logits / T) over the first `width` entries, float64; T = 0: all on the largest logit,
    the first of equals.

    A model with fewer tokens has 0 for the others; what a draft has beyond the target's `width` it
    may not say.
    """
    logits = logits[..., :width].double().cpu()
    if temperature == 0:
        p = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    else:
        p = (logits / temperature).softmax(-1)
    return torch.nn.functional.pad(p, (0, width - p.shape[-1]))


@dataclass(frozen=True)
class Written:
    """New `tokens`; how many each round `accepted`; forwards of both models."""

    tokens: list[int]
    accepted: list[int]
    target_forwards: int
    draft_forwards: int


def write(
    target: Subject, draft: Subject | None, ids: Tensor | list[int], *, new_tokens: int, k: int = 4,
    temperature: float = 0.0, seed: int = 0,
    stop: set[int] | None = None,
) -> Written:  # fmt: skip
    """Go on from token ids (n,) with `new_tokens` tokens of the target's distribution, drafted by
    another model; without a draft one by one.

    Both models must give every token the same number (`distillation.trainer.check_tokenizers`).
    temperature 0 is greedy: the text is that of the target alone, but where two logits are equal up
    to rounding, since a forward of several tokens rounds otherwise than one of one. Above 0 it is
    drawn, and has the target's distribution. A token of `stop` ends the text. Both keep keys and
    values.
    Raises CompressionError for an empty or too long text and settings out of range.
    """
    text = [int(i) for i in ids]
    if not text or new_tokens < 1 or k < 1 or not temperature >= 0:
        raise CompressionError(
            "ids, new_tokens, k, temperature: give at least one token, one new token, k ≥ 1, "
            "and a temperature of 0 or more."
        )
    generator = torch.Generator().manual_seed(seed)
    with scoring(target) as large, scoring(large if draft is None else draft) as small:
        for longest in (longest_context(large), longest_context(small)):
            if longest is not None and len(text) + new_tokens > longest:
                raise CompressionError(
                    f"new_tokens={new_tokens}: with {len(text)} tokens given the models read only "
                    f"{longest}; ask for fewer."
                )
        width = large.config.get_text_config().vocab_size
        if max(text) >= min(width, small.config.get_text_config().vocab_size) or min(text) < 0:
            raise CompressionError(
                "ids: a token that one of the models does not know; both need the same tokenizer."
            )
        judge, writer = Reader(large, width), Reader(small, width)
        start, accepted = len(text), []
        while (room := start + new_tokens - len(text)) > 0:
            count = 0 if draft is None else min(k, room - 1)
            drafted: list[int] = []
            q = torch.zeros(0, width, dtype=torch.float64)
            for _ in range(count):
                q = torch.cat([q, writer.distributions(text + drafted, 1, temperature)])
                drafted.append(_draw(q[-1], generator))
            p = judge.distributions(text + drafted, count + 1, temperature)
            taken, follows = verify(p, q, drafted, generator)
            round_ = [*drafted[:taken], follows]
            if (
                stop
                and (end := next((i for i, t in enumerate(round_) if t in stop), None)) is not None
            ):
                text += round_[: end + 1]
                accepted.append(min(taken, end + 1))
                break
            text += round_
            accepted.append(taken)
    return Written(text[start:], accepted, judge.forwards, writer.forwards)


def _draw(p: Tensor, generator: torch.Generator | None) -> int:
    return int(torch.multinomial(p, 1, generator=generator))


@torch.no_grad()
def sample(model: Subject, prompts: Tensor, *, new_tokens: int, seed: int = 0) -> Tensor:
    """(n, context + new_tokens) texts: prompts (n, context), each continued by the model's own
    draws, all at once.
    """
    generator, ids = torch.Generator().manual_seed(seed), prompts.long()
    with scoring(model, prompts.shape[1] + new_tokens) as ready:
        out = ready(input_ids=ids.to(ready.device), use_cache=True)
        for step in range(new_tokens):
            p = out.logits[:, -1].double().softmax(-1).cpu()
            token = torch.multinomial(p, 1, generator=generator)
            ids = torch.cat([ids, token], 1)
            if step < new_tokens - 1:
                out = ready(
                    input_ids=token.to(ready.device),
                    past_key_values=out.past_key_values,
                    use_cache=True,
                )
    return ids


@torch.no_grad()
def chances(target: Tensor, draft: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(α, r), each (windows, tokens − 1): Σ min(p, q) at every place, and min(1, q(x)/p(x)) of the
    token x that stands next.

    `target`, `draft`: (windows, tokens, vocabulary) log-probabilities (`evaluation.predictions`).
    In a text that the target wrote, r is the probability that x came from an accepted draft, given
    x; its mean over x ~ p is α.
    """
    p, q = target[:, :-1], draft[:, :-1]
    said = ids[:, 1:, None].long()
    return torch.minimum(p, q).exp().sum(-1), (q - p).gather(-1, said)[..., 0].clamp(max=0).exp()


def tokens_per_round(r: Tensor, k: int) -> Tensor:
    """(windows,) mean tokens of a round, one target forward each, in texts with these r (windows,
    tokens ≥ k + 1); exact.

    A round that starts at t has length 1 + r_t + r_t r_{t+1} + … (k products). Where rounds start
    follows from their lengths:
    u(0) = 1 and u(t) = Σ_i u(t − i) P(a round from t − i has i tokens). The mean is over the starts
    from which a whole round fits.
    Raises CompressionError for texts shorter than k + 1.
    """
    r, n = r.double(), r.shape[1]
    if not 1 <= k < n:
        raise CompressionError(
            f"k={k}: texts of {n} tokens hold no round of k + 1; "
            "take longer ones, and k of 1 or more."
        )
    # P(the first j are accepted) from each start
    runs = torch.ones(len(r), n - k, k + 1, dtype=torch.float64)
    for j in range(1, k + 1):
        runs[:, :, j] = runs[:, :, j - 1] * r[:, j - 1 : j - 1 + n - k]
    # P(a round has j + 1 tokens)
    ends = torch.cat([runs[:, :, :-1] - runs[:, :, 1:], runs[:, :, -1:]], 2)
    starts = torch.zeros(len(r), n + 1, dtype=torch.float64)
    starts[:, 0] = 1
    for t in range(n - k):
        starts[:, t + 1 : t + k + 2] += starts[:, t, None] * ends[:, t]
    starts = starts[:, : n - k]
    return (starts * runs.sum(2)).sum(1) / starts.sum(1)
