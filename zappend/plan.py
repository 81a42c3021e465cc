"""What an append will write, worked out and refused before anything is written. Pure: no store is touched here.

`plan_creation` and `plan_append` take what is stored, what the slice holds and the settings, and return a `Plan`: the
chunks to write, with their keys, and the documents. Dry run, undo log and writer all read the same plan.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from zappend.absent import created, filled
from zappend.agreement import check_followed
from zappend.attributes import attrs_after, described, fixed_attrs
from zappend.checks import (
    compare_constants,
    own_problems,
    reference_problems,
    refuse,
    size_problems,
)
from zappend.chunking import warn_of_sizes
from zappend.creation import create_array
from zappend.datatypes import Block
from zappend.encoding import Encoding
from zappend.exact import EncodingError
from zappend.fit import Fit
from zappend.labels import following_labels
from zappend.metadata import Array, Cube, Json, new_cube
from zappend.settings import Settings
from zappend.slices import Slice
from zappend.variables import check_names, encoding_settings

__all__ = ["ArrayWrite", "ChunkWrite", "Plan", "plan_append", "plan_creation"]

Region = tuple[slice, ...]

DEFAULT_FORMAT = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChunkWrite:
    """One chunk to write.

    Attributes
    ----------
    key
        Its key in the cube.
    index
        Its place in the grid of chunks.
    in_chunk, in_slice
        What is written: the region of the chunk, and the same region of the variable in the slice.
    keeps
        Rows along the append dimension, at the beginning of the stored chunk, that are kept.
    """

    key: str
    index: tuple[int, ...]
    in_chunk: Region
    in_slice: Region
    keeps: int


@dataclass(frozen=True)
class ArrayWrite:
    """All that is written of one variable.

    Attributes
    ----------
    array
        The array as it will be.
    encoding
        How it stores values.
    axis
        The append dimension's, ``None`` if the variable does not have it.
    start
        Where along `axis` the slice begins, which is the array's size so far.
    stored
        All values, as they are stored, if planning had to work them out; else ``None``.
    """

    array: Array
    encoding: Encoding
    axis: int | None
    start: int
    stored: Block | None = None

    @cached_property
    def grid(self) -> tuple[range, ...]:
        """Indices of the chunks to write, by dimension."""
        return tuple(
            range(self._offset(axis) // chunk, math.ceil(size / chunk))
            for axis, (size, chunk) in enumerate(zip(self.array.shape, self.array.chunks, strict=True))
        )

    @cached_property
    def chunk_bytes(self) -> int:
        """Size of a chunk before it is encoded, at least 1."""
        return max(math.prod(self.array.chunks) * self.array.dtype.itemsize, 1)

    @cached_property
    def chunks(self) -> tuple[ChunkWrite, ...]:
        """All chunks in `grid`."""
        return tuple(self.chunks_in(self.grid))

    def chunks_in(self, box: tuple[range, ...]) -> Iterator[ChunkWrite]:
        """Iterate over the chunks in `box`."""
        for index in product(*box):
            in_chunk, in_slice = [], []
            for axis, (i, size, chunk) in enumerate(zip(index, self.array.shape, self.array.chunks, strict=True)):
                offset, begin = self._offset(axis), i * chunk
                first, last = max(begin, offset), min(begin + chunk, size)
                in_chunk.append(slice(first - begin, last - begin))
                in_slice.append(slice(first - offset, last - offset))
            keeps = in_chunk[self.axis].start if self.axis is not None else 0
            yield ChunkWrite(self.array.chunk_key(index), index, tuple(in_chunk), tuple(in_slice), keeps)

    def fills(self, chunk: ChunkWrite) -> bool:
        """Tell whether `chunk` of data has all its rows then, so that no later slice reads it or adds to it."""
        axis = self.axis
        return axis is not None and len(self.array.dims) > 1 and chunk.in_chunk[axis].stop == self.array.chunks[axis]

    def region(self, box: tuple[range, ...]) -> Region:
        """Return the region of the slice that the chunks in `box` cover."""
        sides = zip(box, self.array.shape, self.array.chunks, strict=True)
        return tuple(
            slice(max(side.start * chunk - self._offset(axis), 0), min(side.stop * chunk, size) - self._offset(axis))
            for axis, (side, size, chunk) in enumerate(sides)
        )

    def _offset(self, axis: int) -> int:
        return self.start if axis == self.axis else 0


@dataclass(frozen=True)
class Plan:
    """What one append will do.

    Attributes
    ----------
    creates
        Whether the cube is new.
    start, stop
        Where the slice's labels come to lie along the append dimension.
    new
        The slice, as it is written: with variables that it lacks filled.
    writes
        The variables, in the order of the slice.
    documents
        The metadata documents, the root last.
    cube
        The cube as it will be.
    known
        Bytes of chunks as they are, of some that will change; ``None`` for one that is not there. None are known by
        planning: who reads them adds them.
    fit
        That slices with the same structure fit the cube as it will be; ``None`` if that is not known.
    removed
        Keys of documents that the cube will not have any more.
    """

    creates: bool
    start: int
    stop: int
    new: Slice
    writes: tuple[ArrayWrite, ...]
    documents: Mapping[str, bytes]
    cube: Cube
    known: Mapping[str, bytes | None]
    fit: Fit | None
    removed: tuple[str, ...] = ()

    def with_attrs(self, attrs: Json) -> Plan:
        """Return this plan with `attrs` as further attributes of the cube, over those that it would have."""
        attrs = {**self.cube.attrs, **attrs}
        if attrs == self.cube.attrs:
            return self
        cube = self.cube.with_attrs(attrs)
        names = [write.array.name for write in self.writes]
        changed = cube.documents(names, created=self.creates, attrs_changed=True)
        documents = {**{key: data for key, data in self.documents.items() if key not in changed}, **changed}
        return replace(self, cube=cube, documents=documents, fit=self.fit and replace(self.fit, cube=cube))

    def keys(self) -> tuple[list[str], list[str]]:
        """Return the keys that no reader can see yet, and those of chunks of which a part is visible, and stays.

        The first are chunks, and documents of new arrays.
        """
        new: list[str] = []
        changed: list[str] = []
        for write in self.writes:
            for chunk in write.chunks:
                (changed if chunk.keeps else new).append(chunk.key)
        if self.creates:
            new += [key for key in self.documents if "/" in key]
        return new, changed


def plan_creation(new: Slice, settings: Settings) -> Plan:
    """Return the plan by which the slice `new` becomes a cube.

    Raises
    ------
    SliceError
        If a cube cannot begin with this slice.
    UsageError
        If the settings contradict the slice, or each other.
    """
    dim = settings.append_dim
    check_names(settings, new.variables, f"slice {new.name}", creates=True)
    problems = own_problems(new, settings)
    new, impossible = created(new, settings)
    new = described(new, settings)  # those, too, that it has made
    refuse(new, problems + impossible + reference_problems(new))
    size = new.sizes[dim]
    zarr_format = settings.zarr_format or DEFAULT_FORMAT
    labels_and_bounds = new.along(dim)
    attrs = new.attrs if settings.attrs_update_mode != "ignore" else {}
    attrs = {**attrs, **fixed_attrs(settings)}
    cube = new_cube(zarr_format, attrs, consolidated=settings.consolidated is not False)
    problems = []
    writes = []
    for name, variable in new.variables.items():
        wanted = encoding_settings(settings, name, variable, variable.dims, is_data=name not in new.coords)
        try:
            array, encoding = create_array(
                variable,
                zarr_format,
                wanted,
                dim=dim,
                is_label=name in labels_and_bounds,
                is_coord=name in new.coords,
                checksum=settings.checksum,
            )
        except EncodingError as error:
            problems.append(f"variable {name!r}: {error}")
            continue
        check_followed(array, encoding, wanted, checksum=settings.checksum)
        writes.append(ArrayWrite(array, encoding, variable.dims.index(dim) if dim in variable.dims else None, 0))
    arrays = {write.array.name: write.array for write in writes}
    cube = cube.with_arrays(arrays)
    if not problems:
        labels = next((write.encoding for write in writes if write.array.name == dim), None)
        problems += following_labels(new, settings, labels, None)[1]
        problems += size_problems(cube, new, dim, 0, size, settings)
    refuse(new, problems)
    warn_of_sizes(arrays.values(), dim, labels_and_bounds)
    return Plan(True, 0, size, new, tuple(writes), cube.documents(arrays, created=True), cube, {}, None)


def plan_append(
    fit: Fit,
    new: Slice,
    settings: Settings,
    tail: Block | None,
    constants: Mapping[str, Block],
    all_labels: Callable[[], Block],
) -> Plan:
    """Return the plan by which a cube grows by the slice `new`.

    Parameters
    ----------
    fit
        That slices with the structure of `new` fit the cube.
    new
        The slice.
    settings
        The settings of the append.
    tail
        The last two stored labels, or as many as there are; ``None`` if the cube has no labels.
    constants
        The stored values of arrays that do not have the append dimension, as far as they are to be compared.
    all_labels
        Reads all stored labels; called only if the slice is refused.

    Raises
    ------
    SliceError
        If the slice does not fit; the message names every difference.
    """
    dim, cube, encodings = settings.append_dim, fit.cube, fit.encodings
    size = new.sizes[dim]
    new = filled(cube, new, encodings, dim)
    labels = new.labelled(dim)
    equal, problems = compare_constants(new, encodings, constants, fit.constants)
    stored, more = following_labels(new, settings, encodings.get(dim) if labels else None, tail, all_labels)
    problems += more
    problems += size_problems(cube, new, dim, fit.size, size, settings)
    refuse(new, problems)
    writes = []
    for name in new.variables:
        array = cube.arrays[name]
        if dim in array.dims:
            axis = array.dims.index(dim)
            grown_array = array.resized(axis, fit.size + size)
            writes.append(ArrayWrite(grown_array, encodings[name], axis, fit.size, stored if name == dim else None))
    _warn_of_shards(new, writes, size)
    arrays = {write.array.name: write.array for write in writes}
    grown = cube.with_arrays(arrays)
    if (attrs := attrs_after(cube.attrs, new, settings)) is not cube.attrs:
        grown = grown.with_attrs(attrs)
    documents = grown.documents(arrays, attrs_changed=grown.attrs != cube.attrs)
    next_fit = Fit(grown, fit.structure, fit.size + size, encodings, equal)
    return Plan(False, fit.size, fit.size + size, new, tuple(writes), documents, grown, {}, next_fit)


def _warn_of_shards(new: Slice, writes: list[ArrayWrite], size: int) -> None:
    """Warn of the cost of slices that are smaller than a shard: each one writes the last shard again."""
    for write in writes:
        array, axis = write.array, write.axis
        if axis is not None and array.is_sharded and size % array.chunks[axis]:
            log.warning(
                "slice %s has %d labels, and a shard of %r %d: the last shard is read and written again each time",
                new.name,
                size,
                array.name,
                array.chunks[axis],
            )
            return
