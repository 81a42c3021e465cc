"""``python -m benchmarks``: run them, print their tables, and write them as JSON."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console

from benchmarks.measure import Setting

NAMES = ("append", "growth", "s3", "memory", "files", "rollback", "overhead", "start")
PACKAGES = ("zappend", "zarr", "xarray", "numcodecs", "numpy", "h5netcdf", "s3fs", "icechunk", "tensorstore")
MEMORY = Path("/dev/shm")


@click.command()
@click.argument("names", nargs=-1, metavar=f"[{'|'.join(NAMES)}]...")
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where cubes lie on a disk."
)
@click.option(
    "--memory-folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where cubes lie in memory; /dev/shm where it is there.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Runs of each that count.")
@click.option("--quick", is_flag=True, help="The smallest works, two rounds at most, to see that all is in order.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all seconds here, too."
)
def main(
    names: tuple[str, ...],
    folder: Path | None,
    memory_folder: Path | None,
    rounds: int,
    quick: bool,
    json_path: Path | None,
) -> None:
    """Measure zappend beside its peers: all benchmarks, or those that are named."""
    if unknown := sorted(set(names) - set(NAMES)):
        raise click.UsageError(f"there is no benchmark {unknown[0]!r}, only {', '.join(NAMES)}")
    console = Console(width=130, markup=False, highlight=False)
    folder = folder or Path(tempfile.gettempdir())
    memory_folder = memory_folder or (MEMORY if MEMORY.is_dir() else folder)
    setting = Setting(folder.resolve(), memory_folder.resolve(), 2 if quick else rounds, quick, console.print)
    about: dict[str, Any] = {"versions": versions(), "machine": machine(), "rounds": setting.rounds, "quick": quick}
    console.print(" · ".join(f"{name} {value}" for name, value in {**about["versions"], **about["machine"]}.items()))
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names or NAMES:
        console.rule(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that others have no specification of yet
            tables = importlib.import_module(f"benchmarks.{name}").run(setting)
        for table in tables:
            table.print(console)
        found[name] = [table.json() for table in tables]
        if json_path:  # after each, as all of them take long
            json_path.write_text(json.dumps({**about, "tables": found}, indent=1))


def versions() -> dict[str, str]:
    """Return the versions of all packages that are installed."""
    there = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            there[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return there


def machine() -> dict[str, Any]:
    return {"system": platform.platform(), "processor": platform.machine(), "processors": os.cpu_count()}


if __name__ == "__main__":
    main()
