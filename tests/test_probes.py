"""The silent faults of appends that users of other tools have met: each is refused here, or comes out right.

A row is a probe: how the cube begins, the slice that follows, and the outcome, which is either the words of the
refusal, with the target's bytes unchanged, or the values that the whole cube must have. `seen` tells who met the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cftime
import cubes
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr

import zappend
from zappend.errors import SliceError, TargetError

Item = xr.Dataset | Callable[[Path], Any]
"""A slice, or what makes one in a folder."""


@dataclass(frozen=True)
class Foreign:
    """A cube that others have made: `make` does, at a path and in a format."""

    make: Callable[[Path, int], object]


@dataclass(frozen=True)
class Probe:
    """One row of the table.

    Attributes
    ----------
    first
        The first slice of the cube, or a cube.
    then
        The slice that is appended.
    refused
        The words of the refusal, as a regular expression; empty if the slice must go in.
    reads
        Values of the whole cube by variable, where the slice goes in.
    settings
        Of both appends.
    seen
        Where: repository and number of an issue, or upstream zappend.
    formats
        Of Zarr in which there is such a cube.
    """

    first: Item | Foreign
    then: Item
    refused: str = ""
    reads: Mapping[str, list[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seen: str = ""
    formats: tuple[int, ...] = (2, 3)


def one(value: Any, label: Any, encoding: Mapping[str, Any] | None = None, **attrs: Any) -> xr.Dataset:
    """Return a slice with one label, or as many as `value` has, and the variable ``v``."""
    values = np.atleast_1d(value)
    labels = np.arange(label, label + len(values)) if isinstance(label, int) else np.atleast_1d(label)
    dataset = xr.Dataset({"v": ("time", values, attrs)}, {"time": labels})
    dataset.v.encoding = dict(encoding or {})
    return dataset


def at(time: str, **encoding: Any) -> xr.Dataset:
    """Return a slice at a time."""
    dataset = one(1.0, np.datetime64(time, "ns"))
    dataset.time.encoding = encoding
    return dataset


def raw_at(number: Any, units: str, **attrs: Any) -> xr.Dataset:
    """Return a slice at a time that is not decoded."""
    return xr.Dataset({"v": ("time", [1.0])}, {"time": ("time", [number], {"units": units, **attrs})})


def grid(start: int, **changes: Any) -> xr.Dataset:
    """Return two days on a grid, with what else cubes have."""
    return cubes.packed(start, 2).assign(changes)


def days(*dates: str) -> list[np.datetime64]:
    """Return times as a cube has them."""
    return [np.datetime64(date, "ns") for date in dates]


PACKED = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}
NO_FILL = {"dtype": "i2", "scale_factor": 0.01}
DAYS = {"units": "days since 2024-01-01", "dtype": "i8"}
NAT = np.datetime64("NaT", "ns")
SCALED = {"id": "fixedscaleoffset", "scale": 10, "offset": 0, "dtype": "<f8", "astype": "<i2"}
MASKED = "marks as missing"
OUTSIDE = "outside of what int16 holds"
NOT_EXACT = "cannot be expressed exactly"


# Cubes and slices that others have made.


def zarr_array(values: Any, fill: Any, *filters: dict[str, Any]) -> Foreign:
    """Return a cube that zarr-python makes, with a fill value of its own."""

    def make(path: Path, zarr_format: int) -> None:
        array = np.asarray(values)
        ways: dict[str, Any] = {"dimension_names": ["time"]} if zarr_format == 3 else {}
        if filters:
            ways["filters"] = [numcodecs.get_codec(dict(config)) for config in filters]
        group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
        made = group.create_array("v", shape=array.shape, dtype=array.dtype, fill_value=fill, **ways)
        made[...] = array
        if zarr_format == 2:
            made.attrs["_ARRAY_DIMENSIONS"] = ["time"]

    return Foreign(make)


def by_xarray(dataset: xr.Dataset) -> Foreign:
    """Return a cube that xarray makes."""
    return Foreign(lambda path, zarr_format: dataset.to_zarr(path, zarr_format=zarr_format))


def netcdf(dataset: xr.Dataset) -> Callable[[Path], Path]:
    """Return what writes the slice as NetCDF, which is not decoded when it is read."""

    def make(folder: Path) -> Path:
        dataset.to_netcdf(folder / "slice.nc", engine="h5netcdf")
        return folder / "slice.nc"

    return make


def undecoded(dataset: xr.Dataset) -> Callable[[Path], xr.Dataset]:
    """Return what writes the slice as NetCDF, and opens it with ``decode_cf=False``."""
    return lambda folder: xr.load_dataset(netcdf(dataset)(folder), decode_cf=False, engine="h5netcdf")


def incomplete(zarr_format: int) -> Callable[[Path], Path]:
    """Return what writes a Zarr slice of which a chunk has not arrived."""

    def make(folder: Path) -> Path:
        path = folder / "slice.zarr"
        one(5.0, 1).to_zarr(path, zarr_format=zarr_format)
        (path / "v" / ("0" if zarr_format == 2 else "c/0")).unlink()
        return path

    return make


def filtered(*filters: dict[str, Any]) -> dict[str, Any]:
    """Return the settings by which ``v`` has filters."""
    return {"variables": {"v": {"encoding": {"filters": [*filters]}}}}


def twice(folder: Path) -> xr.Dataset:
    """Return a slice in which a variable has the append dimension twice, of which xarray warns."""
    return one([1.0, 2.0], 2).assign(v=(("time", "time"), np.eye(2)))


def times_of(**attrs: Any) -> xr.Dataset:
    return one(np.datetime64("2024-03-01", "ns"), 0, attrs)


PROBES: dict[str, Probe] = {
    # Times.
    "a label between units": Probe(at("2024-01-01", **DAYS), at("2024-01-02T06"), NOT_EXACT, seen="xarray #5969"),
    "a raw label between units": Probe(
        at("2024-01-01", **DAYS), raw_at(30, "hours since 2024-01-01"), NOT_EXACT, seen="xarray #5106"
    ),
    "a label in other units that fits": Probe(
        at("2024-01-01", **DAYS),
        raw_at(48, "hours since 2024-01-01"),
        reads={"time": days("2024-01-01", "2024-01-03")},
        seen="xarray #5969",
    ),
    "a label with a time zone": Probe(
        raw_at(0, "hours since 2024-01-01 00:00:00 +02:00"),
        raw_at(1, "hours since 2024-01-01 00:00:00"),
        reads={"time": days("2023-12-31T22", "2024-01-01T01")},
    ),
    "a label between float units": Probe(
        at("2024-01-01", units="days since 1900-01-01", dtype="f4"), at("2024-01-01T00:01"), NOT_EXACT
    ),
    "a label at a half of float units": Probe(
        at("2024-01-01", units="days since 2024-01-01", dtype="f8"),
        at("2024-01-01T12"),
        reads={"time": days("2024-01-01", "2024-01-01T12")},
    ),
    "a label beyond the type": Probe(
        at("2024-01-01", units="seconds since 2024-01-01", dtype="i4"), at("2100-01-01"), "outside of what int32 holds"
    ),
    "labels that are scaled": Probe(
        raw_at(5, "days since 2024-01-01", scale_factor=2.0),
        at("2024-01-21"),
        reads={"time": days("2024-01-11", "2024-01-21")},
    ),
    "labels that are shifted": Probe(
        raw_at(5, "days since 2024-01-01", add_offset=10.0),
        at("2024-01-21"),
        reads={"time": days("2024-01-16", "2024-01-21")},
    ),
    "a duration between units": Probe(
        one(np.timedelta64(1, "D").astype("m8[ns]"), 0, {"units": "days"}),
        one(np.timedelta64(90, "m").astype("m8[ns]"), 1),
        NOT_EXACT,
        seen="xarray #10639",
    ),
    "an auxiliary time between units": Probe(
        times_of(**DAYS), one(np.datetime64("2024-03-02T01", "ns"), 1), NOT_EXACT, seen="xarray #3379"
    ),
    "bounds between units": Probe(
        cubes.packed(0).assign(time_bnds=cubes.packed(0).time_bnds.assign_attrs()),
        cubes.packed(2).assign(time_bnds=cubes.packed(2).time_bnds + np.timedelta64(1, "m")),
        f"'time_bnds'.*{NOT_EXACT}",
    ),
    "bounds in other units": Probe(
        raw_at(0, "days since 2024-01-01", bounds="b").assign(b=(("time", "nv"), [[0, 1]])),
        raw_at(0, "days since 2024-02-01", bounds="b").assign(b=(("time", "nv"), [[0, 1]])),
        reads={"b": [days("2024-01-01", "2024-01-02"), days("2024-02-01", "2024-02-02")]},
    ),
    "climatology in other units": Probe(
        raw_at(0, "days since 2024-01-01", climatology="b").assign(b=(("time", "nv"), [[0, 1]])),
        raw_at(0, "days since 2024-02-01", climatology="b").assign(b=(("time", "nv"), [[0, 1]])),
        reads={"b": [days("2024-01-01", "2024-01-02"), days("2024-02-01", "2024-02-02")]},
    ),
    "another calendar": Probe(
        one(1.0, cftime.Datetime360Day(2024, 1, 30)),
        one(1.0, cftime.DatetimeNoLeap(2024, 3, 1)),
        "calendar 'noleap' cannot be stored in '360_day'|calendar",
        seen="upstream zappend",
    ),
    "another calendar, raw": Probe(
        raw_at(1, "days since 2024-01-01", calendar="360_day"),
        raw_at(2, "days since 2024-01-01", calendar="noleap"),
        "has the calendar 'noleap', expected '360_day'",
        seen="upstream zappend",
    ),
    "another calendar, one that agrees": Probe(
        raw_at(1, "days since 2024-01-01", calendar="standard"),
        raw_at(2, "days since 2024-01-01", calendar="proleptic_gregorian"),
        reads={"time": days("2024-01-02", "2024-01-03")},
    ),
    "another calendar, before the reform": Probe(
        raw_at(0, "days since 1500-01-01", calendar="standard"),
        raw_at(50, "days since 1500-01-01", calendar="proleptic_gregorian"),
        f"{NOT_EXACT}|calendar",
    ),
    "plain numbers for times": Probe(times_of(**DAYS), one(5, 1), r"holds numbers .*, expected times"),
    "times for plain numbers": Probe(
        one(5, 0), times_of().assign_coords(time=[1]), r"holds times .*, expected numbers"
    ),
    "NaT without a fill value": Probe(times_of(**DAYS), one(NAT, 1), "without a fill value", seen="xarray #7790"),
    "NaT with a fill value": Probe(
        times_of(**DAYS, _FillValue=-9), one(NAT, 1), reads={"v": [*days("2024-03-01"), NAT]}, seen="xarray #7790"
    ),
    "a time that is stored as the fill value": Probe(
        times_of(**DAYS, _FillValue=59), one(np.datetime64("2024-02-29", "ns"), 1), MASKED
    ),
    # Labels.
    "a repeated label": Probe(grid(0), grid(0), "are in the cube already, the first", seen="xarray #4958"),
    "an older label": Probe(grid(4), grid(0), "is not after the last label", seen="upstream zappend"),
    "an overlap": Probe(
        one([1.0, 2.0], 5),
        one([1.0, 2.0], 6),
        "is in the cube already, the first, 6, at index 1",
        seen="nc2zarr #41",
    ),
    "unsorted labels": Probe(
        one([1.0, 2.0, 3.0], 0), one([1.0, 2.0, 3.0], 3).isel(time=[1, 0, 2]), "not sorted", seen="upstream zappend"
    ),
    "descending labels": Probe(one([1.0, 2.0], 0), one([1.0, 2.0], 2)[{"time": [1, 0]}], "is not after"),
    "a label twice": Probe(one([1.0, 2.0], 0), one([1.0, 2.0], 2)[{"time": [0, 0]}], "label 2 is repeated"),
    "a label that is NaT": Probe(at("2024-01-01"), one(1.0, NAT), "is missing: it is NaN, NaT"),
    "a label that is NaN": Probe(one(1.0, 0.0), one(1.0, np.nan), "is missing: it is NaN, NaT"),
    "a raw label that is the fill value": Probe(
        raw_at(1, "days since 2024-01-01", _FillValue=9999),
        raw_at(9999, "days since 2024-01-01", _FillValue=9999),
        "is missing: it is NaN, NaT or the fill value",
    ),
    "a raw label that is missing_value": Probe(
        raw_at(1, "days since 2024-01-01", missing_value=9999),
        raw_at(9999, "days since 2024-01-01", missing_value=9999),
        "is missing: it is NaN, NaT or the fill value",
    ),
    "no labels": Probe(grid(0), grid(2).drop_vars(["time"]), "labels 'time' are missing"),
    "no append dimension": Probe(
        grid(0), grid(2).isel(time=0), "no dimension 'time' to append along", seen="xarray #9902"
    ),
    "no label at all": Probe(grid(0), grid(2).isel(time=slice(0)), "is empty"),
    # Numbers.
    "a packed value out of range": Probe(one(1.0, 0, PACKED), one(1e6, 1), OUTSIDE, seen="upstream zappend"),
    "a packed value just out of range": Probe(one(1.0, 0, PACKED), one(327.68, 1), OUTSIDE),
    "a packed value at the end of the range": Probe(
        one(1.0, 0, PACKED), one([327.67, -327.68], 1), reads={"v": [1.0, 327.67, -327.68]}
    ),
    "a packed infinity": Probe(one(1.0, 0, PACKED), one(np.inf, 1), OUTSIDE),
    "a packed value that is stored as the fill value": Probe(one(1.0, 0, PACKED), one(-0.01, 1), MASKED),
    "packed NaN without a fill value": Probe(
        one(1.0, 0, NO_FILL), one(np.nan, 1), "without a fill value", seen="upstream zappend"
    ),
    "packed NaN with a fill value": Probe(one(1.0, 0, PACKED), one(np.nan, 1), reads={"v": [1.0, np.nan]}),
    "packed alike": Probe(
        undecoded(one(1.0, 0, PACKED)), undecoded(one(3.0, 1, PACKED)), reads={"v": [1.0, 3.0]}, seen="xarray #5263"
    ),
    "packed otherwise": Probe(
        undecoded(one(1.0, 0, PACKED)),
        undecoded(one(3.0, 1, {"dtype": "i4", "scale_factor": 0.5, "add_offset": 1.0, "_FillValue": 0})),
        reads={"v": [1.0, 3.0]},
        seen="xarray #9053",
    ),
    "packed with a float32 scale": Probe(
        undecoded(one(100.0, 0, {**PACKED, "scale_factor": np.float32(0.01)})),
        one(200.0, 1),
        reads={"v": [float(np.float32(0.01)) * 10000, float(np.float32(0.01)) * 20000]},
        seen="upstream zappend",
    ),
    "unsigned by attribute": Probe(
        one(np.int8(-56), 0, _Unsigned="true", _FillValue=np.int8(-1)),
        one([254.0, np.nan], 1),
        reads={"v": [200, 254, np.nan]},
    ),
    "unsigned by attribute, out of range": Probe(
        one(np.int8(-56), 0, _Unsigned="true"), one(256, 1), "outside of what uint8 holds"
    ),
    "unsigned NaN, with missing_value alone": Probe(
        one(200.0, 0, {"dtype": "i1", "_Unsigned": "true", "missing_value": -1}), one(np.nan, 1), "without a fill value"
    ),
    "signed by attribute": Probe(one(np.uint8(3), 0, _Unsigned="false"), one(250, 1), "outside of what int8 holds"),
    "integer overflow": Probe(one(np.int16(1), 0), one(100000, 1), OUTSIDE, seen="upstream zappend"),
    "a negative number for unsigned ones": Probe(one(np.uint64(1), 0), one(-1, 1), "outside of what uint64 holds"),
    "a number beyond int64": Probe(one(1, 0), one(np.uint64(2**63), 1), "outside of what int64 holds"),
    "half a number for integers": Probe(one(1, 0), one(1.5, 1), "not a whole number"),
    "NaN for integers": Probe(one(1, 0), one(np.nan, 1), "without a fill value"),
    "NaN for booleans": Probe(one(True, 0), one(np.nan, 1), r"holds numbers .*, expected booleans"),
    "a number for booleans": Probe(one(True, 0), one(2, 1), r"holds numbers .*, expected booleans"),
    "a number for raw booleans": Probe(
        one(np.int8(1), 0, dtype="bool"), one(np.int8(2), 1), r"holds numbers|not a boolean|expected booleans"
    ),
    "raw booleans": Probe(
        one([True, False], 0), undecoded(one([True, False], 2)), reads={"v": [True, False, True, False]}
    ),
    "float overflow": Probe(one(np.float32(1), 0), one(1e300, 1), "too large for float32", seen="upstream zappend"),
    "float16 overflow": Probe(one(np.float16(1), 0), one(70000.0, 1), "too large for float16"),
    "an integer that float32 lacks": Probe(one(np.float32(1), 0), one(2**24 + 1, 1), "not exact in float32"),
    "an integer that packing lacks": Probe(
        one(1, 0, {"dtype": "i8", "scale_factor": 1.0}), one(2**53 + 1, 1), "not exact in float64"
    ),
    "a complex number for floats": Probe(one(1.0, 0), one(1j, 1), r"holds complex numbers .*, expected numbers"),
    "a number in text": Probe(one(1.0, 0), one("1", 1), r"holds strings .*, expected numbers"),
    # Fill values.
    "the fill value of floats": Probe(one(1.0, 0, {"_FillValue": 1e20}), one(1e20, 1), MASKED),
    "minus zero where zero is the fill value": Probe(one(1.0, 0, {"_FillValue": 0.0}), one(-0.0, 1), MASKED),
    "the fill value of integers": Probe(one(1, 0, {"_FillValue": 7}), one(7, 1), MASKED),
    "missing_value": Probe(one(1.0, 0, {"missing_value": 7.0}), one(7.0, 1), "missing_value marks as missing"),
    "missing_value beside a fill value": Probe(
        one(1.0, 0, {"missing_value": 7.0, "_FillValue": 8.0}), one(7.0, 1), "missing_value marks as missing"
    ),
    "one of many missing_values": Probe(
        one(1.0, 0, missing_value=[7.0, 8.0]), one(8.0, 1), "missing_value.*marks as missing"
    ),
    "NaN where the fill value is no float32": Probe(
        one(np.float32(1), 0, {"_FillValue": -9999.9}), one(np.float32(np.nan), 1), reads={"v": [1.0, np.nan]}
    ),
    "NaN where the fill value is no float16": Probe(
        one(np.float16(1), 0, {"_FillValue": -9999.0}), one(np.float16(np.nan), 1), reads={"v": [1.0, np.nan]}
    ),
    "NaN is missing by default": Probe(
        one(1.0, 0), one([np.nan, 0.0], 1), reads={"v": [1.0, np.nan, 0.0]}, seen="xarray #10646"
    ),
    "zero is a number by default": Probe(one(1, 0), one([0, 3], 1), reads={"v": [1, 0, 3]}, seen="xarray #10757"),
    "NaN in a cube of zarr": Probe(
        zarr_array([1.0], 0.0),
        one(np.nan, 1).drop_vars("time"),
        reads={"v": [1.0, np.nan]},
        settings={"append_step": "any"},
        seen="xarray #10781",
    ),
    # Filters that lose.
    "a filter that scales": Probe(
        one(1.0, 0), one([2.5, 3.1], 1), reads={"v": [1.0, 2.5, 3.1]}, settings=filtered(SCALED), formats=(2,)
    ),
    "a filter that scales, out of range": Probe(
        one(1.0, 0), one(1e6, 1), "'v'", settings=filtered(SCALED), formats=(2,)
    ),
    "a filter that scales, and NaN": Probe(one(1.0, 0), one(np.nan, 1), "'v'", settings=filtered(SCALED), formats=(2,)),
    "a filter that scales, format 3": Probe(
        one(1.0, 0),
        one(1e6, 1),
        "'v'",
        settings=filtered(
            {
                "name": "numcodecs.fixedscaleoffset",
                "configuration": {key: value for key, value in SCALED.items() if key != "id"},
            }
        ),
        formats=(3,),
    ),
    "a filter that shortens integers": Probe(
        one(1, 0),
        one(100000, 1),
        "'v'",
        formats=(2,),
        settings=filtered({"id": "astype", "encode_dtype": "<i2", "decode_dtype": "<i8"}),
    ),
    "a filter that shortens floats": Probe(
        one(1.0, 0),
        one(1e300, 1),
        "'v'",
        formats=(2,),
        settings=filtered({"id": "astype", "encode_dtype": "<f4", "decode_dtype": "<f8"}),
    ),
    "a filter that knows categories": Probe(
        zarr_array(np.array(["a"]), None, {"id": "categorize", "labels": ["a", "b"], "dtype": "<U1", "astype": "u1"}),
        one("c", 1).drop_vars("time"),
        "'v'",
        settings={"append_step": "any"},
        formats=(2,),
    ),
    "a filter of differences over floats": Probe(
        one([1.0, 2.0], 0),
        one([np.inf, 5.0], 2),
        "'v'",
        settings=filtered({"id": "delta", "dtype": "<f8"}),
        formats=(2,),
    ),
    # Strings.
    "longer strings, new cube": Probe(one("a", 0), one("abcd", 1), reads={"v": ["a", "abcd"]}, seen="xarray #5224"),
    "longer strings, fixed length": Probe(
        zarr_array(np.array(["ab"]), None),
        one("abcd", 1).drop_vars("time"),
        "longer than",
        settings={"append_step": "any"},
        seen="xarray #2789",
    ),
    "longer bytes": Probe(one(b"ab", 0), one(b"abc", 1), "longer than"),
    "bytes of one letter": Probe(one([b"a", b"b"], 0), one([b"c", b"d"], 2), reads={"v": [b"a", b"b", b"c", b"d"]}),
    "bytes for strings": Probe(one("ab", 0), one(b"ab", 1), r"holds bytes .*, expected strings"),
    "empty strings": Probe(one("", 0), one(["x", ""], 1), reads={"v": ["", "x", ""]}),
    "None among strings": Probe(one("a", 0), one(np.array(["b", None], object), 1), "without a fill value"),
    "a number among strings": Probe(one("a", 0), one(np.array(["b", 5], object), 1), "no str, as strings are"),
    # Structure.
    "another grid": Probe(
        grid(0), grid(2).assign_coords(x=grid(2).x + 0.5), "'x' is not that of", seen="xarray #11101"
    ),
    "the same grid in another order": Probe(
        grid(0),
        grid(2).isel(x=slice(None, None, -1)),
        "'x' is not that of the target: 13.0 at index",
        seen="xarray #8427",
    ),
    "another 2-D coordinate": Probe(
        grid(0), grid(2).assign_coords(area=grid(2).area * 2), "'area' is not that of", seen="upstream zappend"
    ),
    "another constant": Probe(grid(0), grid(2, crs=1), "'crs' is not that of", seen="upstream zappend"),
    "a constant that differs a little": Probe(
        one(1.0, 0).assign(gain=("band", [0.0, 1000.0])), one(1.0, 1).assign(gain=("band", [0.9, 1000.0])), "'gain'"
    ),
    "another attribute of the grid mapping": Probe(
        one(1.0, 0, grid_mapping="crs").assign(crs=((), 0, {"epsg": 4326})),
        one(1.0, 1, grid_mapping="crs").assign(crs=((), 0, {"epsg": 4327})),
        "'crs' has epsg 4327, expected 4326",
    ),
    "another size": Probe(grid(0), grid(2).isel(x=slice(3)), "dimension 'x' has size 3, expected 4"),
    "other dimensions": Probe(
        grid(0), grid(2).assign(a=grid(2).a.transpose("time", "x", "y")), r"'a' has dimensions \('time', 'x', 'y'\)"
    ),
    "dimensions of one size swapped": Probe(
        one(1.0, 0).assign(w=(("time", "x", "y"), np.eye(2)[None])),
        one(1.0, 1).assign(w=(("time", "y", "x"), np.eye(2)[None])),
        "'w' has dimensions",
    ),
    "a dimension twice": Probe(one([1.0, 2.0], 0), twice, "a dimension twice"),
    "a missing variable": Probe(grid(0), grid(2).drop_vars("packed"), "'packed' is missing", seen="xarray #10766"),
    "a missing variable, filled": Probe(
        one(1.0, 0).assign(w=("time", [2.0])),
        one(3.0, 1),
        reads={"v": [1.0, 3.0], "w": [2.0, np.nan]},
        settings={"missing_variables": "fill"},
        seen="xarray #10766",
    ),
    "a missing variable that nothing can fill": Probe(
        one(1.0, 0).assign(w=("time", [2])),
        one(3.0, 1),
        "'w' is missing, and cannot be filled",
        settings={"missing_variables": "fill"},
        seen="upstream zappend",
    ),
    "an extra variable": Probe(grid(0), grid(2, extra=1), "'extra' is not in the target", seen="upstream zappend"),
    "a missing constant": Probe(grid(0), grid(2).drop_vars("crs"), "'crs' is missing"),
    "a missing grid": Probe(grid(0), grid(2).drop_vars("x"), "'x' is missing"),
    "other units": Probe(one(1.0, 0, units="K"), one(1.0, 1, units="degC"), "has units 'degC', expected 'K'"),
    "no units": Probe(one(1.0, 0, units="K"), one(1.0, 1), "has units None, expected 'K'"),
    "other flags": Probe(
        one(np.int8(1), 0, flag_meanings="a b"), one(np.int8(1), 1, flag_meanings="b a"), "has flag_meanings 'b a'"
    ),
    "more than a chunk": Probe(
        one([1.0, 2.0], 0),
        one([1.0, 2.0, 3.0], 2),
        "3 labels along 'time', expected 2",
        settings={"slice_size": "chunk"},
        seen="upstream zappend",
    ),
    "a slice into a partial chunk": Probe(
        one([1.0, 2.0, 3.0], 0), one([4.0, 5.0], 3), reads={"v": [1.0, 2.0, 3.0, 4.0, 5.0]}, seen="xarray #9767"
    ),
    "dask chunks that fit no chunk": Probe(
        one(np.arange(5.0), 0).chunk(time=2),
        one(np.arange(5.0, 9.0), 5).chunk(time=3),
        reads={"v": [*range(9)]},
        seen="xarray #8371",
    ),
    # How slices come.
    "decoded, then raw": Probe(
        grid(0), undecoded(grid(2)), reads={"time": days(*(f"2024-01-0{i}" for i in range(1, 5)))}, seen="xarray #6329"
    ),
    "raw, then decoded": Probe(
        undecoded(grid(0)), grid(2), reads={"time": days(*(f"2024-01-0{i}" for i in range(1, 5)))}, seen="xarray #5405"
    ),
    "NetCDF, then decoded": Probe(
        netcdf(grid(0)),
        grid(2),
        reads={"counts": np.concatenate([grid(0).counts, grid(2).counts]).tolist()},
        seen="nc2zarr #35",
    ),
    "a cube of xarray, then raw": Probe(
        by_xarray(grid(0)), undecoded(grid(2)), reads={"ok": [True, False, True, False]}, seen="xarray #5263"
    ),
    "an incomplete Zarr slice": Probe(
        one(4.0, 0),
        incomplete(2),
        "1 of 1 chunks of 'v' are missing",
        settings={"slice_missing_chunks": "refuse"},
        seen="upstream zappend",
    ),
    "an incomplete Zarr 3 slice": Probe(
        one(4.0, 0),
        incomplete(3),
        "1 of 1 chunks of 'v' are missing",
        settings={"slice_missing_chunks": "refuse"},
        seen="upstream zappend",
    ),
    "an incomplete Zarr slice that is meant": Probe(
        one(4.0, 0), incomplete(2), reads={"v": [4.0, np.nan]}, settings={"slice_missing_chunks": "fill"}
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate dimension names", "ignore:Failed to open Zarr store with consolidated")
@pytest.mark.parametrize(
    ("probe", "zarr_format"), [(name, zarr_format) for name, row in PROBES.items() for zarr_format in row.formats]
)
def test_a_probe(tmp_path: Path, probe: str, zarr_format: int) -> None:
    row = PROBES[probe]
    settings = {"slice_size": "any", "durability": "process", **row.settings}
    home = tmp_path / "home"
    home.mkdir()
    target = home / "cube.zarr"
    if isinstance(row.first, Foreign):
        row.first.make(target, zarr_format)
    else:
        zappend.append(target, made(row.first, tmp_path), zarr_format=zarr_format, **settings)
    item = made(row.then, tmp_path)
    before = cubes.tree(home)
    if row.refused:
        with pytest.raises((SliceError, TargetError), match=row.refused) as caught:
            zappend.append(target, item, **settings)
        assert caught.value.exit_code == 1
        assert "\n" not in str(caught.value)
        assert cubes.tree(home) == before
        return
    assert zappend.append(target, item, **settings) == 1
    with xr.open_zarr(target, chunks=None) as cube:
        for name, expected in row.reads.items():
            check(cube[name].values, expected)


def made(item: Item, folder: Path) -> Any:
    return item if isinstance(item, xr.Dataset) else item(folder)


def check(found: np.ndarray, expected: list[Any]) -> None:
    wanted = np.array(expected)
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=0)
    else:
        np.testing.assert_array_equal(found, wanted)


# What creation must not do.


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("fault", ["a value", "a label", "a variable"])
def test_a_creation_that_fails_leaves_foreign_files(tmp_path: Path, zarr_format: int, fault: str) -> None:
    """Seen in upstream zappend: it removed the folder with all that was in it, and a file at the target's path, too."""
    (tmp_path / "mine.txt").write_text("years of work")
    (tmp_path / "cube.zarr.bak").mkdir()
    (tmp_path / "cube.zarr").mkdir()  # empty, and not ours
    before = cubes.tree(tmp_path)
    bad = {
        "a value": one(1e6, 0, PACKED),
        "a label": one([1.0, 2.0], 0)[{"time": [0, 0]}],
        "a variable": one(1.0, 0, grid_mapping="crs"),
    }[fault]
    with pytest.raises(SliceError):
        zappend.append(tmp_path / "cube.zarr", bad, zarr_format=zarr_format)
    assert cubes.tree(tmp_path) == before
    with pytest.raises(SliceError):
        zappend.append(tmp_path / "new.zarr", bad, zarr_format=zarr_format)
    assert cubes.tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_cube_stays(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "cube.zarr"
    if kind == "folder":
        target.mkdir()
    (target / "mine.txt" if kind == "folder" else target).write_text("years of work")
    before = cubes.tree(tmp_path)
    for force_new in (False, True):
        with pytest.raises(zappend.ZappendError):
            zappend.append(target, one(1.0, 0), force_new=force_new)
        assert cubes.tree(tmp_path) == before


@pytest.mark.parametrize("settings", [{"force_new": True}, {"dry_run": True}, {"attrs_update_mode": "ignore"}])
def test_a_setting_does_not_lose_the_cube(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Seen in upstream zappend: a typo in the path of the slice, a dry run and an update mode each cost something."""
    target = tmp_path / "cube.zarr"
    zappend.append(target, grid(0))
    before = cubes.tree(tmp_path)
    with pytest.raises(SliceError, match="no such file"):
        zappend.append(target, tmp_path / "typo.nc", **settings)
    assert cubes.tree(tmp_path) == before
    if "force_new" not in settings:
        zappend.append(target, grid(2), **settings)
        with xr.open_zarr(target, chunks=None) as cube:
            assert cube.attrs == grid(0).attrs
            assert cube.a.attrs == grid(0).a.attrs


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_source_chunk_of_one_label_is_no_chunk(tmp_path: Path, zarr_format: int) -> None:
    """Seen in upstream zappend: 48 files for 48 values."""
    source = one(np.arange(48.0), 0)
    source.to_netcdf(tmp_path / "slice.nc", engine="h5netcdf", encoding={"v": {"chunksizes": (1,)}})
    zappend.append(tmp_path / "cube.zarr", tmp_path / "slice.nc", zarr_format=zarr_format)
    array = zarr.open_array(tmp_path / "cube.zarr" / "v", mode="r")
    assert array.chunks == (48,)
