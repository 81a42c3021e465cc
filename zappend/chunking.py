"""The shapes of chunks and shards of a new cube: by the settings, by the source, or good for most readers."""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Iterable

from msgspec import UNSET

from zappend.datatypes import is_variable_length
from zappend.encoding import Encoding
from zappend.errors import UsageError
from zappend.metadata import Array
from zappend.settings import EncodingSettings
from zappend.slices import SliceVariable
from zappend.variables import sizes_of

__all__ = ["choose_shapes", "warn_of_sizes"]

LABELS_PER_CHUNK = 16384
"""Labels, or elements of their bounds, in one chunk of a new cube: few chunks to read, and 1 MiB to write."""

SMALLEST_CHUNK, BEST_CHUNK, LARGEST_CHUNK = 2**18, 2**24, 2**26
"""Bytes of a chunk of a new cube: a source's are kept between the outer two, else at most the middle one."""

TINY_CHUNK, TINY_COUNT, HUGE_CHUNK = 2**14, 64, 2**29
"""Bytes of a chunk below which many of them, and above which any of them, are worth a warning."""

STRING_SIZE = 32
"""Bytes that a string of any length is taken to have."""

log = logging.getLogger(__name__)


def choose_shapes(
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
            shape[axis] = max(LABELS_PER_CHUNK // row, 1)
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
