"""The next slice is opened, and read as far as memory allows, on a thread, while the one before it is written.

That is done with paths of NetCDF-4 files alone, one after the other in a list or a tuple. A folder may still be
growing, and a dataset, or a function that makes one, is its owner's. HDF5 has one lock for all threads; other libraries
may have none.

Whatever goes wrong ahead of its turn is forgotten: the slice is opened again when its turn comes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from zappend.memory import BYTES_AHEAD, memory_of
from zappend.opening import is_netcdf4, local_path
from zappend.settings import Settings
from zappend.slices import Slice, SliceVariable, open_slice
from zappend.sources import ContextMaker, plain_path

__all__ = ["SliceOpener"]


class SliceOpener:
    """Opens the slices of a call one after the other, and begins with the next one when it can.

    Use it as a context manager; when the block is left, it has closed what it opened, and its thread has ended.

    Parameters
    ----------
    items
        What the user gave as slices.
    settings
        The settings of the append. One thread means no other than the calling one, and a slice that is waited for is
        not looked at before its turn, from which on its time counts.
    context
        Makes the processing context for functions of the user.
    """

    def __init__(self, items: Iterable[Any], settings: Settings, context: ContextMaker | None = None) -> None:
        threads = settings.threads or os.cpu_count() or 1
        engine = settings.slice_engine or settings.open_kwargs.get("engine")
        goes_ahead = (
            threads > 1
            and settings.polling is None
            and settings.slice_source is None
            and engine in (None, "h5netcdf")  # of others nobody knows what threads may do
        )
        self._items: Sequence[Any] = items if goes_ahead and isinstance(items, (list, tuple)) else ()
        self._settings = settings
        self._context = context
        self._pool = ThreadPoolExecutor(1, "zappend-ahead")
        self._now: _Opening | None = None
        self._next: _Opening | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for opening in (self._now, self._next):
            if opening is not None:
                opening.close()
        self._pool.shutdown()

    @contextmanager
    def open(self, item: Any, index: int) -> Iterator[Slice]:
        """Open the slice `item`, which is the one at `index`, as `open_slice` does, and begin with the one after it."""
        self._now, self._next = self._next, None
        with ExitStack() as stack:
            new = None
            if self._now is not None:
                stack.callback(self._now.close)
                new = self._now.slice_of(item)
            if new is None:
                new = stack.enter_context(open_slice(item, index, self._settings, self._context))
            if all(is_netcdf4(path) for path in self._paths(index)):
                self._next = _Opening(self._items[index + 1], index + 1, self._settings, self._pool)
            yield new

    def _paths(self, index: int) -> Iterator[str]:
        """Iterate over this slice and the next; an empty path stands for what is none, or is not there."""
        for item in (*self._items[index : index + 2], None, None)[:2]:
            yield plain_path(item) or ""


class _Opening:
    """A slice that is being opened on a thread."""

    def __init__(self, item: Any, index: int, settings: Settings, pool: ThreadPoolExecutor) -> None:
        self._item = item
        self._index = index
        self._settings = settings
        self._stack = ExitStack()
        self._closing = False
        self._stamp = _stamp(item)
        self._opened: Future[Slice | None] = pool.submit(self._open)

    def slice_of(self, item: Any) -> Slice | None:
        """Return the slice when it is open, ``None`` if `item` must be opened again."""
        new = self._opened.result()
        if new is None or item is not self._item or self._stamp is None or self._stamp != _stamp(item):
            self.close()
            return None
        return new

    def close(self) -> None:
        """Close what was opened, as soon as the thread has done with it, however often interrupted."""
        self._closing = True
        while True:
            try:
                wait([self._opened])
                break
            except KeyboardInterrupt:
                continue
        self._stack.close()

    def _open(self) -> Slice | None:
        try:
            new = self._stack.enter_context(open_slice(self._item, self._index, self._settings))
            memory = memory_of(self._settings)
            left = BYTES_AHEAD if memory is None else memory.ahead
            # Variables are read whole, the smallest first.
            for variable in sorted(self._loadable(new), key=lambda variable: variable.size_in_bytes):
                left -= variable.size_in_bytes
                if left < 0 or self._closing:
                    break
                variable.load()
        except Exception:
            return None
        return new

    def _loadable(self, new: Slice) -> Iterator[SliceVariable]:
        """Iterate over the variables that will be read; of objects nobody knows how much memory they take."""
        for name, variable in new.variables.items():
            if variable.dtype.kind != "O" and self._settings.takes(name):
                yield variable


def _stamp(item: Any) -> tuple[int, ...] | None:
    """Return what tells whether the file at a path is still the one that it was; ``None`` if there is none."""
    try:
        found = os.stat(local_path(item))
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
