"""A folder of the local file system as storage of a transaction.

A value is written to a temporary file beside its place, under a name that follows from transaction and key, so that
recovery finds what a kill left without looking for it; then it is renamed. With ``durability="full"`` the file is
synced before the rename, and `FolderArea.sync` syncs each folder in which an entry changed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from zappend.errors import TargetError
from zappend.txn.files import Files
from zappend.txn.lock import FileLock
from zappend.txn.storage import PLACE_PREFIX, TEMP_PREFIX, Area, Durability, Lock, Storage, Threads, Value

__all__ = ["FolderArea", "LocalStorage"]

T = TypeVar("T")

NOT_THERE = (FileNotFoundError, NotADirectoryError)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without hard links answer."""
CANNOT_LINK = (*NO_LINKS, errno.EXDEV, errno.EMLINK, errno.EACCES)
"""What answers also where this file cannot have one more."""

LONGEST_NAME = 255
SMALL_FILE = 2**14
SYNCS_AT_ONCE = 8


class FolderArea(Area):
    """The files below the folder `root` as keys; the folder itself is made by the first `put` if need be.

    Parameters
    ----------
    root
        An absolute path without links.
    durability
        Whether files and folders are synced.
    files
        The calls that change the file system.
    """

    calls_at_once = 1

    def __init__(self, root: str, durability: Durability, files: Files) -> None:
        self.root = root
        self._sync_files = durability == "full"
        self._files = files
        self._threads = Threads()
        self._guard = threading.Lock()
        self._unsynced: set[str] = set()

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    def get(self, key: str) -> bytes | None:
        try:
            return _content_of(self._path(key))
        except IsADirectoryError:
            return None
        except OSError as error:
            if not _is_absence(error):
                raise
            return None

    def has(self, key: str) -> bool:
        try:
            return not stat.S_ISDIR(os.stat(self._path(key)).st_mode)
        except OSError as error:
            if not _is_absence(error):
                raise
            return False

    def put(self, key: str, value: Value, txn: str) -> None:
        path = self._path(key)
        temp = self._write_temp(path, value, txn)
        self._files.rename(temp, path)
        self._changed(path)

    def create(self, key: str, value: Value, txn: str) -> None:
        path = self._path(key)
        temp = self._write_temp(path, value, txn)
        try:
            self._files.link(temp, path)
        except OSError as error:
            if error.errno not in NO_LINKS or os.path.exists(path):
                raise
            # Without links: only the holder of the lock creates anything, so nobody comes between these two steps.
            self._files.rename(temp, path)
        else:
            self._files.unlink(temp)
        self._changed(path)

    def delete(self, key: str, txn: str) -> None:
        path = self._path(key)
        for name in (path, _temp_path(path, txn)) if txn else (path,):
            try:
                self._files.unlink(name)
            except (IsADirectoryError, PermissionError):
                if not os.path.isdir(name):
                    raise  # a folder is no value, so the key is absent
            except OSError as error:
                if not _is_absence(error):
                    raise
            else:
                self._changed(path)

    def keys(self, prefix: str = "") -> Iterator[str]:
        for name, is_folder in self._entries(prefix):
            if is_folder:
                yield from self.keys(f"{prefix}{name}/")
            else:
                yield prefix + name

    def children(self, prefix: str = "") -> Iterator[str]:
        for name, _ in self._entries(prefix):
            yield name

    def sync(self) -> None:
        with self._guard:
            folders, self._unsynced = self._unsynced, set()
        if self._sync_files:
            try:
                self._side_by_side(self._sync_folder, sorted(folders))
            except BaseException:
                with self._guard:
                    self._unsynced |= folders
                raise

    def harden(self) -> None:
        if self._sync_files:
            for name, is_folder in list(self._entries("")):
                if not is_folder:
                    with self._opened(self._path(name), os.O_RDONLY) as fd:
                        self._files.fsync(fd)
            self._sync_folder(self.root)
            self._sync_folder(os.path.dirname(self.root))

    def _write_temp(self, path: str, value: Value, txn: str) -> str:
        temp = _temp_path(path, txn)
        try:
            fd = self._opened_temp(temp, path)
        except OSError as error:
            if error.filename == temp:
                error.filename = path  # which says more to people
            raise
        try:
            self._files.write(fd, value)
            self._keep_rights(path, fd)
            if self._sync_files:
                self._files.fsync(fd)
        finally:
            self._files.close(fd)
        return temp

    def _opened_temp(self, temp: str, path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            return self._files.open(temp, flags)
        except FileNotFoundError:
            self._make_folder(os.path.dirname(path))
            return self._files.open(temp, flags)

    def _keep_rights(self, path: str, fd: int) -> None:
        """Give the file `fd` the rights of the file at `path`, which it is to replace, if there is one."""
        if not os.access(path, os.F_OK):
            return
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode != stat.S_IMODE(os.fstat(fd).st_mode):
            self._files.chmod(fd, mode)

    def _side_by_side(self, do: Callable[[T], None], items: Sequence[T]) -> None:
        # A sync waits for the disk, which takes several at once; for two it is not worth the threads.
        self._threads.map(do, items, self.calls_at_once if len(items) > 2 else 1)

    def _make_folder(self, folder: str) -> None:
        try:
            self._files.mkdir(folder)
        except FileExistsError:
            return
        except FileNotFoundError:
            if folder == self.root:
                raise
            self._make_folder(os.path.dirname(folder))
            self._make_folder(folder)
            return
        self._changed(folder)

    def _changed(self, path: str) -> None:
        """Note that the entry `path` of its folder is to be synced."""
        if self._sync_files:
            with self._guard:
                self._unsynced.add(os.path.dirname(path))

    def _sync_folder(self, folder: str) -> None:
        # A folder that is gone has nothing to sync; that it is gone is an entry of its parent.
        with contextlib.suppress(*NOT_THERE), self._opened(folder, os.O_RDONLY | os.O_DIRECTORY) as fd:
            self._files.fsync(fd)

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        fd = self._files.open(path, flags)
        try:
            yield fd
        finally:
            self._files.close(fd)

    def _entries(self, prefix: str) -> Iterator[tuple[str, bool]]:
        try:
            with os.scandir(self._path(prefix)) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries)
        except NOT_THERE:
            return
        yield from found


class LocalStorage(FolderArea, Storage):
    """Storage in the folder `path`, which need not exist; its parent must.

    All spellings of a path (relative, symlinked, with a trailing slash) are one target with one lock. The log lies
    in ``<path>.zappend`` beside it, or in ``<path>/.zappend`` where the parent is another file system or cannot be
    written to.

    Parameters
    ----------
    path
        The folder.
    durability
        ``"full"``: files and folders are synced. ``"process"``: nothing is; a kill does no harm, a power cut may.
    files
        The calls that change the file system.

    Raises
    ------
    TargetError
        If the path is a file, its parent is no folder, or it lies inside another Zarr hierarchy, whose lock and
        consolidated metadata it would bypass.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Durability = "full", files: Files | None = None
    ) -> None:
        self.name = os.fspath(path)
        files = files or Files()
        super().__init__(os.path.realpath(os.path.abspath(self.name)), durability, files)
        self.calls_at_once = SYNCS_AT_ONCE if durability == "full" else 1
        self._check_root()
        where, self._other_place = self._places()
        self.place: FolderArea = FolderArea(where, durability, files)

    def in_use(self) -> bool:
        return os.path.isdir(self.place.root) or os.path.isdir(self._other_place)

    def put_many(self, values: Mapping[str, Value], txn: str) -> None:
        self._side_by_side(lambda item: self.put(*item, txn), list(values.items()))

    def replace_many(self, documents: Iterable[tuple[str, bytes | None, bytes]], txn: str) -> None:
        self._side_by_side(lambda document: self.replace(*document, txn), list(documents))

    def keep_originals(self, names: Mapping[str, str]) -> dict[str, bool] | None:
        kept = {}
        for key, name in names.items():
            try:
                self._files.link(self._path(key), self.place._path(name))
            except OSError as error:
                if _is_absence(error):
                    kept[key] = False
                    continue
                if error.errno in CANNOT_LINK:
                    return None
                raise
            kept[key] = True
            self.place._changed(self.place._path(name))
        return kept

    def restore(self, names: Mapping[str, str], txn: str) -> None:
        for key, name in names.items():
            self._link(self.place._path(name), key, txn)

    def copy_many(self, sources: Mapping[str, str], txn: str) -> None:
        for key, source in sources.items():
            try:
                self._link(self._path(source), key, txn)
            except OSError as error:
                if error.errno not in CANNOT_LINK:
                    raise
                super().copy_many({key: source}, txn)

    def _link(self, source: str, key: str, txn: str) -> None:
        """Give the file `source` the name of `key`, too, in the place of the file that has it."""
        path = self._path(key)
        temp = _temp_path(path, txn)
        try:
            self._files.link(source, temp)
        except FileExistsError:
            self._files.unlink(temp)  # of a recovery that was killed
            self._files.link(source, temp)
        except FileNotFoundError:
            self._make_folder(os.path.dirname(path))
            self._files.link(source, temp)
        self._files.rename(temp, path)
        self._changed(path)
        if os.path.lexists(temp):  # two names of one file are not renamed
            self._files.unlink(temp)

    def end_threads(self) -> None:
        self._threads.end()

    def lock(self) -> Lock:
        self.place._changed(self.place.root)  # the lock makes it, each time anew
        return FileLock(self.name, self.place.root, self._other_place, self._files)

    def missing_folders(self, keys: Iterable[str]) -> list[str]:
        known: dict[str, bool] = {}

        def missing(folder: str) -> bool:
            if folder not in known:
                above = folder.rpartition("/")[0]
                known[folder] = (folder != "" and missing(above)) or not os.path.isdir(self._path(folder))
            return known[folder]

        return sorted({f for key in keys for f in _folders_of(key) if missing(f)}, key=lambda f: (f.count("/"), f))

    def remove_folders(self, folders: Iterable[str]) -> None:
        for folder in sorted(folders, key=lambda f: f.count("/") if f else -1, reverse=True):
            path = self._path(folder)
            try:
                self._files.rmdir(path)
            except OSError:
                if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
                    raise  # empty, and yet it cannot be removed
            else:
                self._changed(path)

    def distrust(self, keys: Iterable[str]) -> None:
        folders = {"": None}
        for key in keys:
            folders.update(dict.fromkeys(_folders_of(key)))
            if not key or key.endswith("/"):
                folders.update(dict.fromkeys(self._folders_below(key.rstrip("/"))))
        for folder in folders:
            self._changed(f"{self._path(folder)}/")
        self._changed(self.root)

    def check_room(self, keys: Collection[str]) -> None:
        known: set[str] = set(keys)
        folders = dict.fromkeys(folder for key in keys for folder in _folders_of(key))
        for folder in folders:
            path = self._path(folder)
            if folder in known or (os.path.exists(path) and not os.path.isdir(path)):
                raise TargetError(f"{folder!r} of {self.name} is a key, so no key can lie below it")
        for key in keys:
            if os.path.isdir(self._path(key)):
                raise TargetError(f"{key!r} of {self.name} is a folder, so it can be no key")

    def prune(self, prefix: str) -> None:
        folder = prefix.rstrip("/")
        self.remove_folders([*([folder] if folder else []), *self._folders_below(folder)])

    def _entries(self, prefix: str) -> Iterator[tuple[str, bool]]:
        for name, is_folder in super()._entries(prefix):
            if not name.startswith(TEMP_PREFIX) and (prefix or name != PLACE_PREFIX[:-1]):
                yield name, is_folder

    def _folders_below(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        below = [prefix + name for name, is_folder in self._entries(prefix) if is_folder]
        return below + [deeper for name in below for deeper in self._folders_below(name)]

    def _places(self) -> tuple[str, str]:
        beside, inside = self.root + PLACE_PREFIX[:-1], f"{self.root}/{PLACE_PREFIX[:-1]}"
        parent = os.path.dirname(self.root)
        if os.path.isdir(self.root) and (
            os.stat(self.root).st_dev != os.stat(parent).st_dev or not os.access(parent, os.W_OK | os.X_OK)
        ):
            return inside, beside
        return beside, inside

    def _check_root(self) -> None:
        parent = os.path.dirname(self.root)
        if parent == self.root:
            raise TargetError(f"cannot write to {self.name}: it is the root of the file system")
        if os.path.exists(self.root) and not os.path.isdir(self.root):
            raise TargetError(f"cannot write to {self.name}: it is a file, and a target is a folder")
        if not os.path.isdir(parent):
            raise TargetError(f"cannot write to {self.name}: its parent {parent} is no folder; make it first")
        above = parent
        while above != os.path.dirname(above):
            for document in ("zarr.json", ".zgroup"):
                if os.path.isfile(f"{above}/{document}"):
                    raise TargetError(
                        f"cannot write to {self.name}: it lies inside the Zarr group {above}, whose lock and "
                        f"consolidated metadata would be bypassed; name that group as the target, and this as the group"
                    )
            above = os.path.dirname(above)


def _content_of(path: str) -> bytes:
    # The bare calls take less time than a file object, which an append of small chunks feels.
    fd = os.open(path, os.O_RDONLY)
    try:
        data = os.read(fd, SMALL_FILE)
        size = SMALL_FILE if len(data) < SMALL_FILE else os.fstat(fd).st_size
        parts = [data]
        while data := os.read(fd, size):  # until there is nothing more: the system may give less than is asked for
            parts.append(data)
        return b"".join(parts)
    finally:
        os.close(fd)


def _is_absence(error: OSError) -> bool:
    """Tell whether `error` says for certain that there is no such file: a name that is too long can be none either."""
    return isinstance(error, NOT_THERE) or error.errno == errno.ENAMETOOLONG


def _folders_of(key: str) -> Iterator[str]:
    folder = key.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]
    yield ""


def _temp_path(path: str, txn: str) -> str:
    folder, _, name = path.rpartition("/")
    temp = f"{TEMP_PREFIX}{txn}-{name}"
    if 4 * len(temp) > LONGEST_NAME and len(os.fsencode(temp)) > LONGEST_NAME:  # a character has up to four bytes
        temp = f"{TEMP_PREFIX}{txn}-{hashlib.sha256(os.fsencode(name)).hexdigest()}"
    return f"{folder}/{temp}"
