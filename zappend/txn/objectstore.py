"""A prefix in an object store as storage of a transaction.

Every write names what it replaces, and what it names was read before the lock was last proved to be ours: read, prove,
write. So a writer that lost its lock, or a request that comes late, changes nothing that its successor wrote.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from zappend.errors import LogDamaged, LogVersionError, RecoveryRefused, TargetError
from zappend.txn.lease import ATTEMPTS, LEASE, Body, Clock, LeaseLock
from zappend.txn.log import DECISION, HEAD, Log
from zappend.txn.objects import Conflict, Objects, Tag, Unclear
from zappend.txn.record import digest
from zappend.txn.storage import LOCK_NAME, PLACE_PREFIX, Area, Lock, Storage, Value, changed_after_commit

__all__ = ["ObjectStorage"]

logger = logging.getLogger("zappend")

T = TypeVar("T")
R = TypeVar("R")

INLINE = 2**16
"""Bytes of log objects that the lock itself holds; larger ones are objects of their own, which costs requests."""

THREADS = 16


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

    def use(self, lease: LeaseLock) -> None:
        """Begin to read and write the log that `lease` names."""
        self._lease = lease
        self._txn, self._changed, self._written, self._strays = "", False, [], None

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
        if inline + len(value) <= INLINE:
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
            try:
                self._objects.put(name, value, None)
                return name
            except Unclear as error:
                lost = error
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
        names = dict.fromkeys([*self._written, *(key for key in keys if key in strays)])
        if names:
            self._objects.delete_many(names)
        self._written, self._strays = [], []

    def keys(self, prefix: str = "") -> Iterator[str]:
        if self._strays is None:
            named = {entry[0] for entry in self.lease.entries.values() if isinstance(entry, tuple)}
            self._strays = [key for key, _ in self._objects.list("") if key != LOCK_NAME and key not in named]
        yield from [*self.lease.entries, *self._strays]

    def children(self, prefix: str = "") -> Iterator[str]:
        yield from self.keys(prefix)

    def sync(self) -> None:
        if self._changed:
            if HEAD not in self.lease.entries:
                self._written += [e[0] for e in self.lease.entries.values() if isinstance(e, tuple)]
            self.lease.publish(self._txn)
            self._changed = False


@dataclass(frozen=True)
class Known:
    """What was last seen under a key.

    Attributes
    ----------
    tag
        Its tag, ``None`` for "not there".
    proof
        How often the lock had been proved by then.
    assumed
        Whether it was not looked at, but taken for absent.
    """

    tag: Tag | None
    proof: int
    assumed: bool = False


class ObjectStorage(Storage):
    """Storage below a prefix in an object store.

    Parameters
    ----------
    objects
        The target.
    place
        Where lock and log lie.
    name
        The target as a user would write it.
    lease
        Seconds of silence after which a writer is taken for dead.
    quiet
        Seconds until a request that was sent can have no effect any more; by default what `objects` says.
    clock
        What time it is.
    threads
        How many requests are under way at once.
    """

    conditional = True

    def __init__(
        self,
        objects: Objects,
        place: Objects,
        name: str = "",
        *,
        lease: float = LEASE,
        quiet: float | None = None,
        clock: Clock | None = None,
        threads: int = THREADS,
    ) -> None:
        self.name = name or objects.name
        self.place: ObjectPlace = ObjectPlace(place)
        self._objects = objects
        self._place_objects = place
        self._lease = lease
        self._quiet = objects.quiet if quiet is None else quiet
        self._clock = clock or Clock()
        self._threads = threads
        self._known: dict[str, Known] = {}
        self._undoing = False
        self._doubtful: dict[str, bytes | None] = {}  # what undo requests without an answer were to leave
        self._lost_at = 0.0

    def in_use(self) -> bool:
        return any(True for _ in self._place_objects.list(""))

    def lock(self) -> Lock:
        return self._new_lock(self._begin)

    # Reading.

    def get(self, key: str) -> bytes | None:
        proof = self._proofs()
        found = self._objects.get(key)
        self._known[key] = Known(None if found is None else found[1], proof)
        return None if found is None else found[0]

    def has(self, key: str) -> bool:
        return self._look(key).tag is not None

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        keys = list(keys)
        return dict(zip(keys, self._side_by_side(self.get, keys), strict=True))

    def keys(self, prefix: str = "") -> Iterator[str]:
        proof = self._proofs()
        for key, tag in self._objects.list(prefix):
            if not key.startswith(PLACE_PREFIX) and not key.endswith("/"):
                self._known[key] = Known(tag, proof)
                yield key

    def children(self, prefix: str = "") -> Iterator[str]:
        for name in self._objects.children(prefix):
            if name and (prefix or name != PLACE_PREFIX[:-1]):
                yield name

    def _look(self, key: str) -> Known:
        proof = self._proofs()
        self._known[key] = known = Known(self._objects.head(key), proof)
        return known

    def _proofs(self) -> int:
        lease = self.place._lease
        return 0 if lease is None else lease.proofs

    # Writing: read, prove, write.

    def put(self, key: str, value: Value, txn: str) -> None:
        self.put_many({key: value}, txn)

    def create(self, key: str, value: Value, txn: str) -> None:
        if self.has(key):
            raise FileExistsError(f"{key!r} of {self.name} is there already")
        self.put(key, value, txn)

    def put_many(self, values: Mapping[str, Value], txn: str) -> None:
        self._prove_after_reading(values)
        self._side_by_side(lambda item: self._change(item[0], bytes(item[1])), list(values.items()))

    def delete(self, key: str, txn: str) -> None:
        self.delete_many((key,), txn)

    def delete_many(self, keys: Iterable[str], txn: str) -> None:
        keys = list(keys)
        self._prove_after_reading(keys)
        self._side_by_side(lambda key: self._change(key, None), keys)

    def replace_many(self, documents: Iterable[tuple[str, bytes | None, bytes]], txn: str) -> None:
        documents = [document for document in documents if document[1] != document[2]]
        self._prove_after_reading([key for key, _, _ in documents])
        self._side_by_side(lambda document: self._replace(*document), documents)

    def expect_absent(self, keys: Iterable[str]) -> None:
        proof = self._proofs()
        self._known.update((key, Known(None, proof, assumed=True)) for key in keys if key not in self._known)

    def _prove_after_reading(self, keys: Collection[str]) -> None:
        self._side_by_side(self._look, [key for key in keys if key not in self._known])
        if any(self._known[key].proof >= self.place.lease.proofs for key in keys):
            self.place.lease.prove()

    def _change(self, key: str, value: bytes | None) -> None:
        """Let `key` hold `value`, or nothing, in place of what it was seen to hold."""
        lost: Unclear | None = None
        for attempt in range(ATTEMPTS):
            known = self._known[key]
            try:
                tag = self._send(key, value, known)
            except Conflict:
                if self.get(key) == value:
                    return
                if not (known.assumed or self._undoing):
                    raise TargetError(
                        f"{key!r} of {self.name} was changed by others during the transaction; try again"
                    ) from None
                self.place.lease.prove()
            except Unclear as error:
                lost = error
                self._note_lost(key, value, known)
                self.place.lease.pause(attempt)
                if self.get(key) == value:
                    return
                self._known[key] = known
            except KeyboardInterrupt:
                self._note_lost(key, value, known)  # it is on its way
                raise
            else:
                self._known[key] = Known(tag, self.place.lease.proofs)
                return
        raise Unclear(f"{key!r} of {self.name} could not be changed in {ATTEMPTS} attempts: {lost}") from lost

    def _replace(self, key: str, old: bytes | None, new: bytes) -> None:
        lost: Unclear | None = None
        for attempt in range(ATTEMPTS):
            known = self._known[key]
            try:
                tag = self._send(key, new, known)
            except Conflict:
                if (now := self.get(key)) == new:
                    return
                self.place.lease.prove()  # else it was rightly changed by whoever has the lock now
                raise changed_after_commit(self.name, key, now, old, new) from None
            except Unclear as error:
                lost = error
                self.place.lease.pause(attempt)
                if self.get(key) == new:
                    return
                self._known[key] = known
            else:
                self._known[key] = Known(tag, self.place.lease.proofs)
                return
        raise Unclear(f"{key!r} of {self.name} could not be written in {ATTEMPTS} attempts: {lost}") from lost

    def _send(self, key: str, value: bytes | None, known: Known) -> Tag | None:
        lease = self.place.lease
        assert known.proof < lease.proofs, "read, prove, write"
        lease.stay_sure()
        if value is not None:
            return self._objects.put(key, value, known.tag)
        if known.tag is not None:
            self._objects.delete(key, known.tag)
        return None

    # Requests that may be late.

    def _note_lost(self, key: str, value: bytes | None, known: Known) -> None:
        """Remember that a request may take effect later, if a state can come back under the tag that it names."""
        if self._quiet and (self._undoing or known.tag is not None):
            self._lost_at = self._clock.now()
            self.place.lease.latent = True
            if self._undoing:
                self._doubtful[key] = value

    def begin_undo(self) -> None:
        self.place.lease.abort()
        self._wait_out()
        self._known.clear()
        self._undoing = True

    def sync(self) -> None:
        while self._doubtful:
            self._wait_out()
            doubtful, self._doubtful = self._doubtful, {}
            wrong = [(key, doubtful[key]) for key, now in self.get_many(doubtful).items() if now != doubtful[key]]
            self._prove_after_reading([key for key, _ in wrong])
            self._side_by_side(lambda item: self._change(*item), wrong)
        self._undoing = False

    def _wait_out(self) -> None:
        if self.place.lease.latent:
            left = self._lost_at + self._quiet - self._clock.now()
            if left > 0:
                logger.warning(
                    "%s: an answer was lost; waiting %.0f s until the request cannot arrive any more", self.name, left
                )
                self._clock.sleep(left)
            self.place.lease.latent = False

    def _harm(self, body: Body) -> float:
        """Return how long to wait before the log in the lock of a dead writer may be settled."""
        return self._quiet if body.state != "hot" or self._restores() else 0.0

    def _restores(self) -> bool:
        """Tell whether undoing would restore bytes, and with them a tag that a late request may name."""
        place, lease = ObjectPlace(self._place_objects), self._new_lock()
        lease.acquire(0, dry_run=True)
        place.use(lease)
        try:
            log = Log.found(place)
            return log is not None and any(
                value is not None for records, _ in log.undo_groups() for _, value in records
            )
        except (RecoveryRefused, LogVersionError):
            return False  # nothing is going to be touched

    def _begin(self, lease: LeaseLock) -> None:
        self.place.use(lease)
        self._known, self._doubtful, self._undoing = {}, {}, False

    def _new_lock(self, taken: Callable[[LeaseLock], None] = lambda lease: None) -> LeaseLock:
        return LeaseLock(self.name, self._place_objects, self._lease, self._harm, self._clock, taken)

    def _side_by_side(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        if len(items) < 2 or self._threads < 2:
            return [do(item) for item in items]
        with ThreadPoolExecutor(min(self._threads, len(items)), "zappend") as pool:
            return list(pool.map(do, items))
