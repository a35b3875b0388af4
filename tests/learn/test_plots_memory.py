"""The figures of lesson 1.1 and 2.5 draw the bytes that they are given."""

import matplotlib.pyplot as plt
import pytest

from course_utils.learn.plots import memory

BUDGET = {"weights": 4e9, "kv_cache": 2e9, "activations": 1e9, "gradients": 0, "optimizer": 0}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_machines_stand_where_their_bytes_are():
    axes = memory.staircase({"BF16": 14e9, "INT8": 7e9}, {"8 GiB": 8 * 2**30}, title="t").axes[0]
    assert axes.lines[0].get_ydata()[0] == pytest.approx(8.589934592)
    assert [text.get_text() for text in axes.texts] == ["8 GiB", "14.0", "7.0"]


def test_bars_add_up():
    axes = memory.plans({"run": BUDGET}, title="t").axes[0]
    assert (
        sum(bar.get_width() for bar in axes.patches) == pytest.approx(7)
        and axes.texts[0].get_text() == "7 GB"
    )
    axes = memory.one_plan(BUDGET, title="t").axes[0]
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(7)
    assert axes.lines[0].get_xdata()[0] == pytest.approx(8 * 2**30 / 1e9)
    axes = memory.by_context({128: BUDGET, 512: BUDGET}, title="t").axes[0]
    assert [round(bar.get_height(), 3) for bar in axes.patches] == [4, 4, 2, 2, 1, 1]


def test_files_carry_their_ratio():
    axes = memory.on_disk(["a", "b"], [4e6, 2e6], [4e6, 2e6], [4e6, 1e6], 5e5, title="t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["1.00×", "2.00×"]
    assert [bar.get_height() for bar in axes.patches] == [4, 2, 0.5, 0.5]
