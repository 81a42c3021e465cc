"""Settings that say which dimensions slices and variables have, and of which size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cubes
import numpy as np
import pytest
import xarray as xr

import zappend
from zappend.errors import SliceError, UsageError

formats = pytest.mark.parametrize("zarr_format", [2, 3])


# fixed_dims


@formats
@pytest.mark.effect("fixed_dims")
def test_fixed_dims(zarr_format: int) -> None:
    target: dict[str, bytes] = {}
    settings: dict[str, Any] = {"fixed_dims": {"x": 4, "y": 3, "bnds": 2}, "excluded_variables": ["time_bnds"]}
    wrong = "slice {}: Wrong size for fixed dimension 'x' in dataset: expected 4, found 6$"
    with pytest.raises(SliceError, match=wrong.format(0)):
        zappend.append(target, cubes.small(0, x=6), zarr_format=zarr_format, **settings)
    assert not target
    assert zappend.append(target, cubes.small(0), zarr_format=zarr_format, **settings) == 1
    before = dict(target)
    with pytest.raises(SliceError, match=wrong.format(1)):
        zappend.append(target, [cubes.small(2), cubes.small(4, x=6)], dry_run=True, **settings)
    assert target == before
    assert zappend.append(target, cubes.small(2), **settings) == 1


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"z": 5}, "slice 0: Fixed dimension 'z' not found in dataset, which has 'time', 'y', 'x', 'bnds'"),
        (
            {"x": 5, "y": 2},
            "'x' in dataset: expected 5, found 4; Wrong size for fixed dimension 'y' in dataset: expected 2",
        ),
    ],
)
def test_fixed_dims_that_a_slice_has_not(fixed: dict[str, int], message: str) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0))
    before = dict(target)
    with pytest.raises(SliceError, match=message):
        zappend.append(target, cubes.small(2), fixed_dims=fixed)
    assert target == before


def test_the_append_dimension_is_not_fixed() -> None:
    target: dict[str, bytes] = {}
    with pytest.raises(UsageError, match="Size of append dimension 'time' must not be fixed"):
        zappend.append(target, cubes.small(0), fixed_dims={"time": 2})
    assert not target


def test_a_cube_has_the_fixed_dims_too() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0))
    before = dict(target)
    with pytest.raises(
        UsageError, match=r"'x' in the target: expected 6, found 4; a cube keeps its sizes: change fixed_d"
    ):
        zappend.append(target, cubes.small(2, x=6), fixed_dims={"x": 6})
    assert target == before


# variables.<name>.dims


DIMS = ["time", "y", "x"]


def by_settings(**encoding: Any) -> dict[str, Any]:
    return {"dims": DIMS, "encoding": encoding}


@formats
@pytest.mark.effect("variables.dims")
def test_dims_of_a_variable(zarr_format: int) -> None:
    target: dict[str, bytes] = {}
    settings: dict[str, Any] = {"variables": {"a": {"dims": DIMS}, "*": {"dims": ["x"]}}}
    turned = cubes.small(0).transpose("x", ...)
    message = r"variable 'a': expected \('time', 'y', 'x'\), found \('x', 'time', 'y'\) in dataset"
    with pytest.raises(SliceError, match=f"slice 0: Dimension mismatch for {message}"):
        zappend.append(target, turned, zarr_format=zarr_format, **settings)
    assert not target
    zappend.append(target, cubes.small(0), zarr_format=zarr_format, **settings)
    before = dict(target)
    with pytest.raises(SliceError, match=f"slice 0: Dimension mismatch for {message}"):
        zappend.append(target, turned, **settings)
    with pytest.raises(
        UsageError, match=r"'a' has dims \('time', 'y', 'x'\) in the target, and \('x', 'time', 'y'\) in"
    ):
        zappend.append(target, turned, variables={"a": {"dims": ["x", "time", "y"]}})
    assert target == before


KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "floats": ({"dtype": "f4"}, np.nan),
    "floats that are packed": ({"dtype": "i2", "scale_factor": 0.01, "fill_value": -1}, np.nan),
    "floats with a fill value": ({"dtype": "f8", "fill_value": "NaN"}, np.nan),
    "whole numbers": ({"dtype": "u1", "fill_value": 255}, np.nan),
    "times": ({"dtype": "i8", "units": "hours since 2000-01-01"}, np.datetime64("NaT", "ns")),
    "times of numpy": ({"dtype": "datetime64[s]"}, np.datetime64("NaT", "ns")),
    "complex numbers": ({"dtype": "c8"}, complex(np.nan, np.nan)),
}


@formats
@pytest.mark.parametrize("kind", KINDS)
def test_a_variable_that_no_slice_has_yet(tmp_path: Path, zarr_format: int, kind: str) -> None:
    """It begins with the cube, filled; each later slice fills it again, or has it."""
    encoding, missing = KINDS[kind]
    target = tmp_path / "cube.zarr"
    settings: dict[str, Any] = {"variables": {"b": by_settings(**encoding), "*": {"encoding": {"chunks": {"x": 2}}}}}
    slices = [cubes.small(0), cubes.small(2), cubes.small(4), cubes.small(6)]
    dtype = np.dtype(missing.dtype if isinstance(missing, np.datetime64) else type(missing))
    values = np.array(["2024-01-01T01"], "M8[ns]") if dtype.kind == "M" else np.array([1.0])
    slices[2]["b"] = (DIMS, np.resize(values, (2, 3, 4)).astype(dtype if dtype.kind == "c" else values.dtype))
    zappend.append(target, slices, zarr_format=zarr_format, **settings)
    with xr.open_zarr(target, chunks=None) as cube:
        expected = cubes.concatenated([one.drop_vars("b", errors="ignore") for one in slices])
        xr.testing.assert_identical(cube.drop_vars("b").load(), expected)
        assert cube.b.dims == tuple(DIMS)
        assert cube.b.isnull().values[[0, 1, 2, 3, 6, 7]].all()
        np.testing.assert_array_equal(cube.b[4:6].values.astype(slices[2].b.dtype), slices[2].b.values)
    cubes.assert_bytes_of_zarr(target, tmp_path)
    # It is written: a chunk of it that is missing is lost.
    assert len(list((target / "b").rglob("*.0.0" if zarr_format == 2 else "c/*/0/0"))) == 4


def test_strings_that_no_slice_has_yet() -> None:
    target: dict[str, bytes] = {}
    variables = {"b": by_settings(dtype="string", fill_value="none")}
    zappend.append(target, [cubes.small(0), cubes.small(2)], variables=variables)
    raw = xr.open_zarr(cubes.zarr_store(target), mask_and_scale=False, chunks=None)
    assert (raw.b == "none").all()
    with pytest.raises(SliceError, match="in Zarr format 3 xarray cannot read strings with a fill value"):
        zappend.append({}, cubes.small(0), variables=variables, zarr_format=3)


def test_only_variables_with_dims_are_filled_unasked(caplog: pytest.LogCaptureFixture) -> None:
    target: dict[str, bytes] = {}
    caplog.set_level("INFO", "zappend")
    settings: dict[str, Any] = {
        "variables": {"b": by_settings(dtype="f4"), "grid": {"dims": ["y"], "encoding": {"dtype": "f4"}}}
    }
    zappend.append(target, cubes.small(0), **settings)
    assert "Variable 'b' not found in slice dataset; creating it." in caplog.messages
    assert zappend.append(target, cubes.small(2), **settings) == 1
    with pytest.raises(SliceError, match=r"slice 0: variable 'packed' is missing; missing_variables 'fill' fills it$"):
        zappend.append(target, cubes.small(4).drop_vars("packed"), **settings)
    with pytest.raises(
        SliceError, match="variable 'b' is missing; missing_variables 'fill' fills it; variable 'grid' is"
    ):
        zappend.append(target, cubes.small(4))
    assert zappend.append(target, cubes.small(4), missing_variables="fill") == 1


def test_variables_that_only_the_settings_have_can_be_included_and_excluded() -> None:
    settings: dict[str, Any] = {
        "variables": {"b": by_settings(dtype="f4")},
        "included_variables": ["time", "b"],
    }
    target: dict[str, bytes] = {}
    zappend.append(target, [cubes.small(0), cubes.small(2)], **settings)
    cube = cubes.open_mapping(target)
    assert set(cube.variables) == {"time", "b"}
    assert cube.b.shape == (4, 3, 4)
    target = {}
    zappend.append(target, cubes.small(0), {**settings, "included_variables": []}, excluded_variables=["b"])
    assert "b" not in cubes.open_mapping(target)


@pytest.mark.parametrize(
    ("name", "variable", "error", "message"),
    [
        (
            "b",
            {},
            UsageError,
            "(Missing dimensions of variable 'b': with dims, and dtype and fill_value in its encoding, it is created)",
        ),
        ("packd", {}, UsageError, "setting variables.packd: slice 0 has no variable 'packd'; did you mean 'packed'?"),
        ("b", {"dims": DIMS}, UsageError, "Missing 'dtype' in encoding configuration of variable 'b'"),
        (
            "b",
            by_settings(dtype="i2"),
            UsageError,
            "Missing 'fill_value' in encoding configuration of variable 'b', which",
        ),
        (
            "b",
            by_settings(dtype="string"),
            UsageError,
            "Missing 'fill_value' in encoding configuration of variable 'b'",
        ),
        ("b", by_settings(dtype="i2", fill_value=None), UsageError, "Missing 'fill_value' in encoding configuration"),
        (
            "b",
            by_settings(dtype="bool"),
            UsageError,
            "variables.b: booleans have no missing value, so none can be made",
        ),
        ("b", by_settings(dtype="i1", fill_value=300), UsageError, "encoding.fill_value: 300 is no value of int8"),
        ("b", by_settings(dtype="i1", fill_value=1.5), UsageError, "encoding.fill_value: 1.5 is no value of int8"),
        (
            "b",
            by_settings(dtype="f4", fill_value="many"),
            UsageError,
            "encoding.fill_value: 'many' is no value of float32",
        ),
        ("b", by_settings(dtype="string", fill_value=3), UsageError, "encoding.fill_value: 3 is no value of string"),
        ("b", by_settings(dtype="f5"), UsageError, "encoding.dtype: 'f5' is no type that can be stored"),
        ("b", {"dims": ["x", "x"], "encoding": {"dtype": "f4"}}, UsageError, "has a dimension twice"),
        (
            "b",
            {"dims": ["Y"], "encoding": {"dtype": "f4"}},
            SliceError,
            "Dimension 'Y' of variable 'b' not found in dataset",
        ),
        ("b/c", by_settings(dtype="f4"), SliceError, "'b/c' cannot be the name of an array in a cube"),
        (
            "time",
            {"dims": ["time"], "encoding": {"dtype": "i8"}},
            UsageError,
            "slice 0 has no labels 'time', and none can be",
        ),
    ],
)
def test_variables_that_cannot_be_made(name: str, variable: Any, error: type[Exception], message: str) -> None:
    target: dict[str, bytes] = {}
    first = cubes.small(0).drop_vars("time")
    with pytest.raises(error, match=message):
        zappend.append(target, first, variables={name: variable}, append_step="any")
    assert not target


def test_an_existing_cube_gets_no_new_variable() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0))
    before = dict(target)
    with pytest.raises(UsageError, match=r"variables\.b: the target has no variable 'b'"):
        zappend.append(target, cubes.small(2), variables={"b": by_settings(dtype="f4")})
    assert target == before
