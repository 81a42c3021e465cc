"""What slices look like."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

DIMS = ("time", "y", "x")
UNITS = "hours since 2024-01-01"
LABELS = {"units": UNITS, "dtype": "i8", "calendar": "standard"}
LABELS_PER_CHUNK = 16384
BLOSC: dict[str, Any] = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle"}
"""The codec of all contestants, which is what a new cube of zappend has."""


@dataclass(frozen=True)
class Work:
    """One append: `variables` float32 variables of `size`² values, in chunks of `chunk`².

    Values are smooth and whole numbers, which cost the codec little, so that all else shows; with `noise` they cost it
    much. A run appends `slices` of them, one after the other.
    """

    name: str
    variables: int
    size: tuple[int, int]
    chunk: tuple[int, int]
    slices: int = 1
    noise: bool = False

    @property
    def names(self) -> list[str]:
        return [f"v{i}" for i in range(self.variables)]

    @property
    def chunks(self) -> int:
        """How many chunks of data a slice has."""
        return self.variables * math.prod(-(-n // m) for n, m in zip(self.size, self.chunk, strict=True))

    @cached_property
    def _field(self) -> np.ndarray[Any, Any]:
        y, x = (np.linspace(0, 1, n) for n in self.size)
        field = 20 + 10 * np.cos(9 * y)[:, None] * np.sin(7 * x)
        field = field + np.random.default_rng(0).normal(0, 0.1, self.size) if self.noise else np.round(field)
        return field.astype("f4")[None]

    def labels(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        return np.datetime64("2024-01-01", "ns") + np.arange(start, stop) * np.timedelta64(1, "h")

    def slice(self, step: int, steps: int = 1) -> xr.Dataset:
        """Return the slice of label `step`, or of more labels."""
        field = np.broadcast_to(self._field, (steps, *self.size))
        up = np.arange(step, step + steps, dtype="f4")[:, None, None]
        variables = {name: (DIMS, field + (up + np.float32(i))) for i, name in enumerate(self.names)}
        y, x = (np.linspace(0, 1, n) for n in self.size)
        dataset = xr.Dataset(variables, {"time": self.labels(step, step + steps), "y": y, "x": x})
        dataset.time.encoding = LABELS
        return dataset

    def settings(self) -> dict[str, Any]:
        """Return the settings with which zappend makes the cube."""
        return {"variables": {name: {"encoding": {"chunks": [1, *self.chunk]}} for name in self.names}}

    def encoding(self, zarr_format: int) -> dict[str, dict[str, Any]]:
        """Return the encoding with which xarray makes the same cube."""
        import numcodecs
        from zarr.codecs import BloscCodec

        codec = numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE) if zarr_format == 2 else BloscCodec(**BLOSC)
        data: dict[str, Any] = {name: {"chunks": (1, *self.chunk)} for name in self.names}
        time: dict[str, Any] = {
            "time": {"chunks": (LABELS_PER_CHUNK,), "units": UNITS, "dtype": "i8", "calendar": "standard"}
        }
        return {name: {**own, "compressors": codec} for name, own in {**data, **time, "y": {}, "x": {}}.items()}


def shrink(work: Work) -> Work:
    """Return a work of the same kind with at most four chunks of 4 kB a variable, and one slice a run."""
    height, width = (min(-(-n // m), 2) * 32 for n, m in zip(work.size, work.chunk, strict=True))
    return replace(work, size=(height, width), chunk=(32, 32), slices=1)
