"""Contestants alternate, so that a machine that is now fast, now slow, is so for all of them; and what they took."""

from __future__ import annotations

import contextlib
import gc
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]

Timed = Callable[[], object]
"""What is timed. If it returns a float, then that is the seconds that count."""

Run = Callable[[int], Timed]
"""Prepares the run of a round, which is not timed, and returns it."""


@dataclass(frozen=True)
class Setting:
    """Where and how often to measure; `quick`: the smallest works, to see that all is in order."""

    folder: Path
    memory_folder: Path
    rounds: int
    quick: bool
    tell: Callable[[str], object] = print

    def few(self, rounds: int) -> Setting:
        """Return the same with `rounds` at most, for works that take long."""
        return Setting(self.folder, self.memory_folder, min(rounds, self.rounds), self.quick, self.tell)


class Times:
    """The seconds of contestants, by name, one for each round."""

    def __init__(self, seconds: Mapping[str, list[float]]) -> None:
        self.seconds = dict(seconds)

    def of(self, name: str, percent: float = 50) -> float:
        """Return a percentile of the seconds, by default the median."""
        return float(np.percentile(self.seconds[name], percent))

    def ratio(self, name: str, to: str) -> float:
        """Return the median of the ratios of the runs of one round."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True))

    def beyond(self, name: str, to: str) -> float:
        """Return the median of the differences of the runs of one round, in seconds."""
        return statistics.median(a - b for a, b in zip(self.seconds[name], self.seconds[to], strict=True))

    def percentiles(self) -> dict[str, dict[str, float]]:
        ranks = {"least": 0, "p5": 5, "median": 50, "p95": 95}
        return {name: {key: self.of(name, rank) for key, rank in ranks.items()} for name in self.seconds}


def alternate(
    runs: Mapping[str, Run], rounds: int, *, works: int = 1, warmup: int = 1, settle: Timed | None = None
) -> Times:
    """Run all `runs` in turn, `rounds` times; return the seconds of one of the `works` that each of them does.

    The order differs from round to round, so that nobody has always the same neighbour, and is the same each time this
    is called. Before each run memory is tidied up, and `settle` is called. The first `warmup` rounds do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warmup + rounds):
        for name in random.Random(number).sample(list(runs), len(runs)):
            timed = runs[name](number)
            gc.collect()
            if settle is not None:
                settle()
            begin = time.perf_counter()
            result = timed()
            taken = result if isinstance(result, float) else time.perf_counter() - begin
            if number >= warmup:
                seconds[name].append(taken / works)
    return Times(seconds)


@contextlib.contextmanager
def place(parent: Path) -> Iterator[Path]:
    """Make a folder that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="zappend-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def child(*args: Any, killed: bool = False) -> str:
    """Run Python with `args` in a process of its own; return what it printed. `killed`: its end must be a kill."""
    done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode != (-9 if killed else 0):
        raise RuntimeError(f"a child process ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
