"""The source of a notebook's cell as Python, and how a kernel runs it.

A kernel takes magics, an indented cell, pasted prompts, `await` at the top, and keeps what `from
__future__` asked for.
"""

import ast
import asyncio
import contextlib
import linecache
import re
from collections.abc import Iterator
from typing import Any

# magics around Python; the cell is run without them
TIMED = re.compile(r"\A\s*%%(?:time|capture|timeit|prun)\b[^\n]*\n")
FUTURE = 0x1FF0000  # bits of `from __future__` among the flags of a compiled code


def plain(source: str) -> str:
    """Python of a cell: without prompts, indentation of the whole and byte order mark, its magics
    as calls of `get_ipython()`.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    source = source.removeprefix("\ufeff").encode("utf-8", errors="replace").decode()
    while found := TIMED.match(source):
        source = source[found.end() :]
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        compile(
            source,
            "<cell>",
            "exec",
            ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        return source  # Python already
    return TransformerManager().transform_cell(source)


def run(source: str, file: str, namespace: dict[str, Any], flags: int = 0) -> int:
    """Run a cell as a kernel does; the flags of the compiler for later cells.

    `file` names it in a traceback.
    """
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    code = compile(
        plain(source), file, "exec", flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
    waits = eval(code, namespace)
    if asyncio.iscoroutine(waits):
        asyncio.run(waits)
    return code.co_flags & FUTURE


def run_plain(source: str, namespace: dict[str, Any], given: set[str]) -> list[str]:
    """Run the imports, plain constants, functions and classes of a cell; the names that its other
    statements would make.

    What has a name among `given` stays as it is, and so does what fails.
    """
    try:
        body = ast.parse(plain(source)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    left_out: set[str] = set()
    for node in body:
        names = set(_made(node))
        if names & given and not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if not _is_plain(node):
            left_out |= names
            continue
        with contextlib.suppress(Exception):
            exec(
                compile(ast.Module([node], []), "<an extra cell>", "exec", dont_inherit=True),
                namespace,
            )
    return sorted(left_out)


def _made(node: ast.stmt) -> Iterator[str]:
    """Names that a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    else:
        yield from (
            n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        )


def _is_plain(node: ast.stmt) -> bool:
    if isinstance(
        node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    ):
        return True
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    inside = (part for whole in (*targets, node.value) for part in ast.walk(whole))
    busy = (
        ast.Call,
        ast.Await,
        ast.Yield,
        ast.YieldFrom,
        ast.ListComp,
        ast.SetComp,
        ast.DictComp,
        ast.GeneratorExp,
    )
    return all(isinstance(t, (ast.Name, ast.Tuple, ast.List)) for t in targets) and not any(
        isinstance(p, busy) for p in inside
    )
