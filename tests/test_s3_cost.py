"""What a transaction on S3 adds to the requests of an append: a handful, however many chunks there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, MutableMapping
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from s3server import BUCKET, S3Server

import zappend
from zappend.appender import Appender
from zappend.config import load_settings
from zappend.slices import open_slice
from zappend.testing import CountingMapping, SteppingClock
from zappend.txn import Transaction
from zappend.txn.objectstore import ObjectStorage
from zappend.txn.s3 import S3Objects

URL = f"s3://{BUCKET}/c.zarr"
BUDGET = 10

formats = pytest.mark.parametrize("zarr_format", [2, 3])


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    monkeypatch.setattr("zappend.chunking.SMALLEST_CHUNK", 1)
    running.reset()
    return running


@pytest.fixture(scope="module")
def objects(running: S3Server) -> list[S3Objects]:
    """The cube and the place of its log, on a server that has been probed."""
    fs = fsspec.filesystem("s3", **running.storage_options())
    cube, place = (S3Objects(fs, f"{BUCKET}/c.zarr{end}") for end in ("", ".zappend"))
    place.check()
    return [cube, place]


@pytest.fixture
def target(objects: list[S3Objects]) -> ObjectStorage:
    """A target where no time goes by, so that the lock is not renewed for that."""
    return ObjectStorage(*objects, clock=SteppingClock())


def step(i: int, chunks: int) -> xr.Dataset:
    """Return a slice with so many chunks, beside that of its label."""
    dataset = xr.Dataset({"a": (("time", "x"), np.full((1, 4 * chunks), float(i)))}, {"time": [i]})
    dataset.a.encoding["preferred_chunks"] = {"time": 1, "x": 4}
    return dataset


def carry_out(store: MutableMapping[str, bytes], new: xr.Dataset, **settings: Any) -> None:
    """Append `new` to whatever `store` is."""
    with Appender("cube", load_settings(None, **settings)) as appender, open_slice(new, 0) as opened:
        plan = appender.plan(store, opened)
        if plan is not None:
            if isinstance(store, Transaction):
                store.log_ahead(*plan.keys(), plan.known)
            appender.carry_out(plan, store)


def bare(old: dict[str, bytes], new: xr.Dataset, **settings: Any) -> Counter[str]:
    """Count the calls of the same append to a mapping, each of which would be one request."""
    store = CountingMapping(dict(old))
    carry_out(store, new, **settings)
    return store.counts


def begin(server: S3Server, target: ObjectStorage, slices: int, chunks: int, zarr_format: int) -> dict[str, bytes]:
    """Make a cube of some slices, on the server too; return it."""
    cube: dict[str, bytes] = {}
    for i in range(slices):
        zappend.append(cube, step(i, chunks), append_step="any", zarr_format=zarr_format)
    for key, value in cube.items():
        server.put(f"c.zarr/{key}", value)
    server.set_policy(None)  # counts begin anew
    return cube


def report(what: str, server: S3Server, base: Counter[str]) -> int:
    """Return how many requests there were beyond `base`."""
    added = server.count() - base.total()
    print(f"{what}: {server.count()} requests {dict(server.counts())}, bare {dict(base)}, added {added}")
    return added


def append(server: S3Server, target: ObjectStorage, slices: int, chunks: int, zarr_format: int) -> int:
    """Append one more slice to a cube of `slices`; return how many requests the transaction adds."""
    cube = begin(server, target, slices, chunks, zarr_format)
    new = step(slices, chunks)
    settings: dict[str, Any] = {"append_step": "any", "zarr_format": zarr_format}
    zappend.append(target, new, **settings)
    added = report(f"{chunks} chunks", server, bare(cube, new, **settings))
    carry_out(cube, new, **settings)
    assert server.objects() == {f"c.zarr/{key}": value for key, value in cube.items()}
    return added


@pytest.mark.parametrize("chunks", [3, 30, 200])
@formats
def test_append(server: S3Server, target: ObjectStorage, chunks: int, zarr_format: int) -> None:
    assert 0 < append(server, target, 2, chunks, zarr_format) <= BUDGET


@pytest.mark.parametrize(("chunks", "variables"), [(1, 1), (16, 1), (4, 3)])
@formats
def test_append_with_coordinates(
    server: S3Server, target: ObjectStorage, chunks: int, variables: int, zarr_format: int
) -> None:
    """With the chunks of all coordinates read and compared."""

    def grid(i: int) -> xr.Dataset:
        values = np.full((1, 2, 4 * chunks), float(i))
        dataset = xr.Dataset(
            {f"v{n}": (("time", "y", "x"), values) for n in range(variables)},
            {"time": [i], "y": [0.0, 1.0], "x": np.arange(4.0 * chunks)},
        )
        for name in dataset.data_vars:
            dataset[name].encoding["preferred_chunks"] = {"time": 1, "y": 2, "x": 4}
        return dataset

    cube: dict[str, bytes] = {}
    zappend.append(cube, [grid(0), grid(1)], zarr_format=zarr_format)
    for key, value in cube.items():
        server.put(f"c.zarr/{key}", value)
    budget = variables * chunks + 1 + 18 + 3 * (variables - 1)
    for new in (grid(2), [grid(3), grid(4)]):
        slices = len(new) if isinstance(new, list) else 1
        server.set_policy(None)
        zappend.append(target, new)
        what = f"{slices} slices of {variables} variables, {chunks} chunks each"
        print(f"{what}: {server.count()} requests {dict(server.counts())}")
        assert server.count() <= slices * budget
        zappend.append(cube, new)
    assert server.objects() == {f"c.zarr/{key}": value for key, value in cube.items()}


@pytest.mark.parametrize("chunks", [3, 30])
@formats
def test_append_that_makes_a_cube(server: S3Server, target: ObjectStorage, chunks: int, zarr_format: int) -> None:
    """One more in format 2, which has three root documents: each is looked for at the beginning and at the end."""
    added = append(server, target, 0, chunks, zarr_format)
    assert 0 < added <= BUDGET


class Stop(Exception):
    """What goes wrong at the end of an append."""


@pytest.mark.parametrize("chunks", [3, 60])
@formats
def test_append_that_is_rolled_back(server: S3Server, target: ObjectStorage, chunks: int, zarr_format: int) -> None:
    """Each new chunk is looked at and deleted, that of the labels restored; no document was written."""
    cube = begin(server, target, 2, chunks, zarr_format)
    new = step(2, chunks)

    def fail() -> None:
        with zappend.transaction(target) as txn:
            carry_out(txn, new, append_step="any")
            raise Stop

    with pytest.raises(Stop):
        fail()
    assert server.objects() == {f"c.zarr/{key}": value for key, value in cube.items()}
    reads = Counter({kind: n for kind, n in bare(cube, new, append_step="any").items() if kind != "set"})
    added = report(f"{chunks} chunks rolled back", server, reads)
    assert server.count("DELETE") == chunks + 1  # and the lock
    assert added - 3 * chunks <= BUDGET + 2  # written, looked at, deleted


def test_transaction_without_changes(server: S3Server, target: ObjectStorage) -> None:
    cube = begin(server, target, 1, 3, 3)
    with zappend.transaction(target):
        pass
    assert report("nothing", server, Counter()) == 3  # take the lock, look for what lies about, delete the lock
    assert server.objects() == {f"c.zarr/{key}": value for key, value in cube.items()}


def test_append_that_is_skipped(server: S3Server, target: ObjectStorage) -> None:
    cube = begin(server, target, 2, 30, 3)
    settings: dict[str, Any] = {"append_step": "any", "if_exists": "skip"}
    assert zappend.append(target, step(1, 30), **settings) == 0
    # The lock, twice, what lies about it, and a look for the root document of the other format.
    assert report("skipped", server, bare(cube, step(1, 30), **settings)) == 4


def test_rollback_of_nothing(server: S3Server, target: ObjectStorage) -> None:
    begin(server, target, 1, 3, 3)
    assert zappend.rollback(target).outcome == "clean"
    assert server.counts() == {"LIST": 1}


def test_the_server_is_probed_once(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process, whatever clients there are."""
    monkeypatch.setattr("zappend.txn.objects._probed", {})
    probes = []
    for i in range(2):
        server.set_policy(None)
        with zappend.transaction(URL, storage_options=server.storage_options()) as txn:
            txn["a"] = str(i).encode()
        probes.append(len({request.key for request in server.requests if "probe-" in request.key}))
        total = server.count()
        print(f"transaction {i}: {total} requests {dict(server.counts())}")
    assert probes == [1, 0]
    assert server.objects() == {"c.zarr/a": b"1"}
