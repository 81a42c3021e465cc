"""A NetCDF-4 file → the store from which xarray opens it; each object in the file is looked up once.

h5netcdf looks an object up by its path each time something of it is asked for, hundreds of times for a small file, and
that takes longer than to read the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import h5netcdf
import h5py

if TYPE_CHECKING:
    from xarray.backends import H5NetCDFStore

__all__ = ["open_netcdf4"]


def open_netcdf4(source: str | BinaryIO, group: str | None = None) -> tuple[H5NetCDFStore, h5py.File]:
    """Open the file at a path, or one that is open; return the store and the file, which is to be closed after it.

    With `group` the store is that of a group inside.

    What a file raises that is damaged, or is none of NetCDF, is up to h5py and h5netcdf.
    """
    from xarray.backends import H5NetCDFStore

    # Each object stays open, and with it would the chunks that HDF5 keeps, megabytes a variable, which nobody asks for.
    file = _File(source, "r", rdcc_nbytes=0)
    try:
        # Options as xarray gives them.
        root = h5netcdf.File(file, "r", invalid_netcdf=None, decode_vlen_strings=True)
        return H5NetCDFStore(root, group=group), file
    except BaseException:
        file.close()
        raise


class _File(h5py.File):  # type: ignore[misc]
    """A file that is only read, and keeps what was found in it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._found: dict[str, Any] = {}
        super().__init__(*args, **options)

    def __getitem__(self, name: Any) -> Any:
        if not isinstance(name, str):  # a reference
            return super().__getitem__(name)
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self if name == "/" else super().__getitem__(name)
        return found

    def close(self) -> None:
        self._found.clear()
        super().close()
