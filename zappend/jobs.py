"""The chunks that a plan writes, one by one, each with the values that it gets; slices are read in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from zappend.arrays import Box
from zappend.codec import ChunkCodec
from zappend.datatypes import Block
from zappend.plan import ArrayWrite, ChunkWrite, Plan
from zappend.slices import SliceVariable

__all__ = ["Job", "jobs_of"]

BYTES_PER_READ = 2**24
"""What is read of a slice at a time, unless a single chunk is larger: bounds memory, and keeps reads few."""


@dataclass(frozen=True)
class Job:
    """A chunk to encode.

    Attributes
    ----------
    write, chunk
        What is written.
    codec
        What encodes it.
    values
        The part of the slice that it gets; as it is stored, if `write` says so.
    """

    write: ArrayWrite
    chunk: ChunkWrite
    codec: ChunkCodec
    values: Block


def jobs_of(plan: Plan, codecs: Sequence[ChunkCodec]) -> Iterator[Job]:
    """Iterate over the chunks of `plan`, reading the slice as it goes; `codecs` are those of its arrays."""
    for write, codec in zip(plan.writes, codecs, strict=True):
        variable = plan.new.variables[write.array.name]
        for box in _boxes(write, variable):
            region = write.region(box)
            values = variable.read(region) if write.stored is None else write.stored[region]
            for chunk in write.chunks if box == write.grid else write.chunks_in(box):
                inner: tuple[Any, ...] = tuple(
                    slice(part.start - side.start, part.stop - side.start)
                    for part, side in zip(chunk.in_slice, region, strict=True)
                )
                yield Job(write, chunk, codec, values[(*inner, ...)])


def _boxes(write: ArrayWrite, variable: SliceVariable) -> Iterator[Box]:
    """Cut the grid of chunks into boxes that are read at once, along the slowest dimensions first."""
    itemsize = max(variable.dtype.itemsize, write.array.dtype.itemsize)

    def cut(box: Box) -> Iterator[Box]:
        size = prod(part.stop - part.start for part in write.region(box)) * itemsize
        longest = next((axis for axis, side in enumerate(box) if len(side) > 1), None)
        if size <= BYTES_PER_READ or longest is None:
            yield box
            return
        side = box[longest]
        middle = side.start + len(side) // 2
        for half in (range(side.start, middle), range(middle, side.stop)):
            yield from cut((*box[:longest], half, *box[longest + 1 :]))

    return cut(write.grid)
