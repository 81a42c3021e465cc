"""Datasets to append, and what the cube of them must be."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import iris_sample_data
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from zarr.core.buffer import cpu

SAMPLES = Path(iris_sample_data.__path__[0], "sample_data")

CONCAT: dict[str, Any] = {
    "data_vars": "minimal",
    "coords": "minimal",
    "compat": "override",
    "combine_attrs": "override",
}


def small(start: int = 0, count: int = 2, *, name: str = "a", x: int = 4) -> xr.Dataset:
    """Return days `start` to `start + count` of a small cube with something of everything."""
    t = np.arange(start, start + count)
    rng = np.random.default_rng(start)
    values = rng.normal(size=(count, 3, x)).astype("f4")
    values[:, 0, 0] = np.nan
    return xr.Dataset(
        {
            name: (("time", "y", "x"), values, {"units": "K", "long_name": "some temperature"}),
            "packed": (("time", "y"), rng.integers(-500, 500, (count, 3)) * 0.01 + 1.0),
            "counts": (("time", "x"), rng.integers(0, 100, (count, x), dtype="i2")),
            "ok": (("time",), t % 2 == 0),
            "note": (("time",), np.array([f"day {i}" * (i + 1) for i in t], dtype=object)),
            "crs": ((), np.int32(0), {"grid_mapping_name": "latitude_longitude"}),
            "time_bnds": (("time", "bnds"), days(start, count)[:, None] + np.array([0, 24], "m8[h]").astype("m8[ns]")),
        },
        {
            "time": ("time", days(start, count), {"bounds": "time_bnds", "standard_name": "time"}),
            "y": ("y", np.linspace(50, 52, 3), {"units": "degrees_north"}),
            "x": ("x", np.linspace(10, 13, x)),
            "age": ("time", t / 2),
            "area": (("y", "x"), np.ones((3, x))),
        },
        {"title": "small", "Conventions": "CF-1.8"},
    )


def packed(start: int = 0, count: int = 2) -> xr.Dataset:
    """Return `small` with encodings as a file would leave them: packing, and units of times."""
    dataset = small(start, count)
    dataset.packed.encoding = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 1.0, "_FillValue": -32768}
    for name in ("time", "time_bnds"):
        dataset[name].encoding = {"units": "hours since 2024-01-01", "calendar": "standard", "dtype": "i4"}
    return dataset


def days(start: int, count: int) -> np.ndarray:
    """Return midnights from day `start` of 2024."""
    return pd.date_range("2024-01-01", periods=start + count, unit="ns").to_numpy()[start:]


def concatenated(slices: Sequence[xr.Dataset], dim: str = "time") -> xr.Dataset:
    """Return what a cube of `slices` must be."""
    return xr.concat(slices, dim, **CONCAT)


def assert_cube(target: Any, expected: xr.Dataset) -> None:
    """Assert that `target` is `expected` in values, attributes and order of dimensions, for every way to open it."""
    for consolidated in (True, False):
        with xr.open_zarr(target, consolidated=consolidated, chunks=None) as cube:
            xr.testing.assert_identical(cube.load(), expected)
            assert {n: v.dims for n, v in cube.variables.items()} == {n: v.dims for n, v in expected.variables.items()}
        group = zarr.open_group(target, mode="r", use_consolidated=consolidated)
        assert sorted(group.array_keys()) == sorted(map(str, expected.variables))
        for name, array in group.arrays():
            assert array.shape == expected[name].shape


def zarr_store(mapping: Mapping[str, bytes]) -> zarr.storage.MemoryStore:
    """Return a store of zarr with the keys of `mapping`."""
    return zarr.storage.MemoryStore({key: cpu.Buffer.from_bytes(value) for key, value in mapping.items()})


def assert_bytes_of_zarr(target: Path, folder: Path) -> None:
    """Assert that zarr-python, given the same metadata and values, writes the same chunks."""
    again = folder / "by-zarr"
    for document in (*target.rglob("zarr.json"), *target.rglob(".z*")):
        copy = again / document.relative_to(target)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(document.read_bytes())
    ours = zarr.open_group(target, mode="r", use_consolidated=False)
    theirs = zarr.open_group(again, mode="r+", use_consolidated=False)
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, array in ours.arrays():
            theirs[name][...] = array[...]
    assert tree(again) == tree(target)


def open_mapping(mapping: Mapping[str, bytes]) -> xr.Dataset:
    """Return the cube in `mapping`, loaded."""
    with xr.open_zarr(zarr_store(mapping), chunks=None) as cube:
        return cube.load()


def tree(folder: str | os.PathLike[str]) -> dict[str, bytes | None]:
    """Return every file below `folder` with its bytes, and every folder with ``None``."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


def write_netcdf(folder: Path, slices: Iterable[xr.Dataset]) -> list[Path]:
    """Write `slices` as NetCDF files and return their paths."""
    paths = []
    for i, dataset in enumerate(slices):
        paths.append(folder / f"slice-{i}.nc")
        times = [n for n in ("time", "time_bnds") if n in dataset and dataset[n].dtype.kind == "M"]
        for name in times:
            dataset[name].encoding.setdefault("units", "hours since 2024-01-01")
        dataset.to_netcdf(paths[-1], engine="h5netcdf")
    return paths
