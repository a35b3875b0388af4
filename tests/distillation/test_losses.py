"""Each loss against plain loops or scipy in float64, and its gradient against the closed form and
finite differences.
"""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon, pdist
from scipy.special import log_softmax, rel_entr, softmax
from torch.autograd import gradcheck

from course_utils.distillation import losses
from course_utils.distillation.losses import logits
from course_utils.errors import CompressionError

TAUS = (0.5, 1.0, 2.0, 7.0)


@pytest.fixture
def pair():
    """Student and teacher logits (3, 5, 11) in float64, labels, and a mask that hides some
    positions.
    """
    g = torch.Generator().manual_seed(3)
    student = 3 * torch.randn(3, 5, 11, generator=g, dtype=torch.float64)
    teacher = 3 * torch.randn(3, 5, 11, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 11, (3, 5), generator=g)
    mask = torch.rand(3, 5, generator=g) > 0.3
    return student.requires_grad_(), teacher.requires_grad_(), labels, mask


def rows(tensor, mask):
    return tensor.detach()[mask].numpy()


@pytest.mark.parametrize("tau", TAUS)
def test_divergences_match_scipy(pair, tau):
    student, teacher, _, mask = pair
    s, t = softmax(rows(student, mask) / tau, -1), softmax(rows(teacher, mask) / tau, -1)
    student, teacher = student.detach(), teacher.detach()
    assert float(losses.kl(student, teacher, tau, mask)) == pytest.approx(
        rel_entr(t, s).sum(-1).mean(), rel=1e-12
    )
    assert float(losses.reverse_kl(student, teacher, tau, mask)) == pytest.approx(
        rel_entr(s, t).sum(-1).mean(), rel=1e-12
    )
    js = np.mean([jensenshannon(a, b) ** 2 for a, b in zip(s, t, strict=True)])
    assert float(losses.jensen_shannon(student, teacher, tau, mask)) == pytest.approx(js, rel=1e-10)
    m = 0.2 * t + 0.8 * s
    general = (0.2 * rel_entr(t, m) + 0.8 * rel_entr(s, m)).sum(-1).mean()
    assert float(losses.jensen_shannon(student, teacher, tau, mask, beta=0.2)) == pytest.approx(
        general, rel=1e-12
    )


def test_jensen_shannon_ends_are_the_two_directions(pair):
    student, teacher, _, _ = pair
    near_0 = losses.jensen_shannon(student, teacher, 1.0, beta=1e-7) / 1e-7
    near_1 = losses.jensen_shannon(student, teacher, 1.0, beta=1 - 1e-7) / 1e-7
    assert float(near_0) == pytest.approx(float(losses.kl(student, teacher)), rel=1e-4)
    assert float(near_1) == pytest.approx(float(losses.reverse_kl(student, teacher)), rel=1e-4)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_response_is_the_textbook_formula(pair, tau, alpha):
    student, teacher, labels, mask = pair
    z, y = rows(student, mask), rows(labels, mask)
    s, t = softmax(z / tau, -1), softmax(rows(teacher, mask) / tau, -1)
    ce = -np.mean([log_softmax(row)[label] for row, label in zip(z, y, strict=True)])
    wanted = alpha * ce + (1 - alpha) * tau**2 * rel_entr(t, s).sum(-1).mean()
    got = losses.response(student, teacher, labels, tau, alpha, mask)
    assert float(got) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("tau", TAUS)
def test_response_gradient_is_tau_times_the_difference_of_probabilities(pair, tau):
    student, teacher, labels, _ = pair
    positions = labels.numel()
    losses.response(student, teacher, labels, tau, 0.0).backward()
    difference = torch.softmax(student / tau, -1) - torch.softmax(teacher / tau, -1)
    torch.testing.assert_close(
        student.grad, tau * difference.detach() / positions, rtol=1e-12, atol=1e-15
    )
    assert teacher.grad is None


def test_cross_entropy_gradient(pair):
    student, _, labels, mask = pair
    losses.cross_entropy(student, labels, mask).backward()
    wanted = (
        (torch.softmax(student, -1) - torch.nn.functional.one_hot(labels, 11))
        * mask[..., None]
        / mask.sum()
    )
    torch.testing.assert_close(student.grad, wanted.detach(), rtol=1e-12, atol=1e-15)


def test_high_temperature_limit(pair):
    """τ² KL → ‖z_S − z_T‖² / (2 V) for centred logits, with an error that falls like 1 / τ."""
    student, teacher, _, _ = pair
    centred = [z.detach() - z.detach().mean(-1, keepdim=True) for z in (student, teacher)]
    limit = float(((centred[0] - centred[1]) ** 2).sum(-1).mean()) / (2 * 11)
    errors = [
        abs(float(losses.response(student, teacher, None, tau, 0.0)) - limit)
        for tau in (1e2, 1e3, 1e4)
    ]
    assert errors[2] < 1e-3 * limit
    assert 8 < errors[0] / errors[1] < 12 and 8 < errors[1] / errors[2] < 12


@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
def test_response_gradcheck(pair, divergence):
    student, teacher, labels, mask = pair
    fixed = teacher.detach()
    assert gradcheck(
        lambda z: losses.response(z, fixed, labels, 3.0, 0.4, mask, divergence), student
    )


def test_masked_positions_do_not_matter(pair):
    student, teacher, labels, mask = pair
    spoiled = student.detach().clone()
    spoiled[~mask] = float("nan")
    spoiled.requires_grad_()
    strange = labels.masked_fill(~mask, -100)
    got = losses.response(spoiled, teacher, strange, 2.0, 0.5, mask)
    assert float(got) == float(losses.response(student, teacher, labels, 2.0, 0.5, mask))
    got.backward()
    assert (spoiled.grad[~mask] == 0).all() and torch.isfinite(spoiled.grad).all()


def test_equal_models_cost_nothing_and_any_other_something(pair):
    student, _, labels, _ = pair
    # a shift of all logits changes no probability
    same = student.detach() + torch.randn(3, 5, 1, dtype=torch.float64)
    for divergence in (losses.kl, losses.reverse_kl, losses.jensen_shannon):
        assert abs(float(divergence(student, same, 2.0))) < 1e-14
        assert float(divergence(student, student.detach().flip(-1), 2.0)) > 0.01


def test_half_precision_logits_are_raised(pair):
    student, teacher, labels, _ = pair
    low = student.detach().half(), teacher.detach().half()
    got = losses.response(*low, labels)
    assert got.dtype == torch.float32
    assert float(got) == pytest.approx(
        float(losses.response(low[0].double(), low[1].double(), labels)), rel=1e-5
    )


def test_extreme_logits_stay_finite():
    student = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-200.0, 200.0, 0.0]])
    for divergence, wanted in (
        (losses.kl, 400.0),
        (losses.reverse_kl, 400.0),
        (losses.jensen_shannon, math.log(2)),
    ):
        value = divergence(student, teacher)
        assert float(value) == pytest.approx(wanted, rel=1e-5)
        assert torch.isfinite(torch.autograd.grad(value, student)[0]).all()


def test_bad_input_is_named(pair):
    student, teacher, labels, mask = pair
    for call, word in (
        (lambda: losses.response(student, teacher[..., :-1], labels), "teacher_logits"),
        (lambda: losses.response(student, teacher, labels, temperature=0), "temperature"),
        (
            lambda: losses.response(student, teacher, labels, temperature=float("nan")),
            "temperature",
        ),
        (lambda: losses.response(student, teacher, labels, alpha=1.5), "alpha"),
        (lambda: losses.response(student, teacher), "labels"),
        (lambda: losses.response(student, teacher, labels, divergence="kl"), "divergence"),
        (lambda: losses.response(student, teacher, labels + 11), "labels"),
        (lambda: losses.response(student, teacher, labels[:, 1:]), "labels"),
        (lambda: losses.kl(student, teacher, mask=mask[:, 1:]), "mask"),
        (lambda: losses.kl(student, teacher, mask=torch.zeros_like(mask)), "mask"),
        (lambda: losses.jensen_shannon(student, teacher, beta=1.0), "beta"),
    ):
        with pytest.raises(CompressionError, match=word):
            call()


# inside the models


def test_feature_against_loops():
    g = torch.Generator().manual_seed(0)
    s = torch.randn(2, 4, 3, generator=g, dtype=torch.float64, requires_grad=True)
    t = torch.randn(2, 4, 5, generator=g, dtype=torch.float64)
    projector = torch.nn.Linear(3, 5).double()
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    total, size, count = 0.0, 0.0, 0
    for b in range(2):
        for i in range(4):
            if mask[b, i]:
                for o in range(5):
                    p = sum(float(projector.weight[o, j] * s[b, i, j]) for j in range(3)) + float(
                        projector.bias[o]
                    )
                    total, size, count = (
                        total + (p - float(t[b, i, o])) ** 2,
                        size + float(t[b, i, o]) ** 2,
                        count + 1,
                    )
    assert float(losses.feature(s, t, projector, mask)) == pytest.approx(total / count, rel=1e-12)
    assert float(losses.feature(s, t, projector, mask, relative=True)) == pytest.approx(
        total / size, rel=1e-12
    )
    assert gradcheck(lambda x: losses.feature(x, t, projector, mask, relative=True), s)
    with pytest.raises(CompressionError, match="projector"):
        losses.feature(s, t)


def maps(heads, seed, dtype=torch.float64):
    """Causal attention maps (2, heads, 4, 4)."""
    scores = torch.randn(2, heads, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return scores.masked_fill(~torch.ones(4, 4, dtype=torch.bool).tril(), -math.inf).softmax(-1)


def test_attention_maps_against_loops():
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    for student, teacher in ((maps(3, 0), maps(3, 1)), (maps(2, 0), maps(4, 1))):
        ours, theirs = student, teacher
        if student.shape[1] != teacher.shape[1]:
            ours, theirs = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
        rows = [
            rel_entr(theirs[b, h, i].numpy(), ours[b, h, i].numpy()).sum()
            for b in range(2) for h in range(ours.shape[1]) for i in range(4) if mask[b, i]
        ]  # fmt: skip
        assert float(losses.attention_maps(student, teacher, mask)) == pytest.approx(
            np.mean(rows), rel=1e-10
        )
    scores = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda z: losses.attention_maps(z.softmax(-1), maps(3, 1), mask), scores)
    assert float(losses.attention_maps(maps(3, 1), maps(3, 1))) == 0


@pytest.mark.parametrize("causal", [True, False])
def test_value_relations_against_loops(causal):
    g = torch.Generator().manual_seed(5)
    s = torch.randn(2, 4, 6, generator=g, dtype=torch.float64, requires_grad=True)
    t = torch.randn(2, 4, 8, generator=g, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)

    def relations(v, b, h, i):
        d = v.shape[-1] // 2
        part = v.detach()[b, :, h * d : (h + 1) * d].numpy()
        seen = [j for j in range(4) if mask[b, j] and (j <= i or not causal)]
        return softmax([part[i] @ part[j] / math.sqrt(d) for j in seen])

    rows = [
        rel_entr(relations(t, b, h, i), relations(s, b, h, i)).sum()
        for b in range(2) for h in range(2) for i in range(4) if mask[b, i]
    ]  # fmt: skip
    got = losses.value_relations(s, t, heads=2, mask=mask, causal=causal)
    assert float(got) == pytest.approx(np.mean(rows), rel=1e-10)
    assert gradcheck(lambda v: losses.value_relations(v, t, 2, mask, causal), s)
    with pytest.raises(CompressionError, match="heads=4"):
        losses.value_relations(s, t, heads=4)


# geometry


def huber(x):
    return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5)


def vectors(n=6, width=4, seed=0):
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.requires_grad_(seed == 0)


def test_distance_against_scipy():
    s, t = vectors(), vectors(width=7, seed=1)
    a, b = pdist(s.detach().numpy()), pdist(t.numpy())
    wanted = huber(a / a.mean() - b / b.mean()).mean()
    assert float(losses.distance(s, t)) == pytest.approx(wanted, rel=1e-12)
    assert gradcheck(lambda x: losses.distance(x, t), s)
    assert float(losses.distance(s, 5 * s + 1)) < 1e-20  # size and place do not matter


def test_angle_against_loops():
    s, t = vectors(), vectors(width=7, seed=1)

    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    x, y = s.detach().numpy(), t.numpy()
    corners = [
        (i, j, k) for i in range(6) for j in range(6) for k in range(6) if len({i, j, k}) == 3
    ]
    wanted = np.mean([huber(cosine(x, *c) - cosine(y, *c)) for c in corners])
    assert float(losses.angle(s, t)) == pytest.approx(wanted, rel=1e-12)
    assert gradcheck(lambda v: losses.angle(v, t), s)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert float(losses.angle(s, 3 * s @ turn)) < 1e-20


def test_relations_survive_equal_examples():
    s = vectors().detach()
    s[1] = s[0]
    s.requires_grad_()
    for loss in (losses.distance, losses.angle):
        value = loss(s, vectors(seed=1))
        assert torch.isfinite(torch.autograd.grad(value, s)[0]).all()


def test_contrastive_against_loops():
    s, t = vectors(), vectors(seed=1)
    x, y = s.detach().numpy(), t.numpy()
    scores = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) / 0.2 for b in y] for a in x]
    wanted = -np.mean([log_softmax(row)[i] for i, row in enumerate(scores)])
    assert float(losses.contrastive(s, t, 0.2)) == pytest.approx(wanted, rel=1e-12)
    assert gradcheck(lambda v: losses.contrastive(v, t, 0.2), s)
    with pytest.raises(CompressionError, match="widths"):
        losses.contrastive(s, vectors(width=7, seed=1))


def test_relations_need_enough_examples():
    for loss, least in ((losses.distance, 2), (losses.angle, 3), (losses.contrastive, 2)):
        with pytest.raises(CompressionError, match=f"at least {least}"):
            loss(vectors(least - 1), vectors(least - 1))
        with pytest.raises(CompressionError, match="row for each example"):
            loss(vectors(6), vectors(5))


def test_no_gradient_reaches_a_teacher():
    hidden = [torch.randn(2, 4, 6, requires_grad=True) for _ in range(2)]
    flat = [torch.randn(6, 4, requires_grad=True) for _ in range(2)]
    scores = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    for call, (student, teacher) in (
        (losses.kl, hidden), (losses.reverse_kl, hidden), (losses.jensen_shannon, hidden),
        (lambda s, t: losses.response(s, t, alpha=0.0), hidden), (losses.feature, hidden),
        (losses.value_relations, hidden), (losses.distance, flat), (losses.angle, flat),
        (losses.contrastive, flat),
        (lambda s, t: losses.attention_maps(s.softmax(-1), t.softmax(-1)), scores),
    ):  # fmt: skip
        call(student, teacher).backward()
        assert teacher.grad is None and student.grad.abs().sum() > 0
        student.grad = None


# several teachers, and the top of one


@pytest.mark.parametrize("weighting", ["uniform", "entropy", "label"])
def test_mixture_against_loops(weighting):
    g = torch.Generator().manual_seed(2)
    z = 2 * torch.randn(3, 4, 7, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 7, (4,), generator=g)
    got = losses.mixture(z, labels, 2.0, weighting).exp()
    for i in range(4):
        plain, soft = softmax(z[:, i].numpy(), -1), softmax(z[:, i].numpy() / 2.0, -1)
        score = {
            "uniform": np.zeros(3),
            "entropy": (plain * np.log(plain)).sum(-1),
            "label": np.log(plain[:, labels[i]]),
        }
        weights = softmax(score[weighting])
        np.testing.assert_allclose(got[i].numpy(), weights @ soft, rtol=1e-12)


def test_confidence_listens_to_the_teacher_that_knows():
    sure, blank = torch.zeros(5, 20), torch.zeros(5, 20)
    sure[:, 3] = 8.0
    for weighting, least in (("entropy", 0.6), ("label", 0.9)):
        p = losses.mixture(torch.stack([sure, blank]), torch.full((5,), 3), 1.0, weighting).exp()[
            :, 3
        ]
        plain = losses.mixture(torch.stack([sure, blank]))[:, 3].exp()
        assert (p > plain).all() and (p > least).all()


def test_a_token_that_the_teacher_rules_out_adds_nothing():
    """Logits of −∞: the divergence is that over the other tokens, and its gradient is finite and 0
    there.
    """
    g = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(3, 5, generator=g, dtype=torch.float64),
        torch.randn(3, 5, generator=g, dtype=torch.float64),
    )
    teacher[:, 2] = -torch.inf
    student.requires_grad_(True)
    found = losses.kl(student, teacher)
    p = teacher.softmax(-1)
    wanted = (
        sum(
            float(p[i, j] * (p[i, j].log() - student[i].log_softmax(-1)[j]))
            for i in range(3)
            for j in (0, 1, 3, 4)
        )
        / 3
    )
    assert float(found) == pytest.approx(wanted, rel=1e-10)
    found.backward()
    torch.testing.assert_close(student.grad, (student.detach().softmax(-1) - p) / 3)


@pytest.mark.parametrize("divergence", [logits.kl, logits.reverse_kl, logits.jensen_shannon])
def test_large_logits_in_pieces_are_those_of_the_whole(divergence, monkeypatch):
    """Value and gradient, also where the teacher rules a class out, a mask hides positions, and
    pieces are of unlike size.
    """
    g = torch.Generator().manual_seed(0)
    student, teacher = (
        3 * torch.randn(4, 5, 7, generator=g, dtype=torch.float64) for _ in range(2)
    )
    mask = torch.rand(4, 5, generator=g) < 0.8
    if divergence is logits.kl:
        teacher[0, 0, 0] = -torch.inf
    found = []
    for large in (2**27, 3 * 7, 1):
        monkeypatch.setattr(logits, "LARGE", large)
        asked = student.clone().requires_grad_()
        value = divergence(asked, teacher, 2.0, mask)
        found.append((value.detach(), *torch.autograd.grad(value, asked)))
    for value, slope in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(slope, found[0][1], rtol=1e-12, atol=1e-15)
