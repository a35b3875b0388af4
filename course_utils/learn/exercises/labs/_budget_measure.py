"""Lab 5.2: sensitivities of a model that can only be run."""

import math

import torch
from torch import Tensor

from ..draws import turn


class Rounded:
    """run(bits, text): log-probabilities (windows, tokens, vocabulary) with the layers in `bits`
    rounded, all others as they are.
    """

    def __init__(
        self, layers: dict[str, list[int]], shape: tuple[int, int, int], seed: int
    ) -> None:
        self.layers, self.numbers = layers, {name: i for i, name in enumerate(layers)}
        rng = torch.Generator().manual_seed(seed)
        self.logits = {
            text: 2 * torch.randn(shape, generator=rng, dtype=torch.float64)
            for text in ("calibration", "test")
        }
        self.noise = {
            text: torch.randn(shape, generator=rng, dtype=torch.float64) for text in self.logits
        }

    def __repr__(self) -> str:  # in a message: the same in every process
        return "run(bits, text)"

    def __call__(self, bits: dict[str, int], text: str = "calibration") -> Tensor:
        logits, noise = self.logits[text], self.noise[text]
        for name, width in bits.items():
            number = self.numbers[name]
            if int(width) not in self.layers[name]:
                raise ValueError(f"{name} has no option of {width} bits")
            logits = logits + (2 + number % 3) / (2 + int(width)) * math.cos(
                1 + number
            ) * noise.flatten().roll(7 * number).view_as(noise)
        return logits.log_softmax(-1)


def measure_inputs(rng: torch.Generator) -> dict:
    """Few windows and many layers, many windows and few layers, one layer with many options."""
    layers, shape = turn(
        rng,
        ({"a": [2, 3, 4], "b": [2, 4], "c": [3]}, (3, 5, 7)),
        ({f"layer {i}": [2 + i % 3] for i in range(133)}, (2, 3, 4)),
        ({"a": [2, 3], "b": [3, 4]}, (131, 3, 5)),
        ({"a": list(range(1, 134)), "b": [2]}, (2, 4, 3)),
        ({"a": [2, 3], "b": [3, 4]}, (2, 131, 5)),
        ({"a": [4], "b": [2, 3, 4]}, (5, 2, 133)),
    )
    seed = int(torch.randint(2**30, (), generator=rng))
    errors = {
        name: {b: float(torch.rand((), generator=rng)) * 4.0**-b for b in options}
        for name, options in layers.items()
    }
    labels = torch.randint(shape[2], shape[:2], generator=rng)
    return {"run": Rounded(layers, shape, seed), "next_tokens": labels, "errors": errors}


def measure(run, next_tokens: Tensor, errors: dict) -> dict:
    """{layer: {bits: KL}}: for each layer and each of its options the mean over all tokens of Σ p
    (ln p − ln q), one layer rounded at a time.
    """
    p = run({}, "calibration")
    return {
        name: {b: divergence(p, run({name: b}, "calibration")) for b in options}
        for name, options in errors.items()
    }


def divergence(p: Tensor, q: Tensor) -> float:
    return float((p.exp() * (p - q)).sum(-1).mean())


def measure_with(
    how=lambda p, q, labels: divergence(p, q), text="calibration", others=lambda name, b, errors: {}
):
    def answer(run, next_tokens, errors):
        p = run({}, text)
        return {
            n: {
                b: float(how(p, run({**others(n, b, errors), n: b}, text), next_tokens))
                for b in options
            }
            for n, options in errors.items()
        }

    return answer


def as_sharp(name, bits, errors):
    """All other layers rounded, each to the option that is nearest."""
    return {n: min(options, key=lambda o: abs(o - bits)) for n, options in errors.items()}


def narrow_before(name, bits, errors):
    """The layers before it are still rounded."""
    names = list(errors)
    return {n: max(errors[n]) for n in names[: names.index(name)]}


def more_loss(p: Tensor, q: Tensor, labels: Tensor) -> Tensor:
    return (p - q).gather(-1, labels[..., None]).mean()


MEASURE_MISTAKES = {
    "loss": measure_with(more_loss),
    "test_text": measure_with(text="test"),
    "weight_error": lambda run, next_tokens, errors: {
        name: dict(options) for name, options in errors.items()
    },
    "reversed": measure_with(lambda p, q, labels: divergence(q, p)),
    "together": measure_with(others=as_sharp),
    "stays_rounded": measure_with(others=narrow_before),
    "one_window": measure_with(lambda p, q, labels: divergence(p[:1], q[:1])),
    "summed": measure_with(lambda p, q, labels: divergence(p, q) * p[..., 0].numel()),
    "over_vocabulary": measure_with(lambda p, q, labels: divergence(p, q) / p.shape[-1]),
    "in_bits": measure_with(lambda p, q, labels: divergence(p, q) / math.log(2)),
}
