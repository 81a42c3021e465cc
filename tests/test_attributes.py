"""Attributes that the settings give: fixed ones, computed ones, those of variables; and how they come into the cube."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import cubes
import fsspec
import numpy as np
import pytest
import xarray as xr
import yaml
import zarr
from conftest import FolderCase
from faultlab import days
from s3server import BUCKET, S3Server

import zappend
from zappend.errors import SliceError, UsageError
from zappend.expressions.arrays import ARRAY_METHODS, REDUCTIONS, SHAPE, TIME_METHODS
from zappend.expressions.functions import FUNCTIONS
from zappend.testing import Faults, Killed

COVERAGE = {
    "title": "from {{ ds.time[0].dt.strftime('%d.%m.') }} to {{ ds.time[-1].dt.strftime('%d.%m.') }}",
    "time_coverage_start": "{{ lower_bound(ds.time) }}",
    "time_coverage_end": "{{ upper_bound(ds.time) }}",
    "size": "{{ ds.sizes['time'] }}",
    "extent": "{{ [ds.x.min(), ds.x.max()] }}",
    "most": "{{ round(float(ds.counts.max()), 1) }}",
    "fixed": [1, 2.5, None, {"a": True}],
}


def attrs_of(target: Path) -> dict[str, Any]:
    """Return the attributes of the cube, which every way to open it must agree on."""
    found = [dict(zarr.open_group(target, mode="r", use_consolidated=way).attrs) for way in (True, False)]
    with xr.open_zarr(target, chunks=None) as cube:
        assert found[0] == found[1] == cube.attrs
    document = json.loads((target / name).read_bytes()) if (target / (name := "zarr.json")).exists() else None
    if document is None:
        assert json.loads((target / ".zattrs").read_bytes()) == found[0]
    return found[0]


@pytest.mark.effect("attrs", "permit_eval")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("at_once", [True, False])
def test_each_slice_sets_attributes_that_see_it(tmp_path: Path, zarr_format: int, at_once: bool) -> None:
    target = tmp_path / "cube.zarr"
    slices = [cubes.packed(0), cubes.packed(2), cubes.packed(4)]
    how: dict[str, Any] = {"zarr_format": zarr_format, "permit_eval": True, "attrs": COVERAGE}
    for last, batch in enumerate([slices] if at_once else [[one] for one in slices], 2 if at_once else 0):
        zappend.append(target, batch, **how)
        so_far = cubes.concatenated(slices[: last + 1])
        end = 2 * (last + 1)
        assert attrs_of(target) == {
            "title": f"from 01.01. to 0{end}.01.",
            "Conventions": "CF-1.8",
            "time_coverage_start": "2024-01-01T00:00:00",
            "time_coverage_end": f"2024-01-0{end + 1}T00:00:00",
            "size": end,
            "extent": [10.0, 13.0],
            "most": float(so_far.counts.max()),
            "fixed": [1, 2.5, None, {"a": True}],
        }
        with xr.open_zarr(target, chunks=None) as cube:
            xr.testing.assert_equal(cube.load(), so_far)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


def _store(kind: str, folder: Path, server: S3Server) -> tuple[Any, Any]:
    """Return a target, and what reads its keys."""
    if kind == "s3":
        server.reset()
        mapper = fsspec.filesystem("s3", **server.storage_options()).get_mapper(f"{BUCKET}/cube.zarr")
        return mapper, mapper
    if kind == "mapping":
        data: dict[str, bytes] = {}
        return data, data
    if kind == "memory":
        mapper = fsspec.get_mapper(f"memory://{folder.name}/cube.zarr")
        return mapper, mapper
    return folder / "cube.zarr", fsspec.get_mapper(str(folder / "cube.zarr"))


@pytest.mark.parametrize("kind", ["mapping", "memory", "folder", "s3"])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("group", ["", "a/b"])
def test_everywhere(tmp_path: Path, server: S3Server, kind: str, zarr_format: int, group: str) -> None:
    target, keys = _store(kind, tmp_path, server)
    how: dict[str, Any] = {"zarr_format": zarr_format, "group": group, "permit_eval": True}
    for start in (0, 2):
        zappend.append(target, cubes.small(start), attrs={"n": "{{ len(ds.time) }} at {{ ds.a.mean() > -9 }}"}, **how)
    documents = {key: json.loads(value) for key, value in keys.items() if key.endswith(("zarr.json", ".zattrs"))}
    folder = f"{group}/" if group else ""
    expected = "4 at True"
    if zarr_format == 3:
        assert documents[f"{folder}zarr.json"]["attributes"]["n"] == expected
        if group:
            listed = documents["zarr.json"]["consolidated_metadata"]["metadata"][group]
            assert listed["attributes"]["n"] == expected
    else:
        assert documents[f"{folder}.zattrs"]["n"] == expected
        listed = json.loads(keys[".zmetadata"])["metadata"]
        assert listed[f"{folder}.zattrs"]["n"] == expected


def test_a_cube_without_consolidated_metadata(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    for zarr_format in (2, 3):
        cubes.small(0).to_zarr(target, zarr_format=zarr_format, consolidated=False, mode="w")
        zappend.append(target, cubes.small(2), permit_eval=True, attrs={"n": "{{ ds.sizes['time'] }}", "m": 1})
        group = zarr.open_group(target, use_consolidated=False)
        assert {**group.attrs} == {**cubes.small().attrs, "n": 4, "m": 1}
        assert not (target / ".zmetadata").exists()


MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "keep": ({"a": 1, "b": 1}, {"a": 1, "b": 1}),
    "replace": ({"a": 1, "b": 1}, {"b": 2, "c": 2}),
    "update": ({"a": 1, "b": 1}, {"a": 1, "b": 2, "c": 2}),
    "ignore": ({}, {}),
}


@pytest.mark.effect("attrs_update_mode")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_they_win_over_those_of_slices_in_every_mode(tmp_path: Path, mode: str, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    how: dict[str, Any] = {"attrs_update_mode": mode, "zarr_format": zarr_format, "permit_eval": True}
    first, second = (
        cubes.small(start).assign_attrs(attrs) for start, attrs in ((0, {"a": 1, "b": 1}), (2, {"b": 2, "c": 2}))
    )
    del first.attrs["title"], first.attrs["Conventions"], second.attrs["title"], second.attrs["Conventions"]
    zappend.append(target, first, **how)
    assert attrs_of(target) == MODES[mode][0]
    zappend.append(target, second, attrs={"b": "ours", "n": "{{ ds.sizes['time'] }}", "seen": "{{ ds.attrs }}"}, **how)
    before = {**MODES[mode][1], "b": "ours"}
    assert attrs_of(target) == {**before, "n": 4, "seen": before}


def test_ignore_leaves_what_a_cube_has(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    zappend.append(target, cubes.small(0))
    zappend.append(target, cubes.small(2), attrs_update_mode="ignore", attrs={"more": 1})
    assert attrs_of(target) == {**cubes.small().attrs, "more": 1}


def test_an_expression_sees_its_last_value(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    slices = [cubes.small(0), cubes.small(2), cubes.small(4)]
    zappend.append(target, slices, permit_eval=True, attrs={"n": "{{ ds.attrs.get('n', 0) + 1 }}"})
    assert attrs_of(target)["n"] == 3


def test_without_permission_braces_are_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "cube.zarr"
    with caplog.at_level(logging.WARNING, "zappend.attributes"):
        zappend.append(target, [cubes.small(0), cubes.small(2)], attrs={"a": "{{ ds }}", "b": "{{ open", "c": "}} {{"})
    assert {name: attrs_of(target)[name] for name in "abc"} == {"a": "{{ ds }}", "b": "{{ open", "c": "}} {{"}
    told = [one.getMessage() for one in caplog.records if one.name == "zappend.attributes"]
    assert told == ["attrs.a: {{ … }} is taken as text; permit_eval: true evaluates it"]


def test_attributes_of_slices_are_never_evaluated(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    first = cubes.small(0).assign_attrs(evil="{{ 1 + 1 }}")
    zappend.append(target, first, permit_eval=True, attrs={"n": "{{ ds.evil }}", "deep": ["{{ 1 }}"]})
    assert attrs_of(target)["evil"] == attrs_of(target)["n"] == "{{ 1 + 1 }}"
    assert attrs_of(target)["deep"] == ["{{ 1 }}"]


TEMPLATES: dict[str, Any] = {
    "{{ 10 }}": 10,
    "{{10}}": 10,
    " {{ 10 }} ": " 10 ",
    "{{ 1 }}{{ 2 }}": "12",
    "{{ ds.attrs['title'] }} / {{ None }}": "small / None",
    "{{ {'a': {'b': 1}} }}": {"a": {"b": 1}},
    "{{ {'a': {'b': 1}}}}": {"a": {"b": 1}},
    "{{ {} }}": {},
    "{{ f'{1:{2}}' }}!": " 1!",
    "{{ '}}' }}{{ '{{' }}": "}}{{",
    "{{ (1,\n 2) }}": [1, 2],
    "}} {{ 1 }}": "}} 1",
    "{{ ds.time[0] }}/{{ ds.time[-1] }}": "2024-01-01T00:00:00/2024-01-02T00:00:00",
}


@pytest.mark.parametrize("text", TEMPLATES)
def test_what_stands_around_expressions(text: str) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0), permit_eval=True, attrs={"value": text})
    assert cubes.open_mapping(target).attrs["value"] == TEMPLATES[text]


WRONG_AT_ONCE = {
    "{{ __import__('os') }}": "setting attrs.x: expression '__import__('os')': there is no function '__import__'",
    "{{ }}": "setting attrs.x: expression '': it cannot be understood: invalid syntax",
    "{{ 1 }} {{": "setting attrs.x: '{{' at its end opens an expression that is not there",
    "{{ ds.time }": "setting attrs.x: '{{ ds.time }' opens an expression that '}}' does not close",
    "from {{": "setting attrs.x: '{{' at its end opens an expression that is not there",
    "{{ 1 }} {{ 2": "setting attrs.x: '{{ 2' opens an expression that '}}' does not close",
    "{{ 1 + }}": "setting attrs.x: expression '1 +': it cannot be understood",
    "{{ {1: 2 }}": "setting attrs.x: expression '{1: 2': it cannot be understood: '{' was never closed",
    "{{ ds.__class__ }}": "setting attrs.x: expression 'ds.__class__': '__class__' is private",
    "{{ 1 if 1 else [y for y in ds] }}": "[y for y in ds]': a loop is not allowed",
    "{{ 1 }}" * 101: "setting attrs.x: it has more than 100 expressions",
    "{{ " + "}} " * 2000: "setting attrs.x: expression '",
}

WRONG_IN_THE_CUBE = {
    "{{ ds.nothing }}": "setting attrs.x: expression 'ds.nothing': Dataset has no 'nothing' here",
    "a {{ ds.time.encoding }}": "DataArray has no 'encoding' here; there are",
    "{{ 1 / (ds.sizes['time'] - SIZE) }}": "ZeroDivisionError: division by zero",
    "{{ ds }}": "cannot serialize value of type Dataset",
}


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("text", [*WRONG_AT_ONCE, *WRONG_IN_THE_CUBE])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_wrong_expression_changes_nothing(tmp_path: Path, text: str, existing: bool, dry_run: bool) -> None:
    target = tmp_path / "cube.zarr"
    if existing:
        zappend.append(target, cubes.small(0))
    before = cubes.tree(tmp_path)
    new = cubes.small(2 * existing)
    source = text.replace("SIZE", str(new.sizes["time"] * (1 + existing)))
    how: dict[str, Any] = {"permit_eval": True, "dry_run": dry_run}
    with pytest.raises(UsageError) as caught:
        zappend.append(target, new, attrs={"y": 1, "x": source}, **how)
    assert (WRONG_AT_ONCE | WRONG_IN_THE_CUBE)[text] in str(caught.value)
    assert cubes.tree(tmp_path) == before
    zappend.append(target, new, attrs={"y": 1, "x": "{{ 1 }}"}, **how)
    assert (cubes.tree(tmp_path) == before) is dry_run


def test_a_syntax_error_is_told_before_a_slice_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"attrs\.x"):
        zappend.append(tmp_path / "cube.zarr", "not-there.nc", permit_eval=True, attrs={"x": "{{ 1 + }}"})


def test_slices_before_the_one_that_an_expression_fails_on_are_in(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    slices = [cubes.small(0), cubes.small(2), cubes.small(4)]
    with pytest.raises(UsageError, match="division by zero") as caught:
        zappend.append(target, slices, permit_eval=True, attrs={"x": "{{ 1 / (ds.sizes['time'] - 6) }}"})
    assert caught.value.__notes__ == ["the 2 slices before it went in"]
    assert attrs_of(target)["x"] == -0.5
    cubes.assert_cube(target, cubes.concatenated(slices[:2]).assign_attrs(x=-0.5))


def test_a_variable_that_no_slice_has_begins_with_its_attributes() -> None:
    target: dict[str, bytes] = {}
    encoding = {"dtype": "float32", "fill_value": "NaN"}
    wanted = {"dims": ["time", "x"], "encoding": encoding, "attrs": {"units": "K", "long_name": "to come"}}
    for start in (0, 2):
        zappend.append(target, cubes.small(start), variables={"b": wanted})
    assert cubes.open_mapping(target).b.attrs == {"units": "K", "long_name": "to come"}


@pytest.mark.parametrize(("zarr_format", "group"), [(2, "a/cube"), (3, "")])
def test_a_kill_anywhere_leaves_the_old_value_or_the_new_one(home: Path, zarr_format: int, group: str) -> None:
    case = FolderCase(home, "process")
    how: dict[str, Any] = {"group": group, "threads": 1, "zarr_format": zarr_format, "permit_eval": True}
    how["attrs"] = {"n": "{{ ds.sizes['time'] }}", "sum": "{{ ds.sst.sum() }}"}
    store: dict[str, bytes] = {}
    zappend.append(store, days(0), **how)
    case.reset(store)
    old, probe = case.state(), Faults()
    zappend.append(case.target(probe), days(2), **how)
    new = case.state()
    for at in range(1, len(probe.calls) + 1):
        case.reset(store)
        with pytest.raises(Killed):
            zappend.append(case.target(Faults(at, lasting=True)), days(2), **how)
        case.bury()
        zappend.rollback(case.target())
        assert case.state() in (old, new), at


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_dry_run_evaluates_what_would_be(tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    zappend.append(target, cubes.small(0), zarr_format=zarr_format)
    before = cubes.tree(tmp_path)
    how: dict[str, Any] = {"permit_eval": True, "dry_run": True}
    slices = [cubes.small(2), cubes.small(4)]
    # NaN, which what is not there would give, is no int.
    attrs = {"n": "{{ 1 / (ds.sizes['time'] - SIZE) }}", "sum": "{{ int(ds.a.isel(x=1).sum(skipna=False)) }}"}
    assert zappend.append(target, slices, attrs={**attrs, "n": attrs["n"].replace("SIZE", "7")}, **how) == 2
    for size in (4, 6):
        with pytest.raises(UsageError, match="division by zero"):
            zappend.append(target, slices, attrs={**attrs, "n": attrs["n"].replace("SIZE", str(size))}, **how)
    assert cubes.tree(tmp_path) == before


def test_only_expressions_read_the_cube(tmp_path: Path) -> None:
    """Fixed attributes that a cube has cost nothing, and its documents stay as they are but for their sizes."""
    target = tmp_path / "cube.zarr"
    zappend.append(target, cubes.small(0), attrs={"a": [1, {"b": None}]})
    changed = (target / ".zattrs").stat().st_mtime_ns
    zappend.append(target, cubes.small(2), attrs={"a": [1, {"b": None}]})
    assert (target / ".zattrs").stat().st_mtime_ns == changed
    zappend.append(target, cubes.small(4), attrs={"a": [2]})
    assert attrs_of(target) == {**cubes.small().attrs, "a": [2]}


def test_values_that_json_has_not() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0), attrs={"day": date(2024, 1, 2), "n": np.float32(0.5), "t": (1, np.int8(2))})
    attrs = cubes.open_mapping(target).attrs
    assert {name: attrs[name] for name in ("day", "n", "t")} == {"day": "2024-01-02", "n": 0.5, "t": [1, 2]}
    numbers = {"a": float("nan"), "b": [float("inf")]}
    zappend.append(target, cubes.small(2), attrs=numbers)
    attrs = json.loads(target[".zattrs"], parse_constant=pytest.fail)
    assert (attrs["a"], attrs["b"]) == ("nan", ["inf"])
    with pytest.raises(UsageError, match=r"setting attrs\.x: a set is no value of an attribute"):
        zappend.append({}, cubes.small(0), attrs={"x": [{1}]})


# Of variables.


@pytest.mark.effect("variables.attrs")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_attributes_of_variables_begin_with_the_cube(tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    variables = {
        "*": {"attrs": {"source": "model", "long_name": "any", "units": "1"}},
        "a": {"attrs": {"long_name": "temperature", "units": "degC", "valid_range": [0, 30]}},
        "time": {"attrs": {"axis": "T", "text": "{{ 1 }}"}},
        "packed": {"attrs": {"cell_methods": None}},
    }
    for start in (0, 2, 4):
        zappend.append(target, cubes.packed(start), variables=variables, zarr_format=zarr_format, permit_eval=True)
    for consolidated in (True, False):
        with xr.open_zarr(target, consolidated=consolidated, chunks=None) as cube:
            assert cube.a.attrs == {
                "units": "degC",
                "long_name": "temperature",
                "source": "model",
                "valid_range": [0, 30],
            }
            assert cube.packed.attrs == {"source": "model", "long_name": "any", "units": "1", "cell_methods": None}
            assert cube.time.attrs["axis"] == "T"
            assert cube.time.attrs["text"] == "{{ 1 }}"
            assert "units" not in cube.time.attrs
            np.testing.assert_array_equal(cube.time, cubes.days(0, 6))


MEANINGS: list[tuple[str, dict[str, Any], str]] = [
    ("a", {"_FillValue": 0}, "set variables.a.encoding.fill_value"),
    ("a", {"missing_value": 0}, "set variables.a.encoding.fill_value"),
    ("a", {"scale_factor": 2}, "variables.a.attrs.scale_factor: the attribute scale_factor of 'a' says how"),
    ("a", {"add_offset": 2}, "set variables.a.encoding.add_offset"),
    ("counts", {"_Unsigned": "true"}, "set variables.counts.encoding.dtype"),
    ("ok", {"dtype": "int8"}, "set variables.ok.encoding.dtype"),
    ("a", {"units": "days since 2000-01-01"}, "set variables.a.encoding.units"),
    ("time", {"units": "days since 2000-01-01"}, "set variables.time.encoding.units"),
    ("time", {"units": "s"}, "set variables.time.encoding.units"),
    ("time_bnds", {"units": "s"}, "set variables.time_bnds.encoding.units"),
    ("time", {"calendar": "noleap"}, "set variables.time.encoding.calendar"),
    ("a", {"_ARRAY_DIMENSIONS": ["x"]}, "set variables.a.dims"),
    ("time", {"bounds": "age"}, "'age' holds numbers, and 'time' times, so it cannot be that of its bounds"),
    ("a", {"x": {1}}, "variables.a.attrs.x: a set is no value of an attribute"),
]


@pytest.mark.parametrize(("variable", "attrs", "message"), MEANINGS)
def test_what_says_how_values_are_stored_is_no_attribute(variable: str, attrs: dict[str, Any], message: str) -> None:
    target: dict[str, bytes] = {}
    for existing in (False, True):
        if existing:
            zappend.append(target, cubes.small(0))
        before = dict(target)
        with pytest.raises(UsageError) as caught:
            zappend.append(target, cubes.small(2 * existing), variables={variable: {"attrs": attrs}})
        assert str(caught.value).startswith(f"setting variables.{variable}.attrs.")
        assert message in str(caught.value)
        assert target == before


def test_nor_under_the_name_of_all() -> None:
    target: dict[str, bytes] = {}
    with pytest.raises(
        UsageError, match=r"variables\.\*\.attrs\.scale_factor: .* set variables\.a\.encoding\.scale_factor"
    ):
        zappend.append(target, cubes.small(0), variables={"*": {"attrs": {"scale_factor": 2}}})
    assert target == {}


def test_a_reference_to_what_is_not_there_is_refused() -> None:
    with pytest.raises(SliceError, match="'nowhere' is missing, which the attribute grid_mapping of 'a' names"):
        zappend.append({}, cubes.small(0), variables={"a": {"attrs": {"grid_mapping": "nowhere"}}})
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0), variables={"a": {"attrs": {"grid_mapping": "crs"}}})
    assert cubes.open_mapping(target).a.attrs.get("grid_mapping", "crs") == "crs"


def test_units_that_are_said_to_be_others_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Which are wrong, those of the slice or of the settings, nobody else can know."""
    new = xr.Dataset({"a": ("time", [1.0], {"units": "K"})}, {"time": [np.datetime64("2026-01-01", "ns")]})
    for units, warns in (("degC", True), ("K", False)):
        caplog.clear()
        zappend.append({}, new, variables={"a": {"attrs": {"units": units}}})
        assert ("has the units 'K', and setting variables.a.attrs.units says 'degC'" in caplog.text) == warns


def test_units_that_differ_from_those_of_the_cube_are_refused() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0))
    before = dict(target)
    with pytest.raises(SliceError, match="'a' has units 'degC', expected 'K'"):
        zappend.append(target, cubes.small(2), variables={"a": {"attrs": {"units": "degC"}}})
    assert target == before


PAGE = Path(__file__).parents[1] / "docs" / "attributes.md"


def test_the_examples_of_the_manual() -> None:
    target: dict[str, bytes] = {}
    settings: dict[str, Any] = {}
    for block in PAGE.read_text().split("```yaml\n")[1:]:
        settings |= yaml.safe_load(block.partition("```")[0])
    slices = [cubes.small(start).rename(a="sst") for start in (0, 2)]
    slices = [one.assign(sst=one.sst.assign_attrs(units="K")) for one in slices]
    zappend.append(target, slices, settings)
    cube = cubes.open_mapping(target)
    attrs = {name: value for name, value in cube.attrs.items() if name != "date_modified"}
    assert attrs == {
        "title": "4 days up to 04.01.2024",
        "Conventions": "CF-1.8",
        "time_coverage_start": "2024-01-01T00:00:00",
        "time_coverage_end": "2024-01-05T00:00:00",
        "time_coverage_duration": "P4D",
        "geospatial_lon_min": 10.0,
        "geospatial_lon_max": 13.0,
        "extent": [9.5, 13.5],
        "warmest": f"{float(cube.sst.max()):.1f} degC",
        "appended": 2,
    }
    assert np.datetime64(cube.attrs["date_modified"].removesuffix("Z")) > np.datetime64("2024-01-01")
    assert cube.sst.attrs["long_name"] == "sea surface temperature"
    assert cube.sst.attrs["units"] == "degC"
    assert cube.x.attrs == {"institution": "Example"}


def test_the_manual_names_all_that_there_is() -> None:
    page = PAGE.read_text()
    for name in (*FUNCTIONS, *ARRAY_METHODS, *SHAPE, *REDUCTIONS, *TIME_METHODS):
        assert f"`{name}`" in page or f"`{name}()`" in page, name
