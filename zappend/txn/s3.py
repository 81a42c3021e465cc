"""Objects on S3, and on servers that speak as S3 does, through s3fs.

Conditions go with ``put_object`` and ``delete_object`` themselves: ``pipe_file`` of s3fs drops them where it writes in
several parts. Nothing may send a write again behind our back: what came of it is found out by reading.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn
from urllib.parse import urlsplit

from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import ClientConnectorError
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from fsspec.asyn import sync
from s3fs import S3FileSystem

from zappend.errors import TargetError
from zappend.txn.lease import LEASE
from zappend.txn.objects import Busy, Conflict, Objects, Tag, Unclear, probe
from zappend.txn.storage import Value

__all__ = ["S3Objects"]

KEYS_PER_DELETE = 1000
AMAZON = (".amazonaws.com", ".amazonaws.com.cn")
NETWORK = (HTTPClientError, BotoConnectionError)
CONDITIONS = (("PutObject", "IfNoneMatch"), ("PutObject", "IfMatch"), ("DeleteObject", "IfMatch"))
CLIENTS = "_zappend_clients"
CONNECTIONS = 64
"""How many requests can be under way; botocore itself has no more than ten."""
READS = 3
"""How often the body of an object is read before an error counts; s3fs itself repeats only the request."""


class Once(AIOHTTPSession):  # type: ignore[misc]
    """A session that sends each request once; aiohttp by itself repeats what lost its connection."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        session = await super()._get_session(proxy_url)
        session._retry_connection = False
        return session


class S3Objects(Objects):
    """The objects of ``s3://<root>/``.

    Parameters
    ----------
    fs
        How to reach the bucket: its options count, reading retries as it does.
    root
        Bucket and prefix.
    """

    def __init__(self, fs: S3FileSystem, root: str) -> None:
        self._reads, self._writes = _clients_of(fs)
        self._bucket, _, prefix = root.strip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self.is_root = not prefix
        self.name = f"s3://{root.strip('/')}"
        endpoint = fs.endpoint_url or fs.client_kwargs.get("endpoint_url")
        self.identity = ("s3", endpoint, self._bucket, self._prefix)

    def get(self, key: str) -> tuple[bytes, Tag] | None:
        async def get() -> tuple[bytes, Tag]:
            answer = await self._reads._call_s3("get_object", **self._at(key))
            async with answer["Body"] as body:
                return await body.read(), answer["ETag"]

        for left in reversed(range(READS)):
            try:
                found: tuple[bytes, Tag] = sync(self._reads.loop, get)
                return found
            except FileNotFoundError as error:
                _check_bucket(error)
                return None
            except Exception as error:
                if left == 0 or isinstance(error, PermissionError):
                    raise _as_os_error(error, f"{self.name}/{key}") from error
        raise AssertionError("at least one attempt")

    def head(self, key: str) -> Tag | None:
        try:
            tag: Tag = self._reads.call_s3("head_object", **self._at(key))["ETag"]
            return tag
        except FileNotFoundError:
            return None  # or there is no bucket: an answer to HEAD does not tell, and the write that follows does
        except Exception as error:
            raise _as_os_error(error, f"{self.name}/{key}") from error

    def put(self, key: str, data: Value, over: Tag | None) -> Tag:
        condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
        tag: Tag = self._write("put_object", key, Body=bytes(data), **condition)["ETag"]
        return tag

    def delete(self, key: str, tag: Tag) -> None:
        try:
            self._write("delete_object", key, IfMatch=tag)
        except Conflict:
            if self.head(key) is not None:
                raise

    def delete_many(self, keys: Iterable[str]) -> None:
        names = [{"Key": self._prefix + key} for key in keys]
        for first in range(0, len(names), KEYS_PER_DELETE):
            batch = {"Objects": names[first : first + KEYS_PER_DELETE], "Quiet": True}
            answer = self._ask("delete_objects", Delete=batch)
            for failed in answer.get("Errors", ()):
                raise OSError(f"cannot delete {self.name}/{failed['Key']}: {failed.get('Message')}")

    def list(self, prefix: str) -> Iterator[tuple[str, Tag]]:
        for page in self._pages(prefix):
            for entry in page.get("Contents", ()):
                yield entry["Key"][len(self._prefix) :], entry["ETag"]

    def children(self, prefix: str) -> Iterator[str]:
        start = len(self._prefix) + len(prefix)
        for page in self._pages(prefix, Delimiter="/"):
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"][start:-1]
            for entry in page.get("Contents", ()):
                yield entry["Key"][start:]

    def check(self) -> None:
        try:
            meta = sync(self._writes.loop, self._writes.set_session).meta
        except Exception as error:
            raise TargetError(f"cannot reach {self.name}: {error}") from error
        # s3fs leaves out what botocore does not know, without a word.
        for operation, condition in CONDITIONS:
            if condition not in meta.service_model.operation_model(operation).input_shape.members:
                raise TargetError(f"{self.name}: the installed botocore has no {condition} for {operation}; upgrade it")
        host = urlsplit(meta.endpoint_url).hostname or ""
        if not host.endswith(AMAZON):
            probe(self, (host, urlsplit(meta.endpoint_url).port, self._bucket))

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        options |= {"Prefix": self._prefix + prefix}
        while True:
            page = self._ask("list_objects_v2", **options)
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _ask(self, method: str, **options: Any) -> Any:
        try:
            return self._reads.call_s3(method, Bucket=self._bucket, **options)
        except Exception as error:
            raise _as_os_error(error, self.name) from error

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _write(self, method: str, key: str, **options: Any) -> Any:
        try:
            return self._writes.call_s3(method, **self._at(key), **options)
        except Exception as error:
            _tell_fate(error, f"{self.name}/{key}")


def _clients_of(fs: S3FileSystem) -> tuple[S3FileSystem, S3FileSystem]:
    """Return two file systems like `fs`, one to read and one to write; it keeps them, since it takes time to make them.

    The second sends each request once, and waits less than a quarter of a lease for the answer.
    """
    kept = vars(fs).get(CLIENTS)
    if kept is not None and kept[0] == os.getpid():
        return kept[1], kept[2]
    given = fs.storage_options.get("config_kwargs") or {}
    reads = {"max_pool_connections": CONNECTIONS, **given}
    writes = {"connect_timeout": 5, "read_timeout": LEASE / 5, **reads}
    writes |= {"retries": {"total_max_attempts": 1, "mode": "standard"}, "http_session_cls": Once}
    reader, writer = (
        type(fs)(*fs.storage_args, **{**fs.storage_options, "config_kwargs": config, "skip_instance_cache": True})
        for config in (reads, writes)
    )
    writer.retries = 1
    vars(fs)[CLIENTS] = os.getpid(), reader, writer
    return reader, writer


def _tell_fate(error: Exception, name: str) -> NoReturn:
    """Raise what `Objects.put` says for a write that ended with `error`."""
    if isinstance(error, ConnectTimeoutError) or isinstance(_cause(error), ClientConnectorError):
        raise Busy(f"{name} was not written: {error}") from error
    never_sent = isinstance(error, BotoCoreError) and not isinstance(error, NETWORK)  # no credentials, say
    if never_sent or isinstance(error, (TypeError, ValueError)):
        raise OSError(f"{name} was not written: {error}") from error
    answer = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(answer, ClientError):
        raise Unclear(f"no answer to writing {name}: {error!r}") from error
    status = answer.response["ResponseMetadata"]["HTTPStatusCode"]
    code = answer.response["Error"].get("Code")
    if status == 412 or (status == 404 and code != "NoSuchBucket"):
        raise Conflict(name) from error
    if status in (409, 429) or code == "SlowDown":
        raise Busy(f"writing {name} was put off with {status} {code}") from error
    if status >= 500 or status == 408 or code == "RequestTimeout":
        raise Unclear(f"writing {name} was answered with {status} {code}") from error
    raise _as_os_error(error, name) from error


def _as_os_error(error: Exception, name: str) -> OSError:
    if isinstance(error, PermissionError):
        return PermissionError(f"not allowed: {name}: {error}")
    return OSError(f"{name}: {error or type(error).__name__}")


def _cause(error: Exception) -> object:
    # Aiobotocore tells a connection that was reset after the request was sent as it tells one that was never made.
    return getattr(error, "kwargs", {}).get("error", error.__cause__)


def _check_bucket(error: FileNotFoundError) -> None:
    """Let only a missing object, not a missing bucket, count as "not there"."""
    answer = error.__cause__
    if isinstance(answer, ClientError) and answer.response["Error"].get("Code") == "NoSuchBucket":
        raise TargetError(f"there is no such bucket: {error}") from error
