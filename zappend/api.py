"""The names that users import, those of zappend 0.8 among them. The one module that knows both halves."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Union, cast

from msgspec.structs import replace

from zappend.ahead import SliceOpener
from zappend.appender import Appender
from zappend.config import ConfigItem, ConfigLike, ConfigList, load_settings
from zappend.context import Config, Context, open_cube
from zappend.dryrun import DryRun, checks_of
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

    from zappend.txn.store import TransactionStore

__all__ = [
    "AppendResult",
    "Appended",
    "Config",
    "ConfigItem",
    "ConfigLike",
    "ConfigList",
    "Context",
    "FileObj",
    "Settlement",
    "SliceCallable",
    "SliceItem",
    "SliceSource",
    "Transaction",
    "append",
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
    """

    slice: str
    start: int
    stop: int
    chunks: int
    bytes: int
    created: bool
    keys: Mapping[str, int] = field(default_factory=dict)

    @property
    def skipped(self) -> bool:
        """Whether all its labels were in the cube before."""
        return self.start == self.stop

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.slice}: is in the cube already"
        begins = ", the cube begins with it" if self.created else ""
        return f"{self.slice}: at {self.start}:{self.stop}, {self.chunks} chunks, {self.bytes} bytes{begins}"


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
    checked = load_settings(config, **settings)
    for options in (checked.storage_options, checked.slice_storage_options, checked.temp_storage_options):
        conceal(options)
    configure_logging(checked.logging)
    if checked.disable_rollback:
        log.warning(
            "setting disable_rollback has no effect: every slice is all or nothing, which costs next to nothing"
        )
    with profiled(checked.profiling):
        return _append(target, slices, checked)


def _append(target: Any, slices: Any, checked: Settings) -> AppendResult:
    items = [slices] if is_item(slices) else slices
    if not isinstance(items, Iterable) or isinstance(items, Mapping):
        raise UsageError(f"slices must be paths, datasets, or what gives them, not a {type(slices).__name__}")
    if checked.slice_source is not None:
        from zappend.callables import find_callable

        checked = replace(checked, slice_source=find_callable(checked.slice_source))
    group = _checked_group(checked.group)
    target, checked = _target(target, checked)
    storage = open_target(target, checked.durability, storage_options=checked.storage_options, locking=checked.locking)
    view = DryRun(storage, _prefix(group), force_new=checked.force_new) if checked.dry_run else None
    if checked.threads:
        storage.calls_at_once = min(storage.calls_at_once, checked.threads)
    done: list[Appended] = []
    checked = replace(checked, group=group, zarr_format=checked.zarr_format or _format_above(storage, group))

    def context() -> Context:
        fresh = checked.force_new and not done
        return Context(Config(checked), partial(_cube_before, storage, checked, view, fresh=fresh))

    with (
        Appender(storage.name, checked, storage.calls_at_once) as appender,
        SliceOpener(items, checked, context) as opener,
    ):
        for index, item in enumerate(items):
            try:
                with opener.open(item, index) as new:
                    if view is not None:
                        done.append(_append_to(view, appender, new, group))
                    else:
                        fresh = checked.force_new and not done
                        done.append(_append_one(storage, appender, new, checked, fresh=fresh))
                log.info("slice %s", done[-1])
            except ZappendError as error:
                if done and view is None:
                    before = "the slice" if len(done) == 1 else f"the {len(done)} slices"
                    error.add_note(f"{before} before it went in")
                raise
    return AppendResult(done, dry_run=checked.dry_run, checks=checks_of(checked) if checked.dry_run else ())


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


def _target(target: Any, settings: Settings) -> tuple[Any, Settings]:
    """Return the target, and the settings with its path, if it has one."""
    if target is None:
        if not settings.target_dir:
            raise UsageError("Missing 'target_dir' in configuration: it names the target, if no argument does")
        target = settings.target_dir
    file = target if isinstance(target, FileObj) else file_of_upath(target)
    if file is not None:
        return file.uri, replace(settings, target_dir=file.uri, storage_options=file.storage_options or {})
    path = os.fspath(target) if isinstance(target, (str, os.PathLike)) else None
    return target, settings if path == settings.target_dir else replace(settings, target_dir=path)


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


def _append_one(storage: Storage, appender: Appender, new: Slice, settings: Settings, *, fresh: bool) -> Appended:
    prefix = _prefix(settings.group)
    with transaction(storage, lock_timeout=settings.lock_timeout) as txn:
        cube = cube_in(txn, settings.group)
        if fresh:
            appender.check_replaceable(cube)
            txn.delete_folder(prefix)
        plan = appender.plan(cube, new)
        if plan is None:
            return _appended(new, None)
        above = _above(txn, settings.group, plan)
        fresh_keys, changed_keys = ([prefix + key for key in keys] for keys in plan.keys())
        txn.log_ahead(fresh_keys, changed_keys, {prefix + key: value for key, value in plan.known.items()})
        written = appender.carry_out(plan, cube)
        final = appender.evaluate_attrs(plan, cube, _zarr_view)
        txn.update(above if final is plan else _above(txn, settings.group, final))
        return _appended(new, plan, *written)


def _append_to(view: DryRun, appender: Appender, new: Slice, group: str) -> Appended:
    cube = cube_in(view, group)
    plan = appender.plan(cube, new)
    if plan is None:
        return _appended(new, None)
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


def _above(store: Mapping[str, bytes], group: str, plan: Plan) -> dict[str, bytes]:
    cube = plan.cube
    ways = {"created": plan.creates, "consolidated": cube.consolidated}
    return documents_above(store, group, plan.documents, cube.zarr_format, **ways)


def _appended(
    new: Slice, plan: Plan | None, chunks: int = 0, size: int = 0, keys: Mapping[str, int] | None = None
) -> Appended:
    if plan is None:
        return Appended(new.name, 0, 0, 0, 0, False)
    return Appended(new.name, plan.start, plan.stop, chunks, size, plan.creates, keys or {})
