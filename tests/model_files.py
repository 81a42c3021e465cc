"""The transaction protocol on a local file system, as a model that is explored to its end.

`writer` and `recoverer` do what ``zappend.txn`` does with durability "full", call by call; a ``yield`` is one system
call. They come one after another, since `flock` lets no two in and frees the lock of the dead. At any moment the
process can be killed, or the power cut. A power cut keeps, of the changes to folders that were not synced, any subset,
and of each file that was not synced the whole or a torn piece. Rules and attacks are those of ``docs/transactions.md``.

Not in the model: several groups of the undo log, staged chunks (R11), changes by others, errors
of calls.

What the model takes for granted: a rename is one change of a folder; what was synced stays; a folder of a removed and
newly made name is the same, so that more can be reborn in it than on a real disk.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from explorer import Automaton, Numbers, Program, Result, explore

__all__ = ["APPEND", "CREATE", "DELETION", "IN_PLACE", "MUTATIONS", "Cast", "check"]

HOME, TARGET, LOG = "", "T", "T.zappend"
"""The folder around all, that of the target, and the place of its log."""

ROOT, PLACE, RECURRING = "T/root", "T/in place", "T/c0/recurring"
LOCK, HEAD, DECISION = "T.zappend/lock", "T.zappend/undo", "T.zappend/decision"

APPEND, CREATE = "append", "create"
IN_PLACE, DELETION = "append and change in place", "append and delete"
"""What a transaction does. With `CREATE` there is no target at first. With `DELETION` it also deletes a chunk, or if
that is absent writes it again: documents of odd length promise it."""

OK, FAILED, UNKNOWN, RECOVERED = "success", "failure", "outcome unknown", "recovered"

MUTATIONS = (
    "head is not synced before chunks",
    "undo part is written after the head",
    "chunks are written before the head",
    "bytes of chunks are not synced before the decision",
    "entries of chunks are not synced before the decision",
    "parent of the place is not synced",
    "parent of a new folder is not synced",
    "documents before the decision",
    "decision before the redo part",
    "decision is not synced before documents",
    "documents are not synced before deletions",
    "deletions before the decision",
    "deletions before documents",
    "documents are not synced before the head goes",
    "head is unlinked without a sync",
    "decision is unlinked before the head",
    "recovery does not sync the log that it found",
    "recovery does not sync what the dead one did",
    "recovery leaves temporary files",
    "recovery leaves folders",
    "a decision without a head is carried out",
    "a decision of another transaction counts",
    "a committed transaction is undone",
)


class File(NamedTuple):
    """A file: what it holds, an inode that tells it from others with the same content, whether it is synced."""

    content: Any
    inode: int = -1
    synced: bool = True


FOLDER = File("folder")
TORN = File("torn")


class Mkdir(NamedTuple):
    """Make a folder, which may be there; answers whether its parent is."""

    path: str


class Write(NamedTuple):
    """Open and write a file of our own name; answers whether its folder is there."""

    path: str
    content: Any


class Fsync(NamedTuple):
    """Sync a file, or the entries of a folder."""

    path: str


class Rename(NamedTuple):
    """Give a file another name in its folder."""

    path: str
    to: str


class Link(NamedTuple):
    """Give a file a second name in its folder."""

    path: str
    to: str


class Unlink(NamedTuple):
    """Remove a file, if it is there."""

    path: str


class Rmdir(NamedTuple):
    """Remove a folder, if it is there and empty."""

    path: str


class Read(NamedTuple):
    """Read a file; ``None``: it is definitely not there."""

    path: str


class Names(NamedTuple):
    """List the files of a folder; ``None``: it is not there."""

    path: str


class OwnError(NamedTuple):
    """The process may fail by itself here; the answer tells whether it does."""


class Broken(NamedTuple):
    """The process refuses to go on."""

    why: str


Step = Generator[Any, Any, Any]
Wrong = frozenset[str]
Folders = frozenset[str]
"""Folders in which an entry was changed, to be synced."""


class Undo(NamedTuple):
    """The head of the undo log: it names its transaction, and has the pre-images and the folders that will be made, or
    the name of the part that has them.
    """

    txn: str
    images: Any
    part: str | None


class Redo(NamedTuple):
    """The decision: it names its transaction and its part."""

    txn: str
    part: str


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def temp_of(path: str, txn: str) -> str:
    """Return the name of the temporary file: it follows from transaction and key, so recovery finds it (attack 49)."""
    return f"{parent(path)}/~{txn}-{path.rpartition('/')[2]}"


def chunk_of(index: int) -> tuple[str, str]:
    """Return a chunk and its folder, which is made for it."""
    return f"T/c{index}/0", f"T/c{index}"


# Files.


def put(path: str, content: Any, txn: str, dirty: Folders, wrong: Wrong, *, is_chunk: bool = False) -> Step:
    """Write a file whole or not at all; return the folders that are now to be synced."""
    temp = temp_of(path, txn)
    is_there = yield Write(temp, content)
    if not is_there:
        made = yield from make_folder(parent(path))
        if "parent of a new folder is not synced" not in wrong:
            dirty |= made  # R9: without its own entry the folder is lost with all in it (attack 19)
        yield Write(temp, content)
    if not is_chunk or "bytes of chunks are not synced before the decision" not in wrong:
        yield Fsync(temp)
    yield Rename(temp, path)
    return dirty | {parent(path)}


def make_folder(folder: str) -> Step:
    """Make a folder in the target, and the target if need be; return the folders that are now to be synced."""
    is_made = yield Mkdir(folder)
    if is_made:
        return frozenset({parent(folder)})
    yield Mkdir(TARGET)
    yield Mkdir(folder)
    return frozenset({parent(folder), HOME})


def create(path: str, content: Any, txn: str) -> Step:
    """Write a file that must not be there yet."""
    temp = temp_of(path, txn)
    yield Write(temp, content)
    yield Fsync(temp)
    yield Link(temp, path)
    yield Unlink(temp)


def sync(folders: Folders) -> Step:
    for folder in sorted(folders):
        yield Fsync(folder)


# The log.


def sweep(dirty: Folders, wrong: Wrong) -> Step:
    """Remove the log: the head first, durably; what is left without a head is inert."""
    names = yield Names(LOG)
    found = tuple(name for name in names if name != LOCK)
    if "decision is unlinked before the head" in wrong and DECISION in found:
        yield Unlink(DECISION)
    if HEAD in found:
        # R1: were the decision gone, and the head still there or reborn, a committed transaction would be undone
        # (attacks 16 and 17).
        yield Unlink(HEAD)
        if "head is unlinked without a sync" not in wrong:
            yield from sync(dirty | {LOG})
    elif found:
        yield from harden()
    for name in found:
        if name != HEAD:
            yield Unlink(name)


def harden() -> Step:
    """Sync what was found here, the entry of the place too."""
    names = yield Names(LOG)
    for name in names:
        yield Fsync(name)
    yield Fsync(LOG)
    yield Fsync(HOME)


# Settling.


def settle(wrong: Wrong) -> Step:
    """Undo what is pending, or finish it if it is decided."""
    head = yield Read(HEAD)
    if head is not None and "recovery does not sync the log that it found" not in wrong:
        # R8: a decision that is seen, but not durable, may be gone after a power cut, when documents are already new
        # (attack 18).
        yield from harden()
    decision = yield Read(DECISION)
    if head is None:
        if decision is not None and "a decision without a head is carried out" in wrong:
            yield from apply(decision, frozenset(), wrong)
        yield from sweep(frozenset(), wrong)
        return
    if TORN.content in (head, decision):
        yield Broken("the log is damaged")
    images = head.images
    if head.part is not None:
        images = yield Read(head.part)
        if images in (None, TORN.content):
            yield Broken("a part of the undo log is missing or damaged")
    dirty: Folders = frozenset()
    if "recovery does not sync what the dead one did" not in wrong:
        # It was killed before it could, and what we find done we do not do, and sync, again.
        dirty = frozenset({HOME, TARGET, *(parent(path) for path, _ in images[0])})
    # R3: a decision counts only beside the head of the same transaction; another is an old one, reborn (attack 20).
    is_decided = decision is not None
    if is_decided and "a decision of another transaction counts" not in wrong:
        is_decided = decision.txn == head.txn
    if is_decided and "a committed transaction is undone" not in wrong:
        yield from apply(decision, dirty, wrong)
    else:
        yield from undo(head.txn, images, dirty, wrong)
    yield from sweep(frozenset({HOME}), wrong)


def undo(txn: str, log: Any, dirty: Folders, wrong: Wrong) -> Step:
    """Give each logged file its pre-image, and remove the folders that were made."""
    images, folders = log
    for path, image in images:
        if image is None:
            yield Unlink(path)
            if "recovery leaves temporary files" not in wrong:
                yield Unlink(temp_of(path, txn))
            dirty |= {parent(path)}
    for path, image in images:
        if image is not None:
            dirty = yield from put(path, image, txn, dirty, frozenset())
    for folder in folders:
        if "recovery leaves folders" not in wrong:
            yield Rmdir(folder)
            dirty |= {parent(folder)}
    yield from sync(dirty)  # a folder that is gone is passed over, but that it is gone is an entry of its parent


def apply(decision: Redo, dirty: Folders, wrong: Wrong) -> Step:
    """Make the documents what the decision says, then delete."""
    redo = yield Read(decision.part)
    if redo in (None, TORN.content):
        yield Broken("a part of the decision is missing or damaged")
    root, gone = redo
    if gone is not None and "deletions before documents" in wrong:
        yield Unlink(gone)
    now = yield Read(ROOT)
    if now != root:
        dirty = yield from put(ROOT, root, decision.txn, dirty, wrong)
    if gone is not None:
        # R10: what readers see is deleted only after the documents that promise it are gone, and that durably, or else
        # after a power cut they are back without it until somebody recovers.
        if "documents are not synced before deletions" not in wrong:
            yield from sync(dirty)
            dirty = frozenset()
        yield Unlink(gone)
        dirty |= {parent(gone)}
    if "documents are not synced before the head goes" not in wrong:
        yield from sync(dirty)


# The processes.


def acquire() -> Step:
    yield Mkdir(LOG)
    yield Write(LOCK, "holder")


def release() -> Step:
    yield Unlink(LOCK)
    yield Rmdir(LOG)


def recoverer(me: str, wrong: Wrong) -> Step:
    """Settle what is pending: ``zappend rollback``."""
    names = yield Names(LOG)
    if names is not None:
        yield from acquire()
        yield from settle(wrong)
        yield from release()
    return RECOVERED


def writer(me: str, row: str, kind: str, wrong: Wrong) -> Step:
    """Append the slice `row`, and do what else is of this `kind`; with `IN_PLACE` the log has more than its head."""
    yield from acquire()
    yield from settle(wrong)
    root = yield Read(ROOT)
    root = root or ()
    path, folder = chunk_of(len(root))
    folders = (folder,) if root else (folder, TARGET)
    images: tuple[tuple[str, Any], ...] = ((path, None),)
    chunks: tuple[tuple[str, Any], ...] = ((path, row),)
    gone = RECURRING if kind == DELETION and len(root) % 2 == 1 else None
    if kind == IN_PLACE:
        before = yield Read(PLACE)
        images, chunks = ((PLACE, before), *images), ((PLACE, row), *chunks)
    if kind == DELETION and gone is None:
        images, chunks = ((RECURRING, None), *images), ((RECURRING, "o"), *chunks)
    if "chunks are written before the head" in wrong:
        yield from put_chunks(me, chunks, wrong)

    # The undo log, durable before anything changes; R9: with the entry of its folder, else all of it is lost.
    outer = frozenset() if "parent of the place is not synced" in wrong else frozenset({HOME})
    log = images, folders
    head, undo_part, redo_part = Undo(me, log, None), f"{LOG}/undo-{me}", f"{LOG}/redo-{me}"
    if kind == IN_PLACE:
        head = Undo(me, None, undo_part)
    if kind == IN_PLACE and "undo part is written after the head" not in wrong:
        # A part is inert until the head names it (attack 23).
        dirty = yield from put(undo_part, log, me, outer, wrong)
        yield from sync(dirty)
        outer = frozenset()
    dirty = yield from put(HEAD, head, me, outer, wrong)
    if "head is not synced before chunks" not in wrong:
        yield from sync(dirty)
    if kind == IN_PLACE and "undo part is written after the head" in wrong:
        dirty = yield from put(undo_part, log, me, outer, wrong)
        yield from sync(dirty)

    dirty = yield from put_chunks(me, chunks, wrong)
    is_failing = yield OwnError()
    if is_failing:
        yield from undo(me, log, dirty, wrong)
        yield from sweep(frozenset(), wrong)
        yield from release()
        return FAILED
    if "deletions before the decision" in wrong and gone is not None:
        yield Unlink(gone)
    if "documents before the decision" in wrong:
        dirty = yield from put(ROOT, (*root, row), me, dirty, wrong)

    # The decision: after it nothing is undone, so all that it counts on must be durable.
    if "entries of chunks are not synced before the decision" not in wrong:
        yield from sync(dirty)
    decision = Redo(me, redo_part)
    if "decision before the redo part" in wrong:
        yield from create(DECISION, decision, me)
        yield Fsync(LOG)
    yield from put(redo_part, ((*root, row), gone), me, frozenset(), wrong)
    yield Fsync(LOG)
    if "decision before the redo part" not in wrong:
        yield from create(DECISION, decision, me)
        if "decision is not synced before documents" not in wrong:
            yield Fsync(LOG)

    yield from apply(decision, frozenset(), wrong)
    yield from sweep(frozenset(), wrong)
    yield from release()
    return OK


def put_chunks(me: str, chunks: tuple[tuple[str, Any], ...], wrong: Wrong) -> Step:
    dirty: Folders = frozenset()
    for path, value in chunks:
        dirty = yield from put(path, value, me, dirty, wrong, is_chunk=True)
    return dirty


# The disk.

Entries = dict[str, File]
"""Paths and what lies there."""

Change = tuple[str, tuple[tuple[str, File | None], ...]]
"""A folder that is not synced, and what changes in it at once: paths, and what lies there then."""

Disk = tuple[frozenset[tuple[str, File]], tuple[Change, ...]]
"""What is durable, and the changes since, in order."""


def seen(disk: Disk) -> Entries:
    """Return what processes see."""
    entries = dict(disk[0])
    for _, changes in disk[1]:
        _change(entries, changes)
    return entries


def after_power_cut(disk: Disk) -> Iterator[Disk]:
    """Return all that a power cut may leave."""
    durable, pending = disk
    found: set[frozenset[tuple[str, File]]] = set()
    for kept in product((False, True), repeat=len(pending)):
        entries = dict(durable)
        for is_kept, (_, changes) in zip(kept, pending, strict=True):
            if is_kept:
                _change(entries, changes)
        found.add(frozenset((path, file) for path, file in entries.items() if _is_reachable(path, entries)))
    for survived in found:
        unsynced = [path for path, file in survived if not file.synced and "~" not in path]
        whole = {path: file._replace(synced=True) for path, file in survived}
        for torn in product((False, True), repeat=len(unsynced)):
            entries = {**whole, **{path: TORN for path, is_torn in zip(unsynced, torn, strict=True) if is_torn}}
            yield frozenset(entries.items()), ()


def _change(entries: Entries, changes: tuple[tuple[str, File | None], ...]) -> None:
    for path, file in changes:
        if file is None:
            entries.pop(path, None)
        else:
            entries[path] = file


def _is_reachable(path: str, entries: Entries) -> bool:
    return not (folder := parent(path)) or (folder in entries and _is_reachable(folder, entries))


def perform(disk: Disk, request: Any, inode: int) -> tuple[Disk, Any]:
    """Carry out one call; return the disk after it, and the answer. A file that is made gets `inode`."""
    durable, pending = disk
    entries = seen(disk)

    def changed(path: str, *changes: tuple[str, File | None]) -> Disk:
        return durable, (*pending, (parent(path), changes))

    match request:
        case Mkdir(path):
            if parent(path) not in (HOME, *entries):
                return disk, False
            return disk if path in entries else changed(path, (path, FOLDER)), True
        case Write(path, content):
            if parent(path) not in entries:
                return disk, False
            return changed(path, (path, File(content, inode, False))), True
        case Fsync(path):
            return _synced(disk, path, entries.get(path)), None
        case Rename(path, to):
            return changed(path, (path, None), (to, entries[path])), None
        case Link(path, to):
            return changed(path, (to, entries[path])), None
        case Unlink(path):
            return (changed(path, (path, None)) if path in entries else disk), None
        case Rmdir(path):
            is_empty = all(parent(other) != path for other in entries)
            return (changed(path, (path, None)) if path in entries and is_empty else disk), None
        case Read(path):
            return disk, entries[path].content if path in entries else None
        case Names(path):
            inside = tuple(sorted(other for other in entries if parent(other) == path))
            return disk, inside if path in entries else None
    return disk, None


def _synced(disk: Disk, path: str, file: File | None) -> Disk:
    durable, pending = disk
    if file is None or file == FOLDER:  # the folder around all has no entry here, nor has one that is gone
        entries = dict(durable)
        for folder, changes in pending:
            if folder == path:
                _change(entries, changes)
        return frozenset(entries.items()), tuple(change for change in pending if change[0] != path)

    synced = file._replace(synced=True)
    return (
        frozenset((name, synced if other == file else other) for name, other in durable),
        tuple(
            (folder, tuple((name, synced if other == file else other) for name, other in changes))
            for folder, changes in pending
        ),
    )


# The world around the processes.


@dataclass(frozen=True)
class Cast:
    """Who acts in an exploration, one after another, and what may go wrong how often.

    Attributes
    ----------
    rows
        The slice that each process appends; empty: it only recovers.
    kind
        What the transactions do.
    kills, cuts, errors
        Processes that are killed, power cuts, writers that fail by themselves and roll back.
    """

    rows: tuple[str, ...]
    kind: str = APPEND
    kills: int = 0
    cuts: int = 0
    errors: int = 0

    def __str__(self) -> str:
        actors = ", ".join(f"writer of {row}" if row else "recoverer" for row in self.rows)
        return f"{self.kind}: {actors}; {self.kills} kills, {self.cuts} power cuts, {self.errors} own errors"


class State(NamedTuple):
    """The disk, by number; what may still go wrong; what the processes before reported; which node is the present."""

    disk: int
    kills: int
    cuts: int
    errors: int
    reports: tuple[str, ...]
    node: int


class Model:
    """All runs of a cast."""

    def __init__(self, cast: Cast, wrong: Wrong) -> None:
        self.cast = cast
        self._wrong = wrong
        self._automaton = Automaton()
        self._disks: Numbers[Disk] = Numbers()
        self._steps: dict[tuple[int, int], tuple[int, int]] = {}
        self._cuts: dict[int, list[int]] = {}
        self._verdicts: dict[tuple[int, tuple[str, ...]], str] = {}
        self._starts = [self._automaton.start(self._program(f"{n}", row)) for n, row in enumerate(cast.rows, 1)]
        self.outcomes: set[str] = set()
        self.left = [cast.kills, cast.cuts, cast.errors]
        old = {"T/c0/0": "o", RECURRING: "o", PLACE: "o", ROOT: ("o",)}
        disk = {TARGET: FOLDER, "T/c0": FOLDER, **{path: File(content) for path, content in old.items()}}
        if cast.kind == CREATE:
            disk = {}
        self.start = State(
            self._disks.of((frozenset(disk.items()), ())), cast.kills, cast.cuts, cast.errors, (), self._starts[0]
        )

    def _program(self, name: str, row: str) -> Program:
        if row:
            return partial(writer, name, row, self.cast.kind, self._wrong)
        return partial(recoverer, name, self._wrong)

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        """Return each step that can be taken."""
        name = len(state.reports) + 1
        if name > len(self._starts):
            return
        request = self._automaton.requests[state.node]
        if request is None:
            result = self._automaton.results[state.node]
            yield f"{name}: reports {result}", self._next(state, result)
        elif isinstance(request, OwnError):
            yield f"{name}: goes on", state._replace(node=self._automaton.after(state.node, False))
            if state.errors:
                node = self._automaton.after(state.node, True)
                yield f"{name}: fails", state._replace(node=node, errors=state.errors - 1)
        elif not isinstance(request, Broken):
            disk, node = self._step(state.disk, state.node)
            yield f"{name}: {request}", state._replace(disk=disk, node=node)
        report = UNKNOWN if request is not None else self._automaton.results[state.node]
        if state.kills and request is not None:
            yield f"{name}: is killed", self._next(state._replace(kills=state.kills - 1), UNKNOWN)
        if state.cuts:
            for disk in self._after_cut(state.disk):
                yield "power cut", self._next(state._replace(cuts=state.cuts - 1, disk=disk), report)

    def _next(self, state: State, report: str) -> State:
        reports = (*state.reports, report)
        node = self._starts[len(reports)] if len(reports) < len(self._starts) else state.node
        return state._replace(reports=reports, node=node)

    def _step(self, disk: int, node: int) -> tuple[int, int]:
        if (disk, node) not in self._steps:
            # No two processes share a node, as it has their name, and none writes twice at one: it numbers the inode.
            after, answer = perform(self._disks.values[disk], self._automaton.requests[node], node)
            self._steps[disk, node] = self._disks.of(after), self._automaton.after(node, answer)
        return self._steps[disk, node]

    def _after_cut(self, disk: int) -> list[int]:
        if disk not in self._cuts:
            self._cuts[disk] = [self._disks.of(left) for left in after_power_cut(self._disks.values[disk])]
        return self._cuts[disk]

    # Invariants.

    def invariant(self, state: State) -> str:
        """Tell what is wrong in `state`, for readers at this moment, and after a recovery without faults."""
        self.left = list(map(min, self.left, state[1:4]))
        request = self._automaton.requests[state.node]
        if isinstance(request, Broken):
            return request.why
        reports = state.reports
        if len(reports) < len(self.cast.rows):
            reports = (*reports, UNKNOWN if request is not None else self._automaton.results[state.node])
        self.outcomes.update(reports)
        key = state.disk, reports
        if key not in self._verdicts:
            self._verdicts[key] = self._promised(seen(self._disks.values[state.disk])) or self._aftermath(*key)
        return self._verdicts[key]

    def _aftermath(self, disk: int, reports: tuple[str, ...]) -> str:
        """Kill everybody, recover without faults, cut the power, recover, append."""
        disk, wrong = self._alone("X", "", disk)
        if wrong := wrong or self._unsound(disk, reports):
            return f"killed, then rollback: {wrong}"
        for cut in self._after_cut(disk):
            again, wrong = self._alone("Y", "", cut)
            if wrong := wrong or self._unsound(again, reports):
                return f"killed, rollback, power cut, rollback: {wrong}"
        again, wrong = self._alone("Z", "z", disk)
        root = self._root(seen(self._disks.values[again]))
        if wrong := wrong or self._unsound(again, reports) or ("" if root[-1:] == ("z",) else "it is not in"):
            return f"killed, rollback, append: {wrong}"
        return ""

    def _alone(self, name: str, row: str, disk: int) -> tuple[int, str]:
        """Run one process without faults; return the disk after it, and what is wrong."""
        node = self._automaton.start(self._program(name, row))
        while (request := self._automaton.requests[node]) is not None:
            if isinstance(request, Broken):
                return disk, request.why
            if isinstance(request, OwnError):
                node = self._automaton.after(node, False)
            else:
                disk, node = self._step(disk, node)
        return disk, ""

    def _unsound(self, disk: int, reports: tuple[str, ...]) -> str:
        """Tell what is wrong when nobody is at work."""
        entries = seen(self._disks.values[disk])
        root = self._root(entries)
        if wrong := self._promised(entries):
            return wrong
        if self.cast.kind == IN_PLACE and entries[PLACE].content != root[-1]:
            return f"in place is {entries[PLACE].content}, the document says {root[-1]}"
        for row, report in zip(self.cast.rows, reports, strict=False):
            if report == OK and row not in root:
                return f"append of {row} was reported as success, and is not in"
            if report == FAILED and row in root:
                return f"append of {row} was reported as failure, and is in"
        known = {TARGET, ROOT, *self._others(root)} if root else set()
        for index in range(len(root)):
            known.update(chunk_of(index))
        left = sorted(entries.keys() - known)
        return f"left over: {left}" if left else ""

    def _promised(self, entries: Entries) -> str:
        """Tell what a reader of the document misses. A chunk that is changed in place is not isolated from readers."""
        root = self._root(entries)
        if root == TORN.content or (not root and self.cast.kind != CREATE):
            return "the document is missing or torn"
        for index, row in enumerate(root):
            path, _ = chunk_of(index)
            if path not in entries or entries[path].content != row:
                return f"the document promises {row} in {path}, which is {entries.get(path, 'absent')}"
        for path in self._others(root):
            if path not in entries or entries[path] == TORN:
                return f"{path} is missing or torn"
        return ""

    def _root(self, entries: Entries) -> Any:
        return entries[ROOT].content if ROOT in entries else ()

    def _others(self, root: tuple[str, ...]) -> tuple[str, ...]:
        """Return the chunks that `root` promises beside those of slices."""
        if self.cast.kind == CREATE:
            return ()
        return (PLACE,) if self.cast.kind == DELETION and len(root) % 2 == 0 else (PLACE, RECURRING)


def check(cast: Cast, *wrong: str) -> Result:
    """Explore all runs of `cast`, with the protocol changed as `wrong` says."""
    unknown = set(wrong) - set(MUTATIONS)
    assert not unknown, unknown
    model = Model(cast, frozenset(wrong))
    result = explore(model.start, model.successors, model.invariant)
    result.unused = sum(model.left)
    result.outcomes = model.outcomes
    return result
