"""Who in this process writes to what: the whole lock of a mapping, and the first half of that of an object store."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from datetime import UTC, datetime

from zappend.errors import Locked

__all__ = ["ProcessLock"]

_changed = threading.Condition()
_holders: dict[Hashable, tuple[object, datetime]] = {}


class ProcessLock:
    """The right to write to what `identity` stands for, among all threads and transactions of this process.

    Parameters
    ----------
    identity
        The same for all spellings of one target.
    name
        The target, for messages.
    keep
        What must live as long as the lock is held, so that an `id` in `identity` cannot come to name another object.
    """

    def __init__(self, identity: Hashable, name: str, keep: object = None) -> None:
        self._identity = identity
        self._name = name
        self._keep = keep
        self.held = False

    def acquire(self, timeout: float) -> None:
        """Take the lock, waiting up to `timeout` seconds; raises `Locked`."""
        until = time.monotonic() + timeout
        with _changed:
            while self._identity in _holders:
                left = until - time.monotonic()
                if left <= 0:
                    since = _holders[self._identity][1]
                    age = (datetime.now(UTC) - since).total_seconds()
                    raise Locked(
                        f"{self._name} is locked by another transaction of this process, for {age:.0f} s now; "
                        f"end that one first, or wait with a lock timeout",
                        {"started": since.isoformat(timespec="seconds")},
                    )
                _changed.wait(left)
            _holders[self._identity] = self._keep, datetime.now(UTC)
        self.held = True

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self.held:
            self.held = False
            with _changed:
                _holders.pop(self._identity, None)
                _changed.notify_all()

    def is_taken(self) -> bool:
        """Tell whether anybody in this process holds the lock."""
        return self._identity in _holders
