"""Mappings of keys to bytes over file systems of fsspec and stores of Zarr, for which ``KeyError`` means "not there".

Fsspec's own mapper takes each error for a missing key: that would become a wrong pre-image, and undo would delete what
it could not read. Writes replace a key as the file system does it, which may be neither atomic nor conditional.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Coroutine, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from zarr.abc.store import Store

__all__ = ["FileSystemMapping", "FolderMapping", "StoreMapping"]

T = TypeVar("T")


class FolderMapping(MutableMapping[str, bytes]):
    """A mapping that can list a part of its keys."""

    @abstractmethod
    def keys_below(self, prefix: str) -> Iterator[str]:
        """Iterate over the keys below the folder `prefix`, which is empty or ends in a slash."""

    def __iter__(self) -> Iterator[str]:
        return self.keys_below("")

    def __len__(self) -> int:
        return sum(1 for _ in self)


class FileSystemMapping(FolderMapping):
    """The files of `fs` below the folder `root`."""

    def __init__(self, fs: AbstractFileSystem, root: str) -> None:
        self._fs = fs
        self._root = root.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}".rstrip("/")

    def __getitem__(self, key: str) -> bytes:
        try:
            data: bytes = self._fs.cat_file(self._path(key))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise KeyError(key) from error
        return data

    def __contains__(self, key: object) -> bool:
        try:
            found: bool = self._fs.info(self._path(str(key)))["type"] == "file"
        except (FileNotFoundError, NotADirectoryError):
            return False
        return found

    def __setitem__(self, key: str, value: bytes) -> None:
        path = self._path(key)
        try:
            self._fs.pipe_file(path, value)
        except FileNotFoundError:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, value)

    def __delitem__(self, key: str) -> None:
        path = self._path(key)
        try:
            self._fs.rm_file(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise KeyError(key) from error
        self._remove_empty(path.rpartition("/")[0])

    def keys_below(self, prefix: str) -> Iterator[str]:
        self._fs.invalidate_cache()
        for path in self._fs.find(self._path(prefix)):
            yield self._fs._strip_protocol(path)[len(self._fs._strip_protocol(self._root)) + 1 :]

    def _remove_empty(self, folder: str) -> None:
        while folder.startswith(self._root):
            try:
                self._fs.invalidate_cache(folder)
                if self._fs.ls(folder, detail=False):
                    return
                self._fs.rmdir(folder)
            except (OSError, NotImplementedError):
                return  # a folder that stays is no key
            folder = folder.rpartition("/")[0]


class StoreMapping(FolderMapping):
    """The keys of a Zarr store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, key: str) -> bytes:
        from zarr.core.buffer import default_buffer_prototype

        value = _wait(self._store.get(key, default_buffer_prototype()))
        if value is None:
            raise KeyError(key)
        return value.to_bytes()

    def __contains__(self, key: object) -> bool:
        return _wait(self._store.exists(str(key)))

    def __setitem__(self, key: str, value: bytes) -> None:
        from zarr.core.buffer import default_buffer_prototype

        _wait(self._store.set(key, default_buffer_prototype().buffer.from_bytes(value)))

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        _wait(self._store.delete(key))

    def keys_below(self, prefix: str) -> Iterator[str]:
        async def listed() -> list[str]:
            return [key async for key in self._store.list_prefix(prefix)]

        yield from _wait(listed())


def _wait(coroutine: Coroutine[Any, Any, T]) -> T:
    from zarr.core.sync import sync

    return sync(coroutine)
