"""What a dataset looks like under the settings: sizes, variables and attributes, for the user's code to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import UNSET
from msgspec.structs import asdict

from zappend.settings import EncodingSettings, Settings

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["DatasetMetadata", "VariableMetadata"]


@dataclass(frozen=True)
class VariableMetadata:
    """What a variable looks like.

    Attributes
    ----------
    dims, shape
        Names and sizes of its dimensions.
    encoding
        How it is stored, as far as that is known; ``UNSET`` of msgspec stands for what is not.
    attrs
        Its attributes.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    encoding: EncodingSettings
    attrs: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a dict, of the encoding what is known."""
        encoding = {key: value for key, value in asdict(self.encoding).items() if value is not UNSET}
        if "fill_value" in encoding:
            encoding["_FillValue"] = encoding.pop("fill_value")
        return {"dims": self.dims, "shape": self.shape, "encoding": encoding, "attrs": self.attrs}


@dataclass(frozen=True)
class DatasetMetadata:
    """What a dataset looks like.

    Attributes
    ----------
    sizes
        Sizes of the dimensions.
    variables
        The variables by name.
    attrs
        The attributes.
    """

    sizes: dict[str, int]
    variables: dict[str, VariableMetadata]
    attrs: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a dict."""
        variables = {name: variable.to_dict() for name, variable in self.variables.items()}
        return {"sizes": self.sizes, "variables": variables, "attrs": self.attrs}

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset, settings: Settings) -> DatasetMetadata:
        """Return what `dataset` looks like: the variables that `settings` take, and what they say over its own."""
        return cls(
            {str(dim): size for dim, size in dataset.sizes.items()},
            {
                str(name): _variable(str(name), variable, settings)
                for name, variable in dataset.variables.items()
                if settings.takes(str(name))
            },
            {**dataset.attrs, **settings.attrs},
        )


def _variable(name: str, variable: xr.Variable, settings: Settings) -> VariableMetadata:
    said = [settings.variables[key] for key in ("*", name) if key in settings.variables]
    encoding = {"dtype": variable.dtype, **_known(variable.encoding)}
    attrs: dict[str, Any] = dict(variable.attrs)
    for one in said:
        encoding.update({key: value for key, value in asdict(one.encoding).items() if value is not UNSET})
        attrs.update(one.attrs)
    dims = tuple(map(str, variable.dims))
    return VariableMetadata(dims, tuple(variable.shape), EncodingSettings(**encoding), attrs)


def _known(encoding: Mapping[Any, Any]) -> dict[str, Any]:
    """Return of what xarray keeps as encoding that which there are settings for, under their names."""
    names = {"_FillValue": "fill_value", "chunksizes": "chunks"}
    found = {names.get(key, key): value for key, value in encoding.items() if value is not None or key == "_FillValue"}
    return {key: value for key, value in found.items() if key in EncodingSettings.__struct_fields__}
