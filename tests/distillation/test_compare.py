"""Comparisons are fair, and a distilled student beats the same student trained on labels alone."""

import torch

from course_utils.distillation import compare, objectives, students, train
from course_utils.models import load
from course_utils.models.data import mean_loss, token_windows


def test_every_way_has_the_same_start_batches_and_steps(make, ids):
    """Each result is that of `train` alone, and seeds differ."""
    teacher, options = make(), {"steps": 6, "batch": 4, "progress": False, "every": 3}
    student, data = students.from_layers(teacher, [0, 3]), {0: ids, 1: ids.flip(0).flip(1)}
    ways = {
        "labels": "labels",
        "response": lambda s, t: objectives.Response(3.0, 0.0),
        "again": objectives.Response(3.0, 0.0),
    }
    found = compare.losses(
        lambda seed: student, teacher, data.__getitem__, ways, validation=ids[:6], seeds=(0, 1),
        score=lambda model: float(model.get_input_embeddings().weight.detach().sum()), **options,
    )  # fmt: skip
    assert list(found) == list(ways) and all(
        len(one["loss"]) == len(one["score"]) == 2 for one in found.values()
    )
    assert found["response"]["loss"] == found["again"]["loss"] != found["labels"]["loss"]
    for seed in (0, 1):
        alone = train(
            student,
            None,
            data[seed],
            loss="labels",
            validation=ids[:6],
            keep="last",
            seed=seed,
            **options,
        )
        assert found["labels"]["loss"][seed] == alone.history[-1]["validation"]
        assert found["labels"]["score"][seed] == float(
            alone.model.get_input_embeddings().weight.detach().sum()
        )
    assert found["labels"]["loss"][0] != found["labels"]["loss"][1]


def test_a_checkpoint_is_chosen_on_windows_that_do_not_judge(make, ids):
    """With `choose` each run keeps its best weights by these, and other windows judge them."""
    teacher, options = make(), {"steps": 6, "batch": 4, "progress": False, "every": 2, "peak": 0.05}
    student = students.from_layers(teacher, [0, 3])
    found = compare.losses(
        lambda seed: student, teacher, lambda seed: ids, {"labels": "labels"}, choose=ids[:4],
        validation=ids[4:9], seeds=(3,), **options
    )["labels"]  # fmt: skip
    alone = train(
        student, None, ids, loss="labels", validation=ids[:4], keep="best", seed=3, **options
    )
    assert found["step"] == [alone.step] and found["loss"] == [mean_loss(alone.model, ids[4:9])]
    assert alone.validation == min(line["validation"] for line in alone.history)


def test_a_distilled_student_of_the_bundled_model_beats_labels_alone():
    """Little text, walked through five times; benchmarks/distillation.py measures more of it.

    Each seed gains clearly.
    """
    torch.set_num_threads(1)
    teacher, tokenizer = load("bundled")
    student = students.bundled(teacher, "tenth", token_windows(tokenizer, "train", 8, 64, 0).long())
    found = compare.losses(
        lambda seed: student, teacher, lambda seed: token_windows(tokenizer, "train", 64, 64,
            seed + 1).long(),
        {"labels": "labels", "response": "response"},
        validation=token_windows(tokenizer, "validation", 32, 64, 0).long(), seeds=(0, 1), steps=40,
        batch=8, peak=2e-3, every=40, progress=False,
    )  # fmt: skip
    gains = [
        alone - taught
        for alone, taught in zip(found["labels"]["loss"], found["response"]["loss"], strict=True)
    ]
    assert min(gains) > 0.03, gains
