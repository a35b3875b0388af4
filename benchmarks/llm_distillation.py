"""What lesson 5.6 compares in the serial world, on sums of two numbers and across tokenizers: equal
tokens, every control.

    python benchmarks/llm_distillation.py                 # a quarter of an hour on one core; goes
                                                          # on where it was stopped
    python benchmarks/llm_distillation.py --seconds 200
    python benchmarks/llm_distillation.py uld             # one table

Each row is a student of 56,256 parameters that reads the tokens that its table names; 200 new
prompts judge it, written greedily. A seed is other prompts and another student. Writes
learn/tables/llm-*.json.

Votes, prefixes and own texts begin with students that err, equally much for every seed: the tokens
they read are searched by halving until the share of right answers on 400 other prompts lies in
BAND. The rate of each way of training on is the best of three for one more such student, on those
prompts.
"""

import functools
from dataclasses import replace

import torch
from tables import Kept

from course_utils import models, world
from course_utils.distillation import across, on_policy, reasoning, votes
from course_utils.evaluation.comparison import compare
from course_utils.learn import reasoned_by_model as at_work

SEEDS, BUDGET, COMMAND = range(3), 200_000, "python benchmarks/llm_distillation.py"
BAND, ERRING = (0.45, 0.6), range(5)  # right answers of students that err, and their seeds
PEAKS, TUNED_ON = (3e-4, 1e-3, 3e-3), 90
CHARACTER_PEAKS, ULD_WEIGHTS = (4e-3, 8e-3, 1.6e-2, 3.2e-2), (0.03, 0.1, 0.3)
ACROSS, HEAVY = ("text alone", "ULD, same index", "ULD, same characters"), "ULD, weight 1"
VOTES = 15
VALID = reasoning.draw(400, seed=997)
TEST, LONG = reasoning.draw(200, seed=999), reasoning.draw(200, (10,), seed=5)
GROWING = {f"{k},000 tokens": 1000 * k for k in (80, 110, 140, 160, 180, 200)}
PREFIXES = {"right so far": False, "last step made wrong": True}
JUDGED = "200 new prompts of 4 to 10 digits"


KEPT = Kept("llm-distillation")


def prompts(seed, n=3000):
    return reasoning.draw(n, seed=100 + seed)


def student(seed, rows, tokens=BUDGET):
    return reasoning.train(reasoning.student(seed), rows, tokens=tokens, seed=seed).model


def score(model):
    return reasoning.right(reasoning.write(model, TEST), TEST)


def chains(seed):
    return {"chain": lambda: score(student(seed, reasoning.build(prompts(seed), "chain"))),
            "answer": lambda: score(student(seed, reasoning.build(prompts(seed), "answer"))),
            "random digits for steps": lambda:
                score(student(seed, reasoning.build(prompts(seed), "noise"))),
            "answer, 3 times the tokens": lambda:
                score(student(seed, reasoning.build(prompts(seed), "answer"), 3 * BUDGET))
    }  # fmt: skip


def written(number, places):
    """The digits of a number, with zeros in front."""
    return [int(c) for c in f"{number:0{places}d}"]


def sum_row(a, b, chain):
    """(ids, labels) of a sum of two numbers below 100: "37_45=12 08:082."; the steps are those of
    the columns, with what is carried.
    """
    head = [*written(a, 2), reasoning.BLANK, *written(b, 2), reasoning.EQUALS]
    ones = a % 10 + b % 10
    steps = [*written(ones, 2), *written(a // 10 + b // 10 + ones // 10, 2)] if chain else []
    tail = [*steps, reasoning.MARK, *written(a + b, 3), reasoning.END]
    return head + tail, [reasoning.trainer.IGNORED] * len(head) + tail


def two_digits(seed):
    """Students of 2,000 of the 10,000 sums of two numbers below 100, judged on 200 others."""
    order = torch.randperm(10_000, generator=torch.Generator().manual_seed(seed)).tolist()
    pairs = [divmod(i, 100) for i in order]

    def right(model, asked):
        ids = torch.tensor([sum_row(a, b, False)[0][:6] for a, b in asked])
        out = on_policy.sample(model, ids, tokens=9, temperature=0.0, end=reasoning.END)
        new = torch.where(out.real, out.ids, reasoning.PAD)[:, 6:].tolist()
        ended = [[t for t in row if t != reasoning.PAD] for row in new]
        goals = [[reasoning.MARK, *written(a + b, 3), reasoning.END] for a, b in asked]
        return torch.tensor([float(e[-5:] == g) for e, g in zip(ended, goals, strict=True)])

    def taught(chain, tokens):
        rows = reasoning.pad([sum_row(a, b, chain) for a, b in pairs[:2000]])
        return right(student(seed, rows, tokens), pairs[-200:])

    return {
        f"{'chain' if chain else 'answer'}, {tokens:,} tokens": lambda c=chain, t=tokens: taught(
            c, t
        )
        for tokens in (BUDGET, 2 * BUDGET)
        for chain in (True, False)
    }


def together(seed):
    """Two tasks, one student with 2 B tokens against two with B each; judged on both tasks."""
    B = 160_000
    test = at_work.instructed(200, seed=998)

    def alone():
        found = torch.zeros(200)
        for kind in (0, 1):
            model = student(
                seed, at_work.of_instructions(at_work.instructed(2000, (kind,), seed=200 + seed)), B
            )
            own = torch.tensor([float(p[0] == kind) for p in test])
            found += own * at_work.followed(model, test)
        return found

    def both(tokens):
        return at_work.followed(
            student(
                seed, at_work.of_instructions(at_work.instructed(4000, seed=200 + seed)), tokens
            ),
            test,
        )

    def other():
        return at_work.followed(
            student(
                seed, at_work.of_instructions(at_work.instructed(2000, (0,), seed=200 + seed)), B
            ),
            test,
        )

    return {
        "one student for each task": alone,
        "one student, both tasks": lambda: both(2 * B),
        "one student, running sums only": other,
    }


@functools.cache
def grown(seed, tokens):
    """The student of chains that has read so many tokens."""
    return student(seed, reasoning.build(prompts(seed)), tokens)


def leap(seed):
    """For each budget: the share of right digits of each chain, and whether all are right."""
    return {
        label: lambda tokens=tokens: [
            part.tolist() for part in at_work.by_token(grown(seed, tokens), LONG)
        ]
        for label, tokens in GROWING.items()
    }


def halved(reached):
    """(tokens, right answers) of the first budget found by halving whose `reached(tokens)` lies in
    BAND.
    """
    low, high = 40_000, BUDGET
    for _ in range(10):
        tokens = (low + high) // 2
        share = reached(tokens)
        if BAND[0] <= share <= BAND[1]:
            return tokens, share
        low, high = (tokens, high) if share < BAND[0] else (low, tokens)
    raise RuntimeError(f"no budget between {low:,} and {high:,} tokens gives a share in {BAND}")


@functools.cache
def erring(seed):
    """The student of chains that errs as often as those of other seeds do."""

    def reached(tokens):
        share = float(reasoning.right(reasoning.write(grown(seed, tokens), VALID), VALID).mean())
        print(f"  seed {seed}, {tokens:,} tokens: {share:.3f}", flush=True)
        return share

    return grown(seed, KEPT.value(f"erring, {seed}", lambda: halved(reached))[0])


def prefixes(seed):
    """The next step behind half a chain: as the teacher writes it, or with its last step made
    wrong.
    """
    return {
        label: lambda wrong=wrong: at_work.next_steps(erring(seed), TEST, wrong=wrong)
        for label, wrong in PREFIXES.items()
    }


def voting(seed):
    """One answer and the vote of 15, drawn at two temperatures, and the likeliest answer."""
    rights = [reasoning.SUMS.chain(d)[-1] for d in TEST]

    def one(heat):
        return lambda: reasoning.right(
            reasoning.write(erring(seed), TEST, temperature=heat, seed=100 * seed), TEST
        )

    def vote(heat):
        def answers():
            drawn = [
                reasoning.write(erring(seed), TEST, temperature=heat, seed=100 * seed + s).tolist()
                for s in range(VOTES)
            ]
            return [
                [reasoning.answer_of(text) for text in of_one]
                for of_one in zip(*drawn, strict=True)
            ]

        return lambda: torch.tensor(votes.accuracy(answers(), rights))

    rows = {"the likeliest chain": one(0.0)}
    for heat in (1.0, 0.3):
        rows |= {
            f"one chain, temperature {heat}": one(heat),
            f"vote of {VOTES}, temperature {heat}": vote(heat),
        }
    return rows


WAYS = {
    "data, forward": (0.0, "forward"),
    "data, reverse": (0.0, "reverse"),
    "own texts, forward": (1.0, "forward"),
    "own texts, reverse": (1.0, "reverse"),
    "half and half, js": (0.5, "js"),
}


@functools.cache
def mastered(seed):
    """A teacher that is right on nearly all prompts."""
    return student(50 + seed, reasoning.build(prompts(seed)))


def trained_on(seed, name, peak):
    """A student that errs, after 40 steps by one of WAYS; and the tokens that it was scored on."""
    (share, divergence), rows = WAYS[name], reasoning.build(prompts(seed, 1300))
    done = on_policy.train(
        erring(seed), mastered(seed),
        torch.tensor([reasoning.prompt(p) for p in prompts(seed, 1300)]), steps=40, tokens=14,
        share=share, divergence=divergence, data=rows.ids, labels=rows.labels, mask=rows.mask,
        batch=32, peak=peak, seed=seed, end=reasoning.END,
        progress=False,
    )  # fmt: skip
    return done.model, done.settings["scored tokens"]


@functools.cache
def best_rate(name):
    """Of PEAKS, the one with most right answers on VALID for the student that
    is for tuning alone.
    """

    def wrong(peak):
        model = trained_on(TUNED_ON, name, peak)[0]
        return 1 - float(reasoning.right(reasoning.write(model, VALID), VALID).mean())

    return KEPT.best(f"rates: {name}", PEAKS, wrong)


def own_texts(seed):
    """[right answers, scored tokens] of a student that errs, and of it after training on the data,
    or on its own texts.
    """

    def after(name):
        model, read = trained_on(seed, name, best_rate(name))
        return [score(model).tolist(), read]

    return {"before": lambda: [score(erring(seed)).tolist(), 0]} | {
        name: functools.partial(after, name) for name in WAYS
    }


def ruled(seed):
    """Chains as they are, or revised by the rule; no student ever sees a critique.

    Broken: the share of chains with a 7 in their steps.
    """
    asked = prompts(seed)
    rows = reasoning.build(asked)
    teacher = student(50 + seed, rows)
    said = reasoning.write(teacher, asked).tolist()
    made = {"as written": said, "revised": [at_work.revision(row) for row in said]}

    def both(texts):
        model = student(seed, at_work.of_written(asked, texts))
        written = reasoning.write(model, TEST)
        return [
            reasoning.right(written, TEST).tolist(),
            [float(bool(at_work.critique(w))) for w in written.tolist()],
        ]

    return {name: (lambda texts=texts: both(texts)) for name, texts in made.items()}


@functools.cache
def two_tokenizers(seed):
    """nats(weight, pairs, peak): for each held-out text, those of a character, of a student of
    characters after 60 steps on stories and facts beside the bundled model.
    """
    teacher, bpe = models.load("bundled")
    texts, held = (
        [d.text for d, _ in zip(world.documents(split, seed=seed), range(count), strict=False)]
        for split, count in (("train", 1000), ("validation", 64))
    )
    chars = across.character_tokenizer(texts)
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    blank = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(chars), hidden_size=64, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=160,
        tie_word_embeddings=True, initializer_range=0.1,
    ))  # fmt: skip

    def nats(weight, pairs, peak):
        model = across.train(
            blank, teacher, (chars, bpe), texts, steps=60, context=96, weight=weight,
            alignment=pairs, peak=peak, seed=seed, progress=False,
        ).model  # fmt: skip
        found = []
        for text in held:
            ids = torch.tensor([across.encode(chars, text)[0][:96]])
            with torch.no_grad():
                found.append(float(model(input_ids=ids, labels=ids).loss))
        return torch.tensor(found)

    return nats


@functools.cache
def best_for_characters(row):
    """(weight, pairs, peak) of a row of the table: of all choices, the one with the least loss for
    the student that is for tuning alone. The others take the rate of text alone.
    """
    pairs = "index" if row == "ULD, same index" else "characters"
    if row == "text alone":
        choices = [(0.0, pairs, peak) for peak in CHARACTER_PEAKS]
    else:
        peak = best_for_characters("text alone")[2]
        choices = [(weight, pairs, peak) for weight in ULD_WEIGHTS]

    return KEPT.best(row, choices, lambda choice: float(two_tokenizers(TUNED_ON)(*choice).mean()))


def characters(seed):
    """Each row of the table across tokenizers, and the heaviest weight beside them."""
    nats, peak = two_tokenizers(seed), best_for_characters("text alone")[2]
    return {row: lambda row=row: nats(*best_for_characters(row)) for row in ACROSS} | {
        HEAVY: lambda: nats(1.0, "characters", peak)
    }


def main() -> None:
    kept = KEPT
    torch.set_num_threads(1)

    def table(
        name,
        title,
        make,
        names,
        *,
        against,
        protocol,
        better="higher",
        part=None,
        file=None,
        seeds=SEEDS,
        columns=None,
    ):
        if kept.words and name not in kept.words:
            return
        rows = {}
        for label in names:

            def row(seed, label=label):
                key = f"{name}: {label}, {seed}"
                if key not in kept.values:
                    made = make(seed)
                    for each in names:
                        kept.value(
                            f"{name}: {each}, {seed}",
                            lambda each=each, made=made: (
                                lambda v: v.tolist() if isinstance(v, torch.Tensor) else v
                            )(made[each]()),
                        )
                found = kept.values[key]
                return torch.tensor(found if part is None else found[part], dtype=torch.float64)

            rows[label] = row
        done = compare(
            title,
            rows,
            seeds=seeds,
            against=against,
            better=better,
            protocol=protocol,
            progress=False,
        )
        done = replace(done, columns=columns() if columns else {})
        print(done, flush=True)
        done.save(f"llm-{file or name}", command=COMMAND)

    k = f"{BUDGET:,} tokens for every row"
    table("chains", "Running sums: right answers", chains,
          ["chain", "answer", "random digits for steps", "answer, 3 times the tokens"],
          against="answer", protocol=f"{k} but the last; {JUDGED}")  # fmt: skip
    table(
        "two-digits",
        "Sums of two numbers below 100: right answers",
        two_digits,
        [f"{form}, {t:,} tokens" for t in (BUDGET, 2 * BUDGET) for form in ("chain", "answer")],
        against=f"chain, {2 * BUDGET:,} tokens",
        protocol="2,000 of the 10,000 sums to learn from; 200 others",
    )
    for part, title, file in (
        (0, "A rule: right answers", "rule"),
        (1, "A rule: chains that break it", "rule-broken"),
    ):
        table(
            "rule",
            title,
            ruled,
            ["as written", "revised"],
            against="as written",
            protocol=f"{k}; {JUDGED}",
            part=part,
            file=file,
            better="lower" if part else "higher",
        )
    for part, title, file in (
        (0, "Ten steps and the answer: digits right", "leap-digits"),
        (1, "Ten steps and the answer: all right", "leap-whole"),
    ):
        table(
            "leap",
            title,
            leap,
            list(GROWING),
            against="140,000 tokens",
            protocol="200 new prompts of 10 digits; each digit behind the right ones before it",
            part=part,
            file=file,
        )
    begun = f"students trained until {BAND[0]:.0%} to {BAND[1]:.0%} of 400 other prompts were right"
    table(
        "next",
        "The next step follows from the last",
        prefixes,
        list(PREFIXES),
        against="right so far",
        protocol=f"{begun}; {JUDGED}, half of the chain given",
        file="prefix",
        seeds=ERRING,
    )
    heats = [
        f"{what}, temperature {t}" for t in (1.0, 0.3) for what in ("one chain", f"vote of {VOTES}")
    ]
    table(
        "voting",
        "Students that err equally often: right answers",
        voting,
        ["the likeliest chain", *heats],
        against="the likeliest chain",
        protocol=f"{begun}; {JUDGED}",
        file="votes",
        seeds=ERRING,
    )
    table(
        "own",
        "40 more steps: right answers",
        own_texts,
        ["before", *WAYS],
        against="data, forward",
        protocol=f"{begun}; 40 steps of 32 texts; {JUDGED}",
        part=0,
        file="own-texts",
        seeds=ERRING,
        columns=lambda: {
            "scored tokens": {
                name: round(sum(kept.values[f"own: {name}, {s}"][1] for s in ERRING) / len(ERRING))
                for name in WAYS
            },
            "rate, of three": {name: best_rate(name) for name in WAYS},
        },
    )
    table(
        "tasks",
        "Two tasks behind one sign: right answers",
        together,
        ["one student for each task", "one student, both tasks", "one student, running sums only"],
        against="one student for each task",
        protocol="320,000 tokens in all, the last row 160,000; 200 new prompts, half of each task",
    )
    table(
        "uld",
        "Across tokenizers: nats for a character",
        characters,
        [*ACROSS, HEAVY],
        against="text alone",
        better="lower",
        protocol="60 steps of 16 texts of 96 characters; 64 validation texts; "
        "rate and weight, each the best of several for another student",
        columns=lambda: {
            "weight": {row: best_for_characters(row)[0] for row in ACROSS} | {HEAVY: 1.0},
        },
    )


if __name__ == "__main__":
    main()
