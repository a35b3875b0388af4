"""The gradient of each loss in the student's tensor: autograd against a closed form written out, in
float64.

The gradients of the response and of the cross-entropy are in test_losses.py, and finite differences
of all losses.
"""

import pytest
import torch

from course_utils.distillation import losses


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_autograd(loss, student):
    student = student.clone().requires_grad_(True)
    return torch.autograd.grad(loss(student), student)[0]


def close(got, wanted):
    assert float(wanted.abs().max()) > 1e-4
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_reverse_kl(tau):
    """∂ KL(S ‖ T) / ∂z = s ⊙ (log s/t − KL(S ‖ T)) / τ."""
    z, t = 2 * draw(4, 7, seed=0), 2 * draw(4, 7, seed=1)
    s, ratio = (z / tau).softmax(-1), (z / tau).log_softmax(-1) - (t / tau).log_softmax(-1)
    wanted = s * (ratio - (s * ratio).sum(-1, keepdim=True)) / tau / len(z)
    close(by_autograd(lambda x: losses.reverse_kl(x, t, tau), z), wanted)


@pytest.mark.parametrize("beta", [0.5, 0.2])
def test_jensen_shannon(beta):
    """∂ JS / ∂z = (1 − β) s ⊙ (log s/m − KL(S ‖ M)) / τ: the terms in ∂m cancel, since m is the
    mixture.
    """
    tau, z, t = 2.0, 2 * draw(4, 7, seed=0), 2 * draw(4, 7, seed=1)
    s, p = (z / tau).softmax(-1), (t / tau).softmax(-1)
    ratio = (s / (beta * p + (1 - beta) * s)).log()
    wanted = (1 - beta) * s * (ratio - (s * ratio).sum(-1, keepdim=True)) / tau / len(z)
    close(by_autograd(lambda x: losses.jensen_shannon(x, t, tau, beta=beta), z), wanted)


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
def test_top_k(tail):
    """Inside the top k (q_k − p_k) / τ with the probabilities of the top k (and the bucket); what
    is in the bucket shares its gradient in proportion to the student's probabilities; renormalized,
    it gets none.
    """
    from course_utils.distillation import cache

    tau, z, t = 2.0, 2 * draw(4, 9, seed=0), 2 * draw(4, 9, seed=1)
    log_p = t.log_softmax(-1)
    values, top = log_p.topk(3, -1)
    kept = cache.TopK(values, top, (log_p / tau).scatter(-1, top, -torch.inf).logsumexp(-1))
    s, p = (z / tau).softmax(-1), (t / tau).softmax(-1)
    inside = torch.zeros_like(z, dtype=torch.bool).scatter(-1, top, True)
    if tail == "bucket":
        rest_s, rest_p = ((x * ~inside).sum(-1, keepdim=True) for x in (s, p))
        wanted = torch.where(inside, s - p, (rest_s - rest_p) * s / rest_s)
    else:
        wanted = inside * (
            s / (s * inside).sum(-1, keepdim=True) - p / (p * inside).sum(-1, keepdim=True)
        )
    close(by_autograd(lambda x: losses.top_k(x, kept, tau, tail=tail), z), wanted / tau / len(z))


def test_feature():
    """2 Pᵀ (P h − h_T) / (tokens · width), 0 at padding."""
    h, t, p = draw(2, 4, 3, seed=0), draw(2, 4, 5, seed=1), draw(5, 3, seed=2)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    wanted = 2 * (h @ p.T - t) @ p / (6 * 5) * mask[..., None]
    close(by_autograd(lambda x: losses.feature(x, t, lambda y: y @ p.T, mask), h), wanted)


def test_attention_maps():
    """−A_T / A_S for each counted row."""
    ours, theirs = ((2 * draw(2, 3, 4, 4, seed=s)).softmax(-1) for s in (0, 1))
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    wanted = -theirs / ours * mask[:, None, :, None] / (3 * 7)
    close(by_autograd(lambda x: losses.attention_maps(x, theirs, mask), ours), wanted)


def test_value_relations():
    """With scores Z = V Vᵀ / √d: G = ∂L/∂Z = (R_S − R_T) / rows, and ∂L/∂V = (G + Gᵀ) V / √d."""
    v, t, heads, d = draw(2, 5, 6, seed=0), draw(2, 5, 8, seed=1), 2, 3

    def relations(x):
        parts = x.unflatten(-1, (heads, -1)).transpose(1, 2)
        z = parts @ parts.transpose(-1, -2) / parts.shape[-1] ** 0.5
        return z.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf).softmax(-1)

    g = (relations(v) - relations(t)) / (2 * heads * 5)
    parts = v.unflatten(-1, (heads, d)).transpose(1, 2)
    wanted = ((g + g.transpose(-1, -2)) @ parts / d**0.5).transpose(1, 2).flatten(-2)
    close(by_autograd(lambda x: losses.value_relations(x, t, heads), v), wanted)


def test_distance():
    """∂L/∂d_ij = h_ij / μ − Σ h d / (μ² n), h = Huber's slope / n over n pairs; ∂d_ij/∂x_i = (x_i −
    x_j) / d_ij.
    """
    x, t = draw(6, 4, seed=0), 3 * draw(6, 7, seed=1)
    i, j = torch.triu_indices(6, 6, offset=1)
    d, far = (x[i] - x[j]).norm(dim=-1), (t[i] - t[j]).norm(dim=-1)
    mu, n = d.mean(), len(d)
    slope = (d / mu - far / far.mean()).clamp(-1, 1) / n
    in_d = slope / mu - (slope * d).sum() / mu**2 / n
    pull = (in_d / d)[:, None] * (x[i] - x[j])
    wanted = torch.zeros_like(x).index_add(0, i, pull).index_add(0, j, -pull)
    close(by_autograd(lambda y: losses.distance(y, t), x), wanted)


def test_angle():
    """With â, b̂ the directions from x_j to x_i and x_k: ∂c/∂x_i = (b̂ − c â) / |a|, likewise x_k,
    and x_j minus both.
    """
    x, t = draw(5, 3, seed=0), draw(5, 4, seed=1)
    wanted, corners = torch.zeros_like(x), 0
    for j in range(5):
        for i in range(5):
            for k in range(i + 1, 5):
                if j in (i, k):
                    continue
                a, b = x[i] - x[j], x[k] - x[j]
                u, v = a / a.norm(), b / b.norm()
                c, other = u @ v, torch.cosine_similarity(t[i] - t[j], t[k] - t[j], dim=0)
                slope = (c - other).clamp(-1, 1)
                at_i, at_k = slope * (v - c * u) / a.norm(), slope * (u - c * v) / b.norm()
                wanted[i] += at_i
                wanted[k] += at_k
                wanted[j] -= at_i + at_k
                corners += 1
    close(by_autograd(lambda y: losses.angle(y, t), x), wanted / corners)


def test_contrastive():
    """g = (softmax(ŝ t̂ᵀ / τ) − I) t̂ / (n τ), then through the normalization: (g − ŝ (ŝ · g)) /
    |s|.
    """
    s, t, tau = draw(6, 4, seed=0), draw(6, 4, seed=1), 0.3
    unit, target = (x / x.norm(dim=-1, keepdim=True) for x in (s, t))
    g = (
        ((unit @ target.T / tau).softmax(-1) - torch.eye(6, dtype=torch.float64))
        @ target
        / (6 * tau)
    )
    wanted = (g - unit * (unit * g).sum(-1, keepdim=True)) / s.norm(dim=-1, keepdim=True)
    close(by_autograd(lambda x: losses.contrastive(x, t, tau), s), wanted)
