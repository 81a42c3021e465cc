"""Random datasets to append: a strategy for each kind of variable, cuts into slices, and faults planted in them.

An `Example` is a series of slices and what must become of them. Structure is drawn by Hypothesis, which can make it
smaller where a test fails; values come from a seed. Without a fault every slice must go in. With one, `Fault.words` are
what the refusal must say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cftime
import numpy as np
import xarray as xr
from cubes import concatenated
from hypothesis import strategies as st

Values = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
Make = Callable[[np.random.Generator, Shape], Values]
Spoil = Callable[[Values], Values]
Draw = Callable[..., Any]


@dataclass(frozen=True)
class Kind:
    """How the values of a variable are made and stored, and how they are spoiled.

    Attributes
    ----------
    name
        What it is, for messages and counts.
    make
        Returns decoded values of a shape.
    encoding
        How a new cube is asked to store them.
    stored
        What they are as stored and decoded again, but for packing: floats may be shortened.
    step
        The scale factor of packed values, of which half may be lost; zero if all bits stay.
    spoils
        What changes values so that a slice after the first is refused, by the words of the refusal.
    spoils_first
        The same for those that also keep a cube from being made.
    in_netcdf, in_files
        Whether NetCDF has such values; whether xarray writes them into files as they are at all.
    """

    name: str
    make: Make
    encoding: Mapping[str, Any] = field(default_factory=dict)
    stored: Callable[[Values], Values] = lambda values: values
    step: float = 0.0
    spoils: Mapping[str, Spoil] = field(default_factory=dict)
    spoils_first: Mapping[str, Spoil] = field(default_factory=dict)
    in_netcdf: bool = True
    in_files: bool = True


@dataclass(frozen=True)
class Fault:
    """What is wrong with the slice at `index`: the refusal names `variable`, if it has one, and matches `words`."""

    cause: str
    index: int
    variable: str
    words: str


@dataclass(frozen=True)
class Example:
    """Slices to append along `dim` with `settings`, and what must become of them.

    Attributes
    ----------
    slices
        Decoded datasets; the one at ``fault.index`` is wrong.
    forms
        How each slice is handed over: ``memory``, ``dask``, ``raw`` (not decoded), ``netcdf``, ``zarr 2``, ``zarr 3``.
    kinds
        Of the variables, by name.
    """

    slices: Sequence[xr.Dataset]
    forms: Sequence[str]
    dim: str
    settings: Mapping[str, Any]
    kinds: Mapping[str, Kind]
    fault: Fault | None

    def expected(self) -> xr.Dataset:
        """Return what the cube of the slices must be; packed values to half a step."""
        cube = concatenated([dataset.drop_encoding() for dataset in self.slices], self.dim)
        for name, kind in self.kinds.items():
            cube[name] = cube[name].copy(data=kind.stored(cube[name].values))
        return cube


def sprinkled(rng: np.random.Generator, values: Values, special: Sequence[Any]) -> Values:
    """Return `values` with some of `special` in about a third of the places."""
    if not len(special):
        return values
    values = values.copy()
    for index in np.ndindex(values.shape):
        if rng.random() < 0.3:
            values[index] = special[rng.integers(len(special))]
    return values


def put(value: Any, dtype: Any = None) -> Spoil:
    """Return what replaces the last value; with `dtype`, all others by ones of this type."""

    def spoil(values: Values) -> Values:
        spoiled = np.array(values) if dtype is None else np.ones(values.shape, dtype)
        spoiled.flat[-1] = value
        return spoiled

    return spoil


# Numbers.

OUTSIDE = r"outside of what \w+ holds"
MASKED = "marks as missing"
MISSING = "missing value cannot be stored without a fill value"
OTHER_KIND = r"holds \w+.*, expected"
NOT_EXACT = "cannot be expressed exactly"


@st.composite
def integers(draw: Draw) -> Kind:
    dtype = np.dtype(draw(st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4"])))
    info = np.iinfo(dtype)

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        native = dtype.newbyteorder("=")
        values = rng.integers(info.min, info.max, shape, native, endpoint=True).astype(dtype)
        return sprinkled(rng, values, [info.min, info.max, 0])

    outside = put(-1, "i8") if dtype.kind == "u" else put(info.max + 1, "u8")
    spoils = {OUTSIDE: outside, "not a whole number": put(0.5, "f8"), MISSING: put(np.nan, "f8")}
    return Kind(f"integers {dtype}", make, spoils=spoils)


@st.composite
def integers_with_gaps(draw: Draw) -> Kind:
    """Integers of which some are missing, so that they are floats in memory."""
    dtype = np.dtype(draw(st.sampled_from(["i1", "i2", "i4", "u1", "u2"])))
    info = np.iinfo(dtype)
    fill = draw(st.sampled_from([info.min, info.max, 7]))
    key = draw(st.sampled_from(["_FillValue", "missing_value"]))

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        values = rng.integers(info.min, info.max, shape, endpoint=True).astype("f8")
        values = sprinkled(rng, values, [info.min, info.max, 0])
        return sprinkled(rng, np.where(values == fill, 1, values), [np.nan])

    spoils = {OUTSIDE: put(info.max + 1.0), MASKED: put(float(fill)), "not a whole number": put(0.5)}
    return Kind(
        f"integers {dtype} with gaps", make, {"dtype": dtype.str, key: fill}, spoils=spoils, spoils_first=spoils
    )


@st.composite
def floats(draw: Draw) -> Kind:
    dtype = np.dtype(draw(st.sampled_from(["f2", "f4", "f8", ">f4"])))
    fill = draw(st.sampled_from([None, np.nan, -9999.0, -9999.9, 0.0, 6e4]))
    special = [np.nan, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal, 1.0]
    if fill != 0:
        special += [0.0, -0.0]

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        return sprinkled(rng, rng.normal(0, 100, shape).astype(dtype), special)

    spoils = {"too large for": put(1e300, "f8")} if dtype.itemsize < 8 else {OTHER_KIND: put("1", "U3")}
    if fill is not None and fill == fill:
        spoils[MASKED] = put(dtype.type(fill))
    encoding = {} if fill is None else {"_FillValue": fill}
    return Kind(f"floats {dtype}, fill {fill}", make, encoding, spoils=spoils, in_netcdf=dtype.itemsize > 2)


@st.composite
def shortened_floats(draw: Draw) -> Kind:
    dtype = np.dtype(draw(st.sampled_from(["f2", "f4"])))
    spoils = {"too large for": put(1e300)}
    return Kind(
        f"floats as {dtype}",
        lambda rng, shape: sprinkled(rng, rng.normal(size=shape), [np.nan, np.inf, -0.0]),
        {"dtype": dtype.str},
        lambda values: values.astype(dtype),
        spoils=spoils,
        spoils_first=spoils,
        in_netcdf=dtype.itemsize > 2,
    )


@st.composite
def complexes(draw: Draw) -> Kind:
    dtype = np.dtype(draw(st.sampled_from(["c8", "c16"])))

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        values = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        return sprinkled(rng, values.astype(dtype), [complex(np.nan, 1), complex(-0.0, np.inf), 0j])

    spoils = {"too large for": put(1e300j, "c16")} if dtype.itemsize == 8 else {OTHER_KIND: put("1", "U3")}
    return Kind(f"complex {dtype}", make, spoils=spoils, in_netcdf=False)


@st.composite
def booleans(draw: Draw) -> Kind:
    spoils = {OTHER_KIND: draw(st.sampled_from([put(np.nan, "f8"), put(2, "i8"), put("1", "U3")]))}
    return Kind("booleans", lambda rng, shape: rng.random(shape) < 0.5, spoils=spoils)


@st.composite
def packed(draw: Draw) -> Kind:
    dtype = np.dtype(draw(st.sampled_from(["i1", "i2", "i4", "u1", "u2"])))
    unsigned = dtype.kind == "i" and dtype.itemsize < 4 and draw(st.booleans())
    scale = draw(st.sampled_from([0.01, 0.1, 1 / 3, 2.0, -0.5, 1e-6, float(np.float32(0.01))]))
    offset = draw(st.sampled_from([None, 0.0, 273.15, -1e3]))
    keys = [None, "_FillValue", "missing_value"]
    key = draw(st.sampled_from(keys[:2] if unsigned else keys))  # xarray takes missing_value for one of the stored type
    info = np.iinfo(f"u{dtype.itemsize}" if unsigned else dtype)
    fill = draw(st.sampled_from([info.min, info.max, 5]))

    def unpack(stored: Any) -> Any:
        return stored * scale + (offset or 0.0)

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        stored = sprinkled(rng, rng.integers(info.min, info.max, shape, endpoint=True), [info.min, info.max, 0])
        if key is not None:
            stored = np.where(stored == fill, 1, stored)
        values = unpack(stored + rng.uniform(-0.45, 0.45, shape))
        return sprinkled(rng, values, [np.nan]) if key is not None else np.asarray(values)

    encoding: dict[str, Any] = {"dtype": dtype.str, "scale_factor": scale}
    if offset is not None:
        encoding["add_offset"] = offset
    if unsigned:
        encoding["_Unsigned"] = "true"
    spoils = {OUTSIDE: put(unpack(info.max + 2)), rf"inf at .*{OUTSIDE}": put(np.inf)}
    if key is None:
        spoils[MISSING] = put(np.nan)
    else:
        encoding[key] = int(np.array(fill, info.dtype).view(dtype)) if unsigned else fill
        spoils[MASKED] = put(unpack(float(fill)))
    name = f"packed {'unsigned ' * unsigned}{dtype}, {key}"
    in_files = key is not None  # without a fill value, xarray warns, and leaves _Unsigned out
    return Kind(name, make, encoding, step=abs(scale), spoils=spoils, spoils_first=spoils, in_files=in_files)


# Times.

NANOSECONDS = {"days": 86400 * 10**9, "hours": 3600 * 10**9, "minutes": 60 * 10**9, "seconds": 10**9}
NANOSECONDS |= {"milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}
RESOLUTIONS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
EPOCHS = ["2000-01-01", "1999-12-31 18:00:00", "2000-01-01T12:00:00Z", "1850-01-01"]
CALENDARS = ["360_day", "noleap", "all_leap", "julian", "standard", "proleptic_gregorian"]


def finer(values: Values) -> Values:
    """Return times or durations a nanosecond later; the last is there even if it was missing."""
    later = np.array(values.astype(f"{values.dtype.kind}8[ns]") + np.timedelta64(1, "ns"))
    return put(np.array(1, later.dtype)[()])(later) if np.isnat(later.flat[-1]) else later


@st.composite
def times(draw: Draw, *, duration: bool, explicit: bool, labels: bool = False) -> Kind:
    """Times or durations; `explicit`: with units of their own; `labels`: they ascend, and none is missing."""
    resolution = draw(st.sampled_from(list(RESOLUTIONS)))
    explicit, epoch = explicit or draw(st.booleans()), EPOCHS[0]
    allowed = NANOSECONDS if explicit else ["days", "hours", "minutes", "seconds", "milliseconds"]
    unit = draw(st.sampled_from([unit for unit in allowed if NANOSECONDS[unit] >= RESOLUTIONS[resolution]]))
    encoding: dict[str, Any] = {}
    if explicit:
        encoding = {"units": unit, "dtype": draw(st.sampled_from(["i8", "i8", "i4"]))}
        if not duration:
            epoch = draw(st.sampled_from(EPOCHS))
            encoding |= {"units": f"{unit} since {epoch}", "calendar": draw(st.sampled_from(CALENDARS[-2:]))}
    gaps = explicit and not labels and draw(st.booleans())
    if gaps:
        if not duration:
            encoding["calendar"] = CALENDARS[-1]  # xarray cannot write a standard one where all are missing
        encoding["_FillValue"] = draw(st.sampled_from([-(2**31), 2**31 - 1, -1]))

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        steps = rng.integers(1, 1000, shape)
        if labels:
            steps = np.cumsum(steps % 5 + 1)
        values = (steps * (NANOSECONDS[unit] // RESOLUTIONS[resolution])).astype(f"m8[{resolution}]")
        if not duration:
            values = values + np.datetime64(epoch.removesuffix("Z"), resolution)
        return sprinkled(rng, values, [np.array("NaT", values.dtype)[()]]) if gaps else values

    spoils: dict[str, Spoil] = {OTHER_KIND: put(5, "i8")}
    if explicit and unit != "nanoseconds":
        spoils[NOT_EXACT] = finer
    if not gaps and explicit and not labels:
        spoils[MISSING] = lambda values: put(np.array("NaT", values.dtype)[()])(values)
    name = f"{'durations' if duration else 'times'} {resolution} in {unit if explicit else 'default units'}"
    return Kind(name, make, encoding, spoils=spoils)


@st.composite
def dates(draw: Draw, *, explicit: bool, labels: bool = False) -> Kind:
    """Dates of cftime."""
    calendar = draw(st.sampled_from(CALENDARS))
    unit = draw(st.sampled_from(["days", "hours", "seconds"]))
    explicit = explicit or draw(st.booleans())
    encoding: dict[str, Any] = {}
    if explicit:
        encoding = {"units": f"{unit} since 1990-01-01", "calendar": calendar, "dtype": "i8"}

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        steps = rng.integers(1, 500, shape)
        if labels:
            steps = np.cumsum(steps % 5 + 1)
        return np.asarray(cftime.num2date(steps, f"{unit} since 2000-02-28", calendar), object)

    other = "noleap" if calendar != "noleap" else "360_day"
    spoils: dict[str, Spoil] = {
        "calendar": lambda values: np.asarray(
            cftime.num2date(np.arange(values.size).reshape(values.shape), "days since 2100-01-01", other), object
        )
    }
    if explicit and unit != "seconds":
        spoils[NOT_EXACT] = lambda values: put(values.flat[-1].replace(second=1))(values)
    return Kind(f"dates {calendar}", make, encoding, spoils=spoils)


# Texts.

WORDS = ["", "a", "é", "漢字", "\U0001f600", "long " * 20, " ", "nan", "0", "a\nb"]


@st.composite
def texts(draw: Draw) -> Kind:
    """Strings, which a new cube stores with any length."""
    form = draw(st.sampled_from(["O", "U", "T"]))

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        values = np.empty(shape, object)
        for index in np.ndindex(shape):
            values[index] = WORDS[rng.integers(len(WORDS))]
        return values if form == "O" else values.astype(np.dtypes.StringDType() if form == "T" else "U100")

    def with_a_number(values: Values) -> Values:
        return put(5)(values.astype(object))

    spoils = {"no str, as strings are": with_a_number, OTHER_KIND: put(1, "f8")}
    first = {"no str, as strings are": with_a_number}
    return Kind(f"texts {form}", make, spoils=spoils, spoils_first=first, in_netcdf=form != "T")


@st.composite
def fixed_bytes(draw: Draw) -> Kind:
    size = draw(st.integers(2, 5))  # xarray takes those of one byte for the letters of longer ones

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        return sprinkled(rng, np.full(shape, b"abcdefg"[:size], f"S{size}"), [b"", b"x", b"\xff\x01"])

    spoils = {"longer than": lambda values: put(b"y" * (size + 2))(values.astype(f"S{size + 2}"))}
    return Kind(f"bytes S{size}", make, spoils=spoils, in_netcdf=False)


def any_bytes() -> st.SearchStrategy[Kind]:
    """Bytes of any length."""

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        values = np.full(shape, b"abc", object)
        return sprinkled(rng, values, [b"", b"\x00", b"\xff" * 9])

    return st.just(Kind("bytes O", make, spoils={OTHER_KIND: put(1, "f8")}, in_files=False))


def kinds(explicit: bool) -> st.SearchStrategy[Kind]:
    """Return a strategy of every kind; `explicit`: times have units of their own."""
    return st.one_of(
        integers(),
        integers_with_gaps(),
        floats(),
        shortened_floats(),
        complexes(),
        booleans(),
        packed(),
        times(duration=False, explicit=explicit),
        times(duration=True, explicit=explicit),
        dates(explicit=explicit),
        texts(),
        fixed_bytes(),
        any_bytes(),
    )


# Labels of the append dimension, in ascending order.


def _ascending_numbers(dtype: str) -> Kind:
    def make(rng: np.random.Generator, shape: Shape) -> Values:
        values: Values = (np.cumsum(rng.integers(1, 5, shape)) * (0.5 if dtype[0] == "f" else 1)).astype(dtype)
        return values

    return Kind(f"labels {dtype}", make)


def _ascending_texts(rng: np.random.Generator, shape: Shape) -> Values:
    return np.array([f"step {i:03}" for i in np.cumsum(rng.integers(1, 5, shape))], object)


def labels(explicit: bool) -> st.SearchStrategy[Kind]:
    """Return a strategy of labels that ascend, with gaps."""
    return st.one_of(
        times(duration=False, explicit=explicit, labels=True),
        times(duration=True, explicit=explicit, labels=True),
        dates(explicit=explicit, labels=True),
        st.sampled_from([_ascending_numbers(dtype) for dtype in ("i2", "u4", "i8", "f4", "f8")]),
        st.just(Kind("labels texts", _ascending_texts)),
    )


# Datasets.


@st.composite
def examples(draw: Draw, *, faulty: bool, zarr_format: int) -> Example:
    """Draw slices of one dataset; if `faulty`, the last of them is wrong."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dim = draw(st.sampled_from(["time", "time", "lead", "depth"]))
    sizes, slice_size = _draw_cuts(draw, faulty)
    forms = [draw(st.sampled_from(["memory"] * 6 + ["dask", "raw", "netcdf", "zarr 2", "zarr 3"])) for _ in sizes]
    explicit = any(form not in ("memory", "dask") for form in forms)
    shape = {dim: sum(sizes), **{name: draw(st.integers(1, 4)) for name in ("y", "x")[: draw(st.integers(0, 2))]}}

    def dims(*, with_dim: bool) -> tuple[str, ...]:
        others = draw(st.permutations([name for name in shape if name != dim and draw(st.booleans())]))
        others.insert(draw(st.integers(0, len(others))), dim) if with_dim else None
        return tuple(others)

    found: dict[str, Kind] = {}
    variables: dict[str, xr.Variable] = {}

    def add(name: str, kind: Kind, dims: Sequence[str], **attrs: Any) -> None:
        found[name] = kind
        sizes = tuple(shape[dim] for dim in dims)
        values = kind.make(rng, sizes or (1,)).reshape(sizes)
        variables[name] = xr.Variable(dims, values, attrs, dict(kind.encoding))

    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        add(name, draw(kinds(explicit)), dims(with_dim=True), long_name=f"the variable {name}")
    has_labels = draw(st.integers(0, 7)) > 0
    if has_labels:
        add(dim, draw(labels(explicit)), (dim,))
    if draw(st.booleans()):
        add("constant", draw(kinds(explicit)), dims(with_dim=False))
    coords = _draw_coords(draw, rng, dim, shape, variables, found)
    dataset = xr.Dataset(variables, attrs={"title": "random", "level": 2}).set_coords([*coords, *({dim} & set(found))])
    ends = np.cumsum(sizes)
    slices = [dataset.isel({dim: slice(end - size, end)}) for end, size in zip(ends, sizes, strict=True)]
    settings: dict[str, Any] = {"append_dim": dim, "slice_size": slice_size, "zarr_format": zarr_format}
    settings["threads"] = draw(st.sampled_from([1, 1, 1, 3]))
    if not has_labels:
        settings["append_step"] = "any"
    settings |= _draw_encodings(draw, slices, dim, settings, keep=explicit)
    fault = None
    if faulty:
        slices[-1], fault = _draw_fault(draw, slices, dim, found)
    if not all(kind.in_files for kind in found.values()):
        forms = [form if form in ("memory", "dask") else "memory" for form in forms]
    if not all(kind.in_netcdf for kind in found.values()):
        forms = [form if form != "netcdf" else "memory" for form in forms]
    return Example(slices, forms, dim, settings, found, fault)


def _draw_cuts(draw: Draw, faulty: bool) -> tuple[list[int], str]:
    """Return how many labels each slice has, and the setting that allows it."""
    count = draw(st.integers(1, 5))
    slice_size = draw(st.sampled_from(["any", "aligned", "chunk"]))
    first = draw(st.integers(1, 4))
    if slice_size == "any":
        return [draw(st.integers(1, 4)) for _ in range(count)], slice_size
    most = 3 if slice_size == "aligned" else 1
    return [first * draw(st.integers(1, most)) if i else first for i in range(count)], slice_size


CODECS = [None, {"id": "zstd", "level": 1}, [{"name": "gzip", "configuration": {"level": 1}}]]
SETTINGS = {"_FillValue": "fill_value"} | {
    key: key for key in ("dtype", "scale_factor", "add_offset", "units", "calendar")
}
"""What of an encoding can be set, and under which name."""


def _draw_encodings(
    draw: Draw, slices: Sequence[xr.Dataset], dim: str, settings: Mapping[str, Any], *, keep: bool
) -> dict[str, Any]:
    """Return settings of how variables are stored; unless `keep`, the slices lose what is set instead."""
    if draw(st.booleans()):
        return {}
    first = slices[0]
    variables: dict[str, Any] = {}
    for name in first.data_vars:
        own = first.variables[name]
        encoding: dict[str, Any] = {}
        if dim in own.dims and draw(st.booleans()):
            encoding |= _draw_shapes(draw, first, own.dims, dim, settings)
        if own.encoding and own.encoding.keys() <= SETTINGS.keys() and draw(st.booleans()):
            encoding |= {SETTINGS[key]: value for key, value in own.encoding.items()}
            for dataset in slices if not keep else ():
                dataset.variables[name].encoding = {}
        if encoding:
            variables[str(name)] = {"encoding": encoding}
    if draw(st.booleans()):
        variables["*"] = {"encoding": {"compressors": draw(st.sampled_from(CODECS))}}
    return {"variables": variables, "write_empty_chunks": draw(st.booleans())}


def _draw_shapes(
    draw: Draw, first: xr.Dataset, dims: Sequence[Any], dim: str, settings: Mapping[str, Any]
) -> dict[str, list[int]]:
    """Return chunks, and in format 3 perhaps shards, that the setting of slice sizes allows."""
    size = first.sizes[dim]
    along = {"any": [1, 2, 3, 5], "aligned": divisors(size), "chunk": [size]}[settings["slice_size"]]
    outer = [draw(st.sampled_from(along)) if d == dim else draw(st.integers(1, first.sizes[d] + 1)) for d in dims]
    if settings["zarr_format"] == 2 or draw(st.booleans()):
        return {"chunks": outer}
    return {"chunks": [draw(st.sampled_from(divisors(length))) for length in outer], "shards": outer}


def divisors(number: int) -> list[int]:
    return [part for part in range(1, number + 1) if number % part == 0]


def _draw_coords(
    draw: Draw,
    rng: np.random.Generator,
    dim: str,
    shape: Mapping[str, int],
    variables: dict[str, xr.Variable],
    found: dict[str, Kind],
) -> list[str]:
    """Add coordinates, bounds and a grid mapping, and return the names of those that are coordinates."""
    wanted = draw(st.sets(st.sampled_from(["x", "lat", "scalar", "along", "bounds", "crs"])))
    coords = []

    def add(name: str, dims: Sequence[str], values: Any, **attrs: Any) -> None:
        variables[name] = xr.Variable(dims, values, attrs)
        coords.append(name)

    if "x" in wanted and "x" in shape:
        add("x", ("x",), np.linspace(10, 13, shape["x"])[:: draw(st.sampled_from([1, -1]))], units="degrees_east")
    if "lat" in wanted and "x" in shape:
        add("lat", ("y", "x"), rng.normal(size=(shape["y"], shape["x"])), units="degrees_north")
    if "scalar" in wanted:
        add("height", (), np.float32(2.1), units="m")
    if "along" in wanted:
        add("age", (dim,), rng.normal(size=shape[dim]))
    if "bounds" in wanted and dim in variables and variables[dim].dtype.kind in "iufM":
        values = variables[dim].values
        both = np.stack([values, values], 1)
        variables["bnds"] = xr.Variable((dim, "nv"), both, {}, dict(variables[dim].encoding))
        variables[dim].attrs["bounds"] = "bnds"
    if "crs" in wanted:
        variables["crs"] = xr.Variable((), np.int32(0), {"grid_mapping_name": "latitude_longitude"})
        if variables["a"].dtype.kind == "f":
            variables["a"].attrs["grid_mapping"] = "crs"
    return coords


# Faults.


def _draw_fault(
    draw: Draw, slices: Sequence[xr.Dataset], dim: str, found: Mapping[str, Kind]
) -> tuple[xr.Dataset, Fault]:
    """Return the last of `slices` with a fault, and what that is."""
    index = len(slices) - 1
    last = slices[-1]
    faults: dict[tuple[str, str, str], Callable[[], xr.Dataset]] = {}
    for name, kind in found.items():
        for words, spoil in (kind.spoils if index else kind.spoils_first).items():
            if name != dim or words in (NOT_EXACT, "calendar"):
                cause = f"{kind.name}: {words}"
                faults[cause, name, words] = lambda name=name, spoil=spoil: _replaced(last, name, spoil)
    if index:
        faults.update(_structure_faults(last, dim))
    if dim in found:
        faults.update(_label_faults(slices, dim))
    faults["no append dimension", "", f"no dimension '{dim}'"] = lambda: last.isel({dim: 0})
    faults["an empty slice", "", "is empty"] = lambda: last.isel({dim: slice(0, 0)})
    cause, variable, words = draw(st.sampled_from(sorted(faults)))
    return faults[cause, variable, words](), Fault(cause, index, variable, words)


def _replaced(dataset: xr.Dataset, name: str, spoil: Spoil) -> xr.Dataset:
    old = dataset.variables[name]
    return dataset.assign({name: xr.Variable(old.dims, spoil(np.asarray(old.values)), old.attrs, old.encoding)})


def _structure_faults(last: xr.Dataset, dim: str) -> dict[tuple[str, str, str], Callable[[], xr.Dataset]]:
    faults: dict[tuple[str, str, str], Callable[[], xr.Dataset]] = {
        ("an extra variable", "extra", "is not in the target"): lambda: last.assign(extra=last["a"]),
        ("another dimension", "a", "has dimensions"): lambda: last.assign(a=last["a"].expand_dims("z")),
    }
    if dim in last.drop_vars("a").dims:
        faults["a missing variable", "a", "is missing"] = lambda: last.drop_vars("a")
    if last["a"].ndim > 1:
        faults["other dimensions", "a", "has dimensions"] = lambda: last.assign(
            a=last["a"].transpose(*last["a"].dims[::-1])
        )
    if last["a"].dtype.kind in "iufcb":
        faults["another unit", "a", "has units 'furlong'"] = lambda: last.assign(
            a=last["a"].assign_attrs(units="furlong")
        )
    if "x" in last.coords:
        faults["another grid", "x", "is not that of the target"] = lambda: last.assign_coords(x=last["x"] + 0.1)
    if "lat" in last.coords:
        faults["another 2-D grid", "lat", "is not that of the target"] = lambda: last.assign_coords(
            lat=last["lat"] + 0.1
        )
    if "crs" in last:
        faults["another constant", "crs", "is not that of the target"] = lambda: last.assign(crs=last["crs"] + 1)
    if last.sizes.get("x", 0) > 1:
        faults["another size", "", "dimension 'x' has size"] = lambda: last.isel(x=slice(1, None))
    return faults


def _label_faults(slices: Sequence[xr.Dataset], dim: str) -> dict[tuple[str, str, str], Callable[[], xr.Dataset]]:
    last, order, there = slices[-1], "label .* is not after", r"in the cube already, (the first, .*, )?at index \d"
    faults: dict[tuple[str, str, str], Callable[[], xr.Dataset]] = {}

    def labelled(at: int, value: Any) -> xr.Dataset:
        def spoil(values: Values) -> Values:
            spoiled = values.copy()
            spoiled[at] = value
            return spoiled

        return _replaced(last, dim, spoil)

    if len(slices) > 1:
        before = slices[-2][dim].values
        faults["a repeated label", "", there] = lambda: labelled(0, before[-1])
        faults["an older label", "", there] = lambda: labelled(0, before[0])
    if last.sizes[dim] > 1:
        faults["descending labels", "", order] = lambda: _replaced(last, dim, lambda values: values[::-1].copy())
        faults["equal labels", dim, "is repeated"] = lambda: labelled(-1, last[dim].values[-2])
    if last.sizes[dim] > 2:
        unsorted = [1, 0, *range(2, last.sizes[dim])]
        faults["unsorted labels", dim, "not sorted"] = lambda: _replaced(last, dim, lambda values: values[unsorted])
    if last[dim].dtype.kind in "mMf":
        missing = np.array("NaT" if last[dim].dtype.kind != "f" else np.nan, last[dim].dtype)[()]
        faults["a missing label", dim, "is missing: it is"] = lambda: labelled(-1, missing)
    return faults
