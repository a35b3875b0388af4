"""The score of a file of the challenge: gates that say why, hostile files that cost nothing but
their own row.
"""

import json
import os
import re

import lab_attacks
import pytest
import torch

from course_utils import models
from course_utils.challenge import encoders, file, gates, layout, model
from course_utils.errors import CompressionError
from course_utils.grade import board, challenge, decoding, standing

KEYS = {"bytes", "sha256", "valid", "reason", "seconds", "gates", "passed"}


@pytest.fixture(scope="module")
def original():
    return models.load("bundled")[0]


@pytest.fixture(scope="module")
def content(original):
    return model.pack(original)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(gates, "ITEMS", dict.fromkeys(gates.ITEMS, 3))
    monkeypatch.setattr(gates, "WINDOWS", 4)


def test_the_original_passes_every_gate_and_a_ruined_model_is_told_its_divergence(
    few, original, content, tmp_path
):
    path = tmp_path / "a.smol"
    path.write_bytes(content)
    found = challenge.score(path, seeds=(5, 6))
    assert set(found) == KEYS and json.loads(json.dumps(found)) == found
    assert (
        found["valid"]
        and found["passed"]
        and found["bytes"] == len(content)
        and set(found["gates"]) == {"kl", "facts_head", "facts_tail", *gates.ITEMS}
    )
    assert all(
        gate["passed"] and gate["interval"][0] <= gate["value"] <= gate["interval"][1]
        for gate in found["gates"].values()
    )
    assert set(found["gates"]) == set(gates.GATES)
    for gate in found["gates"].values():  # its direction by what it does, not by its name
        better = gate["value"] < gate["needed"] if gate["lower"] else gate["value"] > gate["needed"]
        assert better and standing.allowance(gate, gate["value"]) == 0
    zeros = {
        name: encoders.bf16(torch.zeros(shape))
        for name, shape in layout.shapes(model.sizes(original)).items()
    }
    found = gates.score(model.pack(original, zeros), (5,))
    assert (
        found["valid"]
        and not found["passed"]
        and set(found["gates"]) == {"kl"}
        and found["gates"]["kl"]["value"] > 1
    )


def test_what_comes_from_the_other_process_is_what_is_read_here(content):
    config, tensors = decoding.decoded(content)
    same, here = file.read(content)
    assert config == same and list(tensors) == list(here)
    assert all((tensors[name] == here[name]).all() for name in here)


def test_a_gate_stops_only_what_its_whole_interval_is_against():
    assert (
        gates.share_gate("programs", 76, 80)["passed"]
        and gates.share_gate("programs", 73, 80)["passed"]
    )
    assert (
        not gates.share_gate("programs", 70, 80)["passed"]
        and not gates.share_gate("programs", 0, 80)["passed"]
    )
    near = torch.full((16,), 0.0205, dtype=torch.float64) + 0.002 * torch.linspace(
        -1, 1, 16, dtype=torch.float64
    )
    assert gates._kl_gate(near)["passed"] and not gates._kl_gate(near + 0.01)["passed"]
    assert not gates._kl_gate(torch.tensor([0.0, float("nan")], dtype=torch.float64))["passed"]


def test_hostile_files_cost_their_own_rows_only(tmp_path):
    """A class in which everybody hands in one of them;
    the processes of the board decode and score.
    """
    files = dict(list(lab_attacks.FILES.items())[1::4])
    for learner, (content, _) in files.items():
        place = tmp_path / "submitted" / learner.replace("/", "_") / board.LAB
        place.mkdir(parents=True)
        (place / "a.smol").write_bytes(content)
    options = board.Options(
        challenge.score, challenge.SUFFIX, challenge.LARGEST, jobs=2, progress=False
    )
    made = board.make(tmp_path, options, [])
    assert made.entries == [] and made.faults == 0 and made.learners == len(files)
    said = {name: why for name, _, why in made.refused}
    assert len(said) == len(files)
    for learner, (_, why) in files.items():
        assert re.search(why, said[learner]) and "\n" not in said[learner], learner
    assert not os.path.exists("/tmp/hacked")


def test_a_model_that_runs_too_long_is_refused(few, content):
    found = gates.score(content, (5,), seconds=0)
    assert not found["valid"] and found["reason"] == "running the model took longer than 0 seconds."


def test_links_pipes_folders_and_changes_between_reads(tmp_path, few, content):
    real, link, pipe = (tmp_path / name for name in ("real.smol", "link.smol", "pipe.smol"))
    real.write_bytes(b"something")
    link.symlink_to(real)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, tmp_path / "none"):
        assert not challenge.score(path)["valid"]
    link.unlink()
    link.symlink_to(models.BUNDLED / "model.safetensors")  # the right model of the package
    assert (
        not challenge.score(link)["valid"]
        and not challenge.score(models.BUNDLED / "model.safetensors")["valid"]
    )


def test_a_file_is_opened_once(tmp_path, monkeypatch):
    path, opened, real = tmp_path / "a.smol", [], os.open
    path.write_bytes(b"x" * 50)
    monkeypatch.setattr(
        file.os,
        "open",
        lambda *given, **named: opened.append(str(given[0])) or real(*given, **named),
    )
    assert challenge.score(path)["bytes"] == 50
    assert opened.count(str(path)) == 1


@pytest.mark.parametrize(
    ("code", "seconds", "said"),
    [
        ("import time; time.sleep(600)", 3, "longer than"),
        ("import os; os._exit(3)", 120, "without an answer"),
        ("import sys; sys.stdout.write('x' * (1 << 27))", 120, "more numbers"),
        ("print('{}')", 120, "without an answer"),
    ],
)
def test_a_decoder_that_sleeps_dies_or_talks_too_much_ends(monkeypatch, code, seconds, said):
    monkeypatch.setattr(decoding, "CODE", code)
    with pytest.raises(CompressionError, match=said):
        decoding.decoded(b"", seconds=seconds)


@pytest.mark.parametrize(("ruined", "nats"), [(4, 4.0), (2, 15.0), (1, 1e3), (16, 0.2)])
def test_a_few_ruined_windows_do_not_pass_by_their_wide_interval(ruined, nats):
    windows = torch.full((64,), 0.001, dtype=torch.float64)
    windows[:ruined] = nats
    assert not gates._kl_gate(windows)["passed"]


def test_seeds_are_whole_numbers():
    for seeds in ((), (-1,), (1.5,), (True,)):
        with pytest.raises(CompressionError, match="seeds"):
            gates.score(b"", seeds)
