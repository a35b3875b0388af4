"""What goes wrong outside the plain loop: the cache on a full disk, overflow in half precision, peers that do not fit."""

import pytest
import torch

from course_utils.distillation import Diverged, cache, digits, students, train, variants
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
    assert (tmp_path / cache.FILE).read_bytes() == old and cache.read(tmp_path).answers.values.shape[-1] == 4


def test_overflow_of_a_float16_teacher_is_explained(make, ids, tmp_path):
    """Finite weights, but activations beyond 65,504: the run stops, says why, and the same teacher in bfloat16 works."""
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
    with pytest.raises(CompressionError, match="float16"):
        cache.write(low, ids, tmp_path, progress=False)
    result = train(student, students.from_layers(teacher, range(4)).bfloat16(), ids, steps=2, progress=False)
    assert all(p.isfinite().all() for p in result.model.parameters())


def test_peers_and_data_that_do_not_fit(make, ids):
    peers = [make(), make(seed=1, layers=2)]
    other = make(seed=2)
    other.resize_token_embeddings(60)
    for cohort, data, word in (
        (peers, ids[:0], "data"), (peers, ids + 50, "outside 0 … 49"), ([peers[0], other], ids, "vocabulary"),
        (peers[:1], ids, "at least two"),
    ):  # fmt: skip
        with pytest.raises(CompressionError, match=word):
            variants.mutual(cohort, data, steps=1, progress=False)
    for call in (
        lambda: variants.assistants([], peers[0], ids), lambda: variants.growing(peers[0], ids, stages=[]),
        lambda: variants.stages(peers[1], peers[0], ids, []), lambda: variants.several_teachers(peers[1], [], ids),
    ):  # fmt: skip
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
