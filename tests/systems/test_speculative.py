"""Speculative decoding: the target's distribution by enumeration and by χ², its greedy text, and
what a round yields.
"""

import itertools
from fractions import Fraction

import pytest
import torch
from scipy.stats import chi2
from tiny_models import model_of, stirred

from course_utils.errors import CompressionError
from course_utils.pruning import structured
from course_utils.systems import latency, speculative


def draw(*shape, seed=0):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).softmax(-1)


def pair():
    target = model_of("llama", layers=3).double().eval()
    return target, structured.keep_layers(target, [0, 2]).double().eval()


P = [
    [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)],
    [Fraction(1, 4), Fraction(0), Fraction(3, 4)],
    [Fraction(1, 10), Fraction(2, 5), Fraction(1, 2)],
]
Q = [
    [Fraction(1, 6), Fraction(1, 3), Fraction(1, 2)],
    [Fraction(1, 4), Fraction(1, 2), Fraction(1, 4)],
]


def test_one_token_has_the_targets_distribution_exactly():
    p, q = P[0], Q[0]
    alpha = sum(min(a, b) for a, b in zip(p, q, strict=True))
    left = speculative.residual(
        torch.tensor([float(x) for x in p]), torch.tensor([float(x) for x in q])
    )
    assert float(
        speculative.acceptance(
            torch.tensor([float(x) for x in p]), torch.tensor([float(x) for x in q])
        )
    ) == pytest.approx(float(alpha))
    for x in range(3):
        out = q[x] * min(Fraction(1), p[x] / q[x]) + (1 - alpha) * Fraction(
            float(left[x])
        ).limit_denominator(1000)
        assert out == p[x]


def test_two_drafted_tokens_by_samples(n=12000):
    """All (first, second, third) tokens of rounds, each filled up by the target, against p₁ p₂ p₃
    by χ².

    The distributions do not depend on the text.
    """
    p, q = (
        torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)
        for rows in (P, Q)
    )
    rng = torch.Generator().manual_seed(0)
    counts = dict.fromkeys(itertools.product(range(3), repeat=3), 0)
    for _ in range(n):
        tokens = [int(torch.multinomial(row, 1, generator=rng)) for row in q]
        taken, last = speculative.verify(p, q, tokens, rng)
        text = [*tokens[:taken], last]
        text += [int(torch.multinomial(row, 1, generator=rng)) for row in p[len(text) :]]
        counts[tuple(text)] += 1
    expected = {text: n * float(p[0, text[0]] * p[1, text[1]] * p[2, text[2]]) for text in counts}
    assert all(counts[t] == 0 for t in counts if expected[t] == 0)
    statistic = sum((counts[t] - e) ** 2 / e for t, e in expected.items() if e)
    assert statistic < chi2.ppf(0.999, sum(e > 0 for e in expected.values()) - 1)


def test_alpha_is_one_minus_total_variation():
    p, q = draw(50, 7), draw(50, 7, seed=1)
    torch.testing.assert_close(speculative.acceptance(p, q), 1 - (p - q).abs().sum(-1) / 2)
    torch.testing.assert_close(
        speculative.residual(p, q).sum(-1), torch.ones(50, dtype=torch.float64)
    )
    torch.testing.assert_close(speculative.residual(p, p), p)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mixtral", "opt", "mamba"])
def test_greedy_text_is_the_targets(kind):
    # experts know no double
    layers, dtype = (
        (None if kind == "mamba" else 2),
        (torch.float32 if kind == "mixtral" else torch.float64),
    )
    target, draft = model_of(kind, layers=layers).to(dtype), stirred(kind, 0.02, layers).to(dtype)
    prompt = [5, 9, 3, 17]
    plain = speculative.write(target, None, prompt, new_tokens=12)
    for k in (1, 3):
        fast = speculative.write(target, draft, prompt, new_tokens=12, k=k)
        assert fast.tokens == plain.tokens and len(fast.tokens) == 12
        assert sum(a + 1 for a in fast.accepted) == 12 and fast.target_forwards == len(
            fast.accepted
        )
    ids = list(prompt)  # the plain text itself, without any cache
    with torch.no_grad():
        for _ in range(12):
            ids.append(
                int(target(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            )
    assert plain.tokens == ids[4:] and plain.target_forwards == 12 and plain.draft_forwards == 0


def test_a_draft_that_is_the_target_is_always_accepted():
    target, _ = pair()
    same = speculative.write(target, target, [4, 8], new_tokens=15, k=4, temperature=1.0, seed=3)
    assert same.accepted == [4, 4, 4] and same.target_forwards == 3 and same.draft_forwards == 12


def test_sampled_pairs_have_the_targets_distribution():
    """Two new tokens with a draft that is often rejected, in many texts, against p(x₁) p(x₂ | x₁)
    of the target: χ² on bins of like size.
    """
    target, draft = pair()
    target.lm_head.weight.data *= 3
    prompt = torch.tensor([7, 11, 13])
    with torch.no_grad():
        first = target(input_ids=prompt[None]).logits[0, -1].softmax(-1)
        rows = torch.cat([prompt.expand(96, 3), torch.arange(96)[:, None]], 1)
        joint = (first[:, None] * target(input_ids=rows).logits[:, -1].softmax(-1)).flatten()
    bins = (joint.cumsum(0) * 12).long().clamp(max=11)
    found, n = torch.zeros(12), 500
    for seed in range(n):
        a, b = speculative.write(
            target, draft, prompt, new_tokens=2, k=2, temperature=1.0, seed=seed
        ).tokens
        found[bins[a * 96 + b]] += 1
    expected = torch.zeros(12, dtype=torch.float64).index_add(0, bins, joint) * n
    assert float(((found - expected) ** 2 / expected).sum()) < chi2.ppf(0.999, 11)


def test_a_smaller_or_wider_draft_vocabulary():
    target = model_of("llama", layers=2).double().eval()
    wide = latency.llama(2, 32, 1, hidden=32, vocabulary=104, head_size=16).double()
    for a, b in ((target, wide), (wide, target)):
        plain = speculative.write(a, None, [5, 6], new_tokens=8)
        assert speculative.write(a, b, [5, 6], new_tokens=8).tokens == plain.tokens
    assert speculative.distribution(torch.ones(4), 2, 1.0).tolist() == [0.5, 0.5]
    assert speculative.distribution(torch.ones(2), 3, 1.0).tolist() == [0.5, 0.5, 0]


def test_stops():
    target, draft = pair()
    plain = speculative.write(target, None, [5, 6], new_tokens=10).tokens
    stop = {plain[4]}
    short = plain[: next(i for i, t in enumerate(plain) if t in stop) + 1]
    for with_draft in (draft, target, None):
        assert (
            speculative.write(target, with_draft, [5, 6], new_tokens=10, k=3, stop=stop).tokens
            == short
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"new_tokens": 0},
        {"k": 0},
        {"temperature": -1.0},
        {"new_tokens": 127},
        {"ids": []},
        {"ids": [200]},
    ],
)
def test_refused(wrong):
    target, draft = pair()
    with pytest.raises(CompressionError):
        speculative.write(target, draft, wrong.pop("ids", [5, 6]), **{"new_tokens": 3, **wrong})


def test_expected_tokens_and_speed():
    assert speculative.expected_tokens(0.8, 4) == pytest.approx((1 - 0.8**5) / 0.2)
    assert speculative.expected_tokens(1.0, 4) == 5 and speculative.expected_tokens(0.0, 4) == 1
    assert speculative.speed_up(3.0, 4, 0.25) == pytest.approx(1.5)
    with pytest.raises(CompressionError):
        speculative.expected_tokens(1.1, 2)


def test_a_round_by_enumeration():
    """Tokens of a round against all outcomes of all coins, in a text of 6 places with k = 2: only
    starts from which a round fits count.
    """
    r = torch.rand(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, value in zip(r.tolist(), speculative.tokens_per_round(r, 2).tolist(), strict=True):
        lengths = starts = 0.0
        for coins in itertools.product((0, 1), repeat=6):
            chance = 1.0
            for c, x in zip(coins, row, strict=True):
                chance *= x if c else 1 - x
            t = 0
            while t < 4:
                length = 1 if not coins[t] else 2 if not coins[t + 1] else 3
                lengths, starts, t = lengths + chance * length, starts + chance, t + length
        assert value == pytest.approx(lengths / starts, rel=1e-12)
    same = torch.full((1, 60), 0.7)
    assert float(speculative.tokens_per_round(same, 4)) == pytest.approx(
        speculative.expected_tokens(0.7, 4), rel=1e-6
    )


def test_chances_forecast_the_rounds_that_are_run():
    """Accepted tokens in real runs against the exact expectation from r, on texts that the runs
    wrote.
    """
    target, draft = pair()
    target.lm_head.weight.data *= 2
    draft.lm_head.weight.data *= 2
    runs = [
        speculative.write(target, draft, [5, 6, 7], new_tokens=40, k=3, temperature=1.0, seed=s)
        for s in range(20)
    ]
    ids = torch.tensor([[5, 6, 7, *run.tokens] for run in runs])
    with torch.no_grad():
        logs = [m(input_ids=ids).logits.log_softmax(-1) for m in (target, draft)]
    alpha, r = (x[:, 2:] for x in speculative.chances(*logs, ids))
    # one is the mean of the other over x ~ p
    assert float(alpha.mean()) == pytest.approx(float(r.mean()), abs=0.04)
    expected = float(speculative.tokens_per_round(r, 3).mean())
    measured = 40 * 20 / sum(len(run.accepted) for run in runs)
    assert measured == pytest.approx(expected, rel=0.06)
