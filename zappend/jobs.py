"""The chunks that a plan writes, one by one, each with the values that it gets; slices are read in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from zappend.arrays import Box
from zappend.codec import ChunkCodec
from zappend.datatypes import Block
from zappend.memory import Memory, cost_of
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
    frees
        How many bytes are free when it is done, and all before it.
    """

    write: ArrayWrite
    chunk: ChunkWrite
    codec: ChunkCodec
    values: Block
    frees: int = 0


def jobs_of(
    plan: Plan,
    codecs: Sequence[ChunkCodec],
    memory: Memory | None = None,
    make_room: Callable[[int], None] | None = None,
) -> Iterator[Job]:
    """Iterate over the chunks of `plan`, reading the slice as it goes.

    Parameters
    ----------
    plan
        The plan.
    codecs
        Those of its arrays.
    memory
        How much memory there is, if that is set.
    make_room
        Called before anything is read, with the bytes that it and what comes of it will take.
    """
    for write, codec in zip(plan.writes, codecs, strict=True):
        variable = plan.new.variables[write.array.name]
        for box in _boxes(write, variable, memory):
            region, cost = write.region(box), 0
            if make_room is not None:
                cost = cost_of(write, variable, box)
                make_room(cost)
            last = tuple(side.stop - 1 for side in box)
            values = variable.read(region) if write.stored is None else write.stored[region]
            for chunk in write.chunks if box == write.grid else write.chunks_in(box):
                inner: tuple[Any, ...] = tuple(
                    slice(part.start - side.start, part.stop - side.start)
                    for part, side in zip(chunk.in_slice, region, strict=True)
                )
                yield Job(write, chunk, codec, values[(*inner, ...)], cost if chunk.index == last else 0)
            del values


def _boxes(write: ArrayWrite, variable: SliceVariable, memory: Memory | None) -> Iterator[Box]:
    """Cut the grid of chunks into boxes that are read at once, along the slowest dimensions first."""
    itemsize = max(variable.dtype.itemsize, write.array.dtype.itemsize)

    def cut(box: Box) -> Iterator[Box]:
        size = prod(part.stop - part.start for part in write.region(box)) * itemsize
        longest = next((axis for axis, side in enumerate(box) if len(side) > 1), None)
        fits = memory is None or cost_of(write, variable, box) <= memory.chunks // 4
        if (size <= BYTES_PER_READ and fits) or longest is None:
            yield box
            return
        side = box[longest]
        middle = side.start + len(side) // 2
        for half in (range(side.start, middle), range(middle, side.stop)):
            yield from cut((*box[:longest], half, *box[longest + 1 :]))

    return cut(write.grid)
