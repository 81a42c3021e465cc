"""The setting `append_step`: steps that labels have, and what is said of those that they do not have."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import cftime
import cubes
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import zappend
from zappend.errors import SliceError, UsageError

TIMES = {"units": "hours since 2000-01-01", "dtype": "i8"}


def one(*labels: Any, encoding: dict[str, Any] | None = None) -> xr.Dataset:
    if isinstance(labels[0], str):
        labels = tuple(np.datetime64(label, "ns") for label in labels)
    dataset = xr.Dataset({"a": ("time", [1.0] * len(labels))}, {"time": list(labels)})
    dataset.time.encoding = encoding or {}
    return dataset


def refusal(labels: list[Any], step: Any, encoding: dict[str, Any] | None = None) -> str:
    """Return why the last of `labels` is refused, and assert that it changed nothing."""
    target: dict[str, bytes] = {}
    zappend.append(target, [one(label, encoding=encoding) for label in labels[:-1]], append_step=step)
    before = dict(target)
    with pytest.raises(SliceError) as caught:
        zappend.append(target, one(labels[-1]), append_step=step)
    assert target == before
    return str(caught.value)


FITTING: dict[str, tuple[list[Any], list[Any]]] = {
    "month ends": (["1M", "P1M", "ME", "1ME", "months", "1 month"], ["2024-01-31", "2024-02-29", "2024-03-31"]),
    "month starts": (["1M", "MS", "P0Y1M0D"], ["2023-12-01T06", "2024-01-01T06", "2024-02-01T06"]),
    "the 30th": (["1M"], ["2023-01-30", "2023-02-28", "2023-03-30", "2023-04-30", "2023-05-30"]),
    "days of leap years": (["1Y", "P1Y", "P12M", "12M"], ["2020-02-29", "2021-02-28", "2022-02-28"]),
    "years": (["1Y", "YS", "1 year", "A"], ["2023-01-01", "2024-01-01", "2025-01-01"]),
    "eighteen months": (["P1Y6M", "18M"], ["2023-01-31", "2024-07-31", "2026-01-31"]),
    "seasons": (["QS-DEC", "3M", "P3M", "1Q"], ["2023-12-01", "2024-03-01", "2024-06-01"]),
    "down by months": (["-1M", "-P1M", "-ME"], ["2024-03-31", "2024-02-29", "2024-01-31"]),
    "minutes": (["1m", "1min", "PT1M", "60s", "PT60S"], ["2024-01-31", "2024-01-31T00:01", "2024-01-31T00:02"]),
    "weeks": (["7D", "P1W", "P7D", "1W"], ["2024-02-26", "2024-03-04", "2024-03-11"]),
    "half days": (["12h", "P0.5D", "PT12H", "+PT12H", "0.5D"], ["2024-02-28T12", "2024-02-29", "2024-02-29T12"]),
    "half days down": (["-12h", "-PT12H"], ["2024-02-29", "2024-02-28T12", "2024-02-28"]),
    "numbers": ([0.1, "0.1"], [0.1, 0.2, 0.30000000000000004]),
    "numbers down": ([-3, "-3.0"], [7, 4, 1]),
    "months of 30 days": (["1M", "P30D", "MS"], [cftime.Datetime360Day(2024, m, 1) for m in (1, 2, 3)]),
    "months of 360 days": (["P1M", "ME"], [cftime.Datetime360Day(2024, m, 30) for m in (1, 2, 3)]),
    "years without leap days": (["P1Y", "365D"], [cftime.DatetimeNoLeap(y, 2, 28, 12) for y in (2023, 2024, 2025)]),
    "months without leap days": (["ME", "1M"], [cftime.DatetimeNoLeap(2024, *d) for d in ((1, 31), (2, 28), (3, 31))]),
    "days without leap days": (["1D"], [cftime.DatetimeNoLeap(2024, *d) for d in ((2, 27), (2, 28), (3, 1))]),
}


@pytest.mark.effect("append_step")
@pytest.mark.parametrize(("labels", "step"), [(labels, step) for steps, labels in FITTING.values() for step in steps])
@pytest.mark.parametrize("at_once", [True, False])
def test_labels_that_have_the_step(labels: list[Any], step: Any, at_once: bool) -> None:
    target: dict[str, bytes] = {}
    zappend.append(target, [one(*labels)] if at_once else [one(label) for label in labels], append_step=step)
    np.testing.assert_array_equal(cubes.open_mapping(target).time.values, one(*labels).time.values)


WRONG = "Cannot append slice because this would result in an invalid step size: the step from "

REFUSED: dict[str, tuple[Any, list[Any], str]] = {
    "a gap of days": (
        "1D",
        ["2024-02-28", "2024-03-03"],
        f"{WRONG}2024-02-28T00:00:00 to 2024-03-03T00:00:00 is 4D, not 1D: 3 labels are missing between them",
    ),
    "a gap of a day down": (
        "-12h",
        ["2024-02-28", "2024-02-27"],
        f"{WRONG}2024-02-28T00:00:00 to 2024-02-27T00:00:00 is -1D, not -12h: 1 label is missing between them",
    ),
    "no whole number of steps": (
        "1D",
        ["2024-02-28", "2024-03-01T18"],
        f"{WRONG}2024-02-28T00:00:00 to 2024-03-01T18:00:00 is 2D18h, not 1D",
    ),
    "half a step": (
        "1D",
        ["2024-02-28", "2024-02-28T12"],
        f"{WRONG}2024-02-28T00:00:00 to 2024-02-28T12:00:00 is 12h, n",
    ),
    "a gap of months": (
        "P1M",
        ["2024-01-31", "2024-04-30"],
        f"{WRONG}2024-01-31T00:00:00 to 2024-04-30T00:00:00 is 3 months, not P1M: 2 labels are missing between them",
    ),
    "a gap of years": (
        "-1Y",
        ["2024-02-29", "2022-02-28"],
        f"{WRONG}2024-02-29T00:00:00 to 2022-02-28T00:00:00 is -24 months, not -1Y: 1 label is missing between them",
    ),
    "half a year": ("1Y", ["2024-01-31", "2024-07-31"], "is 6 months, not 1Y"),
    "a month of 30 days": ("1M", ["2024-01-01", "2024-01-31"], "is 30D, not 1M"),
    "another time of the day": ("1M", ["2024-01-01", "2024-02-01T12"], "is 31D12h, not 1M"),
    "not the end of a month": ("1M", ["2024-01-31", "2024-02-28"], "is 28D, not 1M"),
    "the end forgotten": ("1M", ["2024-01-31", "2024-02-29", "2024-03-29"], "is 29D, not 1M"),
    "not the first day": (
        "MS",
        ["2024-01-01", "2024-02-02"],
        "label 2024-02-02T00:00:00 is not the first day of its mo",
    ),
    "not the last day": ("ME", ["2024-01-31", "2024-02-28"], "is not the last day of its month, as 'ME' has it"),
    "no quarter": ("QE", ["2024-03-31", "2024-07-31"], "does not lie in MAR, JUN, SEP, DEC, as 'QE' has it"),
    "a gap of numbers": (2, [1, 9], f"{WRONG}1 to 9 is 8, not 2: 3 labels are missing between them"),
    "a gap of fractions": ("0.1", [1.0, 1.3], f"{WRONG}1.0 to 1.3 is 0.3, not 0.1: 2 labels are missing between them"),
    "fractions of whole numbers": (0.5, [1, 2], "is 1, not 0.5: 1 label is missing"),
    "large numbers": (1, [2**60, 2**60 + 2], "is 2, not 1: 1 label is missing"),
    "a gap of 360-day months": (
        "1M",
        [cftime.Datetime360Day(2024, 1, 30), cftime.Datetime360Day(2024, 4, 30)],
        "is 3 months, not 1M: 2 labels are missing",
    ),
    "a day of another calendar": (
        "1M",
        [cftime.DatetimeNoLeap(2024, 1, 31), cftime.DatetimeNoLeap(2024, 2, 27)],
        "is 27D, not 1M",
    ),
    "not up": (
        "+",
        [2, 1],
        "Cannot append slice because labels must be monotonically increasing: label 1 is not after the",
    ),
    "not down": (
        "-",
        [1, 2],
        "Cannot append slice because labels must be monotonically decreasing: label 2 is not before",
    ),
    "months not up": ("1M", ["2024-02-01", "2024-01-01"], "labels must be monotonically increasing: label 2024-01-01T"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_do_not_have_the_step(case: str) -> None:
    step, labels, message = REFUSED[case]
    assert message in refusal(labels, step)


def test_the_gap_may_lie_inside_a_slice() -> None:
    target: dict[str, bytes] = {}
    with pytest.raises(
        SliceError, match=r"from 2024-02-01T00:00:00 to 2024-04-01T00:00:00 is 2 months, not 1M: 1 label"
    ):
        zappend.append(target, one("2024-01-01", "2024-02-01", "2024-04-01"), append_step="1M")
    assert not target


@pytest.mark.parametrize(
    ("label", "step", "kind"),
    [(1, "P1M", "times"), (1, "1h", "times"), ("2024-01-01x", 1, "numbers"), (np.timedelta64(1, "h"), "1M", "times")],
)
def test_labels_that_can_have_no_such_step(label: Any, step: Any, kind: str) -> None:
    target: dict[str, bytes] = {}
    labels = np.array([label], object) if kind == "numbers" else [label]
    with pytest.raises(SliceError, match=f"labels are no {kind}, so they cannot have the step '{step}'"):
        zappend.append(target, xr.Dataset({"a": ("time", [1.0])}, {"time": labels}), append_step=step)
    assert not target


@pytest.mark.parametrize("step", ["+", "-", "1D", "P1M", 1, None])
def test_without_labels_only_any_goes(step: Any) -> None:
    bare = xr.Dataset({"a": ("time", [1.0])})
    target: dict[str, bytes] = {}
    with pytest.raises(SliceError, match="has no coordinate 'time', so its order cannot be checked; append_step 'any'"):
        zappend.append(target, bare, append_step=step)
    assert zappend.append(target, [bare, bare], append_step="any") == 2
    before = dict(target)
    with pytest.raises(SliceError, match="has no coordinate 'time', so its order cannot be checked; append_step 'any'"):
        zappend.append(target, bare, append_step=step)
    assert target == before


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("1MD", "append_step must be a number, a duration such as '1D', '-12h', '1M' or 'P1Y'"),
        ("P", "append_step must be a number"),
        ("PT", "append_step must be a number"),
        ("MS-DEC", "append_step must be a number"),
        ("QS-ABC", "append_step must be a number"),
        ("0M", "append_step must be a step other than zero, not '0M'"),
        ("P0Y", "append_step must be a step other than zero"),
        ("P1M1D", "append_step 'P1M1D' has months as well as days"),
        ("P0.1M", "append_step 'P0.1M' is no whole number of months"),
    ],
)
def test_steps_that_are_none(step: str, message: str) -> None:
    target: dict[str, bytes] = {}
    with pytest.raises(UsageError, match=message):
        zappend.append(target, one(1), append_step=step)
    assert not target


@pytest.mark.parametrize(
    ("step", "labels", "message"),
    [
        (
            "12h",
            ["2024-01-01", "2024-01-02"],
            "a slice is missing before it, or append_step is wrong; append_step '+'",
        ),
        (
            "-1D",
            ["2024-01-03", "2024-01-01"],
            "a slice is missing before it, or append_step is wrong; append_step '-'",
        ),
        (
            "1M",
            ["2024-01-01", "2024-03-01"],
            "a slice is missing before it, or append_step is wrong; append_step '+'",
        ),
        (
            "2D",
            ["2024-01-01", "2024-01-02"],
            "its labels or append_step are wrong; append_step '+' takes labels",
        ),
        (
            "1Y",
            ["2024-01-01", "2024-02-01"],
            "its labels or append_step are wrong; append_step '+' takes labels",
        ),
    ],
)
def test_the_way_out_of_a_wrong_step_keeps_the_order(step: str, labels: list[Any], message: str) -> None:
    assert message in refusal(labels, step)
    assert zappend.append({}, [one(label) for label in labels], append_step=message.partition("append_step '")[2][0])


def test_labels_that_a_slice_lacks() -> None:
    with pytest.raises(SliceError, match="not 1D: 1 label is missing between them; labels are missing in it, or"):
        zappend.append({}, one("2024-01-01", "2024-01-03"), append_step="1D")


@settings(max_examples=60)
@given(
    start=st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    months=st.integers(1, 30),
    count=st.integers(1, 9),
    parts=st.integers(1, 3),
    missing=st.integers(0, 8),
    encoding=st.sampled_from(
        [{"units": "microseconds since 1970-01-01"}, {"units": "days since 1900-01-01", "dtype": "f8"}]
    ),
)
def test_months_as_pandas_counts_them(
    start: datetime, months: int, count: int, parts: int, missing: int, encoding: dict[str, Any]
) -> None:
    """Labels that begin anywhere, and are as many months later as is said, fit; without one of them they do not."""
    if "dtype" in encoding:
        start = start.replace(minute=0, second=0, microsecond=0)
    labels = [pd.Timestamp(start) + pd.DateOffset(months=months * i) for i in range(count + 2)]

    def append(labels: list[pd.Timestamp]) -> int:
        slices = [labels[i : i + parts] for i in range(0, len(labels), parts)]
        made = [one(*(label.to_datetime64() for label in part), encoding=encoding) for part in slices]
        return int(zappend.append({}, made, append_step=f"P{months}M", slice_size="any"))

    assert append(labels) == -(-len(labels) // parts)
    left_out = 1 + missing % count
    with pytest.raises(SliceError, match=rf"is {2 * months} months, not P{months}M: 1 label is missing between them"):
        append(labels[:left_out] + labels[left_out + 1 :])


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day", "julian"])
@pytest.mark.parametrize("units", ["hours since 1850-01-01", "days since 1850-01-01"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_floats_lose_less_than_a_month(calendar: str, units: str, dtype: str) -> None:
    labels = [cftime.datetime(2001 + i // 12, 1 + i % 12, 15, 12, calendar=calendar) for i in range(20)]
    numbers = np.asarray(cftime.date2num(labels, units, calendar), dtype)

    def month(i: int) -> xr.Dataset:
        attrs = {"units": units, "calendar": calendar}
        return xr.Dataset({"a": ("time", [1.0])}, {"time": ("time", numbers[i : i + 1], attrs)})

    target: dict[str, bytes] = {}
    assert zappend.append(target, [month(i) for i in range(15)], append_step="1M") == 15
    with pytest.raises(SliceError, match="is 2 months, not 1M: 1 label is missing"):
        zappend.append(target, month(16), append_step="1M")


def test_months_as_units_of_time() -> None:
    def month(i: int) -> xr.Dataset:
        attrs = {"units": "months since 2000-01-01", "calendar": "360_day"}
        return xr.Dataset({"a": ("time", [1.0])}, {"time": ("time", [i], attrs)})

    target: dict[str, bytes] = {}
    zappend.append(target, [month(1), month(2)], append_step="1M")
    with pytest.raises(SliceError, match="is 2 months, not 1M"):
        zappend.append(target, month(4), append_step="1M")


def test_the_day_of_the_month_is_that_of_both_last_labels() -> None:
    """29 February alone may be the 29th, 30th or 31st; in a cube that was irregular before, it is alone."""
    assert "is 30D, not 1M" in refusal(["2024-01-31", "2024-02-29", "2024-03-30"], "1M")
    target: dict[str, bytes] = {}
    zappend.append(target, [one("2024-02-07"), one("2024-02-29")])
    assert zappend.append(target, [one("2024-03-30"), one("2024-04-30")], append_step="1M") == 2


def test_packed_labels() -> None:
    """A scale factor, also a negative one, and one that is rounded, changes nothing of the step."""
    for scale in (0.1, -0.1, float(np.float32(0.1))):
        encoding = {"dtype": "i4", "scale_factor": scale}

        def level(i: int, encoding: dict[str, Any] = encoding) -> xr.Dataset:
            dataset = xr.Dataset({"a": ("z", [1.0])}, {"z": [i * abs(encoding["scale_factor"])]})
            dataset.z.encoding = encoding
            return dataset

        target: dict[str, bytes] = {}
        zappend.append(target, [level(5), level(10)], append_dim="z", append_step=0.5)
        with pytest.raises(SliceError, match=r"is 1, not 0.5: 1 label is missing between them"):
            zappend.append(target, level(20), append_dim="z", append_step=0.5)
