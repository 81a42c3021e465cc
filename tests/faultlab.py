"""Cubes that grow by one slice, for the tests of what faults leave of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import Case, DictCase, FolderCase, State

import zappend
from zappend.testing import Call, Faults

KINDS = ("create", "append", "partial", "replace")
FORMATS = (2, 3)
SHARDS = ("shards", 3)
"""The kind of append that fills up a shard which readers see, and its format."""


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cubes of a few hundred bytes have several chunks."""
    monkeypatch.setattr("zappend.chunking.BEST_CHUNK", 32)
    monkeypatch.setattr("zappend.chunking.LABELS_PER_CHUNK", 8)


def days(first: int, count: int = 2) -> xr.Dataset:
    """Return a slice of `count` days that begins at day `first`."""
    time = np.arange(first, first + count)
    random = np.random.default_rng(first)
    return xr.Dataset(
        {
            "sst": (("time", "y", "x"), random.random((count, 2, 4), np.float32), {"units": "K"}),
            "flags": (("time", "y", "x"), random.integers(0, 99, (count, 2, 4), np.int32)),
            "note": ("time", np.array([f"day {day}" for day in time], object)),
            "time_bnds": (("time", "bnds"), np.stack([time, time + 1], 1)),
            "crs": ((), 0, {"grid_mapping_name": "latitude_longitude"}),
        },
        {
            "time": ("time", time, {"units": "days since 2026-01-01", "bounds": "time_bnds"}),
            "x": np.arange(4.0),
        },
    )


@dataclass(frozen=True)
class AppendJob:
    """One append: the cube before it (``None``: there is none), the slice, and the settings."""

    old: Mapping[str, bytes] | None
    slice: xr.Dataset | Path
    settings: dict[str, Any] = field(default_factory=dict)

    def work(self, target: Any) -> object:
        return zappend.append(target, self.slice, **self.settings)

    def repeat(self, target: Any) -> object:
        """Append unless that has been done."""
        return zappend.append(target, self.slice, **self.settings, if_exists="skip")

    @property
    def is_refused_twice(self) -> bool:
        return "force_new" not in self.settings

    def with_threads(self) -> AppendJob:
        return replace(self, settings={k: v for k, v in self.settings.items() if k != "threads"})

    def command(self, target: Path) -> list[str]:
        """Return the arguments of ``zappend`` that do this."""
        options = [f"--{name.replace('_', '-')}={value}" for name, value in self.settings.items()]
        return ["append", f"--target={target}", *options, str(self.slice)]


@dataclass(frozen=True)
class WriteJob:
    """One ``to_zarr`` into a transaction, on one thread, so that each run has the same operations."""

    old: Mapping[str, bytes]
    slice: xr.Dataset

    is_refused_twice = False

    def work(self, target: Any) -> None:
        with zappend.transaction(target) as txn:
            self._write(txn)

    def repeat(self, target: Any) -> None:
        with zappend.transaction(target) as txn:
            if xr.open_zarr(txn.store, decode_times=False).time[-1] != self.slice.time[-1]:
                self._write(txn)

    def _write(self, txn: zappend.api.Transaction) -> None:
        self.slice.to_zarr(txn.store, append_dim="time", consolidated=True)


Job = AppendJob | WriteJob


def append_job(kind: str, zarr_format: int, folder: Path | None = None) -> AppendJob:
    """Return an append that makes a cube, grows it, fills up its last chunk or shard, or replaces it.

    With `folder`, the slice is a NetCDF file there.
    """
    settings: dict[str, Any] = {"threads": 1, "zarr_format": zarr_format}
    cube: dict[str, bytes] = {}
    new = days(4)
    if kind == "create":
        new = days(0)
    elif kind == "append":
        zappend.append(cube, [days(0), days(2)], **settings)
    elif kind in ("partial", "shards"):
        settings["slice_size"] = "any"
        if kind == "shards":
            settings["variables"] = {"sst": {"encoding": {"chunks": [1, 2, 4], "shards": [4, 2, 4]}}}
        zappend.append(cube, [days(0), days(2, 1)], **settings)
        new = days(3, 3)
    else:
        zappend.append(cube, [days(i).assign(old=("time", [i, i])) for i in (0, 2)], **settings)
        settings["force_new"] = True
    if folder is None:
        return AppendJob(cube or None, new, settings)
    path = folder / "slice.nc"
    new.to_netcdf(path, engine="h5netcdf")
    return AppendJob(cube or None, path, settings)


def write_job(zarr_format: int) -> WriteJob:
    """Return a ``to_zarr`` that grows a cube."""
    cube: dict[str, bytes] = {}
    first, second, new = (days(i)[["sst", "note"]].drop_vars("x") for i in (0, 2, 4))
    del first.time.attrs["bounds"]  # which are not there
    zappend.append(cube, [first, second], zarr_format=zarr_format)
    return WriteJob(cube, new)


def both_ends(case: Case, job: Job) -> tuple[State, State, list[Call]]:
    """Return the states before and after an undisturbed run, and its operations."""
    case.reset(job.old)
    old = case.state()
    faults = Faults()
    job.work(case.target(faults))
    assert len(faults.calls) > 10, "hardly anything happens"
    return old, case.state(), faults.calls


def attempt(case: Case, work: Callable[[Any], object], faults: Faults) -> BaseException | None:
    """Do `work` under `faults`, which must come; return what was raised."""
    raised: BaseException | None = None
    try:
        work(case.target(faults))
    except BaseException as error:
        if isinstance(error, (AssertionError, pytest.fail.Exception)):
            raise
        raised = error
    assert faults.fired, f"no fault, but {raised!r}"
    return raised


def restore(case: Case, state: State) -> None:
    """Make everything what it was when `state` was taken, an undo log included."""
    case.reset(None)
    if isinstance(case, DictCase):
        case.data.update({key: value for key, value in state.items() if value is not None})
        return
    for name, value in state.items():
        path = case.home / name
        if value is None:
            path.mkdir()
        else:
            path.write_bytes(value)


def cube_of(case: Case, state: State) -> State:
    """Return what `state` has of the cube itself: neither the place of the log nor the lock."""
    inside = "cube.zarr" if isinstance(case, FolderCase) else ""
    return {k: v for k, v in state.items() if k == inside or (k.startswith(inside) and ".zappend" not in k)}
