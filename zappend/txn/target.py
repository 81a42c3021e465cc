"""What a user may give as a target → its storage.

A path or URL, a mapper, a Zarr store and an obstore store that name the same objects get the same lock and the same
log. What a store cannot do is found out here, and refused, not assumed.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, Literal

from zappend.errors import TargetError, UsageError
from zappend.txn.local import LocalStorage
from zappend.txn.memory import MappingStorage
from zappend.txn.objects import Objects
from zappend.txn.objectstore import ObjectStorage
from zappend.txn.storage import DURABILITIES, PLACE_PREFIX, Durability, Storage

__all__ = ["LOCKINGS", "Locking", "open_target"]

Locking = Literal["safe", "unsafe"]
LOCKINGS: tuple[Locking, ...] = ("safe", "unsafe")

PLACE = PLACE_PREFIX[:-1]

CLIENTS = {
    "s3fs": ("zappend.txn.s3", "S3Objects"),
    "adlfs": ("zappend.txn.azure", "AzureObjects"),
    "gcsfs": ("zappend.txn.gcs", "GcsObjects"),
}
"""For each package of file systems on objects, the module and the class that sends conditional writes through it."""


def open_target(
    target: Any,
    durability: Durability = "full",
    *,
    storage_options: Mapping[str, Any] | None = None,
    locking: Locking = "safe",
) -> Storage:
    """Return the storage behind what a user names as a target.

    Parameters
    ----------
    target
        A local path (`str` or `os.PathLike`), which need not exist, though its parent must; a URL of fsspec, chained
        ones included; an fsspec mapper; a `zarr.abc.store.Store`; a store of obstore; a `MutableMapping` from `str` to
        `bytes`; or a `Storage`, returned as it is.
    durability
        ``"full"``: a commit survives a power cut. ``"process"``: it survives a kill of the process, without any
        fsync. Of no effect but on local paths.
    storage_options
        Options of the file system, for a URL.
    locking
        ``"unsafe"``: write also to a store that cannot tell whether there is another writer; that there is none, now
        and during recovery, is then the caller's word.

    Raises
    ------
    UsageError
        If an argument is none that can be.
    TargetError
        If there can be no target there, or the store cannot keep the promise and `locking` is not ``"unsafe"``.
    """
    if durability not in DURABILITIES:
        raise UsageError(f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}")
    if locking not in LOCKINGS:
        raise UsageError(f"locking must be one of {', '.join(LOCKINGS)}, not {locking!r}")
    if isinstance(target, (str, os.PathLike)):
        path = os.fspath(target)
        if not path or not isinstance(path, str) or "\0" in path:
            raise TargetError(f"{target!r} is no path of a target")
        if "://" in path or "::" in path:
            return _open_url(path, durability, dict(storage_options or {}), locking)
        if storage_options:
            raise UsageError(f"storage_options go with a URL, and {path} is a local path")
        return LocalStorage(path, durability=durability)
    if storage_options:
        raise UsageError("storage_options go with a URL; what is given here as a target has its own")
    if isinstance(target, Storage):
        return target
    if _is_from(target, "fsspec.mapping"):
        return _open_file_system(target.fs, target.root, durability, locking)
    if _is_from(target, "zarr.abc.store"):
        return _open_zarr_store(target, durability, locking)
    if type(target).__module__.startswith("obstore"):
        return _open_obstore(target, durability)
    if isinstance(target, MutableMapping):
        return MappingStorage(target)
    raise UsageError(
        f"target must be a path, a URL, a mapper of fsspec, a store of zarr or obstore, or a mapping of keys to bytes, "
        f"not {type(target).__name__}"
    )


def _open_url(url: str, durability: Durability, options: dict[str, Any], locking: Locking) -> Storage:
    scheme = url.partition("://")[0]
    if scheme in ("file", "local"):
        if options:
            raise UsageError(f"storage_options do nothing for {url}, a local path")
        return LocalStorage(url.partition("://")[2], durability=durability)
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError, TypeError, OSError) as error:
        raise TargetError(f"cannot write to {_without_password(url)}: {error}") from error
    return _open_file_system(fs, root, durability, locking, _without_password(url))


def _open_file_system(fs: Any, root: str, durability: Durability, locking: Locking, name: str = "") -> Storage:
    while True:
        if _is_from(fs, "fsspec.implementations.asyn_wrapper"):
            fs = fs.sync_fs
        elif _is_from(fs, "fsspec.implementations.dirfs"):
            fs, root = fs.fs, f"{fs.path}/{root}"
        elif _is_from(fs, "fsspec.implementations.cached"):
            fs = fs.fs  # what is read under the lock must be what is there
        elif getattr(fs, "asynchronous", False):
            options = {key: value for key, value in fs.storage_options.items() if key not in ("asynchronous", "loop")}
            fs = type(fs)(*fs.storage_args, **options)
        else:
            break
    name = name or fs.unstrip_protocol(root)
    root = root.rstrip("/")
    if _is_from(fs, "fsspec.implementations.local"):
        return LocalStorage(root, durability=durability)
    if locking == "safe":
        for package, (module, client) in CLIENTS.items():
            if _is_from(fs, package):
                return _beside(partial(getattr(importlib.import_module(module), client), fs), root.strip("/"), name)
    from zappend.txn.mappings import FileSystemMapping

    in_memory = _is_from(fs, "fsspec.implementations.memory")
    if not in_memory and locking == "safe":
        raise _unsafe(name, f"the file system {type(fs).__name__}")
    cube, place = FileSystemMapping(fs, root), FileSystemMapping(fs, f"{root}{PLACE}")
    identity = ("memory" if in_memory else id(type(fs)), root)
    return MappingStorage(cube, place=place, name=name, identity=identity)


def _open_zarr_store(store: Any, durability: Durability, locking: Locking) -> Storage:
    if store.read_only:
        raise UsageError(f"the store {store} was opened for reading only")
    if _is_from(store, "zarr.storage._local"):
        return LocalStorage(store.root, durability=durability)
    if _is_from(store, "zarr.storage._fsspec"):
        return _open_file_system(store.fs, store.path, durability, locking)
    if _is_from(store, "zarr.storage._obstore"):
        return _open_obstore(store.store, durability)
    if _is_from(store, "zappend.txn.zarrview"):
        raise UsageError("the store of a transaction cannot be the target of another one; use the transaction itself")
    from zappend.txn.mappings import StoreMapping

    in_memory = _is_from(store, "zarr.storage._memory")
    if not in_memory and locking == "safe":
        raise _unsafe(str(store), f"a {type(store).__name__}")
    held = store._store_dict if in_memory else store  # several memory stores may share one dict
    return MappingStorage(StoreMapping(store), name=str(store), identity=("mapping", id(held)), keep=held)


def _open_obstore(store: Any, durability: Durability) -> Storage:
    if type(store).__name__ == "LocalStore":
        if store.prefix is None:
            raise TargetError("a LocalStore without a prefix is the root of the file system, which can be no target")
        return LocalStorage(store.prefix, durability=durability)
    if type(store).__name__ not in ("S3Store", "GCSStore", "AzureStore", "MemoryStore"):
        raise TargetError(
            f"a {type(store).__name__} of obstore cannot be written to conditionally, so it can be no target"
        )
    from zappend.txn.obstore import ObstoreObjects

    root = str(getattr(store, "prefix", None) or "").strip("/")
    return _beside(partial(ObstoreObjects, store), root)


def _beside(make: Callable[[str], Objects], root: str, name: str = "") -> ObjectStorage:
    """Return storage with its log beside the target, or inside it where it is the root of a bucket."""
    objects = make(root)
    place = make(f"{root}/{PLACE}" if objects.is_root else f"{root}{PLACE}")
    return ObjectStorage(objects, place, name)


def _is_from(value: object, module: str) -> bool:
    """Tell whether the class of `value`, or one that it is derived from, is defined in `module` or below it."""
    return any(f"{cls.__module__}.".startswith(f"{module}.") for cls in type(value).__mro__)


def _unsafe(name: str, what: str) -> TargetError:
    return TargetError(
        f"cannot write to {name} safely: {what} has no write that fails if another writer came first, so nothing tells "
        f"whether there is one; with locking='unsafe' that is left to you"
    )


def _without_password(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)
