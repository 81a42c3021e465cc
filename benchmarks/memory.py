"""The peak of memory when a slice is appended that is much larger: opened lazily, from NetCDF and from Zarr."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import zarr
from zarr.codecs import BloscCodec

from benchmarks.contestants import THREADS
from benchmarks.measure import Run, Setting, Timed, alternate, child, place
from benchmarks.table import Goal, Table, table_of
from benchmarks.works import BLOSC, DIMS

CHUNK = (1024, 1024)
CHUNK_BYTES = 4 * 1024**2
MB = 1e6
BASE = 250

PEAK = """
import os, sys, warnings
warnings.simplefilter("ignore")
def peak():  # of this process alone: what getrusage says may be that of the one that it was forked from
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except FileNotFoundError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

source, target = sys.argv[1:]
"""
APPENDS = {
    "zappend 2": "import zappend; zappend.append(target, [source] * 2, append_step='any')",
    "zappend 3": "import zappend; zappend.append(target, [source] * 2, append_step='any', zarr_format=3)",
    "xarray 2, dask": """
import xarray
begin = xarray.open_dataset if source.endswith(".nc") else xarray.open_zarr
for number in range(2):
    with begin(source, chunks={}) as one:
        options = {"append_dim": "time"} if number else {"zarr_format": 2}
        one.drop_encoding().to_zarr(target, consolidated=True, **options)
""",
}
"""The slice is appended twice: to make the cube, and to let it grow."""


def run(setting: Setting) -> list[Table]:
    side = 4 if setting.quick else 32
    setting = setting.few(1)
    with place(setting.folder) as folder:
        sources = {"NetCDF": write_netcdf(folder / "slice.nc", side), "Zarr": write_zarr(folder / "slice.zarr", side)}
        peaks: dict[str, float] = {}
        runs: dict[str, Run] = {}
        for kind, source in sources.items():
            for name, code in APPENDS.items():
                if setting.quick and name != "zappend 2":
                    continue
                key = f"{name} from {kind}"
                runs[key] = partial(prepare, code, source, folder / "cube.zarr", partial(peaks.__setitem__, key))
        times = alternate(runs, setting.rounds, warmup=0)
    size = side**2 * CHUNK_BYTES
    most = BASE + 4 * THREADS * CHUNK_BYTES / MB
    goals = [Goal(f"MB of {name}", peaks[name], most=most) for name in runs if name.startswith("zappend")]
    title = f"memory for a slice of {size / MB:,.0f} MB in chunks of {CHUNK_BYTES / MB:.1f} MB, appended twice"
    return [table_of(title, times, [], goals, {"peak MB": peaks})]


def prepare(code: str, source: Path, cube: Path, tell: Callable[[float], object], number: int) -> Timed:
    """Remove the cube of the run before; return the process, which tells its peak in MB."""
    shutil.rmtree(cube, ignore_errors=True)
    return lambda: tell(float(child("-c", f"{PEAK}{code}\nprint(peak())", source, cube)) / MB)


def blocks(side: int) -> Iterator[tuple[tuple[int, slice, slice], Any]]:
    """Return `side`² chunks of smooth values, and where they lie."""
    block = np.round(20 + 10 * np.sin(np.linspace(0, 7, CHUNK[1]))) * np.ones(CHUNK, "f4")
    for i, j in product(range(side), repeat=2):
        yield (0, slice(i * CHUNK[0], (i + 1) * CHUNK[0]), slice(j * CHUNK[1], (j + 1) * CHUNK[1])), block + i + j


def write_netcdf(path: Path, side: int) -> Path:
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": 1, "y": side * CHUNK[0], "x": side * CHUNK[1]}
        options = {"chunks": (1, *CHUNK), "compression": "gzip", "compression_opts": 1, "shuffle": True}
        array = file.create_variable("v0", DIMS, "f4", **options)
        for where, block in blocks(side):
            array[where] = block
    return path


def write_zarr(path: Path, side: int) -> Path:
    group = zarr.create_group(path, zarr_format=3)
    shape = (1, side * CHUNK[0], side * CHUNK[1])
    array = group.create_array(
        "v0", shape=shape, chunks=(1, *CHUNK), dtype="f4", compressors=BloscCodec(**BLOSC), dimension_names=DIMS
    )
    for where, block in blocks(side):
        array[where] = block
    zarr.consolidate_metadata(group.store)
    return path
