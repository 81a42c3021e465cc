"""What a cube holds after appends: every kind of variable, slice, chunk and existing cube."""

from __future__ import annotations

import shutil
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cftime
import cubes
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import zappend
from zappend.errors import SliceError, TargetError, UsageError
from zappend.testing import Faults, FaultyFiles
from zappend.txn.local import LocalStorage

formats = pytest.mark.parametrize("zarr_format", [2, 3])


@formats
@pytest.mark.parametrize("make", [cubes.small, cubes.packed])
@pytest.mark.parametrize("form", ["memory", "dask", "netcdf", "zarr 2", "zarr 3"])
def test_slices_of_every_form(tmp_path: Path, zarr_format: int, make: Any, form: str) -> None:
    datasets = [make(start, 2) for start in (0, 2, 4)]
    slices: list[Any] = datasets
    if form == "dask":
        slices = [dataset.chunk({"time": 1, "x": 3}) for dataset in datasets]
    elif form == "netcdf":
        slices = cubes.write_netcdf(tmp_path, datasets)
    elif form != "memory":
        slices = [tmp_path / f"slice-{i}.zarr" for i in range(3)]
        for path, dataset in zip(slices, datasets, strict=True):
            dataset.to_zarr(path, zarr_format=int(form[-1]), consolidated=path.name != "slice-1.zarr")
    target = tmp_path / "cube.zarr"
    assert zappend.append(target, slices, zarr_format=zarr_format) == 3
    cubes.assert_cube(target, cubes.concatenated([make(start, 2) for start in (0, 2, 4)]))


@formats
def test_a_mapping_as_target_has_what_a_folder_has(tmp_path: Path, zarr_format: int) -> None:
    slices = [cubes.packed(0), cubes.packed(2)]
    mapping: dict[str, bytes] = {}
    zappend.append(mapping, slices, zarr_format=zarr_format)
    zappend.append(tmp_path / "cube", slices, zarr_format=zarr_format)
    assert mapping == {k: v for k, v in cubes.tree(tmp_path / "cube").items() if v is not None}


@formats
@pytest.mark.parametrize("by", [2, 3])
def test_cubes_made_by_xarray_grow(tmp_path: Path, zarr_format: int, by: int) -> None:
    target = tmp_path / "cube.zarr"
    cubes.packed(0, 2).to_zarr(target, zarr_format=zarr_format, consolidated=by == 2)
    zappend.append(target, [cubes.packed(2, 2), cubes.small(4, 2)])
    expected = cubes.concatenated([cubes.packed(0, 2), cubes.packed(2, 2), cubes.small(4, 2)])
    with xr.open_zarr(target, consolidated=by == 2) as cube:
        xr.testing.assert_identical(cube.load(), expected)
    # ... and xarray grows them in turn.
    more = cubes.packed(6, 2)
    more.encoding.clear()
    for variable in more.variables.values():
        variable.encoding.clear()
    with_dim = more.drop_vars([name for name, v in more.variables.items() if "time" not in v.dims])
    with_dim.to_zarr(target, append_dim="time", consolidated=by == 2)
    with xr.open_zarr(target, consolidated=by == 2) as cube:
        assert cube.sizes["time"] == 8


@formats
def test_a_cube_keeps_its_ways(tmp_path: Path, zarr_format: int) -> None:
    """Codecs, order, separator and unknown members of documents stay, and what is not consolidated stays so."""
    target = tmp_path / "cube.zarr"
    group = zarr.open_group(target, mode="w", zarr_format=zarr_format)
    if zarr_format == 2:
        ways: dict[str, Any] = {"chunk_key_encoding": {"name": "v2", "separator": "/"}, "order": "F"}
    else:
        filters = [zarr.codecs.TransposeCodec(order=(1, 0))]
        compressors = [zarr.codecs.GzipCodec(level=1), zarr.codecs.Crc32cCodec()]
        serializer = zarr.codecs.BytesCodec(endian="big")
        ways = {"filters": filters, "compressors": compressors, "serializer": serializer}
    values = np.arange(24.0).reshape(6, 4)
    dims: dict[str, Any] = {"dimension_names": ["time", "x"]} if zarr_format == 3 else {}
    array = group.create_array("a", shape=(2, 4), chunks=(2, 3), dtype="f8", fill_value=-1.0, **ways, **dims)
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = ["time", "x"]
    array[...] = values[:2]
    before = array.metadata.to_dict()
    slices = [xr.Dataset({"a": (("time", "x"), values[i : i + 2])}) for i in (2, 4)]
    zappend.append(target, slices, append_step="any")
    grown = zarr.open_group(target, mode="r")["a"]
    assert isinstance(grown, zarr.Array)
    np.testing.assert_array_equal(grown[...], values)
    assert {**grown.metadata.to_dict(), "shape": (2, 4)} == before
    assert not (target / ".zmetadata").exists()


@pytest.mark.effect("slice_size")
@formats
@pytest.mark.parametrize(("size", "sizes"), [("aligned", [2, 4, 2]), ("any", [2, 1, 3, 1, 2])])
def test_slice_sizes(tmp_path: Path, zarr_format: int, size: str, sizes: list[int]) -> None:
    starts = np.cumsum([0, *sizes])
    slices = [cubes.packed(int(start), count) for start, count in zip(starts, sizes, strict=False)]
    zappend.append(tmp_path / "cube", slices, zarr_format=zarr_format, slice_size=size)
    cubes.assert_cube(tmp_path / "cube", cubes.concatenated(slices))


@pytest.mark.attack(21)
def test_rows_beyond_the_shape_do_not_become_data(tmp_path: Path) -> None:
    """A chunk, or the rest of one, that somebody's crashed writer left beyond the shape is not taken over."""
    target = tmp_path / "cube.zarr"
    zappend.append(target, cubes.packed(0, 2), slice_size="any")
    array = zarr.open_group(target, mode="r+")["a"]
    assert isinstance(array, zarr.Array)
    array.resize((8, 3, 4))
    array[...] = 99
    array.resize((1, 3, 4))  # leaves the second row of the first chunk, which resizing deletes none of
    array.resize((2, 3, 4))
    array[1] = 7
    (target / "a" / "1.0.0").write_bytes(b"stray")
    slices = [cubes.packed(2, 1), cubes.packed(3, 1)]
    zappend.append(target, slices, slice_size="any")
    with xr.open_zarr(target) as cube:
        xr.testing.assert_equal(cube.a[2:].load().drop_vars("age"), cubes.concatenated(slices).a.drop_vars("age"))
        assert (cube.a[1] == 7).all()


def test_labels_along_the_append_dimension_lie_in_few_chunks(tmp_path: Path) -> None:
    zappend.append(tmp_path / "cube", [cubes.small(i, 1) for i in range(5)])
    for name in ("time", "age"):
        assert [path.name for path in (tmp_path / "cube" / name).iterdir() if not path.name.startswith(".")] == ["0"]
    assert len([path for path in (tmp_path / "cube" / "a").iterdir() if not path.name.startswith(".")]) == 5


@pytest.mark.effect("force_new")
@formats
def test_force_new_replaces_the_cube_and_nothing_else_counts(tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    zappend.append(target, [cubes.small(0), cubes.small(2)], zarr_format=5 - zarr_format)
    before = cubes.tree(tmp_path)
    with pytest.raises(SliceError, match="no dimension 'time'"):
        zappend.append(target, [cubes.small(0).isel(time=0)], force_new=True)
    assert cubes.tree(tmp_path) == before
    slices = [cubes.small(10, name="b"), cubes.small(12, name="b")]
    zappend.append(target, slices, force_new=True, zarr_format=zarr_format)
    zappend.append(tmp_path / "fresh.zarr", slices, zarr_format=zarr_format)
    assert cubes.tree(target) == cubes.tree(tmp_path / "fresh.zarr")


@pytest.mark.effect("if_exists")
def test_skip_passes_over_what_is_in(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    zappend.append(target, [cubes.small(0), cubes.small(2)])
    result = zappend.append(target, [cubes.small(start) for start in (0, 2, 4)], if_exists="skip")
    assert result == 1
    assert [one.skipped for one in result.slices] == [True, True, False]
    cubes.assert_cube(target, cubes.concatenated([cubes.small(start) for start in (0, 2, 4)]))
    with pytest.raises(SliceError, match=r"1 of its 2 labels is in the cube already, .*, at index 5; take"):
        zappend.append(target, cubes.small(5), if_exists="skip")


@pytest.mark.effect("if_exists")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("step", [None, 1, "+", "-"])
def test_what_is_in_is_told_by_its_index(zarr_format: int, step: Any) -> None:
    """Also where the cube has one label alone; only what is not in is said to be out of order."""
    cube: dict[str, bytes] = {}
    sign = -1 if step == "-" else 1
    for i in range(4):
        zappend.append(cube, one(1.0, sign * i), zarr_format=zarr_format, append_step=step)
        for there in range(i + 1):
            with pytest.raises(SliceError) as caught:
                zappend.append(cube, one(1.0, sign * there), append_step=step)
            assert str(caught.value) == (
                f"slice 0: its label {sign * there} is in the cube already, at index {there}; if_exists 'skip' leaves "
                f"such slices out, 'replace' writes them again"
            )
        with pytest.raises(SliceError, match=r"not (after|before).*'any' appends it out of order") as caught:
            zappend.append(cube, one(1.0, -sign), append_step=step)
        assert ("append_step '-' takes labels that descend" in str(caught.value)) == (step is None and i == 0)


def test_labels_that_are_in_cost_reading_on_refusal_alone() -> None:
    class Counted(dict[str, bytes]):
        read: list[str]

        def __getitem__(self, key: str) -> bytes:
            self.read.append(key)
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            self.read.append(key)
            return super().get(key, default)

    cube = Counted()
    cube.read = []
    zappend.append(cube, [one(1.0, i) for i in range(5)], variables={"time": {"encoding": {"chunks": [1]}}})
    cube.read = []
    zappend.append(cube, one(1.0, 5))
    assert "time/0" not in cube.read
    assert "time/4" in cube.read
    with pytest.raises(SliceError, match="its label 0 is in the cube already, at index 0"):
        zappend.append(cube, one(1.0, 0))
    assert "time/0" in cube.read


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"included_variables": ["v"]}, "slice 0: included_variables leaves out 'time', the labels; add it"),
        ({"excluded_variables": ["t*"]}, "slice 0: excluded_variables leaves out 'time', the labels; let it in"),
        ({"excluded_variables": ["*"]}, "slice 0: no variable that excluded_variables let in has the dimension 'time'"),
    ],
)
def test_labels_that_settings_leave_out(settings: dict[str, Any], message: str) -> None:
    cube: dict[str, bytes] = {}
    for _ in range(2):
        before = dict(cube)
        with pytest.raises(SliceError) as caught:
            zappend.append(cube, one(1.0, 1), **settings)
        assert str(caught.value).startswith(message)
        assert cube == before
        zappend.append(cube, one(1.0, len(cube)))


def test_the_slice_size_that_fits_is_named() -> None:
    def several(first: int, count: int) -> xr.Dataset:
        return xr.concat([one(1.0, i) for i in range(first, first + count)], "time")

    chunks = {"variables": {"v": {"encoding": {"chunks": [2]}}}}
    cube: dict[str, bytes] = {}
    zappend.append(cube, several(0, 2), **chunks)
    with pytest.raises(SliceError, match=r"has 4 labels along 'time', expected 2, .*; slice_size 'aligned' appends"):
        zappend.append(cube, several(2, 4))
    with pytest.raises(SliceError, match=r"it has 3 labels along 'time', expected 2, .*; slice_size 'any' appends it"):
        zappend.append(cube, several(2, 3))
    zappend.append(cube, several(2, 4), slice_size="aligned")
    with pytest.raises(SliceError, match=r"expected a multiple of 2, .*; slice_size 'any' appends it"):
        zappend.append(cube, several(6, 3), slice_size="aligned")


def test_an_append_dimension_that_nobody_has() -> None:
    cube: dict[str, bytes] = {}
    with pytest.raises(SliceError, match="Append dimension 'tim' not found in dataset: it has no dimension 'tim'"):
        zappend.append(cube, cubes.small(0), append_dim="tim")
    zappend.append(cube, cubes.small(0))
    before = dict(cube)
    with pytest.raises(UsageError, match=r"'tim' not found in dataset .* append_dim is 'tim'; the cube has 'time', "):
        zappend.append(cube, cubes.small(2), append_dim="tim")
    with pytest.raises(TargetError, match="has the dimension 'tim' to append along; they have 'time', "):
        zappend.append(cube, cubes.small(2).rename(time="tim"), append_dim="tim")
    assert cube == before


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_cubes_in_groups_are_named(zarr_format: int, consolidated: bool) -> None:
    store: dict[str, bytes] = {}
    for group in ("b", "a/deep"):
        zappend.append(store, cubes.small(0), group=group, zarr_format=zarr_format, consolidated=consolidated)
    before = dict(store)
    for group, message in (("", "groups: 'a', 'b'; name one with group"), ("a", "groups: 'a/deep'; name one")):
        with pytest.raises(TargetError, match=f"it has no arrays, but {message}"):
            zappend.append(store, cubes.small(2), group=group)
    assert store == before


def test_dry_run_checks_the_growing_cube_and_touches_nothing(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    result = zappend.append(target, [cubes.small(0), cubes.small(2)], dry_run=True)
    assert (int(result), result.dry_run, result.slices[1].start) == (2, True, 2)
    with pytest.raises(SliceError, match="its 2 labels are in the cube already"):
        zappend.append(target, [cubes.small(0), cubes.small(0)], dry_run=True)
    assert cubes.tree(tmp_path) == {}
    zappend.append(target, cubes.small(0))
    before = cubes.tree(tmp_path)
    zappend.append(target, [cubes.small(2), cubes.small(4)], dry_run=True)
    zappend.append(target, [cubes.small(0)], dry_run=True, force_new=True)
    assert cubes.tree(tmp_path) == before
    with zappend.transaction(target), pytest.raises(TargetError, match="a dry run can tell nothing"):
        zappend.append(target, [cubes.small(2)], dry_run=True)


@formats
def test_threads_make_no_difference(tmp_path: Path, zarr_format: int) -> None:
    slices = [cubes.small(0, x=300), cubes.small(2, x=300)]
    for threads in (1, 2, 7):
        zappend.append(tmp_path / str(threads), slices, threads=threads, zarr_format=zarr_format)
    assert cubes.tree(tmp_path / "1") == cubes.tree(tmp_path / "2") == cubes.tree(tmp_path / "7")


@pytest.mark.effect("threads")
def test_one_thread_is_the_calling_thread(tmp_path: Path) -> None:
    seen: set[str] = set()
    before = set(threading.enumerate())

    def look() -> None:
        seen.add(threading.current_thread().name)
        assert set(threading.enumerate()) <= before

    faults = Faults(1, look, lasting=True)
    target = LocalStorage(tmp_path / "cube", files=FaultyFiles(faults))
    zappend.append(target, [cubes.small(0), cubes.small(2)], threads=1)
    assert faults.fired
    assert seen == {threading.current_thread().name}


@formats
def test_large_slices_are_read_in_parts(tmp_path: Path, zarr_format: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zappend.jobs.BYTES_PER_READ", 1000)
    monkeypatch.setattr("zappend.chunking.BEST_CHUNK", 500)
    datasets = [
        xr.Dataset(
            {"a": (("y", "time", "x"), np.random.default_rng(i).random((30, 3, 7)))}, {"time": [i, i + 1, i + 2]}
        )
        for i in (0, 3)
    ]
    zappend.append(tmp_path / "cube", cubes.write_netcdf(tmp_path, datasets), zarr_format=zarr_format)
    cubes.assert_cube(tmp_path / "cube", cubes.concatenated(datasets))


# Times.

UNITS = ["days", "hours", "minutes", "seconds", "milliseconds", "microseconds"]


@settings(max_examples=30)
@given(
    unit=st.sampled_from(UNITS),
    epoch=st.sampled_from(["1970-01-01", "1900-01-01 12:00:00", "0001-01-01", "2024-02-29T06:30:00", "1583-01-01"]),
    dtype=st.sampled_from(["i8", "f8", "i4"]),
    start=st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),
    step=st.timedeltas(timedelta(microseconds=1), timedelta(500)),
    resolution=st.sampled_from(["ns", "us"]),
)
def test_times_are_stored_exactly_or_refused(
    unit: str, epoch: str, dtype: str, start: Any, step: Any, resolution: str
) -> None:
    first = xr.Dataset({"time": ("time", [np.datetime64("1985-01-01", "ns")])})
    first.time.encoding = {"units": f"{unit} since {epoch}", "dtype": dtype, "calendar": "proleptic_gregorian"}
    target: dict[str, bytes] = {}
    zappend.append(target, first)
    times = np.array([start, start + step], f"M8[{resolution}]")
    before = dict(target)
    try:
        zappend.append(target, xr.Dataset({"time": ("time", times)}))
    except SliceError:
        assert target == before
        if unit == "microseconds" and dtype == "i8" and epoch >= "17":
            raise
        return
    cube = cubes.open_mapping(target)
    np.testing.assert_array_equal(cube.time.values[1:].astype("M8[us]"), times.astype("M8[us]"))


@formats
def test_other_calendars(tmp_path: Path, zarr_format: int) -> None:
    def month(i: int) -> xr.Dataset:
        return xr.Dataset({"a": ("time", [float(i)])}, {"time": [cftime.Datetime360Day(2024, i, 30)]})

    zappend.append(tmp_path / "cube", [month(1), month(2)], zarr_format=zarr_format, append_step="30D")
    cubes.assert_cube(tmp_path / "cube", cubes.concatenated([month(1), month(2)]))
    gregorian = xr.Dataset({"a": ("time", [3.0])}, {"time": cubes.days(90, 1)})
    with pytest.raises(SliceError, match="calendar"):
        zappend.append(tmp_path / "cube", gregorian)


@formats
def test_durations(tmp_path: Path, zarr_format: int) -> None:
    def lead(hours: float) -> xr.Dataset:
        label = np.timedelta64(int(hours * 60), "m").astype("m8[ns]")
        return xr.Dataset({"a": ("lead", [float(hours)])}, {"lead": [label]})

    slices = [lead(6), lead(12), lead(18.5)]
    zappend.append(tmp_path / "cube", slices, append_dim="lead", zarr_format=zarr_format)
    cubes.assert_cube(tmp_path / "cube", cubes.concatenated(slices, "lead"))


@pytest.mark.effect("append_dim", "append_step")
@pytest.mark.parametrize(
    ("first", "second", "step", "fits"),
    [
        (1, 2, None, True),
        (2, 1, None, False),
        (2, 1, "-", True),
        (1, 2, "-", False),
        (1, 1, "+", False),
        (1.0, 1.5, 0.5, True),
        (1.0, 1.6, "0.5", False),
        (2.0, 1.5, -0.5, True),
        ("2024-01-31", "2024-02-01", "1D", True),
        ("2024-01-31", "2024-02-02", "1D", False),
        ("2024-01-31", "2024-01-30T12", "-12h", True),
        (1, 1, "any", True),
        ("a", "b", None, True),
        ("b", "a", None, False),
    ],
)
def test_labels_must_follow(first: Any, second: Any, step: Any, fits: bool) -> None:
    def one(label: Any) -> xr.Dataset:
        if isinstance(label, str) and label[0] == "2":
            label = np.datetime64(label, "ns")
        return xr.Dataset({"a": ("t", [1.0])}, {"t": [label]})

    target: dict[str, bytes] = {}
    zappend.append(target, one(first), append_dim="t", append_step=step)
    before = dict(target)
    if fits:
        zappend.append(target, one(second), append_dim="t", append_step=step)
        assert cubes.open_mapping(target).t.values.tolist() == [
            one(first).t.values[0].tolist(),
            one(second).t.values[0].tolist(),
        ]
    else:
        with pytest.raises(SliceError, match=r"label|step"):
            zappend.append(target, one(second), append_dim="t", append_step=step)
        assert target == before


def test_the_direction_is_that_of_the_last_two_labels() -> None:
    def one(*labels: int) -> xr.Dataset:
        return xr.Dataset({"a": ("t", [1.0] * len(labels))}, {"t": list(labels)})

    target: dict[str, bytes] = {}
    zappend.append(target, [one(5), one(4)], append_dim="t", append_step="-")
    zappend.append(target, one(3), append_dim="t")
    with pytest.raises(SliceError, match="descend"):
        zappend.append(target, one(9), append_dim="t")


# Values.


@pytest.mark.parametrize(
    ("encoding", "value", "why"),
    [
        ({"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}, 1e6, "outside of what int16 holds"),
        ({"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}, -0.01, "marks as missing"),
        ({"dtype": "i2", "scale_factor": 0.01}, np.nan, "without a fill value"),
        ({"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}, np.inf, "outside of what int16 holds"),
        ({"dtype": "f4"}, 1e300, "too large for float32"),
        ({"dtype": "i4"}, 1.5, "not a whole number"),
        ({"dtype": "f8", "_FillValue": 1e20}, 1e20, "marks as missing"),
        ({"dtype": "i2", "missing_value": 7, "scale_factor": 1.0}, 7.0, "missing_value marks"),
    ],
)
@formats
def test_values_that_would_not_read_back_are_refused(
    tmp_path: Path, zarr_format: int, encoding: dict[str, Any], value: float, why: str
) -> None:
    def one(label: int, number: float) -> xr.Dataset:
        dataset = xr.Dataset({"a": (("time", "x"), np.array([[3.0, number]]))}, {"time": [label]})
        dataset.a.encoding = dict(encoding)
        return dataset

    target = tmp_path / "cube"
    zappend.append(target, one(0, 2.0), zarr_format=zarr_format)
    before = cubes.tree(tmp_path)
    with pytest.raises(SliceError, match=rf"variable 'a'.*at index \[0, 1\].*{why}"):
        zappend.append(target, one(1, value))
    assert cubes.tree(tmp_path) == before


def test_integers_that_overflow_are_refused() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, xr.Dataset({"a": ("time", np.array([1], "i2"))}, {"time": [0]}))
    with pytest.raises(SliceError, match="outside of what int16 holds"):
        zappend.append(target, xr.Dataset({"a": ("time", np.array([100000]))}, {"time": [1]}))
    zappend.append(target, xr.Dataset({"a": ("time", np.array([-32768]))}, {"time": [1]}))
    assert cubes.open_mapping(target).a.values.tolist() == [1, -32768]


def test_strings_longer_than_the_cube_holds_are_refused(tmp_path: Path) -> None:
    xr.Dataset({"a": ("time", np.array(["ab"]))}, {"time": [0]}).to_zarr(tmp_path / "cube", zarr_format=2)
    with pytest.raises(SliceError, match="longer than"):
        zappend.append(tmp_path / "cube", xr.Dataset({"a": ("time", np.array(["abcd"]))}, {"time": [1]}))


@settings(max_examples=25)
@given(
    dtype=st.sampled_from(["bool", "i1", "u2", "i8", "f2", "f4", "f8", "c8", "O"]),
    zarr_format=st.sampled_from([2, 3]),
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    axis=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
def test_any_slices_of_any_type(
    dtype: str, zarr_format: int, counts: list[int], shape: tuple[int, int], axis: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    dims = ["y", "x"]
    dims.insert(axis, "time")
    slices = []
    for label, count in zip(np.cumsum([0, *counts]), counts, strict=False):
        sizes = [*shape]
        sizes.insert(axis, count)
        numbers = rng.integers(0, 100, sizes)
        values = numbers.astype(str).astype(object) if dtype == "O" else (numbers * 1.1).astype(dtype)
        slices.append(xr.Dataset({"a": (dims, values)}, {"time": np.arange(label, label + count)}))
    target: dict[str, bytes] = {}
    zappend.append(target, slices, zarr_format=zarr_format, slice_size="any")
    cube = cubes.open_mapping(target)
    xr.testing.assert_identical(cube, cubes.concatenated(slices))
    assert cube.a.dtype == slices[0].a.dtype or (dtype == "O" and cube.a.dtype.kind in "OT")


# What once went wrong.


def one(value: Any, label: int, encoding: dict[str, Any] | None = None, **attrs: Any) -> xr.Dataset:
    dataset = xr.Dataset({"v": ("time", np.atleast_1d(value), attrs)}, {"time": [label]})
    dataset.v.encoding = encoding or {}
    return dataset


def raw_time(day: int, calendar: str) -> xr.Dataset:
    attrs = {"units": "days since 0001-01-01", "calendar": calendar}
    return xr.Dataset({"v": ("time", [1.0])}, {"time": ("time", [day], attrs)})


def test_standard_and_proleptic_dates_before_the_reform_are_not_the_same() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, raw_time(738000, "proleptic_gregorian"))
    with pytest.raises(SliceError, match="2021-07-29T00:00:00 is not after"):
        zappend.append(target, raw_time(738001, "standard"))
    zappend.append(target, raw_time(738003, "standard"))
    assert cubes.open_mapping(target).time.values.astype("M8[D]").astype(str).tolist() == ["2021-07-30", "2021-07-31"]


@pytest.mark.parametrize(
    ("values", "attrs"),
    [
        ((1.1e6, 1.1e6 + 1), {"units": "hours since 1900-01-01"}),
        ((500000.0, 500000.4), {"units": "m"}),
        ((0, 0), {"grid_mapping_name": "x", "epsg": [4326, 4327]}),
    ],
)
def test_constants_that_are_nearly_the_same_are_not(values: tuple[float, float], attrs: dict[str, Any]) -> None:
    def make(i: int) -> xr.Dataset:
        mine = {key: value[i] if isinstance(value, list) else value for key, value in attrs.items()}
        return one(1.0, i, grid_mapping="frt").assign(frt=((), values[i], mine))

    target: dict[str, bytes] = {}
    zappend.append(target, make(0))
    with pytest.raises(SliceError, match="variable 'frt'"):
        zappend.append(target, make(1))


def test_coordinates_may_differ_by_rounding() -> None:
    target: dict[str, bytes] = {}
    x = np.linspace(0.1, 9.9, 50)
    zappend.append(target, one(1.0, 0).assign_coords(x=x))
    zappend.append(target, one(1.0, 1).assign_coords(x=x.astype("f4")))


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (one(np.int16(1), 0, {"missing_value": np.int16(-999)}), one(np.int16(-999), 1), "missing_value"),
        (one(np.float32(1), 0, {"missing_value": [7.0, 8.0]}), one(np.float32(8), 1), "missing_value"),
        (one(1.0, 0), one(2**53 + 1, 1), "not exact in float64"),
        (one(1.0, 0), one(np.uint64(2**64 - 1), 1), "not exact in float64"),
        (one(1, 0, {"dtype": "i8", "scale_factor": 1.0}), one(2**53 + 1, 1), "not exact in float64"),
        (one("a", 0), one(np.array(["\ud800"], object), 1), "cannot be encoded"),
    ],
)
def test_values_that_slipped_through(first: xr.Dataset, second: xr.Dataset, why: str) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, first)
    before = dict(target)
    with pytest.raises(SliceError, match=why):
        zappend.append(target, second)
    assert target == before


def test_false_where_false_is_the_fill_value(tmp_path: Path) -> None:
    array = zarr.open_group(tmp_path / "cube", mode="w", zarr_format=2).create_array(
        "v", shape=(1,), chunks=(1,), dtype=bool, fill_value=False
    )
    array.attrs["_ARRAY_DIMENSIONS"] = ["time"]
    with pytest.raises(SliceError, match="marks as missing"):
        zappend.append(tmp_path / "cube", xr.Dataset({"v": ("time", [False])}), append_step="any")


def test_decoded_times_with_undecoded_bounds_are_refused() -> None:
    dataset = xr.Dataset(
        {"time_bnds": (("time", "nv"), [[0, 24]])}, {"time": ("time", cubes.days(0, 1), {"bounds": "time_bnds"})}
    )
    with pytest.raises(SliceError, match="decode both or none"):
        zappend.append({}, dataset)


@formats
@pytest.mark.parametrize("change", ["attribute", "gone", "unlisted"])
def test_stale_consolidated_metadata_is_refused(tmp_path: Path, zarr_format: int, change: str) -> None:
    target = tmp_path / "cube"
    zappend.append(target, cubes.small(0), zarr_format=zarr_format)
    if change == "attribute":
        zarr.open_group(target, mode="r+", use_consolidated=False)["a"].attrs["scale_factor"] = 0.1
    elif change == "gone":
        shutil.rmtree(target / "a")
    else:
        shutil.copytree(target / "a", target / "b")
    before = cubes.tree(tmp_path)
    with pytest.raises(TargetError, match=r"consolidated metadata.*zarr\.consolidate_metadata"):
        zappend.append(target, cubes.small(2))
    assert cubes.tree(tmp_path) == before


def test_force_new_replaces_cubes_only(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(TargetError, match=r"no Zarr group.*thesis\.tex"):
        zappend.append(tmp_path, cubes.small(0), force_new=True)
    assert cubes.tree(tmp_path) == {"thesis.tex": b"years of work"}


@formats
@pytest.mark.parametrize("value", ["abc", b"abc", cftime.Datetime360Day(2024, 2, 30), np.float32(1), True])
def test_scalars_of_every_kind(tmp_path: Path, zarr_format: int, value: Any) -> None:
    slices = [one(1.0, i).assign(name=((), value)) for i in range(2)]
    zappend.append(tmp_path / "cube", slices, zarr_format=zarr_format)
    cubes.assert_cube(tmp_path / "cube", cubes.concatenated(slices))


@formats
def test_strings_with_a_fill_value(tmp_path: Path, zarr_format: int) -> None:
    """A string that a slice marks as missing is refused, since it could not be told from one that is there."""
    for label, text in ((0, "abc"), (1, "")):
        group = zarr.open_group(tmp_path / f"{label}.zarr", mode="w", zarr_format=2)
        for name, values in (("v", np.array([text], object)), ("time", np.array([label + 1]))):
            array = group.create_array(
                name, shape=(1,), dtype=str if name == "v" else "i8", fill_value="" if name == "v" else None
            )
            array[...] = values
            array.attrs["_ARRAY_DIMENSIONS"] = ["time"]
    zappend.append(tmp_path / "cube", tmp_path / "0.zarr", zarr_format=zarr_format)
    with xr.open_zarr(tmp_path / "cube", chunks=None) as cube:
        assert cube.v.values.tolist() == ["abc"]
    with pytest.raises(SliceError, match="variable 'v'"):
        zappend.append(tmp_path / "cube", tmp_path / "1.zarr")


@formats
@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [
        ({"_FillValue": np.nan}, "i4"),
        ({"_FillValue": -1}, "u1"),
        ({"_FillValue": 255}, "i1"),
        ({"missing_value": [7, 8]}, "i2"),
        ({"_FillValue": [9]}, "i2"),
    ],
)
@pytest.mark.filterwarnings("ignore:variable 'v' has multiple fill values")
def test_odd_fill_values(zarr_format: int, encoding: dict[str, Any], dtype: str) -> None:
    target: dict[str, bytes] = {}
    slices = [one(np.array([i + 1], dtype), i, dict(encoding)) for i in range(2)]
    zappend.append(target, slices, zarr_format=zarr_format)
    np.testing.assert_array_equal(cubes.open_mapping(target).v, [1, 2])


@pytest.mark.parametrize("name", ["x" * 300, "a\\b", "a\0b", ".zattrs", "a/b", ""])
def test_names_that_no_array_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(SliceError, match="cannot be the name of an array"):
        zappend.append(tmp_path / "cube", xr.Dataset({name: ("time", [1.0])}, {"time": [0]}))
    assert cubes.tree(tmp_path) == {}


def test_numbers_that_zarr_does_not_have() -> None:
    with pytest.raises(SliceError, match="cannot be stored"):
        zappend.append({}, one(np.longdouble(1), 0))


def test_related_variables_that_xarray_keeps_in_the_encoding(tmp_path: Path) -> None:
    dataset = cubes.packed(0)
    dataset.a.encoding["grid_mapping"] = "crs"
    zappend.append(tmp_path / "cube", dataset)
    with xr.open_zarr(tmp_path / "cube", chunks=None) as cube:
        assert cube.a.attrs["grid_mapping"] == "crs"


def test_months_have_no_fixed_length() -> None:
    def month(i: int) -> xr.Dataset:
        attrs = {"units": "months since 2000-01-01", "calendar": "360_day"}
        return xr.Dataset({"v": ("time", [1.0])}, {"time": ("time", [i], attrs)})

    target: dict[str, bytes] = {}
    zappend.append(target, [month(1), month(2)])
    with pytest.raises(SliceError, match="'months' has no fixed length"):
        zappend.append(target, month(3), append_step="30D")


def test_a_step_between_float_labels_may_be_rounded() -> None:
    def hour(i: int) -> xr.Dataset:
        return xr.Dataset({"v": ("time", [1.0])}, {"time": ("time", [i / 24], {"units": "days since 2000-01-01"})})

    target: dict[str, bytes] = {}
    zappend.append(target, [hour(i) for i in range(30)], append_step="1h")
    with pytest.raises(SliceError, match="is 2h, not 1h: 1 label is missing"):
        zappend.append(target, hour(31), append_step="1h")


def test_equal_last_labels_give_no_direction() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, [one(1.0, 0), one(1.0, 0)], append_step="any")
    with pytest.raises(SliceError, match="not after"):
        zappend.append(target, one(1.0, -1))
    zappend.append(target, one(1.0, 1))


@pytest.mark.parametrize("step", ["NaT", "", "--1D", "0", "0D", "soon", "nan"])
def test_steps_that_are_none(step: str) -> None:
    with pytest.raises(UsageError, match="append_step must be"):
        zappend.append({}, one(1.0, 0), append_step=step)


def test_unsigned_labels_are_compared_as_such() -> None:
    def label(i: int) -> xr.Dataset:
        return xr.Dataset({"v": ("t", [1.0])}, {"t": ("t", np.array([i], "i1"), {"_Unsigned": "true"})})

    target: dict[str, bytes] = {}
    zappend.append(target, [label(127), label(-128)], append_dim="t")
    assert cubes.open_mapping(target).t.values.tolist() == [127, 128]


def test_a_dry_run_compares_large_constants(tmp_path: Path) -> None:
    lat = np.random.default_rng(0).random((600, 600))
    slices = [one(1.0, i).assign_coords(lat=(("y", "x"), lat)) for i in range(2)]
    assert zappend.append(tmp_path / "cube", slices, dry_run=True) == 2


@pytest.mark.parametrize("config", [5, [5]])
def test_configurations_that_are_none(config: Any) -> None:
    with pytest.raises(UsageError, match="must be a file or a mapping"):
        zappend.append({}, one(1.0, 0), config)


def test_a_lazy_variable_that_cannot_be_computed() -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        raise RuntimeError("no such sensor")

    broken = one(1.0, 0).chunk().map_blocks(lambda d: d)
    broken["v"] = xr.apply_ufunc(fail, broken.v, dask="parallelized", output_dtypes=["f8"])
    with pytest.raises(SliceError, match="variable 'v' cannot be read: no such sensor"):
        zappend.append({}, broken)
