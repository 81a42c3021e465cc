"""Chunks of every codec and type that zarr-python can write: the same bytes, and the same values back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numcodecs
import numcodecs.registry
import numpy as np
import pytest
import zarr
import zarr.registry

from zappend.codec import ChunkCodec, single_threaded_blosc
from zappend.errors import TargetError
from zappend.metadata import Array
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
    cube = CubeReader().read(mapping, "test")
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
            data = codec.encode(block)
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
    orders = "C" if name in ("json2", "msgpack2", "zfpy") else "CF"
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
    return set(registries[0])


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
