"""Students that start from their teacher: any architecture, nothing lost where nothing is cut."""

import pytest
import torch

from course_utils.distillation import narrow, students
from course_utils.errors import CompressionError
from course_utils.models import walk


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt", "gpt2"])
def test_layers_are_the_teachers(make, ids, kind, tmp_path):
    teacher = make(kind)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    student = students.from_layers(teacher, [0, -1])
    assert len(walk.blocks(student)) == student.config.num_hidden_layers == 2
    for mine, theirs in zip(
        walk.blocks(student), (walk.blocks(teacher)[0], walk.blocks(teacher)[3]), strict=True
    ):
        for (name, a), b in zip(
            mine.state_dict().items(), theirs.state_dict().values(), strict=True
        ):
            assert torch.equal(a, b) and a.data_ptr() != b.data_ptr(), name
    # by hand: the teacher with its middle blocks switched off
    handles = [
        walk.blocks(teacher)[i].register_forward_hook(
            lambda m, args, kwargs, out: (args[0], *out[1:]) if isinstance(out, tuple) else args[0],
            with_kwargs=True,
        )
        for i in (1, 2)
    ]
    wanted = logits(teacher, ids)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits(student, ids), wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    student.generation_config.pad_token_id = 1
    # the cache has two layers
    out = student.generate(input_ids=ids[:1], max_new_tokens=4, do_sample=False, eos_token_id=-1)
    assert out.shape[1] == ids.shape[1] + 4
    student.save_pretrained(tmp_path)
    again = type(student).from_pretrained(tmp_path)
    assert torch.equal(logits(again, ids), logits(student, ids))


def test_repeated_layers_make_a_deeper_student(make, ids):
    student = students.from_layers(make(), [0, 1, 1, 2, 3])
    first, second = walk.blocks(student)[1], walk.blocks(student)[2]
    with torch.no_grad():
        next(first.parameters()).add_(1)
    # copies, not the same tensors
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    assert logits(student, ids).isfinite().all()


def test_evenly(make):
    teacher = make(layers=5)
    assert [students.evenly(teacher, n) for n in (1, 2, 3, 5)] == [
        [0],
        [0, 4],
        [0, 2, 4],
        [0, 1, 2, 3, 4],
    ]
    for wrong in (0, 6):
        with pytest.raises(CompressionError, match=f"n={wrong}"):
            students.evenly(teacher, wrong)
    for layers in ([], [5], [-6]):
        with pytest.raises(CompressionError, match="layers"):
            students.from_layers(teacher, layers)


def spread_norms(model, seed=0):
    """Norm weights that differ, so that a wrong fold shows."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "norm" in name:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=g))
    return model


@pytest.mark.parametrize("method", narrow.METHODS)
def test_turning_without_cutting_changes_nothing(make, ids, method):
    """Qwen2 here has its own output head and biases: the rotation is exact."""
    teacher = spread_norms(make("qwen2"))
    turned = narrow.narrow(teacher, ids, hidden=32, method=method)
    torch.testing.assert_close(logits(turned, ids), logits(teacher, ids), rtol=1e-4, atol=1e-4)


def test_turning_a_tied_head_is_exact_for_plain_norms(make, ids):
    teacher = make("llama")
    turned = narrow.narrow(teacher, ids, hidden=32)
    assert turned.get_output_embeddings().weight is turned.get_input_embeddings().weight
    torch.testing.assert_close(logits(turned, ids), logits(teacher, ids), rtol=1e-4, atol=1e-4)


def test_a_stream_of_low_rank_is_cut_without_loss(make, ids):
    """If everything that is written to the stream lies in 12 directions, 12 features are enough."""
    teacher = spread_norms(make("qwen2"))
    plane = torch.linalg.qr(torch.randn(32, 12, generator=torch.Generator().manual_seed(1)))[0]
    onto = plane @ plane.T
    with torch.no_grad():
        teacher.get_input_embeddings().weight.copy_(teacher.get_input_embeddings().weight @ onto)
        for block in walk.blocks(teacher):
            for layer in (block.self_attn.o_proj, block.mlp.down_proj):
                layer.weight.copy_(onto @ layer.weight)
    small = narrow.narrow(teacher, ids, hidden=12)
    assert small.config.hidden_size == 12 and students.parameters(
        small
    ) < 0.5 * students.parameters(teacher)
    torch.testing.assert_close(logits(small, ids), logits(teacher, ids), rtol=1e-3, atol=1e-3)
    by_coordinate = narrow.narrow(teacher, ids, hidden=12, method="importance")
    # the directions are not the axes
    assert (logits(by_coordinate, ids) - logits(teacher, ids)).abs().max() > 0.1


def test_directions_are_an_orthogonal_basis_by_energy(make, ids):
    basis, energy = narrow.directions(make(), ids)
    torch.testing.assert_close(
        basis.T @ basis, torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-10
    )
    assert (energy.diff() <= 1e-12).all()
    assert float(energy.sum()) == pytest.approx(32, rel=1e-6)


def test_all_widths_together(make, ids):
    student = students.from_layers(make(), [0, 3], hidden=16, mlp=24, heads=2, calibration=ids)
    config = student.config
    assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == (16, 24, 2)
    assert config.num_key_value_heads == 1 and config.head_dim == 8
    assert logits(student, ids).isfinite().all()


def test_what_cannot_be_narrowed_is_said(make, ids):
    for kind in ("opt", "gpt2"):
        with pytest.raises(CompressionError, match="RMS norms"):
            narrow.narrow(make(kind), ids, hidden=16)
    for call, word in (
        (lambda: students.from_layers(make(), [0], hidden=16), "calibration"),
        (lambda: narrow.narrow(make(), ids, hidden=40), "hidden=40"),
        (lambda: narrow.narrow(make(), ids, hidden=16, method="svd"), "method"),
        (lambda: narrow.narrow(make(), ids, heads=3), "keep"),
        (lambda: students.bundled(make(), "half", ids), "size"),
    ):
        with pytest.raises(CompressionError, match=word):
            call()


def test_norms_of_another_kind_are_noticed():
    class OnePlus(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((8,), 0.5))

        def forward(self, x):
            return x * x.square().mean(-1, keepdim=True).rsqrt() * (1 + self.weight)

    assert not narrow.is_rms_norm(OnePlus())
    assert not narrow.is_rms_norm(torch.nn.LayerNorm(8)) and not narrow.is_rms_norm(None)
    assert narrow.is_rms_norm(torch.nn.RMSNorm(8))
