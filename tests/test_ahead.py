"""The next slice is opened while the one before it is written, and nobody can tell but by the time that it takes."""

from __future__ import annotations

import os
import sys
import threading
import tracemalloc
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cubes
import h5netcdf
import h5py
import numpy as np
import pytest
import xarray as xr

import zappend
from zappend.api import FileObj
from zappend.errors import SliceError
from zappend.opening import is_netcdf4, open_path
from zappend.settings import Settings

with_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only /proc tells which files are open")

LONG_ENOUGH = 60.0


class Watched(UserDict[str, bytes]):
    """A cube; `look` is called at the first write of a chunk of the slice `index`."""

    def __init__(self, look: Callable[[], None], index: int = 0) -> None:
        super().__init__()
        self._look: Callable[[], None] | None = look
        self._key = f"a/{index}.0.0"
        self._guard = threading.Lock()

    def __setitem__(self, key: str, value: bytes) -> None:
        with self._guard:
            look, self._look = (self._look, None) if key == self._key else (None, self._look)
        if look is not None:
            look()
        super().__setitem__(key, value)


def open_files() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(link))
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


def wait_until_open(path: Path) -> None:
    """Return when `path` is open; that it never is would be an error."""
    begun = threading.Event()
    for _ in range(int(LONG_ENOUGH / 0.01)):
        if str(path) in open_files():
            return
        begun.wait(0.01)
    raise AssertionError(f"{path.name} was not opened")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return cubes.write_netcdf(tmp_path, [cubes.packed(2 * i) for i in range(3)])


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Look for threads and files that a call left."""
    before = set(threading.enumerate())
    yield
    assert {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("zappend")} == set()
    if sys.platform == "linux":
        assert {path for path in open_files() if path.startswith(str(tmp_path))} == set()


@with_proc
def test_the_next_file_is_open_while_this_one_is_written(paths: list[Path]) -> None:
    seen = []
    target = Watched(lambda: seen.append(wait_until_open(paths[1])))
    assert zappend.append(target, paths, threads=2) == 3
    assert seen == [None]


@with_proc
@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (lambda paths: list(paths), {"threads": 1}),
        (lambda paths: list(paths), {"slice_polling": {"interval": 0}}),
        (lambda paths: iter(paths), {}),
        (lambda paths: [xr.load_dataset(paths[0]), *paths[1:]], {}),
        (lambda paths: list(paths), {"slice_source": str}),
        (lambda paths: [FileObj(str(path)) for path in paths], {}),
    ],
    ids=["one thread", "polling", "an iterator", "after a dataset", "a source", "a FileObj"],
)
def test_the_next_file_is_not_looked_at(paths: list[Path], given: Any, settings: dict[str, Any]) -> None:
    seen: list[set[str]] = []
    target = Watched(lambda: seen.append(open_files() & set(map(str, paths[1:]))))
    assert zappend.append(target, given(paths), **{"threads": 2, **settings}) == 3
    assert seen == [set()]


def test_a_generator_is_not_asked_ahead(paths: list[Path]) -> None:
    asked: list[Path] = []
    target = Watched(lambda: asked.append(Path("written")))

    def ask() -> Iterator[Path]:
        for path in paths:
            asked.append(path)
            yield path

    zappend.append(target, ask(), threads=2)
    assert asked == [paths[0], Path("written"), *paths[1:]]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("settings", [{}, {"included_variables": ["a", "time*", "y", "x"]}, {"dry_run": True}])
def test_the_cube_is_the_same(paths: list[Path], zarr_format: int, settings: dict[str, Any]) -> None:
    ahead: dict[str, bytes] = {}
    alone: dict[str, bytes] = {}
    results = [
        zappend.append(target, tuple(paths), threads=threads, zarr_format=zarr_format, **settings)
        for target, threads in ((ahead, 2), (alone, 1))
    ]
    assert results[0].slices == results[1].slices
    assert ahead == alone
    assert bool(ahead) != bool(settings.get("dry_run"))


def test_the_same_file_twice(paths: list[Path]) -> None:
    target: dict[str, bytes] = {}
    assert zappend.append(target, [paths[0]] * 3, threads=2, append_step="any") == 3
    assert cubes.open_mapping(target).sizes["time"] == 6


def damage_values(path: Path) -> None:
    """Let no chunk of a variable be decoded any more."""
    with h5py.File(path, "r+") as file:
        data, attrs = file["a"][...], dict(file["a"].attrs)
        del file["a"], attrs["DIMENSION_LIST"]
        array = file.create_dataset("a", data=data, chunks=data.shape, compression="gzip")
        array.attrs.update(attrs)
        for axis, dim in enumerate(("time", "y", "x")):
            array.dims[axis].attach_scale(file[dim])
        array.id.write_direct_chunk((0,) * data.ndim, b"no deflated bytes")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage_values, "variable 'a' cannot be read"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\nno more"), "it is no dataset that can be read"),
        (Path.unlink, "there is no such file or folder"),
    ],
    ids=["damaged values", "damaged file", "missing"],
)
def test_an_error_comes_when_it_is_its_turn(
    paths: list[Path], spoil: Callable[[Path], None], message: str, threads: int
) -> None:
    spoil(paths[2])
    target: dict[str, bytes] = {}
    with pytest.raises(SliceError, match=message) as raised:
        zappend.append(target, paths, threads=threads)
    assert raised.value.__notes__ == ["the 2 slices before it went in"]
    assert str(paths[2]) in str(raised.value)
    cubes.assert_cube(cubes.zarr_store(target), cubes.concatenated([xr.load_dataset(path) for path in paths[:2]]))


@with_proc
def test_a_file_that_was_replaced_after_it_was_opened(paths: list[Path], tmp_path: Path) -> None:
    (other,) = cubes.write_netcdf(tmp_path / "..", [cubes.packed(2).assign(a=lambda d: d.a + 1)])

    def replace() -> None:
        wait_until_open(paths[1])
        other.replace(paths[1])

    target = Watched(replace)
    assert zappend.append(target, paths, threads=2) == 3
    np.testing.assert_array_equal(cubes.open_mapping(target).a[2:4], cubes.packed(2).a + 1)


@with_proc
def test_a_file_that_was_removed_after_it_was_opened(paths: list[Path]) -> None:
    def remove() -> None:
        wait_until_open(paths[1])
        paths[1].unlink()

    target = Watched(remove)
    with pytest.raises(SliceError, match="there is no such file"):
        zappend.append(target, paths, threads=2)
    assert cubes.open_mapping(target).sizes["time"] == 2


def test_a_file_that_is_made_while_the_one_before_is_written(paths: list[Path]) -> None:
    content = paths[1].read_bytes()
    paths[1].unlink()
    target = Watched(lambda: paths[1].write_bytes(content) and None)
    assert zappend.append(target, paths, threads=2) == 3


@with_proc
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_was_opened_is_closed_when_the_call_ends_early(paths: list[Path], error: type[BaseException]) -> None:
    def fail() -> None:
        wait_until_open(paths[1])
        raise error

    target = Watched(fail)
    with pytest.raises(error):
        zappend.append(target, paths, threads=2)
    assert dict(target) == {}


def test_a_large_slice_is_not_read_ahead(tmp_path: Path) -> None:
    """Both slices are larger than what may be read ahead, and than what the call may take."""
    side, paths = 6000, [tmp_path / f"{i}.nc" for i in range(2)]
    for i, path in enumerate(paths):
        with h5netcdf.File(path, "w") as file:
            file.dimensions = {"time": 1, "y": side, "x": side}
            file.create_variable("time", ("time",), data=[i])
            file.create_variable("a", ("time", "y", "x"), "f4", chunks=(1, 500, 500), compression="gzip")
    tracemalloc.start()
    try:
        assert zappend.append(tmp_path / "cube.zarr", paths, threads=2) == 2
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < side**2 * 4


# Files are opened by a store of zappend's own; xarray's is the measure.


def write_odd(path: Path) -> None:
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": None, "y": 3, "x": 2, "only_a_dimension": 5, "nchars": 4}
        file.attrs["title"] = "odd"
        file.attrs["numbers"] = np.array([1, 2], "i4")
        file.create_variable("time", ("time",), "i8", chunks=(4,)).attrs["units"] = "days since 2020-01-01"
        file.create_variable("y", ("y",), ">f4", data=np.arange(3, dtype=">f4"))
        file.create_variable("a", ("time", "y", "x"), "f4", chunks=(1, 3, 2), compression="gzip", fillvalue=-1.0)
        file.create_variable("shorter", ("time",), "i2", chunks=(4,), fillvalue=np.int16(-9))
        file.create_variable("scalar", (), "i4", data=np.int32(7)).attrs["grid_mapping_name"] = "latitude_longitude"
        file.create_variable("letters", ("y", "nchars"), "S1", data=np.full((3, 4), b"a"))
        file.create_variable("words", ("y",), h5py.string_dtype(), data=np.array(["a", "bc", ""], object))
        file.create_variable("lat", ("y", "x"), "f8", data=np.ones((3, 2))).attrs["_FillValue"] = np.array([np.nan])
        kinds = file.create_enumtype(np.uint8, "kinds", {"land": 0, "sea": 1, "none": 255})
        file.create_variable("kind", ("x",), kinds, data=np.array([0, 1], "u1"), fillvalue=np.uint8(255))
        file.create_group("inner").create_variable("b", ("y",), "i4", data=np.arange(3))
        file.resize_dimension("time", 3)
        file["time"][:] = [0, 1, 2]
        file["a"][:] = np.arange(18).reshape(3, 3, 2)
    with h5py.File(path, "r+") as raw:
        raw["shorter"].resize((2,))


def undecoded(path: Path) -> xr.Dataset:
    return xr.open_dataset(
        path, engine="h5netcdf", mask_and_scale=False, decode_times=False, decode_timedelta=False, decode_coords=False
    )


@pytest.fixture(params=["odd", "packed", *sorted(p.name for p in cubes.SAMPLES.rglob("*.nc") if is_netcdf4(str(p)))])
def netcdf(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "odd":
        write_odd(tmp_path / "odd.nc")
        return tmp_path / "odd.nc"
    if request.param == "packed":
        return cubes.write_netcdf(tmp_path, [cubes.packed()])[0]
    path: Path = next(cubes.SAMPLES.rglob(request.param))
    return path


def test_a_file_is_opened_as_xarray_opens_it(netcdf: Path) -> None:
    with undecoded(netcdf) as expected, open_path(str(netcdf), Settings()) as found:
        assert list(found.variables) == list(expected.variables)
        assert found.encoding["unlimited_dims"] == expected.encoding["unlimited_dims"]
        for name, variable in expected.variables.items():
            assert found[name].encoding == variable.encoding
            assert found[name].dtype == variable.dtype
            corner = dict.fromkeys(variable.dims, slice(1, 2))
            xr.testing.assert_identical(found[name].variable.isel(corner), variable.isel(corner))
        xr.testing.assert_identical(found.load(), expected.load())
