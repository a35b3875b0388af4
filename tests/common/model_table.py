"""docs/models.md: architecture × method × file, each tried on a tiny random model.

`python tests/common/model_table.py --write docs/models.md`

With `--only gpt_neo jamba` these rows are made anew and the others stay.

A mark says that what is written above the table held. A number is a sentence with which the pair
was refused; whatever else happened is written out.
"""

import argparse
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models
import torch
import transformers

from course_utils import checkpoints, pruning, quantization
from course_utils.errors import CompressionError, CompressionWarning
from course_utils.pruning import structured
from course_utils.quantization import Compressed, compressed

IDS = torch.randint(3, tiny_models.VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))
HEAD = """# Which models, which methods, which files

Made by `python tests/common/model_table.py --write docs/models.md` with transformers {version}: tiny random
models of the architectures that are asked for most. (That the walk through the blocks is right is tested on every causal
architecture of the library: `tests/models/test_architectures.py`.) Nothing here says how good a method is: that needs trained models.

A ✓ stands where this held:

- GPTQ, AWQ: 8 bits change the logits by less than 10 %, or by at most 1.5 times what plain rounding does, and the saved folder gives the same logits bit for bit when loaded.
  The percentage is the part of the blocks' parameters that was reached (norms and biases are never).
- SmoothQuant: the smoothed model's logits equal the original's to 10⁻⁴.
- rotation (`rotations.rotate`, Hadamard): the rotated model's logits equal the original's to 10⁻⁴.
- Wanda: half of the weights are 0, and the saved folder gives the same logits.
- channels, heads, layers (`prune_mlp`, `prune_heads`, `prune_layers`): the model is smaller, an ordinary one of its class, and the
  saved folder gives the same logits. (That the channels are the right ones: `tests/pruning/test_mlp_channels.py`.)
- GPTQ file, bitsandbytes file: written, and read back here with the same logits up to 1 %. Read by the tools themselves for
  Llama, Qwen2, OPT and GPT-2: [interop.md](interop.md).
- GGUF: written with all numbers in 32 bits, and read by transformers with the same logits up to 1 %.

A number is the sentence, below, with which it was refused.

"""  # noqa: E501


KINDS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3n_text",
    "gemma4_text", "phi", "phi3", "falcon", "bloom", "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt",
    "olmo", "olmo2", "olmo3", "granite", "glm", "glm4", "starcoder2", "stablelm", "cohere",
    "cohere2", "nemotron", "exaone4", "smollm3", "xglm", "codegen", "mixtral", "qwen2_moe",
    "qwen3_moe", "olmoe", "gpt_oss", "granitemoe", "jamba", "mamba", "deepseek_v3", "glm4_moe",
    "ernie4_5_moe",
)  # fmt: skip


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(
            input_ids=IDS, **({"use_cache": False} if hasattr(model.config, "use_cache") else {})
        ).logits


def near(model: Any, other: Any, limit: float) -> str:
    """'' or how far the logits are apart."""
    a, b = logits(model), logits(other)
    apart = float((a - b).norm() / b.norm())
    return "" if apart <= limit else f"logits differ by {apart:.0%}"


def saved(result: Compressed, exact: bool = True) -> str:
    with tempfile.TemporaryDirectory() as place:
        result.save(Path(place) / "a")
        return near(compressed.load(Path(place) / "a"), result.model, 0.0 if exact else 1e-6)


def quantized(run: Callable[[Any], Compressed]) -> Callable[[Any], str]:
    def column(model: Any) -> str:
        result = run(model)
        wrong = near(result.model, model, 0.1)
        if wrong:  # a model that is as sensitive to plain rounding?
            plain = logits(quantization.rtn.quantize(model, bits=8, group_size=-1).model)
            wrong = near(
                result.model,
                model,
                1.5 * float((plain - logits(model)).norm() / logits(model).norm()),
            )
        wrong = wrong or saved(result)
        return wrong or f"✓ {result.coverage['share_of_blocks']:.0%}"

    return column


def smoothed(model: Any) -> str:
    return near(quantization.smoothquant.smooth(model, IDS), model, 1e-4) or "✓"


def wanda(model: Any) -> str:
    result = pruning.wanda.prune(model, IDS)
    return saved(result) or (
        "✓"
        if 0.49 < result.settings["sparsity"] < 0.51
        else f"sparsity {result.settings['sparsity']}"
    )


def smaller(run: Callable[[Any], Compressed]) -> Callable[[Any], str]:
    def column(model: Any) -> str:
        result = run(model)
        less = result.model.num_parameters() < model.num_parameters() and type(
            result.model
        ) is type(model)
        return saved(result) or ("✓" if less else "not smaller")

    return column


def file(
    pack: Callable[[Any], Any], write: Callable, read: Callable, name: str = "a"
) -> Callable[[Any], str]:
    def column(model: Any) -> str:
        packed = pack(model)
        with tempfile.TemporaryDirectory() as place:
            write(packed, Path(place) / name)
            return (
                near(
                    read(Path(place) / name),
                    packed.model if isinstance(packed, Compressed) else packed,
                    0.01,
                )
                or "✓"
            )

    return column


COLUMNS: dict[str, Callable[[Any], str]] = {
    "GPTQ": quantized(lambda m: quantization.gptq.quantize(m, IDS, bits=8, group_size=-1)),
    "AWQ": quantized(
        lambda m: quantization.awq.quantize(
            m, IDS, bits=8, group_size=-1, alphas=(0.0, 0.5), clip=False
        )
    ),
    "SmoothQuant": smoothed,
    "rotation": lambda m: near(quantization.rotations.rotate(m), m, 1e-4) or "✓",
    "Wanda": wanda,
    "channels": smaller(lambda m: structured.prune_mlp(m, IDS)),
    "heads": smaller(lambda m: structured.prune_heads(m, IDS)),
    "layers": smaller(lambda m: structured.prune_layers(m, IDS)),
    "GPTQ file": file(
        lambda m: quantization.rtn.quantize(m, bits=8, group_size=-1),
        lambda w, f: checkpoints.gptq.write(w, f, unfit="leave", dtype=torch.float32),
        checkpoints.gptq.read,
    ),
    "bitsandbytes file": file(
        quantization.nf4.quantize, checkpoints.bitsandbytes.write, checkpoints.bitsandbytes.read
    ),
    "GGUF": file(
        lambda m: m,
        lambda w, f: checkpoints.gguf.write(w, f, type_name="F32"),
        checkpoints.gguf.read,
        "a.gguf",
    ),
}


def made(kind: str) -> Any:
    """A model of two layers where the type allows it."""
    try:
        model = tiny_models.model_of(kind, layers=2)
        # some lists in a config want all layers
        type(model.config).from_dict(model.config.to_dict())
        logits(model)
    except Exception:
        model = tiny_models.model_of(kind)
        logits(model)
    return model


def sentence(error: CompressionError, model: Any) -> str:
    """What was said, without the names of this model."""
    said = (
        re.sub(r"^block \d+: ", "", str(error))
        .replace(type(model).__name__, "…")
        .replace(f"{model.config.model_type}", "…")
    )
    return re.sub(r"\b[\w.]+\.\d+[\w.]*", "…", said).replace("'", "").replace("|", "/")[:330]


def row(kind: str) -> dict[str, str]:
    """Column → '✓ …', the sentence of a refusal, or what went wrong."""
    model = made(kind)
    found = {}
    for name, column in COLUMNS.items():
        try:
            found[name] = column(model)
        except CompressionError as error:
            found[name] = "refused: " + sentence(error, model)
        except Exception as error:
            found[name] = (
                f"**{type(error).__name__}**: "
                f"{str(error).splitlines()[0][:60] if str(error) else ''}"
            )
    return found


def rows(kinds: tuple[str, ...] = KINDS) -> dict[str, dict[str, str]]:
    found = {}
    for kind in kinds:
        found[kind] = row(kind)
        print(kind, flush=True)
    return found


def written(found: dict[str, dict[str, str]]) -> str:
    """The page: head, table, sentences."""
    numbers: dict[str, int] = {}
    lines = ["| architecture | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for kind in sorted(found):
        cells = []
        for name in COLUMNS:
            cell = found[kind][name]
            if cell.startswith("refused: "):
                cell = str(numbers.setdefault(cell.removeprefix("refused: "), len(numbers) + 1))
            cells.append(cell.replace("|", "/"))
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    said = [f"{number}. {text}" for text, number in numbers.items()]
    return (
        HEAD.format(version=transformers.__version__)
        + "\n".join([*lines, "", "## Refused", "", *said])
        + "\n"
    )


def read(page: str) -> dict[str, dict[str, str]]:
    """The rows of a page, its numbers turned back into sentences."""
    said = {number: text for number, text in re.findall(r"^(\d+)\. (.*)$", page, flags=re.M)}
    table = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in page.splitlines()
        if line.startswith("| ")
    ]
    head = table[0][1:]
    return {
        line[0]: {name: f"refused: {said[cell]}" if cell in said else cell
                  for name, cell in zip(head, line[1:], strict=True)}
        for line in table[1:]
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=KINDS, help="rows to make anew (all)")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore", CompressionWarning)
    kept = read(given.write.read_text(encoding="utf-8")) if given.only else {}
    made_now = rows(tuple(given.only or KINDS))
    given.write.write_text(written(kept | made_now), encoding="utf-8")
