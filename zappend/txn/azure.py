"""Objects on Azure Blob Storage, through adlfs. Each write there gives a new ETag."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from adlfs import AzureBlobFileSystem
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from fsspec.asyn import sync

from zappend.txn.lease import LEASE
from zappend.txn.objects import Conflict, Objects, Tag, Unclear
from zappend.txn.storage import Value

__all__ = ["AzureObjects"]

T = TypeVar("T")

ONCE = {"retry_total": 0, "connection_timeout": 5, "read_timeout": LEASE / 5}
"""Options of a request that is sent once, and takes less than a quarter of a lease."""


class AzureObjects(Objects):
    """The blobs of ``az://<root>/``.

    Parameters
    ----------
    fs
        How to reach the container.
    root
        Container and prefix.
    """

    def __init__(self, fs: AzureBlobFileSystem, root: str) -> None:
        options = {**fs.storage_options, "skip_instance_cache": True}
        self._fs = fs = type(fs)(*fs.storage_args, **options)  # one of our own, whose session is changed below
        self._container, _, prefix = root.strip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self.is_root = not prefix
        self.name = f"az://{root.strip('/')}"
        self.identity = ("az", fs.account_name, self._container, self._prefix)

    def get(self, key: str) -> tuple[bytes, Tag] | None:
        async def get() -> tuple[bytes, Tag]:
            stream = await self._blob(key).download_blob()
            return await stream.readall(), stream.properties.etag

        return self._read(key, get)

    def head(self, key: str) -> Tag | None:
        async def head() -> Tag:
            tag: Tag = (await self._blob(key).get_blob_properties()).etag
            return tag

        return self._read(key, head)

    def put(self, key: str, data: Value, over: Tag | None) -> Tag:
        condition: dict[str, Any] = {"match_condition": MatchConditions.IfMissing}
        if over is not None:
            condition = {"etag": over, "match_condition": MatchConditions.IfNotModified}

        async def put() -> Tag:
            answer = await self._blob(key).upload_blob(bytes(data), overwrite=True, **ONCE, **condition)
            tag: Tag = answer["etag"]
            return tag

        return self._write(key, put)

    def delete(self, key: str, tag: Tag) -> None:
        async def delete() -> None:
            options = {"etag": tag, "match_condition": MatchConditions.IfNotModified}
            await self._blob(key).delete_blob(**ONCE, **options)

        try:
            self._write(key, delete)
        except Conflict:
            if self.head(key) is not None:
                raise

    def delete_many(self, keys: Iterable[str]) -> None:
        for key in keys:

            async def delete(key: str = key) -> None:
                await self._blob(key).delete_blob()

            self._read(key, delete)

    def list(self, prefix: str) -> Iterator[tuple[str, Tag]]:
        async def found() -> list[tuple[str, Tag]]:
            blobs = self._container_client().list_blobs(name_starts_with=self._prefix + prefix)
            return [(blob.name[len(self._prefix) :], blob.etag) async for blob in blobs]

        return iter(self._read(prefix, found) or [])

    def children(self, prefix: str) -> Iterator[str]:
        async def found() -> list[str]:
            start = self._prefix + prefix
            blobs = self._container_client().walk_blobs(name_starts_with=start, delimiter="/")
            return [blob.name[len(start) :].rstrip("/") async for blob in blobs]

        return iter(self._read(prefix, found) or [])

    def check(self) -> None:
        """Have each request sent once: aiohttp by itself repeats what lost its connection. Conditions are kept."""

        async def send_once() -> None:
            transport = self._fs.service_client._pipeline._transport
            await transport.open()
            transport.session._retry_connection = False

        sync(self._fs.loop, send_once)

    def _blob(self, key: str) -> Any:
        return self._fs.service_client.get_blob_client(self._container, self._prefix + key)

    def _container_client(self) -> Any:
        return self._fs.service_client.get_container_client(self._container)

    def _read(self, key: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        try:
            result: T = sync(self._fs.loop, ask)
            return result
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == "ContainerNotFound":
                raise OSError(f"there is no container {self._container!r}") from error
            return None
        except AzureError as error:
            raise OSError(f"{self.name}/{key}: {error}") from error

    def _write(self, key: str, send: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            result: T = sync(self._fs.loop, send)
            return result
        except HttpResponseError as error:
            status = error.status_code or 0
            if getattr(error, "error_code", None) == "ContainerNotFound":
                raise OSError(f"there is no container {self._container!r}") from error
            if status in (404, 409, 412):
                raise Conflict(key) from error
            if 400 <= status < 500 and status not in (408, 429):
                raise OSError(f"{self.name}/{key}: {error}") from error
            raise Unclear(f"writing {self.name}/{key} was answered with {status}") from error
        except Exception as error:
            raise Unclear(f"no answer to writing {self.name}/{key}: {error!r}") from error
