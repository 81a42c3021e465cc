"""How one variable is stored, by the CF conventions as xarray applies them, in words that tell what stored values mean.

Conventions: https://cfconventions.org (4.4 time coordinates, 8.1 packed data, 2.5.1 missing data).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zappend.datatypes import Block
from zappend.exact import EncodingError, refusal
from zappend.kinds import kind_of_type

__all__ = [
    "MASKS",
    "PACKING_KEYS",
    "STANDARD_CALENDARS",
    "Encoding",
    "decode",
    "encoding_attrs",
    "fill_missing",
    "is_time_unit",
    "same",
    "same_units",
    "show",
]

MASKS = ("_FillValue", "missing_value")
PACKING_KEYS = (*MASKS, "scale_factor", "add_offset", "_Unsigned")
TIME_KEYS = ("units", "calendar")

STANDARD_CALENDARS = frozenset({"standard", "gregorian", "proleptic_gregorian"})

UNIT_NANOSECONDS = {
    "nanosecond": 1,
    "microsecond": 10**3,
    "millisecond": 10**6,
    "second": 10**9,
    "minute": 60 * 10**9,
    "hour": 3600 * 10**9,
    "day": 86400 * 10**9,
}
UNIT_ALIASES = {
    "nanosecond": ("ns", "nanoseconds"),
    "microsecond": ("us", "microseconds"),
    "millisecond": ("ms", "msec", "millisec", "milliseconds"),
    "second": ("s", "sec", "secs", "seconds"),
    "minute": ("min", "mins", "minutes"),
    "hour": ("h", "hr", "hrs", "hours"),
    "day": ("d", "days"),
}
UNITS = {alias: unit for unit, aliases in UNIT_ALIASES.items() for alias in (unit, *aliases)}


NUMBERS_OF = ("scale_factor", "add_offset")


@dataclass(frozen=True)
class Encoding:
    """How values of one variable are stored.

    Attributes
    ----------
    dtype
        Type of the stored values; ``object`` for strings of any length.
    attrs
        Those attributes of CF that say what stored values mean: ``_FillValue``, ``missing_value``, ``scale_factor``,
        ``add_offset``, ``_Unsigned``; for times ``units`` and ``calendar``; for durations ``units`` and xarray's
        ``dtype``, which it has for booleans that are stored as numbers, too.
    """

    dtype: np.dtype[Any]
    attrs: Mapping[str, Any]

    @property
    def is_time(self) -> bool:
        """Whether the stored numbers are times since an epoch."""
        return self.dtype.kind == "M" or is_time_unit(self.attrs.get("units"))

    @property
    def is_duration(self) -> bool:
        """Whether the stored numbers are durations that xarray decodes as such."""
        return self.dtype.kind == "m" or str(self.attrs.get("dtype", "")).startswith("timedelta64")

    @property
    def kind(self) -> str:
        """What the stored values are, in the words of `kind_of`."""
        if self.attrs.get("dtype") == "bool":
            return "booleans"
        return "times" if self.is_time else "durations" if self.is_duration else kind_of_type(self.dtype)

    @property
    def other_sign(self) -> np.dtype[Any] | None:
        """The type in which `dtype` is to be read by its attribute ``_Unsigned``, ``None`` for `dtype` itself."""
        sign = {"true": "i", "false": "u"}.get(str(self.attrs.get("_Unsigned", "")).lower())
        if self.dtype.kind != sign:
            return None
        return np.dtype(f"{'u' if sign == 'i' else 'i'}{self.dtype.itemsize}")

    @property
    def packing(self) -> tuple[float, float] | None:
        """Scale factor and offset, ``None`` without both; `EncodingError` if one is no finite number."""
        if not any(name in self.attrs for name in NUMBERS_OF):
            return None
        wrong = [name for name in NUMBERS_OF if not isinstance(self.attrs.get(name, 1), (int, float))]
        if wrong:
            raise EncodingError(f"its {wrong[0]} is {self.attrs[wrong[0]]!r}, which is no number")
        scale, offset = float(self.attrs.get("scale_factor", 1)), float(self.attrs.get("add_offset", 0))
        if not (math.isfinite(scale) and math.isfinite(offset)):
            raise EncodingError(f"its scale_factor is {scale} and its add_offset {offset}, which must be finite")
        return scale, offset

    @property
    def calendar(self) -> str:
        """The calendar of times; ``gregorian`` is an old name of ``standard``."""
        calendar = str(self.attrs.get("calendar", "standard")).lower()
        return "standard" if calendar == "gregorian" else calendar

    @property
    def unit_nanoseconds(self) -> int:
        """Length of one stored unit of a time or duration; `EncodingError` for months and years, which have none."""
        if self.dtype.kind in "mM":
            unit, count = np.datetime_data(self.dtype)
            if unit in ("Y", "M", "ps", "fs", "as", "generic"):
                raise EncodingError(f"the unit {unit!r} is no whole number of nanoseconds")
            return int(np.array(count, f"m8[{unit}]").astype("m8[ns]").astype("i8"))
        unit = str(self.attrs["units"]).strip().split()[0].lower()
        if unit not in UNITS:
            raise EncodingError(f"the unit {unit!r} has no fixed length")
        return UNIT_NANOSECONDS[UNITS[unit]]

    def stores_like(self, other: Encoding) -> bool:
        """Tell whether equal stored values mean the same under both."""
        if self.dtype.newbyteorder("=") != other.dtype.newbyteorder("="):
            return False
        if self.kind != other.kind:
            return False
        if self.is_time and self.calendar != other.calendar:
            return False
        names = [*PACKING_KEYS, *(["units"] if self.is_time or self.is_duration else [])]
        return all(same(self._attr(name), other._attr(name)) for name in names)

    def _attr(self, name: str) -> Any:
        default: Any = {"scale_factor": 1, "add_offset": 0}.get(name)
        if name == "_FillValue" and self.dtype.kind == "f":
            default = np.nan  # what decodes to NaN anyway
        value = self.attrs.get(name, default)
        return str(value).lower() if name == "_Unsigned" and value is not None else value


def encoding_attrs(attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return those of `attrs` that belong to an `Encoding` of stored values of `dtype`, as plain numbers or strings."""
    if not attrs:
        return {}
    found = {key: _plain(attrs[key]) for key in PACKING_KEYS if attrs.get(key) is not None}
    for key in MASKS:
        if key in found and dtype.kind in "iu":
            if (fitting := _fitting(found.pop(key), found, dtype)) is not None:
                found[key] = fitting
        elif key in found and dtype.kind in "fc":
            found[key] = _rounded(found[key], dtype)
    if is_time_unit(attrs.get("units")):
        found.update((key, attrs[key]) for key in TIME_KEYS if key in attrs)
    elif str(attrs.get("dtype", "")) == "bool" and dtype.kind in "iu":
        found["dtype"] = "bool"
    elif str(attrs.get("dtype", "")).startswith("timedelta64") and "units" in attrs:
        found.update(units=attrs["units"], dtype=attrs["dtype"])
    return found


def _plain(value: Any) -> Any:
    """Return an attribute as a Python value; files have arrays of one element where one number is meant."""
    values = np.asarray(value)
    if values.dtype == object or values.dtype.kind == "T":
        return values.tolist() if isinstance(value, np.ndarray) else value
    if values.dtype.kind in "mM" and values.size == 1:
        return values.reshape(-1)[0]  # as a Python value it would be a bare number, or lose its unit
    value = values.reshape(-1)[0].item() if values.size == 1 else values.tolist()
    return math.nan if isinstance(value, float) and math.isnan(value) else value  # one object, which equals itself


def _fitting(value: Any, attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> Any:
    """Return what of a fill value whole numbers of `dtype` can be equal to, ``None`` for nothing."""
    info = np.iinfo(dtype)
    numbers = [int(v) for v in np.atleast_1d(value).tolist() if isinstance(v, (int, float)) and v == v // 1]
    sign = str(attrs.get("_Unsigned", "")).lower()
    whole = 1 << 8 * dtype.itemsize
    if sign == "true" and info.min < 0:
        numbers = [n - whole if info.max < n < whole else n for n in numbers]
    elif sign == "false" and info.min == 0:
        numbers = [n + whole if n < 0 else n for n in numbers]
    numbers = [n for n in numbers if info.min <= n <= info.max]
    return (numbers[0] if len(numbers) == 1 else numbers) if numbers else None


def _rounded(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return a fill value as floats of `dtype` hold it: readers compare the exact one with what is stored."""
    try:
        with np.errstate(all="ignore"):
            rounded = np.asarray(value).astype(dtype)
    except (ValueError, TypeError):
        return value
    return _plain(rounded) if np.isfinite(rounded).all() else value


def is_time_unit(units: Any) -> bool:
    """Tell whether `units` are those of times, such as ``days since 1970-01-01``."""
    return isinstance(units, str) and " since " in units


def same_units(a: Any, b: Any) -> bool:
    """Tell whether two units are one: by their words, or as times since one epoch."""
    if a == b or a is None or b is None:
        return bool(a == b)
    (unit, _, since), (other, _, other_since) = (str(units).strip().partition(" since ") for units in (a, b))
    if UNITS.get(unit.lower(), unit) != UNITS.get(other.lower(), other) or bool(since) != bool(other_since):
        return False
    try:
        return not since or bool(np.datetime64(since.strip()) == np.datetime64(other_since.strip()))
    except ValueError:
        return since.split() == other_since.split()


def decode(values: Block, encoding: Encoding) -> Block:
    """Return what stored `values` mean, as xarray decodes them; raise `EncodingError` if it cannot."""
    from xarray import Variable
    from xarray.conventions import decode_cf_variable

    dims = tuple(f"d{axis}" for axis in range(values.ndim))
    variable = Variable(dims, values, dict(encoding.attrs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # xarray warns of dates that it decodes with cftime, which is what is wanted
        try:
            return np.asarray(decode_cf_variable("values", variable, decode_timedelta=encoding.is_duration).values)
        except (ValueError, TypeError, OverflowError) as error:
            raise EncodingError(f"cannot be decoded: {' '.join(str(error).split())}") from error


def show(value: Any, encoding: Encoding) -> str:
    """Return a stored label as people read it."""
    try:
        decoded = decode(np.asarray([value]).astype(encoding.dtype), encoding)[0]
    except EncodingError:
        return str(value)
    if isinstance(decoded, np.datetime64):
        return str(decoded.astype("M8[s]")) if decoded.astype("M8[s]") == decoded else str(decoded)
    return str(decoded)


def fill_missing(stored: Block, values: Block, missing: Block, target: Encoding) -> Block:
    """Return `stored` with the fill value of `target` where `missing`.

    Raises `EncodingError` where there is none, and for a valid value that would read back as missing.
    """
    for name in MASKS:
        mask = target.attrs.get(name)
        if mask is not None and not same(mask, np.nan):
            masked = np.isin(stored, np.asarray(mask).astype(target.dtype)) & ~missing
            if masked.any():
                raise refusal(f"a valid value that is stored as {mask}, which {name} marks as missing", values, masked)
    if not missing.any():
        return stored
    default = np.nan if target.dtype.kind in "fc" else target.attrs.get("missing_value")
    fill = target.attrs.get("_FillValue", default)
    if fill is None or np.ndim(fill):
        raise refusal("a missing value cannot be stored without a fill value", values, missing)
    with np.errstate(all="ignore"):
        exact = np.asarray(fill).astype(target.dtype)
    if not same(exact, np.asarray(fill)):
        raise refusal(
            f"a missing value cannot be stored as the fill value {fill}, which {target.dtype} lacks", values, missing
        )
    return np.where(missing, exact, stored)


def same(a: Any, b: Any) -> bool:
    """Tell whether two attributes are equal, taking NaN as equal to itself."""
    if a is None or b is None:
        return a is b
    if isinstance(a, (str, bytes)) or isinstance(b, (str, bytes)):
        return bool(a == b)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or (a != a and b != b)
    first, second = np.asarray(a), np.asarray(b)
    return first.shape == second.shape and bool(np.all((first == second) | ((first != first) & (second != second))))
