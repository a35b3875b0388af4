"""Automatic mutants of a function: its source with one place changed, compiled in memory beside the
functions it calls.

The operators are those of cosmic-ray and mutmut (operators, constants, keywords, dropped arguments)
and a few for tensors (a dimension changed, `abs` or `.T` removed, min and max swapped). Neither
tool offers them for one function in memory: the first rewrites files and has no operator for calls,
the second keeps its operators private.
"""

import ast
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

OPERATORS = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Div], ast.Mod: [ast.FloorDiv], ast.Pow: [ast.Mult], ast.MatMult: [ast.Mult],
    ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd], ast.BitXor: [ast.BitAnd],
    ast.LShift: [ast.RShift], ast.RShift: [ast.LShift],
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.GtE], ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.In: [ast.NotIn],
    ast.NotIn: [ast.In], ast.And: [ast.Or], ast.Or: [ast.And],
}  # fmt: skip
PAIRS = [("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("sum", "mean"), ("floor", "ceil"),
         ("any", "all"),
         ("round", "floor"), ("log", "log2"), ("exp", "exp2")]  # fmt: skip
RENAMED = {old: new for pair in PAIRS for old, new in (pair, pair[::-1])}
REMOVED = {
    "abs",
    "sqrt",
    "square",
    "round",
    "floor",
    "ceil",
    "exp",
    "log",
    "clamp",
    "sorted",
    "cumsum",
    "T",
    "mT",
    "detach",
}
COMMUTE = {"min", "max", "zip", "isinstance"}  # their arguments are not exchanged
CONSTANTS = {
    "lr": 0.1,
    "momentum": 0.9,
    "rate": 0.1,
    "temperature": 2.0,
    "alpha": 0.5,
    "sparsity": 0.5,
    "bits": 4,
    "group_size": 4,
}
NOT_THE_ANSWER = {"strict"}  # keywords that only guard against mistakes in the specification itself


def family(function: FunctionType, inside: tuple[str, ...]) -> list[FunctionType]:
    """The function and, in a fixed order, those that it calls or has as defaults and whose module
    begins with `inside`.
    """
    found = [function]
    for one in found:
        defaults = [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
        for other in [*(one.__globals__.get(name) for name in _names(one.__code__)), *defaults]:
            ours = isinstance(other, FunctionType) and other.__module__.startswith(inside)
            if ours and other.__name__ != "<lambda>" and other not in found:
                found.append(other)
    return found


def _names(code: CodeType) -> Iterator[str]:
    """The globals that code loads, not the attributes of other things."""
    yield from (
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    )
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def mutants(function: FunctionType, inside: tuple[str, ...]) -> dict[str, Callable[..., Any]]:
    """Mutants of a function and of its family, by a key such as `rows_of: a + b → a - b`; under ""
    what is not changed.
    """
    functions, made = family(function, inside), {}
    made[""] = _Lazy(function, functions, function, ast.unparse(_tree(function)))
    for target in functions:
        tree = _tree(target)
        seen = {ast.unparse(tree)}
        for change in _changed(tree):
            if (whole := ast.unparse(tree)) in seen:
                continue
            seen.add(whole)
            key, number = f"{target.__name__}: {change}", 2
            while key in made:
                key, number = f"{target.__name__}: {change} ({number})", number + 1
            made[key] = _Lazy(function, functions, target, whole)
    return made


def _tree(function: FunctionType) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


class _Lazy:
    """A mutant that is compiled at its first call; some fail even then."""

    def __init__(
        self,
        function: FunctionType,
        functions: list[FunctionType],
        target: FunctionType,
        source: str,
    ):
        self.parts, self.made = (function, functions, target, source), None

    def __call__(self, **arguments: Any) -> Any:
        self.made = self.made or _build(*self.parts)
        return self.made(**arguments)


def _build(
    function: FunctionType, functions: list[FunctionType], target: FunctionType, source: str
) -> Any:
    """`function` with `target` replaced; every function of the family lives in a copy of its
    module.
    """
    spaces = {f.__module__: dict(f.__globals__) for f in functions}
    new: dict[Any, Any] = {}
    for f in functions:
        if f is target:
            exec(compile(source, f"<{target.__name__}, mutated>", "exec"), spaces[f.__module__])
            new[f] = spaces[f.__module__][f.__name__]
        else:
            new[f] = FunctionType(f.__code__, spaces[f.__module__], f.__name__)

    def renewed(value: Any) -> Any:
        return new.get(value, value) if isinstance(value, FunctionType) else value

    for f, made in new.items():
        old = made if f is target else f
        made.__defaults__ = old.__defaults__ and tuple(map(renewed, old.__defaults__))
        made.__kwdefaults__ = old.__kwdefaults__ and {
            k: renewed(v) for k, v in old.__kwdefaults__.items()
        }
    for space in spaces.values():
        space.update({name: renewed(value) for name, value in space.items()})
    return new[function]


def _changed(tree: ast.Module) -> Iterator[str]:
    """Change the tree in one place after the other; what was changed is yielded while it is."""
    for owner in list(ast.walk(tree)):
        docstring = isinstance(owner, ast.Expr) and isinstance(owner.value, ast.Constant)
        guard = isinstance(owner, ast.keyword) and owner.arg in NOT_THE_ANSWER
        if docstring or guard or isinstance(owner, (ast.arg, ast.JoinedStr, ast.Module)):
            continue
        for field, value in list(ast.iter_fields(owner)):
            if field in ("annotation", "returns", "decorator_list", "ctx"):
                continue
            for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                for new in _instead(node, owner, field):
                    shown = node if isinstance(node, (ast.expr, ast.stmt)) else owner
                    before = _text(shown)
                    put = _setter(owner, field, value, place)
                    put(new)
                    yield f"{before} → {_text(new if shown is node else owner)}"
                    put(node)


def _setter(owner: ast.AST, field: str, value: Any, place: int | None) -> Callable[[Any], None]:
    if place is None:
        return lambda new: setattr(owner, field, new)
    return lambda new: setattr(
        owner, field, [*value[:place], *([] if new is None else [new]), *value[place + 1 :]]
    )


def _text(node: Any) -> str:
    if node is None or isinstance(node, ast.Pass):
        return "nothing"
    return ast.unparse(node).split("\n")[0]


def _instead(node: Any, owner: ast.AST, field: str) -> Iterator[Any]:
    """What may stand in the place of a node; None takes it away."""
    for operator in OPERATORS.get(type(node), []):
        yield operator()
    if (
        isinstance(owner, (ast.Slice, ast.comprehension))
        and field in ("lower", "upper", "step", "ifs")
        and node
    ):
        yield None
    if isinstance(node, ast.stmt):
        yield from _instead_of_statement(node)
    elif isinstance(node, ast.Constant):
        yield from map(ast.Constant, _other_constants(node.value))
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.BoolOp):
        for i in range(len(node.values)):
            left = node.values[:i] + node.values[i + 1 :]
            yield ast.BoolOp(node.op, left) if len(left) > 1 else left[0]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult)):
        yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.Name) and node.id in CONSTANTS and isinstance(node.ctx, ast.Load):
        yield ast.Constant(CONSTANTS[node.id])
    elif isinstance(node, ast.Lambda) and isinstance(
        node.body, ast.Tuple
    ):  # a key without its tie-break
        yield ast.Lambda(node.args, node.body.elts[0])
    elif (
        isinstance(node, ast.Attribute) and node.attr in REMOVED and not isinstance(owner, ast.Call)
    ):
        yield node.value
    elif isinstance(node, ast.Call):
        yield from _instead_of_call(node)
    if field == "test" and not isinstance(node, ast.Compare):
        yield ast.UnaryOp(ast.Not(), node)


def _instead_of_statement(node: ast.stmt) -> Iterator[ast.stmt]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # the docstring
        return
    if not isinstance(node, (ast.Return, ast.FunctionDef, ast.Pass)):
        yield ast.Pass()
    if isinstance(node, ast.AugAssign):
        yield ast.fix_missing_locations(ast.Assign([node.target], node.value))
    if isinstance(node, ast.For):  # over after the first turn
        yield ast.fix_missing_locations(
            ast.For(node.target, node.iter, [*node.body, ast.Break()], [], lineno=1)
        )
    if isinstance(node, (ast.Break, ast.Continue)):
        yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()


def _other_constants(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1, value - 1]
    return [""] if isinstance(value, str) and value else []


def _instead_of_call(node: ast.Call) -> Iterator[ast.expr]:
    arguments, keywords = node.args, node.keywords
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in RENAMED:
        other = RENAMED[name]
        func = (
            ast.Attribute(node.func.value, other, ast.Load())
            if isinstance(node.func, ast.Attribute)
            else ast.Name(other, ast.Load())
        )
        yield ast.Call(func, arguments, keywords)
    if name in REMOVED:
        method = isinstance(node.func, ast.Attribute) and getattr(
            node.func.value, "id", ""
        ) not in ("torch", "math", "np")
        if method or arguments:
            yield node.func.value if method else arguments[0]  # type: ignore[attr-defined]
    # a limit dropped
    if name in ("min", "max") and isinstance(node.func, ast.Name) and len(arguments) > 1:
        yield from (one for one in arguments if not isinstance(one, ast.Starred))
    if name == "round" and len(arguments) == 1 and isinstance(node.func, ast.Name):
        yield from (
            ast.parse(form.format(ast.unparse(arguments[0])), mode="eval").body
            for form in ("int(({}) // 1)", "-int(-({}) // 1)")
        )
    if name == "round" and isinstance(node.func, ast.Attribute):
        yield ast.Call(ast.Attribute(node.func.value, "ceil", ast.Load()), arguments, keywords)
    for i in range(len(arguments)):
        yield ast.Call(node.func, arguments[:i] + arguments[i + 1 :], keywords)
        if i and name not in COMMUTE:
            yield ast.Call(
                node.func,
                [*arguments[: i - 1], arguments[i], arguments[i - 1], *arguments[i + 1 :]],
                keywords,
            )
    for i, keyword in enumerate(keywords):
        if keyword.arg not in NOT_THE_ANSWER:
            yield ast.Call(node.func, arguments, keywords[:i] + keywords[i + 1 :])
