"""Recovery: settle a pending transaction, by undoing it or, once it is decided, by finishing it.

The process that failed, the next writer and ``zappend rollback`` all come here. Everything may be cut anywhere and
done again: each key has one pre-image and one end, so neither order nor repetition matters. Only logged keys and
folders are touched, and a document only while it is what the transaction found or what it was to become.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from zappend.errors import LogDamaged, TargetChanged
from zappend.txn.log import Document, Log, sweep
from zappend.txn.record import digest
from zappend.txn.storage import Storage, changed_after_commit
from zappend.txn.store import is_document

__all__ = ["Settlement", "apply", "settle"]


@dataclass
class Settlement:
    """What recovery did, or with ``dry_run`` would do.

    Attributes
    ----------
    outcome
        ``"clean"``: nothing was pending. ``"rolled back"``: the target is as before the transaction.
        ``"completed"``: it had been committed, and the target is now as the transaction left it.
    written, removed
        Keys that got their old bytes back, or their new ones; keys that were deleted, or whole folders, which end
        in a slash.
    """

    outcome: Literal["clean", "rolled back", "completed"] = "clean"
    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def settle(storage: Storage, *, dry_run: bool = False, own: Log | None = None) -> Settlement:
    """Settle what is pending in the place of `storage`, whose lock is held, and leave nothing there.

    Parameters
    ----------
    storage
        The target.
    dry_run
        Only tell what would be done.
    own
        The log of the caller's own transaction, if it is that which is to be undone: nobody has exchanged the target
        meanwhile, and what this process changed it will also sync.

    Raises
    ------
    LogDamaged, LogVersionError
        If the log cannot be trusted.
    TargetChanged
        If the target is not the one that the log belongs to, or a document was changed by others. In all of these
        cases nothing was changed, and the log stays.
    """
    if own is not None:
        if own.hot:
            storage.begin_undo()
    elif not dry_run and Log.is_pending(storage.place):
        storage.place.harden()
    log = Log.found(storage.place)
    if own is not None and (own.hot if log is None else log.txn != own.txn):
        raise LogDamaged(f"the undo log of the transaction on {storage.name} was removed by others")
    if log is None:
        if own is None:
            storage.check_orphans()
        if not dry_run:
            sweep(storage.place)
        return Settlement()
    if own is None:
        _check_same_target(storage, log)
        if not dry_run:
            storage.distrust(_keys(log))
    done = apply(storage, log, dry_run=dry_run) if log.committed else _undo(storage, log, dry_run)
    if not dry_run:
        log.clear()
    return done


def apply(storage: Storage, log: Log, *, dry_run: bool = False, own: bool = False) -> Settlement:
    """Do what the decision in `log` says: staged chunks, documents, deletions; on return it is durable.

    Parameters
    ----------
    storage
        The target.
    log
        A log that is decided.
    dry_run
        Only tell what would be done.
    own
        Whether it was decided by the caller just now, who has looked at all documents before.

    Raises
    ------
    TargetChanged
        If a document is neither what the transaction found nor what it is to become. Unless it is the caller's own,
        nothing was changed then.
    """
    staged, documents, gone, prefixes = _contents(log)
    documents.sort(key=_document_order)
    if not own:
        now = storage.get_many([key for key, _, _ in documents])
        for key, old, new in documents:
            if now[key] not in (old, new):
                raise changed_after_commit(storage.name, key, now[key], old, new)
    kept = staged | {key for key, _, _ in documents}
    for prefix in prefixes:
        gone |= {key for key in storage.keys(prefix) if key not in kept}
    done = Settlement("completed", sorted(staged) + [key for key, _, _ in documents], sorted(gone, key=_deletion_order))
    if dry_run:
        return done
    if staged:
        for group in log.redo_groups():
            storage.put_many({key: value for key, value in group.staged if key not in gone}, log.txn)
        storage.sync()
    for (last, _), level in groupby(documents, key=lambda document: _document_order(document)[:2]):
        if last:
            storage.sync()  # after a power cut, too, what is written last is there last
        storage.replace_many(level, log.txn)
    if done.removed:
        storage.sync()
    for _, keys in groupby(done.removed, key=lambda key: _deletion_order(key)[:2]):
        storage.delete_many(keys, log.txn)
    if done.removed:
        storage.remove_folders(log.folders)
    for prefix in prefixes:
        storage.prune(prefix)
    storage.sync()
    return done


def _contents(log: Log) -> tuple[set[str], list[Document], set[str], list[str]]:
    staged: set[str] = set()
    documents: list[Document] = []
    gone: set[str] = set()
    prefixes: list[str] = []
    for group in log.redo_groups():
        staged.update(key for key, _ in group.staged)
        documents += group.documents
        gone.update(group.gone)
        prefixes += group.gone_prefixes
    return staged - gone, documents, gone, prefixes


def _undo(storage: Storage, log: Log, dry_run: bool) -> Settlement:
    done = Settlement("rolled back", log.changed, [*log.absent, *(f"{folder}/" for folder in log.folders if folder)])
    if dry_run:
        return done
    storage.begin_undo()
    storage.delete_many(log.absent, log.txn)  # first, as it frees the space that restoring may need
    for originals in log.originals():
        storage.put_many(originals, log.txn)
    storage.restore(log.references, log.txn)
    storage.remove_folders(log.folders)
    storage.sync()
    return done


def _keys(log: Log) -> Iterator[str]:
    """Iterate over the keys that the transaction may have changed; a folder ends in a slash, or is empty for all."""
    yield from log.absent
    yield from log.changed
    for group in log.redo_groups():
        yield from (key for key, _ in group.staged)
        yield from (key for key, _, _ in group.documents)
        yield from group.gone
        yield from group.gone_prefixes


def _check_same_target(storage: Storage, log: Log) -> None:
    expected: dict[str, set[bytes | None]] = {key: {value} for key, value in log.root().items()}
    for group in log.redo_groups():
        for key, _, new in group.documents:
            expected.get(key, set()).add(digest(new))
        for key in expected if "" in group.gone_prefixes else group.gone:
            expected.get(key, set()).add(None)
    for key, values in expected.items():
        value = storage.get(key)
        if (None if value is None else digest(value)) not in values:
            raise TargetChanged(
                f"{key!r} of {storage.name} is not what it was when the pending transaction began, so the target was "
                f"changed or replaced by others since; put the old one back and run 'zappend rollback {storage.name}', "
                f"or keep the target as it is by moving the folder of the log away"
            )


def _document_order(document: Document) -> tuple[int, int, str]:
    """Deepest first; the consolidated root last, since with it a reader switches to the new state.

    A format 2 cube that is being created is opened by its root ``.zgroup``, which therefore comes after even that.
    """
    key, old, _ = document
    depth = key.count("/")
    last = 0
    if depth == 0:
        last = {".zmetadata": 2, ".zgroup": 3 if old is None else 1, "zarr.json": 4}.get(key, 1)
    return last, -depth, key


def _deletion_order(key: str) -> tuple[int, int, str]:
    """The root document first, since without it nobody sees the rest; then documents, then chunks."""
    return (0 if is_document(key) else 1), key.count("/"), key
