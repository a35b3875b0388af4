"""Models in llama.cpp's file, GGUF: the weights made real again and the tokenizer, through
transformers' reader.

transformers needs the packages gguf and accelerate for it. What it passes over without a word is
looked for here: lost or misshapen tensors, rotary scaling, biases, and the way in which text is cut
before merging.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from course_utils.errors import CompressionError

from .quiet import no_bars_at_all

# our own files hold a checksum of themselves, with 64 zeros in its place
CHECKSUM, BLANK = "course.sha256", b"0" * 64
PIECES = (  # how text is cut before merging → llama.cpp's name for it
    (r"\p{N}{1,3}", "llama-bpe"), (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|", "qwen2"),
)  # fmt: skip
# llama.cpp cuts these alike
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")


def checksum_place(content: bytes) -> int:
    """Where the checksum's 64 digits begin (after its name, a 4-byte type and an 8-byte length), or
    -1.
    """
    found = content.find(CHECKSUM.encode())
    return -1 if found < 0 else found + len(CHECKSUM) + 12


def _verify(file: Path) -> None:
    """Raises CompressionError if the file holds a checksum of ours that is not its own."""
    content = file.read_bytes()
    place = checksum_place(content)
    found = content[place : place + 64]
    if (
        place >= 0
        and hashlib.sha256(content[:place] + BLANK + content[place + 64 :]).hexdigest().encode()
        != found
    ):
        raise CompressionError(
            f"{file}: checksum differs; the file is damaged or truncated. Copy it again."
        )


def pre_tokenizer(content: dict[str, Any]) -> str:
    """llama.cpp's name for the way in which a tokenizer.json cuts text.

    Raises CompressionError for one that it has no name for here.
    """
    outer = content.get("pre_tokenizer") or {}
    steps = outer.get("pretokenizers", [outer])
    kinds = [step.get("type") for step in steps]
    patterns = [
        str(step.get("pattern", {}).get("Regex", ""))
        for step in steps
        if step.get("type") == "Split"
    ]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if (
        kinds == ["Digits", "ByteLevel"]
        and steps[0].get("individual_digits")
        and steps[1].get("use_regex", True)
    ):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        for piece, name in PIECES:
            if piece in patterns[0]:
                return name
    raise CompressionError(
        f"tokenizer: cuts text in a way ({', '.join(map(str, kinds))}) that has no name here which "
        "llama.cpp knows; leave the tokenizer out, or use llama.cpp's own converter."
    )


def _there(file: str | Path) -> Path:
    """The file, and gguf and accelerate installed. Raises CompressionError with the remedy."""
    file = Path(file).expanduser()
    if not file.is_file():
        raise CompressionError(f"{file}: there is no such file.")
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise CompressionError(
            f"{file}: reading GGUF needs the packages gguf and accelerate "
            "(pip install gguf accelerate)."
        ) from error
    return file


def _unreadable(file: Path, error: Exception) -> CompressionError:
    return CompressionError(
        f"{file}: not readable as GGUF "
        f"({str(error).strip().splitlines()[0] if str(error).strip() else error!r})."
    )


def _plain(model: Any) -> PreTrainedModel:
    """Without transformers' marks of a quantized file, since the weights are real numbers now: so
    that it can be saved.
    """
    model.hf_quantizer, model.is_quantized = None, False
    for holder, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if name in vars(holder):
            delattr(holder, name)
    return model


def read(file: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a GGUF file, its weights made real again, through transformers' reader.

    Raises CompressionError if the file is missing, truncated, not understood, or, where it was
    written here, altered.
    """
    file = _there(file)
    import gguf

    _verify(file)
    try:
        reader = gguf.GGUFReader(file)
        wanted = max((t.data_offset + t.n_bytes for t in reader.tensors), default=0)
        if wanted > file.stat().st_size or not reader.tensors:
            raise ValueError("the file ends too early")
        with no_bars_at_all():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=dtype,
                output_loading_info=True,
                local_files_only=True,
            )
        model, report = loaded
        lost = sorted(
            str(k)
            for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")
            for k in report[kind]
        )
        if lost:  # transformers would fill them with random numbers
            raise ValueError(f"tensors and sizes disagree about {', '.join(lost[:3])}")
        # these two, transformers passes over without a word
        theirs = {t.name for t in reader.tensors}
        if "rope_freqs.weight" in theirs:
            raise ValueError("its rotary scaling, rope_freqs, is not read")
        if any(n.endswith(".bias") for n in theirs) and not any(
            n.endswith(".bias") for n, _ in model.named_parameters()
        ):
            raise ValueError("its biases are not read")
        return _plain(model).eval()
    except Exception as error:
        raise _unreadable(file, error) from error


def read_tokenizer(file: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that a GGUF file holds, cutting text as llama.cpp does.

    transformers 5.23 does not read the way of cutting that llama.cpp calls smollm (each digit
    alone, then as GPT-2): text with digits would become other tokens. Raises CompressionError if
    the file holds none.
    """
    file = _there(file)
    import gguf

    try:
        said = gguf.GGUFReader(file).fields
        if "tokenizer.ggml.model" not in said:
            raise CompressionError(
                f"{file}: comes without a tokenizer; load another's with models.load_tokenizer."
            )
        cut = said["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in said else None
        with no_bars_at_all():
            words = AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True
            )
    except CompressionError:
        raise
    except Exception as error:
        raise _unreadable(file, error) from error
    if cut in SINGLE_DIGITS:
        steps = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
        words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return words
