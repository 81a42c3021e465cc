"""Change a cube in its middle: move chunks as they are, compose others of what was there and of a slice.

Like an append, an edit is planned before anything is written, and carried out on any mapping of keys to bytes. Chunks
that readers see are written over: a kill leaves the old cube or the new one, but who reads what is being edited at that
moment may see rows of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from zappend.absent import filled
from zappend.appender import BYTES_IN_FLIGHT, SMALL_BYTES, Appender
from zappend.checks import compare_constants, cube_size, own_problems, refuse
from zappend.codec import ChunkCodec
from zappend.datatypes import Block
from zappend.editplan import ArrayEdit, EditPlan, plan_edit, plan_slice, size_problems
from zappend.encoding import Encoding, decode
from zappend.errors import SliceError, TargetError, ZappendError
from zappend.exact import EncodingError
from zappend.fit import Fit
from zappend.labels import check_labels, label_faults
from zappend.metadata import Cube, encodings_of
from zappend.placing import place_of, place_to_insert
from zappend.plan import Plan
from zappend.selection import Selection, first_of_last
from zappend.slices import Slice
from zappend.splice import ChunkRow, Old, appended, inserted, replaced, without
from zappend.steps import Step, parse_step
from zappend.stores import copy_many, is_remote, read_many

__all__ = ["Editor"]

MOVED_TOGETHER = 1000
"""Chunks that are moved by one call to the store."""

COMPOSED_TOGETHER = 64
"""Chunks that are composed, and in memory, together, if they are small."""

BYTES_PER_READ = 2**24
"""What is read of a slice at a time, unless what a single chunk gets is larger."""


class Editor(Appender):
    """Edits one cube, and appends to it; see `Appender` for what it keeps, and for its parameters."""

    # Planning.

    def plan_delete(self, store: Mapping[str, bytes], selection: Selection) -> EditPlan:
        """Return the plan by which the selected rows of the cube in `store` are deleted.

        Raises
        ------
        TargetError, UsageError
            If there is no cube, the selection means no row of it, or it means them all.
        """
        selection.check()
        cube, size, labels = self._existing(store, with_labels=selection.needs_labels)
        return plan_edit(cube, self._settings, without(size, selection.rows(labels, size)))

    def plan_keep(self, store: Mapping[str, bytes], last: Any) -> EditPlan | None:
        """Return the plan by which all rows but the last ones are deleted; ``None`` if there are no others.

        Parameters
        ----------
        store
            The cube.
        last
            How many rows; or a duration: those whose labels are less than that from the last one.

        Raises
        ------
        TargetError, UsageError
            If there is no cube, or `last` says nothing of its labels.
        """
        cube, size, labels = self._existing(store, with_labels=not isinstance(last, int))
        first = first_of_last(last, labels, size)
        return plan_edit(cube, self._settings, without(size, range(first))) if first else None

    def plan(self, store: Mapping[str, bytes], new: Slice) -> Plan | EditPlan | None:
        """Return the plan of `Appender.plan`, or that of an edit where the settings have one instead.

        Raises
        ------
        SliceError, TargetError, UsageError
            As `Appender.plan` says, and as those of the edits do.
        """
        settings = self._settings
        cube = self._reader.read(store)
        if cube is None:
            return super().plan(store, new)
        found = self._stored_labels(store, cube, self._prepared(new))
        if found is not None:
            labels, there, encoding = found
            if settings.if_exists == "replace" and np.isin(labels, there).all():
                return self.plan_replace(store, new)
            step = parse_step(settings.append_step)
            if settings.if_earlier == "insert" and check_labels(
                labels, there[-2:], encoding, step and Step(step.text, step.sign)
            ):
                return self.plan_insert(store, new)
        plan = super().plan(store, new)
        if not isinstance(plan, Plan) or plan.creates or settings.keep_last is None:
            return plan
        return self._plan_rolling(store, new, plan)

    def _stored_labels(
        self, store: Mapping[str, bytes], cube: Cube, new: Slice
    ) -> tuple[Block, Block, Encoding] | None:
        """Return the labels of the slice and of the cube, as that stores them; ``None`` if one cannot be had."""
        dim = self._settings.append_dim
        ours, theirs = new.labelled(dim), cube.arrays.get(dim)
        if ours is None or theirs is None or theirs.dims != (dim,) or not ours.shape[0]:
            return None
        encoding = encodings_of(cube)[dim]
        try:
            stored = ours.stored(encoding)
        except EncodingError:
            return None
        (there,) = self._arrays.read(store, [(theirs, (range(theirs.shape[0]),))])
        return stored, there, encoding

    def _plan_rolling(self, store: Mapping[str, bytes], new: Slice, plan: Plan) -> Plan | EditPlan:
        """Return the plan that appends, and deletes old rows by the setting ``keep_last``, instead of `plan`."""
        settings = self._settings
        new, fit, there, _ = self._look(store, self._prepared(new), needs_labels=False)
        labels = decoded = None
        if there is not None:
            labels = self._labels_of(new, fit)
            decoded = self._decoded(np.concatenate([there, labels]), fit.encodings[settings.append_dim])
        first = first_of_last(settings.keep_last, decoded, plan.stop)
        if not first:
            self._reader.learn(plan.cube, plan.documents)
            self._fit = plan.fit
            return plan
        splice = appended(fit.size, min(first, fit.size), plan.stop - plan.start)
        return plan_slice(fit, new, settings, splice, labels, "append")

    def plan_replace(self, store: Mapping[str, bytes], new: Slice) -> EditPlan:
        """Return the plan by which `new` takes the place of what the cube in `store` has under its labels.

        Raises
        ------
        SliceError, TargetError, UsageError
            If the slice does not fit, or the cube does not have its labels, one after the other.
        """
        new, fit, there, problems = self._look(store, self._prepared(new))
        refuse(new, problems)
        return self._replacing(new, fit, there, self._labels_of(new, fit))

    def _replacing(self, new: Slice, fit: Fit, there: Block, labels: Block) -> EditPlan:
        at, why = place_of(labels, there, fit.encodings[self._settings.append_dim])
        refuse(new, [why] if why else [])
        return plan_slice(fit, new, self._settings, replaced(fit.size, at, len(labels)), labels, "replace")

    def plan_insert(self, store: Mapping[str, bytes], new: Slice) -> EditPlan | None:
        """Return the plan by which `new` comes between the labels of the cube in `store`, or before or behind them.

        It is ``None`` if the slice is in the cube and is skipped.

        Raises
        ------
        SliceError, TargetError, UsageError
            If the slice does not fit, or its labels do not lie between two of the cube, or the setting ``slice_size``
            does not have the cost.
        """
        new, fit, there, problems = self._look(store, self._prepared(new))
        settings, encoding = self._settings, fit.encodings[self._settings.append_dim]
        labels = new.variables[settings.append_dim]
        if settings.append_step == "any":
            problems += label_faults(labels.read(), labels.source or Encoding(labels.dtype, {}))
        refuse(new, problems)
        stored = self._labels_of(new, fit)
        if settings.if_exists != "error" and np.isin(stored, there).all():
            return None if settings.if_exists == "skip" else self._replacing(new, fit, there, stored)
        at, why = place_to_insert(stored, there, encoding, parse_step(settings.append_step))
        refuse(new, [why] if why else [])
        splice = inserted(fit.size, at, len(stored))
        plan = plan_slice(fit, new, settings, splice, stored, "insert")
        refuse(new, size_problems(plan, settings, new.along(settings.append_dim)))
        return plan

    def _look(
        self, store: Mapping[str, bytes], new: Slice, *, needs_labels: bool = True
    ) -> tuple[Slice, Fit, Any, list[str]]:
        """Return a prepared slice with what it lacks, that it fits the cube, the labels of that, and what is wrong.

        Raises
        ------
        SliceError, TargetError, UsageError
            If the slice does not fit; where labels are needed, if it has none, or the cube has none.
        """
        cube = self._reader.read(store)
        if cube is None:
            raise TargetError(f"{self._name}: there is no cube")
        dim = self._settings.append_dim
        constants = self._constants(cube, new)
        labels = cube.arrays.get(dim)
        has_labels = labels is not None and labels.dims == (dim,)
        rows = [(labels, (range(labels.shape[0]),))] if labels is not None and has_labels else []
        regions = [*constants, *rows]
        found = read_many(store, [*self._reader.keys_to_check(cube), *self._arrays.keys(regions)])
        cube = self._reader.checked(cube, found)
        refuse(new, own_problems(new, self._settings))
        fit = self._fit_of(cube, new)
        if needs_labels and (not rows or new.labelled(dim) is None):
            whose = "it has" if rows else "the target has"
            refuse(new, [f"{whose} no coordinate {dim!r}, so nobody knows where it belongs"])
        blocks = self._arrays.read(store, regions, found)
        stored = {array.name: block for (array, _), block in zip(constants, blocks, strict=False)}
        new = filled(cube, new, fit.encodings, dim)
        equal, problems = compare_constants(new, fit.encodings, stored, fit.constants)
        return new, replace(fit, constants=equal), blocks[-1] if rows else None, problems

    def _labels_of(self, new: Slice, fit: Fit) -> Block:
        """Return the labels of the slice as the cube stores them."""
        labels = new.variables[self._settings.append_dim]
        try:
            return labels.stored(fit.encodings[labels.name])
        except EncodingError as error:
            raise SliceError(f"slice {new.name}: variable {labels.name!r}: {error}") from error

    def size_of(self, store: Mapping[str, bytes]) -> int:
        """Return how many rows the cube in `store` has."""
        return self._existing(store, with_labels=False)[1]

    def _existing(self, store: Mapping[str, bytes], *, with_labels: bool) -> tuple[Cube, int, Block | None]:
        """Return the cube, how many rows it has, and its labels, decoded; ``None`` if it has none."""
        cube = self._reader.read(store)
        if cube is None:
            raise TargetError(f"{self._name}: there is no cube")
        cube = self._reader.checked(cube, read_many(store, self._reader.keys_to_check(cube)))
        dim = self._settings.append_dim
        if dim not in cube.sizes:
            has = ", ".join(map(repr, cube.sizes)) or "none"
            raise TargetError(f"no array of the target has the dimension {dim!r} to append along; they have {has}")
        size = cube_size(cube, dim)
        array = cube.arrays.get(dim)
        if not with_labels or array is None or array.dims != (dim,):
            return cube, size, None
        (stored,) = self._arrays.read(store, [(array, (range(size),))])
        return cube, size, self._decoded(stored, encodings_of(cube)[dim])

    def _decoded(self, labels: Block, encoding: Encoding) -> Block:
        try:
            return decode(labels, encoding)
        except EncodingError as error:
            raise TargetError(f"{self._name}: its labels {self._settings.append_dim!r} {error}") from error

    # Writing.

    def carry_out_edit(self, plan: EditPlan, store: MutableMapping[str, bytes]) -> tuple[int, int]:
        """Move and write the chunks of `plan`, then its documents; return how many were written, and their bytes.

        Raises
        ------
        SliceError, TargetError
            If a value of the slice cannot be stored, or a chunk of the cube not be read. Chunks may have been changed
            then, but no document.
        """
        codecs = [self._arrays.codec(edit.array) for edit in plan.edits]  # refused before the first write
        count = size = 0
        for edit, codec in zip(plan.edits, codecs, strict=True):
            moves: dict[str, str] = {}
            for row in edit.rows:
                if row.moved_from is not None:
                    moves.update(zip(edit.keys(row.index), edit.keys(row.moved_from), strict=True))
                    if len(moves) < MOVED_TOGETHER:
                        continue
                copy_many(store, moves)
                moves = {}
                if row.moved_from is None:
                    for sizes in self._compose(edit, row, codec, plan.new, store):
                        count += len(sizes)
                        size += sum(sizes)
            copy_many(store, moves)
        self._remove([key for edit in plan.edits for key in edit.removed()], store)
        store.update(plan.documents)
        if plan.documents:
            self._reader.learn(plan.cube, plan.documents)
        self._fit = plan.fit
        return count, size

    def _compose(
        self, edit: ArrayEdit, row: ChunkRow, codec: ChunkCodec, new: Slice | None, store: MutableMapping[str, bytes]
    ) -> Iterator[list[int]]:
        """Write the chunks at one place, some at a time; yield the sizes of what was written."""
        in_flight = BYTES_IN_FLIGHT if self._memory is None else min(BYTES_IN_FLIGHT, self._memory.chunks // 4)
        together = max(1 if self._memory else self._threads, min(COMPOSED_TOGETHER, in_flight // edit.chunk_bytes))
        values = _Values(edit, row, new)
        indices = edit.indices(row.index)
        while some := list(islice(indices, together)):
            sources = {index: _old_keys(edit, row, index) for index in some}
            found = read_many(store, [key for keys in sources.values() for key in keys.values()])
            jobs = [
                (index, {place: found[key] for place, key in sources[index].items()}, values.of(index))
                for index in some
            ]

            def work(job: tuple[tuple[int, ...], dict[int, bytes | None], Block | None]) -> bytes | None:
                return self._composed(edit, row, codec, new, *job)

            in_threads = self._pool is not None and len(jobs) > 1 and edit.chunk_bytes > SMALL_BYTES
            encoded = list(self._pool.map(work, jobs) if in_threads and self._pool else map(work, jobs))
            out = {}
            for index, data in zip(some, encoded, strict=True):
                key = edit.array.chunk_key(index)
                if data is None and key in store:
                    # What lies here would become data, or stay it.
                    data = _encoded(edit, ChunkCodec(edit.array), np.full(*_empty(edit)), index, new)
                if data is not None:
                    out[key] = data
            store.update(out)
            yield [len(data) for data in out.values()]

    def _composed(
        self,
        edit: ArrayEdit,
        row: ChunkRow,
        codec: ChunkCodec,
        new: Slice | None,
        index: tuple[int, ...],
        old: Mapping[int, bytes | None],
        values: Block | None,
    ) -> bytes | None:
        """Return the bytes of one chunk; ``None`` if there is to be none."""
        if values is None and not any(data is not None for data in old.values()):
            return None  # it is made of chunks that are not there
        array, axis = edit.array, edit.axis
        whole = np.full(*_empty(edit))
        decoded = {place: codec.decode(data) for place, data in old.items() if data is not None}
        for piece in row.pieces:
            if isinstance(piece.rows, Old):
                at = piece.at
                for place, part in _places(piece.rows, edit.chunk):
                    count = part.stop - part.start
                    if place in decoded:
                        whole[_along(axis, slice(at, at + count))] = decoded[place][_along(axis, part)]
                    at += count
            elif values is not None and new is not None:
                region = _in_array(array, index)
                starts = [part.start for part in region]
                starts[axis] = piece.rows.start
                if edit.stored is None and edit.encoding is not None:
                    values = self._to_stored(new, array.name, values, edit.encoding, starts)
                inside = [slice(0, part.stop - part.start) for part in region]
                inside[axis] = slice(piece.at, piece.stop)
                whole[tuple(inside)] = values
        return _encoded(edit, codec, whole, index, new)

    def _remove(self, keys: list[str], store: MutableMapping[str, bytes]) -> None:
        def remove(key: str) -> None:
            with suppress(KeyError):
                del store[key]

        if self._pool is not None and is_remote(store):
            list(self._pool.map(remove, keys))
        else:
            for key in keys:
                remove(key)


class _Values:
    """What a slice has for the chunks at one place: read at once if it is not much, else chunk by chunk."""

    def __init__(self, edit: ArrayEdit, row: ChunkRow, new: Slice | None) -> None:
        self._edit = edit
        self._new = new
        self._rows = next((piece.rows for piece in row.pieces if not isinstance(piece.rows, Old)), None)
        self._all: Block | None = None
        if self._rows is not None and new is not None and edit.stored is None:
            variable, array = new.variables[edit.array.name], edit.array
            rows = self._rows.stop - self._rows.start
            itemsize = max(variable.dtype.itemsize, array.dtype.itemsize)
            others = prod(size for axis, size in enumerate(array.shape) if axis != edit.axis)
            if rows * others * itemsize <= BYTES_PER_READ:
                whole = [slice(0, size) for size in array.shape]
                whole[edit.axis] = slice(self._rows.start, self._rows.stop)
                self._all = variable.read(tuple(whole))

    def of(self, index: tuple[int, ...]) -> Block | None:
        """Return the values for the chunk at `index`, ``None`` if there are none."""
        if self._rows is None or self._new is None:
            return None
        edit = self._edit
        region = list(_in_array(edit.array, index))
        region[edit.axis] = slice(self._rows.start, self._rows.stop)
        if edit.stored is not None:
            return edit.stored[tuple(region)]
        if self._all is None:
            return self._new.variables[edit.array.name].read(tuple(region))
        region[edit.axis] = slice(None)
        return self._all[tuple(region)]


def _empty(edit: ArrayEdit) -> tuple[tuple[int, ...], Any, np.dtype[Any]]:
    return edit.array.chunks, edit.array.padding, edit.array.dtype


def _encoded(
    edit: ArrayEdit, codec: ChunkCodec, whole: Block, index: tuple[int, ...], new: Slice | None
) -> bytes | None:
    extent = tuple(part.stop - part.start for part in _in_array(edit.array, index))
    try:
        return codec.encode(whole, None, extent)
    except (ZappendError, MemoryError):
        raise
    except Exception as error:
        # What values that it cannot take make a codec raise is up to it.
        what = f"variable {edit.array.name!r} cannot be encoded: {error}"
        raise (TargetError(what) if new is None else SliceError(f"slice {new.name}: {what}")) from error


def _in_array(array: Any, index: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the region of the array that the chunk at `index` covers."""
    sides = zip(index, array.shape, array.chunks, strict=True)
    return tuple(slice(i * chunk, min((i + 1) * chunk, size)) for i, size, chunk in sides)


def _old_keys(edit: ArrayEdit, row: ChunkRow, index: tuple[int, ...]) -> dict[int, str]:
    """Return the keys of the old chunks that have rows of the chunk at `index`, by their places."""
    places = [
        place for piece in row.pieces if isinstance(piece.rows, Old) for place, _ in _places(piece.rows, edit.chunk)
    ]
    axis = edit.axis
    return {place: edit.old.chunk_key((*index[:axis], place, *index[axis + 1 :])) for place in places}


def _places(rows: Old, chunk: int) -> Iterator[tuple[int, slice]]:
    """Iterate over the places of the chunks that have `rows`, with the part of each."""
    start = rows.start
    while start < rows.stop:
        place = start // chunk
        stop = min(rows.stop, (place + 1) * chunk)
        yield place, slice(start - place * chunk, stop - place * chunk)
        start = stop


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, part)
