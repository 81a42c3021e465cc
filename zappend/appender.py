"""Carry out a plan: read the slice block by block, encode its chunks on threads, write them into a mapping.

The mapping is any `MutableMapping` of keys to bytes; that it is a transaction is known to the caller alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import product
from math import ceil, prod
from types import TracebackType
from typing import Any, Self

import numpy as np

from zappend.cf import to_stored
from zappend.codec import ChunkCodec, single_threaded_blosc
from zappend.config import Settings
from zappend.datatypes import Block
from zappend.encoding import Encoding
from zappend.errors import SliceError, TargetError, ZappendError
from zappend.exact import EncodingError
from zappend.metadata import Array, Cube, encodings_of
from zappend.plan import ArrayWrite, ChunkWrite, Plan, plan_append, plan_creation
from zappend.reader import CubeReader, children_of
from zappend.slices import Slice, SliceVariable
from zappend.variables import select

__all__ = ["Appender"]

Box = tuple[range, ...]

BYTES_PER_READ = 2**25
"""What is read of a slice at a time, unless a single chunk is larger: bounds memory, and keeps reads few."""


class Appender:
    """Appends slices to one cube, keeping between them what the cube's documents determine: arrays and codecs.

    Use it as a context manager; it ends its threads when the block is left.

    Parameters
    ----------
    name
        The target, for messages.
    settings
        The settings of the append.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self._name = name
        self._settings = settings
        self._reader = CubeReader()
        self._codecs: dict[str, ChunkCodec] = {}
        threads = settings.threads or os.cpu_count() or 1
        self._in_flight = 2 * threads
        self._pool = ThreadPoolExecutor(threads, "zappend") if threads > 1 else None
        self._blosc = single_threaded_blosc()

    def __enter__(self) -> Self:
        self._blosc.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._blosc.__exit__(None, None, None)

    # Planning: everything that is read of the cube is read here.

    def plan(self, store: Mapping[str, bytes], new: Slice) -> Plan | None:
        """Return what appending `new` to the cube in `store` takes; ``None`` if it is in the cube and is skipped.

        Raises
        ------
        SliceError, TargetError, UsageError
            If the slice is refused, the target is no cube, or they do not fit. Nothing was written.
        """
        new = select(new, self._settings)
        cube = self._reader.read(store, self._name)
        if cube is None:
            return self._plan_creation(store, new)
        encoding = encodings_of(cube).get(self._settings.append_dim)
        if encoding is not None and self._is_there(store, cube, new, encoding):
            return None
        dim = self._settings.append_dim
        constants = {
            name: self._read_all(store, array)
            for name, array in cube.arrays.items()
            if dim not in array.dims and name in new.variables and new.variables[name].shape == array.shape
        }
        return plan_append(cube, new, self._settings, self._tail(store, cube), constants)

    def check_replaceable(self, store: Mapping[str, bytes]) -> None:
        """Raise `TargetError` unless what is in `store` is a Zarr group, or nothing."""
        if self._reader.read(store, self._name) is None:
            self._check_empty(store)

    def _check_empty(self, store: Mapping[str, bytes]) -> None:
        there = sorted(children_of(store, ""))
        if there:
            raise TargetError(
                f"{self._name} is no Zarr group, but it is not empty either: it holds {', '.join(there[:3])}"
                f"{' …' if len(there) > 3 else ''}; name another target, or empty this one"
            )

    def _plan_creation(self, store: Mapping[str, bytes], new: Slice) -> Plan:
        self._check_empty(store)
        return plan_creation(new, self._settings)

    def _is_there(self, store: Mapping[str, bytes], cube: Cube, new: Slice, encoding: Encoding) -> bool:
        labels = new.labelled(self._settings.append_dim)
        if self._settings.if_exists != "skip" or labels is None:
            return False
        try:
            stored = labels.stored(encoding)
        except EncodingError:
            return False
        return bool(np.isin(stored, self._read_all(store, cube.arrays[self._settings.append_dim])).all())

    def _tail(self, store: Mapping[str, bytes], cube: Cube) -> Block | None:
        array = cube.arrays.get(self._settings.append_dim)
        if array is None or array.dims != (self._settings.append_dim,):
            return None
        return self._read(store, array, (range(max(array.shape[0] - 2, 0), array.shape[0]),))

    def _read_all(self, store: Mapping[str, bytes], array: Array) -> Block:
        return self._read(store, array, tuple(range(size) for size in array.shape))

    def _read(self, store: Mapping[str, bytes], array: Array, region: Box) -> Block:
        """Return the stored values of `array` in `region`, one range a dimension."""
        out = np.full([len(side) for side in region], array.padding, array.dtype)
        chunk_ranges = (
            range(side.start // chunk, ceil(side.stop / chunk))
            for side, chunk in zip(region, array.chunks, strict=True)
        )
        for index in product(*chunk_ranges):
            data = store.get(array.chunk_key(index))
            if data is None:
                continue
            source, target = [], []
            for i, side, chunk in zip(index, region, array.chunks, strict=True):
                first, last = max(side.start, i * chunk), min(side.stop, (i + 1) * chunk)
                source.append(slice(first - i * chunk, last - i * chunk))
                target.append(slice(first - side.start, last - side.start))
            out[tuple(target)] = self._codec(array).decode(data)[tuple(source)]
        return out

    def _codec(self, array: Array) -> ChunkCodec:
        # A resized array has the codecs of the one that was read.
        known = self._codecs.get(array.name)
        if known is None or not _encodes_alike(known.array, array):
            known = self._codecs[array.name] = ChunkCodec(array, self._settings.write_empty_chunks)
        return known

    # Writing.

    def carry_out(self, plan: Plan, store: MutableMapping[str, bytes]) -> tuple[int, int]:
        """Write the chunks of `plan`, then its documents, into `store`; return how many chunks, and their bytes.

        Raises
        ------
        SliceError
            If a value of the slice cannot be stored. Chunks may have been written then, but no document.
        """
        for write in plan.writes:
            self._codec(write.array)  # refuses codecs before the first write
        sizes: list[int | None] = []
        running: set[Future[int | None]] = set()
        try:
            for write, chunk, block in self._blocks(plan):
                if self._pool is None:
                    sizes.append(self._write(write, chunk, block, plan.new, store))
                    continue
                running.add(self._pool.submit(self._write, write, chunk, block, plan.new, store))
                if len(running) >= self._in_flight:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    sizes += [future.result() for future in done]
            sizes += [future.result() for future in running]
        except BaseException:
            for future in running:
                future.cancel()
            _wait_for(running)
            raise
        store.update(plan.documents)
        written = [size for size in sizes if size is not None]
        return len(written), sum(written)

    def _blocks(self, plan: Plan) -> Iterator[tuple[ArrayWrite, ChunkWrite, Block]]:
        for write in plan.writes:
            variable = plan.new.variables[write.array.name]
            for box in _boxes(write, variable):
                region = write.region(box)
                values = variable.read(region)
                for chunk in write.chunks(box):
                    inner: tuple[Any, ...] = tuple(
                        slice(part.start - side.start, part.stop - side.start)
                        for part, side in zip(chunk.in_slice, region, strict=True)
                    )
                    yield write, chunk, values[(*inner, ...)]

    def _write(
        self, write: ArrayWrite, chunk: ChunkWrite, values: Block, new: Slice, store: MutableMapping[str, bytes]
    ) -> int | None:
        array, codec = write.array, self._codecs[write.array.name]
        try:
            on_overflow = "error" if array.name in new.coords else self._settings.on_overflow
            stored = to_stored(values, new.variables[array.name].source, write.encoding, on_overflow)
        except EncodingError as error:
            where = error.shifted(part.start for part in chunk.in_slice)
            raise SliceError(f"slice {new.name}: variable {array.name!r}: {where}") from error
        old = store.get(chunk.key) if chunk.keeps else None
        if stored.shape != array.chunks:
            whole = np.full(array.chunks, array.padding, array.dtype)
            if old is not None and write.axis is not None:
                kept = (*[slice(None)] * write.axis, slice(0, chunk.keeps))
                whole[kept] = codec.decode(old)[kept]
            whole[chunk.in_chunk] = stored
            stored = whole
        try:
            extent = tuple(part.stop for part in chunk.in_chunk)
            data = codec.encode(stored, old, extent)
        except (ZappendError, MemoryError):
            raise
        except Exception as error:
            # What values that it cannot take make a codec raise is up to it.
            raise SliceError(f"slice {new.name}: variable {array.name!r} cannot be encoded: {error}") from error
        if data is None:
            if chunk.key not in store:
                return None
            # What lies here, as a stray that somebody left beyond the shape, would become data.
            data = ChunkCodec(array).encode(stored, old, extent)
            assert data is not None
        store[chunk.key] = data
        return len(data)


def _wait_for(running: set[Future[Any]]) -> None:
    """Return when nobody writes any more, so that the caller can undo what was written, however often interrupted."""
    while True:
        try:
            wait(running)
        except KeyboardInterrupt:
            continue
        return


def _boxes(write: ArrayWrite, variable: SliceVariable) -> Iterator[Box]:
    """Cut the grid of chunks into boxes that are read at once, along the slowest dimensions first."""
    itemsize = max(variable.dtype.itemsize, write.array.dtype.itemsize)

    def cut(box: Box) -> Iterator[Box]:
        size = prod(part.stop - part.start for part in write.region(box)) * itemsize
        longest = next((axis for axis, side in enumerate(box) if len(side) > 1), None)
        if size <= BYTES_PER_READ or longest is None:
            yield box
            return
        side = box[longest]
        middle = side.start + len(side) // 2
        for half in (range(side.start, middle), range(middle, side.stop)):
            yield from cut((*box[:longest], half, *box[longest + 1 :]))

    return cut(write.grid)


def _encodes_alike(a: Array, b: Array) -> bool:
    if a is b:
        return True
    ours, theirs = ({**x.document, "shape": None} for x in (a, b))
    return ours == theirs
