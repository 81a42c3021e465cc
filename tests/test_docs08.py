"""What the documentation of zappend 0.8 shows, with data and in words of our own: each configuration, and each call.

A comment or a `Case` names the page and the section that shows it. ``write_levels`` is not among them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cubes
import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from commands import run
from s3server import BUCKET, S3Server

from zappend.api import Config, Context, FileObj, SliceSource, zappend
from zappend.errors import SliceError, UsageError

SECRET = "wave-7-gull"


def ocean(day: int, count: int = 1) -> xr.Dataset:
    """Return `count` noons of a small sea from `day` of March on; every value can be packed in quarters."""
    number = np.arange(day, day + count)
    temperature = 270 + number[:, None, None] + np.arange(20.0).reshape(4, 5) / 4
    return xr.Dataset(
        {
            "sst": (("time", "lat", "lon"), temperature.astype("f4"), {"units": "K", "source": f"day {day}"}),
            "ice": (("time", "lat", "lon"), temperature / 512, {"units": "1"}),
            "orbit": (("time",), (number * 14).astype("i4")),
            "crs": ((), np.int32(0), {"grid_mapping_name": "latitude_longitude"}),
        },
        {
            "time": pd.date_range("2025-03-01T12:00", periods=day + count, unit="ns")[day:],
            "lat": ("lat", 54 + np.arange(4.0), {"units": "degrees_north"}),
            "lon": ("lon", 10 + np.arange(5.0), {"units": "degrees_east"}),
        },
        {"title": f"Sea of day {day}", "history": f"made on day {day}", **({"ship": "Alkor"} if day else {})},
    )


def holed(day: int) -> xr.Dataset:
    """Return `ocean` of one day with a hole, and on the second day nothing but one."""
    dataset = ocean(day)
    dataset["sst"] = dataset.sst.where((dataset.lat > 54) & (day != 1))
    return dataset


def warmed(dataset: xr.Dataset, by: float) -> xr.Dataset:
    return dataset.assign(sst=dataset.sst.copy(data=dataset.sst.data + np.float32(by)))


def layer(number: int, step: float = 5.0) -> xr.Dataset:
    """Return one layer of the sea, by its depth and not by time."""
    dataset = ocean(number).rename(time="depth").drop_vars("depth")
    return dataset.assign_coords(depth=("depth", [step * number]))


def at_steps_of(hours: int, day: int) -> xr.Dataset:
    return ocean(day).assign_coords(time=[np.datetime64("2025-03-09T12:00", "ns") + np.timedelta64(hours * day, "h")])


def read(target: str) -> xr.Dataset:
    with xr.open_zarr(target, chunks=None) as cube:
        return cube.load()


# Configurations.


def as_it_is(cube: xr.Dataset) -> xr.Dataset:
    return cube


def with_attrs(**attrs: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda cube: cube.assign_attrs(attrs)


def with_only_attrs(**attrs: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda cube: cube.drop_attrs(deep=False).assign_attrs(attrs)


def with_attrs_of(name: str, **attrs: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda cube: cube.assign({name: cube[name].assign_attrs(attrs)})


def with_a_new(name: str) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda cube: cube.assign({name: (("time", "lat"), np.full((cube.sizes["time"], 4), np.nan))})


@dataclass(frozen=True)
class Case:
    """A configuration that is shown, and the cube that it gives.

    Attributes
    ----------
    shown
        Where: page and section.
    settings
        The configuration.
    cube
        What becomes of the slices put together.
    stored
        What the documents of the cube hold, among other things, by key.
    slices
        The slices, by number.
    """

    shown: str
    settings: Mapping[str, Any]
    cube: Callable[[xr.Dataset], xr.Dataset] = as_it_is
    stored: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    slices: Callable[[int], xr.Dataset] = ocean


def encoded(where: str, encoding: Mapping[str, Any], stored: Mapping[str, Any] | None = None, **more: Any) -> Case:
    """Return a case in which one variable is encoded."""
    settings = {"variables": {"sst": {"encoding": encoding}}}
    return Case(f"{where}: {json.dumps(encoding)}", settings, stored={"sst/.zarray": stored or encoding}, **more)


LZ4 = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
ATTRS = {"Conventions": "CF-1.11", "title": "Daily seas"}
FIRST = {"title": "Sea of day 0", "history": "made on day 0"}
LAST = {"title": "Sea of day 2", "history": "made on day 2", "ship": "Alkor"}

CASES = [
    Case("guide, Dataset Outline: append_dim", {"append_dim": "depth"}, slices=layer),
    Case("guide, Dataset Outline: append_step in days", {"append_dim": "time", "append_step": "2D"},
         slices=partial(at_steps_of, 48)),
    Case("guide, Dataset Outline: append_step in hours", {"append_step": "8h"}, slices=partial(at_steps_of, 8)),
    Case("guide, Dataset Outline: append_step up", {"append_step": "+"}, slices=lambda day: ocean(day * day)),
    Case("guide, Dataset Outline: append_step down", {"append_step": "-"}, slices=lambda day: ocean(9 - day * day)),
    Case("config, append_step: negative duration", {"append_step": "-1D"}, slices=lambda day: ocean(5 - day)),
    Case("config, append_step: number", {"append_dim": "depth", "append_step": 2.5},
         slices=partial(layer, step=2.5)),
    Case("config, append_step: negative number", {"append_dim": "depth", "append_step": -5},
         slices=partial(layer, step=-5)),
    Case("config, append_step: none", {"append_step": None}, slices=lambda day: ocean(day * day)),
    Case("guide, Dataset Outline: fixed_dims", {"fixed_dims": {"lon": 5, "lat": 4}}),
    Case("guide, Dataset Outline: included_variables", {"included_variables": ["time", "lat", "lon", "sst", "orbit"]},
         lambda cube: cube.drop_vars(["ice", "crs"])),
    Case("guide, Dataset Outline: excluded_variables", {"excluded_variables": ["orbit"]},
         lambda cube: cube.drop_vars("orbit")),
    # guide, Dataset Outline, Attributes
    Case("guide, Attributes: keep", {"attrs_update_mode": "keep", "attrs": ATTRS}, with_only_attrs(**FIRST | ATTRS)),
    Case("guide, Attributes: replace", {"attrs_update_mode": "replace"}, with_only_attrs(**LAST)),
    Case("guide, Attributes: replace, and more", {"attrs_update_mode": "replace", "attrs": ATTRS},
         with_only_attrs(**LAST | ATTRS)),
    Case("guide, Attributes: update", {"attrs_update_mode": "update"}, with_attrs(**LAST)),
    Case("guide, Attributes: ignore", {"attrs_update_mode": "ignore", "attrs": ATTRS}, with_only_attrs(**ATTRS)),
    Case("guide, Attributes: expressions",
         {"permit_eval": True, "attrs_update_mode": "keep",
          "attrs": {"begin": "{{ ds.time[0] }}", "end": "{{ ds.time[-1] }}"}},
         with_attrs(begin="2025-03-01T12:00:00", end="2025-03-03T12:00:00")),
    Case("guide, Attributes: bounds of what is centred",
         {"permit_eval": True,
          "attrs": {"begin": "{{ lower_bound(ds.time, 'center') }}", "end": "{{ upper_bound(ds.time, 'center') }}",
                    "south": "{{ lower_bound(ds.lat, ref='center') }}"}},
         with_attrs(begin="2025-03-01T00:00:00", end="2025-03-04T00:00:00", south=53.5)),
    Case("guide, Attributes: bounds of what begins, or ends, with the label",
         {"permit_eval": True,
          "attrs": {"begin": "{{ lower_bound(ds.time) }}", "end": "{{ upper_bound(ds.time) }}",
                    "before": "{{ lower_bound(ds.time, 'upper') }}", "last": "{{ upper_bound(ds.time, 'upper') }}"}},
         with_attrs(begin="2025-03-01T12:00:00", end="2025-03-04T12:00:00", before="2025-02-28T12:00:00",
                    last="2025-03-03T12:00:00")),
    Case("guide, Attributes: expressions that are not permitted", {"attrs": {"end": "{{ ds.time[-1] }}"}},
         with_attrs(end="{{ ds.time[-1] }}")),
    # guide, Variable Metadata
    Case("guide, Variable Metadata: nothing for all", {"variables": {"*": {}}}),
    Case("guide, Dimensions", {"variables": {"sst": {"dims": ["time", "lat", "lon"]}}}),
    Case("guide, Variable Attributes",
         {"variables": {"sst": {"attrs": {"units": "kelvin", "long_name": "sea_surface_temperature"}}}},
         with_attrs_of("sst", units="kelvin", long_name="sea_surface_temperature")),
    Case("config, variables: one that no slice has",
         {"variables": {"salt": {"dims": ["time", "lat"], "encoding": {"dtype": "float32", "fill_value": "NaN"}}}},
         with_a_new("salt"), {"salt/.zarray": {"dtype": "<f4", "fill_value": "NaN", "shape": [3, 4]}}),
    Case("guide, Chunking: as is typical",
         {"append_dim": "time",
          "variables": {
              "*": {"encoding": {"chunks": None}},
              "time": {"dims": ["time"], "encoding": {"chunks": [1024]}},
              "sst": {"dims": ["time", "lat", "lon"], "encoding": {"chunks": [1, 2, 2048]}}}},
         stored={"time/.zarray": {"chunks": [1024]}, "sst/.zarray": {"chunks": [1, 2, 2048]},
                 "ice/.zarray": {"chunks": [1, 4, 5]}, "orbit/.zarray": {"chunks": [1]}}),
    Case("guide, Chunking: not in some dimensions",
         {"variables": {"ice": {"dims": ["time", "lat", "lon"], "encoding": {"chunks": [1, None, 2]}}}},
         stored={"ice/.zarray": {"chunks": [1, 4, 2]}}),
    encoded("guide, Missing Data", {"fill_value": -999}, {"fill_value": -999.0, "dtype": "<f4"}, slices=holed),
    encoded("guide, Missing Data", {"fill_value": "NaN"}, slices=holed),
    encoded("guide, Missing Data", {"fill_value": None}),
    encoded("guide, Missing Data, by default", {}, {"fill_value": "NaN"}, slices=holed),
    encoded("guide, Missing Data, by default", {"dtype": "int16"}, {"dtype": "<i2", "fill_value": None},
            slices=lambda day: ocean(day).assign(sst=np.round(ocean(day).sst).assign_attrs(units="K"))),
    encoded("guide, Data Packing", {"dtype": "int16", "scale_factor": 0.25, "add_offset": 0.0},
            {"dtype": "<i2", "fill_value": None}),
    encoded("guide, Data Packing",
            {"dtype": "uint16", "scale_factor": 0.25, "add_offset": 270.0, "fill_value": 65535},
            {"dtype": "<u2", "fill_value": 65535}, slices=holed),
    encoded("guide, Compression", {"compressor": {}, "filters": []}, {"compressor": LZ4, "filters": None}),
    encoded("guide, Compression, by default", {}, {"compressor": LZ4, "filters": None}),
    encoded("guide, Compression, none", {"compressor": None, "filters": None}),
    encoded("config, compressor and filters",
            {"compressor": {"id": "zlib", "level": 7}, "filters": [{"id": "delta", "dtype": "f4"}]},
            {"compressor": {"id": "zlib", "level": 7}, "filters": [{"id": "delta", "dtype": "<f4", "astype": "<f4"}]}),
    Case("config, units and calendar",
         {"variables": {"time": {"encoding": {"dtype": "int32", "units": "hours since 2020-01-01",
                                              "calendar": "gregorian"}}}},
         stored={"time/.zarray": {"dtype": "<i4"}, "time/.zattrs": {"units": "hours since 2020-01-01"}}),
    *[encoded("config, dtype", {"dtype": dtype}, {"dtype": np.dtype(dtype).str}) for dtype in ("float64", "float32")],
    # guide, Data I/O, and what needs no page of its own
    Case("guide, Transactions: temp_dir", {"temp_dir": "memory://temp"}),
    Case("guide, Transactions: disable_rollback", {"disable_rollback": True}),
    Case("guide, Target Dataset: force_new", {"force_new": True}),
    Case("guide, Slice Datasets: polling", {"slice_polling": {"interval": 2, "timeout": 600}}),
    Case("guide, Slice Datasets: polling by default", {"slice_polling": True}),
    Case("config, slice_polling: none", {"slice_polling": False}),
    Case("config, slice_engine", {"slice_engine": "h5netcdf"}),
    Case("config, version and zarr_version", {"version": 1, "zarr_version": 2}, stored={".zgroup": {"zarr_format": 2}}),
    Case("config, extra", {"extra": {"bbox": [9, 53, 15, 59], "more": {"any": "thing"}}}),
    Case("config, dry_run: no", {"dry_run": False}),
]  # fmt: skip


def assert_documents(target: Path, stored: Mapping[str, Mapping[str, Any]]) -> None:
    for key, members in stored.items():
        document = json.loads((target / key).read_bytes())
        for name, value in members.items():
            assert document[name] == value, (key, name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.shown)
def test_a_configuration_gives_the_cube_that_it_should(case: Case, tmp_path: Path) -> None:
    """As keywords, all slices at once; as dict and YAML file, one by one; as JSON file of the command line."""
    slices = [case.slices(number) for number in range(3)]
    paths = [str(path) for path in cubes.write_netcdf(tmp_path, slices)]
    dim = case.settings.get("append_dim", "time")
    expected = case.cube(cubes.concatenated(slices, dim))
    (tmp_path / "config.json").write_text(json.dumps(case.settings))
    again = {name: value for name, value in case.settings.items() if name != "force_new"}
    begun = {**case.settings, "target_dir": str(tmp_path / "b.zarr")}
    grown = {**again, "target_dir": str(tmp_path / "b.zarr")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(grown, sort_keys=False))

    assert zappend(paths, target_dir=str(tmp_path / "a.zarr"), **case.settings) == 3
    cubes.assert_cube(tmp_path / "a.zarr", expected)
    assert_documents(tmp_path / "a.zarr", case.stored)

    assert zappend(paths[:1], begun) == 1
    assert [zappend([path], config=str(tmp_path / "config.yaml")) for path in paths[1:]] == [1, 1]
    done = run("append", "--config", tmp_path / "config.json", "--target", tmp_path / "c.zarr", *paths)
    assert (done.code, done.out) == (0, "3 slices appended.\n"), done.err
    for name in ("b.zarr", "c.zarr"):
        assert cubes.tree(tmp_path / name) == cubes.tree(tmp_path / "a.zarr"), name


@pytest.fixture
def slices() -> list[xr.Dataset]:
    return [ocean(day) for day in range(3)]


@pytest.fixture
def paths(slices: list[xr.Dataset], tmp_path: Path) -> list[str]:
    (tmp_path / "inputs").mkdir()
    return [str(path) for path in cubes.write_netcdf(tmp_path / "inputs", slices)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


# guide, first section: files in several configurations, variables of the environment, a dry run.


def test_several_configurations_and_a_dry_run(
    paths: list[str], slices: list[xr.Dataset], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEA", "baltic")
    monkeypatch.setenv("WIDTH", "5")
    Path("configs").mkdir()
    Path("outputs").mkdir()
    Path("configs/base.yaml").write_text(
        "attrs: {title: ${SEA} sea, region: $SEA}\nfixed_dims: {lat: 4, lon: $WIDTH}\n"
        "variables: {'*': {encoding: {compressor: null}}}\n"
    )
    Path("configs/mycube.json").write_text('{"attrs": {"region": "the ${SEA}"}, "excluded_variables": ["ice"]}')
    how: dict[str, Any] = {"config": ["configs/base.yaml", "configs/mycube.json"], "target_dir": "outputs/mycube.zarr"}
    given = [os.path.join("inputs", name) for name in sorted(os.listdir("inputs"))]
    assert zappend(given, dry_run=True, **how) == 3
    assert os.listdir("outputs") == []
    assert zappend(given, **how) == 3
    expected = cubes.concatenated(slices).drop_vars("ice").assign_attrs(title="baltic sea", region="the baltic")
    cubes.assert_cube("outputs/mycube.zarr", expected)
    assert_documents(Path("outputs/mycube.zarr"), {"sst/.zarray": {"compressor": None}})


# start, Using the Python API; guide, Target Dataset and Paths and URIs; config, *_storage_options.


@pytest.fixture
def bucket(server: S3Server, paths: list[str]) -> Iterator[S3Server]:
    server.reset()
    for path in paths:
        server.put(f"data/{Path(path).name}", Path(path).read_bytes())
    yield server
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_slices_and_target_in_a_bucket(bucket: S3Server, slices: list[xr.Dataset], folder: Path) -> None:
    options = {"anon": False, "key": "key", "secret": SECRET, "endpoint_url": bucket.url}
    uris = [f"s3://{BUCKET}/data/slice-{number}.nc" for number in range(3)]
    config = {"target_dir": "target.zarr", "slice_storage_options": options}
    assert zappend((uri for uri in uris), config=config) == 3
    cubes.assert_cube("target.zarr", cubes.concatenated(slices))

    there = {"target_dir": f"s3://{BUCKET}/cubes/sea-2025.zarr", "target_storage_options": options}
    for force_new in (False, True):
        items = [FileObj(uri, storage_options=options) for uri in uris]
        assert zappend(items, config={**there, "force_new": force_new}) == 3
    cube = {key.partition(".zarr/")[2]: value for key, value in bucket.objects("cubes/sea-2025.zarr/").items()}
    xr.testing.assert_identical(cubes.open_mapping(cube), cubes.concatenated(slices))


def test_a_target_and_slices_in_memory(slices: list[xr.Dataset], tmp_path: Path) -> None:
    uris = [f"memory://{tmp_path.name}/day-{day}.zarr" for day in range(3)]
    for uri, dataset in zip(uris, slices, strict=True):
        dataset.to_zarr(uri, zarr_format=2)
    assert zappend(uris, target_dir=f"memory://{tmp_path.name}/cube.zarr") == 3
    xr.testing.assert_identical(read(f"memory://{tmp_path.name}/cube.zarr"), cubes.concatenated(slices))


# guide, Target Dataset: force_new; the notebook, where a slice fails and the cube is as before.


def test_a_failing_slice_and_a_new_cube(paths: list[str], slices: list[xr.Dataset], folder: Path) -> None:
    def failing(path: str) -> Iterator[xr.Dataset]:
        dataset = xr.open_dataset(path)
        with contextlib.closing(dataset):
            if path == paths[2]:
                dataset["sst"] = dataset.sst[:, :-1].rename(lat="cut")
            yield dataset

    with pytest.raises(SliceError, match=r"slice-2\.nc"):
        zappend(paths, target_dir="cube.zarr", slice_source=failing)
    cubes.assert_cube("cube.zarr", cubes.concatenated(slices[:2]))
    assert zappend(paths[2:], target_dir="cube.zarr") == 1
    cubes.assert_cube("cube.zarr", cubes.concatenated(slices))
    assert zappend(paths[1:], target_dir="cube.zarr", force_new=True) == 2
    cubes.assert_cube("cube.zarr", cubes.concatenated(slices[1:]))
    assert run("append", "-t", "cube.zarr", "--force-new", *paths[:1]).code == 0
    cubes.assert_cube("cube.zarr", slices[0])


# guide, Dataset Objects: as they are, opened in chunks, and written to a temporary Zarr first.


@pytest.mark.parametrize("where", ["default", "folder", "memory"])
def test_datasets_that_are_written_elsewhere_first(
    where: str, paths: list[str], slices: list[xr.Dataset], folder: Path
) -> None:
    in_memory = f"memory://{folder.name}/temp"
    more: dict[str, Any] = {"default": {}, "folder": {"temp_dir": "temp"}, "memory": {"temp_dir": in_memory}}[where]
    Path("temp").mkdir()
    opened = [xr.open_dataset(path, chunks={"lat": 1}) for path in paths]
    given = [warmed(dataset, 0.5) for dataset in opened]
    assert zappend(given, target_dir="cube.zarr", persist_mem_slices=True, **more) == 3
    cubes.assert_cube("cube.zarr", cubes.concatenated([warmed(one, 0.5) for one in slices]))
    assert os.listdir("temp") == fsspec.filesystem("memory").find(f"/{folder.name}/temp") == []
    assert zappend(opened, target_dir="other.zarr") == 3  # they are the caller's, and still open
    cubes.assert_cube("other.zarr", cubes.concatenated(slices))
    for dataset in opened:
        dataset.close()
    with pytest.raises(UsageError, match="unknown setting 'persist_mem_slice'; did you mean 'persist_mem_slices'"):
        zappend(given, target_dir="cube.zarr", persist_mem_slice=True)  # as the guide spells it, and 0.8 refuses it


# guide, Slice Sources.


class OpenedFile(SliceSource):
    """A slice from a file."""

    closed: list[str] = []  # noqa: RUF012

    def __init__(self, path: str, warmer: float = 0.0) -> None:
        self.path, self.warmer = path, warmer
        self.dataset: xr.Dataset | None = None

    def get_dataset(self) -> xr.Dataset:
        self.dataset = xr.open_dataset(self.path)
        return warmed(self.dataset, self.warmer)

    def close(self) -> None:
        if self.dataset is not None:
            self.dataset.close()
            self.dataset = None
            self.closed.append(Path(self.path).name)


class Disposed(OpenedFile):
    """The same with the old name of `close`."""

    def dispose(self) -> None:
        super().close()

    def close(self) -> None:
        SliceSource.close(self)


class WithContext(OpenedFile):
    """The same from a class that is given the context."""

    def __init__(self, ctx: Context, path: str) -> None:
        super().__init__(path, ctx.config.extra["warmer"])
        assert isinstance(ctx.config, Config)


class HandsContextOn(SliceSource):
    """The same from a class that hands the context on, as it was done before zappend 0.6."""

    def __init__(self, ctx: Context, path: str) -> None:
        super().__init__(ctx)
        self.inner = OpenedFile(path, ctx.config.extra["warmer"])

    def get_dataset(self) -> xr.Dataset:
        return self.inner.get_dataset()

    def close(self) -> None:
        self.inner.close()


class HandsContextOnByName(HandsContextOn):
    def __init__(self, path: str, ctx: Context | None = None) -> None:
        assert ctx is not None
        SliceSource.__init__(self, ctx=ctx)
        self.inner = OpenedFile(path, ctx.config.extra["warmer"])


def makes_a_source(path: str, warmer: float = 0.0) -> SliceSource:
    return OpenedFile(path, warmer)


def makes_a_source_with_context(path: str, ctx: Context | None = None) -> SliceSource:
    assert ctx is not None
    return OpenedFile(path, ctx.config.extra["warmer"])


@contextlib.contextmanager
def opens_and_closes(path: str, warmer: float = 0.0) -> Iterator[xr.Dataset]:
    source = OpenedFile(path, warmer)
    try:
        yield source.get_dataset()
    finally:
        source.close()


def yields(path: str, warmer: float = 0.0) -> Iterator[xr.Dataset]:
    with opens_and_closes(path, warmer) as dataset:
        yield dataset


class IsABlock:
    """A context manager that is a class, and asks for the context."""

    def __init__(self, ctx: Context, path: str) -> None:
        self.source = OpenedFile(path, ctx.config.extra["warmer"])

    def __enter__(self) -> xr.Dataset:
        return self.source.get_dataset()

    def __exit__(self, *error: object) -> None:
        self.source.close()


def names_another(path: str, ctx: Context) -> str:
    """Give a path instead of a dataset, of a file in which it is warmer."""
    with opens_and_closes(path, ctx.config.extra["warmer"]) as dataset:
        dataset.to_netcdf(f"{path}.warm.nc", engine="h5netcdf")
    return f"{path}.warm.nc"


def names_another_with_options(path: str, ctx: Context) -> FileObj:
    return FileObj(names_another(path, ctx), storage_options={"auto_mkdir": False})


@pytest.mark.filterwarnings("ignore:Disposed.dispose:DeprecationWarning")
@pytest.mark.parametrize(
    ("source", "items"),
    [
        (None, lambda paths: [OpenedFile(path, 0.25) for path in paths]),
        (None, lambda paths: (Disposed(path, 0.25) for path in paths)),
        (None, lambda paths: [opens_and_closes(path, 0.25) for path in paths]),
        (f"{__name__}.OpenedFile", lambda paths: [[path, 0.25] for path in paths]),
        (OpenedFile, lambda paths: [([path], {"warmer": 0.25}) for path in paths]),
        (OpenedFile, lambda paths: [((path, 0.25), {}) for path in paths]),
        (Disposed, lambda paths: [{"path": path, "warmer": 0.25} for path in paths]),
        (WithContext, lambda paths: paths),
        (HandsContextOn, lambda paths: paths),
        (HandsContextOnByName, lambda paths: paths),
        (makes_a_source, lambda paths: [([path], {"warmer": 0.25}) for path in paths]),
        (makes_a_source_with_context, lambda paths: paths),
        (f"{__name__}.makes_a_source_with_context", lambda paths: paths),
        (opens_and_closes, lambda paths: [{"path": path, "warmer": 0.25} for path in paths]),
        (yields, lambda paths: [[path, 0.25] for path in paths]),
        (IsABlock, lambda paths: paths),
        (names_another, lambda paths: paths),
        (names_another_with_options, lambda paths: paths),
    ],
)
def test_a_slice_source_gives_the_slices_and_cleans_up(
    source: Any, items: Callable[[list[str]], Any], paths: list[str], slices: list[xr.Dataset], folder: Path
) -> None:
    OpenedFile.closed.clear()
    config = {"target_dir": "cube.zarr", "extra": {"warmer": 0.25}, "slice_source": source}
    assert zappend(items(paths), config=config) == 3
    cubes.assert_cube("cube.zarr", cubes.concatenated([warmed(one, 0.25) for one in slices]))
    assert OpenedFile.closed == [f"slice-{number}.nc" for number in range(3)]


def test_what_only_some_take_goes_to_no_one_in_vain(paths: list[str], folder: Path) -> None:
    class WithoutInit(SliceSource):
        def get_dataset(self) -> str:
            return paths[0]

    with pytest.raises(SliceError, match=r"WithoutInit\(.* raised TypeError"):
        zappend(paths, target_dir="cube.zarr", slice_source=WithoutInit)
    assert not Path("cube.zarr").exists()

    class Beside:
        def __init__(self, ctx: Context) -> None:
            self.dim = ctx.config.append_dim

    class WithBeside(WithoutInit, Beside):
        def __init__(self, ctx: Context, path: str) -> None:
            super().__init__(ctx)
            assert self.dim == "time"

    assert zappend(paths[:1], target_dir="cube.zarr", slice_source=WithBeside) == 1


# start, Using the Python API: a function that leaves variables out. config, slice_source_kwargs.


def test_a_function_that_leaves_variables_out(paths: list[str], slices: list[xr.Dataset], folder: Path) -> None:
    opened: list[xr.Dataset] = []

    def without(path: str, names: list[str]) -> xr.Dataset:
        opened.append(xr.open_dataset(path))
        return opened[-1].drop_vars(names)

    kwargs = {"names": ["ice", "orbit"]}
    assert zappend(paths, target_dir="cube.zarr", slice_source=without, slice_source_kwargs=kwargs) == 3
    cubes.assert_cube("cube.zarr", cubes.concatenated(slices).drop_vars(["ice", "orbit"]))
    for dataset in opened:
        dataset.close()


# guide, Slice Sources: means over the time of each file, labelled by the middle of it.


class MeanOfFile(SliceSource):
    def __init__(self, path: str) -> None:
        self.path = path
        self.days: xr.Dataset | None = None

    def get_dataset(self) -> xr.Dataset:
        self.days = xr.open_dataset(self.path)
        time = self.days.time
        middle = xr.DataArray(np.array([(time[0] + (time[-1] - time[0]) / 2).values], dtype=time.dtype), dims="time")
        mean = self.days[["sst", "ice"]].mean("time").expand_dims("time", axis=0)
        mean.coords["time"] = middle
        return mean

    def dispose(self) -> None:
        if self.days is not None:
            self.days.close()
            self.days = None


def test_means_of_files(folder: Path) -> None:
    months = [ocean(0, 3), ocean(3, 5), ocean(8, 3)]
    paths = [str(path) for path in cubes.write_netcdf(folder, months)]
    with pytest.warns(DeprecationWarning, match=r"MeanOfFile\.dispose\(\) is deprecated; call it close"):
        assert zappend(paths, target_dir="cube.zarr", slice_source=MeanOfFile) == 3
    cube = read("cube.zarr")
    np.testing.assert_array_equal(cube.time, pd.to_datetime(["2025-03-02T12", "2025-03-06T12", "2025-03-10T12"]))
    for number, month in enumerate(months):
        xr.testing.assert_allclose(cube.isel(time=number, drop=True), month[["sst", "ice"]].mean("time"))


# howdoi: images without the append dimension, from a generator and from a context manager.


@pytest.mark.parametrize("wrapped", [False, True])
def test_images_without_time(wrapped: bool, slices: list[xr.Dataset], folder: Path) -> None:
    for day, dataset in enumerate(slices):
        dataset[["sst", "ice"]].isel(time=0, drop=True).to_netcdf(f"2025-03-0{day + 1}.nc", engine="h5netcdf")

    def image(path: str) -> Iterator[xr.Dataset]:
        dataset = xr.open_dataset(path)
        label = np.datetime64(Path(path).stem + "T12:00", "ns")
        expanded = dataset.expand_dims("time", axis=0)
        expanded.coords["time"] = xr.DataArray(np.array([label]), dims="time")
        try:
            yield expanded
        finally:
            dataset.close()

    source = contextlib.contextmanager(image) if wrapped else image
    assert zappend(sorted(map(str, Path().glob("*.nc"))), slice_source=source, target_dir="cube.zarr") == 3
    cubes.assert_cube("cube.zarr", cubes.concatenated([one[["sst", "ice"]] for one in slices]))


# guide, Profiling and Logging; howdoi, write a log file.


@pytest.fixture
def log_of_zappend() -> Iterator[logging.Logger]:
    logger = logging.getLogger("zappend")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    for handler in set(logger.handlers).difference(before[0]):
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


CONSOLE: dict[str, Any] = {
    "version": 1,
    "formatters": {"normal": {"format": "%(asctime)s %(levelname)s %(message)s", "style": "%"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "normal"}},
    "loggers": {"zappend": {"level": "INFO", "handlers": ["console"]}},
}

LOG_FILE: dict[str, Any] = {
    "class": "logging.FileHandler",
    "formatter": "normal",
    "filename": "zappend.log",
    "mode": "w",
    "encoding": "utf-8",
}


@pytest.mark.parametrize("value", [True, "DEBUG", CONSOLE, "file"], ids=["true", "level", "console", "file"])
def test_where_it_is_logged(
    value: Any, paths: list[str], slices: list[xr.Dataset], folder: Path, log_of_zappend: logging.Logger
) -> None:
    if value == "file":
        loggers = {"zappend": {"level": "INFO", "handlers": ["console", "file"]}}
        value = {**CONSOLE, "handlers": {**CONSOLE["handlers"], "file": LOG_FILE}, "loggers": loggers}
    Path("config.json").write_text(json.dumps({"logging": value}))
    done = run("append", "-c", "config.json", "-t", "cube.zarr", *paths)
    assert done.code == 0
    shown = [line for line in done.err.splitlines() if "slice-1.nc: at 1:2" in line]
    assert len(shown) == 1
    assert " INFO " in shown[0]
    if isinstance(value, dict) and "file" in value["handlers"]:
        assert Path("zappend.log").read_text("utf-8") == done.err
    cubes.assert_cube("cube.zarr", cubes.concatenated(slices))


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (True, "INFO"),
        ("perf.out", "INFO"),
        ({"log_level": "WARNING", "path": "perf.out", "keys": ["tottime", "time", "ncalls"]}, "WARNING"),
        ({"enabled": True, "keys": ["cumtime"], "restrictions": [0.5, 10, "zappend"]}, "INFO"),
    ],
)
def test_where_time_goes(
    value: Any, level: str, paths: list[str], slices: list[xr.Dataset], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "zappend")
    assert zappend(paths, target_dir="cube.zarr", profiling=value) == 3
    reports = [record for record in caplog.records if "function calls" in record.getMessage()]
    assert [record.levelname for record in reports] == [level]
    assert Path("perf.out").exists() == (value == "perf.out" or (isinstance(value, dict) and "path" in value))
    cubes.assert_cube("cube.zarr", cubes.concatenated(slices))


# cli and start: what the command line is asked.


def test_the_options_of_the_command_line(paths: list[str], slices: list[xr.Dataset], folder: Path) -> None:
    Path("config.yaml").write_text("target_dir: target.zarr\n")
    assert run("append", "--config", "config.yaml", "--dry-run", *paths).code == 0
    assert not Path("target.zarr").exists()
    assert run("append", "--config", "config.yaml", *paths).code == 0
    cubes.assert_cube("target.zarr", cubes.concatenated(slices))
    assert run("append", "--target", "other.zarr", "-c", "config.yaml", "--traceback", *paths[:2]).code == 0
    cubes.assert_cube("other.zarr", cubes.concatenated(slices[:2]))
    assert run("--version").code == run("--help").code == run("config", "schema").code == 0
