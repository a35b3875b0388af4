"""Two processes on one machine learn what one process learns."""

import json
import os
import subprocess
import sys

import pytest
import torch

from course_utils.distillation import fit, objectives, parallel, students, train
from course_utils.errors import CompressionError

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from conftest import tiny
from test_parallel_settings import run
from course_utils.distillation import parallel
assert parallel.start() and parallel.world() == 2
run({out!r})
parallel.stop()
"""
SETTINGS = '''
import torch
from conftest import tiny
from course_utils.distillation import objectives, students, train

def run(out, **change):
    """Masked data: the two processes count different numbers of tokens."""
    teacher = tiny()
    student = students.from_layers(teacher, [0, 3])
    ids = torch.randint(2, 50, (24, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[::2, 4:] = False
    loss = objectives.Response(alpha=0.3)
    options = dict(steps=10, every=1, batch=6, peak=3e-3, loss=loss, mask=mask, validation=ids[:6],
                   keep="last", progress=False)
    return train(student, teacher, ids, folder=out, **{**options, **change})
'''


def launch(script, tmp_path):
    """Two gloo processes, started as torchrun starts them."""
    file = tmp_path / "job.py"
    file.write_text(script)
    (tmp_path / "test_parallel_settings.py").write_text(SETTINGS)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(file),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    here = os.path.dirname(__file__)
    launch(SCRIPT.format(here=here, out=str(tmp_path / "two")), tmp_path)
    two = [json.loads(line) for line in (tmp_path / "two" / fit.LOG).read_text().splitlines()]
    sys.path.insert(0, here)
    sys.path.insert(0, str(tmp_path))
    try:
        from test_parallel_settings import run

        one = run(tmp_path / "one").history
        uneven = run(tmp_path / "uneven", mask=None).history
    finally:
        sys.path.remove(here)
        sys.path.remove(str(tmp_path))
    assert len(one) == len(two) == 10
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["validation"] == pytest.approx(a["validation"], rel=1e-5)
    assert one[-1]["validation"] < one[0]["validation"] - 0.02  # it did learn something
    assert abs(uneven[0]["loss"] - one[0]["loss"]) > 1e-3


def test_one_process_is_a_world_of_one(ids):
    assert not parallel.start() and (parallel.world(), parallel.rank()) == (1, 0)
    rows = torch.arange(5)
    assert torch.equal(parallel.share(rows), rows) and parallel.total(2.5, rows) == 2.5


def test_processes_on_gpus_have_one_each_and_can_still_sum_on_the_processor(monkeypatch):
    """nccl alone refuses tensors on the CPU, where a model may be although there is a GPU."""
    asked: list = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(parallel.dist, "init_process_group", asked.append)
    assert parallel.start()
    gpu, backends = asked
    assert gpu == parallel.device() == torch.device("cuda", 1)
    assert dict(pair.split(":") for pair in backends.split(",")) == {"cpu": "gloo", "cuda": "nccl"}


def test_shares_cover_the_batch(monkeypatch):
    monkeypatch.setattr(parallel, "world", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        parts.append(parallel.share(torch.arange(8)))
    assert torch.cat(parts).sort().values.tolist() == list(range(8))
    with pytest.raises(CompressionError, match="2 rows for 3 processes"):
        parallel.share(torch.arange(2))


def test_the_command_line_makes_a_student_folder(make, ids, tmp_path, monkeypatch, capsys):
    """The module that torchrun starts, on a tiny teacher with the bundled tokenizer."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from course_utils.distillation import __main__ as command
    from course_utils.models import load, load_tokenizer

    config = LlamaConfig(vocab_size=1024, hidden_size=32, num_hidden_layers=3,
                         num_attention_heads=2, intermediate_size=48,
                         num_key_value_heads=1, pad_token_id=1, bos_token_id=0, eos_token_id=0
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "teacher")
    load_tokenizer().save_pretrained(tmp_path / "teacher")
    words = (
        f"x --out {tmp_path / 'out'} --teacher {tmp_path / 'teacher'} --layers 0,2 --hidden "
        "16 --steps 2 --batch 2"
    )
    monkeypatch.setattr(
        sys, "argv", [*words.split(), "--context", "16", "--windows", "40", "--every", "1"]
    )
    command.main()
    student, _ = load(tmp_path / "out")
    assert student.config.num_hidden_layers == 2 and student.config.hidden_size == 16
    assert "validation" in capsys.readouterr().out


def test_a_run_of_objectives_with_parameters_averages_them_too(make, ids, monkeypatch):
    """Gradients of projectors go through the same reduction as the student's."""
    teacher = make()
    student = students.from_layers(teacher, [0], hidden=16, calibration=ids)
    seen = []
    monkeypatch.setattr(
        parallel, "average_gradients", lambda parameters: seen.append(len(list(parameters)))
    )
    train(
        student,
        teacher,
        ids,
        steps=1,
        loss=objectives.Feature(student, teacher),
        progress=False,
        batch=2,
    )
    assert seen == [len(list(student.parameters())) + 1]
