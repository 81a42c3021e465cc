"""Codecs that can change values without a word: they wrap, cut off, or forget what they have no place for.

How much such a codec may change a value, its configuration says: by rounding, or not at all. What changes more would be
a silent wrong value, so chunks of arrays that have such codecs are decoded again, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from zappend.datatypes import Block
from zappend.exact import refusal
from zappend.metadata import Array, Json, name_and_options

__all__ = ["Tolerance", "check_decoded", "tolerance_of"]

Tolerance = Callable[[Block], Any]
"""What values may be changed by, given their absolute values."""


def tolerance_of(array: Array) -> Tolerance | None:
    """Return by how much the codecs of `array` may change values, ``None`` if none of them is known to change any."""
    eps = 4 * float(np.finfo(array.dtype).eps) if array.dtype.kind in "fc" else 0.0
    found = [_tolerance(name, options) for name, options in _codecs(array.document)]
    terms = [term for term in found if term is not None]
    return (lambda sizes: sum((term(sizes) for term in terms), eps * sizes)) if terms else None


def check_decoded(block: Block, decoded: Block, tolerance: Tolerance) -> None:
    """Raise `EncodingError` for the first value of `block` that `decoded` has not, within `tolerance`."""
    if block.dtype.kind not in "fc":
        wrong = np.asarray(decoded != block)
        if block.dtype.kind in "mM":
            wrong &= ~(np.isnat(decoded) & np.isnat(block))
    else:
        wide = np.result_type(block.dtype, "f8")
        ours, theirs = block.astype(wide), decoded.astype(wide)
        with np.errstate(all="ignore"):
            near = np.abs(theirs - ours) <= tolerance(np.abs(ours))
        wrong = ~(near | (ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    if wrong.any():
        given = decoded[tuple(np.argwhere(wrong)[0])]
        raise refusal(f"the codecs of the array would make {given!s} of it", block, wrong)


def _codecs(document: Json) -> Iterator[tuple[str, Json]]:
    for config in (*(document.get("filters") or ()), document.get("compressor")):
        if config:
            yield config["id"], config
    for codec in document.get("codecs", ()):
        name, options = name_and_options(codec)
        yield name.removeprefix("numcodecs."), options
        if name == "sharding_indexed":
            yield from _codecs({"codecs": options["codecs"]})


def _tolerance(name: str, options: Json) -> Tolerance | None:
    match name:
        case "categorize" | "packbits":
            return lambda sizes: 0.0
        case "astype" | "delta":
            dtype = np.dtype(options.get("encode_dtype") or options.get("astype") or options.get("dtype"))
            digits = float(np.finfo(dtype).eps) if dtype.kind in "fc" else 0.0
            if name == "astype":
                return lambda sizes: digits * sizes
            # Differences of floats are rounded, and then added up.
            return lambda sizes: 4 * digits * np.nansum(np.where(np.isfinite(sizes), sizes, 0))
        case "bitround":
            return lambda sizes: 2.0 ** -options["keepbits"] * sizes
        case "quantize":
            return lambda sizes: 10.0 ** -options["digits"]
        case "fixedscaleoffset":
            return lambda sizes: 0.5 / abs(options["scale"])
        case "zfpy":
            bound = float(options.get("tolerance", -1))
            # Its other modes bound the bytes, not the error; but what is no finite number, it cannot hold at all.
            return lambda sizes: bound if options.get("mode") == 4 and bound >= 0 else np.inf
    return None
