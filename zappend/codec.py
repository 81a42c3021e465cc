"""Stored values of one chunk ↔ the bytes under its key: the codecs of an array, in both formats.

The bytes are those that zarr-python writes for the same metadata, but for shards that are replaced under readers.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Literal

import numcodecs
import numcodecs.blosc
import numpy as np
from numcodecs.compat import ensure_bytes, ensure_contiguous_ndarray

from zappend.chunkspec import ChunkSpec, holds_only
from zappend.datatypes import Block, is_variable_length
from zappend.errors import TargetError
from zappend.lossy import check_decoded, tolerance_of
from zappend.metadata import Array, Json
from zappend.pipeline import Pipeline

__all__ = ["ChunkCodec", "single_threaded_blosc"]

OBJECT_CODECS = frozenset({"vlen-utf8", "vlen-bytes", "json2", "msgpack2", "categorize"})
"""Codecs of format 2 that make bytes of Python strings or bytes."""

IN_OWN_ORDER = frozenset({"json2", "msgpack2", "bitround"})
"""Codecs of format 2 that give the elements in order C whatever order the array has, so readers mix them up."""


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


class ChunkCodec:
    """Encodes and decodes the chunks of `array`; safe to use from many threads.

    Parameters
    ----------
    array
        The array. Where it has shards, a chunk is a whole shard.
    write_empty
        Whether chunks that hold only the fill value are written, and inner chunks of shards. Where a document of
        format 2 has no fill value, readers take zero, NaT or an empty string for it, and so does this.

    Raises
    ------
    TargetError
        If the array has a codec that is unknown or cannot be used; the message names both.
    """

    def __init__(self, array: Array, write_empty: bool = True) -> None:
        self.array = array
        self._write_empty = write_empty
        self._codecs: _V2Codecs | Pipeline
        try:
            if array.zarr_format == 2:
                self._codecs = _V2Codecs(array)
            else:
                spec = ChunkSpec(array.chunks, array.dtype, array.padding)
                self._codecs = Pipeline(array.document["codecs"], spec, write_empty=write_empty)
            self._tolerance = tolerance_of(array)
        except (ValueError, KeyError, TypeError) as error:
            raise TargetError(f"array {array.name!r} has a codec that is not supported: {error}") from error

    @property
    def is_exact(self) -> bool:
        """Whether what is encoded is decoded to the same values, and not only to near ones."""
        return self._tolerance is None

    def encode(self, block: Block, old: bytes | None = None, extent: tuple[int, ...] | None = None) -> bytes | None:
        """Return the bytes of a whole chunk, or ``None`` if there must be none.

        Parameters
        ----------
        block
            The values, in the shape and the stored type of a chunk.
        old
            The stored bytes of the same chunk, if readers see a part of it: see `Shards.encode`.
        extent
            Sizes of the part of the chunk that is within the array, by default all. Only shards make a difference.

        Returns
        -------
        data
            The bytes; ``None`` only without `write_empty`, for a chunk that holds nothing but the fill value.

        Raises
        ------
        ValueError, TypeError
            If a codec cannot encode these values, or would silently make others of them, by more than the rounding that
            its configuration asks for.
        """
        if not self._write_empty and holds_only(block, self.array.padding):
            return None
        with np.errstate(all="ignore"):  # what NumPy would warn of is found by decoding
            data = self._codecs.encode(block, old, extent)
        if self._tolerance is not None and data is not None:
            within: tuple[Any, ...] = (*(slice(0, size) for size in extent or block.shape), ...)
            check_decoded(block[within], self.decode(data)[within], self._tolerance)
        return data

    def decode(self, data: bytes) -> Block:
        """Return the values of a whole chunk; they are not to be written to.

        Raises
        ------
        TargetError
            If `data` is not what this array's codecs write.
        """
        try:
            return self._codecs.decode(data)
        except Exception as error:
            # What damaged bytes raise is up to each codec.
            raise TargetError(f"a chunk of {self.array.name!r} cannot be decoded: {error}") from error


class _V2Codecs:
    """The filters and the compressor of format 2, which are numcodecs' own."""

    def __init__(self, array: Array) -> None:
        document = array.document
        self._shape, self._dtype = array.chunks, array.dtype
        self._order: Literal["C", "F"] = document.get("order", "C")
        configs = [*(document.get("filters") or ()), *filter(None, [document.get("compressor")])]
        self._codecs = [_numcodec(config) for config in configs]
        names = {config["id"] for config in configs}
        if is_variable_length(self._dtype) and not names & OBJECT_CODECS:
            raise ValueError(f"objects without one of {sorted(OBJECT_CODECS)}")
        if self._order == "F" and len(self._shape) > 1 and names & IN_OWN_ORDER:
            raise ValueError(f"{min(names & IN_OWN_ORDER)!r} with order 'F', which readers read back in another order")

    def encode(self, block: Block, old: bytes | None, extent: tuple[int, ...] | None) -> bytes:
        data: Any = block.astype(self._dtype, order=self._order, copy=False)
        for codec in self._codecs:
            data = codec.encode(data)
        return bytes(ensure_bytes(data))

    def decode(self, data: Any) -> Block:
        for codec in reversed(self._codecs):
            data = codec.decode(data)
        if isinstance(data, np.ndarray) and data.dtype == object:
            values = data.astype(self._dtype, copy=False).reshape(-1)
        else:
            values = ensure_contiguous_ndarray(data).view(self._dtype)
        return values.reshape(self._shape, order=self._order)


def _numcodec(config: Json) -> Any:
    name = config["id"]
    if name == "pickle":
        raise ValueError("'pickle', which runs any code when it is read")
    if name == "vlen-array":
        raise ValueError("'vlen-array', for arrays of arrays")
    try:
        return numcodecs.get_codec(dict(config))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name!r}: {error}") from error
