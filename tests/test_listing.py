"""Slices that the command line names by lists, by patterns, and through a pipe."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cubes
import fsspec
import pytest
import xarray as xr
from commands import Outcome, run
from s3server import BUCKET, S3Server
from webserver import WebServer

COUNT = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the current folder, with slices in ``in/a``, which are named by numbers in the order of their labels."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    for i, path in enumerate(cubes.write_netcdf(tmp_path, [cubes.packed(2 * i) for i in range(COUNT)])):
        path.rename(tmp_path / "in" / "a" / f"day-{i}.nc")
    return tmp_path


def append(folder: Path, *slices: str, stdin: str = "") -> Outcome:
    """Append slices in the order given, whatever their labels."""
    with mock.patch.object(sys, "stdin", io.StringIO(stdin)):
        return run("append", "-t", "cube", "--append-step", "any", *slices, cwd=folder)


def order(folder: Path) -> list[int]:
    """Return the slices in the cube, by number."""
    with xr.open_zarr(folder / "cube", chunks=None) as cube:
        return [int(day) // 2 for day in (cube.time.values - cubes.days(0, 1)[0]).astype("m8[D]").astype(int)[::2]]


LISTS: dict[str, tuple[list[str], str, list[int]]] = {
    "a pattern": (["in/a/day-*.nc"], "", [0, 1, 2, 3]),
    "a pattern of a URL": (["file://{}/in/a/day-[12].nc"], "", [1, 2]),
    "two patterns and a name": (["in/a/day-[23].nc", "in/a/day-1.nc", "in/*/day-0.??"], "", [2, 3, 1, 0]),
    "a pattern of folders": (["in/**/*.nc"], "", [0, 1, 2, 3]),
    "a list": (["in/a/day-3.nc", "@list.txt"], "", [3, 2, 0, 1]),
    "a list from standard input": (["in/a/day-3.nc", "-", "in/a/day-2.nc"], "in/a/day-1.nc\n\n# no\n", [3, 1, 2]),
    "patterns from standard input": (["-"], "in/a/day-3.nc\r\nin/*/day-[01].nc", [3, 0, 1]),
    "one twice": (["in/a/day-3.nc", "in/a/day-[23].nc"], "", [3, 2, 3]),
}


@pytest.mark.parametrize("what", LISTS)
def test_slices_come_in_the_order_given(folder: Path, what: str) -> None:
    (folder / "list.txt").write_text("\ufeff# days\n\n  in/a/day-2.nc  \nin/a/day-[01].nc\n")
    given, stdin, expected = LISTS[what]
    outcome = append(folder, *(one.format(folder) for one in given), stdin=stdin)
    assert (outcome.code, outcome.out.splitlines()[-1]) == (0, f"{len(expected)} slices appended.")
    assert order(folder) == expected
    twice = [line for line in outcome.err.splitlines() if "more than once" in line]
    assert twice == (["WARNING: slice in/a/day-3.nc is named more than once"] if what == "one twice" else [])


def test_a_name_that_exists_is_no_pattern_and_no_list(folder: Path) -> None:
    """Patterns that it would be, and lists that it would name, are there, too."""
    a = folder / "in" / "a"
    for i, name in enumerate(["day-[12].nc", "@day.nc", "what?.nc", "*"]):
        (a / f"day-{i}.nc").rename(folder / name)
    (folder / "day.nc").write_text("nothing")
    (folder / "day-1.nc").write_text("nothing")
    outcome = append(folder, "day-[12].nc", "@day.nc", "what?.nc", "*")
    assert (outcome.code, order(folder)) == (0, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("given", "stdin", "message"),
    [
        (["in/a/day-0.nc", "in/*.nc"], "", "no slice matches in/*.nc"),
        (["in/a/day-0.nc", "memory://in/*.nc"], "", "no slice matches memory://in/*.nc"),
        (["in/a/day-0.nc", "@none.txt"], "", "the list of slices none.txt cannot be read: No such file or directory"),
        (["in/a/day-0.nc", "@memory://none"], "", "the list of slices memory://none cannot be read: "),
        (["in/a/day-0.nc", "@in"], "", "the list of slices in cannot be read: Is a directory"),
        (["in/a/day-0.nc", "@list.txt"], "", "no slice matches in/*.nc (line 2 of list.txt)"),
        (["-", "in/*.nc"], "in/a/day-0.nc", "no slice matches in/*.nc"),
        (["-", "-"], "in/a/day-0.nc", "'-' can be given once: there is one standard input"),
        (["nothing://b/*.nc"], "", "slice nothing://b/*.nc: fsspec cannot open it: Protocol not known: nothing"),
    ],
)
def test_what_cannot_be_listed_is_told_before_anything_is_done(
    folder: Path, given: list[str], stdin: str, message: str
) -> None:
    (folder / "list.txt").write_text("in/a/day-0.nc\nin/*.nc\n")
    outcome = append(folder, *given, stdin=stdin)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"Error: {message}")
    assert len(outcome.err.splitlines()) == 1
    assert not (folder / "cube").exists()


def test_an_empty_list_is_no_error(folder: Path) -> None:
    (folder / "list.txt").write_text("# none today\n")
    for given, place in (("@list.txt", "@list.txt"), ("-", "standard input")):
        assert append(folder, given) == (0, "0 slices appended.\n", f"WARNING: {place} names no slice\n")
    assert not (folder / "cube").exists()
    outcome = append(folder, "@list.txt", "in/a/day-0.nc")
    assert outcome.out == "1 slice appended.\n"
    assert outcome.err.startswith("WARNING: @list.txt names no slice\n")


def test_standard_input_is_read_as_slices_are_appended(folder: Path) -> None:
    """A slice is in before the name of the next one is known, and stays if that is wrong."""
    command = [sys.executable, "-m", "zappend", "append", "-t", "cube", "--no-progress", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        (folder / "log").touch()
        for i in range(2):
            process.stdin.write(f"in/a/day-{i}.nc\n")
            process.stdin.flush()
            wait_for_labels(folder, 2 * i + 2)
        process.stdin.write("in/*.nc\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 2
        error = [line for line in process.stderr.read().splitlines() if line.startswith("Error")]
    assert error == ["Error: no slice matches in/*.nc (line 3 of standard input)"]
    assert order(folder) == [0, 1]


def wait_for_labels(folder: Path, count: int) -> None:
    """Return when the cube has as many; the other process has nothing to do then but to read."""
    for _ in range(6000):
        if (folder / "cube").exists():
            try:
                with xr.open_zarr(folder / "cube", chunks=None) as cube:
                    if cube.sizes["time"] == count:
                        return
            except Exception:
                pass
        threading.Event().wait(0.01)
    raise AssertionError("the slice does not go in")


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(params=["S3", "S3 through a cache", "memory", "zip"])
def remote(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Put the slices elsewhere; return the URL of ``in``, and the storage options, and let the local ones go."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.nc")}
    if request.param == "memory":
        fsspec.filesystem("memory").pipe({f"/{folder.name}/{name}": data for name, data in files.items()})
        yield f"memory://{folder.name}/in/{{}}", {}
    elif request.param == "zip":
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        yield f"zip://in/{{}}::{folder}/all.zip", {}
    else:
        server: S3Server = request.getfixturevalue("running")
        server.reset()
        for name, data in files.items():
            server.put(name, data)
        options = {
            "key": "AKIA1234",
            "secret": "1234567",
            **{"client_kwargs": server.storage_options()["client_kwargs"]},
        }
        cached = "simplecache::" if "cache" in request.param else ""
        yield f"{cached}s3://{BUCKET}/in/{{}}", {"s3": options} if cached else options
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize("pattern", ["a/day-*.nc", "**/*.nc", "*/day-[0-3].nc"])
def test_patterns_of_urls(folder: Path, remote: tuple[str, dict[str, Any]], pattern: str) -> None:
    url, options = remote
    (folder / "c.json").write_text(json.dumps({"slice_storage_options": options}))
    outcome = run("append", "-t", "cube", "-c", "c.json", "-v", url.format(pattern), cwd=folder)
    assert (outcome.code, outcome.out) == (0, f"{COUNT} slices appended.\n")
    assert order(folder) == [0, 1, 2, 3]
    for i in range(COUNT):
        assert url.format(f"a/day-{i}.nc") in outcome.err
    outcome = run("append", "-t", "cube", "-c", "c.json", url.format("b/*.nc"), cwd=folder)
    assert (outcome.code, outcome.err) == (2, f"Error: no slice matches {url.format('b/*.nc')}\n")


def test_a_list_on_a_web_server(folder: Path) -> None:
    """A question mark is part of a URL, and no pattern."""
    with WebServer(folder) as web:
        (folder / "list.txt").write_text("".join(f"{web.url}/in/a/day-{i}.nc?version=1\n" for i in range(COUNT)))
        outcome = run("append", "-t", "cube", f"@{web.url}/list.txt?today", cwd=folder)
        fsspec.get_filesystem_class("http").clear_instance_cache()
    assert (outcome.code, outcome.out) == (0, f"{COUNT} slices appended.\n")


def test_names_that_are_no_text(folder: Path) -> None:
    name = os.fsdecode(b"in/a/\xff.nc")
    (folder / "in" / "a" / "day-0.nc").rename(folder / name)
    (folder / "list.txt").write_bytes(os.fsencode(name))
    assert run("append", "-t", "cube", "@list.txt", cwd=folder).code == 0
    assert order(folder) == [0]


def test_a_pattern_that_matches_nothing_is_an_argument_for_a_slice_source(folder: Path) -> None:
    (folder / "source.py").write_text("import xarray\ndef read(item):\n    return xarray.open_dataset(item[4:])\n")
    (folder / "c.yaml").write_text("slice_source: source.py:read\n")
    outcome = run("append", "-t", "cube", "-c", "c.yaml", "[1]:in/a/day-0.nc", cwd=folder)
    assert (outcome.code, outcome.out) == (0, "1 slice appended.\n")
    assert order(folder) == [0]
