"""Every method on a device that is not the CPU: the same result, and no operand left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "common" / "second_device.py"
# of the largest logit: factors are rounded to BF16; steps of training round as they go
TOLERANCE = {
    "low_rank.compress": 1e-3,
    "qat.quantize": 1e-3,
    "kl_by_window": 1e-3,
    "kv_cache.divergences": 1e-2,
}


@pytest.fixture(scope="module")
def found():
    done = subprocess.run([sys.executable, SCRIPT], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def test_tensors_of_two_devices_are_not_mixed_there(found):
    assert "must be on one device" in found["mixed"]


def test_every_method_gives_there_what_it_gives_here(found):
    others = {name: off for name, off in found.items() if name != "mixed"}
    assert len(others) >= 45
    wrong = {
        name: off for name, off in others.items()
        if isinstance(off, str) or not off <= TOLERANCE.get(name, 1e-5)
    }  # fmt: skip
    assert not wrong
