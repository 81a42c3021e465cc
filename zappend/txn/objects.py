"""What a transaction needs of an object store: each write names what it replaces, and its fate is told honestly.

A new kind of object store is one more subclass of `Objects`. All methods block and may be called from many threads.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator

from zappend.errors import TargetError
from zappend.txn.storage import Value

__all__ = ["Busy", "Conflict", "Objects", "Tag", "Unclear", "probe"]

Tag = str
"""Names one state of one object: its ETag, or its generation."""


class Conflict(Exception):
    """A conditional write was refused, since the object is not what the condition names; nothing was changed."""


class Unclear(OSError):
    """The answer to a write was lost: it may have taken effect, may not, or may still do so later."""


class Busy(Unclear):
    """The store was too busy for a write, which did not take effect; it may be sent again."""


class Objects(ABC):
    """The objects of one bucket whose names begin with one prefix, which is not part of the keys.

    Attributes
    ----------
    name
        The bucket and prefix as a user would write them, for messages.
    identity
        Equal for two of these that reach the same objects.
    is_root
        Whether the prefix is empty, so that there is nothing beside it.
    conditional_deletes
        Whether `delete` can name what it deletes.
    quiet
        Seconds after which a request that was sent cannot take effect any more. S3 refuses one whose signature is 15
        minutes old.
    """

    name: str
    identity: Hashable
    is_root: bool = False
    conditional_deletes: bool = True
    quiet: float = 900.0

    @abstractmethod
    def get(self, key: str) -> tuple[bytes, Tag] | None:
        """Return the bytes of an object and their tag, or ``None`` if it is definitely not there."""

    @abstractmethod
    def head(self, key: str) -> Tag | None:
        """Return the tag of an object, or ``None`` if it is definitely not there."""

    @abstractmethod
    def put(self, key: str, data: Value, over: Tag | None) -> Tag:
        """Write an object over that with the tag `over`, or with ``None`` where there is none; return its tag.

        Raises
        ------
        Conflict
            If something else is there. Nothing was changed.
        Unclear
            If it is not known whether it was written, or will be.
        OSError
            If it was refused for another reason. Nothing was changed.
        """

    @abstractmethod
    def delete(self, key: str, tag: Tag) -> None:
        """Delete the object with the tag `tag`, as far as the store can tell; absent already is fine.

        Raises as `put` does.
        """

    @abstractmethod
    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects whatever they are, with few requests; absent already is fine."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[tuple[str, Tag]]:
        """Iterate over all keys that begin with `prefix`, with their tags, in any order."""

    @abstractmethod
    def children(self, prefix: str) -> Iterator[str]:
        """Iterate over the names directly below the folder `prefix`: last parts of keys, and folders."""

    @abstractmethod
    def check(self) -> None:
        """Find out whether the store keeps conditions, with requests of its own if need be.

        Raises
        ------
        TargetError
            If it accepts a write that it had to refuse.
        """


_probed: dict[Hashable, bool] = {}


def probe(objects: Objects, server: Hashable) -> None:
    """Find out once in a process whether `server` keeps conditions, by an object of our own among `objects`.

    Sets `Objects.conditional_deletes`. Raises `TargetError` if a condition on a write is passed over.
    """
    if server not in _probed:
        key = f"probe-{os.urandom(8).hex()}"
        tag = objects.put(key, b"first", None)
        try:
            other = objects.put(key, b"second", tag)
            for over in (None, tag):
                try:
                    objects.put(key, b"third", over)
                except Conflict:
                    continue
                raise TargetError(
                    f"{objects.name}: the server passes over {'If-None-Match' if over is None else 'If-Match'}, so it "
                    f"cannot be made sure that there is one writer; locking='unsafe' leaves that to you"
                )
            if objects.conditional_deletes:
                with contextlib.suppress(Conflict):
                    objects.delete(key, tag)
            _probed[server] = objects.head(key) == other
        finally:
            objects.delete_many([key])
    objects.conditional_deletes &= _probed[server]
