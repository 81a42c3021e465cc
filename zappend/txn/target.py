"""What a user may give as a target → its storage."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

from zappend.errors import TargetError, UsageError
from zappend.txn.local import LocalStorage
from zappend.txn.memory import MappingStorage
from zappend.txn.storage import DURABILITIES, Durability, Storage

__all__ = ["open_target"]


def open_target(target: Any, durability: Durability = "full") -> Storage:
    """Return the storage behind what a user names as a target.

    Parameters
    ----------
    target
        A local path (`str`, `os.PathLike`, or a ``file://`` URL), which need not exist, though its parent must; a
        `MutableMapping` from `str` to `bytes`; or a `Storage`, returned as it is.
    durability
        ``"full"``: a commit survives a power cut. ``"process"``: it survives a kill of the process, without any
        fsync. Of no effect on a mapping or a `Storage`.

    Raises
    ------
    UsageError
        If `durability` is none of the two, or `target` is nothing that can be a target.
    TargetError
        If there can be no target at that path.
    """
    if durability not in DURABILITIES:
        raise UsageError(f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}")
    if isinstance(target, Storage):
        return target
    if isinstance(target, (str, os.PathLike)):
        return LocalStorage(_local_path(os.fspath(target)), durability=durability)
    if isinstance(target, MutableMapping) and not _is_fsspec_mapper(target):
        return MappingStorage(target)
    raise UsageError(
        f"target must be a local path, a file:// URL or a mapping of keys to bytes, not {type(target).__name__}"
    )


def _local_path(target: str | bytes) -> str:
    """Return the local path that `target` names; raise `TargetError` for a URL of another file system."""
    if not target or not isinstance(target, str) or "\0" in target:
        raise TargetError(f"{target!r} is no path of a target")
    scheme, separator, rest = target.partition("://")
    if not separator:
        return target
    if scheme in ("file", "local"):
        return rest
    raise TargetError(f"cannot write to {target}: only local paths and file:// URLs can be targets so far")


def _is_fsspec_mapper(target: MutableMapping[str, bytes]) -> bool:
    # FSMap answers "not there" when the server is down, so a pre-image could be wrong.
    return any(cls.__module__ == "fsspec.mapping" for cls in type(target).__mro__)
