"""The setting `max_memory`: chunks that are under way take no more, and a chunk that alone takes more is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import cubes
import h5netcdf
import numpy as np
import pytest
import xarray as xr

import zappend
from zappend.appender import Appender
from zappend.config import load_settings
from zappend.errors import UsageError
from zappend.memory import memory_of
from zappend.slices import SliceVariable, open_slice
from zappend.testing import LatencyMapping

SIDE, CHUNK = 4000, 500
FREE = 4e6
"""Bytes that a call takes beside chunks: modules that it imports late, documents, buffers of files and codecs."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two slices of 64 MB each, as they are read."""
    folder = tmp_path_factory.mktemp("scenes")
    paths = [folder / f"{i}.nc" for i in range(3)]
    for i, path in enumerate(paths):
        with h5netcdf.File(path, "w") as file:
            file.dimensions = {"time": 1, "y": SIDE, "x": SIDE}
            file.create_variable("time", ("time",), data=[i])
            a = file.create_variable("a", ("time", "y", "x"), "f4", chunks=(1, CHUNK, CHUNK), compression="gzip")
            b = file.create_variable("b", ("time", "y", "x"), "i2", chunks=(1, CHUNK, CHUNK), compression="gzip")
            a[0, : CHUNK // 2] = i + 0.5
            b[0, :, : CHUNK // 2] = i
    return paths


def peak(target: Any, slices: Any, **settings: Any) -> int:
    tracemalloc.start()
    try:
        assert zappend.append(target, slices, durability="process", **settings) == len(slices)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.effect("max_memory")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("threads", [1, 4])
def test_chunks_take_no_more(tmp_path: Path, scenes: list[Path], zarr_format: int, threads: int) -> None:
    """What is read ahead counts, too; what is written is the same."""
    settings: dict[str, Any] = {"zarr_format": zarr_format, "threads": threads}
    free = peak(tmp_path / "free", scenes, **settings)
    bound = peak(tmp_path / "bound", scenes, max_memory="12MB", **settings)
    assert bound < 12e6 + FREE < free
    assert cubes.tree(tmp_path / "bound") == cubes.tree(tmp_path / "free")


UNCOMPRESSED: dict[str, Any] = {"variables": {"*": {"encoding": {"compressors": None}}}}


def carry_out(store: Any, path: Path, **settings: Any) -> None:
    checked = load_settings(UNCOMPRESSED, **settings)
    with Appender("cube", checked) as appender, open_slice(str(path)) as new:
        plan = appender.plan({}, new)
        assert plan is not None
        appender.carry_out(plan, store)


class Slow(LatencyMapping):
    """Takes its time, and counts what was written of `a`."""

    written = 0

    def __setitem__(self, key: str, value: bytes) -> None:
        super().__setitem__(key, value)
        self.written += len(value) if key.startswith("a/0") else 0


@pytest.mark.parametrize("max_memory", ["12MB", "40MB", None])
def test_nothing_is_read_before_there_is_room(
    scenes: list[Path], max_memory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing is slower than reading, reading waits."""
    store = Slow({}, 0.005)
    read, under_way = 0, []
    original = SliceVariable.read

    def counted(self: SliceVariable, region: Any = None) -> Any:
        nonlocal read
        values = original(self, region)
        if self.name == "a" and values.size > 1:  # planning looks at the first one
            read += values.nbytes
            under_way.append(2 * (read - store.written))
        return values

    with monkeypatch.context() as patch:
        patch.setattr(SliceVariable, "read", counted)
        carry_out(store, scenes[0], max_memory=max_memory, threads=4)
    assert read == store.written == SIDE**2 * 4
    memory = memory_of(load_settings(None, max_memory=max_memory))
    if memory is None:
        assert max(under_way) > 20e6
    else:
        assert memory.chunks / 4 < max(under_way) <= memory.chunks


def test_encoded_chunks_wait_for_each_other_only_as_far_as_there_is_room(scenes: list[Path]) -> None:
    """They are written together to a remote store."""

    class Remote(dict[str, bytes]):
        is_remote = True
        together = 0

        def update(self, other: Any = (), /, **more: bytes) -> None:
            values = dict(other, **more)
            self.together = max(self.together, sum(map(len, values.values())))
            super().update(values)

    bound, free = Remote(), Remote()
    carry_out(bound, scenes[0], max_memory="12MB", threads=2)
    carry_out(free, scenes[0], threads=2)
    assert bound == free
    assert bound.together < 12e6 / 8 + CHUNK**2 * 4 < free.together


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_that_alone_takes_more(zarr_format: int) -> None:
    settings: dict[str, Any] = {"zarr_format": zarr_format, "max_memory": "40000"}
    slices = [xr.Dataset({"a": (("time", "x"), np.ones((1, 2000)))}, {"time": [i]}).chunk() for i in range(2)]
    message = (
        r"max_memory: a chunk \(1, 2000\) of variable 'a' has 16000 bytes, and takes 32000 as it is read and as it is "
        r"stored; 40000 leaves 20000 for chunks: set at least 64000, or .*, by variables.a.encoding.chunks"
    )
    times: dict[str, Any] = {"time": {"encoding": {"chunks": 10}}}
    target: dict[str, bytes] = {}
    with pytest.raises(UsageError, match=message):
        zappend.append(target, slices[0], variables=times, **settings)
    assert not target
    small: dict[str, Any] = {**times, "a": {"encoding": {"chunks": {"x": 1000}}}}
    assert zappend.append({}, slices, variables=small, **settings) == 2
    assert zappend.append(target, slices[0], variables=times, **{**settings, "max_memory": 64000}) == 1
    before = dict(target)
    with pytest.raises(UsageError, match=message):
        zappend.append(target, slices[1], **settings)
    assert target == before


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        ("500000", 500_000),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("2GiB", 2**31),
        ("1.5k", 1500),
        ("1 TB", 10**12),
        ("10B", 10),
        (" 3Ki ", 3072),
    ],
)
def test_sizes_as_people_write_them(text: Any, size: int) -> None:
    memory = memory_of(load_settings(None, max_memory=text))
    assert memory is not None
    assert memory.total == size


@pytest.mark.parametrize("text", ["much", "", "MB", "-5MB", "1e9", "0", "0.1B", "5 XB", "5MiBs"])
def test_sizes_that_are_none(text: str) -> None:
    target: dict[str, bytes] = {}
    with pytest.raises(UsageError, match=r"max_memory: ('.*' is no number of bytes|it must be at least one byte)"):
        zappend.append(target, cubes.small(0), max_memory=text)
    assert not target
