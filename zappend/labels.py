"""Whether the labels of a slice are in order, and may follow those of the cube. Pure.

Labels are compared as they are stored: under one encoding, stored numbers are in the order of what they mean, or, with
a negative scale factor, in the opposite one.
"""

from __future__ import annotations

import numpy as np

from zappend.datatypes import Block
from zappend.encoding import Encoding, show
from zappend.kinds import is_missing
from zappend.steps import Step, step_fault

__all__ = ["as_meant", "check_labels", "label_faults"]


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
    numbers = as_meant(labels, encoding)
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


def as_meant(stored: Block, encoding: Encoding) -> Block:
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
    labels, tail = as_meant(labels, encoding), as_meant(tail, encoding)
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
        return (
            f"Cannot append slice because labels must be monotonically {'in' if sign > 0 else 'de'}creasing: label "
            f"{label} is not {order} {where}, {before}"
        )
    return None if step is None else step_fault(labels, tail, encoding, step)
