"""The calls that change the local file system, each as the operating system has it.

All of them are made through one `Files`, so this is where tests count, fail, kill and reorder.
"""

from __future__ import annotations

import os

__all__ = ["Files"]


class Files:
    """One method for each call; errors are those of the operating system."""

    def open(self, path: str, flags: int) -> int:
        """Open a file, or a folder to be synced; new files get the rights that the umask leaves."""
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`, however little the system takes at a time."""
        left = memoryview(data).cast("B")
        while left.nbytes:
            left = left[os.write(fd, left) :]

    def truncate(self, fd: int) -> None:
        """Cut the file to nothing."""
        os.ftruncate(fd, 0)

    def chmod(self, fd: int, mode: int) -> None:
        """Give the file the rights `mode`."""
        os.fchmod(fd, mode)

    def fsync(self, fd: int) -> None:
        """Make a file, or the entries of a folder, durable."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close the file."""
        os.close(fd)

    def rename(self, source: str, to: str) -> None:
        """Rename, replacing what is there."""
        os.rename(source, to)

    def link(self, source: str, to: str) -> None:
        """Give a file a second name; `FileExistsError` if that is taken."""
        os.link(source, to)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        """Make one folder."""
        os.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)
