"""Slices in one call leave the same cube, byte for byte, as each in a call of its own, whatever others do in between.

What an append keeps from slice to slice, to be quick, must never show. A generator of slices runs while nobody holds
the lock, so here it changes the cube: as other writers do, and as someone who makes a mistake does.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import shutil
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cubes
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.dtypes import StringDType

import zappend
from zappend.errors import SliceError

QUICK, MANY = 40, 5000
"""Sequences in a run of the tests, and of the campaign."""

EPOCH = np.datetime64("2026-01-01", "ns")
UNITS = {"units": "days since 2026-01-01"}


# Slices.


@dataclass(frozen=True)
class Given:
    """One slice that is given.

    Attributes
    ----------
    count, back
        How many labels it has, and how many of them are in the cube before.
    times
        How labels are given: ``stored``, ``decoded``, ``cftime``.
    fault
        What is unusual about it, a name of `FAULTS`.
    reused
        Whether it lies in the arrays in which the slices before it lay.
    lazy
        Whether values are computed when they are read.
    """

    count: int
    back: int
    times: str
    fault: str
    reused: bool
    lazy: bool


def dataset(given: Given, first: int, arrays: dict[str, Any]) -> xr.Dataset:
    """Return the slice that begins with day `first`; where it is reused, in `arrays`."""
    days = np.arange(first, first + given.count)
    random = np.random.default_rng(first + 100)
    parts: dict[str, Any] = {
        "days": days,
        "sst": random.integers(0, 99, (given.count, 2, 3)).astype("f4"),
        "flags": random.integers(0, 99, (given.count, 3)).astype("i2"),
        "note": np.array([f"day {day}" for day in days], object),
        "lat": np.array([[1.0, 2.0, np.nan], [4.0, 5.0, 6.0]]),
        "name": np.array([f"the place that is number {i}" for i in range(3)], object),
        "place": np.array([f"the place that has the number {i}" for i in range(3)], StringDType()),
        "x": np.arange(3.0),
        "valid": np.array([[0.0, 9.0]]),
    }
    if given.fault in PARTS:
        PARTS[given.fault](parts)
    if given.reused:
        for key, values in parts.items():
            kept = arrays.get(key)
            if kept is not None and kept.shape == values.shape and kept.dtype == values.dtype:
                kept[...] = values
            else:
                arrays[key] = values
        parts = dict(arrays)
    days = parts["days"]
    time: Any = (days, UNITS)
    if given.times == "decoded":
        time = (EPOCH + days.astype("m8[D]").astype("m8[ns]"), {})
    elif given.times == "cftime":
        stored = xr.Variable("time", days, {**UNITS, "calendar": "standard"})
        coder = xr.coders.CFDatetimeCoder(use_cftime=True)
        time = (xr.conventions.decode_cf_variable("time", stored, decode_times=coder).values, {})
    coords = {"time": xr.Variable("time", *time), "x": xr.Variable("x", parts["x"])}
    new = xr.Dataset(
        {
            "sst": (("time", "y", "x"), parts["sst"], {"units": "K", "valid": parts["valid"].tolist()}),
            "flags": (("time", "x"), parts["flags"], {"flag_values": [0, 1], "flag_meanings": "no yes"}),
            "note": ("time", parts["note"]),
            "lat": (("y", "x"), parts["lat"]),
            "name": ("x", parts["name"]),
            "place": ("x", parts["place"]),
            "crs": ((), 0, {"grid_mapping_name": "latitude_longitude"}),
            "none": (("empty", "x"), np.empty((0, 3))),
        },
        xr.Coordinates(coords, indexes={}) if given.reused else coords,
        {"title": f"day {first}", f"day {first % 3}": first},
    )
    if given.fault in CHANGES:
        new = CHANGES[given.fault](new)
    if given.lazy:
        new = new.chunk({"x": 2})
    return new


def _put(name: str, index: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(parts: dict[str, Any]) -> None:
        parts[name][index] = value

    return change


def _with_attrs(name: str, **attrs: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(new: xr.Dataset) -> xr.Dataset:
        new[name].attrs.update(attrs)
        return new

    return change


PARTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "x differs": _put("x", 1, 1.5),
    "x nearly differs": _put("x", 1, 1.00001),
    "lat differs": _put("lat", (0, 2), 3.0),
    "lat lacks": _put("lat", (0, 0), np.nan),
    "name differs": _put("name", 2, "the place that is number 7"),
    "place differs": _put("place", 2, "the place that has the number 7"),
    "note of None": _put("note", 0, None),
    "labels repeat": lambda parts: parts["days"].fill(parts["days"][-1]),
    "labels fall": lambda parts: parts.update(days=parts["days"][::-1].copy()),
    "all fill": lambda parts: (parts["flags"].fill(0), parts["sst"].fill(np.nan)),  # type: ignore[func-returns-value]
    "other attributes": _put("valid", (0, 1), 8.0),
}

CHANGES: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "wide": lambda new: new.assign(flags=new.flags.astype("i8")),
    "too large": lambda new: new.assign(flags=(new.flags.astype("i8") + 2**20).assign_attrs(new.flags.attrs)),
    "not whole": lambda new: new.assign(flags=(new.flags + 0.5).assign_attrs(new.flags.attrs)),
    "double": lambda new: new.assign(sst=(new.sst.astype("f8") + 0.1).assign_attrs(new.sst.attrs)),
    "packed": lambda new: new.assign(
        sst=(new.sst * 2).astype("i2").assign_attrs(units="K", scale_factor=0.5, _FillValue=-1)
    ),
    "other units": _with_attrs("sst", units="degC"),
    "other flags": _with_attrs("flags", flag_meanings="yes no"),
    "lacks note": lambda new: new.drop_vars("note"),
    "lacks sst": lambda new: new.drop_vars("sst"),
    "lacks lat": lambda new: new.drop_vars("lat"),
    "lacks x": lambda new: new.drop_vars("x"),
    "too much": lambda new: new.assign(more=new.sst),
    "transposed": lambda new: new.assign(sst=new.sst.transpose("time", "x", "y")),
    "larger": lambda new: new.isel(x=[0, 1, 2, 2]),
    "a coordinate": lambda new: new.set_coords("lat"),
    "text for flags": lambda new: new.assign(flags=new.flags.astype(str).assign_attrs(new.flags.attrs)),
    "objects in attributes": _with_attrs("note", missing_value=np.array(["a", "b"], object)),
}

FAULTS = (*PARTS, *CHANGES)


# What others do.


def _array(path: Path, name: str) -> zarr.Array[Any]:
    found = zarr.open_group(path, mode="r+", use_consolidated=False)[name]
    assert isinstance(found, zarr.Array)
    return found


def _is_consolidated(path: Path) -> bool:
    if (path / "zarr.json").exists():
        return b'"consolidated_metadata": {' in (path / "zarr.json").read_bytes()
    return (path / ".zmetadata").exists()


def _consolidate(path: Path) -> None:
    zarr.consolidate_metadata(path)


def _and_consolidate(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        consolidated = _is_consolidated(path)
        change(path)
        if consolidated:
            _consolidate(path)

    return changed


def _without_consolidated(path: Path) -> None:
    (path / ".zmetadata").unlink(missing_ok=True)
    if (path / "zarr.json").exists():
        zarr.open_group(path, mode="r+", use_consolidated=False).attrs.update(other=1)


def _next_days(path: Path, *, consolidated: bool | None) -> None:
    cube = xr.open_zarr(path, decode_times=False, consolidated=False)
    last = cube.isel(time=[-1]).load().drop_encoding()
    varying = [name for name, variable in last.variables.items() if "time" in variable.dims]
    new = last[varying].drop_vars("x", errors="ignore").assign_coords(time=last.time + 1)
    new.to_zarr(path, append_dim="time", consolidated=consolidated, mode="a")


def _one_less(path: Path) -> None:
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, array in group.arrays():
        dims = array.metadata.dimension_names if array.metadata.zarr_format == 3 else array.attrs["_ARRAY_DIMENSIONS"]
        if "time" in dims:
            _array(path, name).resize((array.shape[0] - 1, *array.shape[1:]))


def _last_label(step: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        array = _array(path, "time")
        array[-1] = array[-1] + step

    return change


def _without(*names: str) -> Callable[[Path], None]:
    def remove(path: Path) -> None:
        for name in names:
            (path / name).unlink(missing_ok=True)

    return remove


def _without_last_labels(path: Path) -> None:
    found = [file for file in (path / "time").rglob("*") if file.name.isdecimal()]
    max(found, key=lambda file: int(file.name)).unlink()


def _set(name: str, index: Any, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        _array(path, name)[index] = value

    return change


def _attrs(name: str, **attrs: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        (group[name] if name else group).attrs.update(attrs)

    return change


def _another_cube(zarr_format: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        shutil.rmtree(path)
        days = xr.Variable("time", np.array([1]), UNITS)
        xr.Dataset({"sst": ("time", [1.0])}, {"time": days}).to_zarr(path, zarr_format=zarr_format)  # type: ignore[call-overload]

    return change


def _more(path: Path) -> None:
    zarr.open_group(path, mode="r+", use_consolidated=False).create_array("more", shape=(2,), dtype="i4")


OTHERS: dict[str, Callable[[Path], None]] = {
    "append": lambda path: _next_days(path, consolidated=None),
    "append without consolidating": lambda path: _next_days(path, consolidated=False),
    "append with consolidating": lambda path: _next_days(path, consolidated=True),
    "take a day away": _and_consolidate(_one_less),
    "move the last label": _last_label(3),
    "move the last label back": _last_label(-1),
    "remove the last labels": _without_last_labels,
    "remove lat": _without("lat/0.0", "lat/c/0/0"),
    "change x": _set("x", 1, 1.5),
    "change x back": _set("x", 1, 1.0),
    "change lat": _set("lat", (0, 2), 3.0),
    "change place": _set("place", 1, "the place that has the number 8"),
    "change units": _and_consolidate(_attrs("sst", units="degC")),
    "change units back": _and_consolidate(_attrs("sst", units="K")),
    "change units of the array alone": _attrs("sst", units="degC"),
    "change the epoch": _and_consolidate(_attrs("time", units="days since 2026-01-02")),
    "change other attributes": _and_consolidate(_attrs("sst", who="another")),
    "change attributes of the cube": _and_consolidate(_attrs("", who="another", title="others")),
    "change attributes of the group alone": _attrs("", who="yet another"),
    "consolidate": _consolidate,
    "remove consolidated metadata": _without_consolidated,
    "remove .zattrs": _without(".zattrs"),
    "remove .zattrs of arrays": _without("sst/.zattrs", "crs/.zattrs"),
    "empty .zattrs": lambda path: (path / ".zattrs").write_text("{}") if (path / ".zattrs").exists() else None,
    "add an array": _and_consolidate(_more),
    "replace the cube by one of format 2": _another_cube(2),
    "replace the cube by one of format 3": _another_cube(3),
    "remove the cube": shutil.rmtree,
}


TOGETHER = [
    ["append", "take a day away"],
    ["append with consolidating", "append without consolidating", "consolidate"],
    ["move the last label", "move the last label back"],
    ["remove the last labels", "move the last label"],
    ["remove consolidated metadata", "consolidate"],
    ["remove consolidated metadata", "consolidate", "remove .zattrs", "change attributes of the group alone"],
    ["change attributes of the cube", "empty .zattrs"],
    ["change x", "change x back"],
    ["change units", "change units back"],
    ["change other attributes", "change lat"],
    [],
]
"""Changes that meet often, most of which leave a cube that slices still fit."""


@dataclass(frozen=True)
class Other:
    """Something that another writer does."""

    what: str


Step = Given | Other


def disturb(path: Path, what: str) -> None:
    """Do `what` to the cube at `path`, if it can be done."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        OTHERS[what](path)


# Both ways.


@dataclass(frozen=True)
class Outcome:
    """What became of one step: the cube, and what `zappend.append` told or raised."""

    told: object
    cube: dict[str, bytes]


def outcome(path: Path, told: object) -> Outcome:
    if isinstance(told, BaseException):
        told = type(told), re.sub(r"^slice \d+:", "slice", str(told).replace(str(path), "PATH"))
    elif isinstance(told, zappend.api.Appended):
        told = replace(told, slice="")
    return Outcome(told, {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()})


def starts(steps: list[Step]) -> list[int]:
    """Return the day with which the slice of each step begins; others take one, too, if they append."""
    found, day = [], 0
    for step in steps:
        found.append(day - step.back if isinstance(step, Given) else day)
        day = found[-1] + step.count if isinstance(step, Given) else day + step.what.startswith("append")
    return found


def one_by_one(path: Path, steps: list[Step], options: dict[str, Any]) -> list[Outcome]:
    """Append each slice in a call of its own, with arrays of its own."""
    outcomes = []
    for step, first in zip(steps, starts(steps), strict=True):
        if isinstance(step, Other):
            disturb(path / options.get("group", ""), step.what)
            continue
        try:
            (told,) = zappend.append(path, [dataset(step, first, {})], **options).slices
        except Exception as error:
            outcomes.append(outcome(path, error))
        else:
            outcomes.append(outcome(path, told))
    return outcomes


def together(path: Path, steps: list[Step], options: dict[str, Any]) -> list[Outcome]:
    """Append all slices in one call; after one that is refused, the rest in another."""
    outcomes: list[Outcome] = []
    arrays: dict[str, Any] = {}
    rest = iter(list(zip(steps, starts(steps), strict=True)))
    ended = False

    def slices() -> Iterator[xr.Dataset]:
        nonlocal ended
        before = False
        for step, first in rest:
            if before:
                outcomes.append(outcome(path, None))
            before = False
            if isinstance(step, Other):
                disturb(path / options.get("group", ""), step.what)
            else:
                before = True
                yield dataset(step, first, arrays)
        if before:
            outcomes.append(outcome(path, None))
        ended = True

    while not ended:
        done = len(outcomes)
        try:
            result = zappend.append(path, slices(), **options)
        except Exception as error:
            outcomes.append(outcome(path, error))
        else:
            told = [outcome(path, one).told for one in result.slices]
            outcomes[done:] = [replace(one, told=what) for one, what in zip(outcomes[done:], told, strict=True)]
    return outcomes


WITHOUT_METADATA = [Other("remove consolidated metadata"), Other("remove .zattrs")]


@st.composite
def sequences(draw: st.DrawFn) -> list[Step]:
    """Return steps in which few things happen, and these often, so that they meet."""
    others = draw(st.one_of(st.sampled_from(TOGETHER), st.lists(st.sampled_from([*OTHERS]), max_size=2)))
    faults = draw(st.lists(st.sampled_from(FAULTS), max_size=2))
    times = draw(st.sampled_from([["stored"], ["stored", "decoded", "cftime"]]))
    slices = st.builds(
        Given,
        count=st.sampled_from(draw(st.sampled_from([[2], [1], [2, 2, 2, 1, 3]]))),
        back=st.sampled_from([0] * 12 + [draw(st.sampled_from([0, 1, 2]))]),
        times=st.sampled_from(times),
        fault=st.sampled_from(["", "", *faults]),
        reused=st.just(draw(st.booleans())),
        lazy=st.just(draw(st.sampled_from([False, False, False, True]))),
    )
    what = draw(st.sampled_from([[], [], [Other("remove consolidated metadata")], WITHOUT_METADATA]))
    steps = st.one_of(slices, slices, *([st.builds(Other, st.sampled_from(others))] if others else []))
    return [draw(slices), *what, *draw(st.lists(steps, min_size=3, max_size=9))]


SHARDS = {
    "sst": {"encoding": {"chunks": {"time": 1}, "shards": {"time": 4}}},
    "time": {"encoding": {"chunks": [2], "shards": [4]}},
}

OPTIONS = st.fixed_dictionaries(
    {
        "zarr_format": st.sampled_from([2, 3]),
        "slice_size": st.sampled_from(["any", "any", "any", "chunk"]),
        "threads": st.sampled_from([1, 2]),
        "write_empty_chunks": st.booleans(),
        "attrs_update_mode": st.sampled_from(["keep", "update", "replace"]),
        "missing_variables": st.sampled_from(["fill", "refuse"]),
        "append_step": st.sampled_from([None, None, None, "any", 1]),
        "if_exists": st.sampled_from(["skip", "error"]),
        "group": st.sampled_from(["", "", "inner/cube"]),
        "variables": st.sampled_from(
            [
                {},
                {"time": {"encoding": {"chunks": [1]}}},
                {"time": {"encoding": {"chunks": [2]}}},
                {"*": {"encoding": {"chunks": {"time": 1}}}, "time": {"encoding": {"chunks": [1]}}},
                {"time": {"encoding": {"chunks": [3]}}, "lat": {"encoding": {"chunks": [1, 1]}}},
                {"sst": {"encoding": {"dtype": "i2", "scale_factor": 0.5, "fill_value": -1}}},
                SHARDS,
            ]
        ),
    }
)


def check(folder: Path, steps: list[Step], options: dict[str, Any]) -> None:
    """Append `steps` both ways, and compare."""
    wholes, singles = folder / "together.zarr", folder / "one.zarr"
    for path in (wholes, singles):
        shutil.rmtree(path, ignore_errors=True)
    options = {**options, "durability": "process"}
    if options["variables"] == SHARDS:
        options["zarr_format"] = 3
    many = together(wholes, steps, copy.deepcopy(options))
    single = one_by_one(singles, steps, options)
    given = [step for step in steps if isinstance(step, Given)]
    assert len(many) == len(single) == len(given)
    for step, ours, theirs in zip(given, many, single, strict=True):
        if ours.told is not None:
            assert ours.told == theirs.told, step
        assert ours.cube == theirs.cube, step


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int, *, is_random: bool = False) -> None:
    monkeypatch.setattr("zappend.chunking.LABELS_PER_CHUNK", 5)
    monkeypatch.setattr("zappend.arrays.READ_TOGETHER", 3)

    @settings(
        max_examples=count,
        database=None,
        derandomize=not is_random,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        steps=sequences(), options=OPTIONS, kept=st.sampled_from([2**20, 100]), small=st.sampled_from([0, 30, 2**20])
    )
    def slices_together_are_slices_one_by_one(
        steps: list[Step], options: dict[str, Any], kept: int, small: int
    ) -> None:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr("zappend.arrays.KEPT_BYTES", kept)
            patch.setattr("zappend.appender.SMALL_BYTES", small)
            warnings.simplefilter("ignore")
            check(folder, steps, options)

    slices_together_are_slices_one_by_one()


def test_slices_in_one_call_are_slices_in_many(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(home, monkeypatch, QUICK)


@pytest.mark.campaign
def test_many_slices_in_one_call_are_slices_in_many(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(home, monkeypatch, MANY, is_random=True)


# Single sequences, each of which once went wrong.


def hour(i: int, *, labels: np.ndarray[Any, Any] | None = None, **attrs: Any) -> xr.Dataset:
    """Return a slice of one label, without indexes, so that xarray takes no copy of it."""
    time = np.array([i]) if labels is None else labels
    coords = {"time": xr.Variable("time", time, UNITS), "x": xr.Variable("x", np.arange(3.0))}
    return xr.Dataset({"a": (("time", "x"), np.full((1, 3), i, "f4"))}, xr.Coordinates(coords, indexes={}), attrs)


def test_attributes_of_all_slices_are_kept_where_there_were_none() -> None:
    cube: dict[str, bytes] = {}
    zappend.append(cube, hour(0))
    for document in (".zmetadata", ".zattrs"):
        del cube[document]
    zappend.append(cube, [hour(1, first=1), hour(2, second=2)], attrs_update_mode="update")
    assert json.loads(cube[".zattrs"]) == {"first": 1, "second": 2}


@pytest.mark.parametrize("mode", ["update", "keep"])
def test_attributes_that_others_add_between_slices_stay(home: Path, mode: str) -> None:
    zappend.append(home / "cube.zarr", hour(0))
    (home / "cube.zarr/.zattrs").unlink()

    def slices() -> Iterator[xr.Dataset]:
        yield hour(1)
        zarr.open_group(home / "cube.zarr", mode="r+").attrs["who"] = "another"
        yield hour(2, second=2)

    zappend.append(home / "cube.zarr", slices(), attrs_update_mode=mode)
    attrs = json.loads((home / "cube.zarr/.zattrs").read_bytes())
    assert attrs == {"who": "another", **({"second": 2} if mode == "update" else {})}


def test_metadata_that_others_consolidate_between_slices_grows(home: Path) -> None:
    zappend.append(home / "cube.zarr", hour(0))
    (home / "cube.zarr/.zmetadata").unlink()

    def slices() -> Iterator[xr.Dataset]:
        yield hour(1)
        zarr.consolidate_metadata(home / "cube.zarr")
        yield hour(2)

    zappend.append(home / "cube.zarr", slices())
    assert xr.open_zarr(home / "cube.zarr", consolidated=True).sizes["time"] == 3


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_array_of_labels_may_be_used_again(zarr_format: int) -> None:
    cube: dict[str, bytes] = {}
    labels = np.array([0])

    def slices() -> Iterator[xr.Dataset]:
        for i in range(4):
            labels[0] = i
            yield hour(i, labels=labels)

    one_label = {"time": {"encoding": {"chunks": [1]}}}
    assert zappend.append(cube, slices(), zarr_format=zarr_format, variables=one_label) == 4


def test_labels_that_codecs_round_are_compared_as_they_are_stored() -> None:
    cube: dict[str, bytes] = {}
    rounding = {"id": "quantize", "digits": 0, "dtype": "<f8"}
    slices = [hour(i).assign_coords(time=("time", [label])) for i, label in enumerate((0.2, 1.6, 1.9))]
    with pytest.raises(SliceError, match=r"label 1\.9 is not after the last label of the cube, 2\.0"):
        zappend.append(cube, slices, variables={"time": {"encoding": {"filters": [rounding], "chunks": [1]}}})


def test_labels_that_others_removed_do_not_come_back() -> None:
    cube: dict[str, bytes] = {}
    settings: dict[str, Any] = {"variables": {"time": {"encoding": {"chunks": [2]}}}, "append_step": "any"}
    zappend.append(cube, [hour(1), hour(2)], **settings)
    before: dict[str, bytes] = {}

    def slices() -> Iterator[xr.Dataset]:
        yield hour(3)
        yield hour(4).isel(time=[0, 0, 0])  # in a new chunk, which ends with one label
        del cube["time/2"], cube["time/1"]
        before.update(cube)
        yield hour(5).assign(a=hour(5).a.astype("f8") * 1e300)

    with pytest.raises(SliceError, match="too large for float32"):
        zappend.append(cube, slices(), slice_size="any", threads=1, **settings)
    assert cube == before


def test_places_that_differ_are_noticed_whatever_type_of_strings_they_have() -> None:
    cube: dict[str, bytes] = {}
    slices = [hour(i) for i in range(4)]
    for i, new in enumerate(slices):
        names = [f"the place that has the number {j}" for j in (0, 1, 7 if i == 3 else 2)]
        new["place"] = ("x", np.array(names, StringDType()))
    with pytest.raises(SliceError, match="variable 'place' is not that of the target: the place that has the number 7"):
        zappend.append(cube, slices)
    assert zappend.append(cube, hour(3).assign(place=slices[0].place)) == 1


@pytest.mark.parametrize("dtype", [object, StringDType()], ids=str)
def test_slices_may_have_text_that_stands_for_missing_text(dtype: Any) -> None:
    cube: dict[str, bytes] = {}
    slices = [
        hour(i).assign(note=("time", np.array(["a"], object), {"missing_value": np.array(["-", "?"], dtype)}))
        for i in range(3)
    ]
    assert zappend.append(cube, slices) == 3
    assert xr.open_zarr(cubes.zarr_store(cube)).note.values.tolist() == ["a", "a", "a"]


def test_memory_between_slices_does_not_grow_with_what_does_not_depend_on_the_append_dimension(home: Path) -> None:
    path = home / "slice.zarr"
    hour(0).assign(mask=(("y", "x"), np.arange(3e6).reshape(-1, 3))).to_zarr(path)
    held: list[int] = []

    def slices() -> Iterator[xr.Dataset]:
        for i in range(4):
            with xr.open_zarr(path, chunks=None, decode_times=False) as opened:
                yield opened.assign_coords(time=("time", [i], UNITS))
            held.append(tracemalloc.get_traced_memory()[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zappend.checks.KEPT_BYTES", 10**6)
        patch.setattr("zappend.arrays.KEPT_BYTES", 10**6)
        tracemalloc.start()
        try:
            zappend.append(home / "cube.zarr", slices(), durability="process")
        finally:
            tracemalloc.stop()
    assert max(held) < 30e6, "as much as the slice alone holds, which is 24 MB"
