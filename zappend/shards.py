"""Shards of format 3: many inner chunks in one object, with an index that says where in it each one lies.

Specification: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed. A new shard has its inner chunks
in Morton order without gaps, as zarr-python writes it.

A shard that has rows which readers see already is replaced by one in which every inner chunk of the old one stays
where it was: a reader that has read the old index, and then reads the new object by it, reads what the index promised.
What is new or changed fills gaps which the old index leaves, or comes behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

from zappend.chunkspec import ChunkSpec, holds_only, same_bits
from zappend.datatypes import Block

__all__ = ["Shards", "morton_order"]

MISSING = 2**64 - 1
"""Offset and length of an inner chunk that is not there."""

Place = tuple[int, int]
"""Offset and length of an inner chunk."""


class Codecs(Protocol):
    """A list of codecs, the last of which gives bytes."""

    def encode(self, block: Block, old: bytes | None = None, extent: tuple[int, ...] | None = None) -> bytes | None: ...

    def decode(self, data: Any) -> Block: ...


@dataclass(frozen=True)
class _Index:
    """Where the inner chunks of a shard lie, by their place in the grid; only those that are there."""

    places: dict[tuple[int, ...], Place]

    def gaps(self, first: int) -> Iterator[tuple[int, int | None]]:
        """Iterate over the begin and the end of what no inner chunk takes from `first` on; the last has no end."""
        taken = sorted((offset, offset + length) for offset, length in self.places.values())
        begin = first
        for offset, end in taken:
            if offset > begin:
                yield begin, offset
            begin = max(begin, end)
        yield begin, None


class Shards:
    """The codec ``sharding_indexed``; safe to use from many threads.

    Parameters
    ----------
    options
        Its configuration.
    spec
        What it is given: a whole shard.
    build
        What makes a list of codecs, given their members of the document and what they are given.
    write_empty
        Whether inner chunks that hold only the fill value are written.

    Raises
    ------
    ValueError, KeyError
        If the configuration is not understood, or inner chunks do not fill the shard.
    """

    def __init__(
        self, options: dict[str, Any], spec: ChunkSpec, build: Callable[[Any, ChunkSpec], Codecs], *, write_empty: bool
    ) -> None:
        inner = tuple(options["chunk_shape"])
        if len(inner) != len(spec.shape) or any(size % part for size, part in zip(spec.shape, inner, strict=True)):
            raise ValueError(f"inner chunks of shape {inner} do not fill a shard of shape {spec.shape}")
        self._spec = spec
        self._inner = inner
        self._grid = tuple(size // part for size, part in zip(spec.shape, inner, strict=True))
        self._write_empty = write_empty
        self._codecs = build(options["codecs"], ChunkSpec(inner, spec.dtype, spec.fill_value))
        index_spec = ChunkSpec((*self._grid, 2), np.dtype("<u8"), np.uint64(MISSING))
        default = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        self._index_codecs = build(options.get("index_codecs", default), index_spec)
        location = options.get("index_location", "end")
        if location not in ("start", "end"):
            raise ValueError(f"index_location {location!r}")
        self._index_first = location == "start"
        self._order = morton_order(self._grid)
        self._index_size = len(self._encode_index({}))
        scattered = {place: (i * i * 7919, i) for i, place in enumerate(self._order)}
        if len(self._encode_index(scattered)) != self._index_size:
            raise ValueError("an index whose size depends on what it holds")

    # Encoding.

    def encode(self, block: Block, old: bytes | None = None, extent: tuple[int, ...] | None = None) -> bytes | None:
        """Return the bytes of a shard, ``None`` if there is no inner chunk to write.

        Parameters
        ----------
        block
            The values, in the shape of a shard.
        old
            The stored shard if readers may be reading it: its inner chunks keep their places. Those that have the
            same values as in `block` are not encoded again.
        extent
            Sizes of the part of the shard that is within the array, by default all: inner chunks beyond it are left
            out, as zarr-python does.

        Raises
        ------
        ValueError
            If `old` is no such shard.
        """
        places: dict[tuple[int, ...], Place] = {}
        pieces: dict[int, bytes | memoryview] = {}
        before = self._decode_index(old) if old is not None else _Index({})
        new: list[tuple[tuple[int, ...], bytes]] = []
        for place in self._order:
            within = self._within(place, extent)
            if within is not None and 0 in within:
                continue
            values = block[self._region(place)]
            known = None if old is None or place not in before.places else _part(old, before.places[place])
            if known is not None and same_bits(self._codecs.decode(known).astype(values.dtype, copy=False), values):
                places[place] = before.places[place]
                continue
            if (data := self._encode_inner(values, within)) is None:
                continue
            if data == known:
                places[place] = before.places[place]
            else:
                new.append((place, data))
        if not places and not new:
            return None
        if old is not None:
            pieces = {at[0]: _part(old, at) for at in before.places.values()}
        free = list(before.gaps(self._index_size if self._index_first else 0))
        for place, data in new:
            at, (begin, end) = next(
                (i, gap) for i, gap in enumerate(free) if gap[1] is None or gap[1] - gap[0] >= len(data)
            )
            free[at] = begin + len(data), end
            places[place] = begin, len(data)
            pieces[begin] = data
        return self._join(pieces, self._encode_index(places))

    def _within(self, place: tuple[int, ...], extent: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Return how much of an inner chunk is within `extent`, by dimension."""
        if extent is None:
            return None
        sides = zip(place, self._inner, extent, strict=True)
        return tuple(min(max(end - i * size, 0), size) for i, size, end in sides)

    def _encode_inner(self, values: Block, within: tuple[int, ...] | None) -> bytes | None:
        if not self._write_empty and holds_only(values, self._spec.fill_value):
            return None
        return (
            self._codecs.encode(values, None, within) or None
        )  # like zarr-python, which does not write what has no bytes

    def _join(self, pieces: dict[int, bytes | memoryview], index: bytes) -> bytes:
        parts: list[bytes | memoryview] = [index] if self._index_first else []
        position = self._index_size if self._index_first else 0
        for offset, piece in sorted(pieces.items()):
            if offset > position:
                parts.append(bytes(offset - position))
            parts.append(piece)
            position = offset + len(piece)
        return b"".join(parts if self._index_first else [*parts, index])

    def _encode_index(self, places: dict[tuple[int, ...], Place]) -> bytes:
        table = np.full((*self._grid, 2), MISSING, "<u8")
        for place, (offset, length) in places.items():
            table[place] = offset, length
        data = self._index_codecs.encode(table)
        if data is None:
            raise ValueError("index codecs that give nothing")
        return data

    # Decoding.

    def decode(self, data: Any) -> Block:
        """Return the values of a shard; raise `ValueError` if its index does not fit it."""
        stored = bytes(data)
        index = self._decode_index(stored)
        spec = self._spec
        block = np.full(spec.shape, spec.fill_value, spec.dtype)
        for place, at in index.places.items():
            block[self._region(place)] = self._codecs.decode(_part(stored, at))
        return block

    def _decode_index(self, data: bytes) -> _Index:
        if len(data) < self._index_size:
            raise ValueError(f"a shard of {len(data)} bytes cannot hold its index, which takes {self._index_size}")
        first = self._index_size if self._index_first else 0
        last = len(data) - (0 if self._index_first else self._index_size)
        table = self._index_codecs.decode(data[:first] if self._index_first else data[last:])
        places = {}
        for place, (offset, length) in zip(
            product(*map(range, self._grid)), table.reshape(-1, 2).tolist(), strict=True
        ):
            if (offset, length) == (MISSING, MISSING):
                continue
            if not first <= offset <= offset + length <= last:
                raise ValueError(
                    f"inner chunk {list(place)} lies at bytes {offset} to {offset + length} of {len(data)}"
                )
            places[place] = offset, length
        return _Index(places)

    def _region(self, place: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(i * size, (i + 1) * size) for i, size in zip(place, self._inner, strict=True))


def _part(data: bytes, place: Place) -> bytes:
    return data[place[0] : place[0] + place[1]]


def morton_order(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the places of a grid in Morton order: sorted by their bits, lowest of the last dimension first.

    A dimension has as many bits as its largest index, and none of the others waits for it.
    """
    bits = [max(size - 1, 0).bit_length() for size in grid]

    def code(place: tuple[int, ...]) -> int:
        number = at = 0
        for level in range(max(bits, default=0)):
            for index, width in zip(place, bits, strict=True):
                if level < width:
                    number |= (index >> level & 1) << at
                    at += 1
        return number

    return sorted(product(*map(range, grid)), key=code)
