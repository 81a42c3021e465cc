"""Consolidated metadata that an existing cube is to have, or no longer to have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from zappend.errors import TargetError
from zappend.metadata import EMPTY, Cube, Json, ZarrFormat, dump
from zappend.stores import children_of, read_many

__all__ = ["leftovers", "switched"]

DOCUMENTS = {2: (".zarray", ".zgroup", ".zattrs"), 3: ("zarr.json",)}
"""Documents of a node, by format."""


def switched(store: Mapping[str, bytes], cube: Cube, wanted: bool | Literal["auto"]) -> Cube:
    """Return the cube in `store` with or without consolidated metadata, as is wanted; the same one if it is so.

    Raises
    ------
    TargetError
        If there are documents below the cube that cannot be understood.
    """
    if wanted == "auto" or wanted == cube.consolidated:
        return cube
    root = dict(cube.root)
    if cube.zarr_format == 3:
        document = {key: value for key, value in root["zarr.json"].items() if key != "consolidated_metadata"}
        if wanted:
            entries = {key.rpartition("/")[0]: _entry(node) for key, node in _nodes(store, 3, "")}
            document["consolidated_metadata"] = {**EMPTY, "metadata": entries}
        root["zarr.json"] = document
    elif wanted:
        entries = {**cube.root, **dict(_nodes(store, 2, ""))}
        root[".zmetadata"] = {"metadata": entries, "zarr_consolidated_format": 1}
    else:
        root.pop(".zmetadata")
    return replace(cube, consolidated=wanted, root=root)


def leftovers(before: Cube, after: Cube) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return what it takes beside the documents of `after` that it is no longer consolidated.

    Returns
    -------
    documents
        Further documents, by key.
    removed
        Keys that are to be removed.
    """
    if not before.consolidated or after.consolidated:
        return {}, ()
    if after.zarr_format == 2:
        return {}, (".zmetadata",)
    return {"zarr.json": dump(after.root["zarr.json"])}, ()


def _nodes(store: Mapping[str, bytes], zarr_format: ZarrFormat, prefix: str) -> Iterator[tuple[str, Json]]:
    """Iterate over the documents of all arrays and groups below a group, by key."""
    names = sorted({*children_of(store, prefix)} - {"zarr.json", ".zgroup", ".zattrs", ".zmetadata"})
    found = read_many(store, [f"{prefix}{name}/{last}" for name in names for last in DOCUMENTS[zarr_format]])
    for key, data in found.items():
        if data is None:
            continue
        try:
            document = json.loads(data)
        except ValueError as error:
            raise TargetError(f"the target has {key}, which cannot be understood: {error}") from error
        yield key, document
        if key.endswith("/.zgroup") or document.get("node_type") == "group":
            yield from _nodes(store, zarr_format, key.rpartition("/")[0] + "/")


def _entry(document: Json) -> Json:
    """Return what a group that is consolidated has of a node below it; nodes are not nested there."""
    return {**document, "consolidated_metadata": EMPTY} if document.get("node_type") == "group" else document
