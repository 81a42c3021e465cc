"""A prefix in an object store as storage of a transaction.

Every write names what it replaces, and what it names was read before the lock was last proved to be ours: read, prove,
write. So a writer that lost its lock, or a request that comes late, changes nothing that its successor wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from zappend.errors import LogDamaged, TargetError
from zappend.txn.clock import Clock
from zappend.txn.lease import ATTEMPTS, LEASE, LeaseLock
from zappend.txn.lockbody import Body
from zappend.txn.names import HEAD
from zappend.txn.objectplace import ObjectPlace
from zappend.txn.objects import Busy, Conflict, Objects, Tag, Unclear
from zappend.txn.record import digest, unpack
from zappend.txn.storage import LOCK_NAME, PLACE_PREFIX, Lock, Storage, Value, changed_after_commit, side_by_side

__all__ = ["ObjectStorage"]

T = TypeVar("T")
R = TypeVar("R")

CALLS_AT_ONCE = 64


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
    calls_at_once
        How many requests are under way at once.
    """

    conditional = True
    is_remote = True

    def __init__(
        self,
        objects: Objects,
        place: Objects,
        name: str = "",
        *,
        lease: float = LEASE,
        quiet: float | None = None,
        clock: Clock | None = None,
        calls_at_once: int = CALLS_AT_ONCE,
    ) -> None:
        self.name = name or objects.name
        self.place: ObjectPlace = ObjectPlace(place)
        self._objects = objects
        self._place_objects = place
        self._lease = lease
        self._quiet = objects.quiet if quiet is None else quiet
        self._clock = clock or Clock()
        self.calls_at_once = calls_at_once
        self._known: dict[str, Known] = {}
        self._undoing = False
        self._doubtful: dict[str, bytes | None] = {}  # what undo requests without an answer were to leave

    def in_use(self) -> bool:
        return any(True for _ in self._place_objects.list(""))

    def is_pending(self) -> bool:
        found = [key for key, _ in self._place_objects.list("")]
        lock = self._place_objects.get(LOCK_NAME) if LOCK_NAME in found else None
        return bool(found) if lock is None else Body.parse(lock[0]).state != "done"

    def lock(self) -> Lock:
        return LeaseLock(self.name, self._place_objects, self._lease, self._quiet, self._clock, self._begin)

    # Reading.

    def get(self, key: str) -> bytes | None:
        found = self._objects.get(key)
        self._note(key, None if found is None else found[1])
        return None if found is None else found[0]

    def has(self, key: str) -> bool:
        return self._look(key).tag is not None

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        keys = list(keys)
        return dict(zip(keys, self._side_by_side(self.get, keys), strict=True))

    def keys(self, prefix: str = "") -> Iterator[str]:
        for key, tag in self._objects.list(prefix):
            if not key.startswith(PLACE_PREFIX) and not key.endswith("/"):
                self._note(key, tag)
                yield key

    def children(self, prefix: str = "") -> Iterator[str]:
        for name in self._objects.children(prefix):
            if name and (prefix or name != PLACE_PREFIX[:-1]):
                yield name

    def _look(self, key: str) -> Known:
        return self._note(key, self._objects.head(key))

    def _note(self, key: str, tag: Tag | None) -> Known:
        known = self._known.get(key)
        if known is None or known.tag != tag or known.assumed:  # else it was read before, and perhaps proved since
            known = self._known[key] = Known(tag, self._proofs())
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

        def refused(known: Known, now: bytes | None) -> None:
            if not (known.assumed or self._undoing):
                raise TargetError(f"{key!r} of {self.name} was changed by others during the transaction; try again")
            self.place.lease.prove()

        self._settle(key, value, refused)

    def _replace(self, key: str, old: bytes | None, new: bytes) -> None:
        def refused(known: Known, now: bytes | None) -> None:
            self.place.lease.prove()  # else it was rightly changed by whoever has the lock now
            raise changed_after_commit(self.name, key, now, old, new)

        self._settle(key, new, refused)

    def _settle(self, key: str, value: bytes | None, refused: Callable[[Known, bytes | None], None]) -> None:
        """Send a request until its fate is definite; `refused` raises, or lets it be tried over what is there now."""
        lost: Unclear | None = None
        if key in self._doubtful:
            self._doubtful[key] = value
        for attempt in range(ATTEMPTS):
            known = self._known[key]
            try:
                tag = self._send(key, value, known)
            except Conflict:
                if (now := self.get(key)) == value:
                    return
                if self._known[key].tag != known.tag:
                    refused(known, now)
                else:
                    self.place.lease.pause(attempt)  # something else was in its way
            except Unclear as error:
                lost = error
                if not isinstance(error, Busy):
                    self._note_lost(key, value)
                self.place.lease.pause(attempt)
                if self.get(key) == value:
                    return
                self._known[key] = known
            except Exception:
                raise
            except BaseException:
                self._note_lost(key, value)  # interrupted while it is on its way
                raise
            else:
                self._known[key] = Known(tag, self.place.lease.proofs)
                return
        raise Unclear(f"{key!r} of {self.name} could not be changed in {ATTEMPTS} attempts: {lost}") from lost

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

    def _note_lost(self, key: str, value: bytes | None) -> None:
        """Remember that a request may take effect later: one that creates, where nothing is; another, over its tag."""
        self.place.lease.late.note()
        if self.place.lease.late.possible and (self._undoing or self.place.lease.is_decided):
            self._doubtful[key] = value

    def check_orphans(self) -> None:
        if self.place.lease.found:
            return  # what a lock does not name does not count
        strays = list(self.place.keys())
        for name in strays:
            txn, _, nonce = name.removeprefix(f"{HEAD}-").partition("-")
            if not name.startswith(f"{HEAD}-") or "-" in nonce:
                continue
            log = [name, *(other for other in strays if other.startswith(f"{HEAD}-{txn}-") and other != name)]
            if self._may_matter(log):
                raise LogDamaged(
                    f"{self.name} has the log object {name!r}, but no lock that names it: either it arrived late, then "
                    f"delete it, or others deleted the lock of a pending transaction, then see what that did first"
                )

    def _may_matter(self, log: Sequence[str]) -> bool:
        """Tell whether the root of the target is what it was when this log began, but a key that it has is not."""
        for name in log:
            found = self._place_objects.get(name)
            body = {} if found is None else unpack(name, found[0], HEAD, f"{HEAD}-part")
            for key, expected in body.get("fingerprint", {}).items():
                now = self.get(key)
                if (None if now is None else digest(now)) != expected:
                    return False
            if any(self.get(key) != old for key, old in body.get("records", ())):
                return True
        return False

    def begin_undo(self) -> None:
        self.place.lease.abort()
        self.place.lease.late.wait_out()
        self._known.clear()
        self._undoing = True

    def sync(self) -> None:
        """Return when no request of ours can change any more what is to stay: that of an undo, and of a commit."""
        lease = self.place.lease
        while self._doubtful or (lease.late.possible and lease.is_decided):
            self.place.lease.late.wait_out()
            doubtful, self._doubtful = self._doubtful, {}
            wrong = [(key, doubtful[key]) for key, now in self.get_many(doubtful).items() if now != doubtful[key]]
            self._prove_after_reading([key for key, _ in wrong])
            self._side_by_side(lambda item: self._change(*item), wrong)
        self._undoing = False

    def _begin(self, lease: LeaseLock) -> None:
        self.place.use(lease)
        self._known, self._doubtful, self._undoing = {}, {}, False

    def _side_by_side(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        return side_by_side(do, items, self.calls_at_once)
