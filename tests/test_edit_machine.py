"""Cubes under random appends and edits are what xarray makes of the same slices in memory, after each step."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import cubes
import numpy as np
import pytest
import xarray as xr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import zappend

QUICK, MANY = 25, 2000
"""Machines in a run of the tests, and of the campaign."""

LONGEST = 4
"""Labels of a slice at most."""

KEPT = 4
"""Undo logs that are kept."""

FAR = 20
"""Labels of appended slices may be that far apart, so that there is room between them."""


def dataset(labels: list[int], seed: int) -> xr.Dataset:
    """Return a slice with a day for each of `labels`, of something of everything."""
    rng = np.random.default_rng(seed)
    count = len(labels)
    time = np.datetime64("2024-01-01", "ns") + np.array(labels, "m8[D]")
    values = rng.normal(size=(count, 3, 2)).astype("f4")
    values[rng.random(values.shape) < 0.2] = np.nan
    return xr.Dataset(
        {
            "sst": (("time", "y", "x"), values, {"units": "K"}),
            "across": (("x", "time"), rng.integers(0, 100, (2, count), dtype="i2")),
            "packed": (("time", "y"), rng.integers(-500, 500, (count, 3)) * 0.01 + 1.0),
            "note": ("time", np.array([f"day {label} " * rng.integers(4) for label in labels], object)),
            "ok": ("time", rng.random(count) < 0.5),
            "crs": ((), np.int32(0), {"grid_mapping_name": "latitude_longitude"}),
            "time_bnds": (("time", "bnds"), time[:, None] + np.array([0, 24], "m8[h]").astype("m8[ns]")),
        },
        {"time": ("time", time, {"bounds": "time_bnds"}), "y": [1.0, 2.0, 3.0], "age": ("time", np.array(labels) / 2)},
        {"title": "machine"},
    )


class Edits(RuleBasedStateMachine):
    """A cube, and what it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.seed = 0
        self.history: list[tuple[xr.Dataset, dict[str, bytes | None]]] = []  # models, and their cubes byte for byte
        self.kept = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(
        zarr_format=st.sampled_from([2, 3]),
        on_disk=st.booleans(),
        sharded=st.booleans(),
        empty=st.booleans(),
        descending=st.booleans(),
        chunks=st.tuples(*[st.integers(1, 4)] * 4),
        count=st.integers(1, LONGEST),
    )
    def begin(
        self,
        zarr_format: int,
        on_disk: bool,
        sharded: bool,
        empty: bool,
        descending: bool,
        chunks: tuple[int, ...],
        count: int,
    ) -> None:
        self.target: Any = self.folder / "cube.zarr" if on_disk else {}
        self.sign = -1 if descending else 1
        sst: dict[str, Any] = {"chunks": {"time": chunks[0], "y": 2}}
        if sharded and zarr_format == 3:
            sst = {"chunks": [1, 2, 2], "shards": [chunks[0], 4, 2]}
        packing = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 1.0, "fill_value": -32768}
        encodings = {
            "sst": sst,
            "across": {"chunks": [1, chunks[1]]},
            "packed": {"chunks": [chunks[2], 3], **packing},
            "note": {"chunks": chunks[3]},
            "ok": {"chunks": chunks[3]},
        }
        self.settings: dict[str, Any] = {
            "zarr_format": zarr_format,
            "slice_size": "any",
            "append_step": "-" if descending else "+",
            "write_empty_chunks": not empty,
            "keep_undo": KEPT,
            "variables": {name: {"encoding": encoding} for name, encoding in encodings.items()},
        }
        self.model = self.slice(list(range(count)))
        zappend.append(self.target, self.model, **self.settings)

    def slice(self, labels: list[int]) -> xr.Dataset:
        self.seed += 1
        return dataset([self.sign * label for label in labels], self.seed)

    @property
    def labels(self) -> list[int]:
        days = (self.model.time.values - np.datetime64("2024-01-01", "ns")) // np.timedelta64(1, "D")
        return [self.sign * int(day) for day in days]

    @property
    def size(self) -> int:
        return self.model.sizes["time"]

    def joined(self, *parts: xr.Dataset) -> xr.Dataset:
        return cubes.concatenated([part for part in parts if part.sizes["time"]])

    def rows(self, *parts: slice | list[int]) -> list[xr.Dataset]:
        return [self.model.isel(time=part) for part in parts]

    @rule(gap=st.integers(1, FAR), count=st.integers(1, LONGEST))
    def append(self, gap: int, count: int) -> None:
        first = self.labels[-1] + gap
        new = self.slice(list(range(first, first + count)))
        assert zappend.append(self.target, new, **self.settings) == 1
        self.model = self.joined(self.model, new)

    @rule(gap=st.integers(1, FAR), count=st.integers(1, LONGEST), last=st.integers(1, 20), days=st.booleans())
    def append_and_keep(self, gap: int, count: int, last: int, days: bool) -> None:
        first = self.labels[-1] + gap
        new = self.slice(list(range(first, first + count)))
        assert zappend.append(self.target, new, keep_last=f"{last}d" if days else last, **self.settings) == 1
        labels = self.labels
        end, total = first + count - 1, self.size + count
        stay = [row for row in range(self.size) if (end - labels[row] if days else total - row - 1) < last]
        self.model = self.joined(self.model.isel(time=stay), new)

    @rule(data=st.data())
    def insert(self, data: st.DataObject) -> None:
        labels = self.labels
        ends = [labels[0] - FAR, *labels, labels[-1] + FAR]
        gaps = [row for row in range(self.size + 1) if ends[row + 1] - ends[row] > 1]
        at = data.draw(st.sampled_from(gaps))
        free = range(ends[at] + 1, ends[at + 1])
        first = data.draw(st.sampled_from(free))
        count = data.draw(st.integers(1, min(LONGEST, free.stop - first)))
        new = self.slice(list(range(first, first + count)))
        by_append = data.draw(st.booleans())
        edit = partial(zappend.append, if_earlier="insert") if by_append else zappend.insert
        done = edit(self.target, new, **self.settings)
        assert (done.slices[0].start, done.slices[0].stop) == (at, at + count)
        self.model = self.joined(*self.rows(slice(0, at)), new, *self.rows(slice(at, None)))

    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, self.size - 1))
        count = data.draw(st.integers(1, min(LONGEST, self.size - first)))
        new = self.slice(self.labels[first : first + count])
        by_append = data.draw(st.booleans())
        edit = partial(zappend.append, if_exists="replace") if by_append else zappend.replace
        done = edit(self.target, new, **self.settings)
        assert (done.slices[0].start, done.slices[0].stop) == (first, first + count)
        self.model = self.joined(*self.rows(slice(0, first)), new, *self.rows(slice(first + count, None)))

    @precondition(lambda self: self.size > 1)
    @rule(data=st.data(), by_label=st.booleans())
    def delete(self, data: st.DataObject, by_label: bool) -> None:
        gone = data.draw(st.lists(st.integers(0, self.size - 1), min_size=1, max_size=self.size - 1, unique=True))
        stay = [row for row in range(self.size) if row not in gone]
        if by_label:
            labels = [str(self.model.time.values[row])[:10] for row in gone]
            done = zappend.delete(self.target, labels=labels, **self.settings)
        else:
            done = zappend.delete(self.target, index=gone, **self.settings)
        self.model = self.model.isel(time=stay)
        assert (done.labels, done.size) == (len(gone), len(stay))

    @precondition(lambda self: self.size > 1)
    @rule(data=st.data())
    def delete_some_in_a_row(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, self.size - 1))
        last = data.draw(st.integers(first, self.size - 1 if first else self.size - 2))
        days = [str(self.model.time.values[row])[:10] for row in (first, last)][:: self.sign]
        zappend.delete(self.target, where="/".join(days), **self.settings)
        self.model = self.joined(*self.rows(slice(0, first), slice(last + 1, None)))

    @rule(last=st.integers(1, 20), days=st.booleans())
    def keep(self, last: int, days: bool) -> None:
        done = zappend.keep(self.target, f"{last}d" if days else last, **self.settings)
        labels = self.labels
        stay = [row for row in range(self.size) if (labels[-1] - labels[row] if days else self.size - row - 1) < last]
        assert (done.labels, done.size) == (self.size - len(stay), len(stay))
        if len(stay) < self.size:
            self.model = self.model.isel(time=stay)

    @precondition(lambda self: min(self.kept, len(self.history) - 1) > 0)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        n = data.draw(st.integers(1, min(self.kept, len(self.history) - 1)))
        self.kept -= n
        assert zappend.undo(self.target, n).left == self.kept
        del self.history[-n:]
        self.model, before = self.history[-1]
        assert self.tree() == before

    def tree(self) -> dict[str, bytes | None]:
        if isinstance(self.target, Path):
            return cubes.tree(self.target)
        return {key: value for key, value in self.target.items() if not key.startswith(".zappend/")}

    @invariant()
    def what_was_committed_can_be_taken_back(self) -> None:
        if not self.history or self.model is not self.history[-1][0]:
            self.history.append((self.model, self.tree()))
            self.kept = min(self.kept + 1, KEPT)

    @invariant()
    def the_cube_is_the_model(self) -> None:
        on_disk = isinstance(self.target, Path)
        cubes.assert_cube(self.target if on_disk else cubes.zarr_store(self.tree()), self.model)
        if on_disk:
            left = {path.name.split("-")[0] for path in self.folder.glob("*.zappend/*")}
            assert {path.name for path in self.folder.iterdir()} <= {"cube.zarr", "cube.zarr.zappend"}
            assert left <= {"kept", "undo", "original"}


def run(machines: int) -> None:
    run_state_machine_as_test(Edits, settings=settings(max_examples=machines, stateful_step_count=12, deadline=None))


def test_cubes_are_their_models() -> None:
    run(QUICK)


@pytest.mark.campaign
def test_many_cubes_are_their_models() -> None:
    run(MANY)
