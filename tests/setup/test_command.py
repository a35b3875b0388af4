"""`course compress | evaluate | report | export | chat`, as a person calls them: results, errors,
and what is left on disk.
"""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import benchmark_items
import pytest
import tiny_models
import torch
from transformers import LlamaForCausalLM

from course_utils import blockwise, cli, evaluation, models, pruning, quantization
from course_utils.command import EXAMPLES, FIXED, FORMATS, METHODS, opened
from course_utils.models import walk

FEW = ["--samples", "4", "--context", "32"]
SLOW = ("e8p", "trellis", "additive")  # seconds for each block: one of them is enough
FEWER = ["--windows", "4", "--context", "32"]


@pytest.fixture
def course(capsys):
    """Runs the command: (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        return (code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "small"
    assert (
        cli.main(
            [
                "compress",
                "bundled",
                "--method",
                "rtn",
                "--bits",
                "4",
                "--group-size",
                "32",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


@pytest.mark.parametrize("method", [name for name in METHODS if name not in SLOW])
def test_each_method_writes_a_model_that_is_read_back(method, course, tmp_path):
    code, out, _ = course(
        "compress", "bundled", "--method", method, *FEW, "--out", tmp_path / "out", "--json"
    )
    told = json.loads(out)
    assert code == 0 and told["share_of_blocks"] > 0.99
    assert (
        told["bytes"]
        == sum(f.stat().st_size for f in (tmp_path / "out").rglob("*") if f.is_file())
        < 0.65 * told["bytes_before"]
    )
    model, tokenizer = opened(str(tmp_path / "out"))
    assert (
        model.settings == told["settings"]
        and tokenizer.vocab_size == models.load_tokenizer().vocab_size
    )


@pytest.mark.parametrize("method", SLOW)
def test_codes_of_many_weights_from_the_command_line(method, course, tmp_path, monkeypatch):
    monkeypatch.setitem(FIXED, "additive", {**FIXED["additive"], "entries": 16, "rounds": 1})
    ignored = ["--ignore", r"\.[1-4]\.|\.0\.mlp"]
    code, out, err = course(
        "compress",
        "bundled",
        "--method",
        method,
        *ignored,
        *FEW,
        "--out",
        tmp_path / "out",
        "--json",
    )
    told = json.loads(out)
    assert code == 0 and told["settings"]["rotation"] == 0 and told["bytes"] < told["bytes_before"]
    assert ("share codebooks" in err) == (method == "additive"), "the others go block by block"
    kinds = [
        type(m).__name__
        for m in opened(str(tmp_path / "out"))[0].model.modules()
        if hasattr(m, "rotation")
    ]
    assert len(kinds) == 4 and set(kinds) == {
        {"e8p": "E8Linear", "trellis": "TrellisLinear", "additive": "AdditiveLinear"}[method]
    }
    assert (
        course(
            "compress",
            "bundled",
            "--method",
            method,
            "--sparsity",
            "0.5",
            "--out",
            tmp_path / "other",
        )[0]
        != 0
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder of two small blocks with the bundled tokenizer."""
    folder, words = tmp_path_factory.mktemp("models") / "tiny", models.load_tokenizer()
    config = tiny_models.config_of("llama")
    config.num_hidden_layers, config.vocab_size = 2, len(words)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", blockwise.METHODS)
@pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")
def test_block_by_block_and_in_memory_write_the_same(method, course, tiny, tmp_path):
    grid = ["--group-size", "8"] if "group_size" in METHODS[method][2] else []
    told = {}
    for way in ([], ["--in-memory"]):
        code, out, err = course(
            "compress", tiny, "--method", method, *grid, *FEW, *way, "--out",
            tmp_path / f"out{len(way)}", "--json"
        )  # fmt: skip
        assert code == 0 and "the whole model is loaded" not in err
        told[len(way)] = json.loads(out)
    # bytes may differ: each way divides its files in its own places
    same = ("settings", "share", "share_of_blocks", "left", "sparsity", "format")
    assert [told[0][k] for k in same] == [told[1][k] for k in same]
    streamed, whole = (opened(str(tmp_path / f"out{n}"))[0].model.state_dict() for n in (0, 1))
    assert streamed.keys() == whole.keys()
    assert [n for n in whole if not same_numbers(streamed[n], whole[n])] == []


def same_numbers(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


def test_the_command_and_the_call_give_the_same_model(course, tmp_path):
    settings = [
        "--bits",
        "3",
        "--group-size",
        "32",
        "--act-order",
        "--seed",
        "5",
        "--ignore",
        r"\.0\.mlp",
        "--per-layer",
        '{"down_proj": {"bits": 4}}',
    ]
    assert (
        course(
            "compress", "bundled", "--method", "gptq", *settings, *FEW, "--out", tmp_path / "out"
        )[0]
        == 0
    )
    network, tokenizer = models.load()
    ids = evaluation.calibration(tokenizer, n=4, context=32, seed=5)
    wanted = quantization.gptq.quantize(
        network,
        ids,
        bits=3,
        group_size=32,
        act_order=True,
        ignore=r"\.0\.mlp",
        per_layer={"down_proj": {"bits": 4}},
    ).model.state_dict()
    made = opened(str(tmp_path / "out"))[0]
    assert made.settings["ignore"] == [r"\.0\.mlp"] and made.settings["per_layer"] == {
        "down_proj": {"bits": 4}
    }
    found = made.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_pruned_file_holds_what_is_left(course, tmp_path):
    """2:4 in 16 bits: 16 · 2 + 2 · 2 bits of 4 weights, 9/16 of the bytes; and the values are those
    of the method, rounded.
    """
    assert (
        course(
            "compress",
            "bundled",
            "--method",
            "sparsegpt",
            "--pattern",
            "2:4",
            *FEW,
            "--out",
            tmp_path / "out",
        )[0]
        == 0
    )
    network, tokenizer = models.load()
    ids = evaluation.calibration(tokenizer, n=4, context=32, seed=0)
    wanted = pruning.sparsegpt.prune(network, ids, pattern="2:4").model
    found = opened(str(tmp_path / "out"))[0].model
    dense = walk.compressible(wanted)
    weights = sum(layer.weight.numel() for layer in dense.values())
    rest = sum(p.numel() for p in network.parameters()) - weights
    assert sum(
        file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")
    ) == pytest.approx(2 * rest + 2 * 9 / 16 * weights, rel=0.01)
    for name, layer in dense.items():
        assert torch.equal(found.get_submodule(name).weight, layer.weight.bfloat16().float())


def test_what_is_evaluated_is_what_the_call_gives(course, small):
    code, out, _ = course("evaluate", small, "--windows", 4, "--context", 64, "--json")
    model, tokenizer = opened(str(small))
    wanted = evaluation.perplexity(model, tokenizer, n=4, context=64)
    assert code == 0 and json.loads(out)["nats"] == pytest.approx(wanted.nats, rel=1e-6)
    assert json.loads(out)["half_width"] == pytest.approx(wanted.half_width, rel=1e-5)
    code, out, _ = course("report", small, "--windows", 4, "--items", 4, "--json")
    assert (
        code == 0 and json.loads(out)["bytes_on_disk"] < 3e6 and len(json.loads(out)["scores"]) == 6
    )


def test_own_text_calibrates_and_judges(course, tmp_path):
    (tmp_path / "own.txt").write_text("Story: Ada puts the lamp in the kitchen. " * 200)
    own = tmp_path / "own.txt"
    code, out, _ = course(
        "compress",
        "bundled",
        "--method",
        "awq",
        "--calibration",
        own,
        *FEW,
        "--out",
        tmp_path / "out",
    )
    assert code == 0 and "reached:" in out and "embedding" in out
    code, out, _ = course(
        "evaluate", tmp_path / "out", "--text", own, "--windows", 4, "--context", 32
    )
    assert code == 0 and "own.txt" in out and " ± " in out


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_written_or_refused_by_name(kind, course, small, tmp_path):
    out = tmp_path / (f"out.{kind}" if kind in ("gguf", "onnx") else "out")
    code, _, said = course("export", small, "--format", kind, "--out", out)
    if kind in ("bitsandbytes", "compressed-tensors"):  # the grids of rtn are not their codes
        assert code == 1 and "no layers of this format" in said and not out.exists()
    else:
        assert code == 0 and out.exists()
    if kind in ("gptq", "gguf"):
        more = ["--tokenizer", small] if kind == "gguf" else []
        code, said, _ = course("evaluate", out, *more, "--windows", 2, "--context", 32, "--json")
        assert code == 0 and json.loads(said)["nats"] < 3


def test_it_answers(course, small, monkeypatch):
    code, out, _ = course(
        "chat", small, "--prompt", "Story: Ada puts the lamp in the kitchen.", "--tokens", 8
    )
    model, tokenizer = opened(str(small))
    ids = tokenizer("Story: Ada puts the lamp in the kitchen.", return_tensors="pt").input_ids
    wanted = tokenizer.decode(
        model.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :],
        skip_special_tokens=True,
    )
    assert code == 0 and out.strip() == wanted.strip()
    monkeypatch.setattr(
        sys, "stdin", io.StringIO("Story: Ada puts the lamp in the kitchen.\n\nnever read\n")
    )
    code, typed, _ = course("chat", small, "--tokens", 8)
    assert code == 0 and typed.strip() == wanted.strip()


WRONG = {
    "compressed already": ["compress", "{small}", "--method", "rtn", "--out", "{new}"],
    "wanda has no --bits": [
        "compress",
        "bundled",
        "--method",
        "wanda",
        "--bits",
        "4",
        "--out",
        "{new}",
    ],
    "bits=9": ["compress", "bundled", "--method", "rtn", "--bits", "9", "--out", "{new}"],
    "sparsity": [
        "compress",
        "bundled",
        "--method",
        "magnitude",
        "--sparsity",
        "1.5",
        "--out",
        "{new}",
    ],
    "there is no such folder": ["evaluate", "./nothing"],
    "end in .gguf": ["export", "{small}", "--format", "gguf", "--out", "{new}"],
    "holds something else": ["export", "{small}", "--format", "gptq", "--out", "{full}"],
    "checksum differs": ["chat", "{damaged}", "--prompt", "x"],
    "without a tokenizer": ["report", "{bare}"],
    "'fp99', which is not read here": ["evaluate", "{foreign}"],
    "too few": ["evaluate", "{small}", "--text", "{short}"],
    "--context": ["evaluate", "{small}", "--context", "1"],
    "ignore": ["compress", "bundled", "--method", "rtn", "--ignore", "[", "--out", "{new}"],
    "no JSON such as": [
        "compress",
        "bundled",
        "--method",
        "rtn",
        "--per-layer",
        "down_proj=8",
        "--out",
        "{new}",
    ],
    "'down_proj' sets bit;": [
        "compress",
        "bundled",
        "--method",
        "rtn",
        "--per-layer",
        '{{"down_proj": {{"bit": 8}}}}',
        "--out",
        "{new}",
    ],
}


@pytest.mark.parametrize("told", WRONG)
def test_a_mistake_gets_one_sentence_and_nothing_is_written(told, course, small, tmp_path):
    full, damaged, bare, foreign = (
        tmp_path / name for name in ("full", "damaged", "bare", "foreign")
    )
    for place in (damaged, bare):
        shutil.copytree(small, place)
    block = next(damaged.glob("block-*.safetensors"))
    block.write_bytes(block.read_bytes()[:-9])
    (bare / "tokenizer_config.json").unlink()
    foreign.mkdir()
    (foreign / "config.json").write_text(
        '{"model_type": "llama", "quantization_config": {"quant_method": "fp99"}}'
    )
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    (tmp_path / "short.txt").write_text("Story.")
    before = sorted(tmp_path.rglob("*"))
    names = {
        "small": small,
        "new": tmp_path / "new",
        "full": full,
        "damaged": damaged,
        "bare": bare,
        "foreign": foreign,
    }
    code, out, said = course(
        *(part.format(short=tmp_path / "short.txt", **names) for part in WRONG[told])
    )
    assert code == 1 and out == "" and "Traceback" not in said
    assert said.startswith("course: ") and told.strip("-") in said and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_help_has_examples_that_parse(course, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["compress", "--help"])
    assert (
        ended.value.code == 0
        and EXAMPLES.strip().splitlines()[1].strip() in capsys.readouterr().out
    )


def test_light_commands_do_not_load_torch():
    code = (
        "import sys; from course_utils import cli; cli.main(['build', '--check']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_lines_of_the_readme_run(course, tmp_path, monkeypatch, capsys):
    """With fewer tokens than the page asks for."""
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (python,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "n=64, context=256" in python and "tasks=()" in python
    python = python.replace("n=64, context=256", "n=4, context=32").replace(
        "tasks=()", "tasks=(), windows=4, context=32"
    )
    exec(compile(python, "README.md", "exec"), {})
    assert "of the parameters were reached" in capsys.readouterr().out
    shutil.rmtree("small"), shutil.rmtree("for-others")
    shell = re.findall(r"^course (?:compress|evaluate|report|export|chat) .*$", page, re.MULTILINE)
    assert len(shell) == 6
    benchmark_items.original(tmp_path / "FOLDER")
    for line in shell:
        words = shlex.split(line, comments=True)[1:]
        fewer = {"compress": FEW, "evaluate": FEWER, "report": FEWER}.get(words[0], [])
        code, out, said = course(*words, *fewer)
        assert code == 0 and out, said
