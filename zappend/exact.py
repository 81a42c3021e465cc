"""Casts that lose nothing, or say which value they would lose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from zappend.datatypes import Block

__all__ = ["EncodingError", "cast_exactly", "outside_of", "refusal"]


class EncodingError(ValueError):
    """A value cannot be stored so that it reads back as it was; the message says which, and why.

    Parameters
    ----------
    why
        What is wrong.
    value, index
        The first value that is wrong, and where it is in the block; without an index it is the whole block.
    more
        How many more there are.
    """

    def __init__(self, why: str, value: Any = None, index: tuple[int, ...] | None = None, more: int = 0) -> None:
        super().__init__(why)
        self._why, self._value, self._index, self._more = why, value, index, more

    def __str__(self) -> str:
        if self._index is None:
            return self._why
        others = f" (and {self._more} more)" if self._more else ""
        return f"{self._value!s} at index {list(self._index)}{others}: {self._why}"

    def picked(self, places: Block) -> EncodingError:
        """Return this error, of a row of values that were picked out of a block, for that block.

        `places` has an index of the block for each value, shape ``(values, dimensions)``.
        """
        if self._index is None:
            return self
        index = tuple(int(i) for i in places[self._index[0]])
        return EncodingError(self._why, self._value, index, self._more)

    def shifted(self, offset: Iterable[int]) -> EncodingError:
        """Return this error for a block that is a part of a larger one, and begins at `offset` there."""
        if self._index is None:
            return self
        index = tuple(i + start for i, start in zip(self._index, offset, strict=True))
        return EncodingError(self._why, self._value, index, self._more)


def cast_exactly(numbers: Block, dtype: np.dtype[Any], values: Block, hint: str = "") -> Block:
    """Return `numbers` in `dtype`, or raise `EncodingError` for the first of `values` that it cannot hold.

    Floats may lose digits, but not become infinite; whole numbers stay what they are. `hint` tells what can be
    done about numbers that are too large.
    """
    if numbers.dtype == dtype:
        return numbers
    outside = outside_of(numbers, dtype)
    if outside.any() and dtype.kind in "iu":
        info = np.iinfo(dtype)
        raise refusal(f"outside of what {dtype} holds, which is {info.min} to {info.max}{hint}", values, outside)
    if outside.any():
        raise refusal(f"too large for {dtype}{hint}", values, outside)
    with np.errstate(all="ignore"):
        cast = numbers.astype(dtype)
        if dtype.kind in "iu":
            wrong = cast != numbers
            if wrong.any():
                raise refusal(f"not a whole number, as {dtype} needs", values, wrong)
        elif numbers.dtype.kind in "iu":
            back = cast.real if dtype.kind == "c" else cast
            wrong = (back.astype(numbers.dtype) != numbers) | (back >= float(np.iinfo(numbers.dtype).max) + 1)
            if wrong.any():
                raise refusal(f"not exact in {dtype}", values, wrong)
    return cast


def outside_of(numbers: Block, dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which of `numbers` `dtype` is too small for; whole numbers have no infinity and no NaN."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        outside = (numbers < info.min) | (numbers > info.max)
        if numbers.dtype.kind == "f":
            outside |= ~np.isfinite(numbers) | (numbers >= float(info.max) + 1)
        return np.asarray(outside)
    with np.errstate(all="ignore"):
        return np.asarray(np.isinf(numbers.astype(dtype)) & ~np.isinf(numbers))


def refusal(why: str, values: Block, where: Block) -> EncodingError:
    """Return the error that says `why` the first of `values` at `where` cannot be stored."""
    index = tuple(int(i) for i in np.argwhere(where)[0])
    return EncodingError(why, values[index], index, int(np.count_nonzero(where)) - 1)
