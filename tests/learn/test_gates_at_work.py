"""What lesson 5.4 measures: all masks of a row, learned ones, pixels, a space of subnets."""

import itertools

import pytest
import torch
from wide_models import small

from course_utils.distillation import digits
from course_utils.learn import gates_at_work
from course_utils.learn.plots import supernets as pictures
from course_utils.models import load
from course_utils.pruning import supernet

IDS = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(1))


def test_every_mask_of_a_row_and_its_error_by_the_outputs():
    found = {tuple(m.int().tolist()) for m in gates_at_work.all_masks(8)}
    assert (
        found == {p for p in itertools.product((0, 1), repeat=8) if sum(p[:4]) == sum(p[4:]) == 2}
        and len(found) == 36
    )
    row = gates_at_work.row(3)
    X = torch.linalg.cholesky(row.H).T  # inputs with these second moments
    mask = torch.tensor([1, 1, 0, 0, 0, 1, 0, 1])
    lost, whole = X @ (row.weight * (1 - mask)), X @ row.weight
    assert row.error(mask) == pytest.approx(float(lost.square().sum() / whole.square().sum()))
    torch.testing.assert_close(row.scores()["Wanda"], row.weight.abs() * X.norm(dim=0))


def test_a_learned_mask_keeps_two_of_four_and_comes_near_the_best():
    errors = []
    for seed in range(4):
        row = gates_at_work.row(seed)
        every = [row.error(m) for m in gates_at_work.all_masks(8)]
        mask = gates_at_work.learned(row, steps=100)
        assert mask.view(2, 4).sum(1).tolist() == [2, 2]
        errors.append((row.error(mask) - min(every)) / (sum(every) / 36 - min(every)))
    assert min(errors) >= 0 and sum(errors) / 4 < 0.25, "0: the best mask, 1: a mask by chance"


def test_gates_keep_pixels_that_are_never_dark():
    data = digits.load(0)
    alpha, told = gates_at_work.hard_gates(0)
    dead = data.train_x.std(0) < 0.01
    assert (
        dead.sum() >= 3
        and alpha[dead].max() < alpha[~dead].median()
        and len(told["open"]) == gates_at_work.STEPS
    )
    assert abs(told["open"][-1] - 16) < 5 < abs(told["open"][0] - 16)
    kept = alpha.argsort(descending=True)[:16]
    assert not dead[kept].any()


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_a_space_holds_only_models_that_can_be_written(kind):
    model = small(32, 4)[kind]().eval()
    space, net = gates_at_work.space_of(model), supernet.Supernet(model)
    assert len({s.blocks for s in space}) == 4 and all(
        s.blocks[0] == 0 and s.blocks[-1] == 3 for s in space
    )
    assert (
        len({s.heads for s in space}) == (2 if kind == "llama" else 1)
        and space.largest == net.whole
    )
    text = gates_at_work.nats(net, space.smallest, IDS)
    with torch.no_grad():
        wanted = net.extract(space.smallest)(input_ids=IDS, labels=IDS).loss
    assert text == pytest.approx(float(wanted), rel=1e-4)


def test_the_measured_space_is_one_of_the_bundled_model():
    space, rows, told = gates_at_work.trained_space()
    net = supernet.Supernet(load("bundled")[0])
    assert list(space) == list(rows) and len(space) == 120
    some = list(space)[::17]
    assert [rows[s]["parameters"] for s in some] == [
        sum({p.data_ptr(): p.numel() for p in net.extract(s).parameters()}.values()) for s in some
    ]
    fit = sorted((s for s in space if rows[s]["parameters"] <= told["budget"]), key=lambda s:
        rows[s]["search"])  # fmt: skip
    assert all(rows[s]["test"] for s in fit[:12]) and not any(rows[s]["test"] for s in fit[12:])


def test_figures_say_what_they_show():
    titles = [
        pictures.gate(0.0, stretched).axes[0].get_title(loc="left") for stretched in (False, True)
    ]
    assert "closed 0%" in titles[0] and "closed 17%" in titles[1]  # 1 − σ(⅔ ln 11)
    soft, hard = (pictures.soft_choice(t).axes[1].images[0].get_array() for t in (3.0, 0.001))
    assert abs(hard - hard.round()).max() < 0.01 < abs(soft - soft.round()).max()
