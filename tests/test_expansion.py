"""The setting `expand_dims`: slices that lack the append dimension get it, with a label from where the setting says."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import cubes
import h5netcdf
import numpy as np
import pytest
import xarray as xr

import zappend
from zappend.errors import SliceError, UsageError

formats = pytest.mark.parametrize("zarr_format", [2, 3])

EPOCH = {"units": "hours since 2024-01-01", "dtype": "i4", "calendar": "standard"}


def scene(day: int, label: str | None = "time") -> xr.Dataset:
    """Return what a satellite sees on one day, without a dimension for it; by `label` it has a scalar coordinate."""
    rng = np.random.default_rng(day)
    when = cubes.days(day, 1)[0]
    dataset = xr.Dataset(
        {
            "a": (("y", "x"), rng.random((3, 4)).astype("f4"), {"grid_mapping": "crs", "units": "K"}),
            "mean": ((), rng.random()),
            "crs": ((), np.int32(0), {"grid_mapping_name": "latitude_longitude"}),
            "y_bnds": (("y", "bnds"), np.arange(6.0).reshape(3, 2)),
        },
        {
            "y": ("y", [0.5, 2.5, 4.5], {"bounds": "y_bnds"}),
            "lat": (("y", "x"), np.ones((3, 4))),
            "height": ((), 2.0),
        },
        {"day": f"2024-01-{day + 1:02}", "number": np.int32(day), "title": "scene"},
    )
    if label is not None:
        dataset["time_bnds"] = ("bnds", when + np.array([0, 24], "m8[h]").astype("m8[ns]"))
        dataset = dataset.assign_coords({label: ((), when, {"bounds": "time_bnds", "long_name": "of the scene"})})
        for name in (label, "time_bnds"):
            dataset[name].encoding = EPOCH
    return dataset


def expected(days: list[int], label: str | None = "time") -> xr.Dataset:
    """Return the cube of scenes as xarray would make it."""
    parts = []
    for day in days:
        one = scene(day, label)
        fixed = [name for name in ("crs", "y_bnds") if name in one]
        whole = one.drop_vars([*fixed, *([label] if label else [])]).expand_dims("time")
        time = one[label].variable if label else xr.Variable((), cubes.days(day, 1)[0])
        whole = whole.assign_coords(time=time.set_dims(["time"]))
        parts.append(whole.assign({name: one[name].variable for name in fixed}))
    whole = cubes.concatenated(parts)
    whole.attrs = scene(days[0]).attrs
    return whole


def saved(folder: Path, days: list[int], kind: str, label: str | None = "time") -> list[Any]:
    paths = [folder / f"scene-{kind}-202401{day + 1:02}T0000Z.{kind[:2]}" for day in days]
    for day, path in zip(days, paths, strict=True):
        if kind == "nc":
            scene(day, label).to_netcdf(path, engine="h5netcdf")
        else:
            scene(day, label).to_zarr(path, zarr_format=int(kind[-1]), write_empty_chunks=True)
    return list(paths)


@formats
@pytest.mark.effect("expand_dims")
@pytest.mark.parametrize("kind", ["memory", "dask", "nc", "z2", "z3"])
def test_a_scalar_coordinate(tmp_path: Path, zarr_format: int, kind: str) -> None:
    """Data variables and the bounds of the label have the dimension; coordinates, bounds and grid mappings do not."""
    days = [0, 1, 2]
    slices = [scene(day) for day in days] if kind in ("memory", "dask") else saved(tmp_path, days, kind)
    if kind == "dask":
        slices = [one.chunk({"x": 2}) for one in slices]
    target = tmp_path / "cube.zarr"
    assert zappend.append(target, slices, zarr_format=zarr_format, expand_dims=True) == 3
    with xr.open_zarr(target, chunks=None) as cube:
        found, wanted = cube.load(), expected(days)
        xr.testing.assert_identical(found, wanted)
        assert {name: found[name].dims for name in found.variables} == {
            "time": ("time",),
            "y": ("y",),
            "mean": ("time",),
            "a": ("time", "y", "x"),
            "time_bnds": ("time", "bnds"),
            "lat": ("y", "x"),
            "y_bnds": ("y", "bnds"),
            "crs": (),
            "height": (),
        }
        assert cube.time.encoding["units"].startswith("hours since 2024-01-01")
    cubes.assert_bytes_of_zarr(target, tmp_path)
    with pytest.raises(SliceError, match="its label 2024-01-02T00:00:00 is in the cube already, at index 1"):
        zappend.append(target, scene(1), expand_dims=True)


def test_slices_that_have_the_dimension_stay_as_they_are() -> None:
    with_it: dict[str, bytes] = {}
    without: dict[str, bytes] = {}
    slices = [expected([0]), expected([1])]
    zappend.append(with_it, slices, expand_dims=True)
    zappend.append(without, slices)
    assert with_it == without
    assert zappend.append(with_it, scene(2), expand_dims=True) == 1
    xr.testing.assert_identical(cubes.open_mapping(with_it), expected([0, 1, 2]))


@formats
@pytest.mark.effect("expand_dims.coord")
@pytest.mark.parametrize("kind", ["memory", "nc"])
def test_another_coordinate(tmp_path: Path, zarr_format: int, kind: str) -> None:
    """It becomes that of the dimension, in place of a scalar of that name; nothing names it any more."""
    days = [3, 4]
    slices: list[Any] = [scene(day, "sensed") for day in days]
    if kind == "nc":
        slices = saved(tmp_path, days, "nc", "sensed")
    else:
        slices = [one.assign_coords(time=np.datetime64("2020-01-01", "ns")) for one in slices]
    target = tmp_path / "cube.zarr"
    zappend.append(target, slices, zarr_format=zarr_format, expand_dims={"coord": "sensed"})
    with xr.open_zarr(target, chunks=None) as cube:
        xr.testing.assert_identical(cube.load(), expected(days, "sensed"))


LABELS: dict[str, tuple[Any, Any, Any]] = {
    "a date": ("2024-03-01", None, np.datetime64("2024-03-01")),
    "a time": ("2024-03-01T06:30:00.5", None, np.datetime64("2024-03-01T06:30:00.500")),
    "a time in a zone": ("2024-03-01T01:00:00+02:00", None, np.datetime64("2024-02-29T23:00")),
    "a time in UTC": ("20240301T010000Z", None, np.datetime64("2024-03-01T01:00")),
    "a month": ("2024-03", None, np.datetime64("2024-03-01")),
    "eight digits": ("20240301", None, np.datetime64("2024-03-01")),
    "eight digits of no date": ("20241301", None, 20241301),
    "a text that is a number": (" -7.5e1 ", None, -75.0),
    "a year": ("2024", None, 2024),
    "a number": (20240301, None, 20240301),
    "a float": (np.float32(0.5), None, 0.5),
    "an array of one": (np.array([3], "i2"), None, 3),
    "digits with a format": (20240301, "%Y%m%d", np.datetime64("2024-03-01")),
    "a text with a format": ("1 Mar 2024 06h", "%d %b %Y %Hh", np.datetime64("2024-03-01T06")),
    "a day of the year": ("2024061", "%Y%j", np.datetime64("2024-03-01")),
    "a zone with a format": ("2024-03-01 +0100", "%Y-%m-%d %z", np.datetime64("2024-02-29T23")),
}


@pytest.mark.effect("expand_dims.attribute", "expand_dims.format")
@pytest.mark.parametrize(
    ("case", "where"),
    [
        (case, where)
        for case, (_, written, _) in LABELS.items()
        for where in ("attribute", "file", *(["coord"] if written else []))  # without a format it is taken as it is
    ],
)
def test_labels_as_they_may_be_written(tmp_path: Path, case: str, where: str) -> None:
    value, written, label = LABELS[case]
    expand = {"format": written, "coord" if where == "coord" else "attribute": "when"}
    dataset = scene(0, None)
    slices: Any = dataset.assign_attrs(when=value)
    if where == "coord":
        slices = dataset.assign_coords(when=value)
    elif where == "file":
        slices = tmp_path / "a.nc"
        dataset.assign_attrs(when=value).to_netcdf(slices, engine="h5netcdf")
    target: dict[str, bytes] = {}
    zappend.append(target, slices, expand_dims=expand)
    cube = cubes.open_mapping(target)
    assert cube.sizes["time"] == 1
    assert cube.time.values[0] == label
    assert "when" not in cube.variables


@formats
@pytest.mark.effect("expand_dims.pattern")
@pytest.mark.parametrize(
    ("pattern", "written"),
    [(r"\d{8}T\d{4}Z", None), (r"-(\d{8})T", None), (r"(?:nc|z\d)-(.*)\.", "%Y%m%dT%H%MZ"), (r"2024(?=01)", None)],
)
@pytest.mark.parametrize("kind", ["nc", "z3", "source"])
def test_a_pattern_in_the_file_name(
    tmp_path: Path, zarr_format: int, kind: str, pattern: str, written: str | None
) -> None:
    """The folders above have no part in it."""
    folder = tmp_path / "20200101T0000Z-2020"
    folder.mkdir()
    slices = saved(folder, [5, 6], "nc" if kind == "source" else kind, None)
    settings: dict[str, Any] = {"zarr_format": zarr_format, "expand_dims": {"pattern": pattern, "format": written}}
    if kind == "source":
        settings["slice_source"] = lambda path: xr.open_dataset(path, engine="h5netcdf").load()
    target: dict[str, bytes] = {}
    if pattern.startswith("2024"):
        assert zappend.append(target, slices[0], **settings) == 1
        assert cubes.open_mapping(target).time.values.tolist() == [2024]
        return
    assert zappend.append(target, slices, append_step="1D", **settings) == 2
    cube = cubes.open_mapping(target)
    np.testing.assert_array_equal(cube.time, cubes.days(5, 2))
    xr.testing.assert_identical(cube, expected([5, 6], None))


def test_a_dataset_that_was_opened_from_a_file_has_its_name(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, [5], "nc", None)
    target: dict[str, bytes] = {}
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        zappend.append(target, dataset, expand_dims={"pattern": r"\d{8}"})
    np.testing.assert_array_equal(cubes.open_mapping(target).time, cubes.days(5, 1))


@pytest.mark.parametrize(
    ("expand", "message"),
    [
        (True, "there is no coordinate 'time'; of scalars there are 'mean', 'crs', 'height'"),
        ({"coord": "y"}, r"variable 'y' is no scalar, but has the dimensions \('y',\)"),
        ({"coord": "when"}, "there is no coordinate 'when'"),
        ({"coord": "mean", "format": "%Y"}, r"coordinate 'mean': '0.8[0-9]*' is not written as the format '%Y'"),
        ({"attribute": "when"}, "there is no attribute 'when'; there are 'day', 'number', 'title', 'flags', 'stamp'"),
        ({"attribute": "title"}, "attribute 'title': 'scene' is neither a number nor a time as in ISO 8601; expan"),
        ({"attribute": "day", "format": "%Y%m%d"}, "attribute 'day': '2024-01-01' is not written as the format"),
        ({"attribute": "flags"}, r"attribute 'flags' is \[1, 2\], which is neither a number nor a text"),
        (
            {"attribute": "stamp"},
            "attribute 'stamp': '20240101063000' may be a time or a number; for a time, give its format, '%Y%m%d%H%M",
        ),
        ({"pattern": "[0-9]"}, "the slice has no file, in the name of which a pattern could find it"),
    ],
)
def test_labels_that_are_not_there(expand: Any, message: str) -> None:
    target: dict[str, bytes] = {}
    new = scene(0, None).assign_attrs(flags=[1, 2], stamp="20240101063000")
    with pytest.raises(SliceError, match=f"slice 0: expand_dims finds no label for its dimension 'time': {message}"):
        zappend.append(target, new, expand_dims=expand)
    assert not target


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"\d{9}", "the pattern '.*' does not match the file name 'scene-nc-20240101T0000Z.nc'"),
        (r"scene|(\d)", "the pattern '.*' does not match the file name"),
        (r"scene", "file name 'scene-nc-20240101T0000Z.nc': 'scene' is neither a number nor a time"),
    ],
)
def test_file_names_without_a_label(tmp_path: Path, pattern: str, message: str) -> None:
    slices = saved(tmp_path, [0], "nc")
    before = cubes.tree(tmp_path)
    with pytest.raises(SliceError, match=message):
        zappend.append(tmp_path / "cube", slices, expand_dims={"pattern": pattern})
    assert cubes.tree(tmp_path) == before


@pytest.mark.parametrize(
    ("expand", "message"),
    [
        ({}, "setting expand_dims: give one of coord, attribute and pattern"),
        ({"format": "%Y"}, "setting expand_dims: give one of"),
        ({"coord": "time", "attribute": "time"}, "setting expand_dims: give one of"),
        ({"pattern": "("}, "setting expand_dims.pattern: .* is no regular expression"),
        ({"pattern": "(a)(b)"}, "setting expand_dims.pattern: .* has 2 groups, and only one can be the label"),
    ],
)
def test_settings_that_name_no_label(expand: Any, message: str) -> None:
    for new in (scene(0), expected([0])):
        target: dict[str, bytes] = {}
        with pytest.raises(UsageError, match=message):
            zappend.append(target, new, expand_dims=expand)
        assert not target


def test_the_name_of_the_dimension_is_taken() -> None:
    new = scene(0, None).assign(time=("x", np.arange(4)))
    with pytest.raises(SliceError, match=r"has a variable 'time' already, with the dimensions \('x',\)"):
        zappend.append({}, new, expand_dims={"attribute": "day"})


def test_without_the_setting_the_refusal_names_it() -> None:
    with pytest.raises(SliceError, match="and 'time' as a scalar: the setting expand_dims makes a dimension of it"):
        zappend.append({}, scene(0))
    with pytest.raises(SliceError, match=r"no dimension 'time' to append along; .*; the setting expand_dims can give"):
        zappend.append({}, scene(0, None))


def test_scalar_coordinates_are_the_same_in_all_slices() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, scene(0), expand_dims=True)
    before = dict(target)
    with pytest.raises(SliceError, match=r"variable 'height' is not that of the target: 3.0 at index"):
        zappend.append(target, scene(1).assign_coords(height=3.0), expand_dims=True)
    assert target == before


def test_a_slice_is_still_read_in_parts(tmp_path: Path) -> None:
    side = 5000
    with h5netcdf.File(tmp_path / "a.nc", "w") as file:
        file.dimensions = {"y": side, "x": side}
        file.attrs["number"] = 1
        file.create_variable("a", ("y", "x"), "f4", chunks=(500, 500), compression="gzip")
    tracemalloc.start()
    try:
        settings: dict[str, Any] = {"expand_dims": {"attribute": "number"}, "threads": 1}
        assert zappend.append(tmp_path / "cube.zarr", tmp_path / "a.nc", **settings) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < side**2 * 4
    with xr.open_zarr(tmp_path / "cube.zarr", chunks=None) as cube:
        assert cube.a.encoding["chunks"] == (1, 500, 500)
