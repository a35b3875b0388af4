"""The advisor: the five rules, widths that really fit, no advice without a reason, errors that name
the cause.
"""

import itertools
import math

import pytest

from course_utils import pipeline
from course_utils.errors import CompressionError
from course_utils.evaluation import advisor
from course_utils.learn import advice as words
from course_utils.quantization import rtn


def first(**constraints):
    return [name for name, _ in advisor.advise(7e9, **constraints).pipelines[0]]


@pytest.mark.parametrize(
    ("constraints", "goal", "steps"),
    [
        ({"place": "edge"}, "edge", ["student", "quantize"]),
        ({"memory": 4e9}, "memory", ["quantize"]),
        ({"speedup": 2.0}, "speed", ["channels", "distil", "quantize"]),
        ({"speedup": 2.0, "training": False}, "speed", ["channels", "quantize"]),
        ({"place": "cloud"}, "cloud", ["channels", "half"]),
        ({}, "quality", ["quantize"]),
        ({"place": "edge", "training": False}, "edge", ["quantize"]),
        ({"memory": 4e9, "speedup": 2.0, "place": "cloud"}, "memory", ["quantize"]),
        ({"memory": 1e9}, "memory", ["student", "quantize"]),
    ],
)
def test_the_rules(constraints, goal, steps):
    assert advisor.advise(7e9, **constraints).goal == goal and first(**constraints) == steps


def test_memory_gives_int4_or_a_student_and_quality_gptq_awq_or_gradual():
    memory = advisor.advise(7e9, memory=4e9)
    assert memory.pipelines[0][0][1]["bits"] == 4 and [name for name, _ in memory.pipelines[1]] == [
        "student",
        "quantize",
    ]
    quality = advisor.advise(7e9).pipelines
    assert [p[0][1].get("method", p[0][0]) for p in quality] == ["gptq", "awq", "gradual"]
    assert advisor.advise(7e9, memory=4e9, quality=0.99).pipelines[0][0][1]["method"] == "gptq"
    assert advisor.advise(7e9, speedup=2.0).pipelines[0][-1][1]["bits"] == 8


def test_bytes_are_those_of_a_packed_layer():
    import torch

    for bits in (8, 4, 3, 2):
        layer = rtn.quantize_layer(torch.randn(128, 1024), bits=bits, group_size=64)
        from course_utils.quantization import QuantizedLinear

        packed = QuantizedLinear.of(layer, None)
        held = sum(b.nbytes for b in (packed.packed, packed.scale, packed.zero_point))
        assert held == advisor.weight_bytes(128 * 1024, bits, 64)
    assert advisor.weight_bytes(1000, 16) == 2000


@pytest.mark.parametrize("n", [1e6, 7e9])
def test_the_widest_that_fits(n):
    for bits in advisor.WIDTHS:
        size = advisor.weight_bytes(n, bits)
        assert advisor.bits_that_fit(n, size) == bits
        wider = [b for b in advisor.WIDTHS if b < bits]
        assert advisor.bits_that_fit(n, size * 0.9999) == (wider[0] if wider else 0)


def test_every_advice_fits_its_memory_runs_and_has_words(capsys):
    grid = itertools.product(
        (math.inf, 14e9, 8e9, 5e9, 4e9, 3e9, 2e9, 1e9, 0.5e9), (1.0, 1.5, 3.0, 9.0),
        (0.5, 0.95, 0.99, 1.0), advisor.PLACES, (True, False),
    )  # fmt: skip
    seen = set()
    for memory, speedup, quality, place, training in grid:
        try:
            found = advisor.advise(
                7e9, memory=memory, speedup=speedup, quality=quality, place=place, training=training
            )
        except CompressionError as error:
            assert memory < advisor.weight_bytes(7e9, 2) and "memory" in str(error)
            continue
        seen.add(found.goal)
        for steps in found.pipelines:
            share, bits = 1.0, 16
            for name, settings in steps:
                assert set(settings) <= set(pipeline.STEPS[name].__kwdefaults__ or {}), (
                    name,
                    settings,
                )
                share *= (
                    settings["keep"] if name == "student" else 9 / 16 if name == "gradual" else 1
                )
                bits = settings["bits"] if name == "quantize" else bits
                assert training or name not in ("student", "distil", "gradual")
            assert share * advisor.weight_bytes(7e9, bits) <= memory * 1.02, (steps, memory)
            assert words.in_words(steps)
        assert all(words.reasons(found)) and len(found.reasons) == len(set(dict(found.reasons)))
    assert seen == set(advisor.GOALS)
    words.show_advice(found)
    assert "Advice:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"parameters": 0}, "parameters=0"), ({"parameters": "7B"}, "parameters='7B'"),
        ({"parameters": math.nan}, "parameters"), ({"memory": 0}, "memory=0"),
        ({"memory": -1.0}, "memory"), ({"memory": math.nan}, "memory"),
        ({"memory": "4 GB"}, "memory"), ({"speedup": 0.5}, "speedup=0.5"),
        ({"speedup": math.inf}, "speedup"), ({"quality": 0}, "quality=0"),
        ({"quality": 99}, "quality=99"), ({"place": "moon"}, "'edge'"),
        ({"training": "yes"}, "training"), ({"memory": 1e6}, "smaller model"),
        ({"memory": 1e9, "training": False}, "without training"),
    ],
)  # fmt: skip
def test_bad_constraints_are_told(change, told):
    with pytest.raises(CompressionError, match=told):
        advisor.advise(**{"parameters": 7e9, **change})


def test_no_wish_is_dropped_without_a_word():
    """A high quality is never answered by plain rounding, and a speed that memory overrules is
    named.
    """
    for place, memory, speedup in itertools.product(
        advisor.PLACES, (2e9, 4e9, math.inf), (1.0, 2.0)
    ):
        found = advisor.advise(7e9, memory=memory, speedup=speedup, quality=0.995, place=place)
        methods = [
            settings["method"]
            for steps in found.pipelines
            for name, settings in steps
            if name == "quantize"
        ]
        if found.goal != "cloud":
            assert "rtn" not in methods, (place, memory, speedup)
        told = [name for name, _ in found.reasons]
        if speedup > 1:
            assert found.goal == "speed" and "speed_costs" in told or "speed_too" in told, (
                place,
                memory,
                told,
            )
