"""Each benchmark runs, checks what its contestants wrote, and tells what it promises; how fast, no test asks."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

CONTESTANTS = {
    "append": {"floor", "zappend 2", "zappend 3", "zappend 2, each", "xarray 2", "xarray 3", "zarr 2", "zarr 3"},
    "growth": {"2 labels", "20 labels"},
    "s3": {"zappend 2", "xarray 2"},
    "memory": {"zappend 2 from NetCDF", "zappend 2 from Zarr"},
    "files": {"zappend 2", "xarray 2"},
    "rollback": {"10 new chunks, in memory", "10 changed chunks, on a disk"},
    "overhead": {"dict", "files", "dict, txn[key] = …", "files, txn.update(…)"},
    "start": {"python -c pass", "import zappend", "zappend --version"},
}
WITHOUT_GOALS = ["overhead"]


def run(*args: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", CONTESTANTS)
def test_a_benchmark_runs(tmp_path: Path, name: str) -> None:
    result = tmp_path / "result.json"
    folders = [tmp_path / "disk", tmp_path / "memory"]
    for folder in folders:
        folder.mkdir()
    done = run(name, "--quick", "--folder", folders[0], "--memory-folder", folders[1], "--json", result)
    assert done.returncode == 0, done.stderr
    assert not [path for folder in folders for path in folder.iterdir()]

    told = json.loads(result.read_text())
    assert told["quick"]
    assert told["rounds"] == 2
    assert {"python", "zappend", "xarray", "zarr", "numcodecs"} <= told["versions"].keys()
    assert {"system", "processor", "processors"} <= told["machine"].keys()
    assert list(told["tables"]) == [name]
    for table in told["tables"][name]:
        assert table["title"] in done.stdout
        assert {row[0] for row in table["rows"]} == table["seconds"].keys() == table["percentiles"].keys()
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
        for contestant, seconds in table["seconds"].items():
            percentiles = table["percentiles"][contestant]
            assert min(seconds) == percentiles["least"] <= percentiles["p5"] <= percentiles["median"]
            assert percentiles["median"] <= percentiles["p95"] <= max(seconds)
            assert contestant in done.stdout
        for goal in table["goals"]:
            assert goal["what"] in done.stdout
            assert (goal["most"] is None) != (goal["least"] is None)
            assert goal["reached"] in (True, False)
        assert bool(table["goals"]) == (name not in WITHOUT_GOALS)
    assert told["tables"][name][0]["seconds"].keys() >= CONTESTANTS[name]


def test_every_benchmark_is_tested_and_described() -> None:
    here = run("--help").stdout
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    for name in CONTESTANTS:
        assert name in here
        assert f"**{name}**" in readme
    assert run("elsewhere").returncode == 2


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what imports a module of the benchmarks, which are not installed with the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_contestants_alternate(benchmarks: Any) -> None:
    seen: list[tuple[str, int]] = []

    def prepare(name: str, number: int) -> Any:
        return lambda: seen.append((name, number)) or (2.0 if name == "a" else 1.0) * (1 + number)

    times = benchmarks("measure").alternate({name: partial(prepare, name) for name in "abc"}, 5, works=2)
    rounds = [seen[i : i + 3] for i in range(0, len(seen), 3)]
    assert [sorted(round) for round in rounds] == [[(name, number) for name in "abc"] for number in range(6)]
    assert len({"".join(name for name, _ in round) for round in rounds}) > 2
    assert times.seconds["a"] == [2.0, 3.0, 4.0, 5.0, 6.0]  # without the first, and for one of two works
    assert times.ratio("a", "b") == 2
    assert times.beyond("a", "b") == 2


@pytest.mark.parametrize("name", ["floor", "zappend 3", "tensorstore"])
def test_a_cube_that_differs_is_noticed(benchmarks: Any, tmp_path: Path, name: str) -> None:
    makers, works = benchmarks("append").IN_MEMORY, benchmarks("works")
    contestants = benchmarks("contestants")
    work = works.shrink(works.Work("small", 2, (64, 64), (32, 32)))
    made = contestants.start({name: makers[name]}, str(tmp_path), work, pytest.fail)
    made[name].append([work.slice(1), work.slice(2)])
    contestants.check(made, work, 3)
    with pytest.raises(AssertionError, match="labels"):
        contestants.check(made, work, 4)
    made[name].append([work.slice(5).assign_coords(time=work.labels(3, 4))])
    with pytest.raises(AssertionError, match="values"):
        contestants.check(made, work, 4)


def test_a_contestant_that_is_not_installed_is_left_out(benchmarks: Any, tmp_path: Path) -> None:
    contestants, works = benchmarks("contestants"), benchmarks("works")

    def missing(target: str, work: Any) -> Any:
        return importlib.import_module("a_package_that_nobody_has")

    told: list[str] = []
    assert contestants.start({"other": missing}, str(tmp_path), works.Work("w", 1, (8, 8), (8, 8)), told.append) == {}
    assert "other is left out" in told[0]
