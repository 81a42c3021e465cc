"""Read the cube that is in a store: parse its documents, and refuse what contradicts itself."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from zappend.datatypes import BYTES, fill_from_attribute, fill_from_json, is_variable_length, v3_dtype, v3_fill
from zappend.errors import TargetError
from zappend.metadata import DIMENSIONS, FILL, Array, Cube, Json, ZarrFormat
from zappend.stores import children_of, read_many

__all__ = ["CubeReader"]

WATCHED = frozenset({"shape", "chunks", "dtype", "data_type", "fill_value", "attributes"})
"""Members of an array's document that are compared with the consolidated ones."""

ROOT = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")

NO_ATTRS: Json = {}
"""What stands for a document that is not there and may be missing."""

MEND = "mend it with zarr.consolidate_metadata(), then append again"


class CubeReader:
    """Reads cubes, parsing again only documents whose bytes have changed since the last reading."""

    def __init__(self) -> None:
        self._documents: dict[str, tuple[bytes, Json]] = {}
        self._arrays: dict[str, tuple[list[Json], Array]] = {}
        self._agreed: dict[str, tuple[Json, ...]] = {}
        self._cube: Cube | None = None
        self._listed = False

    def read(self, store: Mapping[str, bytes], name: str) -> Cube | None:
        """Return the cube in `store`, or ``None`` if there is no metadata at its root.

        It is the same object as before as long as all its documents have the same bytes.

        Raises
        ------
        TargetError
            If the root is no group, or its metadata is not what formats 2 and 3 say, or contradicts itself.
        """
        try:
            return self._read(store, name)
        except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise TargetError(f"{name}: its Zarr metadata cannot be understood: {error!r}") from error

    def learn(self, cube: Cube, documents: Mapping[str, bytes]) -> None:
        """Take `cube` for what the cube that was read becomes with `documents`, so that they need not be parsed."""
        for key, data in documents.items():
            name, _, last = key.rpartition("/")
            self._documents[key] = data, cube.arrays[name].documents[last] if name else cube.root[last]
        for name, array in cube.arrays.items():
            self._arrays[name] = list(array.documents.values()), array
        self._cube = cube

    def _read(self, store: Mapping[str, bytes], name: str) -> Cube | None:
        root = self._load(store, ROOT)
        v3, v2 = root.pop("zarr.json", None), root.get(".zgroup")
        if v3 is not None and v2 is not None:
            raise TargetError(f"{name} has both zarr.json and .zgroup, so readers of format 3 and 2 see two cubes")
        if v3 is not None:
            if v3["node_type"] != "group":
                raise TargetError(f"{name} is a Zarr {v3['node_type']}, and a target is a group")
            inner = v3.get("consolidated_metadata")
            consolidated = inner["metadata"] if inner else None
            root, attrs, zarr_format = {"zarr.json": v3}, v3.get("attributes", NO_ATTRS), 3
        elif v2 is not None:
            attrs, zarr_format = root.get(".zattrs", NO_ATTRS), 2
            consolidated = root[".zmetadata"]["metadata"] if root.get(".zmetadata") else None
        elif self._load(store, (".zarray",)):
            raise TargetError(f"{name} is a Zarr array, and a target is a group")
        else:
            return None
        arrays = self._read_arrays(store, zarr_format, consolidated, name)
        known = self._cube
        if (
            known is None
            or known.attrs is not attrs
            or not (_are_same(known.root, root) and _are_same(known.arrays, arrays))
        ):
            self._cube = Cube(zarr_format, consolidated is not None, attrs, arrays, root)
        return self._cube

    def _read_arrays(
        self, store: Mapping[str, bytes], zarr_format: ZarrFormat, consolidated: Json | None, name: str
    ) -> dict[str, Array]:
        last, *others = ("zarr.json",) if zarr_format == 3 else (".zarray", ".zattrs")
        if consolidated is None:
            paths = [child for child in children_of(store, "") if child not in ROOT]
        elif zarr_format == 3:
            paths = [path for path, document in consolidated.items() if document["node_type"] == "array"]
        else:
            paths = [key.removesuffix("/.zarray") for key in consolidated if key.endswith("/.zarray")]
        if consolidated is not None and not self._listed:
            # Once is enough: afterwards only this writer, who holds the lock, adds arrays.
            known = {key.partition("/")[0] for key in consolidated}
            for child in children_of(store, ""):
                if child not in known and f"{child}/{last}" in store:
                    raise TargetError(f"{name}: {child}/{last} is there, but not in the consolidated metadata; {MEND}")
            self._listed = True
        paths = [path for path in paths if "/" not in path]
        found = self._load(store, [f"{path}/{each}" for path in paths for each in (last, *others)])
        arrays = {}
        for path in paths:
            document = found.get(f"{path}/{last}")
            if document is None:
                if consolidated is not None:
                    raise TargetError(f"{name}: {path}/{last} is in the consolidated metadata, but not there; {MEND}")
                continue
            if zarr_format == 3 and document["node_type"] != "array":
                continue
            documents = {last: document, **{other: found.get(f"{path}/{other}", NO_ATTRS) for other in others}}
            if consolidated is not None:
                self._check_consolidated(consolidated, path, documents, name)
            arrays[path] = self._parse(path, zarr_format, documents)
        return arrays

    def _check_consolidated(self, consolidated: Json, path: str, documents: Mapping[str, Json], name: str) -> None:
        """Raise `TargetError` if readers of the consolidated metadata see the array `path` otherwise than it is."""
        listed = {
            last: consolidated.get(path if last == "zarr.json" else f"{path}/{last}") or NO_ATTRS for last in documents
        }
        compared = (*listed.values(), *documents.values())
        if path not in self._agreed or not _are_same_row(self._agreed[path], compared):
            _compare(listed, path, documents, name)
            self._agreed[path] = compared

    def _parse(self, name: str, zarr_format: ZarrFormat, documents: dict[str, Json]) -> Array:
        known = self._arrays.get(name)
        if known is not None and _are_same_row(known[0], list(documents.values())):
            return known[1]
        array = (_parse_v3 if zarr_format == 3 else _parse_v2)(name, documents)
        self._arrays[name] = list(documents.values()), array
        return array

    def _load(self, store: Mapping[str, bytes], keys: Iterable[str]) -> dict[str, Json]:
        """Return the documents at those of `keys` that are there; the same object for the same bytes."""
        loaded = {}
        for key, data in read_many(store, keys).items():
            if data is None:
                continue
            known = self._documents.get(key)
            if known is None or known[0] != data:
                document = json.loads(data)
                if not isinstance(document, dict):
                    raise ValueError(f"{key} holds no JSON object")
                known = self._documents[key] = data, document
            loaded[key] = known[1]
        return loaded


def _are_same(a: Mapping[str, object], b: Mapping[str, object]) -> bool:
    return a.keys() == b.keys() and all(a[key] is b[key] for key in a)


def _are_same_row(a: Sequence[object], b: Sequence[object]) -> bool:
    return len(a) == len(b) and all(one is other for one, other in zip(a, b, strict=True))


def _compare(consolidated: Mapping[str, Json], path: str, documents: Mapping[str, Json], name: str) -> None:
    for last, document in documents.items():
        listed = consolidated[last]
        if listed is document:
            continue
        keys = document.keys() & WATCHED if last != ".zattrs" else document.keys() | listed.keys()
        for key in sorted(keys):
            if json.dumps(listed.get(key)) != json.dumps(document.get(key)):
                raise TargetError(
                    f"{name}: consolidated metadata is stale: {key} of {path!r} is {listed.get(key)!r} there, "
                    f"{document.get(key)!r} in {path}/{last}; {MEND}"
                )


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
