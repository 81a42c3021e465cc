"""Which settings come of several configurations, and where each comes from; what may be secret is not shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from zappend.config import VARIABLE, Layer, merge
from zappend.redaction import is_secret, redacted
from zappend.settings import Settings

__all__ = ["as_text", "check_together", "hidden", "show_settings"]

HIDDEN = "<hidden>"

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
    if value == {} or (isinstance(value, str) and VARIABLE.fullmatch(value)):
        return value  # the name of a variable is no secret
    harmless = len(path) < 2 or not is_secret(("", *path[1:]))
    if harmless and isinstance(value, (bool, int, float, type(None))):
        return value  # also of storage options
    return HIDDEN if is_secret(path) else hidden(value, path)


def hidden(value: Any, path: Path) -> Any:
    """Return the value of the setting at `path` without what is secret in URLs, and by the names in its lists."""
    if isinstance(value, str):
        return redacted(value, f"{HIDDEN}@")
    if isinstance(value, (list, tuple)):
        return [hidden(inner, path) for inner in value]
    if isinstance(value, Mapping):
        return {str(name): _hidden((*path, str(name)), inner) for name, inner in value.items()}
    return value


def check_together(settings: Settings) -> None:
    """Check what can be told of settings only when all configurations are merged, and without data.

    Raises
    ------
    UsageError
        If some do not go together, or attributes cannot be written.
    """
    if settings.expand_dims:
        from zappend.forms import check_expand_dims

        check_expand_dims(settings)
    if settings.attrs:
        from zappend.attributes import fixed_attrs, templates

        fixed_attrs(settings)
        templates(settings)
    if settings.variables:
        from zappend.variables import check_one_name

        check_one_name(settings)
