"""What the lock object of a target in an object store says. It is one frame, as all objects of the log are.

It has::

    owner     who holds it, for people: user, host, pid, started
    nonce     unique to each write
    beat      how often it was written by this owner; a holder that lives writes it every quarter of a lease
    lease     seconds of silence after which the holder is taken for dead
    state     "open" | "hot" | "commit" | "abort" | "done"
    txn       the transaction whose log `objects` are
    objects   the log: for each object that counts its name in the store and its hash, or its bytes
    settled   the transaction settled last, and whether as "commit" or "abort"
    released  whether the owner has let go of it, and left only the log
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from zappend.errors import LockHolder
from zappend.txn.record import pack, unpack
from zappend.txn.storage import LOCK_NAME

__all__ = ["Body", "Entry", "State"]

State = Literal["open", "hot", "commit", "abort", "done"]

Entry = tuple[str, bytes] | bytes
"""One object of the log: its name in the store and its SHA-256, or, if it is small, the object itself."""


@dataclass(frozen=True)
class Body:
    """What the lock object says; the docstring of this module tells what each field means."""

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
