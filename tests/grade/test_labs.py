"""What stands around the learner's functions in a lab: waiting cells, the layer adapter, the
checkpoint check.
"""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.errors import CompressionError
from course_utils.grade import judge, lab, sandbox
from course_utils.grade.submission import Submission
from course_utils.grade.warm import Zygote
from course_utils.learn.checks import labs
from course_utils.learn.exercises.formalization import gptq as exercises
from course_utils.learn.page import catalogue
from course_utils.quantization import gptq, load, rtn


def unwritten(**_):
    raise NotImplementedError


def test_a_cell_waits_for_unwritten_and_wrong_work(capsys):
    assert not labs.ready({"gptq.hessian": unwritten, "gptq.pack_int4": lambda codes: codes})
    said = capsys.readouterr().out
    assert "The Hessian of a layer: not attempted yet" in said
    assert "Two codes in one byte: not right yet" in said


def test_a_cell_runs_when_all_is_right(capsys):
    assert labs.ready({"gptq.hessian": exercises.hessian, "gptq.pack_int4": exercises.pack_int4})
    assert capsys.readouterr().out == ""


@pytest.fixture
def layer():
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(300, 32, generator=rng) @ torch.randn(32, 32, generator=rng)
    x[:, 5] = 0  # an input that never occurs
    return torch.randn(8, 32, generator=rng).double(), gptq.hessian(x.double())


@pytest.mark.parametrize(("bits", "group_size"), [(2, 8), (3, 16), (4, -1), (8, None)])
def test_the_adapted_function_equals_the_course(layer, bits, group_size):
    weight, H = layer
    before = weight.clone()
    settings = {"bits": bits, "group_size": group_size, "damping": 0.05, "never_worse": False}
    mine = labs.gptq_layer(exercises.quantize_layer)(
        weight, H, **settings, act_order=False, block_size=128
    )
    # ranges when a group begins, as the lab asks
    course = gptq.quantize_layer(weight, H, **settings, block_size=1)
    assert mine.codes.equal(course.codes) and mine.grid.scale.equal(course.grid.scale)
    assert mine.grid.zero_point.equal(course.grid.zero_point) and torch.allclose(
        mine.weight, course.weight, atol=1e-12
    )
    assert weight.equal(before)


def test_never_worse_keeps_rounding(layer):
    weight, H = layer

    def poor(weight, H, bits, group_size):
        result = rtn.quantize_layer(weight, bits=bits, group_size=group_size)
        return result.codes.flip(1), result.grid.scale, result.grid.zero_point

    rounded = rtn.quantize_layer(weight, bits=4, group_size=8)
    assert labs.gptq_layer(poor)(weight, H, bits=4, group_size=8).codes.equal(rounded.codes)
    assert not labs.gptq_layer(poor)(
        weight, H, bits=4, group_size=8, never_worse=False
    ).codes.equal(rounded.codes)


def test_settings_that_a_lab_does_not_have_are_refused(layer):
    for name in ("act_order", "symmetric", "static_groups"):
        with pytest.raises(CompressionError, match=name):
            labs.gptq_layer(exercises.quantize_layer)(*layer, **{name: True})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda q, s, z: (q, s, z[:, :1]), "shapes"),
        (lambda q, s, z: (q[0], s, z), "shapes"),
        (lambda q, s, z: (q[:, :7], s, z), "do not divide"),
        (lambda q, s, z: (q, -s, z), "positive"),
        (lambda q, s, z: (q, s * float("nan"), z), "positive"),
        (lambda q, s, z: (q + 9, s, z), "codes: must be whole numbers from 0 to 15"),
        (lambda q, s, z: (q.double() + 0.5, s, z), "codes"),
        (lambda q, s, z: (q, s, z + 0.5), "zero_point"),
        (lambda q, s, z: (q, s, z - 99), "zero_point"),
    ],
)
def test_results_that_cannot_be_packed_are_refused(change, said):
    good = (
        torch.tensor([[1, 15, 7, 9, 3, 3, 14, 0]] * 2),
        torch.rand(2, 2).double() + 0.1,
        torch.tensor([[3.0, 0.0]] * 2),
    )
    assert labs.layer_result(*good, 4).weight.shape == (2, 8)
    with pytest.raises(CompressionError, match=said):
        labs.layer_result(*change(*good), 4)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_code_of_the_widest_kind_is_accepted(bits):
    codes = torch.full((1, 4), 2**bits - 1, dtype=torch.uint8)
    assert labs.layer_result(codes, torch.ones(1, 1), torch.zeros(1, 1), bits).weight.tolist() == [
        [2.0**bits - 1] * 4
    ]


def quantized(model, calibration, bits, group_size, layer):
    return gptq.quantize(model, calibration, bits=bits, group_size=group_size, quantize_layer=layer)


def right(model, calibration, folder, bits, group_size, layer):
    written = quantized(model, calibration, bits, group_size, layer).save(folder)
    return written, load(folder)


def right_and_counted(model, calibration, folder, bits, group_size, layer):
    print("a learner may print")
    quantized(model, calibration, bits, group_size, layer).save(folder)
    return [sum(file.stat().st_size for file in folder.iterdir()), load(str(folder))]


def with_model(change):
    def make(model, calibration, folder, bits, group_size, layer):
        made = quantized(model, calibration, bits, group_size, layer)
        return made.save(folder), change(made, folder, model)

    return make


def forged(made, folder, model):
    """The model in memory under the name of the folder."""
    made.model.name_or_path = made.model.config._name_or_path = str(folder)
    return made.model


def rounding(model, calibration, folder, bits, group_size, layer):
    return rtn.quantize(model, bits=bits, group_size=group_size).save(folder), load(folder)


def own_settings(model, calibration, folder, bits, group_size, layer):
    return gptq.quantize(
        model, calibration, bits=bits + 1, quantize_layer=layer, group_size=8
    ).save(folder), load(folder)


def default_layer(model, calibration, folder, bits, group_size, layer):
    return right(model, calibration, folder, bits, group_size, gptq.quantize_layer)


def not_saved(model, calibration, folder, bits, group_size, layer):
    return 1000, quantized(model, calibration, bits, group_size, layer).model


def writes_something_else(model, calibration, folder, bits, group_size, layer):
    made = quantized(model, calibration, bits, group_size, layer).model
    folder.mkdir()
    made.name_or_path = str(folder)
    return (folder / "weights.safetensors").write_text("hello"), made


def keeps_the_weights(model, calibration, folder, bits, group_size, layer):
    written, loaded = right(model, calibration, folder, bits, group_size, layer)
    torch.save(model.state_dict(), folder / "before.bin")
    return written + (folder / "before.bin").stat().st_size, loaded


def changes_the_model(model, calibration, folder, bits, group_size, layer):
    done = right(model, calibration, folder, bits, group_size, layer)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    return done


WRONG = [
    (lambda **_: 5, "not_a_pair"),
    (lambda **_: ("100", None), "not_a_pair"),
    (not_saved, "nothing_written"),
    (lambda **k: (right(**k)[0] - 1, load(k["folder"])), "wrong_bytes"),
    (with_model(lambda made, folder, model: folder), "not_loaded"),
    (with_model(lambda made, folder, model: made.model), "not_from_disk"),
    (with_model(forged), "not_from_disk"),
    (with_model(lambda made, folder, model: model), "not_packed"),
    (writes_something_else, "not_from_disk"),
    (own_settings, "not_packed"),
    (rounding, "layer_unused"),
    (default_layer, "layer_unused"),
    (changes_the_model, "model_changed"),
    (keeps_the_weights, "not_smaller"),
    (lambda **_: 1 / 0, None),
    (lambda model: None, None),
]


@pytest.mark.parametrize("make", [right, right_and_counted])
def test_a_right_checkpoint_passes(make):
    for bits, group_size in ((4, 16), (3, 8)):
        verdict = labs.check_checkpoint(make, bits=bits, group_size=group_size, show=False)
        assert verdict and verdict.message.startswith("Right."), verdict.message


@pytest.mark.parametrize(("make", "mistake"), WRONG)
def test_a_wrong_checkpoint_is_named(make, mistake, capsys):
    verdict = labs.check_checkpoint(make)
    assert verdict.attempted and not verdict and verdict.mistake == mistake, verdict.message
    assert capsys.readouterr().out.startswith("Not yet.")


def test_an_unwritten_checkpoint_is_not_attempted():
    for make in (unwritten, lambda **_: None):
        verdict = labs.check_checkpoint(make, show=False)
        assert not verdict.attempted and "Not attempted yet." in verdict.message


def test_the_learners_layer_makes_a_model_that_writes(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model, ids = LlamaForCausalLM(config).eval(), torch.randint(50, (4, 12))
    layer = labs.gptq_layer(exercises.quantize_layer)
    made = gptq.quantize(model, ids, bits=4, group_size=16, quantize_layer=layer)
    made.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert torch.allclose(loaded(ids).logits, made.model(ids).logits, atol=1e-6)
    assert loaded.generate(
        ids[:1, :3], max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None
    ).shape == (1, 7)


FORGED = """def make_checkpoint(model, calibration, folder, bits, group_size, layer):
    made = gptq.quantize(model, calibration, bits=bits, group_size=group_size, quantize_layer=layer)
    written = made.save(folder)
    made.model.name_or_path = made.model.config._name_or_path = str(folder)
    return written, made.model
"""


def test_the_grader_changes_what_lies_on_the_disk():
    opened, limits = lab.load(catalogue.ROOT, "lab-3.1-gptq"), sandbox.Limits(total=300)
    loaded = FORGED.replace("written, made.model", "written, load(folder)")
    with Zygote(opened.prelude, limits, data=opened.data) as zygote:
        for source, score, said in ((FORGED, 0, "not the one on the disk"), (loaded, 6, "")):
            handed = Submission(answers={"make-checkpoint": source})
            result = judge.grade(opened, handed, zygote.address, limits, seed=5, kind="namespaces")
            (cell,) = [
                cell for cell in result["cells"] if cell["grade_id"] == "make-checkpoint-test"
            ]
            assert cell["score"] == score and said in cell["message"], cell["message"]
