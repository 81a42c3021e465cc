"""The names that users import, those of zappend 0.8 among them. The one module that knows both halves."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Union, cast

from msgspec.structs import replace as changed

from zappend.ahead import SliceOpener
from zappend.appender import Appender
from zappend.config import ConfigItem, ConfigLike, ConfigList, load_settings
from zappend.context import Config, Context, open_cube
from zappend.dryrun import DryRun, checks_of
from zappend.editplan import EditPlan, Operation
from zappend.errors import UsageError, ZappendError
from zappend.fileobj import FileObj, file_of_upath
from zappend.groups import cube_in, documents_above
from zappend.logs import configure_logging
from zappend.plan import Plan
from zappend.profiling import profiled
from zappend.redaction import conceal
from zappend.settings import Settings
from zappend.slices import Slice
from zappend.sources import SliceSource, is_item
from zappend.txn.context import Transaction, rollback, transaction
from zappend.txn.replay import Settlement
from zappend.txn.storage import Storage, check_key
from zappend.txn.target import open_target

if TYPE_CHECKING:
    import xarray as xr
    from zarr.abc.store import Store

    from zappend.edit import Editor
    from zappend.txn.store import TransactionStore

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
    "append",
    "delete",
    "insert",
    "keep",
    "replace",
    "rollback",
    "transaction",
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

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Appended:
    """What became of one slice.

    Attributes
    ----------
    slice
        The slice, as messages name it.
    start, stop
        Where its labels lie along the append dimension; equal if it was skipped.
    chunks, bytes
        How many chunks were written, and how many bytes they have.
    created
        Whether the cube began with it.
    keys
        In a dry run, the keys that would be written, documents among them, and how many bytes each.
    operation
        How it came in.
    moved
        How many chunks moved as they are.
    """

    slice: str
    start: int
    stop: int
    chunks: int
    bytes: int
    created: bool
    keys: Mapping[str, int] = field(default_factory=dict)
    operation: Operation = "append"
    moved: int = 0

    @property
    def skipped(self) -> bool:
        """Whether all its labels were in the cube before."""
        return self.start == self.stop

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.slice}: is in the cube already"
        begins = ", the cube begins with it" if self.created else ""
        how = {"insert": "inserted ", "replace": "replaced "}.get(self.operation, "")
        moved = f", {self.moved} moved" if self.moved else ""
        return (
            f"{self.slice}: {how}at {self.start}:{self.stop}, {self.chunks} chunks, {self.bytes} bytes{moved}{begins}"
        )


@dataclass(frozen=True)
class Cut:
    """What became of a cube from which labels were deleted.

    Attributes
    ----------
    labels
        How many labels were deleted.
    size
        How many are left.
    moved
        How many chunks moved as they are.
    chunks, bytes
        How many chunks were written anew, and how many bytes they have.
    removed
        How many chunks there are less.
    dry_run
        Whether nothing was changed.
    keys
        In a dry run, the keys that would be written anew, documents among them, and how many bytes each.
    """

    labels: int
    size: int
    moved: int = 0
    chunks: int = 0
    bytes: int = 0
    removed: int = 0
    dry_run: bool = False
    keys: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.labels} labels deleted, {self.size} left: {self.moved} chunks moved, {self.chunks} written, "
            f"{self.bytes} bytes, {self.removed} removed"
        )


class AppendResult(int):
    """How many slices went in, and what became of each.

    Attributes
    ----------
    slices
        One `Appended` for each slice that was given, in order.
    dry_run
        Whether nothing was written.
    checks
        In a dry run, what was checked of each slice, in words.
    """

    slices: tuple[Appended, ...]
    dry_run: bool
    checks: tuple[str, ...]

    def __new__(cls, slices: Iterable[Appended], *, dry_run: bool = False, checks: Iterable[str] = ()) -> AppendResult:
        """Count those of `slices` that were not skipped."""
        slices = tuple(slices)
        self = super().__new__(cls, sum(not one.skipped for one in slices))
        self.slices, self.dry_run, self.checks = slices, dry_run, tuple(checks)
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {int(self)} of {len(self.slices)} slices>"


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
    return _run(target, slices, load_settings(config, **settings), "append")


def _run(target: Any, slices: Any, checked: Settings, operation: Operation) -> AppendResult:
    for options in (checked.storage_options, checked.slice_storage_options, checked.temp_storage_options):
        conceal(options)
    configure_logging(checked.logging)
    if checked.disable_rollback:
        log.warning(
            "setting disable_rollback has no effect: every slice is all or nothing, which costs next to nothing"
        )
    if checked.keep_last is not None:
        from zappend.selection import count_of_last

        count_of_last(checked.keep_last)
    if checked.force_new and operation != "append":
        raise UsageError(f"force_new begins a cube anew, and there is nothing to {operation} in it")
    with profiled(checked.profiling):
        return _append(target, slices, checked, operation)


def _append(target: Any, slices: Any, checked: Settings, operation: Operation) -> AppendResult:
    items = [slices] if is_item(slices) else slices
    if not isinstance(items, Iterable) or isinstance(items, Mapping):
        raise UsageError(f"slices must be paths, datasets, or what gives them, not a {type(slices).__name__}")
    if checked.slice_source is not None:
        from zappend.callables import find_callable

        checked = changed(checked, slice_source=find_callable(checked.slice_source))
    storage, checked, view = _opened(target, checked)
    group = checked.group
    done: list[Appended] = []
    checked = changed(checked, zarr_format=checked.zarr_format or _format_above(storage, group))

    def context() -> Context:
        fresh = checked.force_new and not done
        return Context(Config(checked), partial(_cube_before, storage, checked, view, fresh=fresh))

    with (
        _appender(operation, checked)(storage.name, checked, storage.calls_at_once) as appender,
        SliceOpener(items, checked, context) as opener,
    ):
        for index, item in enumerate(items):
            try:
                with opener.open(item, index) as new:
                    if view is not None:
                        done.append(_append_to(view, appender, new, group, operation))
                    else:
                        fresh = checked.force_new and not done
                        done.append(_append_one(storage, appender, new, checked, operation, fresh=fresh))
                log.info("slice %s", done[-1])
            except ZappendError as error:
                if done and view is None:
                    before = "the slice" if len(done) == 1 else f"the {len(done)} slices"
                    error.add_note(f"{before} before it went in")
                raise
    return AppendResult(done, dry_run=checked.dry_run, checks=checks_of(checked) if checked.dry_run else ())


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
    return _cut(target, lambda editor, cube: editor.plan_delete(cube, selection), config, settings)


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
    return _run(target, slices, load_settings(config, **settings), "insert")


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
    return _run(target, slices, load_settings(config, **settings), "replace")


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
    return _cut(target, lambda editor, cube: editor.plan_keep(cube, last), config, settings)


def _cut(
    target: Any,
    planned: Callable[[Editor, MutableMapping[str, bytes]], EditPlan | None],
    config: ConfigLike,
    settings: Mapping[str, Any],
) -> Cut:
    """Delete what is `planned`."""
    from zappend.edit import Editor

    checked = load_settings(config, **settings)
    for options in (checked.storage_options, checked.slice_storage_options, checked.temp_storage_options):
        conceal(options)
    configure_logging(checked.logging)
    if checked.force_new:
        raise UsageError("force_new begins a cube anew, and there is nothing to delete of it")
    with profiled(checked.profiling):
        storage, checked, view = _opened(target, checked)
        with Editor(storage.name, checked, storage.calls_at_once) as editor:
            if view is not None:
                return _cut_from(view, editor, planned, checked.group)
            with transaction(storage, lock_timeout=checked.lock_timeout) as txn:
                return _cut_from(txn, editor, planned, checked.group)


def _cut_from(
    store: Transaction | DryRun,
    editor: Editor,
    planned: Callable[[Editor, MutableMapping[str, bytes]], EditPlan | None],
    group: str,
) -> Cut:
    cube = cube_in(store, group)
    plan = planned(editor, cube)
    dry_run = isinstance(store, DryRun)
    if plan is None:
        return Cut(0, editor.size_of(cube), dry_run=dry_run)
    written = _carry_out_edit(store, editor, plan, group)
    sizes = store.take_sizes() if isinstance(store, DryRun) else {}
    return Cut(plan.dropped, plan.splice.size, plan.moved, *written, plan.removed, dry_run, sizes)


def _carry_out_edit(store: Transaction | DryRun, editor: Editor, plan: EditPlan, group: str) -> tuple[int, int]:
    prefix = _prefix(group)
    cube = cube_in(store, group)
    new, changed = ([prefix + key for key in keys] for keys in plan.keys())
    if isinstance(store, DryRun):
        unread = [edit for edit in plan.edits if len(edit.array.dims) > 1 and not editor.may_read(edit.array.name)]
        store.forget(prefix + key for edit in unread for row in edit.rows for key in edit.keys(row.index))
    else:
        store.log_ahead(new, changed, by_reference=True)
    written = editor.carry_out_edit(plan, cube)
    plan = editor.evaluate_attrs(plan, cube, _zarr_view)
    if plan.documents:
        store.update(_above(store, group, plan))
    return written


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


def _opened(target: Any, checked: Settings) -> tuple[Storage, Settings, DryRun | None]:
    """Return the storage of the target, the settings with what it says, and, for a dry run, what stands for it."""
    checked = changed(checked, group=_checked_group(checked.group))
    target, checked = _target(target, checked)
    storage = open_target(target, checked.durability, storage_options=checked.storage_options, locking=checked.locking)
    view = DryRun(storage, _prefix(checked.group), force_new=checked.force_new) if checked.dry_run else None
    if checked.threads:
        storage.calls_at_once = min(storage.calls_at_once, checked.threads)
    return storage, checked, view


def _target(target: Any, settings: Settings) -> tuple[Any, Settings]:
    """Return the target, and the settings with its path, if it has one."""
    if target is None:
        if not settings.target_dir:
            raise UsageError("Missing 'target_dir' in configuration: it names the target, if no argument does")
        target = settings.target_dir
    file = target if isinstance(target, FileObj) else file_of_upath(target)
    if file is not None:
        return file.uri, changed(settings, target_dir=file.uri, storage_options=file.storage_options or {})
    path = os.fspath(target) if isinstance(target, (str, os.PathLike)) else None
    return target, settings if path == settings.target_dir else changed(settings, target_dir=path)


@contextmanager
def _cube_before(
    storage: Storage, settings: Settings, view: DryRun | None, *, fresh: bool
) -> Iterator[xr.Dataset | None]:
    """Open the cube as it is between two slices, settled; ``None``: there is none, or there will be none of it."""
    from zappend.txn.zarrview import ZarrView  # brings in zarr

    if view is not None:
        with open_cube(ZarrView(cast("TransactionStore", view)), settings) as cube:
            yield cube
    elif fresh:
        yield None
    else:
        with transaction(storage, lock_timeout=settings.lock_timeout) as txn, open_cube(txn.store, settings) as cube:
            yield cube


def _appender(operation: Operation, settings: Settings) -> type[Appender]:
    """Return what appends, or also edits, which a mere append need not import."""
    edits = settings.if_exists == "replace" or settings.if_earlier == "insert" or settings.keep_last is not None
    if operation == "append" and not edits:
        return Appender
    from zappend.edit import Editor

    return Editor


def _append_one(
    storage: Storage, appender: Appender, new: Slice, settings: Settings, operation: Operation, *, fresh: bool
) -> Appended:
    prefix = _prefix(settings.group)
    with transaction(storage, lock_timeout=settings.lock_timeout) as txn:
        cube = cube_in(txn, settings.group)
        if fresh:
            appender.check_replaceable(cube)
            txn.delete_folder(prefix)
        plan = _plan(appender, cube, new, operation)
        if plan is None:
            return _appended(new, None)
        if isinstance(plan, EditPlan):
            return _edited(plan, *_carry_out_edit(txn, cast("Editor", appender), plan, settings.group))
        above = _above(txn, settings.group, plan)
        fresh_keys, changed_keys = ([prefix + key for key in keys] for keys in plan.keys())
        txn.log_ahead(fresh_keys, changed_keys, {prefix + key: value for key, value in plan.known.items()})
        written = appender.carry_out(plan, cube)
        final = appender.evaluate_attrs(plan, cube, _zarr_view)
        txn.update(above if final is plan else _above(txn, settings.group, final))
        return _appended(new, plan, *written)


def _plan(
    appender: Appender, cube: MutableMapping[str, bytes], new: Slice, operation: Operation
) -> Plan | EditPlan | None:
    if operation == "insert":
        return cast("Editor", appender).plan_insert(cube, new)
    if operation == "replace":
        return cast("Editor", appender).plan_replace(cube, new)
    return appender.plan(cube, new)


def _append_to(view: DryRun, appender: Appender, new: Slice, group: str, operation: Operation) -> Appended:
    cube = cube_in(view, group)
    plan = _plan(appender, cube, new, operation)
    if plan is None:
        return _appended(new, None)
    if isinstance(plan, EditPlan):
        return _edited(plan, *_carry_out_edit(view, cast("Editor", appender), plan, group), view.take_sizes())
    above = _above(view, group, plan)
    unread = (write for write in plan.writes if not appender.may_read(write.array.name))
    view.forget(_prefix(group) + chunk.key for write in unread for chunk in write.chunks if write.fills(chunk))
    chunks, size = appender.carry_out(plan, cube)
    final = appender.evaluate_attrs(plan, cube, _zarr_view)
    view.update(above if final is plan else _above(view, group, final))
    return _appended(new, plan, chunks, size, view.take_sizes())


def _zarr_view(cube: MutableMapping[str, bytes]) -> Store:
    """Return a store by which xarray reads `cube`, keys of a transaction or a dry run."""
    from zappend.txn.zarrview import ZarrView  # brings in zarr

    return ZarrView(cast("TransactionStore", cube), read_only=True)


def _prefix(group: str) -> str:
    return f"{group}/" if group else ""


def _checked_group(group: str) -> str:
    group = group.strip("/")
    try:
        return group and check_key(group)
    except ValueError as error:
        raise UsageError(f"setting group: {error}") from None


def _format_above(storage: Storage, group: str) -> Literal[2, 3] | None:
    """Return the format of the root group above the cube `group`, which is that of a new cube, too."""
    if not group:
        return None
    return 3 if storage.get("zarr.json") is not None else 2 if storage.get(".zgroup") is not None else None


def _above(store: Mapping[str, bytes], group: str, plan: Plan | EditPlan) -> dict[str, bytes]:
    cube = plan.cube
    ways = {"created": plan.creates, "consolidated": cube.consolidated}
    return documents_above(store, group, plan.documents, cube.zarr_format, **ways)


def _edited(plan: EditPlan, chunks: int, size: int, keys: Mapping[str, int] | None = None) -> Appended:
    name = plan.new.name if plan.new is not None else ""
    return Appended(name, plan.start, plan.stop, chunks, size, False, keys or {}, plan.operation, plan.moved)


def _appended(
    new: Slice, plan: Plan | None, chunks: int = 0, size: int = 0, keys: Mapping[str, int] | None = None
) -> Appended:
    if plan is None:
        return Appended(new.name, 0, 0, 0, 0, False)
    return Appended(new.name, plan.start, plan.stop, chunks, size, plan.creates, keys or {})
