"""A mapping of keys to bytes as storage of a transaction: a `dict`, or any other `MutableMapping`.

The log lies in the mapping itself, under ``.zappend/``, or in one beside it, so a mapping that outlives the process can
be recovered by a later one. Who may write is decided in this process alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, MutableMapping

from zappend.errors import TargetError
from zappend.txn.mappings import FolderMapping
from zappend.txn.registry import ProcessLock
from zappend.txn.storage import PLACE_PREFIX, Area, Lock, Storage, Value

__all__ = ["MappingStorage"]


class MappingArea(Area):
    """The keys of `mapping` that begin with `prefix`, named without it; with `own` none of them is that of a log."""

    def __init__(self, mapping: MutableMapping[str, bytes], prefix: str = "", *, own: bool = False) -> None:
        self._mapping = mapping
        self._prefix = prefix
        self._hidden = () if prefix or own else (PLACE_PREFIX,)

    def get(self, key: str) -> bytes | None:
        try:
            return bytes(self._mapping[self._prefix + key])
        except KeyError:
            return None

    def has(self, key: str) -> bool:
        return self._prefix + key in self._mapping

    def put(self, key: str, value: Value, txn: str) -> None:
        self._mapping[self._prefix + key] = bytes(value)

    def create(self, key: str, value: Value, txn: str) -> None:
        # Only the holder of the lock creates anything, so nobody can come between these two steps.
        if self.has(key):
            raise FileExistsError(f"{self._prefix + key} is there already")
        self.put(key, value, txn)

    def delete(self, key: str, txn: str) -> None:
        with contextlib.suppress(KeyError):
            del self._mapping[self._prefix + key]

    def keys(self, prefix: str = "") -> Iterator[str]:
        for key in self._below(self._prefix + prefix):
            if not key.startswith(self._hidden):
                yield key[len(self._prefix) :]

    def children(self, prefix: str = "") -> Iterator[str]:
        yield from dict.fromkeys(key[len(prefix) :].split("/", 1)[0] for key in self.keys(prefix))

    def _below(self, prefix: str) -> Iterator[str]:
        if isinstance(self._mapping, FolderMapping):
            yield from list(self._mapping.keys_below(prefix))
        else:
            yield from (key for key in list(self._mapping) if key.startswith(prefix))


class MappingStorage(MappingArea, Storage):
    """Storage in a mapping, for which ``KeyError`` must mean "not there" and nothing else.

    Parameters
    ----------
    mapping
        The target.
    place
        A mapping for the log; by default it lies in the target, under ``.zappend/``.
    name
        The target as a user would write it.
    identity
        The same for all mappings that reach the same keys; by default a mapping is its own.
    keep
        What `identity` is the `id` of, if it is one.
    """

    def __init__(
        self,
        mapping: MutableMapping[str, bytes],
        *,
        place: MutableMapping[str, bytes] | None = None,
        name: str = "",
        identity: Hashable = None,
        keep: object = None,
    ) -> None:
        super().__init__(mapping)
        self.name = name or f"<{type(mapping).__name__} at {id(mapping):#x}>"
        self.place = MappingArea(mapping, PLACE_PREFIX) if place is None else MappingArea(place, own=True)
        self._identity = ("mapping", id(mapping)) if identity is None else identity
        self._keep = keep or mapping

    def in_use(self) -> bool:
        return self._registered().is_taken() or any(True for _ in self.place.keys())

    def is_pending(self) -> bool:
        return self._registered().is_taken() or super().is_pending()

    def lock(self) -> Lock:
        return _MappingLock(self._registered(), self.name)

    def _registered(self) -> ProcessLock:
        return ProcessLock(self._identity, self.name, self._keep)


class _MappingLock(Lock):
    def __init__(self, registered: ProcessLock, name: str) -> None:
        self._registered = registered
        self._name = name

    def acquire(self, timeout: float, *, break_lock: bool = False, dry_run: bool = False) -> None:
        self._registered.acquire(timeout)

    def check(self) -> None:
        if not self._registered.held:
            raise TargetError(f"{self._name}: the lock was lost")

    def release(self) -> None:
        self._registered.release()

    abandon = release
