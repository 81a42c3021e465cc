"""Who may write to a local target: a `flock` on ``<target>.zappend/lock``, held for the transaction's life.

The kernel drops the lock when its holder dies, so a free lock is proof of death wherever locks are seen by everyone
who could hold one: on local file systems. On a network file system it is proof only if the dead holder ran under this
very kernel; else a person decides, with ``zappend rollback --break-lock``. What the file says of its holder is for
people.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import getpass
import json
import os
import socket
import time
from datetime import UTC, datetime

from zappend.errors import Locked, LockHolder, TargetError
from zappend.txn.files import Files
from zappend.txn.storage import LOCK_NAME, Lock

__all__ = ["FileLock", "age_of", "describe", "this_process"]

PATIENCE = 0.2
"""Seconds for which a lock must be seen held before it counts: it may be one that is just being released."""
PAUSE = 0.01

NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "afpfs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "gpfs", "lustre"}
    | {"ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs"}
)


class FileLock(Lock):
    """The lock of one local target.

    Parameters
    ----------
    name
        The target, for messages.
    place
        The folder of the lock and the log; made by `acquire`, removed by `release` if empty.
    other_place
        Where the place of the same target lies for processes with other rights; it must not exist.
    files
        The calls that change the file system.
    """

    def __init__(self, name: str, place: str, other_place: str, files: Files) -> None:
        self._name = name
        self._place = place
        self._other_place = other_place
        self._path = f"{place}/{LOCK_NAME}"
        self._files = files
        self._held: tuple[int, int] | None = None  # descriptor, pid of the process that acquired it

    def acquire(self, timeout: float, *, break_lock: bool = False, dry_run: bool = False) -> None:
        until = time.monotonic() + max(timeout, PATIENCE)
        while (fd := self._try(until)) is None:
            pass
        try:
            self._take(fd, break_lock)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                if self._held is None:
                    self._files.close(fd)
                else:
                    self.release()
            raise

    def _try(self, until: float) -> int | None:
        """Return a descriptor that holds the lock of the file at the path, or ``None`` to try again."""
        import fcntl

        try:
            with contextlib.suppress(FileExistsError):
                self._files.mkdir(self._place)
            fd = self._files.open(self._path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            if not os.path.isdir(os.path.dirname(self._place)):
                raise TargetError(
                    f"cannot lock {self._name}: {os.path.dirname(self._place)} is no folder; make it first"
                ) from None
            return None  # the folder was just removed by a holder that released
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._files.rmdir(self._place)  # empty, so perhaps made here; another writer would make it again
            if isinstance(error, OSError):
                raise TargetError(f"cannot lock {self._name}: {error.strerror}: {self._path}") from error
            raise
        keep = False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            keep = self._is_at_path(fd)
        except BlockingIOError:
            if not self._is_at_path(fd):
                return None  # a dying lock
            if time.monotonic() > until:
                raise self._locked(_read_holder(fd)) from None
            time.sleep(PAUSE)
        except OSError as error:
            raise TargetError(f"cannot lock {self._name}: {error.strerror}: {self._path}") from error
        finally:
            if not keep:
                self._files.close(fd)
        return fd if keep else None

    def _take(self, fd: int, break_lock: bool) -> None:
        left_behind = _read_holder(fd)
        if left_behind is not None and not break_lock and not self._is_dead(left_behind):
            raise self._locked(
                left_behind, "whose death cannot be proved from here; if it is dead, run ", "--break-lock "
            )
        if os.path.isdir(self._other_place):
            self._files.unlink(self._path)
            with contextlib.suppress(OSError):
                self._files.rmdir(self._place)
            raise Locked(
                f"{self._name} is in use: {self._other_place} is there, where a user with other rights keeps the lock; "
                f"run 'zappend rollback {self._name}' as that user"
            )
        self._held = fd, os.getpid()
        try:
            self._files.truncate(fd)
            self._files.write(fd, json.dumps(this_process(), indent=1).encode())
        except OSError as error:
            raise TargetError(f"cannot lock {self._name}: {error.strerror}: {self._path}") from error

    def check(self) -> None:
        if self._held is None or not self._is_at_path(self._held[0]):
            raise TargetError(f"{self._name}: the lock {self._path} was removed by others during the transaction")

    def release(self) -> None:
        if self._held is None or self._held[1] != os.getpid():
            return
        fd, self._held = self._held[0], None
        try:
            if self._is_at_path(fd):
                self._files.unlink(self._path)
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                try:
                    self._files.rmdir(self._place)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
        finally:
            # Closing, not unlocking: unlocking would also free a lock that a forked child inherited.
            self._files.close(fd)

    def abandon(self) -> None:
        if self._held is not None and self._held[1] == os.getpid():
            fd, self._held = self._held[0], None
            self._files.close(fd)

    def _is_at_path(self, fd: int) -> bool:
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        ours = os.fstat(fd)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _is_dead(self, holder: LockHolder) -> bool:
        """Tell whether a free lock proves that `holder` is dead."""
        boot = _boot_id()
        return (boot is not None and holder.get("boot") == boot) or not _is_network(self._place)

    def _locked(self, holder: LockHolder | None, why: str = "", option: str = "") -> Locked:
        holder = holder or {}
        do = (
            f"{why}'zappend rollback {option}{self._name}'"
            if why
            else "wait with --lock-timeout SECONDS, or try again when it has ended"
        )
        return Locked(f"{self._name} is locked by {describe(holder)}; {do}", holder)


def describe(holder: LockHolder) -> str:
    """Tell people who holds a lock, and since when."""
    who = f"pid {holder.get('pid', '?')} of {holder.get('user', '?')} on host {holder.get('host', '?')}"
    since = holder.get("started")
    return who + (f", since {since} ({age_of(since)})" if since else "")


def this_process() -> LockHolder:
    """Return what a lock says of its holder, for the process that runs this."""
    return {**_identity(os.getpid()), "started": datetime.now(UTC).isoformat(timespec="seconds")}


@functools.cache
def _identity(pid: int) -> LockHolder:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = str(os.getuid())
    return {
        "user": user,
        "host": socket.gethostname(),
        "pid": pid,
        "pid_namespace": _pid_namespace(),
        "boot": _boot_id(),
    }


def _read_holder(fd: int) -> LockHolder | None:
    """Return what the lock file says of its holder, ``None`` if it is new, an empty dict if it cannot be read."""
    text = os.pread(fd, 65536, 0)
    if not text:
        return None
    try:
        holder = json.loads(text)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def age_of(since: str) -> str:
    """Return how long ago the time `since`, in ISO 8601, is, as people say it."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
    except (TypeError, ValueError):
        return "?"
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"


def _boot_id() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return None


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _is_network(path: str) -> bool:
    """Tell whether other kernels write to the file system of `path`; where no table tells, it is taken as local."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().decode(errors="surrogateescape").splitlines()
    except OSError:
        return False
    kinds: dict[str, str] = {}
    for line in lines:
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
        kinds[point] = rest.split()[0]
    folder = os.path.realpath(path)
    while folder not in kinds and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    kind = kinds.get(folder, "")
    return kind in NETWORK_FILE_SYSTEMS or (kind.startswith("fuse.") and kind not in ("fuse.snapfuse",))
