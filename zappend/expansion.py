"""Slices that lack the append dimension: they get it with size 1, and a label from where the settings say. Pure.

Every data variable gets it, and the bounds of the label. Coordinates, their bounds and grid mappings do not: they are
the same in all slices, or the slice is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from zappend.datatypes import Block
from zappend.errors import SliceError
from zappend.forms import check_expand_dims
from zappend.settings import ExpandDims, Settings
from zappend.slices import Slice, SliceVariable

__all__ = ["expanded"]

NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")

COMPACT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Formats of digits that may be meant for times, by how many there are."""

LIKELY_YEARS = range(1800, 2300)

CONTAINERS = ("grid_mapping", "geometry")
"""Attributes that name variables of which only the attributes matter."""

BOUNDS = ("bounds", "climatology")


@dataclass(frozen=True)
class _Expanded(SliceVariable):
    """A variable with one dimension more than its data, of size 1, in front."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.data.shape)

    def read(self, region: tuple[slice, ...] | None = None) -> Block:
        if region is None or "_values" in self.__dict__ or self._is_in_memory:
            return super().read(region)
        first, *rest = region
        block: Block = self._read(self.data[tuple(rest)])[first]
        return block

    def _read(self, data: Any) -> Block:
        return super()._read(data)[np.newaxis]


def expanded(new: Slice, settings: Settings) -> Slice:
    """Return the slice with the append dimension, if it lacks it and the settings say where its label comes from.

    Raises
    ------
    SliceError
        If the label is not there, or is none.
    UsageError
        If the settings do not say where it is.
    """
    if not settings.expand_dims:
        return new
    wanted, dim = check_expand_dims(settings), settings.append_dim
    if dim in new.sizes:
        return new
    try:
        return _expanded(new, dim, wanted)
    except _NoLabel as error:
        raise SliceError(f"slice {new.name}: expand_dims finds no label for its dimension {dim!r}: {error}") from None


class _NoLabel(Exception):
    """Why there is no label."""


def _expanded(new: Slice, dim: str, wanted: ExpandDims) -> Slice:
    there = new.variables.get(dim)
    if there is not None and there.dims:
        raise _NoLabel(f"the slice has a variable {dim!r} already, with the dimensions {there.dims}")
    label = _label(new, dim, wanted)
    gone = {dim, wanted.coord}
    fixed = new.coords | set(_named(new, CONTAINERS))
    fixed |= {name for name, variable in new.variables.items() if "grid_mapping_name" in variable.attrs}
    fixed |= set(_named(new, BOUNDS)) - {label.attrs.get(key) for key in BOUNDS}
    variables = {dim: label}
    for name, variable in new.variables.items():
        if name not in gone:
            attrs = _without(variable.attrs, gone)
            variables[name] = replace(variable, attrs=attrs) if name in fixed else _with_dimension(variable, dim, attrs)
    sizes, coords = {dim: 1, **new.sizes}, (new.coords - gone) | {dim}
    return replace(new, sizes=sizes, variables=variables, coords=coords, attrs=_without(new.attrs, gone))


def _with_dimension(variable: SliceVariable, dim: str, attrs: Mapping[str, Any]) -> SliceVariable:
    wanted = dict(variable.wanted)
    if chunks := wanted.get("preferred_chunks"):
        wanted["preferred_chunks"] = {dim: 1, **chunks}
    dims = (dim, *variable.dims)
    return _Expanded(variable.name, variable.slice_name, dims, attrs, variable.source, wanted, variable.data)


def _named(new: Slice, keys: tuple[str, ...]) -> Iterator[str]:
    """Iterate over the names that stand in attributes of variables."""
    for variable in new.variables.values():
        for key in keys:
            yield from (word.rstrip(":") for word in str(variable.attrs.get(key, "")).split())


def _without(attrs: Mapping[str, Any], gone: set[str | None]) -> Mapping[str, Any]:
    """Return `attrs` without naming as coordinates what has become that of the dimension, which goes without saying."""
    words = str(attrs.get("coordinates", "")).split()
    if not gone.intersection(words):
        return attrs
    left = " ".join(word for word in words if word not in gone)
    return {
        key: left if key == "coordinates" else value for key, value in attrs.items() if left or key != "coordinates"
    }


# Labels.


def _label(new: Slice, dim: str, wanted: ExpandDims) -> SliceVariable:
    import xarray as xr

    if wanted.coord is not None:
        variable = _scalar(new, wanted.coord)
        if wanted.format is None:
            return replace(_with_dimension(variable, dim, variable.attrs), name=dim)
        value, where = _single(variable.read().tolist()), f"coordinate {wanted.coord!r}"
    elif wanted.attribute is not None:
        if wanted.attribute not in new.attrs:
            has = ", ".join(map(repr, new.attrs)) or "none"
            raise _NoLabel(f"there is no attribute {wanted.attribute!r}; there are {has}")
        value, where = _single(new.attrs[wanted.attribute]), f"attribute {wanted.attribute!r}"
    else:
        value, where = _found(new, str(wanted.pattern)), f"file name {_file_name(new)!r}"
    label = np.array([_parsed(value, wanted.format, where)])
    return SliceVariable(dim, new.name, (dim,), {}, None, {}, xr.Variable((dim,), label))


def _scalar(new: Slice, name: str) -> SliceVariable:
    if name not in new.variables:
        scalars = [repr(one) for one, variable in new.variables.items() if not variable.dims]
        raise _NoLabel(f"there is no coordinate {name!r}; of scalars there are {', '.join(scalars) or 'none'}")
    variable = new.variables[name]
    if variable.dims:
        raise _NoLabel(f"variable {name!r} is no scalar, but has the dimensions {variable.dims}")
    return variable


def _single(value: Any) -> Any:
    """Return the one value of an attribute that is a list, as files may have it."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _file_name(new: Slice) -> str:
    if not new.file:
        raise _NoLabel("the slice has no file, in the name of which a pattern could find it")
    return os.path.basename(new.file.rstrip("/"))


def _found(new: Slice, pattern: str) -> str:
    name = _file_name(new)
    match = re.search(pattern, name)
    if match is None or match[match.re.groups] is None:
        raise _NoLabel(f"the pattern {pattern!r} does not match the file name {name!r}")
    return match[match.re.groups]


def _parsed(value: Any, written: str | None, where: str) -> Any:
    """Return a number, or a time of NumPy."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _NoLabel(f"{where} is {value!r}, which is neither a number nor a text")
    if written is not None:
        try:
            return _time(datetime.strptime(str(value), written))
        except ValueError:
            raise _NoLabel(f"{where}: {str(value)!r} is not written as the format {written!r}") from None
    if not isinstance(value, str):
        return _number(value, where)
    text = value.strip()
    compact = COMPACT.get(len(text)) if text.isdigit() else None
    if compact is not None and (found := _likely(text, compact)) is not None:
        if len(text) == 8:
            return found
        raise _NoLabel(f"{where}: {text!r} may be a time or a number; for a time, give its format, {compact!r}")
    if NUMBER.fullmatch(text):
        return _number(int(text) if text.lstrip("+-").isdigit() else float(text), where)
    try:
        return _time(datetime.fromisoformat(f"{text}-01" if re.fullmatch(r"\d{4}-\d\d", text) else text))
    except ValueError:
        raise _NoLabel(
            f"{where}: {text!r} is neither a number nor a time as in ISO 8601; expand_dims.format can say how it is "
            f"written"
        ) from None


def _number(value: float, where: str) -> Any:
    try:
        return np.int64(value) if isinstance(value, int) else np.float64(value)
    except OverflowError:
        raise _NoLabel(f"{where}: {value} is too large for 64 bits") from None


def _likely(digits: str, written: str) -> Any:
    """Return the time that digits may mean, ``None`` if they mean none."""
    try:
        time = datetime.strptime(digits, written)
    except ValueError:
        return None
    return _time(time) if time.year in LIKELY_YEARS else None


def _time(time: datetime) -> Any:
    """Return a time of NumPy, in UTC if a zone is told."""
    if time.tzinfo is not None:
        time = time.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(time, "us")
