"""`txn.store` is a store of Zarr: by Zarr's own conformance suite, and for what xarray does with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import Case, DictCase, FolderCase
from zarr.core.buffer import Buffer, cpu
from zarr.testing.store import StoreTests

from zappend.errors import TransactionClosed
from zappend.testing import Faults, Killed
from zappend.txn import Transaction, rollback, transaction
from zappend.txn.zarrview import ZarrView


class Conformance(StoreTests[ZarrView, cpu.Buffer]):
    """Zarr's suite on a store in an active transaction; a test ends with its commit."""

    store_cls = ZarrView
    buffer_cls = cpu.Buffer
    open_transactions: list[Transaction]

    @pytest.fixture(autouse=True)
    def _transactions(self, home: Path) -> Iterator[None]:
        self.open_transactions = []
        yield
        for txn in self.open_transactions:
            if txn.status == "active":
                txn.commit()
                assert txn.status == "committed"

    def target(self, number: int, home: Path) -> Any:
        raise NotImplementedError

    def begin(self, target: Any) -> Transaction:
        txn = transaction(target, durability="process")
        txn.__enter__()
        self.open_transactions.append(txn)
        return txn

    @pytest.fixture
    def store_kwargs(self, home: Path) -> dict[str, Any]:
        return {"txn": self.begin(self.target(0, home))}

    @pytest.fixture
    async def store(self, store_kwargs: dict[str, Any]) -> ZarrView:
        return await ZarrView.open(**store_kwargs)

    @pytest.fixture
    async def store_not_open(self, store_kwargs: dict[str, Any]) -> ZarrView:
        return ZarrView(**store_kwargs)

    async def set(self, store: ZarrView, key: str, value: Buffer) -> None:
        store._txn[key] = value.to_bytes()

    async def get(self, store: ZarrView, key: str) -> Buffer:
        return self.buffer_cls.from_bytes(store._txn[key])

    def test_store_repr(self, store: ZarrView) -> None:
        assert "ZarrView of <Transaction" in repr(store)

    def test_serializable_store(self, store: ZarrView) -> None:
        pytest.skip("a transaction holds a lock of its process, so it cannot be pickled")

    def test_store_supports_writes(self, store: ZarrView) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: ZarrView) -> None:
        assert store.supports_listing


class TestConformanceOfADict(Conformance):
    def target(self, number: int, home: Path) -> Any:
        return {}


class TestConformanceOfAFolder(Conformance):
    def target(self, number: int, home: Path) -> Any:
        return home / f"{number}.zarr"


def dataset(start: int, size: int = 2) -> xr.Dataset:
    time = np.arange(start, start + size)
    values = time[:, None] * 10.0 + np.arange(3)
    return xr.Dataset({"a": (("time", "x"), values), "b": ("time", time * 2)}, {"time": time, "x": [1, 2, 3]})


def decoded(case: Case, zarr_format: Any) -> xr.Dataset:
    copy = zarr.storage.MemoryStore({key: cpu.Buffer.from_bytes(value) for key, value in case.cube().items()})
    return xr.open_zarr(copy, zarr_format=zarr_format, decode_times=False).load()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_append_of_xarray_killed_at_every_operation(place: Case, zarr_format: Any) -> None:
    def append(faults: Faults | None = None) -> None:
        with place.begin(faults) as txn:
            dataset(2, 3).to_zarr(txn.store, append_dim="time", zarr_format=zarr_format)

    with place.begin() as txn:
        dataset(0).to_zarr(txn.store, mode="w", zarr_format=zarr_format, encoding={"a": {"chunks": (2, 2)}})
    first, old = place.cube(), place.state()
    append()
    new = place.state()
    xr.testing.assert_identical(decoded(place, zarr_format), dataset(0, 5))
    step = 1 if isinstance(place, DictCase) else 11
    fired = 0
    for at in itertools.count(1, step):
        place.reset(first)
        faults = Faults(at, lasting=True)
        raised: BaseException | None = None
        try:
            append(faults)
        except BaseException as error:
            raised = error
        place.bury()
        if not faults.fired:
            assert raised is None
            break
        assert isinstance(raised, Killed), raised
        fired += 1
        rollback(place.target())
        assert place.state() in (old, new), at
    assert fired >= 8
    assert place.state() == new


@pytest.mark.attack(35)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_overwriting_with_other_chunks(place: Case, zarr_format: Any) -> None:
    with place.begin() as txn:
        dataset(0).to_zarr(txn.store, mode="w", zarr_format=zarr_format)
    cube = place.cube()
    with place.begin() as txn:
        dataset(5).to_zarr(txn.store, mode="w", zarr_format=zarr_format, encoding={"a": {"chunks": (1, 1)}})
        seen = {key: value for key, value in place.cube().items() if not key.startswith(".zappend")}
        assert seen == cube, "readers see nothing before the commit"
        txn.rollback()
    assert place.cube() == cube
    with place.begin() as txn:
        dataset(5).to_zarr(txn.store, mode="w", zarr_format=zarr_format, encoding={"a": {"chunks": (1, 1)}})
        xr.testing.assert_identical(xr.open_zarr(txn.store, zarr_format=zarr_format).load(), dataset(5))
    xr.testing.assert_identical(decoded(place, zarr_format), dataset(5))


def test_read_only_view(place: Case) -> None:
    with place.begin() as txn:
        zarr.create_array(txn.store, shape=(2,), dtype="i4", fill_value=7)
        view = txn.store.with_read_only(True)
        assert zarr.open_array(view, mode="r")[0] == 7
        with pytest.raises(ValueError, match="read-only"):
            zarr.create_group(view, path="g")
        assert view == txn.store.with_read_only(True)
        assert view != txn.store


def test_store_of_an_ended_transaction(folder: FolderCase) -> None:
    with folder.begin() as txn:
        store = txn.store
        array = zarr.create_array(store, shape=(2,), dtype="i4")
    with pytest.raises(TransactionClosed, match="has been committed"):
        array[0] = 1
