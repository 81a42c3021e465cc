"""The undo log of one transaction: which objects there are, when each counts, and when it is removed.

All lie in the place of the target (``zappend.txn.record`` has their bytes)::

    undo                  the head. While it is there, the transaction is pending: undone, or finished if decided
    undo-<txn>-<n>        further pre-images; they count only as far as the head says (`parts`, hash of the `last`)
    decision              the commit; it counts only beside a head of the same transaction
    redo-<txn>-<n>        what the decision does not hold itself; they count only as far as the decision says
    original-<txn>-<n>    what a key held, kept without reading it; it counts where a record names it
    kept-<seq>-<txn>      the head of an undo log that is kept (`zappend.txn.kept`), beside its parts and originals

Before any key changes, its pre-image is in an object that counts. A part is written before the head or decision that
counts it, and names the hash of the part before it, so that one hash vouches for all. The head goes first when the
transaction has ended: whatever is found without a head is only swept away, but for kept logs. Which of these stay
after the commit the decision says; the others are dropped before the head is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from zappend.errors import LogDamaged
from zappend.txn.names import DECISION, HEAD, KEPT, ORIGINAL, kept_heads, kept_objects, txn_of
from zappend.txn.record import MAX_BODY, REFERENCES, digest, pack, pack_named, unpack, unpack_named
from zappend.txn.storage import TEMP_PREFIX, Area

__all__ = ["Document", "Log", "PreImage", "Redo", "sweep", "told_as_damage"]

SWEPT = (f"{HEAD}-", "redo-", f"{DECISION}-", f"{ORIGINAL}-", f"{KEPT}-", TEMP_PREFIX)

PreImage = tuple[str, bytes | str | None]
"""A key and what it held; text is the name of the object in the place that holds it; ``None``: it was absent."""

Document = tuple[str, bytes | None, bytes]
"""A metadata document: its key, what the transaction found there, and what it is to become."""


@dataclass
class Redo:
    """What is done after the decision; empty parts of it are left out.

    Attributes
    ----------
    staged
        Chunks that wait because their key was deleted in the same transaction.
    documents
        Metadata documents.
    gone
        Keys that are to be deleted.
    gone_prefixes
        Folders, ending in a slash or empty for all, of which everything is to be deleted that is not written here.
    """

    staged: list[tuple[str, bytes]] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    gone_prefixes: list[str] = field(default_factory=list)

    def size(self) -> int:
        """Return about how many bytes this takes in the log."""
        return (
            sum(len(key) + len(value) for key, value in self.staged)
            + sum(len(key) + len(old or b"") + len(new) for key, old, new in self.documents)
            + sum(len(key) + 4 for key in self.gone)
        )


@dataclass(frozen=True)
class _Chain:
    """A run of parts: how many, and the hash of the last."""

    parts: int = 0
    last: bytes = b""


class Log:
    """The log of the transaction `txn` in the area `place`.

    `Log` writes; `found` returns the pending log of another transaction, to be read.

    Attributes
    ----------
    absent, changed
        Of a log that was found: keys that are to be absent again, and keys that are to have their originals again.
    references
        Of a log that was found: of the latter, those whose originals are objects of their own, and their names.
    folders
        Folders that the transaction made.
    """

    def __init__(self, place: Area, txn: str) -> None:
        self.txn = txn
        self.hot = False
        self._place = place
        self._head = b""
        self._fingerprint: dict[str, bytes | None] = {}
        self._inline: tuple[Sequence[PreImage], Sequence[str]] = ((), ())
        self._undo = _Chain()
        self._redo = _Chain()
        self._originals = 0
        self._attempted = False
        self._decision: Redo | None = None
        self._staying: Sequence[str] = ()  # heads of kept logs that the decision names
        self.absent: list[str] = []
        self.changed: list[str] = []
        self.references: dict[str, str] = {}
        self.folders: list[str] = []

    # Writing, in the order of a transaction.

    def fingerprint(self, root: dict[str, bytes | None]) -> None:
        """Note what the root documents of the target are, by which recovery knows that it is the same target."""
        self._fingerprint = {key: None if value is None else digest(value) for key, value in root.items()}

    def add(self, records: Iterable[PreImage], folders: Sequence[str] = ()) -> None:
        """Log the originals of keys, and folders that will be made; on return they are durable and count."""
        self.folders += folders
        batches = _batches(records)
        first, second = next(batches, []), next(batches, None)
        if not self.hot and second is None:
            self._inline = first, folders
            if _critical(first):
                self._place.sync()  # what a head names is there when it is
        else:
            rest = chain([] if second is None else [second], batches)
            for group in chain([self._inline, (first, folders)], ((batch, ()) for batch in rest)):
                if any(group):
                    _, self._undo = self._write_part("undo", self._undo, records=group[0], folders=group[1])
            self._inline = (), ()
            self._place.sync()
        head, name = pack_named(HEAD, self.txn, **self._undo_fields(), fingerprint=self._fingerprint)
        self._place.put(HEAD, head, self.txn)
        self._place.sync()
        self._head = name
        self.hot = True

    def stage(self, redo: Redo) -> str:
        """Write a part of what the decision will name; return the key under which it lies."""
        key, self._redo = self._write_part("redo", self._redo, **_redo_fields(redo))
        return key

    def part(self, key: str) -> Redo:
        """Return a part written by `stage`."""
        return _redo_of(unpack(key, self._read(key), "redo-part"))

    def keep(self, name: str, **fields: object) -> None:
        """Write the head `name`, by which the originals stay; it counts if the decision names it."""
        self._place.put(name, pack(KEPT, self.txn, **self._undo_fields(), **fields), self.txn)

    def decide(self, redo: Redo, staying: Sequence[str] = ()) -> None:
        """Commit: on return the decision, with `redo` as its last part, is durable; kept logs but `staying` will go.

        Raises
        ------
        OSError
            If it failed; `decided` tells whether it may be there all the same.
        """
        data = pack(
            DECISION,
            self.txn,
            parts=self._redo.parts,
            last=self._redo.last,
            head=self._head,
            **_redo_fields(redo),
            **({"kept": list(staying)} if staying else {}),
        )
        self._place.sync()
        self._attempted = True
        self._place.create(DECISION, data, self.txn)
        self._place.sync()
        self._decision, self._staying = redo, staying

    def decided(self) -> bool:
        """Tell whether the decision is there; raise if that cannot be told."""
        return self._attempted and self._place.has(DECISION)

    def clear(self) -> None:
        """Remove the log: the head first and durably, then the rest; before them what is not kept any longer."""
        self.hot = False
        sweep(self._place, self._stays)

    def _stays(self, kept: str) -> bool:
        return kept in self._staying if self.committed else txn_of(kept) != self.txn

    # Reading.

    @staticmethod
    def is_pending(place: Area) -> bool:
        """Tell whether there is a head in `place`, and so a transaction to be settled."""
        return place.has(HEAD)

    @classmethod
    def found(cls, place: Area) -> Log | None:
        """Return the log that is pending in `place`, whole and verified, or ``None`` if none is.

        Raises
        ------
        LogDamaged, LogVersionError
            If any object that counts is missing, damaged or newer. Nothing was changed.
        """
        data = place.get(HEAD)
        if data is None:
            return None
        with told_as_damage():
            body, name = unpack_named(HEAD, data, HEAD)
            log = cls(place, body["txn"])
            log._fingerprint = body["fingerprint"]
            log._head = name
            log.hot = True
            log._load(body)
            data = place.get(DECISION)
            if data is not None and (body := unpack(DECISION, data, DECISION))["txn"] == log.txn:
                if body["head"] != log._head:
                    raise LogDamaged("the decision names another undo head than the one beside it")
                log._redo = _Chain(body["parts"], body["last"])
                log._decision, log._staying = _redo_of(body), body.get("kept", ())
                for _ in log._parts("redo", log._redo):
                    pass
        return log

    def _undo_fields(self) -> dict[str, Any]:
        records, folders = self._inline
        chain = {"parts": self._undo.parts, "last": self._undo.last}
        return {"critical": _critical(records), **chain, "records": records, "folders": folders}

    def _load(self, body: dict[str, Any]) -> None:
        """Take over what the head `body` says of originals, and verify that they are there."""
        self._inline = [(key, value) for key, value in body["records"]], body["folders"]
        self._undo = _Chain(body["parts"], body["last"])
        for records, folders in self._undo_groups():
            self.folders += folders
            for key, value in records:
                (self.absent if value is None else self.changed).append(key)
                if isinstance(value, str):
                    self.references[key] = value
        self._check_references()

    def originals(self) -> Iterator[dict[str, bytes]]:
        """Iterate over what the keys `changed` held, an object of the log at a time."""
        if self.changed:
            for records, _ in self._undo_groups():
                yield {key: value for key, value in records if isinstance(value, bytes)}

    def reference(self) -> str:
        """Return a name, not yet used, for an object of the place that holds what a key held."""
        self._originals += 1
        return f"{ORIGINAL}-{self.txn}-{self._originals:08d}"

    def _check_references(self) -> None:
        there = set(self._place.keys()) if self.references else set()
        for name in self.references.values():
            if name not in there:
                raise LogDamaged(f"log object {name!r} is missing")

    def _undo_groups(self) -> Iterator[tuple[Sequence[PreImage], Sequence[str]]]:
        yield self._inline
        for body in self._parts("undo", self._undo):
            yield [(key, value) for key, value in body["records"]], body["folders"]

    @property
    def committed(self) -> bool:
        """Whether this transaction is known to be decided."""
        return self._decision is not None

    def redo_groups(self) -> Iterator[Redo]:
        """Iterate over what the decision says, an object at a time."""
        for body in self._parts("redo", self._redo):
            yield _redo_of(body)
        if self._decision is not None:
            yield self._decision

    def root(self) -> dict[str, bytes | None]:
        """Return the hashes of the root documents when the transaction began, ``None`` for one that was absent."""
        return self._fingerprint

    def _write_part(self, kind: str, run: _Chain, **fields: object) -> tuple[str, _Chain]:
        critical = _critical(fields.get("records", ()))
        data, name = pack_named(f"{kind}-part", self.txn, critical=critical, seq=run.parts, previous=run.last, **fields)
        key = self._part_key(kind, run.parts)
        self._place.put(key, data, self.txn)
        return key, _Chain(run.parts + 1, name)

    def _parts(self, kind: str, run: _Chain) -> Iterator[dict[str, Any]]:
        previous = b""
        for seq in range(run.parts):
            key = self._part_key(kind, seq)
            data = self._read(key)
            body, name = unpack_named(key, data, f"{kind}-part")
            if (body["txn"], body["seq"], body["previous"]) != (self.txn, seq, previous):
                raise LogDamaged(f"log object {key!r} is of another transaction, or out of order")
            previous = name
            if seq == run.parts - 1 and previous != run.last:
                raise LogDamaged(f"log object {key!r} is not the one that counts as the last")
            yield body

    def _part_key(self, kind: str, seq: int) -> str:
        return f"{kind}-{self.txn}-{seq:08d}"

    def _read(self, key: str) -> bytes:
        data = self._place.get(key)
        if data is None:
            raise LogDamaged(f"log object {key!r} is missing")
        return data


def sweep(place: Area, stays: Callable[[str], bool] = lambda head: True) -> None:
    """Remove every log object in `place`: the head first and durably, then the rest, which is inert without it.

    Before the head go those heads of kept logs that are not to stay, so that who finds one of them without the head
    knows that it counts. What has no name of a log object is not ours, and stays.
    """
    names = list(place.keys())
    dropped = [head for head in kept_heads(names) if not stays(head)]
    for head in dropped:
        place.delete(head, "")
    if dropped:
        place.sync()
    names = [name for name in names if name not in dropped]
    staying = kept_objects(names)
    found = [k for k in names if (k in (HEAD, DECISION) or k.startswith(SWEPT)) and k not in staying]
    if HEAD in found:
        place.delete(HEAD, "")
        place.sync()
        found.remove(HEAD)
    elif found:
        place.harden()  # that the head is gone may not be durable yet, and it must not come back alone
    place.delete_many(found, "")


@contextmanager
def told_as_damage() -> Iterator[None]:
    """Raise `LogDamaged` for what is wrong with a body."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, LogDamaged):
            raise
        raise LogDamaged(f"the log in the place of the target is not complete: {error!r}") from error


def _critical(records: Any) -> list[str]:
    return [REFERENCES] if any(isinstance(value, str) for _, value in records) else []


def _batches(records: Iterable[PreImage]) -> Iterator[list[PreImage]]:
    batch: list[PreImage] = []
    size = 0
    for key, value in records:
        more = len(key) + len(value or b"") + 16
        if batch and size + more > MAX_BODY:
            yield batch
            batch, size = [], 0
        batch.append((key, value))
        size += more
    if batch:
        yield batch


def _redo_fields(redo: Redo) -> dict[str, object]:
    return {
        "staged": redo.staged,
        "documents": redo.documents,
        "gone": redo.gone,
        "gone_prefixes": redo.gone_prefixes,
    }


def _redo_of(body: dict[str, Any]) -> Redo:
    return Redo(
        staged=[(key, value) for key, value in body["staged"]],
        documents=[(key, old, new) for key, old, new in body["documents"]],
        gone=body["gone"],
        gone_prefixes=body["gone_prefixes"],
    )
