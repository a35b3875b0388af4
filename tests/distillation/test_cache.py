"""The teacher's top k on disk: the divergence against loops, its limits, its bytes, and what is
refused.
"""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch.autograd import gradcheck

from course_utils import distillation
from course_utils.distillation import cache, losses, objectives
from course_utils.errors import CompressionError


@pytest.fixture
def logits():
    g = torch.Generator().manual_seed(0)
    return tuple(2.5 * torch.randn(6, 40, generator=g, dtype=torch.float64) for _ in range(2))


def top(teacher, k, tau):
    """`keep_top` in float64."""
    log_p = teacher.log_softmax(-1)
    values, indices = log_p.topk(k, -1)
    return cache.TopK(values, indices, (log_p / tau).scatter(-1, indices, -torch.inf).logsumexp(-1))


@pytest.mark.parametrize("tau", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("k", [1, 3, 39])
def test_top_k_against_loops(logits, k, tau):
    student, teacher = logits
    bucket, scaled = [], []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        p, q = softmax(t / tau), softmax(s / tau)
        best = np.argsort(-t)[:k]
        p_best, q_best = p[best], q[best]
        bucket.append(rel_entr([*p_best, 1 - p_best.sum()], [*q_best, 1 - q_best.sum()]).sum())
        scaled.append(rel_entr(p_best / p_best.sum(), q_best / q_best.sum()).sum())
    kept = top(teacher, k, tau)
    assert float(losses.top_k(student, kept, tau)) == pytest.approx(np.mean(bucket), rel=1e-9)
    assert float(losses.top_k(student, kept, tau, tail="renormalize")) == pytest.approx(
        np.mean(scaled), rel=1e-9, abs=1e-15
    )
    free = student.clone().requires_grad_()
    for tail in ("bucket", "renormalize"):
        assert gradcheck(lambda z, tail=tail: losses.top_k(z, kept, tau, tail=tail), free)


def test_bucket_grows_with_k_to_the_full_divergence(logits):
    student, teacher = logits
    full = float(losses.kl(student, teacher, 2.0))
    values = [
        float(losses.top_k(student, top(teacher, k, 2.0), 2.0)) for k in (1, 2, 5, 10, 20, 39, 40)
    ]
    assert values == sorted(values) and values[0] < 0.9 * full
    assert values[-1] == pytest.approx(full, rel=1e-12)
    stored = cache.keep_top(teacher, 5, 2.0)
    torch.testing.assert_close(
        stored.rest.double(), top(teacher, 5, 2.0).rest, rtol=1e-5, atol=1e-5
    )


def test_renormalized_ignores_what_the_student_puts_elsewhere(logits):
    student, teacher = logits
    kept = top(teacher, 5, 1.0)
    astray = student.scatter_add(
        -1, teacher.argmin(-1, keepdim=True), torch.full((6, 1), 20.0, dtype=torch.float64)
    )
    before, after = (
        float(losses.top_k(z, kept, 1.0, tail="renormalize")) for z in (student, astray)
    )
    assert before == pytest.approx(after, rel=1e-9)
    assert float(losses.top_k(astray, kept, 1.0)) > 5 + float(losses.top_k(student, kept, 1.0))


def test_cache_on_disk(make, ids, tmp_path):
    teacher = make("llama")
    made = cache.write(teacher, ids, tmp_path, k=8, temperature=3.0, progress=False)
    positions = ids.shape[0] * (ids.shape[1] - 1)
    assert made.bytes == (tmp_path / cache.FILE).stat().st_size
    assert 0 <= made.bytes - positions * (4 * 8 + 2) < 1000  # the header of the file
    answers = made.rows(torch.tensor([5, 2]))
    with torch.no_grad():
        wanted = top(teacher(input_ids=ids[[5, 2]]).logits[:, :-1].double(), 8, 3.0)
    assert torch.equal(answers.indices, wanted.indices)
    torch.testing.assert_close(answers.values.double(), wanted.values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(answers.rest.double(), wanted.rest, rtol=1e-3, atol=1e-3)


def test_student_of_a_whole_cache_is_the_student_of_the_teacher(make, ids, tmp_path):
    teacher, student = make("llama"), make("llama", seed=5, layers=1)
    options = {"steps": 6, "batch": 4, "every": 1, "validation": ids[:8], "progress": False}
    direct = distillation.train(student, teacher, ids, **options)
    curves = {}
    for k in (2, 50):
        stored = cache.write(teacher, ids, tmp_path / str(k), k=k, progress=False)
        curves[k] = [
            line["validation"]
            for line in distillation.train(student, stored, ids, **options).history
        ]
    wanted = [line["validation"] for line in direct.history]
    np.testing.assert_allclose(curves[50], wanted, rtol=2e-4)
    assert max(abs(np.array(curves[2]) - wanted)) > 5 * max(abs(np.array(curves[50]) - wanted))


def test_effect_of_k_names_bytes_and_bias(make, ids):
    with torch.no_grad():
        student, teacher = (make("llama", seed=s)(input_ids=ids).logits for s in (0, 1))
    rows = cache.effect_of_k(student, teacher, (1, 5, 50))
    assert [row["bytes"] for row in rows] == [6, 22, 202]
    for key in ("mass", "bucket", "bucket cosine", "renormalize cosine"):
        assert [row[key] for row in rows] == sorted(row[key] for row in rows), key
    assert rows[-1]["bucket"] == pytest.approx(rows[-1]["full"], rel=1e-3)
    # one token always has probability 1
    assert rows[0]["renormalize"] == pytest.approx(0, abs=1e-6)


def test_caches_that_do_not_fit_are_refused(make, ids, tmp_path):
    teacher, student = make("llama"), make("llama", layers=1)
    stored = cache.write(teacher, ids, tmp_path, k=4, progress=False)
    for other in (ids.flip(0), ids.view(-1, 6)):
        with pytest.raises(CompressionError, match="other data"):
            distillation.train(student, stored, other, steps=1, progress=False)
    with pytest.raises(CompressionError, match="takes a cache, not a model"):
        distillation.train(
            student, teacher, ids, loss=objectives.CachedResponse(), steps=1, progress=False
        )
    with pytest.raises(CompressionError, match="takes a model, not a cache"):
        distillation.train(
            student, stored, ids, loss=objectives.Response(), steps=1, progress=False
        )
    with pytest.raises(CompressionError, match=r"temperature=3.0.*at 2.0"):
        distillation.train(
            student, stored, ids, loss=objectives.CachedResponse(3.0), steps=1, progress=False
        )
    distillation.train(
        student,
        stored,
        ids,
        loss=objectives.CachedResponse(3.0, tail="renormalize"),
        steps=1,
        progress=False,
    )
    behind = torch.arange(ids.shape[1]).expand_as(ids) < 8
    distillation.train(student, stored, ids, mask=behind, steps=1, progress=False)
    with pytest.raises(CompressionError, match="mask.*behind the real tokens"):
        distillation.train(student, stored, ids, mask=behind.flip(1), steps=1, progress=False)
    for k in (51, 4.0, 0):
        with pytest.raises(CompressionError, match=f"k={k}"):
            cache.write(teacher, ids, tmp_path, k=k)
    for data in (ids[:0], ids + 50, ids.float()):
        with pytest.raises(CompressionError, match="data"):
            cache.write(teacher, data, tmp_path)
    with pytest.raises(CompressionError, match="temperature=inf"):
        cache.write(teacher, ids, tmp_path, temperature=float("inf"))
    with pytest.raises(CompressionError, match="holds no"):
        cache.read(tmp_path / "nothing")
    whole = (tmp_path / cache.FILE).read_bytes()
    (tmp_path / cache.FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CompressionError, match="teacher.safetensors"):
        cache.read(tmp_path)
    broken = make("llama")
    broken.get_output_embeddings().weight.data.fill_(float("inf"))
    with pytest.raises(CompressionError, match="NaN or infinity"):
        cache.write(broken, ids, tmp_path, progress=False)
