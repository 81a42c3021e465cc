"""The one storage interface below transactions: keys and bytes, a place for the log, a lock.

A new kind of store is one more subclass of `Storage`, and one more branch of `open_target`. Its errors never lie:
``None`` from `Area.get` and ``False`` from `Area.has` are a definite "not there"; whatever else goes wrong is raised.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal, TypeVar

from zappend.errors import TargetChanged, TargetError
from zappend.txn.names import kept_objects

__all__ = [
    "DURABILITIES",
    "LOCK_NAME",
    "PLACE_PREFIX",
    "TEMP_PREFIX",
    "Area",
    "Durability",
    "Lock",
    "Storage",
    "Threads",
    "Value",
    "changed_after_commit",
    "check_key",
    "side_by_side",
]

T = TypeVar("T")
R = TypeVar("R")

Value = bytes | bytearray | memoryview
"""What may be written; what is read is always `bytes`."""

Durability = Literal["full", "process"]
DURABILITIES: tuple[Durability, ...] = ("full", "process")

COPIED_TOGETHER = 32
"""Values that are read, and in memory, at once when they are copied."""

PLACE_PREFIX = ".zappend/"
TEMP_PREFIX = ".zappend-"
LOCK_NAME = "lock"


def check_key(key: object) -> str:
    """Return `key` if it can name a value inside a target, else raise.

    Raises
    ------
    TypeError
        If it is no `str`.
    ValueError
        If it is empty, absolute, climbs (``..``), has an empty part, or lies where zappend keeps its own.
    """
    if not isinstance(key, str):
        raise TypeError(f"key must be a str, not {type(key).__name__}")
    return _checked(key)


@lru_cache(maxsize=4096)
def _checked(key: str) -> str:
    within = f"/{key}/"
    if "//" in within or "/./" in within or "/../" in within or "\0" in key or "\\" in key:
        raise ValueError(f"{key!r} is no key of a store: it must be a relative path such as 'a/0.0'")
    if within.startswith(f"/{PLACE_PREFIX}") or key.rpartition("/")[2].startswith(TEMP_PREFIX):
        raise ValueError(f"{key!r} lies where zappend keeps its undo log and temporary files")
    return key


def changed_after_commit(name: str, key: str, now: bytes | None, old: bytes | None, new: bytes | None) -> TargetChanged:
    """Return the error for a document that is neither what a transaction found nor what it is to become."""
    return TargetChanged(
        f"{key!r} of {name} was changed by others after the commit: it is {_shape(now)}, expected {_shape(old)} or "
        f"{_shape(new)}; put one of these back, then run 'zappend rollback {name}'"
    )


def _shape(value: bytes | None) -> str:
    return "absent" if value is None else f"{len(value)} bytes ({hashlib.sha256(value).hexdigest()[:8]})"


def _batched(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Threads:
    """Threads for what is done side by side, kept until `end`, since to start them may take as long as their work."""

    def __init__(self) -> None:
        self._idle: list[ThreadPoolExecutor] = []  # one a caller at most: who finds none makes one

    def map(self, do: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
        """Return what `do` returns for each of `items`, called in up to `threads` threads, always the same number.

        Whatever is raised, none of these calls is under way any more then.
        """
        if len(items) < 2 or threads < 2:
            return [do(item) for item in items]
        try:
            pool = self._idle.pop()
        except IndexError:
            pool = ThreadPoolExecutor(threads, "zappend")
        try:
            done = list(pool.map(do, items))
        except BaseException:
            _end(pool)
            raise
        self._idle.append(pool)
        return done

    def end(self) -> None:
        """Return when all threads have ended; `map` starts new ones."""
        while self._idle:
            _end(self._idle.pop())


def side_by_side(do: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """Return what `do` returns for each of `items`, called in up to `threads` threads, all of which have ended then."""
    own = Threads()
    try:
        return own.map(do, items, min(threads, len(items)))
    finally:
        own.end()


def _end(pool: ThreadPoolExecutor) -> None:
    # Nobody may write any more when the caller undoes what was written, however often it is interrupted.
    while True:
        try:
            pool.shutdown(cancel_futures=True)
        except KeyboardInterrupt:
            continue
        return


class Lock(ABC):
    """The right to write to one target; held by at most one transaction."""

    @abstractmethod
    def acquire(self, timeout: float, *, break_lock: bool = False, dry_run: bool = False) -> None:
        """Take the lock, waiting up to `timeout` seconds for a live holder.

        With `break_lock`, a holder of whom it cannot be proved that it is dead is taken for dead: it is the caller's
        word that it is. Who holds a lock of the operating system is never robbed. With `dry_run` the log is only going
        to be looked at, so a lock that would leave a trace of that is not taken. Raises `Locked`; then nothing was
        changed.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise `TargetError` if the lock was lost, for instance deleted by hand."""

    def finish(self) -> None:
        """Note that the transaction has ended, and that what follows is cleaning up."""

    @abstractmethod
    def release(self) -> None:
        """Give the lock back and leave nothing of it; does nothing in any process but the one that acquired it."""

    @abstractmethod
    def abandon(self) -> None:
        """Stop holding the lock but leave all its traces, for the one who settles what is left open."""


class Area(ABC):
    """Keys and bytes, with errors that never lie, and the two barriers that a log needs."""

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Return the value of `key`, or ``None`` if it is definitely not there; raise if that is not known."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Tell whether `key` is there; raise if that is not known."""

    @abstractmethod
    def put(self, key: str, value: Value, txn: str) -> None:
        """Write `value` whole or not at all, for transaction `txn`; durable after the next `sync`."""

    @abstractmethod
    def create(self, key: str, value: Value, txn: str) -> None:
        """Write `value` as `put` does, but raise `FileExistsError` if `key` is there."""

    @abstractmethod
    def delete(self, key: str, txn: str) -> None:
        """Make `key` absent, with what a killed `put` of `txn`, if that is not empty, left; absent already is fine."""

    @abstractmethod
    def keys(self, prefix: str = "") -> Iterator[str]:
        """Iterate over all keys below the folder `prefix`, which is empty or ends in a slash, in any order."""

    @abstractmethod
    def children(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the names directly below the folder `prefix`: last parts of keys, and folders."""

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        """Return what `get` returns for each of `keys`; a store with latency does this side by side."""
        return {key: self.get(key) for key in keys}

    def put_many(self, values: Mapping[str, Value], txn: str) -> None:
        """`put` each of `values`; a store with latency does this side by side."""
        for key, value in values.items():
            self.put(key, value, txn)

    def delete_many(self, keys: Iterable[str], txn: str) -> None:
        """`delete` each of `keys`; a store with latency does this side by side."""
        for key in keys:
            self.delete(key, txn)

    def sync(self) -> None:
        """Return when all that was put and deleted so far would survive a power cut; by default it does at once."""

    def harden(self) -> None:
        """Sync what was found here, written by a process that may have been killed before it could."""


class Storage(Area):
    """One target: an area, a second one for the log beside or inside it, and a lock.

    Attributes
    ----------
    name
        The target as a user would write it, for messages.
    place
        The area of the log; after a clean end it has nothing but undo logs that are kept.
    conditional
        Whether each write names the state that it replaces, so that it can undo no change of others.
    is_remote
        Whether calls wait for a network.
    calls_at_once
        How many calls of a batch are under way at once, where they wait for a network or a disk.
    """

    name: str
    place: Area
    conditional: bool = False
    is_remote: bool = False
    calls_at_once: int = 1

    @abstractmethod
    def in_use(self) -> bool:
        """Tell whether there is anything of a transaction, if only a kept undo log; nothing is made or changed."""

    @abstractmethod
    def lock(self) -> Lock:
        """Return the lock of this target, not yet acquired."""

    def is_pending(self) -> bool:
        """Tell whether there is a transaction, running or cut off, so that nobody knows what the target will be."""
        names = set(self.place.keys())
        return self.in_use() and (not names or names != kept_objects(names))

    def replace_many(self, documents: Iterable[tuple[str, bytes | None, bytes]], txn: str) -> None:
        """Write each of `documents`, a key with its old and its new bytes, over its old bytes.

        Raises
        ------
        TargetChanged
            If a key holds neither its old nor its new bytes; it was not changed then.
        """
        for document in documents:
            self.replace(*document, txn)

    def replace(self, key: str, old: bytes | None, new: bytes, txn: str) -> None:
        """Write one document, as `replace_many` does."""
        now = self.get(key)
        if now not in (old, new):
            raise changed_after_commit(self.name, key, now, old, new)
        if now != new:
            self.put(key, new, txn)

    def keep_originals(self, names: Mapping[str, str]) -> dict[str, bool] | None:
        """Keep what keys hold under these names in the place, without reading it; durable after its next `sync`.

        Returns
        -------
        kept
            For each key whether it is there; ``None`` if this storage, or its file system, cannot do so.
        """
        return None

    def restore(self, names: Mapping[str, str], txn: str) -> None:
        """Give keys what `keep_originals` kept under these names, which stays there."""
        if names:
            raise NotImplementedError(f"{self.name} keeps no originals")

    def copy_many(self, sources: Mapping[str, str], txn: str) -> None:
        """Give each key what another one holds, one after the other; without reading it, where that can be done.

        No key is a source after it was written to, and all sources are there.
        """
        for some in _batched(list(sources.items()), COPIED_TOGETHER):
            found = self.get_many(source for _, source in some)
            values = {key: found[source] for key, source in some}
            if lost := [source for key, source in some if values[key] is None]:
                raise TargetError(f"{lost[0]!r} of {self.name} was removed by others during the transaction")
            self.put_many({key: value for key, value in values.items() if value is not None}, txn)

    def expect_absent(self, keys: Iterable[str]) -> None:
        """Take `keys`, which no reader can see, for absent, without a look."""

    def check_orphans(self) -> None:
        """Raise `LogDamaged` if there is a log without the lock that named it, so that it may be needed, or may not."""

    def end_threads(self) -> None:
        """End the threads that were kept, if any were."""

    def begin_undo(self) -> None:
        """Return when the pending transaction can never be committed any more, and none of its requests be late."""

    def missing_folders(self, keys: Iterable[str]) -> list[str]:
        """Return the folders that a `put` of `keys` would make, outermost first; a store without folders: none."""
        return []

    def remove_folders(self, folders: Iterable[str]) -> None:
        """Remove those of `folders` that are there and empty."""

    def distrust(self, keys: Iterable[str]) -> None:
        """Have the next `sync` cover all that a process which was killed may have done to `keys` and not synced.

        A key that ends in a slash, or is empty, stands for the whole folder.
        """

    def check_room(self, keys: Collection[str]) -> None:
        """Raise `TargetError` if one of `keys` cannot be put, since a folder is there, or a key where its folder is."""

    def prune(self, prefix: str) -> None:
        """Remove the folders below `prefix`, itself included, that hold nothing any more."""
