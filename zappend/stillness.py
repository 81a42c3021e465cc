"""Whether files stand still, or are still being written: what they look like now, held against the look before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zappend.polling import NotYet
from zappend.settings import Polling

__all__ = ["Stamp", "Stillness", "stamp_from", "stamp_of"]

CHANGES = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created", "timeModified")
"""Names under which file systems say when a file changed."""

STATES = (*CHANGES, "size", "ETag", "etag", "generation", "version_id", "VersionId", "Content-MD5", "CRC", "ino")
"""Names of what tells one state of a file from another."""

YOUNG = 2.0
"""Seconds in which a change may not show: no clock of a file system is coarser."""


@dataclass(frozen=True)
class Stamp:
    """What tells one state of a file, or of many, from another.

    Attributes
    ----------
    state
        Sizes, times, tags: equal as long as nothing changes.
    size
        Bytes, for people.
    changed
        When it changed last, in seconds since 1970; ``None`` if that is not known.
    """

    state: Hashable
    size: int | None
    changed: float | None


class Stillness:
    """Tells, from look to look, whether something has stopped changing.

    It has if it was the same at the last look, or if at the first one it has not been changed for longer than the
    interval.
    """

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        self._last: Stamp | None = None

    def note(self, stamp: Stamp) -> None:
        """Remember this state for the next look."""
        self._last = stamp

    def check(self, name: str, stamp: Stamp, *, now: Callable[[], float] = time.time) -> None:
        """Raise `NotYet` if what has this stamp now may still be changing."""
        last, self._last = self._last, stamp
        if last is None:
            age = None if stamp.changed is None else now() - stamp.changed
            if age is None or not age > max(self._polling.interval, YOUNG):
                since = "nothing tells when it changed" if age is None else f"it changed {max(age, 0):.3g} s ago"
                raise NotYet(f"slice {name}: {since}, so it may still be being written")
        elif last.state != stamp.state:
            sizes = "" if last.size == stamp.size else f" from {last.size} to {stamp.size} bytes"
            raise NotYet(f"slice {name}: it is still being written: it has changed{sizes} since the last look")


def stamp_of(found: os.stat_result) -> Stamp:
    """Return the stamp of a local file."""
    state = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return Stamp(state, found.st_size, found.st_mtime)


def stamp_from(info: Mapping[str, Any]) -> Stamp:
    """Return the stamp of what a file system tells about a file."""
    state = tuple(f"{key}={info[key]}" for key in STATES if info.get(key) is not None)
    changed = next((info[key] for key in CHANGES if info.get(key) is not None), None)
    return Stamp(state, info.get("size"), _seconds(changed))


def _seconds(moment: Any) -> float | None:
    """Return a moment in any of the ways in which file systems tell it, in seconds since 1970."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            from email.utils import parsedate_to_datetime

            try:
                moment = parsedate_to_datetime(moment)
            except ValueError:
                return None
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment) if isinstance(moment, (int, float)) else None
