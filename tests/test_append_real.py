"""Real NetCDF files become the cube that xarray makes of them, to the byte of each chunk."""

from __future__ import annotations

from pathlib import Path

import cubes
import pytest
import xarray as xr

import zappend
from zappend.errors import SliceError

NEMO = sorted((cubes.SAMPLES / "NEMO").glob("*.nc"))


@pytest.fixture(scope="session")
def ostia(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The monthly OSTIA file cut into files of six months, stored as it is."""
    folder = tmp_path_factory.mktemp("ostia")
    with xr.open_dataset(cubes.SAMPLES / "ostia_monthly.nc", engine="h5netcdf", decode_cf=False) as whole:
        return cubes.write_netcdf(folder, [whole.isel(time=slice(i, i + 6)) for i in range(0, 54, 6)])


def opened(paths: list[Path]) -> list[xr.Dataset]:
    return [xr.open_dataset(path, engine="h5netcdf").load() for path in paths]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("calls", ["one call", "a call a slice"])
def test_ostia(ostia: list[Path], tmp_path: Path, zarr_format: int, calls: str) -> None:
    target = tmp_path / "cube.zarr"
    if calls == "one call":
        assert zappend.append(target, ostia, zarr_format=zarr_format) == 9
    else:
        for path in ostia:
            assert zappend.append(target, path, zarr_format=zarr_format) == 1
    cubes.assert_cube(target, cubes.concatenated(opened(ostia)))
    cubes.assert_bytes_of_zarr(target, tmp_path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_nemo_has_the_same_label_in_every_file(tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    settings = {"append_dim": "time_counter", "zarr_format": zarr_format}
    with pytest.raises(SliceError, match=r"label 0\.0 is not after the last label of the cube, 0\.0"):
        zappend.append(target, NEMO, **settings)
    cubes.assert_cube(target, xr.open_dataset(NEMO[0], engine="h5netcdf").load())
    zappend.append(target, NEMO[1:], append_step="any", **settings)
    cubes.assert_cube(target, cubes.concatenated(opened(NEMO), "time_counter"))
    cubes.assert_bytes_of_zarr(target, tmp_path)


def test_files_and_datasets_and_cubes_as_slices_of_one_cube(ostia: list[Path], tmp_path: Path) -> None:
    target, as_cube = tmp_path / "cube.zarr", tmp_path / "slice.zarr"
    datasets = opened(ostia[:4])
    datasets[2].to_zarr(as_cube, zarr_format=3)
    slices = [ostia[0], datasets[1], as_cube, datasets[3].chunk({"time": 2, "longitude": 100})]
    assert zappend.append(target, slices) == 4
    cubes.assert_cube(target, cubes.concatenated(datasets))
