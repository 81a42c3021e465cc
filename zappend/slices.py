"""What a user gives as a slice → named variables that are read block by block.

What a slice and the cube store alike is copied as it is. A dataset in memory may be decoded or not, variable by
variable, as its attributes tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from zappend.cf import to_stored
from zappend.datatypes import STRING, Block
from zappend.encoding import Encoding, encoding_attrs
from zappend.errors import SliceError
from zappend.forms import LARGEST_NUMBER
from zappend.kinds import is_missing, kind_of, kind_of_type
from zappend.redaction import cause_of, first_line
from zappend.references import RELATED
from zappend.settings import Settings
from zappend.sources import ContextMaker, open_item

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Slice", "SliceVariable", "check_name", "open_slice"]

Region = tuple[slice, ...]

LONGEST_NAME = 200
"""Bytes of a variable's name: it becomes that of a folder, and of temporary files."""


@dataclass(frozen=True)
class SliceVariable:
    """One variable of a slice.

    Attributes
    ----------
    name, dims
        As in the dataset.
    slice_name
        The slice it is of, for messages.
    attrs
        Attributes that say nothing of how values are stored, in types that JSON has.
    source
        How the values that `read` returns are stored, or ``None`` if they are decoded.
    wanted
        What xarray keeps as encoding: how the variable was stored where it came from.
    data
        The variable of xarray.
    """

    name: str
    slice_name: str
    dims: tuple[str, ...]
    attrs: Mapping[str, Any]
    source: Encoding | None
    wanted: Mapping[str, Any]
    data: xr.Variable

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that `read` returns."""
        dtype: np.dtype[Any] = np.dtype(self.data.dtype)
        return dtype

    @property
    def source_chunks(self) -> tuple[int, ...] | None:
        """Sizes of a chunk where the variable came from, if that is known."""
        preferred = self.wanted.get("preferred_chunks") or {}
        return tuple(preferred[dim] for dim in self.dims) if set(self.dims) <= preferred.keys() else None

    def read(self, region: Region | None = None) -> Block:
        """Return the values in `region`, all of them by default; raise `SliceError` if they cannot be had."""
        if region is None:
            return self._values
        if "_values" in self.__dict__ or self._is_in_memory:
            whole: tuple[Any, ...] = (*region, ...)  # with the dots a single value is an array, too
            part: Block = self._values[whole]
            return part
        return self._read(self.data[region])

    @cached_property
    def _values(self) -> Block:
        return self._read(self.data)

    @property
    def _is_in_memory(self) -> bool:
        return bool(getattr(self.data, "_in_memory", False))  # xarray tells this under no public name

    @property
    def size_in_bytes(self) -> int:
        """How much memory the values take, without what objects take."""
        return int(self.data.nbytes)

    def load(self) -> None:
        """Read all values now, and keep them."""
        self.data.load()

    def _read(self, data: xr.Variable) -> Block:
        try:
            return np.asarray(data.values)
        except Exception as error:
            # What a damaged file, or a lazy computation, raises is up to it.
            raise SliceError(
                f"slice {self.slice_name}: variable {self.name!r} cannot be read: {first_line(error)}"
            ) from cause_of(error)

    @cached_property
    def kind(self) -> str:
        """What the values mean, in the words of `zappend.encoding.kind_of`."""
        if self.source is not None:
            return self.source.kind
        if self.dtype.kind != "O":
            return kind_of_type(self.dtype)
        first = self.read(tuple(slice(0, 1) for _ in self.dims))
        return kind_of(self._read(self.data) if is_missing(first).all() else first)

    def stored(self, target: Encoding) -> Block:
        """Return all values as they are stored under `target`."""
        return to_stored(self.read(), self.source, target)


@dataclass(frozen=True)
class Slice:
    """A dataset that is to be appended.

    Attributes
    ----------
    name
        What a user would call it, for messages.
    sizes
        Sizes of the dimensions.
    variables
        Variables by name.
    coords
        Names of those that are coordinates.
    attrs
        Attributes of the dataset, in types that JSON has.
    file
        Path or URL of the file that it is, ``None`` if it is none.
    """

    name: str
    sizes: Mapping[str, int]
    variables: Mapping[str, SliceVariable]
    coords: frozenset[str]
    attrs: Mapping[str, Any]
    file: str | None = None

    @cached_property
    def structure(self) -> tuple[object, ...]:
        """All but the values: slices that are equal in this fit the same cubes, or none of them does."""
        described = {v.name: (v.dims, v.shape, v.dtype, v.kind, v.attrs, v.source) for v in self.variables.values()}
        return self.sizes, described, self.coords

    def labelled(self, dim: str) -> SliceVariable | None:
        """Return the coordinate that labels `dim`, if there is one."""
        variable = self.variables.get(dim)
        return variable if variable is not None and variable.dims == (dim,) else None

    def along(self, dim: str) -> frozenset[str]:
        """Return the one-dimensional coordinates along `dim` and the variables of their bounds."""
        coords = {name for name in self.coords if self.variables[name].dims == (dim,)}
        bounds = {str(self.variables[name].attrs.get("bounds", "")) for name in coords}
        return frozenset(coords | {b for b in bounds if b in self.variables and self.variables[b].dims[:1] == (dim,)})


@contextmanager
def open_slice(
    item: Any, index: int = 0, settings: Settings | None = None, context: ContextMaker | None = None
) -> Iterator[Slice]:
    """Open one slice; it is closed when the block is left, unless it was open before.

    Parameters
    ----------
    item
        What `zappend.append` takes as a slice, or its ``slice_source`` as arguments.
    index
        Its place among the slices, for messages.
    settings
        The settings of the append.
    context
        Makes the processing context for functions of the user.

    Raises
    ------
    SliceError
        If it is not there, cannot be read, lacks chunks that it must not lack, or holds what cannot be appended.
    UsageError
        If `item` is nothing that can be a slice.
    """
    with open_item(item, index, settings or Settings(), context) as (dataset, name):
        yield _from_dataset(dataset, name, dataset.encoding.get("source") if name == str(index) else name)


def _from_dataset(dataset: xr.Dataset, name: str, file: str | None = None) -> Slice:
    variables, attrs = _with_coordinates_named(dataset, name)
    coords = {str(coord) for coord in dataset.coords}
    for holder in (attrs, *(variable.attrs for variable in variables.values())):
        coords.update(str(holder.get("coordinates", "")).split())
    described = {key: _describe(key, variable, name) for key, variable in variables.items()}
    _share_time_units(described, name)
    return Slice(
        name,
        {str(dim): size for dim, size in dataset.sizes.items()},
        described,
        frozenset(coords & described.keys()),
        {str(key): _to_json(value) for key, value in attrs.items()},
        file,
    )


def _with_coordinates_named(dataset: xr.Dataset, name: str) -> tuple[dict[str, xr.Variable], Mapping[Any, Any]]:
    """Return the variables and the attributes of `dataset`, which say what coordinates it has, as in a file."""
    variables: Mapping[Any, xr.Variable] = dataset.variables
    attrs: Mapping[Any, Any] = dataset.attrs
    if not set(dataset.coords) <= set(dataset.dims) or any(
        "coordinates" in variable.encoding or "coordinates" in variable.attrs for variable in variables.values()
    ):
        from xarray.conventions import encode_dataset_coordinates

        try:
            variables, attrs = encode_dataset_coordinates(dataset)
        except ValueError as error:
            # xarray finds the same attribute twice: among the attributes, and in .encoding.
            raise SliceError(f"slice {name}: {first_line(error).rstrip('.')}; delete one of them") from error
    out = {}
    for key, variable in variables.items():
        # Where xarray keeps them when it was told to take all related variables for coordinates.
        related = {word: variable.encoding[word] for word in RELATED if word in variable.encoding}
        if related:
            variable = variable.copy(deep=False)
            variable.attrs = {**related, **variable.attrs}
        out[str(key)] = variable
    return out, attrs


def _describe(name: str, variable: xr.Variable, slice_name: str) -> SliceVariable:
    if any(not isinstance(dim, str) for dim in variable.dims):
        raise SliceError(f"slice {slice_name}: variable {name!r} has a dimension whose name is no string")
    check_name(name, slice_name)
    if len(set(variable.dims)) < len(variable.dims):
        raise SliceError(f"slice {slice_name}: variable {name!r} has a dimension twice: {variable.dims}")
    try:
        dtype = np.dtype(variable.dtype)
    except TypeError:
        raise SliceError(
            f"slice {slice_name}: variable {name!r} has the type {variable.dtype} of pandas, which Zarr has not; "
            f"give it one of numpy"
        ) from None
    if "_Encoding" in variable.attrs and dtype.kind not in "SOUT":
        raise SliceError(f"slice {slice_name}: variable {name!r} has the attribute _Encoding, but is no text")
    if (
        dtype.kind not in "biufcOUSTVmM"
        or dtype.names
        or dtype.itemsize > LARGEST_NUMBER.get(dtype.kind, dtype.itemsize)
    ):
        raise SliceError(f"slice {slice_name}: variable {name!r} has the type {dtype}, which cannot be stored")
    stored = encoding_attrs(variable.attrs, dtype) if dtype.kind not in "mM" else {}
    masks = {"_FillValue", "missing_value"} if dtype.kind in "biufcOUST" else set()
    attrs = {str(key): _to_json(value) for key, value in variable.attrs.items() if key not in masks}
    return SliceVariable(
        name,
        slice_name,
        tuple(str(dim) for dim in variable.dims),
        {key: value for key, value in attrs.items() if key not in stored},
        Encoding(STRING if dtype.kind in "OUT" else dtype, stored) if stored else None,
        dict(variable.encoding),
        variable,
    )


def check_name(name: str, slice_name: str) -> None:
    """Raise `SliceError` if no array in a cube can have the name."""
    if not name or set(name) & set("/\\\0") or name.startswith(".") or len(os.fsencode(name)) > LONGEST_NAME:
        raise SliceError(f"slice {slice_name}: {name[:80]!r} cannot be the name of an array in a cube")


def _share_time_units(variables: dict[str, SliceVariable], slice_name: str) -> None:
    """Give bounds the units and the calendar of the variable that they bound, from which CF says they have them."""
    for parent in list(variables.values()):
        bounds = variables.get(str(parent.attrs.get("bounds", parent.attrs.get("climatology"))))
        if bounds is None:
            continue
        if parent.source is not None and parent.source.is_time and bounds.dtype.kind in "iuf":
            own = bounds.source.attrs if bounds.source else {}
            shared = {key: parent.source.attrs[key] for key in ("units", "calendar") if key in parent.source.attrs}
            variables[bounds.name] = replace(bounds, source=Encoding(bounds.dtype, {**shared, **own}))
        elif bounds.dtype.kind in "iuf" and parent.dtype.kind in "mM":
            if bounds.source is None or not (bounds.source.is_time or bounds.source.is_duration):
                raise SliceError(
                    f"slice {slice_name}: variable {bounds.name!r} holds plain numbers, but {parent.name!r}, "
                    f"whose bounds they are, holds times; decode both or none"
                )
        elif parent.source is None and parent.wanted.get("units"):
            shared = {key: parent.wanted[key] for key in ("units", "calendar", "dtype") if key in parent.wanted}
            variables[bounds.name] = replace(bounds, wanted={**shared, **bounds.wanted})


def _to_json(value: Any) -> Any:
    """Return an attribute in a type that JSON has."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        return _to_json(value.tolist())
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {str(key): _to_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(inner) for inner in value]
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)
