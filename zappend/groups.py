"""A cube that is a group inside a larger store: its keys as if it were alone, and the metadata of the groups above it.

Above the cube lies at least the root group of the store. Where such a group has consolidated metadata, that has a copy
of the cube's documents, too, which has to change with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from zappend.errors import TargetError
from zappend.metadata import EMPTY, Json, ZarrFormat, dump, new_cube
from zappend.stores import children_of, copy_many, is_remote, read_many

__all__ = ["GroupMapping", "cube_in", "documents_above"]


def cube_in(store: MutableMapping[str, bytes], group: str) -> MutableMapping[str, bytes]:
    """Return the keys of `store` below the folder `group`, named as if that were all there is."""
    return GroupMapping(store, f"{group}/") if group else store


class GroupMapping(MutableMapping[str, bytes]):
    """The keys of `store` that begin with `prefix`, which ends in a slash, without it."""

    def __init__(self, store: MutableMapping[str, bytes], prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    @property
    def is_remote(self) -> bool:
        """Whether many keys written together by `update` cost hardly more time than one."""
        return is_remote(self._store)

    def __getitem__(self, key: str) -> bytes:
        return self._store[self._prefix + key]

    def __setitem__(self, key: str, value: bytes) -> None:
        self._store[self._prefix + key] = value

    def update(self, other: Any = (), /, **more: bytes) -> None:
        """Write many keys together."""
        self._store.update({self._prefix + key: value for key, value in dict(other, **more).items()})

    def __delitem__(self, key: str) -> None:
        del self._store[self._prefix + key]

    def copy(self, sources: Mapping[str, str]) -> None:
        """Give each key what another one holds."""
        copy_many(self._store, {self._prefix + key: self._prefix + source for key, source in sources.items()})

    def __iter__(self) -> Iterator[str]:
        return (key[len(self._prefix) :] for key in self._store if key.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def children(self, prefix: str) -> Iterator[str]:
        """Iterate over the names directly below the folder `prefix`."""
        return children_of(self._store, self._prefix + prefix)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        """Return the value of each of `keys`, ``None`` for one that is not there."""
        found = read_many(self._store, [self._prefix + key for key in keys])
        return {key[len(self._prefix) :]: value for key, value in found.items()}


def documents_above(
    store: Mapping[str, bytes],
    group: str,
    documents: Mapping[str, bytes],
    zarr_format: ZarrFormat,
    *,
    created: bool,
    consolidated: bool = True,
) -> dict[str, bytes]:
    """Return the documents of the groups above the cube `group` that change with it, by key, the root last.

    Parameters
    ----------
    store
        The whole store, as it is.
    group
        Path of the cube in it; if that is empty, nothing is above it.
    documents
        The documents of the cube that change, named as in the cube.
    zarr_format
        Format of the cube.
    created
        Whether the cube begins with these documents, so that nothing that was listed of it before remains.
    consolidated
        Whether the root group has consolidated metadata if it is new.

    Raises
    ------
    TargetError
        If something above the cube is no group, or one of another format.
    """
    if not group:
        return {}
    changed = {f"{group}/{key}": json.loads(value) for key, value in documents.items()}
    out: dict[str, bytes] = {}
    path = group
    while path:
        path = path.rpartition("/")[0]
        prefix = f"{path}/" if path else ""
        found = _read_group(store, prefix, zarr_format)
        if not found:
            found = dict(new_cube(zarr_format, {}, consolidated=consolidated and not path).root)
            changed |= {prefix + name: document for name, document in found.items()}
        name = "zarr.json" if zarr_format == 3 else ".zmetadata"
        for key, document in found.items():
            new = _patched(document, prefix, group, changed, created=created) if key == name else document
            if new is not document or prefix + key in changed:
                out[prefix + key] = dump(new)
    return out


def _read_group(store: Mapping[str, bytes], prefix: str, zarr_format: ZarrFormat) -> dict[str, Json]:
    where = f"the group {prefix.rstrip('/')!r}" if prefix else "the root group"
    other = ".zgroup" if zarr_format == 3 else "zarr.json"
    if store.get(prefix + other) is not None:
        raise TargetError(
            f"{where} has {other}, so it is Zarr format {5 - zarr_format}, and the cube in it format {zarr_format}; "
            f"a group and what is in it must have one format"
        )
    if store.get(f"{prefix}.zarray") is not None:
        raise TargetError(f"{where} is an array, so there can be no group in it")
    names = ("zarr.json",) if zarr_format == 3 else (".zgroup", ".zattrs", ".zmetadata")
    found = {name: json.loads(value) for name in names if (value := store.get(prefix + name)) is not None}
    if found.get("zarr.json", {}).get("node_type", "group") != "group":
        raise TargetError(f"{where} is an array, so there can be no group in it")
    return found


def _patched(document: Json, prefix: str, group: str, changed: Mapping[str, Json], *, created: bool) -> Json:
    """Return the root document of the group at `prefix` with what `changed` says of the nodes below it."""
    inner = document.get("consolidated_metadata") if "node_type" in document else document
    if not inner:
        return document
    entries = {
        key: entry
        for key, entry in inner["metadata"].items()
        if not (created and f"{prefix}{key}/".startswith(f"{group}/"))
    }
    for key, new in changed.items():
        below, name = key[len(prefix) :], key.rpartition("/")[2]
        if not key.startswith(prefix):
            continue
        if name == "zarr.json":
            node = below.rpartition("/")[0]
            if node:
                entries[node] = {**new, "consolidated_metadata": EMPTY} if new["node_type"] == "group" else new
        elif name != ".zmetadata":
            entries[below] = new
    if "node_type" in document:
        return {**document, "consolidated_metadata": {**inner, "metadata": entries}}
    return {**document, "metadata": entries}
