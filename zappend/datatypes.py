"""Types of stored values and their fill values ↔ how the documents of formats 2 and 3 spell them in JSON."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np

from zappend.errors import TargetError

__all__ = [
    "STRING",
    "fill_from_attribute",
    "fill_from_json",
    "fill_to_attribute",
    "fill_to_json",
    "is_variable_length",
    "v3_dtype",
    "v3_fill",
    "v3_fill_to_json",
    "v3_type",
]

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


def is_bytes(dtype: np.dtype[Any]) -> bool:
    return dtype == STRING and (dtype.metadata or {}).get("vlen") is bytes


def is_variable_length(dtype: np.dtype[Any]) -> bool:
    """Tell whether values of `dtype` are Python strings of any length."""
    return dtype == STRING


def v3_dtype(data_type: str | dict[str, Any], name: str) -> np.dtype[Any]:
    """Return the type that format 3 names `data_type`; raise `TargetError` if array `name` has an unknown one."""
    kind, length = (data_type, 0) if isinstance(data_type, str) else (data_type["name"], 0)
    if isinstance(data_type, dict):
        length = data_type.get("configuration", {}).get("length_bytes", 0)
    if kind in V3_TYPES:
        return np.dtype(V3_TYPES[kind])
    if kind == "string":
        return STRING
    if kind == "fixed_length_utf32" and length:
        return np.dtype(f"<U{length // 4}")
    if kind == "null_terminated_bytes" and length:
        return np.dtype(f"S{length}")
    raise TargetError(f"array {name!r} has the type {data_type!r}, which is not supported")


def v3_type(dtype: np.dtype[Any]) -> str | dict[str, Any]:
    """Return how format 3 names `dtype`."""
    if is_variable_length(dtype):
        return "string"
    if dtype.kind in "US":
        name = "fixed_length_utf32" if dtype.kind == "U" else "null_terminated_bytes"
        return {"name": name, "configuration": {"length_bytes": dtype.itemsize}}
    return V3_NAMES[dtype.newbyteorder("<").str]


def fill_from_json(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the fill value that a format 2 document spells `value`."""
    if value is None:
        return None
    if is_variable_length(dtype):
        return "" if value in (0, "") else str(value)
    if dtype.kind == "c" and isinstance(value, list):
        return dtype.type(complex(*(float(part) for part in value)))
    if dtype.kind == "S":
        return np.frombuffer(base64.standard_b64decode(value).ljust(dtype.itemsize, b"\0"), dtype)[0]
    if dtype.kind in "fc":
        return dtype.type(float(value))
    if dtype.kind in "mM":
        return np.array(value, "i8").view(dtype)[()]
    return dtype.type(value)


def fill_to_json(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return how a format 2 document spells the fill value `value`, ``None`` for none."""
    if value is None:
        return None
    if is_variable_length(dtype) or dtype.kind == "U":
        return str(value)
    if dtype.kind == "S":
        return base64.standard_b64encode(bytes(value)).decode()
    if dtype.kind == "c":
        return [_float_to_json(value.real), _float_to_json(value.imag)]
    if dtype.kind == "f":
        return _float_to_json(value)
    return bool(value) if dtype.kind == "b" else int(value)


def v3_fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the fill value that a format 3 document spells `value`."""
    if is_variable_length(dtype) or dtype.kind == "U":
        return str(value)
    if dtype.kind == "f" and isinstance(value, str) and value.startswith("0x"):
        return np.array(int(value, 16), f"u{dtype.itemsize}").view(f"f{dtype.itemsize}")[()]
    return fill_from_json(value, dtype)


def v3_fill_to_json(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return how a format 3 document spells the fill value `value`; it requires one, which is zero by default."""
    if value is None:
        value = "" if is_variable_length(dtype) else np.zeros((), dtype)[()]
    return fill_to_json(value, dtype)


def _float_to_json(value: Any) -> float | str:
    number = float(value)
    if np.isnan(number):
        return "NaN"
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def fill_from_attribute(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the ``_FillValue`` that format 3 keeps as the attribute `value`, as xarray spells it there."""
    if is_variable_length(dtype) or dtype.kind == "U":
        return str(value)
    if dtype.kind == "S":
        return base64.standard_b64decode(value)
    if dtype.kind == "f":
        return dtype.type(_unpack(value) if isinstance(value, str) else value)
    if dtype.kind == "c":
        return dtype.type(complex(_unpack(value[0]), _unpack(value[1])))
    return dtype.type(value)


def fill_to_attribute(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return how format 3 keeps a ``_FillValue`` among the attributes."""
    if is_variable_length(dtype) or dtype.kind == "U":
        return str(value)
    if dtype.kind == "S":
        return base64.standard_b64encode(bytes(value)).decode()
    if dtype.kind == "f":
        return _pack(value)
    if dtype.kind == "c":
        return [_pack(value.real), _pack(value.imag)]
    return bool(value) if dtype.kind == "b" else int(value)


def _pack(value: Any) -> str:
    return base64.standard_b64encode(struct.pack("<d", float(value))).decode()


def _unpack(value: str) -> float:
    return float(struct.unpack("<d", base64.standard_b64decode(value))[0])
