"""Settings that say which dimensions slices and variables have, and of which size."""

from __future__ import annotations

from typing import Any

import cubes
import pytest

import zappend
from zappend.errors import SliceError, UsageError

formats = pytest.mark.parametrize("zarr_format", [2, 3])


# fixed_dims


@formats
@pytest.mark.effect("fixed_dims")
def test_fixed_dims(zarr_format: int) -> None:
    target: dict[str, bytes] = {}
    settings: dict[str, Any] = {"fixed_dims": {"x": 4, "y": 3, "bnds": 2}, "excluded_variables": ["time_bnds"]}
    wrong = "slice {}: Wrong size for fixed dimension 'x' in dataset: expected 4, found 6$"
    with pytest.raises(SliceError, match=wrong.format(0)):
        zappend.append(target, cubes.small(0, x=6), zarr_format=zarr_format, **settings)
    assert not target
    assert zappend.append(target, cubes.small(0), zarr_format=zarr_format, **settings) == 1
    before = dict(target)
    with pytest.raises(SliceError, match=wrong.format(1)):
        zappend.append(target, [cubes.small(2), cubes.small(4, x=6)], dry_run=True, **settings)
    assert target == before
    assert zappend.append(target, cubes.small(2), **settings) == 1


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"z": 5}, "slice 0: Fixed dimension 'z' not found in dataset, which has 'time', 'y', 'x', 'bnds'"),
        (
            {"x": 5, "y": 2},
            "'x' in dataset: expected 5, found 4; Wrong size for fixed dimension 'y' in dataset: expected 2",
        ),
    ],
)
def test_fixed_dims_that_a_slice_has_not(fixed: dict[str, int], message: str) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0))
    before = dict(target)
    with pytest.raises(SliceError, match=message):
        zappend.append(target, cubes.small(2), fixed_dims=fixed)
    assert target == before


def test_the_append_dimension_is_not_fixed() -> None:
    target: dict[str, bytes] = {}
    with pytest.raises(UsageError, match="Size of append dimension 'time' must not be fixed"):
        zappend.append(target, cubes.small(0), fixed_dims={"time": 2})
    assert not target


def test_a_cube_has_the_fixed_dims_too() -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, cubes.small(0))
    before = dict(target)
    with pytest.raises(
        UsageError, match=r"'x' in the target: expected 6, found 4; a cube keeps its sizes: change fixed_d"
    ):
        zappend.append(target, cubes.small(2, x=6), fixed_dims={"x": 6})
    assert target == before
