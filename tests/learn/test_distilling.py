"""The learner's losses inside the trainer: they do what the course's own objectives do."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.distillation import objectives, train
from course_utils.learn.distilling import OwnLosses, twins
from course_utils.learn.exercises.formalization import distillation_losses as exercises
from course_utils.theory.intervals import interval


def tiny(seed, layers, hidden, heads=2):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=50, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("narrow", [16, 24])
def test_own_losses_are_those_of_the_course(narrow):
    """Narrower with fewer heads, and of equal shape, with padding; the projectors of both are given
    the same values.
    """
    student, teacher = tiny(0, 2, narrow), tiny(1, 4, 24, 4 if narrow == 16 else 2)
    ids = torch.randint(2, 50, (8, 10), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[::2, 7:] = False
    own = OwnLosses(
        student,
        teacher,
        exercises.response,
        exercises.feature,
        exercises.attention,
        temperature=3.0,
        alpha=0.3,
    )
    feature = objectives.Feature(student, teacher)
    for projector, mine in zip(feature.projectors, own.projectors, strict=True):
        if narrow != 24:
            projector.weight.data.copy_(mine.data)
    course = objectives.Sum(
        objectives.Response(3.0, 0.3), feature, objectives.Attention(student, teacher)
    )
    assert own.needs == course.needs and len(own.projectors) == 2
    first = [
        train(
            student, teacher, ids, mask=mask, loss=loss, steps=1, every=1, batch=8, progress=False
        ).history[0]
        for loss in (own, course)
    ]
    for name in ("loss", "response", "feature", "attention"):
        assert first[0][name] == pytest.approx(first[1][name], rel=1e-4), name


def test_only_what_is_given_is_asked_for():
    student, teacher = tiny(0, 1, 16), tiny(1, 2, 24)
    only = OwnLosses(student, teacher, exercises.response)
    assert only.needs == frozenset() and not list(only.parameters())
    looking = OwnLosses(
        student, teacher, exercises.response, attention=exercises.attention, weight=2.0
    )
    assert looking.needs == {"attention"} and not list(looking.parameters())
    ids = torch.randint(2, 50, (4, 6), generator=torch.Generator().manual_seed(3))
    lines = [
        train(student, teacher, ids, loss=OwnLosses(student, teacher, exercises.response,
            attention=exercises.attention, weight=w), steps=1, progress=False).history[0]
        for w in (1.0, 2.0)
    ]  # fmt: skip
    assert (
        lines[1]["attention"] == pytest.approx(2 * lines[0]["attention"])
        and lines[1]["response"] == lines[0]["response"]
    )


def test_a_right_loop_beats_its_twin_and_wrong_ones_do_not():
    """The gain's interval is above 0 for the right loop; a step too short, no teacher and no
    training are not enough.
    """

    def loop(student, teacher, batches, temperature, rate):
        for x in batches:
            s, t = ((x @ w.T / temperature).softmax(-1) for w in (student, teacher))
            student = student - rate * temperature * (s - t).T @ x / len(x)
        return student

    def low(distil):
        middle, half = interval([taught - alone for alone, taught in twins(distil)])
        return middle - half

    assert low(loop) > 0.02
    assert low(lambda s, t, b, tau, rate: loop(s, t, b, tau, rate / tau**2)) < 0  # τ² forgotten
    # a teacher as sure as a label
    assert low(lambda s, t, b, tau, rate: loop(s, 100 * t, b, tau, rate)) < 0
    assert low(lambda s, t, b, tau, rate: s) < 0
