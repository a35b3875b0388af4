"""Drivers with equal labels, projectors for written digits by embeddings and through the frozen
model; three seeds, with controls.

    python benchmarks/cross_modal.py      # a quarter of an hour on one core; goes on where it was
                                          # stopped

Drivers: 2,000 labels and 800 steps each. Writes learn/tables/cross-modal-driving.json: the share of
200 cars that stay on the road for 100 steps at noise .15; and -expert-states.json,
-own-states.json: the root mean square error of the steering on 5,000 states of the expert that is
pushed by .02, and of the driver's own.

Projectors: each row trains at its rate for 60 steps of 8 sums of the pictures of the training part,
by the divergence of what the model says for the text and for the pictures. Writes
learn/tables/cross-modal-through.json: the share of 500 test pictures whose nearest embedding is
right.

Trained too: behind 60 steps of the mix of ten at its best rate 60 more on the same pictures by the
same loss, once with the model frozen and once with all of its weights trained along, each at the
best of three rates for 200 pictures and a projector that are used for nothing else. Writes
learn/tables/cross-modal-too.json, the share of right sums of 120 from test pictures, and
-too-kl.json, how far the model has gone from the original on 64 windows of validation text.

Sums: a projector by embeddings for each seed; 120 sums of its test pictures. Writes
learn/tables/cross-modal-sums.json: the share of right sums, from text, from pictures and from
vectors that were changed, and the share of sums whose four digits were all read rightly.
"""

import copy
import functools

import torch
from tables import Kept
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils import evaluation, models
from course_utils.distillation import cross_modal, digits, imitation
from course_utils.evaluation import by_window
from course_utils.evaluation.comparison import compare

SEEDS, STEPS, BATCH = range(3), 60, 8
COMMAND = "python benchmarks/cross_modal.py"


def driving(kept: Kept) -> None:
    careful, rough = 0.02, 0.15
    makers = {
        "clone": lambda seed: imitation.clone(noise=careful, seed=seed),
        "clone, expert pushed": lambda seed: imitation.clone(noise=rough, seed=seed),
        "DAgger": lambda seed: imitation.dagger(noise=rough, first_noise=careful, seed=seed),
    }

    def measured(name: str, seed: int) -> dict[str, float]:
        test = {"noise": rough, "cars": 200, "seed": 5000 + seed}
        smooth = imitation.drive(
            imitation.expert, cars=50, noise=careful, seed=6000 + seed
        ).states.flatten(0, 1)
        if name == "expert":
            return {
                "stayed": float(imitation.drive(imitation.expert, **test).stayed.float().mean())
            }
        network = makers[name](seed)[0]
        drove = imitation.drive(imitation.by(network), **test)
        return {
            "stayed": float(drove.stayed.float().mean()),
            "expert": imitation.error(network, smooth),
            "own": imitation.error(network, imitation.some(drove, 5000, seed)),
        }

    def value(name: str, seed: int, what: str) -> float:
        return kept.value(f"driver {name}, {seed}", lambda: measured(name, seed))[what]

    protocol = "2,000 labels, 800 steps of training for every driver"
    for table, what, names, unit, better, title in (
        (
            "driving",
            "stayed",
            ("expert", *makers),
            "",
            "higher",
            "Cars on the road after 100 steps, share of 200, noise .15",
        ),
        (
            "expert-states",
            "expert",
            tuple(makers),
            "radians",
            "lower",
            "Error of the steering where a careful expert drives",
        ),
        (
            "own-states",
            "own",
            tuple(makers),
            "radians",
            "lower",
            "Error of the steering where the driver itself drives",
        ),
    ):
        found = compare(
            title,
            {name: (lambda seed, name=name, what=what: value(name, seed, what)) for name in names},
            seeds=SEEDS, against="clone", unit=unit, better=better, protocol=protocol,
        )  # fmt: skip
        print(found)
        found.save(f"cross-modal-{table}", command=COMMAND)


def added(
    kept: Kept, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, embeddings: Tensor
) -> None:
    count, steps = 120, 600

    def measured(seed: int) -> dict[str, float]:
        data = digits.load(seed)
        see = cross_modal.to_embeddings(
            embeddings, data.train_x, data.train_y, steps=steps, seed=seed
        )
        order = cross_modal.into_sums(data.test_y, count)
        x, y = data.test_x[order], data.test_y[order]
        ways = {
            "text": None, "pictures": see, "three times as long": lambda x: 3 * see(x),
            "thirty times as long": lambda x: 30 * see(x),
            "one place further": lambda x: see(x).roll(1, 0),
        }  # fmt: skip
        found = {
            name: float(cross_modal.right_sums(model, tokenizer, way, x, y).mean())
            for name, way in ways.items()
        }
        with torch.no_grad():
            named = cross_modal.nearest(see(x), embeddings) == y
            single = cross_modal.nearest(see(data.test_x), embeddings) == data.test_y
        return {
            **found,
            "all four digits read rightly": float(named.view(-1, 4).all(1).float().mean()),
            "one digit": float(single.float().mean()),
        }

    names = (
        "text",
        "all four digits read rightly",
        "pictures",
        "three times as long",
        "thirty times as long",
        "one place further",
    )
    found = compare(
        "Right sums of written numbers, share of 120",
        {name: (lambda seed, name=name:
            kept.value(f"sums {seed}", lambda: measured(seed))[name]) for name in names},
        seeds=SEEDS, against="pictures", better="higher",
        protocol=f"each held-out picture in one sum; projectors of {steps} steps, the model frozen",
    )  # fmt: skip
    print(found, [kept.values[f"sums {seed}"] for seed in SEEDS])
    found.save("cross-modal-sums", command=COMMAND)


WAYS = {"first 60 steps": None, "60 more, frozen": False, "60 more, model too": True}
RATES = (0.0003, 0.001, 0.003)


def too(
    kept: Kept, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, embeddings: Tensor
) -> None:
    """The frozen model against the same one trained along, both behind the same first steps of the
    projector.
    """
    windows = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=64, context=128, seed=0
    ).ids
    goal = by_window.predictions(model, windows)

    @functools.cache
    def begun(seed: int, pictures: int) -> cross_modal.Mix:
        data = digits.load(seed)
        see = cross_modal.Mix(digits.network(64, 128, 10, seed=seed), embeddings)
        x, y = data.train_x[:pictures], data.train_y[:pictures]
        cross_modal.through_model(
            model, tokenizer, see, x, y, steps=STEPS, batch=BATCH, peak=0.03, seed=seed
        )
        return see

    def learned(name: str, seed: int, peak: float, x: Tensor, y: Tensor):
        see, along = copy.deepcopy(begun(seed, len(x))), WAYS[name]
        reader = copy.deepcopy(model) if along else model
        if along is not None:
            cross_modal.through_model(
                reader, tokenizer, see, x, y, steps=STEPS, batch=BATCH, peak=peak, seed=50 + seed,
                teacher=model if along else None,
            )  # fmt: skip
        return see, reader.eval()

    def right(see, reader: PreTrainedModel, x: Tensor, y: Tensor, count: int) -> list[float]:
        order = cross_modal.into_sums(y, count)
        return cross_modal.right_sums(reader, tokenizer, see, x[order], y[order]).tolist()

    def rate(name: str) -> float:
        if WAYS[name] is None:
            return 0.03

        def tried(peak: float) -> float:
            data = digits.load(90)
            see, reader = learned(name, 90, peak, data.train_x[:-200], data.train_y[:-200])
            shares = right(see, reader, data.train_x[-200:], data.train_y[-200:], 40)
            print(f"  {name}, {peak}: {sum(shares) / len(shares):.3f}", flush=True)
            return sum(shares) / len(shares)

        found = kept.value(f"too, rates: {name}", lambda: [tried(peak) for peak in RATES])
        return RATES[found.index(max(found))]

    def measured(name: str, seed: int) -> dict[str, list[float]]:
        def make() -> dict[str, list[float]]:
            data = digits.load(seed)
            see, reader = learned(name, seed, rate(name), data.train_x, data.train_y)
            text = right(None, reader, data.test_x, data.test_y, 120)
            return {
                "sums": right(see, reader, data.test_x, data.test_y, 120), "text": text,
                "kl": by_window.kl_by_window(goal, reader, windows).tolist(),
            }  # fmt: skip

        return kept.value(f"too: {name}, {seed}", make)

    protocol = (
        f"a mix of ten; steps of {BATCH} sums of training pictures; "
        "the rate of the later ones is the best of three"
    )
    for what, file, title, unit, better in (
        ("sums", "too", "Right sums of held-out written numbers, share of 120", "", "higher"),
        ("kl", "too-kl", "What became of the model: KL from the original", "nats", "lower"),
    ):
        rows = {
            name: (lambda seed, name=name, what=what: torch.tensor(measured(name, seed)[what]))
            for name in WAYS
        }
        found = compare(
            title, rows, seeds=SEEDS, against="60 more, frozen", unit=unit, better=better,
            protocol=protocol + ("; 64 windows of 128 validation tokens" if unit else ""),
            columns={
                "rate": {name: rate(name) for name in WAYS},
                "sums from text, share": {
                    name: round(sum(sum(measured(name, s)["text"]) for s in SEEDS) / 120
                                / len(SEEDS), 3) for name in WAYS
                },
            } if what == "sums" else None,
        )  # fmt: skip
        print(found)
        found.save(f"cross-modal-{file}", command=COMMAND)


def main() -> None:
    kept = Kept("cross-modal")
    torch.set_num_threads(1)
    driving(kept)
    model, tokenizer = models.load("bundled")
    embeddings = cross_modal.digit_embeddings(model, tokenizer)
    added(kept, model, tokenizer, embeddings)
    too(kept, model, tokenizer, embeddings)
    rows = {"not trained": (True, None)}
    rows |= {
        f"{name}, rate {peak}": (mixed, peak)
        for name, mixed in (("whole space", False), ("a mix of ten", True))
        for peak in (0.003, 0.01, 0.03)
    }

    def right(name: str, seed: int) -> list[float]:
        mixed, peak = rows[name]
        data = digits.load(seed)
        projector = digits.network(64, 128, 10 if mixed else embeddings.shape[1], seed=seed)
        see = cross_modal.Mix(projector, embeddings) if mixed else projector
        if peak:
            x, y = data.train_x, data.train_y
            cross_modal.through_model(
                model, tokenizer, see, x, y, steps=STEPS, batch=BATCH, peak=peak, seed=seed
            )
        with torch.no_grad():
            named = cross_modal.nearest(see(data.test_x), embeddings)
        return (named == data.test_y).float().tolist()

    table = compare(
        "Trained through the model: test pictures whose nearest embedding is right",
        {name: (lambda seed, name=name:
            torch.tensor(kept.value(f"{name}, {seed}",
                                    lambda: right(name, seed))).mean()) for name in rows},
        seeds=SEEDS, against="not trained", better="higher",
        protocol=f"500 test pictures; {STEPS} steps of {BATCH} sums, the model frozen",
    )  # fmt: skip
    print(table)
    table.save("cross-modal-through", command=COMMAND)


if __name__ == "__main__":
    main()
