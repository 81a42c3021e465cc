"""What a user gives as slices: every kind of item, and when it is closed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import fsspec
import pytest

from zappend.fileobj import FileObj

SECRET = "not-to-be-seen"


class TestFileObj:
    def test_a_file_is_written_read_and_deleted(self, tmp_path: Path) -> None:
        folder = FileObj(str(tmp_path)) / "new"
        assert not folder.exists()
        folder.mkdir()
        file = folder / "a.txt"
        assert file.write("täxt") == 4
        assert file.write(b"!", mode="ab") == 1
        assert file.read() == "täxt!".encode()
        assert file.read("r") == "täxt!"
        assert (file.uri, file.path, file.filename) == (f"{tmp_path}/new/a.txt", f"{tmp_path}/new/a.txt", "a.txt")
        assert file.parent == folder
        file.delete()
        assert not file.exists()
        (folder / "b.txt").write(b"")
        folder.delete(recursive=True)
        assert not folder.exists()

    @pytest.mark.parametrize(
        ("uri", "child", "parent"),
        [
            ("memory://a/b", "memory://a/b/x.nc", "memory://a"),
            ("memory://a/b/", "memory://a/b/x.nc", "memory://a"),
            ("/a/b", "/a/b/x.nc", "/a"),
            ("/a", "/a/x.nc", "/"),
            ("dir://b/c::file:///tmp", "dir://b/c/x.nc::file:///tmp", "dir://b::file:///tmp"),
            ("simplecache::memory://a/b", "simplecache::memory://a/b/x.nc", "simplecache::memory://a"),
        ],
    )
    def test_paths_lead_down_and_up(self, uri: str, child: str, parent: str) -> None:
        assert FileObj(uri) / "x.nc" == FileObj(child)
        assert (FileObj(uri) / "x.nc").path == FileObj(child).path
        assert FileObj(uri).parent == FileObj(parent)
        assert FileObj(uri).parent.path.rstrip("/") == FileObj(parent).path.rstrip("/")

    def test_a_path_that_leads_nowhere_is_refused(self) -> None:
        here = FileObj("memory://a")
        assert here / "" is here
        with pytest.raises(ValueError, match="relative"):
            here / "/x"
        with pytest.raises(TypeError, match="must have type str, not int"):
            here / 5  # type: ignore[operator]
        with pytest.raises(ValueError, match="no parent"):
            _ = FileObj("").parent

    def test_no_text_shows_storage_options(self) -> None:
        options = {"key": SECRET, "client_kwargs": {"nested": SECRET}}
        file = FileObj("s3://bucket/a.nc", storage_options=options)
        assert SECRET not in f"{file} {file!r} {file} {[file]}"
        assert (str(file), repr(file)) == ("s3://bucket/a.nc", "FileObj('s3://bucket/a.nc', storage_options=...)")
        assert file.storage_options == options
        assert len({file, FileObj("s3://bucket/a.nc", dict(options))}) == 1
        assert file != FileObj("s3://bucket/a.nc")
        assert file != "s3://bucket/a.nc"

    def test_closing_lets_go_of_an_archive_and_of_nothing_that_others_use(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("b/c.txt", "within")
        inner = FileObj(f"zip://b/c.txt::{tmp_path}/a.zip")
        assert (inner.read(), inner.filename, inner.parent.path) == (b"within", "c.txt", "b")
        archive_fs = inner.fs
        inner.parent.close()  # uses the file system of the other
        assert archive_fs.zip.fp is not None
        inner.close()
        assert archive_fs.zip.fp is None
        assert inner.read() == b"within"  # opened anew
        inner.close()

        memory = FileObj("memory://f", fs=fsspec.filesystem("memory"))
        memory.close()
        assert not memory.exists()
