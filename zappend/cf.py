"""Decoded values ↔ stored values, by the CF conventions as xarray applies them: times, packing, fill values.

Rule of the module: what is stored decodes to what was given, or `EncodingError` says which value does not. Values that
are stored alike on both sides are copied without decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from zappend.datatypes import BYTES, STRING, is_bytes
from zappend.encoding import (
    PACKING_KEYS,
    Block,
    Encoding,
    EncodingError,
    cast_exactly,
    decode,
    encoding_attrs,
    fill_missing,
    is_cftime,
    is_missing,
    refusal,
    same,
)
from zappend.times import choose_time_encoding, encode_times

__all__ = ["choose_encoding", "to_stored"]


def choose_encoding(values: Block, wanted: Mapping[str, Any]) -> Encoding:
    """Return how decoded `values` are stored in a new array.

    Parameters
    ----------
    values
        All values of the first slice if they are times or durations, else any part of them.
    wanted
        The encoding that xarray keeps with a variable; what it says of type, packing, fill value, units and calendar
        is followed as far as it can hold `values`. Times and durations without units: whole milliseconds, since
        1970-01-01 for times; finer if these values need it.
    """
    kind = values.dtype.kind
    if kind in "Mm" or is_cftime(values):
        return choose_time_encoding(values, wanted)
    if kind in "OUT":
        first = next((value for value in values.flat if value is not None), None)
        return Encoding(BYTES if isinstance(first, bytes) else STRING, {})
    if kind in "bSV":
        return Encoding(values.dtype, {})
    dtype = values.dtype
    if kind in "iufc" and (named := wanted.get("dtype")) is not None and np.dtype(named).kind in "iufc":
        dtype = np.dtype(named)
    attrs = encoding_attrs({key: wanted[key] for key in PACKING_KEYS if key in wanted}, dtype)
    if dtype.kind in "fc" and "_FillValue" not in wanted:
        attrs["_FillValue"] = np.nan
    return Encoding(dtype.newbyteorder("<"), attrs)


def to_stored(values: Block, source: Encoding | None, target: Encoding) -> Block:
    """Return `values` as they are to be stored under `target`.

    Parameters
    ----------
    values
        Stored values under `source`, or decoded values if that is ``None``. Any shape.
    source, target
        How the values are stored in the slice, and how they are to be.

    Returns
    -------
    block
        Of the same shape, in the type of `target`; perhaps `values` themselves.

    Raises
    ------
    EncodingError
        If a value would not read back as it was. A float that is stored in fewer bits may be rounded, and a packed
        one is rounded to the next multiple of the scale factor.
    """
    if source is not None:
        if source.stores_like(target):
            return values.astype(target.dtype, copy=False)
        values = decode(values, source)
    if target.dtype.kind in "mMV" or values.dtype.kind == "V":
        return _copy_exactly(values, target)
    if target.is_time or target.is_duration or values.dtype.kind in "Mm":
        return encode_times(values, target)
    if target.dtype == object or values.dtype.kind in "OUST":
        return _encode_strings(values, target)
    return _encode_numbers(values, target)


# Numbers.


def _encode_numbers(values: Block, target: Encoding) -> Block:
    attrs, dtype = target.attrs, target.dtype
    scale, offset, fill = attrs.get("scale_factor"), attrs.get("add_offset"), attrs.get("_FillValue")
    if values.dtype.kind == "b" or dtype.kind == "b":
        if values.dtype.kind != dtype.kind and not (values.dtype.kind == "b" and dtype.kind in "iu"):
            raise EncodingError(f"values of type {values.dtype} cannot be stored as {dtype}")
        return fill_missing(values.astype(dtype, copy=False), values, is_missing(values), target)
    if values.dtype.kind == "c" and dtype.kind != "c":
        raise EncodingError(f"complex values cannot be stored as {dtype}")
    if str(attrs.get("_Unsigned", "")).lower() == "true" and dtype.kind == "i":
        unsigned = Encoding(np.dtype(f"u{dtype.itemsize}"), {k: v for k, v in attrs.items() if k != "_Unsigned"})
        if fill is not None:
            as_unsigned = np.asarray(fill, dtype).view(unsigned.dtype)[()]
            unsigned = replace(unsigned, attrs={**unsigned.attrs, "_FillValue": as_unsigned})
        return _encode_numbers(values, unsigned).view(dtype)
    is_plain = scale is None and offset is None and "missing_value" not in attrs
    if values.dtype == dtype and is_plain and (fill is None or same(fill, np.nan)):
        return values
    missing = is_missing(values)
    numbers: Block = values
    if scale is not None or offset is not None:
        numbers = cast_exactly(values, np.dtype("f8"), values)
        if offset is not None:
            numbers = numbers - float(offset)
        if scale is not None:
            numbers = numbers / float(scale)
        if dtype.kind in "iu":
            numbers = np.round(numbers)
    if missing.any():
        numbers = np.where(missing, 0, numbers)
    return fill_missing(cast_exactly(numbers, dtype, values), values, missing, target)


# Times as NumPy has them, and raw bytes.


def _copy_exactly(values: Block, target: Encoding) -> Block:
    dtype, fill = target.dtype, target.attrs.get("_FillValue")
    if values.dtype.kind != dtype.kind or (dtype.kind == "V" and values.dtype != dtype):
        raise EncodingError(f"values of type {values.dtype} cannot be stored as {dtype}")
    stored, missing = values.astype(dtype), is_missing(values)
    wrong = np.asarray(stored.astype(values.dtype) != values) & ~missing
    if wrong.any():
        raise refusal(f"not exact in {dtype}", values, wrong)
    if fill is not None and (masked := np.asarray(stored == fill) & ~missing).any():
        raise refusal("a valid value that _FillValue marks as missing", values, masked)
    return stored


# Strings.


def _encode_strings(values: Block, target: Encoding) -> Block:
    dtype = target.dtype
    kind: type = bytes if is_bytes(dtype) else str
    if is_bytes(dtype) and values.dtype.kind == "S":
        return _encode_strings(values.astype(object), target)
    if values.dtype.kind == "S" or dtype.kind == "S":
        if values.dtype.kind != dtype.kind:
            raise EncodingError(f"values of type {values.dtype} cannot be stored as {dtype}")
    elif values.dtype.kind not in "OUT" or dtype.kind not in "OU":
        raise EncodingError(f"values of type {values.dtype} cannot be stored as {dtype}")
    if values.dtype.kind in "OT":
        wrong = np.fromiter((not isinstance(value, kind) for value in values.flat), bool, values.size)
        if wrong.any():
            raise refusal("no bytes" if kind is bytes else "not a string", values, wrong.reshape(values.shape))
    stored = values.astype(dtype)
    wrong = np.asarray(stored.astype(object) != values.astype(object))
    if wrong.any():
        raise refusal(f"longer than {dtype} holds", values, wrong)
    mask = target.attrs.get("_FillValue")
    if mask is not None and (masked := np.asarray(stored == mask)).any():
        raise refusal("a valid value that _FillValue marks as missing", values, masked)
    return stored
