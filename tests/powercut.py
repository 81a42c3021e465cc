"""A disk that loses its power: what may be found on it afterwards, by two models of a file system.

`RecordingFiles` makes the calls of a transaction on a real folder and notes them as events. `Disk` plays events back
and knows at each moment what of them is durable and what is pending:

* The content of a file is durable when the file has been synced. Until then it may be found whole, as it last was
  durable, empty, cut at half its length, or as zeros.
* An entry of a folder (made, renamed, linked, removed) is durable when that folder has been synced. Until then

  - in the *ordered* model pending changes reach the disk in the order in which they were made, whatever their folder:
    any number of the first of them is found. A sync of one folder takes along what was changed before in others. A
    file that was renamed over another is whole when that rename is found, as ext4 has it;
  - in the *adversarial* model any of the pending changes may be found without the others. A rename is one change.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from conftest import FolderCase, State

from zappend.testing import Faults, FaultyFiles
from zappend.txn.local import LocalStorage

__all__ = ["Disk", "Event", "RecordedFolder", "RecordingFiles", "digest_of", "put_on_disk", "read_from_disk"]


class Event(NamedTuple):
    """One call that changed the file system or synced it.

    `path` and `source` are relative to the folder that is watched; `handle` is the number of an open file or folder.
    """

    name: str
    path: str = ""
    source: str = ""
    handle: int = 0
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.name} {self.source and self.source + ' → '}{self.path or '.'}"


class RecordingFiles(FaultyFiles):
    """The calls that change the files below the folder `home`, under `faults`, noted in `events` when they are done."""

    def __init__(self, home: Path, events: list[Event], faults: Faults | None = None) -> None:
        super().__init__(faults, sync=False)
        self.events = events
        self._home = home
        self._handles: dict[int, int] = {}

    def open(self, path: str, flags: int) -> int:
        is_new = not os.path.lexists(path)
        fd = super().open(path, flags)
        self._handles[fd] = len(self.events)
        self._note("create" if is_new else "open", path, handle=self._handles[fd])
        if flags & os.O_TRUNC and not is_new:
            self._note("truncate", path, handle=self._handles[fd])
        return fd

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        super().write(fd, data)
        self._note("write", self._path(fd), handle=self._handles[fd], data=bytes(data))

    def truncate(self, fd: int) -> None:
        super().truncate(fd)
        self._note("truncate", self._path(fd), handle=self._handles[fd])

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self._note("fsync", self._path(fd), handle=self._handles[fd])

    def rename(self, source: str, to: str) -> None:
        super().rename(source, to)
        self._note("rename", to, source)

    def link(self, source: str, to: str) -> None:
        super().link(source, to)
        self._note("link", to, source)

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self._note("unlink", path)

    def mkdir(self, path: str) -> None:
        super().mkdir(path)
        self._note("mkdir", path)

    def rmdir(self, path: str) -> None:
        super().rmdir(path)
        self._note("rmdir", path)

    def _note(self, name: str, path: str, source: str = "", *, handle: int = 0, data: bytes = b"") -> None:
        self.events.append(Event(name, self._relative(path), source and self._relative(source), handle, data))

    def _relative(self, path: str) -> str:
        relative = os.path.relpath(path, self._home)
        return "" if relative == "." else relative


class RecordedFolder(FolderCase):
    """A cube in a local folder, with the events of all that is done to it since `record`."""

    def __init__(self, home: Path, durability: str = "full") -> None:
        super().__init__(home, durability)
        self.events: list[Event] = []
        self.before: State = {}

    def record(self, before: State) -> None:
        """Begin anew, with everything as it is in `before`, and durable."""
        put_on_disk(self.home, before)
        self.before, self.events = before, []

    def target(self, faults: Faults | None = None) -> LocalStorage:
        files = RecordingFiles(self.home, self.events, faults)
        self._files.append(files)
        return LocalStorage(self.path, durability=self.durability, files=files)

    def state(self) -> State:
        return read_from_disk(self.home)


@dataclass(eq=False)
class _File:
    data: bytes = b""
    durable: bytes | None = None

    @property
    def is_durable(self) -> bool:
        return self.data == self.durable

    def after_cut(self) -> list[bytes]:
        """Return all that may be found of it."""
        if self.is_durable:
            return [self.data]
        found = [self.data, b"", self.data[: len(self.data) // 2], bytes(len(self.data))]
        return list(dict.fromkeys(found if self.durable is None else [*found, self.durable]))


@dataclass(eq=False)
class _Folder:
    now: dict[str, _Node] = field(default_factory=dict)
    durable: dict[str, _Node] = field(default_factory=dict)


_Node = _File | _Folder
_Entries = dict[_Folder, dict[str, _Node]]


class _Change(NamedTuple):
    """Entries of one folder that change together, and the file that ext4 writes out before."""

    folder: _Folder
    entries: dict[str, _Node | None]
    flushed: _File | None = None

    def apply(self, entries: dict[str, _Node]) -> None:
        for name, node in self.entries.items():
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node


class Disk:
    """A file system of which all that `state` has is durable, and whatever else is applied to it may be pending."""

    def __init__(self, state: State) -> None:
        self._root = _Folder()
        self._handles: dict[int, _Node] = {}
        self._pending: list[_Change] = []
        self._certain = 0  # how many of the first pending ones are durable in the ordered model
        for path, data in sorted(state.items()):
            folder, name = self._entry(path)
            folder.now[name] = folder.durable[name] = _Folder() if data is None else _File(data, data)

    def apply(self, event: Event) -> None:
        """Do what was done."""
        name = event.name
        if name in ("write", "truncate", "fsync"):
            self._apply_to_handle(event)
            return
        folder, entry = self._entry(event.path)
        if name == "open":
            self._handles[event.handle] = folder.now[entry] if event.path else self._root
        elif name == "create":
            self._handles[event.handle] = node = _File()
            self._change(_Change(folder, {entry: node}))
        elif name in ("rename", "link"):
            self._apply_to_names(event, folder, entry)
        elif name == "mkdir":
            self._change(_Change(folder, {entry: _Folder()}))
        else:
            assert name in ("unlink", "rmdir"), event
            self._change(_Change(folder, {entry: None}))

    def pending(self) -> int:
        """Return how many changes of folders and contents of files are not durable."""
        return len(self._pending) + sum(not file.is_durable for file in self._files())

    def after_cut(self, most: int, samples: int, random: Random) -> Iterator[State]:
        """Iterate over what may be found after a power cut now.

        All of it, perhaps more than once, if at most `most` changes and contents are pending; else all of the ordered
        model, as far as entries go, and `samples` states of the adversarial one.
        """
        few = self.pending() <= most
        for chosen, flushed in self._ordered():
            yield from self._states(chosen, flushed, most if few else 1, random)
        if few:
            for chosen in self._adversarial():
                yield from self._states(chosen, set(), most, random)
        else:
            for _ in range(samples):
                some = [change for change in self._pending if random.random() < 0.5]
                yield from self._states(self._with(some), set(), 0, random)

    def _entry(self, path: str) -> tuple[_Folder, str]:
        folder = self._root
        *above, name = path.split("/")
        for part in above:
            inner = folder.now[part]
            assert isinstance(inner, _Folder), path
            folder = inner
        return folder, name

    def _apply_to_handle(self, event: Event) -> None:
        node = self._handles[event.handle]
        if isinstance(node, _Folder):
            assert event.name == "fsync", event
            node.durable = dict(node.now)
            mine = [at for at, change in enumerate(self._pending) if change.folder is node]
            certain = max([self._certain, *(at + 1 for at in mine)])
            self._certain = certain - sum(at < certain for at in mine)
            self._pending = [change for change in self._pending if change.folder is not node]
        elif event.name == "fsync":
            node.durable = node.data
        else:
            node.data = node.data + event.data if event.name == "write" else b""

    def _apply_to_names(self, event: Event, folder: _Folder, entry: str) -> None:
        above, source = self._entry(event.source)
        node = above.now[source]
        assert isinstance(node, _File), event
        if event.name == "link":
            self._change(_Change(folder, {entry: node}))
        else:
            assert above is folder, "no file goes from one folder to another"
            self._change(_Change(folder, {source: None, entry: node}, node if entry in folder.now else None))

    def _change(self, change: _Change) -> None:
        change.apply(change.folder.now)
        self._pending.append(change)

    def _files(self) -> list[_File]:
        """Return the files that may be found."""
        folders, files = [self._root], {}
        seen = set(folders)
        while folders:
            folder = folders.pop()
            changes = [change for change in self._pending if change.folder is folder]
            nodes = [*folder.durable.values(), *(n for change in changes for n in change.entries.values() if n)]
            for node in nodes:
                if isinstance(node, _File):
                    files[node] = None
                elif node not in seen:
                    seen.add(node)
                    folders.append(node)
        return list(files)

    def _with(self, changes: Iterable[_Change]) -> _Entries:
        """Return the entries of all folders in which something is pending, if `changes` are found."""
        entries = {change.folder: dict(change.folder.durable) for change in self._pending}
        for change in changes:
            change.apply(entries[change.folder])
        return entries

    def _ordered(self) -> Iterator[tuple[_Entries, set[_File]]]:
        for found in range(self._certain, len(self._pending) + 1):
            changes = self._pending[:found]
            yield self._with(changes), {change.flushed for change in changes if change.flushed}

    def _adversarial(self) -> Iterator[_Entries]:
        """Iterate over what may be found in the folders, each combination of entries once."""
        each: list[list[tuple[_Folder, dict[str, _Node]]]] = []
        for folder in dict.fromkeys(change.folder for change in self._pending):
            changes = [change for change in self._pending if change.folder is folder]
            different: dict[frozenset[tuple[str, _Node]], dict[str, _Node]] = {}
            for bits in itertools.product((False, True), repeat=len(changes)):
                entries = dict(folder.durable)
                for change in itertools.compress(changes, bits):
                    change.apply(entries)
                different.setdefault(frozenset(entries.items()), entries)
            each.append([(folder, entries) for entries in different.values()])
        for combination in itertools.product(*each):
            yield dict(combination)

    def _states(self, entries: _Entries, flushed: set[_File], most: int, random: Random) -> Iterator[State]:
        """Iterate over the contents that files may have: all of them, if at most `most` are pending, else one."""
        found = list(self._tree(self._root, "", entries))
        files = {node: None for _, node in found if isinstance(node, _File)}
        variants = [[file.data] if file in flushed else file.after_cut() for file in files]
        choices: Iterable[Sequence[bytes]] = itertools.product(*variants)
        if sum(len(contents) > 1 for contents in variants) > most:
            choices = [[random.choice(contents) for contents in variants]]
        for contents in choices:
            data = dict(zip(files, contents, strict=True))
            yield {path: data[node] if isinstance(node, _File) else None for path, node in found}

    def _tree(self, folder: _Folder, prefix: str, entries: _Entries) -> Iterator[tuple[str, _Node]]:
        for name, node in entries.get(folder, folder.durable).items():
            yield prefix + name, node
            if isinstance(node, _Folder):
                yield from self._tree(node, f"{prefix}{name}/", entries)


def read_from_disk(home: Path) -> State:
    """Return all that is below the folder `home`."""
    state: State = {}

    def read(folder: str, prefix: str) -> None:
        for entry in os.scandir(folder):
            if entry.is_dir():
                state[prefix + entry.name] = None
                read(entry.path, f"{prefix}{entry.name}/")
            else:
                with open(entry.path, "rb", buffering=0) as file:
                    state[prefix + entry.name] = file.readall()

    read(os.fspath(home), "")
    return state


def put_on_disk(home: Path, state: State, now: State | None = None) -> None:
    """Let the folder `home` hold what `state` has, and nothing else; `now` is what it holds, if that is known."""
    if now is None:
        now = read_from_disk(home)
    for path in sorted(now, reverse=True):
        is_folder = now[path] is None
        if path not in state or (state[path] is None) != is_folder:
            (os.rmdir if is_folder else os.unlink)(f"{home}/{path}")
    for path, data in sorted(state.items()):
        if path in now and now[path] == data:
            continue
        if data is None:
            os.mkdir(f"{home}/{path}")
        else:
            with open(f"{home}/{path}", "wb", buffering=0) as file:
                file.write(data)


def digest_of(state: State) -> bytes:
    """Return a hash by which equal states are known."""
    hasher = hashlib.blake2b(digest_size=16)
    for path, data in sorted(state.items()):
        hasher.update(f"{path}\0{-1 if data is None else len(data)}\0".encode())
        hasher.update(data or b"")
    return hasher.digest()
