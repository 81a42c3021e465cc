"""The step from label to label: what the setting ``append_step`` says, and where labels do not have it. Pure.

Months and years go by the calendar of the labels. A label late in a month becomes the last day of a shorter one, as 31
January, 29 February, 31 March.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from zappend.datatypes import Block
from zappend.encoding import Encoding, decode, show
from zappend.errors import UsageError
from zappend.exact import EncodingError

__all__ = ["Step", "parse_step", "step_fault"]

ISO_PART = r"(?:(\d+(?:[.,]\d+)?){})?"
ISO = re.compile(
    "([+-]?)P" + "".join(map(ISO_PART.format, "YMWD")) + "(?:T" + "".join(map(ISO_PART.format, "HMS")) + ")?"
)
"""A duration of ISO 8601, such as ``P1Y6M`` or ``PT12H``."""

ISO_SECONDS = (7 * 86400, 86400, 3600, 60, 1)

MONTHS = re.compile(r"([+-]?\d*) ?(?:(?:([YAQM])([SE]?)(?:(?<=[SE])-([A-Z]{3}))?)|(months?|mo|years?|yr|y))")
"""Months, quarters and years as numpy and pandas name them; of the latter's offsets, first and last days of them."""

UNIT_MONTHS = {"Y": 12, "A": 12, "Q": 3, "M": 1, "m": 1, "y": 12}

NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

NANOSECONDS = {
    "D": 86400 * 10**9,
    "h": 3600 * 10**9,
    "min": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}
"""Units in which a step that was found is told."""

WORDS = "Cannot append slice because this would result in an invalid step size"

GAP_BEFORE = "a slice is missing before it, or append_step is wrong"

GAP_WITHIN = "labels are missing in it, or append_step is wrong"

LABELS_WRONG = "its labels or append_step are wrong"


@dataclass(frozen=True)
class Step:
    """A step that labels must have: a number, nanoseconds or months; without any of them it is a mere direction.

    Attributes
    ----------
    text
        What the user wrote.
    sign
        1 or -1.
    number
        In units of the labels.
    nanoseconds
        Of times and durations.
    months
        Of times.
    edge
        On which day of the month labels must lie: the first (``S``), the last (``E``), or, empty, any.
    in_months
        In which months of the year labels must lie, from 0 on; empty for any.
    """

    text: str
    sign: int
    number: float | None = None
    nanoseconds: int | None = None
    months: int | None = None
    edge: str = ""
    in_months: frozenset[int] = frozenset()


@lru_cache(maxsize=16)
def parse_step(step: str | float | None) -> Step | None:
    """Return what the setting ``append_step`` says, ``None`` if it is not set or ``any``.

    Durations are those of ISO 8601 and of pandas. Of one letter, ``M`` are months and ``m`` minutes, as in numpy;
    ``MS``, ``ME``, ``QS-DEC`` and the like are the offsets of pandas.

    Raises
    ------
    UsageError
        If it is nothing of that, or no step at all.
    """
    if step is None or step == "any":
        return None
    if step in ("+", "-"):
        return Step(str(step), 1 if step == "+" else -1)
    text = str(step).strip()
    try:
        number = float(text)
    except ValueError:
        found = _months(text) or _iso(text) or _duration(text)
    else:
        found = Step(text, _sign(number), number=number) if np.isfinite(number) else None
    if found is None:
        raise UsageError(
            f"append_step must be a number, a duration such as '1D', '-12h', '1M' or 'P1Y', '+', '-' or 'any', "
            f"not {step!r}"
        )
    if not found.sign:
        raise UsageError(f"append_step must be a step other than zero, not {step!r}")
    return found


def _sign(number: float | Fraction) -> int:
    return (number > 0) - (number < 0)


def _months(text: str) -> Step | None:
    match = MONTHS.fullmatch(text)
    if match is None:
        return None
    count, unit, edge, anchor, word = match.groups()
    length = UNIT_MONTHS[unit or word[0]]
    if anchor and (anchor not in NAMES or length == 1):
        return None
    months = length * int(f"{count}1" if count in ("", "+", "-") else count)
    first = NAMES.index(anchor or ("DEC" if edge == "E" else "JAN"))
    in_months = frozenset(range(first % length, 12, length)) if edge and length > 1 else frozenset()
    return Step(text, _sign(months), months=months, edge=edge or "", in_months=in_months)


def _iso(text: str) -> Step | None:
    match = ISO.fullmatch(text)
    if match is None or text[-1] in "PT":
        return None
    sign = -1 if match[1] == "-" else 1
    years, months, *others = (Fraction((part or "0").replace(",", ".")) for part in match.groups()[1:])
    total = 12 * years + months
    nanoseconds = sum(part * seconds for part, seconds in zip(others, ISO_SECONDS, strict=True)) * 10**9
    if total and nanoseconds:
        raise UsageError(f"append_step {text!r} has months as well as days, and one step can have only one of them")
    if total.denominator > 1 or nanoseconds.denominator > 1:
        raise UsageError(f"append_step {text!r} is no whole number of months or of nanoseconds")
    if total:
        return Step(text, sign, months=sign * int(total))
    return Step(text, sign * _sign(nanoseconds), nanoseconds=sign * int(nanoseconds))


def _duration(text: str) -> Step | None:
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of spellings that are going to change, such as 1H
            duration = pd.Timedelta(f"1{text}" if text.isalpha() else text)
        if duration is pd.NaT:
            return None
        nanoseconds = duration.as_unit("ns").value
    except (ValueError, pd.errors.OutOfBoundsTimedelta):
        return None
    return Step(text, _sign(nanoseconds), nanoseconds=nanoseconds)


# Checking.


def step_fault(labels: Block, tail: Block, encoding: Encoding, step: Step) -> str | None:
    """Return where labels do not have the step, how far they are apart, and what to do; ``None`` if they have it.

    Parameters
    ----------
    labels
        Stored labels of the slice, sorted in the direction of `step`.
    tail
        The last labels of the cube, stored, of which the last one is followed by `labels`.
    encoding
        How both are stored.
    step
        What the user asks for.
    """
    fault = None
    try:
        if step.months is not None:
            fault = _months_fault(labels, tail, encoding, step)
        elif step.number is not None or step.nanoseconds is not None:
            fault = _distance_fault(labels, tail[-1:], encoding, step)
    except EncodingError as error:
        fault = f"the step {step.text!r} cannot be checked: {error}"
    return fault and f"{fault}; append_step '{'+' if step.sign > 0 else '-'}' takes labels at any distance"


def _distance_fault(labels: Block, last: Block, encoding: Encoding, step: Step) -> str | None:
    joined = np.concatenate([last, labels])
    is_time = encoding.is_time or encoding.is_duration
    if step.nanoseconds is not None and not is_time:
        return f"labels are no times, so they cannot have the step {step.text!r}"
    if joined.dtype.kind not in ("iufmM" if step.nanoseconds is not None else "iuf"):
        return f"labels are no numbers, so they cannot have the step {step.text!r}"
    scale = Fraction((encoding.packing or (1.0, 0.0))[0])
    unit = encoding.unit_nanoseconds if step.nanoseconds is not None else 1
    wanted = Fraction(step.nanoseconds) if step.nanoseconds is not None else Fraction(step.number or 0)
    expected = wanted / (unit * scale)
    rounding = 0.0 if encoding.packing is None else 1e-6 * abs(float(expected))  # the factor itself is rounded
    if joined.dtype.kind == "f":
        distances = np.diff(joined.astype("f8"))
        rounding += 4 * float(np.finfo(joined.dtype).eps * np.abs(joined).max())
    else:
        # Labels are sorted, so what does not fit into 64 bits comes out with the wrong sign, and fits no step.
        whole = joined.view("i8") if joined.dtype.itemsize == 8 else joined.astype("i8")
        distances = np.diff(whole)
    if joined.dtype.kind == "f" or encoding.packing is not None:
        fits = np.isclose(distances, float(expected), rtol=1e-9, atol=rounding)
    elif expected.denominator > 1 or abs(expected) > np.iinfo("i8").max:
        fits = np.zeros(distances.shape, bool)
    else:
        fits = distances == int(expected)
    if fits.all():
        return None
    at = int(np.argmin(fits))
    found = float(distances[at]) if joined.dtype.kind == "f" else Fraction(int(distances[at]))
    if step.nanoseconds is None:
        text = f"{float(found * scale if isinstance(found, Fraction) else found * float(scale)):.6g}"
    else:
        text = _as_duration(round(Fraction(found) * unit * scale))
    count = float(Fraction(found) / expected)
    times = round(count) if abs(count - round(count)) * abs(expected) <= max(rounding, 1e-9 * abs(expected)) else 0
    cause = LABELS_WRONG if count < 1 else GAP_BEFORE if at < len(last) else GAP_WITHIN
    return _fault(joined[at], joined[at + 1], encoding, step, text, times, cause)


def _fault(before: Any, label: Any, encoding: Encoding, step: Step, found: str, times: int, cause: str) -> str:
    """Return the sentence; `times` is how many steps fit between the labels, 0 if no whole number of them does."""
    gap = f": {times - 1} label{'s are' if times > 2 else ' is'} missing between them" if times > 1 else ""
    return (
        f"{WORDS}: the step from {show(before, encoding)} to {show(label, encoding)} is {found}, not {step.text}{gap}; "
        f"{cause}"
    )


def _as_duration(nanoseconds: int) -> str:
    """Return a duration as ``append_step`` could have it, such as ``1D12h``."""
    parts, rest = [], abs(nanoseconds)
    for name, length in NANOSECONDS.items():
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{name}")
    return ("-" if nanoseconds < 0 else "") + ("".join(parts) or "0s")


# Months, by the calendar.


@dataclass(frozen=True)
class _Date:
    """One label: its month, counted through; its day, from 1 on; how many the month has; nanoseconds of that day."""

    month: int
    day: int
    length: int
    time: int

    @property
    def days(self) -> range:
        """The days of the month that this one can stand for, in a longer month."""
        return range(self.day, 32 if self.day == self.length else self.day + 1)


def _months_fault(labels: Block, tail: Block, encoding: Encoding, step: Step) -> str | None:
    if not encoding.is_time:
        return f"labels are no times, so they cannot have the step {step.text!r}"
    stored = np.concatenate([tail, labels])
    times = _rounded(decode(stored, encoding), stored, encoding)
    dates = [_date(time) for time in times]
    months = step.months or 0
    days = range(1, 32)
    if len(tail) > 1 and dates[1].month - dates[0].month == months:
        days = dates[0].days  # which tells more of the day than one short month does
    for at in range(len(tail), len(dates)):
        if why := _edge_fault(dates[at], step):
            return f"label {show(stored[at], encoding)} {why}, as {step.text!r} has it"
    for at in range(max(len(tail) - 1, 0), len(dates)):
        date = dates[at]
        common = _common(days, date.days)
        if at < len(tail) or at == 0:
            days = common or date.days
            continue
        before = dates[at - 1]
        distance = date.month - before.month
        alike = bool(common) and date.time == before.time
        if alike and distance == months:
            days = common
            continue
        count, rest = divmod(distance, months) if alike else (0, 0)
        found = (
            f"{distance} month{'s' if abs(distance) > 1 else ''}"
            if alike
            else _as_duration(_nanoseconds(times[at] - times[at - 1]))
        )
        cause = LABELS_WRONG if abs(distance) <= abs(months) else GAP_BEFORE if at == len(tail) else GAP_WITHIN
        return _fault(stored[at - 1], stored[at], encoding, step, found, 0 if rest else count, cause)
    return None


def _common(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _edge_fault(date: _Date, step: Step) -> str | None:
    if step.in_months and date.month % 12 not in step.in_months:
        return "does not lie in " + ", ".join(NAMES[month] for month in sorted(step.in_months))
    if step.edge and date.day != (1 if step.edge == "S" else date.length):
        return f"is not the {'first' if step.edge == 'S' else 'last'} day of its month"
    return None


def _rounded(times: Block, stored: Block, encoding: Encoding) -> Block:
    """Return times that were stored as floats without what these have lost, which may be a second or an hour."""
    if stored.dtype.kind != "f":
        return times
    lost = 4 * float(np.finfo(stored.dtype).eps * np.abs(stored).max()) * abs((encoding.packing or (1.0, 0.0))[0])
    seconds = next(unit for unit in (1, 60, 3600, 86400) if unit == 86400 or lost * _unit(encoding) < unit * 5 * 10**8)
    if times.dtype.kind == "M":
        half = np.timedelta64(seconds * 500, "ms")
        later = times.astype("M8[ms]") + half
        rounded: Block = later - (later.astype("i8") % (seconds * 1000)).astype("m8[ms]")
        return rounded
    out = np.empty(times.shape, object)
    for i, time in enumerate(times):
        later = time + timedelta(seconds=seconds / 2)
        second = (later.hour * 60 + later.minute) * 60 + later.second
        out[i] = later - timedelta(seconds=second % seconds, microseconds=later.microsecond)
    return out


def _unit(encoding: Encoding) -> int:
    try:
        return encoding.unit_nanoseconds
    except EncodingError:
        return 30 * NANOSECONDS["D"]  # about a month


def _date(time: Any) -> _Date:
    """Return a time of NumPy or cftime, taken apart."""
    if isinstance(time, np.datetime64):
        month, day = time.astype("M8[M]"), time.astype("M8[D]")
        first, end = month.astype("M8[D]"), (month + np.timedelta64(1, "M")).astype("M8[D]")
        return _Date(
            int(month.astype("i8")),
            int((day - first).astype("i8")) + 1,
            int((end - first).astype("i8")),
            _nanoseconds(time - day),
        )
    seconds = (time.hour * 60 + time.minute) * 60 + time.second
    over = seconds * 10**9 + time.microsecond * 10**3
    return _Date(12 * time.year + time.month - 1, time.day, time.daysinmonth, over)


def _nanoseconds(duration: timedelta | np.timedelta64) -> int:
    if isinstance(duration, np.timedelta64):
        return int(duration.astype("m8[ns]").astype("i8"))
    return round(duration.total_seconds() * 10**6) * 10**3
