"""Every public function and class of the package says what it does.

Left out: the exercises, whose meaning stands in their texts, and methods that torch.nn names
(forward, extra_repr).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "course_utils"
NAMED_BY_TORCH = {"forward", "extra_repr"}


def silent(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for inner in node.body:
        if not isinstance(inner, ast.FunctionDef | ast.ClassDef) or inner.name.startswith("_"):
            continue
        if not ast.get_docstring(inner) and not (
            isinstance(node, ast.ClassDef) and inner.name in NAMED_BY_TORCH
        ):
            yield f"{prefix}{inner.name}"
        if isinstance(inner, ast.ClassDef):
            yield from silent(inner, f"{prefix}{inner.name}.")


def test_every_public_function_says_what_it_does():
    files = [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if "exercises" not in path.relative_to(PACKAGE).parts
    ]
    assert len(files) > 200
    found = [
        each
        for path in files
        for each in silent(
            ast.parse(path.read_text(encoding="utf-8")), f"{path.relative_to(PACKAGE)}: "
        )
    ]
    assert found == []
