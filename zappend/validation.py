"""What is wrong with the settings of one configuration: found setting by setting, told in plain words, in one line.

What a setting must be comes from the types of `zappend.settings`. A wrong value is shown as it is written, unless it
stands where secrets may.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from zappend.errors import UsageError
from zappend.redaction import is_secret, redacted
from zappend.settings import ALIASES, Settings
from zappend.suggestions import did_you_mean

__all__ = ["checked", "dotted", "renamed"]

FREE = ("slice_source", "slice_source_kwargs", "extra")
"""Settings whose values are for the user's own code, which gets them as they are."""

LONGEST_SHOWN = 60
"""Characters of a value in a message."""

Path = tuple[str | int, ...]
"""Names, and places in lists, from a configuration down to a value."""


def checked(given: Mapping[str, Any], origin: str, written: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of one configuration under their first names, checked.

    Parameters
    ----------
    given
        Names and values.
    origin
        Where they come from, for messages; empty, if that goes without saying.
    written
        The same as they are written, if that may differ.

    Raises
    ------
    UsageError
        If a name is unknown or a value is none that can be; it tells of all of them.
    """
    values = {name: value if name in FREE else _plain(value) for name, value in given.items()}
    values = renamed(values, origin)
    shown = renamed(written, origin) if written is not None else values
    faults = [*_unknown(values), *_wrong(values, shown)]
    if faults:
        raise UsageError(f"{origin}: {'; '.join(faults)}" if origin else "; ".join(faults)) from None
    return values


def renamed(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return `values` under the first names of settings; raise `UsageError` if one has two of its names."""
    for alias, name in ALIASES.items():
        if alias in values:
            if name in values:
                where = f"{origin}: " if origin else ""
                raise UsageError(f"{where}{alias!r} and {name!r} are one setting; give one of them")
            values = {name if key == alias else key: value for key, value in values.items()}
    return dict(values)


def dotted(path: Iterable[str | int]) -> str:
    """Return how messages and ``--set`` write a path, such as ``variables."a.b".dims[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f'."{part}"' if "." in part else f".{part}"
    return text.removeprefix(".")


def _plain(value: Any) -> Any:
    """Return a value with mappings as `dict`, paths as text, and numbers of numpy as those of Python."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist") and not isinstance(value, type):
        return value.tolist()  # arrays and numbers of numpy
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


# Names and types.


def _unknown(values: Mapping[str, Any]) -> Iterator[str]:
    known = (*Settings.__struct_fields__, *ALIASES)
    for name in values:
        if name not in known:
            instead = did_you_mean(name, known, "; 'zappend config schema' lists all that there are")
            yield f"unknown setting {name!r}{instead}"


def _wrong(values: dict[str, Any], shown: Mapping[str, Any]) -> Iterator[str]:
    known = {name: value for name, value in values.items() if name in Settings.__struct_fields__}
    wrong: set[Path] = set()
    try:
        msgspec.convert(known, Settings)
    except msgspec.ValidationError:
        for path, fault in _of_struct(known, Settings, ()):
            wrong.add(path)
            yield (
                fault
                if fault.startswith("setting ")
                else f"setting {dotted(path)} must be {fault}, not {_told(path, fault, known, shown)}"
            )
        if not wrong:  # msgspec knows of more than is known here
            yield "a setting has a value that it cannot have; 'zappend config schema' tells which it can have"
    for path, fault in _meaningless(known, wrong):
        value, as_written = _at(known, path), _at(shown, path)
        yield fault if value == as_written or not value else fault.replace(str(value), str(as_written))


def _faults(value: Any, hint: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Iterate over what is wrong with a value and in it: where, and what it must be or the whole sentence."""
    try:
        msgspec.convert(value, hint)
        return
    except msgspec.ValidationError:
        pass
    for one in _alternatives(hint):
        if isinstance(value, dict) and isinstance(one, type) and issubclass(one, msgspec.Struct):
            yield from _of_struct(value, one, path)
            return
        if isinstance(value, dict) and get_origin(one) is dict:
            for name, inner in value.items():
                if isinstance(name, str):
                    yield from _faults(inner, get_args(one)[1], (*path, name))
                else:
                    yield path, f"setting {dotted(path)} has the name {name!r}, which is no text; quote it"
            return
        if isinstance(value, list) and get_origin(one) is list:
            for index, inner in enumerate(value):
                yield from _faults(inner, get_args(one)[0], (*path, index))
            return
    yield path, _must_be(hint)


def _of_struct(values: dict[str, Any], struct: type[msgspec.Struct], path: Path) -> Iterator[tuple[Path, str]]:
    hints = get_type_hints(struct, include_extras=True)
    for name, value in values.items():
        if name in hints:
            yield from _faults(value, _without_unset(hints[name]), (*path, name))
        else:
            instead = did_you_mean(name, hints, f"; there are {', '.join(hints)}")
            yield (*path, str(name)), f"setting {dotted(path)}: unknown name {name!r}{instead}"


def _alternatives(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _without_unset(hint: Any) -> Any:
    return Union.__getitem__(tuple(one for one in _alternatives(hint) if one is not msgspec.UnsetType))


# Words.


def _must_be(hint: Any) -> str:
    """Return in words which values a setting can have; that many can be null goes without saying."""
    words: dict[str, None] = {}
    for one in _alternatives(hint):
        if one is not type(None):
            words.update(dict.fromkeys(_words(one)))
    if "a number" in words:
        words.pop("a whole number", None)
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _words(hint: Any) -> list[str]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return [str(value) for value in args]
    if origin is Annotated:
        meta = args[1]
        if meta.min_length:
            return ["text that is not empty"]
        return [f"{_must_be(args[0])} of at least {meta.ge}"]
    if origin is list:
        inner = _must_be(args[0])
        return [f"a list of {inner.removeprefix('a ')}{'s' if inner == 'a whole number' else ''}"]
    if origin is dict or (isinstance(hint, type) and issubclass(hint, msgspec.Struct)):
        return ["names and values"]
    if hint is bool:
        return ["true", "false"]
    return [{int: "a whole number", float: "a number", str: "text"}.get(hint, "something else")]


def _told(path: Path, must: str, values: Any, shown: Any) -> str:
    """Return what a value is instead of what it must be: itself, if that may be shown."""
    value, as_written = _at(values, path), _at(shown, path)
    names = [part for part in path if isinstance(part, str)]
    if is_secret(names) or names[0] in (*FREE, "open_kwargs"):
        return _kind(value)
    if isinstance(as_written, str) and as_written != value:
        return f"what {as_written!r} stands for"
    return _kind(value) if as_written != value else _as_shown(value, must)


def _as_shown(value: Any, must: str) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        text = redacted(value, "***@")
        text = f"'{text[:LONGEST_SHOWN]}…'" if len(text) > LONGEST_SHOWN else f"'{text}'"
        return f"{text} (text)" if re.search(r"\bnumber|\btrue\b|names and|list", must) else text
    if isinstance(value, (int, float)):
        return f"{value!r} (a number)" if "number" not in must else repr(value)
    if isinstance(value, date):
        return f"{value.isoformat()} (a date)"
    return _kind(value)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for types, words in (
        (str, "text"),
        (bool, "true or false"),
        ((int, float), "a number"),
        (Mapping, "names and values"),
        ((list, tuple), "a list"),
        (date, "a date"),
    ):
        if isinstance(value, types):
            return words
    return f"an object of the type {type(value).__name__}"


def _at(values: Any, path: Path) -> Any:
    """Return the value at `path`; ``None`` if there is none, as where names have variables of the environment."""
    try:
        for part in path:
            values = values[part]
    except (LookupError, TypeError):
        return None
    return values


# Meaning: what can be told of a value without data.


def _meaningless(values: Mapping[str, Any], wrong: set[Path]) -> Iterator[tuple[Path, str]]:
    """Iterate over values of the right type that mean nothing, but for those that are `wrong` anyway."""
    for path, check in _readers(values):
        if any(path[: len(one)] == one or one[: len(path)] == path for one in wrong):
            continue
        try:
            check(_at(values, path))
        except UsageError as error:
            yield path, str(error) if str(error).startswith("setting ") else f"setting {error}"


def _readers(values: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Iterate over settings that are text of a certain form, with what reads it; imported only for those given."""
    if isinstance(values.get("append_step"), (str, int, float)):
        from zappend.steps import parse_step

        yield ("append_step",), parse_step
    if values.get("max_memory") is not None:
        from zappend.forms import bytes_of

        yield ("max_memory",), bytes_of
    wanted = values.get("expand_dims")
    if isinstance(wanted, dict) and isinstance(wanted.get("pattern"), str):
        from zappend.forms import check_pattern

        yield ("expand_dims", "pattern"), check_pattern
    variables = values.get("variables")
    for name, variable in variables.items() if isinstance(variables, dict) else ():
        encoding = variable.get("encoding") if isinstance(variable, dict) else None
        if isinstance(encoding, dict) and "dtype" in encoding:
            from functools import partial

            from zappend.forms import named_type

            yield ("variables", name, "encoding", "dtype"), partial(named_type, variable=name)
