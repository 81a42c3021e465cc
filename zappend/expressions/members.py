"""The allow-list of expressions: attributes and methods, for each kind of value.

What is not here, an expression cannot reach: a name is looked up in these tables, never on the value itself, and what
a table has is a function of this project that takes values and returns one. So there is no function, class or module
among the values of an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np
import xarray as xr

from zappend.expressions.arrays import (
    ARRAY_METHODS,
    CALENDAR_METHODS,
    SELECTION,
    SHAPE,
    TIME_METHODS,
    TIME_PARTS,
    VALUE_METHODS,
    times_of,
    values_of,
)
from zappend.expressions.operators import item, listed
from zappend.expressions.values import (
    Refusal,
    Table,
    Times,
    check_content,
    check_items,
    check_text,
    is_calendar_time,
    is_single,
    kind_name,
)

__all__ = ["attribute", "call_method", "called"]

Function = Callable[..., Any]


# Of text.


def _method_of_text(name: str, *, parts: bool = False) -> Function:
    def method(value: str, *given: Any) -> Any:
        if parts:
            check_content(len(value))
        for one in given:
            if not (
                one is None or type(one) in (str, int) or (type(one) is tuple and all(type(o) is str for o in one))
            ):
                raise Refusal(f"a {kind_name(one)} is nothing for .{name}()")
        return getattr(value, name)(*given)

    return method


def _padded(name: str) -> Function:
    def method(value: str, width: Any, *fill: Any) -> str:
        if type(width) is not int:
            raise Refusal("a width is a whole number")
        check_text(width)
        result: str = getattr(value, name)(width, *fill)
        return result

    return method


def _replaced(value: str, old: Any, new: Any, count: Any = -1) -> str:
    if type(old) is not str or type(new) is not str or type(count) is not int:
        raise Refusal("text is replaced by text")
    check_text(len(value) + value.count(old) * len(new))
    return value.replace(old, new, count)


def _joined(value: str, parts: Any) -> str:
    if type(parts) not in (list, tuple):
        raise Refusal("a list of text is joined")
    check_text(len(value) * len(parts) + sum(len(part) for part in parts if type(part) is str))
    return value.join(parts)


TEXT = (
    "capitalize count endswith find isalnum isalpha isdigit islower isnumeric isspace isupper lower lstrip "
    "removeprefix removesuffix rfind rstrip startswith strip title upper"
)

PARTING = ("partition", "rpartition", "split", "rsplit", "splitlines")

OF_TEXT: dict[str, Function] = {
    **{name: _method_of_text(name) for name in TEXT.split()},
    **{name: _method_of_text(name, parts=True) for name in PARTING},
    **{name: _padded(name) for name in ("center", "ljust", "rjust", "zfill")},
    "replace": _replaced,
    "join": _joined,
}


# Of tables and mappings.


def _members(value: Any) -> Mapping[Any, Any]:
    members: Mapping[Any, Any] = value.members if isinstance(value, Table) else value
    check_items(len(members))
    return members


def _get(value: Any, key: Any, default: Any = None) -> Any:
    if type(key) is not str:
        raise Refusal("what is got is named by text")
    return _members(value).get(key, default)


OF_MAPPING: dict[str, Function] = {
    "get": _get,
    "keys": lambda value: list(_members(value)),
    "values": lambda value: list(_members(value).values()),
    "items": lambda value: list(_members(value).items()),
}


def _found(name: str) -> Function:
    def find(value: Any, one: Any) -> int:
        if not is_single(one):
            raise Refusal(f"a {kind_name(one)} is not looked for; numbers and text are")
        found: int = getattr(value, name)(one)
        return found

    return find


OF_LIST: dict[str, Function] = {name: _found(name) for name in ("count", "index")}


# What there is of which.

ATTRIBUTES: dict[type, dict[str, Function]] = {
    xr.Dataset: {
        "attrs": lambda dataset: Table("the attributes", dataset.attrs),
        "sizes": lambda dataset: Table("the sizes", dict(dataset.sizes)),
        "dims": lambda dataset: Table("the sizes", dict(dataset.sizes)),
        "coords": lambda dataset: Table("the coordinates", dataset.coords),
        "data_vars": lambda dataset: Table("the data variables", dataset.data_vars),
        "variables": lambda dataset: Table("the variables", {**dataset.coords, **dataset.data_vars}),
        "nbytes": lambda dataset: int(dataset.nbytes),
    },
    xr.DataArray: {
        **SHAPE,
        "attrs": lambda array: Table("the attributes", array.attrs),
        "sizes": lambda array: Table("the sizes", dict(array.sizes)),
        "dims": lambda array: tuple(map(str, array.dims)),
        "coords": lambda array: Table("the coordinates", array.coords),
        "name": lambda array: array.name,
        "values": values_of,
        "dt": times_of,
    },
    np.ndarray: SHAPE,
    Times: TIME_PARTS,
}

METHODS: dict[type, dict[str, Function]] = {
    xr.Dataset: {**SELECTION, "keys": lambda dataset: list(map(str, dataset.data_vars))},
    xr.DataArray: ARRAY_METHODS,
    np.ndarray: VALUE_METHODS,
    Times: TIME_METHODS,
    str: OF_TEXT,
    dict: OF_MAPPING,
    Table: OF_MAPPING,
    list: OF_LIST,
    tuple: OF_LIST,
    float: {"is_integer": lambda value: value.is_integer()},
}

CALENDAR_PARTS = ("year", "month", "day", "hour", "minute", "second")


def attribute(value: Any, name: str) -> Any:
    """Return what ``value.name`` is.

    Raises
    ------
    Refusal
        If it is not on the allow-list, and no variable or attribute of the dataset or array.
    """
    table = _table(ATTRIBUTES, value)
    if name in table:
        return table[name](value)
    if is_calendar_time(value) and name in CALENDAR_PARTS:
        return int(getattr(value, name))
    if isinstance(value, (xr.Dataset, xr.DataArray)):
        if isinstance(value, xr.Dataset) and (name in value.variables or name in value.dims):
            return item(value, name)
        if isinstance(value, xr.DataArray) and name in value.coords:
            return value.coords[name]
        if name in value.attrs:
            return value.attrs[name]
    if name in _methods(value):
        raise Refusal(f"{name!r} is a method; call it: .{name}()")
    raise _none_such(value, name)


def call_method(value: Any, name: str, given: list[Any], named: dict[str, Any]) -> Any:
    """Return what ``value.name(…)`` gives; raise `Refusal` if there is no such method, or nothing for it to take."""
    methods = _methods(value)
    if name not in methods:
        raise _none_such(value, name)
    return called(methods[name], [value, *given], named)


def called(function: Function, given: list[Any], named: dict[str, Any]) -> Any:
    """Return what `function` gives; raise `Refusal` if it does not take what is given."""
    try:
        bound = signature(function).bind(*given, **named)
    except TypeError as error:
        raise Refusal(str(error)) from None
    return function(*bound.args, **bound.kwargs)


def _table(tables: Mapping[type, dict[str, Function]], value: Any) -> dict[str, Function]:
    return tables.get(np.ndarray if isinstance(value, np.generic) else type(value), {})


def _methods(value: Any) -> dict[str, Function]:
    if is_calendar_time(value):
        return CALENDAR_METHODS
    return _table(METHODS, value)


def _none_such(value: Any, name: str) -> Refusal:
    there = [*_table(ATTRIBUTES, value), *(f"{one}()" for one in _methods(value))]
    has = f"there are {', '.join(there)}" if there else "it has nothing that an expression can use"
    if isinstance(value, (xr.Dataset, xr.DataArray)):
        names = value.variables if isinstance(value, xr.Dataset) else value.coords
        has += f"; and {listed(names)}; and the attributes {listed(value.attrs)}"
    return Refusal(f"{kind_name(value)} has no {name!r} here; {has}")
