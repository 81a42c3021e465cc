"""The files of a Zarr group by their keys: in a folder, a file system of fsspec, or a zip file."""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from zappend.stillness import Stamp, stamp_from, stamp_of

__all__ = ["FileSystemFolder", "Folder", "LocalFolder", "ZipFolder", "is_http"]

READ_AT_ONCE = 16


class Folder(ABC):
    """The files of a Zarr group, by keys relative to it."""

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Return what the file at `key` holds, ``None`` if it is not there."""

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        """Return the same of each of `keys`; of one that cannot be read, too, ``None``."""
        return {key: self._get_or_none(key) for key in keys}

    def _get_or_none(self, key: str) -> bytes | None:
        try:
            return self.get(key)
        except Exception:
            # What a network raises, or a damaged archive, is up to each.
            return None

    @abstractmethod
    def files(self, key: str, depth: int, *, stamped: bool = False) -> Iterator[tuple[str, Stamp | None]] | None:
        """Iterate over the files below `key`, in `depth` levels of folders or more, by names relative to `key`.

        Returns ``None`` if there is no listing. Their stamps are only had if they are asked for.
        """

    def stamp(self, key: str) -> Stamp | None:
        """Return the stamp of the file at `key`, ``None`` if it is not there; asked only of what has no listing."""
        raise NotImplementedError


class LocalFolder(Folder):
    """A folder of this computer."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get(self, key: str) -> bytes | None:
        try:
            with open(f"{self._path}/{key}", "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def files(self, key: str, depth: int, *, stamped: bool = False) -> Iterator[tuple[str, Stamp | None]]:
        try:
            entries = os.scandir(f"{self._path}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                if not entry.is_dir():
                    try:
                        yield entry.name, stamp_of(entry.stat()) if stamped else None
                    except FileNotFoundError:
                        continue  # a temporary file that is gone
                elif depth:
                    below = self.files(f"{key}/{entry.name}", depth - 1, stamped=stamped)
                    yield from ((f"{entry.name}/{name}", stamp) for name, stamp in below)


class FileSystemFolder(Folder):
    """The files of `fs` below the folder `root`; they are listed once."""

    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._root = root.rstrip("/")

    def get(self, key: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{key}")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            return None  # who may not list is told that an object that is not there is forbidden
        return data

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        keys = list(keys)
        with ThreadPoolExecutor(READ_AT_ONCE, "zappend") as pool:
            return dict(zip(keys, pool.map(self._get_or_none, keys), strict=True))

    def files(self, key: str, depth: int, *, stamped: bool = False) -> Iterator[tuple[str, Stamp | None]] | None:
        if is_http(self._fs):
            return None  # a page with links may be one, and none may mean anything
        try:
            return iter(self._listing.get(key, ()))
        except PermissionError:
            return None

    def stamp(self, key: str) -> Stamp | None:
        try:
            return stamp_from(self._fs.info(f"{self._root}/{key}"))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None

    @cached_property
    def _listing(self) -> dict[str, list[tuple[str, Stamp | None]]]:
        """By the names of folders at the root, what is below each; under the empty name, the files at the root."""
        root = self._fs._strip_protocol(self._root).rstrip("/")
        found: dict[str, list[tuple[str, Stamp | None]]] = {}
        for path, info in self._fs.find(self._root, detail=True).items():
            name = self._fs._strip_protocol(path)[len(root) :].lstrip("/")
            folder, _, below = name.rpartition("/") if "/" not in name else name.partition("/")
            found.setdefault(folder, []).append((below, stamp_from(info)))
        return found


class ZipFolder(Folder):
    """The files of the zip file at a local path, below a folder in it."""

    def __init__(self, path: str, root: str = "") -> None:
        self._path = path
        self._prefix = f"{root.strip('/')}/" if root.strip("/") else ""

    def get(self, key: str) -> bytes | None:
        with zipfile.ZipFile(self._path) as file:
            try:
                return file.read(self._prefix + key)
            except KeyError:
                return None

    def files(self, key: str, depth: int, *, stamped: bool = False) -> Iterator[tuple[str, Stamp | None]]:
        prefix = f"{self._prefix}{key}/" if key else self._prefix
        return ((name[len(prefix) :], None) for name in self._names if name.startswith(prefix))

    @cached_property
    def _names(self) -> list[str]:
        with zipfile.ZipFile(self._path) as file:
            return [name for name in file.namelist() if not name.endswith("/")]


def is_http(fs: Any) -> bool:
    """Tell whether files come from a web server, which may list none and may not read parts."""
    return any(cls.__module__ == "fsspec.implementations.http" for cls in type(fs).__mro__)
