"""What notebooks hold: readable HTML and pictures where a tool runs them, live controls where a
learner does.
"""

import base64
import json

import nbformat
import pytest
from nbclient import NotebookClient

SETUP = """
import pathlib, sys
from course_utils.learn import ask, check, explore, hint, plots, predict, texts
from course_utils.learn.page import events, progress
from course_utils.learn.widgets import checkbox, dropdown, slider, toggle
texts.FOLDERS.append(pathlib.Path({folder!r}))
drawn = []
def draw(bits, scale, grid, form):
    if bits == 7:
        raise ValueError("no seven")
    drawn.append((bits, scale, grid, form))
    fig, ax = plots.figure(title=f"{{bits}} bits", xlabel="value", ylabel="rounded")
    ax.plot(range(bits), [scale * i for i in range(bits)])
    return fig
"""
EXPLORE = """explore(draw, bits=slider(2, 8, 4), scale=slider(0.5, 2.0, 1.0, label="how much"), grid=checkbox(True),
        form=dropdown(["affine", "symmetric"]))"""  # noqa: E501
TASKS = """ask("toy.choice")
ask("toy.numeric")
ask("toy.ordering")
plots.table([["INT8", 1.0], ["<b>", 0.123456]], ["format", "bytes"], "Sizes")
check("start.bytes_needed", lambda count, bits: None)
hint("start.bytes_needed")
progress.show()"""
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(cells, toy, monkeypatch, static):
    monkeypatch.setenv("COURSE_STATIC", static)
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(source) for source in [SETUP.format(folder=str(toy)), *cells]
    ]
    NotebookClient(notebook, timeout=600, startup_timeout=300, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells[1:]]


@pytest.mark.parametrize("static", ["1", ""])
def test_a_notebook_run_by_a_tool_holds_no_dead_controls(toy, monkeypatch, static):
    """static = "": nothing is said, and the tool that runs the notebook is recognized by itself."""
    if not static:
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    explored, tasks = run([EXPLORE, TASKS], toy, monkeypatch, static)
    outputs = [*explored, *tasks]
    assert {output.output_type for output in outputs} == {"display_data"}
    assert not [output for output in outputs if WIDGET in output.data]
    controls, picture = explored
    assert "how much: <code>1.0</code> (0.5 – 2)" in controls.data["text/html"]
    assert base64.b64decode(picture.data["image/png"]).startswith(b"\x89PNG")
    assert picture.data["text/plain"].startswith("4 bits; bits = 4")
    choice, numeric, ordering, table, checked, hinted, page = (
        output.data["text/html"] for output in tasks
    )
    assert (
        "<li>INT8</li>" in choice
        and "<b>eight</b>" in choice
        and "in GB" in numeric
        and "<li>FP32</li>" in ordering
    )
    assert "&lt;b&gt;" in table and "0.1235" in table and "Sizes" in table
    assert "Not attempted yet." in checked and "Hint 1 of 3" in hinted and "The twelve days" in page
    assert all(output.data["text/plain"].strip() for output in tasks)


def test_a_live_notebook_has_controls_that_replace_the_figure(toy, monkeypatch):
    find = """
import ipywidgets as w
from ipywidgets.widgets.widget import _instances
def those(kind):
    return [x for x in _instances.values() if type(x) is kind]
"""
    move = "those(w.IntSlider)[0].value = 6; those(w.Checkbox)[0].value = False; print(drawn)"
    explored, _, moved = run([EXPLORE, find, move], toy, monkeypatch, "0")
    controls, picture = explored
    assert (
        controls.data[WIDGET]["model_id"]
        and "bits: <code>4</code> (2 – 8)" in controls.data["text/html"]
    )
    assert picture.data["text/plain"].startswith("6 bits; bits = 6"), (
        "the figure of the first cell was replaced"
    )
    assert (
        moved[0].text
        == "[(4, 1.0, True, 'affine'), (6, 1.0, True, 'affine'), (6, 1.0, False, 'affine')]\n"
    )
    assert len(moved) == 1, "nothing is shown below the cell that happens to run"

    failing = "those(w.IntSlider)[0].value = 7"
    explored, _, _ = run([EXPLORE, find, failing], toy, monkeypatch, "0")
    assert "no seven" in explored[1].data["text/html"] and "image/png" not in explored[1].data


def test_live_questions_answer_below_their_button(toy, monkeypatch):
    press = """
import json
import ipywidgets as w
from ipywidgets.widgets.widget import _instances
those = lambda kind: [x for x in _instances.values() if type(x) is kind]
said = lambda: [x.value for x in those(w.HTMLMath) if not x.value or "Question" not in x.value]
buttons = those(w.Button)
for button in buttons: button.click()
texts_ = [said()]
those(w.RadioButtons)[0].value = "FP16"
those(w.Text)[0].value = "14"
for place, item in zip(those(w.Dropdown), ["INT4", "INT8", "FP16", "FP32"]): place.value = item
for button in buttons: button.click()
texts_.append(said())
those(w.RadioButtons)[0].value = "INT8"
those(w.Text)[0].value = "1"
those(w.Dropdown)[1].value = "FP32"
texts_.append(said())
buttons[0].click()
texts_.append(said())
print(json.dumps(texts_))
"""
    asked, pressed = run(
        ['ask("toy.choice"); ask("toy.numeric"); ask("toy.ordering")', press], toy, monkeypatch, "0"
    )
    assert [WIDGET in output.data for output in asked] == [True] * 3
    assert all("Run this cell to answer." in output.data["text/html"] for output in asked)
    empty, wrong, changed, right = json.loads(pressed[0].text)
    assert changed == ["", "", ""], "no answer stands beside another choice"
    assert all("Choose an answer first." in text for text in empty)
    assert "It takes 16." in wrong[0] and "That is FP16." in wrong[1] and "Right." in wrong[2]
    assert (
        "Right." in right[0] and "The name says so." in right[0] and "It takes 16." not in right[0]
    )


def test_a_check_in_a_cell_is_shown_once_and_names_the_line_of_the_cell(toy, monkeypatch):
    right = "check('start.bytes_needed', lambda count, bits: count * bits / 8)"
    wrong = (
        "def mine(count, bits):\n"
        "    half = 0\n    return count / half\n\ncheck('start.bytes_needed', mine)"
    )
    first, second = run([right, wrong], toy, monkeypatch, "1")
    assert [output.output_type for output in [*first, *second]] == ["display_data"] * 2
    assert "Right." in first[0].data["text/html"]
    assert "line 3 of your code" in second[0].data["text/html"]
    assert "return count / half" in second[0].data["text/html"]


PRESS = """
import ipywidgets as w
from ipywidgets.widgets.widget import _instances
those = lambda kind: [x for x in _instances.values() if type(x) is kind]
field, button = those(w.Text)[0], those(w.Button)[0]
field.value = {value!r}
button.click()
"""
RESULT = """fig, ax = plots.figure(title="the truth")
guess.result(3.5, shown=[fig, "and a **note**"])"""


def test_a_live_result_waits_for_the_guess_and_then_appears_in_its_place(toy, monkeypatch):
    asked, waiting, pressed, again = run(
        ['guess = predict("toy.size")', RESULT, PRESS.format(value="4 GB"), RESULT],
        toy,
        monkeypatch,
        "0",
    )
    assert (
        WIDGET in asked[0].data and "Run this cell to give your guess" in asked[0].data["text/html"]
    )
    said = [output.data["text/html"] for output in waiting]
    assert "Your guess" in said[0] and "3.5 GB" in said[0] and "Within 25 %" in said[0], (
        "updated by the press"
    )
    assert "data:image/png" in said[1] and "<b>note</b>" in said[1]
    assert len(waiting) == 2, "the figure is not shown a second time by the notebook itself"
    assert ["image/png" in output.data for output in again] == [False, True, False], (
        "once guessed, as an ordinary output"
    )


def test_nothing_of_a_live_result_is_shown_before_the_guess(toy, monkeypatch):
    _, waiting, empty = run(
        ['guess = predict("toy.size")', RESULT, PRESS.format(value=" ")], toy, monkeypatch, "0"
    )
    text = json.dumps([output.data for output in waiting])
    assert (
        "3.5" not in text
        and "truth" not in text
        and "image/png" not in text
        and "once you have given" in text
    )


def test_a_tool_that_runs_a_notebook_needs_no_guess(toy, monkeypatch):
    asked, shown = run(['guess = predict("toy.size")', RESULT], toy, monkeypatch, "1")
    assert (
        WIDGET not in asked[0].data
        and "Run this cell to give your guess" in asked[0].data["text/html"]
    )
    assert (
        "3.5 GB" in shown[0].data["text/html"] and "image/png" in shown[1].data and len(shown) == 3
    )


def test_a_function_draws_when_the_guess_is_there(toy, monkeypatch):
    draw = (
        "guess.result('rtn', shown=lambda: print('drawn') or plots.table([['INT8', "
        "1.0]], ['format', 'bytes']))"
    )
    _, shown = run(['guess = predict("toy.which")', draw], toy, monkeypatch, "1")
    assert "drawn" in shown[1].data["text/plain"] and "INT8" in shown[2].data["text/html"]
    _, waiting, _ = run(
        ['guess = predict("toy.which")', draw, 'guess.give("C")'], toy, monkeypatch, "0"
    )
    assert "drawn" in waiting[1].data["text/html"] and "<table" in waiting[1].data["text/html"]
