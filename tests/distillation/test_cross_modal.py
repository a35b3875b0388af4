"""Pictures in the places of digits: which places, which vectors, a frozen model; and drivers."""

import copy

import pytest
import torch
from tiny_models import model_of

from course_utils import models
from course_utils.distillation import cross_modal, digits, imitation
from course_utils.errors import CompressionError


@pytest.fixture(scope="module")
def bundled():
    return models.load("bundled")


class Joined:
    """A tokenizer that keeps numbers in one piece."""

    def encode(self, text, add_special_tokens=False):
        return [int(text)]

    def convert_ids_to_tokens(self, ids):
        return [str(i) for i in ids]


def test_digits_are_tokens_of_their_own(bundled):
    ids = cross_modal.digit_tokens(bundled[1])
    assert [bundled[1].decode([i]) for i in ids.tolist()] == list("0123456789")
    with pytest.raises(CompressionError, match="splits numbers into digits"):
        cross_modal.digit_tokens(Joined())


def test_embeddings_in_place_of_digits_are_the_text(bundled):
    model, tokenizer = bundled
    shown = torch.tensor([[3, 7, 4, 5], [9, 0, 1, 8]])
    vectors = cross_modal.digit_embeddings(model, tokenizer)[shown]
    zeros = cross_modal.prompts(tokenizer, torch.zeros_like(shown))
    wanted = model.get_input_embeddings()(cross_modal.prompts(tokenizer, shown).ids)
    torch.testing.assert_close(cross_modal.insert(model, zeros, vectors), wanted)
    assert cross_modal.answers(model, tokenizer, zeros, vectors) == cross_modal.answers(
        model, tokenizer, cross_modal.prompts(tokenizer, shown)
    )
    assert cross_modal.sums(shown) == [82, 108]


def test_each_picture_is_used_once_and_no_number_begins_with_zero():
    names = digits.load(0).test_y
    order = cross_modal.into_sums(names, 100)
    assert len(set(order.tolist())) == 400 and (names[order].view(100, 4)[:, [0, 2]] > 0).all()
    with pytest.raises(CompressionError, match="fewer"):
        cross_modal.into_sums(names, 126)


def test_a_projector_learns_the_embeddings_and_the_model_adds(bundled):
    model, tokenizer = bundled
    data, embeddings = digits.load(0), cross_modal.digit_embeddings(model, tokenizer)
    see = cross_modal.to_embeddings(embeddings, data.train_x, data.train_y, steps=300)
    order = cross_modal.into_sums(data.test_y, 24)
    right = cross_modal.right_sums(model, tokenizer, see, data.test_x[order], data.test_y[order])
    assert float(right.mean()) > 0.7


def test_training_through_the_model_leaves_it_as_it_was(bundled):
    model, tokenizer = bundled
    data, before = digits.load(0), {n: p.clone() for n, p in model.named_parameters()}
    see = cross_modal.Mix(
        digits.network(64, 16, 10), cross_modal.digit_embeddings(model, tokenizer)
    )
    first = [p.clone() for p in see.parameters()]
    cross_modal.through_model(
        model, tokenizer, see, data.train_x[:16], data.train_y[:16], steps=2, batch=4
    )
    assert all(torch.equal(p, before[n]) and p.requires_grad for n, p in model.named_parameters())
    assert any(not torch.equal(a, b) for a, b in zip(see.parameters(), first, strict=True))


def test_a_model_learns_along_only_where_another_one_reads_the_text():
    model, tokenizer = models.load("bundled")
    data, along = digits.load(0), copy.deepcopy(model)
    kept = {name: p.clone() for name, p in model.named_parameters()}
    cross_modal.through_model(
        along, tokenizer, digits.network(64, 16, 256), data.train_x[:16], data.train_y[:16],
        steps=2, batch=2, teacher=model,
    )  # fmt: skip
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())
    moved = [name for name, p in along.named_parameters() if not torch.equal(p, kept[name])]
    assert moved == list(kept), "all of it, the embeddings too"


def test_a_mix_lies_between_the_embeddings():
    table = torch.eye(10)
    assert torch.allclose(
        cross_modal.Mix(digits.network(64, 10), table)(torch.rand(5, 64)).sum(-1), torch.ones(5)
    )


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_vectors_can_stand_in_other_models(kind):
    model = model_of(kind)
    asked = cross_modal.Prompts(torch.tensor([[1, 2, 3, 4]]), torch.tensor([1, 3]))
    inputs = cross_modal.insert(model, asked, torch.ones(1, 2, model.config.hidden_size))
    table = model.get_input_embeddings().weight
    assert torch.equal(inputs[0, [0, 2]], table[[1, 3]]) and (inputs[0, [1, 3]] == 1).all()


def test_the_camera_reveals_offset_and_heading():
    a, b = torch.tensor([[0.2, 0.0]]), torch.tensor([[0.0, 0.5]])  # the same spot in the near row
    near, far = (imitation.camera(s)[0].view(2, -1) for s in (a, b))
    torch.testing.assert_close(near[0], far[0], atol=1e-6, rtol=0)
    assert (near[1] - far[1]).abs().max() > 0.5


def test_the_expert_stays_and_nobody_else():
    assert imitation.drive(imitation.expert, cars=50, noise=0.15).stayed.all()
    assert not imitation.drive(
        lambda view, state: -imitation.expert(view, state), cars=50, noise=0.15
    ).stayed.any()


def test_dagger_has_equal_labels_and_sees_what_the_learner_does():
    (_, cloned), (_, own) = (
        make(labels=200, steps=50, noise=0.1) for make in (imitation.clone, imitation.dagger)
    )
    assert len(cloned) == len(own) == 200
    assert own[:, 0].abs().mean() > 1.3 * cloned[:, 0].abs().mean()
    with pytest.raises(CompressionError, match="divide both"):
        imitation.dagger(labels=201)
