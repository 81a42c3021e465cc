"""Append beside ``xarray.to_zarr(append_dim=)`` and beside a raw floor, alternating in one run.

The floor encodes the same chunks with the same codec on as many threads, and writes each to a temporary file that it
renames (for ``full`` durability: syncs, too): what the bytes cost without reading, checking, metadata or safety. Times
are medians, ratios are medians of the ratios of neighbouring runs, since the speed of a machine drifts.

Run it by ``python benchmarks/append.py [--folder FOLDER] [--rounds N] [--json FILE]``; a folder on a memory file
system shows the processor's part, one on a disk the price of durability.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rich_click as click
import xarray as xr
from rich.console import Console
from rich.table import Table

import zappend
from zappend.codec import ChunkCodec, default_codecs, single_threaded_blosc
from zappend.metadata import new_array

THREADS = os.cpu_count() or 1


@dataclass(frozen=True)
class Work:
    """What one append writes: `variables` float32 variables of `size`² values a step, in chunks of `chunk`²."""

    name: str
    variables: int
    size: tuple[int, int]
    chunk: tuple[int, int]

    def slice(self, step: int) -> xr.Dataset:
        rng = np.random.default_rng(step)
        y, x = (np.linspace(0, 1, n) for n in self.size)
        smooth = np.cos(9 * y)[:, None] * np.sin(7 * x)[None, :] + step
        noise = rng.normal(0, 0.01, self.size)
        values = (smooth + noise).astype("f4")[None]
        dataset = xr.Dataset(
            {f"v{i}": (("time", "y", "x"), values + np.float32(i)) for i in range(self.variables)},
            {"time": [np.datetime64("2024-01-01", "ns") + np.timedelta64(step, "h")], "y": y, "x": x},
        )
        dataset.time.encoding = {"units": "hours since 2024-01-01", "dtype": "i8", "calendar": "standard"}
        for i in range(self.variables):
            # Kept by zappend; asked for by name of xarray, which then writes the same chunks.
            dataset[f"v{i}"].encoding = {"preferred_chunks": {"time": 1, "y": self.chunk[0], "x": self.chunk[1]}}
        return dataset


WORKS = [
    Work("48 chunks, 50 MB", 3, (2048, 2048), (512, 512)),
    Work("1 chunk, 4 MB", 1, (721, 1440), (721, 1440)),
    Work("3 small chunks", 3, (64, 64), (64, 64)),
]

Append = Callable[[xr.Dataset], object]
Contestant = Callable[[Work, Path], Append]


def by_zappend(zarr_format: int, durability: str) -> Contestant:
    def start(work: Work, folder: Path) -> Append:
        target = folder / "cube.zarr"
        return lambda dataset: zappend.append(target, dataset, zarr_format=zarr_format, durability=durability)

    return start


def by_xarray(zarr_format: int) -> Contestant:
    def start(work: Work, folder: Path) -> Append:
        target = folder / "cube.zarr"

        def append(dataset: xr.Dataset) -> None:
            dataset = dataset.drop_encoding()
            if target.exists():
                dataset.drop_vars(["y", "x"]).to_zarr(target, append_dim="time")
            else:
                chunks = {"chunks": (1, *work.chunk)}
                encoding = dict.fromkeys(dataset.data_vars, chunks) | {
                    "time": {"units": "hours since 2024-01-01", "chunks": (131072,)}
                }
                dataset.to_zarr(target, zarr_format=zarr_format, consolidated=True, encoding=encoding)

        return append

    return start


def by_floor(durability: str) -> Contestant:
    def start(work: Work, folder: Path) -> Append:
        pool = ThreadPoolExecutor(THREADS)
        steps = iter(range(10**9))
        array = new_array(
            "v",
            2,
            shape=(1, *work.size),
            chunks=(1, *work.chunk),
            dims=("time", "y", "x"),
            dtype=np.dtype("<f4"),
            fill_value=None,
            attrs={},
            codecs=default_codecs(2, np.dtype("<f4")),
        )
        codec = ChunkCodec(array)

        def write(block: np.ndarray, path: Path) -> None:
            data = codec.encode(np.ascontiguousarray(block))
            fd = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(fd, data)
            if durability == "full":
                os.fsync(fd)
            os.close(fd)
            os.rename(f"{path}.tmp", path)

        def append(dataset: xr.Dataset) -> None:
            step = next(steps)
            (height, width), jobs = work.chunk, []
            with single_threaded_blosc():
                for name in dataset.data_vars:
                    (folder / name).mkdir(exist_ok=True)
                    values = dataset[name].values
                    for i in range(0, work.size[0], height):
                        for j in range(0, work.size[1], width):
                            path = folder / name / f"{step}.{i}.{j}"
                            jobs.append(pool.submit(write, values[:, i : i + height, j : j + width], path))
                for job in jobs:
                    job.result()
            if durability == "full":
                for name in dataset.data_vars:
                    fd = os.open(folder / name, os.O_RDONLY)
                    os.fsync(fd)
                    os.close(fd)

        return append

    return start


CONTESTANTS: dict[str, Contestant] = {
    "floor": by_floor("process"),
    "zappend 2": by_zappend(2, "process"),
    "zappend 3": by_zappend(3, "process"),
    "xarray 2": by_xarray(2),
    "xarray 3": by_xarray(3),
    "floor, synced": by_floor("full"),
    "zappend 2, durable": by_zappend(2, "full"),
}


def measure(work: Work, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each append, by contestant; the first two appends of each are not counted."""
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    appends = {}
    for name, contestant in CONTESTANTS.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        appends[name] = contestant(work, place)
    for step in range(rounds + 2):
        dataset = work.slice(step)
        for name, append in appends.items():
            begin = time.perf_counter()
            append(dataset)
            if step >= 2:
                times[name].append(time.perf_counter() - begin)
    return times


@click.command()
@click.option("--folder", help="Where cubes are written; the temporary folder by default.")
@click.option("--rounds", default=15, show_default=True, help="Appends of each contestant that count.")
@click.option("--json", "json_path", help="Write all times to this file, too.")
def main(folder: str | None, rounds: int, json_path: str | None) -> None:
    """Measure appends side by side."""
    warnings.simplefilter("ignore")
    results = {}
    for work in WORKS:
        place = Path(tempfile.mkdtemp(prefix="zappend-bench-", dir=folder))
        try:
            results[work.name] = measure(work, place, rounds)
        finally:
            shutil.rmtree(place)
    packages = ("zappend", "xarray", "zarr", "numcodecs", "numpy")
    about = {name: importlib.metadata.version(name) for name in packages}
    about |= {"python": platform.python_version(), "processors": str(THREADS), "rounds": str(rounds)}
    console = Console(width=110)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    for name, times in results.items():
        table = Table(title=name, title_justify="left")
        for column in ("contestant", "median ms", "least ms", "of the floor", "xarray 2 is slower by"):
            table.add_column(column, justify="left" if column == "contestant" else "right")
        for contestant, seconds in times.items():
            floor = times["floor, synced" if contestant.endswith(("durable", "synced")) else "floor"]
            to_floor = statistics.median(a / b for a, b in zip(seconds, floor, strict=True))
            to_xarray = statistics.median(b / a for a, b in zip(seconds, times["xarray 2"], strict=True))
            row = (statistics.median(seconds) * 1e3, min(seconds) * 1e3, to_floor, to_xarray)
            table.add_row(contestant, *(f"{value:.2f}" for value in row))
        console.print(table)
    if json_path:
        Path(json_path).write_text(json.dumps({"about": about, "seconds": results}, indent=1))


if __name__ == "__main__":
    main()
