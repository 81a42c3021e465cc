"""Which settings come of several configurations, and where each comes from; what may be secret is not shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from zappend.config import VARIABLE, Layer, merge
from zappend.settings import Settings

__all__ = ["as_text", "hidden", "show_settings"]

HIDDEN = "<hidden>"

OPTIONS = re.compile(r"(^|_)storage_options$")
"""Settings of which no text is shown: file systems have many words for what is secret."""

SECRET = re.compile(r"key|secret|token|password|passwd|credential|auth|sas|signature", re.IGNORECASE)
"""In the name of a setting: its value is not shown, wherever it stands."""

IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
"""A user and a password in a URL."""

NOT_SECRET = ("chunk_key_encoding", "keys")

Path = tuple[str, ...]


def show_settings(layers: Iterable[Layer], *, defaults: bool = False) -> dict[str, tuple[Any, str]]:
    """Return the settings that come of `layers`: for each dotted name its value, and its origin.

    Text is as it is written, with variables of the environment by their names. What may be secret is hidden.

    Parameters
    ----------
    layers
        Later ones win.
    defaults
        Whether settings that none of them has are among them, with the origin ``default``.
    """
    layers = list(layers)
    shown = {}
    for path, value in _leaves(merge(layer.written for layer in layers)):
        origin = next(layer.origin for layer in reversed(layers) if _has(layer.written, path))
        shown[".".join(path)] = (_hidden(path, value), origin)
    if defaults:
        there = {name.partition(".")[0] for name in shown}
        unset = msgspec.to_builtins(Settings())
        shown |= {name: (unset[name], "default") for name in Settings.__struct_fields__ if name not in there}
    return shown


def as_text(shown: Mapping[str, tuple[Any, str]]) -> str:
    """Return `shown`, one setting a line, as ``name: value  # origin``."""
    lines = [(f"{name}: {json.dumps(value, default=str)}", origin) for name, (value, origin) in shown.items()]
    width = min(max((len(line) for line, _ in lines), default=0), 60)
    return "\n".join(f"{line:{width}}  # {origin}" for line, origin in lines)


def _has(values: Any, path: Path) -> bool:
    for name in path:
        if not isinstance(values, Mapping) or name not in values:
            return False
        values = values[name]
    return True


def _leaves(values: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, str(name)))
        else:
            yield (*path, str(name)), value


def _hidden(path: Path, value: Any) -> Any:
    of_options = bool(OPTIONS.search(path[0])) and not isinstance(value, (bool, int, float, type(None)))
    secret = any(SECRET.search(name) for name in path[1:] if name not in NOT_SECRET)
    if value == {} or (isinstance(value, str) and VARIABLE.fullmatch(value)):
        return value  # the name of a variable is no secret
    return HIDDEN if of_options or secret else hidden(value)


def hidden(value: Any) -> Any:
    """Return a value without users and passwords in URLs."""
    if isinstance(value, str):
        return IN_URL.sub(f"{HIDDEN}@", value)
    if isinstance(value, (list, tuple)):
        return [hidden(inner) for inner in value]
    return value
