"""Settings: what can be set, from files and keywords, checked against one schema."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from zappend.errors import UsageError

__all__ = ["ConfigLike", "Polling", "Settings", "load_settings"]

ConfigLike = str | os.PathLike[str] | Mapping[str, Any]
"""A configuration: the path of a JSON, YAML or TOML file, or a mapping of names to values."""


ALIASES = {"target_storage_options": "storage_options"}


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
        Threads that encode and write; as many as there are processors by default. With 1, the calling thread.
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
            merged |= _checked(dict(config), "configuration")
        elif isinstance(config, (str, os.PathLike)):
            merged |= _checked(_read(os.fspath(config)), os.fspath(config))
        else:
            raise UsageError(f"a configuration must be a file or a mapping, not {type(config).__name__}")
    given = {name: value for name, value in settings.items() if value is not None}
    return msgspec.convert(merged | _checked(given, "settings"), Settings)


def _checked(values: dict[str, Any], origin: str) -> dict[str, Any]:
    known = Settings.__struct_fields__
    for alias, name in ALIASES.items():
        if alias in values:
            if name in values:
                raise UsageError(f"{origin}: {alias!r} and {name!r} are one setting; give one of them")
            values = {name if key == alias else key: value for key, value in values.items()}
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; there are {', '.join(known)}"
            raise UsageError(f"{origin}: unknown setting {name!r}{hint}")
    try:
        msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        raise UsageError(f"{origin}: setting {where.rstrip('`') or '?'}: {why[:1].lower()}{why[1:]}") from None
    return values


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
            values = yaml.safe_load(data)
    except OSError as error:
        raise UsageError(f"configuration {path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"configuration {path} cannot be understood: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"configuration {path} must hold names and values, not a {type(values).__name__}")
    return values
