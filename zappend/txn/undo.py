"""`undo`: the last commits of a target are taken back, in one transaction, by the undo logs that they kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zappend.errors import TargetError, UsageError
from zappend.txn.context import Transaction, one_of
from zappend.txn.kept import KeptLog, Reversal
from zappend.txn.names import kept_heads
from zappend.txn.storage import Durability, Storage
from zappend.txn.target import Locking, open_target

__all__ = ["Undone", "undo"]


@dataclass(frozen=True)
class Undone:
    """What `undo` did, or in a dry run would do.

    Attributes
    ----------
    commits
        How many commits were taken back.
    left
        How many more can be.
    written, removed
        Keys that got their old bytes back, and keys that were deleted.
    dry_run
        Whether nothing was changed.
    """

    commits: int
    left: int
    written: tuple[str, ...]
    removed: tuple[str, ...]
    dry_run: bool = False

    def __str__(self) -> str:
        return (
            f"{self.commits} commit{'' if self.commits == 1 else 's'} {'would be ' if self.dry_run else ''}taken back, "
            f"{self.left} more can be; {len(self.written)} keys restored, {len(self.removed)} removed"
        )


def undo(
    target: Any,
    n: int = 1,
    *,
    storage_options: Mapping[str, Any] | None = None,
    target_storage_options: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    durability: Durability = "full",
    lock_timeout: float = 0.0,
    locking: Locking = "safe",
) -> Undone:
    """Take the last `n` commits back, all of them or none: the target is, byte for byte, what it was before them.

    They must have kept their undo logs, as the setting ``keep_undo`` says, and so must all commits since. A commit that
    was taken back cannot be had again. What a writer that was killed left is settled first.

    Parameters
    ----------
    target, storage_options, target_storage_options, durability, lock_timeout, locking
        As for `transaction`.
    n
        How many.
    dry_run
        Only tell what would be done.

    Returns
    -------
    undone
        What was restored and removed.

    Raises
    ------
    UsageError
        If fewer undo logs are there. Nothing was changed.
    TargetChanged
        If a document is not what the commit left that is to be taken back. Nothing was changed.
    LogDamaged, LogVersionError
        If a kept log cannot be trusted. Nothing was changed.
    Locked, RecoveryRefused, CommitStateUnknown
        As `transaction` says.

    Examples
    --------
    >>> from zappend import transaction
    >>> cube = {"a/0.0": b"old"}
    >>> with transaction(cube, keep_undo=1) as txn:
    ...     txn["a/0.0"] = b"new"
    >>> print(undo(cube))
    1 commit taken back, 0 more can be; 1 keys restored, 0 removed
    >>> cube
    {'a/0.0': b'old'}
    """
    if not isinstance(n, int) or n < 1:
        raise UsageError(f"the commits to take back must be a number of at least 1, not {n!r}")
    options = one_of(storage_options, target_storage_options)
    storage = open_target(target, durability, storage_options=options, locking=locking)
    if not storage.in_use():
        raise _too_few(storage, n, 0)
    if dry_run:
        return _looked_at(storage, n, lock_timeout)
    with Transaction(storage, lock_timeout) as txn:
        logs, left = _newest(storage, n)
        reversal = Reversal(storage.name, logs, txn.get_many)
        txn._take_back(reversal)
    return _undone(reversal, left)


def _looked_at(storage: Storage, n: int, lock_timeout: float) -> Undone:
    if storage.is_pending():
        raise TargetError(
            f"{storage.name}: a transaction is running or was cut off; a dry run can tell nothing before it has ended, "
            f"or before 'zappend rollback {storage.name}'"
        )
    lock = storage.lock()
    lock.acquire(lock_timeout, dry_run=True)
    try:
        logs, left = _newest(storage, n)
        return _undone(Reversal(storage.name, logs, storage.get_many), left, dry_run=True)
    finally:
        lock.release()


def _newest(storage: Storage, n: int) -> tuple[list[KeptLog], int]:
    """Return the last `n` kept logs, the newest first, and how many there are before them."""
    heads = kept_heads(storage.place.keys())
    if len(heads) < n:
        raise _too_few(storage, n, len(heads))
    return [KeptLog.read(storage.place, head) for head in reversed(heads[-n:])], len(heads) - n


def _too_few(storage: Storage, n: int, kept: int) -> UsageError:
    return UsageError(
        f"cannot take back {n} commit{'' if n == 1 else 's'} of {storage.name}: the undo logs of {kept or 'none'} are "
        f"there; keep_undo (--keep-undo N) keeps them, until a commit comes that does not keep its own"
    )


def _undone(reversal: Reversal, left: int, *, dry_run: bool = False) -> Undone:
    restored = {key: value is not None for key, value in reversal.documents.items()}
    written = (*reversal.changed, *(key for key, there in restored.items() if there))
    removed = (*reversal.absent, *(key for key, there in restored.items() if not there))
    return Undone(len(reversal.logs), left, written, removed, dry_run)
