"""Rolling back what a killed process left: chunks that are new, and chunks that were changed in place."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import zappend
from benchmarks.measure import Run, Setting, Timed, alternate, child, place
from benchmarks.table import Goal, Table, table_of

KILLED = """
import os, signal, sys
from zappend.txn import transaction
target, first, stop, size = sys.argv[1], *map(int, sys.argv[2:])
with transaction(target) as txn:
    txn.update({f"array/{i}.0": os.urandom(size) for i in range(first, stop)})
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Dies when all is written, and nothing is decided."""


def run(setting: Setting) -> list[Table]:
    chunks, size = (10, 1000) if setting.quick else (1000, 100_000)
    setting = setting.few(1 if setting.quick else 5)
    with place(setting.memory_folder) as memory, place(setting.folder) as disk:
        runs: dict[str, Run] = {}
        for where, folder in (("in memory", memory), ("on a disk", disk)):
            cube = folder / "cube.zarr"
            with zappend.transaction(cube, durability="process") as txn:
                txn.update({f"array/{i}.0": bytes(size) for i in range(chunks)})
            for what, first in (("new chunks", chunks), ("changed chunks", 0)):
                runs[f"{chunks:,} {what}, {where}"] = partial(prepare, cube, first, chunks, size)
        times = alternate(runs, setting.rounds)
        for folder in (memory, disk):
            left = [path for path in folder.rglob("*") if path.is_file()]
            assert len(left) == chunks, f"{len(left)} files are left"
            assert all(path.read_bytes() == bytes(size) for path in left), "a chunk was not restored"
    goals = [Goal(f"seconds, {name}", times.of(name), most=1.0) for name in runs]
    return [table_of(f"rollback of chunks of {size / 1000:g} kB after a kill", times, [], goals)]


def prepare(cube: Path, first: int, chunks: int, size: int, number: int) -> Timed:
    """Let a process die in a transaction on `cube`; return the rollback, which leaves the cube as it was."""
    child("-c", KILLED, cube, first, first + chunks, size, killed=True)

    def roll_back() -> None:
        assert zappend.rollback(cube).outcome == "rolled back"

    return roll_back
