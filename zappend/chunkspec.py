"""What a chunk is between two codecs: its shape, type and fill value; and whether it holds nothing else than that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zappend.datatypes import Block, is_variable_length

__all__ = ["ChunkSpec", "holds_only", "same_bits"]


@dataclass(frozen=True)
class ChunkSpec:
    """What a codec of format 3 is given.

    Attributes
    ----------
    shape, dtype
        Those of the block.
    fill_value
        What a missing chunk holds.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill_value: Any

    def transposed(self, order: tuple[int, ...]) -> ChunkSpec:
        """Return what the block is after its axes were put into `order`."""
        return replace(self, shape=tuple(self.shape[axis] for axis in order))


def holds_only(block: Block, fill_value: Any) -> bool:
    """Tell whether every element of `block` is `fill_value`: -0.0 is not 0.0, NaN is NaN, and NaT is NaT.

    It is zarr-python's test of an empty chunk, but that it tells zeros apart in complex numbers, too.
    """
    if block.dtype.kind == "c":
        return holds_only(block.real, np.real(fill_value)) and holds_only(block.imag, np.imag(fill_value))
    if is_variable_length(block.dtype) or block.dtype.kind in "US":
        return bool(np.all(block == fill_value))
    if block.dtype.kind == "f" and np.isnan(fill_value):
        return bool(np.isnan(block).all())
    with np.errstate(all="ignore"):
        fill = np.asarray(fill_value).astype(block.dtype)
    if fill.dtype.kind != "V" and np.asarray(fill_value).dtype.kind in "iuf" and not np.all(fill == fill_value):
        return False  # the type of the block does not have this value
    return same_bits(block, np.broadcast_to(fill, block.shape))


def same_bits(a: Block, b: Block) -> bool:
    """Tell whether two blocks of the same type and shape hold the same bits."""
    if is_variable_length(a.dtype):
        return bool(np.all(a == b))
    if a.dtype.itemsize in (1, 2, 4, 8) and a.dtype.kind != "V":
        return bool(np.array_equal(a.view(f"u{a.dtype.itemsize}"), b.view(f"u{a.dtype.itemsize}")))
    return a.tobytes() == b.tobytes()
