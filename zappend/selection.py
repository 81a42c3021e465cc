"""Which rows of a cube a user means: by labels, by an interval of labels, by index, or the last ones. Pure.

Labels are what xarray makes of the stored ones. Text stands for a time as in xarray's ``sel``: ``2024-01-05`` for the
whole day, ``2024-01`` for the month.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zappend.datatypes import Block
from zappend.errors import UsageError
from zappend.steps import Step, parse_step

__all__ = ["Selection", "count_of_last", "first_of_last"]

INDEX = re.compile(r"\s*(?:(-?\d+)|(-?\d+)?:(-?\d+)?)\s*")

OPEN = ("", "..")
"""An end of an interval that is open."""


@dataclass(frozen=True)
class Selection:
    """Rows that are meant; one of the three is given.

    Attributes
    ----------
    labels
        Labels, or one of them: text, numbers, times.
    where
        An interval of ISO 8601, such as ``2024-01-01/2024-01-31``, to which both ends belong; an open one is ``..``.
    index
        Places, or one of them: numbers, from the end if they are negative, `slice` objects, or text of either, such as
        ``3:7``.
    """

    labels: Any = None
    where: Any = None
    index: Any = None

    def check(self) -> None:
        """Raise `UsageError` unless one of the three is given."""
        given = [name for name in ("labels", "where", "index") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"give one of labels, where and index, by which rows are selected, not {' and '.join(given) or 'none'}"
            )

    @property
    def needs_labels(self) -> bool:
        """Whether rows are selected by labels."""
        return self.index is None

    def rows(self, labels: Block | None, size: int) -> list[int]:
        """Return the rows that are meant, in order, at least one.

        Parameters
        ----------
        labels
            The labels of the cube, decoded; ``None`` if it has none, which goes for `index` alone.
        size
            How many rows there are.

        Raises
        ------
        UsageError
            If what is given cannot be understood, or one part of it means no row at all.
        """
        self.check()
        if self.index is not None:
            found = [row for one in _each(self.index) for row in _rows_at(one, size)]
        elif labels is None:
            raise UsageError("the target has no labels; its rows can be selected by index alone")
        else:
            index = _Index(labels)
            if self.where is not None:
                found = index.between(str(self.where))
            else:
                found = [row for one in _each(self.labels) for row in index.rows(one)]
        if not found:
            raise UsageError("no label is selected: there are none given")
        return sorted(set(found))


class _Index:
    """Labels in order, whatever order they have in the cube."""

    def __init__(self, labels: Block) -> None:
        import xarray as xr

        self._order = np.argsort(labels, kind="stable")
        self._sorted = labels[self._order]
        self._rows: xr.DataArray = xr.DataArray(self._order, {"label": self._sorted}, ("label",))

    def rows(self, label: Any) -> list[int]:
        """Return the rows that have the label, or those that lie in the time which it stands for."""
        return self._selected(self._meant(label), f"label {label!r}" if isinstance(label, str) else f"label {label}")

    def between(self, interval: str) -> list[int]:
        """Return the rows whose labels lie in an interval of ISO 8601."""
        ends = interval.split("/")
        if len(ends) != 2:
            raise UsageError(f"where must be an interval such as 2024-01-01/2024-01-31, not {interval!r}")
        first, last = (None if end.strip() in OPEN else self._meant(end.strip()) for end in ends)
        return self._selected(slice(first, last), f"interval {interval!r}")

    def _meant(self, label: Any) -> Any:
        """Return a label; text as a number where labels are numbers."""
        if not isinstance(label, str) or self._sorted.dtype.kind not in "iuf":
            return label
        for kind in (int, float):
            try:
                return kind(label)
            except ValueError:
                continue
        raise UsageError(f"label {label!r} is no number, and those of the target are")

    def _selected(self, key: Any, what: str) -> list[int]:
        try:
            found = np.atleast_1d(self._rows.sel(label=key).values).tolist()
        except (KeyError, IndexError):
            found = []
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(
                f"{what} cannot be compared with those of the target, such as {self._text(0)}: {error}"
            ) from None
        if not found:
            raise UsageError(
                f"{what}: the target has none such; its labels are from {self._text(0)} to {self._text(-1)}"
            )
        return [int(row) for row in found]

    def _text(self, at: int) -> str:
        label = self._sorted[at]
        return str(label.astype("M8[s]")) if isinstance(label, np.datetime64) else str(label)


def _each(given: Any) -> Sequence[Any]:
    if isinstance(given, (str, slice)) or not isinstance(given, Iterable):
        return [given]
    return list(given) if np.ndim(given) else [np.asarray(given)[()]]  # type: ignore[arg-type]


def _rows_at(given: Any, size: int) -> range:
    """Return the rows at one place, or at those of a slice."""
    if isinstance(given, str):
        match = INDEX.fullmatch(given)
        if match is None:
            raise UsageError(f"index must be such as 0, -1 or 3:7, not {given!r}")
        row, start, stop = (None if part is None else int(part) for part in match.groups())
        given = slice(start, stop) if row is None else row
    if isinstance(given, slice):
        try:
            rows = range(size)[given]
        except (TypeError, ValueError) as error:
            raise UsageError(f"index {given}: {error}") from None
        if not rows:
            raise UsageError(f"index {given.start}:{given.stop} has no label; the target has {size}")
        return rows
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)):
        raise UsageError(f"index must be such as 0, -1 or 3:7, not {given!r}")
    if not -size <= given < size:
        raise UsageError(f"index {given}: the target has {size} labels")
    return range(int(given) % size, int(given) % size + 1)


# The last ones.


def count_of_last(last: Any) -> int | Step:
    """Return how many labels ``last`` means, or in which time before the last one they lie.

    Raises
    ------
    UsageError
        If it is neither a count nor a duration.
    """
    words = f"must be a number of labels, at least 1, or a duration such as '30d', not {last!r}"
    is_number = isinstance(last, (int, np.integer)) and not isinstance(last, bool)
    if is_number or (isinstance(last, str) and last.strip().isdecimal()):
        count = int(last)
    elif isinstance(last, str) and last not in ("+", "-", "any"):
        try:
            step = parse_step(last)
        except UsageError:
            step = None
        if step is None or step.number is not None or step.edge or step.sign < 0:
            raise UsageError(f"the labels to keep {words}")
        return step
    else:
        count = 0
    if count < 1:
        raise UsageError(f"the labels to keep {words}")
    return count


def first_of_last(last: Any, labels: Block | None, size: int) -> int:
    """Return the first of the last rows that are meant: 0 if there are not more of them.

    Parameters
    ----------
    last
        How many; or a duration, such as ``30d``, for those whose labels are less than that from the last one.
    labels
        All labels, decoded; ``None`` if there are none.
    size
        How many rows there are.

    Raises
    ------
    UsageError
        If it is neither, or a duration of labels that are no times.
    """
    count = count_of_last(last)
    if isinstance(count, int):
        return max(size - count, 0)
    if labels is None or labels.dtype.kind not in "mMO":
        raise UsageError(f"labels are no times, so {last!r} says nothing of them; give a number of labels")
    end = labels[-1]
    if count.months is not None:
        edges = [_months_from(end, sign * count.months) for sign in (-1, 1)]
    else:
        edges = [_time_from(end, sign * (count.nanoseconds or 0)) for sign in (-1, 1)]
    try:
        outside = np.flatnonzero(np.asarray((labels <= edges[0]) | (labels >= edges[1])))
    except TypeError:
        raise UsageError(f"labels are no times, so {last!r} says nothing of them; give a number of labels") from None
    return int(outside[-1]) + 1 if outside.size else 0


def _time_from(time: Any, nanoseconds: int) -> Any:
    if isinstance(time, (np.datetime64, np.timedelta64)):
        return time + np.timedelta64(nanoseconds, "ns")
    from datetime import timedelta

    try:
        return time + timedelta(microseconds=nanoseconds // 1000)
    except TypeError:
        raise UsageError(f"labels such as {time!r} are no times; give a number of labels") from None


def _months_from(time: Any, months: int) -> Any:
    """Return the same time of a month before or after, of which the last day stands for those that it lacks."""
    if isinstance(time, np.datetime64):
        import pandas as pd

        moved = pd.Timestamp(time) + pd.DateOffset(months=months)
        return moved.to_datetime64()
    try:
        year, month = divmod(time.year * 12 + time.month - 1 + months, 12)
        first = time.replace(year=year, month=month + 1, day=1)
        return first.replace(day=min(time.day, first.daysinmonth))
    except (AttributeError, TypeError):
        raise UsageError(f"labels such as {time!r} are no dates, which have months; give a number of labels") from None
