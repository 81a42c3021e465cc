"""Configurations: files and mappings of settings, read, checked one by one against the schema, and merged.

Later configurations win, name by name, as deep as there are names; lists are replaced whole.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from zappend.errors import UsageError
from zappend.fileobj import FileObj
from zappend.settings import ALIASES, EncodingSettings, ExpandDims, Polling, Profiling, Settings, VariableSettings

__all__ = [
    "VARIABLE",
    "ConfigItem",
    "ConfigLike",
    "ConfigList",
    "Layer",
    "assignment",
    "layers_of",
    "load_settings",
    "merge",
]

VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<braced>[^}]*)\}|(?P<bare>[A-Za-z_]\w*))", re.ASCII)
"""``${NAME}`` and ``$NAME`` stand for a variable of the environment, ``$$`` for a dollar sign."""

MARKS = ("\ue000", "\ue001")
"""What stands around a variable while YAML is read, for which braces mean something."""

ASSIGNED = re.compile(r'(?:"[^"]*"|[^."])+')
"""The names in ``variables.sst.attrs."long.name"``, one by one."""


@dataclass(frozen=True)
class Layer:
    """The settings of one configuration.

    Attributes
    ----------
    origin
        Where they come from, for messages.
    values
        The settings, checked against the schema.
    written
        The same as they are written, variables of the environment by their names.
    """

    origin: str
    values: Mapping[str, Any]
    written: Mapping[str, Any]


ConfigItem = FileObj | str | os.PathLike[str] | Mapping[str, Any] | Layer
"""A configuration: a JSON, YAML or TOML file, a mapping of names to values, or what was read of one."""

ConfigList = Sequence["ConfigItem | None"]
"""Several configurations, of which later ones win."""

ConfigLike = ConfigItem | ConfigList | None
"""What can be given as configuration."""


def load_settings(configs: ConfigLike | Iterable[Any], **settings: Any) -> Settings:
    """Return the settings of `configs`, later ones over earlier ones, and `settings` over all of them.

    A keyword that is ``None`` is taken as not given.

    Raises
    ------
    UsageError
        If a file cannot be read, a name is unknown, a value is none that can be, or a variable of the environment is
        not set; it names file and setting.
    """
    return msgspec.convert(merge(layer.values for layer in layers_of(configs, **settings)), Settings)


def layers_of(configs: ConfigLike | Iterable[Any], **settings: Any) -> list[Layer]:
    """Return the layers of `configs`, one each, then that of `settings`, if there are any.

    Raises
    ------
    UsageError
        As `load_settings` says.
    """
    layers = [_layer_of(config) for config in _each(configs)]
    given = {name: value for name, value in settings.items() if value is not None}
    if given:
        values = _checked(given, "settings")
        layers.append(Layer("argument", values, values))
    return layers


def _each(configs: Any) -> Iterator[ConfigItem]:
    """Iterate over configurations, as deep as they are in lists."""
    if isinstance(configs, (FileObj, str, os.PathLike, Mapping, Layer)):
        yield configs
    elif isinstance(configs, Iterable):
        for config in configs:
            yield from _each(config)
    elif configs is not None:
        raise UsageError(f"a configuration must be a file or a mapping, not {type(configs).__name__}")


def assignment(text: str) -> Layer:
    """Return the layer of one setting ``name.name=value``, where the value is written as in YAML.

    Raises
    ------
    UsageError
        If it is not written so, or the schema has no such setting or value.
    """
    import yaml

    names, equals, value = text.partition("=")
    path = [name.strip('"') for name in ASSIGNED.findall(names.strip())]
    if not equals or not path:
        raise UsageError(f"--set {text}: write it as name=value, such as variables.sst.encoding.dtype=int16")
    try:
        values: Any = yaml.load(value, _yaml_loader(lambda text: text))
    except yaml.YAMLError:
        raise UsageError(f"--set {names}: the value is none that YAML can read; quote it") from None
    for name in reversed(path):
        values = {name: values}
    checked = _checked(values, f"--set {names}")
    return Layer("--set", checked, checked)


def merge(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values of all layers, those of later ones over those of earlier ones; the layers stay as they are."""
    merged: dict[str, Any] = {}
    for values in layers:
        merged = _merged(merged, values)
    return merged


def _merged(values: Any, over: Any) -> Any:
    if not isinstance(values, Mapping) or not isinstance(over, Mapping):
        return over
    return {**values, **{name: _merged(values.get(name), value) for name, value in over.items()}}


def _layer_of(config: ConfigItem) -> Layer:
    if isinstance(config, Layer):
        return config
    if isinstance(config, Mapping):
        values = _checked(config, "configuration")
        return Layer("configuration", values, values)
    path = config.uri if isinstance(config, FileObj) else os.fspath(config)
    data = _read(path, config if isinstance(config, FileObj) else None)
    values = _checked(_parsed(path, data, lambda text: _expanded(text, path)), path)
    return Layer(path, values, _renamed(_parsed(path, data, lambda text: text), path))


# Checking.


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


FREE = ("slice_source", "slice_source_kwargs", "extra")
"""Settings whose values are for the user's own code, which gets them as they are."""


def _checked(given: Mapping[str, Any], origin: str) -> dict[str, Any]:
    values = _renamed({name: value if name in FREE else _plain(value) for name, value in given.items()}, origin)
    variables = values.get("variables")
    for name, variable in variables.items() if isinstance(variables, dict) else ():
        # One by one: msgspec does not say which of a mapping's values it means.
        _check({"variables": {name: variable}}, origin, f"variables.{name}")
    _check(values, origin, "")
    return values


def _renamed(values: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return `values` under the first names of settings, all of which are known."""
    known = Settings.__struct_fields__
    for alias, name in ALIASES.items():
        if alias in values:
            if name in values:
                raise UsageError(f"{origin}: {alias!r} and {name!r} are one setting; give one of them")
            values = {name if key == alias else key: value for key, value in values.items()}
    for name in values:
        if name not in known:
            raise UsageError(f"{origin}: unknown setting {name!r}{_hint(name, (*known, *ALIASES))}")
    return values


def _check(values: dict[str, Any], origin: str, prefix: str) -> None:
    try:
        msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        where = prefix + (where.rstrip("`").removeprefix("variables[...]") if prefix else where.rstrip("`"))
        _, _, unknown = why.partition("contains unknown field ")
        if unknown:
            name, known = unknown.strip("`"), _fields_at(where)
            raise UsageError(f"{origin}: setting {where}: unknown name {name!r}{_hint(name, known)}") from None
        if why.startswith("Invalid enum value"):
            why += f"; there are {', '.join(map(str, _choices_at(where)))}"
        raise UsageError(f"{origin}: setting {where or '?'}: {why[:1].lower()}{why[1:]}") from None


def _choices_at(where: str) -> list[Any]:
    """Return which values the setting at `where` can have."""
    name = where.rpartition(".")[2].partition("[")[0]
    struct = EncodingSettings if ".encoding." in where else Profiling if where.startswith("profiling.") else Settings
    hint = get_type_hints(struct)[name]
    return [value for part in (hint, *get_args(hint)) if get_origin(part) is Literal for value in get_args(part)]


def _fields_at(where: str) -> tuple[str, ...]:
    if where.startswith("variables."):
        return (EncodingSettings if where.endswith(".encoding") else VariableSettings).__struct_fields__
    return {"expand_dims": ExpandDims, "profiling": Profiling}.get(where, Polling).__struct_fields__


def _hint(name: object, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; there are {', '.join(known)}"


# Reading.


def _read(path: str, file: FileObj | None) -> bytes:
    try:
        if file is not None or "://" in path:
            data = (file or FileObj(path)).read()
            return data if isinstance(data, bytes) else data.encode()
        with open(path, "rb") as opened:
            return opened.read()
    except (OSError, ImportError, ValueError) as error:
        raise UsageError(
            f"configuration {path} cannot be read: {getattr(error, 'strerror', None) or error or type(error).__name__}"
        ) from error


def _parsed(path: str, data: bytes, expand: Callable[[str], str]) -> dict[str, Any]:
    """Return what is in a file, `expand` applied to every text."""
    import yaml

    try:
        if path.endswith(".json"):
            values = _each_text(msgspec.json.decode(data), expand)
        elif path.endswith(".toml"):
            import tomllib

            values = _each_text(tomllib.loads(data.decode()), expand)
        else:
            marked = re.sub(r"\$(\$?)\{([^}]*)\}", rf"{MARKS[0]}\1\2{MARKS[1]}", data.decode())
            values = yaml.load(marked, _yaml_loader(lambda text: expand(_unmarked(text))))
    except yaml.YAMLError as error:
        # Only where and why: the line itself may hold a secret.
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None) or type(error).__name__
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"configuration {path} cannot be understood: {why}{where}") from None
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"configuration {path} cannot be understood: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"configuration {path} must hold names and values, not a {type(values).__name__}")
    return values


def _unmarked(text: str) -> str:
    return re.sub(rf"{MARKS[0]}(\$?)([^{MARKS[1]}]*){MARKS[1]}", r"$\1{\2}", text)


def _each_text(value: Any, expand: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _each_text(inner, expand) for name, inner in value.items()}
    if isinstance(value, list):
        return [_each_text(inner, expand) for inner in value]
    return expand(value) if isinstance(value, str) else value


def _expanded(text: str, path: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match["braced"]
        if match["dollar"]:
            return "$"
        if name is None:  # without braces it may be mere text
            return os.environ.get(match["bare"], match[0])
        if name not in os.environ:
            raise UsageError(
                f"configuration {path}: the environment has no variable {name!r}; set it, or write $${{{name}}} for "
                f"the text itself"
            )
        return os.environ[name]

    return VARIABLE.sub(value, text)


def _yaml_loader(expand: Callable[[str], str]) -> Any:
    """Return a loader that takes ``1e-2`` for a number, as YAML 1.2 and most readers do, and PyYAML does not.

    What stands for a variable of the environment without quotes is then read as if its value stood there.
    """
    import yaml

    def scalar(self: Any, anchor: Any) -> Any:
        event = self.peek_event()
        event.value = expand(event.value)
        return yaml.SafeLoader.compose_scalar_node(self, anchor)

    loader: Any = type("Loader", (yaml.SafeLoader,), {"compose_scalar_node": scalar})
    pattern = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+.0123456789"))
    return loader
