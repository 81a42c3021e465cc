"""What a user gives as slices: every kind of item, and when it is closed."""

from __future__ import annotations

import os
import re
import sys
import threading
import zipfile
from collections import Counter, UserDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cubes
import dask
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from s3server import BUCKET, S3Server
from upath import UPath

import zappend
from zappend.api import Context, FileObj, SliceSource
from zappend.callables import name_of
from zappend.errors import SliceError, UsageError

SECRET = "not-to-be-seen"


class TestFileObj:
    def test_a_file_is_written_read_and_deleted(self, tmp_path: Path) -> None:
        folder = FileObj(str(tmp_path)) / "new"
        assert not folder.exists()
        folder.mkdir()
        file = folder / "a.txt"
        assert file.write("täxt") == 4
        assert file.write(b"!", mode="ab") == 1
        assert file.read() == "täxt!".encode()
        assert file.read("r") == "täxt!"
        assert (file.uri, file.path, file.filename) == (f"{tmp_path}/new/a.txt", f"{tmp_path}/new/a.txt", "a.txt")
        assert file.parent == folder
        file.delete()
        assert not file.exists()
        (folder / "b.txt").write(b"")
        folder.delete(recursive=True)
        assert not folder.exists()

    @pytest.mark.parametrize(
        ("uri", "child", "parent"),
        [
            ("memory://a/b", "memory://a/b/x.nc", "memory://a"),
            ("memory://a/b/", "memory://a/b/x.nc", "memory://a"),
            ("/a/b", "/a/b/x.nc", "/a"),
            ("/a", "/a/x.nc", "/"),
            ("dir://b/c::file:///tmp", "dir://b/c/x.nc::file:///tmp", "dir://b::file:///tmp"),
            ("simplecache::memory://a/b", "simplecache::memory://a/b/x.nc", "simplecache::memory://a"),
        ],
    )
    def test_paths_lead_down_and_up(self, uri: str, child: str, parent: str) -> None:
        assert FileObj(uri) / "x.nc" == FileObj(child)
        assert (FileObj(uri) / "x.nc").path == FileObj(child).path
        assert FileObj(uri).parent == FileObj(parent)
        assert FileObj(uri).parent.path.rstrip("/") == FileObj(parent).path.rstrip("/")

    def test_a_path_that_leads_nowhere_is_refused(self) -> None:
        here = FileObj("memory://a")
        assert here / "" is here
        with pytest.raises(ValueError, match="relative"):
            here / "/x"
        with pytest.raises(TypeError, match="must have type str, not int"):
            here / 5  # type: ignore[operator]
        with pytest.raises(ValueError, match="no parent"):
            _ = FileObj("").parent

    def test_no_text_shows_storage_options(self) -> None:
        options = {"key": SECRET, "client_kwargs": {"nested": SECRET}}
        file = FileObj("s3://bucket/a.nc", storage_options=options)
        assert SECRET not in f"{file} {file!r} {file} {[file]}"
        assert (str(file), repr(file)) == ("s3://bucket/a.nc", "FileObj('s3://bucket/a.nc', storage_options=...)")
        assert file.storage_options == options
        assert len({file, FileObj("s3://bucket/a.nc", dict(options))}) == 1
        assert file != FileObj("s3://bucket/a.nc")
        assert file != "s3://bucket/a.nc"

    def test_closing_lets_go_of_an_archive_and_of_nothing_that_others_use(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("b/c.txt", "within")
        inner = FileObj(f"zip://b/c.txt::{tmp_path}/a.zip")
        assert (inner.read(), inner.filename, inner.parent.path) == (b"within", "c.txt", "b")
        archive_fs = inner.fs
        inner.parent.close()  # uses the file system of the other
        assert archive_fs.zip.fp is not None
        inner.close()
        assert archive_fs.zip.fp is None
        assert inner.read() == b"within"  # opened anew
        inner.close()

        memory = FileObj("memory://f", fs=fsspec.filesystem("memory"))
        memory.close()
        assert not memory.exists()


# What can be a slice.


class FromPath(SliceSource):
    """Opens a file, as users' sources do."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.dataset: xr.Dataset | None = None

    def get_dataset(self) -> xr.Dataset:
        self.dataset = xr.open_dataset(self.path, engine="h5netcdf", decode_timedelta=False)
        return self.dataset

    def close(self) -> None:
        assert self.dataset is not None
        self.dataset.close()
        self.dataset = None


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[xr.Dataset]:
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        yield dataset


def generated(path: str | os.PathLike[str]) -> Iterator[xr.Dataset]:
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        yield dataset


def as_zarr(path: Path, zarr_format: Any = 2, consolidated: bool = True) -> Path:
    folder = path.with_suffix(f".{zarr_format}.zarr")
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        for variable in dataset.variables.values():
            variable.encoding = {k: v for k, v in variable.encoding.items() if k in ("units", "calendar", "dtype")}
        dataset.packed.encoding = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 1.0, "_FillValue": -32768}
        dataset.to_zarr(folder, zarr_format=zarr_format, consolidated=consolidated, mode="w")
    return folder


def keys_of(folder: Path) -> dict[str, bytes]:
    return {key: value for key, value in cubes.tree(folder).items() if value is not None}


def in_memory(path: Path) -> str:
    place = f"/slices/{path.parent.name}/{path.name}"
    fsspec.filesystem("memory").pipe(place, path.read_bytes())
    return f"memory:/{place}"


ITEMS: dict[str, Callable[[Path], Any]] = {
    "a text": str,
    "a path": lambda path: path,
    "a URI of a file": lambda path: f"file://{path}",
    "a URI": in_memory,
    "a FileObj": lambda path: FileObj(str(path)),
    "a FileObj of a URI": lambda path: FileObj(in_memory(path), storage_options={}),
    "a UPath": UPath,
    "a UPath elsewhere": lambda path: UPath(in_memory(path)),
    "a folder": as_zarr,
    "a dataset": lambda path: xr.load_dataset(path, engine="h5netcdf"),
    "a LocalStore": lambda path: zarr.storage.LocalStore(as_zarr(path)),
    "a LocalStore of format 3": lambda path: zarr.storage.LocalStore(as_zarr(path, 3, consolidated=False)),
    "a MemoryStore": lambda path: cubes.zarr_store(keys_of(as_zarr(path, consolidated=False))),
    "a mapper": lambda path: fsspec.filesystem("file").get_mapper(str(as_zarr(path))),
    "keys and bytes": lambda path: keys_of(as_zarr(path)),
    "keys and bytes of format 3": lambda path: UserDict(keys_of(as_zarr(path, 3))),
    "a context manager": opened,
    "a context manager of a path": lambda path: nullcontext(path),
    "a source": FromPath,
    "a source of a source": lambda path: type("Outer", (FromPath,), {"get_dataset": lambda self: FromPath(path),
                                                                     "close": lambda self: None})(path),
    "a function": lambda path: lambda: path,
    "a function of a context manager": lambda path: partial(opened, path),
    "a generator": generated,
    "a function that generates": lambda path: partial(generated, path),
    "a class": lambda path: type("Late", (FromPath,), {"__init__": lambda self: FromPath.__init__(self, path)}),
}  # fmt: skip


@pytest.fixture
def slices() -> list[xr.Dataset]:
    return [cubes.packed(2 * i) for i in range(3)]


@pytest.fixture
def paths(tmp_path: Path, slices: list[xr.Dataset]) -> list[Path]:
    return cubes.write_netcdf(tmp_path, slices)


def values_of(cube: Mapping[str, bytes]) -> xr.Dataset:
    return cubes.open_mapping(cube).drop_attrs()


@pytest.mark.parametrize("kind", ITEMS)
def test_whatever_can_be_a_slice_is_one(kind: str, paths: list[Path]) -> None:
    make = ITEMS[kind]
    expected: dict[str, bytes] = {}
    zappend.append(expected, paths[:2])
    for slices in ([make(path) for path in paths[:2]], (make(path) for path in paths[:2])):
        cube: dict[str, bytes] = {}
        assert zappend.append(cube, slices) == 2
        xr.testing.assert_equal(values_of(cube), values_of(expected))
        assert open_files_in(paths[0].parent) == []


@pytest.mark.parametrize("kind", [kind for kind in ITEMS if kind != "a generator"])
def test_a_single_one_need_not_be_in_a_list(kind: str, paths: list[Path]) -> None:
    cube: dict[str, bytes] = {}
    assert zappend.append(cube, ITEMS[kind](paths[0])) == 1
    assert values_of(cube).sizes["time"] == 2


def open_files_in(folder: Path) -> list[str]:
    if not Path("/proc/self/fd").is_dir():
        return []
    links = (os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return [link for link in links if link.startswith(str(folder))]


def test_a_named_array_is_a_slice(paths: list[Path], slices: list[xr.Dataset]) -> None:
    cube: dict[str, bytes] = {}
    assert slices[0]["a"].time.attrs["bounds"] == "time_bnds"  # which no array has with it
    slices[0]["a"].attrs.update({"grid_mapping": "crs: x y", "cell_measures": "area: area", "formula_terms": "p: gone"})
    zappend.append(cube, [dataset["a"] for dataset in slices])
    grown = cubes.open_mapping(cube)
    assert set(grown.data_vars) == {"a"}
    assert "bounds" not in grown.time.attrs
    assert grown["a"].attrs == {"units": "K", "long_name": "some temperature", "cell_measures": "area: area"}
    assert slices[0]["a"].time.attrs["bounds"] == "time_bnds"
    np.testing.assert_array_equal(grown["a"], np.concatenate([dataset["a"] for dataset in slices]))
    with pytest.raises(SliceError, match=r"slice 0: an xarray.DataArray must have a name"):
        zappend.append(cube, [slices[0]["a"].rename(None)])


class NoDataset(SliceSource):
    def __init__(self, item: str) -> None:
        pass

    def get_dataset(self) -> None:
        pass


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (5, "but was type int"),
        (None, "but was type NoneType"),
        ({"append_dim": "time"}, "but was type dict; a dict is taken for arguments only where there is a slice_source"),
        ([1, 2], "but was type list"),
    ],
)
def test_what_can_be_no_slice(item: Any, words: str) -> None:
    cube: dict[str, bytes] = {}
    with pytest.raises(UsageError, match=r"slice 0: slice_item must have type str, .*SliceSource") as caught:
        zappend.append(cube, [item])
    assert str(caught.value).endswith(words)
    assert cube == {}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (lambda item: None, "slice day-0: <lambda>('day-0') returned None instead of a dataset"),
        (lambda item: 5, "<lambda>('day-0') returned a value of type int instead of a dataset"),
        (lambda item: lambda: None, "<lambda>() returned None instead of a dataset"),
        (lambda item: nullcontext(None), "slice day-0: nullcontext yielded None instead of a dataset"),
        (NoDataset, "slice day-0: NoDataset.get_dataset() returned None instead of a dataset"),
    ],
)
def test_what_leads_to_no_dataset(source: Any, words: str) -> None:
    cube: dict[str, bytes] = {}
    with pytest.raises(UsageError) as caught:
        zappend.append(cube, ["day-0"], slice_source=source)
    assert str(caught.value).endswith(words)
    assert cube == {}


def test_what_leads_nowhere(tmp_path: Path) -> None:
    def again() -> Any:
        return again

    with pytest.raises(UsageError, match="slice 0: it leads from one thing to the next"):
        zappend.append({}, [again])
    with (tmp_path / "file").open("w") as file, pytest.raises(UsageError, match="was type TextIOWrapper"):
        zappend.append({}, [file])
    assert file.closed  # a file is a context manager, too
    with pytest.raises(SliceError, match="slice 0: it is no Zarr group that can be read"):
        zappend.append({}, [zarr.storage.MemoryStore()])


# When it is closed.


class Recorded:
    """Context managers and sources that tell what is done to them, and how many chunks the cube has then."""

    def __init__(self, cube: Mapping[str, bytes]) -> None:
        self.cube = cube
        self.events: list[str] = []

    def tell(self, what: str) -> None:
        self.events.append(f"{what} {sum(key.startswith('counts/') for key in self.cube)}")

    @contextmanager
    def manager(self, item: Any, name: str = "manager") -> Iterator[Any]:
        self.tell(f"open {name}")
        try:
            yield item
        finally:
            self.tell(f"close {name}")

    def generator(self, item: Any) -> Iterator[Any]:
        with self.manager(item, "generator") as given:
            yield given

    def source(self, item: Any) -> SliceSource:
        tell = self.tell

        class Source(SliceSource):
            def get_dataset(self) -> Any:
                tell("open source")
                return item

            def close(self) -> None:
                tell("close source")

        return Source()


@pytest.mark.parametrize("kind", ["manager", "generator", "source"])
@pytest.mark.parametrize("fails", [False, True])
def test_it_is_closed_once_when_the_slice_is_done(kind: str, fails: bool, paths: list[Path]) -> None:
    cube: dict[str, bytes] = {}
    recorded = Recorded(cube)
    make = getattr(recorded, kind)
    given = [make(paths[0]), make(cubes.small(2, x=5) if fails else paths[1]), make(paths[2])]
    with pytest.raises(SliceError, match="slice 1") if fails else nullcontext():
        zappend.append(cube, iter(given))
    # Three documents; a chunk of each slice that is in when its source is closed.
    before = [f"open {kind} 0", f"close {kind} 3", f"open {kind} 3"]
    assert recorded.events == [
        *before,
        *([f"close {kind} 3"] if fails else [f"close {kind} 4", f"open {kind} 4", f"close {kind} 5"]),
    ]
    for one in given[2:]:
        if fails and hasattr(one, "close"):
            one.close()  # nobody asked it for anything


def test_the_last_that_was_opened_is_closed_first(paths: list[Path]) -> None:
    cube: dict[str, bytes] = {}
    recorded = Recorded(cube)
    zappend.append(cube, recorded.source(lambda: recorded.manager(recorded.generator(paths[0]))))
    names = [event.rpartition(" ")[0] for event in recorded.events]
    kinds = ["source", "manager", "generator"]
    assert names == [f"open {kind}" for kind in kinds] + [f"close {kind}" for kind in reversed(kinds)]


def test_what_could_not_be_opened_is_closed_too(paths: list[Path]) -> None:
    closed = []

    class Source(SliceSource):
        def get_dataset(self) -> Any:
            raise OSError("no such day")

        def close(self) -> None:
            closed.append(self)

    source = Source()
    with pytest.raises(SliceError, match=r"slice 0: .*Source.get_dataset\(\) raised OSError: no such day"):
        zappend.append({}, [source])
    assert closed == [source]


def test_what_the_user_opened_stays_open(paths: list[Path]) -> None:
    closed = []

    class Store(zarr.storage.LocalStore):
        def close(self) -> None:
            closed.append(self)
            super().close()

    store = Store(as_zarr(paths[2]))
    with xr.open_dataset(paths[0], engine="h5netcdf") as dataset, xr.open_dataset(paths[1]) as other:
        zappend.append({}, [dataset, lambda: other, store], slice_size="any")
        assert dataset["a"].values.shape == other["a"].values.shape == (2, 3, 4)
    assert closed == []
    assert sorted(zarr.open_group(store, mode="r").array_keys()) == sorted(dataset.variables)


def test_no_source_can_hide_that_a_slice_was_refused(slices: list[xr.Dataset]) -> None:
    @contextmanager
    def careless() -> Iterator[xr.Dataset]:
        with suppress(Exception):
            yield slices[1]

    def as_careless() -> Iterator[xr.Dataset]:
        with suppress(Exception):
            yield slices[1]

    for source in (careless, as_careless):
        with pytest.raises(SliceError, match="slice 1"):
            zappend.append({}, [slices[2], source])


def test_a_slice_is_in_even_if_closing_fails(slices: list[xr.Dataset], caplog: pytest.LogCaptureFixture) -> None:
    class Source(SliceSource):
        def __init__(self, dataset: xr.Dataset) -> None:
            self.dataset = dataset

        def get_dataset(self) -> xr.Dataset:
            return self.dataset

        def close(self) -> None:
            raise OSError("disk gone")

    cube: dict[str, bytes] = {}
    assert zappend.append(cube, [Source(dataset) for dataset in slices]) == 3
    assert cubes.open_mapping(cube).sizes["time"] == 6
    assert [r.getMessage().partition("Source")[2] for r in caplog.records if "closing" in r.getMessage()] == [
        " failed: OSError: disk gone"
    ] * 3
    with pytest.raises(SliceError) as caught:
        zappend.append(cube, [Source(slices[0])])
    assert any("failed, too: OSError: disk gone" in note for note in caught.value.__notes__)


def test_a_generator_yields_one_slice(slices: list[xr.Dataset]) -> None:
    cube: dict[str, bytes] = {}

    def two() -> Iterator[xr.Dataset]:
        yield from slices[:2]

    def none() -> Iterator[xr.Dataset]:
        yield from ()

    with pytest.raises(SliceError, match=r"slice 0: .*two yields a second slice, which is not in"):
        zappend.append(cube, [two])
    assert cubes.open_mapping(cube).sizes["time"] == 2
    with pytest.raises(SliceError, match=r"slice 0: .*none yields nothing"):
        zappend.append(cube, [none])
    assert zappend.append(cube, (one for one in slices[1:])) == 2


def test_slices_are_asked_for_one_by_one(paths: list[Path]) -> None:
    cube: dict[str, bytes] = {}
    recorded = Recorded(cube)

    def ask() -> Iterator[Path]:
        for path in paths:
            recorded.tell(path.name)
            yield path

    zappend.append(cube, ask())
    assert recorded.events == ["slice-0.nc 0", "slice-1.nc 3", "slice-2.nc 4"]


def test_the_old_name_of_close_is_called_with_a_warning(slices: list[xr.Dataset]) -> None:
    disposed = []

    class Old(SliceSource):
        def get_dataset(self) -> xr.Dataset:
            return slices[0]

        def dispose(self) -> None:
            disposed.append(self)

    with pytest.warns(DeprecationWarning, match=r"Old.dispose\(\) is deprecated; call it close\(\)"):
        assert zappend.append({}, [Old()]) == 1
    assert len(disposed) == 1

    class Neither(SliceSource):
        def get_dataset(self) -> xr.Dataset:
            return slices[0]

    assert zappend.append({}, [Neither()]) == 1


# slice_source.


@pytest.mark.effect("slice_source_kwargs")
@pytest.mark.parametrize(
    ("item", "args", "kwargs"),
    [
        ("a.nc", ("a.nc",), {}),
        (5, (5,), {}),
        (["a.nc", 5], ("a.nc", 5), {}),
        ([], (), {}),
        ({"path": "a.nc"}, (), {"path": "a.nc"}),
        ((["a.nc"], {"day": 5}), ("a.nc",), {"day": 5}),
        ((("a.nc", 1), {}), ("a.nc", 1), {}),
    ],
)
@pytest.mark.parametrize("more", [{}, {"day": 7, "more": 8}])
def test_an_item_stands_for_arguments(
    item: Any, args: tuple[Any, ...], kwargs: dict[str, Any], more: dict[str, Any], slices: list[xr.Dataset]
) -> None:
    seen = []

    def source(*args: Any, **kwargs: Any) -> xr.Dataset:
        seen.append((args, kwargs))
        return slices[0]

    assert zappend.append({}, [item], slice_source=source, slice_source_kwargs=more) == 1
    assert seen == [(args, {**more, **kwargs})]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (("a", "b", "c"), r"tuple of form \(args, kwargs\) expected"),
        (("a", {}), r"args in tuple of form \(args, kwargs\) must be a tuple or list"),
        ((["a"], ["b"]), r"kwargs in tuple of form \(args, kwargs\) must be a dict"),
    ],
)
def test_a_tuple_must_be_arguments_and_keywords(item: Any, words: str) -> None:
    with pytest.raises(UsageError, match=f"^slice 0: {words}"):
        zappend.append({}, [item], slice_source=lambda *args, **kwargs: None)


class AtFirst(FromPath):
    def __init__(self, ctx: Context, path: Path) -> None:
        super().__init__(path)
        assert isinstance(ctx, Context)


class ByKeyword(FromPath):
    def __init__(self, path: Path, ctx: Context | None = None) -> None:
        super().__init__(path)
        assert isinstance(ctx, Context)


def ctx_last(path: Path, ctx: Context) -> Path:
    assert isinstance(ctx, Context)
    return path


def ctx_only_by_name(path: Path, *, ctx: Context) -> Path:
    return ctx_last(path, ctx)


def ctx_only_by_place(ctx: Context, /, path: Path) -> Path:
    return ctx_last(path, ctx)


def no_ctx(path: Path, **ctx: Any) -> Path:
    assert ctx == {}
    return path


@contextmanager
def in_a_block(ctx: Context, path: Path) -> Iterator[Path]:
    yield ctx_last(path, ctx)


def by_a_generator(path: Path, ctx: Context) -> Iterator[Path]:
    yield ctx_last(path, ctx)


SOURCES: list[Callable[..., Any]] = [
    FromPath, AtFirst, ByKeyword, ctx_last, ctx_only_by_name, ctx_only_by_place, no_ctx, in_a_block, by_a_generator,
    partial(ctx_last, ctx=None), opened, generated, Path, str,
]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_the_context_goes_where_it_is_asked_for(source: Callable[..., Any], paths: list[Path]) -> None:
    assert zappend.append({}, paths, slice_source=source) == 3


MODULE = """
import beside

class Nested:
    @staticmethod
    def source(path):
        return path

def source(path, **kwargs):
    assert kwargs == beside.KWARGS
    return path

value = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "modules"
    (folder / "packed_sources" / "deep").mkdir(parents=True)
    (folder / "beside.py").write_text("KWARGS = {}")
    (folder / "packed_sources" / "__init__.py").touch()
    (folder / "packed_sources" / "deep" / "__init__.py").touch()
    (folder / "broken_source.py").write_text("import not_to_be_found")
    (folder / "failing_source.py").write_text("1 / 0")
    for path in (folder / "own_source.py", folder / "packed_sources" / "deep" / "inner.py"):
        path.write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.effect("slice_source")
@pytest.mark.parametrize(
    "name",
    [
        "own_source:source",
        "own_source.source",
        "own_source.Nested.source",
        "own_source:Nested.source",
        "packed_sources.deep.inner.source",
        "packed_sources.deep.inner:source",
        "{folder}/own_source.py:source",
        "own_source.py:Nested.source",
    ],
)
def test_a_source_is_found_by_its_name(
    name: str, module: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(module)
    assert zappend.append({}, paths, slice_source=name.format(folder=module)) == 3


def test_a_file_is_run_anew_and_finds_what_lies_beside_it(module: Path, paths: list[Path]) -> None:
    sys.path.remove(str(module))
    before = list(sys.path)
    source = f"{module}/own_source.py:source"
    cube: dict[str, bytes] = {}
    assert zappend.append(cube, paths[:1], slice_source=source) == 1
    (module / "own_source.py").write_text("def source(path): raise KeyError('changed')")
    with pytest.raises(SliceError, match="KeyError: 'changed'"):
        zappend.append(cube, paths[1:], slice_source=source)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_source", "no attribute found named 'own_source'"),
        ("no_such_module.source", "no attribute found named 'no_such_module.source'"),
        ("own_source.sauce", "attribute 'sauce' not found in module 'own_source'"),
        ("packed_sources.deep.inner.Nested.sauce", "attribute 'Nested.sauce' not found in module"),
        ("no_such_module:source", "there is no module 'no_such_module'"),
        ("own_source.value", "'own_source.value' must be a callable or the fully qualified name of a callable"),
        ("broken_source.source", "cannot be imported: ModuleNotFoundError: No module named 'not_to_be_found'"),
        ("failing_source:source", "failing_source cannot be imported: ZeroDivisionError"),
        ("{folder}/failing_source.py:source", "cannot be imported: ZeroDivisionError"),
        ("{folder}/none.py:source", "there is no file"),
        ("{folder}/own_source.py:sauce", "attribute 'sauce' not found in file"),
        ("{folder}/own_source:source", "there is no file"),
        (5, "slice_source must be a callable or the fully qualified name of a callable, but is of the type int"),
    ],
)
def test_a_name_that_names_nothing(name: Any, words: str, module: Path, paths: list[Path]) -> None:
    source = name.format(folder=module) if isinstance(name, str) else name
    target = paths[0].parent / "cube.zarr"
    with pytest.raises(UsageError, match=re.escape(words)):
        zappend.append(target, paths, slice_source=source)
    assert not target.exists()


def test_what_the_users_code_raises_is_told_with_its_cause(paths: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"

    def source(path: Path, *more: Any, **kwargs: Any) -> Path:
        if kwargs or more:
            raise LookupError("nothing for\nthat day")
        return path

    zappend.append(target, paths[:1], slice_source=source)
    before = cubes.tree(target)
    item = (["b.nc", np.datetime64("2024-01-01"), {"key": SECRET}], {"token": SECRET})
    with pytest.raises(SliceError) as caught:
        zappend.append(target, [item], slice_source=source)
    assert str(caught.value).startswith("slice 0: test_what_the_users_code_raises_is_told_with_its_cause.<locals>.")
    assert str(caught.value).endswith("source('b.nc', 2024-01-01, <dict>, token=...) raised LookupError: nothing for")
    assert isinstance(caught.value.__cause__, LookupError)
    assert SECRET not in str(caught.value)
    assert cubes.tree(target) == before
    with pytest.raises(SliceError, match=rf"slice {re.escape(str(paths[1]))}: .*raised FileNotFoundError"):
        zappend.append(target, paths[1:], slice_source=lambda path: Path("/nowhere/at/all").read_bytes())


def test_what_is_appended_is_called_as_it_was_given(paths: list[Path], slices: list[xr.Dataset]) -> None:
    other = paths[0].parent / "other.nc"
    result = zappend.append({}, [paths[0], 1, other], slice_source=lambda item: {paths[0]: slices[0], 1: slices[1],
                                                                                other: paths[2]}[item])  # fmt: skip
    assert [one.slice for one in result.slices] == [str(paths[0]), "1", str(other)]


# persist_mem_slices.


@dataclass
class Lazy:
    """Counts how often what a dataset is made of is computed."""

    computed: Counter[str] = field(default_factory=Counter)

    def dataset(self, start: int) -> xr.Dataset:
        """Return `cubes.packed` of arrays of dask, two of which are made of the same one, in uneven chunks."""
        out = cubes.packed(start, 4).chunk({"time": (1, 2, 1), "x": (1, 3)})
        for name in ("a", "note", "time_bnds"):
            out[name].data = self._watched(out[name].data, f"{name} of {start}")
        out["twice"] = out["a"] * 2
        out["text"] = out["note"].copy(data=out["note"].data.map_blocks(lambda block: block + "!", dtype=object))
        return out

    def _watched(self, data: Any, name: str) -> Any:
        def compute(block: Any, block_id: tuple[int, ...] | None = None) -> Any:
            if block_id is not None:
                self.computed[f"{name}: {block_id}"] += 1
            return block

        return data.map_blocks(compute, dtype=data.dtype, meta=np.empty((0,) * data.ndim, data.dtype))


def odd(start: int) -> xr.Dataset:
    """Return a dataset of what is easily changed on its way through a file."""
    time = cubes.days(start, 2)
    return xr.Dataset(
        {
            "zeros": ("time", [-0.0, -0.0]),
            "payload": ("time", np.array([0x7FF8000000000001, 0x7FF0000000000000], "u8").view("f8")),
            "half": ("time", np.array([1.5, np.nan], "f2")),
            "flag": ("time", [True, False], {"flag": np.int8(1)}),
            "seconds": ("time", np.array(["2024-01-01T00:00:01", "NaT"], "M8[s]")),
            "span": ("time", np.array([1, "NaT"], "m8[ms]")),
            "wave": ("time", np.array([1 + 2j, 3j])),
            "big": ("time", np.array([1, 2], ">i4"), {"_FillValue": np.int32(2)}),
            "raw": ("time", np.array([5, 6], "i2"), {"scale_factor": 0.5, "units": "K"}),
            "fixed": ("time", np.array(["ä", "bcd"])),
            "bytes": ("time", np.array([b"a", b"bc"], "S3")),
            "alone": ((), 5.5),
        },
        {"time": time, "label": ("time", np.array(["x", "yy"], dtype=object))},
        {"title": "odd"},
    )


class Watched(UserDict[str, bytes]):
    """A cube that tells what is in a folder when it is written to."""

    def __init__(self, folder: FileObj) -> None:
        super().__init__()
        self.folder = folder
        self.seen: set[str] = set()

    def __setitem__(self, key: str, value: bytes) -> None:
        if self.folder.exists():
            self.folder.fs.invalidate_cache()
            self.seen.update(path.rpartition("/")[2] for path in self.folder.fs.ls(self.folder.path, detail=False))
        super().__setitem__(key, value)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    "make",
    [cubes.small, cubes.packed, Lazy().dataset, odd, lambda start: cubes.packed(start)["packed"]],
    ids=["small", "packed", "lazy", "odd", "an array"],
)
def test_what_is_written_to_a_temporary_zarr_first_makes_the_same_cube(
    make: Callable[[int], Any], zarr_format: int, tmp_path: Path
) -> None:
    cube: dict[str, bytes] = {}
    settings: dict[str, Any] = {"zarr_format": zarr_format, "append_step": "any"}
    zappend.append(cube, [make(0), make(4)], **settings)
    folder = FileObj(str(tmp_path / "temp"))
    watched = Watched(folder)
    given = [make(0), make(4)]
    before = [one.copy(deep=True) for one in given]
    zappend.append(watched, [given[0], lambda: given[1]], **settings, persist_mem_slices=True, temp_dir=folder.uri)
    assert watched.data == cube
    names = sorted(watched.seen)
    assert [re.sub("[0-9a-f]{32}", "*", name) for name in names] == [f"zappend-slice-{i}-*.zarr" for i in (0, 1)]
    assert list((tmp_path / "temp").iterdir()) == []
    for one, same in zip(given, before, strict=True):
        xr.testing.assert_identical(one, same)
        assert (
            [v.chunks for v in one.to_dataset().variables.values()]
            == [v.chunks for v in same.to_dataset().variables.values()]
            if isinstance(one, xr.DataArray)
            else one.chunks == same.chunks
        )


@pytest.mark.effect("persist_mem_slices")
def test_what_it_is_computed_from_is_computed_once(tmp_path: Path) -> None:
    lazy, again = Lazy(), Lazy()
    zappend.append({}, lazy.dataset(0), slice_size="any")
    zappend.append({}, again.dataset(0), persist_mem_slices=True, temp_dir=str(tmp_path))
    assert set(again.computed) == set(lazy.computed)
    assert set(again.computed.values()) == {1}
    assert max(lazy.computed.values()) > 1


def test_slices_that_are_paths_are_not_written_elsewhere(paths: list[Path], tmp_path: Path) -> None:
    watched = Watched(FileObj(str(tmp_path / "temp")))
    assert zappend.append(watched, paths, persist_mem_slices=True, temp_dir=watched.folder.uri) == 3
    assert watched.seen == set()


def test_nobody_else_may_read_a_temporary_zarr_and_none_is_left(tmp_path: Path, slices: list[xr.Dataset]) -> None:
    modes = []
    failed = threading.Event()

    def spoil(block: Any, block_id: Any = None) -> Any:
        if block_id == (0, 0, 0):
            modes.extend(oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir())
            failed.set()
            raise ValueError("spoiled")
        if block_id is not None:
            assert failed.wait(60)  # this one is written when the other has failed, or never
        return block

    settings: dict[str, Any] = {"persist_mem_slices": True, "temp_dir": str(tmp_path)}
    bad = slices[1].chunk({"time": 1})
    bad["a"].data = bad["a"].data.map_blocks(spoil, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    cube: dict[str, bytes] = {}
    zappend.append(cube, slices[0], **settings)
    with (
        dask.config.set(scheduler="threads", num_workers=4),
        pytest.raises(SliceError, match=r"slice 0: it cannot be written to the temporary folder .*: spoiled"),
    ):
        zappend.append(cube, bad, **settings)
    assert set(modes) == {"0o700"}
    with pytest.raises(SliceError, match="slice 0"):
        zappend.append(cube, cubes.small(2, x=5), **settings)
    assert list(tmp_path.iterdir()) == []
    assert cubes.open_mapping(cube).sizes["time"] == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_a_temporary_zarr_is_written_by_other_processes_too(tmp_path: Path, slices: list[xr.Dataset]) -> None:
    cube: dict[str, bytes] = {}
    again: dict[str, bytes] = {}
    zappend.append(cube, slices[0])
    with dask.config.set(scheduler="processes", num_workers=1):
        zappend.append(again, slices[0].chunk({"time": 1}), persist_mem_slices=True, temp_dir=str(tmp_path))
    assert again == cube
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_writes_no_temporary_zarr_either(tmp_path: Path, slices: list[xr.Dataset]) -> None:
    folder = tmp_path / "temp"
    assert zappend.append({}, slices, persist_mem_slices=True, temp_dir=str(folder), dry_run=True) == 3
    assert not folder.exists()


@pytest.mark.effect("temp_dir", "temp_storage_options")
def test_the_temporary_folder_may_be_anywhere(slices: list[xr.Dataset]) -> None:
    cube: dict[str, bytes] = {}
    zappend.append(cube, slices[:1])
    with S3Server() as server:
        for folder in (
            FileObj("memory://temp"),
            FileObj(f"s3://{BUCKET}/temp", storage_options=server.storage_options()),
        ):
            watched = Watched(folder)
            zappend.append(
                watched,
                slices[:1],
                persist_mem_slices=True,
                temp_dir=folder.uri,
                temp_storage_options=folder.storage_options,
            )
            assert watched.data == cube
            assert len(watched.seen - {""}) == 1
            folder.fs.invalidate_cache()
            assert not folder.exists() or folder.fs.find(folder.path) == []


def test_a_temporary_folder_that_cannot_be_written_to(tmp_path: Path, slices: list[xr.Dataset]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SliceError, match="slice 0: it cannot be written to the temporary folder"):
        zappend.append({}, slices, persist_mem_slices=True, temp_dir=str(tmp_path / "file"))
    with pytest.raises(UsageError, match="temp_dir"):
        zappend.append({}, slices, persist_mem_slices=True, temp_dir=5)
