"""Displaced or erased?

The facts that a compressed model gets wrong, asked again in other words, and after others were
trained.

    python benchmarks/forgetting_wordings.py      # about five minutes on one core

The 150 people of the bundled world who are talked about least, five facts each; a fact counts as
right if the right value is the likeliest of its attribute. The world words each question in three
ways, all of them in the training text.
Trained: the weights of the blocks' norms alone (2,560 numbers), 60 steps of 32 questions about half
of all people, in the first wording; asked are the seldom ones of the other half, whose answers
cannot be learned from it; then the halves change places. Wanda calibrates on three sets; the halves
are drawn three times. Writes learn/tables/forgetting-wordings.json and forgetting-trained.json.
"""

import copy

import torch
from torch import Tensor, nn

from course_utils import evaluation, models
from course_utils.evaluation import facts
from course_utils.evaluation.comparison import compare
from course_utils.models import walk
from course_utils.pruning import structured, wanda
from course_utils.quantization import rtn

SEEDS, SELDOM, STEPS, BATCH = (0, 1, 2), slice(150, 300), 60, 32
VALUES = 5  # facts of a person


def asked_of(asked: facts.Asked, people: list[int]) -> facts.Asked:
    """The questions about some people only."""
    ends = torch.tensor(asked.sizes).cumsum(0).tolist()
    wanted = [VALUES * p + a for p in people for a in range(VALUES)]
    pairs = [pair for i in wanted for pair in asked.pairs[ends[i] - asked.sizes[i] : ends[i]]]
    return facts.Asked(pairs, [asked.sizes[i] for i in wanted], [asked.rights[i] for i in wanted])


def norms(model: nn.Module) -> list[nn.Parameter]:
    return [p for block in walk.blocks(model) for n, p in block.named_parameters() if "norm" in n]


def trained(model: nn.Module, asked: facts.Asked, seed: int) -> nn.Module:
    """A copy whose norms learned to answer these questions."""
    net = copy.deepcopy(model).eval().requires_grad_(False)
    chosen = norms(net)
    for p in chosen:
        p.requires_grad_(True)
    starts = [0, *torch.tensor(asked.sizes).cumsum(0).tolist()]
    contexts = [asked.pairs[s][0] for s in starts[:-1]]
    answers = [asked.pairs[s + r][1] for s, r in zip(starts[:-1], asked.rights, strict=True)]
    optimizer = torch.optim.Adam(chosen, lr=3e-3)
    rng = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / STEPS)
        rows = torch.randint(len(contexts), (BATCH,), generator=rng).tolist()
        width = max(len(contexts[i] + answers[i]) for i in rows)
        ids, goal = torch.zeros(BATCH, width, dtype=torch.long), torch.full((BATCH, width), -100)
        for r, i in enumerate(rows):  # padded on the right, where a causal model does not look
            at, whole = len(contexts[i]), contexts[i] + answers[i]
            ids[r, : len(whole)] = torch.tensor(whole)
            goal[r, at : len(whole)] = ids[r, at : len(whole)]
        logits = net(input_ids=ids, use_cache=False).logits[:, :-1].float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), goal[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def main() -> None:
    torch.set_num_threads(1)
    net, tokenizer = models.load("bundled")
    seldom = list(range(300))[SELDOM]
    wordings = [facts.questions(tokenizer, template=t) for t in (0, 1, 2)]

    def calibration(seed: int):
        return evaluation.text.windows(
            tokenizer, "bundled", split="train", n=32, context=64, seed=seed
        ).ids

    ways = {
        "original": lambda seed: net,
        "RTN 2 bits": lambda seed: rtn.quantize(net, bits=2).model,
        "Wanda .65": lambda seed: wanda.prune(net, calibration(seed), sparsity=0.65).model,
        "without block 3": lambda seed: structured.keep_layers(net, [0, 1, 2, 4]),
    }
    one: dict[str, list[Tensor]] = {}
    any_of: dict[str, list[Tensor]] = {}
    guessed: dict[str, list[Tensor]] = {}
    after: dict[str, list[Tensor]] = {}
    chance = torch.tensor([1 - (1 - 1 / (n - 1)) ** 2 for n in asked_of(wordings[0], seldom).sizes])
    for name, make in ways.items():
        for seed in SEEDS if name == "Wanda .65" else SEEDS[:1]:
            model = make(seed)
            right = torch.stack([facts.known(model, asked_of(w, seldom)).right for w in wordings])
            one.setdefault(name, []).append(right[0].view(-1, VALUES).mean(1))
            any_of.setdefault(name, []).append(right.amax(0).view(-1, VALUES).mean(1))
            guessed.setdefault(name, []).append(
                (right[0] + (1 - right[0]) * chance).view(-1, VALUES).mean(1)
            )
            print(
                name,
                seed,
                "each wording",
                right.mean(1).tolist(),
                "any",
                float(right.amax(0).mean()),
                flush=True,
            )

    def row(values: list):
        return values[0] if len(values) == 1 else values.__getitem__

    rows = {}
    for name in ways:
        rows[name] = row(one[name])
        rows[f"{name}, any of three wordings"] = row(any_of[name])
        rows[f"{name}, if guessed twice more"] = row(guessed[name])
    settings = {"seeds": SEEDS, "against": "original", "better": "higher"}
    command = "python benchmarks/forgetting_wordings.py"
    table = compare(
        "Facts right, in one wording or in any of three",
        rows,
        protocol="750 facts of 150 people, by person",
        **settings,
    )
    print(table)
    table.save("forgetting-wordings", command=command)
    for name, make in ways.items():
        for seed in SEEDS:
            model, found = make(seed), torch.zeros(len(seldom))
            for half in torch.randperm(300, generator=torch.Generator().manual_seed(seed)).split(
                150
            ):
                others = sorted(set(seldom) - set(half.tolist()))
                learned = trained(model, asked_of(wordings[0], half.tolist()), seed)
                known = (
                    facts.known(learned, asked_of(wordings[0], others))
                    .right.view(-1, VALUES)
                    .mean(1)
                )
                found[torch.tensor(others) - SELDOM.start] = known
            after.setdefault(name, []).append(found)
            print(name, seed, "norms trained on others", float(found.mean()), flush=True)
    rows = {}
    for name in ways:
        rows[name] = row(one[name])
        rows[f"{name}, norms trained on others"] = after[name].__getitem__
    protocol = (
        f"750 facts of 150 people, by person; trained on the half without them, {STEPS} "
        f"steps of {BATCH} questions"
    )
    table = compare(
        "Facts right before and after training the norms on other people",
        rows,
        protocol=protocol,
        **settings,
    )
    print(table)
    table.save("forgetting-trained", command=command)


if __name__ == "__main__":
    main()
