"""The transactional mapping: what is written through it can be taken back until it is committed.

Three ways a change takes, all behind `TransactionStore.__setitem__` and `__delitem__`:

* A **chunk** is written to the target at once, after its original is in the undo log (`_remember`: the choke point).
* A **metadata document** is held back until the commit, so readers see nothing of new keys, arrays and shapes.
* A **deletion** is held back too, as a tombstone. A chunk written under a tombstone is staged in the log, since
  readers still decode what the old document promises them under that key.

Reads and listings through the mapping see all three as done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from itertools import chain, islice, repeat
from typing import Any

from zappend.errors import TransactionClosed
from zappend.txn.log import Document, Log, PreImage, Redo
from zappend.txn.record import MAX_BODY
from zappend.txn.storage import Storage, Value, check_key

__all__ = ["ROOT_DOCUMENTS", "TransactionStore", "is_document"]

DOCUMENTS = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
ROOT_DOCUMENTS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")

READ_TOGETHER = 32
"""Originals that are read side by side, and so are in memory together."""

GROUP_KEYS = 1000
"""Keys of unplanned writes that are logged together at most."""


def is_document(key: str) -> bool:
    """Tell whether `key` is a metadata document of Zarr 2 or 3."""
    return key.rpartition("/")[2] in DOCUMENTS


class TransactionStore(MutableMapping[str, bytes]):
    """The keys and bytes of a target as a transaction sees and changes them; safe to use from many threads.

    Parameters
    ----------
    storage
        The target.
    log
        The log of this transaction, not yet hot.
    """

    def __init__(self, storage: Storage, log: Log) -> None:
        self._storage = storage
        self._log = log
        self._guard = threading.Condition()
        self._failure: BaseException | None = None
        self._closed: str | None = None
        self._owner = os.getpid()
        self._busy: set[str] = set()  # keys being written
        self._flushing = False
        self._waiting: dict[str, None] = {}  # keys that wait to be logged, in order
        self._logged: set[str] = set()
        self._folders: set[str] = set()
        self._folders_too: list[str] = []  # to be logged with the next group, though none of its keys asks for them
        self._seen: dict[str, bytes | None] = {}  # documents as first read
        self._held: dict[str, bytes] = {}
        self._staged: dict[str, bytes | str] = {}  # value, or the log object that has it
        self._staged_size = 0
        self._spilled: set[str] = set()  # keys of which the log has a staged value, perhaps an old one
        self._gone: dict[str, None] = {}
        self._gone_prefixes: dict[str, None] = {}

    @property
    def is_remote(self) -> bool:
        """Whether many keys written together by `update` cost hardly more time than one."""
        return self._storage.is_remote

    # Reading.

    def __getitem__(self, key: str) -> bytes:
        self._check_usable()
        value = self._read(check_key(key))
        if value is None:
            raise KeyError(key)
        return value

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        """Return the value of each of `keys`, ``None`` for one that is not there; asks a store with latency once."""
        self._check_usable()
        keys = [check_key(key) for key in keys]
        unread = [key for key in keys if not (self._is_overlaid(key) or key in self._seen)]
        found = self._storage.get_many(unread) if unread else {}
        for key, value in found.items():
            if is_document(key):
                self._seen.setdefault(key, value)
        return {key: found[key] if key in found and not is_document(key) else self._read(key) for key in keys}

    def __contains__(self, key: object) -> bool:
        self._check_usable()
        try:
            return self._is_there(check_key(key))
        except (TypeError, ValueError):
            return False

    def __iter__(self) -> Iterator[str]:
        return self.keys_below("")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys_below(self, prefix: str) -> Iterator[str]:
        """Iterate over the keys below the folder `prefix`, which is empty or ends in a slash."""
        self._check_usable()
        yield from self._written(prefix)
        for key in self._storage.keys(prefix):
            if not self._is_gone(key) and key not in self._held and key not in self._staged:
                yield key

    def children(self, prefix: str) -> Iterator[str]:
        """Iterate over the names directly below the folder `prefix`: last parts of keys, and folders with keys."""
        self._check_usable()
        names = dict.fromkeys(key[len(prefix) :].partition("/")[0] for key in self._written(prefix))
        yield from names
        found = set()
        for name in self._storage.children(prefix):
            found.add(name)
            if name not in names and self._has_left(prefix + name):
                yield name
        if not prefix:  # what was not listed was not there, and need not be looked for
            absent = [key for key in ROOT_DOCUMENTS if key not in found and key not in self._seen]
            self._seen.update(dict.fromkeys(absent))
            self._storage.expect_absent(absent)

    def _read(self, key: str) -> bytes | None:
        if (held := self._held.get(key)) is not None:
            return held
        if (staged := self._staged.get(key)) is not None:
            return dict(self._log.part(staged).staged)[key] if isinstance(staged, str) else staged
        if self._is_gone(key):
            return None
        return self._document(key) if is_document(key) else self._storage.get(key)

    def _is_overlaid(self, key: str) -> bool:
        """Tell whether what this transaction did to `key` hides what the target has there."""
        return key in self._held or key in self._staged or self._is_gone(key)

    def _is_there(self, key: str) -> bool:
        if key in self._held or key in self._staged:
            return True
        return not self._is_gone(key) and self._storage.has(key)

    def _document(self, key: str) -> bytes | None:
        # The first reading is what the transaction rests on: it is compared with the target before the decision.
        if key not in self._seen:
            self._seen.setdefault(key, self._storage.get(key))
        return self._seen[key]

    def _is_gone(self, key: str) -> bool:
        return key in self._gone or key.startswith(tuple(self._gone_prefixes))

    def _has_left(self, name: str) -> bool:
        """Tell whether the key or folder `name` of the target has anything that is not deleted."""
        if not self._gone and not self._gone_prefixes:
            return True
        if self._storage.has(name):
            return not self._is_gone(name)
        return any(not self._is_gone(key) for key in self._storage.keys(f"{name}/"))

    def _written(self, prefix: str) -> list[str]:
        return [key for key in (*self._held, *self._staged) if key.startswith(prefix)]

    # Writing.

    def __setitem__(self, key: str, value: Value) -> None:
        self._write({check_key(key): _check_value(value)})

    def __delitem__(self, key: str) -> None:
        check_key(key)
        with self._writing((key,)):
            if not self._is_there(key):
                raise KeyError(key)
            with self._guard:
                self._held.pop(key, None)
                self._staged.pop(key, None)
                self._gone[key] = None

    def update(self, other: Any = (), /, **more: Value) -> None:
        """Write many keys as a `dict` takes them, logging their originals together."""
        pairs = dict(other, **more)
        self._write({check_key(key): _check_value(value) for key, value in pairs.items()})

    def clear(self) -> None:
        """Delete every key; what is not a key of the target, such as the log, stays."""
        self.delete_folder("")

    def delete_folder(self, prefix: str) -> None:
        """Delete every key below the folder `prefix`, which is empty (all keys) or ends in a slash; lists nothing."""
        if prefix:
            check_key(prefix.removesuffix("/"))
        with self._writing(()), self._guard:
            for written in (self._held, self._staged, self._gone):
                for key in [key for key in written if key.startswith(prefix)]:
                    del written[key]
            for inner in [inner for inner in self._gone_prefixes if inner.startswith(prefix)]:
                del self._gone_prefixes[inner]
            self._gone_prefixes[prefix] = None

    def copy(self, sources: Mapping[str, str]) -> None:
        """Give each key what another one holds, which is not read where the storage can do without.

        Parameters
        ----------
        sources
            For each key to be written where its value comes from; both are chunks. They are copied in this order, and
            none is a source after it was written to. A key whose source is not there is deleted, if it is there.
        """
        lacking = [key for key, source in sources.items() if not self._is_there(check_key(source))]
        there = {check_key(key): source for key, source in sources.items() if key not in lacking}
        plain = {k: s for k, s in there.items() if not (self._is_overlaid(k) or self._is_overlaid(s))}
        if len(plain) < len(there) or any(map(is_document, (*there, *there.values()))):
            raise ValueError("only chunks that this transaction has not deleted can be copied")
        with self._writing({*there, *there.values()}), self._dooming():
            self._remember(there)
            self._storage.copy_many(there, self._log.txn)
        for key in lacking:
            if self._is_there(key):
                del self[key]

    def log_ahead(
        self,
        new: Collection[str],
        changed: Collection[str] = (),
        known: Mapping[str, bytes | None] | None = None,
        *,
        by_reference: bool = False,
    ) -> None:
        """Log the originals of all keys that are going to be written, in one object, however many they are.

        Parameters
        ----------
        new
            Keys that are logged as absent without a look. Only for keys that no reader can see: chunks beyond the
            shape of an array that exists, or chunks and documents of an array whose folder is empty.
        changed
            Keys whose value is read and logged.
        known
            Values of some of these, ``None`` if not there, as this transaction has read them; they are not read again.
        by_reference
            Whether originals are kept as they are beside the log, where the storage can, and not read.
        """
        keys = dict.fromkeys(check_key(key) for key in (*new, *changed))
        with self._writing(keys):
            with self._guard:
                while self._flushing:
                    self._guard.wait()
                self._check_failed()
                todo = [k for k in keys if k not in self._logged and not is_document(k) and not self._is_gone(k)]
                documents = [k for k in new if is_document(k) and k not in self._seen and not self._is_gone(k)]
                self._seen.update(dict.fromkeys(documents))
                self._storage.expect_absent(documents)
                self._flushing = True
            unseen = set(new).difference(changed)
            self._lead(todo, [key for key in todo if key in unseen], known, by_reference=by_reference)

    def _write(self, values: Mapping[str, Value]) -> None:
        with self._writing(values), self._dooming():
            chunks = {}
            for key, value in values.items():
                if is_document(key):
                    self._document(key)
                    self._held[key] = bytes(value)
                elif self._is_gone(key):
                    self._stage(key, bytes(value))
                else:
                    chunks[key] = value
            if chunks:
                self._remember(chunks)
                self._storage.put_many(chunks, self._log.txn)

    @contextmanager
    def _dooming(self) -> Iterator[None]:
        """Let the transaction fail with what is raised."""
        try:
            yield
        except BaseException as error:
            self._failure = self._failure or error
            raise

    def _stage(self, key: str, value: bytes) -> None:
        with self._guard:
            self._staged[key] = value
            self._staged_size += len(value)
            if self._staged_size < MAX_BODY:
                return
            in_memory = [(key, value) for key, value in self._staged.items() if isinstance(value, bytes)]
            part = self._log.stage(Redo(staged=in_memory))
            self._staged.update(dict.fromkeys((key for key, _ in in_memory), part))
            self._spilled.update(key for key, _ in in_memory)
            self._staged_size = 0

    # The undo log: one group is in flight at a time, written by whichever thread finds none.

    def _remember(self, keys: Iterable[str]) -> None:
        """Return when the original of each of `keys` is durable in the log and counts."""
        missing = [key for key in keys if key not in self._logged]
        while missing:
            with self._guard:
                self._waiting.update(dict.fromkeys(missing))
                while self._flushing and not self._logged.issuperset(missing):
                    self._guard.wait()
                    self._check_failed()
                if self._logged.issuperset(missing):
                    return
                self._check_failed()
                # One may wait here that was in another thread's group, and has been written since: its value is no
                # original any more.
                todo = [key for key in self._waiting if key not in self._logged]
                group, self._waiting = todo[:GROUP_KEYS], dict.fromkeys(todo[GROUP_KEYS:])
                self._flushing = True
            self._lead(group)
            missing = [key for key in missing if key not in self._logged]

    def _lead(
        self,
        keys: Collection[str],
        new: Collection[str] = (),
        known: Mapping[str, bytes | None] | None = None,
        *,
        by_reference: bool = False,
    ) -> None:
        try:
            if keys:
                self._flush(keys, new, known or {}, by_reference=by_reference)
        finally:
            with self._guard:
                self._flushing = False
                self._guard.notify_all()

    def _flush(
        self,
        keys: Collection[str],
        new: Collection[str],
        known: Mapping[str, bytes | None],
        *,
        by_reference: bool = False,
    ) -> None:
        try:
            if not self._log.hot:
                self._log.fingerprint(self._root())
            unseen = frozenset(new)
            changed = [key for key in keys if key not in unseen]
            self._storage.expect_absent(new)
            missing = dict.fromkeys((*self._storage.missing_folders(keys), *self._folders_too))
            folders = [f for f in missing if f not in self._folders]
            kept = self._kept(changed) if by_reference else None
            records = self._pre_images(new, changed, known) if kept is None else chain(zip(new, repeat(None)), kept)
            self._log.add(records, folders)
            self._folders.update(folders)
            self._logged.update(keys)
        except BaseException as error:
            self._failure = error
            raise

    def _root(self) -> dict[str, bytes | None]:
        """Return the documents by which recovery knows the target: in format 3 there is one, in format 2 several.

        Where each look is a request, the consolidated metadata, which has them all, has to do.
        """
        groups = (("zarr.json",), (".zmetadata",), (".zgroup", ".zattrs"))
        root: dict[str, bytes | None] = {}
        for keys in groups if self._storage.is_remote else (groups[0], sum(groups[1:], ())):
            root |= {key: self._document(key) for key in keys}
            if any(value is not None for value in root.values()):
                break
        return root

    def _kept(self, keys: Collection[str]) -> list[PreImage] | None:
        """Return the originals of `keys` by reference; ``None`` if the storage keeps none."""
        names = {key: self._log.reference() for key in keys}
        kept = self._storage.keep_originals(names)
        return None if kept is None else [(key, name if kept[key] else None) for key, name in names.items()]

    def _pre_images(
        self, new: Iterable[str], changed: Iterable[str], known: Mapping[str, bytes | None]
    ) -> Iterator[PreImage]:
        for key in new:
            yield key, None
        yield from ((key, known[key]) for key in changed if key in known)
        rest = (key for key in changed if key not in known)
        while some := list(islice(rest, READ_TOGETHER)):
            yield from self._storage.get_many(some).items()

    # The gate: a key is written by one thread at a time, and none is once the transaction ends.

    @contextmanager
    def _writing(self, keys: Iterable[str]) -> Iterator[None]:
        mine = set(keys) or {""}
        with self._guard:
            self._check_usable()
            while not self._busy.isdisjoint(mine):
                self._guard.wait()
                self._check_usable()
            self._busy |= mine
        try:
            yield
        finally:
            with self._guard:
                self._busy -= mine
                self._guard.notify_all()

    def _close(self, why: str) -> None:
        """Take no further work."""
        with self._guard:
            self._check_open()
            self._closed = why
            self._guard.notify_all()

    def _drain(self) -> None:
        """Wait for the writes that are running."""
        with self._guard:
            while self._busy:
                self._guard.wait()

    def _check_usable(self) -> None:
        self._check_open()
        self._check_failed()

    def _check_open(self) -> None:
        if self._owner != os.getpid():
            raise TransactionClosed(
                f"the transaction on {self._storage.name} belongs to process {self._owner} and is of no use in another"
            )
        if self._closed is not None:
            raise TransactionClosed(f"the transaction on {self._storage.name} {self._closed}; start a new one")

    def _check_failed(self) -> None:
        if self._failure is not None:
            raise TransactionClosed(
                f"the transaction on {self._storage.name} has failed ({self._failure!r}) and can only be rolled back"
            ) from self._failure

    # What the decision is made of.

    def _is_empty(self) -> bool:
        return not (self._log.hot or self._held or self._staged or self._gone or self._gone_prefixes)

    def _foreign_changes(self) -> list[str]:
        """Return the documents that are no longer what this transaction found.

        Where each write names what it replaces, none can be lost, so the look is only for failing early: at the one
        document that all writers change.
        """
        roots = [key for key in ROOT_DOCUMENTS if key in self._seen]
        held = [key for key in roots if key in self._held]
        keys = held[-1:] if self._storage.conditional else {*self._held, *roots}
        return [key for key, now in self._storage.get_many(keys).items() if now != self._seen[key]]

    def _redo(self) -> Redo:
        """Return what is to be done after the decision, having written what exceeds one log object."""
        documents: list[Document] = [(key, self._seen[key], new) for key, new in self._held.items()]
        staged = [(key, value) for key, value in self._staged.items() if isinstance(value, bytes)]
        gone = [key for key in (*self._gone, *self._spilled) if key not in self._held and key not in self._staged]
        redo = Redo(staged, documents, gone, list(self._gone_prefixes))
        if redo.size() > MAX_BODY:
            for part in _split(redo):
                self._log.stage(part)
            redo = Redo(gone_prefixes=redo.gone_prefixes)
        return redo


def _split(redo: Redo) -> Iterator[Redo]:
    part, size = Redo(), 0
    for name in ("staged", "documents", "gone"):
        for item in getattr(redo, name):
            more = len(item) + 16 if isinstance(item, str) else sum(len(value or b"") for value in item) + 16
            if size and size + more > MAX_BODY:
                yield part
                part, size = Redo(), 0
            getattr(part, name).append(item)
            size += more
    yield part


def _check_value(value: object) -> Value:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return value
    raise TypeError(f"value must be bytes, not {type(value).__name__}")
