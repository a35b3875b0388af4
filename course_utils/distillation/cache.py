"""The teacher's answers on disk: it reads the data once, however often students are trained on it.

Per predicted token: the k largest log-probabilities (float16), their tokens (int16, int32 for
vocabularies above 32,768), and the log of what is left at the cache's temperature (float16). That
is 4 k + 2 bytes against 2 V for the full float16 logits.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.checkpointing import read_notes, write_tensors

from . import losses

FILE = "teacher.safetensors"


class TopK(NamedTuple):
    """values (..., k): log P_T; indices (..., k); rest (...): log Σ exp(log P_T / τ) over the other
    tokens.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor


@dataclass(frozen=True)
class TeacherCache:
    """`description` says of which data and teacher; `bytes` is the size of the file."""

    answers: TopK
    temperature: float
    vocabulary: int
    description: dict[str, Any]
    bytes: int

    def rows(self, rows: Tensor, device: torch.device | str = "cpu") -> TopK:
        """The answers for some rows of the data."""
        values, indices, rest = (part[rows].to(device) for part in self.answers)
        return TopK(values.float(), indices.long(), rest.float())

    def check(self, data: Tensor, student: PreTrainedModel) -> None:
        """Raises CompressionError unless the cache was made from these token ids, for the student's
        vocabulary.
        """
        if self.description["data"] != fingerprint(data):
            raise CompressionError(
                "teacher: this cache was made from other data; write it again for these token ids."
            )
        size = vocabulary_of("student", student)
        if size != self.vocabulary:
            raise CompressionError(
                f"teacher: the cache has a vocabulary of {self.vocabulary}, the student of {size}."
            )


def vocabulary_of(role: str, model: PreTrainedModel) -> int:
    """The width of a model's logits. Raises CompressionError for what has no output head."""
    found = getattr(model, "get_output_embeddings", lambda: None)()
    if found is None:
        raise CompressionError(
            f"{role}: expected a causal language model with its head, got {type(model).__name__}; "
            "of a Compressed give its .model."
        )
    return found.weight.shape[0]


def check_ids(name: str, ids: Tensor, model: PreTrainedModel, role: str = "student") -> None:
    """Raises CompressionError unless `ids` (n, context) are token ids that the model can read and
    predict.
    """
    if (
        not isinstance(ids, Tensor)
        or ids.dim() != 2
        or len(ids) == 0
        or ids.shape[1] < 2
        or ids.is_floating_point()
    ):
        raise CompressionError(
            f"{name}: expected token ids of shape (n, context), at least one row of two tokens."
        )
    size = vocabulary_of(role, model)
    if ids.min() < 0 or ids.max() >= size:
        raise CompressionError(
            f"{name}: holds token ids outside 0 … {size - 1}; tokenize with the {role}'s tokenizer."
        )
    walk.check_context(name, ids.shape[1], model)


def fingerprint(tensor: Tensor | None) -> str | None:
    """A hash of a tensor's shape and integers, whatever their width; None for None."""
    if tensor is None:
        return None
    content = tensor.detach().cpu().long().contiguous().numpy().tobytes()
    return hashlib.sha256(json.dumps(list(tensor.shape)).encode() + content).hexdigest()[:16]


def keep_top(logits: Tensor, k: int, temperature: float) -> TopK:
    """The k largest of logits (..., V)."""
    log_p = logits.float().log_softmax(-1)
    values, indices = log_p.topk(k, dim=-1)
    rest = (log_p / temperature).scatter(-1, indices, -torch.inf).logsumexp(-1)
    return TopK(values, indices, rest)


@torch.no_grad()
def write(
    teacher: PreTrainedModel, data: Tensor, folder: str | Path, *, k: int = 32,
    temperature: float = 2.0, batch: int = 16,
    progress: bool = True,
) -> TeacherCache:  # fmt: skip
    """Let the teacher read `data` (n, context) once and keep its k best tokens at each place but
    the last.

    Raises CompressionError for empty data, a k outside 1 … V, or an answer that is not finite.
    """
    size = vocabulary_of("teacher", teacher)
    check_ids("data", data, teacher, "teacher")
    if not isinstance(k, int) or not 1 <= k <= size:
        raise CompressionError(f"k={k}: choose a whole number from 1 to {size}, the vocabulary.")
    if not 0 < temperature < float("inf"):
        raise CompressionError(f"temperature={temperature}: choose a positive number.")
    was_training, parts = teacher.training, []
    teacher.eval()
    try:
        for ids in tqdm(data.split(batch), desc="asking the teacher", disable=not progress):
            logits = teacher(input_ids=ids.long().to(teacher.device), use_cache=False).logits[
                :, :-1
            ]
            if not torch.isfinite(logits).all():
                raise CompressionError(
                    "teacher: its logits hold NaN or infinity; if it is in float16, "
                    "load it in bfloat16 or float32."
                )
            values, indices, rest = (part.cpu() for part in keep_top(logits, k, temperature))
            parts.append(
                (
                    values.half(),
                    indices.to(torch.int16 if size <= 2**15 else torch.int32),
                    rest.half(),
                )
            )
    finally:
        teacher.train(was_training)
    values, indices, rest = (torch.cat(part) for part in zip(*parts, strict=True))
    description = {"data": fingerprint(data), "teacher": str(teacher.name_or_path), "k": k}
    notes = {
        "temperature": str(temperature),
        "vocabulary": str(size),
        "description": json.dumps(description),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_tensors(Path(folder) / FILE, {"values": values, "indices": indices, "rest": rest}, notes)
    return read(folder)


def read(folder: str | Path) -> TeacherCache:
    """The cache of a folder. Raises CompressionError if it is missing or damaged."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise CompressionError(f"{folder}: holds no {FILE}; write the cache first.")
    notes = read_notes(path)
    tensors = load_file(path)
    try:
        answers = TopK(tensors["values"], tensors["indices"], tensors["rest"])
        return TeacherCache(
            answers, float(notes["temperature"]), int(notes["vocabulary"]),
            json.loads(notes["description"]),
            path.stat().st_size,
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        raise CompressionError(
            f"{path}: not a teacher's cache ({error}); write it again."
        ) from error


def effect_of_k(
    student_logits: Tensor,
    teacher_logits: Tensor,
    ks: tuple[int, ...] = (1, 4, 16, 64, 256),
    temperature: float = 2.0,
) -> list[dict[str, float]]:
    """What keeping only k costs, for logits (..., V): a row for each k.

    bytes a token; mass, the mean of what the k tokens hold of P_T(τ); for each treatment of the
    tail its divergence in nats, and the cosine between its gradient in the student's logits and
    that of the full divergence.
    """
    student = student_logits.detach().float().requires_grad_()
    full = losses.kl(student, teacher_logits, temperature)
    (wanted,) = torch.autograd.grad(full, student)
    rows = []
    for k in ks:
        kept = keep_top(teacher_logits.detach(), k, temperature)
        values, indices, rest = kept.values.half().float(), kept.indices, kept.rest.half().float()
        total = torch.logaddexp((values / temperature).logsumexp(-1), rest)
        row = {
            "k": k,
            "bytes": 4 * k + 2,
            "mass": float((1 - (rest - total).exp()).mean()),
            "full": float(full.detach()),
        }
        for tail in ("bucket", "renormalize"):
            far = losses.top_k(student, TopK(values, indices, rest), temperature, tail=tail)
            (got,) = torch.autograd.grad(far, student)
            row[tail] = float(far.detach())
            row[f"{tail} cosine"] = float(
                torch.cosine_similarity(got.flatten(), wanted.flatten(), dim=0)
            )
        rows.append(row)
    return rows
