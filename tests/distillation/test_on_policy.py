"""On-policy distillation: what is sampled, what is scored, and that nothing else moves; four
architectures.
"""

import copy

import pytest
import torch
from scipy.stats import chisquare

from course_utils.distillation import on_policy
from course_utils.errors import CompressionError

KINDS = ("llama", "qwen2", "opt", "gpt2")


def padded():
    """Three prompts of 3, 5 and 1 tokens, padded on the left and on the right, with their masks."""
    rows = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
    left, right = torch.ones(2, 3, 5, dtype=torch.long), torch.ones(2, 3, 5, dtype=torch.long)
    left[1], right[1] = 0, 0
    for i, row in enumerate(rows):
        left[0, i, 5 - len(row) :], left[1, i, 5 - len(row) :] = torch.tensor(row), 1
        right[0, i, : len(row)], right[1, i, : len(row)] = torch.tensor(row), 1
    return rows, (left[0], left[1].bool()), (right[0], right[1].bool())


def greedy(model, row, tokens, end):
    """The slow way: one prompt, no cache, no padding."""
    ids = list(row)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == end:
            break
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_writing_is_that_of_single_prompts_whichever_side_is_padded(make, kind):
    model = make(kind)
    rows, *both = padded()
    end = greedy(model, rows[0], 2, None)[-1]  # the second token of the first prompt ends it
    wanted = [greedy(model, row, 6, end) for row in rows]
    for ids, real in both:
        out = on_policy.sample(model, ids, tokens=6, real=real, temperature=0.0, end=end)
        for i, (row, want) in enumerate(zip(rows, wanted, strict=True)):
            assert out.ids[i][out.real[i]].tolist() == want
            assert out.own[i].nonzero().flatten().tolist() == list(range(len(row), len(want)))
            assert not out.real[i, len(want) :].any()


def test_samples_come_from_the_whole_softmax_whatever_the_model_is_shipped_with(make):
    model = make()
    model.generation_config.top_k, model.generation_config.repetition_penalty = 1, 5.0
    prompt, tau = torch.tensor([[5, 6, 7]]), 1.7
    p = (model(prompt).logits[0, -1].double() / tau).softmax(-1).detach()
    torch.manual_seed(0)
    drawn = on_policy.sample(model, prompt.repeat(4000, 1), tokens=1, temperature=tau).ids[:, 3]
    counts = torch.bincount(drawn, minlength=50).double()
    large = p * 4000 >= 5
    seen = torch.cat([counts[large], counts[~large].sum()[None]])
    due = torch.cat([p[large], p[~large].sum()[None]]) * 4000
    keep = due > 0
    assert chisquare(seen[keep].numpy(), due[keep].numpy()).pvalue > 1e-4
    assert model.generation_config.top_k == 1  # and they are as they were


def by_loops(student, teacher, own, direction):
    """The mean divergence at scored tokens, one position after the other, in float64."""
    total, n = 0.0, 0
    for row in range(len(own)):
        for t in range(1, own.shape[1]):
            if own[row, t]:
                q, p = (x[row, t - 1].double().log_softmax(-1) for x in (student, teacher))
                m = torch.log((p.exp() + q.exp()) / 2)
                kl = lambda a, b: float((a.exp() * (a - b)).sum())  # noqa: E731
                total += {
                    "forward": kl(p, q),
                    "reverse": kl(q, p),
                    "js": (kl(p, m) + kl(q, m)) / 2,
                }[direction]
                n += 1
    return total / n


@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
def test_loss_against_loops_and_its_gradient_stays_in_the_student(direction):
    g = torch.Generator().manual_seed(0)
    student = torch.randn(3, 6, 9, generator=g, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 6, 9, generator=g, dtype=torch.float64, requires_grad=True)
    own = torch.rand(3, 6, generator=g) > 0.5
    loss = on_policy.loss(student, teacher, own, direction)
    assert float(loss) == pytest.approx(by_loops(student, teacher, own, direction), rel=1e-12)
    loss.backward()
    assert teacher.grad is None
    scored = torch.cat([own[:, 1:], torch.zeros(3, 1, dtype=torch.bool)], 1)
    assert (student.grad[~scored] == 0).all() and (student.grad[scored].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1.0, 0.0, 0.5])
def test_training_comes_closer_to_the_teacher_and_leaves_both_as_they_were(make, ids, kind, share):
    student, teacher = make(kind, seed=0), make(kind, seed=1)
    before = [copy.deepcopy(m.state_dict()) for m in (student, teacher)]
    prompts = ids[:, :4]
    settings = {
        "tokens": 6,
        "share": share,
        "data": ids,
        "batch": 12,
        "peak": 5e-3,
        "progress": False,
        "divergence": "forward",
    }
    done = on_policy.train(student, teacher, prompts, steps=40, **settings)
    assert (
        done.history[-1]["loss"]
        < on_policy.train(student, teacher, prompts, steps=2, **settings).history[-1]["loss"]
    )
    for model, kept in zip((student, teacher), before, strict=True):
        assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert not done.model.training and done.settings["scored tokens"] > 0


def test_a_stopped_run_goes_on_to_the_same_weights(make, ids, tmp_path):
    student, teacher = make(seed=0), make(seed=1)
    whole = on_policy.train(
        student, teacher, ids[:, :3], steps=6, tokens=4, share=0.5, data=ids, progress=False
    )
    settings = {
        "tokens": 4,
        "share": 0.5,
        "data": ids,
        "progress": False,
        "folder": tmp_path,
        "every": 3,
    }

    class Stop(Exception):
        pass

    calls, plain = [], on_policy.loss

    def stopping(*args, **more):
        calls.append(0)
        if len(calls) == 5:
            raise Stop
        return plain(*args, **more)

    on_policy.loss = stopping
    try:
        with pytest.raises(Stop):
            on_policy.train(student, teacher, ids[:, :3], steps=6, **settings)
    finally:
        on_policy.loss = plain
    again = on_policy.train(student, teacher, ids[:, :3], steps=6, **settings)
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_labels_and_masks_of_the_data_say_what_counts(make, ids):
    student, teacher = make(seed=0), make(seed=1)
    labels, mask = ids.clone(), torch.ones_like(ids, dtype=torch.bool)
    labels[:, :8] = -100
    mask[:, 10:] = False
    got = on_policy.train(
        student, teacher, ids[:, :3], steps=1, tokens=2, share=0.0, data=ids, labels=labels,
        mask=mask, batch=len(ids), divergence="reverse", progress=False,
    )  # fmt: skip
    with torch.no_grad():
        s, t = student(ids[:, :10]).logits, teacher(ids[:, :10]).logits
    own = torch.zeros(len(ids), 10, dtype=torch.bool)
    own[:, 8:10] = True
    assert got.history[-1]["loss"] == pytest.approx(by_loops(s, t, own, "reverse"), rel=1e-4)
    assert got.settings["scored tokens"] == 2 * len(ids)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"share": 1.5}, "share"),
        ({"share": 0.5, "data": None}, "data"),
        ({"divergence": "left"}, "divergence"),
        ({"data": torch.full((3, 5), 4), "share": 0.5}, "row i"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": 500}, "prompts"),
        ({"temperature": -1.0}, "temperature"),
        ({"real": torch.zeros(24, 4, dtype=torch.bool)}, "real"),
    ],
)
def test_what_makes_no_sense_is_named(make, ids, change, said):
    settings = {"steps": 1, "tokens": 3, "data": ids, "progress": False} | change
    with pytest.raises(CompressionError, match=said):
        on_policy.train(make(), make(seed=1), ids[:, :4], **settings)
    with pytest.raises(CompressionError, match="vocabulary"):
        other = make()
        other.resize_token_embeddings(60)
        on_policy.train(make(), other, ids[:, :4], steps=1, tokens=3, progress=False)
