"""Training: a killed run ends as an uninterrupted one does."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from course_utils import models
from course_utils.errors import CompressionError
from course_utils.models import checkpointing
from course_utils.models import train as training
from course_utils.models.data import mean_loss, token_windows

SIZE = {
    "tokens": 4 * 32 * 12, "batch": 4, "context": 32, "hidden": 32, "layers": 2, "heads": 2,
    "kv_heads": 1, "mlp": 48, "every": 4, "bf16": False, "peak": 5e-3, "answers_first": 2,
}  # fmt: skip

KILLED = """
import os, signal, sys
from course_utils import models
from course_utils.models import train
train.train_tokenizer = lambda: models.load_tokenizer("bundled")
save, count = train.save_checkpoint, 0
def then_die(*arguments, **notes):
    global count
    save(*arguments, **notes)
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
train.save_checkpoint = then_die
train.train(sys.argv[1], **eval(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def ready_tokenizer(monkeypatch, tokenizer):
    monkeypatch.setattr(training, "train_tokenizer", lambda: tokenizer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_tokenizer", lambda: models.load_tokenizer("bundled"))
        training.train(folder, **SIZE)
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_killed_run_resumes_to_the_same_weights(whole, tmp_path):
    out = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(out), repr(SIZE)], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [line["step"] for line in lines(out)] == [4] and not (out / "model.safetensors").exists()
    training.train(out, **SIZE)
    for file in ("checkpoint.safetensors", "model.safetensors"):
        ours, theirs = load_file(out / file), load_file(whole / file)
        assert ours.keys() == theirs.keys() and len(ours) > 5
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), file
    kept = ("step", "tokens", "validation")
    # killed between checkpoint and log: that line is missing
    assert [line["step"] for line in lines(out)] == [4, 12]
    by_step = {line["step"]: line for line in lines(whole)}
    assert all(line[k] == by_step[line["step"]][k] for line in lines(out) for k in kept)
    assert [line["seconds"] for line in lines(out)] == sorted(
        line["seconds"] for line in lines(out)
    )


def test_lines_beyond_the_checkpoint_are_dropped(whole, tmp_path):
    """Killed between the log and the next checkpoint, the log never counts a step twice."""
    for name in ("checkpoint.safetensors", "training.json", "log.jsonl"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    with (tmp_path / "log.jsonl").open("a") as f:
        f.write(json.dumps({"step": 16, "validation": 9.9, "train": 9.9, "seconds": 99.0}) + "\n")
    assert (
        training.last_line(tmp_path / "log.jsonl", tmp_path / "checkpoint.safetensors")["step"]
        == 12
    )
    assert [line["step"] for line in lines(tmp_path)] == [4, 8, 12]


def test_a_line_cut_off_by_a_kill_is_dropped(whole, tmp_path):
    checkpoint, log = whole / "checkpoint.safetensors", tmp_path / "log.jsonl"
    text = (whole / "log.jsonl").read_text()
    log.write_text(text + text.splitlines()[-1][:20])
    assert training.last_line(log, checkpoint) == json.loads(text.splitlines()[-1])
    assert log.read_text() == text


def test_moments_come_back_where_the_weights_are(tmp_path):
    """On another device than the processor, too; the meta device stands for a GPU."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpointing.save_checkpoint(tmp_path / "a.safetensors", model, optimizer, 1)
    moved = torch.nn.Linear(3, 2, device="meta")
    again = torch.optim.AdamW(moved.parameters())
    checkpointing.load_checkpoint(tmp_path / "a.safetensors", moved, again)
    for parameter in moved.parameters():
        assert {k: v.device.type for k, v in again.state[parameter].items()} == dict.fromkeys(
            checkpointing.MOMENTS, "meta"
        )


def test_the_log_says_what_was_measured(whole, tokenizer):
    found = lines(whole)
    assert [(line["step"], line["tokens"]) for line in found] == [(4, 512), (8, 1024), (12, 1536)]
    assert found[-1]["validation"] < found[0]["validation"]
    model = training.build(
        vocabulary=1024, hidden=32, layers=2, heads=2, kv_heads=1, mlp=48, seed=5
    )
    state = load_file(whole / "checkpoint.safetensors")
    weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    windows = token_windows(tokenizer, "validation", 64, 32, 0)
    assert found[-1]["validation"] == pytest.approx(mean_loss(model, windows), abs=1e-4)


def test_the_folder_is_an_ordinary_model(whole, ids):
    model, tokenizer = models.load(whole)
    saved = load_file(whole / "model.safetensors")
    assert {v.dtype for v in saved.values()} == {torch.bfloat16}
    assert (
        model.config.num_hidden_layers == 2
        and model.lm_head.weight is model.model.embed_tokens.weight
    )
    ids = torch.tensor([tokenizer("Ada")["input_ids"]])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False
    )
    assert out.shape[1] <= ids.shape[1] + 3
    settings = json.loads((whole / "training.json").read_text())
    assert settings == {**SIZE, "seed": 0}


def test_another_run_is_not_continued(whole, tmp_path):
    for name in ("checkpoint.safetensors", "training.json", "log.jsonl"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    with pytest.raises(CompressionError, match="seed 0 instead of 3; choose another --out"):
        training.train(tmp_path, **SIZE | {"seed": 3})
    (tmp_path / "training.json").unlink()
    with pytest.raises(CompressionError, match="another width or depth"):
        training.train(tmp_path, **SIZE | {"hidden": 64})


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(
        (whole / "checkpoint.safetensors").read_bytes()[:1000]
    )
    (tmp_path / "log.jsonl").write_bytes((whole / "log.jsonl").read_bytes())
    with pytest.raises(CompressionError, match="checkpoint.safetensors"):
        training.train(tmp_path, **SIZE)


def test_less_than_a_batch_is_refused(tmp_path):
    with pytest.raises(CompressionError, match="tokens=10"):
        training.train(tmp_path, **SIZE | {"tokens": 10})


def test_learning_rate_rises_stays_and_falls():
    rates = [training.learning_rate(step, 2000, 1.0) for step in range(2000)]
    assert rates[0] == pytest.approx(1 / 200) and rates[199:1300] == [1.0] * 1101
    assert rates[1650] == pytest.approx(0.5, abs=1e-3) and rates[-1] == pytest.approx(1 / 700)
    assert rates[1300:] == sorted(rates[1300:], reverse=True)
