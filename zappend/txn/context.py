"""``with transaction(target) as txn``: from active to committed, rolled back or failed; and `rollback` for later."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from zappend.errors import CommitStateUnknown, LockLost, RecoveryRefused, TargetError, TransactionClosed, UsageError
from zappend.txn.kept import KeepingStore
from zappend.txn.log import Log
from zappend.txn.replay import Settlement, apply, settle
from zappend.txn.storage import Durability, Lock, Storage
from zappend.txn.target import Locking, open_target

if TYPE_CHECKING:
    from zappend.txn.zarrview import ZarrView

__all__ = ["Transaction", "rollback", "transaction"]

logger = logging.getLogger("zappend")

Status = Literal["new", "active", "committed", "rolled back", "failed"]


class Transaction(KeepingStore):
    """One transaction on one target: a mapping of its keys to bytes, and a context manager.

    Leaving the ``with`` block commits; any exception in it, `KeyboardInterrupt` included, rolls back and goes on.
    Made by `transaction`.
    """

    def __init__(self, storage: Storage, lock_timeout: float, keep_undo: int = 0) -> None:
        super().__init__(storage, Log(storage.place, os.urandom(16).hex()))
        self.keep_undo = keep_undo
        self.status: Status = "new"
        self._closed = "has not begun: use it as 'with transaction(target) as txn'"
        self._lock_timeout = lock_timeout
        self._lock = storage.lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._storage.name}: {self.status}>"

    # Every transaction is its own thing, not equal to another that holds the same keys.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def store(self) -> ZarrView:
        """A `zarr.abc.store.Store` over this mapping, to be given to zarr or xarray."""
        from zappend.txn.zarrview import ZarrView

        return ZarrView(self)

    def __enter__(self) -> Self:
        """Take the lock and settle what a dead writer left; then the target is old or new, and nobody else writes.

        Raises
        ------
        Locked
            If somebody else holds the lock; nothing was changed.
        RecoveryRefused, LogVersionError
            If a pending transaction cannot be settled; nothing was changed.
        """
        if self.status != "new":
            raise TransactionClosed(f"the transaction on {self._storage.name} has been used; start a new one")
        self._lock.acquire(self._lock_timeout)
        try:
            settled = _settle(self._storage, self._lock)
        except BaseException:
            self._end("failed")
            raise
        if settled.outcome != "clean":
            logger.warning("%s: a transaction that was cut off has been %s", self._storage.name, settled.outcome)
        self.status, self._closed, self._owner = "active", None, os.getpid()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.status != "active" or self._owner != os.getpid():
            return
        if error is None:
            self.commit()
        else:
            self._begin_end("rolls back")
            self._roll_back_after(error)

    def commit(self) -> None:
        """Make all changes of the transaction the state of the target, and end it.

        On return the new state is there, and durable. An exception other than these two says that the transaction was
        rolled back.

        Raises
        ------
        CommitStateUnknown
            If the log stays, and ``zappend rollback`` settles it.
        LockLost
            If somebody else has the lock, and undoes it, or has done so.
        """
        self._begin_end("commits")
        try:
            if self._failure is not None or not self._is_empty():
                self._decide()
                apply(self._storage, self._log, own=True)
        except BaseException as error:
            if self._is_undecided():
                self._roll_back_after(error)
                raise
            self._end("failed", abandon=True)
            unknown = (
                f"the commit to {self._storage.name} was cut off ({error!r}) and may have taken effect; "
                f"run 'zappend rollback {self._storage.name}', which settles it"
            )
            if isinstance(error, Exception):
                raise CommitStateUnknown(unknown) from error
            error.add_note(unknown)
            raise
        self._clean_up("committed")

    def rollback(self) -> None:
        """Take all changes of the transaction back, and end it; on return the target is as before, durably.

        If that fails, the log stays, and ``zappend rollback`` or the next writer goes on with it.
        """
        self._begin_end("rolls back")
        self._roll_back()

    def _begin_end(self, doing: str) -> None:
        if self.status != "active":
            self._check_usable()
        self._close(f"{doing} and takes no further work")
        try:
            self._drain()
        except BaseException as error:
            # Interrupted. As long as other threads write, the lock must not go.
            self._drain()
            self._roll_back_after(error)
            raise

    def _decide(self) -> None:
        if self._failure is not None:
            raise TransactionClosed(
                f"cannot commit to {self._storage.name}: a write failed ({self._failure!r})"
            ) from self._failure
        self._storage.check_room([*(key for key in self._held if self._seen[key] is None), *self._staged])
        self._storage.sync()
        if changed := self._foreign_changes():
            raise TargetError(
                f"{changed[0]!r} of {self._storage.name} was changed by others during the transaction, which was "
                f"therefore rolled back; try again"
            )
        if not self._storage.conditional:  # there the decision itself is the proof
            self._lock.check()
        if not self._log.hot:
            self._flush((), (), {})
        self._log.decide(self._redo(), self._keep())

    def _is_undecided(self) -> bool:
        try:
            return not self._log.decided()
        except Exception:
            return False

    def _roll_back_after(self, error: BaseException) -> None:
        if isinstance(error, LockLost):
            # Not ours to touch any more: whoever has the lock undoes it.
            self._end("failed", abandon=True)
            return
        try:
            self._roll_back()
        except Exception as failure:
            # The first error is what the caller must see; that its traces are still there belongs to it.
            error.add_note(
                f"rolling back failed too: {failure}; run 'zappend rollback {self._storage.name}' when that is mended"
            )
            logger.error("%s: rolling back failed, the undo log stays: %s", self._storage.name, failure)

    def _roll_back(self) -> None:
        try:
            settle(self._storage, own=self._log)
        except BaseException:
            self._end("failed")
            raise
        self._clean_up("rolled back")

    def _clean_up(self, status: Status) -> None:
        # From here on the outcome is settled, so nothing that fails may be reported as its failure.
        self.status = status
        self._lock.finish()
        try:
            self._log.clear()
        except Exception as error:
            logger.warning("%s: %s, but its log could not be removed: %s", self._storage.name, status, error)
        finally:
            self._end(status)

    def _end(self, status: Status, *, abandon: bool = False) -> None:
        self.status = status
        self._closed = f"has {'failed' if status == 'failed' else 'been ' + status}"
        self._storage.end_threads()
        _let_go(self._lock.abandon if abandon else self._lock.release, self._storage.name)


def transaction(
    target: Any,
    *,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    durability: Durability = "full",
    lock_timeout: float = 0.0,
    locking: Locking = "safe",
    keep_undo: int = 0,
) -> Transaction:
    """Return a transaction on `target`: everything in its ``with`` block happens, or nothing.

    The transaction is a `MutableMapping` of keys to bytes; its `Transaction.store` is a `zarr.abc.store.Store`. Readers
    see chunks of new keys at once, but metadata documents and deletions only when the block is left, at one write of
    the consolidated metadata. A chunk that is overwritten in place is safe from crashes, but not hidden from readers.

    Parameters
    ----------
    target
        A local path (`str` or `os.PathLike`), which need not exist, though its parent must; a URL of fsspec (``s3://``,
        ``gs://``, ``az://``, ``memory://``, chained ones); an fsspec mapper; a store of zarr or obstore; or a mapping
        of keys to bytes. What names the same objects shares one lock.
    storage_options
        Options of the file system, for a URL; also under the name `target_storage_options`.
    durability
        ``"full"``: what is committed survives a power cut. ``"process"``: it survives a kill of the process. Of no
        effect but on local paths.
    lock_timeout
        Seconds to wait for another writer. On an object store a writer that has been silent for a minute is taken for
        dead, whatever this is.
    locking
        ``"unsafe"``: write also where nothing can tell whether there is another writer; that there is none is then the
        caller's word.
    keep_undo
        How many undo logs stay beside the target when this transaction commits, its own and those of the commits before
        it, so that `undo` can take these back. With 0, none stays.

    Raises
    ------
    UsageError, TargetError
        If there can be no such target. `Transaction.__enter__` and `Transaction.commit` tell what they raise.

    Examples
    --------
    >>> cube = {"a/0.0": b"old"}
    >>> with transaction(cube) as txn:
    ...     txn["a/0.0"] = b"new"
    ...     raise RuntimeError("half-way")
    Traceback (most recent call last):
    RuntimeError: half-way
    >>> cube
    {'a/0.0': b'old'}
    """
    if not isinstance(keep_undo, int) or keep_undo < 0:
        raise UsageError(f"keep_undo must be a number of commits, at least 0, not {keep_undo!r}")
    options = one_of(storage_options, target_storage_options)
    storage = open_target(target, durability, storage_options=options, locking=locking)
    return Transaction(storage, lock_timeout, keep_undo)


def rollback(
    target: Any,
    *,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    break_lock: bool = False,
    lock_timeout: float = 0.0,
    locking: Locking = "safe",
) -> Settlement:
    """Settle a transaction that was cut off: undo it, or finish it if it had been committed.

    On return the target is the old or the new one, byte for byte, and nothing of the transaction is left. Where
    nothing is pending, nothing is done.

    Parameters
    ----------
    target, storage_options, target_storage_options, locking
        As for `transaction`.
    dry_run
        Only tell what would be done.
    break_lock
        Take a writer of whom it cannot be proved that it is dead for dead: one on another host of a network file
        system, or one on an object store, without waiting until it has been silent for a minute, and its requests can
        have no effect any more.
    lock_timeout
        Seconds to wait for a live writer.

    Raises
    ------
    Locked
        If a writer is at work, or may be.
    RecoveryRefused, LogVersionError
        If the log or the target is not what it must be; nothing was changed, and the log stays.
    """
    options = one_of(storage_options, target_storage_options)
    storage = open_target(target, storage_options=options, locking=locking)
    if not storage.in_use():
        return Settlement()
    lock = storage.lock()
    lock.acquire(lock_timeout, break_lock=break_lock, dry_run=dry_run)
    try:
        return _settle(storage, lock, dry_run=dry_run)
    finally:
        storage.end_threads()
        _let_go(lock.release, storage.name)


def one_of(options: Mapping[str, Any] | None, alias: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the options that are given, by one name or the other; raise `UsageError` if by both."""
    if options is not None and alias is not None:
        raise UsageError("storage_options and target_storage_options are one setting; give one of them")
    return alias if options is None else options


def _settle(storage: Storage, lock: Lock, *, dry_run: bool = False) -> Settlement:
    try:
        return settle(storage, dry_run=dry_run)
    except RecoveryRefused:
        lock.check()  # nothing is wrong if somebody else has settled it meanwhile
        raise


def _let_go(give_back: Callable[[], None], name: str) -> None:
    # What was done stands, and an error that is on its way says more than this one.
    try:
        give_back()
    except Exception as error:
        logger.warning("%s: the lock could not be removed: %s", name, error)
