"""What readers see between any two operations of a writer: the old cube or the new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import Case, DictCase, FolderCase, State
from faultlab import FORMATS, append_job, attempt, both_ends, restore, small_chunks
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

import zappend
from zappend.testing import Call, Faults, Killed
from zappend.txn.store import is_document

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


@pytest.fixture(params=FORMATS, ids=lambda param: f"v{param}")
def zarr_format(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def store_of(case: Case) -> Any:
    if isinstance(case, DictCase):
        return MemoryStore({key: cpu.Buffer.from_bytes(value) for key, value in case.data.items()}, read_only=True)
    return str(case.path)


def read_consolidated(case: Case) -> xr.Dataset | None:
    """Return the whole cube, ``None`` if there is none."""
    try:
        with xr.open_zarr(store_of(case), consolidated=True, chunks=None, decode_times=False) as cube:
            return cube.load()
    except FileNotFoundError:
        return None


def read_arrays(case: Case, names: list[str]) -> Arrays:
    """Return each array as its own document tells of it; what cannot be found is left out."""
    found = {}
    for name in names:
        try:
            found[name] = zarr.open_array(store_of(case), path=name, mode="r")[...]
        except FileNotFoundError:
            continue
    return found


class Reader:
    """Looks at a cube again and again, and holds what it sees against the cube `before` and `after` a change."""

    def __init__(self, case: Case, before: State, after: State) -> None:
        self.looks = 0
        self.seen: list[str] = []
        self._case = case
        restore(case, before)
        self._old = read_consolidated(case)
        self._old_arrays = self._all_arrays() if self._old is not None else {}
        restore(case, after)
        self._new = read_consolidated(case)
        assert self._new is not None
        self._new_arrays = self._all_arrays()
        assert "time" in self._new_arrays

    def _all_arrays(self) -> Arrays:
        return read_arrays(self._case, list(zarr.open_group(store_of(self._case), mode="r", use_consolidated=False)))

    def look(self) -> set[str]:
        """Look; return which of the old and the new arrays there are."""
        self.looks += 1
        cube = read_consolidated(self._case)
        self.seen.append("new" if same_cube(cube, self._new) else "old")
        assert self.seen[-1] == "new" or same_cube(cube, self._old)
        arrays = read_arrays(self._case, list(self._new_arrays))
        return {self._which(name, arrays.get(name)) for name in self._new_arrays}

    def _which(self, name: str, values: np.ndarray[Any, Any] | None) -> str:
        old, new = self._old_arrays.get(name), self._new_arrays[name]
        if same(old, new):
            assert same(values, old), name
            return "both"
        assert same(values, old) or same(values, new), name
        return "new" if same(values, new) else "old"


def same_cube(a: xr.Dataset | None, b: xr.Dataset | None) -> bool:
    return a is b if a is None or b is None else a.identical(b)


def same(a: np.ndarray[Any, Any] | None, b: np.ndarray[Any, Any] | None) -> bool:
    return a is b if a is None or b is None else a.shape == b.shape and bool((a == b).all())


def documents(calls: list[Call]) -> int:
    """Return how many metadata documents were put."""
    return sum(call.name in ("rename", "set") and is_document(call.path) for call in calls)


def watch(case: Case, work: Callable[[Any], object], reader: Reader, total: int, before: int = 0) -> None:
    """Do `work`, which puts `total` documents, and look before each of its operations, and after the last.

    `before` are the documents that had been put already, by somebody who died.
    """

    wrong = []

    def look() -> None:
        # A writer that cleans up logs what is raised and goes on, so nothing may be raised here.
        done = documents(faults.calls[:-1])
        try:
            arrays = reader.look()
            assert 0 < before + done < before + total or len(arrays - {"both"}) <= 1, "arrays of unequal length"
        except AssertionError as error:
            wrong.append((faults.calls[-1], error))

    faults = Faults(1, look, lasting=True)
    work(case.target(faults))
    reader.look()
    assert not wrong
    assert len(reader.seen) == len(faults.calls) + 1
    # It is the new cube from one moment on, or never.
    assert reader.seen == sorted(reader.seen, reverse=True)


@pytest.mark.attack(34)
@pytest.mark.parametrize("kind", ["create", "append", "partial"])
def test_reader_sees_old_or_new_cube(place: Case, kind: str, zarr_format: int) -> None:
    job = append_job(kind, zarr_format)
    old, new, calls = both_ends(place, job)
    reader = Reader(place, old, new)
    restore(place, old)
    watch(place, job.work, reader, documents(calls))
    assert place.state() == new
    assert set(reader.seen) == {"old", "new"}
    print(f"{reader.looks} looks")


@pytest.mark.parametrize("kind", ["create", "partial"])
def test_reader_during_recovery(folder: FolderCase, kind: str, zarr_format: int) -> None:
    folder.durability = "process"
    job = append_job(kind, zarr_format)
    old, new, calls = both_ends(folder, job)
    reader = Reader(folder, old, new)
    ends = set()
    for at in range(5, len(calls), len(calls) // 6):
        restore(folder, old)
        assert isinstance(attempt(folder, job.work, Faults(at, lasting=True)), Killed)
        folder.bury()
        ends.add(watch_recovery(folder, reader, old, new, documents(calls[: at - 1])))
    assert ends >= {"rolled back", "completed"}
    print(f"{reader.looks} looks")


def watch_recovery(case: Case, reader: Reader, old: State, new: State, before: int) -> str:
    """Roll back under the eyes of `reader`; return what that did."""
    wreck = case.state()
    faults = Faults()
    settled = zappend.rollback(case.target(faults))
    state = case.state()
    assert state in {"rolled back": [old], "completed": [new], "clean": [old, new]}[settled.outcome]
    restore(case, wreck)
    reader.seen.clear()
    watch(case, zappend.rollback, reader, documents(faults.calls), before)
    assert reader.seen[-1] == ("old" if state == old else "new")
    assert settled.outcome == "completed" or len(set(reader.seen)) == 1
    return settled.outcome
