"""Read the cube that is in a store: parse its documents, and refuse what contradicts itself.

Where there is consolidated metadata, only the documents of arrays that grow are read beside it, and compared.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from zappend.datatypes import BYTES, fill_from_attribute, fill_from_json, is_variable_length, v3_dtype, v3_fill
from zappend.errors import TargetError, ZappendError
from zappend.metadata import DIMENSIONS, FILL, Array, Cube, Json, ZarrFormat
from zappend.stores import children_of, is_remote, list_and_read, read_many

__all__ = ["CubeReader"]

WATCHED = frozenset({"shape", "chunks", "dtype", "data_type", "fill_value", "attributes"})
"""Members of an array's document that are compared with the consolidated ones."""

ROOT = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")

GROUPS = ("zarr.json", ".zgroup")
"""Documents of which one tells a group."""

LIKELY = ("zarr.json", ".zmetadata")

NO_ATTRS: Json = {}
"""What stands for a document that is not there and may be missing."""

MEND = "mend it with zarr.consolidate_metadata(), then append again"


class CubeReader:
    """Reads cubes in two steps, so that a store with latency is asked little: `read`, then `checked`.

    Documents are parsed again only if their bytes have changed since the last reading.

    Parameters
    ----------
    name
        The target, for messages.
    dim
        The append dimension.
    with_attrs
        Whether the attributes of the group are going to change, so that those of the consolidated metadata will not do.

    Attributes
    ----------
    children
        The names at the root, when it was looked at.
    """

    def __init__(self, name: str, dim: str, *, with_attrs: bool = False) -> None:
        self._name = name
        self._dim = dim
        self._with_attrs = with_attrs
        self._parsed: dict[str, tuple[bytes, Json]] = {}
        self._root: tuple[str, ...] = ()
        self._there: frozenset[str] = frozenset()
        self._cube: Cube | None = None
        self._is_remote = False
        self.children: list[str] = []

    def read(self, store: Mapping[str, bytes]) -> Cube | None:
        """Return the cube in `store`, or ``None`` if there is no metadata at its root.

        Arrays are as the consolidated metadata says, if there is one: `checked` tells whether that is what they are. It
        is the same object as before as long as the documents have the same bytes.

        Raises
        ------
        TargetError
            If the root is no group, or its metadata is not what formats 2 and 3 say, or contradicts itself.
        """
        self._is_remote = is_remote(store)
        with self._understood():
            return self._read(store)

    def keys_to_check(self, cube: Cube) -> list[str]:
        """Return the keys of the documents that `checked` wants: those of arrays that grow."""
        return [f"{array.name}/{last}" for array in self._unchecked(cube) for last in self._to_check(array)]

    def checked(self, cube: Cube, found: Mapping[str, bytes | None]) -> Cube:
        """Return `cube`, as read, with its arrays as their own documents say, whose bytes are `found`.

        Raises
        ------
        TargetError
            If readers of the consolidated metadata see another array.
        """
        with self._understood():
            return self._checked(cube, found)

    def learn(self, cube: Cube, documents: Mapping[str, bytes]) -> None:
        """Take `cube` for what the cube that was read becomes with `documents`, so that they need not be parsed."""
        for key, data in documents.items():
            name, _, last = key.rpartition("/")
            self._parsed[key] = data, cube.arrays[name].documents[last] if name else cube.root[last]
        self._cube = cube

    def groups(self, store: Mapping[str, bytes]) -> list[str]:
        """Return the names of the groups that are directly in that at the root."""
        children = sorted(set(children_of(store, "")) - set(ROOT))
        with self._understood():
            found = self._load(read_many(store, [f"{child}/{last}" for child in children for last in GROUPS]))
        return [
            child
            for child in children
            if f"{child}/.zgroup" in found or found.get(f"{child}/zarr.json", {}).get("node_type") == "group"
        ]

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
            if isinstance(error, ZappendError):
                raise
            raise TargetError(f"{self._name}: its Zarr metadata cannot be understood: {error!r}") from error

    def _read(self, store: Mapping[str, bytes]) -> Cube | None:
        # The root is listed once. Between slices, without the lock, others may add and remove documents that matter:
        # they are looked for each time, and if not the same ones are there, all is looked at anew.
        root = self._load(read_many(store, self._root))
        if not self._root or root.keys() != self._there:
            # Where each call takes its time, the documents that are likely there are read beside the listing.
            self.children, found = list_and_read(store, LIKELY if is_remote(store) else ())
            self._root = self._roots(self.children)
            found |= read_many(store, [key for key in self._root if key not in found])
            root = self._load({key: found[key] for key in self._root})
            self._there = frozenset(root)
        if not root:
            return None
        zarr_format = 3 if "zarr.json" in root else 2
        if zarr_format == 3:
            document = root["zarr.json"]
            if document["node_type"] != "group":
                raise TargetError(f"{self._name} is a Zarr {document['node_type']}, and a target is a group")
            consolidated, attrs = document.get("consolidated_metadata"), document.get("attributes", NO_ATTRS)
        else:
            consolidated = root.get(".zmetadata")
            listed = (consolidated or {}).get("metadata", {}).get(".zattrs", NO_ATTRS)
            attrs = root.get(".zattrs", listed)
        if consolidated:
            if self._cube is None or not _are_same(self._cube.root, root):
                arrays = dict(self._listed(zarr_format, consolidated["metadata"]))
                self._check_all_listed(store, zarr_format, consolidated["metadata"])
                self._cube = Cube(zarr_format, True, attrs, arrays, root)
        else:
            arrays = dict(self._found(store, zarr_format))
            known = self._cube
            if known is None or not (_are_same(known.root, root) and _are_same(known.arrays, arrays)):
                self._cube = Cube(zarr_format, False, attrs, arrays, root)
        return self._cube

    def _roots(self, children: Sequence[str]) -> tuple[str, ...]:
        """Return the keys of the documents at the root that matter, or would if they were there."""
        if "zarr.json" in children and ".zgroup" in children:
            raise TargetError(
                f"{self._name} has both zarr.json and .zgroup, so readers of format 3 and 2 see two cubes"
            )
        if "zarr.json" in children:
            return ("zarr.json",)
        if ".zgroup" in children and ".zmetadata" in children:
            return (".zmetadata", ".zattrs") if self._with_attrs else (".zmetadata",)
        if ".zgroup" in children:
            return (".zgroup", ".zattrs", ".zmetadata")
        if ".zarray" in children:
            raise TargetError(f"{self._name} is a Zarr array, and a target is a group")
        return ()

    def _listed(self, zarr_format: ZarrFormat, consolidated: Json) -> Iterator[tuple[str, Array]]:
        """Iterate over the arrays that the consolidated metadata has directly in the group."""
        for key, document in consolidated.items():
            path, _, last = key.rpartition("/") if zarr_format == 2 else (key, "", "zarr.json")
            if "/" in path:
                continue
            if zarr_format == 2 and last == ".zarray":
                documents = {last: document, ".zattrs": consolidated.get(f"{path}/.zattrs", NO_ATTRS)}
                yield path, _parse_v2(path, documents)
            elif zarr_format == 3 and document["node_type"] == "array":
                yield path, _parse_v3(path, {last: document})

    def _check_all_listed(self, store: Mapping[str, bytes], zarr_format: ZarrFormat, consolidated: Json) -> None:
        last = "zarr.json" if zarr_format == 3 else ".zarray"
        known = {key.partition("/")[0] for key in consolidated} | set(ROOT)
        for child in self.children:
            if child not in known and f"{child}/{last}" in store:
                raise TargetError(
                    f"{self._name}: {child}/{last} is there, but not in the consolidated metadata; {MEND}"
                )

    def _found(self, store: Mapping[str, bytes], zarr_format: ZarrFormat) -> Iterator[tuple[str, Array]]:
        """Iterate over the arrays that are directly in the group."""
        last, *others = ("zarr.json",) if zarr_format == 3 else (".zarray", ".zattrs")
        paths = [child for child in children_of(store, "") if child not in ROOT]
        found = self._load(read_many(store, [f"{path}/{each}" for path in paths for each in (last, *others)]))
        known = self._cube.arrays if self._cube else {}
        for path in paths:
            document = found.get(f"{path}/{last}")
            if document is None or (zarr_format == 3 and document["node_type"] != "array"):
                continue
            documents = {last: document, **{other: found.get(f"{path}/{other}", NO_ATTRS) for other in others}}
            same = path in known and _are_same(known[path].documents, documents)
            yield path, known[path] if same else _parse(path, zarr_format, documents)

    def _unchecked(self, cube: Cube) -> list[Array]:
        return [array for array in cube.arrays.values() if self._dim in array.dims] if cube.consolidated else []

    def _to_check(self, array: Array) -> Iterator[str]:
        """Iterate over the documents of an array that grows which are compared with the consolidated ones.

        Attributes that are a document of their own do not change; where each look is a request, they are left out.
        """
        return (last for last in array.documents if not (self._is_remote and last == ".zattrs"))

    def _checked(self, cube: Cube, found: Mapping[str, bytes | None]) -> Cube:
        changed = {}
        for array in self._unchecked(cube):
            documents = dict(array.documents)
            for last in self._to_check(array):
                key = f"{array.name}/{last}"
                data = found[key]
                if data is None and last != ".zattrs":
                    raise TargetError(f"{self._name}: {key} is in the consolidated metadata, but not there; {MEND}")
                document = documents[last] = NO_ATTRS if data is None else self._parse_document(key, data)
                if document is not array.documents[last]:
                    self._compare(key, array.documents[last], document)
            if not _are_same(documents, array.documents):
                changed[array.name] = _parse(array.name, cube.zarr_format, documents)
        if changed:
            cube = self._cube = replace(cube, arrays={**cube.arrays, **changed})
        return cube

    def _compare(self, key: str, listed: Json, document: Json) -> None:
        keys = document.keys() | listed.keys() if key.endswith(".zattrs") else document.keys() & WATCHED
        for member in sorted(keys):
            if json.dumps(listed.get(member)) != json.dumps(document.get(member)):
                raise TargetError(
                    f"{self._name}: consolidated metadata is stale: {member} of {key.rpartition('/')[0]!r} is "
                    f"{listed.get(member)!r} there, {document.get(member)!r} in {key}; {MEND}"
                )

    def _load(self, found: Mapping[str, bytes | None]) -> dict[str, Json]:
        """Return the documents of which the bytes were `found`; the same object for the same bytes."""
        return {key: self._parse_document(key, data) for key, data in found.items() if data is not None}

    def _parse_document(self, key: str, data: bytes) -> Json:
        known = self._parsed.get(key)
        if known is None or known[0] != data:
            document = json.loads(data)
            if not isinstance(document, dict):
                raise ValueError(f"{key} holds no JSON object")
            known = self._parsed[key] = data, document
        return known[1]


def _are_same(a: Mapping[str, object], b: Mapping[str, object]) -> bool:
    return a.keys() == b.keys() and all(a[key] is b[key] for key in a)


def _parse(name: str, zarr_format: ZarrFormat, documents: dict[str, Json]) -> Array:
    return (_parse_v3 if zarr_format == 3 else _parse_v2)(name, documents)


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
