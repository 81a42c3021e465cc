"""What names a slice → a dataset, as soon as it is whole; not decoded, unless that is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from zappend.completeness import completeness
from zappend.errors import ZappendError
from zappend.fileobj import FileObj
from zappend.locations import LocalLocation, Location, local_path, locate
from zappend.openers import HDF5_MAGIC, UNDECODED, Opened, Options, open_location, options_of
from zappend.polling import NotYet, wait_for
from zappend.redaction import cause_of, first_line, redacted
from zappend.settings import Settings
from zappend.stillness import Stillness

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["UNDECODED", "first_line", "is_netcdf4", "local_path", "name_of", "open_path", "options_of"]

log = logging.getLogger(__name__)


def open_path(item: str | os.PathLike[Any] | FileObj, settings: Settings) -> xr.Dataset:
    """Return the dataset at a path, at a URL of fsspec, or of a `FileObj`, opened, as soon as it is whole.

    When it is closed, everything is that was opened for it.

    Raises
    ------
    SliceError
        If it is not there, cannot be read, lacks chunks that it must not lack, or is still being written.
    UsageError
        If a setting says how to open it, and that cannot be.
    """
    options = options_of(settings)
    location = locate(item, settings.slice_storage_options)
    refuses = settings.slice_missing_chunks == "refuse" or settings.polling is not None
    still = None if settings.polling is None else Stillness(settings.polling)
    try:
        return wait_for(lambda: _look(location, options, settings, still, refuses=refuses), settings.polling)
    except _ChunksMissing:
        if settings.slice_missing_chunks != "fill":
            raise
    return _look(location, options, settings, None, refuses=False)


def name_of(item: str | os.PathLike[Any] | FileObj) -> str:
    """Return what messages call the slice that is given by `item`; nothing secret is in it."""
    return redacted(item.uri if isinstance(item, FileObj) else str(os.fspath(item)))


class _ChunksMissing(NotYet):
    """The slice is a Zarr group that lacks chunks."""


def _look(
    location: Location, options: Options, settings: Settings, still: Stillness | None, *, refuses: bool
) -> xr.Dataset:
    """Open what is there; raise `NotYet` if that may be the beginning of a slice, and is not to be taken."""
    with ExitStack() as stack:
        stack.callback(location.close)
        location.refresh()
        kind = location.kind(is_zarr=options.engine == "zarr")
        stamp = location.stamp() if kind == "file" and still is not None else None
        if stamp is not None and still is not None:
            still.check(location.name, stamp)
        opened = open_location(location, kind, options)
        stack.callback(opened.dataset.close)
        if opened.folder is not None:
            try:
                _check_chunks(location, opened, settings, still if stamp is None else None, refuses=refuses)
            except ZappendError:
                raise
            except Exception as error:
                raise location.not_yet("its chunks cannot be counted", error) from cause_of(error)
        if stamp is not None and location.stamp().state != stamp.state:
            raise location.not_yet("it is still being written: it has changed while it was opened")
        if stamp is not None and not stamp.state:
            log.warning("slice %s: whether it is still being written cannot be told: it has no size", location.name)
        rest = stack.pop_all()
        if isinstance(location, LocalLocation):
            return opened.dataset
        dataset = opened.dataset.copy(deep=False)
        dataset.set_close(rest.close)
        return dataset


def _check_chunks(
    location: Location, opened: Opened, settings: Settings, still: Stillness | None, *, refuses: bool
) -> None:
    """Raise `NotYet` if chunks are missing, and that is not to be, or if `still` finds that they change."""
    assert opened.folder is not None
    # Counted after the opening: of what was seen then, no chunk can be taken for written that was not.
    found = completeness(
        opened.folder, opened.zarr_format, _shapes(opened.dataset, settings), stamped=still is not None
    )
    if still is not None and found.stamp is not None and (found.missing or found.stale):
        still.note(found.stamp)
    name = f"slice {location.name}"
    for array, (shape, seen) in found.stale.items():
        raise NotYet(
            f"{name}: its consolidated metadata is stale: {array!r} has the shape {shape}, and {seen} there; "
            f"mend it with zarr.consolidate_metadata()"
        )
    if found.missing and refuses:
        raise _ChunksMissing(
            f"{name}: {found}; if its writer left out chunks that hold nothing but the fill value, as xarray "
            f"does by default, slice_missing_chunks 'fill' takes it"
        )
    if still is not None and found.stamp is not None:
        still.check(location.name, found.stamp)
    polled = settings.polling is not None
    if found.missing and (polled or settings.slice_missing_chunks != "fill"):
        log.warning(
            "%s: %s, and taken for fill values%s",
            name,
            found,
            "" if polled else "; slice_missing_chunks 'fill' says that this is meant, 'refuse' that it is not",
        )
    if found.unknown and settings.slice_missing_chunks != "fill":
        # It may be whole: xarray reads more kinds of grids than can be counted here.
        log.warning("%s: whether chunks of %s are missing cannot be told", name, ", ".join(found.unknown))


def _shapes(dataset: xr.Dataset, settings: Settings) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of those variables whose chunks must be there."""
    # The value of a grid mapping means nothing, and is 0 in most files: a fill value, which xarray leaves out.
    grid_mappings = set(_grid_mappings(dataset))
    shapes = {str(name): tuple(variable.shape) for name, variable in sorted(dataset.variables.items())}
    return {name: shape for name, shape in shapes.items() if settings.takes(name) and name not in grid_mappings}


def _grid_mappings(dataset: xr.Dataset) -> Iterator[str]:
    for variable in dataset.variables.values():
        # Where variables are decoded, xarray may have it in the encoding.
        words = str(variable.attrs.get("grid_mapping") or variable.encoding.get("grid_mapping") or "").split()
        # In the long form, "crs: x y", the colon tells a grid mapping from its coordinates.
        yield from (word.rstrip(":") for word in words if len(words) == 1 or word.endswith(":"))


def is_netcdf4(path: str) -> bool:
    """Tell whether there is a file at `path` that begins as those of NetCDF-4 do."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError:
        return False
