"""What came of a run: of each slice that was given, or of what was deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from zappend.editplan import Operation

__all__ = ["AppendResult", "Appended", "Cut"]


@dataclass(frozen=True)
class Appended:
    """What became of one slice.

    Attributes
    ----------
    slice
        The slice, as messages name it.
    start, stop
        Where its labels lie along the append dimension; equal if it was skipped.
    chunks, bytes
        How many chunks were written, and how many bytes they have.
    created
        Whether the cube began with it.
    keys
        In a dry run, the keys that would be written, documents among them, and how many bytes each.
    operation
        How it came in.
    moved
        How many chunks moved as they are.
    replaces
        Whether there was a cube before, which is gone, or in a dry run would be, by the setting ``force_new``.
    """

    slice: str
    start: int
    stop: int
    chunks: int
    bytes: int
    created: bool
    keys: Mapping[str, int] = field(default_factory=dict)
    operation: Operation = "append"
    moved: int = 0
    replaces: bool = False

    @property
    def skipped(self) -> bool:
        """Whether all its labels were in the cube before."""
        return self.start == self.stop

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.slice}: is in the cube already"
        begins = ", the cube begins with it" if self.created else ""
        if self.replaces:
            begins = ", a new cube begins with it, in place of the one that is there"
        how = {"insert": "inserted ", "replace": "replaced "}.get(self.operation, "")
        moved = f", {self.moved} moved" if self.moved else ""
        return (
            f"{self.slice}: {how}at {self.start}:{self.stop}, {self.chunks} chunks, {self.bytes} bytes{moved}{begins}"
        )


@dataclass(frozen=True)
class Cut:
    """What became of a cube from which labels were deleted.

    Attributes
    ----------
    labels
        How many labels were deleted.
    size
        How many are left.
    moved
        How many chunks moved as they are.
    chunks, bytes
        How many chunks were written anew, and how many bytes they have.
    removed
        How many chunks there are less.
    dry_run
        Whether nothing was changed.
    keys
        In a dry run, the keys that would be written anew, documents among them, and how many bytes each.
    """

    labels: int
    size: int
    moved: int = 0
    chunks: int = 0
    bytes: int = 0
    removed: int = 0
    dry_run: bool = False
    keys: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.labels} labels deleted, {self.size} left: {self.moved} chunks moved, {self.chunks} written, "
            f"{self.bytes} bytes, {self.removed} removed"
        )


class AppendResult(int):
    """How many slices went in, and what became of each.

    Attributes
    ----------
    slices
        One `Appended` for each slice that was given, in order.
    dry_run
        Whether nothing was written.
    checks
        In a dry run, what was checked of each slice, in words.
    """

    slices: tuple[Appended, ...]
    dry_run: bool
    checks: tuple[str, ...]

    def __new__(cls, slices: Iterable[Appended], *, dry_run: bool = False, checks: Iterable[str] = ()) -> AppendResult:
        """Count those of `slices` that were not skipped."""
        slices = tuple(slices)
        self = super().__new__(cls, sum(not one.skipped for one in slices))
        self.slices, self.dry_run, self.checks = slices, dry_run, tuple(checks)
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {int(self)} of {len(self.slices)} slices>"
