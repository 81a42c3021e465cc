"""How settings say that variables are stored: types, packing, times, chunks, shards, codecs; and what does not fit."""

from __future__ import annotations

import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import cubes
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
import zarr.codecs

import zappend
from zappend.errors import SliceError, UsageError

formats = pytest.mark.parametrize("zarr_format", [2, 3])

Store = dict[str, bytes]


def table(start: int = 0, count: int = 2) -> xr.Dataset:
    """Return a dataset whose values are easy to tell."""
    t = np.arange(start, start + count)
    return xr.Dataset(
        {
            "a": (("time", "y", "x"), t[:, None, None] + np.arange(48.0).reshape(6, 8) / 10),
            "n": (("time",), np.array([f"s{i}" for i in t], object)),
            "k": (("time", "x"), np.full((count, 8), 7, "i4")),
        },
        {"time": cubes.days(start, count), "y": np.arange(6.0), "x": np.arange(8.0)},
        {"title": f"from {start}"},
    )


def encoding(**variables: dict[str, Any]) -> dict[str, Any]:
    return {{"all": "*"}.get(name, name): {"encoding": encoding} for name, encoding in variables.items()}


def document(store: Store, name: str) -> dict[str, Any]:
    key = f"{name}/zarr.json" if f"{name}/zarr.json" in store else f"{name}/.zarray"
    found: dict[str, Any] = json.loads(store[key])
    return found


def array(store: Store, name: str) -> Any:
    return zarr.open_group(cubes.zarr_store(store), mode="r", use_consolidated=False)[name]


# What is set is what the cube has.


@pytest.mark.effect(
    "variables.encoding.dtype",
    "variables.encoding.scale_factor",
    "variables.encoding.add_offset",
    "variables.encoding.fill_value",
)
@formats
def test_packing(zarr_format: int) -> None:
    store: Store = {}
    wanted = encoding(a={"dtype": "int16", "scale_factor": 0.1, "add_offset": 1, "fill_value": -999})
    zappend.append(store, [table(), table(2)], zarr_format=zarr_format, variables=wanted)
    cube = cubes.open_mapping(store)
    assert array(store, "a").dtype == np.int16
    assert (cube.a.encoding["_FillValue"], cube.a.encoding["scale_factor"], cube.a.encoding["add_offset"]) == (
        -999,
        0.1,
        1,
    )
    np.testing.assert_allclose(cube.a, xr.concat([table(), table(2)], "time", data_vars="minimal").a, atol=1e-9)


@pytest.mark.effect("variables.encoding.units")
@formats
@pytest.mark.parametrize(
    ("wanted", "stored"),
    [
        ({"units": "hours since 2024-01-01", "dtype": "i4"}, [0, 24]),
        ({"units": "days since 2023-12-31"}, [1, 2]),
        ({"dtype": "f8", "units": "days since 2024-01-01"}, [0.0, 1.0]),
        ({"dtype": "datetime64[s]"}, [1704067200, 1704153600]),
        ({}, [1704067200000, 1704153600000]),
    ],
)
def test_times(zarr_format: int, wanted: dict[str, Any], stored: list[float]) -> None:
    store: Store = {}
    variables = encoding(time=wanted)
    zappend.append(store, [table(), table(2)], zarr_format=zarr_format, variables=variables)
    raw = array(store, "time")
    dtype = np.dtype(wanted.get("dtype", "i8"))
    assert raw.dtype == dtype
    np.testing.assert_array_equal(raw[:2].astype("i8" if dtype.kind == "M" else dtype), stored)
    np.testing.assert_array_equal(cubes.open_mapping(store).time.astype("M8[ns]"), cubes.days(0, 4))


@pytest.mark.effect("variables.encoding.calendar")
@formats
def test_calendar(zarr_format: int) -> None:
    store: Store = {}
    days = xr.date_range("2024-02-28", periods=4, calendar="360_day", use_cftime=True)
    slices = [xr.Dataset({"a": ("time", np.ones(2))}, {"time": days[i : i + 2]}) for i in (0, 2)]
    wanted = encoding(time={"units": "days since 2024-01-01", "calendar": "360_day"})
    zappend.append(store, slices, zarr_format=zarr_format, variables=wanted)
    np.testing.assert_array_equal(array(store, "time")[...], [57, 58, 59, 60])
    assert list(cubes.open_mapping(store).time.values) == list(days)
    store = {}
    wanted = encoding(time={"calendar": "proleptic_gregorian"})
    zappend.append(store, table(), zarr_format=zarr_format, variables=wanted)
    assert array(store, "time").attrs["calendar"] == "proleptic_gregorian"
    with pytest.raises(SliceError, match="dates of the calendar 'standard' cannot be stored in 'noleap'"):
        zappend.append({}, table(), zarr_format=zarr_format, variables=encoding(time={"calendar": "noleap"}))


@pytest.mark.effect("variables.encoding.chunks")
@formats
@pytest.mark.parametrize(
    ("sizes", "chunks"),
    [
        ({"chunks": [2, 3, 4]}, (2, 3, 4)),
        ({"chunks": {"time": 2, "x": 5}}, (2, 6, 5)),
        ({"chunks": [None, -1, 4]}, (2, 6, 4)),
        ({"chunks": None}, (2, 6, 8)),
        ({"chunks": 2}, (2, 2, 2)),
    ],
)
def test_chunks(zarr_format: int, sizes: dict[str, Any], chunks: tuple[int, ...]) -> None:
    store: Store = {}
    for start in (0, 2):
        zappend.append(store, table(start), zarr_format=zarr_format, variables=encoding(a=sizes))
    assert array(store, "a").chunks == chunks
    np.testing.assert_array_equal(cubes.open_mapping(store).a, xr.concat([table(), table(2)], "time").a)


@pytest.mark.effect("variables.encoding.shards")
@pytest.mark.parametrize(
    ("sizes", "chunks", "shards"),
    [
        ({"chunks": [1, 3, 4], "shards": [2, 6, 8]}, (1, 3, 4), (2, 6, 8)),
        ({"shards": [2, 6, 8]}, (2, 6, 8), (2, 6, 8)),
        ({"chunks": {"x": 4}, "shards": {"time": 2}}, (2, 6, 4), (2, 6, 8)),
        ({"chunks": [1, 6, 8], "shards": [2, None, None]}, (1, 6, 8), (2, 6, 8)),
        ({"chunks": [2, 6, 8], "shards": None}, (2, 6, 8), None),
    ],
)
def test_shards(sizes: dict[str, Any], chunks: tuple[int, ...], shards: tuple[int, ...] | None) -> None:
    store: Store = {}
    for start in (0, 2):
        zappend.append(store, table(start), zarr_format=3, variables=encoding(a=sizes))
    stored = array(store, "a")
    assert (stored.chunks, stored.shards) == (chunks, shards)
    np.testing.assert_array_equal(stored, xr.concat([table(), table(2)], "time").a)


def test_small_slices_fill_a_shard(caplog: pytest.LogCaptureFixture) -> None:
    store: Store = {}
    wanted = encoding(a={"chunks": [1, 6, 8], "shards": [4, 6, 8]})
    starts = range(0, 6)
    zappend.append(
        store,
        [table(start, 1) for start in starts],
        zarr_format=3,
        variables=wanted,
        slice_size="any",
        append_step="1D",
    )
    assert "has 1 labels, and a shard of 'a' 4" in caplog.text
    assert {key for key in store if key.startswith("a/c/")} == {"a/c/0/0/0", "a/c/1/0/0"}
    np.testing.assert_array_equal(array(store, "a"), xr.concat([table(start, 1) for start in starts], "time").a)


ZSTD: list[Any] = [
    {"id": "zstd", "level": 5},
    {"name": "zstd", "configuration": {"level": 5}},
    [{"name": "zstd", "configuration": {"level": 5, "checksum": False}}],
    {"name": "zstd", "level": 5},
    numcodecs.Zstd(level=5),
    zarr.codecs.ZstdCodec(level=5),
]


@pytest.mark.effect("variables.encoding.compressors", "variables.encoding.compressor")
@formats
@pytest.mark.parametrize("key", ["compressor", "compressors"])
@pytest.mark.parametrize("codec", ZSTD, ids=map(str, ZSTD))
def test_a_codec_in_every_spelling(zarr_format: int, key: str, codec: Any) -> None:
    store: Store = {}
    zappend.append(store, table(), zarr_format=zarr_format, variables=encoding(a={key: codec}))
    zappend.append(store, table(2), variables=encoding(a={"compressors": codec}))
    (compressor,) = array(store, "a").compressors
    assert compressor.level == 5
    np.testing.assert_array_equal(cubes.open_mapping(store).a, xr.concat([table(), table(2)], "time").a)


@formats
def test_no_codec_is_not_the_default(zarr_format: int) -> None:
    store: Store = {}
    zappend.append(store, table(), zarr_format=zarr_format, variables=encoding(all={"compressor": None}))
    assert [array(store, name).compressors for name in ("a", "n", "k", "time", "x")] == [()] * 5
    chunk = store["a/c/0/0/0" if zarr_format == 3 else "a/0.0.0"]
    np.testing.assert_array_equal(np.frombuffer(chunk, "<f8").reshape(2, 6, 8), table().a)


@pytest.mark.effect("variables.encoding.filters")
@formats
def test_filters(zarr_format: int) -> None:
    store: Store = {}
    filters = [{"id": "fixedscaleoffset", "offset": 0, "scale": 10, "dtype": "<f8", "astype": "<i4"}]
    zappend.append(store, [table(), table(2)], zarr_format=zarr_format, variables=encoding(a={"filters": filters}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns that the specification does not have the codecs of numcodecs
        stored = array(store, "a")
    assert len(stored.filters) == 1
    np.testing.assert_allclose(stored[...], xr.concat([table(), table(2)], "time").a, atol=1e-6)


@pytest.mark.effect("variables.encoding.serializer")
def test_serializer() -> None:
    store: Store = {}
    wanted = encoding(k={"serializer": {"name": "bytes", "configuration": {"endian": "big"}}, "compressors": None})
    zappend.append(store, table(), zarr_format=3, variables=wanted)
    assert store["k/c/0/0"] == np.full((2, 8), 7, ">i4").tobytes()


@pytest.mark.effect("variables.encoding.dimension_separator", "variables.encoding.chunk_key_encoding")
@formats
@pytest.mark.parametrize("key", ["dimension_separator", "chunk_key_encoding"])
def test_keys_of_chunks(zarr_format: int, key: str) -> None:
    store: Store = {}
    separator = "/" if zarr_format == 2 else "."
    value: Any = separator if key == "dimension_separator" else {"separator": separator}
    zappend.append(store, [table(), table(2)], zarr_format=zarr_format, variables=encoding(all={key: value}))
    assert ("a/1/0/0" if zarr_format == 2 else "a/c.1.0.0") in store
    np.testing.assert_array_equal(array(store, "a"), xr.concat([table(), table(2)], "time").a)


def test_keys_of_format_2_in_format_3() -> None:
    store: Store = {}
    wanted = encoding(a={"chunk_key_encoding": {"name": "v2"}})
    zappend.append(store, [table(), table(2)], zarr_format=3, variables=wanted)
    assert "a/1.0.0" in store
    np.testing.assert_array_equal(array(store, "a"), xr.concat([table(), table(2)], "time").a)


@formats
@pytest.mark.parametrize(("dtype", "kind"), [("<U4", "U"), ("string", None), (str, None)])
def test_strings(zarr_format: int, dtype: Any, kind: str | None) -> None:
    store: Store = {}
    zappend.append(store, [table(), table(2)], zarr_format=zarr_format, variables=encoding(n={"dtype": dtype}))
    stored = document(store, "n").get("dtype") or document(store, "n")["data_type"]
    assert (stored == ("|O" if zarr_format == 2 else "string")) is (kind is None)
    assert list(cubes.open_mapping(store).n.values) == ["s0", "s1", "s2", "s3"]


@pytest.mark.effect("checksum")
@formats
def test_checksum(zarr_format: int) -> None:
    store: Store = {}
    if zarr_format == 2:
        with pytest.raises(UsageError, match="setting checksum: Zarr format 2 has none"):
            zappend.append(store, table(), zarr_format=2, checksum=True)
        assert store == {}
        return
    wanted = encoding(k={"chunks": [1, 4], "shards": [2, 8]})
    zappend.append(store, [table(), table(2)], zarr_format=3, checksum=True, variables=wanted)
    for name in ("a", "n", "time", "x"):
        assert document(store, name)["codecs"][-1] == {"name": "crc32c"}
    assert document(store, "k")["codecs"][0]["configuration"]["codecs"][-1] == {"name": "crc32c"}
    chunk = bytearray(store["a/c/0/0/0"])
    chunk[9] ^= 1
    store["a/c/0/0/0"] = bytes(chunk)
    with pytest.raises(ValueError, match="checksum"):
        array(store, "a")[...]


@formats
def test_what_a_star_means(zarr_format: int) -> None:
    """Each setting under the star holds for those variables that it can mean something for."""
    store: Store = {}
    star = {
        "dtype": "f4",
        "chunks": {"time": 2, "x": 4, "z": 9},
        "units": "hours since 2024-01-01",
        "compressor": "gzip",
    }
    zappend.append(store, table(), zarr_format=zarr_format, variables=encoding(all=star, k={"dtype": "i2"}))
    assert [array(store, name).dtype for name in ("a", "k", "x", "time")] == ["f4", "i2", "f8", "i8"]
    assert [array(store, name).chunks for name in ("a", "k", "x")] == [(2, 6, 4), (2, 4), (8,)]
    assert all("gzip" in json.dumps(document(store, name)) for name in ("a", "k", "x", "time", "n"))
    np.testing.assert_array_equal(array(store, "time"), [0, 24])


def test_settings_by_file_and_call_are_merged(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("variables:\n  a:\n    encoding: {dtype: int16, scale_factor: 0.1}\n")
    (tmp_path / "two.json").write_text(json.dumps({"variables": encoding(a={"fill_value": -1})}))
    store: Store = {}
    configs = [tmp_path / "one.yaml", tmp_path / "two.json"]
    zappend.append(store, table(), configs, zarr_format=3, variables=encoding(a={"compressor": None}))
    assert array(store, "a").dtype == np.int16
    assert array(store, "a").compressors == ()
    assert cubes.open_mapping(store).a.encoding["_FillValue"] == -1


# What the cube has is not changed by settings.


@formats
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"dtype": "f4"}, "variable 'a' has dtype float64 in the target, and float32 in the settings"),
        ({"chunks": [1, 6, 8]}, "variable 'a' has chunks (2, 6, 8) in the target, and (1, 6, 8) in the settings"),
        ({"shards": [2, 6, 8]}, "variable 'a' has shards None in the target, and [2, 6, 8] in the settings"),
        ({"compressors": "gzip"}, "variable 'a' has compressors"),
        ({"compressor": None}, "variable 'a' has compressors"),
        ({"filters": [{"id": "delta", "dtype": "f8"}]}, "variable 'a' has filters"),
        ({"fill_value": 0}, "variable 'a' has fill_value nan in the target, and 0.0 in the settings"),
        ({"scale_factor": 2}, "variable 'a' has scale_factor 1.0 in the target, and 2.0 in the settings"),
        ({"add_offset": 2}, "variable 'a' has add_offset 0.0 in the target, and 2.0 in the settings"),
        ({"units": "days since 2024-01-01"}, "variable 'a' has units None in the target"),
        ({"units": "K"}, "setting variables.a.encoding.units: 'a' holds numbers, and their units are an attribute"),
        ({"chunk_key_encoding": {"separator": "x"}}, "the separator must be '.' or '/', not 'x'"),
        ({"dimension_separator": "other"}, "variable 'a' has chunk_key_encoding"),
    ],
)
def test_another_encoding_than_the_cube_has(zarr_format: int, wanted: dict[str, Any], message: str) -> None:
    store: Store = {}
    zappend.append(store, table(), zarr_format=zarr_format)
    if wanted.get("dimension_separator"):
        wanted = {"dimension_separator": "/" if zarr_format == 2 else "."}
    before = dict(store)
    with pytest.raises(UsageError) as caught:
        zappend.append(store, table(2), variables=encoding(a=wanted))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert store == before


@formats
@pytest.mark.parametrize("setting", [{"calendar": "noleap"}, {"units": "days since 2024-01-01"}])
def test_other_units_than_the_cube_has(zarr_format: int, setting: dict[str, Any]) -> None:
    store: Store = {}
    zappend.append(store, table(), zarr_format=zarr_format)
    with pytest.raises(UsageError, match="variable 'time' has"):
        zappend.append(store, table(2), variables=encoding(time=setting))


@formats
def test_the_encoding_that_made_a_cube_is_that_of_the_cube(zarr_format: int) -> None:
    """Whatever made a cube may stay in the configuration that grows it."""
    store: Store = {}
    wanted = encoding(
        a={
            "dtype": "int16",
            "scale_factor": 0.1,
            "fill_value": -1,
            "chunks": [2, 3, None],
            "compressors": [{"id": "blosc", "cname": "zstd"}],
            "filters": [{"id": "delta", "dtype": "<i2"}] if zarr_format == 2 else [],
        },
        n={"dtype": "string", "compressor": {"id": "zstd"}},
        time={"units": "hours since 2024-01-01T00:00:00", "calendar": "standard", "chunks": 64},
        all={"dimension_separator": "/", "fill_value": -3, "chunks": {"x": 4}},
    )
    for start in (0, 2, 4):
        zappend.append(store, table(start), zarr_format=zarr_format, variables=wanted)
    assert cubes.open_mapping(store).sizes["time"] == 6


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"dtype": "foo"}, "setting variables.a.encoding.dtype: 'foo' is no type that can be stored"),
        ({"dtype": "i2,f4"}, "is no type that can be stored"),
        ({"dtype": "string"}, "encoding.dtype: numbers cannot be stored as string, which holds strings"),
        ({"dtype": "complex64", "scale_factor": 0}, "scale_factor: it must be a number other than zero"),
        ({"chunks": [1, 2]}, "[1, 2] has 2 sizes, and the variable 3 dimensions"),
        ({"chunks": {"q": 2}}, "the variable has no dimension 'q'"),
        ({"chunks": [0, 1, 1]}, "a size must be at least 1, not 0"),
        ({"chunks": [1, 6, 3], "shards": [2, 6, 8]}, "a shard of 8 along 'x' is no whole number of chunks of 3"),
        ({"compressors": "nothing"}, "the codec 'nothing' cannot be had: neither zarr nor numcodecs has it"),
        ({"compressors": {"id": "zstd", "levle": 3}}, "the codec 'zstd' cannot be had"),
        ({"compressor": "zzip"}, "variables.a.encoding.compressor: the codec 'zzip' cannot be had: neither zarr nor"),
        ({"compressors": "zzip"}, "variables.a.encoding.compressors: the codec 'zzip' cannot be had: neither zarr nor"),
        ({"compressors": 3}, "a codec is named by {'id': …} or {'name': …}, not 3"),
        ({"compressor": "zstd", "compressors": None}, "'compressor' and 'compressors' are one setting"),
        ({"chunk_key_encoding": {"name": "fanout"}}, "Zarr format 3 has no 'fanout'"),
        ({"dtype": "i2", "fill_value": 0.5}, "fill_value"),
        ({"dtype": "i2", "fill_value": 99999}, "fill_value"),
        ({"dtype": "f4", "fill_value": "blue"}, "fill_value"),
        ({"dtype": "bool"}, "numbers cannot be stored as bool, which holds booleans"),
        ({"dtype": None}, "dtype: None is no type that can be stored"),
        ({"dtype": "float128"}, "is no type that can be stored"),
        ({"dtype": {"a": 1}}, "is no type that can be stored"),
        ({"dtype": "i2", "add_offset": np.nan}, "add_offset: it must be a number, not nan"),
        ({"dtype": "i2", "fill_value": True}, "variables.a.encoding.fill_value: True is no value of int16"),
        ({"filters": [{"id": "shuffle"}]}, "filters: in Zarr format 3 'shuffle' belongs under 'compressors'"),
        ({"filters": "blosc"}, "filters: in Zarr format 3 'blosc' belongs under 'compressors'"),
        ({"serializer": "zstd"}, "serializer: in Zarr format 3 'zstd' belongs under 'compressors'"),
        ({"compressors": {"id": "delta", "dtype": "f4"}}, "in Zarr format 3 'delta' belongs under 'filters'"),
        ({"compressors": {"id": "blosc", "level": 9}}, "'blosc' cannot be had: it has no 'level'"),
        ({"compressors": {"id": "blosc", "clevel": 10}}, "clevel must be one of"),
        ({"compressors": {"id": "blosc", "shuffle": 3}}, "shuffle must be one of"),
        ({"compressors": zarr.codecs.GzipCodec}, "a codec is named by"),
        ({"chunk_key_encoding": {"separatr": "/"}}, "chunk_key_encoding: it has a name and a separator"),
        ({"chunk_key_encoding": {"configuration": 5}}, "chunk_key_encoding: it has a name and a separator"),
    ],
)
def test_an_encoding_that_cannot_be(wanted: dict[str, Any], message: str) -> None:
    store: Store = {}
    with pytest.raises(zappend.ZappendError) as caught:
        zappend.append(store, table(), zarr_format=3, variables=encoding(a=wanted))
    assert message in str(caught.value)
    assert store == {}


def test_a_type_that_cannot_be_is_refused_for_an_existing_cube_too() -> None:
    store: Store = {}
    zappend.append(store, table())
    before = dict(store)
    with pytest.raises(UsageError, match="'foo' is no type that can be stored"):
        zappend.append(store, table(2), variables=encoding(a={"dtype": "foo"}))
    assert store == before


@formats
@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        (
            "a",
            {"units": "K"},
            "'a' holds numbers, and their units are an attribute; set variables.a.attrs.units",
        ),
        ("a", {"calendar": "noleap"}, "encoding.calendar is noleap, but the variable, which holds numbers, would have"),
        (
            "n",
            {"scale_factor": 2},
            "encoding.scale_factor is 2.0, but the variable, which holds strings, would have 1.0",
        ),
        ("time", {"add_offset": 2}, "encoding.add_offset is 2.0, but the variable, which holds times, would have 0.0"),
        (
            "time",
            {"units": "days"},
            "encoding.units is days, but the variable, which holds times, would have days since",
        ),
    ],
)
def test_a_setting_that_means_nothing(zarr_format: int, name: str, wanted: dict[str, Any], message: str) -> None:
    store: Store = {}
    with pytest.raises(UsageError) as caught:
        zappend.append(store, table(), zarr_format=zarr_format, variables=encoding(**{name: wanted}))
    assert message in str(caught.value)
    assert store == {}


def test_shards_for_all_are_not_for_variables_without_dimensions() -> None:
    store: Store = {}
    for start in (0, 2):
        zappend.append(
            store,
            table(start).assign(one=1.0),
            zarr_format=3,
            variables=encoding(all={"shards": {"time": 2}}),
        )
    assert cubes.open_mapping(store).one == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"calendar": "noleap"}, "dates of the calendar 'standard' cannot be stored in 'noleap'"),
        ({"dtype": "i1"}, "outside of what int8 holds, which is -128 to 127, in 'milliseconds since 1970-01-01'"),
        ({"units": "moons since 2000-01-01"}, "with 'moons since 2000-01-01': it has no unit of a fixed length"),
        ({"units": "years since 2000-01-01"}, "with 'years since 2000-01-01': it has no unit of a fixed length"),
    ],
)
def test_a_time_that_cannot_be_stored_as_is_set(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(SliceError) as caught:
        zappend.append({}, table(), variables=encoding(time=wanted))
    assert message in str(caught.value)


def test_a_type_alone_leaves_the_units_of_times_open() -> None:
    store: Store = {}
    fine = table().assign_coords(time=np.array(["2024-01-01T00:00:00.000001", "2024-01-02"], "M8[ns]"))
    zappend.append(store, fine, variables=encoding(time={"dtype": "int64"}))
    np.testing.assert_array_equal(cubes.open_mapping(store).time, fine.time)


def test_yaml_has_numbers_with_exponents_alone(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("variables: {a: {encoding: {dtype: int16, scale_factor: 1e-1, fill_value: -1e+2}}}")
    store: Store = {}
    zappend.append(store, table(), config)
    assert cubes.open_mapping(store).a.encoding["scale_factor"] == 0.1
    assert cubes.open_mapping(store).a.encoding["_FillValue"] == -100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_overflow": "wrap"}, "setting on_overflow must be error, clip or mask, not 'wrap'"),
        ({"slice_missing_chunks": "x"}, "must be refuse or fill"),
        ({"zarr_format": 4}, "must be 2 or 3"),
        ({"variables": encoding(a={"dimension_separator": "-"})}, "must be . or /, not '-'"),
    ],
)
def test_a_setting_that_there_is_not(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        zappend.append({}, table(), **settings)
    assert message in str(caught.value)


@formats
@pytest.mark.parametrize("own", [{}, {"dtype": "datetime64[s]"}])
def test_units_for_all_are_for_times_with_units(zarr_format: int, own: dict[str, Any]) -> None:
    store: Store = {}
    wanted = encoding(all={"units": "hours since 2024-01-01", "calendar": "standard"}, time=own)
    for start in (0, 2):
        new = table(start).assign(lag=("time", np.array([1, 2], "m8[s]")))
        zappend.append(store, new, zarr_format=zarr_format, variables=wanted)
    found = cubes.open_mapping(store)
    np.testing.assert_array_equal(found.lag, np.array([1, 2, 1, 2], "m8[s]"))
    assert found.time.encoding.get("units") == (None if own else "hours since 2024-01-01")


@formats
@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"dtype": "i2", "scale_factor": 0.0}, "its scale_factor is 0, by which nothing can be packed"),
        ({"dtype": "i2", "scale_factor": math.nan}, "its scale_factor is nan and its add_offset 0.0"),
        ({"dtype": "i2", "add_offset": math.inf}, "its scale_factor is 1.0 and its add_offset inf"),
        ({"dtype": "foo"}, "its encoding has a dtype that is none"),
    ],
)
def test_an_encoding_of_the_slice_that_cannot_be(zarr_format: int, own: dict[str, Any], message: str) -> None:
    new = table()
    new.a.encoding = own
    with pytest.raises(SliceError) as caught:
        zappend.append({}, new, zarr_format=zarr_format, on_overflow="clip")
    assert message in str(caught.value)


@formats
def test_several_fill_values_are_refused(zarr_format: int) -> None:
    new = xr.Dataset({"v": ("time", np.array([1, 2], "i2"), {"_FillValue": [-1, -2]})}, {"time": [1, 2]})
    with pytest.raises(SliceError, match="_FillValue is \\[-1, -2\\], and can be only one value"):
        zappend.append({}, new, zarr_format=zarr_format)


def test_bytes_that_begin_with_a_missing_one() -> None:
    store: Store = {}
    new = xr.Dataset({"v": ("time", np.array([None, b"ab"], object))}, {"time": [1, 2]})
    with pytest.raises(SliceError, match="a missing value cannot be stored without a fill value"):
        zappend.append(store, new)
    zappend.append(store, new, variables=encoding(v={"fill_value": b"?"}))
    assert cubes.open_mapping(store).v.isnull().values.tolist() == [True, False]


def test_strings_of_numpy_can_be_given_a_type() -> None:
    store: Store = {}
    new = xr.Dataset({"v": ("time", np.array(["a", "bc"], np.dtypes.StringDType()))}, {"time": [1, 2]})
    new.v.encoding["dtype"] = np.dtypes.StringDType()
    zappend.append(store, new, variables=encoding(v={"dtype": "U4"}))
    assert document(store, "v")["dtype"] == "<U4"


def test_sizes_may_be_numbers_of_numpy() -> None:
    store: Store = {}
    zappend.append(store, table(), variables=encoding(a={"chunks": np.array([2, 3, 4])}))
    zappend.append(store, table(2), variables=encoding(a={"chunks": [np.int64(2), 3, 4]}))
    assert document(store, "a")["chunks"] == [2, 3, 4]


def test_booleans_have_no_fill_value() -> None:
    truth = xr.Dataset({"v": ("time", [True, False])}, {"time": [1, 2]})
    with pytest.raises(UsageError, match=r"variables\.v\.encoding\.fill_value: booleans have no missing value"):
        zappend.append({}, truth, variables=encoding(v={"fill_value": False}))


@formats
def test_no_fill_value_stays_none(zarr_format: int) -> None:
    store: Store = {}
    for start in (0, 2):
        zappend.append(store, table(start), zarr_format=zarr_format, variables=encoding(a={"fill_value": None}))
    assert "_FillValue" not in cubes.open_mapping(store).a.encoding
    hole = table(4)
    hole.a[0, 0, 0] = np.nan  # which a float needs no fill value for
    zappend.append(store, hole)
    np.testing.assert_array_equal(cubes.open_mapping(store).a[4:], hole.a)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"shards": [2, 6, 8]}, "Zarr format 2 has no shards"),
        ({"serializer": "bytes"}, "Zarr format 2 has none"),
        ({"compressors": ["gzip", "crc32c"]}, "Zarr format 2 has one compressor, not 2"),
        ({"filters": [zarr.codecs.TransposeCodec(order=(1, 0, 2))]}, "Zarr format 2 has no codec 'transpose'"),
        ({"compressors": "nothing"}, "the codec 'nothing' cannot be had"),
        (
            {"compressor": "zzip"},
            "variables.a.encoding.compressor: the codec 'zzip' cannot be had: numcodecs does not have it; did you mean "
            "'gzip'?",
        ),
    ],
)
def test_an_encoding_that_format_2_cannot_have(wanted: dict[str, Any], message: str) -> None:
    store: Store = {}
    with pytest.raises(UsageError) as caught:
        zappend.append(store, table(), zarr_format=2, variables=encoding(a=wanted))
    assert message in str(caught.value)
    assert store == {}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"b": {}}, "setting variables.b: slice 0 has no variable 'b'; it has 'a', 'n', 'k', 'time', 'y', 'x'"),
        ({"a": {"encoding": {"dtyp": "f4"}}}, "variables.a.encoding: unknown name 'dtyp'; did you mean 'dtype'?"),
        ({"a": {"encodings": {}}}, "variables.a: unknown name 'encodings'; did you mean 'encoding'?"),
        (
            {"a": {"encoding": {"scale_factor": "1"}}},
            "variables.a.encoding.scale_factor must be a number, not '1' (text)",
        ),
        ({"a": 1}, "variables.a must be names and values, not 1 (a number)"),
    ],
)
def test_a_wrong_setting_of_variables(variables: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        zappend.append({}, table(), variables=variables)
    assert message in str(caught.value)


def test_times_that_the_wanted_units_cannot_hold() -> None:
    noon = table().assign_coords(time=cubes.days(0, 2) + np.timedelta64(12, "h"))
    with pytest.raises(SliceError, match=r"variable 'time': 2024-01-01T12:00:00.*cannot be expressed exactly as int64"):
        zappend.append({}, noon, variables=encoding(time={"units": "days since 2024-01-01"}))


# What does not fit.


@pytest.mark.effect("on_overflow")
@formats
@pytest.mark.parametrize(
    ("on_overflow", "dtype", "expected"),
    [
        ("clip", "i2", [50000.0, -65534.0, math.nan, 65534.0]),
        ("mask", "i2", [50000.0, math.nan, math.nan, math.nan]),
        ("clip", "u1", [510.0, 0.0, math.nan, 510.0]),
        ("mask", "f2", [49984.0, math.nan, math.nan, math.nan]),
    ],
)
def test_on_overflow(zarr_format: int, on_overflow: str, dtype: str, expected: list[float]) -> None:
    store: Store = {}
    fill = {"i2": -32768, "u1": 7, "f2": math.nan}[dtype]
    values = np.array([5e4, -1e6, math.nan, 1e300])
    slices = [
        xr.Dataset({"v": ("time", values[i : i + 2])}, {"time": [i, i + 1]}) for i in (0, 2)
    ]  # the second slice meets a cube that is there
    wanted = encoding(v={"dtype": dtype, "scale_factor": 2.0, "fill_value": fill})
    zappend.append(store, slices, zarr_format=zarr_format, variables=wanted, on_overflow=on_overflow)
    np.testing.assert_array_equal(cubes.open_mapping(store).v, expected)


@formats
def test_overflow_is_an_error_by_default(zarr_format: int) -> None:
    store: Store = {}
    wanted = encoding(a={"dtype": "i1", "scale_factor": 0.01, "fill_value": -128})
    with pytest.raises(SliceError) as caught:
        zappend.append(store, table(), zarr_format=zarr_format, variables=wanted)
    assert "variable 'a'" in str(caught.value)
    assert "1.3 at index [0, 1, 5] (and 79 more): outside of what int8 holds, which is -128 to 127" in str(caught.value)
    assert "on_overflow" in str(caught.value)
    assert store == {}


@formats
@pytest.mark.parametrize("on_overflow", ["clip", "mask"])
def test_labels_are_never_clipped(zarr_format: int, on_overflow: str) -> None:
    store: Store = {}
    wanted = encoding(x={"dtype": "i1", "fill_value": -1})
    far = table().assign_coords(x=np.arange(8.0) * 100)
    with pytest.raises(SliceError, match=r"variable 'x'.*outside of what int8 holds"):
        zappend.append(store, far, zarr_format=zarr_format, variables=wanted, on_overflow=on_overflow)


@pytest.mark.effect("missing_variables")
@formats
def test_missing_variables_can_be_filled(zarr_format: int) -> None:
    store: Store = {}
    wanted = encoding(k={"fill_value": -1})
    if zarr_format == 2:  # in format 3 xarray cannot read strings with a fill value
        wanted |= encoding(n={"fill_value": ""})
    zappend.append(store, table(), zarr_format=zarr_format, variables=wanted)
    with pytest.raises(SliceError, match="variable 'a' is missing; missing_variables 'fill' fills it"):
        zappend.append(store, table(2).drop_vars("a"))
    lacking = table(2).drop_vars(["a", "k", "x", "y", *(["n"] if zarr_format == 2 else [])])
    zappend.append(store, lacking, missing_variables="fill")
    cube = cubes.open_mapping(store)
    assert cube.a.shape == (4, 6, 8)
    assert cube.a[2:].isnull().all()
    assert cube.k[2:].isnull().all()
    np.testing.assert_array_equal(cube.a[:2], table().a)
    assert list(array(store, "n")[...]) == ["s0", "s1", *(["", ""] if zarr_format == 2 else ["s2", "s3"])]


def test_a_fill_value_of_strings_that_readers_of_format_3_cannot_read() -> None:
    with pytest.raises(SliceError, match="xarray cannot read strings with a fill value; leave it out"):
        zappend.append({}, table(), zarr_format=3, variables=encoding(n={"fill_value": ""}))


@formats
def test_a_missing_value_is_not_invented(zarr_format: int) -> None:
    store: Store = {}
    zappend.append(store, table(), zarr_format=zarr_format)
    with pytest.raises(SliceError, match="variable 'k' is missing, and cannot be filled"):
        zappend.append(store, table(2).drop_vars("k"), missing_variables="fill")


@pytest.mark.parametrize("step", [None, "any"])
def test_labels_are_never_filled(step: Any) -> None:
    """Not even where there is a missing value for them, and nothing else checks them."""
    store: Store = {}
    wanted = {"time": {"encoding": {"dtype": "float64", "units": "days since 2000-01-01", "fill_value": "NaN"}}}
    options: dict[str, Any] = {"append_step": step, "slice_size": "any", "missing_variables": "fill"}
    zappend.append(store, table(), variables=wanted, **options)
    before = dict(store)
    with pytest.raises(SliceError, match="its labels 'time' are missing, and labels are never filled"):
        zappend.append(store, table(2).drop_vars("time"), **options)
    assert store == before


@pytest.mark.effect("included_variables", "excluded_variables")
@formats
def test_variables_can_be_left_out(zarr_format: int) -> None:
    store: Store = {}
    slices = [table(start).assign(extra=("time", [1.0, 2.0])) for start in (0, 2)]
    slices[0].a.attrs.update(ancillary_variables="extra", coordinates="extra")
    zappend.append(store, slices[0], zarr_format=zarr_format, excluded_variables=["ex*"])
    assert set(cubes.open_mapping(store).variables) == {"a", "n", "k", "time", "x", "y"}
    with pytest.raises(SliceError, match="variable 'extra' is not in the target; excluded_variables can leave it"):
        zappend.append(store, slices[1])
    zappend.append(store, slices[1], included_variables=["?", "time"])
    assert cubes.open_mapping(store).sizes["time"] == 4
    with pytest.raises(SliceError, match=r"it has no variable 'b', which included_variables names; it has 'a'"):
        zappend.append(store, table(4), included_variables=["time", "b"])


# Chunks that hold nothing.


@pytest.mark.effect("write_empty_chunks")
@formats
@pytest.mark.parametrize("write_empty_chunks", [True, False])
def test_empty_chunks(zarr_format: int, write_empty_chunks: bool) -> None:
    store: Store = {}
    slices = [table(), table(2)]
    slices[1]["a"] = slices[1].a.where(slices[1].x < 4)
    wanted = encoding(a={"chunks": {"x": 4}})
    result = zappend.append(
        store, slices, zarr_format=zarr_format, variables=wanted, write_empty_chunks=write_empty_chunks
    )
    key = "a/c/1/0/1" if zarr_format == 3 else "a/1.0.1"
    assert (key in store) is write_empty_chunks
    assert result.slices[1].chunks == (5 if write_empty_chunks else 4)
    np.testing.assert_array_equal(cubes.open_mapping(store).a, xr.concat(slices, "time").a)


@formats
def test_a_stray_does_not_become_data_where_a_chunk_is_empty(zarr_format: int) -> None:
    store: Store = {}
    zappend.append(store, table(), zarr_format=zarr_format)
    first, second = ("a/c/0/0/0", "a/c/1/0/0") if zarr_format == 3 else ("a/0.0.0", "a/1.0.0")
    store[second] = store[first]
    empty = table(2)
    empty["a"] = empty.a * np.nan
    zappend.append(store, empty, write_empty_chunks=False)
    assert cubes.open_mapping(store).a[2:].isnull().all()


@formats
def test_a_zero_with_a_sign_is_no_fill_value(zarr_format: int) -> None:
    store: Store = {}
    zeros = xr.Dataset({"v": ("time", [-0.0, -0.0])}, {"time": [1, 2]})
    wanted = encoding(v={"fill_value": 0.0})
    with pytest.raises(SliceError, match="_FillValue marks as missing"):
        zappend.append(store, zeros, zarr_format=zarr_format, variables=wanted, write_empty_chunks=False)


# Attributes.


@pytest.mark.effect("attrs_update_mode")
@formats
@pytest.mark.parametrize(
    ("mode", "first", "then"),
    [
        ("keep", {"title": "from 0"}, {"title": "from 0"}),
        ("replace", {"title": "from 0"}, {"title": "from 2", "more": 1}),
        ("update", {"title": "from 0"}, {"title": "from 2", "more": 1}),
        ("ignore", {}, {}),
    ],
)
def test_attributes(zarr_format: int, mode: str, first: dict[str, Any], then: dict[str, Any]) -> None:
    store: Store = {}
    zappend.append(store, table(), zarr_format=zarr_format, attrs_update_mode=mode)
    assert cubes.open_mapping(store).attrs == first
    if mode == "update":
        group = zarr.open_group(cubes.zarr_store(store), mode="r")
        assert group.attrs == first
    zappend.append(store, table(2).assign_attrs(more=1), attrs_update_mode=mode)
    assert cubes.open_mapping(store).attrs == then
    unconsolidated = zarr.open_group(cubes.zarr_store(store), mode="r", use_consolidated=False)
    assert dict(unconsolidated.attrs) == then


@formats
def test_update_keeps_attributes_that_the_slice_has_not(zarr_format: int) -> None:
    store: Store = {}
    zappend.append(store, table().assign_attrs(history="long"), zarr_format=zarr_format)
    zappend.append(store, table(2), attrs_update_mode="update")
    assert cubes.open_mapping(store).attrs == {"title": "from 2", "history": "long"}


# What a new cube chooses.


@formats
def test_labels_have_few_chunks_and_grids_one(zarr_format: int) -> None:
    store: Store = {}
    wide = xr.Dataset(
        {"a": (("time", "y", "x"), np.zeros((1, 64, 64)))},
        {"time": cubes.days(0, 1), "lon": (("y", "x"), np.zeros((64, 64))), "age": ("time", [0.0])},
    )
    wide.a.encoding["preferred_chunks"] = {"time": 1, "y": 1, "x": 1}
    wide.lon.encoding["preferred_chunks"] = {"y": 8, "x": 8}
    zappend.append(store, wide, zarr_format=zarr_format)
    chunks = {name: array(store, name).chunks for name in ("time", "age", "lon", "a")}
    assert chunks == {"time": (16384,), "age": (16384,), "lon": (64, 64), "a": (1, 64, 64)}


@formats
def test_an_integer_has_no_missing_value(zarr_format: int) -> None:
    store: Store = {}
    zappend.append(store, table(), zarr_format=zarr_format)
    assert "_FillValue" not in cubes.open_mapping(store).k.encoding
    assert document(store, "k")["fill_value"] == (None if zarr_format == 2 else 0)


@formats
def test_odd_chunks_are_told(zarr_format: int, caplog: pytest.LogCaptureFixture) -> None:
    wide = xr.Dataset({"a": (("time", "x"), np.zeros((1, 100)))}, {"time": [0]})
    with caplog.at_level(logging.WARNING):
        zappend.append({}, wide, zarr_format=zarr_format, variables=encoding(a={"chunks": [1, 1]}))
    assert "small chunks are slow to write and to read: 'a' ((1, 1), 8 bytes)" in caplog.text


@formats
def test_a_float32_scale_stays_what_it_is(tmp_path: Path, zarr_format: int) -> None:
    """Packed values are copied, and what they mean is the same as in the file, to the last digit that it gives."""
    packed = xr.Dataset(
        {"v": ("time", np.arange(-3, 3, dtype="i2"), {"scale_factor": np.float32(0.01), "add_offset": np.float32(5)})},
        {"time": np.arange(6)},
    )
    path = tmp_path / "slice.nc"
    packed.to_netcdf(path)
    store: Store = {}
    zappend.append(store, [path, packed.assign_coords(time=np.arange(6, 12))], zarr_format=zarr_format)
    stored = array(store, "v")
    np.testing.assert_array_equal(stored, np.tile(np.arange(-3, 3), 2))
    assert np.float32(stored.attrs["scale_factor"]) == np.float32(0.01)
    assert stored.attrs["scale_factor"] == float(np.float32(0.01))
    with xr.open_dataset(path) as file:
        np.testing.assert_array_equal(cubes.open_mapping(store).v[:6].astype("f4"), file.v)
