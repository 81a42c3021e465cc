"""An append to a small cube, to a large one, and to one with very many labels: the same time, the same operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr

import zappend
from benchmarks.append import Appending
from benchmarks.contestants import Zappend
from benchmarks.measure import Setting, alternate, place
from benchmarks.table import Goal, Table, ratios, table_of
from benchmarks.works import LABELS_PER_CHUNK, Work
from zappend.testing import CountingMapping

T = TypeVar("T")


def run(setting: Setting) -> list[Table]:
    few, many, at_once = (2, 20, 2) if setting.quick else (100, 10_000, 100)
    # As many labels in its last chunk as the large cube has, so that what is read of them is alike.
    labels = 64 * LABELS_PER_CHUNK + many
    work = Work("growth", 1, (32, 32), (32, 32), slices=2 if setting.quick else 20)
    with place(setting.memory_folder) as folder:
        cubes = {}
        for steps in (few, many, labels):
            cube = Grown(str(folder / f"{steps}.zarr"), work, steps, at_once, durability="process")
            cubes[f"{steps:,} labels"] = cube
        small, large, long = cubes
        counts = {name: count(cube) for name, cube in cubes.items()}
        times = alternate(
            {name: Appending(cube, cube.steps) for name, cube in cubes.items()}, setting.rounds, works=work.slices
        )
    goals = [
        *ratios(times, (large, small, "most", 1.1), (long, small, "most", 1.1)),
        Goal(f"operations, {large} beyond {small}", difference(counts[large], counts[small]), most=0),
        Goal(f"operations, {long} beyond {small}", difference(counts[long], counts[small]), most=0),
        Goal(f"bytes read and written, {long}, times {large}", volume(counts[long]) / volume(counts[large]), most=1.1),
    ]
    more = {key: {name: counts[name][key] for name in cubes} for key in sorted({*counts[small], *counts[long]})}
    return [table_of("an append to a growing cube, in memory", times, [small], goals, more)]


class Grown(Zappend):
    """A cube of zappend with `steps` labels.

    Up to a chunk of labels they were all appended, `at_once` at a time. Beyond that only the labels are there, and not
    the chunks of data, which is what a cube with nothing but missing values has.
    """

    def __init__(self, target: str, work: Work, steps: int, at_once: int, **options: Any) -> None:
        super().__init__(target, work, 2, **options)
        self.steps = steps
        if steps <= LABELS_PER_CHUNK:
            rest = (work.slice(i, min(at_once, steps - i)) for i in range(1, steps, at_once))
            zappend.append(target, rest, slice_size="aligned", **options)
            return
        group: Any = zarr.open_group(target, mode="r+", use_consolidated=False)
        for name in (*work.names, "time"):
            group[name].resize((steps, *group[name].shape[1:]))
        group["time"][:] = np.arange(steps)
        zarr.consolidate_metadata(group.store)


class Weighing(CountingMapping):
    """A mapping that counts calls, and the bytes that they read and write."""

    def __init__(self, inner: MutableMapping[str, bytes]) -> None:
        super().__init__(inner)

    def _call(self, name: str, key: str, do: Callable[[], T]) -> T:
        value = super()._call(name, key, do)
        if isinstance(value, bytes):
            self.counts["bytes read"] += len(value)
        return value

    def __setitem__(self, key: str, value: bytes) -> None:
        super().__setitem__(key, value)
        self.counts["bytes written"] += len(value)


def count(cube: Grown) -> Counter[str]:
    """Return what one append to a copy of the cube in a mapping reads and writes."""
    root = Path(cube.target)
    copy = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    store = Weighing(copy)
    zappend.append(store, cube.work.slice(cube.steps))
    return store.counts


def volume(counts: Counter[str]) -> int:
    return counts["bytes read"] + counts["bytes written"]


def difference(counts: Counter[str], others: Counter[str]) -> int:
    """Return by how many operations two counts differ, of any kind."""
    return sum(abs(counts[key] - others[key]) for key in {*counts, *others} if not key.startswith("bytes"))
