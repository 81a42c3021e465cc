"""A Zarr store, as users have them → a dataset of xarray, by its consolidated metadata if it has that."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["is_zarr_store", "open_zarr"]

ROOTS = ("zarr.json", ".zgroup")
"""Keys of which a Zarr group has one."""


def is_zarr_store(item: object) -> bool:
    """Tell whether `item` is a store of zarr, a mapper of fsspec, or a mapping of keys to bytes that has a group.

    A mapping of other things, such as settings or arguments, is none.
    """
    store = getattr(sys.modules.get("zarr.abc.store"), "Store", ())
    mapper = getattr(sys.modules.get("fsspec.mapping"), "FSMap", ())
    if isinstance(item, (store, mapper)):  # nobody has one who has not imported its module
        return True
    return isinstance(item, Mapping) and any(isinstance(item.get(key), (bytes, bytearray)) for key in ROOTS)


def open_zarr(
    store: Any,
    *,
    group: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Return the dataset in the Zarr group at `group` of `store`; the store stays open when the dataset is closed.

    Parameters
    ----------
    store
        What `is_zarr_store` tells of; or a path or URL.
    group
        Path of the group; the root by default.
    storage_options
        Options of the file system, for a URL.
    **options
        Further arguments of `xarray.open_dataset`.

    Raises
    ------
    FileNotFoundError
        If there is no group.
    """
    import xarray as xr
    import zarr

    if isinstance(store, Mapping) and not hasattr(store, "fs"):
        from zarr.core.buffer import default_buffer_prototype

        buffer = default_buffer_prototype().buffer
        store = zarr.storage.MemoryStore({key: buffer.from_bytes(bytes(value)) for key, value in store.items()})
    opened = zarr.open_group(store, mode="r", path=group or "", storage_options=dict(storage_options or {}) or None)
    # xarray warns if it is left to find out by itself.
    options.setdefault("consolidated", opened.metadata.consolidated_metadata is not None)
    inner: Any = opened.store  # more than xarray says that it takes
    return xr.open_dataset(inner, engine="zarr", group=group or None, **options)
