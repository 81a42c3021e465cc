"""Real NetCDF files become the cube that xarray makes of them, to the byte of each chunk."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cftime
import cubes
import numpy as np
import pytest
import xarray as xr
import zarr

import zappend
from zappend.errors import SliceError

NEMO = sorted((cubes.SAMPLES / "NEMO").glob("*.nc"))
formats = pytest.mark.parametrize("zarr_format", [2, 3])


@pytest.fixture(scope="session")
def ostia(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The monthly OSTIA file cut into files of six months, stored as it is."""
    folder = tmp_path_factory.mktemp("ostia")
    with xr.open_dataset(cubes.SAMPLES / "ostia_monthly.nc", engine="h5netcdf", decode_cf=False) as whole:
        return cubes.write_netcdf(folder, [whole.isel(time=slice(i, i + 6)) for i in range(0, 54, 6)])


def opened(paths: list[Path]) -> list[xr.Dataset]:
    return [xr.open_dataset(path, engine="h5netcdf").load() for path in paths]


@formats
def test_a_call_for_each_file(ostia: list[Path], tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    for path in ostia:
        assert zappend.append(target, path, zarr_format=zarr_format) == 1
    cubes.assert_cube(target, cubes.concatenated(opened(ostia)))
    cubes.assert_bytes_of_zarr(target, tmp_path)


# A file that is cut along one of its dimensions.


@dataclass(frozen=True)
class Series:
    """A real file, cut into slices of `step` labels along `dim`; `settings` are those of the append.

    `shape` is the rest of the shape of its `main` variable, all of which is one chunk.
    """

    file: str
    main: str
    dim: str
    step: int
    shape: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def slices(self) -> list[xr.Dataset]:
        """Return the slices as they are stored, but for how they lie in the file."""
        whole = stored(self.file)
        return [
            whole.isel({self.dim: slice(i, i + self.step)}).copy(deep=True)
            for i in range(0, whole.sizes[self.dim], self.step)
        ]


SERIES = {
    # Times at half a day, and two variables of bounds.
    "months of OSTIA": Series("ostia_monthly", "surface_temperature", "time", 1, (18, 432)),
    # A calendar of 360 days, to the year 2099; chunks of one year; scalar coordinates; lead times in hours.
    "generations of A1B": Series("A1B_north_america", "air_temperature", "time", 30, (37, 49), {"append_step": "360D"}),
    "centuries of E1": Series("E1_north_america", "air_temperature", "time", 120, (37, 49), {"append_step": "+"}),
    # Strings, of two letters in the first slices and of four in the last.
    "hours of ERA5": Series("vlstr_type", "wind", "time", 30, (1, 1), {"append_step": "1h"}),
    # Chunks of one label.
    "months of SOI": Series("SOI_Darwin", "SOI_Darwin", "time", 148, ()),
    # Dimensions that are no time.
    "depths of profiles": Series("atlantic_profiles", "salinity", "depth", 8, (6, 8)),
    "model levels": Series("hybrid_height", "air_potential_temperature", "model_level_number", 5, (100, 100)),
    "rows from the top": Series("toa_brightness_stereographic", "data", "y", 40, (256,), {"append_step": "-"}),
    "rows without labels": Series("orca2_votemper", "votemper", "dim0", 37, (180,), {"append_step": "any"}),
}


@cache
def stored(file: str) -> xr.Dataset:
    """Return a file as it is stored."""
    with xr.open_dataset(cubes.SAMPLES / f"{file}.nc", engine="h5netcdf", decode_cf=False) as dataset:
        return dataset.load()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The slices of a series as files."""

    @cache
    def write(name: str) -> list[Path]:
        return cubes.write_netcdf(tmp_path_factory.mktemp(name.replace(" ", "-")), SERIES[name].slices())

    return write


FORMS = [("files", 2), ("decoded", 3), ("mixed", 2), ("mixed", 3)]
# Opening a file takes far longer than appending it, and here they are many.
CASES = [(name, *form) for name in SERIES for form in (FORMS[::3] if name == "months of OSTIA" else FORMS)]


@pytest.mark.parametrize(("name", "form", "zarr_format"), CASES)
def test_series(tmp_path: Path, files: Any, name: str, form: str, zarr_format: int) -> None:
    """A file that is cut, and appended slice by slice in whatever form, is what it was."""
    series = SERIES[name]
    forms: list[Any] = [files(name), series.slices(), [xr.decode_cf(one) for one in series.slices()]]
    chosen = {"files": [0], "stored": [1], "decoded": [2], "mixed": [2, 0, 1]}[form]
    slices = [forms[chosen[i % len(chosen)]][i] for i in range(len(forms[0]))]
    target = tmp_path / "cube.zarr"
    settings = {"append_dim": series.dim, "durability": "process", **series.settings}
    assert zappend.append(target, slices, zarr_format=zarr_format, **settings) == len(slices)
    cubes.assert_cube(target, cubes.concatenated([xr.decode_cf(one) for one in series.slices()], series.dim))
    for key, array in zarr.open_group(target, mode="r").arrays():
        # Chunks are those of a slice, not those of the file; labels and constants are one chunk.
        assert array.nchunks == len(slices) or array.ndim <= 2, key
        if key == series.main:
            assert array.chunks == (series.step, *series.shape)
        elif key == series.dim:
            assert array.nchunks == 1


@formats
def test_durations_of_real_forecasts(tmp_path: Path, zarr_format: int) -> None:
    """Lead times of up to 240 years of 360 days, which xarray decodes if it is told to."""
    slices = [xr.decode_cf(one, decode_timedelta=True) for one in SERIES["generations of A1B"].slices()]
    assert slices[-1].forecast_period.dtype.kind == "m"
    zappend.append(tmp_path / "cube", slices, zarr_format=zarr_format)
    cubes.assert_cube(tmp_path / "cube", cubes.concatenated(slices))


@formats
def test_scenarios_along_a_dimension_of_strings(tmp_path: Path, zarr_format: int) -> None:
    def scenario(file: str, label: str) -> xr.Dataset:
        whole = xr.decode_cf(stored(file)).isel(time=slice(24))
        return whole[["air_temperature"]].expand_dims(scenario=[label])

    slices = [scenario("A1B_north_america", "A1B"), scenario("E1_north_america", "E1")]
    target, settings = tmp_path / "cube", {"append_dim": "scenario", "zarr_format": zarr_format}
    with pytest.raises(SliceError, match="'time_bnds' is missing, which the attribute bounds of 'time' names"):
        zappend.append(target, slices, **settings)
    for one in slices:
        del one.time.attrs["bounds"], one.air_temperature.attrs["grid_mapping"]
    zappend.append(target, slices, excluded_variables=["forecast_reference_time"], **settings)
    expected = [one.drop_vars("forecast_reference_time") for one in slices]
    cubes.assert_cube(target, cubes.concatenated(expected, "scenario"))
    with pytest.raises(SliceError, match="its label E1 is in the cube already, at index 1; if_exists 'skip'"):
        zappend.append(target, expected[1].assign_coords(scenario=["E1"]), append_dim="scenario")
    with pytest.raises(SliceError, match="label A2 is not after the last label of the cube, E1"):
        zappend.append(target, expected[1].assign_coords(scenario=["A2"]), append_dim="scenario")


# Files in which the label is the same everywhere.


@formats
def test_nemo_has_the_same_label_in_every_file(tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    settings = {"append_dim": "time_counter", "zarr_format": zarr_format}
    with pytest.raises(SliceError, match=r"its label 0\.0 is in the cube already, at index 0"):
        zappend.append(target, NEMO, **settings)
    cubes.assert_cube(target, xr.open_dataset(NEMO[0], engine="h5netcdf").load())
    zappend.append(target, NEMO[1:], append_step="any", **settings)
    cubes.assert_cube(target, cubes.concatenated(opened(NEMO), "time_counter"))
    cubes.assert_bytes_of_zarr(target, tmp_path)


@formats
@pytest.mark.parametrize("is_decoded", [True, False])
def test_nemo_with_another_label(tmp_path: Path, zarr_format: int, is_decoded: bool) -> None:
    """The time that the files do tell apart takes the place of the label."""
    slices = [
        xr.open_dataset(path, engine="h5netcdf", decode_cf=is_decoded).load().swap_dims(time_counter="time_centered")
        for path in NEMO
    ]
    settings = {"append_dim": "time_centered", "append_step": "30D", "zarr_format": zarr_format}
    zappend.append(tmp_path / "cube", slices, **settings)
    expected = cubes.concatenated([xr.decode_cf(one) for one in slices], "time_centered")
    cubes.assert_cube(tmp_path / "cube", expected)
    assert expected.time_centered.values[0] == cftime.Datetime360Day(2015, 1, 16)


# Files without the dimension.

WITHOUT_TIME = {
    "rotated_pole": "no dimension 'time' to append along; it has 'grid_latitude', 'grid_longitude'",
    "toa_brightness_stereographic": "no dimension 'time' to append along; it has 'y', 'x'",
    "orca2_votemper": "no dimension 'time' to append along; it has 'dim0', 'dim1', 'bnds', 'bnds_4'",
    "hybrid_height": "no dimension 'time' to append along; it has 'model_level_number', 'grid_latitude'",
    "atlantic_profiles": "no dimension 'time' to append along; it has 'depth', 'lat', 'lon'",
}


@pytest.mark.parametrize("file", WITHOUT_TIME)
def test_a_file_without_the_append_dimension(tmp_path: Path, file: str) -> None:
    with pytest.raises(SliceError, match=WITHOUT_TIME[file]) as caught:
        zappend.append(tmp_path / "cube", cubes.SAMPLES / f"{file}.nc")
    assert f"{file}.nc" in str(caught.value)
    assert cubes.tree(tmp_path) == {}


@pytest.mark.parametrize("file", ["space_weather", "mesh_C4_synthetic_float"])
def test_files_in_the_old_format_of_netcdf(tmp_path: Path, file: str) -> None:
    has_reader = importlib.util.find_spec("netCDF4") is not None
    why = "no dimension 'tide' to append along" if has_reader else "NetCDF-3 file, which takes the package netcdf4"
    with pytest.raises(SliceError, match=why):
        zappend.append(tmp_path / "cube", cubes.SAMPLES / f"{file}.nc", append_dim="tide")
    assert cubes.tree(tmp_path) == {}


@formats
@pytest.mark.parametrize("is_decoded", [True, False])
@pytest.mark.parametrize(
    ("file", "label", "unit"),
    [
        ("rotated_pole", "time", "h"),
        ("toa_brightness_stereographic", "time", "h"),
        ("orca2_votemper", "time_counter", "s"),
        ("hybrid_height", "time", "h"),
    ],
)
def test_scalar_times_that_become_a_dimension(
    tmp_path: Path, zarr_format: int, file: str, label: str, unit: str, is_decoded: bool
) -> None:
    def at(step: int) -> xr.Dataset:
        dataset = stored(file).copy(deep=True)
        dataset = (xr.decode_cf(dataset) if is_decoded else dataset).set_coords(label)
        later: Any = np.timedelta64(6 * step, unit) if is_decoded else 6 * step
        if dataset[label].dtype == object:
            later = later.item()
        attrs, encoding = dataset[label].attrs, dataset[label].encoding
        dataset[label] = dataset[label] + later
        dataset[label].attrs, dataset[label].encoding = attrs, encoding
        return dataset.expand_dims(label)

    slices = [at(step) for step in range(3)]
    zappend.append(tmp_path / "cube", slices, append_dim=label, append_step=f"6{unit}", zarr_format=zarr_format)
    cubes.assert_cube(tmp_path / "cube", cubes.concatenated([xr.decode_cf(one) for one in slices], label))


def test_files_and_datasets_and_cubes_as_slices_of_one_cube(ostia: list[Path], tmp_path: Path) -> None:
    target, as_cube = tmp_path / "cube.zarr", tmp_path / "slice.zarr"
    datasets = opened(ostia[:4])
    datasets[2].to_zarr(as_cube, zarr_format=3)
    slices = [ostia[0], datasets[1], as_cube, datasets[3].chunk({"time": 2, "longitude": 100})]
    assert zappend.append(target, slices) == 4
    cubes.assert_cube(target, cubes.concatenated(datasets))
