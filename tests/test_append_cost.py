"""What an append costs, counted: it is that of the slice, never of the cube."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cubes
import numpy as np
import pytest
import xarray as xr

import zappend
from zappend.testing import CountingMapping, Faults, FaultyFiles
from zappend.txn.local import LocalStorage

formats = pytest.mark.parametrize("zarr_format", [2, 3])


def step(i: int, *, variables: int = 1) -> xr.Dataset:
    values = np.full((1, 4, 6), float(i))
    return xr.Dataset(
        {f"v{n}": (("time", "y", "x"), values) for n in range(variables)},
        {"time": [i], "y": np.arange(4.0), "x": np.arange(6.0)},
    )


def calls_of_append(target: Path, dataset: xr.Dataset, zarr_format: int) -> Counter[str]:
    faults = Faults()
    zappend.append(LocalStorage(target, files=FaultyFiles(faults)), dataset, threads=1, zarr_format=zarr_format)
    return Counter(call.name for call in faults.calls)


@formats
def test_the_hundredth_append_costs_what_the_third_did(zarr_format: int) -> None:
    """In a mapping each key is seen: no listing, and as many reads and writes however long the cube is."""
    inner: dict[str, bytes] = {}
    counts = []
    for i in range(100):
        store = CountingMapping(inner)
        zappend.append(store, step(i), zarr_format=zarr_format)
        counts.append(dict(store.counts))
    # A mapping without folders can only be searched whole for leftovers of the log, which is done twice.
    assert counts[2] == counts[99]
    assert counts[99]["set"] + counts[99]["get"] < 50


@formats
@pytest.mark.parametrize("variables", [1, 5])
def test_files_written_and_synced(tmp_path: Path, zarr_format: int, variables: int) -> None:
    """One file, one rename and one sync for each chunk and document; one sync a folder; and the log's three files."""
    target = tmp_path / "cube"
    for i in range(2):
        zappend.append(target, step(i, variables=variables), zarr_format=zarr_format)
    calls = calls_of_append(target, step(2, variables=variables), zarr_format)
    chunks = variables + 1  # and the labels
    documents = variables + 2  # a document each, the labels', and the root
    # Folders of chunks, which are new in format 3 and so are entries of others, and folders of documents.
    folders = (variables + 1 if zarr_format == 2 else 3 * variables + 1) + variables + 2
    assert calls["rename"] == chunks + documents + 1  # the head of the log
    assert calls["link"] == 1  # the decision
    assert calls["write"] == chunks + documents + 3  # head, decision, lock
    # The lock need not be durable; the place is synced with its parent, after the decision, and without the head.
    assert calls["fsync"] == calls["write"] - 1 + folders + 4


class Sizes(CountingMapping):
    """Also counts the bytes that are read and written."""

    def __init__(self, inner: dict[str, bytes]) -> None:
        super().__init__(inner)
        self.bytes = 0

    def __getitem__(self, key: str) -> bytes:
        value = super().__getitem__(key)
        self.bytes += len(value)
        return value

    def __setitem__(self, key: str, value: bytes) -> None:
        self.bytes += len(value)
        super().__setitem__(key, value)


@formats
def test_a_cube_of_a_million_labels(zarr_format: int) -> None:
    """Neither more calls nor more bytes than for one of 20,000 whose last chunk of labels is as full."""

    def hours(first: int, count: int) -> xr.Dataset:
        labels = np.datetime64("1900-01-01", "ns") + np.arange(first, first + count) * np.timedelta64(1, "h")
        return xr.Dataset({"a": (("time", "x"), np.zeros((count, 2), "f4"))}, {"time": labels})

    costs = []
    for labels in (20_480, 20_480 + 60 * 16_384):
        inner: dict[str, bytes] = {}
        chunks = {"a": {"encoding": {"chunks": [512, 2]}}}
        zappend.append(inner, hours(0, labels), slice_size="any", zarr_format=zarr_format, variables=chunks)
        store = Sizes(inner)
        zappend.append(store, hours(labels, 1), slice_size="any")
        costs.append((dict(store.counts), store.bytes))
    (few, few_bytes), (many, many_bytes) = costs
    assert many == few
    assert many_bytes < 1.1 * few_bytes  # numbers of more digits are compressed to a little more


def test_no_sync_with_durability_process(tmp_path: Path) -> None:
    faults = Faults()
    target = LocalStorage(tmp_path / "cube", durability="process", files=FaultyFiles(faults))
    zappend.append(target, [step(0), step(1)])
    assert "fsync" not in {call.name for call in faults.calls}


@formats
def test_the_log_is_one_object_however_many_chunks(tmp_path: Path, zarr_format: int) -> None:
    first, second = (xr.Dataset({"a": (("time", "x"), np.zeros((1, 2000)))}, {"time": [i]}) for i in range(2))
    for dataset in (first, second):
        dataset.a.encoding["preferred_chunks"] = {"time": 1, "x": 10}
    target: dict[str, bytes] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zappend.chunking.SMALLEST_CHUNK", 1)
        zappend.append(target, first, append_step="any", zarr_format=zarr_format)
    writes = Watching(target)
    zappend.append(writes, second, zarr_format=zarr_format)
    assert [key for key in writes.written if key.startswith(".zappend/")] == [".zappend/undo", ".zappend/decision"]
    assert sum(key.startswith("a/") for key in writes.written) == 201


class Watching(CountingMapping):
    def __init__(self, inner: dict[str, bytes]) -> None:
        super().__init__(inner)
        self.written: list[str] = []

    def __setitem__(self, key: str, value: bytes) -> None:
        self.written.append(key)
        super().__setitem__(key, value)


def test_a_slice_is_opened_when_its_turn_comes_and_closed_after(tmp_path: Path) -> None:
    """A generator of slices is taken one by one, so slices may be made, or come, while others are appended."""
    target = tmp_path / "cube"
    seen: list[int] = []

    def make() -> Iterator[xr.Dataset]:
        for i in range(3):
            if i:
                with xr.open_zarr(target, chunks=None) as cube:
                    seen.append(cube.sizes["time"])
            yield cubes.small(2 * i)

    assert zappend.append(target, make()) == 3
    assert seen == [2, 4]
