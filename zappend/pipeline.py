"""The codecs of format 3, in a row: from the values of a chunk to its bytes, and back.

The common ones are numcodecs' own, called directly and on the calling thread; all others are zarr-python's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numcodecs
import numcodecs.blosc
import numpy as np
from numcodecs.compat import ensure_bytes, ensure_contiguous_ndarray
from numcodecs.vlen import VLenBytes, VLenUTF8

from zappend.chunkspec import ChunkSpec
from zappend.datatypes import Block, is_bytes, is_variable_length
from zappend.metadata import Json, name_and_options
from zappend.shards import Shards

if TYPE_CHECKING:
    from zappend.zarrcodec import ZarrCodecs

__all__ = ["Pipeline"]

SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@dataclass(frozen=True)
class _Step:
    """One codec."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


class Pipeline:
    """Encodes and decodes chunks by a list of codecs; safe to use from many threads.

    Parameters
    ----------
    codecs
        Their members of the document.
    spec
        What the first one is given.
    write_empty
        Whether shards hold inner chunks that hold only the fill value.

    Raises
    ------
    ValueError, KeyError, TypeError
        If a codec is unknown, or cannot be used so; the message names it.
    """

    def __init__(self, codecs: list[Any], spec: ChunkSpec, *, write_empty: bool) -> None:
        self._codecs = codecs
        self._first = self._spec = spec
        self._write_empty = write_empty
        self._by_zarr: ZarrCodecs | None = None
        self._arrays: list[_Step] = []
        self._to_bytes: _Step | Shards | None = None
        self._bytes: list[_Step] = []
        for place, codec in enumerate(codecs):
            name, options = name_and_options(codec)
            try:
                self._add(place, name, options)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{name!r}: {error}") from error
        if self._to_bytes is None:
            raise ValueError(f"none of {[name_and_options(codec)[0] for codec in codecs]} makes bytes of an array")

    def encode(self, block: Block, old: bytes | None = None, extent: tuple[int, ...] | None = None) -> bytes | None:
        """Return the bytes of a chunk; ``None`` for a shard without inner chunks. Parameters: see `Shards.encode`."""
        value: Any = block
        for step in self._arrays:
            value = step.encode(value)
        if isinstance(self._to_bytes, Shards):
            # Where others follow, readers can only read the whole. Among others, zarr-python writes it all.
            alone = not self._arrays and not self._bytes
            value = self._to_bytes.encode(value, None if self._bytes else old, extent if alone else None)
            if value is None:
                return None
        elif self._to_bytes is not None:
            value = self._to_bytes.encode(value)
        for step in self._bytes:
            value = step.encode(value)
        return bytes(ensure_bytes(value))

    def decode(self, data: Any) -> Block:
        """Return the values of a chunk; what damaged bytes raise is up to the codecs."""
        value: Any = data
        for step in reversed(self._bytes):
            value = step.decode(value)
        if self._to_bytes is not None:
            value = self._to_bytes.decode(value)
        for step in reversed(self._arrays):
            value = step.decode(value)
        block: Block = value
        return block

    def _add(self, place: int, name: str, options: Json) -> None:
        spec = self._spec
        if self._to_bytes is not None and (step := _bytes_bytes(name, options, spec.dtype)) is not None:
            self._bytes.append(step)
        elif self._to_bytes is None and name == "transpose":
            order = tuple(options["order"])
            back = tuple(int(axis) for axis in np.argsort(order))
            self._spec = spec.transposed(order)
            self._arrays.append(_Step(lambda block: block.transpose(order), lambda block: block.transpose(back)))
        elif self._to_bytes is None and name == "sharding_indexed":
            self._to_bytes = Shards(options, spec, self._build, write_empty=self._write_empty)
        elif self._to_bytes is None and (step := _array_bytes(name, options, spec)) is not None:
            self._to_bytes = step
        else:
            self._add_by_zarr(place)

    def _build(self, codecs: list[Any], spec: ChunkSpec) -> Pipeline:
        return Pipeline(codecs, spec, write_empty=self._write_empty)

    def _add_by_zarr(self, place: int) -> None:
        from zappend.zarrcodec import ZarrCodecs  # brings in much that most arrays do not need

        if self._by_zarr is None:
            self._by_zarr = ZarrCodecs(self._codecs, self._first, write_empty=self._write_empty)
        zarrs = self._by_zarr
        step = _Step(lambda value: zarrs.encode(place, value), lambda value: zarrs.decode(place, value))
        if zarrs.is_array_array(place):
            self._arrays.append(step)
            self._spec = zarrs.spec_before(place + 1)
        elif zarrs.is_array_bytes(place):
            self._to_bytes = step
        else:
            self._bytes.append(step)


def _array_bytes(name: str, options: Json, spec: ChunkSpec) -> _Step | None:
    """Return the codec `name` if it is one that is called directly."""
    shape, dtype = spec.shape, spec.dtype
    if name in ("vlen-utf8", "vlen-bytes") and is_variable_length(dtype):
        if is_bytes(dtype) != (name == "vlen-bytes"):
            raise ValueError("for values of the other kind, strings or bytes")
        vlen = VLenBytes() if is_bytes(dtype) else VLenUTF8()
        return _Step(
            lambda block: vlen.encode(np.ascontiguousarray(block).reshape(-1)),
            lambda data: np.asarray(vlen.decode(data), object).reshape(shape),
        )
    if name in ("bytes", "endian"):
        if is_variable_length(dtype):
            raise ValueError("for values of any length")
        stored = dtype.newbyteorder(">" if options.get("endian", "little") == "big" else "<")
        return _Step(
            lambda block: np.ascontiguousarray(block, stored).reshape(-1).view("u1"),
            lambda data: ensure_contiguous_ndarray(data).view(stored).reshape(shape).astype(dtype, copy=False),
        )
    return None


def _bytes_bytes(name: str, options: Json, dtype: np.dtype[Any]) -> _Step | None:
    """Return the codec `name` if it is one that is called directly."""
    codec: Any
    match name:
        case "blosc":
            size = 1 if is_variable_length(dtype) else dtype.itemsize
            shuffle = options.get("shuffle") or ("shuffle" if size > 1 else "bitshuffle")
            codec = numcodecs.blosc.Blosc(
                **{
                    "cname": "zstd",
                    "clevel": 5,
                    "blocksize": 0,
                    "typesize": size,
                    **options,
                    "shuffle": SHUFFLES[shuffle],
                }
            )
        case "gzip":
            codec = numcodecs.GZip(**{"level": 5, **options})
        case "zstd":
            codec = numcodecs.Zstd(**{"level": 0, **options})
        case "crc32c":
            return _Step(_append_crc32c, _check_crc32c)
        case _:
            return None
    return _Step(codec.encode, codec.decode)


def _append_crc32c(data: Any) -> bytes:
    import google_crc32c  # comes with zarr, and few arrays have this codec

    content = bytes(ensure_bytes(data))
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


def _check_crc32c(data: Any) -> bytes:
    content = bytes(ensure_bytes(data))
    if _append_crc32c(content[:-4]) != content:
        raise ValueError("its crc32c checksum does not match")
    return content[:-4]
