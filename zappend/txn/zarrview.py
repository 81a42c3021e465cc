"""A `zarr.abc.store.Store` over a transaction, so that zarr and xarray write into it: zarr 3 takes no plain mapping.

It is built on `Store`, whose every change ends in `set`, `delete` or `delete_dir`, so nothing can pass the undo log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

if TYPE_CHECKING:
    from zappend.txn.store import TransactionStore

__all__ = ["ZarrView"]


class ZarrView(Store):
    """The store of the transaction `txn`: what is written to it is committed or rolled back with the transaction.

    Reading and writing wait for the target in threads of their own, so several chunks are under way at once.
    """

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True

    def __init__(self, txn: TransactionStore, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self._txn = txn

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._txn!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrView) and other._txn is self._txn and other.read_only == self.read_only

    __hash__ = object.__hash__

    def with_read_only(self, read_only: bool = False) -> ZarrView:
        return type(self)(self._txn, read_only=read_only)

    # The synchronous path of zarr 3.2 and newer; the asynchronous one below is the same in a thread.

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        value = self._txn.get(key)
        if value is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(_part(value, byte_range))

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check_writable()
        if not isinstance(value, Buffer):
            raise TypeError(f"value must be a zarr Buffer, not {type(value).__name__}")
        self._txn[key] = value.to_bytes()

    def delete_sync(self, key: str) -> None:
        self._check_writable()
        with contextlib.suppress(KeyError):
            del self._txn[key]

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        await self._ensure_open()
        return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        await self._ensure_open()
        return await asyncio.to_thread(self._txn.__contains__, key)

    async def set(self, key: str, value: Buffer) -> None:
        await self._ensure_open()
        await asyncio.to_thread(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._ensure_open()
        self._check_writable()
        await asyncio.to_thread(self._txn.setdefault, key, value.to_bytes())

    async def delete(self, key: str) -> None:
        await self._ensure_open()
        await asyncio.to_thread(self.delete_sync, key)

    async def delete_dir(self, prefix: str) -> None:
        await self._ensure_open()
        self._check_writable()
        await asyncio.to_thread(self._txn.delete_folder, _folder(prefix))

    async def list(self) -> AsyncIterator[str]:
        for key in await asyncio.to_thread(list, self._txn):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        folder = prefix.rpartition("/")[0]
        for key in await asyncio.to_thread(lambda: list(self._txn.keys_below(_folder(folder)))):
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in await asyncio.to_thread(lambda: list(self._txn.children(_folder(prefix)))):
            yield name


def _folder(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""


def _part(value: bytes, byte_range: ByteRequest | None) -> bytes:
    match byte_range:
        case None:
            return value
        case RangeByteRequest(start, end):
            return value[start:end]
        case OffsetByteRequest(offset):
            return value[offset:]
        case SuffixByteRequest(suffix):
            return value[max(len(value) - suffix, 0) :]
        case _:
            raise ValueError(f"Unexpected byte_range, got {byte_range!r}")
