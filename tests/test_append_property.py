"""Random datasets of every kind, cut into random slices: a cube is their concatenation, or a slice is refused.

``ZAPPEND_SEED=<seed>`` runs the parts of a campaign again that has told it.
"""

from __future__ import annotations

import os
import random
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cubes
import numpy as np
import pytest
import xarray as xr
from datasets import Example, Kind, Values, examples
from hypothesis import HealthCheck, Phase, given, seed, settings

import zappend
from zappend.errors import SliceError, TargetError

SOUND_PARTS, FAULTY_PARTS = 10, 2
"""Parts of a run for each format: without and with a fault. What is generated without one must be accepted."""

QUICK, MANY = 13, 250
"""Examples in a part: of every run of the tests, and of the campaign."""

PARTS = [
    pytest.param(zarr_format, faulty, part, id=f"format-{zarr_format}-{'faulty' if faulty else 'sound'}-{part}")
    for zarr_format in (2, 3)
    for faulty, parts in ((False, SOUND_PARTS), (True, FAULTY_PARTS))
    for part in range(parts)
]


def test_most_examples_must_be_accepted() -> None:
    assert SOUND_PARTS / (SOUND_PARTS + FAULTY_PARTS) >= 0.8
    assert QUICK * len(PARTS) >= 300
    assert MANY * len(PARTS) >= 5000


@pytest.fixture(scope="module", autouse=True)
def counts(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Count what was generated, and tell at the end."""
    counts: Counter[str] = Counter()
    yield counts
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        request.config.get_terminal_writer().line(f"\nAppended: {told}")


@pytest.mark.parametrize(("zarr_format", "faulty", "part"), PARTS)
def test_a_cube_is_the_concatenation_of_its_slices(
    zarr_format: int, faulty: bool, part: int, counts: Counter[str]
) -> None:
    run_part(zarr_format, faulty, part, QUICK, counts)


@pytest.mark.campaign
@pytest.mark.parametrize(("zarr_format", "faulty", "part"), PARTS)
def test_a_cube_is_the_concatenation_of_many_slices(
    zarr_format: int, faulty: bool, part: int, counts: Counter[str]
) -> None:
    chosen = int(os.environ.get("ZAPPEND_SEED") or random.SystemRandom().randrange(2**32))
    print(f"ZAPPEND_SEED={chosen}")
    run_part(zarr_format, faulty, chosen + part, MANY, counts)


def run_part(zarr_format: int, faulty: bool, part: int, count: int, counts: Counter[str]) -> None:
    @seed(part)
    @settings(
        max_examples=count,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(example=examples(faulty=faulty, zarr_format=zarr_format))
    def check(example: Example) -> None:
        check_example(example, counts)

    check()


def check_example(example: Example, counts: Counter[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target: Any = {} if "netcdf" not in example.forms else Path(folder, "cube.zarr")
        for index, (dataset, form) in enumerate(zip(example.slices, example.forms, strict=True)):
            item = handed_over(dataset, form, Path(folder, f"slice-{index}"), example)
            if example.fault is None or index < example.fault.index:
                assert zappend.append(target, item, **example.settings) == 1
                continue
            before = stored(target)
            with pytest.raises((SliceError, TargetError)) as caught:
                zappend.append(target, item, **example.settings)
            message = str(caught.value)
            assert stored(target) == before
            assert re.search(example.fault.words, message), (example.fault, message)
            assert example.fault.variable in message
            counts["slices refused"] += 1
            return
        cube = opened(target)
        check_cube(cube, example)
    counts[f"cubes of format {example.settings['zarr_format']}"] += 1
    counts["slices"] += len(example.slices)


def handed_over(dataset: xr.Dataset, form: str, path: Path, example: Example) -> Any:
    """Return `dataset` in the form in which it is appended."""
    if example.fault is not None and dataset is example.slices[-1]:
        return dataset  # xarray's own writers would refuse some of the faults, and mend others
    if form in ("memory", "dask"):
        return dataset if form == "memory" else dataset.chunk({example.dim: 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of xarray's encoders
        return written(dataset, form, path)


def written(dataset: xr.Dataset, form: str, path: Path) -> Any:
    if form == "raw":
        return encoded(dataset)
    if form == "netcdf":
        dataset.to_netcdf(path.with_suffix(".nc"), engine="h5netcdf")
        return path.with_suffix(".nc")
    dataset.to_zarr(path.with_suffix(".zarr"), zarr_format=int(form[-1]))
    return path.with_suffix(".zarr")


def encoded(dataset: xr.Dataset) -> xr.Dataset:
    """Return `dataset` as it is in a file that is opened without decoding."""
    variables, attrs = xr.conventions.encode_dataset_coordinates(dataset)
    raw = {name: xr.conventions.encode_cf_variable(variable, name=name) for name, variable in variables.items()}
    return xr.Dataset(raw, attrs=attrs).drop_encoding()


def stored(target: Any) -> Any:
    return dict(target) if isinstance(target, dict) else cubes.tree(target.parent)


def opened(target: Any) -> xr.Dataset:
    if isinstance(target, dict):
        return cubes.open_mapping(target)
    with xr.open_zarr(target, chunks=None) as cube:
        return cube.load()


# What a cube must be.


def check_cube(cube: xr.Dataset, example: Example) -> None:
    expected = example.expected()
    assert set(cube.variables) == set(expected.variables)
    assert set(cube.coords) == set(expected.coords)
    assert cube.attrs == expected.attrs
    for name, variable in expected.variables.items():
        found = cube.variables[name]
        assert found.dims == variable.dims, name
        assert found.attrs == variable.attrs, name
        kind = example.kinds.get(str(name))
        check_values(found.values, variable.values, kind, f"{name} ({kind.name if kind else 'plain'})")


def check_values(found: Values, expected: Values, kind: Kind | None, name: str) -> None:
    assert found.shape == expected.shape, name
    if kind is not None and kind.step:
        assert found.dtype.kind == "f", name
        rounding = 1e-6 * np.fmax.reduce(np.abs(expected), axis=None, initial=0)  # of a decoder that uses float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=kind.step / 2 + rounding, err_msg=name)
    elif expected.dtype.kind in "mMOUT":
        if found.dtype.kind == "M" and expected.dtype.kind == "O":  # which xarray decodes so if it can
            expected = np.array([np.datetime64(str(date)) for date in expected.flat], "M8[ns]")
        assert plain(found) == plain(expected), name
    else:
        if found.shape or found.dtype.kind != "S":  # a scalar of bytes is read as short as it is
            assert found.dtype == expected.dtype.newbyteorder("=") or "gaps" in name, name
        np.testing.assert_array_equal(found, expected, err_msg=name)
        if expected.dtype.kind in "fc":
            for part in (np.real, np.imag):
                there = ~np.isnan(part(expected))
                np.testing.assert_array_equal(np.signbit(part(found))[there], np.signbit(part(expected))[there], name)


def plain(values: Values) -> list[Any]:
    """Return times in whole nanoseconds, dates and texts as strings, ``None`` for what is missing."""
    if values.dtype.kind in "mM":
        resolution = int(np.timedelta64(1, np.datetime_data(values.dtype)[0]) / np.timedelta64(1, "ns"))
        numbers = values.astype("i8").ravel().tolist()
        return [None if gap else n * resolution for n, gap in zip(numbers, np.isnat(values).ravel(), strict=True)]
    return [str(value) for value in values.ravel()]
