"""The loop: the same result after any interruption, and a clear stop when something is wrong."""

import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from course_utils import distillation
from course_utils.distillation import Diverged, fit, objectives, students, train
from course_utils.errors import CompressionError
from course_utils.models import checkpointing
from course_utils.models.data import mean_loss
from course_utils.pruning import magnitude

QUIET = {"progress": False, "batch": 4}


@pytest.fixture
def duo(make):
    """Teacher and a two-block student."""
    teacher = make()
    return teacher, students.from_layers(teacher, [0, 3])


def state(result):
    return {k: v.clone() for k, v in result.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def curve(history):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def test_batches_visit_every_row_once_an_epoch():
    seen = torch.cat([fit.batch_rows(step, 10, 4, seed=3) for step in range(5)])
    assert seen[:10].sort().values.tolist() == seen[10:].sort().values.tolist() == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    # a step's rows need no history
    assert fit.batch_rows(2, 10, 4, 3).tolist() == seen[8:12].tolist()
    assert fit.batch_rows(0, 10, 4, 4).tolist() != seen[:4].tolist()


def test_nothing_given_is_changed(duo, ids):
    teacher, student = duo
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in duo]
    teacher.train()
    random = torch.get_rng_state()
    loss = objectives.Feature(student, teacher)
    result = train(
        student,
        teacher,
        ids,
        steps=3,
        loss=objectives.Sum(objectives.Attention(student, teacher), loss),
        **QUIET,
    )
    assert torch.equal(random, torch.get_rng_state())
    assert teacher.training and not student.training and not result.model.training
    assert all(same(m.state_dict(), b) for m, b in zip(duo, before, strict=True))
    assert all(m.config._attn_implementation == "sdpa" for m in (*duo, result.model))
    assert all(p.grad is None for m in duo for p in m.parameters())
    assert not same(result.model.state_dict(), before[1])


def test_deterministic_from_its_seed(duo, ids):
    teacher, student = duo
    student.config.attention_dropout = 0.3
    for block in student.model.layers:
        block.self_attn.attention_dropout = 0.3
    runs = [state(train(student, teacher, ids, steps=4, seed=seed, **QUIET)) for seed in (0, 0, 1)]
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_resumed_after_a_kill_at_any_step(duo, ids, tmp_path, monkeypatch):
    """Feature distillation has parameters of its own, dropout needs random numbers: both must
    continue too.
    """
    teacher, student = duo
    for block in student.model.layers:
        block.self_attn.attention_dropout = 0.3
    loss = objectives.Sum(objectives.Response(), objectives.Feature(student, teacher))
    options = {"steps": 8, "every": 3, "validation": ids[:6], "loss": loss, **QUIET}
    whole = train(student, teacher, ids, folder=tmp_path / "whole", **options)
    clip = torch.nn.utils.clip_grad_norm_
    for killed in range(1, 9):
        calls, folder = [], tmp_path / str(killed)

        def kill(*args, calls=calls, killed=killed):
            calls.append(1)
            if len(calls) == killed:
                raise KeyboardInterrupt
            return clip(*args)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.utils, "clip_grad_norm_", kill)
            with pytest.raises(KeyboardInterrupt):
                train(student, teacher, ids, folder=folder, **options)
        again = train(student, teacher, ids, folder=folder, **options)
        assert same(state(again), state(whole)) and again.step == whole.step, killed
        lines = [json.loads(line) for line in (folder / fit.LOG).read_text().splitlines()]
        assert curve(again.history) == curve(lines) == curve(whole.history), killed


def test_killed_while_writing(duo, ids, tmp_path, monkeypatch):
    """Between best.safetensors and checkpoint.safetensors, and before the log: the next run still
    ends the same.
    """
    teacher, student = duo
    options = {"steps": 6, "every": 2, "validation": ids[:6], **QUIET}
    whole = train(student, teacher, ids, folder=tmp_path / "whole", **options)
    replace = os.replace
    for point in range(1, 10):
        moves, folder = [], tmp_path / str(point)

        def stop(a, b, moves=moves, point=point):
            moves.append(b)
            if len(moves) == point:
                raise KeyboardInterrupt
            replace(a, b)

        with monkeypatch.context() as patch:
            patch.setattr(checkpointing.os, "replace", stop)
            with pytest.raises(KeyboardInterrupt):
                train(student, teacher, ids, folder=folder, **options)
        again = train(student, teacher, ids, folder=folder, **options)
        assert same(state(again), state(whole)) and curve(again.history) == curve(whole.history), (
            point
        )


SCRIPT = """
import sys, torch
from course_utils.distillation import students, train
sys.path.insert(0, {here!r})
from conftest import tiny
teacher = tiny()
ids = torch.randint(2, 50, (24, 12), generator=torch.Generator().manual_seed(1))
train(students.from_layers(teacher, [0, 3]), teacher, ids, steps=150, every=3, folder={out!r},
      batch=4, progress=False)
"""


def test_resumed_after_a_real_kill(duo, ids, tmp_path):
    teacher, student = duo
    out, here = tmp_path / "run", os.path.dirname(__file__)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT.format(here=here, out=str(out))])
    deadline = time.monotonic() + 120
    while (
        not (out / fit.CHECKPOINT).exists()
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= int(checkpointing.read_notes(out / fit.CHECKPOINT)["step"]) < 150
    options = {"steps": 150, "every": 3, **QUIET}
    again = train(student, teacher, ids, folder=out, **options)
    whole = train(student, teacher, ids, folder=tmp_path / "whole", **options)
    assert same(state(again), state(whole)) and curve(again.history) == curve(whole.history)


def test_finished_runs_and_other_settings(duo, ids, tmp_path):
    teacher, student = duo
    options = {"steps": 4, "every": 2, "folder": tmp_path, **QUIET}
    first = train(student, teacher, ids, **options)
    assert same(state(train(student, teacher, ids, **options)), state(first))  # nothing left to do
    for change, name in (
        ({"steps": 6}, "steps"), ({"seed": 1}, "seed"), ({"peak": 2e-3}, "peak"),
        ({"loss": "labels"}, "loss"), ({"loss": objectives.Response(3.0)}, "loss"),
        ({"validation": ids[:3], "keep": "last"}, "validation"),
        ({"mask": torch.ones_like(ids)}, "mask"), ({"validation": ids[:3]}, "keep"),
    ):  # fmt: skip
        with pytest.raises(CompressionError, match=f"other settings.*{name}"):
            train(student, teacher, ids, **{**options, **change})
    for who, name in (((students.from_layers(teacher, [0, 2]), teacher, ids), "student"),
                      ((student, student, ids), "teacher"),
                      ((student, teacher, ids.flip(0)), "data")):  # fmt: skip
        with pytest.raises(CompressionError, match=f"other settings.*{name}"):
            train(*who, **options)
    whole = (tmp_path / fit.CHECKPOINT).read_bytes()
    (tmp_path / fit.CHECKPOINT).write_bytes(whole[:100])
    with pytest.raises(CompressionError, match="not a readable checkpoint"):
        train(student, teacher, ids, **options)


def test_early_stop_and_best_weights(duo, ids, tmp_path):
    """A peak rate that is far too high: validation rises after a while, and the best weights come
    back.
    """
    teacher, student = duo
    validation = torch.randint(2, 50, (8, 12), generator=torch.Generator().manual_seed(9))
    options = {
        "steps": 200,
        "every": 5,
        "validation": validation,
        "loss": "labels",
        "peak": 3e-2,
        **QUIET,
    }
    early = train(student, None, ids, patience=3, folder=tmp_path, **options)
    losses = [line["validation"] for line in early.history]
    best = losses.index(min(losses))
    assert early.stopped == "early" and len(losses) == best + 1 + 3 < 40
    assert early.step == early.history[best]["step"] and early.validation == min(losses)
    assert mean_loss(early.model, validation) == pytest.approx(min(losses), rel=1e-6)
    again = train(student, None, ids, patience=3, folder=tmp_path, **options)
    assert again.stopped == "early" and same(state(again), state(early))
    last = train(
        student,
        None,
        ids,
        keep="last",
        **{**options, "steps": early.history[-1]["step"], "warmup": 20},
    )
    assert last.step == early.history[-1]["step"]
    assert mean_loss(last.model, validation) > min(losses)


def test_nan_stops_with_step_and_cause(duo, ids, tmp_path):
    teacher, student = duo

    class Breaks(objectives.Labels):
        """Not a number from the sixth batch on."""

        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, *args):
            self.count += 1
            found = super().forward(*args)
            return found | {"spoiled": found["labels"] * (float("nan") if self.count > 5 else 1.0)}

    with pytest.raises(Diverged, match="checkpoint of step 4 is kept") as caught:
        train(student, None, ids, loss=Breaks(), steps=20, every=2, folder=tmp_path, **QUIET)
    assert (
        caught.value.step == 6
        and "spoiled" in caught.value.cause
        and "labels" not in caught.value.cause
    )
    kept = students.from_layers(teacher, [0, 3])
    notes = checkpointing.read_notes(tmp_path / fit.CHECKPOINT)
    tensors = checkpointing.load_file(tmp_path / fit.CHECKPOINT)
    assert notes["step"] == "4" and all(t.isfinite().all() for t in tensors.values())
    assert not torch.equal(tensors["model.student.model.norm.weight"], kept.model.norm.weight)


def test_the_cause_names_the_model_that_is_broken(duo, ids):
    teacher, student = duo
    with torch.no_grad():
        teacher.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(Diverged, match="step 1.*teacher's logits"):
        train(student, teacher, ids, steps=2, **QUIET)
    with torch.no_grad():
        student.model.norm.weight[0] = float("nan")
    with pytest.raises(Diverged, match="step 1.*student's logits.*no folder"):
        train(student, None, ids, loss="labels", steps=2, **QUIET)


def test_an_infinite_gradient_does_not_touch_the_weights(duo, ids, tmp_path):
    teacher, student = duo

    class Steep(objectives.Labels):
        """A finite loss, √0 of a weight, whose slope is infinite."""

        def forward(self, mine, seen, batch):
            weight = mine.model.model.norm.weight
            return super().forward(mine, seen, batch) | {
                "root": (weight - weight.detach()).abs().sum().sqrt()
            }

    with pytest.raises(Diverged, match="gradient is not finite"):
        train(student, None, ids, loss=Steep(), steps=3, folder=tmp_path, **QUIET)


@pytest.mark.parametrize("file", [fit.BEST, fit.CHECKPOINT])
def test_a_full_disk_leaves_the_old_checkpoint(duo, ids, tmp_path, monkeypatch, file):
    teacher, student = duo
    options = {"steps": 8, "every": 2, "validation": ids[:6], **QUIET}
    whole = train(student, teacher, ids, folder=tmp_path / "whole", **options)
    save = checkpointing.save_file
    old = {}

    def full(tensors, path, **rest):
        target = tmp_path / "full" / file
        if path.stem == target.stem and target.exists():
            old.setdefault("bytes", target.read_bytes())
            path.write_bytes(b"half of a file")
            raise OSError(28, "No space left on device")
        save(tensors, path, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save_file", full)
        with pytest.raises(CompressionError, match=f"{file}.*No space left.*intact"):
            train(student, teacher, ids, folder=tmp_path / "full", **options)
    assert (tmp_path / "full" / file).read_bytes() == old["bytes"]
    assert not list((tmp_path / "full").glob("*.tmp"))
    again = train(student, teacher, ids, folder=tmp_path / "full", **options)
    assert same(state(again), state(whole)) and curve(again.history) == curve(whole.history)


def test_padding_is_never_looked_at(duo, ids):
    """The same sentences with other ids at the padding, and with more padding, train the same
    student.
    """
    teacher, student = duo
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[::2, 8:] = False
    spoiled = torch.where(mask, ids, 7)
    longer, longer_mask = (
        torch.nn.functional.pad(ids, (0, 3), value=9),
        torch.nn.functional.pad(mask, (0, 3)),
    )
    loss = "response+feature+attention+values+relation+contrastive"
    runs = [
        train(student, teacher, data, mask=m, steps=4, loss=loss, every=1, **QUIET)
        for data, m in ((ids, mask), (spoiled, mask), (longer, longer_mask))
    ]
    for other in runs[1:]:
        for a, b in zip(runs[0].history, other.history, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    unmasked = train(student, teacher, spoiled, steps=4, loss=loss, every=1, **QUIET)
    assert abs(unmasked.history[0]["loss"] - runs[0].history[0]["loss"]) > 1e-3


def test_labels_choose_what_is_predicted(duo, ids):
    """−100 everywhere but at one place: only that prediction counts, the rows stay whole."""
    teacher, student = duo
    labels = torch.full_like(ids, -100)
    labels[:, 5] = ids[:, 5]
    got = train(
        student,
        None,
        ids,
        labels=labels,
        loss="labels",
        steps=1,
        every=1,
        progress=False,
        batch=len(ids),
    )
    with torch.no_grad():
        log_p = student(input_ids=ids).logits[:, 4].double().log_softmax(-1)
    assert got.history[0]["loss"] == pytest.approx(
        float(-log_p.gather(-1, ids[:, 5:6]).mean()), rel=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_teacher_in_half_precision(duo, ids, dtype):
    teacher, student = duo
    wanted = train(student, teacher, ids, steps=4, every=1, **QUIET).history
    low = students.from_layers(teacher, range(4)).to(dtype)
    result = train(student, low, ids, steps=4, every=1, loss="response+feature", **QUIET)
    assert result.model.dtype == torch.float32 and low.dtype == dtype
    for a, b in zip(wanted, result.history, strict=True):
        assert b["response"] == pytest.approx(a["loss"], rel=0.03)


@pytest.mark.parametrize(
    "loss", ["response", "feature", "attention", "values", "relation", "contrastive"]
)
def test_a_student_in_half_precision(make, ids, loss):
    """Projectors stay in single precision: the first loss is that of the same student in single
    precision.
    """
    teacher = make()
    student = students.from_layers(teacher, [0, 3], hidden=16, calibration=ids).bfloat16()
    options = {"steps": 1, "loss": loss, "keep": "last", **QUIET}
    low, high = (
        train(student, teacher, ids, **options),
        train(copy.deepcopy(student).float(), teacher, ids, **options),
    )
    assert low.model.dtype == torch.bfloat16
    assert low.history[0]["loss"] == pytest.approx(high.history[0]["loss"], rel=0.05)


def test_small_steps_of_a_student_in_half_precision_are_not_lost(make, ids):
    """Beside weights of 11 bits single steps of 1e-6 would round away.

    They are gathered in float32 and rounded once.
    """
    teacher = make()
    student = students.from_layers(teacher, [0, 3]).half()
    options = {"steps": 40, "peak": 3e-6, "warmup": 0, "keep": "last", **QUIET}
    low, high = (
        train(student, teacher, ids, **options).model,
        train(copy.deepcopy(student).float(), teacher, ids, **options).model,
    )
    moved = 0
    for a, b, start in zip(low.parameters(), high.parameters(), student.parameters(), strict=True):
        assert a.dtype == torch.float16 and a.equal(b.half())
        moved += int(a.ne(start).sum())
    assert moved > 0


def test_a_student_in_bfloat16_learns_as_one_in_float32(make, ids):
    teacher = make()
    student = students.from_layers(teacher, [0, 3]).bfloat16()
    options = {"steps": 40, "peak": 3e-4, "every": 40, "validation": ids, **QUIET}
    low, high = (
        train(student, teacher, ids, **options),
        train(copy.deepcopy(student).float(), teacher, ids, **options),
    )
    assert low.model.dtype == torch.bfloat16
    assert low.validation == pytest.approx(high.validation, rel=0.005)


def test_parts_of_a_batch_make_the_step_of_the_whole(make, ids):
    """Rows with unlike numbers of real tokens, so that each part weighs as much as its tokens."""
    teacher = make()
    student = students.from_layers(teacher, [0, 3])
    mask = (
        torch.arange(ids.shape[1]) < torch.arange(3, 3 + len(ids))[:, None] % (ids.shape[1] - 3) + 3
    )
    options = {**QUIET, "steps": 3, "batch": 6, "every": 1, "mask": mask}
    whole = train(student, teacher, ids, **options)
    parts = train(student, teacher, ids, accumulate=4, **options)
    for a, b in zip(whole.history, parts.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)
    for wrong in (0, 7, 1.5):
        with pytest.raises(CompressionError, match="accumulate"):
            train(student, teacher, ids, accumulate=wrong, **options)


def test_vocabularies_and_tokenizers_must_agree(make, ids):
    from course_utils.models import load_tokenizer
    from course_utils.models.tokenizer import train_tokenizer

    teacher = make()
    student = students.from_layers(teacher, [0])
    student.resize_token_embeddings(60)
    with pytest.raises(
        CompressionError, match="vocabulary has 50 tokens, the student's 60.*loss='labels'"
    ):
        train(student, teacher, ids, steps=1, progress=False)
    ours, other = (
        load_tokenizer(),
        train_tokenizer(["something else entirely " * 50], vocabulary=300),
    )
    with pytest.raises(CompressionError, match="tokenizers.*differently.*loss='labels'"):
        train(teacher, teacher, ids, steps=1, tokenizers=(ours, other), progress=False)
    train(teacher, teacher, ids, steps=1, tokenizers=(ours, load_tokenizer()), progress=False)


def test_bad_input_is_named(duo, ids, make):
    teacher, student = duo
    for change, word in (
        ({"data": ids[:0]}, "data"), ({"data": ids[:, :1]}, "data"),
        ({"data": ids + 50}, "outside 0 … 49"), ({"data": ids.float()}, "data"),
        ({"data": ids.repeat(1, 6)}, "data: sequences of 72 tokens.*at most 64"),
        ({"validation": ids[:0]}, "validation"), ({"loss": "logits"}, "loss"),
        ({"teacher": None}, "needs one teacher"), ({"teacher": []}, "empty list"),
        ({"steps": 0}, "steps"), ({"batch": 0}, "batch"), ({"peak": -1.0}, "peak"),
        ({"peak": float("nan")}, "peak"), ({"keep": "first"}, "keep"),
        ({"patience": 3}, "validation"), ({"mask": ids[:, 1:] > 0}, "mask"),
        ({"mask": ids < 0}, "mask"), ({"teacher": [teacher, teacher]}, "one teacher"),
        ({"loss": None}, "loss=None"),
        ({"labels": ids.index_fill(0, torch.tensor([3, 5]), -100)},
         "2 rows have nothing to predict, such as row 3"),
        ({"loss": objectives.Response(), "teacher": None}, "needs one"), ({"warmup": -1}, "warmup"),
        ({"steps": 1.5}, "steps"),
    ):  # fmt: skip
        call = {"data": ids, "teacher": teacher, "steps": 1, **QUIET, **change}
        with pytest.raises(CompressionError, match=word):
            train(student, call.pop("teacher"), call.pop("data"), **call)
    with pytest.raises(
        CompressionError, match="student: expected a causal language model.*Compressed"
    ):
        train(magnitude.prune(student), teacher, ids, steps=1, **QUIET)
    with pytest.raises(CompressionError, match="objectives: empty"):
        objectives.Sum()
    with pytest.raises(CompressionError, match="pairs"):
        objectives.Feature(student, teacher, pairs=[(2, 0)])
    student.requires_grad_(False)
    with pytest.raises(CompressionError, match="requires a gradient"):
        train(student, teacher, ids, steps=1, **QUIET)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt", "gpt2"])
def test_every_loss_falls_on_every_architecture(make, ids, kind):
    teacher = make(kind)
    student = students.from_layers(teacher, [0, 3])
    for loss in ("labels", "response", "feature", "attention", "values", "relation", "contrastive"):
        # one batch again and again: the loss must go down
        history = train(
            student, teacher, ids[:4], steps=15, loss=loss, every=1, peak=3e-3, **QUIET
        ).history
        assert history[-1]["loss"] < 0.97 * history[0]["loss"], loss


def test_a_result_is_an_ordinary_model(duo, ids, tmp_path):
    teacher, student = duo
    result = train(student, teacher, ids, steps=2, **QUIET)
    assert result.settings["method"] == "distillation" and result.settings["tokens"] == 2 * 4 * 12
    assert result.bytes_on_disk > 0 and isinstance(result, distillation.Result)
    result.model.save_pretrained(tmp_path)
    again = type(student).from_pretrained(tmp_path)
    assert torch.equal(again(input_ids=ids).logits, result.model(input_ids=ids).logits)
