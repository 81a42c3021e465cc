"""``zappend demo``: what zappend is for, shown on generated slices, with a real process that is really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from zappend.api import append, rollback
from zappend.errors import UsageError

__all__ = ["run"]

DAYS = 5
Say = Callable[[str], object]


def run(say: Say, keep: str | None = None, zarr_format: int = 2) -> None:
    """Show an append, a kill half-way, a rollback and the append again, telling each step to `say`.

    Parameters
    ----------
    say
        Called with one line after the other.
    keep
        A folder that is made for slices and cube, and stays; by default a temporary one, which goes.
    zarr_format
        Format of the cube.
    """
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="zappend-demo-") as folder:
            _show(say, Path(folder), zarr_format)
        return
    try:
        os.mkdir(keep)
    except OSError as error:
        raise UsageError(f"cannot make the folder {keep}: {error.strerror}") from error
    _show(say, Path(keep), zarr_format)


def _show(say: Say, folder: Path, zarr_format: int) -> None:
    slices = [_make_slice(folder, day) for day in range(DAYS)]
    cube = folder / "cube.zarr"
    say(f"Made {DAYS} NetCDF slices, a day each, in {folder}.")

    done = append(cube, slices[:3], zarr_format=zarr_format)
    say(f"Appended {int(done)} of them: {_days(cube)} days in a new Zarr {zarr_format} cube.")
    before = _tree(cube)

    with subprocess.Popen([sys.executable, "-c", KILLED, str(cube), str(slices[3])]) as process:
        code = process.wait()
    if code != -signal.SIGKILL:
        raise RuntimeError(f"the process that was to be killed ended with {code}")
    pending = sorted(os.listdir(f"{cube}.zappend"))
    left = len(_tree(cube).keys() - before.keys())
    say(f"Killed the append of the next one half-way (SIGKILL): {left} new files lie about, the log has {pending}.")
    say(f"A reader still sees {_days(cube)} days.")

    settled = rollback(cube)
    same = _tree(cube) == before and not os.path.exists(f"{cube}.zappend")
    if not same:
        raise RuntimeError("the cube was not restored")
    say(f"zappend rollback: {settled.outcome}; the cube is the old one byte for byte, and nothing is left beside it.")

    append(cube, slices[3:])
    say(f"Appended the rest again: {_days(cube)} days.\n")
    with xr.open_zarr(cube, chunks=None) as dataset:
        say(str(dataset))


# Killed when the second chunk file is about to be renamed into its place: the log is there, the commit is not.
KILLED = """
import os, signal, sys
from zappend import append
from zappend.txn.files import Files
from zappend.txn.local import LocalStorage

class Killing(Files):
    chunks = 0
    def rename(self, source, to):
        self.chunks += "/cube.zarr/" in to
        if self.chunks == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super().rename(source, to)

append(LocalStorage(sys.argv[1], files=Killing()), sys.argv[2], threads=1)
"""


def _make_slice(folder: Path, day: int) -> Path:
    path = folder / f"slice-{day}.nc"
    lat, lon = np.linspace(-89, 89, 90), np.linspace(-179, 179, 180)
    field = 15 + 12 * np.cos(np.radians(lat))[:, None] + np.sin(np.radians(lon) + day)[None, :]
    dataset = xr.Dataset(
        {"sst": (("time", "lat", "lon"), field[None].astype("f4"), {"units": "degC", "long_name": "sea surface"})},
        {"time": [np.datetime64("2026-01-01", "ns") + np.timedelta64(day, "D")], "lat": lat, "lon": lon},
        {"title": "Made up by zappend demo"},
    )
    dataset.time.encoding.update(units="days since 2026-01-01", dtype="i8")
    dataset.to_netcdf(path, engine="h5netcdf", encoding={"sst": {"zlib": True}})
    return path


def _days(cube: Path) -> int:
    with xr.open_zarr(cube, chunks=None) as dataset:
        return int(dataset.sizes["time"])


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
