"""docs/models.md says what happens now: its head, and the rows of three architectures made anew."""

import re
from pathlib import Path

import model_table
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
COMMITTED = model_table.read(PAGE)


def test_head_and_rows():
    assert PAGE.startswith("# Which models, which methods, which files") and set(COMMITTED) == set(
        model_table.KINDS
    )
    assert all(list(row) == list(model_table.COLUMNS) for row in COMMITTED.values())
    assert model_table.read(model_table.written(COMMITTED)) == COMMITTED


def test_every_pair_is_right_or_refused_with_a_sentence():
    for kind, row in COMMITTED.items():
        for column, cell in row.items():
            assert cell.startswith(("✓", "refused: ")), (kind, column, cell)
    assert sum(
        cell.startswith("✓") for row in COMMITTED.values() for cell in row.values()
    ) > 0.5 * len(COMMITTED) * len(model_table.COLUMNS)


CALLS = {
    "prune_mlp": "channels", "prune_heads": "heads", "prune_layers": "layers", "wanda": "Wanda",
    "gptq": "GPTQ", "awq": "AWQ",
}  # fmt: skip


def test_one_of_the_ways_out_that_a_refusal_names_works():
    for kind, row in COMMITTED.items():
        for column, cell in row.items():
            named = [CALLS[name] for name in re.findall(r"\w+", cell.lower()) if name in CALLS]
            if cell.startswith("refused: ") and named:
                assert any(row[other].startswith("✓") for other in named), (kind, column, cell)


@pytest.mark.parametrize("kind", ["gemma", "gpt_neox", "mixtral"])
def test_a_row_made_anew(kind):
    assert model_table.row(kind) == COMMITTED[kind]
