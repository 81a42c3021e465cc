"""The names that users import, those of zappend 0.8 among them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Union

from zappend.config import ConfigItem, ConfigLike, ConfigList, load_settings
from zappend.context import Config, Context
from zappend.fileobj import FileObj
from zappend.results import Appended, AppendResult, Cut
from zappend.runs import run_cut, run_slices
from zappend.sources import SliceSource
from zappend.txn.context import Transaction, rollback, transaction
from zappend.txn.replay import Settlement
from zappend.txn.undo import Undone, undo

if TYPE_CHECKING:
    import xarray as xr
    from zarr.abc.store import Store

__all__ = [
    "AppendResult",
    "Appended",
    "Config",
    "ConfigItem",
    "ConfigLike",
    "ConfigList",
    "Context",
    "Cut",
    "FileObj",
    "Settlement",
    "SliceCallable",
    "SliceItem",
    "SliceSource",
    "Transaction",
    "Undone",
    "append",
    "delete",
    "insert",
    "keep",
    "replace",
    "rollback",
    "transaction",
    "undo",
    "zappend",
]

# With quotes, as xarray and zarr take most of a second to import.
SliceItem = Union[
    str,
    os.PathLike[str],
    FileObj,
    "xr.Dataset",
    "xr.DataArray",
    "Store",
    Mapping[str, bytes],
    SliceSource,
    AbstractContextManager[Any],
    Iterator[Any],
    Callable[..., Any],
]
"""What can be a slice: a path or URL, a dataset or named array, a Zarr store, or what gives one of these."""

SliceCallable = type[SliceSource] | Callable[..., SliceItem]
"""What can be the setting ``slice_source``: it makes a slice of the arguments that an item stands for."""


def append(
    target: Any,
    slices: Any,
    config: ConfigLike = None,
    **settings: Any,
) -> AppendResult:
    """Grow the cube at `target` by `slices`, in the order given, each one all or nothing.

    The first slice makes the cube if there is none; later ones must have its structure and come after its last label.
    What a process that was killed left half-done is settled first.

    Parameters
    ----------
    target
        What `transaction` takes: a path, a URL, a mapper, a store of zarr or obstore, a mapping of keys to bytes; or a
        `FileObj`. It need not exist, though the parent of a local path must. ``None``: what ``target_dir`` names.
    slices
        One slice, or an iterable of them, which is asked for the next one when the one before it is in. A slice is a
        path or URL of a NetCDF file or a Zarr folder, a `FileObj`, an `xarray.Dataset`, decoded or not, a named
        `xarray.DataArray`, a Zarr store; or what gives one of these: a context manager, a `SliceSource`, a function, a
        generator. What was opened for a slice is closed after it; what the caller has opened is not. With the setting
        ``slice_source``, slices are its arguments: a list of them, a dict by name, a tuple of both, or a single one.
    config
        Settings: a file in JSON, YAML or TOML, a mapping, or several of these, of which later ones win.
    **settings
        Settings by name, which win over `config`; `zappend.config.Settings` has them all.

    Returns
    -------
    result
        The number of slices that went in, with more to tell.

    Raises
    ------
    UsageError
        If a setting is wrong. Nothing was changed.
    SliceError, TargetError
        If a slice is refused, or the target cannot be used. Slices before it are in, the target is as they left it.
    Locked, RecoveryRefused, LogVersionError, CommitStateUnknown
        As `transaction` says.
    OSError
        If reading or writing failed. Slices before are in, the target is as they left it.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> cube = {}
    >>> days = [xr.Dataset({"sst": (("time", "x"), [[20.0, 21.0]])}, {"time": [day]}) for day in (1, 2, 3)]
    >>> append(cube, days)
    <AppendResult 3 of 3 slices>
    """
    return run_slices(target, slices, load_settings(config, **settings), "append")


def delete(
    target: Any,
    *,
    labels: Any = None,
    where: str | None = None,
    index: Any = None,
    config: ConfigLike = None,
    **settings: Any,
) -> Cut:
    """Delete labels of the cube at `target`, with all that belongs to them, all or nothing.

    Where whole chunks go, those behind them move as they are; others are read and written again. A kill leaves the old
    cube or the new one. Who reads the moved part at that moment may see rows of both.

    Parameters
    ----------
    target
        As `append` takes it.
    labels
        One label or several, as text, numbers or times. Text stands for times as in xarray's ``sel``: ``2024-01-05``
        is the whole day.
    where
        An interval of labels, such as ``2024-01-01/2024-01-31``, to which both ends belong; ``..`` for an open end.
    index
        Places along the append dimension: a number, from the end if it is negative; a `slice`; text such as ``3:7``; or
        several of these.
    config, **settings
        As `append` takes them.

    Returns
    -------
    cut
        What was deleted, and what it took.

    Raises
    ------
    UsageError
        If not one of the three is given, or it means no label. Nothing was changed.
    TargetError
        If there is no cube, or no label would be left. Nothing was changed.
    Locked, RecoveryRefused, LogVersionError, CommitStateUnknown
        As `transaction` says.
    OSError
        If reading or writing failed. The target is as it was.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> cube = {}
    >>> days = [xr.Dataset({"sst": (("time", "x"), [[20.0, 21.0]])}, {"time": [day]}) for day in (1, 2, 3)]
    >>> append(cube, days)
    <AppendResult 3 of 3 slices>
    >>> print(delete(cube, labels=2))
    1 labels deleted, 2 left: 1 chunks moved, 1 written, 16 bytes, 1 removed
    """
    from zappend.selection import Selection

    selection = Selection(labels, where, index)
    selection.check()
    return run_cut(target, lambda editor, cube: editor.plan_delete(cube, selection), config, settings)


def insert(target: Any, slices: Any, config: ConfigLike = None, **settings: Any) -> AppendResult:
    """Put `slices` where they belong among the labels of the cube at `target`, each one all or nothing.

    A slice must fit the cube as one that is appended must, and all its labels must lie between two of the cube that
    follow one another, or before the first, or after the last. Where whole chunks come between whole chunks, those
    behind them move as they are; others are read and written again, which the setting ``slice_size`` must allow. A kill
    leaves the old cube or the new one. Who reads the moved part at that moment may see rows of both.

    Parameters
    ----------
    target, slices, config, **settings
        As `append` takes them. With ``if_exists="skip"`` slices are passed over whose labels are all there.

    Returns
    -------
    result
        The number of slices that went in, with more to tell.

    Raises
    ------
    UsageError
        If a setting is wrong. Nothing was changed.
    SliceError, TargetError
        If a slice is refused, or there is no cube. Slices before it are in, the target is as they left it.
    Locked, RecoveryRefused, LogVersionError, CommitStateUnknown
        As `transaction` says.
    OSError
        If reading or writing failed. Slices before are in, the target is as they left it.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> cube = {}
    >>> days = [xr.Dataset({"sst": (("time", "x"), [[20.0, 21.0]])}, {"time": [day]}) for day in (1, 2, 3)]
    >>> append(cube, [days[0], days[2]])
    <AppendResult 2 of 2 slices>
    >>> print(insert(cube, days[1]).slices[0])
    0: inserted at 1:2, 2 chunks, 40 bytes, 1 moved
    """
    return run_slices(target, slices, load_settings(config, **settings), "insert")


def replace(target: Any, slices: Any, config: ConfigLike = None, **settings: Any) -> AppendResult:
    """Write `slices` over what the cube at `target` has under their labels, each one all or nothing.

    A slice must fit the cube as one that is appended must, and the cube must have all its labels, one after the other
    and in the same order. A kill leaves the old cube or the new one. Who reads these labels at that moment may see the
    old values of some chunks and the new ones of others.

    Parameters
    ----------
    target, slices, config, **settings
        As `append` takes them.

    Returns
    -------
    result
        The number of slices that were replaced, with more to tell.

    Raises
    ------
    UsageError
        If a setting is wrong. Nothing was changed.
    SliceError, TargetError
        If a slice is refused, or there is no cube. Slices before it are in, the target is as they left it.
    Locked, RecoveryRefused, LogVersionError, CommitStateUnknown
        As `transaction` says.
    OSError
        If reading or writing failed. Slices before are in, the target is as they left it.
    """
    return run_slices(target, slices, load_settings(config, **settings), "replace")


def keep(target: Any, last: Any, config: ConfigLike = None, **settings: Any) -> Cut:
    """Delete all labels of the cube at `target` but the last ones, all or nothing: see `delete`.

    Parameters
    ----------
    target
        As `append` takes it.
    last
        How many labels stay; or a duration, such as ``30d``: those that are less than that from the last one.
    config, **settings
        As `append` takes them.

    Returns
    -------
    cut
        What was deleted, and what it took; nothing, if there are no other labels.

    Raises
    ------
    ZappendError, OSError
        As `delete` says.
    """
    from zappend.selection import count_of_last

    count_of_last(last)
    return run_cut(target, lambda editor, cube: editor.plan_keep(cube, last), config, settings)


def zappend(slices: Any, config: ConfigLike = None, **kwargs: Any) -> AppendResult:
    """Grow the cube at the setting ``target_dir`` by `slices`: `append`, as zappend 0.8 had it.

    Parameters
    ----------
    slices
        As `append` takes them.
    config
        Settings: a file, a mapping, or several of these, of which later ones win.
    **kwargs
        Settings by name, which win over `config`.

    Returns
    -------
    result
        The number of slices that went in, with more to tell.

    Raises
    ------
    ZappendError, OSError
        As `append` says.
    """
    return append(None, slices, config, **kwargs)
