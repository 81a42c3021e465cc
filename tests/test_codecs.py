"""Chunks of every codec and type that zarr-python can write: the same bytes, and the same values back."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numcodecs
import numcodecs.registry
import numpy as np
import pytest
import xarray as xr
import zarr
import zarr.registry
from zarr.abc.codec import ArrayArrayCodec

import zappend
from zappend.codec import ChunkCodec, single_threaded_blosc
from zappend.datatypes import BYTES, STRING, fill_to_attribute, is_bytes
from zappend.errors import SliceError, TargetError
from zappend.metadata import Array, new_array
from zappend.reader import CubeReader

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning", "ignore:Numcodecs codecs are not")

SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((), ()),
    ((1,), (1,)),
    ((7,), (3,)),
    ((4, 5), (2, 3)),
    ((3, 2, 4), (2, 2, 4)),
]
"""Shapes of arrays and of their chunks, some of which reach beyond the edge."""

NUMBERS = ["<i4", ">f8", "|u1", "<c8"]

TYPES = [
    *("?", "i1", "<i2", ">i4", "<i8", "u1", ">u2", "<u4", "<u8", "<f2", ">f2", "<f4", ">f4", "<f8", "<c8", ">c16"),
    *("<M8[ns]", ">M8[s]", "<m8[us]", "<m8[25s]", "<M8[D]", "<U3", ">U3", "S3", "V3", "string", "bytes"),
]

GZIP_HEADER = 10
"""Bytes of gzip's header, which holds the time."""


def values_of(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Return values of `dtype`, all of which codecs that round can hold."""
    size = int(np.prod(shape, dtype=int))
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 100, size)
    words = ["", "a", "bc", "é", "xyz"]
    if dtype in ("string", "bytes"):
        flat = np.array([words[n % 5] * (n % 3) for n in numbers], object)
        if dtype == "bytes":
            flat = np.array([word.encode() for word in flat], object)
        return flat.reshape(shape)
    kind = np.dtype(dtype).kind
    if kind in "US":
        return np.array([words[n % 5 if kind == "U" else n % 3] for n in numbers], dtype).reshape(shape)
    if kind == "V":
        return np.frombuffer(rng.bytes(size * np.dtype(dtype).itemsize), dtype).reshape(shape)
    if kind in "mM":
        return numbers.astype("i8").view(np.dtype(dtype).newbyteorder("=")).astype(dtype).reshape(shape)
    if kind == "b":
        return (numbers % 2 == 0).reshape(shape)
    values = numbers / 4 if kind in "fc" else numbers
    if kind == "c":
        values = values + 1j * values[::-1]
    return values.astype(dtype).reshape(shape)


def make(
    shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str, zarr_format: int, members: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return a group with one array ``a``, whose document has `members`, and which zarr-python has filled."""
    names = [f"d{i}" for i in range(len(shape))]
    attrs = {"_ARRAY_DIMENSIONS": names}
    documents: dict[str, Any]
    if zarr_format == 2:
        objects = {"string": [{"id": "vlen-utf8"}], "bytes": [{"id": "vlen-bytes"}]}.get(dtype, [])
        document = {
            "zarr_format": 2,
            "shape": shape,
            "chunks": chunks,
            "dtype": "|O" if objects else np.dtype(dtype).str,
            "fill_value": None,
            "order": "C",
            "compressor": None,
            **members,
            "filters": [*objects, *members.get("filters", ())] or None,
        }
        documents = {".zgroup": {"zarr_format": 2}, "a/.zarray": document, "a/.zattrs": attrs}
    else:
        kind = zarr_type(dtype)
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": kind.to_json(zarr_format=3),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": kind.to_json_scalar(kind.default_scalar(), zarr_format=3),
            "attributes": attrs,
            "dimension_names": names,
            **members,
        }
        documents = {"zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": {}}, "a/zarr.json": document}
    return written({key: json.dumps(value).encode() for key, value in documents.items()}, values_of(shape, dtype))


def zarr_type(dtype: str) -> Any:
    if dtype == "string":
        return zarr.dtype.VariableLengthUTF8()
    return zarr.dtype.VariableLengthBytes() if dtype == "bytes" else zarr.dtype.parse_dtype(dtype, zarr_format=3)


def written(documents: Mapping[str, bytes], values: np.ndarray, write_empty: bool = True) -> dict[str, bytes]:
    """Return the group of `documents` after zarr-python has written `values` into its array ``a``."""
    store = memory_store(documents)
    with zarr.config.set({"array.write_empty_chunks": write_empty}):
        array = zarr.open_array(store, path="a", mode="r+")
        array[...] = values if values.shape else values[()]
    return contents(store)


def memory_store(mapping: Mapping[str, bytes]) -> zarr.storage.MemoryStore:
    return zarr.storage.MemoryStore({k: zarr.core.buffer.cpu.Buffer.from_bytes(v) for k, v in mapping.items()})


def contents(store: zarr.storage.MemoryStore) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def read_array(mapping: Mapping[str, bytes]) -> Array:
    cube = CubeReader("test", "time").read(mapping)
    assert cube is not None
    return cube.arrays["a"]


def blocks(array: Array, values: np.ndarray) -> Iterator[tuple[str, np.ndarray, tuple[slice, ...]]]:
    """Iterate over the keys of chunks, their values, filled up beyond the edge, and which part is within it."""
    for index in itertools.product(*(range(-(-n // c)) for n, c in zip(array.shape, array.chunks, strict=True))):
        block = np.full(array.chunks, array.padding, array.dtype)
        sides = zip(index, array.chunks, array.shape, strict=True)
        region = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in sides)
        within = tuple(slice(0, side.stop - side.start) for side in region)
        block[within] = values[region]
        yield array.chunk_key(index), block, region


def read_by_zarr(mapping: Mapping[str, bytes]) -> np.ndarray:
    return np.asarray(zarr.open_array(memory_store(mapping), path="a", mode="r")[...])


def check(mapping: Mapping[str, bytes], dtype: str, *, skip: int = 0, seed: int = 0) -> None:
    """Assert that the array ``a``, which holds `values_of`, is encoded and decoded as zarr-python does it."""
    array = read_array(mapping)
    codec = ChunkCodec(array)
    by_zarr = read_by_zarr(mapping)
    for key, block, region in blocks(array, values_of(array.shape, dtype, seed)):
        with single_threaded_blosc():
            data = codec.encode(block, None, tuple(side.stop - side.start for side in region))
        assert data is not None
        assert data[skip:] == mapping[key][skip:], key
        decoded = codec.decode(mapping[key])
        assert decoded.shape == array.chunks
        within = tuple(slice(0, side.stop - side.start) for side in region)
        # Compared by value: of two zeros, and of NaN, the bits do not matter here.
        np.testing.assert_array_equal(np.asarray(decoded[within], by_zarr.dtype), by_zarr[region])


# Format 2.

BYTES_CODECS_2: dict[str, dict[str, Any]] = {
    "adler32": {},
    "base64": {},
    "blosc": {"cname": "zstd", "clevel": 3, "shuffle": 2, "blocksize": 0},
    "bz2": {"level": 1},
    "crc32": {},
    "crc32c": {},
    "fletcher32": {},
    "gzip": {"level": 1},
    "jenkins_lookup3": {},
    "lz4": {"acceleration": 1},
    "lzma": {},
    "shuffle": {},  # its element size is that of the type
    "zlib": {"level": 1},
    "zstd": {"level": 1},
}

TYPED_CODECS_2: dict[str, list[tuple[dict[str, Any], str]]] = {
    "astype": [({"encode_dtype": "<i2", "decode_dtype": "<i4"}, "<i4")],
    "bitround": [({"keepbits": 4}, dtype) for dtype in ("<f2", "<f4", "<f8")],
    "categorize": [({"labels": ["a", "bc", "é", "xyz"], "dtype": "<U3", "astype": "|u1"}, "<U3")],
    "delta": [({"dtype": dtype}, dtype) for dtype in ("<i4", "<f8", "|u1")]
    + [({"dtype": "<i4", "astype": "<i2"}, "<i4")],
    "fixedscaleoffset": [({"scale": 4, "offset": 0, "dtype": "<f4", "astype": "<i2"}, "<f4")],
    "json2": [({}, "string")],
    "msgpack2": [({}, "string")],
    "packbits": [({}, "?")],
    "pcodec": [({}, "<f4"), ({}, "<i8")],
    "quantize": [({"digits": 1, "dtype": dtype}, dtype) for dtype in ("<f4", "<f8")],
    "vlen-bytes": [({}, "bytes")],
    "vlen-utf8": [({}, "string")],
    "zfpy": [({"mode": 4, "tolerance": 0.001}, "<f4")],
}

REFUSED_2 = {"pickle", "vlen-array"}


def test_every_codec_of_numcodecs_is_tested() -> None:
    registered = set(numcodecs.registry.codec_registry)
    assert registered <= BYTES_CODECS_2.keys() | TYPED_CODECS_2.keys() | REFUSED_2


@pytest.mark.parametrize("role", ["compressor", "filter"])
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("name", BYTES_CODECS_2)
def test_format_2_codecs_of_bytes(name: str, dtype: str, role: str) -> None:
    config = {"id": name, **BYTES_CODECS_2[name]}
    if name == "shuffle":
        config["elementsize"] = np.dtype(dtype).itemsize
    members = {"compressor": config} if role == "compressor" else {"filters": [config]}
    for (shape, chunks), order in [*zip(SHAPES, itertools.repeat("C"), strict=False), (SHAPES[-1], "F")]:
        mapping = make(shape, chunks, dtype, 2, {**members, "order": order})
        check(mapping, dtype, skip=GZIP_HEADER if name == "gzip" else 0)


@pytest.mark.parametrize(
    ("name", "config", "dtype"), [(n, c, t) for n, cases in TYPED_CODECS_2.items() for c, t in cases]
)
def test_format_2_codecs_of_values(name: str, config: dict[str, Any], dtype: str) -> None:
    if name in ("pcodec", "zfpy"):
        pytest.importorskip(name, reason="numcodecs has this codec only where its package is installed")
    own = [] if name.startswith("vlen") else [{"id": name, **config}]
    orders = "C" if name in ("json2", "msgpack2", "bitround", "zfpy") else "CF"
    for (shape, chunks), order in itertools.product(SHAPES, orders):
        if name in ("pcodec", "zfpy", "vlen-bytes") and not shape:
            continue  # they, or zarr with them, take no array without dimensions
        mapping = make(shape, chunks, dtype, 2, {"filters": own, "compressor": {"id": "zlib"}, "order": order})
        check(mapping, dtype)


def document_2(**members: Any) -> Array:
    """Return an array of format 2 of strings, made without zarr-python, which does not know all of these."""
    document = {
        "zarr_format": 2,
        "shape": [2, 3],
        "chunks": [2, 3],
        "dtype": "|O",
        "fill_value": None,
        "order": "C",
        "filters": None,
        "compressor": None,
        **members,
    }
    documents = {".zgroup": {"zarr_format": 2}, "a/.zarray": document, "a/.zattrs": {"_ARRAY_DIMENSIONS": ["x", "y"]}}
    return read_array({key: json.dumps(value).encode() for key, value in documents.items()})


@pytest.mark.parametrize(
    "config", [{"id": "json2"}, {"id": "msgpack2"}, {"id": "categorize", "labels": ["a", "b"], "dtype": "|O"}]
)
def test_objects_by_codecs_that_only_older_readers_know(config: dict[str, Any]) -> None:
    values = np.array([["a", "b", "a"], ["b", "b", "a"]], object)
    codec = ChunkCodec(document_2(filters=[config]))
    data = codec.encode(values)
    assert data is not None
    assert data == bytes(numcodecs.compat.ensure_bytes(numcodecs.get_codec(config).encode(values)))
    np.testing.assert_array_equal(codec.decode(data), values)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"filters": [{"id": "pickle"}]}, "pickle"),
        ({"filters": [{"id": "vlen-array", "dtype": "<i4"}]}, "vlen-array"),
        ({"filters": [{"id": "unheard-of"}]}, "unheard-of"),
        ({"filters": [{"id": "vlen-utf8"}], "compressor": {"id": "unheard-of"}}, "unheard-of"),
        ({"filters": [{"id": "zstd", "level": 1}]}, "objects without"),
        ({"filters": [{"id": "json2"}], "order": "F"}, "json2"),
        ({"dtype": "<f4", "filters": [{"id": "bitround", "keepbits": 4}], "order": "F"}, "bitround"),
        ({"dtype": "<i4", "compressor": {"id": "zstd", "unheard-of": 1}}, "unheard-of"),
    ],
)
def test_format_2_codecs_that_are_refused(members: dict[str, Any], why: str) -> None:
    with pytest.raises(TargetError, match=f"'a'.*{why}"):
        ChunkCodec(document_2(**members))


# Format 3.

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
BIG = {"name": "bytes", "configuration": {"endian": "big"}}


def named(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "configuration": options}


def sharded(*inner: int, codecs: list[Any] | None = None, **options: Any) -> dict[str, Any]:
    options = {"index_codecs": [LITTLE, {"name": "crc32c"}], "index_location": "end", **options}
    return named("sharding_indexed", chunk_shape=inner, codecs=codecs or [LITTLE], **options)


BYTES_CODECS_3: dict[str, dict[str, Any]] = {
    "blosc": {"typesize": 4, "cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "blocksize": 0},
    "crc32c": {},
    "gzip": {"level": 1},
    "zstd": {"level": 1, "checksum": True},
    **{f"numcodecs.{name}": config for name, config in BYTES_CODECS_2.items() if name not in ("base64",)},
}

TYPED_CODECS_3: dict[str, list[tuple[list[Any], str]]] = {
    "bytes": [([LITTLE], "<f4"), ([BIG], "<f4"), ([BIG], "<U3"), ([{"name": "bytes"}], "|u1"), ([BIG], "<M8[ns]")],
    "endian": [],  # another name of bytes, which zarr-python itself cannot read
    "cast_value": [([named("cast_value", data_type="int16", rounding="nearest-even"), BIG], "<i4")],
    "numcodecs.astype": [([named("numcodecs.astype", encode_dtype="int16", decode_dtype="int32"), LITTLE], "<i4")],
    "numcodecs.bitround": [([named("numcodecs.bitround", keepbits=4), LITTLE], t) for t in ("<f2", "<f4", "<f8")],
    "numcodecs.delta": [([named("numcodecs.delta", dtype="<i4"), LITTLE], "<i4")],
    "numcodecs.fixedscaleoffset": [
        ([named("numcodecs.fixedscaleoffset", scale=4, offset=0, dtype="<f4", astype="<i2"), LITTLE], "<f4")
    ],
    "numcodecs.packbits": [([named("numcodecs.packbits"), {"name": "bytes"}], "?")],
    "numcodecs.pcodec": [([named("numcodecs.pcodec")], t) for t in ("<f4", "<i8")],
    "numcodecs.quantize": [([named("numcodecs.quantize", digits=1, dtype="<f4"), LITTLE], "<f4")],
    "numcodecs.zfpy": [([named("numcodecs.zfpy", mode=4, tolerance=0.001)], "<f4")],
    "scale_offset": [([named("scale_offset", scale=2, offset=1), LITTLE], "<f4")],
    "sharding_indexed": [],  # below
    "transpose": [],  # below, as it depends on the shape
    "vlen-bytes": [([named("vlen-bytes"), named("zstd", level=0, checksum=False)], "bytes")],
    "vlen-utf8": [([named("vlen-utf8"), named("zstd", level=0, checksum=False)], "string")],
}

PACKAGES = {"numcodecs.pcodec": "pcodec", "numcodecs.zfpy": "zfpy", "cast_value": "cast_value_rs"}
"""What zarr needs for some of its codecs."""


def registered_3() -> set[str]:
    # The registry has no public list of its names, and is called differently in both versions.
    registries = [value for name, value in vars(zarr.registry).items() if name.endswith("_codec_registries")]
    assert len(registries) == 1
    # A name is in there once it was asked for; and tests add one.
    return {name for name, found in registries[0].items() if found and not name.startswith("test.")}


def needs(name: str) -> None:
    if name not in registered_3():
        pytest.skip("this version of zarr does not have the codec")
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason="zarr's codec takes this package")


def test_every_codec_of_zarr_is_tested() -> None:
    assert registered_3() <= BYTES_CODECS_3.keys() | TYPED_CODECS_3.keys()


@pytest.mark.parametrize("dtype", ["<i4", "<f8", "|u1", "<c8"])
@pytest.mark.parametrize("name", BYTES_CODECS_3)
def test_format_3_codecs_of_bytes(name: str, dtype: str) -> None:
    options = dict(BYTES_CODECS_3[name])
    if name == "numcodecs.shuffle":
        options["elementsize"] = np.dtype(dtype).itemsize
    to_bytes = LITTLE if np.dtype(dtype).itemsize > 1 else {"name": "bytes"}
    for shape, chunks in SHAPES:
        mapping = make(shape, chunks, dtype, 3, {"codecs": [to_bytes, named(name, **options)]})
        check(mapping, dtype, skip=GZIP_HEADER if name.endswith("gzip") else 0)


@pytest.mark.parametrize(
    ("name", "codecs", "dtype"), [(n, c, t) for n, cases in TYPED_CODECS_3.items() for c, t in cases]
)
def test_format_3_codecs_of_values(name: str, codecs: list[Any], dtype: str) -> None:
    needs(name)
    for shape, chunks in SHAPES:
        if name in ("numcodecs.pcodec", "numcodecs.zfpy", "vlen-bytes") and not shape:
            continue  # they, or zarr with them, take no array without dimensions
        check(make(shape, chunks, dtype, 3, {"codecs": codecs}), dtype)


@pytest.mark.parametrize("dtype", ["<f4", "string"])
def test_transposed_chunks(dtype: str) -> None:
    to_bytes = LITTLE if dtype == "<f4" else named("vlen-utf8")
    probe = make((2, 3), (2, 3), dtype, 3, {"codecs": [named("transpose", order=(1, 0)), to_bytes]})
    if (read_by_zarr(probe) != values_of((2, 3), dtype)).any():
        pytest.skip("this version of zarr does not read its own transposed strings as they were")
    orders = itertools.permutations(range(3))
    for first, second in itertools.product(orders, [None, (1, 2, 0)]):
        codecs = [named("transpose", order=order) for order in (first, second) if order]
        check(make((3, 2, 4), (2, 2, 4), dtype, 3, {"codecs": [*codecs, to_bytes]}), dtype)


@pytest.mark.parametrize(
    "codecs",
    [
        [
            named("transpose", order=[1, 0]),
            named("numcodecs.astype", encode_dtype="float64", decode_dtype="float32"),
            LITTLE,
        ],
        [
            named("numcodecs.astype", encode_dtype="float64", decode_dtype="float32"),
            sharded(1, 3, codecs=[LITTLE, named("numcodecs.zlib", level=1)]),
        ],
        [LITTLE, named("numcodecs.shuffle", elementsize=4), named("zstd", level=1, checksum=False), {"name": "crc32c"}],
        [sharded(1, 3, codecs=[named("transpose", order=[1, 0]), named("numcodecs.delta", dtype="<f4"), LITTLE])],
    ],
)
def test_codecs_of_both_kinds_in_a_row(codecs: list[Any]) -> None:
    check(make((4, 5), (2, 3), "<f4", 3, {"codecs": codecs}), "<f4")


def test_scaled_and_cast_before_shards() -> None:
    for name in ("scale_offset", "cast_value"):
        needs(name)
    filters = [named("scale_offset", scale=4, offset=0), named("cast_value", data_type="int16")]
    mapping = make((4, 5), (2, 3), "<f4", 3, {"codecs": [*filters, sharded(1, 3, codecs=[BIG])]})
    check(mapping, "<f4")


# Types.


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type(dtype: str, zarr_format: int) -> None:
    if zarr_format == 2:
        members: dict[str, Any] = {"compressor": {"id": "zstd", "level": 1}}
    else:
        vlen = {"string": named("vlen-utf8"), "bytes": named("vlen-bytes")}
        members = {"codecs": [vlen.get(dtype, LITTLE), named("zstd", level=1, checksum=False)]}
    for shape, chunks in SHAPES:
        if dtype != "bytes" or shape:  # zarr 3.4 does not write bytes of any length into an array without dimensions
            check(make(shape, chunks, dtype, zarr_format, members), dtype)


# Through the public surface.


def grown(mapping: Mapping[str, bytes], shape: tuple[int, ...]) -> dict[str, bytes]:
    """Return the documents of `mapping` with an array ``a`` of `shape`, dimensions named, and no chunk."""
    found = {key: data for key, data in mapping.items() if not key.startswith(("a/c/", "a/0"))}
    last = "a/zarr.json" if "a/zarr.json" in found else "a/.zarray"
    document = {**json.loads(found[last]), "shape": shape}
    if "dimension_names" in document:
        document = {**document, "dimension_names": ["time", "x"], "attributes": {}}
    else:
        found["a/.zattrs"] = json.dumps({"_ARRAY_DIMENSIONS": ["time", "x"]}).encode()
    return {**found, last: json.dumps(document).encode()}


@pytest.mark.parametrize(
    ("zarr_format", "dtype", "members"),
    [
        (
            2,
            "<f4",
            {"order": "F", "filters": [{"id": "delta", "dtype": "<f4"}], "compressor": {"id": "bz2", "level": 1}},
        ),
        (2, ">i4", {"compressor": {"id": "lz4", "acceleration": 1}}),
        (2, "string", {"compressor": {"id": "zlib", "level": 1}}),
        (2, "bytes", {}),
        (2, "S3", {}),
        (2, "V3", {}),
        (2, "<c8", {}),
        (2, "<M8[ns]", {}),
        (2, ">m8[s]", {}),
        (3, "<f4", {"codecs": [named("transpose", order=[1, 0]), BIG, named("numcodecs.bz2", level=1)]}),
        (3, "<i4", {"codecs": [sharded(1, 2, codecs=[named("numcodecs.delta", dtype="<i4"), BIG])]}),
        (3, "string", {"codecs": [sharded(1, 2, codecs=[named("vlen-utf8")])]}),
        (3, "bytes", {"codecs": [named("vlen-bytes"), named("gzip", level=1)]}),
        (3, "<U3", {"codecs": [LITTLE]}),
        (3, "V3", {"codecs": [{"name": "bytes"}]}),
        (3, "<f2", {"codecs": [LITTLE]}),
        (3, "<M8[ns]", {"codecs": [LITTLE]}),
        (3, "<m8[s]", {"codecs": [LITTLE]}),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_appended_chunks_are_those_that_zarr_writes(
    zarr_format: int, dtype: str, members: dict[str, Any], threads: int
) -> None:
    made = make((6, 5), (2, 4), dtype, zarr_format, members)
    values = values_of((6, 5), dtype)
    expected = written(grown(made, (6, 5)), values)
    target = written(grown(made, (2, 5)), values[:2])
    parts = [xr.Dataset({"a": (("time", "x"), values[2:4])}), xr.Dataset({"a": (("time", "x"), values[4:])})]
    assert zappend.append(target, parts, append_step="any", threads=threads) == 2
    skip = GZIP_HEADER if "gzip" in str(members) else 0
    assert {k: v[skip:] for k, v in target.items() if "a/c/" in k or "a/0" in k or "a/1" in k or "a/2" in k} == {
        k: v[skip:] for k, v in expected.items() if not k.endswith(("json", "zarray", "zattrs", "zgroup"))
    }
    np.testing.assert_array_equal(read_by_zarr(target), read_by_zarr(expected))


@pytest.mark.parametrize(
    ("dtype", "filters", "value", "made"),
    [
        ("<f4", [{"id": "fixedscaleoffset", "scale": 10, "offset": 0, "dtype": "<f4", "astype": "|u1"}], 30, "4.4"),
        ("<f4", [{"id": "fixedscaleoffset", "scale": 10, "offset": 0, "dtype": "<f4", "astype": "<i2"}], np.nan, "0.0"),
        ("<i4", [{"id": "astype", "encode_dtype": "<i2", "decode_dtype": "<i4"}], 70000, "4464"),
        ("<f8", [{"id": "astype", "encode_dtype": "<f4", "decode_dtype": "<f8"}], 1e300, "inf"),
        ("<i4", [{"id": "delta", "dtype": "<i4", "astype": "|i1"}], 200, "-56"),
        ("<f4", [{"id": "delta", "dtype": "<f4"}], np.inf, "nan"),
        ("<U3", [{"id": "categorize", "labels": ["", "a"], "dtype": "<U3", "astype": "|u1"}], "zzz", ""),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_values_that_a_codec_would_change_are_refused(
    dtype: str, filters: list[dict[str, Any]], value: Any, made: str
) -> None:
    mapping = make((2, 5), (2, 4), "<i4", 2, {})
    target = grown(mapping, (2, 5))
    document = {**json.loads(target["a/.zarray"]), "dtype": dtype, "filters": filters}
    target["a/.zarray"] = json.dumps(document).encode()
    fine = np.full((2, 5), "a" if dtype == "<U3" else 1, dtype)
    assert zappend.append(target, [xr.Dataset({"a": (("time", "x"), fine)})], append_step="any") == 1
    before = dict(target)
    bad = fine.copy()
    bad[1, 1] = value
    with pytest.raises(SliceError, match=f"variable 'a' cannot be encoded: .* the codecs.*would make {made} of it"):
        zappend.append(target, [xr.Dataset({"a": (("time", "x"), bad)})], append_step="any")
    assert target == before


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_unknown_codec_is_refused_before_anything_is_written(zarr_format: int) -> None:
    made = make((2, 5), (2, 4), "<f4", zarr_format, {} if zarr_format == 2 else {"codecs": [LITTLE]})
    target = grown(made, (2, 5))
    last = "a/zarr.json" if zarr_format == 3 else "a/.zarray"
    unknown = {"codecs": [LITTLE, named("unheard-of")]} if zarr_format == 3 else {"compressor": {"id": "unheard-of"}}
    target[last] = json.dumps({**json.loads(target[last]), **unknown}).encode()
    before = dict(target)
    with pytest.raises(TargetError, match="array 'a' has a codec that is not supported: 'unheard-of'"):
        zappend.append(target, [xr.Dataset({"a": (("time", "x"), values_of((2, 5), "<f4"))})], append_step="any")
    assert target == before


async def test_codecs_of_zarr_are_called_where_a_loop_runs() -> None:
    # As in a notebook, whose cells are run by one.
    assert asyncio.get_running_loop() is not None
    check(make((4, 5), (2, 3), "<i4", 3, {"codecs": [LITTLE, named("numcodecs.zlib", level=1)]}), "<i4")


def test_codecs_of_zarr_are_called_in_a_forked_process() -> None:
    code = """
import os, sys, numpy as np
from zappend.chunkspec import ChunkSpec
from zappend.zarrcodec import ZarrCodecs
codecs = [{"name": "bytes"}, {"name": "numcodecs.zlib", "configuration": {"level": 1}}]
zarrs = ZarrCodecs(codecs, ChunkSpec((3,), np.dtype("u1"), 0), write_empty=True)
def works(): return zarrs.decode(1, zarrs.encode(1, b"abc")) == b"abc"
assert works()
if (child := os.fork()) == 0:
    os._exit(0 if works() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # Python warns of forks among threads; what is tested is that they do no harm here.
    options = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


class Negative(ArrayArrayCodec):
    """A codec of a third party."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Negative:
        return cls()

    def to_dict(self) -> dict[str, Any]:
        return {"name": "test.negative", "configuration": {}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        return input_byte_length

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return chunk_spec.prototype.nd_buffer.from_numpy_array(-chunk_data.as_numpy_array())

    _decode_single = _encode_single


def test_a_codec_of_a_third_party() -> None:
    zarr.registry.register_codec("test.negative", Negative)
    mapping = make((4, 5), (2, 3), "<i4", 3, {"codecs": [named("test.negative"), LITTLE]})
    check(mapping, "<i4")
    assert -values_of((4, 5), "<i4")[0, 0] == np.frombuffer(mapping["a/c/0/0"], "<i4")[0]


def test_damaged_bytes_are_refused() -> None:
    for codecs in ([LITTLE, {"name": "crc32c"}], [LITTLE, named("numcodecs.adler32")], [LITTLE]):
        mapping = make((2, 3), (2, 3), "<i4", 3, {"codecs": codecs})
        with pytest.raises(TargetError, match="'a' cannot be decoded"):
            ChunkCodec(read_array(mapping)).decode(mapping["a/c/0/0"][:-1])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_labels_that_are_times_as_numpy_has_them(zarr_format: int) -> None:
    store = zarr.storage.MemoryStore()
    group = zarr.create_group(store, zarr_format=zarr_format)
    days = np.arange("2024-01-01", "2024-01-09", dtype="M8[D]").astype("M8[ns]")
    names = {"dimension_names": ["time"]} if zarr_format == 3 else {}
    array = group.create_array("time", shape=(2,), chunks=(2,), dtype=days.dtype, fill_value="NaT", **names)
    array[:] = days[:2]
    array.attrs["_ARRAY_DIMENSIONS"] = ["time"]
    target = contents(store)

    def labelled(*labels: np.datetime64) -> xr.Dataset:
        return xr.Dataset(coords={"time": np.array(labels)})

    assert zappend.append(target, [labelled(*days[2:4])], append_step="1D") == 1
    for labels, why in [
        ((days[5], days[6]), "is 2D, not 1D"),
        ((days[3], days[4]), "1 of its 2 labels is in the cube already"),
        ((days[4], np.datetime64("NaT", "ns")), "missing"),
    ]:
        with pytest.raises(SliceError, match=why):
            zappend.append(target, [labelled(*labels)], append_step="1D")
    assert zappend.append(target, [labelled(*days[4:6])], append_step="1D") == 1
    with xr.open_zarr(memory_store(target), consolidated=False, chunks=None) as cube:
        np.testing.assert_array_equal(cube.time, days[:6])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_new_cubes_of_every_type(zarr_format: int) -> None:
    target: dict[str, bytes] = {}
    types = ["V3", "bytes", "S3", "<f2", "<c8", "<c16", "?", "<u8"]
    for start in (0, 2):
        values = {f"v{i}": ("time", values_of((4,), dtype)[start : start + 2]) for i, dtype in enumerate(types)}
        zappend.append(target, [xr.Dataset(values, {"time": [start, start + 1]})], zarr_format=zarr_format)
    group = zarr.open_group(memory_store(target), mode="r")
    for i, dtype in enumerate(types):
        array = group[f"v{i}"]
        assert isinstance(array, zarr.Array)
        np.testing.assert_array_equal(np.asarray(array[:]), values_of((4,), dtype))
        assert array.metadata.dtype == zarr_type(dtype) if dtype == "bytes" else array.dtype == np.dtype(dtype)


# Documents.


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        *((dtype, fill) for dtype in ("<f2", "<f4", "<f8") for fill in (np.nan, np.inf, -np.inf, 0.1, -0.0)),
        *((dtype, fill) for dtype in ("<c8", "<c16") for fill in (complex(np.nan, 1), complex(-np.inf, 0.1), 0)),
        *(("i1", -128), ("u1", 255), ("<i2", -1), ("<u4", 2**32 - 1), ("<i8", -(2**63)), ("<u8", 2**64 - 1)),
        *((dtype, fill) for dtype in ("<M8[ns]", "<M8[25s]", "<m8[us]", "<m8[D]") for fill in ("NaT", 7)),
        *(("?", True), ("?", False), ("<U4", "é"), ("<U4", ""), ("S4", b"ab"), ("S4", b""), ("V3", b"abc")),
        *(("string", "x"), ("string", ""), ("bytes", b"\0q"), ("bytes", b"")),
    ],
)
def test_types_and_fill_values_are_spelled_as_zarr_spells_them(dtype: str, fill: Any, zarr_format: int) -> None:
    store = zarr.storage.MemoryStore()
    group = zarr.create_group(store, zarr_format=zarr_format)
    native = {"string": STRING, "bytes": BYTES}.get(dtype) or np.dtype(dtype)
    kind = zarr_type(dtype)
    given = np.array(fill, native).view(native)[()] if native.kind in "mM" and fill != "NaT" else fill
    array = group.create_array(
        "a",
        shape=(2,),
        chunks=(2,),
        dtype=kind if dtype in ("string", "bytes") else native,
        fill_value=given,
        compressors=None,
        dimension_names=["x"] if zarr_format == 3 else None,
    )
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = ["x"]
    mapping = contents(store)
    found = read_array(mapping)
    assert found.dtype == native
    assert is_bytes(found.dtype) is (dtype == "bytes")
    again = new_array(
        "a",
        zarr_format,
        shape=(2,),
        chunks=(2,),
        dims=("x",),
        dtype=native,
        fill_value=found.fill_value,
        attrs={},
        codecs={
            key: found.document[key] for key in ("order", "filters", "compressor", "codecs") if key in found.document
        },
    )
    ours, theirs = json.loads(json.dumps(again.document)), found.document
    for key in ("dtype", "data_type", "fill_value"):
        assert json.dumps(ours.get(key)) == json.dumps(theirs.get(key))
    np.testing.assert_array_equal(
        np.full(2, found.padding, found.dtype), np.asarray(read_by_zarr(mapping)).astype(found.dtype)
    )


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        *((dtype, fill) for dtype in ("f2", "f4", "f8") for fill in (np.nan, 0.1, -9999.0)),
        *((dtype, complex(1, -2)) for dtype in ("c8", "c16")),
        *(("i2", -1), ("u1", 255), ("i8", 2**62)),
    ],
)
def test_fill_values_among_the_attributes_are_those_of_xarray(dtype: str, fill: Any) -> None:
    target: dict[str, bytes] = {}
    values = np.ones(3, dtype)
    dataset = xr.Dataset({"a": (("x",), values, {"_FillValue": np.dtype(dtype).type(fill)})})
    store = zarr.storage.MemoryStore(target)
    dataset.to_zarr(store, zarr_format=3, consolidated=False)
    array = read_array(contents(store))
    stored = np.dtype(dtype).type(fill)
    np.testing.assert_array_equal(array.attrs["_FillValue"], stored)
    attrs = array.document["attributes"]
    assert json.dumps(fill_to_attribute(array.attrs["_FillValue"], array.dtype)) == json.dumps(attrs["_FillValue"])


def test_odd_spellings_of_older_writers() -> None:
    made = make((2,), (2,), "<f4", 3, {"codecs": [LITTLE]})

    def with_members(**members: Any) -> Array:
        document = {**json.loads(made["a/zarr.json"]), **members}
        return read_array({**made, "a/zarr.json": json.dumps(document).encode()})

    assert np.isnan(with_members(fill_value="0x7fc00000").fill_value)
    assert with_members(data_type="complex64", fill_value=["0x3f800000", "-Infinity"]).fill_value == complex(1, -np.inf)
    raw = with_members(data_type="r24", fill_value=[1, 2, 3], codecs=["bytes"])
    assert (raw.dtype, raw.fill_value.tobytes()) == (np.dtype("V3"), b"\1\2\3")
    assert ChunkCodec(raw).encode(np.frombuffer(b"abcdef", "V3")) == b"abcdef"
    time = {"name": "numpy.datetime64", "configuration": {"unit": "μs", "scale_factor": 10}}
    assert with_members(data_type=time, fill_value="NaT").dtype == np.dtype("<M8[10us]")
    assert np.isnat(with_members(data_type=time, fill_value="NaT").fill_value)
    assert is_bytes(with_members(data_type="bytes", fill_value="", codecs=[named("vlen-bytes")]).dtype)
    attrs = {"_FillValue": 255, "_Unsigned": "true"}
    assert with_members(data_type="int8", fill_value=0, attributes=attrs).attrs["_FillValue"] == 255
    with pytest.raises(TargetError, match="'a' has the type 'unheard-of'"):
        with_members(data_type="unheard-of")
