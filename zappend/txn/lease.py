"""Who may write to a target in an object store, and which log counts: one object, changed by compare-and-swap alone.

The object ``lock`` is held by whoever wrote it last. Each write names the state that it replaces and carries a fresh
nonce, so that a writer who was robbed of it, or a late copy of one of its requests, can never change it again. It has

    owner     who holds it, for people: user, host, pid, started
    nonce     unique to each write
    beat      how often it was written by this owner; a holder that lives writes it every quarter of a lease
    lease     seconds of silence after which the holder is taken for dead
    state     "open" | "hot" | "commit" | "abort" | "done"
    txn       the transaction whose log `objects` are
    objects   the log: for each object that counts its name in the store and its hash, or its bytes
    settled   the transaction settled last, and whether as "commit" or "abort"
    released  whether the owner has let go of it, and left only the log

State and log change together, in one write. So the swap from ``hot`` to ``commit`` *is* the decision, and no writer
who lost the lock can make it. A holder is judged dead only if the lock has not changed for a whole lease, measured by
the clock of the one who watches; what clocks of other hosts say is never used.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

from zappend.errors import Locked, LockHolder, LockLost
from zappend.txn.lock import describe, this_process
from zappend.txn.log import DECISION, HEAD
from zappend.txn.objects import Conflict, Objects, Tag, Unclear
from zappend.txn.record import pack, unpack
from zappend.txn.registry import ProcessLock
from zappend.txn.storage import LOCK_NAME, Lock

__all__ = ["ATTEMPTS", "LEASE", "Body", "Clock", "Entry", "LeaseLock"]

logger = logging.getLogger("zappend")

LEASE = 60.0
BEATS_PER_LEASE = 4

ATTEMPTS = 6
"""How often a write without an answer is sent before its fate is reported as unknown."""
PAUSE = 0.2
"""Seconds before a write is sent again; doubled each time."""
SHORTEST = 0.01
"""Seconds between two looks at a lock, at least."""

State = Literal["open", "hot", "commit", "abort", "done"]

Entry = tuple[str, bytes] | bytes
"""One object of the log: its name in the store and its SHA-256, or, if it is small, the object itself."""


class Clock:
    """Time as one process measures it: it goes on while the computer is suspended, where the system can tell."""

    def now(self) -> float:
        """Return seconds since some point in the past."""
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boottime is None else time.clock_gettime(boottime)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def repeat(self, do: Callable[[], None], seconds: float) -> Callable[[], None]:
        """Call `do` every `seconds` in a thread of its own; return what ends that."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(seconds):
                do()

        threading.Thread(target=run, name="zappend lease", daemon=True).start()
        return ended.set


@dataclass(frozen=True)
class Body:
    """What the lock object says; the docstring of the module tells what each field means."""

    owner: LockHolder
    lease: float
    nonce: bytes = b""
    beat: int = 0
    state: State = "open"
    txn: str = ""
    objects: Mapping[str, Entry] = field(default_factory=dict)
    settled: tuple[str, str] = ("", "")
    released: bool = False

    def data(self) -> bytes:
        """Return the bytes of the lock object."""
        return pack("lock", **{one.name: getattr(self, one.name) for one in fields(self)})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return what `data` says; raise `LogDamaged` or `LogVersionError` as for any object of the log."""
        body = unpack(LOCK_NAME, data, "lock")
        known: dict[str, Any] = {one.name: body[one.name] for one in fields(cls)}
        known["settled"] = tuple(known["settled"])
        known["objects"] = {k: v if isinstance(v, bytes) else tuple(v) for k, v in known["objects"].items()}
        return cls(**known)


class LeaseLock(Lock):
    """The lock of one target in an object store, and the log that it names; serves one transaction.

    Parameters
    ----------
    name
        The target, for messages.
    objects
        Where the lock lies.
    lease
        Seconds of silence after which others may take the holder of this lock for dead.
    harm
        Tells for how many seconds more the log in a lock must not be touched, since requests may be on their way.
    clock
        What time it is.
    taken
        Is called with this lock when it has been taken.

    Attributes
    ----------
    entries
        The log as it is to be; `publish` makes it count.
    proofs
        How often it has been proved that the lock is held.
    latent
        Whether a request of ours may still take effect, so that whoever comes next has to wait.
    """

    def __init__(
        self,
        name: str,
        objects: Objects,
        lease: float,
        harm: Callable[[Body], float],
        clock: Clock,
        taken: Callable[[LeaseLock], None],
    ) -> None:
        self._name = name
        self._objects = objects
        self._lease = lease
        self._harm = harm
        self._clock = clock
        self._taken = taken
        self._registered = ProcessLock(("object", objects.identity), name, objects)
        self._guard = threading.RLock()  # one change of the lock is under way at a time
        self._body = Body(this_process(), lease)
        self._tag: Tag = ""
        self._tried: set[bytes] = set()
        self._unsure = False
        self._lost: str | None = None
        self._closing = False
        self._confirmed_at = 0.0
        self._stop_beating: Callable[[], None] = lambda: None
        self._pid = 0
        self.entries: dict[str, Entry] = {}
        self.proofs = 0
        self.latent = False

    # Taking it.

    def acquire(self, timeout: float, *, break_lock: bool = False, dry_run: bool = False) -> None:
        if dry_run:
            if (found := self.look()) is not None:
                self._body = found[0]
        else:
            self._registered.acquire(timeout)
            try:
                self._objects.check()
                self._take(self._clock.now() + timeout, break_lock)
            except BaseException:
                self._registered.release()
                raise
            self._pid = os.getpid()
            self._stop_beating = self._clock.repeat(self._beat, self._lease / BEATS_PER_LEASE)
        self.entries = dict(self._body.objects)
        self._taken(self)

    def _take(self, until: float, break_lock: bool) -> None:
        watched: Tag = ""
        silent, harm = 0.0, None
        while not self._write(self._body, None):
            while (found := self.look()) is not None:
                body, tag = found
                if tag != watched:
                    if watched and self._clock.now() >= until:
                        raise self._locked(body)
                    watched, silent, harm = tag, 0.0, None
                patience = self._patience(body, break_lock)
                if silent >= patience and harm is None:
                    harm = 0.0 if body.released or body.state in ("open", "done") else self._harm(body)
                    self._tell_wait(body, harm)
                if harm is not None and silent >= patience + harm:
                    if self._write(_inherited(body, self._lease), tag):
                        return
                    continue
                before = self._clock.now()
                self._clock.sleep(max(min(body.lease / BEATS_PER_LEASE / 2, patience + (harm or 0) - silent), SHORTEST))
                # This computer may have been suspended, and the holder's too: no more than a beat counts.
                silent += min(self._clock.now() - before, body.lease / BEATS_PER_LEASE)

    def _patience(self, body: Body, break_lock: bool) -> float:
        if body.released or (body.state == "done" and self._objects.conditional_deletes):
            return 0.0
        return 0.0 if break_lock else body.lease

    def _tell_wait(self, body: Body, harm: float) -> None:
        if harm:
            logger.warning(
                "%s: its writer, %s, is dead; waiting %.0f s until none of its requests can arrive any more",
                self._name,
                describe(body.owner),
                harm,
            )

    def _locked(self, body: Body) -> Locked:
        return Locked(
            f"{self._name} is locked by {describe(body.owner)}, which is at work; wait with --lock-timeout SECONDS, "
            f"or try again when it has ended",
            body.owner,
        )

    def look(self) -> tuple[Body, Tag] | None:
        """Return what the lock says now, whoever holds it, and its tag; ``None`` if there is none."""
        found = self._objects.get(LOCK_NAME)
        return None if found is None else (Body.parse(found[0]), found[1])

    # Changing it.

    def publish(self, txn: str) -> None:
        """Let the log be `entries`, in one write: without its head, with it, or decided.

        Raises
        ------
        LockLost
            If somebody else holds the lock. Nothing was changed.
        Unclear
            If it is not known whether this took effect; `objects` resolves it.
        """
        with self._guard:
            now = self._body
            if HEAD in self.entries:
                state: State = "abort" if now.state == "abort" else "commit" if DECISION in self.entries else "hot"
                assert now.state != "commit" or state == "commit", "a decision is never taken back"
                self._swap(state=state, txn=txn or now.txn, objects=dict(self.entries))
                return
            self.entries.clear()  # without a head nothing of it counts
            settled = (now.txn, "commit" if now.state == "commit" else "abort") if now.txn else now.settled
            self._swap(state="done" if self._closing else "open", txn="", objects={}, settled=settled)

    def abort(self) -> None:
        """Decide that the transaction in the log is undone, so that nobody can commit it any more."""
        with self._guard:
            assert self._body.state in ("hot", "abort"), "a decision is never taken back"
            if self._body.state == "hot":
                self._swap(state="abort")

    def prove(self) -> None:
        """Prove that the lock is still held, by writing it; raises as `publish` does."""
        with self._guard:
            self._swap()

    def stay_sure(self) -> None:
        """Prove that the lock is still held if the last proof is older than half a lease; raises as `publish` does."""
        if self._lost is not None:
            raise LockLost(self._lost)
        if self._clock.now() - self._confirmed_at >= self._lease / 2:
            self.prove()

    def pause(self, attempt: int) -> None:
        """Wait before something is tried again."""
        self._clock.sleep(min(PAUSE * 2**attempt, self._lease / 16))

    def objects(self) -> Mapping[str, Entry]:
        """Return the log that counts in this very moment, for the transaction that this lock was taken for.

        Raises
        ------
        Unclear, LockLost
            If that cannot be told.
        """
        with self._guard:
            if self._unsure:
                self._swap()  # with this, the write whose answer was lost has either taken effect or never can
            if self._lost is None or not self._body.txn:
                return self._body.objects
        found = self.look()
        if found is not None and found[0].txn == self._body.txn:
            return found[0].objects
        if found is not None and found[0].settled[0] == self._body.txn:
            return {DECISION: b""} if found[0].settled[1] == "commit" else {}
        raise LockLost(self._lost)

    def _swap(self, **changes: Any) -> None:
        if self._lost is not None:
            raise LockLost(self._lost)
        if self._unsure and changes:
            self._swap()
        body = replace(self._body, beat=self._body.beat + 1, **changes)
        try:
            written = self._write(body, self._tag)
        except BaseException:
            self._unsure = True
            raise
        self._unsure = False
        if not written:
            found = self.look()
            who = "nobody: it was deleted" if found is None else describe(found[0].owner)
            self._lost = (
                f"{self._name}: the lock was lost to {who}; what this writer did is undone or finished by who has the "
                f"lock, or by 'zappend rollback {self._name}'; then try again"
            )
            raise LockLost(self._lost, None if found is None else found[0].owner)

    def _write(self, body: Body, over: Tag | None) -> bool:
        """Write `body` over the state `over` of the lock; tell whether it, or an earlier attempt of ours, is there."""
        lost: Unclear | None = None
        if not self._unsure:
            self._tried.clear()
        for attempt in range(ATTEMPTS):
            # A nonce for each attempt: a late copy of one must not look like another.
            body = replace(body, nonce=os.urandom(16))
            self._tried.add(body.nonce)
            begun = self._clock.now()
            try:
                self._confirm(body, self._objects.put(LOCK_NAME, body.data(), over), begun)
                return True
            except Conflict:
                found = self.look()
            except Unclear as error:
                lost = error
                self.pause(attempt)
                try:
                    found = self.look()
                except OSError:
                    continue
                if (None if found is None else found[1]) == over:
                    continue
            if found is None or found[0].nonce not in self._tried:
                return False
            self._confirm(*found, begun)
            return True
        raise Unclear(f"{self._name}: no answer to writing its lock, {ATTEMPTS} times: {lost}") from lost

    def _confirm(self, body: Body, tag: Tag, begun: float) -> None:
        self._body, self._tag, self._confirmed_at = body, tag, begun
        self.proofs += 1

    def _beat(self) -> None:
        with self._guard:
            if self._pid != os.getpid() or self._unsure or self._lost is not None:
                return  # the next write of the transaction resolves it
            try:
                self._swap()
            except OSError as error:
                logger.warning("%s: its lock could not be renewed: %s", self._name, error)

    # Letting go of it.

    def check(self) -> None:
        """Do nothing: the decision is a proof itself."""

    def finish(self) -> None:
        self._closing = True

    def release(self) -> None:
        if self._pid != os.getpid():
            return
        self._stop_beating()
        try:
            with self._guard:
                self._pid = 0
                if self._lost is not None or self._unsure:
                    return
                if HEAD not in self._body.objects:
                    self._delete()
                elif not self.latent:
                    self._swap(released=True)
        finally:
            self._registered.release()

    def abandon(self) -> None:
        if self._pid == os.getpid():
            self._pid = 0
            self._stop_beating()
            self._registered.release()

    def _delete(self) -> None:
        lost: Unclear | None = None
        for attempt in range(ATTEMPTS):
            try:
                self._objects.delete(LOCK_NAME, self._tag)
                return
            except Conflict:
                return  # somebody has taken it over, as it was done
            except Unclear as error:
                lost = error
                self.pause(attempt)
                found = self.look()
                if found is None or found[1] != self._tag:
                    return
        raise Unclear(f"{self._name}: no answer to deleting its lock, {ATTEMPTS} times: {lost}") from lost


def _inherited(body: Body, lease: float) -> Body:
    """Return what a lock becomes in our hands: an undecided transaction is aborted, a decided one is finished."""
    states: dict[State, State] = {"hot": "abort", "done": "open"}
    return replace(
        body, owner=this_process(), lease=lease, beat=0, state=states.get(body.state, body.state), released=False
    )
