"""Edits of a cube: what they refuse, which labels they mean, what they cost, and how they are told."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cubes
import numpy as np
import pytest
import xarray as xr
import zarr
from commands import run

import zappend
from zappend.api import AppendResult
from zappend.errors import SliceError, TargetError, UsageError
from zappend.testing import CountingMapping
from zappend.txn.local import LocalStorage

formats = pytest.mark.parametrize("zarr_format", [2, 3])


def cube_of(target: Any, sizes: Iterable[int] = (2, 2, 2, 2), *, gap: int = 0, **settings: Any) -> xr.Dataset:
    """Make a cube of slices of so many days each, with so many between each two; return what it holds."""
    slices, start = [], 0
    for size in sizes:
        slices.append(cubes.small(start, size))
        start += size + gap
    zappend.append(target, slices, **settings)
    return cubes.concatenated(slices)


def hours(count: int, *, start: str = "2024-01-30T12", step: int = 6, **attrs: Any) -> xr.Dataset:
    time = np.datetime64(start, "ns") + step * np.arange(count) * np.timedelta64(1, "h")
    return xr.Dataset({"a": ("time", np.arange(count))}, {"time": ("time", time, attrs)})


def left(target: Any) -> list[int]:
    """Return which values of `hours` are in the cube."""
    return [int(value) for value in zarr.open_array(cubes.zarr_store(target), path="a", mode="r")[:]]


# Which labels.


@pytest.mark.parametrize(
    ("selected", "gone"),
    [
        ({"labels": "2024-01-31"}, range(2, 6)),
        ({"labels": ["2024-01-31", "2024-02-01T06"]}, [2, 3, 4, 5, 7]),
        ({"labels": np.datetime64("2024-01-30T18")}, [1]),
        ({"labels": "2024-02"}, range(6, 12)),
        ({"where": "2024-01-30T18/2024-01-31"}, range(1, 6)),
        ({"where": "../2024-01-31T06"}, range(4)),
        ({"where": "2024-02-01T20:00/"}, [10, 11]),
        ({"index": 0}, [0]),
        ({"index": "-1"}, [11]),
        ({"index": ["3:5", "-2:", 0]}, [0, 3, 4, 10, 11]),
        ({"index": slice(None, None, 2)}, range(0, 12, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("order", ["up", "down"])
def test_what_is_selected(selected: dict[str, Any], gone: Iterable[int], order: str) -> None:
    target: dict[str, bytes] = {}
    rows = list(range(12))
    new = hours(12)
    if order == "down":
        new, rows = new.isel(time=slice(None, None, -1)), rows[::-1]
    zappend.append(target, new, append_step="-" if order == "down" else "+")
    # Places are those of the cube, whatever its labels are.
    stay = [row for place, row in enumerate(rows) if (place if "index" in selected else row) not in gone]
    done = zappend.delete(target, **selected)
    assert left(target) == stay
    assert (done.labels, done.size, done.dry_run) == (12 - len(stay), len(stay), False)


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        ({}, "give one of labels, where and index, by which rows are selected, not none"),
        ({"labels": "2024", "index": 0}, "not labels and index"),
        ({"labels": "2024-03-01"}, "label '2024-03-01': the target has none such; its labels are from 2024-01-30"),
        ({"labels": ["2024-01-31", "2023"]}, "label '2023': the target has none such"),
        ({"labels": "yesterday"}, "label 'yesterday'"),
        ({"labels": []}, "no label is selected: there are none given"),
        ({"where": "2024-01-31"}, "where must be an interval such as"),
        ({"where": "2024-01-31/x"}, "interval '2024-01-31/x'"),
        ({"where": "2024-02-01/2024-01-31"}, "interval '2024-02-01/2024-01-31': the target has none such"),
        ({"index": 12}, "index 12: the target has 12 labels"),
        ({"index": "-13"}, "index -13: the target has 12 labels"),
        ({"index": "5:5"}, "index 5:5 has no label; the target has 12"),
        ({"index": "five"}, "index must be such as 0, -1 or 3:7, not 'five'"),
        ({"index": 1.5}, "index must be such as 0, -1 or 3:7, not 1.5"),
        ({"index": True}, "index must be such as 0, -1 or 3:7, not True"),
    ],
    ids=str,
)
def test_selections_that_are_refused(selected: dict[str, Any], message: str) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, hours(12))
    before = dict(target)
    with pytest.raises(UsageError, match=re.escape(message)):
        zappend.delete(target, **selected)
    assert target == before


def test_labels_of_other_kinds() -> None:
    numbers = xr.Dataset({"a": ("time", np.arange(4))}, {"time": [0.5, 1.0, 1.5, 2.0]})
    names = xr.Dataset({"a": ("time", np.arange(4))}, {"time": np.array(["a", "b", "c", "d"], object)})
    time = xr.date_range("2024-02-28", periods=4, calendar="360_day", use_cftime=True)
    years = xr.Dataset({"a": ("time", np.arange(4))}, {"time": time})
    for dataset, selected, stay in [
        (numbers, {"labels": ["0.5", 2]}, [1, 2]),
        (numbers, {"where": "1/1.5"}, [0, 3]),
        (names, {"labels": "b"}, [0, 2, 3]),
        (names, {"where": "b/.."}, [0]),
        (years, {"labels": "2024-02-30"}, [0, 1, 3]),
        (years, {"where": "2024-02-29/2024-02-30"}, [0, 3]),
    ]:
        target: dict[str, bytes] = {}
        zappend.append(target, dataset)
        zappend.delete(target, **selected)
        assert left(target) == stay
    zappend.append(target := {}, numbers)
    with pytest.raises(UsageError, match=r"label 'x' is no number"):
        zappend.delete(target, labels="x")


def test_a_cube_without_labels_has_places() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, xr.Dataset({"a": ("time", np.arange(6))}), append_step="any")
    for selected in ({"labels": 1}, {"where": "1/2"}):
        with pytest.raises(UsageError, match="the target has no labels; its rows can be selected by index alone"):
            zappend.delete(target, **selected)
    with pytest.raises(UsageError, match="labels are no times, so '1d' says nothing of them"):
        zappend.keep(target, "1d")
    zappend.delete(target, index=0)
    zappend.keep(target, 3)
    assert left(target) == [3, 4, 5]


@pytest.mark.parametrize(
    ("last", "stay"), [(5, 5), ("5", 5), ("1D", 4), ("25h", 5), ("PT13H", 3), ("P1M", 12), (99, 12), (np.int64(1), 1)]
)
def test_what_is_kept(last: Any, stay: int) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, hours(12))
    before = dict(target)
    done = zappend.keep(target, last)
    assert left(target) == list(range(12 - stay, 12))
    assert (done.labels, done.size) == (12 - stay, stay)
    assert stay < 12 or target == before


def test_months_are_kept_by_the_calendar() -> None:
    for time in (
        xr.date_range("2024-01-30", "2024-03-31", freq="D"),
        xr.date_range("2024-01-30", "2024-03-30", freq="D", calendar="360_day", use_cftime=True),
    ):
        target: dict[str, bytes] = {}
        zappend.append(target, xr.Dataset({"a": ("time", np.arange(len(time)))}, {"time": time}))
        zappend.keep(target, "1M")
        first = str(cubes.open_mapping(target).time.values[0])[:10]
        assert first == "2024-03-01"


@pytest.mark.parametrize("last", [0, -1, "0", 1.5, True, None, "", "x", "any", "+", "-3d", "1.5", "MS"])
def test_what_cannot_be_kept(last: Any) -> None:
    with pytest.raises(UsageError, match="the labels to keep must be a number of labels, at least 1, or a duration"):
        zappend.keep({}, last)


# What is refused.


def test_what_cannot_be_edited(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    for edit in EDITS.values():
        with pytest.raises(TargetError, match="there is no cube"):
            edit(target)
    assert not list(tmp_path.iterdir())
    cube_of(target)
    before = cubes.tree(tmp_path)
    for selected in ({"index": ":"}, {"where": "../.."}, {"labels": "2024"}):
        with pytest.raises(TargetError, match="delete would leave no label of 'time', and a cube has at least one"):
            zappend.delete(target, **selected)
    with pytest.raises(UsageError, match="force_new begins a cube anew, and there is nothing to delete of it"):
        zappend.keep(target, 1, force_new=True)
    with pytest.raises(TargetError, match="no array of the target has the dimension 'day' to append along"):
        zappend.delete(target, index=0, append_dim="day")
    assert cubes.tree(tmp_path) == before


def early() -> xr.Dataset:
    """Return two days before those of `cube_of`."""
    new = cubes.small(8, 2)
    for name in ("time", "time_bnds"):
        values = new[name].values - np.timedelta64(100, "D")
        new = new.assign({name: (new[name].dims, values, new[name].attrs)})
    return new


def other(start: int, count: int) -> xr.Dataset:
    """Return days with other values than `cube_of` has."""
    new = cubes.small(start, count)
    return new.assign(
        a=(new.a * 2).assign_attrs(new.a.attrs), note=new.note + " again", packed=new.packed[::-1].variable
    )


EDITS: dict[str, Callable[..., Any]] = {
    "delete": lambda target, **settings: zappend.delete(target, labels="2024-01-03", **settings),
    "keep": lambda target, **settings: zappend.keep(target, 3, **settings),
    "insert": lambda target, **settings: zappend.insert(target, early(), **settings),
    "replace": lambda target, **settings: zappend.replace(target, other(2, 3), **settings),
}


def edited(name: str, cube: xr.Dataset) -> xr.Dataset:
    """Return what an edit of EDITS makes of a cube of 8 days."""
    return {
        "delete": lambda: cube.isel(time=[0, 1, 3, 4, 5, 6, 7]),
        "keep": lambda: cube.isel(time=slice(-3, None)),
        "insert": lambda: cubes.concatenated([early(), cube]),
        "replace": lambda: cubes.concatenated(
            [cube.isel(time=slice(0, 2)), other(2, 3), cube.isel(time=slice(5, None))]
        ),
    }[name]()


every_edit = pytest.mark.parametrize("name", EDITS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([9], "label 2024-01-10T00:00:00 is not in the cube"),
        ([7, 8, 9], "label 2024-01-09T00:00:00 (and 1 more) is not in the cube"),
        ([0, 2], "its labels are not one after the other in the cube, where 2024-01-02T00:00:00 follows"),
        ([7, 0], "labels are not one after the other in the cube, where nothing follows 2024-01-08T00:00:00, not 2024"),
        ([1, 0], "labels are not one after the other in the cube, where 2024-01-03T00:00:00 follows"),
    ],
    ids=str,
)
def test_labels_that_cannot_be_replaced(labels: list[int], message: str) -> None:
    target: dict[str, bytes] = {}
    cube_of(target)
    before = dict(target)
    with pytest.raises(SliceError, match=re.escape(message)):
        zappend.replace(target, cubes.small(0, 10).isel(time=labels))
    assert target == before


def test_a_label_that_is_there_twice_cannot_be_replaced() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, [hours(2), hours(2)], append_step="any")
    with pytest.raises(SliceError, match="label 2024-01-30T12:00:00 is in the cube 2 times, so which is meant is not"):
        zappend.replace(target, hours(2))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([2], "label 2024-01-03T00:00:00 is in the cube already; replace overwrites what is there"),
        ([3, 4, 5], "label 2024-01-05T00:00:00 is in the cube already"),
        ([3, 5, 7], "its labels do not lie in one gap of the cube's: 2024-01-05T00:00:00 is between 2024-01-04"),
        ([8, 7], "its labels are not sorted as those of the cube, which ascend"),
    ],
    ids=str,
)
def test_labels_that_cannot_be_inserted(labels: list[int], message: str) -> None:
    target: dict[str, bytes] = {}
    cube_of(target, [1] * 4, gap=1)  # days 0, 2, 4 and 6
    zappend.append(target, cubes.small(20, 1))
    before = dict(target)
    with pytest.raises(SliceError, match=re.escape(message)):
        zappend.insert(target, cubes.small(0, 10).isel(time=labels), slice_size="any")
    assert target == before


def test_insertion_into_a_cube_that_descends_or_is_not_sorted() -> None:
    target: dict[str, bytes] = {}
    down = cubes.small(0, 10).isel(time=slice(None, None, -1))
    zappend.append(target, [down.isel(time=[row]) for row in (0, 3, 7)], append_step="-")
    zappend.insert(target, down.isel(time=[4, 5]), slice_size="any")
    zappend.insert(target, down.isel(time=[9]))
    xr.testing.assert_identical(cubes.open_mapping(target), down.isel(time=[0, 3, 4, 5, 7, 9]))
    with pytest.raises(SliceError, match="its labels are not sorted as those of the cube, which descend"):
        zappend.insert(target, down.isel(time=[2, 1]), slice_size="any")
    zappend.append(target, cubes.small(20, 1), append_step="any")
    with pytest.raises(SliceError, match="the labels of the cube are not sorted, so nothing has a place between them"):
        zappend.insert(target, down.isel(time=[1]))


def test_steps_of_inserted_labels() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, [hours(2), hours(2, start="2024-03-01")])
    new = hours(2, start="2024-02-10", step=3)
    with pytest.raises(SliceError, match="the step from 2024-02-10T00:00:00 to 2024-02-10T03:00:00 is 3h, not 6h"):
        zappend.insert(target, new, append_step="6h")
    assert zappend.insert(target, new, append_step="3h") == 1
    assert zappend.insert(target, new, if_exists="skip") == 0
    missing = hours(2, start="2024-02-11").assign_coords(time=np.array(["NaT", "2024-02-11"], "M8[ns]"))
    for step in ("+", "any"):
        with pytest.raises(SliceError, match="label 0 is missing"):
            zappend.insert(target, missing, append_step=step)


def test_what_an_insertion_costs_is_told_where_it_is_refused() -> None:
    target: dict[str, bytes] = {}
    cube = cube_of(target, gap=5)
    before = dict(target)
    one = cubes.small(2, 1)
    with pytest.raises(SliceError) as caught:
        zappend.insert(target, one)
    assert re.search(
        r"slice 0: it has 1 labels along 'time' and belongs at index 2, and a chunk of 'a' has 2 labels: 23 chunks "
        r"would be written, \d+ bytes before they are encoded; slice_size 'any' inserts it all the same",
        str(caught.value),
    )
    with pytest.raises(SliceError, match="it has 4 labels along 'time'"):
        zappend.insert(target, cubes.small(2, 4))
    assert target == before
    four = cubes.small(2, 4)
    (done,) = zappend.insert(target, four, slice_size="aligned").slices
    assert (done.operation, done.start, done.stop, done.chunks, done.moved) == ("insert", 2, 6, 2 * 5 + 3, 3 * 5)
    (done,) = zappend.insert(target, cubes.small(6, 1), slice_size="any").slices
    expected = [cube.isel(time=slice(0, 2)), four, cubes.small(6, 1), cube.isel(time=slice(2, None))]
    xr.testing.assert_identical(cubes.open_mapping(target), cubes.concatenated(expected))
    with pytest.raises(SliceError, match="belongs at index 6, and a chunk of 'a' has 2 labels"):
        zappend.insert(target, cubes.small(5, 1).assign_coords(time=cubes.small(5, 1).time + np.timedelta64(6, "h")))


def faulty() -> dict[str, tuple[xr.Dataset, str]]:
    new = cubes.small(2, 2)
    large = new.assign(counts=(new.counts.astype("i8") + 2**20).assign_attrs(new.counts.attrs))
    return {
        "units": (new.assign(a=new.a.assign_attrs(units="degC")), "variable 'a' has units 'degC', expected 'K'"),
        "lacks": (new.drop_vars("ok"), "variable 'ok' is missing"),
        "x": (new.assign_coords(x=new.x + 1), "variable 'x' is not that of the target"),
        "size": (new.isel(x=[0, 1]), "dimension 'x' has size 2, expected 4"),
        "value": (large, "variable 'counts'"),
        "no label": (new.drop_vars("time"), "'time'"),
    }


@pytest.mark.parametrize("fault", faulty())
@pytest.mark.parametrize("edit", [zappend.insert, zappend.replace], ids=["insert", "replace"])
def test_slices_that_do_not_fit(tmp_path: Path, edit: Callable[..., Any], fault: str) -> None:
    new, message = faulty()[fault]
    target = tmp_path / "cube.zarr"
    zappend.append(target, [cubes.small(0, 2), cubes.small(2, 2) if edit is zappend.replace else cubes.small(4, 2)])
    before = cubes.tree(tmp_path)
    for dry_run in (True, False):
        with pytest.raises(SliceError, match=re.escape(message)):
            edit(target, new, dry_run=dry_run)
        assert cubes.tree(tmp_path) == before


def test_attributes_stay_but_for_those_that_are_set() -> None:
    target: dict[str, bytes] = {}
    cube_of(target)
    new = other(2, 2).assign_attrs(title="another")
    zappend.replace(target, new)
    assert cubes.open_mapping(target).attrs == cubes.small().attrs
    zappend.replace(target, new, attrs={"n": "{{ ds.time.size }}"}, permit_eval=True, attrs_update_mode="update")
    assert cubes.open_mapping(target).attrs == {**cubes.small().attrs, "title": "another", "n": 8}
    zappend.keep(target, 3, attrs={"n": "{{ ds.time.size }}"}, permit_eval=True)
    assert cubes.open_mapping(target).attrs["n"] == 3


# Appends that edit.


@pytest.mark.effect("if_exists")
def test_appends_replace_what_is_there() -> None:
    target: dict[str, bytes] = {}
    cube = cube_of(target)
    done = zappend.append(target, [other(2, 2), cubes.small(8, 2)], if_exists="replace")
    assert [(one.operation, one.start, one.stop) for one in done.slices] == [("replace", 2, 4), ("append", 8, 10)]
    expected = [cube.isel(time=slice(0, 2)), other(2, 2), cube.isel(time=slice(4, None)), cubes.small(8, 2)]
    xr.testing.assert_identical(cubes.open_mapping(target), cubes.concatenated(expected))
    with pytest.raises(SliceError, match="1 of its 2 labels is in the cube already"):
        zappend.append(target, cubes.small(9, 2), if_exists="replace")


@pytest.mark.effect("if_earlier")
def test_appends_insert_what_is_earlier(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    slices = [cubes.small(start, 2) for start in (4, 0, 6, 2, 2)]
    with pytest.raises(SliceError, match="in the cube already"):
        zappend.append(target, slices, if_earlier="insert")
    slices.append(cubes.small(8, 2))
    done = zappend.append(target, slices, if_earlier="insert", if_exists="skip")
    assert [one.skipped for one in done.slices] == [True] * 5 + [False]
    cubes.assert_cube(target, cubes.concatenated([cubes.small(start, 2) for start in (0, 2, 4, 6, 8)]))
    step = "2D"
    with pytest.raises(SliceError, match="invalid step size"):
        zappend.append(target, cubes.small(12, 1), if_earlier="insert", append_step=step)


@pytest.mark.effect("keep_last")
@formats
def test_appends_keep_the_last_labels(tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    slices = [cubes.small(start, 2) for start in range(0, 12, 2)]
    zappend.append(target, slices[:5], keep_last=6, zarr_format=zarr_format)
    cubes.assert_cube(target, cubes.concatenated(slices[2:5]))
    storage = Read(target)
    (done,) = zappend.append(storage, slices[5], keep_last="4D").slices
    assert (done.start, done.stop, done.moved) == (2, 4, 5)
    assert not {key.partition("/")[0] for key in chunks(storage.read)} & {"a", "packed", "counts", "ok", "note"}
    cubes.assert_cube(target, cubes.concatenated(slices[4:6]))
    zappend.append(target, cubes.small(12, 2), keep_last=1)  # a slice stays whole
    cubes.assert_cube(target, cubes.small(12, 2))
    before = cubes.tree(tmp_path)
    zappend.append(target, cubes.small(14, 2), keep_last="2D", dry_run=True)
    assert cubes.tree(tmp_path) == before


def test_a_cube_without_labels_keeps_the_last_ones() -> None:
    target: dict[str, bytes] = {}
    rows = xr.Dataset({"a": ("time", np.arange(6))})
    zappend.append(target, [rows.isel(time=[row]) for row in range(6)], append_step="any", keep_last=3)
    assert left(target) == [3, 4, 5]


# Where.


@every_edit
@formats
def test_a_cube_in_a_group(tmp_path: Path, name: str, zarr_format: int) -> None:
    target = tmp_path / "store.zarr"
    cube = cube_of(target, group="deep/cube", zarr_format=zarr_format)
    other = cube_of(target, group="other", zarr_format=zarr_format)
    EDITS[name](target, group="deep/cube")
    cubes.assert_cube(target / "deep" / "cube", edited(name, cube))
    for consolidated in (True, False):
        for group, expected in (("deep/cube", edited(name, cube)), ("other", other)):
            with xr.open_zarr(target, group=group, consolidated=consolidated, chunks=None) as found:
                xr.testing.assert_identical(found.load(), expected)


@every_edit
@formats
def test_a_cube_without_consolidated_metadata(tmp_path: Path, name: str, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    cube = cube_of(target, zarr_format=zarr_format)
    if zarr_format == 2:
        (target / ".zmetadata").unlink()
    else:
        document = json.loads((target / "zarr.json").read_text())
        del document["consolidated_metadata"]
        (target / "zarr.json").write_text(json.dumps(document))
    EDITS[name](target)
    assert not (target / ".zmetadata").exists()
    with xr.open_zarr(target, consolidated=False, chunks=None) as found:
        xr.testing.assert_identical(found.load(), edited(name, cube))


@every_edit
@formats
def test_bytes_are_those_that_zarr_writes(tmp_path: Path, name: str, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    cube = cube_of(target, zarr_format=zarr_format)
    EDITS[name](target)
    cubes.assert_cube(target, edited(name, cube))
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()  # in format 3 folders of chunks that are no more are left, empty
    cubes.assert_bytes_of_zarr(target, tmp_path)


# What it costs.


class Read(LocalStorage):
    """A local folder that notes what is read, and what is linked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read: list[str] = []

    def get(self, key: str) -> bytes | None:
        self.read.append(key)
        return super().get(key)


def chunks(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not key.rpartition("/")[2].startswith((".z", "zarr.json"))]


@formats
def test_an_aligned_delete_reads_no_chunk(tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    cube = cube_of(target, [2] * 6, zarr_format=zarr_format)
    storage = Read(target)
    done = zappend.delete(storage, where="2024-01-05/2024-01-08")
    of_data = chunks(storage.read)
    assert {key.partition("/")[0] for key in of_data} == {"time", "time_bnds", "age"}
    assert len(of_data) <= 6
    data = 5  # variables, each with 6 chunks, of which 2 go
    assert (done.moved, done.removed, done.chunks) == (2 * data, 2 * data, 3)
    cubes.assert_cube(target, cube.isel(time=[0, 1, 2, 3, 8, 9, 10, 11]))


def test_what_stays_costs_nothing() -> None:
    """An edit at the end of a cube costs the same, however long it is."""
    counts = []
    for length in (4, 40):
        inner: dict[str, bytes] = {}
        cube_of(inner, [2] * length)
        store = CountingMapping(inner)
        zappend.delete(store, index=-1)
        counts.append(dict(store.counts))
    assert counts[0] == counts[1]


# How it is told.


@every_edit
@formats
def test_a_dry_run_tells_what_is_done(tmp_path: Path, name: str, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    cube_of(target, zarr_format=zarr_format)
    before = cubes.tree(tmp_path)
    told = EDITS[name](target, dry_run=True)
    assert cubes.tree(tmp_path) == before
    done = EDITS[name](target)
    assert (told.dry_run, done.dry_run) == (True, False)
    if isinstance(told, AppendResult):
        (told,), (done,) = told.slices, done.slices
    names = told.__dataclass_fields__.keys() - {"keys", "dry_run"}
    assert {name: getattr(told, name) for name in names} == {name: getattr(done, name) for name in names}
    after = {key: value for key, value in cubes.tree(target).items() if value is not None}
    assert set(told.keys) <= set(after)
    assert all(len(after[key]) == size for key, size in told.keys.items() if "z" in key.rpartition("/")[2])


def test_delete_and_keep_by_command(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    cube = cube_of(target)
    before = cubes.tree(tmp_path)
    outcome = run("delete", target, "--labels", "2024-01-03", "--labels", "2024-01-04", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("2 labels would be deleted, 6 would be left: 10 chunks moved, 3 written again (")
    assert outcome.out.endswith(" bytes), 5 removed.\n")
    assert cubes.tree(tmp_path) == before
    assert run("delete", target, "--labels=2024-01-03", "--labels=2024-01-04").out.startswith(
        "2 labels deleted, 6 left"
    )
    assert run("delete", target, "--where", "2024-01-07/..").out.startswith("2 labels deleted, 4 left")
    assert run("delete", target, "--index=0").out.startswith("1 label deleted, 3 left")
    assert run("keep", target, "--last", "36h").out.startswith("1 label deleted, 2 left")
    cubes.assert_cube(target, cube.isel(time=[4, 5]))
    outcome = run("delete", target)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "Error: give one of labels, where and index, by which rows are selected, not none\n"
    assert run("delete", tmp_path / "none.zarr", "--index=0").code == 1
    assert run("keep", target, "--last=x").code == 2


def test_insert_by_command(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    cube = cube_of(target, gap=4)
    paths = cubes.write_netcdf(tmp_path, [cubes.small(2, 2), cubes.small(4, 1)])
    before = cubes.tree(target)
    outcome = run("insert", "-t", target, *paths, "--slice-size=any", "--dry-run")
    assert (outcome.code, cubes.tree(target)) == (0, before), outcome.err
    assert f"{paths[0]}: inserted at 2:4, 8 chunks" in outcome.out
    assert f"{paths[1]}: inserted at 4:5, " in outcome.out
    assert "2 slices would be inserted." in outcome.out
    assert run("insert", "-t", target, *paths, "--slice-size=any").out == "2 slices inserted.\n"
    with xr.open_zarr(target, chunks=None) as found:
        notes = [*cube.note[:2].values, *cubes.small(2, 2).note.values, "day 4" * 5, *cube.note[2:].values]
        np.testing.assert_array_equal(found.note, notes)
    assert run("insert", "-t", target, *paths, "--if-exists=skip").out.startswith("0 slices inserted. 2 skipped")
    assert run("insert", "-t", target, *paths).code == 1


def test_appends_that_edit_by_command(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    cube_of(target, gap=2)
    late, again, last = cubes.write_netcdf(tmp_path, [cubes.small(2, 2), other(4, 2), cubes.small(14, 2)])
    outcome = run("append", "-t", target, late, again, last, "--if-earlier=insert", "--if-exists=replace", "-v")
    assert outcome.code == 0, outcome.err
    for how in (f"{late}: inserted at 2:4, ", f"{again}: replaced at 4:6, ", f"{last}: at 10:12, "):
        assert how in outcome.err
    (more,) = cubes.write_netcdf(tmp_path, [cubes.small(16, 2)])
    assert run("append", "-t", target, more, "--keep-last=4").out == "1 slice appended.\n"
    with xr.open_zarr(target, chunks=None) as found:
        assert found.note.values.tolist() == [f"day {day}" * (day + 1) for day in (14, 15, 16, 17)]


def test_replace_by_command(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    cube = cube_of(target)
    (path,) = cubes.write_netcdf(tmp_path, [other(2, 2)])
    before = cubes.tree(target)
    outcome = run("replace", "-t", target, path, "--dry-run")
    assert (outcome.code, cubes.tree(target)) == (0, before), outcome.err
    assert f"{path}: replaced at 2:4, 8 chunks" in outcome.out
    assert "1 slice would be replaced." in outcome.out
    assert run("replace", "-t", target, path).out == "1 slice replaced.\n"
    with xr.open_zarr(target, chunks=None) as found:
        np.testing.assert_array_equal(
            found.note, [*cube.note[:2].values, *other(2, 2).note.values, *cube.note[4:].values]
        )
    outcome = run("replace", "-t", tmp_path / "none.zarr", path)
    assert (outcome.code, outcome.err) == (1, f"Error: {tmp_path / 'none.zarr'}: there is no cube\n")


def test_slices_of_edits_are_listed_as_those_of_appends(tmp_path: Path) -> None:
    [first, late, last] = cubes.write_netcdf(tmp_path, [cubes.packed(0), cubes.packed(2), cubes.packed(4)])
    target = tmp_path / "cube"
    zappend.append(target, [first, last], append_step="any")
    (tmp_path / "list.txt").write_text(f"{late}\n")
    assert run("insert", "-t", target, f"@{tmp_path / 'list.txt'}").out == "1 slice inserted.\n"
    pattern = str(late).replace(late.name, late.name[:-1] + "[c]")
    assert run("replace", "-t", target, pattern).out == "1 slice replaced.\n"
    cubes.assert_cube(target, cubes.concatenated([cubes.packed(0), cubes.packed(2), cubes.packed(4)]))
