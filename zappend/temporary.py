"""A dataset in memory → the same one, with its values in a temporary Zarr: what it is computed from is computed once.

Only values go there, as they are in memory; names, attributes, encodings and indexes stay with the dataset, so the cube
cannot tell. Values that Zarr cannot hold exactly as they are, such as text, are computed and stay in memory.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zappend.errors import SliceError
from zappend.fileobj import FileObj
from zappend.forms import LARGEST_NUMBER
from zappend.opening import UNDECODED, first_line
from zappend.redaction import cause_of, conceal, redacted
from zappend.settings import Settings

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["persisted", "temporary_folder"]

log = logging.getLogger(__name__)

HELD = "biufcmM"
"""Kinds of types of numpy that Zarr holds as they are."""


def temporary_folder(settings: Settings) -> FileObj:
    """Return the folder for temporary files."""
    conceal(settings.temp_storage_options)
    return FileObj(settings.temp_dir or tempfile.gettempdir(), settings.temp_storage_options or None)


@contextmanager
def persisted(dataset: xr.Dataset, index: int, name: str, settings: Settings) -> Iterator[xr.Dataset]:
    """Return `dataset` with values that are read from a Zarr of its own in ``temp_dir``; that goes behind the block.

    Parameters
    ----------
    dataset
        Stays as it is, and open.
    index, name
        Its place among the slices, and what messages call it.
    settings
        Say where the temporary Zarr lies.

    Raises
    ------
    SliceError
        If it cannot be written. Nothing of it stays.
    """
    folder = temporary_folder(settings)
    place = folder / f"zappend-slice-{index}-{os.urandom(16).hex()}.zarr"
    try:
        try:
            opened, rest = _written(dataset, place)
        except Exception as error:
            # What is computed only now may raise whatever it likes.
            where = f"the temporary folder {redacted(folder.uri)}"
            raise SliceError(f"slice {name}: it cannot be written to {where}: {first_line(error)}") from cause_of(error)
        with opened:
            yield _with_values(dataset, {**opened.variables, **rest})
    finally:
        _delete(place)


def _written(dataset: xr.Dataset, place: FileObj) -> tuple[xr.Dataset, dict[str, xr.Variable]]:
    """Write what can be; return that, opened, and what is kept in memory."""
    import xarray as xr
    import zarr

    dims = {dim: f"dim{i}" for i, dim in enumerate(dataset.sizes)}
    store = _new_store(place)
    group = zarr.create_group(store, zarr_format=2)
    chunked: list[tuple[Any, zarr.Array[Any]]] = []
    kept: dict[str, xr.Variable] = {}
    for i, variable in enumerate(dataset.variables.values()):
        if isinstance(variable, xr.IndexVariable):
            continue
        if not _is_held(variable):
            kept[_key(i)] = variable
            continue
        lazy = _evenly_chunked(variable.data) if variable.chunks is not None else None
        array = group.create_array(
            _key(i),
            shape=variable.shape,
            chunks="auto" if lazy is None else tuple(max(sizes) for sizes in lazy.chunks),
            dtype=variable.dtype,
            attributes={"_ARRAY_DIMENSIONS": [dims[dim] for dim in variable.dims]},
            config={"write_empty_chunks": True},  # of -0.0, 0.0 is no fill value
        )
        if lazy is None:
            array[...] = variable.values
        else:
            chunked.append((lazy, array))
    kept = _computed(chunked, kept)
    return xr.open_dataset(store, engine="zarr", consolidated=False, **UNDECODED), kept


def _new_store(place: FileObj) -> Any:
    from zarr.storage import FsspecStore, LocalStore

    if "file" in place.fs.protocol:
        os.makedirs(os.path.dirname(place.path), exist_ok=True)
        os.mkdir(place.path, 0o700)  # slices may be for nobody else
        return LocalStore(place.path)
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    # As if it could only do one thing at a time: so zarr uses its connection, and makes none that nobody closes.
    return FsspecStore(AsyncFileSystemWrapper(place.fs, asynchronous=True), path=place.path)


def _computed(chunked: list[tuple[Any, Any]], kept: dict[str, xr.Variable]) -> dict[str, xr.Variable]:
    """Write arrays of dask, and compute the others, all at once: they may be made of the same things."""
    lazy = {key: variable for key, variable in kept.items() if variable.chunks is not None}
    if not chunked and not lazy:
        return {key: variable.copy(deep=False).load() for key, variable in kept.items()}
    import dask.array
    import dask.base

    gate = _Gate()
    sources = [array for array, _ in chunked]
    arrays: Any = [_Gated(array, gate) for _, array in chunked]
    stored = [dask.array.store(sources, arrays, lock=False, compute=False)] if chunked else []
    compute: Any = dask.base.compute
    try:
        *_, computed = compute(*stored, lazy)
    finally:
        gate.close()
    return {key: computed.get(key, variable).copy(deep=False).load() for key, variable in kept.items()}


class _Gate:
    """Lets writing pass until it is closed: when one task of dask fails, others may still be at work."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._within = 0
        self._is_closed = False

    def __enter__(self) -> None:
        with self._changed:
            if self._is_closed:
                raise RuntimeError("writing has ended")
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._within -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and wait for those who are."""
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: self._within == 0)


class _Gated:
    """An array that is written to through a gate; in another process, where that is not, it is the array itself."""

    def __init__(self, array: Any, gate: _Gate) -> None:
        self._array = array
        self._gate = gate

    def __setitem__(self, region: Any, block: Any) -> None:
        with self._gate:
            self._array[region] = block

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._array,)


def _itself(array: Any) -> Any:
    return array


def _with_values(dataset: xr.Dataset, values: Mapping[Any, xr.Variable]) -> xr.Dataset:
    """Return `dataset` with other values in it, all else as it is."""
    changed = {}
    for i, (name, variable) in enumerate(dataset.variables.items()):
        if _key(i) in values:
            new = values[_key(i)].copy(deep=False)
            new.dims, new.attrs, new.encoding = variable.dims, dict(variable.attrs), dict(variable.encoding)
            changed[name] = new
    coords = {name: variable for name, variable in changed.items() if name in dataset.coords}
    return dataset.assign_coords(coords).assign({k: v for k, v in changed.items() if k not in coords})


def _is_held(variable: xr.Variable) -> bool:
    dtype = variable.dtype
    return (
        getattr(dtype, "kind", "O") in HELD
        and dtype.itemsize <= LARGEST_NUMBER.get(dtype.kind, dtype.itemsize)
        and variable.size > 0
        and len(set(variable.dims)) == variable.ndim
    )


def _evenly_chunked(data: Any) -> Any:
    """Return an array of dask with chunks of one size along each dimension, but the last."""
    if all(len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0] for sizes in data.chunks):
        return data
    return data.rechunk(tuple(max(sizes) for sizes in data.chunks))


def _key(index: int) -> str:
    """Return what the variable at `index` is called in the temporary Zarr, whose names mean nothing."""
    return f"variable{index}"


def _delete(place: FileObj) -> None:
    try:
        if place.exists():
            place.delete(recursive=True)
    except Exception as error:
        # Each file system has errors of its own, and the slice is done.
        log.warning(
            "the temporary Zarr %s is left, as it cannot be deleted: %s", redacted(place.uri), first_line(error)
        )
    finally:
        place.close()
