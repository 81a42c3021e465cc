"""Who may write to a target in an object store, and which log counts: one object, changed by compare-and-swap alone.

The object ``lock`` is held by whoever wrote it last. Each write names the state that it replaces and carries a fresh
nonce, so that a writer who was robbed of it, or a late copy of one of its requests, can never change it again.
`zappend.txn.lockbody` has what it says.

State and log change together, in one write. So the swap from ``hot`` to ``commit`` *is* the decision, and no writer
who lost the lock can make it. A holder is judged dead only if the lock has not changed for a whole lease, measured by
the clock of the one who watches; what clocks of other hosts say is never used.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from zappend.errors import Locked, LockLost
from zappend.txn.clock import Clock
from zappend.txn.late import LateRequests
from zappend.txn.lock import describe, this_process
from zappend.txn.lockbody import Body, Entry, State
from zappend.txn.names import DECISION, HEAD, kept_objects
from zappend.txn.objects import Conflict, Objects, Tag, Unclear
from zappend.txn.registry import ProcessLock
from zappend.txn.storage import LOCK_NAME, Lock

__all__ = ["ATTEMPTS", "LEASE", "LeaseLock"]

logger = logging.getLogger("zappend")

LEASE = 60.0
BEATS_PER_LEASE = 4

ATTEMPTS = 6
"""How often a write without an answer is sent before its fate is reported as unknown."""
PAUSE = 0.2
"""Seconds before a write is sent again; doubled each time."""
SHORTEST = 0.01
"""Seconds between two looks at a lock, at least."""


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
    quiet
        Seconds after which a request that was sent cannot take effect any more.
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
    found
        Whether there was a lock before this one, live or dead.
    late
        The requests of this owner whose answer was lost.
    littered
        Whether log objects may be left, which only the lock tells from those that matter.
    """

    def __init__(
        self,
        name: str,
        objects: Objects,
        lease: float,
        quiet: float,
        clock: Clock,
        taken: Callable[[LeaseLock], None],
    ) -> None:
        self._name = name
        self._objects = objects
        self._lease = lease
        self._quiet = quiet
        self._clock = clock
        self._taken = taken
        self._registered = ProcessLock(("object", objects.identity), name, objects)
        self._guard = threading.RLock()  # one change of the lock is under way at a time
        self._body = Body(this_process(), lease)
        self._tag: Tag = ""
        self._tried: dict[bytes, float] = {}  # nonces of the attempts at the last write, and when they were sent
        self._unsure = False  # whether the last write may have taken effect, or may still do so
        self._doubtful = False  # the same, but also when it is known by now that the lock was lost
        self._answered = False  # whether the last write was; else its effect was found by reading
        self._lost: str | None = None
        self._closing = False
        self._confirmed_at = 0.0
        self._stop_beating: Callable[[], None] = lambda: None
        self._pid = 0
        self.entries: dict[str, Entry] = {}
        self.late = LateRequests(name, quiet, clock)
        self.proofs = 0
        self.found = False
        self.littered = False

    # Taking it.

    def acquire(self, timeout: float, *, break_lock: bool = False, dry_run: bool = False) -> None:
        if dry_run:
            if (found := self.look()) is not None:
                self._body, self.found = found[0], True
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
        self._win(until, break_lock)
        while not self._answered:
            self._swap()  # a copy of a creation without an answer could bring back what it made; not what comes then

    def _win(self, until: float, break_lock: bool) -> None:
        watched: Tag = ""
        silent = patience = 0.0
        while not self._write(self._body, None):
            while (found := self.look()) is not None:
                body, tag = found
                if tag != watched:
                    if watched and self._clock.now() >= until:
                        raise self._locked(body)
                    watched, silent, patience = tag, 0.0, self._patience(body, break_lock)
                if silent >= patience:
                    if self._write(_inherited(body, self._lease), tag):
                        self.found = self.littered = True
                        return
                    continue
                before = self._clock.now()
                self._clock.sleep(max(min(body.lease / BEATS_PER_LEASE / 2, patience - silent), SHORTEST))
                # This computer may have been suspended, and the holder's too: no more than a beat counts.
                passed = min(self._clock.now() - before, body.lease / BEATS_PER_LEASE)
                if silent < body.lease / 2 <= silent + passed:
                    self._tell_wait(body, patience - silent - passed)
                silent += passed

    def _patience(self, body: Body, break_lock: bool) -> float:
        """Return for how long a lock must not have changed before it is taken over."""
        if break_lock or body.released or body.state == "done":
            return 0.0
        return body.lease + (0.0 if body.state == "open" else self._quiet)

    def _tell_wait(self, body: Body, seconds: float) -> None:
        logger.warning(
            "%s: nothing is heard of its writer, %s; waiting %.0f s until it counts as dead, and no request of it can "
            "arrive any more",
            self._name,
            describe(body.owner),
            seconds,
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
            for name in self.entries.keys() - kept_objects(self.entries):
                del self.entries[name]  # without a head nothing else of it counts
            settled = (now.txn, "commit" if now.state == "commit" else "abort") if now.txn else now.settled
            state = "done" if self._closing else "open"
            self._swap(state=state, txn="", objects=dict(self.entries), settled=settled)

    def abort(self) -> None:
        """Decide that the transaction in the log is undone, so that nobody can commit it any more."""
        with self._guard:
            if self._unsure:
                self._swap()
            assert self._body.state in ("hot", "abort"), "a decision is never taken back"
            if self._body.state == "hot":
                self._swap(state="abort")

    def prove(self) -> None:
        """Prove that the lock is still held, by writing it; raises as `publish` does."""
        with self._guard:
            self._swap()

    @property
    def is_decided(self) -> bool:
        """Whether the transaction in the log is committed, as far as this owner knows."""
        return self._body.state == "commit"

    def stay_sure(self) -> None:
        """Prove that the lock is still held if the last proof is older than half a lease; raises as `publish` does."""
        if self._lost is not None:
            raise LockLost(self._lost)
        while self._clock.now() - self._confirmed_at >= self._lease / 2:
            self.prove()  # and look at the clock again: the answer may have been long in coming

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
            if self._lost is None or not self._doubtful:
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
            self._unsure = self._doubtful = True
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
            self._tried[body.nonce] = self._clock.now()
            try:
                self._confirm(body, self._objects.put(LOCK_NAME, body.data(), over), answered=True)
                return True
            except Conflict as error:
                found = self.look()
                if (None if found is None else found[1]) == over:
                    lost = Unclear(f"refused, though nothing else is there: {error}")
                    self.pause(attempt)
                    continue
            except Unclear as error:
                lost = error
                self._doubtful = True
                self.pause(attempt)
                try:
                    found = self.look()
                except OSError:
                    continue
                if (None if found is None else found[1]) == over:
                    continue
            if found is None or found[0].nonce not in self._tried:
                return False
            self._confirm(*found, answered=False)
            return True
        raise Unclear(f"{self._name}: its lock could not be written in {ATTEMPTS} attempts: {lost}") from lost

    def _confirm(self, body: Body, tag: Tag, *, answered: bool) -> None:
        self._body, self._tag, self._answered = body, tag, answered
        self._confirmed_at = self._tried[body.nonce]  # it may have been overtaken since it was sent
        self._doubtful = False
        self.proofs += 1

    def _beat(self) -> None:
        with self._guard:
            if self._pid != os.getpid() or self._unsure or self._lost is not None:
                return  # the next write of the transaction resolves it
            try:
                self._swap()
            except Exception as error:  # whatever it is, the next beat may get through
                logger.warning("%s: its lock could not be renewed: %s", self._name, error)

    # Letting go of it.

    def check(self) -> None:
        if self._pid == os.getpid():
            self.prove()

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
                    # Without a condition the deletion could hit the lock of who comes next: then the lock stays. So it
                    # does where it names undo logs that are kept.
                    if self._objects.conditional_deletes and not self.littered and not self._body.objects:
                        self._delete()
                    elif self._body.state != "done":
                        self._swap(state="done")
                elif not self.late.possible:
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
