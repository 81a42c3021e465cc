"""The transaction protocol on an object store, as a model that is explored to its end.

The store has one mutable object ``lock``, which is lock and state of the transaction at once, the root document, chunks
of which the shape in that document makes the first ones visible, log objects ("parts"), and one more thing that each
transaction changes to and fro. `writer` and `recoverer` are the protocol, step by step; a ``yield`` is one request,
which may come to nothing, stay without an answer, or be carried out late. Numbers such as R5 or "attack 9" are those of
the list in ``docs/transactions.md``.

One rule goes through all of it: what a request that may still be under way rests on must not come true again. Either
it names what is never there twice (a body of the lock, a part, the root document of a longer cube), or that a chunk is
absent that nobody sees; or else it is waited out before the lock goes on to the next state (R7).

What the model takes for granted:

* A tag is the content itself. S3's ETag is the MD5 of the bytes, so the same bytes again have the same tag.
* Reads are repeated until they are answered, so only writes get lost.
* A request is built and signed before it is sent. A process that stands before a request has signed it; it may be
  stopped there for any time, which is the interleaving. When `quiet` has passed, the store refuses what was signed
  before: late requests are dropped, and so is the request of each process that stands before one. A lease is much
  less than that, so by its own clock each of them has to prove that it still has the lock before it writes (step 10).
* There is one copy of a request, unless its answer is lost: neither client nor transport repeats on its own.
* Whoever waits for a live holder could as well raise `Locked`: it has done nothing then, so that is left out.

Not in the model: several groups of the undo log, staged chunks (R11; they are put like the document that is changed to
and fro), changes by others, a lock that a person deletes, stores without conditions.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

from explorer import Automaton, Numbers, Program, Result, explore

__all__ = ["APPEND", "DELETION", "DOCUMENT", "HARMLESS", "IN_PLACE", "MUTATIONS", "Cast", "check"]

LOCK, ROOT, PLACE, ATTRIBUTES, RECURRING = "lock", "root", "in place", "attributes", "recurring"
CHUNKS = ("chunk 0", "chunk 1", "chunk 2", "chunk 3")
DATA = (ROOT, PLACE, ATTRIBUTES, RECURRING, *CHUNKS)

APPEND, IN_PLACE = "append", "append and change in place"
DOCUMENT, DELETION = "append and change a document", "append and delete"
"""What a transaction does. `IN_PLACE` changes a visible chunk, `DOCUMENT` a document, from one value to another and the
next time back. `DELETION` deletes a chunk and the next time writes it again, with the same bytes."""


def to_and_fro(root: tuple[str, ...]) -> str:
    """Return what is in the chunk or document that is changed to and fro, when the root document is `root`."""
    return "xo"[len(root) % 2]


OPEN, HOT, COMMIT, ABORT, DONE = "open", "hot", "commit", "abort", "done"
"""States of the lock: open → hot → commit → done, or hot → abort → done."""

DONE_SO, REFUSED, LOST = "carried out", "refused: condition does not hold", "no answer"
CHANGED, EXPIRED = "lock has changed", "lease has expired"

OK, FAILED, UNKNOWN, THERE, RECOVERED = "success", "failure", "outcome unknown", "refused: already in", "recovered"
BROKEN = "refuses to go on"

ANY = "whatever is there"
"""In place of a tag: the request has no condition."""

DECISION = "decision"
"""A separate object for the decision; there is none but in a mutation."""


class Body(NamedTuple):
    """What the lock object says.

    `term` and `nonce` make that no owner ever writes the same body twice: how often it has tried to get the lock, and
    how many bodies came before this one. (A program draws one random number.)
    `wait` tells that the next one has to let `quiet` pass before it takes this over; `undo` and `redo` name the parts
    that count; `txn` is whose transaction it is, which stays when another takes it over to settle it.
    """

    owner: str
    txn: str
    state: str
    term: int = 0
    nonce: int = 0
    wait: bool = False
    undo: Any = None
    redo: Any = None


class Get(NamedTuple):
    """Read `key`."""

    key: str


class List(NamedTuple):
    """List the names of all parts."""


class Put(NamedTuple):
    """Write `value`, if `key` has the content `tag` (``None``: if it is absent)."""

    key: Any
    value: Any
    tag: Any


class Delete(NamedTuple):
    """Delete `keys`, if they have the content `tag`."""

    keys: tuple[Any, ...]
    tag: Any


class Watch(NamedTuple):
    """Watch the lock until it is not `body` any more, or its lease, and with `wait` also `quiet`, have passed."""

    body: Body
    wait: bool


class Quiet(NamedTuple):
    """Wait until nothing that was sent before can be carried out any more."""


class AwaitWork(NamedTuple):
    """Wait for a lock or a part to be there: whoever finds none has nothing to recover."""


class OwnError(NamedTuple):
    """The process may fail by itself here, or be interrupted; the answer tells whether it does."""


class Broken(NamedTuple):
    """The process cannot go on."""

    why: str


Step = Generator[Any, Any, Any]
Wrong = frozenset[str]

MUTATIONS = (
    "decision is an object of its own",
    "decision is deleted before the undo log",
    "names of parts are used again",
    "lock body has no nonce",
    "an unanswered create is read back and used",
    "no proof between read and write",
    "chunks are put without condition",
    "lock is deleted without condition",
    "take over by delete and create",
    "lost commit is taken for an abort",
    "no quiet time after a lost undo request",
    "no quiet time after a lost document",
    "no quiet time after a lost deletion",
    "deletions before the commit",
    "no quiet time before a takeover of hot",
    "no quiet time before a takeover of abort",
    "no quiet time before a takeover of commit",
    "a change in place asks for no quiet time",
    "own abort does not wait for lost changes in place",
    "commit does not wait for lost changes in place",
    "own clock is not looked at before a write",
    "a stray is overwritten without asking for quiet time",
    "parts are collected without a proof",
    "chunks before the undo log counts",
    "documents before the commit",
    "commit is undone",
)

HARMLESS = ("documents are put without condition", "undo deletes without condition")
"""Conditions of which the quiet times make up for the lack, as long as nobody else changes the target: what a store
without conditional DELETE rests on."""


# The lock object.


def swap(seen: Body, wanted: Body, wrong: Wrong) -> Step:
    """Replace exactly `seen` by `wanted`; return the body that is ours now, or ``None`` if the lock is another's.

    A body of ours that is read back was ours when it was sent. For the own clock (step 10) the lease begins there.
    """
    tried: tuple[Body, ...] = ()
    while True:
        # R4, a fresh nonce for each attempt: no body is ever there twice, so a late swap finds its tag gone for ever,
        # and a body that is read back tells which attempt it was (attack 5).
        new = fresh(wanted, seen.nonce + 1 + len(tried), wrong)
        tried = (*tried, new)
        answer = yield Put(LOCK, new, seen)
        if answer == DONE_SO:
            return new
        now = yield Get(LOCK)
        if now in tried:
            return now
        if now != seen:
            return None


def fresh(body: Body, nonce: int, wrong: Wrong) -> Body:
    return body._replace(term=0, nonce=0) if "lock body has no nonce" in wrong else body._replace(nonce=nonce)


def prove(body: Body, wrong: Wrong) -> Step:
    """Show that the lock is still ours: a swap that changes nothing but the nonce."""
    return (yield from swap(body, body, wrong))


def create(me: str, term: int, wrong: Wrong) -> Step:
    """Make the lock object; return the body that is ours, or ``None`` if that is not known to have come about."""
    new = fresh(Body(me, me, OPEN, term), 0, wrong)
    answer = yield Put(LOCK, new, None)
    if answer == DONE_SO:
        return new
    now = yield Get(LOCK)
    if now != new:
        return None
    if "an unanswered create is read back and used" in wrong:
        return now
    # A copy of the request may create this very body again, when we have lost the lock and it is gone. So we do nothing
    # before we hold a body of which there can be no copy: one that we got an answer for.
    count = 0
    while now is not None and (now.owner, now.state, now.term) == (me, OPEN, term):
        count += 1
        newer = fresh(new, count, wrong)
        answer = yield Put(LOCK, newer, now)
        if answer == DONE_SO:
            return newer
        now = yield Get(LOCK)
    return None


def take_over(seen: Body, me: str, term: int, wrong: Wrong) -> Step:
    """Make the lock of a holder that is dead, or is taken for dead, our own."""
    if seen.state == OPEN:
        wanted = Body(me, me, OPEN, term)
    else:
        # The transaction stays that of its writer: decided it is finished, undecided it is aborted, and from then on
        # the writer's own swap to `commit` finds its tag gone (R2, attacks 1 and 2).
        is_undone = seen.state == HOT and not has_decision_object(wrong)
        is_undone = is_undone or "commit is undone" in wrong
        wanted = seen._replace(owner=me, term=term, state=ABORT if is_undone else seen.state)
    if "take over by delete and create" in wrong:
        yield Delete((LOCK,), ANY)
        answer = yield Put(LOCK, wanted._replace(nonce=seen.nonce + 1), None)
        return wanted._replace(nonce=seen.nonce + 1) if answer == DONE_SO else None
    # If-Match on exactly the body that was watched: of two that judge the same holder, one wins (attack 4).
    return (yield from swap(seen, wanted, wrong))


def acquire(me: str, wrong: Wrong) -> Step:
    """Take the lock, and settle what was found in it; return the body that is ours."""
    term = 0
    while True:
        seen = yield Get(LOCK)
        if seen is None:
            body = yield from create(me, term, wrong)
        elif seen.state == DONE or seen.owner == me:
            body = yield from swap(seen, Body(me, me, OPEN, term), wrong)
        else:
            # R7b: what the dead one was about to do, or has sent, may come late, and where it finds the bytes that it
            # expects it is carried out. A slice that is appended again has the same bytes and tags as before
            # (attack 9), and so has what was restored in place (attack 10). So that has to be waited out.
            wait = (
                (seen.state == HOT and seen.wait and "no quiet time before a takeover of hot" not in wrong)
                or (seen.state == ABORT and "no quiet time before a takeover of abort" not in wrong)
                or (seen.state == COMMIT and "no quiet time before a takeover of commit" not in wrong)
            )
            verdict = yield Watch(seen, wait)
            if verdict == CHANGED:
                continue
            body = yield from take_over(seen, me, term, wrong)
        if body is None:
            term += 1
            continue
        if body.state == HOT:
            body = yield from settle_by_object(body, wrong)
        elif body.state == ABORT:
            body = yield from undo(body, False, wrong)
        elif body.state == COMMIT:
            body = yield from apply(body, wrong)
        if body is not None:
            return body
        term += 1


# Writing and undoing.


def write_chunk(body: Body, key: str, value: str, found: Any, wrong: Wrong) -> Step:
    """Write `value` over `found`; return the body that is ours, or ``None``, and whether an answer was lost."""
    lost = False
    while True:
        # R6: absent → If-None-Match, present → If-Match, so that a late request finds something else (attack 7).
        answer = yield Put(key, value, ANY if "chunks are put without condition" in wrong else found)
        lost = lost or answer == LOST
        if answer == DONE_SO:
            return body, lost
        now = yield Get(key)
        if now == value:
            return body, lost
        if "no proof between read and write" not in wrong:
            # R5: read, prove, write. What was read before the proof was there while the lock was ours; a successor
            # that has written since has other bytes there, and the condition does not hold (attack 6).
            # The request will name bytes if there are any. A slice with these very bytes may be appended here after
            # we have aborted, so it must not come late: the proof also tells the next one to wait.
            names_bytes = now is not None and "a stray is overwritten without asking for quiet time" not in wrong
            body = yield from swap(body, body._replace(wait=body.wait or names_bytes), wrong)
            if body is None:
                return None, lost
        found = now


def undo(body: Body, lost: bool, wrong: Wrong) -> Step:
    """Give each logged key its pre-image; `lost` tells whether a change may still be under way."""
    images = yield Get(body.undo)
    if images is None:
        return (yield from part_is_missing(body, wrong))
    if lost and body.wait and "own abort does not wait for lost changes in place" not in wrong:
        # The bytes that we are going to restore are those for which that request waits (attack 10, for our own).
        yield Quiet()
    while True:
        differ: tuple[tuple[str, Any, Any], ...] = ()
        for key, image in images:
            found = yield Get(key)
            if found != image:
                differ = (*differ, (key, image, found))
        if not differ:
            return body
        if "no proof between read and write" not in wrong:
            # R5, as for chunks: nobody else may have written between our reading and our undoing.
            body = yield from prove(body, wrong)
            if body is None:
                return None
        uncertain = False
        for key, image, found in differ:
            if image is not None:
                answer = yield Put(key, image, found)
            else:
                # With a condition, where the store has one for DELETE, lest it hits the chunk of the next append
                # (attack 8). Where it has none, the quiet times below and before a takeover do that alone.
                answer = yield Delete((key,), ANY if "undo deletes without condition" in wrong else found)
            uncertain = uncertain or answer == LOST
        if uncertain and "no quiet time after a lost undo request" not in wrong:
            # R7a: it may come late, when the same slice has been appended again (attack 9).
            yield Quiet()


def part_is_missing(body: Body, wrong: Wrong) -> Step:
    """Stop, if another has settled this meanwhile; else refuse, since a part that is named must be there."""
    body = yield from prove(body, wrong)
    if body is not None and not has_decision_object(wrong):
        yield Broken("a log object that counts is missing")
    return None


def apply(body: Body, wrong: Wrong) -> Step:
    """Make the documents what the commit says, then delete; return the body that is ours, or ``None``."""
    redo = yield Get(body.redo)
    if redo is None:
        return (yield from part_is_missing(body, wrong))
    documents, gone = redo
    lost_document, lost_deletion = False, False
    for key, old, new in documents:  # the root document last: with it readers switch to the new state
        # With a condition, lest it takes a longer cube back (attack 7), or a change by others (attack 24).
        answer = yield Put(key, new, ANY if "documents are put without condition" in wrong else old)
        lost_document = lost_document or answer == LOST
        while answer != DONE_SO:
            now = yield Get(key)
            if now not in (old, new):
                return None  # somebody has finished this, and has gone on: the lock is not ours any more
            body = yield from prove(body, wrong)
            if body is None:
                return None
            if now == new:
                break
            answer = yield Put(key, new, old)
            lost_document = lost_document or answer == LOST
    # R10: what readers see is deleted only after the documents that promise it are gone.
    while gone is not None:
        answer = yield Delete((RECURRING,), gone)
        if answer == DONE_SO:
            break
        lost_deletion = lost_deletion or answer == LOST
        now = yield Get(RECURRING)
        if now != gone:
            break
        body = yield from prove(body, wrong)
        if body is None:
            return None
    # R7a, for what is committed: a request that is still under way may come when a later transaction has brought back
    # the document, or the chunk, that it names.
    if (lost_document and "no quiet time after a lost document" not in wrong) or (
        lost_deletion and "no quiet time after a lost deletion" not in wrong
    ):
        yield Quiet()
    return body


def commit(body: Body, wanted: Body, new: Any, wrong: Wrong) -> Step:
    """Swap hot → commit; return what became of it, and the body if it is ours."""
    tried: tuple[Body, ...] = ()
    while True:
        attempt = fresh(wanted, body.nonce + 1 + len(tried), wrong)
        tried = (*tried, attempt)
        answer = yield Put(LOCK, attempt, body)
        if answer == DONE_SO:
            return OK, attempt
        if answer == LOST and "lost commit is taken for an abort" in wrong:
            return FAILED, None
        if answer == REFUSED and len(tried) == 1:
            return FAILED, None  # who has the lock cleans up
        now = yield Get(LOCK)
        if now in tried:
            return OK, now
        if now == body:
            continue  # it may still come: absence proves nothing, so again until there is an answer (attack 14)
        if now is not None and now.txn == body.txn and now.state in (COMMIT, ABORT):
            return OK if now.state == COMMIT else FAILED, None
        root = yield Get(ROOT)
        return OK if root == new else UNKNOWN, None


def finish(body: Body, junk: tuple[Any, ...], wrong: Wrong) -> Step:
    """Remove parts and lock. Whatever fails here is only a warning, and left to the next one."""
    body = yield from swap(body, Body(body.owner, body.txn, DONE, body.term), wrong)
    if body is None:
        return
    # Parts until it is certain, as nobody looks for them where there is no lock. A lock that is left says `done`.
    answer = LOST if junk else DONE_SO
    while answer == LOST:
        answer = yield Delete(junk, ANY)
    yield Delete((LOCK,), ANY if "lock is deleted without condition" in wrong else body)  # attack 12


# The processes.


def recoverer(me: str, wrong: Wrong) -> Step:
    """Settle what is pending: ``zappend rollback``."""
    yield AwaitWork()
    body = yield from acquire(me, wrong)
    junk = yield List()
    yield from finish(body, junk, wrong)  # its first swap is the proof that what was listed is junk
    return RECOVERED


def writer(me: str, row: str, kind: str, wrong: Wrong) -> Step:
    """Append the slice `row`, and do what else is of this `kind`."""
    body = yield from acquire(me, wrong)
    if body.state != OPEN:
        body = yield from swap(body, Body(me, me, OPEN, body.term), wrong)
        if body is None:
            return FAILED
    # R3, the second half: what no lock body names is junk, and the holder collects it (attacks 3 and 11). What was
    # listed is deleted only after a proof: had the lock been lost before, it would be the successor's log.
    junk = yield List()
    if junk and "parts are collected without a proof" in wrong:
        yield Delete(junk, ANY)
        junk = ()

    # Read, under the lock, and plan. The new chunk is beyond the shape, so it is absent, as far as anybody can see.
    root = yield Get(ROOT)
    if row in root:
        yield from finish(body, junk, wrong)
        return THERE
    key, new = CHUNKS[len(root)], (*root, row)
    images: tuple[tuple[str, Any], ...] = ((key, None),)
    documents: tuple[tuple[str, Any, Any], ...] = ((ROOT, root, new),)
    before, gone = None, None
    if kind == DOCUMENT:
        before = yield Get(ATTRIBUTES)
        documents = ((ATTRIBUTES, before, to_and_fro(new)), *documents)
    if kind == IN_PLACE:
        before = yield Get(PLACE)
        images = ((PLACE, before), *images)
    if kind == DELETION and len(root) % 2 == 0:
        images = ((RECURRING, None), *images)
    if kind == DELETION and len(root) % 2 == 1:
        gone = yield Get(RECURRING)

    # The undo log: it counts, and is durable, before anything changes.
    hot = body._replace(state=HOT, wait=kind == IN_PLACE and "a change in place asks for no quiet time" not in wrong)
    if "chunks before the undo log counts" in wrong:
        body, _ = yield from write_chunk(body, key, row, None, wrong)
        if body is None:
            return FAILED
    part = yield from put_part("undo", me, images, wrong)
    # R5: this swap is also the proof that the lock was ours while we read.
    body = yield from swap(body, hot._replace(undo=part), wrong)
    if body is None:
        return FAILED
    if junk:
        yield Delete(junk, ANY)

    # Chunks. A reader does not see what is beyond the shape.
    lost = False
    if kind == IN_PLACE:
        body, lost = yield from write_chunk(body, PLACE, to_and_fro(new), before, wrong)
    if kind == DELETION and gone is None:
        body, lost = yield from write_chunk(body, RECURRING, "o", None, wrong)
    if body is None:
        return FAILED
    body, also_lost = yield from write_chunk(body, key, row, None, wrong)
    if body is None:
        return FAILED
    if "documents before the commit" in wrong:
        yield Put(ROOT, new, root)
    if "deletions before the commit" in wrong and gone is not None:
        yield Delete((RECURRING,), gone)
    is_failing = yield OwnError()
    if is_failing:
        body = yield from swap(body, body._replace(state=ABORT), wrong)
        if body is not None:
            body = yield from undo(body, lost or also_lost, wrong)
        if body is not None:
            yield from finish(body, (part,), wrong)
        return FAILED

    # The decision: one swap, which no stale one can follow (R2), names what is needed to finish.
    redo = yield from put_part("redo", me, (documents, gone), wrong)
    if has_decision_object(wrong):
        return (yield from commit_by_object(body, redo, root, new, wrong))
    outcome, body = yield from commit(body, body._replace(state=COMMIT, redo=redo), new, wrong)
    if body is None:
        return outcome
    body = yield from apply(body, wrong)
    if body is not None:
        if (lost or also_lost) and body.wait and "commit does not wait for lost changes in place" not in wrong:
            # The next transaction may bring back the bytes for which that request waits.
            yield Quiet()
        yield from finish(body, (part, redo), wrong)
    return OK


def put_part(kind: str, me: str, content: Any, wrong: Wrong) -> Step:
    """Write a log object; return its name.

    R3: the name carries transaction and attempt and is used once, so a late copy overwrites nothing and counts for
    nothing (attack 3).
    """
    attempt = 0
    while True:
        name = (kind,) if "names of parts are used again" in wrong else (kind, me, attempt)
        answer = yield Put(name, content, ANY)
        if answer == DONE_SO:
            return name
        attempt += 1


# Mutation: the decision is an object that is made once, and deleted at the end, as it would be on a file system.


def has_decision_object(wrong: Wrong) -> bool:
    return not wrong.isdisjoint(("decision is an object of its own", "decision is deleted before the undo log"))


def commit_by_object(body: Body, redo: Any, root: Any, new: Any, wrong: Wrong) -> Step:
    body = yield from swap(body, body._replace(redo=redo), wrong)
    if body is None:
        return FAILED
    answer = yield Put(DECISION, (body.txn, COMMIT), None)
    decision = (body.txn, COMMIT) if answer == DONE_SO else (yield Get(DECISION))
    if decision != (body.txn, COMMIT):
        return FAILED if answer == REFUSED else UNKNOWN
    yield Put(ROOT, new, root)
    yield from finish_by_object(body, wrong)
    return OK


def settle_by_object(body: Body, wrong: Wrong) -> Step:
    images = yield Get(body.undo)
    if images is not None:
        decision = yield Get(DECISION)
        if decision is None:
            answer = yield Put(DECISION, (body.txn, ABORT), None)
            decision = (body.txn, ABORT) if answer == DONE_SO else (yield Get(DECISION))
        if decision == (body.txn, COMMIT):
            body = yield from apply(body, wrong)
        else:
            body = yield from undo(body, False, wrong)
    if body is not None:
        yield from finish_by_object(body, wrong)
    return None  # all is gone, the lock too: from the start


def finish_by_object(body: Body, wrong: Wrong) -> Step:
    first: tuple[Any, ...] = (body.undo,)
    second: tuple[Any, ...] = (DECISION, body.redo)
    if "decision is deleted before the undo log" in wrong:
        first, second = second, first
    yield Delete(first, ANY)
    yield Delete(second, ANY)
    yield Delete((LOCK,), body)


# The world around them.

Content = frozenset[tuple[Any, Any]]
"""Keys of the store and what they hold."""

DEAD = -1
"""The node of a process that has crashed."""


@dataclass(frozen=True)
class Cast:
    """Who acts in an exploration, and what may go wrong how often.

    Attributes
    ----------
    rows
        The slice that each process appends; empty: it only recovers. The first one begins.
    kind
        What the transactions do.
    stray
        What lies beyond the shape at first.
    crashes
        Processes that crash while another waits for them. (At the end of each state all of them crash anyway.)
    breaks
        Live processes that are judged dead. They go on.
    faults
        Requests that are not answered: carried out or not, and either way perhaps once more at any later time.
    errors
        Writers that fail by themselves, and abort.
    """

    rows: tuple[str, ...]
    kind: str = APPEND
    stray: str = ""
    crashes: int = 0
    breaks: int = 0
    faults: int = 0
    errors: int = 0

    def __str__(self) -> str:
        actors = ", ".join(f"writer of {row}" if row else "recoverer" for row in self.rows)
        stray = ", over a stray chunk" if self.stray else ""
        return (
            f"{self.kind}{stray}: {actors}; {self.crashes} crashes, {self.breaks} wrong breaks, "
            f"{self.faults} unanswered requests, {self.errors} own errors"
        )


State = tuple[int, ...]
"""Number of the store's content, number of the late requests, bits of the processes whose last proof is too old, what
may still go wrong (crashes, breaks, faults, errors), then the node of each process."""

FIRST_NODE = 7


class Model:
    """All runs of a cast."""

    def __init__(self, cast: Cast, wrong: Wrong = frozenset()) -> None:
        self.cast = cast
        self._wrong = wrong
        self._automaton = Automaton()
        self._contents: Numbers[Content] = Numbers()
        self._late: Numbers[tuple[Any, ...]] = Numbers()
        self._late.of(())
        self._names = "ABCDE"[: len(cast.rows)]
        self._labels: dict[int, str] = {}
        self._reports = {DEAD: UNKNOWN}
        self._steps: dict[tuple[int, int], tuple[int, int]] = {}
        self.outcomes: set[str] = set()
        self.left = [cast.crashes, cast.breaks, cast.faults, cast.errors]
        self._runs: dict[tuple[str, str, int, int], tuple[int, int, str]] = {}
        self._verdicts: dict[tuple[Any, ...], str] = {}
        content = {ROOT: ("o",), CHUNKS[0]: "o"}
        if cast.kind == IN_PLACE:
            content[PLACE] = "o"
        if cast.kind == DOCUMENT:
            content[ATTRIBUTES] = "o"
        if cast.kind == DELETION:
            content[RECURRING] = "o"
        if cast.stray:
            content[CHUNKS[1]] = cast.stray
        nodes = [
            self._automaton.start(self._program(name, row)) for name, row in zip(self._names, cast.rows, strict=True)
        ]
        self._first = nodes[0]
        self.start: State = (
            self._contents.of(frozenset(content.items())),
            0,
            0,
            cast.crashes,
            cast.breaks,
            cast.faults,
            cast.errors,
            *nodes,
        )

    def _program(self, name: str, row: str) -> Program:
        if row:
            return partial(writer, name, row, self.cast.kind, self._wrong)
        return partial(recoverer, name, self._wrong)

    # Steps.

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        """Return each step that somebody can take."""
        content, late, stale, crashes, breaks, faults, errors, *nodes = state
        for index, node in enumerate(nodes):
            request = None if node == DEAD else self._automaton.requests[node]
            if request is None or (index and nodes[0] == self._first):
                continue
            label = self._label(index, node)
            mine = 1 << index
            before, behind = nodes[:index], nodes[index + 1 :]
            left = crashes, breaks, faults, errors
            kind = type(request)
            if kind is Put or kind is Delete:
                unanswered = self._automaton.after(node, LOST)
                if (
                    stale & mine
                    and _is_data(request)
                    and "own clock is not looked at before a write" not in self._wrong
                ):
                    # Step 10: by its own clock its last proof is older than a lease, so it proves first.
                    yield f"{label}: not sent, too late", (content, late, stale, *left, *before, unanswered, *behind)
                    continue
                proved = stale & ~mine if _is_lock(request) else stale
                store, to = self._step(content, node)
                yield label, (store, late, proved, *left, *before, to, *behind)
                if faults:
                    copies = self._with_late(late, request)
                    left = crashes, breaks, faults - 1, errors
                    yield f"{label}: on its way", (content, copies, proved, *left, *before, unanswered, *behind)
                    yield (
                        f"{label}: carried out, no answer, a copy on its way",
                        (store, copies, proved, *left, *before, unanswered, *behind),
                    )
            elif kind is Watch:
                for how, after in self._judge(state, index, request):
                    yield f"{label}: {how}", after
            elif kind is Quiet:
                to = self._automaton.after(node, None)
                yield label, self._waited((content, late, stale, *left, *before, to, *behind), index)
            elif kind is OwnError:
                to = self._automaton.after(node, False)
                yield f"{label}: no", (content, late, stale, *left, *before, to, *behind)
                if errors:
                    to = self._automaton.after(node, True)
                    left = crashes, breaks, faults, errors - 1
                    yield f"{label}: yes", (content, late, stale, *left, *before, to, *behind)
            elif kind is not Broken and (kind is not AwaitWork or self._has_work(content)):
                _, to = self._step(content, node)
                yield label, (content, late, stale, *left, *before, to, *behind)
        for number, request in enumerate(self._late.values[late]):
            rest = self._late.values[late][:number] + self._late.values[late][number + 1 :]
            store, _ = self._perform(content, request)
            yield f"late: {request}", (store, self._late.of(rest), *state[2:])

    def _label(self, index: int, node: int) -> str:
        if node not in self._labels:
            self._labels[node] = f"{self._names[index]}: {self._automaton.requests[node]}"
        return self._labels[node]

    def _judge(self, state: State, index: int, watch: Watch) -> Iterator[tuple[str, State]]:
        """Tell whether the holder that process `index` watches is dead."""
        content, late, stale, crashes, breaks, faults, errors, *nodes = state
        if self._at(content, LOCK) != watch.body:
            nodes[index] = self._automaton.after(nodes[index], CHANGED)
            yield "it has changed", (*state[:FIRST_NODE], *nodes)
            return
        nodes[index] = self._automaton.after(nodes[index], EXPIRED)
        owner = self._names.index(watch.body.owner)
        holder = nodes[owner]
        verdicts = []
        if holder == DEAD or self._automaton.requests[holder] is None:
            verdicts.append(("expired", crashes, breaks, holder))
        else:
            if breaks:
                verdicts.append(("expired, although the holder lives", crashes, breaks - 1, holder))
            if crashes:
                # A crash shows only here: before, it looks like a process that does nothing for a while.
                verdicts.append(("expired, the holder has crashed", crashes - 1, breaks, DEAD))
        for how, crashes_left, breaks_left, holder_then in verdicts:
            nodes[owner] = holder_then
            after = (content, late, stale, crashes_left, breaks_left, faults, errors, *nodes)
            yield how, self._waited(after, index) if watch.wait else after

    def _waited(self, state: State, index: int) -> State:
        """Return what there is after process `index` has let `quiet` pass.

        What others had signed before is refused, and by their own clocks they have to prove before they write.
        """
        nodes = [
            node
            if number == index or node == DEAD or not isinstance(self._automaton.requests[node], (Put, Delete))
            else self._automaton.after(node, LOST)
            for number, node in enumerate(state[FIRST_NODE:])
        ]
        everybody, mine = (1 << len(nodes)) - 1, 1 << index
        return (state[0], 0, state[2] | (everybody & ~mine), *state[3:FIRST_NODE], *nodes)

    def _step(self, content: int, node: int) -> tuple[int, int]:
        """Return what the request at `node` makes of the store, and the node to which its answer leads."""
        if (content, node) not in self._steps:
            store, answer = self._perform(content, self._automaton.requests[node])
            self._steps[content, node] = store, self._automaton.after(node, answer)
        return self._steps[content, node]

    def _perform(self, number: int, request: Any) -> tuple[int, Any]:
        content = dict(self._contents.values[number])
        match request:
            case Get(key):
                return number, content.get(key)
            case List():
                return number, _parts(content)
            case Put(key, value, tag):
                if tag != ANY and content.get(key) != tag:
                    return number, REFUSED
                content[key] = value
            case Delete(keys, tag):
                if tag != ANY and content.get(keys[0]) != tag:
                    return number, REFUSED
                for key in keys:
                    content.pop(key, None)
            case _:
                return number, None
        return self._contents.of(frozenset(content.items())), DONE_SO

    def _with_late(self, late: int, request: Any) -> int:
        return self._late.of(tuple(sorted((*self._late.values[late], request), key=repr)))

    def _at(self, content: int, key: Any) -> Any:
        return dict(self._contents.values[content]).get(key)

    def _has_work(self, content: int) -> bool:
        keys = dict(self._contents.values[content])
        return LOCK in keys or bool(_parts(keys))

    # Invariants.

    def invariant(self, state: State) -> str:
        """Tell what is wrong in `state`, for readers at this moment, and whatever may follow if all crash here."""
        self.left = list(map(min, self.left, state[3:FIRST_NODE]))
        reports = tuple([self._report(node) for node in state[FIRST_NODE:]])
        key = state[0], state[1], reports, self._is_disturbed(state)
        if key not in self._verdicts:
            self.outcomes.update(reports)
            self._verdicts[key] = self._judgement(*key)
        return self._verdicts[key]

    def _report(self, node: int) -> str:
        if node not in self._reports:
            request, result = self._automaton.requests[node], self._automaton.results[node]
            self._reports[node] = f"{BROKEN}: {request.why}" if isinstance(request, Broken) else result or UNKNOWN
        return self._reports[node]

    def _judgement(self, content: int, late: int, reports: tuple[str, ...], disturbed: bool) -> str:
        broken = next((report for report in reports if report.startswith(BROKEN)), "")
        promised = self._promised(dict(self._contents.values[content]))
        return broken or promised or self._aftermath(content, late, reports, disturbed)

    def at_end(self, state: State) -> str:
        """Tell what is left when everybody has ended by himself, after no fault but errors of their own."""
        content = dict(self._contents.values[state[0]])
        if self._is_disturbed(state) or DEAD in state[FIRST_NODE:]:
            return ""
        left = [key for key in content if key not in DATA]
        return f"all have ended, and there is left: {left}" if left else ""

    def _is_disturbed(self, state: State) -> bool:
        """Whether a chunk beyond the shape, or junk, may be left: by a late request, or by one who lost the lock."""
        return state[4] < self.cast.breaks or state[5] < self.cast.faults or bool(self.cast.stray)

    def _aftermath(self, content: int, late: int, reports: tuple[str, ...], disturbed: bool) -> str:
        """Crash everybody; recover and append again without faults, while late requests are carried out somewhere."""
        settled, late, wrong = self._alone("X", "", content, late)
        if wrong := wrong or self._unsound(settled, reports, clean=True, strays=disturbed):
            return f"everybody crashes, then rollback: {wrong}"
        root = dict(self._contents.values[settled])[ROOT]
        requests = self._late.values[late]
        for row in ("z", *(row for row in dict.fromkeys(self.cast.rows) if row and row not in root)):
            for order in permutations(requests):
                end = settled
                for request in order:
                    end, _ = self._perform(end, request)
                    if wrong := self._unsound(end, reports):
                        return f"everybody crashes, rollback, late {request}: {wrong}"
                end, _, wrong = self._alone("Y", row, end, 0)
                if wrong := wrong or self._unsound(end, (*reports, OK), (row,), clean=True):
                    return f"everybody crashes, rollback, late requests, append of {row}: {wrong}"
            end, left, wrong = self._alone("Y", row, settled, late)
            for order in permutations(self._late.values[left]):
                for request in order:
                    end, _ = self._perform(end, request)
                    if wrong := wrong or self._unsound(end, (*reports, OK), (row,)):
                        return f"everybody crashes, rollback, append of {row}, late {request}: {wrong}"
            end, _, wrong = self._alone("Z", "", end, 0)
            if wrong := wrong or self._unsound(end, (*reports, OK), (row,), clean=True):
                return f"everybody crashes, rollback, append of {row}, late requests, rollback: {wrong}"
        return ""

    def _alone(self, name: str, row: str, content: int, late: int) -> tuple[int, int, str]:
        """Run one process without faults; return store and late requests after it, and what is wrong."""
        key = name, row, content, late
        if key not in self._runs:
            self._runs[key] = self._run(*key)
        return self._runs[key]

    def _run(self, name: str, row: str, content: int, late: int) -> tuple[int, int, str]:
        node = self._automaton.start(self._program(name, row))
        for _ in range(200):
            request = self._automaton.requests[node]
            if request is None:
                result = self._automaton.results[node]
                return content, late, "" if result in (OK, RECOVERED) else f"{name} ends with: {result}"
            if isinstance(request, Broken):
                return content, late, request.why
            if isinstance(request, AwaitWork) and not self._has_work(content):
                return content, late, ""
            if isinstance(request, Watch):
                late = 0 if request.wait else late
                node = self._automaton.after(node, EXPIRED)
            elif isinstance(request, OwnError):
                node = self._automaton.after(node, False)
            else:
                late = 0 if isinstance(request, Quiet) else late
                content, node = self._step(content, node)
        return content, late, f"{name} does not end"

    def _promised(self, content: dict[Any, Any]) -> str:
        """Tell what a reader of the document misses. A chunk that is changed in place is not isolated from readers."""
        root = content[ROOT]
        for key, row in zip(CHUNKS, root, strict=False):
            if content.get(key) != row:
                return f"the document promises {row} in {key}, which holds {content.get(key)}"
        if self.cast.kind == DELETION and len(root) % 2 and content.get(RECURRING) != "o":
            return f"the document promises a recurring chunk, which holds {content.get(RECURRING)}"
        return ""

    def _unsound(
        self,
        number: int,
        reports: tuple[str, ...],
        more: tuple[str, ...] = (),
        clean: bool = False,
        strays: bool = True,
    ) -> str:
        """Tell what is wrong when nobody is at work; with `clean`, of the log nothing may be left."""
        content = dict(self._contents.values[number])
        root = content[ROOT]
        if wrong := self._promised(content):
            return wrong
        for kind, key in ((IN_PLACE, PLACE), (DOCUMENT, ATTRIBUTES)):
            if self.cast.kind == kind and content.get(key) != to_and_fro(root):
                return f"{key} is {content.get(key)}, with {root}"
        ends: dict[str, set[str]] = {}
        for row, report in zip((*self.cast.rows, *more), reports, strict=True):
            ends.setdefault(row, set()).add(report)
        ends.pop("", None)
        # Two writers of one slice cannot be told apart by what is there: it is in, once, if any of them succeeded.
        for row, reported in ends.items():
            if reported & {OK, THERE} and root.count(row) != 1:
                return f"append of {row} was reported as success, and is in {root.count(row)} times"
            if not reported & {OK, UNKNOWN} and row in root:
                return f"append of {row} was reported as failure, and is in"
        if len(set(root)) != len(root):
            return f"a slice is in twice: {root}"
        if clean and (left := [key for key in content if key not in DATA]):
            return f"left over: {left}"
        beyond = (*CHUNKS[len(root) :], *([] if len(root) % 2 else [RECURRING]))
        if not strays and (left := [key for key in beyond if key in content]):
            return f"stray chunk: {left}"
        return ""


def _is_lock(request: Any) -> bool:
    return isinstance(request, Put) and request.key == LOCK


def _is_data(request: Any) -> bool:
    return request.key in DATA if isinstance(request, Put) else request.keys[0] in DATA


def _parts(content: dict[Any, Any]) -> tuple[Any, ...]:
    return tuple(sorted(key for key in content if isinstance(key, tuple)))


def check(cast: Cast, *wrong: str) -> Result:
    """Explore all runs of `cast`, with the protocol changed as `wrong` says."""
    unknown = set(wrong) - {*MUTATIONS, *HARMLESS}
    assert not unknown, unknown
    model = Model(cast, frozenset(wrong))
    result = explore(model.start, model.successors, model.invariant, model.at_end)
    result.unused = sum(model.left)
    result.outcomes = model.outcomes
    return result
