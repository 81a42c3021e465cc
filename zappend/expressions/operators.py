"""What operators and brackets of an expression do, each bounded before it is done."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from zappend.expressions.values import (
    LARGEST_INT,
    MOST_BYTES,
    MOST_ITEMS,
    Refusal,
    Table,
    check_content,
    check_items,
    check_readable,
    check_text,
    is_array,
    is_calendar_time,
    is_number,
    is_single,
    kind_name,
    text,
)

__all__ = [
    "BINARY",
    "COMPARISONS",
    "UNARY",
    "arithmetic",
    "compare",
    "formatted",
    "holds_numbers",
    "indexer",
    "item",
    "listed",
    "truth",
    "unary",
]

BINARY: Mapping[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", operator.pow),
}

GROWING = (ast.Add, ast.Sub, ast.Mult, ast.Pow)
"""Operators by which whole numbers may become too large for 64 bits, which numpy does not tell of arrays."""

UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}

COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: operator.contains(b, a),
    ast.NotIn: lambda a, b: not operator.contains(b, a),
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}

WIDEST = 16
"""Bytes of the largest number that an operation on arrays can make."""

LONGEST_NAME = 200
"""Characters of a name or label; those of times are parsed, which takes its time."""

FORMAT = re.compile(r"(?:[^{}]?[<>=^])?[-+ ]?z?#?0?(\d{0,3})[,_]?(?:\.(\d{1,3}))?[bdeEfFgGosxX%]?")
"""What may stand after the colon in an f-string; widths have three digits at most."""


# Arithmetic.


def arithmetic(kind: type[ast.operator], a: Any, b: Any) -> Any:
    """Return what an operator of `BINARY` makes of `a` and `b`.

    Raises
    ------
    Refusal
        If it does not go together, or the result would be too large.
    """
    sign, function = BINARY[kind]
    if is_array(a) or is_array(b):
        _check_arrays(a, b, numbers=True)
        a, b = _widened(a), _widened(b)
        result = function(a, b)
        if result.dtype.kind in "iu" and kind in GROWING:
            with np.errstate(all="ignore"):
                exact = function(*(one.astype(float) if is_array(one) else float(one) for one in (a, b)))
            if (abs(exact) >= np.iinfo(result.dtype).max).any():
                raise Refusal("whole numbers in it need more than 64 bits; make them floats by .astype('float')")
        return result
    if is_number(a) and is_number(b):
        if (
            kind is ast.Pow
            and isinstance(a, int)
            and isinstance(b, int)
            and abs(a) > 1
            and b >= LARGEST_INT.bit_length()
        ):
            raise Refusal("the number needs more than 64 bits")
        return function(a, b)
    if type(a) is type(b) and type(a) in (str, list, tuple) and kind is ast.Add:
        (check_text if type(a) is str else check_items)(len(a) + len(b))
        return a + b
    if kind is ast.Mult and (type(a) is int or type(b) is int):
        count, many = (a, b) if type(a) is int else (b, a)
        if type(many) in (str, list, tuple):
            (check_text if type(many) is str else check_items)(max(count, 0) * len(many))
            return many * count
    if kind is ast.Mod and type(a) is str:
        raise Refusal('text is not formatted by %; use an f-string, such as f"{value:.2f}"')
    raise Refusal(f"{kind_name(a)} {sign} {kind_name(b)} is nothing")


def unary(kind: type[ast.unaryop], value: Any) -> Any:
    """Return what a sign of `UNARY` makes of `value`; raise `Refusal` if that is no number."""
    if is_array(value):
        _check_arrays(value, 0, numbers=True)
        value = _widened(value)
    elif not is_number(value):
        raise Refusal(f"a {kind_name(value)} has no sign")
    return UNARY[kind](value)


def compare(kind: type[ast.cmpop], a: Any, b: Any) -> Any:
    """Return what an operator of `COMPARISONS` tells of `a` and `b`; raise `Refusal` where it means nothing."""
    if kind in (ast.Is, ast.IsNot):
        if not any(type(one) in (type(None), bool) for one in (a, b)):
            raise Refusal("only None, True and False are compared by 'is'; use ==")
        return COMPARISONS[kind](a, b)
    if kind in (ast.In, ast.NotIn):
        if not is_single(a):
            raise Refusal(f"a {kind_name(a)} is looked for in nothing; numbers and text are")
        if isinstance(b, (Table, xr.Dataset)):
            b = set(b.members) if isinstance(b, Table) else set(b.variables)
        elif type(b) not in (str, list, tuple, dict):
            raise Refusal(f"nothing is looked for in a {kind_name(b)}")
        return COMPARISONS[kind](a, b)
    if any(isinstance(one, (Table, xr.Dataset)) for one in (a, b)):
        raise Refusal(f"{kind_name(a)} and {kind_name(b)} are not compared")
    if is_array(a) or is_array(b):
        _check_arrays(a, b, numbers=False)
    return COMPARISONS[kind](a, b)


def truth(value: Any) -> bool:
    """Return whether `value` is true, as Python says; raise `Refusal` if it does not."""
    if is_array(value) and value.size != 1:
        raise Refusal(f"of {value.size} values it cannot be said whether they are true")
    if isinstance(value, (xr.Dataset, Table)):
        raise Refusal(f"of a {kind_name(value)} it cannot be said whether it is true; use len()")
    return bool(value)


def _check_arrays(a: Any, b: Any, *, numbers: bool) -> None:
    """Raise `Refusal` unless `a` and `b`, of which one is an array, go together element by element."""
    for one in (a, b):
        if not (is_array(one) or is_number(one) or (not numbers and type(one) is str)):
            raise Refusal(f"a {kind_name(one)} and an array do not go together")
        if is_array(one):
            check_readable(one)
            if numbers and not holds_numbers(one):
                raise Refusal(f"it holds {one.dtype}, and only numbers and times are calculated with")
    if math.prod(_shape(a, b)) * WIDEST > MOST_BYTES:
        raise Refusal(f"the result would have {math.prod(_shape(a, b))} values; take less of what is combined")


def _widened(value: Any) -> Any:
    """Return an array of small whole numbers with 64 bits each, so that they grow as those of Python do."""
    small = is_array(value) and value.dtype.kind in "biu" and value.dtype.itemsize < 8
    return value.astype(np.int64) if small else value


def _shape(a: Any, b: Any) -> tuple[int, ...]:
    if type(a) is xr.DataArray and type(b) is xr.DataArray:
        names = dict.fromkeys((*a.dims, *b.dims))
        return tuple(max(a.sizes.get(name, 1), b.sizes.get(name, 1)) for name in names)
    return np.broadcast_shapes(*(one.shape if is_array(one) else () for one in (a, b)))


def holds_numbers(array: Any) -> bool:
    """Tell whether `array` holds numbers or times, and no text, which grows when it is added up."""
    if array.dtype.kind in "biufcmM":
        return True
    return bool(array.dtype.kind == "O" and array.size and all(map(is_calendar_time, np.asarray(array).flat)))


# Brackets.


def item(value: Any, key: Any) -> Any:
    """Return what ``value[key]`` is.

    Raises
    ------
    Refusal
        If there is no such thing, or `key` is none that can be.
    """
    if isinstance(value, (Table, dict)) and not (type(key) is str and len(key) <= LONGEST_NAME):
        raise Refusal(f"what {kind_name(value)} has is named by text, and not by a {kind_name(key)}")
    if isinstance(value, Table):
        if key not in value.members:
            raise Refusal(f"there is no {key!r} in {value.what}; there are {listed(value.members)}")
        return value.members[key]
    if isinstance(value, xr.Dataset):
        return _variable(value, key)
    if type(value) is xr.DataArray and type(key) is str:
        if key not in value.coords:
            raise Refusal(f"there is no coordinate {key[:LONGEST_NAME]!r}; there are {listed(value.coords)}")
        return value.coords[key]
    if type(value) in (xr.DataArray, np.ndarray):
        keys = key if type(key) is tuple else (key,)
        dots = [place for place, one in enumerate(keys) if one is Ellipsis]
        if len(dots) == 1:
            whole = (slice(None),) * (value.ndim - len(keys) + 1)
            keys = (*keys[: dots[0]], *whole, *keys[dots[0] + 1 :])
        if len(keys) > value.ndim:
            raise Refusal(f"it has {value.ndim} dimensions, and {len(keys)} are indexed")
        return value[tuple(indexer(one, size) for one, size in zip(keys, value.shape, strict=False))]
    if type(value) in (str, list, tuple) and (type(key) is int or _is_slice(key)):
        return value[key]
    if type(value) is dict:
        if key not in value:
            raise Refusal(f"there is no {key!r}; there are {listed(value)}")
        return value[key]
    raise Refusal(f"a {kind_name(value)} has nothing at a {kind_name(key)}")


def _variable(dataset: xr.Dataset, key: Any) -> Any:
    if type(key) is list and key and all(type(one) is str and len(one) <= LONGEST_NAME for one in key):
        missing = [one for one in key if one not in dataset.variables]
        if missing:
            raise Refusal(f"there is no variable {missing[0]!r}; there are {listed(dataset.variables)}")
        return dataset[key]
    if type(key) is not str or len(key) > LONGEST_NAME:
        raise Refusal(f"a variable is named by text, and not by a {kind_name(key)}")
    if key not in dataset.variables and key not in dataset.dims:
        raise Refusal(f"there is no variable {key!r}; there are {listed(dataset.variables)}")
    if key not in dataset.variables and dataset.sizes[key] > MOST_ITEMS:
        raise Refusal(f"the dimension {key!r} has no labels; its size is ds.sizes[{key!r}]")
    return dataset[key]


def indexer(key: Any, size: int, *, labels: bool = False) -> Any:
    """Return `key` as it selects along a dimension of `size`; what it selects is never more than there is.

    Parameters
    ----------
    key
        What stands in the brackets: a number, a slice, or several numbers; with `labels`, such labels.
    size
        Of the dimension.
    labels
        Whether labels are meant, and no places.

    Raises
    ------
    Refusal
        If it is something else, or selects labels several times.
    """
    if type(key) is slice:
        if not labels and not _is_slice(key):
            raise Refusal("places are whole numbers")
        return slice(*(_label(one) for one in (key.start, key.stop, key.step)))
    if type(key) is list or (type(key) in (xr.DataArray, np.ndarray) and key.ndim == 1):
        if len(key) > size:
            raise Refusal(f"{len(key)} places of {size} are selected")
        if type(key) is list:  # numpy gives each the room of the longest
            check_content(len(key) * max((len(one) for one in key if type(one) is str), default=1))
        values = np.asarray([_label(one) for one in key] if type(key) is list else _values(key))
        if not labels and values.dtype.kind not in "biu" and values.size:
            raise Refusal("places are whole numbers")
        return values if values.size else values.astype(np.intp)
    key = _label(key)
    if not labels and not (type(key) is int or (isinstance(key, np.integer))):
        raise Refusal(f"places are whole numbers, and no {kind_name(key)}")
    return key


def _label(value: Any) -> Any:
    if type(value) in (xr.DataArray, np.ndarray):
        if value.ndim:
            raise Refusal("several labels are a list or an array with one dimension")
        return _values(value)[()]
    if is_single(value) and not (type(value) is str and len(value) > LONGEST_NAME):
        return value
    raise Refusal(f"a {kind_name(value)} is no label")


def _values(array: Any) -> np.ndarray[Any, Any]:
    check_readable(array)
    return np.asarray(array.values if type(array) is xr.DataArray else array)


def _is_slice(key: Any) -> bool:
    parts = (key.start, key.stop, key.step) if type(key) is slice else (key,)
    return all(part is None or type(part) is int or isinstance(part, np.integer) for part in parts)


def listed(members: Any) -> str:
    """Return the names in `members`, for a message."""
    names = list(map(repr, members))
    return (", ".join(names[:20]) + (" …" if len(names) > 20 else ""))[:400] or "none"


# Text.


def formatted(value: Any, conversion: int, spec: str) -> str:
    """Return what braces of an f-string become.

    Raises
    ------
    Refusal
        If the width is too large, or `spec` is none of numbers and text.
    """
    if conversion in (ord("r"), ord("a")):
        shown = text(value)
        value = repr(value) if type(value) is str else shown
        value = value.encode("ascii", "backslashreplace").decode() if conversion == ord("a") else value
    elif conversion == ord("s"):
        value = text(value)
    if not spec:
        return text(value)
    if not FORMAT.fullmatch(spec):
        raise Refusal(f"the format {spec[:40]!r} is none of numbers or text, or has a width beyond 999")
    if is_array(value) and value.size == 1 and value.dtype.kind in "biuf":
        value = _values(value).item()
    if not (is_number(value) or type(value) is str):
        raise Refusal(f"a {kind_name(value)} has no format; times have .dt.strftime()")
    return format(value, spec)
