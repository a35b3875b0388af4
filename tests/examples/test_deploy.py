"""The scripts of `examples/deploy`: short, listed, and either run and compared or saying what to
do.

`make deploy` runs all of them.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from course_utils import distillation, models
from course_utils.evaluation.comparison import TABLES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "deploy"


@pytest.fixture(scope="module")
def common():
    """The scripts' shared module, with one block of the bundled model in the place of the whole."""
    sys.path.insert(0, str(FOLDER))
    module = importlib.import_module("common")
    model, tokenizer = models.load("bundled")
    one = distillation.students.from_layers(model, [0])
    module.original = lambda: (one, tokenizer)
    yield module
    sys.path.remove(str(FOLDER))
    for name in [
        n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(FOLDER))
    ]:
        del sys.modules[name]


def scripts():
    import ast

    tree = ast.parse((FOLDER / "table.py").read_text(encoding="utf-8"))
    return next(
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and n.targets[0].id == "SCRIPTS"
    )


def test_each_is_short_and_in_the_list():
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert {p.stem for p in FOLDER.glob("*.py")} == {*scripts(), "common", "environment", "table"}
    for name in scripts():
        assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 100, name
        assert f"`{name}.py`" in page


@pytest.mark.parametrize("name", scripts())
def test_what_is_not_installed_says_what_to_do(common, name, capsys, monkeypatch):
    script = importlib.import_module(name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert common.main(script) is None
    said = capsys.readouterr().out
    assert said.startswith(f"{script.NAME}: not installed here.") and len(script.WITHOUT) > 40


def test_onnx_runtime_agrees(common, capsys):
    assert common.main(importlib.import_module("onnx_runtime")) < 1e-4
    assert "7 layers, read back from the file bit for bit" in capsys.readouterr().out


def test_a_runtime_that_differs_is_refused(common):
    wrong = type("script", (), {"NAME": "wrong", "NEEDS": "torch", "make": lambda work: common.Made(
        1, lambda row: 1.1 * common.small().model(input_ids=row).logits)})  # fmt: skip
    with pytest.raises(SystemExit, match="wrong: the logits differ"):
        common.main(wrong)


def test_the_committed_table_is_that_of_the_page():
    held = json.loads((TABLES / "plain" / "deploy.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert all(f"| {' | '.join(row)} |" in page for row in held["rows"]) and held["date"] in page
    gaps = [float(row[3]) for row in held["rows"] if row[3]]
    assert len(gaps) >= 5 and max(gaps) < 1e-3, "every runtime that ran computes our numbers"
