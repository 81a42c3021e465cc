"""The log of a target in an object store: its objects, and which of them count, which the lock tells."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from zappend.errors import LogDamaged
from zappend.txn.lease import ATTEMPTS, LeaseLock
from zappend.txn.names import DECISION, HEAD, is_kept
from zappend.txn.objects import Objects, Unclear
from zappend.txn.record import digest
from zappend.txn.storage import LOCK_NAME, Area, Value

__all__ = ["ObjectPlace"]

INLINE = 2**16
"""Bytes of log objects that the lock itself holds; larger ones are objects of their own, which costs requests."""


class ObjectPlace(Area):
    """The log of a target: what the lock names. What it does not name does not count, whatever its name is.

    Parameters
    ----------
    objects
        Where lock and log lie.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lease: LeaseLock | None = None
        self._txn = ""
        self._changed = False
        self._written: list[str] = []
        self._strays: list[str] | None = None
        self._late = False  # whether an object may still arrive

    def use(self, lease: LeaseLock) -> None:
        """Begin to read and write the log that `lease` names."""
        self._lease = lease
        self._txn, self._changed, self._written, self._strays = "", False, [], None
        self._late = False

    @property
    def lease(self) -> LeaseLock:
        """The lock that names the log."""
        assert self._lease is not None, "the lock has not been taken"
        return self._lease

    def get(self, key: str) -> bytes | None:
        entries = self.lease.objects() if key in (HEAD, DECISION) else self.lease.entries
        entry = entries.get(key)
        if entry is None or isinstance(entry, bytes):
            return entry
        name, expected = entry
        found = self._objects.get(name)
        if found is None:
            raise LogDamaged(f"log object {name!r}, which the lock names, is missing")
        if digest(found[0]) != expected:
            raise LogDamaged(f"log object {name!r} is not the one that the lock names")
        return found[0]

    def has(self, key: str) -> bool:
        return key in self.lease.objects()

    def put(self, key: str, value: Value, txn: str) -> None:
        value = bytes(value)
        inline = sum(len(e) for k, e in self.lease.entries.items() if isinstance(e, bytes) and k != key)
        if inline + len(value) <= INLINE and not is_kept(key):  # which the lock would carry from commit to commit
            self.lease.entries[key] = value
        else:
            self.lease.entries[key] = self._write_once(key, value, txn), digest(value)
        if key in (HEAD, DECISION):
            self._txn, self._changed = txn, True

    create = put  # only the holder of the lock writes here, and each object has a name of its own

    def _write_once(self, key: str, value: bytes, txn: str) -> str:
        for attempt in range(ATTEMPTS):
            # A name is used once: a late copy of a lost attempt is an object that nobody names.
            name = f"{key}-{os.urandom(8).hex()}" if txn in key else f"{key}-{txn}-{os.urandom(8).hex()}"
            self._written.append(name)
            self.lease.stay_sure()
            try:
                self._objects.put(name, value, None)
                return name
            except Unclear as error:
                lost = error
                self._late = True
                self.lease.late.note()
                self.lease.pause(attempt)
        raise lost

    def delete(self, key: str, txn: str) -> None:
        entry = self.lease.entries.pop(key, None)
        if isinstance(entry, tuple):
            self._written.append(entry[0])
        self._changed |= key in (HEAD, DECISION)

    def delete_many(self, keys: Iterable[str], txn: str) -> None:
        # Only the sweep does this, when there is no head any more.
        strays = set(self._strays or ())
        kept = {entry[0] for entry in self.lease.entries.values() if isinstance(entry, tuple)}
        written = [name for name in self._written if name not in kept]
        names = dict.fromkeys([*written, *(key for key in keys if key in strays)])
        self.lease.littered = True
        if names:
            self._objects.delete_many(names)
        self.lease.littered = self._late and self.lease.late.possible
        self._written, self._strays = [], []

    def keys(self, prefix: str = "") -> Iterator[str]:
        if self._strays is None:
            named = {entry[0] for entry in self.lease.entries.values() if isinstance(entry, tuple)}
            self._strays = [key for key, _ in self._objects.list("") if key != LOCK_NAME and key not in named]
            if self._strays:
                self.lease.check()  # else what was listed may be the log of whoever has the lock now
        yield from [*self.lease.entries, *self._strays]

    def children(self, prefix: str = "") -> Iterator[str]:
        yield from self.keys(prefix)

    def sync(self) -> None:
        if self._changed:
            if HEAD not in self.lease.entries:
                self._written += [e[0] for e in self.lease.entries.values() if isinstance(e, tuple)]
            self.lease.publish(self._txn)
            self._changed = False
