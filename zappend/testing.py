"""Tools for tests and benchmarks: stores that count, dawdle, fail and die.

Whatever is wrapped here sends every call through one `Faults`, which numbers the calls from 1 and lets something happen
at one of them. So a test runs the same work again and again, at 1, 2, 3, …, until a run is over before its fault::

    for at in itertools.count(1):
        faults = Faults(at, fail(Killed), lasting=True)
        files = FaultyFiles(faults)
        try:
            work(LocalStorage(path, files=files))
        except Killed:
            files.abandon()
        if not faults.fired:
            break
        ...  # whatever must hold after a kill

`Killed` from one call on is a kill as the target sees it: no cleanup gets through any more.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Literal, NamedTuple, TypeVar

from zappend.txn.clock import Clock
from zappend.txn.files import Files
from zappend.txn.objects import Conflict, Objects, Tag
from zappend.txn.storage import Value

__all__ = [
    "Call",
    "CountingMapping",
    "Faults",
    "FaultyFiles",
    "FaultyMapping",
    "Killed",
    "LatencyMapping",
    "MemoryObjects",
    "SteppingClock",
    "fail",
]

T = TypeVar("T")

When = Literal["before", "after", "torn"]


class Killed(BaseException):
    """The process is taken to be dead from here on; nothing that handles an `Exception` handles this."""


class Call(NamedTuple):
    """One call: the name of the method, the path or key, and for a second path where it came from."""

    name: str
    path: str
    source: str = ""


def fail(error: BaseException | type[BaseException]) -> Callable[[], None]:
    """Return a fault that raises `error`."""

    def fault() -> None:
        raise error

    return fault


class Faults:
    """What happens at which call, and the record of all calls.

    Parameters
    ----------
    at
        The number of the call, from 1; 0 for none.
    fault
        What happens: a function that raises, kills the process, or looks around and returns.
    when
        ``"before"`` the call is made, ``"after"`` it, or ``"torn"``: after half of it, where it writes data.
    lasting
        Whether it happens before each later call, too.

    Attributes
    ----------
    calls
        All calls so far, the failing ones included.
    fired
        Whether the fault has happened.
    """

    def __init__(
        self,
        at: int = 0,
        fault: Callable[[], None] = fail(Killed),  # noqa: B008 - it has no state
        *,
        when: When = "before",
        lasting: bool = False,
    ) -> None:
        self.calls: list[Call] = []
        self.fired = False
        self._at = at
        self._fault = fault
        self._when = when
        self._lasting = lasting
        self._guard = threading.Lock()

    def call(self, call: Call, do: Callable[[], T], half: Callable[[], object] | None = None) -> T:
        """Return what `do` returns, unless the fault comes; `half` does half of it."""
        with self._guard:
            self.calls.append(call)
            number = len(self.calls)
        now = 0 < self._at == number
        if now and self._when == "torn" and half is not None:
            half()
        if (now and self._when != "after") or (self._lasting and 0 < self._at < number):
            self.fired = True
            self._fault()
        try:
            return do()
        finally:
            if now and self._when == "after":
                self.fired = True
                self._fault()


class FaultyFiles(Files):
    """The calls that change the local file system, under `faults`.

    With ``sync=False`` a sync is a call like others, but the disk is not waited for: only a power cut could tell.
    """

    def __init__(self, faults: Faults | None = None, *, sync: bool = True) -> None:
        self.faults = faults or Faults()
        self._sync = sync
        self._open: dict[int, str] = {}  # paths of descriptors

    def abandon(self) -> None:
        """Close what is still open, locks with it, as the kernel does for a dead process."""
        while self._open:
            os.close(self._open.popitem()[0])

    def open(self, path: str, flags: int) -> int:
        def do() -> int:
            fd = super(FaultyFiles, self).open(path, flags)
            self._open[fd] = path
            return fd

        return self.faults.call(Call("open", path), do)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        def half() -> None:
            os.write(fd, memoryview(data).cast("B")[: len(data) // 2])

        self.faults.call(Call("write", self._path(fd)), lambda: super(FaultyFiles, self).write(fd, data), half)

    def truncate(self, fd: int) -> None:
        self.faults.call(Call("truncate", self._path(fd)), lambda: super(FaultyFiles, self).truncate(fd))

    def chmod(self, fd: int, mode: int) -> None:
        self.faults.call(Call("chmod", self._path(fd)), lambda: super(FaultyFiles, self).chmod(fd, mode))

    def fsync(self, fd: int) -> None:
        def do() -> None:
            if self._sync:
                super(FaultyFiles, self).fsync(fd)

        self.faults.call(Call("fsync", self._path(fd)), do)

    def close(self, fd: int) -> None:
        def do() -> None:
            # In this order, since the number is free for another thread as soon as it is closed.
            del self._open[fd]
            super(FaultyFiles, self).close(fd)

        try:
            self.faults.call(Call("close", self._path(fd)), do)
        except OSError:
            if fd in self._open:
                do()  # the system lets go of a descriptor even when it reports an error
            raise

    def rename(self, source: str, to: str) -> None:
        self.faults.call(Call("rename", to, source), lambda: super(FaultyFiles, self).rename(source, to))

    def link(self, source: str, to: str) -> None:
        self.faults.call(Call("link", to, source), lambda: super(FaultyFiles, self).link(source, to))

    def unlink(self, path: str) -> None:
        self.faults.call(Call("unlink", path), lambda: super(FaultyFiles, self).unlink(path))

    def mkdir(self, path: str) -> None:
        self.faults.call(Call("mkdir", path), lambda: super(FaultyFiles, self).mkdir(path))

    def rmdir(self, path: str) -> None:
        self.faults.call(Call("rmdir", path), lambda: super(FaultyFiles, self).rmdir(path))

    def _path(self, fd: int) -> str:
        return self._open[fd]


class _Wrapper(MutableMapping[str, bytes]):
    """Another mapping, all calls to which go through `_call`."""

    def __init__(self, inner: MutableMapping[str, bytes]) -> None:
        self.inner = inner

    def _call(self, name: str, key: str, do: Callable[[], T]) -> T:
        return do()

    def __getitem__(self, key: str) -> bytes:
        return self._call("get", key, lambda: self.inner[key])

    def __contains__(self, key: object) -> bool:
        return self._call("has", str(key), lambda: key in self.inner)

    def __setitem__(self, key: str, value: bytes) -> None:
        self._call("set", key, lambda: self.inner.__setitem__(key, value))

    def __delitem__(self, key: str) -> None:
        self._call("delete", key, lambda: self.inner.__delitem__(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self._call("list", "", lambda: list(self.inner)))

    def __len__(self) -> int:
        return self._call("list", "", lambda: len(self.inner))


class FaultyMapping(_Wrapper):
    """A mapping under `faults`: its sets and deletes, and with `reads` its other calls too, are numbered."""

    def __init__(self, inner: MutableMapping[str, bytes], faults: Faults | None = None, *, reads: bool = False) -> None:
        super().__init__(inner)
        self.faults = faults or Faults()
        self._reads = reads

    def _call(self, name: str, key: str, do: Callable[[], T]) -> T:
        return self.faults.call(Call(name, key), do) if self._reads or name in ("set", "delete") else do()


class CountingMapping(_Wrapper):
    """A mapping that counts its calls by kind: "get", "has", "set", "delete" and "list"."""

    def __init__(self, inner: MutableMapping[str, bytes]) -> None:
        super().__init__(inner)
        self.counts: Counter[str] = Counter()

    def _call(self, name: str, key: str, do: Callable[[], T]) -> T:
        self.counts[name] += 1
        return do()


class LatencyMapping(_Wrapper):
    """A mapping that takes `seconds` for each call, as a store behind a network does."""

    def __init__(self, inner: MutableMapping[str, bytes], seconds: float) -> None:
        super().__init__(inner)
        self.seconds = seconds

    def _call(self, name: str, key: str, do: Callable[[], T]) -> T:
        time.sleep(self.seconds)
        return do()


class MemoryObjects(Objects):
    """An object store in memory, under `faults`, as S3 is: the tag of an object follows from its bytes alone.

    Several of these on one `data` are several clients of one bucket. A fault of `faults` raises `LOST` for a request
    or an answer that is lost.

    Parameters
    ----------
    data
        The whole bucket; changed by all its clients.
    prefix
        Begins all keys, but is not part of them.
    faults
        What happens at which request.
    client
        Equal for clients that are in one process.
    """

    def __init__(
        self, data: dict[str, bytes], prefix: str = "", faults: Faults | None = None, client: object = None
    ) -> None:
        self.data = data
        self.prefix = prefix
        self.faults = faults or Faults()
        self.name = f"test://bucket/{prefix}".rstrip("/")
        self.identity = (id(data), prefix, id(self if client is None else client))

    def get(self, key: str) -> tuple[bytes, Tag] | None:
        def do() -> tuple[bytes, Tag] | None:
            value = self.data.get(self.prefix + key)
            return None if value is None else (value, _tag(value))

        return self._call("get", key, do)

    def head(self, key: str) -> Tag | None:
        return self._call("head", key, lambda: self._tag_at(key))

    def put(self, key: str, data: Value, over: Tag | None) -> Tag:
        value = bytes(data)

        def do() -> Tag:
            with _bucket:
                if self._tag_at(key) != over:
                    raise Conflict(key)
                self.data[self.prefix + key] = value
            return _tag(value)

        return self._call("put", key, do)

    def delete(self, key: str, tag: Tag) -> None:
        def do() -> None:
            with _bucket:
                now = self._tag_at(key)
                if now not in (tag, None):
                    raise Conflict(key)
                self.data.pop(self.prefix + key, None)

        self._call("delete", key, do)

    def delete_many(self, keys: Iterable[str]) -> None:
        names = [self.prefix + key for key in keys]

        def do() -> None:
            with _bucket:
                for name in names:
                    self.data.pop(name, None)

        self._call("delete_many", " ".join(names), do)

    def list(self, prefix: str) -> Iterator[tuple[str, Tag]]:
        whole = self.prefix + prefix
        found = self._call("list", prefix, lambda: [kv for kv in sorted(self.data.items()) if kv[0].startswith(whole)])
        return iter([(key[len(self.prefix) :], _tag(value)) for key, value in found])

    def children(self, prefix: str) -> Iterator[str]:
        names = (key[len(prefix) :].partition("/")[0] for key, _ in self.list(prefix))
        return iter(dict.fromkeys(names))

    def check(self) -> None:
        """Do nothing: conditions are kept."""

    def _tag_at(self, key: str) -> Tag | None:
        value = self.data.get(self.prefix + key)
        return None if value is None else _tag(value)

    def _call(self, name: str, key: str, do: Callable[[], T]) -> T:
        return self.faults.call(Call(name, key), do)


_bucket = threading.Lock()


def _tag(value: bytes) -> Tag:
    return hashlib.md5(value, usedforsecurity=False).hexdigest()


class SteppingClock(Clock):
    """A clock that stands still, but while somebody sleeps: then it jumps, and what is to be repeated is done."""

    def __init__(self) -> None:
        self.time = 0.0
        self._repeated: dict[object, tuple[float, float, Callable[[], None]]] = {}

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        until = self.time + seconds
        while due := min(((at, key) for key, (at, _, _) in self._repeated.items() if at <= until), default=None):
            self.time, key = max(due[0], self.time), due[1]
            _, every, do = self._repeated[key]
            self._repeated[key] = self.time + every, every, do
            do()
        self.time = until

    def repeat(self, do: Callable[[], None], seconds: float) -> Callable[[], None]:
        key = len(self._repeated), do
        self._repeated[key] = self.time + seconds, seconds, do
        return lambda: self._repeated.pop(key, None) and None

    def forget(self) -> None:
        """End all that is repeated, as when its process dies."""
        self._repeated.clear()
