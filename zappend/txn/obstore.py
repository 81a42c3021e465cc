"""Objects through obstore, on S3, Google Cloud Storage and Azure, and in memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, NotSupportedError, PermissionDeniedError, PreconditionError

from zappend.errors import TargetError
from zappend.txn.objects import Conflict, Objects, Tag, Unclear, probe
from zappend.txn.storage import Value

__all__ = ["ObstoreObjects"]

DEFINITE = (PermissionDeniedError, NotSupportedError)


class ObstoreObjects(Objects):
    """The objects below `root` in the bucket of `store`.

    Parameters
    ----------
    store
        How to reach the bucket; its own prefix does not count.
    root
        The prefix.
    """

    def __init__(self, store: Any, root: str) -> None:
        self.conditional_deletes = type(store).__name__ == "MemoryStore"  # nobody but this process has that
        config = dict(getattr(store, "config", {}))
        bucket = next((config[name] for name in ("bucket", "container_name") if name in config), "")
        self._prefix = f"{root}/" if root else ""
        if self.conditional_deletes:
            self._store = self._writes = store
            self.quiet = 0.0
            self._server: Hashable = ("obstore", id(store))
        else:
            self._store = _like(store, retry_config=store.retry_config)
            # What came of a write is found out by reading; nothing may send it again.
            self._writes = _like(store, retry_config={"max_retries": 0})
            self._server = ("obstore", type(store).__name__, config.get("endpoint"), bucket)
        self.identity = (self._server, root)
        self.is_root = not root
        self.name = f"{type(store).__name__}://{bucket}/{root}".rstrip("/")

    def get(self, key: str) -> tuple[bytes, Tag] | None:
        try:
            found = obstore.get(self._store, self._prefix + key)
            return bytes(found.bytes()), _tag(found.meta)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise OSError(f"cannot read {self.name}/{key}: {_text(error)}") from error

    def head(self, key: str) -> Tag | None:
        try:
            return _tag(obstore.head(self._store, self._prefix + key))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise OSError(f"cannot read {self.name}/{key}: {_text(error)}") from error

    def put(self, key: str, data: Value, over: Tag | None) -> Tag:
        mode: Any = "create" if over is None else {"e_tag": over}
        try:
            # In one request: an upload in parts would pass over the condition.
            result = obstore.put(self._writes, self._prefix + key, bytes(data), mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError) as error:
            raise Conflict(key) from error
        except FileNotFoundError as error:
            if over is not None:
                raise Conflict(key) from error
            raise TargetError(f"cannot write to {self.name}: is there no such bucket? {_text(error)}") from error
        except DEFINITE as error:
            raise PermissionError(f"not allowed: {self.name}/{key}: {_text(error)}") from error
        except Exception as error:
            raise Unclear(f"no answer to writing {self.name}/{key}: {_text(error)}") from error
        return _tag(result)

    def delete(self, key: str, tag: Tag) -> None:
        now = self.head(key)
        if now is None:
            return
        if now != tag:
            raise Conflict(key)
        try:
            obstore.delete(self._writes, self._prefix + key)
        except FileNotFoundError:
            return
        except DEFINITE as error:
            raise PermissionError(f"not allowed: {self.name}/{key}: {_text(error)}") from error
        except Exception as error:
            raise Unclear(f"no answer to deleting {self.name}/{key}: {_text(error)}") from error

    def delete_many(self, keys: Iterable[str]) -> None:
        names = [self._prefix + key for key in keys]
        try:
            obstore.delete(self._store, names)
        except FileNotFoundError:
            for name in names:
                self._delete_one(name)
        except Exception as error:
            raise OSError(f"cannot delete below {self.name}: {_text(error)}") from error

    def _delete_one(self, name: str) -> None:
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return

    def list(self, prefix: str) -> Iterator[tuple[str, Tag]]:
        # Prefixes of obstore are whole folders.
        folder = (self._prefix + prefix).rpartition("/")[0]
        for batch in obstore.list(self._store, folder or None):
            for entry in batch:
                key = entry["path"][len(self._prefix) :]
                if key.startswith(prefix):
                    yield key, _tag(entry)

    def children(self, prefix: str) -> Iterator[str]:
        folder = (self._prefix + prefix).rstrip("/")
        found = obstore.list_with_delimiter(self._store, folder or None)
        for path in [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]:
            yield path.rstrip("/").rpartition("/")[2]

    def check(self) -> None:
        probe(self, self._server)


def _like(store: Any, **options: Any) -> Any:
    """Return a store on the same bucket, without prefix."""
    options |= {"config": store.config, "client_options": store.client_options}
    if store.credential_provider is not None:
        options["credential_provider"] = store.credential_provider
    return type(store)(**options)


def _tag(meta: Any) -> Tag:
    tag: Tag | None = meta["e_tag"]
    if tag is None:
        raise NotSupportedError("the store gives no ETags")
    return tag


def _text(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
