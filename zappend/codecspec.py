"""How users name codecs ↔ the members of an array's documents that say how its chunks are encoded.

A codec is named as numcodecs does, ``{"id": "zstd", "level": 5}``, as zarr 3 does, ``{"name": "zstd", "configuration":
{"level": 5}}``, by its mere name, or is an object of either library; every way serves both formats. In format 3 codecs
of numcodecs that the specification does not have bear the names that zarr-python gave them, ``numcodecs.delta``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import UNSET

from zappend.datatypes import is_bytes, is_variable_length
from zappend.errors import UsageError
from zappend.metadata import Array, Json
from zappend.settings import EncodingSettings
from zappend.suggestions import did_you_mean

__all__ = ["chunk_keys", "codec_differences", "codecs_for"]

SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")

BLOSC_OPTIONS = ("typesize", "cname", "clevel", "shuffle", "blocksize")

PREFIX = "numcodecs."

NATIVE = frozenset({"blosc", "gzip", "zstd", "crc32c", "vlen-utf8", "vlen-bytes"})
"""Codecs that format 3 has under the name that numcodecs gives them."""

ONLY_V3 = frozenset({"transpose", "bytes", "sharding_indexed"})

CRC32C = {"name": "crc32c"}


def codecs_for(
    zarr_format: int,
    name: str,
    dtype: np.dtype[Any],
    wanted: EncodingSettings,
    *,
    inner_chunks: tuple[int, ...] | None = None,
    checksum: bool = False,
) -> Json:
    """Return the members of a new array's document that say how its chunks are encoded.

    By default, numbers: Blosc with LZ4 and byte shuffle, which costs the least time of the codecs that every reader
    knows, and shrinks floats where others without shuffle do not. Strings in format 3: Zstandard, as they have no
    fixed size.

    Parameters
    ----------
    zarr_format, name, dtype
        Format of the cube, name of the variable, type of its stored values.
    wanted
        The settings; what they leave open is as above.
    inner_chunks
        Shape of a chunk in a shard, ``None`` if there are no shards.
    checksum
        Whether what is stored carries a CRC32C checksum.

    Raises
    ------
    UsageError
        If a codec is unknown, or the format cannot have it.
    """
    if zarr_format == 2:
        if checksum:
            raise UsageError(
                f"setting checksum: Zarr format 2 has none that every reader knows; use zarr_format 3 "
                f"(variable {name!r})"
            )
        if inner_chunks is not None:
            raise UsageError(f"setting variables.{name}.encoding.shards: Zarr format 2 has no shards; use format 3")
        return {"order": "C", **_v2_codecs(name, dtype, wanted)}
    filters, serializer, compressors = _v3_codecs(name, dtype, wanted)
    if checksum:
        compressors = _with_checksum(compressors)
    codecs = [*filters, serializer, *compressors]
    if inner_chunks is None:
        return {"codecs": codecs}
    sharding = {
        "chunk_shape": list(inner_chunks),
        "codecs": codecs,
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, CRC32C],
        "index_location": "end",
    }
    return {"codecs": [{"name": "sharding_indexed", "configuration": sharding}]}


def chunk_keys(zarr_format: int, name: str, wanted: EncodingSettings) -> Json:
    """Return the member of a new array's document that says how the keys of its chunks are made.

    Raises
    ------
    UsageError
        If ``chunk_key_encoding`` is nothing that is known.
    """
    given_as = "chunk_key_encoding" if wanted.dimension_separator is UNSET else "dimension_separator"
    where = f"setting variables.{name}.encoding.{given_as}"
    given = {} if wanted.chunk_key_encoding is UNSET else wanted.chunk_key_encoding
    if isinstance(given, str):
        given = {"separator": given}
    if not isinstance(given, dict):
        raise UsageError(f"{where}: it must be a mapping such as {{'name': 'default', 'separator': '/'}}")
    inner = given.get("configuration") or {}
    options = {**given, **inner} if isinstance(inner, dict) else {}
    if not options.keys() <= {"name", "separator", "configuration"} or not isinstance(inner, dict):
        raise UsageError(f"{where}: it has a name and a separator, and nothing else; not {given}")
    kind = options.get("name", "v2" if zarr_format == 2 else "default")
    if kind not in ("default", "v2") or (zarr_format == 2 and kind != "v2"):
        raise UsageError(f"{where}: Zarr format {zarr_format} has no {kind!r}")
    separator = options.get("separator", "/" if kind == "default" else ".")
    if separator not in (".", "/"):
        raise UsageError(f"{where}: the separator must be '.' or '/', not {separator!r}")
    if zarr_format == 2:
        return {"dimension_separator": separator}
    return {"chunk_key_encoding": {"name": kind, "configuration": {"separator": separator}}}


# Format 2.


def _v2_codecs(name: str, dtype: np.dtype[Any], wanted: EncodingSettings) -> Json:
    compressor: Json | None = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
    if wanted.serializer not in (UNSET, None, "auto"):
        raise UsageError(f"setting variables.{name}.encoding.serializer: Zarr format 2 has none; use filters")
    if not _is_open(wanted.compressors):
        given = _many(wanted.compressors)
        if len(given) > 1:
            raise UsageError(
                f"{_where(name, 'compressors', wanted)}: Zarr format 2 has one compressor, not {len(given)}; "
                f"put the others into filters, or use format 3"
            )
        compressor = _v2_codec(given[0], _where(name, "compressors", wanted)) if given else None
    filters = [] if wanted.filters in (UNSET, "auto") else _many(wanted.filters)
    chain = [_v2_codec(codec, _where(name, "filters")) for codec in filters]
    if is_variable_length(dtype) and not any(codec["id"].startswith(("vlen-", "json2", "msgpack2")) for codec in chain):
        chain.insert(0, {"id": "vlen-bytes" if is_bytes(dtype) else "vlen-utf8"})
    return {"filters": chain or None, "compressor": compressor}


def _v2_codec(codec: Any, where: str) -> Json:
    import numcodecs
    from numcodecs.errors import UnknownCodecError

    kind, options = _named(codec, where)
    if kind in ONLY_V3:
        raise UsageError(f"{where}: Zarr format 2 has no codec {kind!r}")
    options.pop("typesize", None)
    if kind == "blosc":
        _check_blosc(options, where)
        if options.get("shuffle") in SHUFFLES:
            options["shuffle"] = SHUFFLES.index(options["shuffle"])
    if kind == "zstd" and not options.get("checksum"):
        options.pop("checksum", None)
    try:
        config: Json = numcodecs.get_codec({"id": kind, **options}).get_config()
    except UnknownCodecError:
        raise _unknown(kind, where, f"numcodecs does not have it{_nearest(kind)}") from None
    except (ValueError, TypeError) as error:
        raise _unknown(kind, where, error) from error
    return config


# Format 3.


def _v3_codecs(name: str, dtype: np.dtype[Any], wanted: EncodingSettings) -> tuple[list[Json], Json, list[Json]]:
    """Return the codecs from arrays to arrays, the one from an array to bytes, and those from bytes to bytes."""
    variable = is_variable_length(dtype)
    serializer: Json
    if wanted.serializer not in (UNSET, None, "auto"):
        serializer = _v3_codec(wanted.serializer, dtype, _where(name, "serializer"), "serializer")
    elif variable:
        serializer = {"name": "vlen-bytes" if is_bytes(dtype) else "vlen-utf8", "configuration": {}}
    elif dtype.itemsize == 1 or dtype.kind in "SV":
        serializer = {"name": "bytes"}  # a type of one byte or of bytes has no byte order
    else:
        serializer = {"name": "bytes", "configuration": {"endian": "little"}}
    if not _is_open(wanted.compressors):
        where = _where(name, "compressors", wanted)
        compressors = [_v3_codec(codec, dtype, where, "compressors") for codec in _many(wanted.compressors)]
    elif variable:
        compressors = [{"name": "zstd", "configuration": {"level": 0, "checksum": False}}]
    else:
        compressors = [_blosc({"cname": "lz4"}, dtype)]
    filters = [] if wanted.filters in (UNSET, "auto") else _many(wanted.filters)
    where = _where(name, "filters")
    return [_v3_codec(codec, dtype, where, "filters") for codec in filters], serializer, compressors


def _with_checksum(compressors: list[Json]) -> list[Json]:
    return compressors if compressors and compressors[-1]["name"] == CRC32C["name"] else [*compressors, CRC32C]


def _v3_codec(codec: Any, dtype: np.dtype[Any], where: str, setting: str) -> Json:
    kind, options = _named(codec, where)
    spelling, known = _codec_class(kind)
    if known is None:
        raise _unknown(kind, where, f"neither zarr nor numcodecs has it{_nearest(kind)}")
    if (place := _place(known)) != setting:
        raise UsageError(f"{where}: in Zarr format 3 {kind!r} belongs under {place!r}")
    if kind == "blosc":
        _check_blosc(options, where)
        return _blosc(options, dtype)
    if kind == "bytes" and "endian" not in options and dtype.itemsize > 1:
        options["endian"] = "little"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the specification does not have the codecs of numcodecs
            document: Json = dict(known.from_dict({"name": spelling, "configuration": options}).to_dict())
    except (ValueError, TypeError) as error:
        raise _unknown(kind, where, error) from error
    # Members may be tuples and enumerations, which a document spells as lists and strings.
    plain: Json = json.loads(json.dumps(document, default=lambda value: getattr(value, "value", str(value))))
    return plain


def _codec_class(kind: str) -> tuple[str, Any]:
    """Return how format 3 spells the name of a codec, and its class, ``None`` if zarr knows none."""
    from zarr.registry import get_codec_class

    for spelling in (kind,) if kind in NATIVE else (kind, PREFIX + kind):
        try:
            return spelling, get_codec_class(spelling)
        except (KeyError, ValueError, TypeError):
            continue
    return kind, None


def _place(known: Any) -> str:
    """Return under which setting a codec of format 3 belongs, by its class."""
    from zarr.abc.codec import ArrayArrayCodec, ArrayBytesCodec

    return (
        "filters"
        if issubclass(known, ArrayArrayCodec)
        else "serializer"
        if issubclass(known, ArrayBytesCodec)
        else "compressors"
    )


def _check_blosc(options: Json, where: str) -> None:
    """Raise `UsageError` for an option that Blosc does not have, or cannot have so."""
    import numcodecs.blosc

    if strange := [option for option in options if option not in BLOSC_OPTIONS]:
        raise _unknown("blosc", where, f"it has no {strange[0]!r}; it has {', '.join(BLOSC_OPTIONS)}")
    possible = {
        "cname": numcodecs.blosc.list_compressors(),
        "clevel": list(range(10)),
        "shuffle": [*SHUFFLES, -1, 0, 1, 2, None],
    }
    for option, values in possible.items():
        if option in options and options[option] not in values:
            listed = ", ".join(map(str, values))
            raise _unknown("blosc", where, f"{option} must be one of {listed}, not {options[option]!r}")


def _blosc(options: Json, dtype: np.dtype[Any]) -> Json:
    shuffle = options.get("shuffle", -1)
    if shuffle is None or shuffle == -1:
        shuffle = "shuffle" if dtype.itemsize > 1 else "bitshuffle"
    elif isinstance(shuffle, int):
        shuffle = SHUFFLES[shuffle]
    configuration = {
        "typesize": options.get("typesize") or dtype.itemsize,
        "cname": options.get("cname", "zstd"),
        "clevel": options.get("clevel", 5),
        "shuffle": shuffle,
        "blocksize": options.get("blocksize", 0),
    }
    return {"name": "blosc", "configuration": configuration}


# What users write.


def _is_open(compressors: Any) -> bool:
    """Tell whether the default is to be chosen, which zappend 0.8 writes as an empty mapping, and zarr as "auto"."""
    return compressors is UNSET or (isinstance(compressors, (str, dict)) and compressors in ("auto", {}))


def _many(codecs: Any) -> list[Any]:
    if codecs is None:
        return []
    return list(codecs) if isinstance(codecs, (list, tuple)) else [codecs]


def _where(name: str, setting: str, wanted: EncodingSettings | None = None) -> str:
    """Return what messages call the setting: as the user did, of the two names that the compressor has."""
    if setting == "compressors" and wanted is not None and wanted.compressor is not UNSET:
        setting = "compressor"
    return f"setting variables.{name}.encoding.{setting}"


def _named(codec: Any, where: str) -> tuple[str, Json]:
    """Return a codec's name and its options, however it is given; without the prefix of numcodecs."""
    if isinstance(codec, type):
        pass  # a class, of which nobody said how it is to be made
    elif hasattr(codec, "get_config"):
        codec = codec.get_config()
    elif hasattr(codec, "to_dict"):
        codec = codec.to_dict()
    if isinstance(codec, str):
        codec = {"name": codec}
    if isinstance(codec, Mapping):
        options = dict(codec)
        kind = options.pop("id", None) or options.pop("name", None)
        if isinstance(kind, str) and kind:
            options = dict(options.pop("configuration", None) or options)
            options.pop("id", None)
            plain = {key: getattr(value, "value", value) for key, value in options.items()}
            return kind.removeprefix(PREFIX), plain
    raise UsageError(f"{where}: a codec is named by {{'id': …}} or {{'name': …}}, not {codec!r}")


def _unknown(kind: str, where: str, error: Exception | str) -> UsageError:
    why = " ".join(str(error).split())
    return UsageError(f"{where}: the codec {kind!r} cannot be had: {why}")


def _nearest(kind: str) -> str:
    from numcodecs.registry import codec_registry

    return did_you_mean(kind, {*codec_registry, *NATIVE, *ONLY_V3})


# What a cube has.


def codec_differences(array: Array, wanted: EncodingSettings, *, checksum: bool) -> list[tuple[str, str, str]]:
    """Return in which of the settings given `array` differs: name, what it has, what is wanted.

    With `checksum` codecs are wanted to end with one.
    """
    stored = _stored_codecs(array)
    differences = []
    if array.zarr_format == 2:
        new = _v2_codecs(array.name, array.dtype, wanted)
        made: Json = {"compressors": new["compressor"], "filters": new["filters"]}
    else:
        filters, serializer, compressors = _v3_codecs(array.name, array.dtype, wanted)
        if checksum:
            compressors = _with_checksum(compressors)
        made = {"compressors": compressors, "filters": filters, "serializer": serializer}
    for setting, value in made.items():
        if getattr(wanted, setting) is not UNSET and not _alike(stored[setting], value):
            differences.append((setting, json.dumps(stored[setting]), json.dumps(value)))
    return differences


def _stored_codecs(array: Array) -> Json:
    """Return what `array` has under each setting, spelled out in full."""
    document = array.document
    if array.zarr_format == 2:
        found = EncodingSettings(
            compressor=None, compressors=document.get("compressor"), filters=document.get("filters")
        )
        made = _v2_codecs(array.name, array.dtype, found)
        return {"compressors": made["compressor"], "filters": made["filters"]}
    from zarr.abc.codec import ArrayArrayCodec

    codecs = list(array.document["codecs"])
    if codecs[0]["name"] == "sharding_indexed":
        codecs = list(codecs[0]["configuration"]["codecs"])
    cut = 0
    while cut < len(codecs) - 1 and issubclass(_codec_class(codecs[cut]["name"])[1] or object, ArrayArrayCodec):
        cut += 1
    found = EncodingSettings(filters=codecs[:cut], serializer=codecs[cut], compressors=codecs[cut + 1 :])
    filters, serializer, compressors = _v3_codecs(array.name, array.dtype, found)
    return {"compressors": compressors, "filters": filters, "serializer": serializer}


def _alike(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
