"""What lesson 5.6 makes of the serial world: instructions, the rule and its revision, prefixes that
were made wrong.
"""

import torch

from course_utils.distillation import reasoning
from course_utils.learn import reasoned_by_model as at_work


class Rule(torch.nn.Module):
    """A model that always says the step that follows from the last state written."""

    def forward(self, input_ids, **_):
        out = torch.zeros(*input_ids.shape, len(reasoning.SYMBOLS))
        for row, ids in enumerate(input_ids.tolist()):
            for t in range(reasoning.WIDTH, len(ids)):
                done = t - reasoning.WIDTH
                state = ids[t] if done else 0
                if state == reasoning.MARK:
                    out[row, t, ids[t - 1]] = 1  # the answer is the last step
                if done < reasoning.WIDTH and ids[done] < 10 and state < 10:
                    out[row, t, reasoning.SUMS.step(state, ids[done])] = 1
        return type("Out", (), {"logits": out})


def test_each_instruction_has_its_own_chain():
    assert at_work.states([0, 3, 1, 4]) == [3, 4, 8] and at_work.states([1, 3, 1, 4]) == [3, 8, 6]
    prompts = at_work.instructed(6, seed=3)
    assert [p[0] for p in prompts] == [0, 1] * 3 and all(5 <= len(p) <= 10 for p in prompts)
    rows = at_work.of_instructions([[1, 3, 1, 4]])
    assert reasoning.text(rows.ids[0].tolist()) == "1314______=386:6."


def test_a_revision_breaks_no_rule_and_changes_nothing_else():
    written = reasoning.build([[3, 4, 5, 5]]).ids[0, 11:].tolist()
    assert reasoning.text(written) == "3727:7." and at_work.critique(written) == [1, 3]
    revised = at_work.revision(written)
    assert reasoning.text(revised) == "3_2_:7." and at_work.critique(revised) == []
    rows = at_work.of_written([[3, 4, 5, 5], [1, 1]], [revised, [1, 2]])
    assert len(rows) == 1 and reasoning.text(rows.ids[0].tolist()) == "3455______=3_2_:7."


def test_a_rule_follows_from_right_and_from_wrong_prefixes():
    prompts = reasoning.draw(12, seed=1)
    for wrong in (False, True):
        assert at_work.next_steps(Rule(), prompts, wrong=wrong).tolist() == [1.0] * 12
    assert [part.tolist() for part in at_work.by_token(Rule(), prompts)] == [[1.0] * 12] * 2


def test_digits_and_whole_chains_are_counted():
    class Fours(torch.nn.Module):
        def forward(self, input_ids, **_):
            return type(
                "Out",
                (),
                {"logits": torch.nn.functional.one_hot(torch.full_like(input_ids, 4), 15)},
            )

    share, whole = at_work.by_token(Fours(), [[4, 0, 0], [3, 1, 2], [1, 1, 1, 1]])
    torch.testing.assert_close(share, torch.tensor([1.0, 0.25, 0.4]))  # 444:4, 346:6, 1234:4
    assert whole.tolist() == [1.0, 0.0, 0.0]
