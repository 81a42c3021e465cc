"""Carry out a plan: read the slice block by block, encode its chunks on threads, write them into a mapping.

The mapping is any `MutableMapping` of keys to bytes; that it is a transaction is known to the caller alone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from zappend.arrays import ArrayReader, Box
from zappend.attributes import described, evaluated, templates
from zappend.cf import to_stored
from zappend.checks import check_dimension, fixed_problems, own_problems, refuse
from zappend.codec import ChunkCodec, single_threaded_blosc
from zappend.consolidation import leftovers, switched
from zappend.datatypes import Block
from zappend.editplan import EditPlan
from zappend.encoding import Encoding
from zappend.errors import SliceError, TargetError, ZappendError
from zappend.exact import EncodingError
from zappend.expansion import expanded
from zappend.fit import Fit, fit_to
from zappend.jobs import Job, jobs_of
from zappend.memory import memory_of
from zappend.metadata import Array, Cube, encodings_of
from zappend.plan import ArrayWrite, Plan, plan_append, plan_creation
from zappend.reader import CubeReader
from zappend.settings import Settings
from zappend.slices import Slice
from zappend.stores import is_remote, read_many
from zappend.variables import select

__all__ = ["Appender"]

AnyPlan = TypeVar("AnyPlan", Plan, EditPlan)

SMALL_BYTES = 2**17
"""Chunks that are not larger than this, before they are encoded, are encoded before a thread would begin with them."""

WRITES_AT_ONCE = 8
"""Threads for chunks of which each is synced: a disk takes several at once."""

BYTES_IN_FLIGHT = 2**24
"""Bytes of chunks, before they are encoded, that may be under way beside two a processor."""

BYTES_OF_ORIGINALS = 2**25
"""Bytes of chunks, decoded, of which the originals are read together, and once for the log and for merging."""

BYTES_PER_WRITE = 2**25
"""Encoded bytes that are written together at most."""


class Appender:
    """Appends slices to one cube, keeping between them what the cube's documents determine: arrays and codecs.

    Use it as a context manager; it ends its threads when the block is left.

    Parameters
    ----------
    name
        The target, for messages.
    settings
        The settings of the append.
    calls_at_once
        How many writes to the store are worth being under way at once.
    """

    def __init__(self, name: str, settings: Settings, calls_at_once: int = 1) -> None:
        self._name = name
        self._settings = settings
        sets_attrs = bool(settings.attrs) or settings.attrs_update_mode in ("replace", "update")
        self._reader = CubeReader(name, settings.append_dim, with_attrs=sets_attrs)
        self._templates = templates(settings)
        self._arrays = ArrayReader(settings.write_empty_chunks)
        self._fit: Fit | None = None
        self._memory = memory_of(settings)
        self._threads = settings.threads or os.cpu_count() or 1
        waiting = self._threads if settings.threads else max(self._threads, min(calls_at_once, WRITES_AT_ONCE))
        self._pool = ThreadPoolExecutor(waiting, "zappend") if waiting > 1 else None
        self._most_in_flight = 2 * waiting
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

    def plan(self, store: Mapping[str, bytes], new: Slice) -> Plan | EditPlan | None:
        """Return what appending `new` to the cube in `store` takes; ``None`` if it is in the cube and is skipped.

        Raises
        ------
        SliceError, TargetError, UsageError
            If the slice is refused, the target is no cube, or they do not fit. Nothing was written.
        """
        new = self._prepared(new)
        cube = self._reader.read(store)
        if cube is None:
            self._check_empty()
            return self._fitting(plan_creation(new, self._settings))
        dim = self._settings.append_dim
        constants = self._constants(cube, new)
        last = [
            (array, (range(max(array.shape[0] - 2, 0), array.shape[0]),))
            for array in cube.arrays.values()
            if array.name == dim and array.dims == (dim,)
        ]
        regions = [*constants, *last]
        found = read_many(store, [*self._reader.keys_to_check(cube), *self._arrays.keys(regions)])
        cube = self._reader.checked(cube, found)
        check_dimension(cube, new, dim, partial(self._groups, store))
        if self._is_there(store, cube, new):
            return None
        refuse(new, own_problems(new, self._settings))
        before, cube = cube, switched(store, cube, self._settings.consolidated)
        fit = self._fit_of(cube, new)
        blocks = self._arrays.read(store, regions, found)
        stored = {array.name: block for (array, _), block in zip(constants, blocks, strict=False)}
        tail = blocks[-1] if last else None
        known = {key: data for region in last for key, data in self._arrays.kept_data(*region).items()}
        plan = self._fitting(plan_append(fit, new, self._settings, tail, stored, partial(self._labels, store, cube)))
        if cube is not before:
            documents, removed = leftovers(before, plan.cube)
            plan = replace(plan, documents={**plan.documents, **documents}, removed=removed)
        self._reader.learn(plan.cube, plan.documents)
        self._fit = plan.fit
        return replace(plan, known={**known, **self._originals(store, plan, known)})

    def _prepared(self, new: Slice) -> Slice:
        """Return the slice as the settings want it: with the append dimension, without what they leave."""
        new = expanded(new, self._settings)
        if self._settings.fixed_dims:
            refuse(new, fixed_problems(new.sizes, self._settings, "dataset"))
        return described(select(new, self._settings), self._settings)

    def _constants(self, cube: Cube, new: Slice) -> list[tuple[Array, Box]]:
        """Return the arrays with which the slice is to be compared, since they do not have the append dimension."""
        return [
            (array, _whole(array))
            for name, array in cube.arrays.items()
            if self._settings.append_dim not in array.dims
            and name in new.variables
            and new.variables[name].shape == array.shape
        ]

    def _fit_of(self, cube: Cube, new: Slice) -> Fit:
        """Return that slices with the structure of `new` fit the cube; else raise."""
        fit = self._fit
        return fit if fit is not None and fit.holds_for(cube, new) else fit_to(cube, new, self._settings)

    def _fitting(self, plan: Plan) -> Plan:
        if self._memory is not None:
            self._memory.check(plan)
        return plan

    def _originals(self, store: Mapping[str, bytes], plan: Plan, known: Mapping[str, bytes]) -> dict[str, bytes | None]:
        """Return the bytes of further chunks that will be changed, read together, as far as memory allows."""
        keys: list[str] = []
        left = BYTES_OF_ORIGINALS
        if self._memory is not None:
            left = min(left, self._memory.encoded)
        for write in plan.writes:
            for chunk in write.chunks:
                if chunk.keeps and chunk.key not in known:
                    left -= write.chunk_bytes
                    if left < 0:
                        return read_many(store, keys)
                    keys.append(chunk.key)
        return read_many(store, keys)

    def check_replaceable(self, store: Mapping[str, bytes]) -> bool:
        """Raise `TargetError` unless what is in `store` is a Zarr group, or nothing; tell which."""
        if self._reader.read(store) is not None:
            return True
        self._check_empty()
        return False

    def _check_empty(self) -> None:
        there = sorted(self._reader.children)
        if there:
            raise TargetError(
                f"{self._name} is no Zarr group, but it is not empty either: it holds {', '.join(there[:3])}"
                f"{' …' if len(there) > 3 else ''}; name another target, or empty this one"
            )

    def _is_there(self, store: Mapping[str, bytes], cube: Cube, new: Slice) -> bool:
        dim = self._settings.append_dim
        labels = new.labelled(dim)
        if self._settings.if_exists != "skip" or labels is None or dim not in cube.arrays:
            return False
        try:
            stored = labels.stored(encodings_of(cube)[dim])
        except EncodingError:
            return False
        return bool(np.isin(stored, self._labels(store, cube)).all())

    def _groups(self, store: Mapping[str, bytes]) -> list[str]:
        """Return the paths of the groups directly in the target, as the setting ``group`` has them."""
        above = self._settings.group.strip("/")
        return [f"{above}/{name}" if above else name for name in self._reader.groups(store)]

    def _labels(self, store: Mapping[str, bytes], cube: Cube) -> Block:
        """Return all stored labels of the cube, which has some."""
        array = cube.arrays[self._settings.append_dim]
        (labels,) = self._arrays.read(store, [(array, _whole(array))])
        return labels

    # Writing.

    def carry_out(self, plan: Plan, store: MutableMapping[str, bytes]) -> tuple[int, int]:
        """Write the chunks of `plan`, then its documents, into `store`; return how many chunks, and their bytes.

        Raises
        ------
        SliceError
            If a value of the slice cannot be stored. Chunks may have been written then, but no document.
        """
        codecs = [self._arrays.codec(write.array) for write in plan.writes]  # refused before the first write
        large = sum(len(write.chunks) for write in plan.writes if write.chunk_bytes > SMALL_BYTES)
        pool = self._pool if large > 1 else None  # a chunk alone is done sooner than a thread would begin with it
        memory = self._memory
        batch = _Batch(store, BYTES_PER_WRITE if memory is None else min(memory.encoded, BYTES_PER_WRITE))
        together = is_remote(store)  # then a thread that encodes must not wait for an answer
        sizes: list[int | None] = []
        running: deque[Future[_Encoded]] = deque()
        frees: deque[int] = deque()  # by each of those
        held = 0

        def finish_first() -> None:
            nonlocal held
            encoded = running[0].result()
            running.popleft()
            held -= frees.popleft()
            sizes.append(encoded.size)
            if together:
                batch.add(encoded)

        def make_room(cost: int) -> None:
            nonlocal held
            while running and memory is not None and held + cost > memory.chunks:
                finish_first()
            held += cost

        def work(job: Job) -> _Encoded:
            encoded = self._encode(job, plan, store)
            if not together and encoded.data is not None:
                store[encoded.key] = encoded.data
            return encoded

        try:
            for job in jobs_of(plan, codecs, memory, None if memory is None else make_room):
                if self._pool is None and not together:
                    sizes.append(work(job).size)
                    held -= job.frees
                    continue
                if pool is None or job.write.chunk_bytes <= SMALL_BYTES:
                    encoded = self._encode(job, plan, store)
                    sizes.append(encoded.size)
                    batch.add(encoded)
                    held -= job.frees
                    continue
                while len(running) >= self._in_flight(job.write):
                    finish_first()
                frees.append(job.frees)
                running.append(pool.submit(work, job))
            while running:
                finish_first()
            batch.flush()
        except BaseException:
            for future in running:
                future.cancel()
            _wait_for(running)
            raise
        store.update(plan.documents)
        for key in plan.removed:
            del store[key]
        written = [size for size in sizes if size is not None]
        return len(written), sum(written)

    def evaluate_attrs(self, plan: AnyPlan, store: MutableMapping[str, bytes], view: Callable[[Any], Any]) -> AnyPlan:
        """Write the attributes that expressions compute, which see the cube as `plan` was carried out.

        Parameters
        ----------
        plan
            What was carried out.
        store
            Where.
        view
            Makes a `zarr.abc.store.Store` of `store`; called only where there are expressions.

        Returns
        -------
        plan
            The same one, where nothing changes by it; else one with those attributes in its documents.

        Raises
        ------
        UsageError
            If an expression has no value.
        """
        if not self._templates:
            return plan
        carried_out = plan
        plan = plan.with_attrs(evaluated(self._templates, view(store), plan.cube))
        if plan is not carried_out:
            store.update({key: data for key, data in plan.documents.items() if data != carried_out.documents.get(key)})
            if not plan.creates:
                self._reader.learn(plan.cube, plan.documents)
                self._fit = plan.fit
        return plan

    def may_read(self, variable: str) -> bool:
        """Tell whether an attribute may be computed of the values of `variable`."""
        return any(template.mentions(variable) for template in self._templates)

    def _in_flight(self, write: ArrayWrite) -> int:
        """Return how many chunks like those of `write` may be under way: two a processor, more if they are small."""
        return max(2 * self._threads, min(self._most_in_flight, BYTES_IN_FLIGHT // write.chunk_bytes))

    def _encode(self, job: Job, plan: Plan, store: Mapping[str, bytes]) -> _Encoded:
        write, chunk, codec, array = job.write, job.chunk, job.codec, job.write.array
        stored = self._stored(job, plan.new)
        old = None
        if chunk.keeps:
            old = plan.known[chunk.key] if chunk.key in plan.known else store.get(chunk.key)
        if stored.shape != array.chunks:
            whole = np.full(array.chunks, array.padding, array.dtype)
            if old is not None and write.axis is not None:
                kept = (*[slice(None)] * write.axis, slice(0, chunk.keeps))
                before = codec.decode(old) if write.stored is None else self._arrays.decode(array, chunk.key, old)
                whole[kept] = before[kept]
            whole[chunk.in_chunk] = stored
            stored = whole
        try:
            extent = tuple(part.stop for part in chunk.in_chunk)
            data = codec.encode(stored, old, extent)
        except (ZappendError, MemoryError):
            raise
        except Exception as error:
            # What values that it cannot take make a codec raise is up to it.
            raise SliceError(f"slice {plan.new.name}: variable {array.name!r} cannot be encoded: {error}") from error
        if data is None and chunk.key in store:
            # What lies here, as a stray that somebody left beyond the shape, would become data.
            data = ChunkCodec(array).encode(stored, old, extent)
        if data is not None and write.stored is not None and codec.is_exact:
            self._arrays.keep(chunk.key, data, stored.copy())  # a user may reuse the array for the next slice
        return _Encoded(chunk.key, data)

    def _stored(self, job: Job, new: Slice) -> Block:
        """Return the values of a chunk as they are to be stored."""
        if job.write.stored is not None:
            return job.values
        starts = [part.start for part in job.chunk.in_slice]
        return self._to_stored(new, job.write.array.name, job.values, job.write.encoding, starts)

    def _to_stored(self, new: Slice, name: str, values: Block, encoding: Encoding, starts: Iterable[int]) -> Block:
        """Return a part of a variable of the slice, which begins at `starts`, as it is to be stored."""
        try:
            on_overflow = "error" if name in new.coords else self._settings.on_overflow
            return to_stored(values, new.variables[name].source, encoding, on_overflow)
        except EncodingError as error:
            raise SliceError(f"slice {new.name}: variable {name!r}: {error.shifted(starts)}") from error


@dataclass(frozen=True)
class _Encoded:
    """A chunk that was encoded; without bytes if there is to be none."""

    key: str
    data: bytes | None

    @property
    def size(self) -> int | None:
        return None if self.data is None else len(self.data)


class _Batch:
    """Encoded chunks that are written together."""

    def __init__(self, store: MutableMapping[str, bytes], most: int) -> None:
        self._store = store
        self._most = most
        self._values: dict[str, bytes] = {}
        self._size = 0

    def add(self, encoded: _Encoded) -> None:
        if encoded.data is not None:
            self._values[encoded.key] = encoded.data
            self._size += len(encoded.data)
            if self._size >= self._most:
                self.flush()

    def flush(self) -> None:
        values, self._values, self._size = self._values, {}, 0
        if values:
            self._store.update(values)


def _whole(array: Array) -> Box:
    return tuple(range(size) for size in array.shape)


def _wait_for(running: Iterable[Future[Any]]) -> None:
    """Return when nobody writes any more, so that the caller can undo what was written, however often interrupted."""
    while True:
        try:
            wait(running)
        except KeyboardInterrupt:
            continue
        return
