"""What goes wrong outside the plain loop: the cache on a full disk, overflow in half precision,
peers that do not fit.
"""

import json
import pathlib

import pytest
import torch

from course_utils.distillation import Diverged, cache, digits, fit, students, train, variants
from course_utils.errors import CompressionError
from course_utils.models import checkpointing


def test_a_full_disk_leaves_the_old_cache(make, ids, tmp_path, monkeypatch):
    teacher = make()
    cache.write(teacher, ids, tmp_path, k=4, progress=False)
    old = (tmp_path / cache.FILE).read_bytes()

    def full(tensors, path, **rest):
        path.write_bytes(b"half of a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointing, "save_file", full)
    with pytest.raises(CompressionError, match="No space left.*intact"):
        cache.write(teacher, ids, tmp_path, k=8, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [cache.FILE]
    assert (tmp_path / cache.FILE).read_bytes() == old and cache.read(
        tmp_path
    ).answers.values.shape[-1] == 4


def test_a_full_disk_leaves_the_old_log(make, ids, tmp_path, monkeypatch):
    """The log moves into place whole, like the checkpoint beside it; the next run writes what is
    missing.
    """
    teacher = make()
    student = students.from_layers(teacher, [0, 3])
    options = {"steps": 4, "every": 2, "progress": False, "folder": tmp_path / "run"}
    write_text = pathlib.Path.write_text

    def full(path, text, **rest):
        if text.count("\n") < 2:
            return write_text(path, text, **rest)
        write_text(path, text[:30], **rest)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_text", full)
        with pytest.raises(CompressionError, match=r"log\.jsonl.*No space left.*intact"):
            train(student, teacher, ids, **options)
    log = tmp_path / "run" / fit.LOG
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [2]
    assert not list(log.parent.glob("*.tmp"))
    train(student, teacher, ids, **options)
    with pytest.raises(CompressionError, match="cannot be made"):
        train(student, teacher, ids, **{**options, "folder": log})


def test_best_weights_that_are_gone_are_missed(make, ids, tmp_path):
    """Without them a finished run would hand out its last weights as its best."""
    student = make(layers=1)
    options = {
        "steps": 4,
        "every": 2,
        "progress": False,
        "folder": tmp_path,
        "validation": ids[:4],
        "loss": "labels",
    }
    train(student, None, ids, **options)
    (tmp_path / fit.BEST).unlink()
    with pytest.raises(CompressionError, match=r"best\.safetensors: cannot be read"):
        train(student, None, ids, **options)


def test_a_validation_loss_that_is_no_number_stops():
    """NaN compares as neither better nor worse: it must not become the best."""
    model, x = torch.nn.Linear(2, 1), torch.randn(8, 2)
    losses = lambda rows: ({"square": model(x[rows]).square().mean()}, 1.0)  # noqa: E731
    values = iter([1.0, float("nan"), 0.5])
    with pytest.raises(Diverged, match="step 4: the validation loss is not a number"):
        fit.fit(
            model,
            losses,
            8,
            steps=6,
            every=2,
            batch=2,
            evaluate=lambda: next(values),
            progress=False,
        )


def test_warm_up_may_be_left_out():
    """The first step moves at the full rate: |Δ| = peak for Adam, one tenth of it with ten steps of
    warm-up.
    """
    for warmup, share in ((0, 1.0), (1, 1.0), (10, 0.1)):
        model = torch.nn.Linear(1, 1, bias=False)
        before = float(model.weight.detach())
        losses = lambda rows, weight=model.weight: ({"weight": weight.sum()}, 1.0)  # noqa: E731
        fit.fit(
            model, losses, 4, steps=1, warmup=warmup, peak=0.01, weight_decay=0.0, progress=False
        )
        assert before - float(model.weight.detach()) == pytest.approx(0.01 * share, rel=1e-3)


def test_overflow_of_a_float16_teacher_is_explained(make, ids, tmp_path):
    """Finite weights, but activations beyond 65,504: the run stops, says why, and the same teacher
    in bfloat16 works.
    """
    teacher = make()
    student = students.from_layers(teacher, [0, 3])
    with torch.no_grad():
        teacher.model.layers[3].mlp.up_proj.weight.mul_(3e4)
        teacher.model.layers[3].mlp.down_proj.weight.mul_(1e3)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    low = students.from_layers(teacher, range(4)).half()
    assert all(p.isfinite().all() for p in low.parameters())
    with pytest.raises(Diverged, match="step 1.*teacher's logits.*bfloat16") as caught:
        train(student, low, ids, steps=2, progress=False, folder=tmp_path)
    assert caught.value.step == 1 and not list(tmp_path.iterdir())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    low.train()
    with pytest.raises(CompressionError, match="float16"):
        cache.write(low, ids, tmp_path, progress=False)
    assert low.training, "a teacher that cannot answer is as it was"
    result = train(
        student, students.from_layers(teacher, range(4)).bfloat16(), ids, steps=2, progress=False
    )
    assert all(p.isfinite().all() for p in result.model.parameters())


def test_peers_and_data_that_do_not_fit(make, ids):
    peers = [make(), make(seed=1, layers=2)]
    other = make(seed=2)
    other.resize_token_embeddings(60)
    for cohort, data, word in (
        (peers, ids[:0], "data"),
        (peers, ids + 50, "outside 0 … 49"),
        ([peers[0], other], ids, "vocabulary"),
        (peers[:1], ids, "at least two"),
    ):
        with pytest.raises(CompressionError, match=word):
            variants.mutual(cohort, data, steps=1, progress=False)
    with pytest.raises(CompressionError, match="validation"):
        variants.mutual(peers, ids, validation=ids[:0], steps=1, progress=False)
    for call in (
        lambda: variants.assistants([], peers[0], ids),
        lambda: variants.growing(peers[0], ids, stages=[]),
        lambda: variants.stages(peers[1], peers[0], ids, []),
        lambda: variants.several_teachers(peers[1], [], ids),
    ):
        with pytest.raises(CompressionError, match="empty"):
            call()


def test_a_peer_that_breaks_stops_all(make, ids, tmp_path):
    broken = make(seed=1)
    broken.model.norm.weight.data[0] = float("nan")
    with pytest.raises(Diverged, match=r"step 1.*peer 0, peer 1"):
        variants.mutual([make(), broken], ids, steps=2, progress=False, folder=tmp_path)


def test_digits_need_a_label_each():
    data = digits.load()
    for x, y in ((data.train_x[:0], data.train_y[:0]), (data.train_x[:3], data.train_y[:2])):
        with pytest.raises(CompressionError, match="as many of both"):
            digits.train(digits.network(64, 4, 10), x, y)
