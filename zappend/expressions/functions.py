"""The functions of expressions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from zappend.expressions.arrays import REDUCTIONS, array_of, rounded, single_item, to_list, values_of
from zappend.expressions.members import called
from zappend.expressions.operators import formatted, truth
from zappend.expressions.values import (
    NUMBERS,
    Refusal,
    Table,
    check_items,
    check_readable,
    is_array,
    is_number,
    kind_name,
    text,
)

__all__ = ["FUNCTIONS", "call_function"]

Function = Callable[..., Any]

LONGEST_NUMBER = 400
"""Characters of a text that is to become a number."""

REFERENCES = ("lower", "center", "upper")


def _bounds(array: Any, ref: Any) -> tuple[Any, Any]:
    """Return the outer bounds of cells whose labels are at `ref` of them; the first step is the size of a cell."""
    if type(ref) is not str or ref not in REFERENCES:
        raise Refusal(f"ref is one of {', '.join(map(repr, REFERENCES))}")
    if array_of(array).ndim != 1 or not array.size:
        raise Refusal(f"an array with one dimension and values has bounds, and this one has the shape {array.shape}")
    places = [0, -1, 1] if array.size > 1 else [0, 0, 0]
    ends = array[places] if type(array) is np.ndarray else array.isel({array.dims[0]: places})
    first, last, second = np.asarray(values_of(ends)).astype(np.int64 if array.dtype.kind in "bu" else array.dtype)
    step = second - first
    if first > last:
        first, last, step = last, first, -step
    if ref == "lower":
        low, high = first, last + step
    elif ref == "upper":
        low, high = first - step, last
    else:
        low, high = first - step / 2, last + step / 2
    if type(array) is xr.DataArray:
        return xr.DataArray(low), xr.DataArray(high)
    return low, high


def _lower_bound(array: Any, ref: Any = "lower") -> Any:
    return _bounds(array, ref)[0]


def _upper_bound(array: Any, ref: Any = "lower") -> Any:
    return _bounds(array, ref)[1]


def _length(value: Any) -> int:
    if isinstance(value, Table):
        return len(value.members)
    if isinstance(value, xr.Dataset):
        return len(value.data_vars)
    if type(value) in (str, list, tuple, dict, xr.DataArray, np.ndarray):
        return len(value)
    raise Refusal(f"a {kind_name(value)} has no length")


def _number(kind: type) -> Function:
    def number(value: Any = 0) -> Any:
        if is_array(value):
            value = single_item(value)
        if type(value) is str and len(value) > LONGEST_NUMBER:
            raise Refusal(f"a text of {len(value)} characters is no number")
        if not (is_number(value) or type(value) is str):
            raise Refusal(f"a {kind_name(value)} is no number")
        return kind(value)

    return number


def _absolute(value: Any) -> Any:
    if is_array(value):
        check_readable(value)
    elif not is_number(value):
        raise Refusal(f"a {kind_name(value)} has no sign")
    return abs(value)


def _extreme(name: str, function: Function) -> Function:
    def extreme(*given: Any) -> Any:
        values = given
        if len(given) == 1:
            if is_array(given[0]):
                return REDUCTIONS[name](given[0])
            values = tuple(_listed(given[0]))
        return function(values)

    return extreme


def _total(values: Any) -> Any:
    if is_array(values):
        return REDUCTIONS["sum"](values)
    numbers = _listed(values)
    if any(type(one) not in NUMBERS for one in numbers):
        raise Refusal("only numbers are added up")
    return sum(numbers)


def _listed(value: Any) -> list[Any]:
    if is_array(value):
        listed = to_list(value)
        return listed if isinstance(listed, list) else [listed]
    if isinstance(value, xr.Dataset):
        return list(map(str, value.data_vars))
    if type(value) in (str, list, tuple, dict) or isinstance(value, Table):
        check_items(_length(value))
        return list(value.members if isinstance(value, Table) else value)
    raise Refusal(f"a {kind_name(value)} is no list")


def _sorted(value: Any, *, reverse: Any = False) -> list[Any]:
    return sorted(_listed(value), reverse=truth(reverse))


def _slice(start: Any, *more: Any) -> slice:
    if len(more) > 2:
        raise Refusal("a slice has a start, a stop and a step")
    return slice(start, *more) if more else slice(start)


def _format(value: Any, spec: Any = "") -> str:
    if type(spec) is not str:
        raise Refusal("a format is text")
    return formatted(value, -1, spec)


def _now() -> Any:
    return np.datetime64(int(time.time()), "s")


FUNCTIONS: dict[str, Function] = {
    "lower_bound": _lower_bound,
    "upper_bound": _upper_bound,
    "now": _now,
    "str": lambda value="": text(value),
    "int": _number(int),
    "float": _number(float),
    "bool": lambda value=False: truth(value),
    "round": rounded,
    "abs": _absolute,
    "len": _length,
    "min": _extreme("min", min),
    "max": _extreme("max", max),
    "sum": _total,
    "sorted": _sorted,
    "list": lambda value=(): _listed(value),
    "tuple": lambda value=(): tuple(_listed(value)),
    "slice": _slice,
    "format": _format,
}


def call_function(name: str, given: list[Any], named: dict[str, Any]) -> Any:
    """Return what the function `name` of `FUNCTIONS` gives; raise `Refusal` if it does not take what is given."""
    return called(FUNCTIONS[name], given, named)
