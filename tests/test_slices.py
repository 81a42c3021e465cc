"""What a slice itself must be: sound, and whole; and that zappend waits for one that is not yet."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cubes
import numpy as np
import pytest
import xarray as xr
import zarr
from commands import run, run_process

import zappend
from zappend.completeness import completeness
from zappend.config import load_settings
from zappend.errors import SliceError, UsageError
from zappend.folders import LocalFolder
from zappend.polling import NotYet, wait_for
from zappend.settings import Polling
from zappend.testing import SteppingClock

FORMATS = [2, 3]

# A slice's own faults.


def naming(name: str, key: str, value: str) -> Callable[[xr.Dataset], xr.Dataset]:
    """Return a change of a dataset: the attribute `key` of the variable `name` is `value`."""

    def change(dataset: xr.Dataset) -> xr.Dataset:
        dataset[name].attrs[key] = value
        return dataset

    return change


OWN_FAULTS: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "no append dimension": (
        lambda d: d.isel(time=0).drop_vars("time_bnds").drop_attrs(),
        "it has no dimension 'time' to append along; it has 'y', 'x'",
    ),
    "a label that is NaT": (
        lambda d: d.assign_coords(time=d.time.where([True, False, False])),
        "variable 'time': label 1 (and 1 more) is missing",
    ),
    "a label that is NaN": (
        lambda d: d.drop_vars("time_bnds").assign_coords(time=[0.5, np.nan, 2.5]),
        "variable 'time': label 1 is missing",
    ),
    "unsorted labels": (
        lambda d: d.isel(time=[0, 2, 1]),
        "variable 'time': labels are not sorted: 2024-01-02T00:00:00 follows 2024-01-03T00:00:00 at index [2]",
    ),
    "repeated labels": (
        lambda d: d.isel(time=[0, 1, 1]),
        "variable 'time': label 2024-01-02T00:00:00 is repeated, at index [1] and [2]",
    ),
    "labels of another calendar": (
        lambda d: (
            d.drop_vars("time_bnds")
            .assign_coords(time=xr.date_range("2024-02-28", periods=3, calendar="360_day", use_cftime=True))
            .isel(time=[1, 0, 2])
        ),
        "2024-02-28 00:00:00 follows 2024-02-29 00:00:00 at index [1]",
    ),
    "labels that are strings": (
        lambda d: d.drop_vars("time_bnds").assign_coords(time=["b", "a", "b"]),
        "label b is repeated, at index [0] and [2], and labels are not sorted: b follows a at index [2]",
    ),
    "labels without an order": (
        lambda d: d.drop_vars("time_bnds").assign_coords(time=np.array([1, "a", 2], object)),
        "variable 'time': its labels have no order",
    ),
    "no bounds": (
        lambda d: d.drop_vars("time_bnds"),
        "variable 'time_bnds' is missing, which the attribute bounds of 'time' names; add what is missing",
    ),
    "no climatology": (
        naming("time", "climatology", "c_bnds"),
        "'c_bnds' is missing, which the attribute climatology of 'time' names",
    ),
    "no grid mapping": (
        naming("a", "grid_mapping", "utm"),
        "'utm' is missing, which the attribute grid_mapping of 'a' names",
    ),
    "no coordinate of a grid mapping": (
        naming("a", "grid_mapping", "crs: x lon"),
        "variable 'lon' is missing, which the attribute grid_mapping of 'a' names",
    ),
    "no second grid mapping": (
        naming("a", "grid_mapping", "crs: x y utm: age"),
        "variable 'utm' is missing, which the attribute grid_mapping of 'a' names",
    ),
    "no coordinate": (
        naming("a", "coordinates", "area lon"),
        "variable 'lon' is missing, which the attribute coordinates of 'a' names",
    ),
}


@pytest.fixture(params=["dataset", "NetCDF", "Zarr 2", "Zarr 3"])
def as_slice(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[xr.Dataset], Any]:
    """Make a slice of a dataset: itself, or a file or folder in each format."""

    def make(dataset: xr.Dataset) -> Any:
        if request.param == "dataset":
            return dataset
        if request.param == "NetCDF":
            return cubes.write_netcdf(tmp_path, [dataset])[0]
        for one in ("time", "time_bnds"):
            if one in dataset and dataset[one].dtype.kind == "M":
                dataset[one].encoding["units"] = "hours since 2024-01-01"
        dataset.to_zarr(tmp_path / "slice.zarr", zarr_format=int(request.param[-1]))
        return tmp_path / "slice.zarr"

    return make


@pytest.mark.parametrize("fault", [fault for fault in OWN_FAULTS if fault != "labels without an order"])
def test_a_slice_with_a_fault_of_its_own_makes_no_cube(as_slice: Callable[[xr.Dataset], Any], fault: str) -> None:
    change, message = OWN_FAULTS[fault]
    target: dict[str, bytes] = {}
    with pytest.raises(SliceError) as caught:
        zappend.append(target, as_slice(change(cubes.small(0, 3))))
    assert message in str(caught.value)
    assert target == {}


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("fault", ["labels without an order", "no append dimension", "unsorted labels"])
def test_a_slice_with_a_fault_of_its_own_is_refused_before_it_is_compared(fault: str, zarr_format: int) -> None:
    change, message = OWN_FAULTS[fault]
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0, 3), zarr_format=zarr_format)
    before = dict(target)
    with pytest.raises(SliceError) as caught:
        zappend.append(target, change(cubes.small(0, 3)).drop_vars("packed"))
    assert message in str(caught.value)
    assert "'packed'" not in str(caught.value)
    assert target == before


def test_one_report_names_all_own_faults() -> None:
    dataset = cubes.small(0, 3).isel(time=[2, 0, 2])
    for name in ("a", "packed", "counts", "ok", "area"):
        dataset[name].attrs["coordinates"] = "lon lat"
    with pytest.raises(SliceError) as caught:
        zappend.append({}, dataset)
    assert str(caught.value) == (
        "slice 0: variable 'time': label 2024-01-03T00:00:00 is repeated, at index [0] and [2], and labels are not "
        "sorted: 2024-01-03T00:00:00 follows 2024-01-01T00:00:00 at index [2]; mend them, or append_step 'any' takes "
        "labels as they are; "
        "variable 'lon' is missing, which the attribute coordinates of 'a', 'packed', 'counts' and 2 more names; "
        "variable 'lat' is missing, which the attribute coordinates of 'a', 'packed', 'counts' and 2 more names; "
        "add what is missing, or take its name out (xarray may keep such attributes in .encoding)"
    )


@pytest.mark.parametrize(
    ("values", "attrs", "message"),
    [
        ([1, 2, -9], {"_FillValue": np.int8(-9)}, "label 2 is missing"),
        ([-9, 1, 2], {"missing_value": np.int8(-9)}, "label 0 is missing"),
        ([3, -128, 127], {"_Unsigned": "true"}, "labels are not sorted: 127 follows 128 at index [2]"),
    ],
)
def test_labels_are_judged_by_what_their_numbers_mean(values: list[int], attrs: Any, message: str) -> None:
    dataset = xr.Dataset({"a": ("time", np.ones(3))}, {"time": ("time", np.array(values, "i1"), attrs)})
    with pytest.raises(SliceError, match=re.escape(f"slice 0: variable 'time': {message}")):
        zappend.append({}, dataset)


def test_unsigned_labels_are_in_the_order_of_what_they_mean() -> None:
    target: dict[str, bytes] = {}
    for values in ([126, 127], [-128, -1]):
        labels = ("time", np.array(values, "i1"), {"_Unsigned": "true", "units": "days since 2024-01-01"})
        zappend.append(target, xr.Dataset({"a": ("time", np.ones(2))}, {"time": labels}), append_step="+")
    days = np.array([126, 127, 128, 255], "m8[D]")
    np.testing.assert_array_equal(cubes.open_mapping(target).time.values, np.datetime64("2024-01-01", "ns") + days)


def test_labels_that_descend_are_sorted() -> None:
    target: dict[str, bytes] = {}
    for values in ([9.0, 7.0], [5.0, 4.0]):
        zappend.append(target, xr.Dataset({"a": ("z", values)}, {"z": values}), append_dim="z", append_step="-")
    np.testing.assert_array_equal(cubes.open_mapping(target).z, [9, 7, 5, 4])


def test_any_step_takes_labels_as_they_are() -> None:
    target: dict[str, bytes] = {}
    days = cubes.small(0, 3).drop_vars("time_bnds")
    del days.time.attrs["bounds"]
    days["time"] = days.time.where([True, False, True])
    slices = [days, days.isel(time=[2, 0, 2])]
    zappend.append(target, slices, append_step="any")
    times = cubes.open_mapping(target).time.values
    np.testing.assert_array_equal(times, np.concatenate([one.time.values for one in slices]))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("a", "grid_mapping", "crs"),
        ("a", "grid_mapping", "crs: x y"),
        ("a", "coordinates", "crs age"),
        ("a", "coordinates", ""),
        ("a", "cell_measures", "area: areacella"),
        ("a", "ancillary_variables", "a_error"),
        ("a", "formula_terms", "ps: ps"),
    ],
)
def test_references_that_are_no_fault(as_slice: Callable[[xr.Dataset], Any], name: str, key: str, value: str) -> None:
    assert zappend.append({}, as_slice(naming(name, key, value)(cubes.small(0)))) == 1


def test_what_xarray_keeps_of_a_file_is_a_reference_too() -> None:
    dataset = cubes.small(0)
    dataset.a.encoding["coordinates"] = "area lon"
    with pytest.raises(SliceError, match="'lon' is missing, which the attribute coordinates of 'a' names"):
        zappend.append({}, dataset)
    dataset.a.attrs["coordinates"] = "area"
    with pytest.raises(SliceError, match="'coordinates' found in both attrs and encoding for variable 'a'"):
        zappend.append({}, dataset)


def test_a_cube_whose_own_attributes_name_what_is_missing_still_grows(tmp_path: Path) -> None:
    slices = [naming("a", "grid_mapping", "utm")(cubes.small(start)) for start in (0, 2)]
    slices[0].to_zarr(tmp_path / "cube", zarr_format=2)
    assert zappend.append(tmp_path / "cube", slices[1], slice_size="any") == 1


# Complete slices.

STORED: dict[str, dict[str, Any]] = {
    "2 dots": {"zarr_format": 2},
    "2 slashes": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "3": {"zarr_format": 3},
    "3 dots": {"zarr_format": 3, "chunk_key_encoding": {"name": "default", "separator": "."}},
    "3 keyed like 2": {"zarr_format": 3, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "3 shards": {"zarr_format": 3, "shards": (2, 6, 4)},
}


def write_slice(folder: Path, kind: str = "2 dots", *, start: int = 0, consolidated: bool = True) -> Path:
    """Write a slice of 1 · 2 · 3 chunks, one label a chunk, none of them empty."""
    options = dict(STORED[kind])
    zarr_format = options.pop("zarr_format")
    path = folder / f"slice-{start}.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)

    def add(name: str, dims: tuple[str, ...], values: Any, chunks: tuple[int, ...], **attrs: Any) -> None:
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            shards=options.get("shards") if len(dims) == 3 else None,
            chunk_key_encoding=options.get("chunk_key_encoding"),
            dimension_names=dims if zarr_format == 3 else None,
            attributes=attrs | ({} if zarr_format == 3 else {"_ARRAY_DIMENSIONS": dims}),
            fill_value=0,
        )
        with zarr.config.set({"array.write_empty_chunks": True}):
            array[...] = values

    rng = np.random.default_rng(start)
    add("sst", ("time", "y", "x"), rng.random((2, 6, 12)).astype("f4") + 1, (2, 3, 4))
    add("time", ("time",), np.arange(start, start + 2) + 1, (2,), units="days since 2024-01-01")
    add("crs", (), np.array(1, "i4"), ())
    add("empty", ("none",), np.empty(0, "f4"), (1,))
    if consolidated:
        zarr.consolidate_metadata(path)
    return path


def chunk_files(path: Path, name: str = "sst") -> list[Path]:
    """Return the files of the chunks of an array."""
    return sorted(
        p for p in (path / name).rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != "zarr.json"
    )


@contextmanager
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect what is logged as a warning."""
    caplog.clear()
    found: list[str] = []
    yield found
    found += [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("kind", STORED)
def test_missing_chunks_are_counted(
    tmp_path: Path, kind: str, consolidated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_slice(tmp_path, kind, consolidated=consolidated)
    files = chunk_files(path)
    assert len(files) == (3 if kind == "3 shards" else 6)
    with warned(caplog) as warnings:
        assert zappend.append({}, path) == 1
        assert zappend.append({}, path, slice_missing_chunks="refuse", slice_polling=PATIENT) == 1
    assert warnings == []
    # What only looks like a chunk of the array is none: beyond the grid, a file that is being written, another name.
    for name in ("9.9.9", "0.0.00", "0.0", "0.0.0.partial", "c.9.9.9"):
        (path / "sst" / name).write_bytes(b"stray")
    files[1].unlink()
    os.remove(chunk_files(path, "crs")[0])
    counted = f"1 of 1 chunks of 'crs' are missing, 1 of {len(files)} chunks of 'sst' are missing"
    with warned(caplog) as warnings:
        target: dict[str, bytes] = {}
        assert zappend.append(target, path) == 1
    assert warnings == [
        f"slice {path}: {counted}, and taken for fill values; slice_missing_chunks 'fill' says that this is meant, "
        f"'refuse' that it is not"
    ]
    with xr.open_zarr(path, consolidated=consolidated, chunks=None) as expected:
        np.testing.assert_array_equal(cubes.open_mapping(target).sst, expected.sst)
        shapes = {str(name): variable.shape for name, variable in expected.variables.items()}
    with pytest.raises(SliceError) as caught:
        zappend.append({}, path, slice_missing_chunks="refuse")
    assert counted in str(caught.value)
    assert "slice_missing_chunks 'fill' takes it" in str(caught.value)
    with warned(caplog) as warnings:
        assert zappend.append({}, path, slice_missing_chunks="fill") == 1
    assert warnings == []
    shutil.rmtree(path / "sst" / "c", ignore_errors=True)
    for file in chunk_files(path):
        file.unlink()
    assert completeness(LocalFolder(str(path)), int(kind[0]), shapes).missing["sst"] == (len(files), len(files))


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_stale_consolidated_metadata_of_a_slice(tmp_path: Path, zarr_format: int) -> None:
    """Who opens the slice by it would see the half of the labels, and nothing would tell of the other half."""
    path = tmp_path / "slice.zarr"
    cubes.small(0, 2).drop_encoding().to_zarr(path, zarr_format=zarr_format, consolidated=True)
    document = ".zmetadata" if zarr_format == 2 else "zarr.json"
    consolidated = (path / document).read_bytes()
    more = cubes.small(2, 2)
    more.drop_vars([name for name, v in more.variables.items() if "time" not in v.dims]).to_zarr(
        path, append_dim="time"
    )
    (path / document).write_bytes(consolidated)
    target: dict[str, bytes] = {}
    with pytest.raises(SliceError, match=r"its consolidated metadata is stale: '\w+' has the shape \(4,.*\), and \(2,"):
        zappend.append(target, path)
    assert target == {}
    zarr.consolidate_metadata(path)
    zappend.append(target, path)
    assert cubes.open_mapping(target).sizes["time"] == 4


@contextmanager
def on_waiting(act: Callable[[int], None]) -> Iterator[list[str]]:
    """Call `act` with 0, 1, … each time zappend has looked and begins to wait; collect what it says it waits for."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.INFO and "looking again in" in record.getMessage():
                said.append(record.getMessage())
                act(len(said) - 1)

    logger, handler = logging.getLogger("zappend"), Handler()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


PATIENT = {"interval": 0, "timeout": 60}


@pytest.mark.parametrize("kind", ["NetCDF", "2 dots", "3", "3 shards"])
def test_a_slice_that_appears_later_and_is_whole_later_still(tmp_path: Path, kind: str) -> None:
    """Nothing there, a folder or half a file, metadata without chunks, all but one chunk, everything.

    Then it is looked at once more, whether it has changed.
    """
    done = tmp_path / "done"
    done.mkdir()
    if kind == "NetCDF":
        [source] = cubes.write_netcdf(done, [cubes.small(0)])
        path, data = tmp_path / "slice.nc", source.read_bytes()
        steps: list[Callable[[], Any]] = [
            lambda: path.write_bytes(b""),
            lambda: None,
            lambda: path.write_bytes(data[:5]),
            lambda: path.write_bytes(data[: len(data) // 2]),
            lambda: None,
            lambda: path.write_bytes(data),
            lambda: None,
        ]
        half = len(data) // 2
        expected = [
            "no such file",
            "s ago, so it may still be being written",
            "the file is empty",
            "it has changed from 0 to 5 bytes since the last look",
            f"it has changed from 5 to {half} bytes",
            "no dataset",
            f"it has changed from {half} to {len(data)} bytes",
        ]
    else:
        source, path = write_slice(done, kind), tmp_path / "slice.zarr"
        chunks = {p.relative_to(source) for name in ("sst", "time", "crs") for p in chunk_files(source, name)}
        documents = [p.relative_to(source) for p in source.rglob("*") if p.is_file()]
        root = Path(".zgroup" if kind == "2 dots" else "zarr.json")

        def copy(files: Any) -> None:
            for file in files:
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file, path / file)

        def tear() -> None:
            (path / root).write_text('{"zarr_for')

        last = next(file for file in sorted(chunks) if file.parts[0] == "sst")
        steps = [
            path.mkdir,
            tear,
            lambda: copy(file for file in documents if file not in chunks),
            lambda: copy(chunks - {last}),
            lambda: copy([last]),
            lambda: None,
        ]
        total = 3 if kind == "3 shards" else 6
        expected = [
            "no such file or folder",
            "it is a folder, but no Zarr group",
            "",
            f"1 of 1 chunks of 'crs' are missing, {total} of {total} chunks of 'sst' are missing, 1 of 1 chunks of",
            f"1 of {total} chunks of 'sst' are missing",
            "it is still being written: it has changed from",
        ]
    target: dict[str, bytes] = {}
    with on_waiting(lambda i: steps[i]()) as said:
        assert zappend.append(target, path, slice_polling=PATIENT) == 1
    assert len(said) == len(steps)
    for message, part in zip(said, expected, strict=True):
        assert part in message
        assert message.startswith(f"slice {path}: ")
    whole: dict[str, bytes] = {}
    zappend.append(whole, source)
    xr.testing.assert_identical(cubes.open_mapping(target), cubes.open_mapping(whole))


def test_a_slice_that_is_copied_with_its_consolidated_metadata_first(tmp_path: Path) -> None:
    source, path = write_slice(tmp_path), tmp_path / "copy.zarr"
    path.mkdir()
    for name in (".zgroup", ".zmetadata"):
        shutil.copyfile(source / name, path / name)
    with on_waiting(lambda i: shutil.copytree(source, path, dirs_exist_ok=True) if i == 0 else None) as said:
        assert zappend.append({}, path, slice_polling=PATIENT) == 1
    assert len(said) == 2
    assert "6 of 6 chunks of 'sst' are missing" in said[0]
    assert "it has changed from" in said[1]


@pytest.mark.parametrize("missing", [None, "refuse"])
@pytest.mark.parametrize("polling", [{"timeout": 0}, {"interval": 0.001, "timeout": 0.01}])
def test_a_slice_that_never_gets_whole(tmp_path: Path, missing: Any, polling: Any) -> None:
    path = write_slice(tmp_path)
    chunk_files(path)[0].unlink()
    target: dict[str, bytes] = {}
    with pytest.raises(SliceError, match=r"1 of 6 chunks of 'sst' are missing; .* 'fill' takes it") as caught:
        zappend.append(target, path, slice_polling=polling, slice_missing_chunks=missing)
    assert caught.value.__notes__ == [f"slice_polling waited {polling['timeout']} s for it"]
    assert target == {}


@pytest.mark.effect("slice_missing_chunks", "slice_polling")
def test_fill_takes_missing_chunks_when_none_came_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A slice that is written on during the time is still waited for."""
    path = write_slice(tmp_path)
    first, second, *_ = chunk_files(path)
    data = {file: file.read_bytes() for file in (first, second)}
    for file in data:
        file.unlink()
    settings: dict[str, Any] = {"slice_missing_chunks": "fill"}
    with on_waiting(lambda i: [file.write_bytes(data[file]) for file in [*data][i : i + 1]] and None) as said:
        assert zappend.append({}, path, slice_polling=PATIENT, **settings) == 1
    assert ["2 of 6" in said[0], "1 of 6" in said[1], "changed" in said[2], len(said)] == [True, True, True, 3]
    first.unlink()
    with warned(caplog) as warnings:
        assert zappend.append({}, path, slice_polling={"timeout": 0}, **settings) == 1
    assert warnings == [f"slice {path}: 1 of 6 chunks of 'sst' are missing, and taken for fill values"]


def test_a_slice_that_never_comes_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("slice_polling:\n  interval: 0.001\n  timeout: 0.01\n")
    outcome = run("append", "-t", "cube.zarr", "-c", "config.yaml", "no.nc", cwd=tmp_path)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == ("Error: slice no.nc: there is no such file or folder (slice_polling waited 0.01 s for it)\n")
    assert not (tmp_path / "cube.zarr").exists()


def test_a_warning_on_the_command_line_counts_missing_chunks(tmp_path: Path) -> None:
    path = write_slice(tmp_path)
    chunk_files(path)[0].unlink()
    (tmp_path / "fill.yaml").write_text("slice_missing_chunks: fill\n")
    process = run_process("append", "-t", tmp_path / "cube.zarr", path)
    assert (process.code, process.out) == (0, "1 slice appended.\n")
    assert process.err.startswith(f"WARNING: slice {path}: 1 of 6 chunks of 'sst' are missing")
    assert len(process.err.splitlines()) == 1
    assert run("append", "-t", tmp_path / "filled.zarr", "-c", tmp_path / "fill.yaml", path).err == ""


def test_what_waiting_cannot_mend_is_told_once(tmp_path: Path) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, write_slice(tmp_path))
    other = write_slice(tmp_path, start=2, consolidated=False)
    (other / "sst").rename(other / "chl")
    for file in other.rglob("*"):
        os.utime(file, (0, 0))
    with on_waiting(lambda i: pytest.fail("it waits")):
        with pytest.raises(SliceError, match="'sst' is missing"):
            zappend.append(target, other, slice_polling=PATIENT)
        with pytest.raises(SliceError, match=r"slice nothing://b/slice\.nc: fsspec cannot open it"):
            zappend.append(target, "nothing://b/slice.nc", slice_polling=PATIENT)


def test_a_slice_whose_chunks_cannot_be_counted_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here xarray reads the consolidated metadata, and the array's own document has another grid."""
    path = write_slice(tmp_path, "3")
    document = json.loads((path / "sst" / "zarr.json").read_text())
    document["chunk_grid"]["name"] = "irregular"
    (path / "sst" / "zarr.json").write_text(json.dumps(document))
    with warned(caplog) as warnings:
        assert zappend.append({}, path, slice_missing_chunks="refuse", slice_polling=PATIENT) == 1
    assert warnings == [f"slice {path}: whether chunks of sst are missing cannot be told"]
    with warned(caplog) as warnings:
        assert zappend.append({}, path, slice_missing_chunks="fill") == 1
    assert warnings == []


# Waiting.


def test_it_is_looked_at_once_then_at_each_interval_and_at_the_end() -> None:
    clock = SteppingClock()
    looks: list[float] = []

    def look() -> None:
        looks.append(clock.now())
        raise NotYet("slice x: it is not there")

    with pytest.raises(NotYet) as caught:
        wait_for(look, Polling(interval=4, timeout=10), now=clock.now, sleep=clock.sleep)
    assert looks == [0, 4, 8, 10]
    assert caught.value.__notes__ == ["slice_polling waited 10 s for it"]
    looks.clear()
    with pytest.raises(NotYet):
        wait_for(look, None, now=clock.now, sleep=clock.sleep)
    assert looks == [10]


def test_waiting_ends_with_what_is_looked_for_or_with_another_error() -> None:
    clock = SteppingClock()

    def look() -> str:
        if clock.now() < 7:
            raise NotYet("slice x: it is not there")
        return "it is there"

    def fail() -> None:
        look()
        raise SliceError("slice x: it is wrong")

    forever = Polling(interval=2, timeout=math.inf)
    assert wait_for(look, forever, now=clock.now, sleep=clock.sleep) == "it is there"
    assert clock.now() == 8
    clock.time = 0
    with pytest.raises(SliceError, match="it is wrong"):
        wait_for(fail, forever, now=clock.now, sleep=clock.sleep)
    assert clock.now() == 8


@pytest.mark.effect("slice_polling.interval", "slice_polling.timeout")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (False, None),
        (True, Polling(interval=2, timeout=60)),
        ({"interval": 1}, Polling(interval=1, timeout=60)),
        ({"timeout": 0}, Polling(interval=2, timeout=0)),
        ({}, Polling(interval=2, timeout=60)),
    ],
)
def test_how_long_is_waited(value: Any, expected: Polling | None) -> None:
    assert load_settings({"slice_polling": value}).polling == expected


@pytest.mark.parametrize(
    "value", ["yes", 3, {"interval": -1}, {"timeout": "1m"}, {"every": 1}, {"timeout": math.nan}, [2, 60]]
)
def test_a_wrong_way_to_wait(value: Any) -> None:
    with pytest.raises(UsageError, match="setting slice_polling"):
        load_settings({"slice_polling": value})
