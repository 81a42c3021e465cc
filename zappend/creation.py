"""What a new cube chooses for a variable of its first slice: how its values are stored.

The settings come first, then what the slice itself says of how it was stored, then what serves most readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import UNSET

from zappend.cf import choose_encoding
from zappend.chunking import choose_shapes
from zappend.codecspec import chunk_keys, codecs_for
from zappend.datatypes import Block
from zappend.encoding import PACKING_KEYS, Encoding, decode, same
from zappend.errors import UsageError
from zappend.exact import EncodingError
from zappend.forms import named_type
from zappend.kinds import is_missing, is_storable, kind_of_type
from zappend.metadata import Array, new_array
from zappend.settings import EncodingSettings
from zappend.slices import SliceVariable
from zappend.variables import fill_number, type_name

__all__ = ["create_array"]


def create_array(
    variable: SliceVariable,
    zarr_format: int,
    wanted: EncodingSettings,
    *,
    dim: str,
    is_label: bool,
    is_coord: bool,
    checksum: bool,
) -> tuple[Array, Encoding]:
    """Return the array in which a new cube stores `variable`, of the size that the variable has, and how.

    Parameters
    ----------
    variable
        A variable of the first slice.
    zarr_format
        Format of the cube.
    wanted
        What the settings say of this variable.
    dim
        The append dimension.
    is_label, is_coord
        Whether it is a coordinate along `dim`, or the bounds of one; whether it is a coordinate.
    checksum
        Whether chunks carry a checksum.

    Raises
    ------
    EncodingError
        If values cannot be stored as is wanted.
    UsageError
        If the settings contradict the variable or each other.
    """
    encoding = _choose(variable, wanted)
    if encoding.packing is not None and kind_of_type(encoding.dtype) not in ("numbers", "complex numbers"):
        raise EncodingError(f"{variable.kind} cannot be packed by scale_factor and add_offset")
    if zarr_format == 3 and "_FillValue" in encoding.attrs and encoding.kind in ("strings", "bytes"):
        raise EncodingError(
            f"in Zarr format 3 xarray cannot read {encoding.kind} with a fill value; leave it out, or use zarr_format 2"
        )
    sign, fill = encoding.other_sign, encoding.attrs.get("_FillValue")
    if isinstance(fill, list):
        raise EncodingError(f"its _FillValue is {fill}, and can be only one value; missing_value can be several")
    if zarr_format == 3 and sign is not None and fill is not None and fill > np.iinfo(sign).max and sign.kind == "i":
        raise EncodingError(f"in Zarr format 3 xarray cannot read the fill value {fill} as {sign}; use a signed type")
    axis = variable.dims.index(dim) if dim in variable.dims else None
    chunks, shards = choose_shapes(variable, wanted, encoding, axis, is_label=is_label, is_coord=is_coord)
    codecs = codecs_for(
        zarr_format,
        variable.name,
        encoding.dtype,
        wanted,
        inner_chunks=None if shards is None else chunks,
        checksum=checksum,
    )
    array = new_array(
        variable.name,
        zarr_format,
        shape=variable.shape,
        chunks=shards or chunks,
        dims=variable.dims,
        dtype=encoding.dtype,
        fill_value=fill if fill is not None or encoding.dtype.kind not in "mM" else np.array("NaT", encoding.dtype)[()],
        attrs={**variable.attrs, **encoding.attrs},
        codecs={**codecs, **chunk_keys(zarr_format, variable.name, wanted)},
    )
    return array, encoding


# How values are stored.


def _choose(variable: SliceVariable, wanted: EncodingSettings) -> Encoding:
    source = variable.source
    configured = _configured(variable, wanted)
    if source is not None and not configured and variable.dtype.kind in "iufc":
        attrs = dict(source.attrs)
        if source.kind in ("times", "durations"):
            decode(variable.read(), source)  # what readers cannot decode must not begin a cube
        if source.dtype.kind in "fc" and "_FillValue" not in attrs:
            attrs["_FillValue"] = np.nan
        return Encoding(source.dtype.newbyteorder("<"), attrs)
    known: dict[str, Any] = dict(variable.wanted) if source is None else {**source.attrs, "dtype": source.dtype}
    dtype, own = configured.get("dtype"), _type_of(known)
    if dtype is not None and dtype != own:
        known = {key: value for key, value in known.items() if key not in PACKING_KEYS}
    if "_FillValue" in configured:
        known.pop("missing_value", None)
    elif variable.kind in ("strings", "bytes"):
        known.pop("_FillValue", None)  # most have "" there without meaning it; what is missing is refused
    known.update(configured)
    values = _values(variable)
    exactly = bool({"units", "dtype"} & configured.keys())
    encoding = choose_encoding(values, known, exactly=exactly)
    name, where = type_name(encoding.dtype), f"setting variables.{variable.name}.encoding"
    if not is_storable(variable.kind, encoding.kind):
        raise UsageError(f"{where}.dtype: {variable.kind} cannot be stored as {name}, which holds {encoding.kind}")
    fill = configured.get("_FillValue")
    if fill is not None and encoding.kind == "booleans":
        raise UsageError(f"{where}.fill_value: booleans have no missing value; leave it out")
    if fill is not None and not _is_one_of(fill, encoding.dtype):
        raise UsageError(f"{where}.fill_value: {fill!r} is no value of {name}")
    return encoding


def _is_one_of(fill: Any, dtype: np.dtype[Any]) -> bool:
    """Tell whether `fill` is a value of `dtype`, but for the digits that floats lose."""
    kind = kind_of_type(dtype)
    if isinstance(fill, bool) or not isinstance(
        fill, {"strings": str, "bytes": bytes}.get(kind, (int, float, complex))
    ):
        return False
    try:
        with np.errstate(all="ignore"):
            cast: Any = np.asarray(fill).astype(dtype)[()]
    except (ValueError, TypeError, OverflowError):
        return False
    number: Any = fill
    return bool(np.isfinite(cast) or not np.isfinite(number)) if dtype.kind in "fc" else same(cast, number)


def _values(variable: SliceVariable) -> Block:
    """Return what the choice depends on: all values of times and durations, or a first one that tells."""
    first = variable.read(tuple(slice(0, 1) for _ in variable.dims))
    needs_all = variable.kind in ("times", "durations") or (first.dtype == object and is_missing(first).all())
    values = variable.read() if needs_all else first
    if variable.dtype.kind in "SV":
        return values.astype(variable.dtype)  # a single element may be shorter
    return values if variable.source is None else decode(values, variable.source)


def _type_of(known: Mapping[str, Any]) -> np.dtype[Any] | None:
    if known.get("dtype") is None:
        return None
    try:
        dtype: np.dtype[Any] = np.dtype(known["dtype"])
    except TypeError as error:
        raise EncodingError(f"its encoding has a dtype that is none: {error}") from None
    if dtype.kind != "T":  # strings of NumPy have no byte order
        dtype = dtype.newbyteorder("<")
    return dtype


def _configured(variable: SliceVariable, wanted: EncodingSettings) -> dict[str, Any]:
    """Return what is set of type, packing, units and fill value, in the names of xarray's encodings."""
    where = f"setting variables.{variable.name}.encoding"
    given: dict[str, Any] = {}
    if wanted.dtype is not UNSET:
        given["dtype"] = named_type(wanted.dtype, variable.name)
    for key in ("scale_factor", "add_offset", "units", "calendar"):
        if (value := getattr(wanted, key)) is not UNSET:
            given[key] = value
    if (scale := given.get("scale_factor")) is not None and not (np.isfinite(scale) and scale):
        raise UsageError(f"{where}.scale_factor: it must be a number other than zero, not {scale}")
    if (offset := given.get("add_offset")) is not None and not np.isfinite(offset):
        raise UsageError(f"{where}.add_offset: it must be a number, not {offset}")
    if wanted.fill_value is not UNSET:
        given["_FillValue"] = fill_number(wanted.fill_value, variable.kind)
    return given
