"""How many chunks a Zarr folder lacks.

In Zarr a chunk that is not there stands for its fill value. So a folder that is still being written reads like a whole
one, and only the names of its files tell them apart. Of the metadata just what says where chunks lie is read here:
whether anything else about an array is understood does not matter.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Completeness", "completeness"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Completeness:
    """What is known of the chunks of a Zarr folder.

    Attributes
    ----------
    missing
        For each array that lacks chunks, how many it lacks, and how many it should have. A shard counts as one.
    unknown
        Arrays of which it cannot be told: their chunks are not where a regular grid has them.
    stale
        Arrays that have another shape than they were seen to have: the one, and the other.
    """

    missing: Mapping[str, tuple[int, int]]
    unknown: tuple[str, ...]
    stale: Mapping[str, tuple[Shape, Shape]]

    def __str__(self) -> str:
        """Count what is missing, array by array."""
        return ", ".join(
            f"{missing} of {total} chunks of {name!r} are missing" for name, (missing, total) in self.missing.items()
        )


@dataclass(frozen=True)
class _Grid:
    shape: tuple[int, ...]
    prefix: str
    separator: str

    def count(self, names: Iterable[str]) -> int:
        """Return how many of the files `names` are chunks of this grid; files beyond it are none."""
        parts = [self.prefix] if self.prefix else []
        parts += [r"(0|[1-9]\d*)"] * len(self.shape)
        pattern = re.compile(re.escape(self.separator).join(parts) or "0", re.ASCII)
        matches = filter(None, map(pattern.fullmatch, names))
        return sum(all(int(i) < n for i, n in zip(match.groups(), self.shape, strict=True)) for match in matches)


def completeness(folder: str, shapes: Mapping[str, Shape]) -> Completeness:
    """Count the chunks of arrays of the Zarr group in `folder`, by one listing of each array's folders.

    `shapes` has the arrays by name, and the shape that whoever opened the group saw, by consolidated metadata perhaps.

    An array whose own document is not there or cannot be read is judged by its copy in the consolidated metadata: a
    folder that is being copied may have that first. Nothing that is wrong with a document is raised here; whoever opens
    the group says what it is.
    """
    missing: dict[str, tuple[int, int]] = {}
    unknown: list[str] = []
    stale: dict[str, tuple[Shape, Shape]] = {}
    for name, seen in shapes.items():
        document = _load(f"{folder}/{name}/zarr.json") or _load(f"{folder}/{name}/.zarray")
        grid = _grid(document or _consolidated(folder, name))
        if grid is None:
            unknown.append(name)
            continue
        if (shape := tuple((document or {}).get("shape", seen))[: len(seen)]) != seen:
            stale[name] = shape, seen
        total = math.prod(grid.shape)
        depth = len(grid.shape) if grid.separator == "/" else 0
        there = grid.count(_files(f"{folder}/{name}", depth)) if total else 0
        if there < total:
            missing[name] = total - there, total
    return Completeness(missing, tuple(unknown), stale)


def _files(folder: str, depth: int) -> Iterator[str]:
    """Iterate over the files in `folder` and in `depth` levels of folders below it."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if not entry.is_dir():
                yield entry.name
            elif depth:
                yield from (f"{entry.name}/{name}" for name in _files(entry.path, depth - 1))


def _grid(document: dict[str, Any]) -> _Grid | None:
    """Return where the chunks of an array lie, ``None`` if that is not understood."""
    try:
        if document["zarr_format"] == 2:
            chunks, prefix, separator = document["chunks"], "", document.get("dimension_separator", ".")
        else:
            grid, keys = document["chunk_grid"], document["chunk_key_encoding"]
            if (
                grid["name"] != "regular"
                or keys["name"] not in ("default", "v2")
                or document.get("storage_transformers")
            ):
                return None
            chunks = grid["configuration"]["chunk_shape"]
            prefix, separator = ("c", "/") if keys["name"] == "default" else ("", ".")
            separator = keys.get("configuration", {}).get("separator", separator)
        sizes = zip(document["shape"], chunks, strict=True)
        return _Grid(tuple(math.ceil(size / chunk) if size else 0 for size, chunk in sizes), prefix, separator)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None


def _consolidated(folder: str, name: str) -> dict[str, Any]:
    v2 = (_load(f"{folder}/.zmetadata") or {}).get("metadata")
    v3 = ((_load(f"{folder}/zarr.json") or {}).get("consolidated_metadata") or {}).get("metadata")
    found = (v2 or {}).get(f"{name}/.zarray") or (v3 or {}).get(name)
    return found if isinstance(found, dict) else {}


def _load(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            document = json.load(file)
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
