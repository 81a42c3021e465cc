"""How many chunks a Zarr group lacks.

In Zarr a chunk that is not there stands for its fill value. So a folder that is still being written reads like a whole
one, and only the names of its files tell them apart. Of the metadata just what says where chunks lie is read here:
whether anything else about an array is understood does not matter.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

from zappend.folders import Folder
from zappend.stillness import Stamp

__all__ = ["Completeness", "completeness"]

Shape = tuple[int, ...]

ASKED_AT_ONCE = 16
MOST_ASKED_FOR = 10_000
"""How many chunks of an array are asked for one by one, where nothing can be listed."""


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
    stamp
        The state of all files that were seen, if it was asked for.
    """

    missing: Mapping[str, tuple[int, int]]
    unknown: tuple[str, ...]
    stale: Mapping[str, tuple[Shape, Shape]]
    stamp: Stamp | None = None

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

    def names(self) -> Iterator[str]:
        """Iterate over the names of all chunks."""
        parts = [self.prefix] if self.prefix else []
        for index in product(*map(range, self.shape)):
            yield self.separator.join(parts + list(map(str, index))) or "0"


def completeness(
    folder: Folder, zarr_format: int, shapes: Mapping[str, Shape], *, stamped: bool = False
) -> Completeness:
    """Count the chunks of arrays of the Zarr group in `folder`, by one listing of each array's folders.

    `shapes` has the arrays by name, and the shape that whoever opened the group saw, by consolidated metadata perhaps.
    Where nothing can be listed, each chunk is asked for. What the state of all these files is, is only told if they are
    to be `stamped`.

    An array whose own document is not there or cannot be read is judged by its copy in the consolidated metadata: a
    folder that is being copied may have that first. Nothing that is wrong with a document is raised here; whoever opens
    the group says what it is.
    """
    missing: dict[str, tuple[int, int]] = {}
    unknown: list[str] = []
    stale: dict[str, tuple[Shape, Shape]] = {}
    stamps: list[tuple[str, Stamp | None]] = []
    keys = {name: f"{name}/{'zarr.json' if zarr_format == 3 else '.zarray'}" for name in shapes}
    documents = folder.get_many(keys.values())
    for name, seen in shapes.items():
        document = _parsed(documents[keys[name]])
        grid = _grid(document or _consolidated(folder, name))
        if grid is None:
            unknown.append(name)
            continue
        if (shape := tuple((document or {}).get("shape", seen))[: len(seen)]) != seen:
            stale[name] = shape, seen
        total = math.prod(grid.shape)
        depth = len(grid.shape) if grid.separator == "/" else 0
        files = folder.files(name, depth, stamped=stamped) if total else ()
        if files is None:
            if total > MOST_ASKED_FOR:
                unknown.append(name)
                continue
            files = _asked_for(folder, name, grid.names())
        found = list(files)
        stamps += [(f"{name}/{file}", stamp) for file, stamp in found if stamped]
        there = grid.count(file for file, _ in found) if total else 0
        if there < total:
            missing[name] = total - there, total
    if stamped:
        stamps += folder.files("", 0, stamped=True) or [(k, folder.stamp(k)) for k in ("zarr.json", ".zmetadata")]
    return Completeness(missing, tuple(unknown), stale, _together(stamps) if stamped else None)


def _asked_for(folder: Folder, name: str, chunks: Iterable[str]) -> Iterator[tuple[str, Stamp | None]]:
    """Iterate over those of the `chunks` that are there."""
    with ThreadPoolExecutor(ASKED_AT_ONCE, "zappend") as pool:
        asked = [(chunk, pool.submit(folder.stamp, f"{name}/{chunk}")) for chunk in chunks]
        for chunk, answer in asked:
            if (stamp := answer.result()) is not None:
                yield chunk, stamp


def _together(stamps: Iterable[tuple[str, Stamp | None]]) -> Stamp:
    """Return the stamp of many files, in any order."""
    state, count, size, newest = 0, 0, 0, -math.inf
    for name, stamp in stamps:
        if stamp is not None:
            state += hash((name, stamp.state))
            count += 1
            size += stamp.size or 0
            newest = max(newest, math.inf if stamp.changed is None else stamp.changed)
    return Stamp((state, count), size, newest if math.isfinite(newest) else None)


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


def _consolidated(folder: Folder, name: str) -> dict[str, Any]:
    documents = folder.get_many([".zmetadata", "zarr.json"])
    v2 = (_parsed(documents[".zmetadata"]) or {}).get("metadata")
    v3 = ((_parsed(documents["zarr.json"]) or {}).get("consolidated_metadata") or {}).get("metadata")
    found = (v2 or {}).get(f"{name}/.zarray") or (v3 or {}).get(name)
    return found if isinstance(found, dict) else {}


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        document = json.loads(data or b"")
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
