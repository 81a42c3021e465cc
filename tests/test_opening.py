"""Slices wherever they lie: in all file systems, by all engines, while others still write them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cubes
import fsspec
import numpy as np
import pytest
import xarray as xr
from commands import run, run_process
from s3server import ACCESS_DENIED, BUCKET, S3Server, every
from test_slices import PATIENT, on_waiting, write_slice
from webserver import WebServer

import zappend
from zappend.errors import SliceError, UsageError
from zappend.fileobj import FileObj
from zappend.openers import BLOCK, IN_MEMORY
from zappend.opening import open_path
from zappend.settings import Settings

KEY, SECRET = "AKIAQQ7731ZZ", "wJalrXUtnFEMI-K7MDENG"


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(running: S3Server) -> Iterator[S3Server]:
    running.reset()
    yield running
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def s3_options(server: S3Server) -> dict[str, Any]:
    """Return options of s3fs as users have them, with listings that are kept."""
    return {"key": KEY, "secret": SECRET, "client_kwargs": server.storage_options()["client_kwargs"]}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    with WebServer(tmp_path / "slices") as server:
        yield server
    fsspec.get_filesystem_class("http").clear_instance_cache()


@pytest.fixture(autouse=True)
def nothing_stays_open(tmp_path: Path) -> Iterator[None]:
    """Look for files that are still open, and for copies that were left."""
    temp = tmp_path / "temp"
    temp.mkdir()
    yield
    assert [*temp.iterdir()] == []
    if sys.platform == "linux":
        opened = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert [path for path in opened if path.startswith(str(tmp_path))] == []


@dataclass
class Place:
    """Where slices lie: the URL of the folder, and the settings by which they are opened."""

    url: str
    settings: dict[str, Any]
    fill: Callable[[Path], None]
    """Puts what is in a local folder there."""


PLACES = ["local", "file", "memory", "S3", "web", "web without parts", "web without lengths", "cache", "zip"]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    kind = request.param
    folder = tmp_path / "slices"
    folder.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"temp_dir": str(tmp_path / "temp")}
    if kind in ("local", "file"):
        yield Place(("file://" if kind == "file" else "") + str(folder), settings, lambda source: None)
    elif kind == "S3" or kind == "cache":
        server: S3Server = request.getfixturevalue("s3")

        def upload(source: Path) -> None:
            for path in source.rglob("*"):
                if path.is_file():
                    server.put(f"in/{path.relative_to(source)}", path.read_bytes())

        options = s3_options(server)
        if kind == "cache":
            settings["slice_storage_options"] = {"s3": options, "cache_storage": str(tmp_path / "cache")}
            yield Place(f"simplecache::s3://{BUCKET}/in", settings, upload)
        else:
            yield Place(f"s3://{BUCKET}/in", {**settings, "slice_storage_options": options}, upload)
    elif kind == "memory":
        memory = fsspec.filesystem("memory")
        root = f"/{tmp_path.name}"
        yield Place(f"memory:/{root}", settings, lambda source: memory.put(f"{source}/", root, recursive=True))
        if memory.exists(root):
            memory.rm(root, recursive=True)
    elif kind == "zip":
        archive = tmp_path / "all.zip"
        yield Place(f"zip://in::{archive}", settings, lambda source: pack(archive, source, "in"))
    else:
        server = request.getfixturevalue("web")
        server.ranges = "parts" not in kind
        server.lengths = "lengths" not in kind
        yield Place(server.url, settings, lambda source: None)


def pack(archive: Path, source: Path, root: str = "") -> None:
    """Put the files of a folder into a zip file."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                file.write(path, Path(root) / path.relative_to(source))


def at(place: Place, name: str) -> str:
    """Return the URL of a slice."""
    before, link, after = place.url.rpartition("::") if place.url.startswith("simple") else ("", "", place.url)
    first, chained, rest = after.partition("::")
    return f"{before}{link}{first}/{name}{chained}{rest}"


WRITTEN = ["NetCDF-4", "NetCDF-4 in a group", "2 dots", "3", "3 shards", "zip of 2 dots", "zip of 3"]


def write(folder: Path, kind: str) -> tuple[str, dict[str, Any]]:
    """Write a slice; return its name, and the settings that it takes."""
    if kind.startswith("NetCDF"):
        dataset = cubes.packed(0)
        group = "deep/inside" if "group" in kind else None
        dataset.to_netcdf(folder / "slice.nc", engine="h5netcdf", group=group)
        return "slice.nc", {"open_kwargs": {"group": group}} if group else {}
    if kind.startswith("zip"):
        path = write_slice(folder, kind.removeprefix("zip of "))
        pack(folder / "slice.zarr.zip", path)
        shutil.rmtree(path)
        return "slice.zarr.zip", {}
    return write_slice(folder, kind).name, {}


def cube_of(item: Any, **settings: Any) -> dict[str, bytes]:
    target: dict[str, bytes] = {}
    assert zappend.append(target, item, **settings) == 1
    return target


@pytest.mark.effect("slice_storage_options")
@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_slice_in_any_file_system(
    place: Place, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    name, settings = write(tmp_path / "slices", kind)
    place.fill(tmp_path / "slices")
    expected = cube_of(tmp_path / "slices" / name, **settings)
    caplog.clear()
    if "shards" in kind and "without parts" in request.node.name:  # zarr reads shards in parts, and takes no others
        with pytest.raises(SliceError, match="cannot be read"):
            zappend.append({}, at(place, name), **place.settings)
        return
    assert cube_of(at(place, name), **place.settings, **settings) == expected
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING and r.message.startswith("slice")] == []


@pytest.mark.parametrize("kind", ["NetCDF-4", "3"])
@pytest.mark.parametrize("place", ["S3"], indirect=True)
def test_a_file_with_options_of_its_own(place: Place, kind: str, tmp_path: Path, s3: S3Server) -> None:
    """They win over those of the settings; a file system that is given is used as it is, also one for coroutines."""
    name, _ = write(tmp_path / "slices", kind)
    place.fill(tmp_path / "slices")
    expected = cube_of(tmp_path / "slices" / name)
    options = place.settings["slice_storage_options"]
    wrong = {"client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}
    url = at(place, name)
    assert cube_of(FileObj(url, options), slice_storage_options=wrong) == expected
    assert cube_of(FileObj(url), slice_storage_options=options) == expected
    for extra in ({}, {"asynchronous": True}):
        fs = fsspec.filesystem("s3", **options, **extra)
        assert cube_of(FileObj(url, fs=fs), slice_storage_options=wrong) == expected


@pytest.mark.parametrize("place", [place for place in PLACES if place not in ("local", "file")], indirect=True)
@pytest.mark.parametrize("name", ["none.nc", "none.zarr", "none.zarr.zip"])
def test_nothing_is_there(place: Place, name: str, tmp_path: Path) -> None:
    (tmp_path / "slices" / "other").write_text("other")
    place.fill(tmp_path / "slices")
    target: dict[str, bytes] = {}
    with pytest.raises(SliceError) as caught:
        zappend.append(target, at(place, name), **place.settings)
    assert str(caught.value) in (
        f"slice {at(place, name)}: there is no such file or folder",
        f"slice {at(place, name)}: it is a folder, but no Zarr group",
    )
    assert target == {}


@pytest.mark.parametrize("place", ["memory", "S3", "web", "web without lengths", "zip"], indirect=True)
@pytest.mark.parametrize("damage", ["no dataset", "empty", "cut NetCDF-4", "cut zip", "no group", "no Zarr in the zip"])
def test_what_is_damaged_is_refused_and_closed(place: Place, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "slices"
    name, settings, message = "slice.nc", {}, "it is no dataset that can be read: "
    if damage == "no dataset":
        (folder / name).write_text("hello")
        message = "it is neither NetCDF nor Zarr; "
    elif damage == "empty":
        (folder / name).touch()
        message = "the file is empty"
    elif damage == "cut NetCDF-4":
        write(folder, "NetCDF-4")
        (folder / name).write_bytes((folder / name).read_bytes()[:3000])
    elif damage == "cut zip":
        name, _ = write(folder, "zip of 3")
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    elif damage == "no group":
        name, _ = write(folder, "3")
        settings, message = {"open_kwargs": {"group": "a/b"}}, "there is no Zarr group 'a/b' in it"
    else:
        name, _ = write(folder, "zip of 3")
        settings = {"open_kwargs": {"group": "a/b"}}
        message = "it is a zip file with no Zarr group at a/b; open_kwargs can name its group"
    place.fill(folder)
    with pytest.raises(SliceError, match=re.escape(f"slice {at(place, name)}: {message}")):
        zappend.append({}, at(place, name), **place.settings, **settings)


@pytest.mark.parametrize("place", ["memory", "S3", "web", "zip"], indirect=True)
@pytest.mark.parametrize("kind", ["2 dots", "3", "3 shards", "zip of 3"])
def test_missing_chunks_are_counted_in_any_file_system(place: Place, kind: str, tmp_path: Path) -> None:
    path = write_slice(tmp_path / "slices", kind.removeprefix("zip of "))
    chunk = sorted(p for p in (path / "sst").rglob("*") if p.is_file() and not p.name.startswith(("zarr.", ".")))[0]
    chunk.unlink()
    name = path.name
    if kind.startswith("zip"):
        name += ".zip"
        pack(tmp_path / "slices" / name, path)
    place.fill(tmp_path / "slices")
    total = 3 if kind == "3 shards" else 6
    with pytest.raises(SliceError, match=rf"1 of {total} chunks of 'sst' are missing"):
        zappend.append({}, at(place, name), slice_missing_chunks="refuse", **place.settings)
    assert cube_of(at(place, name), slice_missing_chunks="fill", **place.settings)


@pytest.mark.parametrize("place", ["web", "S3"], indirect=True)
@pytest.mark.parametrize("limit", [IN_MEMORY, 1000])
def test_a_netcdf_file_is_asked_for_in_few_requests(
    place: Place, limit: int, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one is read at once; a large one in blocks, or from a web server, of which not all send parts, whole."""
    monkeypatch.setattr("zappend.openers.IN_MEMORY", limit)
    monkeypatch.setattr("zappend.openers.BLOCK", BLOCK if limit == IN_MEMORY else 4096)
    name, _ = write(tmp_path / "slices", "NetCDF-4")
    place.fill(tmp_path / "slices")
    size = (tmp_path / "slices" / name).stat().st_size
    is_web = place.url.startswith("http")
    server = request.getfixturevalue("web" if is_web else "s3")
    assert cube_of(at(place, name), **place.settings) == cube_of(tmp_path / "slices" / name)
    gets = server.requests[f"GET /{name}"] if is_web else server.count("GET")
    assert gets == 1 if is_web or limit == IN_MEMORY else 1 < gets <= size / 4096 + 1


def test_a_cube_elsewhere_than_its_slices(tmp_path: Path, web: WebServer, s3: S3Server) -> None:
    (tmp_path / "slices").mkdir()
    paths = cubes.write_netcdf(tmp_path / "slices", [cubes.packed(0), cubes.packed(2)])
    urls = [f"{web.url}/{path.name}" for path in paths]
    options = s3.storage_options()
    assert zappend.append(f"s3://{BUCKET}/cube.zarr", urls, storage_options=options) == 2
    files = s3.objects("cube.zarr/")
    cube = cubes.open_mapping({key.removeprefix("cube.zarr/"): data for key, data in files.items()})
    xr.testing.assert_identical(cube, cubes.concatenated([cubes.packed(0), cubes.packed(2)]))


def test_a_process_that_reads_from_a_network_ends_without_a_word(tmp_path: Path, web: WebServer, s3: S3Server) -> None:
    """No connection is left to be complained of, and slices that fail leave none either."""
    (tmp_path / "slices").mkdir()
    source = write_slice(tmp_path / "slices")
    for path in source.rglob("*"):
        if path.is_file():
            s3.put(f"in/{path.relative_to(source.parent)}", path.read_bytes())
    (tmp_path / "c.json").write_text(json.dumps({"slice_storage_options": s3_options(s3)}))
    for url, config in ((f"{web.url}/{source.name}", []), (f"s3://{BUCKET}/in/{source.name}", ["-c", "c.json"])):
        shutil.rmtree(tmp_path / "cube", ignore_errors=True)
        assert run_process("append", "-t", "cube", *config, url, cwd=tmp_path) == (0, "1 slice appended.\n", "")
        failed = run_process("append", "-t", "cube", *config, f"{url}/none.nc", cwd=tmp_path)
        assert failed == (1, "", f"Error: slice {url}/none.nc: there is no such file or folder\n")


def test_a_netcdf_3_file_is_copied_first(tmp_path: Path) -> None:
    source = next(path for path in cubes.SAMPLES.rglob("*.nc") if path.read_bytes()[:3] == b"CDF")
    memory = fsspec.filesystem("memory")
    memory.put(str(source), f"/{tmp_path.name}/{source.name}")
    settings = Settings(temp_dir=str(tmp_path / "temp"))
    url = f"memory://{tmp_path.name}/{source.name}"
    if "netcdf4" not in xr.backends.list_engines():
        with pytest.raises(SliceError, match="NetCDF-3 file, which takes the package netcdf4: pip install"):
            open_path(url, settings)
        return
    with open_path(url, settings) as found, open_path(str(source), settings) as expected:
        assert [path.name for path in (tmp_path / "temp").glob("*/*")] == [source.name]
        xr.testing.assert_identical(found.load(), expected.load())


def test_copies_are_made_in_the_temporary_folder(tmp_path: Path, web: WebServer) -> None:
    (tmp_path / "slices").mkdir()
    name, _ = write(tmp_path / "slices", "zip of 3")
    with pytest.raises(UsageError, match=r"setting temp_dir: no folder can be made in /no/such/folder: No such file"):
        zappend.append({}, f"{web.url}/{name}", temp_dir="/no/such/folder")
    # One that is not local is no place for what has to be local.
    assert cube_of(f"{web.url}/{name}", temp_dir="memory://temp") == cube_of(tmp_path / "slices" / name)


# How they are opened.


ENGINES = "'h5netcdf', .*'zarr'"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slice_engine": "h5netcdff"}, rf"setting slice_engine: xarray has no engine 'h5netcdff' here; .*{ENGINES}"),
        ({"slice_engine": "h5netcdff"}, r"; did you mean 'h5netcdf'\?$"),
        ({"slice_engine": "cfgrib"}, r"xarray has no engine 'cfgrib' here; .*; for 'cfgrib': pip install cfgrib$"),
        ({"slice_engine": "store"}, r"xarray has no engine 'store' here"),
        ({"open_kwargs": {"engine": "foo"}}, r"xarray has no engine 'foo' here"),
        ({"open_kwargs": {"engine": "zarr"}, "slice_engine": "h5netcdf"}, r"its engine is 'zarr', and slice_engine is"),
        ({"open_kwargs": {"filename_or_obj": "x"}}, r"'filename_or_obj' cannot be given: what is opened is the slice"),
        ({"open_kwargs": {"storage_options": {}}}, r"'storage_options' cannot be given: slice_storage_options has"),
        ({"open_kwargs": {"mode": "w"}}, r"'mode' cannot be given: slices are only read"),
        ({"open_kwargs": {"group": 1}}, r"setting open_kwargs: group must be a path, not 1"),
        ({"open_kwargs": {"grup": "a"}}, r"setting open_kwargs: .* unexpected keyword argument 'grup'"),
    ],
)
@pytest.mark.parametrize("polling", [False, PATIENT])
def test_a_wrong_way_to_open(tmp_path: Path, settings: dict[str, Any], message: str, polling: Any) -> None:
    """What waiting cannot mend is told at once."""
    [path] = cubes.write_netcdf(tmp_path, [cubes.packed(0)])
    os.utime(path, (0, 0))
    target: dict[str, bytes] = {}
    with on_waiting(lambda i: pytest.fail("it waits")), pytest.raises(UsageError, match=message):
        zappend.append(target, path, slice_polling=polling, **settings)
    assert target == {}


@pytest.mark.effect("slice_engine")
@pytest.mark.parametrize("remote", [False, True])
def test_engines_are_those_of_xarray(tmp_path: Path, remote: bool) -> None:
    """A reader that takes nothing but local files is given a copy, under the name of the slice."""
    [path] = cubes.write_netcdf(tmp_path, [cubes.packed(0)])
    folder = write_slice(tmp_path)
    netcdf, zarr = cube_of(path), cube_of(folder)
    base = f"memory://{tmp_path.name}" if remote else str(tmp_path)
    if remote:
        fsspec.filesystem("memory").put(f"{tmp_path}/", f"/{tmp_path.name}", recursive=True)
    settings = {"temp_dir": str(tmp_path / "temp")}
    for engine in ("h5netcdf", *({"netcdf4"} & xr.backends.list_engines().keys())):
        for by_name in ({"slice_engine": engine}, {"open_kwargs": {"engine": engine}}):
            cube = cubes.open_mapping(cube_of(f"{base}/{path.name}", **by_name, **settings))
            xr.testing.assert_identical(cube, cubes.open_mapping(netcdf))
    # What is of this engine alone goes past the quick way.
    own = {"invalid_netcdf": False}
    cube = cubes.open_mapping(cube_of(f"{base}/{path.name}", slice_engine="h5netcdf", open_kwargs=own, **settings))
    xr.testing.assert_identical(cube, cubes.open_mapping(netcdf))
    assert cube_of(f"{base}/{folder.name}/", slice_engine="zarr", **settings) == zarr
    with pytest.raises(SliceError, match=r"slice-0\.nc: it is no dataset that can be read"):
        zappend.append({}, f"{base}/{path.name}", slice_engine="zarr", **settings)
    with pytest.raises(SliceError, match="of folders that are not local" if remote else "it is no dataset that can"):
        zappend.append({}, f"{base}/{folder.name}", slice_engine="h5netcdf", **settings)


@pytest.mark.effect("open_kwargs")
@pytest.mark.parametrize("kind", ["NetCDF-4", "3"])
def test_what_is_decoded_is_asked_for(tmp_path: Path, kind: str) -> None:
    """By default nothing is, and packed values are taken as they are; then a cube's own encoding holds."""
    dataset = cubes.packed(0).drop_vars("note")
    path = tmp_path / ("slice.nc" if kind == "NetCDF-4" else "slice.zarr")
    if kind == "NetCDF-4":
        dataset.to_netcdf(path, engine="h5netcdf")
    else:
        dataset.to_zarr(path, zarr_format=3)

    def opened(**arguments: Any) -> xr.Dataset:
        with open_path(path, Settings(open_kwargs=arguments)) as found:
            return found.load()

    assert opened().packed.dtype == "i2"
    assert opened().time.dtype.kind == "i"
    assert opened(mask_and_scale=True).packed.dtype.kind == "f"
    assert opened(mask_and_scale=True).time.dtype.kind == "i"
    assert opened(decode_times=True).time.dtype.kind == "M"
    assert opened(decode_times=True).packed.dtype == "i2"
    decoded = xr.open_dataset(path, engine="h5netcdf" if kind == "NetCDF-4" else "zarr")
    with decoded:
        xr.testing.assert_identical(opened(decode_cf=True), decoded.load())
    xr.testing.assert_identical(opened(decode_cf=False), opened(concat_characters=False))
    assert opened(use_cftime=False).time.dtype.kind == "M"
    assert "counts" not in opened(drop_variables=["counts"])
    with open_path(path, Settings(open_kwargs={"chunks": {"time": 2}})) as lazy:
        assert lazy.packed.chunks == ((2,), (3,))
    cubes_of = [cube_of(path, open_kwargs=arguments) for arguments in ({}, {"decode_cf": True}, {"chunks": {}})]
    first, second, third = map(cubes.open_mapping, cubes_of)
    xr.testing.assert_identical(first, third)
    xr.testing.assert_allclose(first, second)


def test_a_setting_for_opening_is_part_of_a_configuration(tmp_path: Path) -> None:
    cubes.packed(0).to_netcdf(tmp_path / "a.nc", engine="h5netcdf", group="inner")
    (tmp_path / "c.yaml").write_text("slice_engine: h5netcdf\nopen_kwargs:\n  group: inner\n  drop_variables: note\n")
    assert run("append", "-t", "cube", "-c", "c.yaml", "a.nc", cwd=tmp_path).code == 0
    with xr.open_zarr(tmp_path / "cube", chunks=None) as cube:
        assert set(cubes.packed(0).variables) - set(cube.variables) == {"note"}


@pytest.mark.parametrize("package", ["s3fs", "aiohttp"])
def test_a_package_that_is_not_installed(tmp_path: Path, package: str) -> None:
    url = "s3://bucket/a.nc" if package == "s3fs" else "https://localhost/a.nc"
    code = f"import sys; sys.modules['{package}'] = None; from zappend.cli import main; main()"
    command = [sys.executable, "-c", code, "append", "-t", str(tmp_path / "cube"), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: slice {url}: it takes the package {package}: pip install {package}\n"
    assert not (tmp_path / "cube").exists()


# Waiting.


@pytest.mark.parametrize("kind", ["NetCDF-4", "2 dots", "3"])
@pytest.mark.parametrize("place", ["S3", "memory", "web"], indirect=True)
def test_a_remote_slice_that_comes_bit_by_bit(place: Place, kind: str, tmp_path: Path) -> None:
    """First nothing, then all but the last key, then all. Listings that are kept do not hide what is new."""
    source, folder = tmp_path / "source", tmp_path / "slices"
    source.mkdir()
    name, _ = write(source, kind)
    files = [p.relative_to(source) for p in sorted(source.rglob("*")) if p.is_file()]
    last = next((file for file in files if file.parts[1:2] == ("sst",) and file.name[0].isdigit()), files[0])

    def bring(some: list[Path]) -> None:
        for file in some:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, folder / file)
        if some:
            place.fill(folder)

    steps = [[file for file in files if file != last], [last]]
    with on_waiting(lambda i: bring(steps[i] if i < len(steps) else [])) as said:
        cube = cube_of(at(place, name), slice_polling={"interval": 0.01}, **place.settings)
    assert cube == cube_of(source / name)
    assert "there is no such file" in said[0] or "no Zarr group" in said[0]
    assert kind == "NetCDF-4" or "1 of 6 chunks of 'sst' are missing" in said[1]
    # Whole at last, it is looked at once more: it is too young, or it has changed.
    assert len(said) == 3
    assert re.search(r"s ago, so it may still|nothing tells when it changed|has changed", said[2])


def test_a_file_on_a_web_server_that_grows(tmp_path: Path, web: WebServer) -> None:
    """What a server tells of it, its size perhaps, is all that tells whether it changes."""
    (tmp_path / "slices").mkdir()
    name, _ = write(tmp_path / "slices", "NetCDF-4")
    path = tmp_path / "slices" / name
    data, expected = path.read_bytes(), cube_of(path)
    path.write_bytes(data[:5000])

    def go_on(i: int) -> None:
        if i == 1:
            path.write_bytes(data)

    with on_waiting(go_on) as said:
        assert cube_of(f"{web.url}/{name}", slice_polling={"interval": 0.01}) == expected
    assert "nothing tells when it changed, so it may still be being written" in said[0]
    assert "no dataset" in said[1]
    assert f"it has changed from 5000 to {len(data)} bytes since the last look" in said[2]
    assert len(said) == 3


def test_a_web_server_that_tells_nothing_of_a_file(
    tmp_path: Path, web: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "slices").mkdir()
    name, _ = write(tmp_path / "slices", "NetCDF-4")
    web.lengths = False
    cube_of(f"{web.url}/{name}", slice_polling={"interval": 0.01}, temp_dir=str(tmp_path / "temp"))
    assert f"slice {web.url}/{name}: whether it is still being written cannot be told: it has no size" in caplog.text


@pytest.mark.parametrize("kind", ["NetCDF-4", "3", "zip of 3"])
def test_what_was_finished_long_ago_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    name, _ = write(tmp_path, kind)
    for path in (tmp_path / name, *(tmp_path / name).rglob("*")):
        os.utime(path, (0, time.time() - 100))
    with on_waiting(lambda i: pytest.fail("it waits")):
        cube_of(tmp_path / name, slice_polling={"interval": 30})


@pytest.mark.parametrize("kind", ["NetCDF-4", "3"])
def test_what_has_just_changed_is_refused_when_there_is_no_time(tmp_path: Path, kind: str) -> None:
    name, _ = write(tmp_path, kind)
    target: dict[str, bytes] = {}
    with pytest.raises(SliceError, match=r"it changed \S+ s ago, so it may still be being written") as caught:
        zappend.append(target, tmp_path / name, slice_polling={"timeout": 0})
    assert caught.value.__notes__ == ["slice_polling waited 0 s for it"]
    assert target == {}


WRITER = """
import sys, h5netcdf, numpy as np
path, values = sys.argv[1], np.arange(24.0).reshape(2, 3, 4)
tell = lambda: (print("done", flush=True), sys.stdin.readline())
with h5netcdf.File(path, "w") as file:
    file.dimensions = {"time": 2, "y": 3, "x": 4}
    file.create_variable("time", ("time",), data=np.array([0, 1])).attrs["units"] = "days since 2024-01-01"
    file.flush(); tell()
    for name in "abc":
        variable = file.create_variable(name, ("time", "y", "x"), "f8", chunks=(1, 3, 4), fillvalue=-1.0)
        file.flush(); tell()
        for i in range(2):
            variable[i] = values[i]
            file.flush(); tell()
print("closed", flush=True)
"""


@pytest.mark.parametrize("locking", ["TRUE", "FALSE"])
def test_a_file_that_another_process_writes_slowly_in_place(tmp_path: Path, locking: str) -> None:
    """Without locks each state of it opens, and lacks variables, or has fill values where values are to come."""
    path = tmp_path / "slice.nc"
    command = [sys.executable, "-c", WRITER, str(path)]
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": locking}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        read, write = writer.stdout.readline, writer.stdin.write
        assert read() == "done\n"
        steps = 0

        def go_on(i: int) -> None:
            nonlocal steps
            if writer.stdout is not None and writer.stdin is not None and steps < 10:
                steps += 1
                write("go on\n")
                writer.stdin.flush()
                assert read() == ("closed\n" if steps == 10 else "done\n")

        with on_waiting(go_on) as said:
            cube = cubes.open_mapping(cube_of(path, slice_polling={"interval": 0.05, "timeout": 60}))
    assert steps == 10
    assert len(said) == 11
    for name in "abc":
        np.testing.assert_array_equal(cube[name], np.arange(24.0).reshape(2, 3, 4))


LATE = """
import sys, time, shutil
print("begun", flush=True)
time.sleep(2)
shutil.copyfile(sys.argv[1], sys.argv[2])
"""


def test_a_slice_that_appears_after_two_seconds(tmp_path: Path) -> None:
    [source] = cubes.write_netcdf(tmp_path, [cubes.packed(0)])
    (tmp_path / "c.yaml").write_text("slice_polling: {interval: 0.2}\n")
    with subprocess.Popen(
        [sys.executable, "-c", LATE, source, tmp_path / "late.nc"], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        assert not (tmp_path / "late.nc").exists()
        outcome = run("append", "-t", "cube", "-c", "c.yaml", "-v", "late.nc", cwd=tmp_path)
    assert (outcome.code, outcome.out) == (0, "1 slice appended.\n")
    assert "slice late.nc: there is no such file or folder; looking again in 0.2 s" in outcome.err
    cubes.assert_cube(tmp_path / "cube", cubes.packed(0))


@pytest.mark.parametrize("place", ["S3", "web", "memory"], indirect=True)
def test_a_remote_slice_that_never_comes(place: Place, tmp_path: Path) -> None:
    settings = {**place.settings, "slice_polling": {"interval": 0.01, "timeout": 0.05}}
    target: dict[str, bytes] = {}
    with pytest.raises(SliceError, match=rf"slice {at(place, 'a.nc')}: there is no such file or folder") as caught:
        zappend.append(target, at(place, "a.nc"), **settings)
    assert caught.value.__notes__ == ["slice_polling waited 0.05 s for it"]
    assert caught.value.exit_code == 1
    assert target == {}


# What is not shown.


def everything_said(caught: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """Return all that an error and the log show, tracebacks and causes among it."""
    shown = "".join(traceback.format_exception(caught))
    return "\n".join([shown, repr(caught), *(record.getMessage() for record in caplog.records)])


@pytest.mark.parametrize("polling", [False, {"interval": 0.01, "timeout": 0.05}])
def test_keys_of_an_object_store_are_not_shown(
    s3: S3Server, caplog: pytest.LogCaptureFixture, polling: Any, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    s3.set_policy(every(lambda request: True, ACCESS_DENIED))
    options = {**s3_options(s3), "token": "FwoGZXIvYXdzEJr//token=="}
    nowhere = {**options, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}, "config_kwargs": {"retries": {}}}
    url = f"s3://{BUCKET}/a.nc"
    broken = f"s3://{SECRET}@{BUCKET}/a.nc"
    for item, settings in (
        (url, {"slice_storage_options": options}),
        (FileObj(url, options), {}),
        (FileObj(broken, options), {}),
        (FileObj(url, fs=fsspec.filesystem("s3", **options)), {}),
        (url, {"slice_storage_options": {**options, "config_kwargs": {SECRET: SECRET}}}),
        (url, {"slice_storage_options": nowhere}),
    ):
        with pytest.raises(SliceError) as caught:
            zappend.append({}, item, slice_polling=polling, **settings)
        shown = everything_said(caught.value, caplog)
        for secret in (KEY, SECRET, options["token"]):
            assert secret not in shown
    s3.set_policy(None)


@pytest.mark.parametrize("polling", [False, {"interval": 0.01, "timeout": 0.05}])
def test_passwords_and_signatures_in_urls_are_not_shown(
    web: WebServer, caplog: pytest.LogCaptureFixture, tmp_path: Path, polling: Any
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices" / "bad.nc").write_text("bad")
    name, _ = write(tmp_path / "slices", "3")
    (tmp_path / "slices" / name / "sst" / "c" / "0" / "0" / "0").unlink()
    for url in (
        f"http://user:{SECRET}@{web.host}/bad.nc",
        f"http://user:{SECRET}@{web.host}/none.nc",
        f"http://user:{SECRET}@127.0.0.1:9/none.nc",
        f"http://{web.host}/none.nc?X-Amz-Signature={SECRET}&versionId=7",
        f"http://{web.host}/bad.nc?sv=2024&sig={SECRET}",
        f"http://user:{SECRET}@{web.host}/{name}/",
    ):
        with pytest.raises(SliceError) as caught:
            zappend.append({}, url, slice_polling=polling, slice_missing_chunks="refuse")
        assert SECRET not in everything_said(caught.value, caplog)
        assert web.host.split(":")[0] in str(caught.value)
        process = run("append", "-t", tmp_path / "cube", url)
        assert SECRET not in process.out + process.err
