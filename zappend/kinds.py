"""What values mean, whatever they are stored as: times, durations, numbers, strings …; and which are missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from zappend.datatypes import Block, is_bytes

__all__ = ["is_cftime", "is_missing", "is_storable", "kind_of", "kind_of_type"]

KINDS = {
    "M": "times",
    "m": "durations",
    "b": "booleans",
    "i": "numbers",
    "u": "numbers",
    "f": "numbers",
    "c": "complex numbers",
    "U": "strings",
    "T": "strings",
    "O": "strings",
    "S": "bytes",
    "V": "raw bytes",
}

WIDENED = {("booleans", "numbers"), ("numbers", "complex numbers")}
"""What can be stored as another kind, and as which."""


def kind_of_type(dtype: np.dtype[Any]) -> str:
    """Return what values of `dtype` are, in the words of `kind_of`; objects are strings unless they are bytes."""
    return "bytes" if is_bytes(dtype) else KINDS[dtype.kind]


def kind_of(values: Block) -> str:
    """Return what decoded `values` are: times, durations, numbers, booleans, strings, bytes, judged by the first."""
    if is_cftime(values):
        return "times"
    if values.dtype == object and isinstance(next((v for v in values.flat if v is not None), None), bytes):
        return "bytes"
    return kind_of_type(values.dtype)


def is_storable(kind: str, target: str) -> bool:
    """Tell whether values of one `kind` can be stored as the kind `target`."""
    return kind == target or (kind, target) in WIDENED


def is_cftime(values: Block) -> bool:
    """Tell whether `values` are dates of cftime, judged by the first that is there."""
    if values.dtype != object:
        return False
    first = next((value for value in values.flat if value is not None), None)
    return type(first).__module__.startswith("cftime")


def is_missing(values: Block) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return where `values` are NaN, NaT or None."""
    if values.dtype.kind in "fc":
        return np.isnan(values)
    if values.dtype.kind in "mM":
        return np.isnat(values)
    if values.dtype == object:
        flat = (value is None or value != value for value in values.flat)
        return np.fromiter(flat, bool, values.size).reshape(values.shape)
    return np.zeros(values.shape, bool)
