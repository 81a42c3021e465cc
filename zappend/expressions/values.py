"""The values that an expression works with: which there are, how large they may become, what they are in JSON.

An expression has no loop, so what it can do is bounded by its length and by the size of each value. Every value that is
made goes through `checked`, and what could become large is refused before it is made.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

__all__ = [
    "ARRAYS",
    "LARGEST_INT",
    "MOST_BYTES",
    "MOST_ITEMS",
    "NUMBERS",
    "Refusal",
    "Table",
    "Times",
    "check_content",
    "check_items",
    "check_readable",
    "check_text",
    "checked",
    "is_array",
    "is_calendar_time",
    "is_number",
    "is_single",
    "kind_name",
    "text",
    "to_json",
]

LONGEST_TEXT = 1_000_000
"""Characters of a text."""

MOST_TEXT = 100_000
"""Characters of all that is in a list or mapping."""

PER_ITEM = 10
"""As how many characters an item of it counts, beside its own."""

MOST_ITEMS = MOST_TEXT // PER_ITEM

LARGEST_INT = 2**64
"""Whole numbers are smaller than this: what JSON has beyond, few readers of it take."""

MOST_BYTES = 2**26
"""Bytes of an array of which the values are read or made."""

MOST_READ = 16 * MOST_BYTES
"""Bytes of all arrays together of which the values are read or made by one expression."""

TEXT_BYTES = 64
"""What is reckoned for a text of any length."""

ARRAYS = (xr.DataArray, np.ndarray)
NUMBERS = (bool, int, float)
LIGHT = (type(None), *NUMBERS)
PLAIN = (*LIGHT, str)
SEQUENCES = (list, tuple)
INDICES = (slice, type(Ellipsis))


_read = ContextVar("_read", default=0)
"""Bytes so far, in the context in which an expression is evaluated."""


class Refusal(Exception):
    """Why a part of an expression is refused."""


@dataclass(frozen=True)
class Times:
    """What ``.dt`` of an array gives: the parts of its times."""

    array: xr.DataArray


@dataclass(frozen=True)
class Table:
    """Attributes, sizes or variables by name; `what` they are, for messages."""

    what: str
    members: Mapping[Any, Any]


def is_number(value: Any) -> bool:
    """Tell whether `value` is a number of Python."""
    return type(value) in NUMBERS


def is_single(value: Any) -> bool:
    """Tell whether `value` is a single number, text, or time, so that comparing it reads nothing."""
    return type(value) in PLAIN or isinstance(value, np.generic) or is_calendar_time(value)


def is_array(value: Any) -> bool:
    """Tell whether `value` is an array, or a value of numpy, which behaves like one without dimensions."""
    return type(value) in ARRAYS or isinstance(value, np.generic)


def is_calendar_time(value: Any) -> bool:
    """Tell whether `value` is a time in a calendar that numpy does not have."""
    cftime = sys.modules.get("cftime")  # who has not imported it has no such value
    return cftime is not None and isinstance(value, cftime.datetime)


def kind_name(value: Any) -> str:
    """Return what a user calls the type of `value`."""
    if isinstance(value, Table):
        return value.what
    return ".dt" if isinstance(value, Times) else type(value).__name__


def checked(value: Any) -> tuple[Any, int]:
    """Return `value`, in a type that expressions have, and how much it counts as work.

    Raises
    ------
    Refusal
        If expressions have no such type, or the value is too large.
    """
    kind, weight = type(value), 1
    if isinstance(value, np.str_):
        value, kind = str(value), str
    if kind is int and abs(value) >= LARGEST_INT:
        raise Refusal("the number needs more than 64 bits")
    if kind is str:
        check_text(len(value))
        weight = len(value) // PER_ITEM
    elif kind in (list, tuple, dict):
        check_content(weight := _weight(value))
    elif kind not in (*INDICES, *ARRAYS, Times, Table, xr.Dataset) and not is_single(value):
        raise Refusal(f"it is a {kind.__name__}, with which expressions do not work")
    return value, weight


def check_text(count: int) -> None:
    """Raise `Refusal` if a text has more characters than `LONGEST_TEXT`."""
    if count > LONGEST_TEXT:
        raise Refusal(f"the text becomes too long: it can have {LONGEST_TEXT} characters")


def check_content(count: int) -> None:
    """Raise `Refusal` if what is in a list counts as more characters than `MOST_TEXT`."""
    if count > MOST_TEXT:
        raise Refusal(f"a list becomes too large: it can have {MOST_ITEMS} items, and {MOST_TEXT} characters in them")


def check_items(count: int) -> None:
    """Raise `Refusal` if a list has more than `MOST_ITEMS` items."""
    check_content(count * PER_ITEM)


def _weight(value: Any) -> int:
    """Return as how many characters what is in `value` counts, or a number beyond what it may."""
    total = 0
    waiting = [value]
    while waiting and total <= MOST_TEXT:
        one = waiting.pop()
        if type(one) is str:
            total += len(one)
        elif isinstance(one, (*SEQUENCES, dict, Table)):
            members = one.members if isinstance(one, Table) else one
            total += PER_ITEM * len(members)
            waiting += [inner for inner in members if type(inner) not in LIGHT]
            waiting += members.values() if isinstance(members, Mapping) else ()
        elif is_array(one):
            total += PER_ITEM * int(one.size)
        elif isinstance(one, xr.Dataset):
            raise Refusal("a dataset cannot be put into a list or a mapping")
    return total


def check_readable(array: Any, width: int = 1) -> None:
    """Raise `Refusal` if the values of `array` are too many to be read here, or to be made with `width` bytes each."""
    width = max(array.dtype.itemsize, TEXT_BYTES if array.dtype.kind in "OT" else width)
    size = int(array.size) * width
    if size > MOST_BYTES:
        raise Refusal(
            f"it has {array.size} values, about {size / 2**20:,.0f} MiB, and an expression reads "
            f"{MOST_BYTES >> 20} MiB at most; take a part of it, such as [-1] or .isel(), or a coordinate"
        )
    _read.set(_read.get() + size)
    if _read.get() > MOST_READ:
        raise Refusal(
            f"the expression reads more than {MOST_READ >> 20} MiB in all; take parts of what it reads, or divide it"
        )


def to_json(value: Any) -> Any:
    """Return `value` as an attribute has it: times in ISO 8601 to whole seconds, NaN and infinity as text.

    Raises
    ------
    Refusal
        If JSON has nothing for it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if type(value) in PLAIN:
        return value
    if isinstance(value, SEQUENCES):
        return [to_json(one) for one in value]
    if isinstance(value, dict):
        return {str(key): to_json(one) for key, one in value.items()}
    if isinstance(value, Table):
        return to_json(checked(dict(value.members))[0])
    if is_calendar_time(value):
        return str(value.strftime("%Y-%m-%dT%H:%M:%S"))
    if is_array(value):
        return _array_to_json(value)
    raise Refusal(f"cannot serialize value of type {kind_name(value)}: JSON has numbers, text, lists and mappings")


def _array_to_json(array: Any) -> Any:
    check_items(int(array.size))
    check_readable(array)
    values = np.asarray(array.values if isinstance(array, xr.DataArray) else array)
    if values.dtype.kind == "M":
        seconds: Any = np.datetime_as_string(values, unit="s")
        return seconds.tolist()
    if values.dtype.kind == "m":
        return _mapped(values.astype("m8[s]").tolist(), lambda one: "NaT" if one is None else _duration(one))
    if values.dtype.kind == "T":
        values = values.astype(object)
    if values.dtype.kind not in "biufUO":
        raise Refusal(f"cannot serialize value of type {kind_name(array)}, dtype {values.dtype}")
    return _mapped(values.tolist(), to_json)


def _mapped(values: Any, change: Any) -> Any:
    return [_mapped(one, change) for one in values] if isinstance(values, list) else change(values)


def _duration(value: Any) -> str:
    """Return a duration as ISO 8601 has it, such as ``P1DT12H``."""
    seconds = int(value.total_seconds())
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    days, rest = divmod(seconds, 86400)
    parts = [f"{rest // 3600}H" * (rest >= 3600), f"{rest // 60 % 60}M" * (rest // 60 % 60 > 0)]
    parts.append(f"{rest % 60}S" * (rest % 60 > 0))
    time = "".join(parts)
    return f"{sign}P{f'{days}D' if days or not time else ''}{f'T{time}' if time else ''}"


def text(value: Any) -> str:
    """Return `value` as text: values of numpy and Python as Python writes them, arrays as the attribute would be."""
    shown = _printable(value)
    return shown if isinstance(shown, str) else str(shown)


def _printable(value: Any) -> Any:
    if isinstance(value, SEQUENCES):
        return type(value)(_printable(one) for one in value)
    if isinstance(value, dict):
        return {key: _printable(one) for key, one in value.items()}
    if isinstance(value, np.generic) and value.dtype.kind in "mM":
        return str(value)
    return to_json(value)
