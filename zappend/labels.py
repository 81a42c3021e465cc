"""Whether the labels of a slice are in order, and may follow those of the cube. Pure.

Labels are compared as they are stored: under one encoding, stored numbers are in the order of what they mean, or, with
a negative scale factor, in the opposite one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zappend.datatypes import Block
from zappend.encoding import Encoding, show
from zappend.exact import EncodingError
from zappend.kinds import is_missing
from zappend.settings import Settings
from zappend.slices import Slice
from zappend.steps import Step, parse_step, step_fault

__all__ = ["as_meant", "check_labels", "following_labels", "label_faults", "left_out"]


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


def _fault(
    labels: Block, tail: Block, encoding: Encoding, step: Step | None, all_labels: Callable[[], Block]
) -> str | None:
    """Return why `labels` may not follow, and what is to be done; ``None`` if they may.

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
    all_labels
        Reads all labels of the cube, stored; called only if these may not follow.
    """
    fault = check_labels(labels, tail, encoding, step)
    return fault and (_repetition(labels, all_labels(), encoding) or fault)


def _repetition(labels: Block, there: Block, encoding: Encoding) -> str | None:
    """Return which `labels` are among those `there`, the cube's; ``None`` if none is."""
    repeated = np.isin(labels, there)
    count = int(np.count_nonzero(repeated))
    if not count:
        return None
    first = labels[int(np.argmax(repeated))]
    label, at = show(first, encoding), int(np.argmax(there == first))
    if len(labels) == 1:
        return (
            f"its label {label} is in the cube already, at index {at}; if_exists 'skip' leaves such slices out, "
            f"'replace' writes them again"
        )
    if count == len(labels):
        return (
            f"its {count} labels are in the cube already, the first, {label}, at index {at}; if_exists 'skip' leaves "
            f"such slices out, 'replace' writes them again"
        )
    return (
        f"{count} of its {len(labels)} labels {'is' if count == 1 else 'are'} in the cube already, the first, {label}, "
        f"at index {at}; take out of the slice what is in"
    )


def check_labels(labels: Block, tail: Block, encoding: Encoding, step: Step | None) -> str | None:
    """Return where `labels` are not in order behind `tail`, or do not have the step; ``None``: nowhere."""
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
        is_first = at == 0 and len(tail) > 0
        where = "the last label of the cube" if is_first else "the label before it"
        order = "after" if sign > 0 else "before, since labels descend,"
        may_descend = step is None and len(tail) < 2 and not (rising | (joined[1:] == joined[:-1])).any()
        ways = [
            *([] if is_first else ["sort them"]),
            *(["append_step '-' takes labels that descend"] if may_descend else []),
            *(["if_earlier 'insert' puts it where it belongs"] if is_first else []),
            "append_step 'any' appends it out of order",
        ]
        return (
            f"Cannot append slice because labels must be monotonically {'in' if sign > 0 else 'de'}creasing: label "
            f"{label} is not {order} {where}, {before}; {', or '.join(ways)}"
        )
    return None if step is None else step_fault(labels, tail, encoding, step)


def following_labels(
    new: Slice,
    settings: Settings,
    encoding: Encoding | None,
    tail: Block | None,
    all_labels: Callable[[], Block] | None = None,
) -> tuple[Block | None, list[str]]:
    """Return the labels of the slice as they are stored, and why they may not follow `tail`, the last ones of the cube.

    Where they may be any, or cannot be stored, there are none. `all_labels` reads those of the cube, if there is one.
    """
    step = parse_step(settings.append_step)
    if settings.append_step == "any":
        return None, []
    labels = new.labelled(settings.append_dim)
    if labels is None or encoding is None:
        dim = settings.append_dim
        why = f"it has no coordinate {dim!r}, so its order cannot be checked"
        # A cube that has none cannot be given some.
        hint = left_out(dim, settings) if all_labels is None else None
        return None, [hint or f"{why}; append_step 'any' appends it unchecked"]
    try:
        stored = labels.stored(encoding)
    except EncodingError as error:
        return None, [f"variable {labels.name!r}: {error}"]
    nothing = stored[:0]
    tail = nothing if tail is None else tail
    fault = _fault(stored, tail, encoding, step, all_labels or (lambda: nothing))
    return stored, [fault] if fault else []


def left_out(name: str, settings: Settings) -> str | None:
    """Return what to change if settings leave out the variable that labels the slice."""
    if settings.takes(name):
        return None
    if not Settings(excluded_variables=settings.excluded_variables).takes(name):
        return f"excluded_variables leaves out {name!r}, the labels; let it in"
    return f"included_variables leaves out {name!r}, the labels; add it"
