"""Whether what the settings say of encodings agrees with what a cube has, or what a new one would have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from zappend.codecspec import chunk_keys, codec_differences
from zappend.encoding import Encoding, encoding_attrs, is_time_unit, same, same_units
from zappend.errors import UsageError
from zappend.forms import named_type
from zappend.metadata import Array, Cube
from zappend.settings import EncodingSettings, Settings
from zappend.slices import Slice
from zappend.variables import dims_of, encoding_settings, fill_number, sizes_of, type_name

__all__ = ["check_encodings", "check_followed"]


def check_encodings(cube: Cube, new: Slice, encodings: Mapping[str, Encoding], settings: Settings) -> None:
    """Raise `UsageError` with every difference between what is set of encodings and what `cube` has."""
    problems = []
    if settings.variables:
        for name, array in cube.arrays.items():
            wanted = encoding_settings(settings, name, encodings[name], array.dims, is_data=name not in new.coords)
            _check_units(name, encodings[name], wanted)
            if (dims := dims_of(settings, name)) not in (None, array.dims):
                problems.append(f"variable {name!r} has dims {array.dims} in the target, and {dims} in the settings")
            problems += [
                f"variable {name!r} has {setting} {ours} in the target, and {theirs} in the settings"
                for setting, ours, theirs in _differences(array, encodings[name], wanted, checksum=settings.checksum)
            ]
    if settings.checksum:
        lacking = [name for name, array in cube.arrays.items() if '"crc32c"' not in json.dumps(array.document)]
        problems += [f"variable {name!r} has no checksum in the target, and checksum is set" for name in lacking]
    if problems:
        raise UsageError(
            f"{'; '.join(problems)}; an existing cube keeps its encoding: leave the setting out, or start anew"
        )


def check_followed(array: Array, encoding: Encoding, wanted: EncodingSettings, *, checksum: bool) -> None:
    """Raise `UsageError` if a new `array` would not have what is `wanted`, since it means nothing for its values.

    Without this the cube would begin, and refuse the same settings when it is to grow.
    """
    _check_units(array.name, encoding, wanted)
    problems = [
        f"setting variables.{array.name}.encoding.{setting} is {theirs}, but the variable, which holds "
        f"{encoding.kind}, would have {ours}"
        for setting, ours, theirs in _differences(array, encoding, wanted, checksum=checksum)
    ]
    if problems:
        raise UsageError(f"{'; '.join(problems)}; leave the setting out")


def _check_units(name: str, encoding: Encoding, wanted: EncodingSettings) -> None:
    """Raise `UsageError` for units of numbers, which say nothing of how these are stored."""
    if wanted.units is not UNSET and encoding.kind == "numbers" and not is_time_unit(wanted.units):
        raise UsageError(
            f"setting variables.{name}.encoding.units: {name!r} holds numbers, and their units are an attribute; set "
            f"variables.{name}.attrs.units"
        )


def _differences(
    array: Array, encoding: Encoding, wanted: EncodingSettings, *, checksum: bool
) -> list[tuple[str, str, str]]:
    found: list[tuple[str, Any, Any]] = []
    attrs = encoding.attrs
    if wanted.dtype is not UNSET:
        found.append(("dtype", type_name(encoding.dtype), type_name(named_type(wanted.dtype, array.name))))
    if wanted.fill_value is not UNSET:
        fill = fill_number(wanted.fill_value, encoding.kind)
        theirs = encoding_attrs({**attrs, "_FillValue": fill}, array.dtype).get("_FillValue")
        found.append(("fill_value", attrs.get("_FillValue"), theirs))
    for key, default in (("scale_factor", 1.0), ("add_offset", 0.0)):
        value = getattr(wanted, key)
        if value is not UNSET:
            found.append((key, attrs.get(key, default), default if value is None else value))
    if wanted.units is not UNSET and not same_units(wanted.units, attrs.get("units")):
        found.append(("units", attrs.get("units"), wanted.units))
    if wanted.calendar is not UNSET:
        calendar = Encoding(encoding.dtype, {"calendar": wanted.calendar}).calendar
        found.append(("calendar", encoding.calendar, calendar))
    shards = array.chunks if array.is_sharded else None
    nothing = (None,) * len(array.dims)
    for key, ours in (("chunks", array.inner_chunks), ("shards", shards)):
        value = getattr(wanted, key)
        if key == "shards" and ours is None and value not in (UNSET, None) and array.dims:
            found.append((key, None, value))
        elif value is not UNSET and ours is not None:
            sizes = sizes_of(value, array.name, key, array.dims, nothing)
            theirs = tuple(size if want is None else want for size, want in zip(ours, sizes, strict=True))
            found.append((key, ours, theirs))
    if wanted.chunk_key_encoding is not UNSET:
        keys = chunk_keys(array.zarr_format, array.name, wanted)
        empty = chunk_keys(2, array.name, EncodingSettings()) if array.zarr_format == 2 else {}
        found += [("chunk_key_encoding", array.document.get(key, empty.get(key)), value) for key, value in keys.items()]
    differences = [(key, str(ours), str(theirs)) for key, ours, theirs in found if not same(ours, theirs)]
    if any(codec is not UNSET for codec in (wanted.compressors, wanted.filters, wanted.serializer)):
        differences += codec_differences(array, wanted, checksum=checksum)
    return differences
