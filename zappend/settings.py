"""The schema: every setting that there is, with its type, its default and what it means.

These classes are all that is known of settings: values are checked against them, and the JSON Schema and the reference
page are made of them and of what their documentation says.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

__all__ = [
    "ALIASES",
    "EncodingSettings",
    "ExpandDims",
    "Overflow",
    "Polling",
    "Profiling",
    "Settings",
    "VariableSettings",
]

ALIASES = {"target_storage_options": "storage_options", "zarr_version": "zarr_format"}
"""Other names of settings."""

Overflow = Literal["error", "clip", "mask"]

LogLevel = Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET"]

SortKey = Literal[
    "calls", "cumulative", "cumtime", "file", "filename", "line", "module", "name", "ncalls", "nfl", "pcalls",
    "stdname", "time", "tottime",
]  # fmt: skip

Sizes = list[int | None] | dict[str, int | None] | int | None | UnsetType
"""Sizes by dimension: in order, or by name; ``None`` is the dimension's size in the first slice."""


class EncodingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How a variable is to be stored. What is not set is chosen by the first slice; ``null`` means "without".

    Attributes
    ----------
    dtype
        Type of the stored values, as numpy names it; ``string`` and ``bytes`` for those of any length.
    chunks
        Sizes of a chunk: a list in the order of the dimensions, or a mapping by their names; ``null`` and -1 stand for
        the dimension's size in the first slice.
    shards
        Sizes of a shard, in format 3 a file of many chunks, as in `chunks`: multiples of the sizes of a chunk.
    compressors
        Codecs from bytes to bytes: one or a list; ``null``: uncompressed. In format 2 there can be one.
    compressor
        The same as `compressors`, by its name in format 2; only one of both can be given.
    filters
        Codecs before that: in format 3 those from arrays to arrays.
    serializer
        In format 3 the codec from an array to bytes.
    fill_value
        What stands for a missing value, and fills chunks that are not there; ``NaN`` may be text.
    scale_factor
        Packing: a value is stored as ``(value - add_offset) / scale_factor``. By default 1.
    add_offset
        Packing: what is subtracted before the value is divided by `scale_factor`. By default 0.
    units
        Of times and durations, as CF has them, such as ``hours since 2024-01-01``; that of other numbers is an
        attribute, which goes into `attrs`.
    calendar
        Of times, as CF has them, such as ``noleap``.
    dimension_separator
        What stands between the numbers in the key of a chunk.
    chunk_key_encoding
        How keys of chunks are made, as zarr-python names it, such as ``{"name": "v2", "separator": "/"}``; or only the
        separator. Only one of this and `dimension_separator` can be given.
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
    dims
        Its dimensions, in order. A slice that has others is refused. With `dims`, and ``dtype`` and ``fill_value`` as
        its encoding, a variable that the first slice lacks begins with the cube, filled. Later slices may lack it, too:
        it is filled again, whatever `missing_variables` says of others.
    encoding
        How it is to be stored.
    attrs
        Attributes of the variable, over those of the first slice; those that say how values are stored are for
        `encoding` to choose.
    """

    dims: list[str] | UnsetType = UNSET
    encoding: EncodingSettings = EncodingSettings()
    attrs: dict[str, Any] = msgspec.field(default_factory=dict)


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


class ExpandDims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the label of a slice comes from that does not have the append dimension. One of the first three is given.

    Attributes
    ----------
    coord
        Name of a scalar coordinate, which becomes that of the append dimension.
    attribute
        Name of an attribute of the slice.
    pattern
        A regular expression that finds the label in the name of the slice's file; if it has a group, that is the label.
    format
        How the label is written, in the codes of `strptime`, such as ``%Y%m%d``. Unset: a number, or a time as in
        ISO 8601; eight digits that are a date are one. A time with a zone is stored in UTC.
    """

    coord: str | None = None
    attribute: str | None = None
    pattern: str | None = None
    format: str | None = None


class Profiling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to profile a run, by Python's ``cProfile``.

    Attributes
    ----------
    enabled
        Whether to.
    path
        File to which the report is written.
    log_level
        Level at which the report is logged; ``NOTSET``: it is not.
    keys
        By what the report is sorted, in the words of ``pstats``.
    restrictions
        Which lines of the report are shown, in the words of ``pstats``: how many, which part, or a pattern.
    """

    enabled: bool = True
    path: str | None = None
    log_level: LogLevel = "INFO"
    keys: list[SortKey] = msgspec.field(default_factory=lambda: ["tottime"])
    restrictions: list[int | float | str] = msgspec.field(default_factory=list)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of an append.

    Attributes
    ----------
    version
        Version of the schema.
    target_dir
        The cube: a local path or a URL. A target that is given by argument wins.
    storage_options
        Options of the target's file system, if it is a URL; also under the name ``target_storage_options``.
    group
        Path of the cube inside the target, which is then a group of groups; the lock is that of the whole target.
    zarr_format
        Format of a new cube, 2 by default; an existing one keeps its own. Also under the name ``zarr_version``.
    consolidated
        Whether the cube has consolidated metadata: ``auto``, a new one has, an existing one as it is; ``true`` and
        ``false``: from the next slice on, in one transaction with it. Groups above the cube keep theirs.
    force_new
        Replace an existing cube by one that begins with the first slice; if that one fails, the old cube stays.
    append_dim
        Dimension along which the cube grows.
    append_step
        What is expected from label to label: a number, a duration such as ``2D``, ``-12h``, ``P1M`` or ``1Y``, ``+`` or
        ``-`` for any step up or down, ``any`` for no check at all. ``M`` are months and ``m`` minutes; months and years
        go by the calendar, with ``MS`` or ``ME`` from first to first or last to last day. Unset: labels come after the
        last one, in the direction of the cube's last two labels, upwards where it has fewer. Without labels only
        ``any`` goes.
    expand_dims
        Give slices that lack the append dimension one of size 1: ``true``, its label is the scalar coordinate of that
        name; or where else it comes from, as in `expand_dims` below. All data variables get it.
    fixed_dims
        Sizes that other dimensions must have, by name, in each slice and in the cube.
    if_exists
        What to do with a slice whose labels are all in the cube: ``error``; ``skip`` it; or ``replace`` what is there.
    if_earlier
        What to do with a slice that does not come after the last label: ``error``, or ``insert`` it where it belongs.
    keep_last
        Delete old labels with each slice that is appended, so that only the last ones stay: how many, or a duration,
        such as ``30d``, for those that are less than that from the last one. A slice stays whole, and one that is
        inserted or replaced deletes nothing.
    keep_undo
        How many undo logs stay beside the cube, so that ``zappend undo`` can take the last commits back: appends and
        edits. A commit with 0 leaves none, also of those before it.
    included_variables
        Names of the variables of a slice that are taken, or patterns such as ``sst_*``; all by default.
    excluded_variables
        Names or patterns of variables that are left out, of those that `included_variables` takes.
    missing_variables
        What to do with a slice that lacks a variable: ``refuse`` it, or ``fill`` the variable with missing values.
    variables
        What holds for single variables, by name, and for all of them by ``*``, as in `variables.<name>` below.
    on_overflow
        What to do with a number that its type or packing cannot hold: ``error``, ``clip`` it to the nearest that can
        be held, or ``mask`` it as missing.
    write_empty_chunks
        Whether chunks in which every value is the fill value are written.
    checksum
        Whether chunks of a new cube carry a CRC32C checksum, which format 3 has.
    attrs
        Attributes of the cube, over all others in every `attrs_update_mode`, set by each slice.
    attrs_update_mode
        What becomes of the cube's attributes when it grows: ``keep`` them, ``replace`` them by the slice's,
        ``update`` them with the slice's, or ``ignore`` those of slices, of the first one too.
    permit_eval
        Whether ``{{ expression }}`` in texts of `attrs` is evaluated, with ``ds``, the cube as it becomes,
        ``lower_bound`` and ``upper_bound``; else it is text. Expressions reach nothing but the cube.
    slice_size
        Labels of a slice: ``chunk``, as many as a chunk of the cube; ``aligned``, a whole number of chunks; ``any``,
        for which the last chunk is read and written again.
    slice_source
        A function or class that makes a slice of each item that is given: itself, or its name as ``module:name``,
        ``module.name`` or ``file.py:name``.
    slice_source_kwargs
        Keyword arguments for it.
    slice_engine
        Engine by which xarray opens slices; by default found out from the slice.
    slice_storage_options
        Options of the file system of slices that are URLs; of a chained URL, each under its protocol, such as ``s3``.
    open_kwargs
        Further arguments of `xarray.open_dataset` for slices, such as ``group``. Slices are not decoded, unless
        ``decode_cf`` or another argument asks for it.
    slice_polling
        Wait for a slice that is not there yet, cannot be opened yet, is a Zarr folder with missing chunks, or still
        changes: ``true``, or how long, as in `slice_polling` below, where either number may be left out. What has
        changed within an interval, or nobody knows when, is looked at twice. Only for slices that are given by path
        or URL.
    slice_missing_chunks
        What to do with a slice that is a Zarr folder with missing chunks, which read as the fill value: ``refuse`` it;
        or ``fill``, take it as it reads. Unset: take it with a warning, but under `slice_polling` refuse it. Under
        `slice_polling` such a slice is waited for in any case, with ``fill``, too: that a chunk is meant to be missing
        shows only when none has come. xarray leaves chunks out that hold nothing but the fill value.
    threads
        Threads that encode and write; by default as many as there are processors, and more where writing waits for a
        disk or a network. With 1, the calling thread does it all.
    max_memory
        Bytes of chunks that may be under way at once, not encoded, and of what is read ahead of the next slice: a
        number, or text such as ``500MB`` or ``2GiB``. A cube with chunks too large for it is refused. By default two
        chunks a thread, and 16 MiB, and 48 MB ahead.
    persist_mem_slices
        Write slices that are in memory to `temp_dir` first, so that what they are computed from is computed once, and
        opened anew.
    temp_dir
        Folder for temporary files, by default that of the system; a local path or a URL.
    temp_storage_options
        Options of the file system of `temp_dir`, if it is a URL.
    lock_timeout
        Seconds to wait for another writer.
    locking
        ``unsafe``: write also to a store that cannot tell whether there is another writer; that there is none is then
        your word.
    durability
        ``full``: an append survives a power cut. ``process``: it survives a kill of the process.
    dry_run
        Check everything, write nothing, and tell what would be written.
    disable_rollback
        Accepted, with a warning and without effect: what is safe costs next to nothing.
    extra
        Anything; for slice sources, which find it as ``ctx.config.extra``.
    logging
        ``true``: log to standard error from level ``INFO`` on; the name of a level: from that one on; or a
        configuration as of `logging.config.dictConfig`. Loggers that it does not name stay as they are.
    profiling
        ``true``: profile the calling thread and log the report; a path: write it there, too; or as in `profiling`
        below.
    """

    version: Literal[1] = 1
    target_dir: str | None = None
    storage_options: dict[str, Any] = msgspec.field(default_factory=dict)
    group: str = ""
    zarr_format: Literal[2, 3] | None = None
    consolidated: Literal["auto"] | bool = "auto"
    force_new: bool = False
    append_dim: Annotated[str, msgspec.Meta(min_length=1)] = "time"
    append_step: str | int | float | None = None
    expand_dims: bool | ExpandDims = False
    fixed_dims: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    if_exists: Literal["error", "skip", "replace"] = "error"
    if_earlier: Literal["error", "insert"] = "error"
    keep_last: Annotated[int, msgspec.Meta(ge=1)] | str | None = None
    keep_undo: Annotated[int, msgspec.Meta(ge=0)] = 0
    included_variables: list[str] = msgspec.field(default_factory=list)
    excluded_variables: list[str] = msgspec.field(default_factory=list)
    missing_variables: Literal["refuse", "fill"] = "refuse"
    variables: dict[str, VariableSettings] = msgspec.field(default_factory=dict)
    on_overflow: Overflow = "error"
    write_empty_chunks: bool = True
    checksum: bool = False
    attrs: dict[str, Any] = msgspec.field(default_factory=dict)
    attrs_update_mode: Literal["keep", "replace", "update", "ignore"] = "keep"
    permit_eval: bool = False
    slice_size: Literal["chunk", "aligned", "any"] = "chunk"
    slice_source: Any = None
    slice_source_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    slice_engine: str | None = None
    slice_storage_options: dict[str, Any] = msgspec.field(default_factory=dict)
    open_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    slice_polling: bool | Polling = False
    slice_missing_chunks: Literal["refuse", "fill"] | None = None
    threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_memory: Annotated[int, msgspec.Meta(ge=1)] | str | None = None
    persist_mem_slices: bool = False
    temp_dir: str | None = None
    temp_storage_options: dict[str, Any] = msgspec.field(default_factory=dict)
    lock_timeout: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    locking: Literal["safe", "unsafe"] = "safe"
    durability: Literal["full", "process"] = "full"
    dry_run: bool = False
    disable_rollback: bool = False
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    logging: bool | LogLevel | dict[str, Any] = False
    profiling: bool | str | Profiling = False

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


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
