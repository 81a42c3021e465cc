"""A cube that is a group inside a larger store: one lock, and the metadata of every group above it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import DictCase, FolderCase, ObjectCase
from faultlab import days

import zappend
from zappend.errors import Locked, SliceError, TargetError, UsageError
from zappend.testing import Faults, Killed

FORMATS = (2, 3)


def group_of(path: Path, zarr_format: int, *groups: str) -> None:
    """Make a store of groups with an array beside the cube, consolidated at the root and at each of `groups`."""
    root = zarr.create_group(path, zarr_format=zarr_format)  # type: ignore[arg-type]
    root.create_group("a/other").create_array("values", data=np.arange(3))
    for group in (*groups, ""):
        zarr.consolidate_metadata(path, path=group or None)


def many(*firsts: int) -> xr.Dataset:
    return xr.concat(
        [days(first) for first in firsts],
        "time",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
    )


def assert_same(ours: xr.Dataset, expected: xr.Dataset) -> None:
    assert set(ours.variables) == set(expected.variables)
    for name, variable in expected.variables.items():
        np.testing.assert_array_equal(ours.variables[name].values, variable.values, str(name))


def read(path: Path, group: str | None, *, consolidated: bool) -> xr.Dataset:
    return xr.open_zarr(path, group=group, consolidated=consolidated, decode_cf=False).load()


def check_groups(path: Path, group: str, expected: xr.Dataset) -> None:
    """The cube reads the same in every way, and the root's copies are what zarr would write."""
    for consolidated in (True, False):
        assert_same(read(path, group, consolidated=consolidated), expected)
    document = path / ("zarr.json" if (path / "zarr.json").exists() else ".zmetadata")
    ours = json.loads(document.read_bytes())
    root = zarr.open_consolidated(path)
    for name in expected.variables:
        np.testing.assert_array_equal(root[f"{group}/{name}"].shape, expected[name].shape)  # type: ignore[union-attr]
    zarr.consolidate_metadata(path)
    theirs = json.loads(document.read_bytes())
    assert metadata(ours) == metadata(theirs)


def metadata(document: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a consolidated document, as far as they mean something."""
    entries = document.get("consolidated_metadata", document)["metadata"]
    return {
        key: {name: value for name, value in entry.items() if name != "consolidated_metadata"}
        for key, entry in entries.items()
        if not (key.endswith(".zattrs") and not entry)
    }


@pytest.mark.effect("group")
@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("group", ["cube", "a/cube", "a/deep/er/cube"])
def test_cube_in_a_group_of_a_store(tmp_path: Path, zarr_format: int, group: str) -> None:
    path = tmp_path / "store.zarr"
    group_of(path, zarr_format, "a")
    result = zappend.append(path, [days(0), days(2)], group=group)
    assert result == 2
    check_groups(path, group, many(0, 2))
    zappend.append(path, days(4), group=f"/{group}/")
    check_groups(path, group, many(0, 2, 4))
    np.testing.assert_array_equal(zarr.open_consolidated(path)["a/other/values"][:], [0, 1, 2])  # type: ignore[index]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["store.zarr"]


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_store_that_is_not_there_yet(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "store.zarr"
    for group in ("x/first", "x/second"):
        zappend.append(path, [days(0), days(2)], group=group, zarr_format=zarr_format if group == "x/first" else None)
        check_groups(path, group, many(0, 2))


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_replaced_cube(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "store.zarr"
    group_of(path, zarr_format, "a")
    zappend.append(path, days(0).assign(old=("time", [1, 2])), group="a/cube")
    zappend.append(path, days(7), group="a/cube", force_new=True, dry_run=True)
    assert "old" in read(path, "a/cube", consolidated=True)
    zappend.append(path, days(7), group="a/cube", force_new=True)
    check_groups(path, "a/cube", days(7))
    np.testing.assert_array_equal(zarr.open_consolidated(path)["a/other/values"][:], [0, 1, 2])  # type: ignore[index]


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_groups_above_keep_their_ways(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "store.zarr"
    zarr.create_group(path, zarr_format=zarr_format, attributes={"title": "all"}).create_group("a")  # type: ignore[arg-type]
    for document in path.rglob("*z*"):
        if document.is_file():
            document.write_bytes(document.read_bytes() + b"\n")  # as nobody else writes it
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    zappend.append(path, [days(0), days(2)], group="a/cube")
    assert {p: p.read_bytes() for p in before} == before, "not consolidated, so nothing is to be changed"
    assert_same(read(path, "a/cube", consolidated=False), many(0, 2))


def test_dry_run_writes_nothing(folder: FolderCase) -> None:
    group_of(folder.path, 3, "a")
    before = folder.state()
    assert zappend.append(folder.path, [days(0), days(2)], group="a/cube", dry_run=True) == 2
    with pytest.raises(SliceError):
        zappend.append(folder.path, [days(2), days(0)], group="a/cube", dry_run=True)
    assert folder.state() == before


@pytest.mark.attack(28)
def test_refusals(folder: FolderCase) -> None:
    group_of(folder.path, 3)
    before = folder.state()
    with pytest.raises(UsageError, match="group"):
        zappend.append(folder.path, days(0), group="../b")
    with pytest.raises(TargetError, match="Zarr format 3, and the cube in it format 2"):
        zappend.append(folder.path, days(0), group="cube", zarr_format=2)
    with pytest.raises(TargetError, match="is an array"):
        zappend.append(folder.path, days(0), group="a/other/values/cube")
    with pytest.raises(TargetError, match="as the group"):
        zappend.append(folder.path / "a" / "cube", days(0))
    assert folder.state() == before


def test_lock_is_that_of_the_store(folder: FolderCase) -> None:
    group_of(folder.path, 3)
    with zappend.transaction(folder.path), pytest.raises(Locked):
        zappend.append(folder.path, days(0), group="cube")


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("kind", ["dict", "folder", "bucket"])
def test_killed_at_every_operation(home: Path, kind: str, zarr_format: int) -> None:
    case: Any = {"dict": DictCase(), "folder": FolderCase(home, "process"), "bucket": ObjectCase()}[kind]
    store: dict[str, bytes] = {}
    settings: dict[str, Any] = {"group": "a/cube", "threads": 1, "zarr_format": zarr_format}
    zappend.append(store, days(0), **settings)
    case.reset(store)
    old, probe = case.state(), Faults()
    zappend.append(case.target(probe), days(2), **settings)
    new = case.state()
    for at in range(1, len(probe.calls) + 1):
        case.reset(store)
        with pytest.raises(Killed):
            zappend.append(case.target(Faults(at, lasting=True)), days(2), **settings)
        case.bury()
        zappend.rollback(case.target())
        assert case.state() in (old, new), at
