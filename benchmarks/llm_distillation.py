"""What lesson 5.6 compares in the serial world and across tokenizers: equal tokens, three seeds, every control.

    python benchmarks/llm_distillation.py                 # about five minutes on one core; goes on where it was stopped
    python benchmarks/llm_distillation.py --seconds 200

Each row is a student of 56,256 parameters that reads the tokens that its table names; 200 new prompts judge it, written greedily. A
seed is other prompts and another student. Writes learn/tables/llm-*.json.
"""

import functools

import torch
from tables import Kept

from course_utils import models, world
from course_utils.distillation import across, on_policy, reasoning, votes
from course_utils.evaluation.comparison import compare
from course_utils.learn import reasoned_by_model as at_work

SEEDS, BUDGET, COMMAND = range(3), 200_000, "python benchmarks/llm_distillation.py"
WEAK = 140_000  # tokens of a student that errs
VOTES = 15
TEST, LONG = reasoning.draw(200, seed=999), reasoning.draw(200, (10,), seed=5)
GROWING = {f"{k},000 tokens": 1000 * k for k in (80, 110, 140, 160, 180, 200)}
PREFIXES = {"right so far": False, "last step made wrong": True}
JUDGED = "200 new prompts of 4 to 10 digits"


def prompts(seed, n=3000):
    return reasoning.draw(n, seed=100 + seed)


def student(seed, rows, tokens=BUDGET):
    return reasoning.train(reasoning.student(seed), rows, tokens=tokens, seed=seed).model


def score(model):
    return reasoning.right(reasoning.write(model, TEST), TEST)


def chains(seed):
    return {"chain": lambda: score(student(seed, reasoning.build(prompts(seed), "chain"))),
            "answer": lambda: score(student(seed, reasoning.build(prompts(seed), "answer"))),
            "random digits for steps": lambda: score(student(seed, reasoning.build(prompts(seed), "noise"))),
            "answer, 3 times the tokens": lambda: score(student(seed, reasoning.build(prompts(seed), "answer"), 3 * BUDGET))}  # fmt: skip


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


def prefixes(seed):
    """The next step behind half a chain: as the teacher writes it, or with its last step made wrong."""
    return {
        label: lambda wrong=wrong: at_work.next_steps(grown(seed, WEAK), TEST, wrong=wrong)
        for label, wrong in PREFIXES.items()
    }


def voting(seed):
    """One answer and the vote of 15, drawn at two temperatures, and the likeliest answer."""
    model, rights = grown(seed, WEAK), [reasoning.SUMS.chain(d)[-1] for d in TEST]

    def one(heat):
        return lambda: reasoning.right(
            reasoning.write(model, TEST, temperature=heat, seed=100 * seed), TEST
        )

    def vote(heat):
        def answers():
            drawn = [
                reasoning.write(model, TEST, temperature=heat, seed=100 * seed + s).tolist()
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


def own_texts(seed):
    """40 more steps for a student that errs, by the data or by a teacher on its own texts."""
    begun, teacher = grown(seed, WEAK), student(50 + seed, reasoning.build(prompts(seed)))
    rows = reasoning.build(prompts(seed, 1300))
    asked = torch.tensor([reasoning.prompt(p) for p in prompts(seed, 1300)])

    def more(share, divergence):
        return lambda: score(on_policy.train(
            begun, teacher, asked, steps=40, tokens=14, share=share, divergence=divergence, data=rows.ids, labels=rows.labels, mask=rows.mask,
            batch=32, peak=1e-3, seed=seed, end=reasoning.END, progress=False,
        ).model)  # fmt: skip

    return {"before": lambda: score(begun), "data, forward": more(0.0, "forward"), "data, reverse": more(0.0, "reverse"),
            "own texts, forward": more(1.0, "forward"), "own texts, reverse": more(1.0, "reverse"), "half and half, js": more(0.5, "js")}  # fmt: skip


def ruled(seed):
    """Chains as they are, or revised by the rule; no student ever sees a critique. Broken: the share of chains with a 7 in their steps."""
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


def characters(seed):
    """A student of characters, 60 steps on stories and facts, beside the bundled model."""
    teacher, bpe = models.load("bundled")
    texts = [d.text for d, _ in zip(world.documents("train", seed=seed), range(1000), strict=False)]
    held = [
        d.text for d, _ in zip(world.documents("validation", seed=seed), range(64), strict=False)
    ]
    chars = across.character_tokenizer(texts)
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    blank = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(chars), hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=160, tie_word_embeddings=True, initializer_range=0.1,
    ))  # fmt: skip

    def nats(weight, alignment):
        model = across.train(
            blank,
            teacher,
            (chars, bpe),
            texts,
            steps=60,
            context=96,
            weight=weight,
            alignment=alignment,
            peak=4e-3,
            seed=seed,
            progress=False,
        ).model
        found = []
        for text in held:
            ids = torch.tensor([across.encode(chars, text)[0][:96]])
            with torch.no_grad():
                found.append(float(model(input_ids=ids, labels=ids).loss))
        return torch.tensor(found)

    return {
        "text alone": lambda: nats(0.0, "characters"),
        "ULD, same index": lambda: nats(1.0, "index"),
        "ULD, same characters": lambda: nats(1.0, "characters"),
    }


def main() -> None:
    kept = Kept("llm-distillation")
    torch.set_num_threads(1)

    def table(
        name, title, make, names, *, against, protocol, better="higher", part=None, file=None
    ):
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
            seeds=SEEDS,
            against=against,
            better=better,
            protocol=protocol,
            progress=False,
        )
        print(done, flush=True)
        done.save(f"llm-{file or name}", command=COMMAND)

    k = f"{BUDGET:,} tokens for every row"
    table("chains", "Running sums: right answers", chains, ["chain", "answer", "random digits for steps", "answer, 3 times the tokens"],
          against="answer", protocol=f"{k} but the last; {JUDGED}")  # fmt: skip
    table("own-texts", "40 more steps: right answers", own_texts, ["before", "data, forward", "data, reverse", "own texts, forward", "own texts, reverse", "half and half, js"],
          against="data, forward", protocol=f"40 steps of 32 texts; {JUDGED}")  # fmt: skip
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
    table(
        "prefix",
        "The next step follows from the last",
        prefixes,
        list(PREFIXES),
        against="right so far",
        protocol=f"students of {WEAK:,} tokens; {JUDGED}, half of the chain given",
    )
    heats = [
        f"{what}, temperature {t}" for t in (1.0, 0.3) for what in ("one chain", f"vote of {VOTES}")
    ]
    table(
        "votes",
        f"Students of {WEAK:,} tokens: right answers",
        voting,
        ["the likeliest chain", *heats],
        against="the likeliest chain",
        protocol=JUDGED,
    )
    table("tasks", "Two tasks behind one sign: right answers", together, ["one student for each task", "one student, both tasks", "one student, running sums only"],
          against="one student for each task", protocol="320,000 tokens in all, the last row 160,000; 200 new prompts, half of each task")  # fmt: skip
    table("uld", "Across tokenizers: nats for a character", characters, ["text alone", "ULD, same index", "ULD, same characters"],
          against="text alone", better="lower", protocol="60 steps of 16 texts of 96 characters; 64 validation texts")  # fmt: skip


if __name__ == "__main__":
    main()
