"""How much memory chunks may take while they are under way: what the setting ``max_memory`` says, and shares of it.

A chunk counts twice, as it is read of the slice and as it is stored, before it is encoded. What codecs and conversions
need for a moment does not count, nor do values that do not depend on the append dimension while they are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from zappend.arrays import Box
from zappend.errors import UsageError
from zappend.forms import bytes_of
from zappend.plan import ArrayWrite, Plan
from zappend.settings import Settings
from zappend.slices import SliceVariable

__all__ = ["BYTES_AHEAD", "Memory", "cost_of", "memory_of"]

BYTES_AHEAD = 3 * 2**24
"""What is read of a slice before its turn comes, at most."""


@dataclass(frozen=True)
class Memory:
    """What the setting ``max_memory`` allows.

    Attributes
    ----------
    text
        What the user wrote.
    total
        Bytes altogether.
    """

    text: str
    total: int

    @property
    def ahead(self) -> int:
        """What may be read of the next slice; that of this one was read so, too."""
        return min(BYTES_AHEAD, self.total // 8)

    @property
    def encoded(self) -> int:
        """What may be encoded and not yet written, and also how much of originals may be kept."""
        return self.total // 8

    @property
    def chunks(self) -> int:
        """What is left for chunks under way."""
        return self.total - 2 * self.ahead - 2 * self.encoded

    def check(self, plan: Plan) -> None:
        """Raise `UsageError` if `plan` has a chunk that alone takes more than there is for chunks."""
        for write in plan.writes:
            first = tuple(side[:1] for side in write.grid)
            cost = cost_of(write, plan.new.variables[write.array.name], first)
            if cost > self.chunks:
                name, chunks = write.array.name, write.array.chunks
                raise UsageError(
                    f"setting max_memory: a chunk {chunks} of variable {name!r} has {write.chunk_bytes} bytes, and "
                    f"takes {cost} as it is read and as it is stored; {self.text} leaves {max(self.chunks, 0)} for "
                    f"chunks: set at least {2 * cost}, or begin a cube with smaller chunks, by "
                    f"variables.{name}.encoding.chunks"
                )


def memory_of(settings: Settings) -> Memory | None:
    """Return what the setting ``max_memory`` allows, ``None`` if it is not set.

    Raises
    ------
    UsageError
        If it is no number of bytes.
    """
    if settings.max_memory is None:
        return None
    return Memory(str(settings.max_memory), bytes_of(settings.max_memory))


def cost_of(write: ArrayWrite, variable: SliceVariable, box: Box) -> int:
    """Return how many bytes the chunks in `box` take, as they are read and as they are stored."""
    read: int = math.prod(side.stop - side.start for side in write.region(box)) * variable.dtype.itemsize
    return read + math.prod(map(len, box)) * write.chunk_bytes
