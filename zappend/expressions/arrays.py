"""What an expression can use of arrays, values of numpy, and their times; what reads values reads a bounded number.

Each function here takes values of an expression, and refuses all others: no option of numpy or xarray is passed on that
is not named here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from zappend.expressions.operators import holds_numbers, indexer, truth
from zappend.expressions.values import (
    Refusal,
    Times,
    check_content,
    check_items,
    check_readable,
    is_array,
    is_calendar_time,
    is_number,
    is_single,
    kind_name,
    text,
)

__all__ = [
    "ARRAY_METHODS",
    "CALENDAR_METHODS",
    "REDUCTIONS",
    "SELECTION",
    "SHAPE",
    "TIME_METHODS",
    "TIME_PARTS",
    "VALUE_METHODS",
    "array_of",
    "rounded",
    "single_item",
    "times_of",
    "to_list",
    "values_of",
]

Function = Callable[..., Any]

MOST_DIGITS = 30

FLOAT = 8
"""Bytes of a number on which a reduction works that makes others of all of them first."""

DIRECTIVES = re.compile(r"(?:[^%]|%[aAbBdHIjmMpSfUWwyYGVuzZ%]){0,100}")
"""Formats of times: without widths, which could have any number of digits."""

TYPES = re.compile(r"(?:datetime|timedelta)64\[(?:Y|M|W|D|h|m|s|ms|us|ns)\]|u?int(?:8|16|32|64)?|float(?:32|64)?|bool")


def values_of(array: Any) -> Any:
    """Return the values of `array`, read; a value of numpy where there is one without dimensions."""
    check_readable(array)
    values = np.asarray(array.values) if type(array) is xr.DataArray else array
    return values[()] if not values.ndim else values


def _dimension(dim: Any) -> Any:
    if not (dim is None or type(dim) is str or (type(dim) in (list, tuple) and all(type(one) is str for one in dim))):
        raise Refusal("a dimension is named by text, several by a list of it")
    return dim


def _reduction(name: str) -> Function:
    width = FLOAT if name in ("std", "var", "median") else 1

    def reduce(array: Any, dim: Any = None, *, axis: Any = None, skipna: Any = None) -> Any:
        check_readable(array, width)
        if name not in ("min", "max", "count") and not holds_numbers(array):
            raise Refusal(f"it holds text, of which there is no {name}()")
        if type(array) is xr.DataArray:
            options = {"dim": _dimension(dim)} if axis is None else {"axis": _axis(axis)}
            if skipna is not None:
                options["skipna"] = truth(skipna)
            return getattr(array, name)(**options)
        if skipna is not None:
            raise Refusal("values of numpy have no skipna; leave out .values")
        axis = dim if axis is None else axis
        return getattr(np, name)(array, axis=None if axis is None else _axis(axis))

    return reduce


def _axis(axis: Any) -> Any:
    if type(axis) is not int:
        raise Refusal("an axis is a whole number")
    return axis


def single_item(array: Any) -> Any:
    """Return the one value of `array` as Python has it."""
    if array.size != 1:
        raise Refusal(f"it has {array.size} values, and one is asked for; take one, such as [-1]")
    return np.asarray(values_of(array)).item()


def to_list(array: Any) -> Any:
    """Return the values of `array` as lists of Python."""
    check_items(int(array.size))
    return np.asarray(values_of(array)).tolist()


def rounded(number: Any, digits: Any = None) -> Any:
    """Return a number, or those of an array, with so many digits."""
    if digits is not None and (type(digits) is not int or abs(digits) > MOST_DIGITS):
        raise Refusal(f"digits are a whole number, {MOST_DIGITS} at most")
    if is_number(number):
        return round(number, digits)
    check_readable(array_of(number))
    return np.round(number, digits or 0)


def _as_type(array: Any, dtype: Any) -> Any:
    if type(dtype) is not str or not TYPES.fullmatch(dtype):
        raise Refusal("a type is given as text: 'datetime64[D]', 'timedelta64[s]', 'int', 'float', 'bool', …")
    check_readable(array, np.dtype(dtype).itemsize)
    return array.astype(dtype)


def _of_places(array: xr.DataArray, indexers: Any = None, *, drop: Any = False, **by_name: Any) -> Any:
    return array.isel(_indexers(array, indexers, by_name, labels=False), drop=truth(drop))


def _of_labels(array: Any, indexers: Any = None, *, method: Any = None, drop: Any = False, **by_name: Any) -> Any:
    if not is_single(method) or method not in (None, "nearest", "pad", "ffill", "backfill", "bfill"):
        raise Refusal("method is 'nearest', 'ffill' or 'bfill'")
    return array.sel(_indexers(array, indexers, by_name, labels=True), method=method, drop=truth(drop))


def _indexers(array: Any, indexers: Any, by_name: Mapping[str, Any], *, labels: bool) -> dict[Any, Any]:
    if indexers is not None and type(indexers) is not dict:
        raise Refusal("what is selected is given by the names of dimensions, such as .isel(time=-1)")
    given = {**(indexers or {}), **by_name}
    for name in given:
        if name not in array.sizes:
            raise Refusal(f"there is no dimension {str(name)[:200]!r}; there are {', '.join(map(repr, array.sizes))}")
    return {name: indexer(key, array.sizes[name], labels=labels) for name, key in given.items()}


def _is_null(array: xr.DataArray) -> Any:
    check_readable(array)
    return array.isnull()


def _not_null(array: xr.DataArray) -> Any:
    check_readable(array)
    return array.notnull()


def _steps(array: xr.DataArray, dim: Any) -> Any:
    check_readable(array)
    if type(dim) is not str:
        raise Refusal("a dimension is named by text")
    return array.diff(dim)


def times_of(array: xr.DataArray) -> Times:
    """Return what gives the parts of the times in `array`; raise `Refusal` if it holds none."""
    check_readable(array)
    if array.dtype.kind not in "mM" and not (array.size and is_calendar_time(np.asarray(array).flat[0])):
        raise Refusal(f"only times have .dt, and it holds {array.dtype}")
    return Times(array)


def _part(name: str) -> Function:
    return lambda times: getattr(times.array.dt, name)


def _in_words(times: Times, layout: Any) -> Any:
    _check_layout(layout)
    check_content(int(times.array.size) * 4 * len(layout))
    return times.array.dt.strftime(layout)


def _check_layout(layout: Any) -> None:
    if type(layout) is not str or not DIRECTIVES.fullmatch(layout):
        raise Refusal("a format of times is a text of 100 characters at most with directives such as %Y, %m, %d")


def _calendar_in_words(value: Any, layout: Any) -> str:
    _check_layout(layout)
    return str(value.strftime(layout))


def array_of(value: Any) -> Any:
    """Return `value` if it is an array; raise `Refusal` if not."""
    if not is_array(value):
        raise Refusal(f"a {kind_name(value)} is no array")
    return value


REDUCTIONS = {name: _reduction(name) for name in ("min", "max", "mean", "sum", "std", "var", "median", "any", "all")}

SHAPE: dict[str, Function] = {
    "shape": lambda array: tuple(map(int, array.shape)),
    "size": lambda array: int(array.size),
    "ndim": lambda array: int(array.ndim),
    "nbytes": lambda array: int(array.nbytes),
    "dtype": lambda array: str(array.dtype),
}

SELECTION: dict[str, Function] = {"isel": _of_places, "sel": _of_labels}
"""Methods of datasets, too."""

VALUE_METHODS: dict[str, Function] = {
    **REDUCTIONS,
    "item": single_item,
    "tolist": to_list,
    "round": rounded,
    "astype": _as_type,
}
"""Methods of arrays and values of numpy."""

ARRAY_METHODS: dict[str, Function] = {
    **VALUE_METHODS,
    **SELECTION,
    "count": _reduction("count"),
    "diff": _steps,
    "isnull": _is_null,
    "notnull": _not_null,
}
"""Methods of arrays of xarray."""

PARTS = (
    "year month day hour minute second microsecond nanosecond dayofyear dayofweek weekday quarter season "
    "days_in_month days seconds"
)

TIME_PARTS = {name: _part(name) for name in PARTS.split()}

TIME_METHODS: dict[str, Function] = {
    "strftime": _in_words,
    "total_seconds": lambda times: times.array.dt.total_seconds(),
}
"""Methods of what ``.dt`` gives."""

CALENDAR_METHODS: dict[str, Function] = {"strftime": _calendar_in_words, "isoformat": text}
"""Methods of a single time in a calendar that numpy does not have."""
