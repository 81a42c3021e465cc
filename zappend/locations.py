"""Where a slice lies: what is there, when it changed, and its bytes; on this computer, or in a file system of fsspec.

Whatever file systems keep of listings is dropped before each look.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from zappend.errors import SliceError
from zappend.fileobj import FileObj
from zappend.folders import FileSystemFolder, Folder, LocalFolder, is_http
from zappend.polling import NotYet
from zappend.redaction import cause_of, conceal, first_line, redacted
from zappend.stillness import Stamp, stamp_from, stamp_of

__all__ = [
    "LocalLocation",
    "Location",
    "RemoteLocation",
    "file_system_of",
    "is_url",
    "local_path",
    "locate",
]

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)")

LOCAL = re.compile(r"(?:file|local)://")


class Location(ABC):
    """A place where a slice lies, or will lie.

    Attributes
    ----------
    name
        What a user calls it, for messages: as it was given, without anything secret.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def refresh(self) -> None:
        """Forget what was seen of it; raise `NotYet` if its file system cannot be reached."""

    def close(self) -> None:
        """Close what `refresh` opened."""

    @abstractmethod
    def kind(self, *, is_zarr: bool = False) -> Literal["file", "folder"]:
        """Return what is there; raise `NotYet` if it is nothing, or cannot be reached.

        What a web server has cannot be told but by its name; `is_zarr` says that it is Zarr.
        """

    @abstractmethod
    def stamp(self) -> Stamp:
        """Return the stamp of the file that is there; raise `NotYet` if there is none."""

    @abstractmethod
    def folder(self, group: str = "") -> Folder:
        """Return the folder that is there, or one inside it."""

    def not_yet(self, what: str, error: BaseException | None = None) -> NotYet:
        """Return the error that says `what` of this slice, and what `error` says of it."""
        return NotYet(f"slice {self.name}: {what}" + (f": {first_line(error)}" if error is not None else ""))


class LocalLocation(Location):
    """A path of this computer."""

    def __init__(self, path: str, name: str | None = None) -> None:
        super().__init__(path if name is None else name)
        self.path = path

    def kind(self, *, is_zarr: bool = False) -> Literal["file", "folder"]:
        if not os.path.exists(self.path):
            raise self.not_yet("there is no such file or folder")
        return "folder" if os.path.isdir(self.path) else "file"

    def stamp(self) -> Stamp:
        try:
            return stamp_of(os.stat(self.path))
        except OSError as error:
            raise self.not_yet("there is no such file or folder") from error

    def folder(self, group: str = "") -> Folder:
        return LocalFolder(f"{self.path}/{group}" if group else self.path)


class RemoteLocation(Location):
    """A path in a file system of fsspec.

    Parameters
    ----------
    name
        As for `Location`.
    url, options
        What fsspec finds file system and path by.
    fs, path
        The file system and the path, if they are known.

    Attributes
    ----------
    fs, path
        The same as they are since the last `refresh`.
    """

    def __init__(
        self, name: str, url: str, options: Mapping[str, Any], fs: Any = None, path: str | None = None
    ) -> None:
        super().__init__(name)
        self._url = url
        self._options = options
        self._given = fs, path
        self.fs: Any = None
        self.path = ""

    def refresh(self) -> None:
        self.close()
        fs, path = self._given
        if fs is None or path is None:
            fs, path = file_system_of(self._url, self._options, self.name)
        self.fs, self.path = _plain(fs), path
        self.fs.invalidate_cache()

    def close(self) -> None:
        fs, self.fs = self.fs, None
        if fs is None or self._given[0] is not None or fs.cachable:
            return
        # An archive, which was opened for this slice alone.
        for opened in (fs, getattr(fs, "of", None)):
            if close := getattr(opened, "close", None):
                close()

    def kind(self, *, is_zarr: bool = False) -> Literal["file", "folder"]:
        path = self.path.partition("?")[0]
        if is_http(self.fs) and (path.endswith((".zarr", "/")) or (is_zarr and not path.endswith(".zip"))):
            return "folder"  # whether there is one, its documents tell
        return "folder" if self._info()["type"] == "directory" else "file"

    def stamp(self) -> Stamp:
        self.fs.invalidate_cache()
        return stamp_from(self._info())

    def folder(self, group: str = "") -> Folder:
        return FileSystemFolder(self.fs, f"{self.path.rstrip('/')}/{group}" if group else self.path)

    def _info(self) -> Mapping[str, Any]:
        try:
            info: Mapping[str, Any] = self.fs.info(self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.not_yet("there is no such file or folder") from cause_of(error)
        except Exception as error:
            # What a network, or whoever is at its other end, raises is up to each file system.
            raise self.not_yet("it cannot be reached", error) from cause_of(error)
        return info


def locate(item: str | os.PathLike[Any] | FileObj, options: Mapping[str, Any] | None = None) -> Location:
    """Return where the slice lies that is given by a path, a URL, or a `FileObj`; nothing is looked at.

    `options` are those of the file system of a URL, unless it has its own.
    """
    if not isinstance(item, FileObj):
        text = str(os.fspath(item))
        return _located(text, options or {}) if is_url(text) else LocalLocation(local_path(text), text)
    conceal(item.storage_options, item.uri)
    if item.given_fs is not None:
        fs = _plain(item.given_fs)
        conceal(fs.storage_options)
        if _is_local(fs):
            return LocalLocation(fs._strip_protocol(item.path), redacted(item.uri))
        return RemoteLocation(redacted(item.uri), item.uri, {}, fs, item.path)
    if not is_url(item.uri):
        return LocalLocation(local_path(item.uri), item.uri)
    return _located(item.uri, (options or {}) if item.storage_options is None else item.storage_options)


def _located(url: str, options: Mapping[str, Any]) -> Location:
    conceal(options, url)
    return RemoteLocation(redacted(url), url, options)


def is_url(path: str) -> bool:
    """Tell whether `path` is to be found by fsspec: a URL of anything but local files, or a chained one."""
    if not SCHEME.match(path) or (LOCAL.match(path) and "::" not in path):
        return False
    return "://" in path or not os.path.lexists(path)


def local_path(item: str | os.PathLike[Any]) -> str:
    """Return the path that a user gave, without the ``file://`` that it may begin with."""
    return LOCAL.sub("", str(os.fspath(item)), count=1)


def file_system_of(url: str, options: Mapping[str, Any], name: str) -> tuple[Any, str]:
    """Return the file system of `url` and the path in it.

    Raises
    ------
    SliceError
        If there is no such file system, or its package is not installed.
    NotYet
        If it cannot be reached, or is an archive that is not there yet.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        package = (cause.name or "").partition(".")[0]
        way = f"it takes the package {package}: pip install {package}" if package else first_line(error)
        raise SliceError(f"slice {name}: {way}") from cause_of(error)
    except (ValueError, TypeError) as error:
        raise SliceError(f"slice {name}: fsspec cannot open it: {first_line(error)}") from cause_of(error)
    except FileNotFoundError as error:
        raise NotYet(f"slice {name}: there is no such file or folder") from cause_of(error)
    except Exception as error:
        # What an archive, a network, or whoever is at its other end, raises is up to each file system.
        raise NotYet(f"slice {name}: it cannot be reached: {first_line(error)}") from cause_of(error)
    return fs, str(path)


def _is_local(fs: Any) -> bool:
    return _is_from(fs, "fsspec.implementations.local")


def _plain(fs: Any) -> Any:
    """Return the file system that `fs` keeps copies of, or wraps: what is read must be what is there."""
    while True:
        if _is_from(fs, "fsspec.implementations.asyn_wrapper"):
            fs = fs.sync_fs
        elif _is_from(fs, "fsspec.implementations.cached"):
            fs = fs.fs
        elif getattr(fs, "asynchronous", False):
            options = {key: value for key, value in fs.storage_options.items() if key not in ("asynchronous", "loop")}
            fs = type(fs)(*fs.storage_args, **options)
        else:
            return fs


def _is_from(value: object, module: str) -> bool:
    """Tell whether the class of `value`, or one that it is derived from, is defined in `module` or below it."""
    return any(f"{cls.__module__}.".startswith(f"{module}.") for cls in type(value).__mro__)
