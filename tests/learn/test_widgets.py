"""Controls and figures outside a notebook."""

import matplotlib.pyplot as plt
import pytest

from course_utils.errors import CompressionError
from course_utils.learn import explore, plots, show
from course_utils.learn.widgets import checkbox, dropdown, slider, toggle


def test_explore_in_a_terminal_draws_the_first_values_once():
    seen = []

    def draw(**values):
        seen.append(values)
        return plots.figure(title="t")[0]

    before = plt.get_fignums()
    explore(
        draw,
        bits=slider(2, 8, 4),
        rate=slider(0.0, 1.0),
        on=checkbox(),
        kind=toggle(["a", "b"]),
        n=dropdown([3, 5], 5),
    )
    assert (
        seen == [{"bits": 4, "rate": 0.0, "on": False, "kind": "a", "n": 5}]
        and plt.get_fignums() == before
    )


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: slider(2, 8, 9), "slider: value 9"),
        (lambda: dropdown(["a"], "b"), "dropdown: value 'b'"),
        (lambda: toggle([]), "toggle: value None"),
        (lambda: explore(lambda bits: None, bits=3), "bits must be a control"),
    ],
)
def test_bad_controls_are_told(make, told):
    with pytest.raises(CompressionError, match=told):
        make()


def test_whole_and_broken_sliders():
    assert slider(2, 8, 4).choices == (2, 8, 1) and slider(0, 1, step=0.25).choices == (0, 1, 0.25)
    assert slider(0.0, 2.0).choices == (0.0, 2.0, 0.02)


def test_figures_have_labels_and_colours_that_differ():
    fig, ax = plots.figure(title="Size", xlabel="bits", ylabel="MB", size=(5, 3))
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == ("Size", "bits", "MB")
    assert tuple(fig.get_size_inches()) == (5, 3)
    lines = [ax.plot([0, 1])[0].get_color() for _ in plots.COLOURS]
    assert lines == plots.COLOURS and len(set(lines)) == 8
    plt.close(fig)


def test_a_table_in_a_terminal(capsys):
    plots.table([["INT8", 1.0, 12], ["`NF4`", 0.123456, 3]], ["format", "bytes", "n"], "Sizes")
    assert (
        capsys.readouterr().out
        == "Sizes\nformat   bytes   n\n------  ------  --\nINT8         1  12\nNF4     0.1235   3\n"
    )
    with pytest.raises(CompressionError, match="2 cells and there are 1 columns"):
        plots.table([[1, 2]], ["a"])
    plots.table([], ["a"])


def test_markup_escapes_what_is_not_markup():
    text = "a < b & `x<y` **bold**\n\n```python\nif a < b: pass\n```\n$x<y$"
    shown = show.markup(text)
    assert "<code>x&lt;y</code>" in shown and "<b>bold</b>" in shown and "a &lt; b &amp;" in shown
    assert (
        "<pre" in shown
        and "if a &lt; b: pass</pre>" in shown
        and "<script" not in show.markup("<script>")
    )
    assert show.plain(text) == "a < b & x<y bold\n\nif a < b: pass\n$x<y$"
    assert show.inline("`2**b` and `3**b`") == "<code>2**b</code> and <code>3**b</code>"
    assert show.plain("`2**b` and **`3**b`**") == "2**b and **3**b**"
    assert show.inline("the (*light word*), 2*3*4, a * b, $x^*$ and *$y^*$") == (
        "the (<i>light word</i>), 2*3*4, a * b, $x^*$ and *$y^*$"
    )
    assert show.plain("the *light* word, 2*3*4") == "the light word, 2*3*4"


@pytest.mark.parametrize(
    "command, runs",
    [
        ("python -m nbconvert --execute", True),
        ("papermill a b", True),
        ("python -m jupyterlab", False),
    ],
)
def test_batch_tools_are_told_from_servers(command, runs):
    assert bool(show.RUNNERS.search(command)) is runs
    assert not show.live(), "a terminal has no controls"
