"""ULD against brute force over pairings, a linear program and scipy; positions that see the same
text; a student of characters.
"""

import itertools

import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from course_utils.distillation import across
from course_utils.errors import CompressionError
from course_utils.models.tokenizer import train_tokenizer

TEXTS = [
    "The red lamp is in the hall.",
    "7 + 12 = 19",
    "Mara moved to the shed, and took the lamp.\nThen she left.",
] * 8


def logits(n, v, seed):
    return 2 * torch.randn(n, v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(p, q):
    """The least cost of moving p onto q where every move from one token to another costs 1."""
    n = len(p)
    cost = 1 - torch.eye(n).numpy()
    rows = [[float(k // n == i) for k in range(n * n)] for i in range(n)] + [
        [float(k % n == j) for k in range(n * n)] for j in range(n)
    ]
    return linprog(cost.ravel(), A_eq=rows, b_eq=[*p, *q], method="highs").fun


def test_it_is_the_best_pairing_of_tokens_and_twice_its_transport_cost():
    s, t = logits(1, 4, 0), logits(1, 5, 1)
    q, p = torch.cat([s[0].softmax(-1), torch.zeros(1).double()]), t[0].softmax(-1)
    found = float(across.distance(s, t))
    ways = list(itertools.permutations(range(5)))
    assert found == pytest.approx(min(float((p - q[list(w)]).abs().sum()) for w in ways), abs=1e-12)
    assert found == pytest.approx(
        2 * min(moved(p.tolist(), q[list(w)].tolist()) for w in ways[::7] + [ways[0]] + best(p, q)),
        abs=1e-7,
    )


def best(p, q):
    ranks = p.argsort(descending=True).argsort()
    return [tuple(q.argsort(descending=True)[ranks].tolist())]


def test_it_is_the_vocabulary_times_scipys_wasserstein_distance_of_the_probabilities():
    s, t = logits(6, 30, 2), logits(6, 30, 3)
    due = [
        30 * wasserstein_distance(a.softmax(-1).numpy(), b.softmax(-1).numpy())
        for a, b in zip(s, t, strict=True)
    ]
    assert float(across.distance(s, t)) == pytest.approx(sum(due) / 6, rel=1e-10)


def test_relabelling_changes_nothing_and_only_the_student_learns():
    s, t = logits(3, 7, 4).requires_grad_(), logits(3, 11, 5).requires_grad_()
    loss = across.distance(s, t)
    assert float(
        across.distance(s.detach()[:, torch.randperm(7)], t[:, torch.randperm(11)])
    ) == pytest.approx(float(loss.detach()), rel=1e-12)
    loss.backward()
    assert t.grad is None
    assert torch.autograd.gradcheck(lambda x: across.distance(x, t.detach()), s)


def test_pairs_are_the_places_where_both_have_read_the_same():
    bpe, chars = train_tokenizer(TEXTS, vocabulary=300), across.character_tokenizer(TEXTS)
    for text in TEXTS[:3]:
        a, ends_a = across.encode(chars, text)
        b, ends_b = across.encode(bpe, text)
        assert len(ends_a) == len(text) + 1 and ends_b[-1] == len(text)
        found = across.pairs(ends_a, ends_b)
        # each of the coarser tokens has its character
        assert [j for _, j in found] == list(range(len(b)))
        assert all(
            chars.decode(a[1 : i + 1])
            == bpe.decode(b[1 : j + 1], clean_up_tokenization_spaces=False)
            for i, j in found
        )
    assert across.pairs([0, 1, 2], [0, 2], "index") == [(0, 0), (1, 1)]


def test_characters_come_back_and_strangers_are_unknown():
    chars = across.character_tokenizer(["ab \n"])
    ids = chars("a b\n", add_special_tokens=False)["input_ids"]
    assert chars.decode(ids) == "a b\n" and chars("z", add_special_tokens=False)["input_ids"] == [
        chars.unk_token_id
    ]


def test_a_student_of_characters_comes_closer_to_a_teacher_of_pieces(make):
    bpe, chars = train_tokenizer(TEXTS, vocabulary=300), across.character_tokenizer(TEXTS)
    teacher, student = make("llama", seed=1), make("gpt2", seed=0)
    teacher.resize_token_embeddings(300)
    kept = {k: v.clone() for k, v in student.state_dict().items()}
    settings = {"steps": 30, "context": 40, "peak": 5e-3, "progress": False, "batch": 8}
    taught = across.train(student, teacher, (chars, bpe), TEXTS, weight=10.0, **settings)
    alone = across.train(student, teacher, (chars, bpe), TEXTS, weight=0.0, **settings)

    def apart(model):
        total = 0.0
        for text in TEXTS[:3]:
            (a, ends_a), (b, ends_b) = (
                across.encode(chars, text[:39]),
                across.encode(bpe, text[:39]),
            )
            i, j = zip(*across.pairs(ends_a, ends_b), strict=True)
            with torch.no_grad():
                total += float(
                    across.distance(
                        model(torch.tensor([a])).logits[0, list(i)],
                        teacher(torch.tensor([b])).logits[0, list(j)],
                    )
                )
        return total

    assert apart(taught.model) < 0.95 * apart(alone.model)
    assert all(torch.equal(v, kept[k]) for k, v in student.state_dict().items())


def test_what_makes_no_sense_is_named(make):
    with pytest.raises(CompressionError, match="paired positions"):
        across.distance(logits(2, 4, 0), logits(3, 4, 0))
    with pytest.raises(CompressionError, match="alignment"):
        across.pairs([1], [1], "words")
    chars = across.character_tokenizer(TEXTS)
    with pytest.raises(CompressionError, match="texts"):
        across.train(make(), make(), (chars, chars), [], steps=1)
    with pytest.raises(CompressionError, match="fewer than two"):
        across.train(make(), make(), (chars, chars), [""], steps=1)
    with pytest.raises(CompressionError, match="weight"):
        across.train(make(), make(), (chars, chars), TEXTS, steps=1, weight=-1.0)
