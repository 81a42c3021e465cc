"""NetCDF slices end to end, as users do it: the command line, and a loop of ``open_dataset`` and ``to_zarr``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import xarray as xr

from benchmarks.measure import Run, Setting, Timed, alternate, child, place
from benchmarks.table import Table, ratios, table_of
from benchmarks.works import Work

ZAPPEND = """
import sys, time
import xarray, zarr, zappend.api
zarr_format, durability, target, *slices = sys.argv[1:]
begin = time.perf_counter()
zappend.append(target, slices, zarr_format=int(zarr_format), durability=durability)
print(time.perf_counter() - begin)
"""
XARRAY = """
import sys, time, warnings
import numcodecs, xarray, zarr
zarr_format, _, target, *slices = sys.argv[1:]
warnings.simplefilter("ignore")
begin = time.perf_counter()
blosc = numcodecs.Blosc("lz4", 5) if zarr_format == "2" else zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle")
for number, path in enumerate(slices):
    with xarray.open_dataset(path) as one:
        chunks = {name: one[name].encoding["chunksizes"] for name in one.data_vars}
        units = {"units": one.time.encoding["units"], "chunks": (16384,), "compressors": blosc}
        one = one.drop_encoding()
        if number:
            one.drop_vars(["y", "x"]).to_zarr(target, append_dim="time", consolidated=True)
        else:
            encoding = {name: {"chunks": shape, "compressors": blosc} for name, shape in chunks.items()}
            one.to_zarr(target, zarr_format=int(zarr_format), consolidated=True, encoding={**encoding, "time": units})
print(time.perf_counter() - begin)
"""


PLACES = {"in memory": "process", "durable, on a disk": "full"}


def run(setting: Setting) -> list[Table]:
    work, count = Work("files", 3, (1024, 1024), (512, 512)), 20
    if setting.quick:
        work, count = Work("files", 1, (256, 256), (256, 256)), 2
    setting = setting.few(1 if setting.quick else 5)
    tables = []
    with place(setting.folder) as folder:
        slices = [write(work, step, folder) for step in range(count)]
        for where, durability in list(PLACES.items())[: 1 if setting.quick else None]:
            parent = setting.memory_folder if where == "in memory" else setting.folder
            tables += [measure(slices, parent, durability, setting, where, whole=whole) for whole in (True, False)]
    return tables


def measure(
    slices: Sequence[Path], parent: Path, durability: str, setting: Setting, where: str, *, whole: bool
) -> Table:
    """Return the seconds of a slice; `whole`: of whole processes, else of what is done after all is imported."""
    with place(parent) as home:
        runs: dict[str, Run] = {}
        for zarr_format in (2,) if setting.quick else (2, 3):
            command = (
                "-m",
                "zappend",
                "append",
                "--no-progress",
                "--zarr-format",
                zarr_format,
                "--durability",
                durability,
            )
            calls = {
                "zappend": (*command, "-t") if whole else ("-c", ZAPPEND, zarr_format, durability),
                "xarray": ("-c", XARRAY, zarr_format, durability),
            }
            for name, call in calls.items():
                cube = home / f"{name}-{zarr_format}.zarr"
                runs[f"{name} {zarr_format}"] = partial(prepare, call, cube, slices, whole)
        times = alternate(runs, setting.rounds, works=len(slices), warmup=0)
        check(sorted(home.glob("*.zarr")), slices)
    goals = ratios(times, *((f"xarray {n}", f"zappend {n}", "least", 1.5) for n in (2, 3)))
    start = "with the start of Python" if whole else "without the start of Python"
    return table_of(f"a NetCDF slice of {len(slices)}, {where}, {start}", times, ["zappend 2"], goals)


def prepare(call: Sequence[object], cube: Path, slices: Sequence[Path], whole: bool, number: int) -> Timed:
    """Remove the cube of the round before; return the process that makes it anew."""
    shutil.rmtree(cube, ignore_errors=True)

    def run_child() -> float | None:
        printed = child(*call, cube, *slices)
        return None if whole else float(printed)

    return run_child


def write(work: Work, step: int, folder: Path) -> Path:
    """Write a slice as NetCDF-4, compressed as such files are."""
    path = folder / f"slice-{step:03}.nc"
    encoding = {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": (1, *work.chunk)}
    work.slice(step).to_netcdf(path, engine="h5netcdf", encoding=dict.fromkeys(work.names, encoding))
    return path


def check(cubes: Sequence[Path], slices: Sequence[Path]) -> None:
    """Make sure that all cubes hold what the last slice holds, and as many labels as there are slices."""
    with xr.open_dataset(slices[-1]) as last:
        for path in cubes:
            with xr.open_zarr(path, chunks=None) as cube:
                assert cube.sizes["time"] == len(slices), f"{path.name} has {cube.sizes['time']} labels"
                assert cube.isel(time=[-1]).equals(last), f"{path.name} has other values"
