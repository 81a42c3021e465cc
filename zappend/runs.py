"""How a run goes: the target is opened, and each slice, or each cut, is carried out in one transaction or dry run.

With `zappend.api`, whose functions call it, the one module that knows both halves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from msgspec.structs import replace as changed

from zappend.ahead import SliceOpener
from zappend.appender import Appender
from zappend.config import ConfigLike, load_settings
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
from zappend.results import Appended, AppendResult, Cut
from zappend.settings import Settings
from zappend.slices import Slice
from zappend.sources import is_item
from zappend.txn.context import Transaction, transaction
from zappend.txn.storage import Storage, check_key
from zappend.txn.target import open_target

if TYPE_CHECKING:
    import xarray as xr
    from zarr.abc.store import Store

    from zappend.edit import Editor
    from zappend.txn.store import TransactionStore

__all__ = ["run_cut", "run_slices"]

log = logging.getLogger(__name__)


def run_slices(target: Any, slices: Any, checked: Settings, operation: Operation) -> AppendResult:
    """Append, insert or replace `slices`, in the order given, each in a transaction of its own.

    Raises
    ------
    ZappendError, OSError
        As `zappend.api.append` says. Slices before the one that failed are in.
    """
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
    run = _Run()
    done = run.done
    checked = changed(checked, zarr_format=checked.zarr_format or _format_above(storage, group))

    def context() -> Context:
        fresh = checked.force_new and not done
        return Context(Config(checked), partial(_cube_before, storage, checked, view, fresh=fresh))

    try:
        with (
            _appender(operation, checked)(storage.name, checked, storage.calls_at_once) as appender,
            SliceOpener(items, checked, context) as opener,
        ):
            replaces = False
            if view is not None and checked.force_new:
                replaces = appender.check_replaceable(cube_in(DryRun(storage, _prefix(group)), group))
            for index, item in enumerate(items):
                try:
                    with opener.open(item, index) as new:
                        run.name = new.name
                        if view is not None:
                            one = _append_to(view, appender, new, group, operation, replaces=replaces and not done)
                        else:
                            fresh = checked.force_new and not done
                            one = _append_one(storage, appender, new, checked, operation, run, fresh=fresh)
                        done.append(one)
                    log.info("slice %s", one)
                except (ZappendError, OSError) as error:
                    if run.name is not None and not isinstance(error, ZappendError):
                        error.add_note(f"slice {run.name} was not appended to {storage.name}")
                    if done and view is None:
                        before = "the slice" if len(done) == 1 else f"the {len(done)} slices"
                        error.add_note(f"{before} before it went in")
                    raise
                run.name = None
    except KeyboardInterrupt as error:
        if view is None:
            error.add_note(run.told())
        raise
    created = bool(done) and done[0].created
    checks = checks_of(checked, created=created, several=len(done) > 1) if checked.dry_run else ()
    return AppendResult(done, dry_run=checked.dry_run, checks=checks)


@dataclass
class _Run:
    """What has become of the slices of a call so far.

    Attributes
    ----------
    done
        What became of each.
    name, txn, outcome
        Of the slice under way: its name, its transaction, and what becomes of it if that commits.
    """

    done: list[Appended] = field(default_factory=list)
    name: str | None = None
    txn: Transaction | None = None
    outcome: Appended | None = None

    def told(self) -> str:
        """Return what has become of them, in words; a signal may have come at any moment."""
        done, status = list(self.done), None if self.txn is None else self.txn.status
        if self.outcome is not None and self.outcome not in done[-1:] and status == "committed":
            done.append(self.outcome)
        count = sum(not one.skipped for one in done)
        counted = f"{count or 'no'} slice{'s' if count > 1 else ''} went in"
        return f"slice {self.name} was rolled back; {counted}" if status == "rolled back" else counted


def run_cut(
    target: Any,
    planned: Callable[[Editor, MutableMapping[str, bytes]], EditPlan | None],
    config: ConfigLike,
    settings: Mapping[str, Any],
) -> Cut:
    """Delete what is `planned` of the cube at `target`, in one transaction.

    Raises
    ------
    ZappendError, OSError
        As `zappend.api.delete` says; the cube is as it was then.
    """
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
            with transaction(storage, lock_timeout=checked.lock_timeout, keep_undo=checked.keep_undo) as txn:
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
            raise UsageError("no target: give -t TARGET, or set target_dir (Missing 'target_dir' in configuration)")
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
    storage: Storage,
    appender: Appender,
    new: Slice,
    settings: Settings,
    operation: Operation,
    run: _Run,
    *,
    fresh: bool,
) -> Appended:
    prefix = _prefix(settings.group)
    replaces = False
    run.outcome = None
    run.txn = transaction(storage, lock_timeout=settings.lock_timeout, keep_undo=settings.keep_undo)
    with run.txn as txn:
        cube = cube_in(txn, settings.group)
        if fresh:
            replaces = appender.check_replaceable(cube)
            txn.delete_folder(prefix)
        plan = _plan(appender, cube, new, operation)
        if plan is None:
            run.outcome = _appended(new, None)
            return run.outcome
        if isinstance(plan, EditPlan):
            run.outcome = _edited(plan, *_carry_out_edit(txn, cast("Editor", appender), plan, settings.group))
            return run.outcome
        above = _above(txn, settings.group, plan)
        fresh_keys, changed_keys = ([prefix + key for key in keys] for keys in plan.keys())
        txn.log_ahead(fresh_keys, changed_keys, {prefix + key: value for key, value in plan.known.items()})
        written = appender.carry_out(plan, cube)
        final = appender.evaluate_attrs(plan, cube, _zarr_view)
        txn.update(above if final is plan else _above(txn, settings.group, final))
        run.outcome = _appended(new, plan, *written, replaces=replaces)
        return run.outcome


def _plan(
    appender: Appender, cube: MutableMapping[str, bytes], new: Slice, operation: Operation
) -> Plan | EditPlan | None:
    if operation == "insert":
        return cast("Editor", appender).plan_insert(cube, new)
    if operation == "replace":
        return cast("Editor", appender).plan_replace(cube, new)
    return appender.plan(cube, new)


def _append_to(
    view: DryRun, appender: Appender, new: Slice, group: str, operation: Operation, *, replaces: bool
) -> Appended:
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
    return _appended(new, plan, chunks, size, view.take_sizes(), replaces=replaces)


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
    new: Slice,
    plan: Plan | None,
    chunks: int = 0,
    size: int = 0,
    keys: Mapping[str, int] | None = None,
    *,
    replaces: bool = False,
) -> Appended:
    if plan is None:
        return Appended(new.name, 0, 0, 0, 0, False)
    return Appended(new.name, plan.start, plan.stop, chunks, size, plan.creates, keys or {}, replaces=replaces)
