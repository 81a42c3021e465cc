"""Read the cube that is in a store: parse its documents, and refuse what contradicts itself."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping

import numpy as np

from zappend.datatypes import BYTES, fill_from_attribute, fill_from_json, is_variable_length, v3_dtype, v3_fill
from zappend.errors import TargetError
from zappend.metadata import DIMENSIONS, FILL, Array, Cube, Json, ZarrFormat

__all__ = ["CubeReader", "children_of"]

WATCHED = frozenset({"shape", "chunks", "dtype", "data_type", "fill_value", "attributes"})
"""Members of an array's document that are compared with the consolidated ones."""

MEND = "mend it with zarr.consolidate_metadata(), then append again"


class CubeReader:
    """Reads cubes, parsing again only documents whose bytes have changed since the last reading."""

    def __init__(self) -> None:
        self._documents: dict[str, tuple[bytes, Json]] = {}
        self._arrays: dict[str, tuple[list[Json], Array]] = {}
        self._listed = False

    def read(self, store: Mapping[str, bytes], name: str) -> Cube | None:
        """Return the cube in `store`, or ``None`` if there is no metadata at its root.

        Raises
        ------
        TargetError
            If the root is no group, or its metadata is not what formats 2 and 3 say, or contradicts itself.
        """
        try:
            return self._read(store, name)
        except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise TargetError(f"{name}: its Zarr metadata cannot be understood: {error!r}") from error

    def _read(self, store: Mapping[str, bytes], name: str) -> Cube | None:
        v3 = self._load(store, "zarr.json")
        v2 = self._load(store, ".zgroup")
        if v3 is not None and v2 is not None:
            raise TargetError(f"{name} has both zarr.json and .zgroup, so readers of format 3 and 2 see two cubes")
        if v3 is not None:
            if v3["node_type"] != "group":
                raise TargetError(f"{name} is a Zarr {v3['node_type']}, and a target is a group")
            inner = v3.get("consolidated_metadata")
            consolidated = inner["metadata"] if inner else None
            root, attrs, zarr_format = {"zarr.json": v3}, v3.get("attributes", {}), 3
        elif v2 is not None:
            root, attrs, zarr_format = {".zgroup": v2}, self._load(store, ".zattrs") or {}, 2
            metadata = self._load(store, ".zmetadata")
            consolidated = metadata["metadata"] if metadata else None
            if metadata:
                root[".zmetadata"] = metadata
        elif self._load(store, ".zarray") is not None:
            raise TargetError(f"{name} is a Zarr array, and a target is a group")
        else:
            return None
        arrays = dict(self._read_arrays(store, zarr_format, consolidated, name))
        return Cube(zarr_format, consolidated is not None, attrs, arrays, root)

    def _read_arrays(
        self, store: Mapping[str, bytes], zarr_format: ZarrFormat, consolidated: Json | None, name: str
    ) -> Iterator[tuple[str, Array]]:
        last = "zarr.json" if zarr_format == 3 else ".zarray"
        if consolidated is None:
            children = (f"{child}/{last}" for child in children_of(store, ""))
        elif zarr_format == 3:
            children = (f"{child}/{last}" for child, doc in consolidated.items() if doc["node_type"] == "array")
        else:
            children = (key for key in consolidated if key.endswith("/.zarray"))
        if consolidated is not None and not self._listed:
            # Once is enough: afterwards only this writer, who holds the lock, adds arrays.
            known = {key.partition("/")[0] for key in consolidated}
            for child in children_of(store, ""):
                if child not in known and f"{child}/{last}" in store:
                    raise TargetError(f"{name}: {child}/{last} is there, but not in the consolidated metadata; {MEND}")
            self._listed = True
        for key in children:
            path = key.rpartition("/")[0]
            if "/" in path:
                continue
            if (document := self._load(store, key)) is None:
                if consolidated is not None:
                    raise TargetError(f"{name}: {key} is in the consolidated metadata, but not there; {MEND}")
                continue
            if zarr_format == 3 and document["node_type"] != "array":
                continue
            documents = {last: document}
            if zarr_format == 2:
                documents[".zattrs"] = self._load(store, f"{path}/.zattrs") or {}
            if consolidated is not None:
                _check_consolidated(consolidated, path, documents, name)
            yield path, self._parse(path, zarr_format, documents)

    def _parse(self, name: str, zarr_format: ZarrFormat, documents: dict[str, Json]) -> Array:
        known = self._arrays.get(name)
        if known is not None and all(a is b for a, b in zip(known[0], documents.values(), strict=False)):
            return known[1]
        array = (_parse_v3 if zarr_format == 3 else _parse_v2)(name, documents)
        self._arrays[name] = list(documents.values()), array
        return array

    def _load(self, store: Mapping[str, bytes], key: str) -> Json | None:
        data = store.get(key)
        if data is None:
            return None
        known = self._documents.get(key)
        if known is not None and known[0] == data:
            return known[1]
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError(f"{key} holds no JSON object")
        self._documents[key] = data, document
        return document


def _check_consolidated(consolidated: Json, path: str, documents: Mapping[str, Json], name: str) -> None:
    """Raise `TargetError` if readers of the consolidated metadata see the array `path` otherwise than it is."""
    for last, document in documents.items():
        listed = consolidated.get(path if last == "zarr.json" else f"{path}/{last}") or {}
        keys = document.keys() & WATCHED if last != ".zattrs" else document.keys() | listed.keys()
        for key in sorted(keys):
            if json.dumps(listed.get(key)) != json.dumps(document.get(key)):
                raise TargetError(
                    f"{name}: consolidated metadata is stale: {key} of {path!r} is {listed.get(key)!r} there, "
                    f"{document.get(key)!r} in {path}/{last}; {MEND}"
                )


def children_of(store: Mapping[str, bytes], prefix: str) -> Iterator[str]:
    """Iterate over the names directly below the folder `prefix`; a plain mapping is searched whole."""
    if hasattr(store, "children"):
        yield from store.children(prefix)
    else:
        yield from dict.fromkeys(k[len(prefix) :].partition("/")[0] for k in store if k.startswith(prefix))


def _parse_v2(name: str, documents: dict[str, Json]) -> Array:
    document = documents[".zarray"]
    attrs = dict(documents[".zattrs"])
    dims = attrs.pop(DIMENSIONS, [] if not document["shape"] else None)
    if dims is None or len(dims) != len(document["shape"]):
        raise TargetError(f"array {name!r} has no names of its dimensions; give it the attribute {DIMENSIONS}")
    if not isinstance(document["dtype"], str):
        raise TargetError(f"array {name!r} has a structured type, which cannot be appended to")
    dtype = np.dtype(document["dtype"])
    members = [*(document.get("filters") or ()), document.get("compressor") or {}]
    if is_variable_length(dtype) and any(codec.get("id") == "vlen-bytes" for codec in members):
        dtype = BYTES
    fill = fill_from_json(document["fill_value"], dtype)
    if fill is not None:
        attrs[FILL] = fill
    shape, chunks = tuple(document["shape"]), tuple(document["chunks"])
    return Array(name, 2, shape, chunks, tuple(dims), dtype, fill, attrs, documents)


def _parse_v3(name: str, documents: dict[str, Json]) -> Array:
    document = documents["zarr.json"]
    shape = tuple(document["shape"])
    dims = document.get("dimension_names") or ([] if not shape else None)
    if dims is None or None in dims:
        raise TargetError(f"array {name!r} has no names of its dimensions; give it dimension_names in {name}/zarr.json")
    if document["chunk_grid"]["name"] != "regular":
        raise TargetError(f"array {name!r} has the chunk grid {document['chunk_grid']['name']!r}, expected 'regular'")
    if document.get("storage_transformers"):
        raise TargetError(f"array {name!r} has storage transformers, which are not supported")
    dtype = v3_dtype(document["data_type"], name)
    attrs = dict(document.get("attributes", {}))
    if FILL in attrs:
        attrs[FILL] = fill_from_attribute(attrs[FILL], dtype)
    chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    return Array(name, 3, shape, chunks, tuple(dims), dtype, v3_fill(document["fill_value"], dtype), attrs, documents)
