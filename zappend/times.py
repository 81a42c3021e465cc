"""Times and durations ↔ stored numbers: whole units since an epoch, exact or refused.

Dates of our time take integer arithmetic; other calendars, remote dates and fractions go through xarray, and count only
if they decode to what they were.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np

from zappend.datatypes import Block
from zappend.encoding import MASKS, STANDARD_CALENDARS, Encoding, decode, encoding_attrs, fill_missing
from zappend.exact import EncodingError, cast_exactly, refusal
from zappend.kinds import is_cftime, is_missing

__all__ = ["choose_time_encoding", "encode_times"]

Result = TypeVar("Result")

FIRST, LAST = np.datetime64("1678-01-01", "s"), np.datetime64("2262-01-01", "s")
"""Between these every reader decodes by integer arithmetic, too: nanoseconds since 1970 fit into 64 bits."""

GREGORIAN = np.datetime64("1582-10-15", "s")
"""From here on a day has one date in all calendars that are called standard."""

BEGIN, END = np.datetime64("0001-01-01", "s"), np.datetime64("10000-01-01", "s")
"""Between these a year has one to four digits."""

TICK_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}

FINER_UNITS = ("milliseconds", "microseconds", "nanoseconds")
DEFAULT_EPOCH = "1970-01-01"


def choose_time_encoding(values: Block, wanted: Mapping[str, Any], *, exactly: bool = False) -> Encoding:
    """Return how times or durations are stored in a new array: as `wanted` if that holds them all, else finer.

    With `exactly` the type of `wanted` is the only one that will do, and so are its units if it has some.

    Raises
    ------
    EncodingError
        If no units can hold all values.
    """
    named = wanted.get("dtype")
    dtype = np.dtype(named) if named is not None and np.dtype(named).kind in "iuf" else np.dtype("<i8")
    attrs = encoding_attrs({key: wanted[key] for key in ("_FillValue", "missing_value") if key in wanted}, dtype)
    missing = is_missing(values)
    if missing.any() and "_FillValue" not in attrs:
        attrs["_FillValue"] = np.nan if dtype.kind == "f" else int(np.iinfo(dtype).min)
    since = ""
    if values.dtype.kind != "m":
        units = str(wanted.get("units", ""))
        since = f" since {units.partition(' since ')[2].strip() or DEFAULT_EPOCH}"
        calendar = values[~missing].flat[0].calendar if is_cftime(values) else wanted.get("calendar")
        attrs["calendar"] = calendar or "proleptic_gregorian"
        _check_calendar(values[~missing], Encoding(dtype, attrs).calendar)
    else:
        attrs["dtype"] = str(np.dtype(values.dtype))
    first = str(wanted["units"]).split(" since ")[0].strip() if wanted.get("units") else FINER_UNITS[0]
    failures = []
    for unit in (first,) if exactly and wanted.get("units") else dict.fromkeys((first, *FINER_UNITS)):
        encoding = Encoding(dtype if exactly or unit == first else np.dtype("<i8"), {**attrs, "units": unit + since})
        try:
            encode_times(values, encoding)
        except EncodingError as error:
            failures.append(error)
            continue
        return encoding
    if exactly:
        raise failures[0]
    raise EncodingError(f"no unit of time since {since.removeprefix(' since ')} can hold all values exactly")


def encode_times(values: Block, target: Encoding) -> Block:
    """Return times or durations as they are stored under `target`; raise `EncodingError` if one is not exact."""
    if values.dtype.kind not in "Mm" and not is_cftime(values):
        if not (values.size and is_missing(values).all()):
            raise EncodingError(f"values of type {values.dtype} are no times, which {target.attrs['units']!r} needs")
    elif (values.dtype.kind == "m") == target.is_time or "units" not in target.attrs:
        what = "durations" if values.dtype.kind == "m" else "times"
        raise EncodingError(f"{what} cannot be stored as numbers with units {target.attrs.get('units')!r}")
    missing = is_missing(values)
    if target.packing is not None:
        return _pack(values, missing, target)
    steps = _exact_steps(values, target, missing)
    if steps is None:
        stored = np.zeros(values.shape, target.dtype)
        if not missing.all():
            stored[~missing] = _picked(_encode_by_xarray, values[~missing], target, ~missing)
    else:
        hint = f", in {target.attrs['units']!r}"
        stored = cast_exactly(np.where(missing, 0, steps), target.dtype, values, hint)
        if target.dtype.kind == "f" or _are_remote(values[~missing]):
            # Floats are decoded by way of float nanoseconds, remote dates by cftime: both can lose digits.
            _picked(partial(_check_decoding, stored[~missing]), values[~missing], target, ~missing)
    return fill_missing(stored, values, missing, target)


def _picked(do: Callable[[Block, Encoding], Result], values: Block, target: Encoding, where: Block) -> Result:
    """Do what may raise `EncodingError` with values that were picked out of a block, at `where` of it."""
    try:
        return do(values, target)
    except EncodingError as error:
        raise error.picked(np.argwhere(where)) from None


def _pack(values: Block, missing: Block, target: Encoding) -> Block:
    """Return times or durations that are packed, too; CF does not forbid it."""
    (scale, offset), kept = target.packing or (1.0, 0.0), ("units", "calendar", "dtype")
    if not scale:
        raise EncodingError("its scale_factor is 0, by which nothing can be packed")
    plain = Encoding(np.dtype("f8"), {key: target.attrs[key] for key in kept if key in target.attrs})
    numbers = (np.where(missing, 0, encode_times(values, plain)) - offset) / scale
    if target.dtype.kind in "iu":
        numbers = np.round(numbers)
    stored = cast_exactly(np.where(missing, 0, numbers), target.dtype, values)
    _picked(partial(_check_decoding, stored[~missing]), values[~missing], target, ~missing)
    return fill_missing(stored, values, missing, target)


def _are_remote(values: Block) -> bool:
    return values.dtype.kind == "M" and not bool(((values >= FIRST) & (values < LAST)).all())


def _exact_steps(values: Block, target: Encoding, missing: Block) -> Block | None:
    """Return `values` as whole units since the epoch, or ``None`` where that takes more than whole numbers."""
    if values.dtype.kind not in "mM":
        return None
    resolution, count = np.datetime_data(values.dtype)
    if resolution not in TICK_NANOSECONDS:
        return _exact_steps(values.astype(f"{values.dtype.kind}8[s]"), target, missing)
    try:
        tick, unit = TICK_NANOSECONDS[resolution] * count, target.unit_nanoseconds
    except EncodingError:
        return None
    gaps = bool(missing.any())
    ticks = np.where(missing, 0, values.astype("i8")) if gaps else values.astype("i8")
    zero = 0
    if values.dtype.kind == "M":
        epoch = _epoch(str(target.attrs["units"])) if target.calendar in STANDARD_CALENDARS else None
        dates = (values[~missing] if gaps else values).astype("M8[s]")
        first = GREGORIAN if target.calendar == "standard" else BEGIN
        if epoch is None or not ((dates >= first) & (dates < END)).all():
            return None
        zero, rest = divmod(int(epoch.astype("i8")) * TICK_NANOSECONDS["s"], tick)
        if rest:
            return None
    factor = max(tick // unit, 1)
    reach = max(abs(int(ticks.max(initial=0)) - zero), abs(int(ticks.min(initial=0)) - zero))
    if reach * factor > np.iinfo("i8").max or abs(zero) > np.iinfo("i8").max:
        return None
    since = np.where(missing, 0, ticks - zero) if gaps else ticks - zero
    if tick % unit == 0:
        return np.asarray(since * factor)
    if unit % tick:
        return None
    steps, left = np.divmod(since, unit // tick)
    if not left.any():
        return np.asarray(steps)
    if target.dtype.kind in "iu":
        raise _not_whole(values, target, left != 0)
    return None


@lru_cache(maxsize=256)
def _epoch(units: str) -> np.datetime64 | None:
    """Return the epoch of `units` if it is a plain date between `FIRST` and `LAST`, to the second."""
    text = units.partition(" since ")[2].strip().replace(" ", "T", 1).removesuffix(".0").removesuffix("Z")
    date, _, clock = text.partition("T")
    parts = clock.split(":") if clock else []
    try:
        year, month, day = (int(part) for part in date.split("-"))
        hour, minute, second = (int(float(part)) for part in (*parts, "0", "0", "0")[:3])
        if any(float(part) != int(float(part)) for part in parts) or len(parts) > 3:
            return None
        epoch = np.datetime64(f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}", "s")
    except ValueError:
        return None
    return epoch if FIRST <= epoch < LAST else None


def _encode_by_xarray(values: Block, target: Encoding) -> Block:
    """Encode what whole numbers cannot, none of it missing, and take it only if it decodes to `values` again."""
    from xarray import Variable
    from xarray.conventions import encode_cf_variable

    _check_calendar(values, target.calendar)
    wanted: dict[str, Any] = {
        **{key: target.attrs[key] for key in ("units", "calendar") if key in target.attrs},
        "dtype": np.dtype("f8") if target.dtype.kind == "f" else np.dtype("i8"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is found by decoding
        try:
            if values.dtype == object:
                import cftime

                # What xarray does too, but it takes finer units for all values if one is not whole.
                numbers = cftime.date2num(values, target.attrs["units"], target.calendar)
            else:
                numbers = encode_cf_variable(Variable(("x",), values, {}, wanted), name="values").values
        except (ValueError, TypeError, OverflowError, KeyError, AttributeError) as error:
            why = "it has no unit of a fixed length" if isinstance(error, KeyError) else error
            raise EncodingError(f"times cannot be stored with {target.attrs['units']!r}: {why}") from error
    numbers = np.asarray(numbers)
    if target.dtype.kind in "iu" and (left := numbers != np.round(numbers)).any():
        raise _not_whole(values, target, left)
    stored = cast_exactly(numbers, target.dtype, values)
    _check_decoding(stored, values, target)
    return stored


def _check_calendar(values: Block, calendar: str) -> None:
    """Raise `EncodingError` unless times, none of it missing, have the `calendar` in which they are to be stored."""
    own = str(values.flat[0].calendar) if is_cftime(values) else "standard"
    if own != calendar and {own, calendar} - STANDARD_CALENDARS:
        raise EncodingError(f"dates of the calendar {own!r} cannot be stored in {calendar!r}")


def _check_decoding(stored: Block, values: Block, target: Encoding) -> None:
    """Raise `EncodingError` unless `stored`, none of it missing, decodes to `values`."""
    if not stored.size:
        return
    plain = {key: value for key, value in target.attrs.items() if key not in MASKS}
    again = decode(stored, Encoding(target.dtype, plain))
    if (wrong := ~_are_same_times(again, values)).any():
        raise _not_whole(values, target, wrong)


def _are_same_times(a: Block, b: Block) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return where two blocks of times or durations, none of it missing, are equal, whatever holds them."""
    if a.dtype == b.dtype == object:
        try:
            return np.asarray(a == b)
        except TypeError:  # dates of two calendars
            return np.zeros(a.shape, bool)
    a, b = (_as_dates(block) if block.dtype == object else block for block in (a, b))
    if a.dtype.kind != b.dtype.kind:
        return np.zeros(a.shape, bool)
    if a.dtype == b.dtype:
        return np.asarray(a == b)
    # Whole seconds and the rest one by one: what nanoseconds cannot reach is no reason to fail.
    kind = a.dtype.kind
    seconds = [block.astype(f"{kind}8[s]") for block in (a, b)]
    rests = [(x - whole.astype(x.dtype)).astype("m8[ns]") for x, whole in zip((a, b), seconds, strict=True)]
    return np.asarray((seconds[0] == seconds[1]) & (rests[0] == rests[1]))


def _as_dates(values: Block) -> Block:
    """Return dates of cftime in the standard calendar as NumPy's; others as they are."""
    if not {str(value.calendar) for value in values.flat} <= STANDARD_CALENDARS:
        return values
    return np.array([value.isoformat() for value in values.flat], "M8[us]").reshape(values.shape)


def _not_whole(values: Block, target: Encoding, where: Block) -> EncodingError:
    units = target.attrs["units"]
    return refusal(
        f"cannot be expressed exactly as {target.dtype} in {units!r}; a cube that is made with finer units can hold it",
        values,
        where,
    )
