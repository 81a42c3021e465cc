"""Stored metadata of a cube, formats 2 and 3: make it, grow it, write it; and the keys of chunks.

`Cube` and `Array` are frozen records over the JSON documents. What is not understood in a document is kept as it is
and in its order, so a cube keeps its ways. Formats: https://zarr-specs.readthedocs.io (v2, v3 core), and for dimension
names and fill values in attributes https://docs.xarray.dev/en/stable/internals/zarr-encoding-spec.html.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from zappend.datatypes import default_fill, fill_to_attribute, fill_to_json, v3_fill_to_json, v3_type
from zappend.encoding import Encoding, encoding_attrs

__all__ = [
    "EMPTY",
    "Array",
    "Cube",
    "Json",
    "ZarrFormat",
    "dump",
    "encodings_of",
    "name_and_options",
    "new_array",
    "new_cube",
]

Json = dict[str, Any]
ZarrFormat = int

DIMENSIONS = "_ARRAY_DIMENSIONS"
FILL = "_FillValue"

EMPTY: Json = {"kind": "inline", "must_understand": False, "metadata": {}}
"""Consolidated metadata of format 3 without entries."""


@dataclass(frozen=True)
class Array:
    """One array of a cube.

    Attributes
    ----------
    name
        Name of the variable, which is the folder of the array in the cube.
    zarr_format
        2 or 3.
    shape, chunks, dims
        Sizes, sizes of a chunk, and names of the dimensions, in order. Where there are shards, `chunks` are they.
    dtype
        Type of the stored values; ``object`` for strings and bytes of any length, see `datatypes.BYTES`.
    fill_value
        What a missing chunk and the rest of a chunk at the edge hold; ``None`` if the document says none.
    attrs
        Attributes as a user sees them, with ``_FillValue`` as a value of `dtype` if there is one.
    documents
        The parsed documents by the last part of their key.
    """

    name: str
    zarr_format: ZarrFormat
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: np.dtype[Any]
    fill_value: Any
    attrs: Json
    documents: Mapping[str, Json] = field(repr=False)

    @property
    def document(self) -> Json:
        """The document that has the shape."""
        return self.documents["zarr.json" if self.zarr_format == 3 else ".zarray"]

    @property
    def padding(self) -> Any:
        """What fills the part of a chunk beyond the shape; as in zarr-python, zero or NaT where none is set."""
        return default_fill(self.dtype) if self.fill_value is None else self.fill_value

    @property
    def is_sharded(self) -> bool:
        """Whether its chunks are shards, which hold inner chunks."""
        return any(name_and_options(codec)[0] == "sharding_indexed" for codec in self.document.get("codecs", ()))

    @property
    def inner_chunks(self) -> tuple[int, ...]:
        """Sizes of a chunk inside a shard, which readers can read alone; `chunks` where there are no shards."""
        axes = list(range(len(self.shape)))
        for codec in self.document.get("codecs", ()):
            name, options = name_and_options(codec)
            if name == "transpose":
                axes = [axes[axis] for axis in options["order"]]
            elif name == "sharding_indexed":
                sizes = dict(zip(axes, options["chunk_shape"], strict=True))
                return tuple(sizes[axis] for axis in range(len(axes)))
        return self.chunks

    def resized(self, axis: int, size: int) -> Array:
        """Return this array with `size` along `axis`."""
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        last = "zarr.json" if self.zarr_format == 3 else ".zarray"
        documents = {**self.documents, last: {**self.documents[last], "shape": list(shape)}}
        unchanged = (self.chunks, self.dims, self.dtype, self.fill_value, self.attrs)
        return Array(self.name, self.zarr_format, shape, *unchanged, documents)

    def encodes_like(self, other: Array) -> bool:
        """Tell whether chunks of both have the same shape and codecs; the arrays may differ in size."""
        if self is other or self.document is other.document:
            return True
        return {**self.document, "shape": None} == {**other.document, "shape": None}

    def chunk_key(self, index: tuple[int, ...]) -> str:
        """Return the key, in the cube, of the chunk at `index` of the grid."""
        if self.zarr_format == 2:
            separator = self.document.get("dimension_separator", ".")
            return f"{self.name}/{separator.join(map(str, index)) or '0'}"
        encoding = self.document["chunk_key_encoding"]
        separator = encoding.get("configuration", {}).get("separator")
        if encoding["name"] == "default":
            return "/".join((self.name, (separator or "/").join(("c", *map(str, index)))))
        return f"{self.name}/{(separator or '.').join(map(str, index)) or '0'}"


@dataclass(frozen=True)
class Cube:
    """The group at the root of a target, and its arrays by name.

    Attributes
    ----------
    zarr_format
        2 or 3.
    consolidated
        Whether the root has a copy of all metadata, which is then kept up to date.
    attrs
        Attributes of the group.
    arrays
        The arrays directly in the group.
    root
        The parsed documents of the root by key.
    """

    zarr_format: ZarrFormat
    consolidated: bool
    attrs: Json
    arrays: Mapping[str, Array]
    root: Mapping[str, Json] = field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the dimensions that its arrays have."""
        return {d: n for array in self.arrays.values() for d, n in zip(array.dims, array.shape, strict=True)}

    def with_attrs(self, attrs: Json) -> Cube:
        """Return this cube with `attrs` as attributes of the group."""
        root = dict(self.root)
        if self.zarr_format == 3:
            root["zarr.json"] = {**root["zarr.json"], "attributes": attrs}
        else:
            root = {".zattrs": attrs, **{key: value for key, value in root.items() if key != ".zattrs"}}
            if ".zmetadata" in root:
                root[".zmetadata"] = _consolidate(root[".zmetadata"], {".zattrs": attrs})
        return replace(self, attrs=attrs, root=root)

    def with_arrays(self, changed: Mapping[str, Array]) -> Cube:
        """Return this cube with the arrays `changed`, in its consolidated metadata, too."""
        root = dict(self.root)
        if self.consolidated:
            name = "zarr.json" if self.zarr_format == 3 else ".zmetadata"
            entries = {
                array.name if self.zarr_format == 3 else f"{array.name}/{last}": document
                for array in changed.values()
                for last, document in array.documents.items()
            }
            root[name] = _consolidate(root[name], entries)
        return replace(self, arrays={**self.arrays, **changed}, root=root)

    def documents(
        self, changed: Iterable[str], *, created: bool = False, attrs_changed: bool = False
    ) -> dict[str, bytes]:
        """Return the documents that say what the arrays of the names `changed` are, by key, the root last.

        With `created`, all documents of the arrays and of the root; else only those that a change of shape changes,
        and with `attrs_changed` those that hold the attributes of the group.
        """
        out: dict[str, bytes] = {}
        for array in (self.arrays[name] for name in changed):
            for last, document in array.documents.items():
                if created or document is array.document:
                    out[f"{array.name}/{last}"] = dump(document)
        written = set(self.root) if created else {"zarr.json", ".zmetadata"} if self.consolidated else set()
        if attrs_changed:
            written |= {"zarr.json", ".zattrs"}
        out.update((name, dump(document)) for name, document in self.root.items() if name in written)
        return out


def _consolidate(document: Json, entries: Json) -> Json:
    if "consolidated_metadata" not in document:
        return {**document, "metadata": {**document["metadata"], **entries}}
    inner = document["consolidated_metadata"]
    return {**document, "consolidated_metadata": {**inner, "metadata": {**inner["metadata"], **entries}}}


# Making new ones.


def new_cube(zarr_format: ZarrFormat, attrs: Json, *, consolidated: bool = True) -> Cube:
    """Return a cube without arrays; in format 2 its ``.zgroup``, by which it is found, comes last."""
    if zarr_format == 3:
        inline = {"consolidated_metadata": EMPTY} if consolidated else {}
        root: Json = {"zarr.json": {"attributes": attrs, "zarr_format": 3, **inline, "node_type": "group"}}
    else:
        group = {"zarr_format": 2}
        metadata: Json = {".zattrs": attrs, ".zgroup": group}
        listed = {".zmetadata": {"metadata": metadata, "zarr_consolidated_format": 1}} if consolidated else {}
        root = {".zattrs": attrs, **listed, ".zgroup": group}
    return Cube(zarr_format, consolidated, attrs, {}, root)


def new_array(
    name: str,
    zarr_format: ZarrFormat,
    *,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dims: tuple[str, ...],
    dtype: np.dtype[Any],
    fill_value: Any,
    attrs: Json,
    codecs: Json,
) -> Array:
    """Return an array that is to be created.

    Parameters
    ----------
    name, zarr_format, shape, chunks, dims, dtype, fill_value, attrs
        As in `Array`. In format 2 the ``_FillValue`` of `attrs` is stored as `fill_value`, in format 3 as an attribute.
    codecs
        The members of the document that say how chunks are encoded: ``filters``, ``compressor`` and ``order`` in
        format 2, ``codecs`` in format 3.
    """
    if zarr_format == 2:
        stored = {key: value for key, value in attrs.items() if key != FILL}
        documents = {
            ".zarray": {
                "shape": list(shape),
                "chunks": list(chunks),
                "dtype": dtype.str,
                "fill_value": fill_to_json(fill_value, dtype),
                "dimension_separator": ".",
                **codecs,
                "zarr_format": 2,
            },
            ".zattrs": {**stored, DIMENSIONS: list(dims)},
        }
    else:
        stored = dict(attrs)
        if FILL in stored:
            stored[FILL] = fill_to_attribute(stored[FILL], dtype)
        documents = {
            "zarr.json": {
                "shape": list(shape),
                "data_type": v3_type(dtype),
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": v3_fill_to_json(fill_value, dtype),
                **codecs,
                "attributes": stored,
                "dimension_names": list(dims),
                "zarr_format": 3,
                "node_type": "array",
                "storage_transformers": [],
            }
        }
    return Array(name, zarr_format, shape, chunks, dims, dtype, fill_value, attrs, documents)


def encodings_of(cube: Cube) -> dict[str, Encoding]:
    """Return how each array stores its values; bounds without units have those of what they bound, as CF says."""
    found = {
        name: Encoding(array.dtype, encoding_attrs(array.attrs, array.dtype)) for name, array in cube.arrays.items()
    }
    for name, array in cube.arrays.items():
        bounds = str(array.attrs.get("bounds", array.attrs.get("climatology")))
        if found[name].is_time and bounds in found and not found[bounds].is_time:
            own = found[bounds]
            shared = {key: found[name].attrs[key] for key in ("units", "calendar") if key in found[name].attrs}
            found[bounds] = replace(own, attrs={**shared, **own.attrs})
    return found


def name_and_options(member: Any) -> tuple[str, Json]:
    """Return the name and the configuration of a codec of format 3; without a configuration it may be a mere name."""
    return (member, {}) if isinstance(member, str) else (member["name"], member.get("configuration") or {})


def dump(document: Json) -> bytes:
    """Return the bytes of a document, laid out as zarr-python does."""
    try:
        data = msgspec.json.encode(document)
        if msgspec.json.decode(data) == document:  # NaN and infinity, which JSON has not, would become null
            return msgspec.json.format(data, indent=2)
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # it holds what only Python's own encoder takes, such as whole numbers of any length
    return json.dumps(document, indent=2).encode()
