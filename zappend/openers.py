"""What lies somewhere → the dataset that xarray makes of it, not decoded. The module that knows xarray's openers.

NetCDF-4 files of any file system are read where they are; files that need a reader of their own are copied to a
temporary folder first, unless they are local.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from zappend.errors import SliceError, UsageError
from zappend.folders import Folder, ZipFolder, is_http
from zappend.locations import LocalLocation, Location, RemoteLocation, is_url, local_path
from zappend.redaction import cause_of, first_line
from zappend.settings import Settings
from zappend.suggestions import did_you_mean

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["HDF5_MAGIC", "Opened", "Options", "open_location", "options_of"]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
NETCDF3_MAGIC = b"CDF"
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")

UNDECODED: dict[str, Any] = {
    "mask_and_scale": False,
    "decode_times": False,
    "decode_timedelta": False,
    "decode_coords": False,
    "chunks": None,
    "cache": False,
}
"""How xarray opens a dataset as it is stored, and reads of it what is asked for."""

DECODING = ("mask_and_scale", "decode_times", "decode_timedelta", "decode_coords")

OF_ALL_ENGINES = frozenset(
    {"cache", "chunks", "concat_characters", "create_default_indexes", "decode_cf", "drop_variables", "use_cftime"}
    | {"chunked_array_type", "from_array_kwargs", "inline_array", *DECODING}
)
"""Arguments of `xarray.open_dataset` that no engine is handed as its own."""

REFUSED = {
    "filename_or_obj": "what is opened is the slice",
    "store": "what is opened is the slice",
    "chunk_store": "what is opened is the slice",
    "mode": "slices are only read",
    "storage_options": "slice_storage_options has them",
}

PACKAGES = {"cfgrib": "cfgrib", "netcdf4": "netcdf4", "pydap": "pydap", "rasterio": "rioxarray", "scipy": "scipy"}
"""What to install for engines that xarray knows, or that are known well."""

IN_MEMORY = 2**26
"""Bytes of a remote file that is read at once, and kept in memory, while it is open."""

BLOCK, BLOCKS = 2**22, 16
"""Bytes of a block of larger ones, and how many blocks are kept."""


@dataclass(frozen=True)
class Options:
    """How slices are to be opened.

    Attributes
    ----------
    engine
        As xarray names it; ``None``: found out from the slice.
    group
        Path of the group in the slice.
    arguments
        The other arguments of `xarray.open_dataset`.
    temp_dir
        The local folder for copies; ``None``: that of the system.
    """

    engine: str | None
    group: str
    arguments: Mapping[str, Any]
    temp_dir: str | None

    @property
    def are_general(self) -> bool:
        """Whether no argument is of one engine alone."""
        return self.arguments.keys() <= OF_ALL_ENGINES


@dataclass(frozen=True)
class Opened:
    """A slice that is open.

    Attributes
    ----------
    dataset
        The dataset; when it is closed, so is all that was opened for it.
    folder, zarr_format
        The files and the format of a Zarr group.
    """

    dataset: xr.Dataset
    folder: Folder | None = None
    zarr_format: int = 0


def options_of(settings: Settings) -> Options:
    """Return how the settings want slices to be opened.

    Raises
    ------
    UsageError
        If there is no such engine, or an argument that cannot be.
    """
    given = dict(settings.open_kwargs)
    engine = settings.slice_engine
    for name, why in REFUSED.items():
        if name in given:
            raise UsageError(f"setting open_kwargs: {name!r} cannot be given: {why}")
    if "engine" in given:
        other = given.pop("engine")
        if engine is not None and other != engine:
            raise UsageError(f"setting open_kwargs: its engine is {other!r}, and slice_engine is {engine!r}; give one")
        engine = other
    if engine is not None:
        _check_engine(engine)
    group = given.pop("group", None) or ""
    if not isinstance(group, str):
        raise UsageError(f"setting open_kwargs: group must be a path, not {group!r}")
    arguments = {key: value for key, value in UNDECODED.items() if not (given.get("decode_cf") and key in DECODING)}
    if given.get("use_cftime") is not None and given.get("decode_times") in (None, True):
        from xarray.coders import CFDatetimeCoder

        # As xarray wants to be told now; that times are to be of a kind says that they are to be decoded.
        given["decode_times"] = CFDatetimeCoder(use_cftime=given.pop("use_cftime"))
    temp_dir = None if settings.temp_dir is None or is_url(settings.temp_dir) else local_path(settings.temp_dir)
    return Options(engine, group.strip("/"), arguments | given, temp_dir)


def _check_engine(engine: Any) -> None:
    from xarray.backends import list_engines

    known = [name for name in list_engines() if name != "store"]
    if engine in known:
        return
    if package := PACKAGES.get(str(engine)):
        hint = f"; for {engine!r}: pip install {package}"
    else:
        hint = did_you_mean(engine, [*known, *PACKAGES])
    raise UsageError(
        f"setting slice_engine: xarray has no engine {engine!r} here; it has {', '.join(map(repr, known))}{hint}"
    )


def open_location(location: Location, kind: str, options: Options) -> Opened:
    """Open what lies at `location`, a ``file`` or a ``folder``.

    Raises
    ------
    NotYet
        If it is nothing that can be read, so far.
    SliceError
        If it is never going to be, as things are here.
    UsageError
        If the engine does not take an argument.
    """
    try:
        if kind == "folder":
            return _open_folder(location, options)
        if isinstance(location, RemoteLocation):
            return _open_remote(location, options)
        return _open_local(location, cast(LocalLocation, location).path, options)
    except (SliceError, UsageError):
        raise
    except Exception as error:
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            raise UsageError(f"setting open_kwargs: {first_line(error)}") from cause_of(error)
        # What a damaged file raises is up to each reader.
        raise location.not_yet("it is no dataset that can be read", error) from cause_of(error)


def _open_local(location: Location, path: str, options: Options) -> Opened:
    try:
        with open(path, "rb") as file:
            magic = file.read(len(HDF5_MAGIC))
    except OSError as error:
        raise location.not_yet(f"it cannot be read: {error.strerror}") from cause_of(error)
    if not magic:
        raise location.not_yet("the file is empty")
    engine = options.engine
    if magic.startswith(ZIP_MAGIC) and engine in (None, "zarr"):
        return _open_zip(location, path, options)
    if magic == HDF5_MAGIC and engine in (None, "h5netcdf"):
        return Opened(_open_netcdf4(path, options))
    if magic.startswith(NETCDF3_MAGIC) and engine is None:
        try:
            import netCDF4  # noqa: F401
        except ImportError:
            raise SliceError(
                f"slice {location.name}: it is a NetCDF-3 file, which takes the package netcdf4: "
                f"pip install 'zappend[all]'"
            ) from None
        engine = "netcdf4"
    if engine is None:
        _check_some_engine(location, path)
    return Opened(_open_dataset(path, options, engine=engine))


def _check_some_engine(location: Location, path: str) -> None:
    """Raise `NotYet` if no engine would take the file at `path` by itself."""
    from xarray.backends import list_engines

    engines = list_engines()
    if not any(engine.guess_can_open(path) for engine in engines.values()):
        known = ", ".join(repr(name) for name in engines if name != "store")
        raise location.not_yet(
            f"it is neither NetCDF nor Zarr; if it is of another kind, slice_engine names what reads it: {known} here"
        )


def _open_remote(location: RemoteLocation, options: Options) -> Opened:
    size = location.stamp().size
    whole = size is not None and size <= IN_MEMORY
    how: dict[str, Any] = {"cache_type": "all"} if whole else {"cache_type": "blockcache", "block_size": BLOCK}
    if not whole:
        how["cache_options"] = {"maxblocks": BLOCKS}
        if is_http(location.fs):
            how = {"block_size": 0}  # a stream: not every server can send parts
    with ExitStack() as stack:
        file = stack.enter_context(location.fs.open(location.path, "rb", **how))
        if options.engine in (None, "h5netcdf") and _is_random_access(file):
            magic = file.read(len(HDF5_MAGIC))
            file.seek(0)
            if magic == HDF5_MAGIC:
                return Opened(_closing(_open_netcdf4(file, options), stack))
        path = _copied(location, file, size, stack, options)
        file.close()
        opened = _open_local(location, path, options)
        return Opened(_closing(opened.dataset, stack), opened.folder, opened.zarr_format)


def _is_random_access(file: Any) -> bool:
    """Tell whether any part of a file can be read as quickly as any other."""
    from fsspec.spec import AbstractBufferedFile

    return isinstance(file, io.BytesIO) or (isinstance(file, AbstractBufferedFile) and file.size is not None)


def _copied(location: Location, file: BinaryIO, size: int | None, stack: ExitStack, options: Options) -> str:
    """Copy a file into a temporary folder, which lasts as long as `stack`, and return its path there."""
    try:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="zappend-", dir=options.temp_dir))
    except OSError as error:
        where = options.temp_dir or tempfile.gettempdir()
        raise UsageError(f"setting temp_dir: no folder can be made in {where}: {error.strerror}") from error
    # Under its own name, which tells some readers what it is.
    name = os.path.basename(cast(RemoteLocation, location).path.partition("?")[0].rstrip("/")) or "slice"
    path = os.path.join(folder, name)
    with open(path, "wb") as copy:
        shutil.copyfileobj(file, copy, 2**20)
    if size is not None and os.path.getsize(path) != size:
        raise location.not_yet(f"it was cut off: {os.path.getsize(path)} of {size} bytes came")
    return path


def _open_folder(location: Location, options: Options) -> Opened:
    if options.engine not in (None, "zarr"):
        if isinstance(location, LocalLocation):
            return Opened(_open_dataset(location.path, options, engine=options.engine))
        raise SliceError(f"slice {location.name}: of folders that are not local only Zarr groups can be read")
    folder = location.folder(options.group)
    zarr_format, consolidated = _format_of(location, folder, options)
    if isinstance(location, LocalLocation):
        return Opened(_open_group(location.path, zarr_format, consolidated, options), folder, zarr_format)
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    remote = cast(RemoteLocation, location)
    # All file systems as if they could only do one thing at a time: so there is one connection, and it gets closed.
    fs = AsyncFileSystemWrapper(remote.fs, asynchronous=True)
    store = FsspecStore(fs, read_only=True, path=remote.path.rstrip("/"))
    return Opened(_open_group(store, zarr_format, consolidated, options), folder, zarr_format)


def _open_zip(location: Location, path: str, options: Options) -> Opened:
    from zarr.storage import ZipStore

    folder = ZipFolder(path, options.group)
    zarr_format, consolidated = _format_of(location, folder, options)
    with ExitStack() as stack:
        store = ZipStore(path, mode="r")
        stack.callback(store.close)
        dataset = _open_group(store, zarr_format, consolidated, options)
        return Opened(_closing(dataset, stack), folder, zarr_format)


def _open_group(store: Any, zarr_format: int, consolidated: bool, options: Options) -> xr.Dataset:
    return _open_dataset(store, options, engine="zarr", zarr_format=zarr_format, consolidated=consolidated)


def _format_of(location: Location, folder: Folder, options: Options) -> tuple[int, bool]:
    """Return the format of the Zarr group in `folder`, and whether it has consolidated metadata."""
    try:
        document = folder.get("zarr.json")
        if document is not None:
            return 3, bool(json.loads(document).get("consolidated_metadata"))
    except (OSError, ValueError, AttributeError) as error:
        raise location.not_yet("its zarr.json cannot be read", error) from cause_of(error)
    if folder.get(".zgroup") is not None:
        return 2, folder.get(".zmetadata") is not None
    what = "it is a folder, but no Zarr group"
    if options.group:
        what = f"there is no Zarr group {options.group!r} in it"
    if isinstance(folder, ZipFolder):
        what = f"it is a zip file with no Zarr group at {options.group or 'its root'}; open_kwargs can name its group"
    raise location.not_yet(what)


def _open_netcdf4(source: str | BinaryIO, options: Options) -> xr.Dataset:
    import xarray as xr

    if not options.are_general:
        return _open_dataset(source, options, engine="h5netcdf")
    from zappend.netcdf import open_netcdf4  # brings in h5py

    with ExitStack() as stack:
        store, file = open_netcdf4(source, options.group or None)
        stack.callback(file.close)
        stack.callback(store.close)
        dataset = xr.open_dataset(store, **options.arguments)
        dataset.set_close(stack.pop_all().close)
        return dataset


def _open_dataset(source: Any, options: Options, **arguments: Any) -> xr.Dataset:
    import xarray as xr

    if options.group:
        arguments["group"] = options.group
    return xr.open_dataset(source, **arguments | dict(options.arguments))


def _closing(dataset: xr.Dataset, stack: ExitStack) -> xr.Dataset:
    """Return `dataset`, with which all in `stack` is closed."""
    closing = dataset.copy(deep=False)
    rest = stack.pop_all()
    rest.callback(dataset.close)
    closing.set_close(rest.close)
    return closing
