"""The options of `course compress | evaluate | report | export | chat`, and their help."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_utils.command import (
    EXAMPLES,
    FORMATS,
    METHODS,
    chat,
    compress,
    evaluate,
    export,
    report,
)
from course_utils.models.shelf import PLACES


def parsers(commands: Any) -> None:
    """Add the five commands to the parser of `course`."""

    def command(
        work: Callable[[argparse.Namespace], dict[str, Any]], told: str
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            work.__name__,
            help=told,
            description=work.__doc__,
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(work=work)
        parser.add_argument(
            "model",
            help="'bundled', 'smollm2', a model's folder, a GGUF file, or a name on the hub",
        )
        parser.add_argument("--tokenizer", help="folder of the tokenizer, if the model has none")
        parser.add_argument("--json", action="store_true", help="the result as JSON")
        return parser

    def text(parser: argparse.ArgumentParser, name: str, count: str, default: int) -> None:
        parser.add_argument(
            f"--{name}",
            default="bundled",
            help=(
                "'bundled', 'pydoc' (Python's documentation), a text file, or a data set of the "
                "hub (default: bundled)"
            ),
        )
        parser.add_argument(
            f"--{count}", type=int, default=default, help=f"windows of text (default: {default})"
        )
        parser.add_argument(
            "--context", type=int, default=256, help="tokens of a window (default: 256)"
        )
        parser.add_argument("--seed", type=int, default=0)

    small = command(compress, "compress a model and write it")
    small.add_argument("--method", choices=METHODS, required=True)
    small.add_argument("--bits", type=int)
    small.add_argument("--group-size", type=int)
    for flag in ("--symmetric", "--act-order"):
        small.add_argument(flag, action="store_true", default=None)
    small.add_argument(
        "--state-bits",
        type=int,
        help="of a trellis's register (default: 8); time doubles with each",
    )
    small.add_argument("--sparsity", type=float)
    small.add_argument("--pattern", help="such as 2:4")
    small.add_argument(
        "--ignore",
        action="append",
        help=(
            "a layer's name, or a regular expression on names: such layers stay "
            "as they are (repeat it)"
        ),
    )
    small.add_argument(
        "--per-layer", help="other settings for layers with such names, as JSON (see the examples)"
    )
    small.add_argument("--states", choices=PLACES, default="memory",
                       help="where calibration's hidden states wait: in memory, there in 16 bits, "
                            "or in files beside --out")  # fmt: skip
    small.add_argument("--device", default="cpu", help="where a block is computed (default: cpu)")
    small.add_argument(
        "--in-memory",
        action="store_true",
        help="load the whole model, instead of one block at a time",
    )
    text(small, "calibration", "samples", 64)
    test = command(evaluate, "measure a model's perplexity, or its scores on benchmarks")
    text(test, "text", "windows", 64)
    test.add_argument(
        "--tasks",
        help=(
            "instead of perplexity: benchmarks, such as "
            "hellaswag,mmlu,glue,super_glue,rte,humaneval"
        ),
    )
    test.add_argument(
        "--data", help="with --tasks: the folder with their files; nothing is downloaded"
    )
    test.add_argument(
        "--shots", type=int, default=0, help="with --tasks: solved items before each (default: 0)"
    )
    test.add_argument(
        "--items", type=int, help="with --tasks: the first items of each (default: all)"
    )
    test.add_argument(
        "--split", default="validation", choices=("train", "validation", "test", "all")
    )
    whole = command(report, "bytes, speed, perplexity and scores of a model")
    text(whole, "text", "windows", 64)
    whole.add_argument("--items", type=int, default=200, help="items of a task (default: 200)")
    other = command(export, "write a model in another tool's format")
    for parser in (small, other):
        parser.add_argument(
            "--out", type=Path, required=True, help="a new folder; for gguf and onnx a file"
        )
        parser.add_argument("--format", choices=FORMATS, required=parser is other, default="course")
    talk = command(chat, "let a model answer, greedily")
    talk.add_argument("--prompt", help="one prompt; without it, lines are read")
    talk.add_argument("--tokens", type=int, default=60, help="tokens of an answer (default: 60)")
