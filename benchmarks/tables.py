"""What the benchmarks that make a lesson's table share: 64 windows of 128 tokens of the validation split, on one thread."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils import evaluation
from course_utils.models import load

WINDOWS, CONTEXT = 64, 128
PROTOCOL = f"bundled model; {WINDOWS} windows of {CONTEXT} validation tokens"


def bundled() -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Callable[[PreTrainedModel], Tensor]]:
    """The bundled model, its tokenizer, and divergences(subject): KL(model ‖ subject) in nats for each window, (64,)."""
    torch.set_num_threads(1)
    model, tokenizer = load("bundled")
    ids = evaluation.text.windows(tokenizer, "bundled", split="validation", n=WINDOWS, context=CONTEXT, seed=0).ids
    goal = evaluation.predictions(model, ids)
    return model, tokenizer, lambda subject: evaluation.kl_by_window(goal, subject, ids)
