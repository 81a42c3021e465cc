"""The rows of a cube along one dimension after an edit, made of rows that it had and rows of a slice. Pure.

A splice says for each array, by the size of its chunks, what each chunk becomes: nothing happens to it, it is another
one as it is, or it is composed of rows of several. Where an array has shards, a chunk is a shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil

__all__ = ["ChunkRow", "New", "Old", "Piece", "Splice", "appended", "inserted", "replaced", "without"]


@dataclass(frozen=True)
class Old:
    """Rows `start` to `stop` of the cube as it was."""

    start: int
    stop: int


@dataclass(frozen=True)
class New:
    """Rows `start` to `stop` of the slice."""

    start: int
    stop: int


Segment = Old | New


@dataclass(frozen=True)
class Piece:
    """Rows that a chunk is composed of: `rows` come to lie from row `at` of the chunk on."""

    at: int
    rows: Segment

    @property
    def stop(self) -> int:
        """Row of the chunk behind the last one of these."""
        return self.at + self.rows.stop - self.rows.start


@dataclass(frozen=True)
class ChunkRow:
    """What becomes of the chunks at one place along the dimension.

    Attributes
    ----------
    index
        The place.
    count
        How many rows such a chunk has that are within the cube, then.
    moved_from
        The place of the chunks that they are, as they are; ``None`` if they are composed.
    pieces
        What they are composed of, in order.
    """

    index: int
    count: int
    moved_from: int | None
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Splice:
    """The rows of a cube after an edit.

    Attributes
    ----------
    old_size
        How many rows it had.
    segments
        What its rows are made of, in order, none of them empty. Old rows keep their order.
    """

    old_size: int
    segments: tuple[Segment, ...]

    @cached_property
    def size(self) -> int:
        """How many rows it has then."""
        return sum(segment.stop - segment.start for segment in self.segments)

    @property
    def shifts_up(self) -> bool:
        """Whether old rows come to lie further back than they were."""
        return any(isinstance(segment, Old) and segment.start < offset for offset, segment in self._placed)

    @cached_property
    def _placed(self) -> tuple[tuple[int, Segment], ...]:
        """The segments, each with the row at which it begins."""
        placed, offset = [], 0
        for segment in self.segments:
            placed.append((offset, segment))
            offset += segment.stop - segment.start
        return tuple(placed)

    def chunk_rows(self, chunk: int) -> list[ChunkRow]:
        """Return what changes in an array with `chunk` rows a chunk.

        In this order no chunk is written before all that are made of it are: that of rows, unless rows shift up.
        """
        rows = list(self._changed(chunk))
        return rows[::-1] if self.shifts_up else rows

    def removed(self, chunk: int) -> range:
        """Return the places of chunks that are no more, in an array with `chunk` rows a chunk."""
        return range(ceil(self.size / chunk), ceil(self.old_size / chunk))

    def first_new(self, chunk: int) -> int:
        """Return the place from which on no reader saw a chunk before."""
        return ceil(self.old_size / chunk)

    def _changed(self, chunk: int) -> Iterator[ChunkRow]:
        placed, at, first = self._placed, 0, 0
        while first < self.size:
            last = min(first + chunk, self.size)
            while placed[at][0] + placed[at][1].stop - placed[at][1].start <= first:
                at += 1
            offset, segment = placed[at]
            end = offset + segment.stop - segment.start
            if isinstance(segment, Old) and segment.start == offset and end >= first + chunk:
                first = end // chunk * chunk  # whole chunks that stay, however many they are
                continue
            pieces = tuple(self._pieces(at, first, last))
            source = self._source(pieces, chunk)
            if source != first // chunk:
                yield ChunkRow(first // chunk, last - first, source, pieces if source is None else ())
            first += chunk

    def _pieces(self, at: int, first: int, last: int) -> Iterator[Piece]:
        for offset, segment in self._placed[at:]:
            if offset >= last:
                return
            start = segment.start + max(first - offset, 0)
            stop = segment.start + min(last - offset, segment.stop - segment.start)
            yield Piece(max(offset - first, 0), type(segment)(start, stop))

    def _source(self, pieces: tuple[Piece, ...], chunk: int) -> int | None:
        """Return the place of the old chunk that has these rows and no others, ``None`` if there is none."""
        rows = pieces[0].rows
        if len(pieces) > 1 or isinstance(rows, New) or rows.start % chunk:
            return None
        return rows.start // chunk if rows.stop == min(rows.start + chunk, self.old_size) else None


def appended(old_size: int, first: int, count: int) -> Splice:
    """Return the splice by which `count` rows of a slice follow, and of the old ones those from `first` on stay."""
    return _splice(old_size, [Old(first, old_size), New(0, count)])


def inserted(old_size: int, at: int, count: int) -> Splice:
    """Return the splice by which `count` rows of a slice lie before the row `at`."""
    return _splice(old_size, [Old(0, at), New(0, count), Old(at, old_size)])


def replaced(old_size: int, at: int, count: int) -> Splice:
    """Return the splice by which `count` rows of a slice take the place of those from `at` on."""
    return _splice(old_size, [Old(0, at), New(0, count), Old(at + count, old_size)])


def without(old_size: int, rows: Iterable[int]) -> Splice:
    """Return the splice by which `rows`, in any order, are deleted."""
    gone = [-1, *sorted(set(rows)), old_size]
    return _splice(old_size, [Old(before + 1, row) for before, row in pairwise(gone)])


def _splice(old_size: int, segments: Iterable[Segment]) -> Splice:
    return Splice(old_size, tuple(segment for segment in segments if segment.start < segment.stop))
