"""The classic picture on real data: the 8 × 8 handwritten digits that scikit-learn has (1,797
images; digits.md), no download.

A teacher that knows a 3 also knows that it looks a little like an 8 or a 5. Labels do not say so;
its softened answers do (Hinton et al., 2015, "dark knowledge").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError

from . import losses
from .fit import fit

FILE = Path(__file__).with_name("digits.npz")


@dataclass(frozen=True)
class Digits:
    """Images (n, 64) scaled to 0 … 1 and their digits (n,)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load(seed: int = 0, test: int = 500) -> Digits:
    """The images, shuffled by `seed` and divided."""
    with np.load(FILE, allow_pickle=False) as stored:
        x, y = stored["x"], stored["y"]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    images, digits = (
        torch.tensor(x, dtype=torch.float32)[order] / 16,
        torch.tensor(y, dtype=torch.long)[order],
    )
    return Digits(images[test:], digits[test:], images[:test], digits[:test])


def network(*widths: int, seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    """A perceptron with ReLU between layers of these widths, such as network(64, 16, 10)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*layers[:-2])


def train(
    model: nn.Module, x: Tensor, y: Tensor, teacher: nn.Module | None = None, *,
    temperature: float = 4.0, alpha: float = 0.1, steps: int = 400, batch: int = 64,
    peak: float = 1e-2, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """Train `model` in place, on labels alone or by `losses.response` from a teacher; returns it in
    evaluation mode.
    """
    if len(x) == 0 or len(x) != len(y):
        raise CompressionError(
            f"data: {len(x)} images and {len(y)} labels; give as many of both, at least one."
        )
    answers = answer(teacher, x) if teacher is not None else None

    def step(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        logits = model(x[rows])
        if answers is None:
            return {"labels": losses.cross_entropy(logits, y[rows])}, float(len(rows))
        return {
            "response": losses.response(logits, answers[rows], y[rows], temperature, alpha)
        }, float(len(rows))

    model.train()
    fit(
        model,
        step,
        len(x),
        steps=steps,
        batch=min(batch, len(x)),
        peak=peak,
        seed=seed,
        every=steps,
        progress=False,
    )
    return model.eval()


@torch.no_grad()
def answer(model: nn.Module, x: Tensor) -> Tensor:
    """Logits in evaluation mode."""
    was_training = model.training
    logits = model.eval()(x)
    model.train(was_training)
    return logits


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images (n, 64) that `model` names as `y` (n,) does."""
    return float((answer(model, x).argmax(-1) == y).float().mean())


def dark_knowledge(model: nn.Module, x: Tensor, y: Tensor, temperature: float = 4.0) -> Tensor:
    """(10, 10): row i is the mean softened answer to images of digit i, without i itself and scaled
    to sum to 1.
    """
    p = (answer(model, x) / temperature).softmax(-1)
    rows = torch.stack([p[y == digit].mean(0) for digit in range(10)])
    rows.fill_diagonal_(0)
    return rows / rows.sum(-1, keepdim=True)


def big(data: Digits, seed: int = 0) -> nn.Module:
    """The teacher: 64-256-256-10 with dropout, trained on all training images."""
    return train(
        network(64, 256, 256, 10, seed=seed, dropout=0.3),
        data.train_x,
        data.train_y,
        steps=500,
        peak=3e-3,
        seed=seed,
    )


def experiment(
    *, seeds: Sequence[int] = range(5), hidden: int = 12, examples: int = 100,
    temperature: float = 4.0, alpha: float = 0.1, steps: int = 400,
) -> list[dict[str, float]]:  # fmt: skip
    """Test accuracy by seed of the teacher and of a small student trained on `examples` images,
    with and without it.

    Both students start from the same weights and see the same images in the same order, equally
    often. The teacher saw all training images: what it says about these few carries the rest.
    """
    rows = []
    for seed in seeds:
        data = load(seed)
        teacher = big(data, seed)
        x, y = data.train_x[:examples], data.train_y[:examples]
        row = {"seed": float(seed), "teacher": accuracy(teacher, data.test_x, data.test_y)}
        for name, guide in (("labels", None), ("distilled", teacher)):
            student = network(64, hidden, 10, seed=seed)
            train(
                student, x, y, guide, temperature=temperature, alpha=alpha, steps=steps, seed=seed
            )
            row[name] = accuracy(student, data.test_x, data.test_y)
        rows.append(row)
    return rows


def without(
    digit: int = 3, *, seed: int = 0, hidden: int = 32, temperature: float = 8.0, steps: int = 600
) -> dict[str, float]:
    """Accuracy on images of a digit that the student never saw, taught by labels or by the
    teacher's answers.

    After Hinton et al. (2015, section 3): the other digits' answers say what a 3 is like. As there,
    the student's bias for the missing digit may then be corrected: it is raised until the digit is
    predicted as often as it occurs in the training images.
    """
    data = load(seed)
    teacher = big(data, seed)
    seen = data.train_y != digit
    missing = data.test_y == digit
    found = {"teacher": accuracy(teacher, data.test_x[missing], data.test_y[missing])}
    for name, guide in (("labels", None), ("distilled", teacher)):
        student = network(64, hidden, 10, seed=seed)
        train(
            student,
            data.train_x[seen],
            data.train_y[seen],
            guide,
            temperature=temperature,
            alpha=0.0,
            steps=steps,
            seed=seed,
        )
        found[name] = accuracy(student, data.test_x[missing], data.test_y[missing])
        logits, share = answer(student, data.train_x), float((~seen).float().mean())
        others = logits.clone()
        others[:, digit] = -torch.inf
        needed = (others.amax(-1) - logits[:, digit]).quantile(share)
        last: Any = student[-1]
        with torch.no_grad():
            last.bias[digit] += needed
        found[f"{name}, bias corrected"] = accuracy(
            student, data.test_x[missing], data.test_y[missing]
        )
    return found
