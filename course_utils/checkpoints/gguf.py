"""GGUF, the single file that llama.cpp reads: metadata, tokenizer, and tensors in blocks.

Q8_0: 32 weights share a float16 scale, 8.5 bits a weight. Q4_0: likewise with 4 bits, 4.5. Q4_K and
Q6_K: `kquants`.
The metadata `course.sha256` holds a checksum of the file with 64 zeros in its place; other readers
pass over it.
Names are llama.cpp's; the rows of the query and key weights are reordered, because it rotates
neighbouring pairs where Hugging Face rotates halves.
"""

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError, CompressionWarning
from course_utils.models.gguf_files import (
    BLANK,
    CHECKSUM,
    checksum_place,
    pre_tokenizer,
    read,
    read_tokenizer,
)
from course_utils.quantization import Compressed

from . import files
from .kquants import QUANTIZERS

FILE_TYPES = {  # what general.file_type says, by the type of most tensors
    "F32": "ALL_F32", "F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0", "Q4_0": "MOSTLY_Q4_0",
    "Q4_K": "MOSTLY_Q4_K_S", "Q6_K": "MOSTLY_Q6_K",
}  # fmt: skip
TYPES = tuple(FILE_TYPES)
ARCHITECTURES = ("llama", "qwen2")
__all__ = [
    "BLANK",
    "CHECKSUM",
    "TYPES",
    "pre_tokenizer",
    "quantize",
    "read",
    "read_tokenizer",
    "tensors_of",
    "write",
]
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def permute(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key weight or bias (heads · width, …): halves of a head become
    neighbouring pairs.
    """
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def quantize(weight: np.ndarray, type_name: str) -> np.ndarray:
    """A matrix as the bytes of a GGUF tensor, (rows, bytes of a row), or as float numbers for F32
    and F16.
    """
    import gguf

    if type_name in QUANTIZERS:
        return QUANTIZERS[type_name](weight).reshape(len(weight), -1)
    return gguf.quants.quantize(weight, gguf.GGMLQuantizationType[type_name])


def tensors_of(model: Any) -> dict[str, tuple[Tensor, bool]]:
    """llama.cpp's name → (tensor, whether it is a matrix to quantize)."""
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = {"token_embd.weight": (model.get_input_embeddings().weight, False)}
    for i, block in enumerate(model.model.layers):
        for theirs, ours in NAMES.items():
            module = block.get_submodule(theirs)
            if getattr(module, "weight", None) is None:
                raise CompressionError(
                    f"block {i}: {theirs} is a {type(module).__name__}, for which GGUF has no "
                    "place; use Compressed.save."
                )
            for part in ("weight", "bias"):
                tensor = getattr(module, part, None)
                if tensor is not None:
                    permuted = config.model_type == "llama" and ours in heads
                    tensor = permute(tensor, heads[ours]) if permuted else tensor
                    tensors[f"blk.{i}.{ours}.{part}"] = (
                        tensor,
                        part == "weight" and tensor.dim() == 2,
                    )
    tensors["output_norm.weight"] = (model.model.norm.weight, False)
    if not config.tie_word_embeddings:
        tensors["output.weight"] = (model.get_output_embeddings().weight, True)
    return tensors


def check_config(config: Any) -> None:
    """Raises CompressionError for what the file would not say, so that another function would be
    read from it.
    """
    rope = config.rope_parameters.get("rope_type", "default")
    unsaid = {
        f"rotary scaling {rope!r}": rope != "default",
        f"the activation {config.hidden_act!r}": config.hidden_act != "silu",
        "biases": config.model_type == "llama" and (config.attention_bias or config.mlp_bias),
        "sliding-window attention": "sliding_attention"
        in (getattr(config, "layer_types", None) or ()),
    }
    for what, found in unsaid.items():
        if found:
            raise CompressionError(
                f"model: {what} cannot be written for {config.model_type!r}; supported are "
                "plain rotary embeddings, silu, no biases but Qwen2's own, and full attention. "
                "Write another layout, such as `gptq`."
            )


def write(
    what: Compressed | PreTrainedModel,
    file: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    type_name: str = "Q8_0",
) -> int:
    """Write a Llama or Qwen2 model as one GGUF file and return its bytes.

    The weights are quantized here, to `type_name`.

    The embedding is kept in float16, norms and biases in float32. A byte-level BPE tokenizer is
    written along.
    Raises CompressionError for another architecture or type, a width that the type's blocks do not
    divide, and as `check_config`.
    """
    import gguf

    model = files.model_of(what)
    if type_name not in TYPES:
        raise CompressionError(f"type_name={type_name!r}: choose one of {', '.join(TYPES)}.")
    if model.config.model_type not in ARCHITECTURES:
        raise CompressionError(
            f"model: {model.config.model_type!r} is not written; "
            f"supported are {', '.join(ARCHITECTURES)}."
        )
    check_config(model.config)
    if tokenizer is None:
        warnings.warn(
            (
                "gguf: written without a tokenizer, which llama.cpp needs to load the file; "
                "give tokenizer=."
            ),
            CompressionWarning,
            stacklevel=2,
        )
    file, config = Path(file), model.config
    kind = gguf.GGMLQuantizationType[type_name]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    tensors = tensors_of(model)
    for name, (tensor, matrix) in tensors.items():
        if matrix and tensor.shape[-1] % block:
            raise CompressionError(
                f"{name}: {tensor.shape[-1]} inputs are no multiple of {block}, "
                f"the block of {type_name}."
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, work = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(work, config.model_type)
        writer.add_name(config.model_type)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(size)
        writer.add_key_length(size)
        writer.add_value_length(size)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_vocab_size(config.vocab_size)
        writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[type_name]])
        if tokenizer is not None:
            _add_tokenizer(writer, tokenizer, config)
        for name, (tensor, matrix) in tensors.items():
            values = tensor.detach().float().cpu().numpy()
            if name == "token_embd.weight" and type_name != "F32":
                writer.add_tensor(name, values.astype(np.float16))
            elif matrix and type_name != "F32":
                data = quantize(np.ascontiguousarray(values), type_name)
                writer.add_tensor(name, data, raw_dtype=None if type_name == "F16" else kind)
            else:
                writer.add_tensor(name, values)
        writer.add_string(CHECKSUM, BLANK.decode())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        _fill_in_checksum(Path(work))
        os.chmod(work, 0o644)
        os.replace(work, file)
    finally:
        Path(work).unlink(missing_ok=True)
    return file.stat().st_size


def _fill_in_checksum(file: Path) -> None:
    content = file.read_bytes()
    place = checksum_place(content)
    with file.open("r+b") as out:
        out.seek(place)
        out.write(hashlib.sha256(content).hexdigest().encode())


def _add_tokenizer(writer: Any, tokenizer: Any, config: Any) -> None:
    """Tokens and merges of a byte-level BPE tokenizer."""
    import gguf

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] != "BPE":
        raise CompressionError(
            "tokenizer: only byte-level BPE can be written; leave the tokenizer out."
        )
    by_id = {i: token for token, i in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids)
    kinds = gguf.TokenType
    added = {i: token.special for i, token in tokenizer.added_tokens_decoder.items()}
    if (largest := max(by_id)) >= config.vocab_size:
        raise CompressionError(
            f"tokenizer: has the token {largest}, the model {config.vocab_size} of them; "
            "resize its embeddings first (model.resize_token_embeddings), so that no token is lost."
        )
    tokens = [by_id.get(i, f"[unused{i}]") for i in range(config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(content))
    writer.add_token_list(tokens)
    writer.add_token_types([
        kinds.CONTROL if i in special or added.get(i) else kinds.USER_DEFINED if i in added
            else kinds.NORMAL if i in by_id else kinds.UNUSED
        for i in range(config.vocab_size)
    ])  # fmt: skip
    writer.add_token_merges(
        [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    )
    for add, token in ((writer.add_bos_token_id, tokenizer.bos_token_id),
                       (writer.add_eos_token_id, tokenizer.eos_token_id),
                       (writer.add_pad_token_id, tokenizer.pad_token_id)):  # fmt: skip
        if token is not None:
            add(token)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(
        tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    )
    writer.add_add_eos_token(
        tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id
    )
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
