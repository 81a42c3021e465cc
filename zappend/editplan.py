"""What an edit of a cube will do, worked out and refused before anything is written. Pure: no store is touched here.

An edit is a `Splice` of the rows of all arrays that have the append dimension. The other arrays stay as they are, and
so do attributes, but for those that the settings give.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Literal

from zappend.attributes import attrs_after
from zappend.datatypes import Block
from zappend.encoding import Encoding
from zappend.errors import TargetError
from zappend.fit import Fit
from zappend.metadata import Array, Cube, Json
from zappend.settings import Settings
from zappend.slices import Slice
from zappend.splice import ChunkRow, New, Old, Splice

__all__ = ["ArrayEdit", "EditPlan", "Operation", "plan_edit", "plan_slice", "size_problems"]

Operation = Literal["append", "insert", "replace", "delete"]


@dataclass(frozen=True)
class ArrayEdit:
    """What becomes of one array.

    Attributes
    ----------
    old, array
        The array as it is, and as it will be.
    axis
        The append dimension's.
    splice
        What its rows will be.
    encoding
        How it stores values; ``None`` where no values come in.
    stored
        All values of the slice, as they are stored, if planning had to work them out; else ``None``.
    """

    old: Array
    array: Array
    axis: int
    splice: Splice
    encoding: Encoding | None = None
    stored: Block | None = None

    @property
    def chunk(self) -> int:
        """Rows of a chunk."""
        return self.array.chunks[self.axis]

    @cached_property
    def rows(self) -> list[ChunkRow]:
        """What becomes of the chunks at each place, in the order in which it is to be done."""
        return self.splice.chunk_rows(self.chunk)

    @cached_property
    def across(self) -> int:
        """How many chunks there are at one place."""
        return math.prod(len(side) for axis, side in enumerate(self._grid) if axis != self.axis)

    @cached_property
    def chunk_bytes(self) -> int:
        """Size of a chunk before it is encoded, at least 1."""
        return max(math.prod(self.array.chunks) * self.array.dtype.itemsize, 1)

    @cached_property
    def _grid(self) -> tuple[range, ...]:
        sides = zip(self.array.shape, self.array.chunks, strict=True)
        return tuple(range(math.ceil(size / chunk)) for size, chunk in sides)

    def indices(self, place: int) -> Iterator[tuple[int, ...]]:
        """Iterate over the indices of the chunks at one place along the axis, always in the same order."""
        sides = [range(place, place + 1) if axis == self.axis else side for axis, side in enumerate(self._grid)]
        return product(*sides)

    def keys(self, place: int) -> list[str]:
        """Return the keys of the chunks at one place along the axis, in the order of `indices`."""
        return [self.array.chunk_key(index) for index in self.indices(place)]

    def removed(self) -> Iterator[str]:
        """Iterate over the keys of chunks that are no more."""
        for place in self.splice.removed(self.chunk):
            yield from self.keys(place)


@dataclass(frozen=True)
class EditPlan:
    """What one edit will do.

    Attributes
    ----------
    splice
        What the rows of the cube will be.
    new
        The slice that comes in, ``None`` if there is none.
    edits
        What becomes of each array that has the append dimension.
    documents
        The metadata documents that change, the root last.
    cube
        The cube as it will be.
    fit
        That slices with the same structure fit the cube as it will be; ``None`` if that is not known.
    operation
        What the edit is, in one word.
    """

    splice: Splice
    new: Slice | None
    edits: tuple[ArrayEdit, ...]
    documents: Mapping[str, bytes]
    cube: Cube
    fit: Fit | None = None

    operation: Operation = "delete"

    creates = False

    @property
    def start(self) -> int:
        """The row at which the slice begins, then."""
        at = 0
        for segment in self.splice.segments:
            if isinstance(segment, New):
                return at
            at += segment.stop - segment.start
        return at

    @property
    def stop(self) -> int:
        """The row behind the slice."""
        return self.start + sum(s.stop - s.start for s in self.splice.segments if isinstance(s, New))

    @property
    def dropped(self) -> int:
        """How many of the old rows are no more."""
        return self.splice.old_size - sum(s.stop - s.start for s in self.splice.segments if isinstance(s, Old))

    @property
    def moved(self) -> int:
        """How many chunks become others as they are."""
        return sum(edit.across for edit in self.edits for row in edit.rows if row.moved_from is not None)

    @property
    def removed(self) -> int:
        """How many chunks are no more."""
        return sum(edit.across * len(edit.splice.removed(edit.chunk)) for edit in self.edits)

    def rewritten(self) -> tuple[int, int]:
        """Return how many chunks are composed anew, and how many bytes they have before they are encoded."""
        counts = [(edit.across * sum(row.moved_from is None for row in edit.rows), edit) for edit in self.edits]
        return sum(count for count, _ in counts), sum(count * edit.chunk_bytes for count, edit in counts)

    def with_attrs(self, attrs: Json) -> EditPlan:
        """Return this plan with `attrs` as further attributes of the cube, over those that it would have."""
        attrs = {**self.cube.attrs, **attrs}
        if attrs == self.cube.attrs:
            return self
        cube = self.cube.with_attrs(attrs)
        names = [edit.array.name for edit in self.edits if edit.array.shape != edit.old.shape]
        documents = cube.documents(names, attrs_changed=True)
        return replace(self, cube=cube, documents=documents, fit=self.fit and replace(self.fit, cube=cube))

    def keys(self) -> tuple[list[str], list[str]]:
        """Return the keys of chunks that no reader can see yet, and of those that change under readers."""
        new: list[str] = []
        changed: list[str] = []
        for edit in self.edits:
            first = edit.splice.first_new(edit.chunk)
            for row in edit.rows:
                (changed if row.index < first else new).extend(edit.keys(row.index))
        return new, changed


def plan_edit(cube: Cube, settings: Settings, splice: Splice) -> EditPlan:
    """Return the plan by which the rows of `cube` along the append dimension become those of `splice`: all old ones.

    Raises
    ------
    TargetError
        If nothing would be left.
    """
    if not splice.size:
        raise TargetError(
            f"delete would leave no label of {settings.append_dim!r}, and a cube has at least one; remove the target "
            f"instead"
        )
    return _planned(cube, settings, splice, _edits(cube, settings.append_dim, splice))


def plan_slice(
    fit: Fit, new: Slice, settings: Settings, splice: Splice, labels: Block | None, operation: Operation
) -> EditPlan:
    """Return the plan by which a slice comes into a cube.

    Parameters
    ----------
    fit
        That slices with the structure of `new` fit the cube.
    new
        The slice, with all variables that the cube has along the append dimension.
    settings
        The settings.
    splice
        What the rows of the cube will be.
    labels
        The labels of the slice, as they are stored; ``None`` if it has none.
    operation
        What the edit is.
    """
    dim = settings.append_dim
    edits = tuple(
        replace(edit, encoding=fit.encodings[edit.array.name], stored=labels if edit.array.name == dim else None)
        for edit in _edits(fit.cube, dim, splice)
    )
    plan = _planned(fit.cube, settings, splice, edits, new)
    next_fit = Fit(plan.cube, fit.structure, splice.size, fit.encodings, fit.constants)
    return replace(plan, fit=next_fit, operation=operation)


def size_problems(plan: EditPlan, settings: Settings, exempt: Container[str]) -> list[str]:
    """Return why the setting ``slice_size`` has the slice not inserted: what it costs if chunks have to be rewritten.

    `exempt` are the names of arrays whose chunks hold many slices.
    """
    at, count = plan.start, plan.stop - plan.start
    for edit in plan.edits:
        name, chunk = edit.array.name, edit.chunk
        if settings.slice_size == "any" or name in exempt:
            continue
        if at % chunk or count % chunk or (settings.slice_size == "chunk" and count != chunk):
            chunks, size = plan.rewritten()
            unit = "shard" if edit.array.is_sharded else "chunk"
            return [
                f"it has {count} labels along {settings.append_dim!r} and belongs at index {at}, and a {unit} of "
                f"{name!r} has {chunk} labels: {chunks} chunks would be written, {size} bytes before they are encoded; "
                f"slice_size 'any' inserts it all the same"
            ]
    return []


def _edits(cube: Cube, dim: str, splice: Splice) -> tuple[ArrayEdit, ...]:
    axes = [(array, array.dims.index(dim)) for array in cube.arrays.values() if dim in array.dims]
    return tuple(ArrayEdit(array, array.resized(axis, splice.size), axis, splice) for array, axis in axes)


def _planned(
    cube: Cube, settings: Settings, splice: Splice, edits: tuple[ArrayEdit, ...], new: Slice | None = None
) -> EditPlan:
    arrays = {edit.array.name: edit.array for edit in edits if edit.array.shape != edit.old.shape}
    attrs = attrs_after(cube.attrs, new, settings)
    grown = cube.with_arrays(arrays) if arrays else cube
    if attrs != cube.attrs:
        grown = grown.with_attrs(attrs)
    changes = bool(arrays) or attrs != cube.attrs
    documents = grown.documents(arrays, attrs_changed=attrs != cube.attrs) if changes else {}
    return EditPlan(splice, new, edits, documents, grown)
