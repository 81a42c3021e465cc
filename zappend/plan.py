"""What an append will write, worked out and refused before anything is written. Pure: no store is touched here.

`plan_creation` and `plan_append` take what is stored, what the slice holds and the settings, and return a `Plan`: the
chunks to write, with their keys, and the documents. Dry run, undo log and writer all read the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from zappend.codec import default_codecs
from zappend.config import Settings
from zappend.datatypes import is_variable_length
from zappend.encoding import Block, Encoding, EncodingError, encoding_attrs, same
from zappend.errors import SliceError, TargetError, UsageError
from zappend.labels import check_labels, parse_step
from zappend.metadata import Array, Cube, new_array, new_cube
from zappend.slices import Slice, SliceVariable

__all__ = ["ArrayWrite", "ChunkWrite", "Plan", "encodings_of", "plan_append", "plan_creation"]

Region = tuple[slice, ...]

DEFAULT_FORMAT = 2

LABELS_PER_CHUNK = 131072
"""Labels, or elements of their bounds, in one chunk of a new cube: few chunks to read, and 1 MiB to write."""

SMALLEST_CHUNK, BEST_CHUNK, LARGEST_CHUNK = 2**18, 2**24, 2**26
"""Bytes of a chunk of a new cube: a source's are kept between the outer two, else at most the middle one."""

STRING_SIZE = 32
"""Bytes that a string of any length is taken to have."""

STEP_TOLERANCE = 1e-3
"""Part of the least step of a coordinate by which it may differ from that of the cube."""


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
    """

    array: Array
    encoding: Encoding
    axis: int | None
    start: int

    @cached_property
    def grid(self) -> tuple[range, ...]:
        """Indices of the chunks to write, by dimension."""
        return tuple(
            range(self._offset(axis) // chunk, math.ceil(size / chunk))
            for axis, (size, chunk) in enumerate(zip(self.array.shape, self.array.chunks, strict=True))
        )

    def chunks(self, box: tuple[range, ...] | None = None) -> Iterator[ChunkWrite]:
        """Iterate over the chunks in `box`, all of `grid` by default."""
        for index in product(*(box or self.grid)):
            in_chunk, in_slice = [], []
            for axis, (i, size, chunk) in enumerate(zip(index, self.array.shape, self.array.chunks, strict=True)):
                offset, begin = self._offset(axis), i * chunk
                first, last = max(begin, offset), min(begin + chunk, size)
                in_chunk.append(slice(first - begin, last - begin))
                in_slice.append(slice(first - offset, last - offset))
            keeps = in_chunk[self.axis].start if self.axis is not None else 0
            yield ChunkWrite(self.array.chunk_key(index), index, tuple(in_chunk), tuple(in_slice), keeps)

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
    writes
        The variables, in the order of the slice.
    documents
        The metadata documents, the root last.
    cube
        The cube as it will be.
    """

    creates: bool
    start: int
    stop: int
    writes: tuple[ArrayWrite, ...]
    documents: Mapping[str, bytes]
    cube: Cube

    def new_keys(self) -> Iterator[str]:
        """Iterate over the keys of chunks that no reader can see yet."""
        return (chunk.key for write in self.writes for chunk in write.chunks() if not chunk.keeps)

    def changed_keys(self) -> Iterator[str]:
        """Iterate over the keys of chunks of which a part is visible, and stays."""
        return (chunk.key for write in self.writes for chunk in write.chunks() if chunk.keeps)


def encodings_of(cube: Cube) -> dict[str, Encoding]:
    """Return how each array stores its values; bounds without units have those of what they bound, as CF says."""
    found = {
        name: Encoding(array.dtype, encoding_attrs(array.attrs, array.dtype)) for name, array in cube.arrays.items()
    }
    for name, array in cube.arrays.items():
        bounds = str(array.attrs.get("bounds"))
        if found[name].is_time and bounds in found and not found[bounds].is_time:
            own = found[bounds]
            shared = {key: found[name].attrs[key] for key in ("units", "calendar") if key in found[name].attrs}
            found[bounds] = replace(own, attrs={**shared, **own.attrs})
    return found


def plan_creation(new: Slice, settings: Settings) -> Plan:
    """Return the plan by which the slice `new` becomes a cube.

    Raises
    ------
    SliceError
        If a cube cannot begin with this slice.
    """
    dim = settings.append_dim
    size = _append_size(new, dim)
    zarr_format = settings.zarr_format or DEFAULT_FORMAT
    few_chunks = new.along(dim)
    cube = new_cube(zarr_format, dict(new.attrs))
    problems: list[str] = []
    writes = []
    for variable in new.variables.values():
        try:
            encoding = variable.new_encoding()
        except EncodingError as error:
            problems.append(f"variable {variable.name!r}: {error}")
            continue
        axis = variable.dims.index(dim) if dim in variable.dims else None
        fill = encoding.attrs.get("_FillValue")
        array = new_array(
            variable.name,
            zarr_format,
            shape=variable.shape,
            chunks=_choose_chunks(variable, encoding, axis, few=variable.name in few_chunks),
            dims=variable.dims,
            dtype=encoding.dtype,
            fill_value=fill,
            attrs={**variable.attrs, **encoding.attrs},
            codecs=default_codecs(zarr_format, encoding.dtype),
        )
        writes.append(ArrayWrite(array, encoding, axis, 0))
    if not problems:
        labels = next((write.encoding for write in writes if write.array.name == dim), None)
        problems += _label_problems(new, settings, labels, None)
    _refuse(new, problems)
    arrays = {write.array.name: write.array for write in writes}
    documents = cube.documents(arrays.values(), created=True)
    return Plan(True, 0, size, tuple(writes), documents, replace(cube, arrays=arrays))


def plan_append(cube: Cube, new: Slice, settings: Settings, tail: Block | None, constants: Mapping[str, Block]) -> Plan:
    """Return the plan by which `cube` grows by the slice `new`.

    Parameters
    ----------
    cube
        What is stored.
    new
        The slice.
    settings
        The settings of the append.
    tail
        The last two stored labels, or as many as there are; ``None`` if the cube has no labels.
    constants
        The stored values of the arrays that do not have the append dimension.

    Raises
    ------
    SliceError
        If the slice does not fit; the message names every difference.
    TargetError, UsageError
        If the cube cannot be appended to along this dimension, or another format is asked for than it has.
    """
    dim = settings.append_dim
    if settings.zarr_format not in (None, cube.zarr_format):
        raise UsageError(f"the target has Zarr format {cube.zarr_format}, and zarr_format={settings.zarr_format}")
    old_size = _cube_size(cube, dim)
    size = _append_size(new, dim)
    encodings = encodings_of(cube)
    problems = _structure_problems(cube, new, dim)
    if not problems:
        problems += _constant_problems(new, encodings, constants)
        problems += _label_problems(new, settings, encodings.get(dim) if new.labelled(dim) else None, tail)
        problems += _size_problems(cube, new, dim, old_size, size, settings)
    _refuse(new, problems)
    writes = []
    for name in new.variables:
        array = cube.arrays[name]
        if dim in array.dims:
            axis = array.dims.index(dim)
            writes.append(ArrayWrite(array.resized(axis, old_size + size), encodings[name], axis, old_size))
    arrays = {write.array.name: write.array for write in writes}
    grown = replace(cube, arrays={**cube.arrays, **arrays})
    return Plan(False, old_size, old_size + size, tuple(writes), cube.documents(arrays.values()), grown)


# Checks. Each returns what is wrong, so that one report has it all.


def _refuse(new: Slice, problems: list[str]) -> None:
    if problems:
        raise SliceError(f"slice {new.name}: {'; '.join(problems)}")


def _append_size(new: Slice, dim: str) -> int:
    if dim not in new.sizes:
        has = ", ".join(map(repr, new.sizes)) or "none at all"
        raise SliceError(f"slice {new.name}: it has no dimension {dim!r} to append along; it has {has}")
    if new.sizes[dim] == 0:
        raise SliceError(f"slice {new.name}: its dimension {dim!r} is empty")
    return new.sizes[dim]


def _cube_size(cube: Cube, dim: str) -> int:
    sizes = {name: a.shape[a.dims.index(dim)] for name, a in cube.arrays.items() if dim in a.dims}
    if not sizes:
        raise TargetError(f"no array of the target has the dimension {dim!r} to append along")
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name!r} {size}" for name, size in sizes.items())
        raise TargetError(f"the arrays of the target differ in length along {dim!r}: {listed}")
    return next(iter(sizes.values()))


def _structure_problems(cube: Cube, new: Slice, dim: str) -> list[str]:
    problems = [f"variable {name!r} is missing" for name in cube.arrays if name not in new.variables]
    problems += [f"variable {name!r} is not in the target" for name in new.variables if name not in cube.arrays]
    grid_mappings = {str(array.attrs.get("grid_mapping")) for array in cube.arrays.values()}
    cube_sizes = {d: n for array in cube.arrays.values() for d, n in zip(array.dims, array.shape, strict=True)}
    for name, size in new.sizes.items():
        if name != dim and cube_sizes.get(name, size) != size:
            problems.append(f"dimension {name!r} has size {size}, expected {cube_sizes[name]}")
    for name, variable in new.variables.items():
        array = cube.arrays.get(name)
        if array is None:
            continue
        if variable.dims != array.dims:
            problems.append(f"variable {name!r} has dimensions {variable.dims}, expected {array.dims}")
        problems += _meaning_problems(variable, array, is_grid_mapping=name in grid_mappings)
    return problems


def _meaning_problems(variable: SliceVariable, array: Array, *, is_grid_mapping: bool) -> list[str]:
    """Compare the attributes that say what the numbers mean; all others are those of the first slice."""
    stored = encoding_attrs(array.attrs, array.dtype)
    ours = {key: value for key, value in array.attrs.items() if key not in stored}
    names = {
        key for key in (*ours, *variable.attrs) if key.startswith("flag_") or (is_grid_mapping and key != "coordinates")
    }
    if variable.dtype.kind not in "mM":
        names.add("units")
    return [
        f"variable {array.name!r} has {key} {variable.attrs.get(key)!r}, expected {ours.get(key)!r}"
        for key in sorted(names)
        if not same(variable.attrs.get(key), ours.get(key))
    ]


def _constant_problems(new: Slice, encodings: Mapping[str, Encoding], constants: Mapping[str, Block]) -> list[str]:
    problems = []
    for name, expected in constants.items():
        try:
            found = new.variables[name].stored(encodings[name])
        except EncodingError as error:
            problems.append(f"variable {name!r}: {error}")
            continue
        if (where := _difference(found, expected, encodings[name], new.variables[name].dtype)) is not None:
            index, values = where, (found[where], expected[where])
            problems.append(
                f"variable {name!r} is not that of the target: {values[0]} at index {list(index)}, expected {values[1]}"
            )
    return problems


def _difference(found: Block, expected: Block, encoding: Encoding, given: np.dtype[Any]) -> tuple[int, ...] | None:
    """Return where two stored constants differ: floats by more than rounding or a small part of the grid's step."""
    if found.dtype.kind not in "fc":
        alike = np.asarray(found == expected)
    elif encoding.is_time or encoding.is_duration:
        alike = np.isclose(found, expected, rtol=0, atol=0, equal_nan=True)
    else:
        digits = max(np.finfo(dtype).eps for dtype in (found.dtype, given) if dtype.kind in "fc")
        steps = np.abs(np.diff(expected)) if expected.ndim == 1 else np.empty(0)
        part = STEP_TOLERANCE * float(np.nanmin(steps)) if steps.size and np.isfinite(steps).any() else 0.0
        alike = np.isclose(found, expected, rtol=4 * float(digits), atol=part, equal_nan=True)
    return None if alike.all() else tuple(int(i) for i in np.argwhere(~alike)[0])


def _label_problems(new: Slice, settings: Settings, encoding: Encoding | None, tail: Block | None) -> list[str]:
    step = parse_step(settings.append_step)
    if settings.append_step == "any":
        return []
    labels = new.labelled(settings.append_dim)
    if labels is None or encoding is None:
        return [
            f"it has no coordinate {settings.append_dim!r}, so its order cannot be checked; "
            f"append_step 'any' appends it all the same"
        ]
    try:
        stored = labels.stored(encoding)
    except EncodingError as error:
        return [f"variable {labels.name!r}: {error}"]
    why = check_labels(stored, stored[:0] if tail is None else tail, encoding, step)
    return [f"{why}; append_step 'any' appends it all the same"] if why else []


def _size_problems(cube: Cube, new: Slice, dim: str, old_size: int, size: int, settings: Settings) -> list[str]:
    problems = []
    exempt = new.along(dim)
    for name, array in cube.arrays.items():
        if dim not in array.dims or name in exempt or settings.slice_size == "any":
            continue
        chunk = array.chunks[array.dims.index(dim)]
        if old_size % chunk:
            problems.append(f"the last chunk of {name!r} holds only {old_size % chunk} of {chunk} labels")
        elif settings.slice_size == "chunk" and size != chunk:
            problems.append(f"it has {size} labels along {dim!r}, expected {chunk}, as a chunk of {name!r}")
        elif size % chunk:
            problems.append(f"it has {size} labels along {dim!r}, expected a multiple of {chunk}, as {name!r}")
        else:
            continue
        return [f"{problems[0]}; slice_size 'any' appends it all the same"]
    return problems


# Choices for a new cube.


def _choose_chunks(variable: SliceVariable, encoding: Encoding, axis: int | None, *, few: bool) -> tuple[int, ...]:
    """Return the shape of a chunk: the slice's size along the append dimension, a good number of bytes altogether."""
    shape = [max(size, 1) for size in variable.shape]
    itemsize = STRING_SIZE if is_variable_length(encoding.dtype) else encoding.dtype.itemsize
    if axis is not None and few:
        row = math.prod(shape) // shape[axis]
        shape[axis] = max(shape[axis], LABELS_PER_CHUNK // row)
        return tuple(shape)
    if (source := variable.source_chunks) is not None:
        kept = [
            min(chunk, size) if i != axis else size for i, (chunk, size) in enumerate(zip(source, shape, strict=True))
        ]
        if SMALLEST_CHUNK <= math.prod(kept) * itemsize <= LARGEST_CHUNK:
            return tuple(kept)
    while math.prod(shape) * itemsize > BEST_CHUNK:
        others = [size if i != axis else 1 for i, size in enumerate(shape)]
        largest = max(range(len(shape)), key=others.__getitem__)
        if others[largest] == 1:
            break
        shape[largest] = math.ceil(shape[largest] / 2)
    return tuple(shape)
