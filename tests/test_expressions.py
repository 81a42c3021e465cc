"""Expressions in attributes: what works, and that nothing else does, whatever is tried."""

from __future__ import annotations

import ast
import math
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cubes
import numpy as np
import pytest
import xarray as xr
import zarr
from hostile import ALL
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

import zappend
from zappend.errors import UsageError
from zappend.expressions import parse

MOST_CALLS = 200_000
"""Calls of functions in which an expression must be refused, those of numpy and xarray included."""

MOST_MEMORY = 2**24

OUTSIDE = (
    "open",
    "exec",
    "import",
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "pickle.",
    "marshal.",
    "ctypes.",
    "mmap.",
)
"""Audit events of what reaches beyond the values of an expression; compiling to a tree is none."""

seen: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if seen is not None and event.startswith(OUTSIDE):
        seen.append(f"{event} {arguments}"[:200])


sys.addaudithook(_hook)


@pytest.fixture(scope="module")
def dataset() -> Iterator[xr.Dataset]:
    """A cube as it is opened for expressions: lazily, and with arrays of which nobody has the memory."""
    target: dict[str, bytes] = {}
    zappend.append(target, [cubes.packed(0, 3), cubes.packed(3, 3)], zarr_format=3)
    store = cubes.zarr_store(target)
    group = zarr.open_group(store, use_consolidated=False)
    sizes = {"huge": ("time", "north", "east"), "long": ("many",), "wide": ("east",), "when": ("time",)}
    for name, dims in sizes.items():
        shape = tuple({"time": 6, "many": 10**8, "north": 10**5, "east": 10**5}[dim] for dim in dims)
        group.create_array(name, shape=shape, chunks=shape, dtype="f8", dimension_names=dims)
    group.create_array("bytes", shape=(600, 10**5), chunks=(600, 10**5), dtype="i1", dimension_names=["row", "east"])
    group.create_array("q", shape=(800_000,), chunks=(800_000,), dtype="f8", dimension_names=["q800"])
    for name, dtype, value in (("n", "i8", 1000), ("narrow", "i1", 100), ("level", "u1", 1), ("ready", "bool", True)):
        group.create_array(name, shape=(3,), chunks=(3,), dtype=dtype, dimension_names=["three"])
        group[name][:] = np.full(3, value)  # type: ignore[index]
    group["when"].attrs.update(units="days since 2000-02-28", calendar="360_day")
    group["when"][:] = np.arange(6) * 30  # type: ignore[index]
    group.attrs["history"] = "made {0.__class__}"
    with xr.open_zarr(store, consolidated=False, chunks=None) as opened:
        for source in (*WORKING, "ds.huge[0, 0, 0]"):  # imports what is imported late
            parse(source).evaluate(opened)
        yield opened


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder in which all happens."""
    path, before = tmp_path_factory.mktemp("empty"), Path.cwd()
    os.chdir(path)
    yield path
    os.chdir(before)


def watched(work: Callable[[], Any]) -> tuple[int, UsageError | None]:
    """Return how many functions `work` called, and the usage error that it raised; nothing else must come of it."""
    global seen
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before, caught = sys.getprofile(), None
    seen = events = []
    tracemalloc.start()
    sys.setprofile(count)
    try:
        work()
    except UsageError as error:
        caught = error
    finally:
        sys.setprofile(before)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        seen = None
    assert events == []
    assert peak < MOST_MEMORY
    return calls, caught


def test_the_hostile_ones_are_many_and_differ() -> None:
    assert len({source for _, source in ALL}) == len(ALL) > 200


@pytest.mark.parametrize(("why", "source"), ALL, ids=[f"{why}-{i}" for i, (why, _) in enumerate(ALL)])
def test_what_is_hostile_is_refused(dataset: xr.Dataset, folder: Path, why: str, source: str) -> None:
    before = dataset.copy()
    calls, error = watched(lambda: parse(source).evaluate(dataset))
    assert error is not None, f"{source[:200]!r} was taken: {why}"
    assert calls < MOST_CALLS
    message = str(error)
    assert message.startswith("expression '")
    assert len(message) < 1500
    assert message.isprintable()
    assert list(folder.iterdir()) == []
    assert not Path("/tmp/pwned").exists()
    assert dataset.attrs == before.attrs
    assert list(dataset.variables) == list(before.variables)


WORKING: dict[str, Any] = {
    # of the documentation of 0.8, and of what stands in its tests
    "ds.time[0]": "2024-01-01T00:00:00",
    "ds.time[-1]": "2024-01-06T00:00:00",
    "lower_bound(ds.time)": "2024-01-01T00:00:00",
    "upper_bound(ds.time)": "2024-01-07T00:00:00",
    "lower_bound(ds.time, 'center')": "2023-12-31T12:00:00",
    "upper_bound(ds.time, ref='center')": "2024-01-06T12:00:00",
    "lower_bound(ds.time, ref='upper')": "2023-12-31T00:00:00",
    "upper_bound(ds.time, ref='upper')": "2024-01-06T00:00:00",
    "lower_bound(ds.x, ref='center')": 9.5,
    "ds.x[0] - (ds.x[1] - ds.x[0]) / 2": 9.5,
    "ds.attrs['title']": "small",
    "float('NaN')": "nan",
    # further ones
    "ds['time'][-1]": "2024-01-06T00:00:00",
    "lower_bound(ds.x[::-1])": 10.0,
    "upper_bound(ds.x.values)": 14.0,
    "upper_bound(ds.x[:1])": 10.0,
    "lower_bound(ds.when, 'center')": "2000-02-13T00:00:00",
    "ds.when[1]": "2000-03-28T00:00:00",
    "ds.when[2].item().year": 2000,
    "ds.when[1].item().strftime('%d.%m.')": "28.03.",
    "ds.sizes['time']": 6,
    "ds.sizes.get('t', 0)": 0,
    "ds.dims['x']": 4,
    "len(ds.time)": 6,
    "ds.title": "small",
    "ds.attrs.get('no', 'none')": "none",
    "ds.attrs.get('title').upper()": "SMALL",
    "'title' in ds.attrs and 'a' in ds and 'x' in ds.coords": True,
    "sorted(ds.coords)": ["age", "area", "time", "x", "y"],
    "ds.coords['x'][0]": 10.0,
    "ds.a.units": "K",
    "ds.a.attrs['units']": "K",
    "ds.a.x[-1]": 13.0,
    "ds.a.dims": ["time", "y", "x"],
    "ds.a.shape": [6, 3, 4],
    "ds.a.dtype": "float32",
    "ds.x.min()": 10.0,
    "ds.x.max().item()": 13.0,
    "ds.x.mean()": 11.5,
    "ds.x.values": [10.0, 11.0, 12.0, 13.0],
    "ds.x.values[0]": 10.0,
    "ds.x.values.max()": 13.0,
    "ds.x.tolist()[1]": 11.0,
    "min(ds.x)": 10.0,
    "max(1, 2.5, ds.sizes['x'])": 4,
    "sum([1, 2])": 3,
    "sorted(ds.sizes)[0]": "bnds",
    "ds.a.isnull().sum()": 6,
    "ds.a.count()": 66,
    "ds.a.mean('time').shape": [3, 4],
    "ds.a.max(dim=['y', 'x']).shape": [6],
    "ds.a.isel(time=-1, x=0).sizes['y']": 3,
    "ds.isel(time=[0, -1]).time": ["2024-01-01T00:00:00", "2024-01-06T00:00:00"],
    "ds.sel(time='2024-01-02').age": 0.5,
    "ds.sel(time=slice('2024-01-02', '2024-01-03')).sizes['time']": 2,
    "ds.x.sel(x=11.2, method='nearest')": 11.0,
    "ds.x[ds.x > 11]": [12.0, 13.0],
    "ds.a[..., 0].shape": [6, 3],
    "ds.a[0, 1:, ::2].shape": [2, 2],
    "ds.note[0]": "day 0",
    "ds.note[0].item().title()": "Day 0",
    "ds.ok[0]": True,
    "'yes' if ds.ok[0] else 'no'": "yes",
    "not ds.ok[0]": False,
    "ds.time[0].dt.year": 2024,
    "ds.time.dt.month.values[0]": 1,
    "ds.time[-1].dt.strftime('%Y-%m-%d')": "2024-01-06",
    "str(ds.time[-1].values)[:10]": "2024-01-06",
    "ds.time[0].item()": 1704067200 * 10**9,
    "ds.time.values[1].astype('datetime64[D]')": "2024-01-02T00:00:00",
    "ds.time[-1] - ds.time[0]": "P5D",
    "ds.time[1] - ds.time[0] * 1 if False else ds.time.diff('time')[0] / 16": "PT1H30M",
    "(ds.time[0] - ds.time[1]) / 2": "-PT12H",
    "ds.time[0] - ds.time[0]": "P0D",
    "(ds.time[-1] - ds.time[0]).dt.days": 5,
    "(ds.time[-1] - ds.time[0]) / (ds.time[1] - ds.time[0])": 5.0,
    "ds.time[0] < ds.time[1]": True,
    "now() > ds.time[0].values": True,
    "f'{ds.x[0]:.2f}/{ds.sizes[\"time\"]:03d}/{ds.title!r:>8}'": "10.00/006/ 'small'",
    "f'{ds.time[0]} {ds.x[:2]}'": "2024-01-01T00:00:00 [10.0, 11.0]",
    "', '.join(sorted(['b', 'a']))": "a, b",
    "'a-b'.split('-')": ["a", "b"],
    "'-'.join(['a'] * 3).replace('-', '+').rjust(7, '.')": "..a+a+a",
    "round(2.567, 1)": 2.6,
    "round(ds.x[0] / 3, 2)": 3.33,
    "abs(-3) + int('4') - -1 ** 2 % 5 // 1": 3,
    "float(ds.x[1]) / 2 * 1e3": 5500.0,
    "2 ** 0.5 < 1.5 <= 1.5 != 2": True,
    "None is None": True,
    "(None, True, 1, 1.5, 'a')": [None, True, 1, 1.5, "a"],
    "{'lat': [ds.y.min(), ds.y.max()], 'of': {'n': ds.sizes}}": None,
    "-ds.y[0]": -50.0,
    # small numbers are calculated with as those of Python
    "ds.narrow[0] * 2": 200,
    "ds.narrow.values[0] + ds.narrow.values[1]": 200,
    "-ds.level": [-1, -1, -1],
    "ds.level[0] - 2": -1,
    "ds.ready[0] + ds.ready[1]": 2,
    "ds.n[0] * 2 ** 50": 1125899906842624000,
    "2 ** (ds.n[0] / 1000)": 2.0,
    "abs(ds.narrow.min() - 300)": 200,
    "1e308 * 10": "inf",
    "[1, 2].index(2) + 'banana'.count('a')": 4,
}


@pytest.mark.parametrize("source", WORKING)
def test_what_works(dataset: xr.Dataset, source: str) -> None:
    value = parse(f" {source}\n").evaluate(dataset)
    expected = WORKING[source]
    if expected is None:
        sizes = {str(name): size for name, size in dataset.sizes.items()}
        expected = {"lat": [50.0, 52.0], "of": {"n": sizes}}
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("source", "parts"),
    {
        "ds.x.foo": ("'ds.x.foo'", "DataArray has no 'foo'", "min()", "isel()"),
        "1 + ds.encoding": (
            "'1 + ds.encoding'",
            "'ds.encoding': Dataset has no 'encoding'",
            "sizes",
            "isel()",
            "'packed'",
        ),
        "ds['b']": ("there is no variable 'b'", "'packed'"),
        "ds.attrs['b']": ("there is no 'b' in the attributes", "'title'"),
        "ds.huge.max()": ("60000000000 values", "457,764 MiB", "64 MiB at most", ".isel()"),
        "foo(1)": ("there is no function 'foo'", "lower_bound, upper_bound"),
        "ds.x[9]": ("'ds.x[9]': IndexError",),
        "ds.time.dt": ("cannot serialize value of type .dt",),
        "ds": ("cannot serialize value of type Dataset",),
        "1 +": ("cannot be understood", "invalid syntax"),
        "ds.x.min": ("is a method; call it: .min()",),
    }.items(),
)
def test_a_refusal_names_the_part_and_what_there_is(dataset: xr.Dataset, source: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(source).evaluate(dataset)
    for part in parts:
        assert part in str(caught.value)


def test_it_is_refused_before_anything_is_evaluated() -> None:
    for source in ("ds.x.min() or ds.__class__", "1 if True else foo", "[y for y in ds]"):
        with pytest.raises(UsageError):
            parse(source)


# Whatever tree there is, it is refused or has a value, and nothing outside is reached.

WORDS = """
ds x a time note huge attrs sizes coords values dt title min item isel sel strftime replace join str int max now slice
lower_bound __class__ _data to_netcdf pipe eval os format data dtype tolist astype round
"""

NAMES = st.sampled_from(WORDS.split())
CONSTANTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2, 10**9, 10**5]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["x", "time", "title", "%Y", "nearest", "datetime64[D]", "center", "float"]),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.just(...),
).map(ast.Constant)

LOAD = ast.Load()


def _call(function: ast.expr, given: list[ast.expr], named: list[tuple[str, ast.expr]]) -> ast.expr:
    return ast.Call(function, given, [ast.keyword(name, value) for name, value in named])


def _grown(inner: st.SearchStrategy[ast.expr]) -> st.SearchStrategy[ast.expr]:
    few = st.lists(inner, max_size=3)
    binary = st.sampled_from(
        [ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.LShift, ast.MatMult]
    )
    compared = st.sampled_from([ast.Eq, ast.Lt, ast.GtE, ast.In, ast.NotIn, ast.Is])
    names = NAMES.map(lambda name: ast.Name(name, LOAD))
    attribute = st.builds(lambda value, name: ast.Attribute(value, name, LOAD), inner, NAMES)
    return st.one_of(
        attribute,
        st.builds(lambda value, key: ast.Subscript(value, key, LOAD), inner, inner),
        st.builds(_call, st.one_of(names, attribute), few, st.lists(st.tuples(NAMES, inner), max_size=1)),
        st.builds(lambda left, kind, right: ast.BinOp(left, kind(), right), inner, binary, inner),
        st.builds(lambda left, kind, right: ast.Compare(left, [kind()], [right]), inner, compared, inner),
        st.builds(lambda kind, one: ast.UnaryOp(kind(), one), st.sampled_from([ast.Not, ast.USub, ast.Invert]), inner),
        st.builds(ast.IfExp, inner, inner, inner),
        st.builds(lambda kind, a, b: ast.BoolOp(kind(), [a, b]), st.sampled_from([ast.And, ast.Or]), inner, inner),
        few.map(lambda items: ast.List(items, LOAD)),
        few.map(lambda items: ast.Tuple(items, LOAD)),
        few.map(ast.Set),
        st.builds(lambda key, value: ast.Dict([key], [value]), inner, inner),
        st.builds(lambda a, b: ast.Subscript(a, ast.Slice(b, None, None), LOAD), inner, inner),
        st.builds(lambda a: ast.JoinedStr([ast.FormattedValue(a, -1, None)]), inner),
        inner.map(lambda body: ast.Lambda(ast.arguments([], [], None, [], [], None, []), body)),
        inner.map(lambda one: ast.Starred(one, LOAD)),
    )


TREES = st.recursive(st.one_of(NAMES.map(lambda name: ast.Name(name, LOAD)), CONSTANTS), _grown, max_leaves=12)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tree=TREES)
def test_any_tree_has_a_value_or_is_refused(dataset: xr.Dataset, tree: ast.expr) -> None:
    try:
        source = ast.unparse(ast.fix_missing_locations(ast.Expression(tree)))
    except ValueError:
        reject()  # Python 3.11 cannot write every f-string
    calls, error = watched(lambda: _check_json(parse(source).evaluate(dataset)))
    assert calls < 20 * MOST_CALLS
    assert error is None or str(error).startswith("expression '")


def _check_json(value: Any) -> None:
    if isinstance(value, list):
        for one in value:
            _check_json(one)
    elif isinstance(value, dict):
        assert all(type(key) is str for key in value)
        _check_json(list(value.values()))
    else:
        assert value is None or type(value) in (bool, int, float, str)
        assert type(value) is not float or math.isfinite(value)
