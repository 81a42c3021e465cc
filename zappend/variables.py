"""What the settings say of single variables: which of a slice are taken, and how each is to be stored.

An encoding under a variable's own name holds for it as it stands. One under ``*`` holds for all variables that it can
mean something for, and there only where the own name says nothing:

* codecs and keys of chunks, for all; filters and the serializer, for all but strings and bytes of any length;
* units and calendar, for times that are stored as numbers;
* chunks and shards, for data variables; as a list, for those with as many dimensions;
* type, packing and fill value, for data variables that hold numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from zappend.datatypes import is_bytes, is_variable_length
from zappend.encoding import Encoding
from zappend.errors import SliceError, UsageError
from zappend.forms import named_type
from zappend.references import RELATED
from zappend.settings import EncodingSettings, Settings
from zappend.slices import Slice, SliceVariable
from zappend.suggestions import did_you_mean

__all__ = [
    "ALL",
    "check_names",
    "check_one_name",
    "dims_of",
    "encoding_settings",
    "fill_number",
    "select",
    "sizes_of",
    "type_name",
]

ALL = "*"

TEXT_NUMBERS = {"nan": math.nan, "infinity": math.inf, "-infinity": -math.inf, "inf": math.inf, "-inf": -math.inf}

FIXED_SIZE = ("filters", "serializer")
TIMES = ("units", "calendar")
SIZES = ("chunks", "shards")
NUMBERS = ("dtype", "scale_factor", "add_offset", "fill_value")

SAME = {"compressor": "compressors", "dimension_separator": "chunk_key_encoding"}
"""Settings that are one, of which one at most can be given."""


# Which variables.


def select(new: Slice, settings: Settings) -> Slice:
    """Return the slice with those variables that are included and not excluded, and without references to others.

    Raises
    ------
    SliceError
        If a variable that is to be included is not there.
    """
    if not settings.included_variables and not settings.excluded_variables:
        return new
    described = [name for name in settings.variables if dims_of(settings, name) is not None]
    lacking = [
        name
        for name in settings.included_variables
        if not any(fnmatchcase(there, name) for there in (*new.variables, *described))
    ]
    if lacking:
        raise SliceError(
            f"slice {new.name}: it has no variable {', '.join(map(repr, lacking))}, which included_variables names; "
            f"it has {', '.join(map(repr, new.variables))}"
        )
    taken = {name: variable for name, variable in new.variables.items() if settings.takes(name)}
    gone = new.variables.keys() - taken.keys()
    kept = {name: replace(variable, attrs=_without(variable.attrs, gone)) for name, variable in taken.items()}
    used = {dim for variable in kept.values() for dim in variable.dims}
    used.update(dim for name in described if settings.takes(name) for dim in dims_of(settings, name) or ())
    if settings.append_dim in new.sizes and settings.append_dim not in used:
        what = " and ".join(key for key in ("included_variables", "excluded_variables") if getattr(settings, key))
        raise SliceError(
            f"slice {new.name}: no variable that {what} let in has the dimension {settings.append_dim!r} to append "
            f"along"
        )
    return replace(
        new,
        sizes={dim: size for dim, size in new.sizes.items() if dim in used},
        variables=kept,
        coords=new.coords & kept.keys(),
        attrs=_without(new.attrs, gone),
    )


def _without(attrs: Mapping[str, Any], gone: Iterable[str]) -> dict[str, Any]:
    """Return `attrs` without references to the variables `gone`."""
    kept = dict(attrs)
    for key in (*RELATED, "coordinates"):
        names = str(attrs.get(key, "")).split()
        if not any(name.rstrip(":") in gone for name in names):
            continue
        left = [name for name in names if name not in gone] if key == "coordinates" else []
        if left:
            kept[key] = " ".join(left)
        else:
            del kept[key]
    return kept


# How they are stored.


def check_names(settings: Settings, known: Iterable[str], where: str, *, creates: bool = False) -> None:
    """Raise `UsageError` if the settings speak of a variable that is not among those `known`.

    Where a cube `creates` what is described by the settings, that has dimensions.
    """
    known = list(known)
    for name in settings.variables:
        if (
            name == ALL
            or name in known
            or not settings.takes(name)
            or (creates and dims_of(settings, name) is not None)
        ):
            continue
        hint = did_you_mean(name, known, f"; it has {', '.join(map(repr, known))}")
        what = f"setting variables.{name}: {where} has no variable {name!r}{hint}"
        if creates:
            raise UsageError(
                f"{what} (Missing dimensions of variable {name!r}: with dims, and dtype and fill_value in its "
                f"encoding, it is created)"
            )
        raise UsageError(what)


def dims_of(settings: Settings, name: str) -> tuple[str, ...] | None:
    """Return the dimensions that a variable has by the settings, ``None`` if they do not say."""
    if name == ALL or name not in settings.variables:
        return None
    for one in (name, ALL):
        if one in settings.variables and not isinstance(dims := settings.variables[one].dims, UnsetType):
            return tuple(dims)
    return None


def encoding_settings(
    settings: Settings, name: str, holds: SliceVariable | Encoding, dims: tuple[str, ...], *, is_data: bool
) -> EncodingSettings:
    """Return what the settings say of how one variable is to be stored.

    Parameters
    ----------
    settings
        The settings of the append.
    name, dims
        Of the variable.
    holds
        A variable of a slice, or how one is stored: what tells what it holds.
    is_data
        Whether it is a data variable, and no coordinate.

    Raises
    ------
    UsageError
        If two settings that are one are both given, or the type is none that can be stored.
    """
    kind, has_fixed_size = holds.kind, holds.dtype.kind not in "OUT"
    own = _one_name(settings, name)
    common = _one_name(settings, ALL)
    stored = holds.dtype if isinstance(holds, Encoding) else named_type(own["dtype"], name) if "dtype" in own else None
    has_units = kind == "times" and (stored is None or stored.kind != "M")
    for key in list(common):
        value = common[key]
        if (
            (key in FIXED_SIZE and not has_fixed_size)
            or (key in TIMES and not has_units)
            or (key in SIZES and (not is_data or (isinstance(value, list) and len(value) != len(dims))))
            or (key in NUMBERS and not (is_data and kind in ("numbers", "complex numbers")))
        ):
            del common[key]
        elif key in SIZES and isinstance(value, dict):
            common[key] = {dim: size for dim, size in value.items() if dim in dims}
    for alias, key in SAME.items():
        if key in own:
            common.pop(alias, None)
    return EncodingSettings(**(common | own))


def check_one_name(settings: Settings) -> None:
    """Raise `UsageError` if two settings of a variable that are one are both given."""
    for name in settings.variables:
        _one_name(settings, name)


def _one_name(settings: Settings, name: str) -> dict[str, Any]:
    """Return what is set under `name`, settings that are one under one name."""
    variable = settings.variables.get(name)
    given = {} if variable is None else {k: v for k, v in asdict(variable.encoding).items() if v is not UNSET}
    for alias, key in SAME.items():
        if alias in given and key in given:
            raise UsageError(
                f"setting variables.{name}.encoding: {alias!r} and {key!r} are one setting; give one of them"
            )
        if alias in given:
            given[key] = given[alias]  # messages name the one that was given
    return given


def sizes_of(
    wanted: Any, variable: str, setting: str, dims: tuple[str, ...], whole: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    """Return what ``chunks`` or ``shards`` says of each dimension, ``None`` where it says nothing.

    ``None`` and -1 in the setting are the dimension's size in the first slice, which `whole` has.

    Raises
    ------
    UsageError
        If it names dimensions that the variable does not have, or has another number of them.
    """
    where = f"setting variables.{variable}.encoding.{setting}"
    if wanted is UNSET:
        return (None,) * len(dims)
    if wanted is None:
        return whole
    if isinstance(wanted, dict):
        if strange := [dim for dim in wanted if dim not in dims]:
            raise UsageError(f"{where}: the variable has no dimension {strange[0]!r}; it has {', '.join(dims)}")
        given: list[Any] = [wanted.get(dim, UNSET) for dim in dims]
    else:
        given = list(wanted) if isinstance(wanted, list) else [wanted] * len(dims)
        if len(given) != len(dims):
            raise UsageError(f"{where}: {given} has {len(given)} sizes, and the variable {len(dims)} dimensions {dims}")
    for number in given:
        if isinstance(number, int) and number < 1 and number != -1:
            raise UsageError(f"{where}: a size must be at least 1, not {number}")
    return tuple(
        None if number is UNSET else size if number in (None, -1) else number
        for number, size in zip(given, whole, strict=True)
    )


def type_name(dtype: np.dtype[Any]) -> str:
    """Return how the setting ``dtype`` names a type; byte order is no part of it."""
    if is_variable_length(dtype):
        return "bytes" if is_bytes(dtype) else "string"
    return str(dtype.newbyteorder("="))


def fill_number(value: Any, kind: str) -> Any:
    """Return a fill value of values of one `kind` as it is meant: JSON has NaN and infinity only as text."""
    return TEXT_NUMBERS.get(value.lower(), value) if isinstance(value, str) and kind != "strings" else value
