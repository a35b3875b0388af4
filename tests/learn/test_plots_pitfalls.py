"""The figures of lesson 2.5: points, a floor for what is not seen, and a bar for each form and
batch.
"""

import matplotlib.pyplot as plt
import pytest

from course_utils.learn.plots import pitfalls


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_a_rise_that_is_not_seen_stands_on_the_floor():
    rise = {"a": (-0.001, 0.002), "b": (0.001, 0.002), "c": (0.2, 0.01)}
    axes = pitfalls.cliff({"a": 1.5, "b": 2.0, "c": 4.0}, rise, allowed=0.05).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [
        [1.5, pitfalls.LOWEST],
        [2.0, pitfalls.LOWEST],
        [4.0, 0.2],
    ]


def test_points_and_bars():
    axes = pitfalls.size_and_time({"a": 2e6, "b": 1e6}, {"a": 0.5, "b": 0.7}).axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[2.0, 0.5]], [[1.0, 0.7]]]
    axes = pitfalls.forms({"FP32": {1: 1.0, 16: 1.0}, "INT4": {1: 2.5}}, (1, 16)).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [1.0, 2.5, 1.0, 0]
