"""Every lesson and every solution runs; notebooks keep to the rules that readers and translators rely on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
START = [ROOT / "notebooks/start.ipynb"]
SOLUTIONS = sorted((ROOT / "solutions").glob("*/*.ipynb"))
LABS = sorted((ROOT / "labs").glob("*/*.ipynb"))
MEMORY_LIMIT = 4 * 2**30  # bytes
FILE_LIMIT = 1_500_000  # bytes
INSTALL = re.compile(r"^\s*[!%].*\b(pip|conda|apt|apt-get|npm)\b|-m\s*pip\s+install", re.MULTILINE)
REMOTE_IMAGE = re.compile(r"!\[[^\]]*\]\(\s*https?:|<img[^>]+src\s*=\s*[\"']?https?:", re.IGNORECASE)


def name(path: Path) -> str:
    return path.stem


def run(command: list[str], home: Path, log: Path) -> None:
    """Run a command on its own progress file; fail with its last lines, or when it took too much memory."""
    environment = {**os.environ, "COURSE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, log.read_text(errors="replace")[-4000:]
    unit = 1 if sys.platform == "darwin" else 1024
    assert usage.ru_maxrss * unit < MEMORY_LIMIT, f"{usage.ru_maxrss * unit / 2**30:.1f} GiB in one process"


def test_expected_notebooks_exist():
    lessons = {path.stem for path in LESSONS}
    assert lessons >= {"1.1-why-compress", "1.2-numbers-in-a-box", "1.3-the-trade-off", "3.2-gptq"}
    labs = {"lab-1.1-first-compression", "lab-3.1-gptq"}
    assert {path.stem for path in SOLUTIONS} >= labs
    assert {path.stem for path in LABS} == {path.stem for path in SOLUTIONS}
    assert START[0].exists()


@pytest.mark.parametrize("path", START + LESSONS, ids=name)
def test_lesson_runs_and_marked_outputs_agree(path, tmp_path):
    options = ["--nbval-lax", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "--nbval-cell-timeout=300"]
    run(["pytest", *options, str(path)], tmp_path, tmp_path / "log")


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_solution_runs(path, tmp_path):
    run(["papermill", str(path), str(tmp_path / "out.ipynb"), "--cwd", str(path.parent)], tmp_path, tmp_path / "log")


@pytest.mark.parametrize("path", LABS, ids=name)
def test_released_lab_answers_with_messages(path, tmp_path):
    """Only graded test cells may raise on unwritten work; the learner's own cells and checks say what is missing."""
    out = tmp_path / "out.ipynb"
    options = ["--to", "notebook", "--execute", "--allow-errors", "--output-dir", str(tmp_path), "--output", out.name]
    run(["jupyter", "nbconvert", *options, str(path)], tmp_path, tmp_path / "log")
    notebook = nbformat.read(out, as_version=4)
    assert any("not attempted" in str(cell.get("outputs")).lower() for cell in notebook.cells)
    for cell in notebook.cells:
        tests = cell.metadata.get("nbgrader", {})
        if not (tests.get("grade") and tests.get("locked")):
            assert not [o for o in cell.get("outputs", []) if o.output_type == "error"], cell.id


@pytest.mark.parametrize("architecture", ["opt", "qwen2"])
def test_gptq_lesson_takes_another_model(architecture, tmp_path):
    import torch
    import transformers

    from course_utils import models

    torch.manual_seed(0)
    tokenizer = models.load_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    ids["eos_token_id"] = tokenizer.eos_token_id
    if architecture == "opt":
        config = transformers.OPTConfig(
            **sizes, **ids, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=512
        )
    else:
        config = transformers.Qwen2Config(**sizes, **ids, num_key_value_heads=2, intermediate_size=128)
    folder = tmp_path / architecture
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = next(path for path in LESSONS if path.stem == "3.2-gptq")
    command = ["papermill", str(path), str(tmp_path / "out.ipynb"), "--cwd", str(path.parent)]
    run([*command, "-r", "model", str(folder), "-p", "fast", "True"], tmp_path, tmp_path / "log")
    notebook = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    injected = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert str(folder) in injected[0].source


@pytest.mark.parametrize("path", START + LESSONS + SOLUTIONS + LABS, ids=lambda p: f"{p.parent.parent.name}-{p.stem}")
def test_notebook_keeps_the_rules(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert not [i for i in ids if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]{27})?", i)], "ids must be readable"
    assert path.stat().st_size < FILE_LIMIT
    for cell in notebook.cells:
        assert not (cell.cell_type == "markdown" and REMOTE_IMAGE.search(cell.source)), cell.id
        assert not (cell.cell_type == "code" and INSTALL.search(cell.source)), cell.id


@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_committed_outputs_are_there_and_clean(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a lesson shows at least one figure"
