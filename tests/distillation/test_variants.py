"""Each arrangement does what its name says, shown on tiny models or by hand-computed losses."""

import copy

import pytest
import torch

from course_utils.distillation import compare, losses, objectives, students, train, variants, views
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.data import mean_loss
from course_utils.quantization import QuantizedLinear, rtn
from course_utils.quantization import load as load_compressed

QUIET = {"progress": False, "batch": 4, "every": 1}


@pytest.fixture
def teacher(make):
    return make(layers=4)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits[:, :-1]


def far(model, teacher, ids):
    return float(losses.kl(logits(model, ids), logits(teacher, ids)))


# the objectives


def batch_of(ids):
    return objectives.Batch(
        torch.arange(len(ids)), ids, None, ids[:, 1:], torch.ones_like(ids[:, 1:], dtype=torch.bool)
    )


def test_objectives_are_their_losses(make, teacher, ids):
    student = students.from_layers(teacher, [0, 3])
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    batch = batch_of(ids)
    with torch.no_grad():
        s, t = (views.view(m, ids, needs=views.INSIDE) for m in (student, teacher))
        full = [
            m(input_ids=ids, output_hidden_states=True, output_attentions=True)
            for m in (student, teacher)
        ]
    for shown, out, model in ((s, full[0], student), (t, full[1], teacher)):
        for mine, theirs in zip(shown.hidden[:-1], out.hidden_states[:-1], strict=True):
            assert torch.equal(mine, theirs)
        torch.testing.assert_close(views.read_out(model, shown.hidden[-1]), out.logits)
        assert all(torch.equal(a, b) for a, b in zip(shown.attention, out.attentions, strict=True))
    pairs = objectives.layer_pairs(student, teacher)
    assert pairs == [(0, 1), (1, 3)]
    feature = objectives.Feature(student, teacher, weight=3.0)(s, t, batch)["feature"]
    wanted = (
        sum(losses.feature(s.hidden[i + 1], t.hidden[j + 1], relative=True) for i, j in pairs) / 2
    )
    assert float(feature) == pytest.approx(3 * float(wanted), rel=1e-6)
    attention = objectives.Attention(student, teacher, pairs=[(1, 2)])(s, t, batch)["attention"]
    assert float(attention) == pytest.approx(
        float(losses.attention_maps(s.attention[1], t.attention[2])), rel=1e-6
    )
    values = objectives.ValueRelations(student, teacher, heads=2)(s, t, batch)["values"]
    assert float(values) == pytest.approx(
        float(losses.value_relations(s.values[1], t.values[3], 2)), rel=1e-6
    )
    both = objectives.Sum(objectives.Labels(), objectives.Response(3.0, 0.2, "reverse"))(
        s, t, batch
    )
    ce = losses.cross_entropy(s.logits[:, :-1], ids[:, 1:])
    mixed = 0.2 * ce + 0.8 * 9 * losses.reverse_kl(s.logits[:, :-1], t.logits[:, :-1], 3.0)
    assert float(both["labels"]) == pytest.approx(float(ce)) and float(
        both["response"]
    ) == pytest.approx(float(mixed), rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt", "gpt2"])
def test_values_are_seen_in_every_architecture(make, ids, kind):
    model = make(kind)
    with torch.no_grad():
        shown = views.view(model, ids, needs={"values", "hidden"})
        block = walk.blocks(model)[1]
        norm = next(
            m
            for n, m in block.named_children()
            if n in ("input_layernorm", "self_attn_layer_norm", "ln_1")
        )
        layer = next(m for n, m in walk.linears(block).items() if n.endswith(("v_proj", "c_attn")))
        wanted = layer(norm(shown.hidden[1]))
    torch.testing.assert_close(shown.values[1], wanted[..., -shown.values[1].shape[-1] :])
    torch.testing.assert_close(views.read_out(model, shown.hidden[-1]), shown.logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# progressive


def test_assistants_teach_each_other(make, teacher, ids):
    chain = [students.from_layers(teacher, [0, 1, 3]), students.from_layers(teacher, [0, 3])]
    first, second = variants.assistants(chain, teacher, ids, steps=3, **QUIET)
    by_hand = train(chain[1], first.model, ids, steps=3, **QUIET)
    assert all(
        torch.equal(a, b)
        for a, b in zip(by_hand.model.parameters(), second.model.parameters(), strict=True)
    )
    with pytest.raises(CompressionError, match="chain"):
        variants.assistants([], teacher, ids)


def test_growing_keeps_what_was_learned(make, teacher, ids):
    small = train(students.from_layers(teacher, [0, 3]), teacher, ids, steps=3, **QUIET).model
    taller = variants.grow(small, [0, 3], teacher, [0, 2, 3])
    blocks, old = walk.blocks(taller), walk.blocks(small)
    for mine, source in (
        (blocks[0], old[0]),
        (blocks[1], walk.blocks(teacher)[2]),
        (blocks[2], old[1]),
    ):
        assert all(
            torch.equal(a, b) for a, b in zip(mine.parameters(), source.parameters(), strict=True)
        )
    assert torch.equal(taller.model.norm.weight, small.model.norm.weight)
    assert torch.equal(taller.get_input_embeddings().weight, small.get_input_embeddings().weight)
    results = variants.growing(teacher, ids, stages=[[0], [0, 3], [0, 1, 3]], steps=2, **QUIET)
    assert [len(walk.blocks(r.model)) for r in results] == [1, 2, 3]
    with pytest.raises(CompressionError, match="has="):
        variants.grow(small, [0, 3], teacher, [0, 2])


# self


def test_born_again_generations(make, teacher, ids):
    student = make(seed=4, layers=1)
    results = variants.born_again(student, ids, generations=2, steps=3, **QUIET)
    by_hand = train(student, results[1].model, ids, steps=3, **QUIET)
    assert all(
        torch.equal(a, b)
        for a, b in zip(by_hand.model.parameters(), results[2].model.parameters(), strict=True)
    )
    with pytest.raises(CompressionError, match="generations"):
        variants.born_again(student, ids, generations=0)


def test_deep_to_shallow_gives_models_of_every_depth(make, ids):
    model = make(seed=2, layers=3)
    options = {"steps": 60, "peak": 3e-3, "batch": 8, "every": 60, "progress": False}
    plain = train(model, None, ids, loss="labels", **options).model
    taught = variants.deep_to_shallow(model, ids, **options).model
    for depth in (1, 2):
        cut = [mean_loss(students.from_layers(m, range(depth)), ids) for m in (plain, taught)]
        assert cut[1] < cut[0] - 0.3, depth
    assert mean_loss(taught, ids) < mean_loss(model, ids) - 0.3


def test_exits_loss_by_hand(make, ids):
    model = make(layers=3)
    with torch.no_grad():
        shown = views.view(model, ids, needs={"hidden"})
        found = objectives.Exits(3.0, 0.4)(shown, None, batch_of(ids))
        early = [logits(students.from_layers(model, range(d)), ids) for d in (1, 2)]
    wanted = sum(losses.response(z, shown.logits[:, :-1], ids[:, 1:], 3.0, 0.4) for z in early) / 2
    assert float(found["exits"]) == pytest.approx(float(wanted), rel=1e-5)


# several teachers, and peers


def test_several_teachers_by_confidence(make, ids):
    """One teacher knows these sentences, the other is random: confidence finds out which."""
    expert = train(
        make(seed=1, layers=1),
        None,
        ids,
        loss="labels",
        steps=120,
        peak=1e-2,
        batch=8,
        every=120,
        progress=False,
    )
    assert mean_loss(expert.model, ids) < 1.5
    teachers, student = [expert.model, make(seed=2, layers=1)], make(seed=3, layers=1)
    options = {"steps": 60, "peak": 1e-2, "batch": 8, "every": 60, "progress": False, "alpha": 0.0}
    reached = {
        weighting: far(
            variants.several_teachers(student, teachers, ids, weighting=weighting, **options).model,
            expert.model,
            ids,
        )
        for weighting in ("uniform", "label")
    }
    assert reached["label"] < 0.75 * reached["uniform"]
    with pytest.raises(CompressionError, match="takes a list"):
        train(student, expert.model, ids, loss=objectives.Mixture(), steps=1, progress=False)
    with pytest.raises(CompressionError, match="weighting"):
        variants.several_teachers(student, teachers, ids, weighting="best", steps=1, progress=False)


def test_two_equal_teachers_are_one(make, teacher, ids):
    student = make(seed=3, layers=1)
    one = train(student, teacher, ids, steps=3, **QUIET)
    for weighting in ("uniform", "entropy", "label"):
        two = variants.several_teachers(
            student, [teacher, teacher], ids, weighting=weighting, steps=3, **QUIET
        )
        for a, b in zip(one.history, two.history, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)


def test_mutual_learning_first_loss_by_hand_and_agreement(make, ids):
    peers = [make(seed=s, layers=1) for s in (1, 2, 3)]
    result = variants.mutual(
        peers, ids, steps=1, batch=len(ids), every=1, temperature=2.0, progress=False
    )
    z = [logits(p, ids) for p in peers]
    for i in range(3):
        others = [float(losses.kl(z[i], z[j], 2.0)) for j in range(3) if j != i]
        wanted = float(losses.cross_entropy(z[i], ids[:, 1:])) + 4 * sum(others) / 2
        assert result[0].history[0][f"peer {i}"] == pytest.approx(wanted, rel=1e-5)
    options = {"steps": 60, "batch": 8, "every": 60, "peak": 3e-3, "progress": False}
    apart, together = (variants.mutual(peers, ids, weight=w, **options) for w in (0.0, 1.0))
    gaps = [far(group[0].model, group[1].model, ids) for group in (apart, together)]
    assert gaps[1] < 0.75 * gaps[0]  # peers that teach each other end up alike
    with pytest.raises(CompressionError, match="at least two"):
        variants.mutual(peers[:1], ids)


def test_mutual_learning_resumes(make, ids, tmp_path, monkeypatch):
    peers = [make(seed=s, layers=1) for s in (1, 2)]
    options = {"steps": 6, "batch": 4, "every": 2, "progress": False}
    whole = variants.mutual(peers, ids, **options)
    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def kill(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return clip(*args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", kill)
        with pytest.raises(KeyboardInterrupt):
            variants.mutual(peers, ids, folder=tmp_path, **options)
    again = variants.mutual(peers, ids, folder=tmp_path, **options)
    for a, b in zip(whole, again, strict=True):
        assert all(
            torch.equal(p, q)
            for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True)
        )
    for cohort, data, name in ((peers[::-1], ids, "cohort"), (peers, ids.flip(0), "data")):
        with pytest.raises(CompressionError, match=f"other settings.*{name}"):
            variants.mutual(cohort, data, folder=tmp_path, **options)


# stages, and the model's own quantized self


def test_stages_follow_each_other(make, teacher, ids, tmp_path):
    student = students.from_layers(teacher, [0, 3])
    plan = [("feature+attention", 2), ("response", 3)]
    results = variants.stages(student, teacher, ids, plan, folder=tmp_path, **QUIET)
    inside = train(student, teacher, ids, loss="feature+attention", steps=2, **QUIET)
    by_hand = train(inside.model, teacher, ids, loss="response", steps=3, **QUIET)
    assert all(
        torch.equal(a, b)
        for a, b in zip(by_hand.model.parameters(), results[1].model.parameters(), strict=True)
    )
    assert (tmp_path / "stage-0" / "checkpoint.safetensors").exists() and (
        tmp_path / "stage-1"
    ).exists()
    with pytest.raises(CompressionError, match="plan"):
        variants.stages(student, teacher, ids, [])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_two_bit_student_of_itself(make, ids, kind, tmp_path):
    model = make(kind, layers=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    options = {"bits": 2, "group_size": 16}
    rounded = rtn.quantize(model, **options).model
    result = variants.quantization_aware(
        model, ids, **options, steps=60, batch=8, peak=3e-3, every=60, progress=False
    )
    assert far(result.model, model, ids) < 0.6 * far(rounded, model, ids)
    layers = [m for m in result.model.modules() if isinstance(m, QuantizedLinear)]
    assert len(layers) == sum(isinstance(m, QuantizedLinear) for m in rounded.modules()) > 0
    assert all(layer.bits == 2 for layer in layers)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    result.save(tmp_path / "packed")
    again = load_compressed(tmp_path / "packed")
    torch.testing.assert_close(logits(again, ids), logits(result.model, ids), rtol=1e-5, atol=1e-5)


def test_a_two_bit_student_in_half_precision(make, ids):
    """Trained in single precision like the same model in it, then as it was: half the bytes,
    finite, packed.
    """
    model = make(layers=2).bfloat16()
    options = {"bits": 2, "group_size": 16, "steps": 4, "batch": 8, "progress": False}
    low = variants.quantization_aware(model, ids, **options)
    high = variants.quantization_aware(copy.deepcopy(model).float(), ids, **options)
    assert low.history[-1]["loss"] == pytest.approx(high.history[-1]["loss"], rel=0.1)
    assert (
        low.model.dtype == torch.bfloat16
        and low.model.model.embed_tokens.weight is low.model.lm_head.weight
    )
    assert logits(low.model, ids).dtype == torch.bfloat16


def test_interval_is_students():
    from scipy import stats

    values = [0.3, 0.1, 0.25, 0.4]
    mean, half = compare.interval(values)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    with pytest.raises(CompressionError, match="at least two"):
        compare.interval([1.0])
