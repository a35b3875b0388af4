"""What the figures of the distillation lessons and of 3.6 show,
read back from the drawn figures.
"""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.evaluation import scaling
from course_utils.learn.plots import costs, distillation


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_answers_show_both_temperatures_and_how_unsure_they_are():
    z = torch.tensor([3.0, 1.0, 1.0, -2.0])
    figure = distillation.answers(z, 4.0, str, before="so it", named=3)
    left, right = figure.axes
    soft = (z / 4).softmax(-1)
    assert [bar.get_width() for bar in left.patches] == pytest.approx(soft[:3].tolist())
    assert left.lines[0].get_xdata().tolist() == pytest.approx(z.softmax(-1)[:3].tolist())
    assert [line.get_ydata().tolist() for line in right.lines[:2]] == [
        pytest.approx(z.softmax(-1).tolist()), pytest.approx(soft.tolist()),
    ]  # fmt: skip
    unsure = float((-(soft * soft.log()).sum()).exp())
    assert f"among {unsure:.1f} equal tokens" in figure.get_suptitle()


def test_courses_ring_the_checkpoint_with_the_lowest_loss():
    line = [{"step": s, "validation": v} for s, v in ((5, 2.0), (10, 1.5), (15, 1.8))]
    axes = distillation.courses({"labels": line}, start=2.4, teacher=0.7, title="t").axes[0]
    ring = next(drawn for drawn in axes.lines if drawn.get_fillstyle() == "none")
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([10], [1.5])


def test_looks_show_means_over_windows():
    rows = {"teacher": torch.tensor([0.7, 0.3]), "student": torch.tensor([0.5, 0.5])}
    left, right = distillation.looks(
        rows, ["a", "b"], {"student": torch.tensor([1.0, 2.0, 3.0])}, query="b"
    ).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0.7, 0.3, 0.5, 0.5])
    assert (
        right.patches[0].get_width() == pytest.approx(2)
        and right.patches[0].get_facecolor() == left.patches[2].get_facecolor()
    )


def test_push_shows_the_negative_gradient():
    gradient = torch.tensor([0.25, -0.5])
    _, right = distillation.push(
        gradient, gradient, gradient, ["a", "b"], temperature=2.0, title="t"
    ).axes
    assert [bar.get_width() for bar in right.patches] == pytest.approx([-0.25, 0.5])


def test_growth_is_relative_to_the_smallest_and_slopes_are_local():
    sizes = [1, 2, 4]
    left, right = costs.growth(
        {"square": (sizes, [3.0, 12.0, 48.0])}, title="t", xlabel="n", levels={2: "2"}
    ).axes
    assert list(left.lines[0].get_ydata()) == pytest.approx([1, 4, 16])
    assert list(right.lines[0].get_ydata()) == pytest.approx([2, 2])


def test_fits_show_the_interval_of_the_exponent(capsys):
    sizes, times = [1, 2, 4, 8], [1.0, 2.1, 3.9, 8.2]
    laws = costs.fits({"rounding": (sizes, times)}, "N")
    low, high = scaling.fit(sizes, times).interval()
    assert (
        f"{low:.2f} to {high:.2f}" in capsys.readouterr().out
        and laws["rounding"].exponent == scaling.fit(sizes, times).exponent
    )
