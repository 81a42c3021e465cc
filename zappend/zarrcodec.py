"""Codecs that zappend does not call directly, as zarr-python has them: from zarr itself, numcodecs and third parties.

They are called by the interface that zarr publishes for codecs, `zarr.abc.codec`, whose methods are coroutines. These
run on an event loop in a thread of its own, so that any thread can wait for them, also one that runs a loop itself, as
the main thread of a notebook does.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import warnings
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
from numcodecs.compat import ensure_bytes

from zappend.chunkspec import ChunkSpec
from zappend.datatypes import Block, v3_dtype, v3_fill_to_json, v3_type

__all__ = ["ZarrCodecs"]

Json = dict[str, Any]
Result = TypeVar("Result")


class ZarrCodecs:
    """The codecs of one list in a document of format 3, made and checked by zarr.

    Parameters
    ----------
    codecs
        The list, whole: what a codec is given depends on those before it.
    spec
        What the first one is given.
    write_empty
        Whether codecs that store several chunks shall store empty ones.

    Raises
    ------
    ValueError
        If zarr does not know a codec, or refuses it for such chunks.
    """

    def __init__(self, codecs: list[Any], spec: ChunkSpec, *, write_empty: bool) -> None:
        from zarr.core.array_spec import ArrayConfig, ArraySpec
        from zarr.core.buffer import numpy_buffer_prototype
        from zarr.core.metadata.v3 import ArrayV3Metadata

        self._prototype = numpy_buffer_prototype()
        document: Json = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(spec.shape),
            "data_type": v3_type(spec.dtype),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": v3_fill_to_json(spec.fill_value, spec.dtype),
            "codecs": codecs,
            "attributes": {},
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a codec or a type has no specification; the array has it already
            try:
                metadata = ArrayV3Metadata.from_dict(document)
                config = ArrayConfig.from_dict({"order": "C", "write_empty_chunks": write_empty})
                given = ArraySpec(spec.shape, metadata.data_type, metadata.fill_value, config, self._prototype)
                self._codecs: list[Any] = list(metadata.codecs)
                self._given = [given]
                for codec in self._codecs:
                    self._given.append(codec.resolve_metadata(self._given[-1]))
            except Exception as error:
                # What is raised for an unknown or a wrong codec is up to zarr, to the codec, and their versions.
                raise ValueError(f"{type(error).__name__}: {error}") from error

    def is_array_array(self, place: int) -> bool:
        """Tell whether the codec at `place` turns an array into an array."""
        from zarr.abc.codec import ArrayArrayCodec

        return isinstance(self._codecs[place], ArrayArrayCodec)

    def is_array_bytes(self, place: int) -> bool:
        """Tell whether the codec at `place` turns an array into bytes."""
        from zarr.abc.codec import ArrayBytesCodec

        return isinstance(self._codecs[place], ArrayBytesCodec)

    def spec_before(self, place: int) -> ChunkSpec:
        """Return what the codec at `place` is given; behind the last one, what that gives."""
        spec = self._given[place]
        dtype = v3_dtype(spec.dtype.to_json(zarr_format=3), "")  # type: ignore[arg-type]
        return ChunkSpec(spec.shape, dtype, spec.fill_value)

    def encode(self, place: int, value: Any) -> Any:
        """Return what the codec at `place` makes of an array or of bytes."""
        given = self._bytes(value) if self._gives_bytes(place - 1) else self._array(place, value)
        return self._run(place, self._codecs[place].encode([(given, self._given[place])]), place + 1)

    def decode(self, place: int, value: Any) -> Any:
        """Return what the codec at `place` had been given when it made `value`."""
        given = self._bytes(value) if self._gives_bytes(place) else self._array(place + 1, value)
        return self._run(place, self._codecs[place].decode([(given, self._given[place])]), place)

    def _gives_bytes(self, place: int) -> bool:
        return place >= 0 and not self.is_array_array(place)

    def _bytes(self, value: Any) -> Any:
        return self._prototype.buffer.from_bytes(bytes(ensure_bytes(value)))

    def _array(self, place: int, value: Block) -> Any:
        native = self._given[place].dtype.to_native_dtype()
        # Some codecs take the elements in the order of memory, which after a transposition is not that of the array.
        block = np.ascontiguousarray(value, native).reshape(value.shape)
        return self._prototype.nd_buffer.from_numpy_array(block)

    def _run(self, place: int, coroutine: Coroutine[Any, Any, Any], after: int) -> Any:
        result = next(iter(_result_of(coroutine)))
        if result is None:
            raise ValueError(f"the codec {type(self._codecs[place]).__name__} gave nothing back")
        if self._gives_bytes(after - 1):
            return result.to_bytes()
        spec, values = self.spec_before(after), result.as_numpy_array()
        if (
            values.dtype.kind != spec.dtype.kind
            and values.dtype.itemsize == spec.dtype.itemsize
            and not values.dtype.hasobject
        ):
            values = values.view(spec.dtype)  # floats that a codec has made, but calls integers
        block: Block = values.astype(spec.dtype, copy=False).reshape(spec.shape)
        return block


# The loop.

_guard = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def _result_of(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `coroutine`; the calling thread waits for it."""
    global _loop, _thread
    with _guard:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="zappend codecs", daemon=True)
            _thread.start()
    return asyncio.run_coroutine_threadsafe(coroutine, _loop).result()


@atexit.register
def _stop() -> None:
    global _loop
    if _loop is not None and _thread is not None:
        _loop.call_soon_threadsafe(_loop.stop)
        _thread.join()
        _loop.close()
        _loop = None


def _forget() -> None:
    # A forked process has the loop, but not its thread.
    global _loop, _guard
    _loop, _guard = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
