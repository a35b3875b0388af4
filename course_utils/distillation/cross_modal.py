"""Other senses for a language model that stays as it is: pictures, or sounds, in the places of its
digits.

A prompt holds digits, each one token. Its embeddings are looked up, those of the digits are
replaced by what a small network makes of pictures, and the model reads on (as in Frozen,
Tsimpoukelli et al., 2021, and LLaVA, Liu et al., 2023):

    inputs = E[tokens], inputs[places] = projector(pictures)

The projector is taught by the embeddings themselves (`to_embeddings`) or by what the model says
next (`through_model`).
Any causal language model of Hugging Face whose tokenizer gives each digit a token of its own will
do.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError

from . import digits, losses
from .fit import fit

TEMPLATE = "Problem: {a} + {b}\nSolution:"  # the bundled model was trained on sums in this form
NEW_TOKENS = 44  # of an answer; a worked sum of the bundled model has at most 41

See = Callable[[Tensor], Tensor]  # inputs (n, …) → embeddings (n, d)


def digit_tokens(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The ids (10,) of the digits 0 … 9 inside a number.

    Raises CompressionError where a digit is not one token.
    """
    found = []
    for digit in range(10):
        number = f"{digit}{digit}"
        ids = tokenizer.encode(number, add_special_tokens=False)
        if (
            len(ids) < 2
            or ids[-1] != ids[-2]
            or str(tokenizer.decode([ids[-1]])).strip() != str(digit)
        ):
            raise CompressionError(
                f"tokenizer: {number!r} becomes {tokenizer.convert_ids_to_tokens(ids)}. "
                "A picture can only stand for a digit that is one token of its own; choose a model "
                "that splits numbers into digits (the bundled one, Llama 2, Qwen 2.5, Gemma)."
            )
        found.append(ids[-1])
    return torch.tensor(found)


def digit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """(10, d): what the model reads for the digits 0 … 9."""
    with torch.no_grad():
        return looked_up(model, digit_tokens(tokenizer)).float().cpu()


def looked_up(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The embeddings of token ids, on the model's device and scaled as the model does where it does
    so in its table.
    """
    embedding: nn.Module = model.get_input_embeddings()
    return embedding(ids.to(model.device))


@dataclass(frozen=True)
class Prompts:
    """Token ids (n, L), and the places (k,) of the digits, the same in each row."""

    ids: Tensor
    places: Tensor


def prompts(tokenizer: PreTrainedTokenizerBase, shown: Tensor, template: str = TEMPLATE) -> Prompts:
    """Sums of two numbers from rows of digits `shown` (n, 4): [3, 7, 4, 5] asks for 37 + 45.

    Raises CompressionError for other shapes, values that are no digits, and a template whose digits
    cannot be found.
    """
    if (
        shown.ndim != 2
        or shown.shape[1] % 2
        or not len(shown)
        or shown.min() < 0
        or shown.max() > 9
    ):
        raise CompressionError(
            f"shown: shape {tuple(shown.shape)}; give rows of an even number of digits 0 "
            "… 9, at least one row."
        )
    half, known = shown.shape[1] // 2, set(digit_tokens(tokenizer).tolist())
    texts = []
    for row in shown.tolist():
        a, b = ("".join(map(str, part)) for part in (row[:half], row[half:]))
        texts.append(template.format(a=a, b=b))
    ids = [tokenizer(text)["input_ids"] for text in texts]
    places = [[i for i, token in enumerate(row) if token in known] for row in ids]
    if (
        any(len(p) != shown.shape[1] for p in places)
        or len({len(row) for row in ids}) > 1
        or any(p != places[0] for p in places)
    ):
        raise CompressionError(
            f"template={template!r}: its only digits must be those of {{a}} "
            "and {b}, each one token."
        )
    return Prompts(torch.tensor(ids), torch.tensor(places[0]))


def insert(model: PreTrainedModel, asked: Prompts, vectors: Tensor) -> Tensor:
    """Inputs (n, L, d): the embeddings of the prompts, with `vectors` (n, k, d) at the places of
    the digits.
    """
    if vectors.shape[:2] != (len(asked.ids), len(asked.places)):
        raise CompressionError(
            f"vectors: shape {tuple(vectors.shape)}; give one for each of {len(asked.places)} "
            f"places of {len(asked.ids)} prompts."
        )
    inputs = looked_up(model, asked.ids)
    inputs = inputs.clone()
    inputs[:, asked.places.to(model.device)] = vectors.to(inputs)
    return inputs


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Prompts,
    vectors: Tensor | None = None,
    *,
    new_tokens: int = NEW_TOKENS,
) -> list[str]:
    """The greedy continuation of each prompt up to the line's end, read as text or (with `vectors`)
    as pictures.
    """
    inputs = looked_up(model, asked.ids) if vectors is None else insert(model, asked, vectors)
    mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    generate: Callable[..., Tensor] = model.generate  # type: ignore[assignment]
    written = generate(
        inputs_embeds=inputs,
        attention_mask=mask,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=pad,
    )
    return [
        str(tokenizer.decode(row, skip_special_tokens=True)).strip().split("\n")[0]
        for row in written
    ]


def last_number(text: str) -> int | None:
    """The last whole number of a text, or None."""
    found = re.findall(r"\d+", text)
    return int(found[-1]) if found else None


def sums(shown: Tensor) -> list[int]:
    """What rows of digits (n, 4) add up to: [3, 7, 4, 5] is 37 + 45 = 82."""
    half = shown.shape[1] // 2
    weights = 10 ** torch.arange(half - 1, -1, -1)
    return ((shown[:, :half] + shown[:, half:]) * weights).sum(1).tolist()


def into_sums(names: Tensor, count: int) -> Tensor:
    """(4 · count,): row numbers of `names` (n,), four for each sum of two numbers.

    Each is taken once, and no number begins with 0.
    """
    first, rest = (
        (names > 0).nonzero().flatten()[: 2 * count],
        torch.ones(len(names), dtype=torch.bool),
    )
    rest[first] = False
    second = rest.nonzero().flatten()
    # zeros are not all in front
    second = second[torch.randperm(len(second), generator=torch.Generator().manual_seed(0))][
        : 2 * count
    ]
    if count < 1 or len(first) < 2 * count or len(second) < 2 * count:
        raise CompressionError(
            f"count={count}: {len(names)} digits are not enough for so many sums of four; "
            "ask for at least one, and fewer."
        )
    tens, ones = first.view(count, 2), second.view(count, 2)
    return torch.stack([tens[:, 0], ones[:, 0], tens[:, 1], ones[:, 1]], 1).flatten()


def right_sums(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    see: See | None,
    inputs: Tensor,
    names: Tensor,
    template: str = TEMPLATE,
) -> Tensor:
    """(n,) of 0 and 1: was the sum right?

    `inputs` (4 n, …), taken four by four, are pictures of the digits `names` (4 n,).

    Each input is used once. A first digit of 0 is taken as it comes. `see` None reads the digits as
    text: what the model itself can do.
    The model's own prompt text holds the digit 0 in every place, so that nothing of the names can
    leak into what it reads.
    """
    n = len(names) // 4
    if not n or len(inputs) != len(names):
        raise CompressionError(
            f"inputs: {len(inputs)} with {len(names)} names; give as many of both, at least four."
        )
    shown = names[: 4 * n].view(n, 4)
    if see is None:
        said = answers(model, tokenizer, prompts(tokenizer, shown, template))
    else:
        with torch.no_grad():
            vectors = see(inputs[: 4 * n]).view(n, 4, -1)
        said = answers(
            model, tokenizer, prompts(tokenizer, torch.zeros_like(shown), template), vectors
        )
    return torch.tensor(
        [float(last_number(text) == total) for text, total in zip(said, sums(shown), strict=True)]
    )


def nearest(vectors: Tensor, embeddings: Tensor) -> Tensor:
    """(n,): the digit whose embedding is nearest to each vector, without asking the model."""
    return torch.cdist(vectors, embeddings).argmin(-1)


class Mix(nn.Module):
    """softmax(network(x)) @ embeddings: a vector between the ten that the model knows, wherever
    training leads.
    """

    def __init__(self, network: nn.Module, embeddings: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("embeddings", embeddings)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).softmax(-1) @ self.embeddings


def to_embeddings(
    embeddings: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    hidden: int = 128,
    steps: int = 600,
    batch: int = 64,
    peak: float = 3e-3,
    seed: int = 0,
) -> nn.Module:
    """A projector x → d, trained by ‖projector(x) − embeddings[y]‖² alone.

    The language model is not run.
    """
    if len(x) != len(y) or not len(x):
        raise CompressionError(
            f"x, y: {len(x)} pictures and {len(y)} digits; give as many of both, at least one."
        )
    projector = digits.network(x.shape[1], hidden, embeddings.shape[1], seed=seed)

    def step(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        return {
            "distance": (projector(x[rows]) - embeddings[y[rows]]).square().sum(-1).mean()
        }, float(len(rows))

    fit(
        projector,
        step,
        len(x),
        steps=steps,
        batch=min(batch, len(x)),
        peak=peak,
        seed=seed,
        every=steps,
        progress=False,
    )
    return projector.eval()


def through_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, projector: nn.Module, x: Tensor,
    y: Tensor, *, steps: int = 60, batch: int = 8, peak: float = 1e-2, seed: int = 0,
    template: str = TEMPLATE, teacher: PreTrainedModel | None = None,
) -> nn.Module:  # fmt: skip
    """Train `projector` in place by KL(p(· | text) ‖ p(· | pictures)) of the frozen model, over the
    answer that it writes for the text.

    The teacher reads the sum as text, the student the same sum in pictures; `y` only chooses which
    pictures go with which text. No loss names a digit or an embedding. The model's weights are not
    changed, unless there is a `teacher`, another model that reads the texts in its place: then
    `model` is trained along, in place, at the same rate.
    """
    n = len(y) // 4
    if not n or len(x) != len(y):
        raise CompressionError(
            f"x, y: {len(x)} pictures and {len(y)} digits; give as many of both, at least four."
        )
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[: 4 * n].view(
        n, 4
    )
    asked = prompts(tokenizer, y[order], template)
    told = [
        tokenizer.encode(" " + text, add_special_tokens=False)
        for text in answers(teacher or model, tokenizer, asked)
    ]
    length, filler = max(map(len, told)), asked.ids[0, -1].item()
    tail = torch.tensor([row + [filler] * (length - len(row)) for row in told])
    counted = torch.arange(length + 1) <= torch.tensor([[len(row)] for row in told])
    ids, start = torch.cat([asked.ids, tail], 1), asked.ids.shape[1] - 1
    frozen = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(teacher is not None)
    learner = projector if teacher is None else nn.ModuleList([projector, model])

    def step(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        whole = Prompts(ids[rows], asked.places)
        with torch.no_grad():
            reader = teacher or model
            said = reader(input_ids=whole.ids.to(reader.device)).logits[:, start:]
        vectors = projector(x[order[rows].flatten()]).view(len(rows), 4, -1)
        student = model(inputs_embeds=insert(model, whole, vectors)).logits[:, start:]
        said = said.to(student.device)
        return {"kl": losses.kl(student, said, mask=counted[rows].to(student.device))}, float(
            len(rows)
        )

    try:
        fit(
            learner,
            step,
            n,
            steps=steps,
            batch=min(batch, n),
            peak=peak,
            seed=seed,
            every=steps,
            progress=False,
        )
    finally:
        for parameter, wanted in zip(model.parameters(), frozen, strict=True):
            parameter.requires_grad_(wanted)
    return projector.eval()


def share(right: Sequence[float] | Tensor) -> tuple[float, float, float]:
    """(share, low, high) of zeros and ones: Wilson's interval."""
    from course_utils.theory.intervals import wilson

    values = torch.as_tensor(right, dtype=torch.float64)
    low, high = wilson(int(values.sum()), len(values))
    return float(values.mean()), low, high
