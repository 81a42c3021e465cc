"""Values of settings that have a form of their own: sizes in bytes, types, patterns. Read without data, or refused."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from zappend.datatypes import BYTES, STRING
from zappend.errors import UsageError
from zappend.settings import ExpandDims, Settings

__all__ = ["LARGEST_NUMBER", "bytes_of", "check_expand_dims", "check_pattern", "named_type"]

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])(i?)b?|b)?", re.IGNORECASE)
"""A number of bytes as people write it: ``500MB``, ``2 GiB``, ``1.5G``, ``1000000``."""

TYPES = {"str": STRING, "string": STRING, "object": STRING, "bytes": BYTES}

LARGEST_NUMBER = {"f": 8, "c": 16}
"""Bytes of the largest numbers that Zarr has, by kind."""


def bytes_of(size: int | str) -> int:
    """Return how many bytes the setting ``max_memory`` names; raise `UsageError` if it names none."""
    text = str(size)
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"setting max_memory: {text!r} is no number of bytes, such as 500MB, 2GiB or 1000000")
    number, unit, binary = match.groups()
    power = "kmgtp".index(unit.lower()) + 1 if unit else 0
    total = int(float(number) * math.pow(1024 if binary else 1000, power))
    if not total:
        raise UsageError(f"setting max_memory: it must be at least one byte, not {text!r}")
    return total


def check_expand_dims(settings: Settings) -> ExpandDims:
    """Return where the label comes from; raise `UsageError` if that is not said once."""
    wanted = settings.expand_dims
    if not isinstance(wanted, ExpandDims):
        return ExpandDims(coord=settings.append_dim)
    if sum(one is not None for one in (wanted.coord, wanted.attribute, wanted.pattern)) != 1:
        raise UsageError("setting expand_dims: give one of coord, attribute and pattern, where the label comes from")
    if wanted.pattern is not None:
        check_pattern(wanted.pattern)
    return wanted


def check_pattern(pattern: str) -> None:
    """Raise `UsageError` if the setting ``expand_dims.pattern`` is none that finds one label."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UsageError(f"setting expand_dims.pattern: {pattern!r} is no regular expression: {error}") from None
    if groups > 1:
        raise UsageError(
            f"setting expand_dims.pattern: {pattern!r} has {groups} groups, and only one can be the label; (?:…) "
            f"groups without that"
        )


def named_type(wanted: Any, variable: str) -> np.dtype[Any]:
    """Return the type of stored values that the setting ``dtype`` of `variable` names.

    Raises
    ------
    UsageError
        If it names none, or one that Zarr does not have.
    """
    name = wanted.__name__ if wanted is str or wanted is bytes else wanted
    if isinstance(name, str) and name in TYPES:
        return TYPES[name]
    where = f"setting variables.{variable}.encoding.dtype: {wanted!r} is no type that can be stored"
    try:
        dtype = np.dtype("V" if wanted is None else wanted)  # NumPy takes None for its default
    except (TypeError, ValueError, SyntaxError) as error:
        raise UsageError(f"{where}: {error}") from None
    if dtype.kind == "T" or (dtype.kind == "U" and not dtype.itemsize):
        return STRING
    too_large = dtype.itemsize > LARGEST_NUMBER.get(dtype.kind, dtype.itemsize)
    if dtype.kind not in "biufcOUSmM" or not dtype.itemsize or too_large or np.dtype(dtype.str) != dtype:
        raise UsageError(f"{where}: Zarr has no such type")
    if dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic":
        raise UsageError(f"{where}: times of numpy need a unit, such as {dtype.name}[ms]")
    little: np.dtype[Any] = dtype.newbyteorder("<")
    return little
