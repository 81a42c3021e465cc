"""A path that a user gives → a dataset, as soon as it is whole. Files are opened without decoding.

The module that knows xarray's openers.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from zappend.completeness import completeness
from zappend.errors import SliceError
from zappend.polling import NotYet, wait_for
from zappend.settings import Settings

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["first_line", "is_netcdf4", "local_path", "open_path"]

log = logging.getLogger(__name__)

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
NETCDF3_MAGIC = b"CDF"

UNDECODED: dict[str, Any] = {
    "mask_and_scale": False,
    "decode_times": False,
    "decode_timedelta": False,
    "decode_coords": False,
    "chunks": None,
    "cache": False,
}
"""How xarray opens a dataset as it is stored, and reads of it what is asked for."""


def open_path(path: str, settings: Settings) -> xr.Dataset:
    """Return the dataset at `path`, opened, as soon as it is whole."""
    if "://" in path:
        raise SliceError(f"slice {path}: only local files and folders can be read so far")
    refuses = settings.slice_missing_chunks == "refuse" or settings.polling is not None
    try:
        return wait_for(lambda: _look(path, settings, refuses=refuses), settings.polling)
    except _ChunksMissing:
        if settings.slice_missing_chunks != "fill":
            raise
    return _look(path, settings, refuses=False)


class _ChunksMissing(NotYet):
    """The slice is a Zarr folder that lacks chunks."""


def _look(path: str, settings: Settings, *, refuses: bool) -> xr.Dataset:
    """Open `path`; raise `NotYet` if what is there may be the beginning of a slice."""
    dataset = _open_now(path)
    if os.path.isdir(path):
        try:
            # Counted after the opening: of what was seen then, no chunk can be taken for written that was not.
            shapes = {str(name): tuple(variable.shape) for name, variable in sorted(dataset.variables.items())}
            # The value of a grid mapping means nothing, and is 0 in most files: a fill value, which xarray leaves out.
            grid_mappings = set(_grid_mappings(dataset))
            taken = {k: shape for k, shape in shapes.items() if settings.takes(k) and k not in grid_mappings}
            _check_chunks(path, taken, settings, refuses=refuses)
        except BaseException:
            dataset.close()
            raise
    return dataset


def _grid_mappings(dataset: xr.Dataset) -> Iterator[str]:
    for variable in dataset.variables.values():
        words = str(variable.attrs.get("grid_mapping", "")).split()
        # In the long form, "crs: x y", the colon tells a grid mapping from its coordinates.
        yield from (word.rstrip(":") for word in words if len(words) == 1 or word.endswith(":"))


def _check_chunks(path: str, shapes: Mapping[str, tuple[int, ...]], settings: Settings, *, refuses: bool) -> None:
    found = completeness(path, shapes)
    for name, (shape, seen) in found.stale.items():
        raise NotYet(
            f"slice {path}: its consolidated metadata is stale: {name!r} has the shape {shape}, and {seen} there; "
            f"mend it with zarr.consolidate_metadata()"
        )
    if found.missing and refuses:
        raise _ChunksMissing(
            f"slice {path}: {found}; if its writer left out chunks that hold nothing but the fill value, as xarray "
            f"does by default, slice_missing_chunks 'fill' takes it"
        )
    polled = settings.polling is not None
    if found.missing and (polled or settings.slice_missing_chunks != "fill"):
        log.warning(
            "slice %s: %s, and taken for fill values%s",
            path,
            found,
            "" if polled else "; slice_missing_chunks 'fill' says that this is meant, 'refuse' that it is not",
        )
    if found.unknown and settings.slice_missing_chunks != "fill":
        # It may be whole: xarray reads more kinds of grids than can be counted here.
        log.warning("slice %s: whether chunks of %s are missing cannot be told", path, ", ".join(found.unknown))


def _open_now(path: str) -> xr.Dataset:
    import xarray as xr

    if not os.path.exists(path):
        raise NotYet(f"slice {path}: there is no such file or folder")
    options = _zarr_options(path) if os.path.isdir(path) else _file_options(path)
    try:
        if options.get("engine") == "h5netcdf":
            return _open_netcdf4(path)
        return xr.open_dataset(path, **UNDECODED, **options)
    except Exception as error:
        # What a damaged file raises is up to each reader.
        raise NotYet(f"slice {path}: it is no dataset that can be read: {first_line(error)}") from error


def _open_netcdf4(path: str) -> xr.Dataset:
    import xarray as xr

    from zappend.netcdf import open_netcdf4  # brings in h5py

    with ExitStack() as stack:
        store, file = open_netcdf4(path)
        stack.callback(file.close)
        stack.callback(store.close)
        dataset = xr.open_dataset(store, **UNDECODED)
        dataset.set_close(stack.pop_all().close)
        return dataset


def _zarr_options(path: str) -> dict[str, Any]:
    if os.path.exists(f"{path}/zarr.json"):
        try:
            with open(f"{path}/zarr.json", "rb") as file:
                consolidated = bool(json.load(file).get("consolidated_metadata"))
        except (OSError, ValueError, AttributeError) as error:
            raise NotYet(f"slice {path}: its zarr.json cannot be read: {error}") from error
        return {"engine": "zarr", "consolidated": consolidated}
    if os.path.exists(f"{path}/.zgroup"):
        return {"engine": "zarr", "consolidated": os.path.exists(f"{path}/.zmetadata")}
    raise NotYet(f"slice {path}: it is a folder, but no Zarr group")


def _file_options(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            magic = file.read(len(HDF5_MAGIC))
    except OSError as error:
        raise NotYet(f"slice {path}: it cannot be read: {error.strerror}") from error
    if magic == HDF5_MAGIC:
        return {"engine": "h5netcdf"}
    if magic.startswith(NETCDF3_MAGIC):
        try:
            import netCDF4  # noqa: F401
        except ImportError:
            raise SliceError(
                f"slice {path}: it is a NetCDF-3 file, which takes the package netcdf4: pip install 'zappend[all]'"
            ) from None
        return {"engine": "netcdf4"}
    return {}


def local_path(item: str | os.PathLike[Any]) -> str:
    """Return the path that a user gave, without the ``file://`` that it may begin with."""
    return str(os.fspath(item)).removeprefix("file://")


def is_netcdf4(path: str) -> bool:
    """Tell whether there is a file at `path` that begins as those of NetCDF-4 do."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError:
        return False


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
