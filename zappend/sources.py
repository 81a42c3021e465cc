"""What a user gives as a slice → a dataset, for as long as it is needed.

A path, a store, a dataset, or what leads to one of these: a context manager, a function, a generator, a `SliceSource`.
What was opened on the way is closed afterwards, the last first, once, and also if the slice is refused. A dataset that
the user opened stays open.
"""

from __future__ import annotations

import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from zappend.errors import SliceError, UsageError, ZappendError
from zappend.fileobj import FileObj, file_of_upath
from zappend.opening import first_line, local_path, name_of, open_path, options_of
from zappend.references import without_dangling
from zappend.settings import Settings
from zappend.zarrdatasets import is_zarr_store, open_zarr

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ContextMaker", "SliceSource", "is_item", "open_item", "plain_path"]

T = TypeVar("T")

ContextMaker = Callable[[], Any]
"""Returns the processing context that functions of the user get if they ask for it."""

log = logging.getLogger(__name__)

MOST_STEPS = 16
"""How many things may lead to one another, until the last one is a dataset."""


class SliceSource(ABC):
    """Gives one slice, and cleans up when that is appended or refused. To be implemented by users.

    A class is named by the setting ``slice_source``, and made with each item as its arguments, or its objects are given
    as slices. Its ``__init__`` gets the processing context if it has a parameter ``ctx``; it may hand it on to
    ``super().__init__``, which does nothing with it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        following = super().__init__
        given = [*args, *kwargs.values()]
        if len(given) == 1 and kwargs.keys() <= {"ctx"} and getattr(following, "__objclass__", None) is object:
            from zappend.context import Context

            if isinstance(given[0], Context):
                return  # handed on, as classes from before zappend 0.6 do
        following(*args, **kwargs)  # of which object takes nothing: an item for a class without __init__ is an error

    @abstractmethod
    def get_dataset(self) -> Any:
        """Return the slice, an `xarray.Dataset` or whatever else can be given as one; called once."""

    def close(self) -> None:
        """Clean up; called once, after the slice was appended, refused, or could not be had."""
        if type(self).dispose is not SliceSource.dispose:
            warnings.warn(
                f"{type(self).__qualname__}.dispose() is deprecated; call it close()", DeprecationWarning, stacklevel=2
            )
            self.dispose()

    def dispose(self) -> None:
        """Do nothing; what `close` was called before zappend 0.6."""


def is_item(item: object) -> bool:
    """Tell whether `item` is itself what can be a slice, and not a collection of them."""
    return (
        isinstance(item, (str, os.PathLike, FileObj, SliceSource))
        or hasattr(item, "data_vars")
        or (hasattr(item, "to_dataset") and hasattr(item, "coords"))
        or is_zarr_store(item)
        or file_of_upath(item) is not None
        or callable(item)
        or (isinstance(item, AbstractContextManager) and not isinstance(item, Iterator))
    )


def plain_path(item: object) -> str | None:
    """Return the path if that is all that `item` is."""
    return local_path(item) if isinstance(item, (str, os.PathLike)) and not isinstance(item, FileObj) else None


@contextmanager
def open_item(
    item: Any, index: int, settings: Settings, context: ContextMaker | None = None
) -> Iterator[tuple[xr.Dataset, str]]:
    """Open one slice, and return the dataset and what messages call it; what was opened is closed behind the block.

    Parameters
    ----------
    item
        What the user gave.
    index
        Its place among the slices.
    settings
        The settings of the append; their ``slice_source``, if any, has been found.
    context
        Makes the processing context.

    Raises
    ------
    SliceError
        If it cannot be had.
    UsageError
        If `item` is nothing that can be a slice.
    """
    name = _name(item)
    opening = _Opening(index, str(index) if name is None else name, settings, context)
    with opening.stack:
        if settings.slice_source is not None:
            item = opening.call(settings.slice_source, item, settings.slice_source_kwargs)
        yield opening.dataset(item), opening.name


class _Opening:
    """Goes from an item to its dataset, and keeps in `stack` what is to be closed."""

    def __init__(self, index: int, name: str, settings: Settings, context: ContextMaker | None) -> None:
        self.name = name
        self.stack = ExitStack()
        self._index = index
        self._settings = settings
        self._context = context
        self._origin = ""

    def dataset(self, item: Any) -> xr.Dataset:
        """Return the dataset that `item` is, or leads to."""
        for _ in range(MOST_STEPS):
            done, item = self._step(item)
            if done:
                return item  # type: ignore[no-any-return]
        raise UsageError(f"slice {self.name}: it leads from one thing to the next, and never to a dataset")

    def call(self, function: Callable[..., Any], item: Any, kwargs: Mapping[str, Any]) -> Any:
        """Return what `function` makes of `item`."""
        from zappend import callables

        try:
            args, own = callables.arguments(item)
        except UsageError as error:
            raise UsageError(f"slice {self.name}: {error}") from None
        what = f"{callables.name_of(function)}({callables.shown(args, own)})"
        self._origin = f"{what} returned"
        return self._run(what, callables.call, function, args, {**kwargs, **own}, self._context)

    def _step(self, item: Any) -> tuple[bool, Any]:
        """Return whether the second value is the dataset, or only what leads to it."""
        import xarray as xr

        if isinstance(item, xr.Dataset):
            return True, self._in_memory(item)
        if isinstance(item, xr.DataArray):
            return True, self._in_memory(self._named(item))
        if isinstance(item, FileObj):
            return True, self._path(item)
        if (file := file_of_upath(item)) is not None:
            return True, self._path(file)
        if isinstance(item, (str, os.PathLike)):
            return True, self._path(local_path(item))
        if isinstance(item, SliceSource):
            what = type(item).__qualname__
            self.stack.push(partial(self._leave, lambda *_: item.close(), what))
            self._origin = f"{what}.get_dataset() returned"
            return False, self._run(f"{what}.get_dataset()", item.get_dataset)
        if is_zarr_store(item):
            return True, self._store(item)
        if isinstance(item, Generator):
            item = _Yielding(item, self.name)
        if isinstance(item, AbstractContextManager):
            what = getattr(item, "what", type(item).__qualname__)
            inner = self._run(what, type(item).__enter__, item)
            self.stack.push(partial(self._leave, partial(type(item).__exit__, item), what))
            if inner is not item:
                self._origin = f"{what} yielded"
                return False, inner
        elif callable(item):
            return False, self.call(item, [], {})
        if self._origin:
            given = "None" if item is None else f"a value of type {type(item).__name__}"
            raise UsageError(f"slice {self.name}: {self._origin} {given} instead of a dataset")
        raise UsageError(
            f"slice {self.name}: slice_item must have type str, pathlib.Path, xarray.Dataset, xarray.DataArray, "
            f"contextlib.AbstractContextManager, zappend.api.FileObj, zappend.api.SliceSource, or be a Zarr store, or "
            f"a function or generator that gives one of these, but was type {type(item).__name__}"
            + ("; a dict is taken for arguments only where there is a slice_source" if isinstance(item, dict) else "")
        )

    def _path(self, path: str | FileObj) -> xr.Dataset:
        dataset = open_path(path, self._settings)
        self.stack.callback(dataset.close)
        return dataset

    def _store(self, store: Any) -> xr.Dataset:
        options = options_of(self._settings)
        try:
            dataset = open_zarr(store, group=options.group, **options.arguments)
        except Exception as error:
            # What is wrong with a store is up to the store, and to zarr.
            raise SliceError(f"slice {self.name}: it is no Zarr group that can be read: {first_line(error)}") from error
        self.stack.callback(dataset.close)
        return dataset

    def _named(self, array: xr.DataArray) -> xr.Dataset:
        try:
            # An array leaves behind what its coordinates name, such as bounds.
            return without_dangling(array.to_dataset(promote_attrs=False))
        except ValueError as error:
            raise SliceError(f"slice {self.name}: an xarray.DataArray must have a name: {first_line(error)}") from error

    def _in_memory(self, dataset: xr.Dataset) -> xr.Dataset:
        if not self._settings.persist_mem_slices or self._settings.dry_run:
            return dataset
        from zappend.temporary import persisted

        return self.stack.enter_context(persisted(dataset, self._index, self.name, self._settings))

    def _run(self, what: str, function: Callable[..., T], *args: Any) -> T:
        """Call code of the user."""
        try:
            return function(*args)
        except ZappendError:
            raise
        except Exception as error:
            raise SliceError(f"slice {self.name}: {what} raised {type(error).__name__}: {first_line(error)}") from error

    def _leave(
        self,
        leave: Callable[..., Any],
        what: str,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Call code of the user that cleans up. Whatever it says, a refusal stays one, and what went in is in."""
        try:
            leave(kind, error, traceback)
        except _SecondSlice:
            raise
        except Exception as failure:
            if error is None:
                why = f"{type(failure).__name__}: {first_line(failure)}"
                log.warning("slice %s: it is done, but closing %s failed: %s", self.name, what, why)
            elif failure is not error:
                error.add_note(f"closing {what} failed, too: {type(failure).__name__}: {first_line(failure)}")


class _SecondSlice(SliceError):
    """A generator yields more than the one slice that it may."""


class _Yielding:
    """A generator as a context manager: it yields the slice, and goes on when that is done with."""

    def __init__(self, generator: Generator[Any, Any, Any], name: str) -> None:
        self.what: str = getattr(generator, "__qualname__", type(generator).__qualname__)
        self._generator = generator
        self._name = name

    def __enter__(self) -> Any:
        try:
            return next(self._generator)
        except StopIteration:
            raise SliceError(f"slice {self._name}: {self.what} yields nothing, so there is no slice") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                next(self._generator)
            else:
                self._generator.throw(error)
        except StopIteration:
            return
        self._generator.close()
        if error is None:
            raise _SecondSlice(
                f"slice {self._name}: {self.what} yields a second slice, which is not in, as each item stands for one; "
                f"give the generator itself as the slices"
            )


def _name(item: Any) -> str | None:
    """Return what a user calls `item`, if it has a name."""
    if (file := file_of_upath(item)) is not None:
        item = file
    return name_of(item) if isinstance(item, (str, os.PathLike, FileObj)) else None
