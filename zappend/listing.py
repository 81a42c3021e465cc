"""What the command line gives as slices → the slices: lists in files and from standard input, and patterns of names."""

from __future__ import annotations

import glob
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from zappend.errors import UsageError, ZappendError
from zappend.locations import file_system_of, is_url, local_path
from zappend.redaction import cause_of, conceal, first_line, redacted
from zappend.settings import Settings

__all__ = ["listed"]

log = logging.getLogger(__name__)

INPUT = "-"

MAGIC = re.compile(r"[*?\[]")
HTTP_MAGIC = re.compile(r"[*\[]")
"""In URLs of the web a question mark begins a query."""


def listed(given: Iterable[str], settings: Callable[[], Settings]) -> tuple[str, ...] | Iterator[str]:
    """Return the slices that the arguments `given` stand for, in order; those of a pattern are sorted.

    An argument is a path or URL; a pattern of these, with ``*``, ``?``, ``[…]`` and ``**``; ``@`` and the path or URL
    of a list; or ``-``, a list from standard input. A list has a path, URL or pattern a line, apart from empty lines
    and those that begin with ``#``; paths are relative to the current folder. What exists under its literal name is
    just that. What is named twice is given twice, with a warning; so there is
    one of a list that names nothing. For a ``slice_source``, a pattern that matches
    nothing is an argument as it stands.

    Parameters
    ----------
    given
        The arguments.
    settings
        Returns the settings of the append; called only if there is something to be looked up that takes them.

    Returns
    -------
    slices
        All of them; or, if standard input is among them, an iterator that reads it line by line as it is asked.

    Raises
    ------
    UsageError
        If a list cannot be read, a pattern matches nothing, or a name is empty. What does not depend on standard
        input is looked up at once.
    """
    given = list(given)
    if given.count(INPUT) > 1:
        raise UsageError("'-' can be given once: there is one standard input")
    parts = [None if one == INPUT else list(_expanded(one, settings)) for one in given]
    if None not in parts:
        return tuple(_told_of_twice(name for part in parts if part is not None for name in part))
    return _told_of_twice(name for part in parts for name in (_from_input(settings) if part is None else part))


def _told_of_twice(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            log.warning("slice %s is named more than once", redacted(name))
        seen.add(name)
        yield name


def _expanded(argument: str, settings: Callable[[], Settings]) -> Iterator[str]:
    if not argument.startswith("@") or os.path.lexists(argument):
        yield from _matching(argument, settings)
        return
    place = argument[1:]
    count = 0
    for number, line in enumerate(_lines_of(place, settings), 1):
        names = list(_from_line(line, number, place, settings))
        count += len(names)
        yield from names
    _warn_of_none(count, argument)


def _from_input(settings: Callable[[], Settings]) -> Iterator[str]:
    # Names of files need not be text.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    count = 0
    for number, line in enumerate(sys.stdin, 1):
        names = list(_from_line(line, number, "standard input", settings))
        count += len(names)
        yield from names
    _warn_of_none(count, "standard input")


def _warn_of_none(count: int, place: str) -> None:
    if not count:
        log.warning("%s names no slice", redacted(place))


def _from_line(line: str, number: int, place: str, settings: Callable[[], Settings]) -> Iterator[str]:
    name = line.strip().removeprefix("\ufeff")
    if not name or name.startswith("#"):
        return
    try:
        yield from _matching(name, settings)
    except ZappendError as error:
        error.add_note(f"line {number} of {redacted(place)}")
        raise


def _lines_of(place: str, settings: Callable[[], Settings]) -> list[str]:
    try:
        if is_url(place):
            fs, path = _file_system(place, settings().slice_storage_options)
            data: bytes = fs.cat_file(path)
        else:
            with open(local_path(place), "rb") as file:
                data = file.read()
    except ZappendError:
        raise
    except Exception as error:
        # What a network, or whoever is at its other end, raises is up to each file system.
        why = (isinstance(error, OSError) and error.strerror) or first_line(error)
        raise UsageError(f"the list of slices {redacted(place)} cannot be read: {why}") from cause_of(error)
    return data.decode(errors="surrogateescape").split("\n")


def _matching(name: str, settings: Callable[[], Settings]) -> list[str]:
    """Return the names that match, if `name` is a pattern; otherwise just that."""
    if not name and settings().slice_source is None:
        raise UsageError("a slice has the name '', which names nothing; leave it out")
    if not is_url(name):
        path = local_path(name)
        if not MAGIC.search(path) or os.path.lexists(path):
            return [name]
        found = sorted(glob.glob(path, recursive=True))
    elif not (HTTP_MAGIC if name.startswith(("http://", "https://")) else MAGIC).search(_with_path(name)[1]):
        return [name]
    else:
        found = _remote(name, settings().slice_storage_options)
    if not found and settings().slice_source is not None:
        return [name]
    if not found:
        raise UsageError(f"no slice matches {redacted(name)}")
    return found


def _remote(url: str, options: Mapping[str, Any]) -> list[str]:
    fs, path = _file_system(url, options)
    fs.invalidate_cache()
    try:
        if fs.exists(path):
            return [url]
        found = sorted(map(str, fs.glob(path)))
    except Exception as error:
        # As above.
        raise UsageError(f"slices {redacted(url)} cannot be listed: {first_line(error)}") from cause_of(error)
    before, link, after = _with_path(url)
    # What is stripped of a link, such as its protocol and host, is the same for all.
    stripped = str(fs._strip_protocol(link))
    if not link.endswith(stripped):
        return [before + fs.unstrip_protocol(one) + after for one in found]
    return [before + link[: len(link) - len(stripped)] + one + after for one in found]


def _file_system(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    conceal(options, url)
    try:
        return file_system_of(url, options, redacted(url))
    except ZappendError as error:
        raise UsageError(str(error)) from None


def _with_path(url: str) -> tuple[str, str, str]:
    """Return what comes before the link of a chained URL that has the path, that link, and what comes after it."""
    links = url.split("::")
    at = next((i for i, link in enumerate(links) if "://" in link), 0)
    return "".join(f"{link}::" for link in links[:at]), links[at], "".join(f"::{link}" for link in links[at + 1 :])
