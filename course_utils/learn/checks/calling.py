"""Arguments as a learner's function takes them: by name, by place,
or under any name (`**given`).
"""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Callable
from typing import Any

Way = tuple[tuple[Any, ...], dict[str, Any]]  # arguments by place, and by name
ANYTHING = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
# functions that take anything and look for it by place
_by_place: weakref.WeakSet[Any] = weakref.WeakSet()
# what a function raises that looks for an argument elsewhere
NOT_THERE = (IndexError, KeyError, TypeError, ValueError)


def call(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """What the function returns for the arguments of these names, in their order.

    Raises TypeError if it does not take them.
    """
    return by(ways(function, given), function, function)


def by(found: list[Way], function: Callable[..., Any], known_as: Any) -> Any:
    """Call the function in the way that was found.

    One that takes anything does not say where it looks for its arguments. At its first call it gets
    them by name, and by place if by name it raises, before and after, what a function raises that
    does not find them; then always in this way.
    So nothing is gained by raising now and then.
    """
    (places, named), *other = found
    if not other:
        return function(*places, **named)
    if _known(known_as):
        return function(*other[0][0])
    try:
        return function(*places, **named)
    except NOT_THERE as error:
        try:
            result = function(*other[0][0])
        except (IndexError, KeyError):
            raise error from None
        try:
            function(*places, **named)
        except NOT_THERE:
            with contextlib.suppress(TypeError):
                _by_place.add(known_as)
            return result
        raise


def _known(function: Any) -> bool:
    try:
        return function in _by_place
    except TypeError:  # it has no hash
        return False


def ways(function: Callable[..., Any], given: dict[str, Any]) -> list[Way]:
    """How the function can be called: one way, or two where it takes anything.

    Raises TypeError if it does not take them.

    By place where the function has the arguments so: some go by the type of their first one
    (`singledispatch`).
    """
    try:
        signature = inspect.signature(function)
    except Exception:  # a built-in without a signature, or an object that has something else for it
        return [((), given), (tuple(given.values()), {})]
    if {p.kind for p in signature.parameters.values()} == ANYTHING:
        return [((), given), (tuple(given.values()), {})]
    try:
        found = signature.bind(**given)
    except TypeError:
        found = _placed(signature, given)
    return [(found.args, found.kwargs)]


def _placed(signature: inspect.Signature, given: dict[str, Any]) -> inspect.BoundArguments:
    """Some parameters go by place only (`x, /`, `*args`): the arguments in their order, which the
    parameters' names may not contradict.

    Raises the TypeError of a call by name where there is no such parameter.
    """
    parameters = list(signature.parameters.values())
    open_end = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    places = [
        p
        for p in parameters
        if p.kind is p.POSITIONAL_ONLY or (open_end and p.kind is p.POSITIONAL_OR_KEYWORD)
    ]
    for parameter, name in zip(places, given, strict=False):
        if parameter.name != name and (
            parameter.name in given or parameter.kind is not parameter.POSITIONAL_ONLY
        ):
            return signature.bind(**given)
    by_name = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    first, rest = list(given)[: len(places)], list(given)[len(places) :]
    first += [name for name in rest if open_end and name not in by_name]
    return signature.bind(
        *(given[n] for n in first), **{n: given[n] for n in rest if n not in first}
    )


def names(function: Any) -> tuple[str, ...]:
    """The names of the parameters that have a place; () where they are not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except Exception:
        return ()
    return tuple(
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    )
