"""A progress folder of its own for every test, and a toy topic with an exercise and questions of
each kind.
"""

import pytest
import torch

from course_utils.learn import texts
from course_utils.learn.checks import exercise, hints, solution
from course_utils.learn.page import events
from course_utils.learn.questions import prediction

TOY = """
exercises:
  toy.rows:
    title: Scale each row
    hints: [Look at one row., "s = max |w| / 7", "`w / s`"]
    mistakes:
      per_tensor: "One scale for the whole tensor."
      upside_down: "You multiplied by the scale."
    properties:
      small: "Something is larger than 7."
    reread: "1.2, 'Rows'"
    solution: |
      Each row is divided by its own scale: the largest magnitude becomes 7, the last step of the grid.

      ```python
      def rows(w):
          return w / (w.abs().amax(1, keepdim=True) / 7)
      ```
  toy.pair:
    title: Two answers
    hints: [one, two, three]
    reread: "1.2, 'Pairs'"
questions:
  toy.choice:
    kind: choice
    prompt: "Which format takes **eight** bits?"
    options:
      - {text: FP16, why: "It takes 16."}
      - {text: INT8, right: true, why: "The name says so."}
      - {text: FP32, why: "It takes 32."}
  toy.numeric:
    kind: numeric
    prompt: How large is it?
    unit: GB
    expected: 28
    why: "Four bytes each."
    near: [{value: 14, why: "That is FP16."}, {factor: 8, why: "Those are bits."}]
  toy.live: {kind: numeric, prompt: How many, tolerance: 0.001, why: "Counted."}
  toy.ordering:
    kind: ordering
    prompt: From small to large
    items: [INT4, INT8, FP16, FP32]
    why: "4, 8, 16, 32 bits."
predictions:
  toy.size:
    kind: number
    prompt: "How many GB has **it**?"
    unit: GB
    why: "Four bytes each."
  toy.gain: {kind: number, prompt: "How much better?", unit: nats, within: 0.01, why: "Nothing is gained."}
  toy.which:
    kind: choice
    prompt: Which loses more?
    options: {rtn: plain rounding, gptq: GPTQ, awq: AWQ}
    why: "Rounding looks at no data."
  toy.rank:
    kind: order
    prompt: From the smallest error
    items: {gptq: GPTQ, rtn: plain rounding, none: no rounding}
    why: "See the table."
"""  # noqa: E501


def scaled_rows(w):
    """The specification, as loops."""
    result = torch.zeros_like(w)
    for i in range(w.shape[0]):
        scale = max(abs(float(x)) for x in w[i]) / 7
        for j in range(w.shape[1]):
            result[i, j] = w[i, j] / scale
    return result


def pair(x, n):
    return x.sum(), [n * 2, "even" if n % 2 == 0 else "odd", n > 3]


ROWS = exercise.Exercise(
    id="toy.rows",
    inputs=lambda rng: {"w": torch.randn(3, 4, generator=rng, dtype=torch.float64)},
    spec=scaled_rows,
    mistakes={
        "per_tensor": lambda w: w / (w.abs().max() / 7),
        "upside_down": lambda w: w * (w.abs().amax(1, keepdim=True) / 7),
    },
    properties={"small": lambda inputs, result: bool(result.abs().max() <= 7.1)},
    lesson="1.2-numbers-in-a-box",
    seconds=1.0,
)
PAIR = exercise.Exercise(
    id="toy.pair",
    inputs=lambda rng: {
        "x": torch.rand(5, generator=rng),
        "n": int(torch.randint(1, 10**6, (), generator=rng)),
    },
    spec=pair,
)


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """The toy topic is known for one test; nothing of it stays."""
    folder = tmp_path / "text"
    (folder / "en").mkdir(parents=True)
    (folder / "en" / "toy.yaml").write_text(TOY, encoding="utf-8")
    monkeypatch.setattr(texts, "FOLDERS", [*texts.FOLDERS, folder])
    monkeypatch.setattr(exercise, "_added", {})
    monkeypatch.setattr(events, "_in_memory", [])
    monkeypatch.setattr(events, "_told", False)
    monkeypatch.setattr(hints, "_climbed", {})
    monkeypatch.setattr(solution, "_asked", set())
    monkeypatch.setattr(prediction, "_waiting", {})
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("COURSE_LANG", raising=False)
    monkeypatch.delenv("COURSE_STATIC", raising=False)
    exercise.register(ROWS)
    exercise.register(PAIR)
    return folder
