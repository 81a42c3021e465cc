"""Stored values of one chunk ↔ the bytes under its key: the codecs of an array, as numcodecs has them.

The bytes are those that zarr-python writes for the same metadata. Format 2 names numcodecs' own codecs; the codecs of
format 3 are made of the same ones here, called directly and on the calling thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numcodecs
import numcodecs.blosc
import numpy as np
from numcodecs.compat import ensure_bytes, ensure_contiguous_ndarray
from numcodecs.vlen import VLenUTF8

from zappend.datatypes import is_variable_length
from zappend.errors import TargetError
from zappend.metadata import Array, Json

__all__ = ["ChunkCodec", "single_threaded_blosc"]

Block = np.ndarray[Any, np.dtype[Any]]
BytesCodec = tuple[Callable[[Any], Any], Callable[[Any], Any]]

SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@contextlib.contextmanager
def single_threaded_blosc() -> Iterator[None]:
    """Keep Blosc to the calling thread: with threads of its own its output differs from run to run."""
    global _single_threaded_users, _threads_before
    with _blosc_guard:
        if _single_threaded_users == 0:
            _threads_before = numcodecs.blosc.use_threads
            numcodecs.blosc.use_threads = False
        _single_threaded_users += 1
    try:
        yield
    finally:
        with _blosc_guard:
            _single_threaded_users -= 1
            if _single_threaded_users == 0:
                numcodecs.blosc.use_threads = _threads_before


_blosc_guard = threading.Lock()
_single_threaded_users = 0
_threads_before: bool | None = None


@dataclass(frozen=True)
class _Step:
    """What turns an array into bytes and back."""

    encode: Callable[[Block], Any]
    decode: Callable[[Any], Block]


class ChunkCodec:
    """Encodes and decodes the chunks of `array`; safe to use from many threads.

    Raises
    ------
    TargetError
        If the array has a codec that is not supported.
    """

    def __init__(self, array: Array) -> None:
        self.array = array
        self._to_bytes: _Step
        self._then: list[BytesCodec] = []
        try:
            if array.zarr_format == 2:
                self._build_v2(array.document)
            else:
                self._build_v3(array.document["codecs"])
        except (ValueError, KeyError, TypeError) as error:
            raise TargetError(f"array {array.name!r} has a codec that is not supported: {error}") from error

    def encode(self, block: Block) -> bytes:
        """Return the bytes of a whole chunk; `block` has the shape and the stored type of a chunk."""
        data = self._to_bytes.encode(block)
        for encode, _ in self._then:
            data = encode(data)
        return bytes(ensure_bytes(data))

    def decode(self, data: bytes) -> Block:
        """Return the values of a whole chunk; they are not to be written to.

        Raises
        ------
        TargetError
            If `data` is not what this array's codecs write.
        """
        try:
            value: Any = data
            for _, decode in reversed(self._then):
                value = decode(value)
            return self._to_bytes.decode(value)
        except Exception as error:
            # What damaged bytes raise is up to each codec.
            raise TargetError(f"a chunk of {self.array.name!r} cannot be decoded: {error}") from error

    def _build_v2(self, document: Json) -> None:
        order, shape, dtype = document.get("order", "C"), self.array.chunks, self.array.dtype
        filters = [_numcodec(config) for config in document.get("filters") or ()]
        if document.get("compressor"):
            compressor = _numcodec(document["compressor"])
            self._then.append((compressor.encode, compressor.decode))

        def encode(block: Block) -> Any:
            data: Any = block.astype(dtype, order=order, copy=False)
            for codec in filters:
                data = codec.encode(data)
            return data

        def decode(data: Any) -> Block:
            for codec in reversed(filters):
                data = codec.decode(data)
            if is_variable_length(dtype):
                return np.asarray(data, dtype=object).reshape(shape, order=order)
            values: Block = ensure_contiguous_ndarray(data).view(dtype).reshape(shape, order=order)
            return values

        if is_variable_length(dtype) and not any(isinstance(codec, VLenUTF8) for codec in filters):
            raise ValueError("objects without the filter 'vlen-utf8'")
        self._to_bytes = _Step(encode, decode)

    def _build_v3(self, codecs: list[Json]) -> None:
        shape, dtype = self.array.chunks, self.array.dtype
        axes = tuple(range(len(shape)))
        left = list(codecs)
        while left and left[0]["name"] == "transpose":
            order = left.pop(0)["configuration"]["order"]
            axes = tuple(axes[axis] for axis in order)
        stored_shape = tuple(shape[axis] for axis in axes)
        back = tuple(int(axis) for axis in np.argsort(axes))
        to_bytes = left.pop(0)
        self._then = [_v3_bytes_codec(config) for config in left]
        if to_bytes["name"] == "vlen-utf8" and is_variable_length(dtype):
            vlen = VLenUTF8()
            self._to_bytes = _Step(
                lambda block: vlen.encode(np.ascontiguousarray(block.transpose(axes)).reshape(-1)),
                lambda data: np.asarray(vlen.decode(data), object).reshape(stored_shape).transpose(back),
            )
        elif to_bytes["name"] == "bytes" and not is_variable_length(dtype):
            endian = to_bytes.get("configuration", {}).get("endian", "little")
            stored = dtype.newbyteorder(">" if endian == "big" else "<")
            self._to_bytes = _Step(
                lambda block: np.ascontiguousarray(block.transpose(axes), stored).reshape(-1).view("u1"),
                lambda data: ensure_contiguous_ndarray(data).view(stored).reshape(stored_shape).transpose(back),
            )
        else:
            raise ValueError(f"{to_bytes['name']!r} for values of type {dtype}")


def _numcodec(config: Json) -> Any:
    if config["id"] == "pickle":
        raise ValueError("'pickle', which runs any code when it is read")
    return numcodecs.get_codec(dict(config))


def _v3_bytes_codec(config: Json) -> BytesCodec:
    options = dict(config.get("configuration", {}))
    codec: Any
    match config["name"]:
        case "blosc":
            options["shuffle"] = SHUFFLES[options["shuffle"]]
            codec = numcodecs.blosc.Blosc(**options)
        case "gzip":
            codec = numcodecs.GZip(**options)
        case "zstd":
            codec = numcodecs.Zstd(**options)
        case "crc32c":
            return _append_crc32c, _check_crc32c
        case name:
            raise ValueError(repr(name))
    return codec.encode, codec.decode


def _append_crc32c(data: Any) -> bytes:
    import google_crc32c  # comes with zarr, and few arrays have this codec

    content = bytes(ensure_bytes(data))
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


def _check_crc32c(data: Any) -> bytes:
    content = bytes(ensure_bytes(data))
    if _append_crc32c(content[:-4]) != content:
        raise ValueError("its crc32c checksum does not match")
    return content[:-4]
