"""`course compress | evaluate | report | export | chat`: the methods from a shell, on any Hugging
Face folder.

Each command says its result in words, or as JSON with `--json`. A user's mistake gives one sentence
and exit code 1.
"""

import argparse
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from course_utils import blockwise, checkpoints, evaluation, models, pruning, quantization
from course_utils.errors import CompressionError, CompressionWarning
from course_utils.opening import opened, packed_by
from course_utils.quantization import Compressed

GRID = ("bits", "group_size", "symmetric")
SHARE = ("sparsity", "pattern")
# function, calibrates?, settings
METHODS: dict[str, tuple[Callable[..., Compressed], bool, tuple[str, ...]]] = {
    "rtn": (quantization.rtn.quantize, False, GRID),
    "gptq": (quantization.gptq.quantize, True, (*GRID, "act_order")),
    "awq": (quantization.awq.quantize, True, GRID),
    "qronos": (quantization.qronos.quantize, True, GRID),
    "gptaq": (quantization.gptaq.quantize, True, (*GRID, "act_order")),
    "nf4": (quantization.nf4.quantize, False, ()),
    "mxfp4": (quantization.microscaling.quantize, False, ()),
    "nvfp4": (quantization.microscaling.quantize, False, ()),
    "hqq": (quantization.hqq.quantize, False, ("bits", "group_size")),
    "e8p": (quantization.e8.quantize, True, ("group_size",)),
    "trellis": (quantization.trellis.quantize, True, ("bits", "group_size", "state_bits")),
    "additive": (quantization.additive.quantize, True, ("group_size",)),
    "magnitude": (pruning.magnitude.prune, False, SHARE),
    "wanda": (pruning.wanda.prune, True, SHARE),
    "sparsegpt": (pruning.sparsegpt.prune, True, SHARE),
}
MIXED = {"rotation": 0}  # codes for normal numbers want rows and columns mixed
# settings that make a method of the command line out of a function
FIXED: dict[str, dict[str, Any]] = {
    "mxfp4": {"scheme": "MXFP4"}, "nvfp4": {"scheme": "NVFP4", "four_over_six": True}, "e8p": MIXED,
    "trellis": {**MIXED, "state_bits": 8},
    "additive": MIXED,
}  # fmt: skip
FORMATS: dict[str, Callable[..., int]] = {
    "course": lambda what, out, tokenizer: what.save(out, tokenizer),
    "gptq": checkpoints.gptq.write,
    "awq": checkpoints.awq.write,
    "bitsandbytes": checkpoints.bitsandbytes.write,
    "compressed-tensors": checkpoints.compressed_tensors.write,
    "gguf": checkpoints.gguf.write,
    "onnx": lambda what, out, _tokenizer: checkpoints.onnx.write(what, out),
}
EXAMPLES = """examples:
  course compress bundled --method gptq --bits 4 --out small
  course compress bundled --method rtn --bits 4 --per-layer '{"down_proj": {"bits": 8}}' --ignore q_proj --out mixed
  course compress ~/models/opt-125m --method wanda --pattern 2:4 --calibration my.txt --out sparse
  course evaluate small --text my.txt --windows 64
  course evaluate small --tasks hellaswag,mmlu --data ~/benchmarks --shots 5
  course report small --json
  course export small --format gptq --out for-others
  course chat small --prompt "Story: Ada puts the lamp in the kitchen."
"""  # noqa: E501


def compress(given: argparse.Namespace) -> dict[str, Any]:
    """Compress, write, and say what was reached, what was left and how many bytes it took."""
    method, calibrates, names = METHODS[given.method]
    chosen = {
        name: getattr(given, name)
        for name in (*GRID, "act_order", "state_bits", *SHARE)
        if getattr(given, name) is not None
    }
    if wrong := sorted(set(chosen) - set(names)):
        options = ", ".join("--" + name.replace("_", "-") for name in wrong)
        raise CompressionError(
            f"{given.method} has no {options}; "
            f"it takes {', '.join('--' + n.replace('_', '-') for n in names) or 'none'}."
        )
    chosen = (
        FIXED.get(given.method, {})
        | chosen
        | ({"per_layer": of_layers(given.per_layer)} if given.per_layer else {})
    )
    writable(given.out, given.format)
    shards, why = blockwise.shards_of(given, packed_by)
    if shards is not None:
        tokenizer = models.load_tokenizer(given.tokenizer or given.model)
        result = blockwise.compress(
            given, method, calibration_of(given, tokenizer) if calibrates else [], tokenizer, chosen
        )
        return told(given, result, result.details["bytes"], shards.bytes())
    whole, tokenizer = opened(given.model, given.tokenizer)
    if whole.settings["method"] != "none":
        raise CompressionError(
            f"model {given.model!r}: it is compressed already ({whole.settings['method']}); "
            "start from the original."
        )
    if why:
        print(f"course: the whole model is loaded: {why}", file=sys.stderr)
    result = method(
        whole.model,
        *(calibration_of(given, tokenizer) if calibrates else ()),
        ignore=given.ignore or (),
        **chosen,
    )
    if given.format == "course" and "sparsity" in result.details:
        result = without_zeros(result)
    size = FORMATS[given.format](result, given.out, tokenizer)
    # the original, written in the same way and with its tokenizer
    with tempfile.TemporaryDirectory() as folder:
        before = Compressed(whole.model, {"method": "none"}, 0.0).save(
            Path(folder) / "model", tokenizer
        )
    return told(given, result, size, before)


def told(given: argparse.Namespace, result: Compressed, size: int, before: int) -> dict[str, Any]:
    """What `course compress --json` says of a result; `size` and `before` in bytes."""
    found = result.coverage
    return {
        "out": str(given.out), "format": given.format, "settings": result.settings, "bytes": size,
        "bytes_before": before, "seconds": round(result.seconds, 2), "share": found["share"],
        "share_of_blocks": found["share_of_blocks"],
        "left": {name: {"parameters": n, "because": why} for name, (n, why) in found[
            "left"].items()},
        "sparsity": result.details.get("sparsity"),
    }  # fmt: skip


def calibration_of(given: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """The tokens that the options of the command ask for."""
    return [
        evaluation.calibration(
            tokenizer,
            text_of(given.calibration),
            n=given.samples,
            context=given.context,
            seed=given.seed,
        )
    ]


def without_zeros(pruned: Compressed) -> Compressed:
    """A pruned model whose file keeps what is left, in 16 bits, and where it stands; see
    `pruning.storage`.
    """
    half = pruning.storage.sixteen_bits(pruned)
    found = pruning.storage.compress(half.model)
    seconds = pruned.seconds + found.seconds
    return Compressed(
        found.model, {**half.settings, "storage": found.settings["format"]}, seconds, pruned.details
    )


def evaluate(given: argparse.Namespace) -> dict[str, Any]:
    """Perplexity with its interval and its protocol; with --tasks, scores on the files of
    benchmarks.
    """
    if given.tasks is not None or given.data is not None:
        return benchmark(given)
    model, tokenizer = opened(given.model, given.tokenizer)
    text = text_of(given.text)
    found = evaluation.perplexity(
        model,
        tokenizer,
        text,
        split=given.split,
        context=given.context,
        n=given.windows,
        seed=given.seed,
    )
    half = None if math.isnan(found.half_width) else found.half_width
    return {
        "nats": found.nats,
        "half_width": half,
        "perplexity": found.value,
        "protocol": found.protocol,
        "said": str(found),
    }


def benchmark(given: argparse.Namespace) -> dict[str, Any]:
    """Scores of lm-evaluation-harness on files in a folder; see `evaluation.benchmarks`."""
    if given.tasks is None or given.data is None:
        missing = (
            "--tasks NAMES, such as hellaswag,mmlu"
            if given.tasks is None
            else "--data FOLDER with the files of the tasks; nothing is downloaded"
        )
        raise CompressionError(f"evaluate: it also needs {missing}.")
    tasks = [name.strip() for name in given.tasks.split(",") if name.strip()]
    execute = sandboxed() if "humaneval" in tasks else None
    model, tokenizer = opened(given.model, given.tokenizer)
    found = evaluation.benchmarks.run(
        model, tokenizer, tasks, given.data, shots=given.shots, n=given.items, execute=execute
    )
    return {
        "tasks": {name: score.plain() for name, score in found.items()},
        "said": "\n".join(map(str, found.values())),
    }


def sandboxed() -> evaluation.benchmarks.Execute:
    """The runner of programs that a model wrote.

    Raises CompressionError where there is no sandbox.
    """
    if sys.platform != "linux":
        raise CompressionError(
            "humaneval: programs that a model wrote run in a sandbox of Linux, and this "
            f"is {sys.platform}; leave humaneval out."
        )
    from course_utils.grade import programs

    return programs.run


def report(given: argparse.Namespace) -> dict[str, Any]:
    """Bytes, speed, perplexity and scores."""
    model, tokenizer = opened(given.model, given.tokenizer)
    tasks = None if given.text == "bundled" else ()
    found = evaluation.report(model, tokenizer, text=text_of(given.text), context=given.context,
                              windows=given.windows,
                              tasks=tasks, n=given.items, seed=given.seed)  # fmt: skip
    told = found.perplexity  # an encoder has none
    scores = {name: score.accuracy for name, score in found.scores.items()}
    return {
        "name": found.name, "bytes_on_disk": found.bytes_on_disk,
        "bytes_in_memory": found.bytes_in_memory, "tokens_per_second": found.tokens_per_second,
        "nats": told and told.nats, "perplexity": told and told.value,
        "protocol": told and told.protocol, "scores": scores, "settings": found.settings,
        "said": str(found),
    }  # fmt: skip


def export(given: argparse.Namespace) -> dict[str, Any]:
    """Write a model in the format of another tool."""
    writable(given.out, given.format)
    model, tokenizer = opened(given.model, given.tokenizer)
    return {
        "out": str(given.out),
        "format": given.format,
        "bytes": FORMATS[given.format](model, given.out, tokenizer),
    }


def chat(given: argparse.Namespace) -> dict[str, Any]:
    """Greedy answers: one to `--prompt`, or one to each line that is typed, until an empty one."""
    model, tokenizer = opened(given.model, given.tokenizer)
    network = evaluation.subject.runnable(model)
    if given.prompt is not None:
        return {
            "prompt": given.prompt,
            "said": evaluation.answers.reply(network, tokenizer, given.prompt, given.tokens),
        }
    print("Type a line; an empty one ends.", file=sys.stderr)
    said = []
    for line in map(str.strip, sys.stdin):
        if not line:
            break
        said.append(
            {
                "prompt": line,
                "answer": evaluation.answers.reply(network, tokenizer, line, given.tokens),
            }
        )
        if not given.json:
            print(said[-1]["answer"], flush=True)
    return {"answers": said, "said": ""}


def text_of(name: str) -> str | Path:
    """'bundled', 'pydoc', the name of a data set, or a file that is there."""
    path = Path(name).expanduser()
    return path if path.is_file() else name


def of_layers(given: str) -> dict[str, dict[str, Any]]:
    """The value of --per-layer; what it holds is checked by the method."""
    try:
        return json.loads(given)
    except ValueError as error:
        raise CompressionError(
            f'--per-layer {given}: no JSON such as {{"down_proj": {{"bits": 8}}}} ({error}).'
        ) from error


def writable(out: Path, kind: str) -> None:
    """Raises CompressionError before anything is computed if the result could not be written."""
    if kind in ("gguf", "onnx") and out.suffix != f".{kind}":
        raise CompressionError(
            f"--out {out}: a {kind} file is one file; let its name end in .{kind}."
        )
    if kind in ("gguf", "onnx") and out.is_dir():
        raise CompressionError(f"--out {out}: there is a folder of this name; choose another name.")


def in_words(found: dict[str, Any]) -> str:
    """A result as a person reads it."""
    if "said" in found:
        return found["said"]
    lines = [f"{found['out']}: {found['bytes'] / 1e6:.2f} MB ({found['format']})"]
    if "bytes_before" in found:
        lines[0] += f", before {found['bytes_before'] / 1e6:.2f} MB; {found['seconds']:.1f} s"
        lines.append(
            f"reached: {found['share']:.1%} of the parameters, {found['share_of_blocks']:.1%} "
            "of those in the blocks"
        )
        reasons: dict[str, list[int]] = {}
        for left in found["left"].values():
            reasons.setdefault(left["because"], []).append(left["parameters"])
        lines += [
            f"left as they are: {sum(n):,} parameters of {len(n)} modules ({why})"
            for why, n in reasons.items()
        ]
    return "\n".join(lines)


def run(given: argparse.Namespace) -> int:
    """The exit code: 0, or 1 with one sentence on stderr."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CompressionWarning)
            found = given.work(given)
        for told in (w.message for w in caught if issubclass(w.category, CompressionWarning)):
            print(f"course: {told}", file=sys.stderr)
    except (CompressionError, OSError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        out = getattr(given, "out", None)
        begun = out is not None and out.with_name(f".{out.name}.part").is_dir()
        left = (
            "what is done is kept; the same command goes on from there."
            if begun
            else "nothing was written."
        )
        print(f"course: stopped; {left}", file=sys.stderr)
        return 130
    print(json.dumps(found, default=str, ensure_ascii=False) if given.json else in_words(found))
    return 0
