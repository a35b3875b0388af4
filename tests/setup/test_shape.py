"""The shape of the code: who may import whom, no circles, files short enough to read in one
sitting.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "course_utils"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400  # lines of a file
METHODS = {"quantization", "pruning", "distillation"}
BELOW = {"errors", "world", "theory", "kernels"}  # what every package may import
ALLOWED = {  # package → packages of course_utils that it may import, besides BELOW and itself
    "errors": set(),
    "world": set(),
    "kernels": set(),
    "theory": set(),
    # card.py writes the bundled model's measurements, where it runs
    "models": METHODS | {"evaluation"},
    "quantization": {"models"},
    "pruning": {"models", "quantization", "distillation"},
    "distillation": {"models", "quantization", "pruning"},
    "evaluation": {"models"} | METHODS,
    "challenge": {"models", "evaluation"} | METHODS,
    "systems": {"models", "evaluation"} | METHODS,
    "checkpoints": {"models", "evaluation"} | METHODS,
    "pipeline": {"models", "evaluation", "checkpoints"} | METHODS,
    "learn": {"challenge", "models", "evaluation", "checkpoints", "pipeline", "systems"} | METHODS,
    "grade": {"challenge", "models", "evaluation", "checkpoints", "learn"} | METHODS,
    "bootstrap": set(),
    "blockwise": {"models"} | METHODS,
    "opening": {"models", "checkpoints"} | METHODS,
    # grade: its sandbox
    "command": {"models", "evaluation", "checkpoints", "blockwise", "opening", "grade"} | METHODS,
    "options": {"models", "command"},
    "cli": {"bootstrap", "command", "options", "grade", "learn", "models"},
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path, everywhere: bool) -> set[str]:
    """The modules of course_utils that a file imports: when it is loaded, or `everywhere` in it.

    Not for type checkers only.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module_of(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not everywhere:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            whole = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                inner = f"{whole}.{alias.name}"
                found.add(inner if inner in MODULES else whole)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return {name for name in found if name in MODULES}


def top(module: str) -> str:
    return (module.split(".") + [""])[1]


@pytest.mark.parametrize("package", sorted({top(module) for module in MODULES} - {""}))
def test_imports_point_one_way(package):
    """learn and grade → evaluation and checkpoints → methods → kernels; nothing below imports
    learn.
    """
    assert package in ALLOWED, "say what a new package may import"
    allowed = ALLOWED[package] | ({"errors"} if package in BELOW else BELOW) | {package, ""}
    wrong = {
        f"{module} imports {other}"
        for module, path in MODULES.items()
        if top(module) == package
        for other in imports(path, everywhere=True)
        if top(other) not in allowed
    }
    assert not wrong


def test_no_import_circles():
    """Between modules, as they are loaded: a package counts with what it takes from its own
    modules.
    """
    graph = {module: imports(path, everywhere=False) - {module} for module, path in MODULES.items()}
    state: dict[str, int] = {}
    trail: list[str] = []

    def walk(module: str) -> list[str]:
        state[module] = 1
        trail.append(module)
        for other in sorted(graph[module]):
            if other.startswith(f"{module}.") or module.startswith(f"{other}."):
                continue  # a package and its own modules
            if state.get(other) == 1:
                return trail[trail.index(other) :] + [other]
            if other not in state and (circle := walk(other)):
                return circle
        trail.pop()
        state[module] = 2
        return []

    for module in graph:
        if module not in state:
            assert not (circle := walk(module)), " → ".join(circle)


def test_every_file_can_be_read_in_one_sitting():
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES
    }
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST}
