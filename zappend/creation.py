"""What a new cube chooses for a variable of its first slice: how values are stored, the shapes of chunks and shards.

The settings come first, then what the slice itself says of how it was stored, then what serves most readers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
from msgspec import UNSET

from zappend.cf import choose_encoding
from zappend.codecspec import chunk_keys, codecs_for
from zappend.config import EncodingSettings
from zappend.datatypes import is_variable_length
from zappend.encoding import (
    PACKING_KEYS,
    Block,
    Encoding,
    EncodingError,
    decode,
    is_storable,
    kind_of_type,
    same,
)
from zappend.errors import UsageError
from zappend.metadata import Array, new_array
from zappend.slices import SliceVariable
from zappend.variables import fill_number, named_type, sizes_of

__all__ = ["create_array", "warn_of_sizes"]

LABELS_PER_CHUNK = 131072
"""Labels, or elements of their bounds, in one chunk of a new cube: few chunks to read, and 1 MiB to write."""

SMALLEST_CHUNK, BEST_CHUNK, LARGEST_CHUNK = 2**18, 2**24, 2**26
"""Bytes of a chunk of a new cube: a source's are kept between the outer two, else at most the middle one."""

TINY_CHUNK, TINY_COUNT, HUGE_CHUNK = 2**14, 64, 2**29
"""Bytes of a chunk below which many of them, and above which any of them, are worth a warning."""

STRING_SIZE = 32
"""Bytes that a string of any length is taken to have."""

log = logging.getLogger(__name__)


def create_array(
    variable: SliceVariable,
    zarr_format: int,
    wanted: EncodingSettings,
    *,
    dim: str,
    is_label: bool,
    is_coord: bool,
    checksum: bool,
) -> tuple[Array, Encoding]:
    """Return the array in which a new cube stores `variable`, of the size that the variable has, and how.

    Parameters
    ----------
    variable
        A variable of the first slice.
    zarr_format
        Format of the cube.
    wanted
        What the settings say of this variable.
    dim
        The append dimension.
    is_label, is_coord
        Whether it is a coordinate along `dim`, or the bounds of one; whether it is a coordinate.
    checksum
        Whether chunks carry a checksum.

    Raises
    ------
    EncodingError
        If values cannot be stored as is wanted.
    UsageError
        If the settings contradict the variable or each other.
    """
    encoding = _choose(variable, wanted)
    if encoding.packing is not None and kind_of_type(encoding.dtype) not in ("numbers", "complex numbers"):
        raise EncodingError(f"{variable.kind} cannot be packed by scale_factor and add_offset")
    if zarr_format == 3 and "_FillValue" in encoding.attrs and encoding.kind in ("strings", "bytes"):
        raise EncodingError(
            f"in Zarr format 3 xarray cannot read {encoding.kind} with a fill value; leave it out, or use zarr_format 2"
        )
    sign, fill = encoding.other_sign, encoding.attrs.get("_FillValue")
    if zarr_format == 3 and sign is not None and fill is not None and fill > np.iinfo(sign).max and sign.kind == "i":
        raise EncodingError(f"in Zarr format 3 xarray cannot read the fill value {fill} as {sign}; use a signed type")
    axis = variable.dims.index(dim) if dim in variable.dims else None
    chunks, shards = _choose_shapes(variable, wanted, encoding, axis, is_label=is_label, is_coord=is_coord)
    codecs = codecs_for(
        zarr_format,
        variable.name,
        encoding.dtype,
        wanted,
        inner_chunks=None if shards is None else chunks,
        checksum=checksum,
    )
    array = new_array(
        variable.name,
        zarr_format,
        shape=variable.shape,
        chunks=shards or chunks,
        dims=variable.dims,
        dtype=encoding.dtype,
        fill_value=fill if fill is not None or encoding.dtype.kind not in "mM" else np.array("NaT", encoding.dtype)[()],
        attrs={**variable.attrs, **encoding.attrs},
        codecs={**codecs, **chunk_keys(zarr_format, variable.name, wanted)},
    )
    return array, encoding


# How values are stored.


def _choose(variable: SliceVariable, wanted: EncodingSettings) -> Encoding:
    source = variable.source
    configured = _configured(variable, wanted)
    if source is not None and not configured and variable.dtype.kind in "iufc":
        attrs = dict(source.attrs)
        if source.dtype.kind in "fc" and "_FillValue" not in attrs:
            attrs["_FillValue"] = np.nan
        return Encoding(source.dtype.newbyteorder("<"), attrs)
    known: dict[str, Any] = dict(variable.wanted) if source is None else {**source.attrs, "dtype": source.dtype}
    dtype = configured.get("dtype")
    if dtype is not None and dtype != _type_of(known):
        known = {key: value for key, value in known.items() if key not in PACKING_KEYS}
    if "_FillValue" in configured:
        known.pop("missing_value", None)
    elif variable.kind in ("strings", "bytes"):
        known.pop("_FillValue", None)  # most have "" there without meaning it; what is missing is refused
    known.update(configured)
    values = _values(variable)
    exactly = bool({"units", "dtype"} & configured.keys())
    encoding = choose_encoding(values, known, exactly=exactly)
    if not is_storable(variable.kind, encoding.kind):
        raise EncodingError(f"{variable.kind} cannot be stored as {encoding.dtype}, which holds {encoding.kind}")
    fill = configured.get("_FillValue")
    if fill is not None and encoding.kind == "booleans":
        raise EncodingError("booleans have no missing value, so the setting fill_value means nothing")
    if fill is not None and not _is_one_of(fill, encoding.dtype):
        raise EncodingError(f"the setting fill_value is {fill!r}, which is none of {encoding.dtype}")
    return encoding


def _is_one_of(fill: Any, dtype: np.dtype[Any]) -> bool:
    """Tell whether `fill` is a value of `dtype`, but for the digits that floats lose."""
    kind = kind_of_type(dtype)
    if not isinstance(fill, {"strings": str, "bytes": bytes}.get(kind, (int, float, complex))):
        return False
    try:
        with np.errstate(all="ignore"):
            cast: Any = np.asarray(fill).astype(dtype)[()]
    except (ValueError, TypeError, OverflowError):
        return False
    number: Any = fill
    return bool(np.isfinite(cast) or not np.isfinite(number)) if dtype.kind in "fc" else same(cast, number)


def _values(variable: SliceVariable) -> Block:
    """Return what the choice depends on: all values of times and durations, one of any other variable."""
    first = variable.read(tuple(slice(0, 1) for _ in variable.dims))
    values = variable.read() if variable.kind in ("times", "durations") else first
    if variable.dtype.kind in "SV":
        return values.astype(variable.dtype)  # a single element may be shorter
    return values if variable.source is None else decode(values, variable.source)


def _type_of(known: Mapping[str, Any]) -> np.dtype[Any] | None:
    return None if known.get("dtype") is None else np.dtype(known["dtype"]).newbyteorder("<")


def _configured(variable: SliceVariable, wanted: EncodingSettings) -> dict[str, Any]:
    """Return what is set of type, packing, units and fill value, in the names of xarray's encodings."""
    where = f"setting variables.{variable.name}.encoding"
    given: dict[str, Any] = {}
    if wanted.dtype is not UNSET:
        try:
            given["dtype"] = named_type(wanted.dtype)
        except TypeError as error:
            raise UsageError(f"{where}.dtype: {wanted.dtype!r} is no type that can be stored: {error}") from None
    for key in ("scale_factor", "add_offset", "units", "calendar"):
        if (value := getattr(wanted, key)) is not UNSET:
            given[key] = value
    if (scale := given.get("scale_factor")) is not None and not (np.isfinite(scale) and scale):
        raise UsageError(f"{where}.scale_factor: it must be a number other than zero, not {scale}")
    if wanted.fill_value is not UNSET:
        given["_FillValue"] = fill_number(wanted.fill_value)
    return given


# Shapes of chunks and shards.


def _choose_shapes(
    variable: SliceVariable,
    wanted: EncodingSettings,
    encoding: Encoding,
    axis: int | None,
    *,
    is_label: bool,
    is_coord: bool,
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the shape of a chunk, and of a shard if there are shards."""
    dims = variable.dims
    whole = tuple(max(size, 1) for size in variable.shape)
    fixed = sizes_of(wanted.chunks, variable.name, "chunks", dims, whole)
    if wanted.shards is UNSET or wanted.shards is None or not dims:
        return _choose_chunks(variable, encoding, axis, fixed, is_label=is_label, is_coord=is_coord), None
    shards = sizes_of(wanted.shards, variable.name, "shards", dims, whole)
    if wanted.chunks is UNSET:
        chunks = _choose_chunks(variable, encoding, None, (None,) * len(dims), is_label=False, is_coord=False)
    else:
        chunks = _choose_chunks(variable, encoding, axis, fixed, is_label=is_label, is_coord=is_coord)
    inner, outer = [], []
    for name, size, chunk, given, shard in zip(dims, whole, chunks, fixed, shards, strict=True):
        if shard is None:
            inner.append(chunk)
            outer.append(math.ceil(size / chunk) * chunk)
            continue
        if given is None:  # the largest that divides the shard
            chunk = next(number for number in range(min(chunk, shard), 0, -1) if shard % number == 0)
        if shard % chunk:
            raise UsageError(
                f"setting variables.{variable.name}.encoding.shards: a shard of {shard} along {name!r} is no whole "
                f"number of chunks of {chunk}"
            )
        inner.append(chunk)
        outer.append(shard)
    return tuple(inner), tuple(outer)


def _choose_chunks(
    variable: SliceVariable,
    encoding: Encoding,
    axis: int | None,
    fixed: tuple[int | None, ...],
    *,
    is_label: bool,
    is_coord: bool,
) -> tuple[int, ...]:
    """Return the shape of a chunk: the slice's size along the append dimension, a good number of bytes altogether."""
    whole = [max(size, 1) for size in variable.shape]
    shape = [size if given is None else given for size, given in zip(whole, fixed, strict=True)]
    itemsize = STRING_SIZE if is_variable_length(encoding.dtype) else encoding.dtype.itemsize
    if axis is not None and is_label:
        if fixed[axis] is None:
            row = math.prod(shape) // shape[axis]
            shape[axis] = max(shape[axis], LABELS_PER_CHUNK // row)
        return tuple(shape)
    if axis is None and is_coord and math.prod(shape) * itemsize <= LARGEST_CHUNK:
        return tuple(shape)
    if (source := variable.source_chunks) is not None and not any(fixed):
        kept = [
            min(chunk, size) if i != axis else size for i, (chunk, size) in enumerate(zip(source, shape, strict=True))
        ]
        if SMALLEST_CHUNK <= math.prod(kept) * itemsize <= LARGEST_CHUNK:
            return tuple(kept)
    while math.prod(shape) * itemsize > BEST_CHUNK:
        free = [size if i != axis and fixed[i] is None else 1 for i, size in enumerate(shape)]
        largest = max(range(len(shape)), key=free.__getitem__)
        if free[largest] == 1:
            break
        shape[largest] = math.ceil(shape[largest] / 2)
    return tuple(shape)


def warn_of_sizes(arrays: Iterable[Array], dim: str, labels: Container[str]) -> None:
    """Warn of chunks that are far too large, and of such that are far too small, if there will be many.

    `labels` are the names of arrays whose chunks hold many slices along `dim`.
    """
    small = []
    for array in arrays:
        itemsize = STRING_SIZE if is_variable_length(array.dtype) else array.dtype.itemsize
        size = math.prod(array.inner_chunks) * itemsize
        count = math.prod(math.ceil(n / chunk) for n, chunk in zip(array.shape, array.inner_chunks, strict=True))
        is_series = array.dims == (dim,) and array.name not in labels
        if size > HUGE_CHUNK:
            log.warning("a chunk %s of %r takes %d MB in memory", array.inner_chunks, array.name, size // 10**6)
        elif size < TINY_CHUNK and not array.is_sharded and (count >= TINY_COUNT or is_series):
            small.append(f"{array.name!r} ({array.inner_chunks}, {size} bytes)")
    if small:
        log.warning("small chunks are slow to write and to read: %s; variables can set others", ", ".join(small))
