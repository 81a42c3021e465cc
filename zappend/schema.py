"""The schema for people and editors: JSON Schema, and the reference page, both made of `zappend.settings`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from zappend.settings import ALIASES, EncodingSettings, ExpandDims, Polling, Profiling, Settings, VariableSettings

__all__ = ["json_schema", "reference_page"]

PARTS: dict[str, type[msgspec.Struct]] = {
    "": Settings,
    "variables.<name>": VariableSettings,
    "variables.<name>.encoding": EncodingSettings,
    "expand_dims": ExpandDims,
    "slice_polling": Polling,
    "profiling": Profiling,
}
"""Where in a configuration each part of the schema stands."""

INTRODUCTION = """\
# Settings

<!-- Made of zappend/settings.py by `zappend config schema --markdown`. -->

All settings, as they stand in configuration files (JSON, YAML, TOML), as keywords of `zappend.append`, and behind
`--set` on the command line, where dots go deeper: `--set variables.sst.encoding.dtype=int16`.

Several files merge: later ones win, name by name, and lists are replaced whole; then come `--set` and keywords. In the
text of files `${NAME}` stands for a variable of the environment, which must be set, `$NAME` for one if it is set, and
`$$` for a dollar sign. The value behind `--set` is YAML, so text with braces or brackets needs quotes:
`--set 'attrs.day="{{ ds.time[-1] }}"'`. Paths in files are relative to the current folder, not to that of the file.

`zappend config show` prints what comes of it all, and where each setting comes from, with `${NAME}` as it is written;
it checks what can be checked without data. `zappend config schema` prints the JSON Schema, for editors.
"""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of configurations, version 2020-12, with a description of each setting."""
    schema = msgspec.json.schema(Settings)
    parts = schema["$defs"]
    for struct in PARTS.values():
        part = parts[struct.__name__]
        part["description"] = (inspect.getdoc(struct) or "").partition("\n")[0]
        for name, text in _descriptions(struct).items():
            part["properties"][name]["description"] = _plain(text).replace("` below", "`")
    settings = parts["Settings"]["properties"]
    for alias, name in ALIASES.items():
        settings[alias] = {**settings[name], "description": f"The same as {name}."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "zappend", **schema}


def reference_page() -> str:
    """Return the page, in Markdown, that has every setting with its values, its default and what it means."""
    return "\n".join([INTRODUCTION, *(line for where in PARTS for line in _section(where))])


def _section(where: str) -> Iterator[str]:
    struct = PARTS[where]
    summary = (inspect.getdoc(struct) or "").partition("\n\nAttributes")[0]
    if where:
        yield f"## `{where}`\n"
        yield f"{_markdown(summary)}\n"
    yield "| setting | values | default | meaning |"
    yield "|---|---|---|---|"
    part = msgspec.json.schema(Settings)["$defs"][struct.__name__]
    aliases = {name: alias for alias, name in ALIASES.items()} if not where else {}
    for name, text in _descriptions(struct).items():
        known = part["properties"][name]
        names = f"`{name}`" + (f", `{aliases[name]}`" if name in aliases else "")
        yield f"| {names} | {_values(known)} | {_default(known)} | {_markdown(text)} |"
    yield ""


def _values(known: dict[str, Any]) -> str:
    """Return in words which values a setting can have."""
    if "anyOf" in known:
        words = dict.fromkeys(_values(one) for one in known["anyOf"])
        if "number" in words:
            words.pop("whole number", None)
        return ", ".join(words)
    if "enum" in known:
        return ", ".join(f"`{value}`" for value in known["enum"])
    if "$ref" in known:
        return "names and values"
    inner = known.get("items") or known.get("additionalProperties") or {}
    match known.get("type"):
        case "array":
            return f"list of {_values(inner)}"
        case "object":
            return "names and values"
        case "boolean":
            return "`true`, `false`"
        case "null":
            return "`null`"
        case "integer":
            return "whole number"
        case "string":
            return "text"
        case "number":
            return "number"
        case _:
            return "any"


def _default(known: dict[str, Any]) -> str:
    default = known.get("default")
    return "" if default in (None, {}, [], "") else f"`{json.dumps(default).strip(chr(34))}`"


def _descriptions(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return what the documentation of `struct` says of each field, in the order of the fields."""
    found: dict[str, str] = {}
    attributes = (inspect.getdoc(struct) or "").partition("Attributes\n----------\n")[2]
    for names, text in re.findall(r"^(\w[\w, ]*)\n((?:    .*\n?)+)", attributes, re.MULTILINE):
        found.update(dict.fromkeys(names.split(", "), " ".join(text.split())))
    return {name: found[name] for name in struct.__struct_fields__}


def _plain(text: str) -> str:
    return text.replace("``", "`")


def _markdown(text: str) -> str:
    return " ".join(_plain(text).split()).replace("|", "\\|")
