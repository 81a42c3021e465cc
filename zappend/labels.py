"""Whether the labels of a slice may follow those of the cube, and at which step. Pure.

Labels are compared as they are stored: under one encoding, stored numbers are in the order of what they mean, or, with
a negative scale factor, in the opposite one.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from zappend.encoding import Block, Encoding, EncodingError, is_missing, show
from zappend.errors import UsageError

__all__ = ["Step", "check_labels", "parse_step"]


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


def check_labels(labels: Block, tail: Block, encoding: Encoding, step: Step | None) -> str | None:
    """Return why `labels` may not follow, or ``None`` if they may.

    Parameters
    ----------
    labels
        Stored labels of the slice, at least one.
    tail
        The last labels of the cube, stored: two, or as many as there are.
    encoding
        How both are stored.
    step
        What the user asks for.
    """
    fill = encoding.attrs.get("_FillValue")
    missing = is_missing(labels) | ((labels == fill) if fill is not None else False)
    if str(encoding.attrs.get("_Unsigned", "")).lower() == "true" and labels.dtype.kind == "i":
        unsigned = f"u{labels.dtype.itemsize}"
        return check_labels(labels.view(unsigned), tail.view(unsigned), replace(encoding, attrs={}), step)
    if missing.any():
        return f"label {int(np.argmax(missing))} is missing: it is NaN, NaT or the fill value"
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
            expected = Fraction(step.nanoseconds, encoding.unit_nanoseconds)
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
        scale = float(encoding.attrs.get("scale_factor", 1))
        fits = np.isclose(np.diff(joined.astype("f8")) * scale, float(step.number or 0), rtol=1e-9, atol=0)
    if fits.all():
        return None
    at = int(np.argmin(fits))
    before, label = show(joined[at], encoding), show(joined[at + 1], encoding)
    return f"the step from {before} to {label} is not {step.text}"
