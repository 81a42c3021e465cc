"""Decoded values ↔ stored values, by the CF conventions as xarray applies them: times, packing, fill values.

Rule of the module: what is stored decodes to what was given, or `EncodingError` says which value does not. Values that
are stored alike on both sides are copied without decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zappend.datatypes import BYTES, STRING, Block
from zappend.encoding import MASKS, PACKING_KEYS, Encoding, decode, encoding_attrs, fill_missing, same
from zappend.exact import EncodingError, cast_exactly, outside_of, refusal
from zappend.kinds import is_missing, is_storable, kind_of
from zappend.settings import Overflow
from zappend.times import choose_time_encoding, encode_times

__all__ = ["choose_encoding", "to_stored"]

TYPES_OF_TEXT: dict[str, type] = {"strings": str, "bytes": bytes}


def choose_encoding(values: Block, wanted: Mapping[str, Any], *, exactly: bool = False) -> Encoding:
    """Return how decoded `values` are stored in a new array.

    Parameters
    ----------
    values
        All values of the first slice if they are times or durations, else any part of them.
    wanted
        How they are to be stored, in the names of xarray's encodings; what it says of type, packing, fill value, units
        and calendar is followed as far as it can hold `values`. Times and durations without units: whole milliseconds,
        since 1970-01-01 for times; finer if these values need it.
    exactly
        Whether nothing else will do for times and durations.

    Raises
    ------
    EncodingError
        If no encoding can hold the values.
    """
    kind, named = kind_of(values), wanted.get("dtype")
    dtype = np.dtype(named) if named is not None else None
    if kind in ("times", "durations") and not (exactly and dtype is not None and dtype.kind not in "iuf"):
        return choose_time_encoding(values, wanted, exactly=exactly)
    mask = {} if wanted.get("_FillValue") is None else {"_FillValue": wanted["_FillValue"]}
    if exactly and dtype is not None and (dtype.kind not in "iufc" or kind not in ("numbers", "complex numbers")):
        return Encoding(dtype, mask)
    if kind in ("strings", "bytes"):
        any_length = BYTES if kind == "bytes" else STRING
        if values.dtype.kind == "S":
            # Bytes one by one xarray takes for characters, which make a string along the last dimension.
            return Encoding(max(values.dtype, np.dtype("S2")), mask)
        return Encoding(any_length, mask)
    if kind in ("booleans", "raw bytes"):
        return Encoding(values.dtype, {})
    if dtype is None or dtype.kind not in "iufc":
        dtype = values.dtype
    attrs = encoding_attrs({key: wanted[key] for key in PACKING_KEYS if key in wanted}, dtype)
    if dtype.kind in "fc" and "_FillValue" not in wanted:
        attrs["_FillValue"] = np.nan
    return Encoding(dtype.newbyteorder("<"), attrs)


def to_stored(values: Block, source: Encoding | None, target: Encoding, on_overflow: Overflow = "error") -> Block:
    """Return `values` as they are to be stored under `target`.

    Parameters
    ----------
    values
        Stored values under `source`, or decoded values if that is ``None``. Any shape.
    source, target
        How the values are stored in the slice, and how they are to be.
    on_overflow
        What becomes of numbers that `target` cannot hold: ``error``; ``clip``, the nearest that it can hold and that
        is not its fill value; ``mask``, its fill value.

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
    return _encode_numbers(values, target, on_overflow)


# Numbers.


def _encode_numbers(values: Block, target: Encoding, on_overflow: Overflow) -> Block:
    attrs, dtype = target.attrs, target.dtype
    packing, fill = target.packing, attrs.get("_FillValue")
    if values.dtype.kind == "b" or target.kind == "booleans":
        if values.dtype.kind != "b" or dtype.kind not in "biu":
            raise EncodingError(f"values of type {values.dtype} cannot be stored as {dtype}")
        return fill_missing(values.astype(dtype, copy=False), values, is_missing(values), target)
    if values.dtype.kind == "c" and dtype.kind != "c":
        raise EncodingError(f"complex values cannot be stored as {dtype}")
    if dtype.kind == "c":
        on_overflow = "error"  # there is no nearest one, and a half of one cannot be missing
    if (other := target.other_sign) is not None:
        plain = {key: value for key, value in attrs.items() if key != "_Unsigned"}
        for name in MASKS:
            if name in plain:
                plain[name] = np.asarray(plain[name], dtype).view(other).tolist()
        if "_FillValue" not in plain:
            plain.pop("missing_value", None)  # which xarray does not read in the other sign: it marks nothing
        return _encode_numbers(values, Encoding(other, plain), on_overflow).view(dtype)
    is_plain = packing is None and "missing_value" not in attrs
    if values.dtype == dtype and is_plain and (fill is None or same(fill, np.nan)):
        return values
    missing = is_missing(values)
    numbers: Block = values
    if packing is not None:
        scale, offset = packing
        if not scale:
            raise EncodingError("its scale_factor is 0, by which nothing can be packed")
        numbers = (cast_exactly(values, np.dtype("f8"), values) - offset) / scale
        if dtype.kind in "iu":
            numbers = np.round(numbers)
    outside = np.zeros(values.shape, bool) if on_overflow == "error" else outside_of(numbers, dtype) & ~missing
    if on_overflow == "mask":
        missing = missing | outside
    above = outside & (numbers > 0) if outside.any() else outside
    if missing.any() or outside.any():
        numbers = np.where(missing | outside, numbers.dtype.type(0), numbers)
    hint = "; on_overflow 'clip' stores the nearest that it holds, 'mask' a missing value" if dtype.kind != "c" else ""
    stored = cast_exactly(numbers, dtype, values, hint)
    if on_overflow == "clip" and outside.any():
        low, high = _limits(target)
        stored = np.where(above, high, np.where(outside, low, stored))
    return fill_missing(stored, values, missing, target)


def _limits(target: Encoding) -> tuple[Any, Any]:
    """Return the least and the greatest stored number that means no missing value."""
    dtype = target.dtype
    if dtype.kind == "f":
        return np.finfo(dtype).min, np.finfo(dtype).max
    masks = {mask for name in MASKS for mask in np.atleast_1d(target.attrs.get(name, np.nan)).tolist()}
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    while low in masks:
        low += 1
    while high in masks:
        high -= 1
    return dtype.type(low), dtype.type(high)


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
    dtype, kind = target.dtype, target.kind
    if not is_storable(kind_of(values), kind) or kind not in TYPES_OF_TEXT:
        raise EncodingError(f"values of type {values.dtype} cannot be stored as {dtype}")
    fill = target.attrs.get("_FillValue")
    missing = is_missing(values) if values.dtype == object else np.zeros(values.shape, bool)
    if missing.any():
        if fill is None:
            raise refusal("a missing value cannot be stored without a fill value", values, missing)
        values = np.where(missing, fill, values)
    if values.dtype.kind in "OT":
        wanted = TYPES_OF_TEXT[kind]
        wrong = np.fromiter((not isinstance(value, wanted) for value in values.flat), bool, values.size)
        if wrong.any():
            raise refusal(f"no {wanted.__name__}, as {kind} are", values, wrong.reshape(values.shape))
    try:
        stored = values.astype(dtype)
    except UnicodeError as error:
        raise EncodingError(f"a value cannot be stored as {dtype}: {error}") from error
    wrong = np.asarray(stored.astype(object) != values.astype(object))
    if wrong.any():
        raise refusal(f"longer than {dtype} holds", values, wrong)
    if fill is not None and (masked := np.asarray(stored == fill) & ~missing).any():
        raise refusal("a valid value that _FillValue marks as missing", values, masked)
    return stored
