"""Where a slice belongs among the labels of a cube. Pure.

Labels are compared as they are stored, under the encoding of the cube.
"""

from __future__ import annotations

import numpy as np

from zappend.datatypes import Block
from zappend.encoding import Encoding, show
from zappend.labels import as_meant, check_labels
from zappend.steps import Step

__all__ = ["place_of", "place_to_insert"]


def place_of(labels: Block, there: Block, encoding: Encoding) -> tuple[int, str | None]:
    """Return the row of the cube from which on it has the labels of a slice, and why it has not.

    Parameters
    ----------
    labels
        Stored labels of the slice, at least one.
    there
        All stored labels of the cube.
    encoding
        How both are stored.
    """
    known = np.isin(labels, there)
    if not known.all():
        first = labels[int(np.argmin(known))]
        more = int(np.count_nonzero(~known)) - 1
        others = f" (and {more} more)" if more else ""
        return 0, f"label {show(first, encoding)}{others} is not in the cube"
    rows = np.flatnonzero(there == labels[0])
    if len(rows) > 1:
        return 0, f"label {show(labels[0], encoding)} is in the cube {len(rows)} times, so which is meant is not known"
    at = int(rows[0])
    same = np.equal(there[at : at + len(labels)], labels[: len(there) - at])
    if same.all() and len(same) == len(labels):
        return at, None
    wrong = int(np.argmin(same)) if not same.all() else len(same)
    follows = show(there[at + wrong], encoding) if at + wrong < len(there) else "nothing"
    before, label = show(labels[wrong - 1], encoding), show(labels[wrong], encoding)
    return 0, f"its labels are not one after the other in the cube, where {follows} follows {before}, not {label}"


def place_to_insert(labels: Block, there: Block, encoding: Encoding, step: Step | None) -> tuple[int, str | None]:
    """Return the row of the cube before which the labels of a slice belong, and why there is none.

    Parameters
    ----------
    labels
        Stored labels of the slice, at least one, none of them missing.
    there
        All stored labels of the cube, at least one.
    encoding
        How both are stored.
    step
        What the user asks for, from label to label of the slice.
    """
    known = np.isin(labels, there)
    if known.any():
        label = show(labels[int(np.argmax(known))], encoding)
        return 0, f"label {label} is in the cube already; replace overwrites what is there"
    ours, theirs = as_meant(labels, encoding), as_meant(there, encoding)
    up = _rises(theirs if len(theirs) > 1 else ours, encoding, step)
    ordered, given = (theirs, ours) if up else (theirs[::-1], ours[::-1])
    if not (ordered[1:] > ordered[:-1]).all():
        return 0, "the labels of the cube are not sorted, so nothing has a place between them"
    if not (given[1:] > given[:-1]).all():
        return 0, f"its labels are not sorted as those of the cube, which {'as' if up else 'des'}cend"
    if step is not None and (why := check_labels(labels, labels[:0], encoding, step)):
        return 0, why
    places = np.searchsorted(ordered, given)
    places = places if up else (len(there) - places)[::-1]
    if (places != places[0]).any():
        at = int(np.argmax(places != places[0]))
        between = there[int(min(places[0], places[at]))]
        return 0, (
            f"its labels do not lie in one gap of the cube's: {show(between, encoding)} is between "
            f"{show(labels[0], encoding)} and {show(labels[at], encoding)}"
        )
    return int(places[0]), None


def _rises(labels: Block, encoding: Encoding, step: Step | None) -> bool:
    """Tell whether stored labels become larger."""
    if len(labels) > 1:
        return bool(labels[1] > labels[0])
    scale = encoding.attrs.get("scale_factor")
    return (step is None or step.sign > 0) == (scale is None or float(scale) > 0)
