"""Other programs that read a cube: what each of them finds stored in its arrays."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr

Values = dict[str, np.ndarray[Any, Any]]

NUMBERS = "biufc"
"""Kinds of types that every reader knows; strings and numpy's own times are known to zarr and xarray alone."""


def by_zarr(cube: Path) -> Values:
    """Return all arrays, as zarr-python reads them by their own documents."""
    return {name: array[...] for name, array in zarr.open_group(cube, mode="r", use_consolidated=False).arrays()}


def by_xarray(cube: Path) -> Values:
    """Return all arrays as they are stored, found by the consolidated metadata where there is one."""
    with xr.open_zarr(cube, consolidated=is_consolidated(cube), chunks=None, decode_cf=False) as dataset:
        return {str(name): variable.values for name, variable in dataset.load().variables.items()}


def by_tensorstore(cube: Path) -> Values:
    """Return the arrays of numbers as TensorStore reads them."""
    driver = "zarr3" if (cube / "zarr.json").exists() else "zarr"
    found = {}
    for name, array in zarr.open_group(cube, mode="r", use_consolidated=False).arrays():
        if array.dtype.kind in NUMBERS:
            spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{cube / name}/"}}
            found[name] = tensorstore.open(spec, open=True, read=True).result().read().result()
    return found


def by_gdal(cube: Path) -> Values:
    """Return the arrays of numbers that have two or more dimensions, as GDAL reads them by way of rasterio.

    Skips the test where rasterio is not installed, and for format 3 where its GDAL is older than that format.
    """
    rasterio = pytest.importorskip("rasterio", reason="rasterio, which brings GDAL, is not installed")
    if (cube / "zarr.json").exists() and tuple(map(int, rasterio.__gdal_version__.split(".")[:2])) < (3, 11):
        pytest.skip(f"GDAL {rasterio.__gdal_version__} reads only a draft of format 3")
    found = {}
    for name, array in zarr.open_group(cube, mode="r", use_consolidated=False).arrays():
        if array.dtype.kind in NUMBERS and array.ndim >= 2:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                with rasterio.open(f'ZARR:"{cube}":/{name}') as dataset:
                    # One band for each plane of the last two dimensions.
                    found[name] = dataset.read().reshape(array.shape)
    return found


READERS: Mapping[str, Callable[[Path], Values]] = {
    "xarray": by_xarray,
    "tensorstore": by_tensorstore,
    "gdal": by_gdal,
}
"""Who is held against zarr-python."""


def is_consolidated(cube: Path) -> bool:
    """Tell whether the root of `cube` has a copy of all metadata."""
    if (cube / "zarr.json").exists():
        return bool(json.loads((cube / "zarr.json").read_bytes()).get("consolidated_metadata"))
    return (cube / ".zmetadata").exists()


def assert_read_alike(cube: Path, reader: str, *, at_least: int) -> None:
    """Assert that `reader` finds what zarr-python finds, to the bit, in `at_least` so many arrays of `cube`."""
    expected, found = by_zarr(cube), READERS[reader](cube)
    assert len(found) >= at_least
    for name, values in found.items():
        assert values.shape == expected[name].shape, name
        np.testing.assert_array_equal(values, expected[name], err_msg=f"{reader} reads {name}")
