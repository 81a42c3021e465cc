"""Cubes that others made grow in their own ways, and stay what their makers, and all other readers, can use.

Each maker makes a cube of the first slice, zappend appends the next ones, and the maker the last one. Then the
cube holds what all slices held, its documents have changed in their shapes alone, and every reader finds the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cubes
import numcodecs
import numpy as np
import pytest
import readers
import tensorstore
import xarray as xr
import zarr
from zarr import codecs

import zappend

DIMENSIONS = "_ARRAY_DIMENSIONS"


# The slices.


def stored(start: int, count: int = 2) -> xr.Dataset:
    """Return hours `start` to `start + count` of a small cube as files have it: numbers, and what they mean."""
    hours = np.arange(start, start + count)
    rng = np.random.default_rng(start)
    values = rng.integers(1080, 1160, (count, 3, 5)).astype("f4") / 4  # packing rounds none of them
    values[:, 0, 1] = np.nan
    rain = rng.integers(0, 500, (count, 3, 5), dtype="i2")
    rain[:, 2, 2] = -1
    gridded = {"grid_mapping": "crs"}
    return xr.Dataset(
        {
            "a": (("time", "y", "x"), values, {"units": "K", "_FillValue": np.float32(np.nan), **gridded}),
            "rain": (
                ("time", "y", "x"),
                rain,
                {"scale_factor": 0.5, "add_offset": 10.0, "_FillValue": np.int16(-1), **gridded},
            ),
            "counts": (("time", "x"), rng.integers(0, 1000, (count, 5), dtype="i4")),
            "crs": ((), np.int32(1), {"grid_mapping_name": "latitude_longitude", "semi_major_axis": 6378137.0}),
            "time_bnds": (("time", "bnds"), np.stack([hours, hours + 1], 1)),
        },
        {
            "time": (
                "time",
                hours,
                {"units": "hours since 2024-01-01", "calendar": "proleptic_gregorian", "bounds": "time_bnds"},
            ),
            "y": ("y", np.linspace(50, 52, 3), {"units": "degrees_north"}),
            "x": ("x", np.linspace(10, 14, 5), {"units": "degrees_east"}),
        },
        {"title": "hours", "Conventions": "CF-1.8"},
    )


def decoded(start: int, count: int = 2) -> xr.Dataset:
    """Return `stored` as xarray decodes it; times keep their units as encoding."""
    return xr.decode_cf(stored(start, count))


def with_kinds(start: int, count: int = 2) -> xr.Dataset:
    """Return `stored` with numbers of other kinds, all of which take one bit pattern and no other."""
    dataset = stored(start, count)
    numbers = np.random.default_rng(start).integers(-100, 100, (count, 5))
    for name, dtype in (("half", "f2"), ("double", "f8"), ("complex", "c8"), ("byte", "i1"), ("large", "u8")):
        dataset[name] = (("time", "x"), numbers.astype(dtype))
    dataset["yes"] = (("time", "x"), numbers > 0)
    return dataset


def with_gaps(start: int, count: int = 2) -> xr.Dataset:
    """Return `stored` with chunks in which there is nothing but the fill value, which most writers leave out."""
    dataset = stored(start, count)
    dataset.rain[:, :, 4] = -1
    dataset.a[start % 4 == 2 :, :, :4] = np.nan
    dataset.counts[:] = 0
    return dataset


def with_times_of_numpy(start: int, count: int = 2) -> xr.Dataset:
    """Return `decoded` with times that are stored as such, without units, as only zarr-python can."""
    times = decoded(start, count)
    bounds = times.time_bnds.drop_encoding().variable  # with its labels xarray would align it
    return stored(start, count).assign(time_bnds=bounds).assign_coords(time=times.time.drop_encoding())


def related(start: int, count: int = 2) -> xr.Dataset:
    """Return `stored` as xarray decodes it when bounds and grid mappings are to be coordinates, as encodings tell."""
    return xr.decode_cf(stored(start, count), decode_coords="all")


def as_rioxarray(start: int, count: int = 2) -> xr.Dataset:
    """Return `decoded` as rioxarray leaves it: the grid mapping is a coordinate, which an encoding names."""
    dataset = decoded(start, count).rename(crs="spatial_ref").set_coords("spatial_ref")
    dataset.spatial_ref.attrs.update(crs_wkt='GEOGCRS["WGS 84"]', GeoTransform="9.5 1.0 0.0 49.5 0.0 1.0")
    for name in ("a", "rain"):
        del dataset[name].attrs["grid_mapping"]
        dataset[name].encoding["grid_mapping"] = "spatial_ref"
    # Such as GDAL writes it.
    dataset.counts.attrs["_CRS"] = {"wkt": 'GEOGCRS["WGS 84"]', "url": "http://www.opengis.net/def/crs/EPSG/0/4326"}
    return dataset


def as_xcube(start: int, count: int = 2) -> xr.Dataset:
    """Return `decoded` as xcube generates it: bounds of all coordinates, and many attributes."""
    dataset = decoded(start, count).drop_vars("crs")
    for name in ("a", "rain"):
        del dataset[name].attrs["grid_mapping"]
    for name in ("x", "y"):
        half = np.array([-0.5, 0.5])
        dataset[f"{name}_bnds"] = ((name, "bnds"), dataset[name].values[:, None] + half)
        dataset[name].attrs["bounds"] = f"{name}_bnds"
    dataset.attrs.update(geospatial_lon_min=9.5, time_coverage_duration="P0DT2H", history=["made", "grown"])
    return dataset.set_coords(["x_bnds", "y_bnds", "time_bnds"])


def with_text(start: int, count: int = 2) -> xr.Dataset:
    """Return `decoded` with what only xarray and zarr-python know: strings, durations, times of its own."""
    dataset = decoded(start, count).load()
    hours = np.arange(start, start + count)
    dataset["note"] = ("time", np.array([f"hour {i}" * (i % 3 + 1) for i in hours], dtype=object))
    dataset["flag"] = ("time", np.array([f"{i % 100:02d}" for i in hours]))
    dataset["lag"] = ("time", (hours * 90).astype("m8[m]").astype("m8[ns]"))
    dataset["issued"] = ("time", np.datetime64("2024-01-01T00:30", "ns") + hours.astype("m8[h]"))
    dataset["ok"] = ("time", hours % 2 == 0)
    return dataset


def stored_narrow(start: int, count: int = 2) -> xr.Dataset:
    """Return the part of `stored` whose arrays are one chunk wide, without attributes of the dataset."""
    return stored(start, count).isel(x=slice(4)).drop_attrs(deep=False)


# The makers.

Make = Callable[[Path, xr.Dataset], None]
Grow = Callable[[Path, xr.Dataset], None]


@dataclass(frozen=True)
class Maker:
    """Somebody who makes cubes.

    Attributes
    ----------
    make
        Makes a cube of a slice.
    grow
        Appends a slice.
    slices
        What a slice is, by its first hour and its length.
    sizes
        How many hours there are in each slice: the first one, those that zappend appends, and the maker's last one.
    slice_size
        The setting of zappend.
    same_bytes
        Whether zarr-python would write the same chunks.
    unread
        Readers who cannot read such a cube, whoever wrote it, and why.
    """

    make: Make
    grow: Grow
    slices: Callable[..., xr.Dataset] = stored
    sizes: tuple[int, ...] = (2, 2, 2, 2)
    slice_size: str = "chunk"
    same_bytes: bool = True
    unread: Mapping[str, str] = field(default_factory=dict)


def make_by_xarray(cube: Path, dataset: xr.Dataset, encoding: Mapping[str, Any] | None = None, **options: Any) -> None:
    dataset.to_zarr(cube, encoding=encoding, **options)


def grow_by_xarray(cube: Path, dataset: xr.Dataset) -> None:
    """Append what has the dimension; xarray itself looks up in the cube how it is stored."""
    constant = [name for name, variable in dataset.variables.items() if "time" not in variable.dims]
    dataset = dataset.drop_vars(constant).drop_encoding()
    dataset.to_zarr(cube, append_dim="time", consolidated=readers.is_consolidated(cube))


def make_by_zarr(cube: Path, dataset: xr.Dataset, zarr_format: int, consolidated: bool = False, **ways: Any) -> None:
    """Make a cube by zarr-python of a dataset as it is stored, its three-dimensional arrays in special `ways`."""
    group = zarr.open_group(cube, mode="w-", zarr_format=zarr_format, attributes=dataset.attrs)
    for name, variable in dataset.variables.items():
        attrs, fill = attributes_of(variable)
        special = dict(ways) if variable.ndim == 3 else {}
        special.setdefault("chunks", chunks_of(variable))
        dims: dict[str, Any] = {"dimension_names": variable.dims}
        if zarr_format == 2:
            dims = {}
            attrs[DIMENSIONS] = list(variable.dims)
        elif fill is not None:
            # Where readers of format 3 look for it; only those of format 2 take the array's own for missing.
            attrs["_FillValue"] = xr.backends.zarr.FillValueCoder.encode(fill, variable.dtype)
        array = group.create_array(
            str(name), shape=variable.shape, dtype=variable.dtype, fill_value=fill, attributes=attrs, **dims, **special
        )
        array[...] = variable.values
    if consolidated:
        zarr.consolidate_metadata(cube)


def grow_by_zarr(cube: Path, dataset: xr.Dataset) -> None:
    group = zarr.open_group(cube, mode="r+", use_consolidated=False)
    for name, variable in dataset.variables.items():
        if "time" in variable.dims:
            array = group[str(name)]
            assert isinstance(array, zarr.Array)
            array.append(variable.values)
    if readers.is_consolidated(cube):
        zarr.consolidate_metadata(cube)


def make_by_tensorstore(
    cube: Path, dataset: xr.Dataset, zarr_format: int, byte_order: str = "<", **metadata: Any
) -> None:
    """Make each array by TensorStore, which knows no groups and writes no attributes, and the rest by hand."""
    driver = "zarr3" if zarr_format == 3 else "zarr"
    for name, variable in dataset.variables.items():
        attrs, fill = attributes_of(variable)
        special = dict(metadata) if variable.ndim == 3 else {}
        if zarr_format == 3:
            if fill is not None:
                attrs["_FillValue"] = xr.backends.zarr.FillValueCoder.encode(fill, variable.dtype)
            grid = {"name": "regular", "configuration": {"chunk_shape": chunks_of(variable)}}
            special = {"chunk_grid": grid, "dimension_names": variable.dims, "attributes": attrs, **special}
        else:
            special = {"chunks": chunks_of(variable), "dtype": variable.dtype.newbyteorder(byte_order).str, **special}
            if fill is not None:
                special["fill_value"] = "NaN" if fill != fill else int(fill)
        array = tensorstore.open(
            {"driver": driver, "kvstore": {"driver": "file", "path": f"{cube / str(name)}/"}, "metadata": special},
            create=True,
            dtype=variable.dtype.name,
            shape=variable.shape,
        ).result()
        array.write(variable.values).result()
        if zarr_format == 2:
            write_json(cube / str(name) / ".zattrs", {**attrs, DIMENSIONS: list(variable.dims)})
    if zarr_format == 3:
        write_json(cube / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": dataset.attrs})
    else:
        write_json(cube / ".zgroup", {"zarr_format": 2})
        write_json(cube / ".zattrs", dataset.attrs)


def grow_by_tensorstore(cube: Path, dataset: xr.Dataset) -> None:
    driver = "zarr3" if (cube / "zarr.json").exists() else "zarr"
    for name, variable in dataset.variables.items():
        if "time" in variable.dims:
            spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{cube / str(name)}/"}}
            array = tensorstore.open(spec, open=True).result()
            old = array.shape[0]
            array = array.resize(exclusive_max=[old + variable.shape[0], *variable.shape[1:]]).result()
            array[old:].write(variable.values).result()


def make_as_zarr_2_did(cube: Path, dataset: xr.Dataset, consolidated: bool) -> None:
    """Make a cube as zarr-python 2 wrote it: sorted keys, four blanks, no separator, and no attributes where none are.

    Blosc with its five members, ``null`` or ``"NaN"`` as fill value, ``0`` for whole numbers.
    """
    compressor = {"blocksize": 0, "clevel": 5, "cname": "lz4", "id": "blosc", "shuffle": 1}
    documents: dict[str, Any] = {".zgroup": {"zarr_format": 2}}
    for name, variable in dataset.variables.items():
        attrs, fill = attributes_of(variable)
        chunks = chunks_of(variable)
        documents[f"{name}/.zarray"] = {
            "chunks": chunks,
            "compressor": compressor,
            "dtype": variable.dtype.str,
            "fill_value": None if fill is None else "NaN" if fill != fill else int(fill),
            "filters": None,
            "order": "C",
            "shape": list(variable.shape),
            "zarr_format": 2,
        }
        documents[f"{name}/.zattrs"] = {**attrs, DIMENSIONS: list(variable.dims)}
        # The slice is one chunk everywhere, but for arrays whose chunks are longer.
        block = np.zeros(chunks, variable.dtype)
        block[tuple(slice(size) for size in variable.shape)] = variable.values
        (cube / str(name)).mkdir(parents=True)
        data = numcodecs.get_codec(compressor).encode(np.ascontiguousarray(block))
        (cube / str(name) / (".".join("0" * variable.ndim) or "0")).write_bytes(data)
    if consolidated:
        metadata = dict(sorted(documents.items()))
        write_json(cube / ".zmetadata", {"metadata": metadata, "zarr_consolidated_format": 1})
    for key, document in documents.items():
        write_json(cube / key, document)


def attributes_of(variable: xr.Variable) -> tuple[dict[str, Any], Any]:
    """Return the attributes of a stored variable without its fill value, and that."""
    attrs = dict(variable.attrs)
    return attrs, attrs.pop("_FillValue", None)


def chunks_of(variable: xr.Variable) -> list[int]:
    """Return chunks of one slice, and of all labels that there will ever be for the coordinates along time."""
    if variable.dims[:1] == ("time",) and variable.ndim == 1:
        return [64]
    return [min(size, 4) if dim == "x" and variable.ndim > 1 else size for dim, size in variable.sizes.items()]


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=4, sort_keys=True, separators=(",", ": "), ensure_ascii=True))


def by_xarray(zarr_format: int, consolidated: bool = True, **how: Any) -> Maker:
    """Return xarray as a maker; `how` are members of `Maker`, or options of ``to_zarr``."""
    own = {key: how.pop(key) for key in ("slices", "sizes", "slice_size", "same_bytes", "unread") if key in how}
    make = partial(make_by_xarray, zarr_format=zarr_format, consolidated=consolidated, **how)
    return Maker(make, grow_by_xarray, **{"slices": decoded, **own})


def by_zarr(zarr_format: int, **how: Any) -> Maker:
    """Return zarr-python as a maker; `how` are members of `Maker`, or ways of the three-dimensional arrays."""
    own = {key: how.pop(key) for key in ("slices", "sizes", "slice_size", "same_bytes", "unread") if key in how}
    return Maker(partial(make_by_zarr, zarr_format=zarr_format, **how), grow_by_zarr, **own)


def by_tensorstore(zarr_format: int, **how: Any) -> Maker:
    """Return TensorStore as a maker; `how` are members of `Maker`, or of the metadata of three-dimensional arrays."""
    own = {key: how.pop(key) for key in ("sizes", "slice_size", "same_bytes", "unread") if key in how}
    return Maker(partial(make_by_tensorstore, zarr_format=zarr_format, **how), grow_by_tensorstore, **own)


def sharding(inner: list[int], **ways: Any) -> dict[str, Any]:
    """Return the codecs of shards as documents have them."""
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    configuration = {"chunk_shape": inner, "codecs": index[:1], "index_codecs": index, **ways}
    return {"codecs": [{"name": "sharding_indexed", "configuration": configuration}]}


PACKED = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768}
SECONDS = {"units": "seconds since 1970-01-01", "calendar": "standard", "dtype": "f8"}
SLASH = {"name": "v2", "separator": "/"}
DOT = {"name": "v2", "separator": "."}
DEFAULT_DOT = {"name": "default", "separator": "."}
SHARDS: dict[str, Any] = {"chunks": (1, 3, 4), "shards": (2, 3, 8)}
SHARD_OF_8: dict[str, Any] = {"chunks": (2, 3, 4), "shards": (8, 3, 8)}

FILTERS = {"tensorstore": "TensorStore knows no filters of format 2"}
CRC32C = {"gdal": "GDAL 3.12 knows no crc32c"}
NO_SHARDS = {"gdal": "GDAL 3.12 knows no shards"}

MAKERS: dict[str, Maker] = {
    # xarray
    "xarray 2": by_xarray(2),
    "xarray 3": by_xarray(3),
    "xarray 2, not consolidated": by_xarray(2, consolidated=False),
    "xarray 3, not consolidated": by_xarray(3, consolidated=False),
    "xarray 2, encodings": by_xarray(
        2,
        encoding={
            "a": {**PACKED, "compressors": [numcodecs.Zlib(3)], "filters": [numcodecs.Delta("i2")]},
            "counts": {"dtype": ">i4", "compressors": None},
            "time": {**SECONDS, "chunks": (64,)},
        },
        unread=FILTERS,
    ),
    "xarray 3, encodings": by_xarray(
        3,
        encoding={
            "a": {**PACKED, "compressors": [codecs.ZstdCodec(level=3, checksum=True)]},
            "counts": {"serializer": codecs.BytesCodec(endian="big"), "compressors": None},
            "time": {**SECONDS, "chunks": (64,)},
        },
    ),
    "xarray 2, text": by_xarray(2, slices=with_text, encoding={"time": {"chunks": (64,)}}),
    "xarray 3, text": by_xarray(3, slices=with_text, encoding={"time": {"chunks": (64,)}}),
    "xarray 2, small chunks": by_xarray(2, encoding={"a": {"chunks": (1, 2, 2)}}, slice_size="aligned"),
    "xarray 3, small chunks": by_xarray(3, encoding={"a": {"chunks": (1, 2, 2)}}, slice_size="aligned"),
    "xarray 2, partial chunks": by_xarray(2, sizes=(2, 1, 3, 1), slice_size="any"),
    "xarray 3, partial chunks": by_xarray(3, sizes=(2, 1, 3, 1), slice_size="any"),
    "xarray 2, slashes": by_xarray(2, encoding={"a": {"chunk_key_encoding": SLASH}}),
    "xarray 3, keys of format 2": by_xarray(3, encoding={"a": {"chunk_key_encoding": DOT}}),
    "xarray 3, shards": by_xarray(3, encoding={"a": SHARDS}, unread=NO_SHARDS),
    "xarray 3, shards that grow": by_xarray(
        3, encoding={"a": SHARD_OF_8}, sizes=(2, 1, 3, 2), slice_size="any", same_bytes=False, unread=NO_SHARDS
    ),
    "xarray 2, bounds as coordinates": by_xarray(2, slices=related),
    "xarray 3, bounds as coordinates": by_xarray(3, slices=related),
    "rioxarray 2": by_xarray(2, slices=as_rioxarray),
    "rioxarray 3": by_xarray(3, slices=as_rioxarray),
    "xcube": by_xarray(
        2,
        slices=as_xcube,
        encoding={"a": {"chunks": (1, 2, 2)}, "rain": {"chunks": (1, 2, 2)}, "time": {**SECONDS, "dtype": "i8"}},
        slice_size="aligned",
    ),
    # zarr-python
    "zarr 2": by_zarr(2),
    "zarr 2, consolidated": by_zarr(2, consolidated=True),
    "zarr 3": by_zarr(3),
    "zarr 3, consolidated": by_zarr(3, consolidated=True),
    "zarr 2, order F": by_zarr(2, order="F"),
    "zarr 2, order F, partial chunks": by_zarr(2, order="F", sizes=(2, 1, 4, 1), slice_size="any"),
    "zarr 2, slashes": by_zarr(2, chunk_key_encoding=SLASH),
    "zarr 2, filters": by_zarr(
        2,
        filters=[numcodecs.Shuffle(2)],
        compressors=numcodecs.LZ4(),
        slices=lambda *hours: stored(*hours).drop_vars("a"),
        unread={**FILTERS, "gdal": "GDAL's wheels have no LZ4 of its own"},
    ),
    "zarr 3, transpose": by_zarr(3, filters=[codecs.TransposeCodec(order=(2, 1, 0))]),
    "zarr 3, transpose in a circle": by_zarr(
        3,
        filters=[codecs.TransposeCodec(order=(2, 0, 1))],
        unread={"gdal": "GDAL 3.12 takes this order for its inverse, whoever wrote the cube"},
    ),
    "zarr 3, blosc": by_zarr(3, compressors=[codecs.BloscCodec(cname="zstd", shuffle="bitshuffle")]),
    "zarr 3, checksum": by_zarr(3, compressors=[codecs.ZstdCodec(), codecs.Crc32cCodec()], unread=CRC32C),
    "zarr 3, keys of format 2 with slashes": by_zarr(3, chunk_key_encoding=SLASH),
    "zarr 3, keys of format 2 with dots": by_zarr(3, chunk_key_encoding=DOT),
    "zarr 3, keys with dots": by_zarr(3, chunk_key_encoding=DEFAULT_DOT),
    "zarr 3, shards": by_zarr(3, **SHARDS, unread=NO_SHARDS),
    "zarr 3, shards, consolidated": by_zarr(3, **SHARDS, consolidated=True, unread=NO_SHARDS),
    "zarr 3, shards that grow": by_zarr(
        3, **SHARD_OF_8, sizes=(2, 1, 4, 1), slice_size="any", same_bytes=False, unread=NO_SHARDS
    ),
    "zarr 3, shards, keys of format 2": by_zarr(3, **SHARDS, chunk_key_encoding=DOT, unread=NO_SHARDS),
    "zarr 3, shards and transpose": by_zarr(
        3, **SHARDS, filters=[codecs.TransposeCodec(order=(1, 2, 0))], unread=NO_SHARDS
    ),
    "zarr 2, kinds of numbers": by_zarr(2, slices=with_kinds),
    "zarr 3, kinds of numbers": by_zarr(3, slices=with_kinds),
    "zarr 2, times of NumPy": by_zarr(2, slices=with_times_of_numpy),
    "zarr 3, times of NumPy": by_zarr(3, slices=with_times_of_numpy),
    "zarr 2, empty chunks": by_zarr(2, slices=with_gaps, same_bytes=False),
    "zarr 3, empty chunks": by_zarr(3, slices=with_gaps, same_bytes=False),
    "zarr 3, shards, empty chunks": by_zarr(3, **SHARDS, slices=with_gaps, same_bytes=False, unread=NO_SHARDS),
    "zarr 3, shards that grow, empty chunks": by_zarr(
        3,
        **SHARD_OF_8,
        slices=with_gaps,
        sizes=(2, 1, 4, 1),
        slice_size="any",
        same_bytes=False,
        unread=NO_SHARDS,
    ),
    # TensorStore
    "tensorstore 2": by_tensorstore(2, same_bytes=False),
    "tensorstore 2, slashes": by_tensorstore(2, dimension_separator="/", compressor=None),
    "tensorstore 2, order F": by_tensorstore(2, order="F", compressor={"id": "zlib", "level": 4}, same_bytes=False),
    "tensorstore 2, big endian": by_tensorstore(
        2, byte_order=">", sizes=(2, 1, 2, 1), slice_size="any", same_bytes=False
    ),
    "tensorstore 3": by_tensorstore(3),
    "tensorstore 3, transpose": by_tensorstore(
        3,
        codecs=[
            {"name": "transpose", "configuration": {"order": [2, 1, 0]}},
            {"name": "bytes", "configuration": {"endian": "big"}},
        ],
    ),
    "tensorstore 3, shards": by_tensorstore(3, **sharding([1, 3, 4]), same_bytes=False, unread=NO_SHARDS),
    "tensorstore 3, shards with the index first": by_tensorstore(
        3,
        **sharding([1, 3, 4], index_location="start"),
        sizes=(2, 1, 2, 1),
        slice_size="any",
        same_bytes=False,
        unread=NO_SHARDS,
    ),
    # zarr-python 2
    "zarr 2.18": Maker(partial(make_as_zarr_2_did, consolidated=False), grow_by_zarr, stored_narrow),
    "zarr 2.18, consolidated": Maker(partial(make_as_zarr_2_did, consolidated=True), grow_by_zarr, stored_narrow),
}


@pytest.fixture(params=MAKERS, ids=lambda name: name.replace(", ", "-").replace(" ", "_"))
def maker(request: pytest.FixtureRequest) -> Maker:
    return MAKERS[request.param]


def slices_of(maker: Maker) -> list[xr.Dataset]:
    starts = np.cumsum([0, *maker.sizes]).tolist()
    return [maker.slices(start, count) for start, count in zip(starts, maker.sizes, strict=False)]


@pytest.fixture
def grown(maker: Maker, tmp_path: Path) -> Path:
    """A cube that its maker made and zappend has grown."""
    cube = tmp_path / "cube.zarr"
    slices = slices_of(maker)[:-1]
    maker.make(cube, slices[0])
    # Whether a slice is decoded must not matter.
    given = [xr.decode_cf(slices[1]), *slices[2:]]
    zappend.append(cube, given, slice_size=maker.slice_size, durability="process")
    return cube


def test_a_cube_of_others_grows(maker: Maker, grown: Path, tmp_path: Path) -> None:
    """The values are those of all slices, whoever appended them, and the cube has kept its ways."""
    made = tmp_path / "made.zarr"
    slices = slices_of(maker)
    maker.make(made, slices[0])
    assert_holds(grown, slices[:-1])
    assert documents(grown) == documents(made)
    assert_consolidated_alike(grown)
    readers.assert_read_alike(grown, "xarray", at_least=len(slices[0].variables))
    if "tensorstore" not in maker.unread:
        readers.assert_read_alike(grown, "tensorstore", at_least=6)
    if maker.same_bytes:
        cubes.assert_bytes_of_zarr(grown, tmp_path)
    maker.grow(grown, slices[-1])
    assert_holds(grown, slices)
    # ... and once more, behind what the maker appended.
    zappend.append(grown, maker.slices(sum(maker.sizes), 2), slice_size="any", durability="process")
    assert_holds(grown, [*slices, maker.slices(sum(maker.sizes), 2)])


GDAL_READS = [name for name, maker in MAKERS.items() if "gdal" not in maker.unread]


@pytest.mark.parametrize("maker", GDAL_READS, indirect=True)
def test_gdal_finds_the_same(grown: Path) -> None:
    readers.assert_read_alike(grown, "gdal", at_least=3)


def assert_holds(cube: Path, slices: list[xr.Dataset]) -> None:
    """Assert that the cube decodes to its slices, in values, dimensions and attributes."""
    expected = cubes.concatenated([xr.decode_cf(one.copy(deep=True), decode_coords="all") for one in slices])
    with xr.open_zarr(cube, consolidated=readers.is_consolidated(cube), chunks=None, decode_coords="all") as found:
        xr.testing.assert_identical(found.load(), expected)
        assert {n: v.dims for n, v in found.variables.items()} == {n: v.dims for n, v in expected.variables.items()}


def documents(cube: Path) -> dict[str, Any]:
    """Return all metadata documents without the shapes of arrays."""
    paths = [*cube.rglob("zarr.json"), *cube.rglob(".z*")]
    return {str(path.relative_to(cube)): without_shapes(json.loads(path.read_bytes())) for path in sorted(paths)}


def without_shapes(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    return {key: without_shapes(value) for key, value in document.items() if key != "shape"}


def assert_consolidated_alike(cube: Path) -> None:
    """Assert that the copy of the metadata, if there is one, says what the documents themselves say."""
    if not readers.is_consolidated(cube):
        return
    if (cube / "zarr.json").exists():
        copies = json.loads((cube / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
        originals = {name: f"{name}/zarr.json" for name in copies}
    else:
        copies = json.loads((cube / ".zmetadata").read_bytes())["metadata"]
        originals = {key: key for key in copies}
    for name, copy in copies.items():
        assert copy == json.loads((cube / originals[name]).read_bytes()), name


# GDAL as a maker.


@pytest.mark.filterwarnings("ignore:Object at pam.aux.xml")  # where GDAL keeps what is no Zarr
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_cubes_of_gdal_grow(tmp_path: Path, zarr_format: int) -> None:
    """Bands of an image become the planes of an array without labels; GDAL itself can append none."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio, which brings GDAL, is not installed")
    if zarr_format == 3 and tuple(map(int, rasterio.__gdal_version__.split(".")[:2])) < (3, 11):
        pytest.skip(f"GDAL {rasterio.__gdal_version__} writes only a draft of format 3")
    cube = tmp_path / "cube.zarr"
    values = np.arange(60, dtype="f4").reshape(5, 3, 4)
    options = {"FORMAT": f"ZARR_V{zarr_format}", "SINGLE_ARRAY": "YES", "ARRAY_NAME": "a", "BLOCKSIZE": "1,3,4"}
    corner = rasterio.Affine(1.0, 0.0, 10.0, 0.0, -1.0, 50.0)
    with rasterio.open(
        cube,
        "w",
        driver="Zarr",
        count=2,
        height=3,
        width=4,
        dtype="float32",
        crs="EPSG:4326",
        transform=corner,
        **options,
    ) as image:
        image.write(values[:2])
    before = documents(cube)
    with xr.open_zarr(cube, consolidated=readers.is_consolidated(cube), chunks=None) as first:
        grid = first[["X", "Y"]].load()
    slices = [grid.assign(a=(("Band", "Y", "X"), values[i : i + 1])) for i in range(2, 5)]
    zappend.append(cube, slices, append_dim="Band", append_step="any")
    assert documents(cube) == before
    for reader in readers.READERS:
        np.testing.assert_array_equal(readers.READERS[reader](cube)["a"], values)
