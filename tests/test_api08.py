"""The names and the ways of zappend 0.8: a program that was written for it runs as it is."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cubes
import fsspec
import numpy as np
import pytest
import xarray as xr
from commands import run

import zappend
from zappend.api import Config, Context, FileObj, SliceSource
from zappend.api import zappend as zappend08
from zappend.errors import Locked, UsageError
from zappend.testing import Faults, FaultyMapping, Killed
from zappend.txn import transaction

SECRET = "not-to-be-seen"


@pytest.fixture
def slices() -> list[xr.Dataset]:
    return [cubes.packed(2 * i) for i in range(3)]


@pytest.fixture
def paths(tmp_path: Path, slices: list[xr.Dataset]) -> list[Path]:
    return cubes.write_netcdf(tmp_path, slices)


def times(path: str | os.PathLike[str]) -> int:
    with xr.open_zarr(path, chunks=None) as cube:
        return int(cube.sizes["time"])


# zappend(), and where the target comes from.


def test_the_call_of_zappend_08(paths: list[Path], tmp_path: Path) -> None:
    target = str(tmp_path / "cube.zarr")
    count = zappend08([str(path) for path in paths[:2]], target_dir=target)
    assert isinstance(count, int)
    assert count == 2
    (tmp_path / "config.json").write_text(json.dumps({"target_dir": target, "append_dim": "time"}))
    assert zappend08(iter([str(paths[2])]), config=str(tmp_path / "config.json"), append_step=None) == 1
    assert times(target) == 6
    assert zappend08((), config={"target_dir": target}) == 0


@pytest.mark.effect("target_dir")
@pytest.mark.parametrize("as_given", [str, Path, lambda path: FileObj(str(path))], ids=["text", "path", "FileObj"])
def test_an_argument_wins_over_target_dir(as_given: Any, slices: list[xr.Dataset], tmp_path: Path) -> None:
    other, target = tmp_path / "other.zarr", tmp_path / "cube.zarr"
    seen = []

    def source(ctx: Context, number: int) -> xr.Dataset:
        seen.append(ctx.config.target_dir)
        return slices[number]

    assert zappend.append(as_given(target), [0, 1], target_dir=str(other), slice_source=source) == 2
    assert times(target) == 4
    assert not other.exists()
    assert seen == [FileObj(str(target))] * 2
    assert zappend.append(None, [2], target_dir=Path(target), slice_source=source) == 1
    assert times(target) == 6


def test_without_any_target(slices: list[xr.Dataset]) -> None:
    with pytest.raises(UsageError, match=r"^no target: .*Missing 'target_dir' in configuration"):
        zappend08(slices)
    with pytest.raises(ValueError, match="Missing 'target_dir' in configuration"):
        zappend.append(None, slices, {"target_dir": ""})


def test_the_command_line_takes_the_target_of_the_configuration(paths: list[Path], tmp_path: Path) -> None:
    config, target = tmp_path / "config.yaml", tmp_path / "cube.zarr"
    config.write_text(f"target_dir: {target}\n")
    assert run("append", "-c", config, *paths[:1]).code == 0
    assert run("append", "-c", config, "-t", tmp_path / "other.zarr", *paths).code == 0
    assert (times(target), times(tmp_path / "other.zarr")) == (2, 6)
    outcome = run("append", *paths)
    assert outcome.code == 2
    assert outcome.err == (
        "Error: no target: give -t TARGET, or set target_dir (Missing 'target_dir' in configuration)\n"
    )


def test_a_source_on_the_command_line(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "sources.py").write_text(
        "def after(ctx, path):\n"
        "    assert ctx.config.extra == {'a': 1}\n"
        "    print(ctx.last_append_label is None)\n"
        "    return path\n"
    )
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"slice_source": "sources.py:after", "extra": {"a": 1}}))
    outcome = run("append", "-c", config, "-t", tmp_path / "cube.zarr", *paths, cwd=tmp_path)
    assert (outcome.code, outcome.out) == (0, "True\nFalse\nFalse\n3 slices appended.\n")


@pytest.mark.effect("extra")
def test_configurations_are_files_of_any_file_system_and_lists_of_lists(
    slices: list[xr.Dataset], tmp_path: Path
) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/conf/a.json", json.dumps({"target_dir": "/no/such/folder/c.zarr", "extra": {"a": 1, "b": 1}}).encode())
    (tmp_path / "b.yml").write_text("extra: {b: 2}")
    first: dict[str, Any] = {"extra": {"c": {"d": 3}}}
    before = copy.deepcopy(first)
    again = FileObj("a.json", fs=fs, path="/conf/a.json")
    config = [FileObj("memory://conf/a.json"), [None, str(tmp_path / "b.yml")], (first,)]
    seen = []

    def source(ctx: Context, number: int) -> xr.Dataset:
        seen.append(ctx.config.extra)
        return slices[number]

    target = str(tmp_path / "cube.zarr")
    assert zappend08([0], config=config, target_dir=target, slice_source=source) == 1
    assert zappend08([1], config=[*config, again], target_dir=target, slice_source=source) == 1
    assert seen == [{"a": 1, "b": b, "c": {"d": 3}} for b in (2, 1)]
    assert first == before
    with pytest.raises(UsageError, match=r"configuration memory://conf/none.json cannot be read"):
        zappend08(slices, config=FileObj("memory://conf/none.json"))
    with pytest.raises(UsageError, match="a configuration must be a file or a mapping, not int"):
        zappend08(slices, config=[5])  # type: ignore[list-item]


# What a source gets to see.


class TestConfig:
    def test_it_has_the_defaults_of_zappend_08(self) -> None:
        config = Config({"target_dir": "cube.zarr"})
        assert config.target_dir == FileObj("cube.zarr")
        assert config.temp_dir == FileObj(tempfile.gettempdir())
        assert (config.zarr_version, config.append_dim, config.append_step) == (2, "time", None)
        assert (config.fixed_dims, config.slice_engine, config.slice_source) == (None, None, None)
        assert (config.slice_storage_options, config.slice_source_kwargs) == (None, None)
        assert (config.included_variables, config.excluded_variables) == ([], [])
        assert (config.variables, config.attrs, config.extra) == ({}, {}, {})
        assert config.attrs_update_mode == "keep"
        assert config.slice_polling == (None, None)
        assert not any([
            config.permit_eval, config.persist_mem_slices, config.force_new, config.disable_rollback, config.dry_run,
            config.logging, config.profiling,
        ])  # fmt: skip

    def test_it_has_what_was_set(self) -> None:
        settings: dict[str, Any] = {
            "target_dir": "memory://cube.zarr",
            "target_storage_options": {"a": SECRET},
            "temp_dir": "memory://temp",
            "temp_storage_options": {"b": 2},
            "zarr_version": 3,
            "fixed_dims": {"x": 4},
            "append_dim": "depth",
            "append_step": "2D",
            "included_variables": ["a"],
            "excluded_variables": ["b"],
            "variables": {
                "*": {"encoding": {"compressor": None}},
                "a": {"dims": ["x"], "encoding": {"dtype": "int16", "chunks": [None]}, "attrs": {"units": "K"}},
            },
            "attrs": {"title": "t"},
            "attrs_update_mode": "update",
            "permit_eval": True,
            "slice_engine": "h5netcdf",
            "slice_source": "os.path.join",
            "slice_source_kwargs": {"c": 3},
            "slice_storage_options": {"d": 4},
            "slice_polling": {"interval": 1},
            "persist_mem_slices": True,
            "force_new": True,
            "disable_rollback": True,
            "dry_run": True,
            "extra": {"e": [5, {"f": 6}]},
            "logging": "INFO",
            "profiling": {"enabled": False},
        }
        config = Config(settings)
        assert config.target_dir == FileObj("memory://cube.zarr", storage_options={"a": SECRET})
        assert config.temp_dir == FileObj("memory://temp", storage_options={"b": 2})
        assert config.zarr_version == 3
        assert config.slice_source is os.path.join
        assert config.slice_polling == (1, 60)
        assert config.profiling["enabled"] is False
        assert config.variables == {
            "*": {"encoding": {"compressor": None}, "attrs": {}},
            "a": {"dims": ["x"], "encoding": {"dtype": "int16", "chunks": [None]}, "attrs": {"units": "K"}},
        }
        different = {"temp_dir", "temp_storage_options", "target_dir", "zarr_version", "variables", "slice_source"}
        for name in settings.keys() - different - {"slice_polling", "profiling"}:
            assert getattr(config, name) == settings[name], name
        assert Config({**settings, "slice_polling": True}).slice_polling == (2, 60)
        assert SECRET not in repr(config)
        with pytest.raises(AttributeError, match="'Config' object has no attribute 'append_dims'"):
            _ = config.append_dims

    def test_it_takes_what_a_configuration_takes(self) -> None:
        with pytest.raises(UsageError, match="Missing 'target_dir' in configuration"):
            Config({})
        with pytest.raises(UsageError, match="unknown setting 'append_dims'; did you mean 'append_dim'"):
            Config({"target_dir": "a", "append_dims": "x"})
        with pytest.raises(UsageError, match=r"no attribute found named 'no\.such'"):
            _ = Config({"target_dir": "a", "slice_source": "no.such"}).slice_source


def looking(slices: list[xr.Dataset], seen: list[Any]) -> Any:
    """Return a source that notes what it sees of the cube."""

    def source(ctx: Context, number: int) -> xr.Dataset:
        label, metadata = ctx.last_append_label, ctx.target_metadata
        seen.append((None if label is None else label.values, None if metadata is None else metadata.sizes["time"]))
        assert ctx.last_append_label is label
        return slices[number]

    return source


def expected(*counts: int) -> list[Any]:
    return [(cubes.days(count - 1, 1)[0], count) if count else (None, None) for count in counts]


@pytest.mark.parametrize("settings", [{}, {"group": "deep/inside"}, {"dry_run": True}, {"zarr_format": 3}])
@pytest.mark.parametrize("where", ["dict", "folder", "memory"])
def test_a_source_sees_the_cube_as_it_grows(
    settings: dict[str, Any], where: str, slices: list[xr.Dataset], tmp_path: Path
) -> None:
    target = {"dict": {}, "folder": tmp_path / "cube.zarr", "memory": f"memory://{tmp_path.name}/cube.zarr"}[where]
    seen: list[Any] = []
    zappend.append(target, [0, 1], slice_source=looking(slices, seen), **settings)
    zappend.append(target, [2] if "dry_run" not in settings else [0], slice_source=looking(slices, seen), **settings)
    assert seen == expected(0, 2, 0 if "dry_run" in settings else 4)
    left = [path for path in tmp_path.rglob("*") if ".zappend" in path.name]
    assert left == []


def test_a_cube_that_is_replaced_is_not_seen(slices: list[xr.Dataset]) -> None:
    cube: dict[str, bytes] = {}
    seen: list[Any] = []
    zappend.append(cube, slices[:1])
    zappend.append(cube, [1, 2], slice_source=looking(slices, seen), force_new=True)
    zappend.append(cube, [1, 2], slice_source=looking(slices, seen), force_new=True, dry_run=True)
    after_it = (cubes.days(3, 1)[0], 2)
    assert seen == [(None, None), after_it, (None, None), after_it]


def test_a_cube_that_cannot_be_seen_is_not_looked_at(slices: list[xr.Dataset], tmp_path: Path) -> None:
    """Who does not ask for what is in the cube does not wait for a writer to be able to tell."""
    target = tmp_path / "cube.zarr"
    seen = []

    def source(ctx: Context, number: int) -> xr.Dataset:
        with transaction(target), pytest.raises(Locked):
            seen.append(ctx.last_append_label)
        seen.append(ctx.last_append_label)
        return slices[number]

    zappend.append(target, [0], slice_source=source)
    assert seen == [None]


def test_a_source_sees_what_a_killed_writer_leaves_when_that_is_settled(slices: list[xr.Dataset]) -> None:
    def next_one(ctx: Context, _: str) -> xr.Dataset:
        metadata = ctx.target_metadata
        return slices[0 if metadata is None else metadata.sizes["time"] // 2]

    begun: dict[str, bytes] = {}
    zappend.append(begun, slices[:1])
    grown = set()
    at = 0
    fired = True
    while fired:
        at += 1
        cube, faults = dict(begun), Faults(at, lasting=True)
        with suppress(Killed):
            zappend.append(FaultyMapping(cube, faults), slices[1], threads=1)
        fired = faults.fired
        assert zappend.append(cube, ["next"], slice_source=next_one) == 1
        count = cubes.open_mapping(cube).sizes["time"] // 2
        xr.testing.assert_equal(cubes.open_mapping(cube), cubes.concatenated(slices[:count]))
        grown.add(count)
    assert grown == {2, 3}
    assert at > 10


def test_a_context_of_ones_own(slices: list[xr.Dataset], tmp_path: Path) -> None:
    target = str(tmp_path / "cube.zarr")
    ctx = Context({"target_dir": target, "variables": {"a": {"encoding": {"chunks": [1, 3, 4]}}}, "attrs": {"b": 1}})
    assert (ctx.last_append_label, ctx.target_metadata) == (None, None)
    assert Context(ctx.config).config is ctx.config
    zappend08(slices, target_dir=target)
    ctx = Context(ctx.config)
    assert ctx.last_append_label.equals(slices[2].time[-1])
    assert ctx.last_append_label.dtype == slices[2].time.dtype
    seen = ctx.target_metadata
    assert seen is not None
    assert seen.sizes == {"time": 6, "y": 3, "x": 4, "bnds": 2}
    assert seen.attrs == {"title": "small", "Conventions": "CF-1.8", "b": 1}
    packed = seen.variables["packed"]
    assert (packed.dims, packed.shape) == (("time", "y"), (6, 3))
    assert (packed.encoding.dtype, packed.encoding.scale_factor, packed.encoding.fill_value) == ("int16", 0.01, -32768)
    assert seen.variables["a"].encoding.chunks == [1, 3, 4]
    plain = ctx.get_dataset_metadata(slices[0]).to_dict()
    assert plain["sizes"] == {"time": 2, "y": 3, "x": 4, "bnds": 2}
    assert plain["variables"]["packed"]["encoding"] == {
        "dtype": "i2",
        "scale_factor": 0.01,
        "add_offset": 1.0,
        "_FillValue": -32768,
    }
    with pytest.raises(UsageError, match="Missing 'target_dir' in configuration"):
        Context({})


def test_a_target_that_has_no_path(slices: list[xr.Dataset]) -> None:
    def source(ctx: Context, number: int) -> xr.Dataset:
        _ = ctx.config.target_dir
        return slices[number]

    with pytest.raises(UsageError, match="the target was given as an object, and has no path"):
        zappend.append({}, [0], slice_source=source, target_dir="other.zarr")


# A program as users wrote it.


class Daily(SliceSource):
    """A day's mean of a file, from a class of zappend 0.8."""

    closed = 0

    def __init__(self, ctx: Context, path: str, offset: float = 0.0) -> None:
        self.path = path
        self.offset = offset + ctx.config.extra["more"]
        self.dataset: xr.Dataset | None = None

    def get_dataset(self) -> xr.Dataset:
        self.dataset = xr.open_dataset(self.path, engine="h5netcdf")
        mean = self.dataset[["a"]].mean("time").expand_dims("time", axis=0) + self.offset
        return mean.assign_coords(time=self.dataset.time[:1].drop_attrs().drop_vars("age"))

    def close(self) -> None:
        assert self.dataset is not None
        self.dataset.close()
        type(self).closed += 1


def test_a_program_as_users_wrote_it(paths: list[Path], slices: list[xr.Dataset], tmp_path: Path) -> None:
    target = str(tmp_path / "mean.zarr")
    items = [str(paths[0]), ([str(paths[1])], {"offset": 2.0}), {"path": str(paths[2])}]
    settings: dict[str, Any] = {"target_dir": target, "append_step": "+", "extra": {"more": 0.5}}
    count = zappend08(items, config=settings, slice_source=Daily, slice_source_kwargs={"offset": 1.0}, zarr_version=2)
    assert (count, Daily.closed) == (3, 3)
    with xr.open_zarr(target, chunks=None) as cube:
        means = np.stack([dataset["a"].mean("time") for dataset in slices])
        np.testing.assert_allclose(cube["a"], means + np.array([1.5, 2.5, 1.5])[:, None, None], rtol=1e-6)


def generator_of_slices(paths: list[Path]) -> Iterator[str]:
    yield from map(str, paths)


def test_a_generator_of_paths_and_a_glob_of_them(paths: list[Path], tmp_path: Path) -> None:
    assert zappend08(generator_of_slices(paths), target_dir=str(tmp_path / "a.zarr")) == 3
    assert zappend08(sorted(tmp_path.glob("*.nc")), target_dir=str(tmp_path / "b.zarr")) == 3
    assert cubes.tree(tmp_path / "a.zarr") == cubes.tree(tmp_path / "b.zarr")
