"""The names of the objects of a log, and which of them belong to undo logs that were kept.

A kept log has a head of its own, and what that needs stays under its old name: parts and originals of the same
transaction. So what belongs to it can be told from names alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

__all__ = ["DECISION", "HEAD", "KEPT", "ORIGINAL", "is_kept", "kept_heads", "kept_name", "kept_objects", "txn_of"]

HEAD = "undo"
DECISION = "decision"
ORIGINAL = "original"
KEPT = "kept"

_KEPT_HEAD = re.compile(r"kept-(\d{8})-([0-9a-f]{32})")
_PART = re.compile(r"(?:undo|original)-([0-9a-f]{32})-\d{8}")


def kept_name(others: Collection[str], txn: str) -> str:
    """Return the name of the head by which the log of `txn` is kept, behind those of `others`."""
    last = max((int(name.split("-")[1]) for name in others), default=0)
    return f"{KEPT}-{last + 1:08d}-{txn}"


def is_kept(name: str) -> bool:
    """Tell whether `name` is that of the head of a kept log."""
    return _KEPT_HEAD.fullmatch(name) is not None


def txn_of(head: str) -> str:
    """Return the transaction whose log was kept under the head of that name."""
    return head.split("-")[2]


def kept_heads(names: Iterable[str]) -> list[str]:
    """Return those of `names` that are heads of kept logs, the oldest first."""
    return sorted(name for name in names if is_kept(name))


def kept_objects(names: Collection[str]) -> set[str]:
    """Return those of `names` that belong to kept logs: their heads, and the parts and originals that these name."""
    heads = kept_heads(names)
    txns = {txn_of(head) for head in heads}
    parts = {name for name in names if (part := _PART.fullmatch(name)) and part[1] in txns} if txns else set()
    return parts.union(heads)
