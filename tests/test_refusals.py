"""Bad input on the command line: one clear line, the right exit code, no traceback, and nothing is changed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cubes
import numpy as np
import pytest
import xarray as xr
import zarr
from commands import run, run_process

import zappend

Change = Callable[[xr.Dataset], xr.Dataset]

SLICES: dict[str, tuple[Change, str]] = {
    "no append dimension": (lambda d: d.isel(time=0), "no dimension 'time' to append along; it has"),
    "an empty append dimension": (lambda d: d.isel(time=slice(0, 0)), "dimension 'time' is empty"),
    "another grid": (
        lambda d: d.assign_coords(x=d.x + 0.5),
        "variable 'x' is not that of the target: 10.5 at index [0]",
    ),
    "another size": (lambda d: d.isel(x=slice(3)), "dimension 'x' has size 3, expected 4"),
    "another constant": (lambda d: d.assign(crs=d.crs + 1), "variable 'crs' is not that of the target: 1 at index []"),
    "a repeated label": (
        lambda d: d.assign_coords(time=cubes.days(1, 2)),
        "first, 2024-01-02T00:00:00, at index 1",
    ),
    "labels that are in": (lambda d: d.assign_coords(time=cubes.days(0, 2)), "its 2 labels are in the cube already"),
    "an older label": (
        lambda d: d.assign_coords(time=d.time - np.timedelta64(9, "D")),
        "2023-12-25T00:00:00 is not after",
    ),
    "unsorted labels": (lambda d: d.isel(time=[1, 0]), "is not after the label before it"),
    "a missing label": (
        lambda d: d.assign_coords(time=d.time.where([True, False])),
        "variable 'time': label 1 is missing: it is NaN, NaT or the fill value",
    ),
    "no labels": (lambda d: d.drop_vars(["time"]), "labels 'time' are missing"),
    "a wrong size": (lambda d: d.isel(time=slice(1)), "it has 1 labels along 'time', expected 2, as a chunk of 'a'"),
    "a missing variable": (lambda d: d.drop_vars("packed"), "variable 'packed' is missing"),
    "an extra variable": (lambda d: d.assign(extra=d.a), "variable 'extra' is not in the target"),
    "other dimensions": (lambda d: d.assign(a=d.a.transpose()), "dimensions ('x', 'y', 'time'), expected"),
    "another unit": (lambda d: d.assign(a=d.a.assign_attrs(units="degC")), "has units 'degC', expected 'K'"),
    "another type": (
        lambda d: d.assign(a=d.a.astype(str)),
        "holds strings (<U32), expected numbers (float32)",
    ),
    "a time between units": (
        lambda d: d.assign_coords(time=d.time + np.timedelta64(90, "m")),
        "cannot be expressed exactly as int32 in 'hours since 2024-01-01'",
    ),
}


@pytest.mark.parametrize("fault", SLICES)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_slice_that_does_not_fit(tmp_path: Path, fault: str, zarr_format: int) -> None:
    change, message = SLICES[fault]
    target = tmp_path / "cube.zarr"
    zappend.append(target, cubes.packed(0), zarr_format=zarr_format)
    before = cubes.tree(tmp_path)
    with pytest.raises(zappend.ZappendError) as caught:
        zappend.append(target, change(cubes.packed(2)))
    assert caught.value.exit_code == 1
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert cubes.tree(tmp_path) == before


def test_one_report_names_every_difference() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0))
    wrong = cubes.small(2).drop_vars("packed").assign(extra=0).isel(x=slice(2))
    with pytest.raises(zappend.ZappendError, match=r"'packed' is missing; .*'extra' is not in .*'x' has size 2"):
        zappend.append(target, wrong)


def not_a_dataset(folder: Path) -> list[str]:
    (folder / "slice.nc").write_text("this is no NetCDF")
    return ["-t", "cube.zarr", "slice.nc"]


def an_empty_file(folder: Path) -> list[str]:
    (folder / "slice.nc").touch()
    return ["-t", "cube.zarr", "slice.nc"]


def a_torn_file(folder: Path) -> list[str]:
    [path] = cubes.write_netcdf(folder, [cubes.small(0)])
    path.write_bytes(path.read_bytes()[:5000])
    return ["-t", "cube.zarr", path.name]


def a_folder_without_zarr(folder: Path) -> list[str]:
    (folder / "slice").mkdir()
    return ["-t", "cube.zarr", "slice"]


def a_target_that_is_a_file(folder: Path) -> list[str]:
    (folder / "cube.zarr").write_text("mine")
    return ["-t", "cube.zarr", "ok.nc"]


def a_target_that_is_an_array(folder: Path) -> list[str]:
    zarr.create_array(folder / "cube.zarr", shape=(2,), dtype="i4")
    return ["-t", "cube.zarr", "ok.nc"]


def a_target_that_is_a_folder_of_something_else(folder: Path) -> list[str]:
    (folder / "cube.zarr").mkdir()
    (folder / "cube.zarr" / "thesis.tex").write_text("years of work")
    return ["-t", "cube.zarr", "ok.nc"]


def a_target_inside_a_cube(folder: Path) -> list[str]:
    cubes.small(0).to_zarr(folder / "outer.zarr", zarr_format=2)
    return ["-t", "outer.zarr/a", "ok.nc"]


def a_target_with_broken_metadata(folder: Path) -> list[str]:
    (folder / "cube.zarr").mkdir()
    (folder / "cube.zarr" / "zarr.json").write_text("{")
    return ["-t", "cube.zarr", "ok.nc"]


def a_configuration(text: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "config.yaml").write_text(text)
        return ["-c", "config.yaml", "-t", "cube.zarr", "ok.nc"]

    return make


COMMANDS: dict[str, tuple[list[str] | Callable[[Path], list[str]], int, str]] = {
    "no such slice": (["-t", "cube.zarr", "no.nc"], 1, "slice no.nc: there is no such file or folder"),
    "no dataset": (
        not_a_dataset,
        1,
        "slice slice.nc: it is neither NetCDF nor Zarr; if it is of another kind, slice_engine names what reads it: ",
    ),
    "an empty file": (an_empty_file, 1, "slice slice.nc: the file is empty"),
    "an empty name": (["-t", "cube.zarr", ""], 2, "a slice has the name '', which names nothing"),
    "a torn file": (a_torn_file, 1, "slice slice-0.nc: it is no dataset that can be read"),
    "no Zarr group as slice": (a_folder_without_zarr, 1, "slice slice: it is a folder, but no Zarr group"),
    "no parent": (["-t", "no/cube.zarr", "ok.nc"], 1, "is no folder; make it first"),
    "a file as target": (a_target_that_is_a_file, 1, "cannot write to cube.zarr: it is a file"),
    "an array as target": (a_target_that_is_an_array, 1, "is a Zarr array, and a target is a group"),
    "a foreign folder as target": (
        a_target_that_is_a_folder_of_something_else,
        1,
        "cube.zarr is no Zarr group, but it is not empty either: it holds thesis.tex",
    ),
    "a target inside a cube": (a_target_inside_a_cube, 1, "lies inside the Zarr group"),
    "broken metadata": (a_target_with_broken_metadata, 1, "cube.zarr: its Zarr metadata cannot be understood"),
    "a target elsewhere": (
        ["-t", "http://127.0.0.1:9/c.zarr", "ok.nc"],
        1,
        "with locking='unsafe' that is left to you",
    ),
    "options that are no JSON": (
        ["-t", "c.zarr", "--storage-options", "{", "ok.nc"],
        2,
        "'--storage-options': no JSON",
    ),
    "options that are no object": (["-t", "c.zarr", "--storage-options", "1", "ok.nc"], 2, "it must be an object"),
    "options for a path": (["-t", "c.zarr", "--storage-options", '{"a": 1}', "ok.nc"], 2, "go with a URL"),
    "no slices": (["-t", "cube.zarr"], 2, "Missing argument 'SLICES...'"),
    "no target": (["ok.nc"], 2, "no target: give -t TARGET, or set target_dir (Missing 'target_dir' in configuration)"),
    "an unknown option": (["-t", "cube.zarr", "--fast", "ok.nc"], 2, "No such option '--fast'"),
    "a wrong format": (["-t", "cube.zarr", "--zarr-format", "4", "ok.nc"], 2, "'4' is not one of '2', '3'"),
    "a wrong step": (["-t", "cube.zarr", "--append-step", "soon", "ok.nc"], 2, "append_step must be a number"),
    "no configuration": (["-c", "no.yaml", "-t", "cube.zarr", "ok.nc"], 2, "configuration no.yaml cannot be read"),
    "a broken configuration": (a_configuration("a: ["), 2, "configuration config.yaml cannot be understood"),
    "an unknown setting": (
        a_configuration("apend_dim: t"),
        2,
        "unknown setting 'apend_dim'; did you mean 'append_dim'?",
    ),
    "a wrong value": (
        a_configuration("threads: many"),
        2,
        "config.yaml: setting threads must be a whole number of at least 1, not 'many' (text)",
    ),
}


@pytest.mark.parametrize("fault", COMMANDS)
def test_a_command_that_cannot_work(tmp_path: Path, fault: str) -> None:
    args, code, message = COMMANDS[fault]
    cubes.write_netcdf(tmp_path, [cubes.small(0)])[0].rename(tmp_path / "ok.nc")
    if callable(args):
        args = args(tmp_path)
    before = cubes.tree(tmp_path)
    outcome = run("append", *args, cwd=tmp_path)
    flat = " ".join(outcome.err.replace("│", " ").split())
    assert message in flat
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert outcome.code == code
    assert len(outcome.err.splitlines()) == 1
    assert cubes.tree(tmp_path) == before


def test_a_process_of_its_own_says_the_same(tmp_path: Path) -> None:
    args = ("append", "-t", "cube.zarr", "no.nc")
    outcome = run_process(*args, cwd=tmp_path)
    assert outcome == run(*args, cwd=tmp_path)
    assert outcome.code == 1


def test_another_format_than_the_target_has(tmp_path: Path) -> None:
    paths = cubes.write_netcdf(tmp_path, [cubes.packed(0), cubes.packed(2)])
    assert run("append", "-t", tmp_path / "cube", paths[0]).out == "1 slice appended.\n"
    before = cubes.tree(tmp_path)
    outcome = run("append", "-t", tmp_path / "cube", "--zarr-format", "3", paths[1])
    assert outcome.code == 2
    assert "the target has Zarr format 2" in outcome.err
    assert cubes.tree(tmp_path) == before


def test_the_slices_before_a_bad_one_stay(tmp_path: Path) -> None:
    paths = cubes.write_netcdf(tmp_path, [cubes.packed(0), cubes.packed(2), cubes.packed(2)])
    outcome = run("append", "-t", tmp_path / "cube", *paths)
    assert outcome.code == 1
    assert "(the 2 slices before it went in)" in outcome.err
    cubes.assert_cube(tmp_path / "cube", cubes.concatenated([cubes.packed(0), cubes.packed(2)]))


def test_an_extra_that_would_help_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netCDF4", None)
    (tmp_path / "old.nc").write_bytes(b"CDF\x01" + bytes(100))
    with pytest.raises(zappend.ZappendError, match=r"NetCDF-3 file.*pip install 'zappend\[all\]'"):
        zappend.append(tmp_path / "cube", tmp_path / "old.nc")
