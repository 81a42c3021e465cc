"""An append beside its peers, in memory and, synced, on a disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.contestants import PEERS, Contestant, Floor, Maker, Zappend, check, start
from benchmarks.measure import Setting, Timed, Times, alternate, place
from benchmarks.table import Table, ratios, table_of
from benchmarks.works import Work, shrink

LARGE = Work("48 chunks, 50 MB", 3, (2048, 2048), (512, 512), slices=3)
MIDDLE = Work("1 chunk, 4 MB", 1, (721, 1440), (721, 1440), slices=10)
SMALL = Work("3 small chunks", 3, (64, 64), (64, 64), slices=30)
NOISY = Work("48 chunks, 50 MB, noisy", 3, (2048, 2048), (512, 512), slices=2, noise=True)

IN_MEMORY: dict[str, Maker] = {
    "floor": Floor,
    "zappend 2": partial(Zappend, zarr_format=2, durability="process"),
    "zappend 3": partial(Zappend, zarr_format=3, durability="process"),
    "zappend 2, each": partial(Zappend, zarr_format=2, durability="process", each=True),
    "zappend 3, each": partial(Zappend, zarr_format=3, durability="process", each=True),
    **PEERS,
}
ON_DISK: dict[str, Maker] = {
    "floor, synced": partial(Floor, synced=True),
    "zappend 2": partial(Zappend, zarr_format=2),
    "zappend 3": partial(Zappend, zarr_format=3),
    "zappend 2, each": partial(Zappend, zarr_format=2, each=True),
    **{name: maker for name, maker in PEERS.items() if not name.startswith("zarr")},
}

ME = "zappend 2"
DURABLE = [(ME, "floor, synced", "most", 1.3), ("xarray 2", ME, "least", 1.0), ("xarray 3", ME, "least", 1.0)]
GOALS = {
    LARGE: [
        (ME, "floor", "most", 1.15),
        ("xarray 2", ME, "least", 4.5),
        ("xarray 3", ME, "least", 4.5),
        ("icechunk", ME, "least", 4.0),
        ("tensorstore", ME, "least", 1.0),
    ],
    MIDDLE: [(ME, "floor", "most", 2.0), ("xarray 2", ME, "least", 7.0), ("xarray 3", ME, "least", 7.0)],
    SMALL: [("xarray 2", ME, "least", 30.0), ("xarray 3", ME, "least", 30.0), ("tensorstore", ME, "least", 1.0)],
}


def run(setting: Setting) -> list[Table]:
    tables = []
    for work in [LARGE] if setting.quick else [LARGE, MIDDLE, SMALL, NOISY]:
        # Noise hardly shrinks: few rounds of it take gigabytes.
        times = measure(work, IN_MEMORY, setting.few(4) if work.noise else setting, setting.memory_folder)
        tables.append(table_of(f"{work.name}, in memory", times, ["floor", ME], ratios(times, *GOALS.get(work, []))))
    for work in [LARGE] if setting.quick else [LARGE, MIDDLE, SMALL]:
        # What others left to be written some time must not be written at our cost, or ours at theirs.
        times = measure(work, ON_DISK, setting, setting.folder, settle=os.sync)
        title = f"{work.name}, durable, on a disk"
        tables.append(table_of(title, times, ["floor, synced", ME], ratios(times, *DURABLE)))
    return tables


def measure(
    work: Work, makers: Mapping[str, Maker], setting: Setting, parent: Path, settle: Timed | None = None
) -> Times:
    """Return the seconds of a slice, for all contestants, whose cubes are then found to be equal."""
    if setting.quick:
        work = shrink(work)
    with place(parent) as folder:
        contestants = start(makers, str(folder), work, setting.tell)
        appending = {name: Appending(contestant) for name, contestant in contestants.items()}
        times = alternate(appending, setting.rounds, works=work.slices, settle=settle)
        check(contestants, work, 1 + (1 + setting.rounds) * work.slices)
    return times


class Appending:
    """Runs of a contestant whose cube has `steps` slices: those of a round are made before its time begins."""

    def __init__(self, contestant: Contestant, steps: int = 1) -> None:
        self.contestant = contestant
        self.steps = count(steps)

    def __call__(self, number: int) -> Timed:
        work = self.contestant.work
        slices = [work.slice(next(self.steps)) for _ in range(work.slices)]
        return partial(self.contestant.append, slices)
