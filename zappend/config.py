"""Settings: what can be set, from files and keywords, checked against one schema."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from zappend.errors import UsageError

__all__ = ["ConfigLike", "EncodingSettings", "Overflow", "Polling", "Settings", "VariableSettings", "load_settings"]

ConfigLike = str | os.PathLike[str] | Mapping[str, Any]
"""A configuration: the path of a JSON, YAML or TOML file, or a mapping of names to values."""


ALIASES = {"target_storage_options": "storage_options"}


Overflow = Literal["error", "clip", "mask"]

Sizes = list[int | None] | dict[str, int | None] | int | None | UnsetType
"""Sizes by dimension: in order, or by name; ``None`` is the dimension's size in the first slice."""


class EncodingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How a variable is to be stored. What is not set is chosen by the first slice; ``None`` means "without".

    Attributes
    ----------
    dtype
        Type of the stored values, as numpy names it; ``string`` and ``bytes`` for those of any length.
    chunks, shards
        Sizes of a chunk, and of a shard, in format 3 a file of many chunks: a list in the order of the dimensions,
        or a mapping by their names.
    compressors, compressor
        Codecs from bytes to bytes: one or a list; ``None``: uncompressed. In format 2 there can be one.
    filters
        Codecs before that: in format 3 those from arrays to arrays.
    serializer
        In format 3 the codec from an array to bytes.
    fill_value
        What stands for a missing value, and fills chunks that are not there; ``NaN`` may be text.
    scale_factor, add_offset
        Packing: a value is stored as ``(value - add_offset) / scale_factor``.
    units, calendar
        Of times and durations, as CF has them; of other numbers, ``units`` is an attribute and none of these.
    dimension_separator, chunk_key_encoding
        How keys of chunks are made: ``.`` or ``/``; or as zarr-python names it.
    """

    dtype: Any = UNSET
    chunks: Sizes = UNSET
    shards: Sizes = UNSET
    compressors: Any = UNSET
    compressor: Any = UNSET
    filters: Any = UNSET
    serializer: Any = UNSET
    fill_value: Any = UNSET
    scale_factor: float | UnsetType | None = UNSET
    add_offset: float | UnsetType | None = UNSET
    units: str | UnsetType = UNSET
    calendar: str | UnsetType = UNSET
    dimension_separator: Literal[".", "/"] | UnsetType = UNSET
    chunk_key_encoding: Any = UNSET


class VariableSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of one variable.

    Attributes
    ----------
    encoding
        How it is to be stored.
    """

    encoding: EncodingSettings = EncodingSettings()


class Polling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to wait for a slice.

    Attributes
    ----------
    interval
        Seconds from look to look.
    timeout
        Seconds after which it is given up.
    """

    interval: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    timeout: Annotated[float, msgspec.Meta(ge=0)] = 60.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of an append.

    Attributes
    ----------
    append_dim
        Dimension along which the cube grows.
    append_step
        What is expected from label to label: a number, a duration such as ``1D`` or ``-12h``, ``+`` or ``-`` for any
        step up or down, ``any`` for no check at all. Unset: labels come after the last one, in the direction of the
        cube's last two labels, upwards where it has fewer.
    zarr_format
        Format of a new cube, 2 by default; an existing one keeps its own.
    if_exists
        What to do with a slice whose labels are all in the cube: ``error``, or ``skip`` it.
    included_variables, excluded_variables
        Names of variables, or patterns such as ``sst_*``, of a slice: those to take, all by default, and of these
        those to leave.
    missing_variables
        What to do with a slice that lacks a variable: ``refuse`` it, or ``fill`` the variable with missing values.
    variables
        What holds for single variables, by name, and for all of them by ``*``: `VariableSettings`.
    on_overflow
        What to do with a number that its type or packing cannot hold: ``error``, ``clip`` it to the nearest that can
        be held, or ``mask`` it as missing.
    write_empty_chunks
        Whether chunks in which every value is the fill value are written.
    checksum
        Whether chunks of a new cube carry a CRC32C checksum, which format 3 has.
    attrs_update_mode
        What becomes of the cube's attributes when it grows: ``keep`` them, ``replace`` them by the slice's,
        ``update`` them with the slice's, or ``ignore`` those of slices, of the first one too.
    slice_size
        Labels of a slice: ``chunk``, as many as a chunk of the cube; ``aligned``, a whole number of chunks; ``any``,
        for which the last chunk is read and written again.
    slice_polling
        Wait for a slice that is not there yet, cannot be opened yet, or is a Zarr folder with missing chunks: ``true``,
        or how long as in `Polling`, of which either number may be left out. Only for slices that are given by path.
    slice_missing_chunks
        What to do with a slice that is a Zarr folder with missing chunks, which read as the fill value: ``refuse`` it;
        or ``fill``, take it as it reads. Unset: take it with a warning, but under `slice_polling` refuse it. Under
        `slice_polling` such a slice is waited for in any case, with ``fill``, too: that a chunk is meant to be missing
        shows only when none has come. xarray leaves chunks out that hold nothing but the fill value.
    threads
        Threads that encode and write; by default as many as there are processors, and more where writing waits for a
        disk or a network. With 1, the calling thread does it all.
    lock_timeout
        Seconds to wait for another writer.
    locking
        ``unsafe``: write also to a store that cannot tell whether there is another writer; that there is none is then
        your word.
    storage_options
        Options of the target's file system, if it is a URL; also under the name ``target_storage_options``.
    group
        Path of the cube inside the target, which is then a group of groups; the lock is that of the whole target.
    durability
        ``full``: an append survives a power cut. ``process``: it survives a kill of the process.
    force_new
        Replace an existing cube by one that begins with the first slice; if that one fails, the old cube stays.
    dry_run
        Check everything, write nothing.
    """

    append_dim: Annotated[str, msgspec.Meta(min_length=1)] = "time"
    append_step: str | int | float | None = None
    zarr_format: Literal[2, 3] | None = None
    if_exists: Literal["error", "skip"] = "error"
    included_variables: list[str] = msgspec.field(default_factory=list)
    excluded_variables: list[str] = msgspec.field(default_factory=list)
    missing_variables: Literal["refuse", "fill"] = "refuse"
    variables: dict[str, VariableSettings] = msgspec.field(default_factory=dict)
    on_overflow: Overflow = "error"
    write_empty_chunks: bool = True
    checksum: bool = False
    attrs_update_mode: Literal["keep", "replace", "update", "ignore"] = "keep"
    slice_size: Literal["chunk", "aligned", "any"] = "chunk"
    slice_polling: bool | Polling = False
    slice_missing_chunks: Literal["refuse", "fill"] | None = None
    threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    lock_timeout: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    locking: Literal["safe", "unsafe"] = "safe"
    storage_options: dict[str, Any] = msgspec.field(default_factory=dict)
    group: str = ""
    durability: Literal["full", "process"] = "full"
    force_new: bool = False
    dry_run: bool = False

    def takes(self, name: str) -> bool:
        """Tell whether a variable of a slice is taken: included, and not excluded."""
        included = not self.included_variables or _matches(name, self.included_variables)
        return included and not _matches(name, self.excluded_variables)

    @property
    def polling(self) -> Polling | None:
        """How to wait for slices; ``None``: not at all."""
        if isinstance(self.slice_polling, Polling):
            return self.slice_polling
        return Polling() if self.slice_polling else None


def load_settings(configs: ConfigLike | Iterable[ConfigLike] | None, **settings: Any) -> Settings:
    """Return the settings of `configs`, later ones over earlier ones, and `settings` over all of them.

    A keyword that is ``None`` is taken as not given.

    Raises
    ------
    UsageError
        If a file cannot be read, a name is unknown or a value is none that can be; it names file and setting.
    """
    if configs is None:
        configs = ()
    elif isinstance(configs, (str, os.PathLike, Mapping)):
        configs = (configs,)
    elif not isinstance(configs, Iterable):
        raise UsageError(f"a configuration must be a file or a mapping, not {type(configs).__name__}")
    merged: dict[str, Any] = {}
    for config in configs:
        if isinstance(config, Mapping):
            merged = _merged(merged, _checked(config, "configuration"))
        elif isinstance(config, (str, os.PathLike)):
            merged = _merged(merged, _checked(_read(os.fspath(config)), os.fspath(config)))
        else:
            raise UsageError(f"a configuration must be a file or a mapping, not {type(config).__name__}")
    given = {name: value for name, value in settings.items() if value is not None}
    return msgspec.convert(_merged(merged, _checked(given, "settings")), Settings)


def _merged(values: Any, over: Any) -> Any:
    """Return `values` with those of `over` over them, name by name, as deep as there are names."""
    if not isinstance(values, dict) or not isinstance(over, dict):
        return over
    return {**values, **{name: _merged(values.get(name), value) for name, value in over.items()}}


def _plain(value: Any) -> Any:
    """Return a value with mappings as `dict` and numbers of numpy as those of Python, which are exact."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist") and not isinstance(value, type):
        return value.tolist()  # arrays and numbers of numpy
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _checked(given: Mapping[str, Any], origin: str) -> dict[str, Any]:
    values: dict[str, Any] = _plain(given)
    known = Settings.__struct_fields__
    for alias, name in ALIASES.items():
        if alias in values:
            if name in values:
                raise UsageError(f"{origin}: {alias!r} and {name!r} are one setting; give one of them")
            values = {name if key == alias else key: value for key, value in values.items()}
    for name in values:
        if name not in known:
            raise UsageError(f"{origin}: unknown setting {name!r}{_hint(name, known)}")
    variables = values.get("variables")
    for name, variable in variables.items() if isinstance(variables, dict) else ():
        # One by one: msgspec does not say which of a mapping's values it means.
        _check({"variables": {name: variable}}, origin, f"variables.{name}")
    _check(values, origin, "")
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
    name = where.rpartition(".")[2]
    hint = get_type_hints(EncodingSettings if ".encoding." in where else Settings)[name]
    return [value for part in (hint, *get_args(hint)) if get_origin(part) is Literal for value in get_args(part)]


def _fields_at(where: str) -> tuple[str, ...]:
    struct = EncodingSettings if where.endswith(".encoding") else VariableSettings if "." in where else Polling
    return struct.__struct_fields__


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _hint(name: object, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; there are {', '.join(known)}"


def _yaml_loader() -> Any:
    """Return a loader that takes ``1e-2`` for a number, as YAML 1.2 and most readers do, and PyYAML does not."""
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    pattern = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+.0123456789"))
    return loader


def _read(path: str) -> dict[str, Any]:
    import yaml

    try:
        with open(path, "rb") as file:
            data = file.read()
        if path.endswith(".json"):
            values = msgspec.json.decode(data)
        elif path.endswith(".toml"):
            import tomllib

            values = tomllib.loads(data.decode())
        else:
            values = yaml.load(data, _yaml_loader())
    except OSError as error:
        raise UsageError(f"configuration {path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"configuration {path} cannot be understood: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"configuration {path} must hold names and values, not a {type(values).__name__}")
    return values
