"""Shards: the bytes that zarr-python writes, and no other bytes under a reader who has an old index."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_codecs import (
    BIG,
    LITTLE,
    blocks,
    check,
    make,
    memory_store,
    named,
    read_array,
    read_by_zarr,
    sharded,
    values_of,
    written,
)
from zarr.abc.store import SuffixByteRequest
from zarr.storage import MemoryStore, WrapperStore

import zappend
from zappend.codec import ChunkCodec
from zappend.errors import TargetError
from zappend.shards import morton_order

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning", "ignore:Numcodecs codecs are not")

ZSTD = named("zstd", level=1, checksum=False)
CRC = {"name": "crc32c"}

MISSING = 2**64 - 1

OLD = zarr.__version__.startswith("3.1.")


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize(
    ("shape", "shard", "inner"),
    [
        ((), (), ()),
        ((7,), (4,), (2,)),
        ((6,), (6,), (1,)),
        ((5, 7), (4, 6), (2, 2)),
        ((3, 5), (3, 5), (1, 1)),
        ((4, 6, 5), (2, 6, 4), (1, 2, 4)),
    ],
)
def test_whole_shards(shape: tuple[int, ...], shard: tuple[int, ...], inner: tuple[int, ...], location: str) -> None:
    if not shape and OLD:
        pytest.skip("zarr 3.1 cannot write a shard without dimensions")
    for codecs, index in itertools.product(
        ([LITTLE], [BIG, ZSTD, CRC]), ([LITTLE, CRC], [BIG], [LITTLE, named("numcodecs.crc32")])
    ):
        member = sharded(*inner, codecs=codecs, index_codecs=index, index_location=location)
        check(make(shape, shard, "<i4", 3, {"codecs": [member]}), "<i4")


@pytest.mark.parametrize("dtype", ["string", "bytes", "<M8[ns]", "V3", "?"])
def test_shards_of_other_types(dtype: str) -> None:
    if dtype == "V3" and OLD:
        pytest.skip("zarr 3.1 cannot write shards of this type")
    to_bytes = {"string": named("vlen-utf8"), "bytes": named("vlen-bytes"), "<M8[ns]": LITTLE}
    member = sharded(2, 2, codecs=[to_bytes.get(dtype, {"name": "bytes"}), ZSTD])
    check(make((5, 7), (4, 6), dtype, 3, {"codecs": [member]}), dtype)


@pytest.mark.parametrize(
    "codecs",
    [
        [sharded(2, 3, codecs=[sharded(1, 3, codecs=[LITTLE, ZSTD], index_location="start")])],
        [named("transpose", order=[1, 0]), sharded(2, 2, codecs=[named("transpose", order=[1, 0]), BIG])],
        [sharded(2, 3), ZSTD],
        [sharded(2, 3, codecs=[LITTLE, named("numcodecs.zlib", level=1)]), CRC],
    ],
)
def test_shards_among_other_codecs(codecs: list[Any]) -> None:
    check(make((5, 7), (4, 6), "<f4", 3, {"codecs": codecs}), "<f4")


@pytest.mark.parametrize("write_empty", [True, False])
@pytest.mark.parametrize(
    ("dtype", "fill", "others"),
    [
        ("<f4", 0.0, [1.0, -0.0, np.nan]),
        ("<f4", "NaN", [1.0, 0.0]),
        ("<f8", 1.5, [0.0]),
        ("<i4", 7, [0]),
        ("?", True, [False]),
        ("<c8", [0.0, "NaN"], [1j]),
        ("<M8[ns]", -(2**63), [np.datetime64(0, "ns")]),
        ("<U2", "", ["a"]),
        ("string", "", ["a"]),
    ],
)
def test_empty_chunks(dtype: str, fill: Any, others: list[Any], write_empty: bool) -> None:
    to_bytes = named("vlen-utf8") if dtype == "string" else LITTLE
    inner = sharded(2, codecs=[to_bytes])
    for codecs in ([to_bytes], [inner], [sharded(4, codecs=[inner])]):
        mapping = make((24,), (8,), dtype, 3, {"codecs": codecs, "fill_value": fill})
        array = read_array(mapping)
        values = np.full(24, array.fill_value, array.dtype)
        for i, other in enumerate(others):
            values[[i, 8 + 3 * i]] = other  # the last chunk stays empty
        documents = {key: data for key, data in mapping.items() if "/c/" not in key}
        by_zarr = written(documents, values, write_empty)
        codec = ChunkCodec(array, write_empty)
        ours = {key: codec.encode(block) for key, block, _ in blocks(array, values)}
        assert {key: data for key, data in ours.items() if data is not None} == {
            key: data for key, data in by_zarr.items() if key in ours
        }
        assert (None in ours.values()) is not write_empty
        for key, block, _ in blocks(array, values):
            if (data := ours[key]) is not None:
                np.testing.assert_array_equal(codec.decode(data), block)


def test_without_a_fill_value_zero_is_empty() -> None:
    mapping = make((8,), (4,), "<i4", 2, {})
    array = read_array(mapping)
    assert array.fill_value is None
    values = np.array([0, 0, 0, 0, 0, 1, 0, 0], "<i4")
    by_zarr = written({key: data for key, data in mapping.items() if key[-1] == "y"}, values, write_empty=False)
    codec = ChunkCodec(array, write_empty=False)
    assert {key for key, block, _ in blocks(array, values) if codec.encode(block) is not None} == {"a/1"}
    assert "a/1" in by_zarr
    assert "a/0" not in by_zarr


@given(st.lists(st.integers(1, 5), min_size=0, max_size=3))
def test_morton_order(grid: list[int]) -> None:
    order = morton_order(tuple(grid))
    assert sorted(order) == list(np.ndindex(*grid))
    # Both halves of a power of two are in order among themselves.
    assert all((a >= b) is False for a, b in itertools.pairwise(order) if len(grid) == 1)


# Under readers.


def cube(member: Mapping[str, Any], rows: int, shard: int, dtype: str = "<f8") -> dict[str, bytes]:
    """Return a cube that zarr-python has written, with `rows` of three values in shards of `shard` rows."""
    mapping = make((rows, 3), (shard, 3), dtype, 3, {"codecs": [member]})
    document = json.loads(mapping["a/zarr.json"])
    document["dimension_names"] = ["time", "x"]
    del document["attributes"]["_ARRAY_DIMENSIONS"]
    return {**mapping, "a/zarr.json": json.dumps(document).encode()}


def append(target: dict[str, bytes], values: np.ndarray, **options: Any) -> None:
    dataset = xr.Dataset({"a": (("time", "x"), values)})
    zappend.append(target, [dataset], append_step="any", threads=1, **{"slice_size": "any", **options})


def index_of(shard: bytes, inner: int, *, at_start: bool = False) -> list[tuple[int, int]]:
    """Return the offsets and lengths of an index that ends with a checksum."""
    size = inner * 16
    data = shard[:size] if at_start else shard[-size - 4 : -4]
    return [(int(a), int(b)) for a, b in np.frombuffer(data, "<u8").reshape(-1, 2)]


def assert_kept(old: bytes, new: bytes, inner: int, *, at_start: bool = False) -> None:
    """Assert that the index of `old` finds in `new` what it found in `old`."""
    for offset, length in index_of(old, inner, at_start=at_start):
        if offset != MISSING:
            assert new[offset : offset + length] == old[offset : offset + length]


def test_whole_shards_are_appended_as_zarr_writes_them() -> None:
    member = sharded(1, 3, codecs=[LITTLE, ZSTD])
    target = cube(member, 4, 4)
    values = values_of((12, 3), "<f8")
    append(target, values[4:], slice_size="aligned")
    expected = make((12, 3), (4, 3), "<f8", 3, {"codecs": [member]})
    assert {k: v for k, v in target.items() if "/c/" in k} == {k: v for k, v in expected.items() if "/c/" in k}
    np.testing.assert_array_equal(read_by_zarr(target), np.concatenate([values_of((4, 3), "<f8"), values[4:]]))


@pytest.mark.attack(22)
@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("inner", [1, 2, 4])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_a_reader_with_an_old_index_reads_old_values(location: str, inner: int, rows: list[int]) -> None:
    member = sharded(inner, 3, codecs=[LITTLE, ZSTD], index_location=location)
    target = cube(member, 3, 8)
    expected = values_of((3, 3), "<f8")
    for seed, count in enumerate(rows, 1):
        before = dict(target)
        new = values_of((count, 3), "<f8", seed)
        append(target, new)
        expected = np.concatenate([expected, new])
        for key, old in before.items():
            if "/c/" in key:
                assert_kept(old, target[key], 8 // inner, at_start=location == "start")
        np.testing.assert_array_equal(read_by_zarr(target), expected)
        array = read_array(target)
        for key, block, _ in blocks(array, expected):
            np.testing.assert_array_equal(ChunkCodec(array).decode(target[key]), block)


def test_gaps_are_filled_again() -> None:
    codec = ChunkCodec(read_array(make((8, 3), (8, 3), "<f8", 3, {"codecs": [sharded(2, 3)]})))
    block = values_of((8, 3), "<f8")
    old = codec.encode(block)
    assert old is not None
    sizes = []
    for i in range(6):
        block = block.copy()
        block[5] = i
        new = codec.encode(block, old)
        assert new is not None
        assert_kept(old, new, 4)
        np.testing.assert_array_equal(codec.decode(new), block)
        sizes.append(len(new))
        old = new
    assert sizes[0] == sizes[-1] == 5 * 2 * 3 * 8 + 4 * 16 + 4  # one inner chunk more than it needs


def test_unchanged_inner_chunks_are_not_encoded_again() -> None:
    # gzip writes the time into its header: the same values, encoded again, are other bytes.
    codec = ChunkCodec(
        read_array(make((4, 3), (4, 3), "<f8", 3, {"codecs": [sharded(1, 3, codecs=[LITTLE, named("gzip", level=1)])]}))
    )
    block = values_of((4, 3), "<f8")
    old = codec.encode(block)
    assert old is not None
    aged = bytearray(old)
    for offset, _ in index_of(old, 4):
        aged[offset + 4 : offset + 8] = b"\1\2\3\4"
    assert codec.encode(block, bytes(aged)) == bytes(aged)


@pytest.mark.parametrize("location", ["start", "end"])
def test_damaged_shards_are_refused(location: str) -> None:
    for index in ([LITTLE, CRC], [LITTLE]):
        member = sharded(1, 3, codecs=[LITTLE, CRC], index_codecs=index, index_location=location)
        mapping = make((4, 3), (4, 3), "<f8", 3, {"codecs": [member]})
        codec, whole = ChunkCodec(read_array(mapping)), mapping["a/c/0/0"]
        size = 4 * 16 + (4 if CRC in index else 0)
        first = 0 if location == "start" else len(whole) - size
        damaged = [whole[:10], b"", whole[:-1], whole[1:]]
        for at, value in ((first + 7, 1), (first + 8, 255), (first + 15, 128)):  # far offset, other length, far end
            damaged.append(whole[:at] + bytes([value]) + whole[at + 1 :])
        in_data = len(whole) - 5 if location == "start" else 0
        damaged.append(whole[:in_data] + bytes([whole[in_data] ^ 1]) + whole[in_data + 1 :])
        for data in damaged:
            with pytest.raises(TargetError, match="a chunk of 'a' cannot be decoded"):
                codec.decode(data)


def test_a_damaged_shard_is_not_appended_to() -> None:
    target = cube(sharded(1, 3), 3, 8)
    target["a/c/0/0"] = target["a/c/0/0"][:-3]
    before = dict(target)
    with pytest.raises(TargetError, match="'a' cannot be decoded"):
        append(target, values_of((2, 3), "<f8"))
    assert target == before


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (sharded(3, 3), "do not fill"),
        (sharded(2), "do not fill"),
        (sharded(2, 3, index_codecs=[LITTLE, ZSTD]), "size depends"),
        (sharded(2, 3, index_location="middle"), "middle"),
        (sharded(2, 3, codecs=[LITTLE, named("unheard-of")]), "unheard-of"),
    ],
)
def test_shards_that_are_refused(member: dict[str, Any], why: str) -> None:
    mapping = make((4, 3), (4, 3), "<f8", 3, {"codecs": [LITTLE]})
    mapping["a/zarr.json"] = json.dumps({**json.loads(mapping["a/zarr.json"]), "codecs": [member]}).encode()
    with pytest.raises(TargetError, match=f"'a' has a codec.*sharding_indexed.*{why}"):
        ChunkCodec(read_array(mapping))


def test_inner_chunks() -> None:
    codecs = [named("transpose", order=[1, 0]), sharded(1, 2)]
    array = read_array(make((5, 7), (4, 6), "<f4", 3, {"codecs": codecs}))
    assert (array.chunks, array.inner_chunks) == ((4, 6), (2, 1))
    assert read_array(make((5, 7), (4, 6), "<f4", 2, {})).inner_chunks == (4, 6)


@pytest.mark.parametrize("counts", [[8, 8], [3, 5, 1, 9], [1] * 10])
def test_cubes_of_xarray_with_shards(counts: list[int], tmp_path: Any) -> None:
    total = 8 + sum(counts)
    rng = np.random.default_rng(1)
    whole = xr.Dataset(
        {
            "a": (("time", "y", "x"), rng.normal(size=(total, 4, 6)).astype("f4")),
            "name": (("time",), np.array([f"n{i}" for i in range(total)], object)),
        },
        {"time": np.arange(total), "x": np.arange(6.0)},
    )
    encoding = {"a": {"shards": (8, 4, 6), "chunks": (2, 2, 3)}, "time": {"shards": (16,), "chunks": (4,)}}
    target = tmp_path / "cube.zarr"
    whole.isel(time=slice(0, 8)).to_zarr(target, zarr_format=3, encoding=encoding)
    start = 8
    for count in counts:
        part = whole.isel(time=slice(start, start + count))
        zappend.append(target, [part], slice_size="any", durability="process", threads=2)
        start += count
    with xr.open_zarr(target, chunks=None) as cube:
        xr.testing.assert_identical(cube.load(), whole)


class TornStore(WrapperStore[MemoryStore]):
    """A store whose shard is replaced after a reader has read the index."""

    def __init__(self, store: MemoryStore, shards: Mapping[str, bytes], index_size: int) -> None:
        super().__init__(store)
        self.shards = shards
        self.index_size = index_size
        self.torn = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key not in self.shards or byte_range is None:
            return await super().get(key, prototype, byte_range)
        old = self.shards[key]
        if isinstance(byte_range, SuffixByteRequest):
            self.torn += 1
            return prototype.buffer.from_bytes(old[-byte_range.suffix :])
        if (byte_range.start, byte_range.end) == (0, self.index_size):
            self.torn += 1
            return prototype.buffer.from_bytes(old[: byte_range.end])
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize("location", ["start", "end"])
def test_zarr_reads_old_values_by_an_old_index(location: str) -> None:
    target = cube(sharded(2, 1, codecs=[LITTLE, ZSTD], index_location=location), 3, 8)
    old = dict(target)
    append(target, values_of((4, 3), "<f8", 1))
    shards = {key: data for key, data in old.items() if "/c/" in key}
    store = TornStore(memory_store({**target, "a/zarr.json": old["a/zarr.json"]}), shards, 12 * 16 + 4)
    array = zarr.open_array(store, path="a", mode="r+")  # with "r" zarr would wrap the store anew
    for row in range(3):
        np.testing.assert_array_equal(np.asarray(array[row : row + 1]), values_of((3, 3), "<f8")[row : row + 1])
    assert store.torn


def test_tensorstore_reads_grown_shards(tmp_path: Any) -> None:
    target = cube(sharded(2, 3, codecs=[LITTLE, ZSTD]), 3, 8)
    expected = values_of((3, 3), "<f8")
    for seed in (1, 2, 3):
        append(target, values_of((3, 3), "<f8", seed))
        expected = np.concatenate([expected, values_of((3, 3), "<f8", seed)])
    for key, data in target.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "a")}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), expected)
