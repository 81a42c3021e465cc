"""Who appends: each makes a cube of its own with the same chunks and codec, and lets it grow."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.blosc
import numpy as np
import xarray as xr
import zarr

import zappend
from benchmarks.works import BLOSC, LABELS_PER_CHUNK, UNITS, Work

THREADS = os.cpu_count() or 1
SYNCS_AT_ONCE = 8


class Contestant(ABC):
    """A cube at `target`, made with the first slice of `work`; `options` are those of each append."""

    def __init__(self, target: str, work: Work, **options: Any) -> None:
        self.target = target
        self.work = work
        self.options = options

    @abstractmethod
    def append(self, slices: Sequence[xr.Dataset]) -> None:
        """Append all, one after the other."""

    def finish(self) -> None:
        """Make the cube whole, where that is not part of an append; not timed."""

    def store(self) -> Any:
        """Return what zarr opens."""
        return self.target


class Zappend(Contestant):
    """All slices in one call, or `each` in one of its own; each is a transaction either way."""

    def __init__(self, target: str, work: Work, zarr_format: int, *, each: bool = False, **options: Any) -> None:
        super().__init__(target, work, **options)
        self.each = each
        zappend.append(target, work.slice(0), zarr_format=zarr_format, **work.settings(), **options)

    def append(self, slices: Sequence[xr.Dataset]) -> None:
        for call in [[one] for one in slices] if self.each else [slices]:
            zappend.append(self.target, iter(call), **self.options)


class Xarray(Contestant):
    """``to_zarr(append_dim="time")``, without `x` and `y`, which it would write again."""

    def __init__(self, target: str, work: Work, zarr_format: int, **options: Any) -> None:
        super().__init__(target, work, consolidated=True, zarr_format=zarr_format, **options)
        encoding = work.encoding(zarr_format)
        work.slice(0).drop_encoding().to_zarr(target, mode="w", encoding=encoding, **self.options)

    def append(self, slices: Sequence[xr.Dataset]) -> None:
        for one in slices:
            one.drop_vars(["y", "x"]).drop_encoding().to_zarr(self.target, append_dim="time", **self.options)


class Zarr(Contestant):
    """zarr-python, its arrays kept open: resize, assign, consolidate again."""

    def __init__(self, target: str, work: Work, zarr_format: int) -> None:
        super().__init__(target, work)
        Xarray(target, work, zarr_format)
        self.group = zarr.open_group(target, mode="r+", use_consolidated=False)
        self.arrays: dict[str, Any] = {name: self.group[name] for name in (*work.names, "time")}

    def append(self, slices: Sequence[xr.Dataset]) -> None:
        for one in slices:
            for name, array in self.arrays.items():
                start = array.shape[0]
                array.resize((start + one.sizes["time"], *array.shape[1:]))
                array[start:] = hours(one) if name == "time" else one[name].values
            zarr.consolidate_metadata(self.group.store)


class Icechunk(Contestant):
    """``to_icechunk(append_dim="time")`` and a commit a slice."""

    def __init__(self, target: str, work: Work) -> None:
        super().__init__(target, work)
        import icechunk
        from icechunk.xarray import to_icechunk

        icechunk.set_logs_filter("error")  # of local file systems, where nobody else writes here
        self.repository = icechunk.Repository.create(icechunk.local_filesystem_storage(target))
        self.to_icechunk: Callable[..., None] = to_icechunk
        self._commit(work.slice(0).drop_encoding(), encoding=work.encoding(3))

    def append(self, slices: Sequence[xr.Dataset]) -> None:
        for one in slices:
            self._commit(one.drop_vars(["y", "x"]).drop_encoding(), append_dim="time")

    def _commit(self, one: xr.Dataset, **options: Any) -> None:
        session = self.repository.writable_session("main")
        self.to_icechunk(one, session, **options)
        session.commit("a slice")

    def store(self) -> Any:
        return self.repository.readonly_session("main").store


class TensorStore(Contestant):
    """tensorstore, its arrays kept open: resize and write, all arrays at a time; no consolidated metadata."""

    def __init__(self, target: str, work: Work) -> None:
        super().__init__(target, work)
        import tensorstore

        Xarray(target, work, 2)
        names = (*work.names, "time")
        opened = [
            tensorstore.open({"driver": "zarr", "kvstore": {"driver": "file", "path": f"{target}/{name}/"}})
            for name in names
        ]
        self.arrays = {name: array.result() for name, array in zip(names, opened, strict=True)}

    def append(self, slices: Sequence[xr.Dataset]) -> None:
        for one in slices:
            start = self.arrays["time"].shape[0]
            stop = start + one.sizes["time"]
            grown = {name: array.resize(exclusive_max=[stop, *array.shape[1:]]) for name, array in self.arrays.items()}
            self.arrays = {name: array.result() for name, array in grown.items()}
            values = {name: hours(one) if name == "time" else one[name].values for name in self.arrays}
            for write in [self.arrays[name][start:stop].write(block) for name, block in values.items()]:
                write.result()

    def finish(self) -> None:
        zarr.consolidate_metadata(self.target, zarr_format=2)


class Floor(Contestant):
    """What the bytes cost: encodes chunks on threads, writes each to a temporary file that it renames.

    With `synced` it also writes the labels and the documents that change, and syncs all files and their folders: what
    a cube in format 2 that survives a power cut cannot do without, even if nobody wants to undo anything.
    """

    def __init__(self, target: str, work: Work, *, synced: bool = False) -> None:
        super().__init__(target, work)
        Xarray(target, work, 2)
        self.synced = synced
        self.steps = 1
        self.pool = ThreadPoolExecutor(SYNCS_AT_ONCE if synced else THREADS)
        self.codec = numcodecs.Blosc(BLOSC["cname"], BLOSC["clevel"], numcodecs.Blosc.SHUFFLE)
        self.documents = json.loads(Path(target, ".zmetadata").read_text())
        self.time = np.zeros(LABELS_PER_CHUNK, "<i8")

    def append(self, slices: Sequence[xr.Dataset]) -> None:
        before, numcodecs.blosc.use_threads = numcodecs.blosc.use_threads, False  # as many threads as there are here
        for one in slices:
            self._all(self._write_chunk, self._blocks(one))
            self.steps += 1
            self.time[: self.steps] = np.arange(self.steps)
            if self.synced:
                self._write_rest()
                folders = [f"{self.target}/{name}" for name in (*self.work.names, "time", "")]
                self._all(sync_folder, ((folder,) for folder in folders))
        numcodecs.blosc.use_threads = before

    def finish(self) -> None:
        self._write_rest()

    def _all(self, do: Callable[..., object], each: Iterable[Sequence[Any]]) -> None:
        for done in [self.pool.submit(do, *args) for args in each]:
            done.result()

    def _blocks(self, one: xr.Dataset) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        (height, width), (m, n) = self.work.chunk, self.work.size
        for name in self.work.names:
            values = one[name].values
            for i, j in product(range(-(-m // height)), range(-(-n // width))):
                block = values[:, i * height : (i + 1) * height, j * width : (j + 1) * width]
                yield f"{self.target}/{name}/{self.steps}.{i}.{j}", block

    def _write_chunk(self, path: str, block: np.ndarray[Any, Any]) -> None:
        self._write(path, self.codec.encode(np.ascontiguousarray(block)))

    def _write(self, path: str, data: bytes) -> None:
        fd = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.write(fd, data)
        if self.synced:
            os.fsync(fd)
        os.close(fd)
        os.rename(f"{path}.tmp", path)

    def _write_rest(self) -> None:
        files = {"time/0": self.codec.encode(self.time)}
        for name in (*self.work.names, "time"):
            document = self.documents["metadata"][f"{name}/.zarray"]
            document["shape"][0] = self.steps
            files[f"{name}/.zarray"] = json.dumps(document).encode()
        files[".zmetadata"] = json.dumps(self.documents).encode()
        self._all(self._write, ((f"{self.target}/{key}", data) for key, data in files.items()))


def sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def hours(one: xr.Dataset) -> np.ndarray[Any, Any]:
    """Return the labels as they are stored."""
    since: Any = np.datetime64(UNITS.removeprefix("hours since "), "ns")
    return (one.time.values - since) // np.timedelta64(1, "h")


Maker = Callable[..., Contestant]
"""Makes a contestant of a target and a work."""

PEERS: dict[str, Maker] = {
    "xarray 2": partial(Xarray, zarr_format=2),
    "xarray 3": partial(Xarray, zarr_format=3),
    "zarr 2": partial(Zarr, zarr_format=2),
    "zarr 3": partial(Zarr, zarr_format=3),
    "icechunk": Icechunk,
    "tensorstore": TensorStore,
}


def start(makers: Mapping[str, Maker], folder: str, work: Work, tell: Callable[[str], object]) -> dict[str, Contestant]:
    """Make the cubes; a contestant whose package is not installed is left out with a word."""
    made = {}
    for name, maker in makers.items():
        try:
            made[name] = maker(f"{folder}/{name.replace(' ', '-')}", work)
        except ImportError as error:
            tell(f"{name} is left out: {error}")
    return made


def check(contestants: Mapping[str, Contestant], work: Work, steps: int) -> None:
    """Make sure that all cubes hold the same: `steps` slices, in the same chunks, by the same codec.

    Raises
    ------
    AssertionError
        If one of them does not; then its times say nothing.
    """
    wanted = xr.concat(
        [work.slice(step) for step in sorted({0, 1, steps // 2, steps - 1})], "time", data_vars="minimal"
    )
    for name, contestant in contestants.items():
        contestant.finish()
        where = {"store": contestant.store(), "storage_options": contestant.options.get("storage_options")}
        group: Any = zarr.open_group(mode="r", **where)
        for key in work.names:
            assert group[key].chunks == (1, *work.chunk), f"{name} has chunks {group[key].chunks}"
            assert codec_of(group[key]) == BLOSC, f"{name} has the codec {codec_of(group[key])}"
        with xr.open_zarr(chunks=None, **where) as cube:
            assert np.array_equal(cube.time.values, work.labels(0, steps)), f"{name} has other labels"
            assert cube.sel(time=wanted.time).equals(wanted), f"{name} has other values"


def codec_of(array: Any) -> dict[str, Any]:
    """Return what is told of Blosc in both formats."""
    (codec,) = array.compressors
    told = codec.get_config() if array.metadata.zarr_format == 2 else codec.to_dict()["configuration"]
    shuffle = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}.get(told["shuffle"], told["shuffle"])
    return {"cname": told["cname"], "clevel": told["clevel"], "shuffle": shuffle}
