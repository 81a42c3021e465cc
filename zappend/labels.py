"""Whether the labels of a slice are in order, and may follow those of the cube, and at which step. Pure.

Labels are compared as they are stored: under one encoding, stored numbers are in the order of what they mean, or, with
a negative scale factor, in the opposite one.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np

from zappend.datatypes import Block
from zappend.encoding import Encoding, show
from zappend.errors import UsageError
from zappend.exact import EncodingError
from zappend.kinds import is_missing

__all__ = ["Step", "check_labels", "label_faults", "parse_step"]


class Step:
    """A step that labels must have: `number` in units of the labels, or `nanoseconds` for times; or a mere direction.

    Attributes
    ----------
    sign
        1 or -1.
    text
        What the user wrote.
    """

    def __init__(self, text: str, sign: int, number: float | None = None, nanoseconds: int | None = None) -> None:
        self.text = text
        self.sign = sign
        self.number = number
        self.nanoseconds = nanoseconds


@lru_cache(maxsize=16)
def parse_step(step: str | float | None) -> Step | None:
    """Return what the setting ``append_step`` says, ``None`` if it is not set or ``any``.

    Raises
    ------
    UsageError
        If it is neither a number nor a duration that pandas understands, such as ``1D``, ``-12h`` or ``P1D``.
    """
    import pandas as pd

    if step is None or step == "any":
        return None
    if step in ("+", "-"):
        return Step(str(step), 1 if step == "+" else -1)
    try:
        number = float(step)
    except ValueError:
        pass
    else:
        if number == 0 or not np.isfinite(number):
            raise UsageError(f"append_step must be a step other than zero, not {step!r}")
        return Step(str(step), 1 if number > 0 else -1, number=number)
    text = str(step)
    try:
        duration = pd.Timedelta(text)
        if duration is pd.NaT:
            raise ValueError(text)
        nanoseconds = duration.as_unit("ns").value
    except (ValueError, pd.errors.OutOfBoundsTimedelta):
        raise UsageError(
            f"append_step must be a number, a duration such as '1D' or '-12h', '+', '-' or 'any', not {step!r}"
        ) from None
    if nanoseconds == 0:
        raise UsageError(f"append_step must be a step other than zero, not {step!r}")
    return Step(text, 1 if nanoseconds > 0 else -1, nanoseconds=nanoseconds)


def label_faults(labels: Block, encoding: Encoding) -> list[str]:
    """Return what is wrong with the labels of a slice whatever they follow: missing, repeated, or without an order.

    Parameters
    ----------
    labels
        As they are in the slice, at least one.
    encoding
        How they are stored there; one without attributes if they are decoded.
    """
    missing = is_missing(labels)
    for name in ("_FillValue", "missing_value"):
        if (mask := encoding.attrs.get(name)) is not None:
            missing |= np.isin(labels, np.asarray(mask))
    if labels.dtype.kind == "i" and labels.dtype.itemsize == 8 and (encoding.is_time or encoding.is_duration):
        missing |= labels == np.iinfo(labels.dtype).min  # xarray's NaT, which needs no fill value
    if missing.any():
        more = int(np.count_nonzero(missing)) - 1
        others = f" (and {more} more)" if more else ""
        return [f"label {int(np.argmax(missing))}{others} is missing: it is NaN, NaT or the fill value"]
    if len(labels) == 1:
        return []
    faults = []
    numbers = _as_meant(labels, encoding)
    order = np.argsort(numbers, kind="stable")
    equal = numbers[order][1:] == numbers[order][:-1]
    if equal.any():
        at = int(np.argmax(equal))
        label = show(labels[order[at]], encoding)
        faults.append(f"label {label} is repeated, at index [{order[at]}] and [{order[at + 1]}]")
    rising, falling = numbers[1:] > numbers[:-1], numbers[1:] < numbers[:-1]
    if rising.any() and falling.any():
        wrong = falling if numbers[0] < numbers[-1] else rising
        at = int(np.argmax(wrong))
        before, label = show(labels[at], encoding), show(labels[at + 1], encoding)
        faults.append(f"labels are not sorted: {label} follows {before} at index [{at + 1}]")
    return faults


def _as_meant(stored: Block, encoding: Encoding) -> Block:
    """Return stored numbers in the order of what they mean."""
    return stored if encoding.other_sign is None else stored.view(encoding.other_sign)


def check_labels(labels: Block, tail: Block, encoding: Encoding, step: Step | None) -> str | None:
    """Return why `labels` may not follow, or ``None`` if they may.

    Parameters
    ----------
    labels
        Stored labels of the slice, at least one, none of them missing.
    tail
        The last labels of the cube, stored: two, or as many as there are.
    encoding
        How both are stored.
    step
        What the user asks for.
    """
    labels, tail = _as_meant(labels, encoding), _as_meant(tail, encoding)
    joined = np.concatenate([tail[-1:], labels])
    scale = encoding.attrs.get("scale_factor")
    stored_sign = -1 if scale is not None and float(scale) < 0 else 1
    if step is not None:
        sign = step.sign
    elif len(tail) >= 2:
        falling = tail[-1] < tail[-2] if stored_sign > 0 else tail[-1] > tail[-2]
        sign = -1 if falling else 1
    else:
        sign = 1
    up = sign * stored_sign > 0
    rising = joined[1:] > joined[:-1] if up else joined[1:] < joined[:-1]
    if not rising.all():
        at = int(np.argmin(rising))
        before, label = show(joined[at], encoding), show(joined[at + 1], encoding)
        where = "the last label of the cube" if at == 0 and len(tail) else "the label before it"
        order = "after" if sign > 0 else "before, since labels descend,"
        return f"label {label} is not {order} {where}, {before}"
    if step is not None:
        return _check_step(joined, encoding, step)
    return None


def _check_step(joined: Block, encoding: Encoding, step: Step) -> str | None:
    if len(joined) < 2 or (step.number is None and step.nanoseconds is None):
        return None
    if step.nanoseconds is not None and joined.dtype.kind in "mM":
        fits = np.diff(joined) == np.timedelta64(step.nanoseconds, "ns")
    elif step.nanoseconds is not None:
        if not encoding.is_time and not encoding.is_duration:
            return f"labels are no times, so they cannot have the step {step.text!r}"
        try:
            scale, _ = encoding.packing or (1.0, 0.0)
            expected = Fraction(step.nanoseconds, encoding.unit_nanoseconds) / Fraction(scale)
        except EncodingError as error:
            return f"the step {step.text!r} cannot be checked: {error}"
        if joined.dtype.kind == "f":
            rounding = 4 * np.finfo(joined.dtype).eps * np.abs(joined).max()
            fits = np.isclose(np.diff(joined), float(expected), rtol=0, atol=rounding)
        else:
            deltas = [Fraction(b - a) for a, b in zip(joined[:-1].tolist(), joined[1:].tolist(), strict=True)]
            fits = np.array([delta == expected for delta in deltas])
    else:
        if joined.dtype.kind not in "iuf":
            return f"labels are no numbers, so they cannot have the step {step.text!r}"
        scale, _ = encoding.packing or (1.0, 0.0)
        fits = np.isclose(np.diff(joined.astype("f8")) * scale, float(step.number or 0), rtol=1e-9, atol=0)
    if fits.all():
        return None
    at = int(np.argmin(fits))
    before, label = show(joined[at], encoding), show(joined[at + 1], encoding)
    return f"the step from {before} to {label} is not {step.text}"
