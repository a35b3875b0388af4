"""Lab 5.4 against answers that want to be paid for a file that is none, or for one that says what
it is worth.
"""

import functools

import lab_attacks
import pytest
import torch
from attack_table import KIND
from up_to_n import load

from course_utils.challenge import encoders, gates, layout
from course_utils.challenge import model as files
from course_utils.errors import CompressionError
from course_utils.grade import judge, lab, sandbox
from course_utils.grade.submission import Submission
from course_utils.grade.warm import Zygote
from course_utils.learn import smallest

LIMITS = sandbox.Limits(cell=20, call=6, total=120)


@functools.cache
def opened():
    return load("lab-5.4-challenge")


@pytest.fixture(scope="module")
def grade():
    with Zygote(opened().prelude, LIMITS, data=opened().data) as zygote:
        yield lambda answers: judge.grade(
            opened(), Submission(answers=answers), zygote.address, LIMITS, seed=3, kind=KIND
        )


@pytest.mark.parametrize("name", lab_attacks.MODELS)
def test_an_attack_is_not_paid(grade, name):
    source, said = lab_attacks.MODELS[name]
    cells = {c["grade_id"]: c for c in grade({"my-file": source})["cells"]}
    message = cells["my-file-test"]["message"]
    assert cells["my-file-test"]["score"] == 0
    assert said in message and message and "found" not in message


def worth(content):
    (test,) = [t for t in opened().tests if t.grade_id == "my-file-test"]
    return lab.run_test(
        test.source,
        {**opened().namespace, **opened().reference, "my_file": lambda: content},
        test.points,
    )


def test_a_file_is_paid_by_its_gates_and_its_bytes(monkeypatch):
    found = {"bytes": 865_000, "passed": True}
    assert smallest.points(found) == 15 and smallest.points(found | {"bytes": 865_001}) == 10
    assert (
        smallest.points(found | {"bytes": 774_999}) == 20
        and smallest.points(found | {"bytes": 775_000}) == 15
    )
    assert smallest.points(found | {"passed": False, "bytes": 1}) == 0
    monkeypatch.setattr(gates, "ITEMS", dict.fromkeys(gates.ITEMS, 3))
    network = opened().namespace["network"]
    assert worth(smallest.as_tensor(files.pack(network))) == 10
    zeros = {
        name: encoders.bf16(torch.zeros(shape))
        for name, shape in layout.shapes(files.sizes(network)).items()
    }
    assert worth(smallest.as_tensor(files.pack(network, zeros))) == 0


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"SMOL1",
        torch.zeros(5),
        torch.zeros(2, 2, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(layout.LARGEST + 1, dtype=torch.uint8),
    ],
)
def test_what_is_no_bytes_is_refused(content):
    with pytest.raises(CompressionError, match="return the bytes"):
        worth(content)


def test_a_file_that_is_none_is_refused_with_its_reason():
    with pytest.raises(CompressionError, match="refused: this is no file"):
        worth(smallest.as_tensor(b"x" * 100))
