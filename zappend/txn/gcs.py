"""Objects on Google Cloud Storage, through gcsfs. A generation never comes back.

No emulator keeps conditions on deletes, so this is not tested against a server. Gcsfs sends requests again by itself,
so that an answer which was lost is not always known to be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from gcsfs import GCSFileSystem

from zappend.errors import TargetError
from zappend.txn.objects import Conflict, Objects, Tag, Unclear
from zappend.txn.storage import Value

__all__ = ["GcsObjects"]


class GcsObjects(Objects):
    """The objects of ``gs://<root>/``.

    Parameters
    ----------
    fs
        How to reach the bucket.
    root
        Bucket and prefix.
    """

    def __init__(self, fs: GCSFileSystem, root: str) -> None:
        self._fs = fs
        self._bucket, _, prefix = root.strip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self.is_root = not prefix
        self.name = f"gs://{root.strip('/')}"
        self.identity = ("gs", fs._location, self._bucket, self._prefix)

    def get(self, key: str) -> tuple[bytes, Tag] | None:
        # Bytes and generation come with two requests: the second one asks for just that generation.
        while (tag := self.head(key)) is not None:
            try:
                _, data = self._ask("GET", key, alt="media", generation=tag)
                return data, tag
            except FileNotFoundError:
                continue  # replaced or deleted meanwhile
        return None

    def head(self, key: str) -> Tag | None:
        try:
            tag: Tag = self._ask("GET", key, json_out=True, fields="generation")["generation"]
            return tag
        except FileNotFoundError:
            return None

    def put(self, key: str, data: Value, over: Tag | None) -> Tag:
        mark = f"zappend{os.urandom(16).hex()}"
        head = f"--{mark}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'name': self._prefix + key})}\r\n"
        head += f"--{mark}\r\nContent-Type: application/octet-stream\r\n\r\n"
        try:
            answer = self._fs.call(
                "POST",
                f"{self._fs._location}/upload/storage/v1/b/{quote(self._bucket)}/o",
                uploadType="multipart",
                headers={"Content-Type": f'multipart/related; boundary="{mark}"'},
                data=head.encode() + bytes(data) + f"\r\n--{mark}--".encode(),
                ifGenerationMatch=over or "0",
                json_out=True,
            )
            tag: Tag = answer["generation"]
            return tag
        except Exception as error:
            raise self._fate(error, key, over) from error

    def delete(self, key: str, tag: Tag) -> None:
        try:
            self._ask("DELETE", key, ifGenerationMatch=tag)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._fate(error, key, tag) from error

    def delete_many(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                self._ask("DELETE", key)
            except FileNotFoundError:
                continue

    def list(self, prefix: str) -> Iterator[tuple[str, Tag]]:
        for page in self._pages(prefix):
            for entry in page.get("items", ()):
                yield entry["name"][len(self._prefix) :], entry["generation"]

    def children(self, prefix: str) -> Iterator[str]:
        start = len(self._prefix) + len(prefix)
        for page in self._pages(prefix, delimiter="/"):
            for folder in page.get("prefixes", ()):
                yield folder[start:-1]
            for entry in page.get("items", ()):
                yield entry["name"][start:]

    def check(self) -> None:
        """Do nothing: the service keeps conditions."""

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        while True:
            try:
                page = self._fs.call(
                    "GET", "b/{}/o", self._bucket, prefix=self._prefix + prefix, json_out=True, **options
                )
            except Exception as error:
                raise OSError(f"cannot list {self.name}: {error}") from error
            yield page
            if "nextPageToken" not in page:
                return
            options["pageToken"] = page["nextPageToken"]

    def _ask(self, method: str, key: str, **options: Any) -> Any:
        try:
            return self._fs.call(method, "b/{}/o/{}", self._bucket, self._prefix + key, **options)
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            raise OSError(f"{self.name}/{key}: {error}") from error

    def _fate(self, error: Exception, key: str, over: Tag | None) -> Exception:
        """Return what `Objects.put` says for a write that ended with `error`."""
        if isinstance(error, FileExistsError) or (isinstance(error, FileNotFoundError) and over is not None):
            return Conflict(key)
        if isinstance(error, FileNotFoundError):
            return TargetError(f"cannot write to {self.name}: is there no bucket {self._bucket!r}? {error}")
        return Unclear(f"no answer to writing {self.name}/{key}: {error!r}")
