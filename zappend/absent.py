"""Variables that a slice lacks: which of them begin with a cube all the same, and what they are filled with.

Nothing is invented: where nothing can stand for a missing value, there is no variable.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import UNSET

from zappend.encoding import Encoding, encoding_attrs
from zappend.errors import UsageError
from zappend.forms import named_type
from zappend.metadata import Cube
from zappend.settings import Settings
from zappend.slices import Slice, SliceVariable, check_name
from zappend.variables import ALL, dims_of, fill_number, type_name

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["created", "filled", "missing_value"]

log = logging.getLogger(__name__)


def missing_value(encoding: Encoding) -> Any:
    """Return what is stored for a missing value, ``None`` if nothing can be."""
    if encoding.dtype.kind in "mM":
        return np.array("NaT", encoding.dtype)[()]
    default = np.nan if encoding.dtype.kind in "fc" else encoding.attrs.get("missing_value")
    fill = encoding.attrs.get("_FillValue", default)
    return None if np.ndim(fill) else fill


def filled(cube: Cube, new: Slice, encodings: Mapping[str, Encoding], dim: str) -> Slice:
    """Return the slice with those variables of the cube along `dim` that it lacks, filled with missing values."""
    variables = dict(new.variables)
    for name, array in cube.arrays.items():
        if name in variables or dim not in array.dims:
            continue
        shape = tuple(new.sizes[dim] if d == dim else size for d, size in zip(array.dims, array.shape, strict=True))
        variables[name] = _variable(name, new, array.dims, shape, encodings[name])
        log.info("Variable %r not found in slice dataset; creating it.", name)
    return replace(new, variables=variables)


def created(new: Slice, settings: Settings) -> tuple[Slice, list[str]]:
    """Return the slice, with which a cube begins, with those variables filled that only the settings describe.

    Returns
    -------
    slice
        The slice.
    problems
        Why variables cannot be made for it.

    Raises
    ------
    UsageError
        If the settings do not say all that a variable takes: its dimensions, its type, and what is stored for a missing
        value.
    """
    variables, problems = dict(new.variables), []
    for name in settings.variables:
        if name == ALL or name in variables or not settings.takes(name):
            continue
        dims = dims_of(settings, name) or ()
        if name == settings.append_dim:
            raise UsageError(f"setting variables.{name}: slice {new.name} has no labels {name!r}, and none can be made")
        if len(set(dims)) < len(dims):
            raise UsageError(f"setting variables.{name}.dims: {dims} has a dimension twice")
        check_name(name, new.name)
        encoding = _encoding(settings, name)
        if strange := [dim for dim in dims if dim not in new.sizes]:
            has = ", ".join(map(repr, new.sizes))
            problems.append(f"Dimension {strange[0]!r} of variable {name!r} not found in dataset, which has {has}")
            continue
        variables[name] = _variable(name, new, dims, tuple(new.sizes[dim] for dim in dims), encoding)
        log.info("Variable %r not found in slice dataset; creating it.", name)
    return replace(new, variables=variables), problems


def _variable(
    name: str, new: Slice, dims: tuple[str, ...], shape: tuple[int, ...], encoding: Encoding
) -> SliceVariable:
    import xarray as xr

    values = np.broadcast_to(np.array(missing_value(encoding), encoding.dtype), shape)
    data: xr.Variable = xr.Variable(dims, values)
    return SliceVariable(name, new.name, dims, {}, encoding, {}, data)


def _encoding(settings: Settings, name: str) -> Encoding:
    """Return how a variable that only the settings describe is stored."""

    def wanted(key: str) -> Any:
        """Return what is set under the own name, or under ``*``."""
        values = (getattr(settings.variables[one].encoding, key) for one in (name, ALL) if one in settings.variables)
        return next((value for value in values if value is not UNSET), UNSET)

    where = f"encoding configuration of variable {name!r}"
    if (named := wanted("dtype")) is UNSET or named is None:
        raise UsageError(f"Missing 'dtype' in {where}, which no slice has")
    dtype = named_type(named, name)
    own = settings.variables[name].encoding
    given = {key: getattr(own, key) for key in ("units", "calendar")}
    given |= {key: wanted(key) for key in ("scale_factor", "add_offset")}
    attrs = {key: value for key, value in given.items() if value is not UNSET and value is not None}
    kind = Encoding(dtype, encoding_attrs(attrs, dtype)).kind
    if kind == "booleans":
        raise UsageError(f"setting variables.{name}: booleans have no missing value, so none can be made; use int8")
    fill = wanted("fill_value")
    if fill is UNSET and kind == "times" and dtype.kind in "iu":
        fill = int(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max)
    if (fill is UNSET or fill is None) and dtype.kind not in "fcmM":
        raise UsageError(
            f"Missing 'fill_value' in {where}, which no slice has; {type_name(dtype)} has no other missing value"
        )
    if fill is not UNSET and fill is not None:
        attrs["_FillValue"] = fill = fill_number(fill, kind)
    encoding = Encoding(dtype, encoding_attrs(attrs, dtype))
    try:
        np.array(missing_value(encoding), dtype)
    except (ValueError, TypeError, OverflowError):
        setting = f"setting variables.{name}.encoding.fill_value"
        raise UsageError(f"{setting}: {fill!r} is no value of {type_name(dtype)}") from None
    return encoding
