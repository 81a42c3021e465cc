"""Configurations: files and mappings of settings, read, checked one by one against the schema, and merged.

Later configurations win, name by name, as deep as there are names; lists are replaced whole.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from zappend.errors import UsageError
from zappend.fileobj import FileObj
from zappend.redaction import cause_of, conceal, is_secret, redacted
from zappend.settings import Settings
from zappend.validation import checked, dotted, renamed

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

MERGE = "tag:yaml.org,2002:merge"
"""What YAML makes of the name ``<<``."""

ASSIGNED = re.compile(r'(?:"[^"]*"|[^."])+')
"""The names in ``variables.sst.attrs."long.name"``, one by one."""

ASSIGNABLE = re.compile(r"[\w.]*")
"""What is shown of an assignment without a value: what follows may be one, and secret."""


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
        values = checked(given, "")
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
        named = ASSIGNABLE.match(text)
        raise UsageError(
            f"--set {named[0] if named else ''}: write it as name=value, such as variables.sst.encoding.dtype=int16"
        )
    if dotted(path) != names.strip().replace('"', "") and '"' not in names:
        raise UsageError(f"--set {names}: between two dots there is no name")
    try:
        values: Any = yaml.load(value, _yaml_loader(lambda text: text))
    except yaml.YAMLError as error:
        shown = "…" if is_secret(path) else value.strip()
        quoted = shlex.quote(f"{names}={json.dumps(shown, ensure_ascii=False)}")
        why = "" if is_secret(path) else f": {getattr(error, 'problem', None) or type(error).__name__}"
        raise UsageError(
            f"--set {names}: the value cannot be read as YAML{why}; if it is text, quote it: --set {quoted}"
        ) from None
    for name in reversed(path):
        values = {name: values}
    values = checked(values, "--set")
    return Layer("--set", values, values)


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
        values = checked(config, "")
        return Layer("configuration", values, values)
    file, path = (config, config.uri) if isinstance(config, FileObj) else (None, os.fspath(config))
    conceal(None if file is None else file.storage_options, path)
    name = redacted(path)
    data = _read(path, file)
    written = _parsed(name, data, lambda text: text)
    values = checked(_parsed(name, data, lambda text: _expanded(text, name)), name, written)
    return Layer(name, values, renamed(written, name))


# Reading.


def _read(path: str, file: FileObj | None) -> bytes:
    try:
        if file is not None or "://" in path:
            data = (file or FileObj(path)).read()
            return data if isinstance(data, bytes) else data.encode()
        with open(path, "rb") as opened:
            return opened.read()
    except Exception as error:
        # What file systems raise is up to them.
        why = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"configuration {redacted(path)} cannot be read: {redacted(why)}") from cause_of(error)


def _parsed(path: str, data: bytes, expand: Callable[[str], str]) -> dict[str, Any]:
    """Return what is in a file, `expand` applied to every text."""
    import yaml

    try:
        if path.endswith(".json"):
            values = _each_text(json.loads(data, object_pairs_hook=_once_each), expand)
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
        what = "a list" if isinstance(values, list) else "only text" if isinstance(values, str) else "a single value"
        raise UsageError(
            f"configuration {path} must hold names and values, not {what}; by the end of its name it is read as "
            f"{'JSON' if path.endswith('.json') else 'YAML'}"
        )
    return values


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the names and values of a JSON object; raise `ValueError` if a name stands there twice."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"the name {name!r} stands there twice")
        values[name] = value
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


def _merged_in(node: Any, own: Iterable[tuple[str, str]]) -> list[Any]:
    """Return what merge keys (``<<``) add to a mapping: where names meet, its own wins, then that which comes first.

    Source of the rule: https://yaml.org/type/merge.html
    """
    import yaml

    known = set(own)
    added = []
    for merge, value in node.value:
        if merge.tag != MERGE:
            continue
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(source, yaml.MappingNode):
                why = f"{merge.value} merges a mapping or a list of mappings, not a {source.id}"
                raise yaml.composer.ComposerError(None, None, why, source.start_mark)
            for name, inner in source.value:
                key = (name.tag, name.value) if isinstance(name, yaml.ScalarNode) else None
                if name.tag != MERGE and key not in known:
                    added.append((name, inner))
                    known.update(() if key is None else (key,))
    return added


def _yaml_loader(expand: Callable[[str], str]) -> Any:
    """Return a loader that takes ``1e-2`` for a number, as YAML 1.2 and most readers do, and PyYAML does not.

    What stands for a variable of the environment without quotes is then read as if its value stood there. A name that
    stands twice in a mapping is an error. Merge keys are resolved here, since PyYAML 6.0.4 lets the wrong one win.
    """
    import yaml

    def scalar(self: Any, anchor: Any) -> Any:
        event = self.peek_event()
        event.value = expand(event.value)
        return yaml.SafeLoader.compose_scalar_node(self, anchor)

    def mapping(self: Any, anchor: Any) -> Any:
        node = yaml.SafeLoader.compose_mapping_node(self, anchor)
        own: dict[tuple[str, str], int] = {}
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue
            key = (name.tag, name.value)
            if key in own:
                why = f"the name {name.value!r} stands there twice, first in line {own[key]}, and again"
                raise yaml.composer.ComposerError(None, None, why, name.start_mark)
            own[key] = name.start_mark.line + 1
        node.value = [*_merged_in(node, own), *(pair for pair in node.value if pair[0].tag != MERGE)]
        return node

    names = {"compose_scalar_node": scalar, "compose_mapping_node": mapping}
    loader: Any = type("Loader", (yaml.SafeLoader,), names)
    pattern = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+.0123456789"))
    return loader
