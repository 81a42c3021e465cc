"""By which attributes a variable names others, and a dataset without those that name what it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["RELATED", "without_dangling"]

RELATED = ("bounds", "climatology", "grid_mapping", "cell_measures", "formula_terms", "geometry", "node_coordinates")
"""Attributes by which CF names other variables."""


def without_dangling(dataset: xr.Dataset) -> xr.Dataset:
    """Return `dataset` without the references to variables that it does not have; `dataset` itself stays as it is."""
    known = set(map(str, dataset.variables))
    out = dataset.copy(deep=False)
    for variable in out.variables.values():
        variable.attrs, variable.encoding = (_kept(words, known) for words in (variable.attrs, variable.encoding))
    return out


def _kept(values: Mapping[Any, Any], known: Set[str]) -> dict[Any, Any]:
    return {key: value for key, value in values.items() if key not in RELATED or _names(key, str(value)) <= known}


def _names(key: str, value: str) -> set[str]:
    """Return the variables that an attribute names."""
    words = value.split()
    if key in ("bounds", "climatology", "geometry", "node_coordinates") or not any(
        word.endswith(":") for word in words
    ):
        return set(words)
    # "crs: x y" names a grid mapping by its key; "area: cell_area" a measure by what comes after it.
    return {word.rstrip(":") for word in words if key == "grid_mapping" or not word.endswith(":")}
