"""A file or folder of a file system of fsspec, named by its URI.

What a user gives where a path needs storage options of its own, and what settings such as ``target_dir`` look like to
a user's code. Made for few and small files; slices are read by other ways.
"""

from __future__ import annotations

import os
from typing import Any, Literal

__all__ = ["FileObj", "file_of_upath"]

CACHES = frozenset({"blockcache", "cached", "filecache", "simplecache"})
"""Links of a chained URL that have no path of their own."""


class FileObj:
    """A file or folder in a file system; nothing is looked at before it is asked for.

    Two are equal if they have the same URI and storage options.

    Parameters
    ----------
    uri
        A local path, or a URL of fsspec, which may be chained, as in ``zip://a/b.nc::s3://bucket/c.zip``.
    storage_options
        Options of its file system. They may hold secrets, so no text about the object shows them.
    fs, path
        The file system, and the path in it, if they are known already; they must fit `uri`.
    """

    def __init__(
        self,
        uri: str,
        storage_options: dict[str, Any] | None = None,
        fs: Any = None,
        path: str | None = None,
    ) -> None:
        self._uri = uri
        self._storage_options = storage_options
        self._fs = fs
        self._path = path
        self._closes = False

    def __str__(self) -> str:
        return self._uri

    def __repr__(self) -> str:
        options = "" if self._storage_options is None else ", storage_options=..."
        return f"{type(self).__name__}({self._uri!r}{options})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FileObj):
            return NotImplemented
        return self._uri == other._uri and self._storage_options == other._storage_options

    def __hash__(self) -> int:
        return hash(self._uri)  # options need not be hashable

    @property
    def uri(self) -> str:
        """The URI, as it was given."""
        return self._uri

    @property
    def storage_options(self) -> dict[str, Any] | None:
        """Options of the file system, as they were given."""
        return self._storage_options

    @property
    def given_fs(self) -> Any:
        """The file system that it was made with, ``None`` if it is found by the URI and the options."""
        return None if self._closes else self._fs

    @property
    def fs(self) -> Any:
        """The file system, a `fsspec.AbstractFileSystem`."""
        return self._resolved()[0]

    @property
    def path(self) -> str:
        """The path in the file system."""
        return self._resolved()[1]

    @property
    def filename(self) -> str:
        """The last part of the path."""
        return _split(self.path)[1]

    @property
    def parent(self) -> FileObj:
        """The folder that it is in; raise `ValueError` if it has no path."""
        before, link, after = _links(self._uri)
        protocol, separator, path = link.rpartition("://")
        uri = before + protocol + separator + _split(path)[0] + after
        return FileObj(uri, self._storage_options, self.fs, _split(self.path)[0])

    def __truediv__(self, rel_path: str) -> FileObj:
        return self.for_path(rel_path)

    def for_path(self, rel_path: str) -> FileObj:
        """Return what is at `rel_path` below it, in the same file system.

        Raises
        ------
        TypeError
            If `rel_path` is not text.
        ValueError
            If it is not relative.
        """
        if not isinstance(rel_path, str):
            raise TypeError(f"rel_path must have type str, not {type(rel_path).__name__}")
        if rel_path.startswith("/"):
            raise ValueError(f"rel_path must be relative, and {rel_path!r} is not")
        if not rel_path:
            return self
        before, link, after = _links(self._uri)
        return FileObj(
            before + _joined(link, rel_path) + after, self._storage_options, self.fs, _joined(self.path, rel_path)
        )

    def exists(self) -> bool:
        """Tell whether it is there."""
        return bool(self.fs.exists(self.path))

    def mkdir(self) -> None:
        """Make the folder, whose parent must be there."""
        self.fs.mkdir(self.path, create_parents=False)

    def read(self, mode: Literal["rb", "r"] = "rb") -> bytes | str:
        """Return all that the file holds: bytes, or in the mode ``"r"`` text."""
        with self.fs.open(self.path, mode=mode) as file:
            data: bytes | str = file.read()
            return data

    def write(self, data: str | bytes, mode: Literal["wb", "w", "ab", "a"] | None = None) -> int:
        """Write the file, or in the modes ``"ab"`` and ``"a"`` write to its end; return how much was written."""
        with self.fs.open(self.path, mode=mode or ("w" if isinstance(data, str) else "wb")) as file:
            return int(file.write(data))

    def delete(self, recursive: bool = False) -> None:
        """Delete the file or the empty folder; with `recursive` a folder with all in it."""
        self.fs.rm(self.path, recursive=recursive)

    def close(self) -> None:
        """Let go of the file system, and close it where it was opened for this object; it opens again when needed."""
        fs, self._fs = self._fs, None
        # fsspec hands the same instance to others, but of those that it calls not cachable, such as archives.
        if fs is not None and self._closes and not fs.cachable and hasattr(fs, "close"):
            fs.close()

    def _resolved(self) -> tuple[Any, str]:
        if self._fs is None or self._path is None:
            import fsspec

            fs, path = fsspec.core.url_to_fs(self._uri, **(self._storage_options or {}))
            if self._fs is None:
                self._fs, self._closes = fs, True
            if self._path is None:
                self._path = path
        return self._fs, self._path


def file_of_upath(path: object) -> FileObj | None:
    """Return what `path` names, if it is a path of universal_pathlib in a file system that is not the local one."""
    if isinstance(path, os.PathLike) or not any(cls.__module__.split(".")[0] == "upath" for cls in type(path).__mro__):
        return None
    return FileObj(str(path), dict(path.storage_options) or None)  # type: ignore[attr-defined]


def _links(uri: str) -> tuple[str, str, str]:
    """Return what comes before the link of a chained URL that has the path, that link, and what comes after it."""
    links = uri.split("::")
    at = next((i for i, link in enumerate(links) if link not in CACHES), len(links) - 1)
    before, after = (f"{link}::" for link in links[:at]), (f"::{link}" for link in links[at + 1 :])
    return "".join(before), links[at], "".join(after)


def _split(path: str) -> tuple[str, str]:
    """Return the folder of `path` and the name in it."""
    if not path:
        raise ValueError("an empty path has no parent")
    folder, separator, name = (path.rstrip("/") or "/").rpartition("/")
    return folder or separator, name


def _joined(path: str, rel_path: str) -> str:
    return f"{path}{'' if not path or path.endswith('/') else '/'}{rel_path}"
