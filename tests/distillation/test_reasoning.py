"""The serial world against plain loops: what is drawn, what is scored, what tokens are counted,
what is answered.
"""

import pytest
import torch

from course_utils.distillation import reasoning
from course_utils.distillation.trainer import IGNORED
from course_utils.errors import CompressionError

PROMPTS = reasoning.draw(60, (1, 4, 7, 10), seed=3)
OTHER = reasoning.World(3, 7, 4)


def sums(digits):
    return [sum(digits[: i + 1]) % 10 for i in range(len(digits))]


def test_draws_have_the_lengths_that_were_asked_for():
    assert sorted(len(p) for p in PROMPTS) == [1] * 15 + [4] * 15 + [7] * 15 + [10] * 15
    assert (
        reasoning.draw(60, (1, 4, 7, 10), seed=3)
        == PROMPTS
        != reasoning.draw(60, (1, 4, 7, 10), seed=4)
    )
    assert sorted(len(p) for p in reasoning.draw(5, (2, 3), seed=0)) == [2, 2, 2, 3, 3]
    counts = torch.bincount(
        torch.tensor(sum(reasoning.draw(2000, (10,), seed=0), [])), minlength=10
    )
    assert ((counts - 2000).abs() < 5 * 42.4).all(), "ten digits alike, at five deviations"
    for bad in ((0, (4,)), (3, ()), (3, (0,)), (3, (11,))):
        with pytest.raises(CompressionError, match="lengths"):
            reasoning.draw(*bad)


def test_a_chain_lists_the_running_sums_and_other_rules_their_states():
    for digits in PROMPTS:
        assert reasoning.SUMS.chain(digits) == sums(digits)
        state = 0
        for digit, got in zip(digits, OTHER.chain(digits), strict=True):
            state = (3 * state + 7 * digit + 4) % 10
            assert got == state


@pytest.mark.parametrize("form", reasoning.FORMS)
def test_rows_are_prompt_steps_answer_end_and_only_what_follows_the_prompt_is_scored(form):
    rows = reasoning.build(PROMPTS, form, seed=5)
    assert rows.ids.shape == rows.labels.shape and len(rows) == len(PROMPTS)
    real = 0
    for ids, labels, digits in zip(rows.ids.tolist(), rows.labels.tolist(), PROMPTS, strict=True):
        field = "".join(map(str, digits)).ljust(10, "_")
        said = reasoning.text(ids)
        head, tail = said.split("=")
        steps, answer = tail.split(":")
        assert head == field and answer == f"{sums(digits)[-1]}."
        wanted = "".join(map(str, sums(digits)))
        if form == "shuffled":
            assert sorted(steps) == sorted(wanted)
        else:
            assert len(steps) == (0 if form == "answer" else len(digits)) and (
                steps == wanted or form != "chain"
            )
        for place, (one, label) in enumerate(zip(ids, labels, strict=True)):
            assert label == (one if 11 <= place < len(said) else IGNORED)
            assert (one == reasoning.PAD) == (place >= len(said))
        real += len(said)
    assert rows.tokens == real
    assert torch.equal(rows.ids, reasoning.build(PROMPTS, form, seed=5).ids)


def test_controls_are_wrong_and_as_long_as_the_chain():
    chain, noise, shuffled = (
        reasoning.build(PROMPTS, form) for form in ("chain", "noise", "shuffled")
    )
    assert torch.equal(chain.mask, noise.mask) and torch.equal(chain.mask, shuffled.mask)
    long = torch.tensor([len(p) == 10 for p in PROMPTS])
    for other in (noise, shuffled):
        assert (other.ids[long] != chain.ids[long]).any(1).all(), (
            "ten random steps are the chain once in 10^10"
        )
        assert (other.ids[long, 21:24] == chain.ids[long, 21:24]).all(), (
            "mark, answer and end are the chain's"
        )


def test_steps_within_a_budget_by_brute_force():
    rows = reasoning.build(PROMPTS)
    lengths = [len(reasoning.text(ids)) for ids in rows.ids]
    for batch, budget in ((7, 1000), (16, 5000), (60, 4000), (1, 40)):
        order = [i for epoch in range(9) for i in reasoning.batch_rows(epoch, 60, 60, 2).tolist()]
        read, steps = 0, 0
        while (
            read + (more := sum(lengths[i] for i in order[steps * batch : (steps + 1) * batch]))
            <= budget
        ):
            read, steps = read + more, steps + 1
        assert reasoning.steps_within(rows, budget, batch=batch, seed=2) == steps > 0
    assert reasoning.steps_within(rows, rows.tokens, batch=60) == 1
    with pytest.raises(CompressionError, match="tokens"):
        reasoning.steps_within(rows, rows.tokens - 1, batch=60)


def test_bad_rows_and_prompts_are_refused():
    for bad in ([], [1] * 11, [10], [-1]):
        with pytest.raises(CompressionError, match="digits"):
            reasoning.prompt(bad)
    with pytest.raises(CompressionError, match="pairs"):
        reasoning.pad([])
    with pytest.raises(CompressionError, match="row 1"):
        reasoning.pad([([1], [1]), ([1, 2], [1])])
    with pytest.raises(CompressionError, match="form"):
        reasoning.build(PROMPTS, "steps")
    with pytest.raises(CompressionError, match="temperature"):
        reasoning.write(reasoning.student(), PROMPTS, temperature=-1.0)


def test_an_answer_stands_between_mark_and_end():
    read = {
        "348:8.": 8,
        ":0.": 0,
        "34:6": None,
        "346.": None,
        "34::.": None,
        "3:8.:9.": 8,
        ".": None,
        "3:.": None,
        "38:88.": None,
        "": None,
    }
    for said, answer in read.items():
        assert (
            reasoning.answer_of([reasoning.SYMBOLS.index(c) for c in said] + [reasoning.PAD] * 3)
            == answer
        ), said


def test_what_is_written_is_what_the_model_likes_best_token_by_token():
    model = reasoning.student(4)
    written = reasoning.write(model, PROMPTS[:9], batch=4)
    for digits, row in zip(PROMPTS[:9], written.tolist(), strict=True):
        ids, ended = reasoning.prompt(digits), False
        for got in row:
            with torch.no_grad():
                best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            assert got == (reasoning.PAD if ended else best)
            ended = ended or best == reasoning.END
            ids.append(best)
    one, two, again = (reasoning.write(model, PROMPTS, temperature=1.0, seed=s) for s in (0, 1, 0))
    assert torch.equal(one, again) and not torch.equal(one, two)


def test_right_answers_are_those_of_the_world():
    rows = reasoning.build(PROMPTS, world=OTHER)
    written = rows.ids[:, 11:]
    assert reasoning.right(written, PROMPTS, OTHER).tolist() == [1.0] * 60
    plain = reasoning.right(written, PROMPTS).tolist()
    assert plain == [float(OTHER.chain(p)[-1] == sums(p)[-1]) for p in PROMPTS]


def test_training_counts_real_tokens_and_continues_where_it_was_stopped(tmp_path, monkeypatch):
    rows, student = reasoning.build(PROMPTS), reasoning.student(1, hidden=16, mlp=16, heads=2)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    settings = {"tokens": 9000, "batch": 16, "every": 5}
    whole = reasoning.train(student, rows, **settings)
    steps = reasoning.steps_within(rows, 9000, batch=16)
    read = sum(int(rows.mask[reasoning.batch_rows(s, 60, 16, 0)].sum()) for s in range(steps))
    assert whole.settings["tokens"] == read <= 9000 < read + 16 * 24 and whole.step == steps
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())

    class Stopped(Exception):
        pass

    real, calls = reasoning.trainer.view, []

    def until(*arguments):
        calls.append(1)
        if len(calls) > 12:
            raise Stopped
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(reasoning.trainer, "view", until)
        with pytest.raises(Stopped):
            reasoning.train(student, rows, folder=tmp_path, **settings)
    calls.clear()
    rest = reasoning.train(student, rows, folder=tmp_path, **settings)
    for a, b in zip(
        whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", ["chain", "answer"])
def test_with_steps_the_world_is_learned_without_them_it_is_not(form):
    world = reasoning.World(1, 3, 0)
    rows = reasoning.build(reasoning.draw(1500, (8, 10), seed=1), form, world=world)
    made = reasoning.train(reasoning.student(0), rows, tokens=190_000)
    reached = reasoning.accuracy(made.model, reasoning.draw(200, (9,), seed=2), world)
    assert reached >= 0.9 if form == "chain" else reached <= 0.25, reached
