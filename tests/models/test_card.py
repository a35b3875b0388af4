"""The model card's numbers against the folder, the log and separate measurements."""

import itertools
import json
import math
import re
import shutil
import subprocess
import sys

import pytest
import torch

from course_utils import models
from course_utils.errors import CompressionError
from course_utils.evaluation import perplexity, task_scores
from course_utils.models import card
from course_utils.world import CHANCE, KINDS, documents

FEW = {"n": 12, "windows": 4, "texts": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the bundled model, so that the card is not written beside it."""
    copied = tmp_path_factory.mktemp("models") / "copied"
    shutil.copytree(models.BUNDLED, copied, ignore=shutil.ignore_patterns("README.md"))
    return copied


@pytest.fixture(scope="module")
def text(folder):
    return card.write(folder, **FEW).read_text(encoding="utf-8")


def row(text, first):
    """The cells behind the first one of a table's row."""
    return re.search(rf"^\| {re.escape(first)} \| (.*) \|$", text, re.M).group(1).split(" | ")


def test_losses(text, folder):
    model, tokenizer = models.load(folder)
    found = perplexity(model, tokenizer, n=4)
    assert row(text, "validation loss, measured") == [f"{found.nats:.4f}", f"{found.value:.4f}"]
    drawn = list(itertools.islice(documents("validation", seed=1), 60))
    floor = sum(d.nats for d in drawn) / sum(len(tokenizer(d.text)["input_ids"]) for d in drawn)
    assert row(text, "entropy floor of those documents") == [
        f"{floor:.4f}",
        f"{math.exp(floor):.4f}",
    ]
    assert "1,020 tokens scored" in " ".join(text.split())


def test_a_document_costs_its_tokens_and_its_end(folder):
    """Against the loss of transformers, one document at a time."""
    model, tokenizer = models.load(folder)
    found = card.per_document(model, tokenizer, 15, seed=2)
    costs = []
    for document in itertools.islice(documents("validation", seed=2), 15):
        ids = tokenizer(document.text)["input_ids"]
        ids = torch.tensor([ids + ids[:1]])
        with torch.no_grad():
            costs.append(float(model(ids, labels=ids).loss) * (ids.shape[1] - 1))
    assert found["all"]["model"] == pytest.approx(sum(costs) / 15, rel=1e-5)
    assert set(found) - {"all"} <= set(KINDS)


def test_scores(text, folder):
    for task, score in task_scores(*models.load(folder), n=12).items():
        low, high = score.interval
        told = f"{score.accuracy:.1%} ({low:.1%} to {high:.1%})"
        assert row(text.partition("## Tasks")[2], task) == [told, f"{CHANCE[task]:.0%}", "12"]


def test_training_is_what_the_log_says(text, folder):
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    settings = folder / "training.json"
    seed = json.loads(settings.read_text())["seed"] if settings.exists() else 0
    flat = " ".join(text.split())
    for part in (
        f"step {last['step']:,} after {last['tokens']:,} tokens",
        f"{last['seconds']:,.0f} seconds",
        f"seed {seed}",
    ):
        assert part in flat
    assert f"{last['validation']:.4f} in validation" in flat


def test_sizes_are_those_of_the_files(text, folder):
    files = [f for f in folder.iterdir() if f.name != "README.md"]
    for file in files:
        assert row(text, file.name) == [f"{file.stat().st_size:,}"]
    assert row(text, "in all") == [f"{sum(f.stat().st_size for f in files):,}"]
    parameters = sum(p.numel() for p in models.load(folder)[0].parameters())
    assert f"{parameters:,} parameters" in text


def test_it_reads_as_a_card(text, folder):
    assert text.startswith("---\nlicense: apache-2.0\n") and "# Model card: copied\n" in text
    assert str(folder.parent) not in text and "{" not in text and "nan" not in text
    assert all(
        f"\n## {part}\n" in text
        for part in ("Model", "Data", "Training", "Loss", "Tasks", "Size", "Use")
    )


def test_settings_that_the_training_wrote_are_told(folder, tmp_path):
    shutil.copy(folder / "log.jsonl", tmp_path)
    (tmp_path / "training.json").write_text(json.dumps({"seed": 7, "batch": 16}))
    assert card.described_training(card.training_record(tmp_path), seed=0) == "seed 7, batch 16"


def test_a_folder_without_a_log(folder, tmp_path):
    with pytest.raises(CompressionError, match=r"no log\.jsonl"):
        card.write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "course_utils.models.card", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "no log.jsonl" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
