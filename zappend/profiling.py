"""The setting ``profiling``: where the time of a run goes, by function."""

from __future__ import annotations

import cProfile
import io
import logging
import pstats
import re
from collections.abc import Iterator
from contextlib import contextmanager

from zappend.errors import UsageError
from zappend.settings import Profiling

__all__ = ["profiled"]

log = logging.getLogger(__name__)


@contextmanager
def profiled(setting: bool | str | Profiling) -> Iterator[None]:
    """Profile the block as the setting says; on leaving it, also by an error, report.

    Other threads, by default those that encode and write, are not profiled; with one thread everything is.

    Raises
    ------
    UsageError
        If the report cannot be written, or a pattern is none; the block has not run then.
    """
    wanted = _wanted(setting)
    if wanted is None:
        yield
        return
    for restriction in wanted.restrictions:
        if isinstance(restriction, str):
            try:
                re.compile(restriction)
            except re.error as error:
                raise UsageError(f"setting profiling.restrictions: {restriction!r} is no pattern: {error}") from error
    if wanted.path is not None:
        try:
            open(wanted.path, "w").close()
        except OSError as error:
            raise UsageError(f"setting profiling: {wanted.path} cannot be written: {error.strerror}") from error
    profile = cProfile.Profile()
    try:
        profile.enable()
    except ValueError as error:
        raise UsageError(f"setting profiling: {error}; this run is profiled already") from error
    try:
        yield
    finally:
        profile.disable()
        _report(profile, wanted)


def _wanted(setting: bool | str | Profiling) -> Profiling | None:
    if isinstance(setting, str):
        return Profiling(path=setting)
    if isinstance(setting, bool):
        return Profiling() if setting else None
    return setting if setting.enabled else None


def _report(profile: cProfile.Profile, wanted: Profiling) -> None:
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats(*wanted.keys).print_stats(*wanted.restrictions)
    if wanted.log_level != "NOTSET":
        log.log(logging.getLevelName(wanted.log_level), "Profile of this run:\n%s", text.getvalue())
    if wanted.path is not None:
        with open(wanted.path, "w") as file:
            file.write(text.getvalue())
