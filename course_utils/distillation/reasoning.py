"""A serial world: an answer that hangs on every digit, with its steps or without, and students that
learn either.

A prompt is a field of `WIDTH` places, filled from the left, and "=". State after digit d: s ← (a s
+ b d + c) mod 10, from s = 0; the plain world (1, 1, 0) is the running sum. A chain lists the
states, an answer is the last one:

    3 1 4 8 _ _ _ _ _ _ =  3 4 8 6 : 6 .        with its chain
    3 1 4 8 _ _ _ _ _ _ =  : 6 .                answer only

Places are fixed so that the digit that a step needs always stands WIDTH places back. (With fields
as long as the number of digits, which place that is depends on the number, and the same student had
not found it for 6 and 8 digits after 500,000 tokens.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from course_utils.errors import CompressionError

from . import on_policy, trainer
from .fit import batch_rows

WIDTH = 10
EQUALS, MARK, END, BLANK, PAD = 10, 11, 12, 13, 14
SYMBOLS = "0123456789=:._ "
BATCH, PEAK = 32, 4e-3
FORMS = ("chain", "answer", "noise", "shuffled")


@dataclass(frozen=True)
class World:
    """The rule s ← (previous · s + digit · d + shift) mod 10.

    Every state is reachable where `previous` is 1, 3, 7 or 9.
    """

    previous: int = 1
    digit: int = 1
    shift: int = 0

    def step(self, state: int, digit: int) -> int:
        """The state after one more digit."""
        return (self.previous * state + self.digit * digit + self.shift) % 10

    def chain(self, digits: Sequence[int]) -> list[int]:
        """The states after each digit; the last one is the answer."""
        found, state = [], 0
        for digit in digits:
            state = self.step(state, int(digit))
            found.append(state)
        return found


SUMS = World()


@dataclass(frozen=True)
class Rows:
    """Training rows: `ids` (n, W) padded at the right with PAD, `labels` (n, W) with
    trainer.IGNORED where nothing is scored.
    """

    ids: Tensor
    labels: Tensor

    @property
    def mask(self) -> Tensor:
        """(n, W), True at real tokens."""
        return self.ids != PAD

    @property
    def tokens(self) -> int:
        """Real tokens of all rows, prompts included, padding not."""
        return int(self.mask.sum())

    def __len__(self) -> int:
        return len(self.ids)


def draw(n: int, lengths: Sequence[int] = (4, 6, 8, 10), *, seed: int = 0) -> list[list[int]]:
    """`n` lists of random digits, as many of each length as of the others (± 1), in mixed order.

    Raises CompressionError for lengths that are not 1 … WIDTH.
    """
    if n < 1 or not lengths or any(not 1 <= k <= WIDTH for k in lengths):
        raise CompressionError(
            f"n={n}, lengths={list(lengths)}: ask for at least one list, of 1 … {WIDTH} digits."
        )
    rng = torch.Generator().manual_seed(seed)
    sizes = [lengths[i % len(lengths)] for i in torch.randperm(n, generator=rng).tolist()]
    return [torch.randint(10, (k,), generator=rng).tolist() for k in sizes]


def prompt(digits: Sequence[int]) -> list[int]:
    """The ids of a field with these digits, and "=": always WIDTH + 1 of them."""
    if not 1 <= len(digits) <= WIDTH or any(not 0 <= d <= 9 for d in digits):
        raise CompressionError(f"digits={list(digits)}: 1 … {WIDTH} whole numbers from 0 to 9.")
    return [int(d) for d in digits] + [BLANK] * (WIDTH - len(digits)) + [EQUALS]


def example(
    digits: Sequence[int], steps: Sequence[int], answer: int
) -> tuple[list[int], list[int]]:
    """(ids, labels) of prompt, steps, ":", answer, "."; the prompt's labels are IGNORED. No steps:
    the answer only.
    """
    head, tail = prompt(digits), [*(int(s) for s in steps), MARK, int(answer), END]
    return head + tail, [trainer.IGNORED] * len(head) + tail


def pad(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Rows:
    """Rows of (ids, labels) of unlike lengths.

    Raises CompressionError where there are none, or where the two differ in length.
    """
    if not pairs:
        raise CompressionError("pairs: empty; give at least one row.")
    if uneven := [i for i, (ids, labels) in enumerate(pairs) if len(ids) != len(labels)]:
        raise CompressionError(f"pairs: ids and labels of row {uneven[0]} differ in length.")
    width = max(len(ids) for ids, _ in pairs)
    whole = torch.full((2, len(pairs), width), PAD)
    whole[1] = trainer.IGNORED
    for i, pair in enumerate(pairs):
        for both, one in zip(whole, pair, strict=True):
            both[i, : len(one)] = torch.as_tensor(one)
    return Rows(whole[0], whole[1])


def build(
    prompts: Sequence[Sequence[int]], form: str = "chain", *, world: World = SUMS, seed: int = 0
) -> Rows:
    """Rows with right answers. form: "chain"; "answer", without steps; and controls with as many
    tokens as the chain: "noise", random digits for steps, and "shuffled", the chain's own steps in
    random order.
    """
    if form not in FORMS:
        raise CompressionError(f"form={form!r}: choose from {', '.join(FORMS)}.")
    rng = torch.Generator().manual_seed(seed)
    pairs = []
    for digits in prompts:
        chain = world.chain(digits)
        steps = {
            "chain": lambda chain: chain,
            "answer": lambda chain: [],
            "noise": lambda chain: torch.randint(10, (len(chain),), generator=rng).tolist(),
            "shuffled": lambda chain: [
                chain[i] for i in torch.randperm(len(chain), generator=rng).tolist()
            ],
        }[form](chain)
        pairs.append(example(digits, steps, chain[-1]))
    return pad(pairs)


def text(ids: Sequence[int]) -> str:
    """Ids as one reads them, such as "3148______=3486:6."; padding is left out."""
    return "".join(SYMBOLS[int(i)] for i in ids if int(i) != PAD)


def student(
    seed: int = 0, *, hidden: int = 48, mlp: int = 128, layers: int = 2, heads: int = 4
) -> LlamaForCausalLM:
    """An untrained Llama of 56,256 parameters (by default) for this world's 15 ids."""
    config = LlamaConfig(
        vocab_size=len(SYMBOLS), hidden_size=hidden, intermediate_size=mlp,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.15,
        pad_token_id=PAD, bos_token_id=None, eos_token_id=END,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def spent(rows: Rows, *, batch: int = BATCH, seed: int = 0) -> Iterator[int]:
    """Real tokens that training has read after 1, 2, … steps; without end."""
    lengths, total, step = rows.mask.sum(1), 0, 0
    while True:
        total += int(lengths[batch_rows(step, len(rows), batch, seed)].sum())
        step += 1
        yield total


def steps_within(rows: Rows, tokens: int, *, batch: int = BATCH, seed: int = 0) -> int:
    """The most steps that read at most `tokens` real tokens.

    Raises CompressionError where one step already reads more.
    """
    steps = sum(
        1 for _ in takewhile(lambda total: total <= tokens, spent(rows, batch=batch, seed=seed))
    )
    if not steps:
        raise CompressionError(
            f"tokens={tokens}: the first step of {batch} rows reads more; "
            "give more tokens or a smaller batch."
        )
    return steps


def train(
    model: PreTrainedModel, rows: Rows, *, tokens: int, batch: int = BATCH, peak: float = PEAK,
    seed: int = 0, folder: str | Path | None = None, progress: bool = False, **settings: Any,
) -> trainer.Result:  # fmt: skip
    """A copy of `model` that has read at most `tokens` real tokens of `rows`: as many steps as fit,
    so short rows get more of them.

    The mean cross-entropy over scored positions; `trainer.train` does it, and takes the other
    settings (`loss` and a teacher are not among them). With a `folder`, the same call continues
    after an interruption, from the last of its checkpoints (`every` steps).
    The result's settings say the tokens that were read, without padding. Raises CompressionError as
    that does, and `steps_within`.
    """
    steps = steps_within(rows, tokens, batch=batch, seed=seed)
    result = trainer.train(
        model, None, rows.ids, steps=steps, loss="labels", labels=rows.labels, mask=rows.mask,
        batch=batch, peak=peak, seed=seed, folder=folder, progress=progress, **settings,
    )  # fmt: skip
    result.settings["tokens"] = next(
        islice(spent(rows, batch=batch, seed=seed), result.step - 1, None)
    )
    return result


@torch.no_grad()
def write(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    batch: int = 512,
) -> Tensor:
    """(n, WIDTH + 4) ids that the model writes after each prompt, up to "." or as long as a chain
    may be; PAD after its end.

    temperature 0: always the likeliest token; else drawn from softmax(logits / temperature),
    another draw for another seed.
    Raises CompressionError as `on_policy.sample` does, such as for a temperature below 0.
    """
    ids, found = torch.tensor([prompt(digits) for digits in prompts], device=model.device), []
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for part in ids.split(batch):
            out = on_policy.sample(model, part, tokens=WIDTH + 4, temperature=temperature, end=END)
            new = torch.where(out.real, out.ids, PAD)[:, part.shape[1] :]
            found.append(torch.nn.functional.pad(new, (0, WIDTH + 4 - new.shape[1]), value=PAD))
    return torch.cat(found).cpu()


def answer_of(written: Sequence[int]) -> int | None:
    """The digit between ":" and the first ".": the answer.

    None where there is no end, or something else before it.
    """
    ids = [int(i) for i in written]
    if END not in ids:
        return None
    whole = ids[: ids.index(END)]
    return whole[-1] if len(whole) >= 2 and whole[-2] == MARK and 0 <= whole[-1] <= 9 else None


def right(written: Tensor, prompts: Sequence[Sequence[int]], world: World = SUMS) -> Tensor:
    """(n,) 1.0 where the answer that was written (n, T) is the world's, else 0.0; steps are not
    looked at.
    """
    return torch.tensor(
        [
            float(answer_of(row) == world.chain(digits)[-1])
            for row, digits in zip(written.tolist(), prompts, strict=True)
        ]
    )


def accuracy(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], world: World = SUMS
) -> float:
    """The share of prompts that the model answers rightly, writing greedily. By chance: 0.1."""
    return float(right(write(model, prompts), prompts, world).mean())
