"""Types of stored values and their fill values ↔ how the documents of formats 2 and 3 spell them in JSON."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np

from zappend.errors import TargetError

__all__ = [
    "BYTES",
    "STRING",
    "Block",
    "default_fill",
    "fill_from_attribute",
    "fill_from_json",
    "fill_to_attribute",
    "fill_to_json",
    "is_bytes",
    "is_variable_length",
    "v3_dtype",
    "v3_fill",
    "v3_fill_to_json",
    "v3_type",
]

Block = np.ndarray[Any, np.dtype[Any]]
"""Values of a chunk, or of a part of a variable."""

V3_TYPES = {
    "bool": "bool",
    **{
        f"{kind}{bits}": f"<{code}{bits // 8}"
        for kind, code in (("int", "i"), ("uint", "u"))
        for bits in (8, 16, 32, 64)
    },
    **{f"float{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    **{f"complex{bits}": f"<c{bits // 8}" for bits in (64, 128)},
}
V3_NAMES = {np.dtype(code).str: name for name, code in V3_TYPES.items()}

STRING = np.dtype("O")
"""In memory a variable-length string is a Python object; which kind, the codec says."""

BYTES = np.dtype("O", metadata={"vlen": bytes})
"""Bytes of any length are Python objects, too; NumPy takes both types for equal, so ask `is_bytes`."""

TIME_NAMES = {"M": "numpy.datetime64", "m": "numpy.timedelta64"}

NOT_A_TIME = np.iinfo("i8").min
"""The number by which NumPy stores NaT."""


def is_variable_length(dtype: np.dtype[Any]) -> bool:
    """Tell whether values of `dtype` are Python strings, or bytes, of any length."""
    return dtype == STRING


def is_bytes(dtype: np.dtype[Any]) -> bool:
    """Tell whether values of `dtype` are bytes of any length."""
    return dtype == STRING and dtype.metadata is not None and dtype.metadata["vlen"] is bytes


def v3_dtype(data_type: str | dict[str, Any], name: str) -> np.dtype[Any]:
    """Return the type that format 3 names `data_type`; raise `TargetError` if array `name` has an unknown one."""
    kind = data_type if isinstance(data_type, str) else data_type["name"]
    options = {} if isinstance(data_type, str) else data_type.get("configuration", {})
    length = int(options.get("length_bytes", 0))
    if kind in V3_TYPES:
        return np.dtype(V3_TYPES[kind])
    if kind == "string":
        return STRING
    if kind in ("bytes", "variable_length_bytes"):
        return BYTES
    if kind == "fixed_length_utf32" and length:
        return np.dtype(f"<U{length // 4}")
    if kind == "null_terminated_bytes" and length:
        return np.dtype(f"S{length}")
    if kind == "raw_bytes" and length:
        return np.dtype(f"V{length}")
    if kind[:1] == "r" and kind[1:].isdecimal() and int(kind[1:]) % 8 == 0:
        return np.dtype(f"V{int(kind[1:]) // 8}")  # so many bits, as the specification has it
    if kind in TIME_NAMES.values():
        unit = str(options["unit"]).replace("μ", "u")
        code = "M8" if kind == TIME_NAMES["M"] else "m8"
        return np.dtype(f"<{code}" if unit == "generic" else f"<{code}[{options['scale_factor']}{unit}]")
    raise TargetError(f"array {name!r} has the type {data_type!r}, which is not supported")


def v3_type(dtype: np.dtype[Any]) -> str | dict[str, Any]:
    """Return how format 3 names `dtype`."""
    if is_variable_length(dtype):
        return "variable_length_bytes" if is_bytes(dtype) else "string"
    if dtype.kind in TIME_NAMES:
        unit, count = np.datetime_data(dtype)
        return {"name": TIME_NAMES[dtype.kind], "configuration": {"unit": unit, "scale_factor": count}}
    if dtype.kind in "USV":
        name = {"U": "fixed_length_utf32", "S": "null_terminated_bytes", "V": "raw_bytes"}[dtype.kind]
        return {"name": name, "configuration": {"length_bytes": dtype.itemsize}}
    return V3_NAMES[dtype.newbyteorder("<").str]


def default_fill(dtype: np.dtype[Any]) -> Any:
    """Return what zarr-python and other readers take for the fill value where a document says none."""
    if is_variable_length(dtype):
        return b"" if is_bytes(dtype) else ""
    if dtype.kind in "mM":
        return np.array(NOT_A_TIME).view(dtype.newbyteorder("="))[()]
    return np.zeros((), dtype)[()]


def fill_from_json(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the fill value that a format 2 document spells `value`; 0 for an empty string is an old spelling."""
    if value is None:
        return None
    if is_bytes(dtype):
        return base64.standard_b64decode(value) if value else b""
    if is_variable_length(dtype) or dtype.kind == "U":
        return "" if value in (0, "") else str(value)
    if dtype.kind in "SV":
        data = base64.standard_b64decode(value) if value else b""
        return np.frombuffer(data.ljust(dtype.itemsize, b"\0"), dtype)[0]
    if dtype.kind == "c" and isinstance(value, list):
        return dtype.type(complex(*(_float_from_json(part, 4 * dtype.itemsize) for part in value)))
    if dtype.kind in "fc":
        return dtype.type(_float_from_json(value, 8 * dtype.itemsize))
    if dtype.kind in "mM":
        return np.array(NOT_A_TIME if value == "NaT" else int(value)).view(dtype.newbyteorder("="))[()]
    return dtype.type(value)


def fill_to_json(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return how a format 2 document spells the fill value `value`, ``None`` for none."""
    if value is None:
        return None
    if dtype.kind in "SV" or is_bytes(dtype):
        return base64.standard_b64encode(bytes(value)).decode()
    if is_variable_length(dtype) or dtype.kind == "U":
        return str(value)
    if dtype.kind == "c":
        return [_float_to_json(value.real), _float_to_json(value.imag)]
    if dtype.kind == "f":
        return _float_to_json(value)
    if dtype.kind in "mM":
        return int(np.asarray(value, dtype.newbyteorder("=")).view("i8"))
    return bool(value) if dtype.kind == "b" else int(value)


def v3_fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the fill value that a format 3 document spells `value`."""
    if dtype.kind == "V" and isinstance(value, list):
        return np.frombuffer(bytes(value), dtype)[0]
    return str(value) if dtype == STRING and not is_bytes(dtype) else fill_from_json(value, dtype)


def v3_fill_to_json(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return how a format 3 document spells the fill value `value`; it requires one, `default_fill` by default."""
    return fill_to_json(default_fill(dtype) if value is None else value, dtype)


def _float_from_json(value: Any, bits: int) -> Any:
    if isinstance(value, str) and value.startswith("0x"):
        return np.array(int(value, 16), f"u{bits // 8}").view(f"f{bits // 8}")[()]
    return float(value)


def _float_to_json(value: Any) -> float | str:
    number = float(value)
    if np.isnan(number):
        return "NaN"
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def fill_from_attribute(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the ``_FillValue`` that format 3 keeps as the attribute `value`, as xarray spells it there."""
    if dtype.kind == "S" or is_bytes(dtype):
        return base64.standard_b64decode(value)
    if is_variable_length(dtype) or dtype.kind == "U":
        return str(value)
    if dtype.kind == "f":
        return dtype.type(_unpack(value) if isinstance(value, str) else value)
    if dtype.kind == "c":
        return dtype.type(complex(_unpack(value[0]), _unpack(value[1])))
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max:
        return int(value)  # of the other sign, where the attribute _Unsigned says so
    return dtype.type(value) if dtype.kind in "biu" else fill_from_json(value, dtype)


def fill_to_attribute(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return how format 3 keeps a ``_FillValue`` among the attributes."""
    if dtype.kind == "f":
        return _pack(value)
    if dtype.kind == "c":
        return [_pack(value.real), _pack(value.imag)]
    return fill_to_json(value, dtype)


def _pack(value: Any) -> str:
    return base64.standard_b64encode(struct.pack("<d", float(value))).decode()


def _unpack(value: str) -> float:
    return float(struct.unpack("<d", base64.standard_b64decode(value))[0])
