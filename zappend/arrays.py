"""Stored values of a cube: read chunks, decode them, keep what is read with every slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from math import ceil
from typing import Any

import numpy as np

from zappend.codec import ChunkCodec
from zappend.datatypes import Block
from zappend.metadata import Array
from zappend.stores import read_many

__all__ = ["ArrayReader", "Box"]

Box = tuple[range, ...]

READ_TOGETHER = 64
"""Chunks that are read side by side, and so are in memory together."""

KEPT_BYTES = 2**25
"""Decoded bytes of chunks that are kept for the next slice, at most."""


class ArrayReader:
    """Reads values of arrays, and has their codecs.

    Coordinates are read for each slice, since others may have changed them, but their chunks are decoded again only if
    their bytes have changed.

    Parameters
    ----------
    write_empty
        As for `ChunkCodec`.
    """

    def __init__(self, write_empty: bool) -> None:
        self._write_empty = write_empty
        self._codecs: dict[str, ChunkCodec] = {}
        self._kept: dict[str, tuple[bytes, Block]] = {}
        self._kept_bytes = 0

    def codec(self, array: Array) -> ChunkCodec:
        """Return the codec of the chunks of `array`; raise `TargetError` if it has one that is not supported."""
        known = self._codecs.get(array.name)
        if known is None or not known.array.encodes_like(array):
            known = self._codecs[array.name] = ChunkCodec(array, self._write_empty)
            self._kept, self._kept_bytes = {}, 0  # the same bytes may mean other values now
        return known

    def keys(self, regions: Sequence[tuple[Array, Box]]) -> list[str]:
        """Return the keys of the chunks that have a part in one of `regions`, but not of more than are read at once."""
        keys = (array.chunk_key(index) for array, region in regions for index in _chunk_indices(array, region))
        return list(islice(keys, READ_TOGETHER))

    def read(
        self,
        store: Mapping[str, bytes],
        regions: Sequence[tuple[Array, Box]],
        found: Mapping[str, bytes | None] | None = None,
    ) -> list[Block]:
        """Return the stored values of each array in its region, one range a dimension; nobody is to change them.

        What is `found` of `keys` is not read again.
        """
        found = found or {}
        blocks: list[Block | None] = [None] * len(regions)
        parts = (
            (i, index, array.chunk_key(index))
            for i, (array, region) in enumerate(regions)
            for index in _chunk_indices(array, region)
        )
        while some := list(islice(parts, READ_TOGETHER)):
            values_of = {**found, **read_many(store, [key for _, _, key in some if key not in found])}
            for i, index, key in some:
                array, region = regions[i]
                data, block = values_of[key], blocks[i]
                if data is None:
                    self._forget(key)
                values = None if data is None else self.decode(array, key, data)
                if values is not None and values.shape == array.shape == tuple(map(len, region)):
                    blocks[i] = values
                    continue
                if block is None:
                    block = blocks[i] = _missing(array, region)
                if values is not None:
                    source, target = _overlap(array, region, index)
                    block[target] = values[source]
        return [_missing(*region) if block is None else block for region, block in zip(regions, blocks, strict=True)]

    def decode(self, array: Array, key: str, data: bytes) -> Block:
        """Return the values of the chunk that has the bytes `data` at `key`; they are not to be written to."""
        codec = self.codec(array)
        known = self._kept.get(key)
        if known is not None and known[0] == data:
            return known[1]
        block = codec.decode(data)
        self.keep(key, data, block)
        return block

    def keep(self, key: str, data: bytes, block: Block) -> None:
        """Note that `data`, at `key`, holds the values `block`, which nobody is to change any more."""
        self._forget(key)
        if self._kept_bytes + block.nbytes <= KEPT_BYTES:
            self._kept[key] = data, block
            self._kept_bytes += block.nbytes

    def _forget(self, key: str) -> None:
        if (known := self._kept.pop(key, None)) is not None:
            self._kept_bytes -= known[1].nbytes

    def kept_data(self, array: Array, region: Box) -> dict[str, bytes]:
        """Return the bytes of those chunks in `region` that were read and are kept."""
        keys = (array.chunk_key(index) for index in _chunk_indices(array, region))
        return {key: self._kept[key][0] for key in keys if key in self._kept}


def _missing(array: Array, region: Box) -> Block:
    return np.full([len(side) for side in region], array.padding, array.dtype)


def _chunk_indices(array: Array, region: Box) -> Iterator[tuple[int, ...]]:
    """Iterate over the indices of the chunks that have a part in `region`."""
    return product(
        *(range(side.start // chunk, ceil(side.stop / chunk)) for side, chunk in zip(region, array.chunks, strict=True))
    )


def _overlap(array: Array, region: Box, index: tuple[int, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return what the chunk at `index` and `region` have in common: where it is in the chunk, and in the region."""
    source, target = [], []
    for i, side, chunk in zip(index, region, array.chunks, strict=True):
        first, last = max(side.start, i * chunk), min(side.stop, (i + 1) * chunk)
        source.append(slice(first - i * chunk, last - i * chunk))
        target.append(slice(first - side.start, last - side.start))
    return tuple(source), tuple(target)
