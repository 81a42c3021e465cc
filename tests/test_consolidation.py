"""The setting `consolidated`: whether a cube has consolidated metadata, from the next slice on."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import cubes
import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import DictCase, FolderCase, ObjectCase
from faultlab import days

import zappend
from zappend.errors import TargetError
from zappend.testing import Faults, Killed

formats = pytest.mark.parametrize("zarr_format", [2, 3])


def listed(path: Path, zarr_format: int) -> dict[str, Any] | None:
    """Return the consolidated metadata of a group, ``None`` if it has none."""
    if zarr_format == 2:
        file = path / ".zmetadata"
        return json.loads(file.read_bytes())["metadata"] if file.exists() else None  # type: ignore[no-any-return]
    inner = json.loads((path / "zarr.json").read_bytes()).get("consolidated_metadata")
    return inner and inner["metadata"]  # type: ignore[no-any-return]


def by_zarr(path: Path, zarr_format: int) -> dict[str, Any] | None:
    """Return what zarr-python would list, and leave it there."""
    zarr.consolidate_metadata(path, zarr_format=zarr_format)  # type: ignore[arg-type]
    return listed(path, zarr_format)


def plain(entries: dict[str, Any] | None) -> dict[str, Any]:
    """Return consolidated metadata without what means nothing: empty attributes, and how nested groups are listed."""
    return {
        key: {name: value for name, value in entry.items() if name != "consolidated_metadata"}
        for key, entry in (entries or {}).items()
        if entry
    }


@formats
@pytest.mark.effect("consolidated")
@pytest.mark.parametrize("wanted", ["auto", True, False])
def test_new_cubes(tmp_path: Path, zarr_format: int, wanted: Any) -> None:
    target = tmp_path / "cube.zarr"
    slices = [cubes.packed(0), cubes.packed(2)]
    settings: dict[str, Any] = {"zarr_format": zarr_format, "consolidated": wanted}
    assert zappend.append(target, slices, dry_run=True, **settings) == 2
    assert not target.exists()
    zappend.append(target, slices, **settings)
    found = listed(target, zarr_format)
    assert (found is None) == (wanted is False)
    with xr.open_zarr(target, consolidated=wanted is not False, chunks=None) as cube:
        xr.testing.assert_identical(cube.load(), cubes.concatenated(slices))
    if found:
        assert plain(found) == plain(by_zarr(target, zarr_format))


@formats
@pytest.mark.parametrize("begin", [True, False])
def test_existing_cubes_change_with_the_next_slice(tmp_path: Path, zarr_format: int, begin: bool) -> None:
    """Not before, and back again; readers of both kinds see the same, and groups in the cube are listed, too."""
    target = tmp_path / "cube.zarr"
    settings: dict[str, Any] = {"consolidated": begin}
    zappend.append(target, cubes.packed(0), zarr_format=zarr_format, consolidated=begin)
    inner = zarr.open_group(target, mode="r+", use_consolidated=False).create_group("inner/most", attributes={"a": 1})
    inner.create_array("values", data=np.arange(3))
    if begin:
        by_zarr(target, zarr_format)
    before = cubes.tree(target)
    assert zappend.append(target, [cubes.packed(2), cubes.packed(4)], consolidated=not begin, dry_run=True) == 2
    assert zappend.append(target, [cubes.packed(0)], consolidated=not begin, if_exists="skip") == 0
    assert cubes.tree(target) == before
    start = 2
    for wanted in (not begin, "auto", begin, begin):
        settings = {"consolidated": wanted, "attrs_update_mode": "update" if start > 4 else "keep"}
        slices = [cubes.packed(start).assign_attrs(history=f"to {start}"), cubes.packed(start + 2)]
        zappend.append(target, slices, **settings)
        start += 4
        is_consolidated = not begin if wanted == "auto" else wanted
        assert (listed(target, zarr_format) is not None) == is_consolidated
        if is_consolidated:
            ours = listed(target, zarr_format)
            assert ours is not None
            assert "inner/most/values" in {key.removesuffix("/.zarray") for key in ours}
        for consolidated in {False, is_consolidated}:
            with xr.open_zarr(target, consolidated=consolidated, chunks=None) as cube:
                assert cube.sizes["time"] == start
                expected = cubes.concatenated([cubes.packed(i) for i in range(0, start, 2)])
                xr.testing.assert_equal(cube.load(), expected)
                assert cube.attrs.get("history") == {10: "to 6", 14: "to 10", 18: "to 14"}.get(start)
            group = zarr.open_group(target, mode="r", use_consolidated=consolidated)
            assert sorted(group["inner/most"].array_keys()) == ["values"]  # type: ignore[union-attr]
        if is_consolidated:
            assert plain(ours) == plain(by_zarr(target, zarr_format))


@formats
@pytest.mark.parametrize("wanted", [True, False])
def test_a_cube_in_a_group(tmp_path: Path, zarr_format: int, wanted: bool) -> None:
    """The groups above keep their ways, and a root group that is new has those of the cube."""
    settings: dict[str, Any] = {"zarr_format": zarr_format, "group": "a/cube"}
    path = tmp_path / "store.zarr"
    zappend.append(path, cubes.packed(0), consolidated=wanted, **settings)
    assert (listed(path, zarr_format) is not None) == (listed(path / "a/cube", zarr_format) is not None) == wanted
    zappend.append(path, [cubes.packed(2), cubes.packed(4)], consolidated=not wanted, **settings)
    assert (listed(path, zarr_format) is not None) == wanted
    assert (listed(path / "a/cube", zarr_format) is not None) != wanted
    for consolidated in {False, wanted}:
        with xr.open_zarr(path, group="a/cube", consolidated=consolidated, chunks=None) as cube:
            assert cube.sizes["time"] == 6
    if wanted:
        assert plain(listed(path, zarr_format)) == plain(by_zarr(path, zarr_format))


@formats
def test_documents_below_that_cannot_be_understood(tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    zappend.append(target, cubes.packed(0), zarr_format=zarr_format, consolidated=False)
    inner = zarr.open_group(target, mode="r+", use_consolidated=False).create_group("inner")
    inner.create_array("values", data=np.arange(3))
    name = "zarr.json" if zarr_format == 3 else ".zarray"
    (target / "inner" / "values" / name).write_text("{")
    before = cubes.tree(target)
    with pytest.raises(TargetError, match=f"the target has inner/values/{name}, which cannot be understood"):
        zappend.append(target, cubes.packed(2), consolidated=True)
    assert cubes.tree(target) == before
    assert zappend.append(target, cubes.packed(2)) == 1


@formats
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("kind", ["dict", "folder", "bucket"])
def test_killed_at_every_operation(home: Path, kind: str, zarr_format: int, wanted: bool) -> None:
    case: Any = {"dict": DictCase(), "folder": FolderCase(home, "process"), "bucket": ObjectCase()}[kind]
    store: dict[str, bytes] = {}
    settings: dict[str, Any] = {"threads": 1, "zarr_format": zarr_format, "consolidated": wanted}
    zappend.append(store, days(0), **{**settings, "consolidated": not wanted})
    case.reset(store)
    old, probe = case.state(), Faults()
    zappend.append(case.target(probe), days(2), **settings)
    new = case.state()
    assert old != new
    for at in range(1, len(probe.calls) + 1):
        case.reset(store)
        faults = Faults(at, lasting=True)
        with suppress(Killed):
            zappend.append(case.target(faults), days(2), **settings)
        assert faults.fired or len(faults.calls) < at  # a lease is renewed by the clock, so there may be fewer calls
        case.bury()
        zappend.rollback(case.target())
        assert case.state() in (old, new), at
