"""Everything that zappend raises on purpose, grouped by what the caller does next.

::

    ZappendError                     exit code
    ├── UsageError                       2      change the command line or the configuration (ValueError)
    ├── SliceError                       1      mend the slice, or relax a check (ValueError)
    ├── TargetError                      1      mend the target, its place or its rights (OSError)
    └── TransactionError
        ├── Locked                       3      wait, or see whether the holder is alive (OSError)
        │   └── LockLost                 3      somebody else holds the lock now and settles this; try again
        ├── TransactionClosed            1      start a new transaction (RuntimeError)
        ├── RecoveryRefused              4      look at the target before anything else is done to it
        │   ├── LogDamaged               4      the undo log does not verify (ValueError)
        │   └── TargetChanged            4      somebody else changed the target meanwhile
        ├── LogVersionError              5      use the newer zappend that wrote the log
        └── CommitStateUnknown           6      run ``zappend rollback``: it settles the transaction

After exit codes 1 to 3 the target is as it was, but for slices that went in before the one that failed, and unless a
note on the error says that rolling back failed, too. After 4 and 5 the refusal has changed nothing. After 6 the target
is the old or the new one as soon as ``zappend rollback`` has run.

Each error is also the builtin named in brackets, so handlers written for that builtin keep working. A key that
is missing stays a plain ``KeyError``, and an I/O error of the operating system a plain ``OSError``.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "CommitStateUnknown",
    "LockHolder",
    "LockLost",
    "Locked",
    "LogDamaged",
    "LogVersionError",
    "RecoveryRefused",
    "SliceError",
    "TargetChanged",
    "TargetError",
    "TransactionClosed",
    "TransactionError",
    "UsageError",
    "ZappendError",
]


LockHolder = dict[str, Any]
"""What is known of the holder of a lock: any of ``user``, ``host``, ``pid``, ``started`` (ISO 8601, UTC)."""


class ZappendError(Exception):
    """Base of all errors that zappend raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        # OSError, a second base of some of these, would format its arguments otherwise.
        return str(self.args[0]) if self.args else ""


class UsageError(ZappendError, ValueError):
    """A setting, an option or an argument is wrong; nothing was read or written."""

    exit_code = 2


class SliceError(ZappendError, ValueError):
    """A slice is refused; the target is as it was before that slice."""


class TargetError(ZappendError, OSError):
    """The target cannot be used; it is as it was before."""


class TransactionError(ZappendError):
    """Base of what can go wrong with locks, undo logs and recovery."""


class Locked(TransactionError, OSError):
    """Somebody else writes to the target, or it cannot be proved that they are dead; nothing was changed.

    Parameters
    ----------
    message
        Names the target, the holder, its host and the age of the lock.
    holder
        What the lock says of its holder; empty if it says nothing that can be read.
    """

    exit_code = 3

    def __init__(self, message: str, holder: LockHolder | None = None) -> None:
        super().__init__(message)
        self.holder: LockHolder = holder or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.holder)


class LockLost(Locked):
    """The lock was taken over, since this writer was silent for too long; whoever has it undoes what this one did."""


class TransactionClosed(TransactionError, RuntimeError):
    """The transaction has ended, or has failed and waits to be rolled back; it takes no further work."""


class RecoveryRefused(TransactionError):
    """Recovery would have to guess, so it changed nothing; the undo log stays where it is."""

    exit_code = 4


class LogDamaged(RecoveryRefused, ValueError):
    """An object of the undo log is missing, damaged or belongs to another transaction."""


class TargetChanged(RecoveryRefused):
    """A document of the target is neither what the transaction found nor what it wrote."""


class LogVersionError(TransactionError):
    """The undo log was written by a newer zappend; nothing was changed."""

    exit_code = 5


class CommitStateUnknown(TransactionError):
    """It is not known whether, or how far, the commit took effect; the log stays and settles it later."""

    exit_code = 6
