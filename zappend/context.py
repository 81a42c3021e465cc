"""What a user's function that has a parameter ``ctx`` gets: the settings, and what the cube is so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET
from msgspec.structs import asdict

from zappend.config import load_settings
from zappend.errors import UsageError
from zappend.fileobj import FileObj
from zappend.outline import DatasetMetadata
from zappend.settings import Settings
from zappend.zarrdatasets import open_zarr

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Config", "Context", "CubeOpener", "open_cube"]

CubeOpener = Callable[[], AbstractContextManager["xr.Dataset | None"]]
"""Opens the cube, for as long as the block lasts; ``None`` if there is none yet."""


class Config:
    """The settings, checked and with their defaults.

    Parameters
    ----------
    config_dict
        Settings by name, among them ``target_dir``; or `Settings`.

    Attributes
    ----------
    settings
        All settings. Each is an attribute of the `Config`, too, and those that are not told of below are what they are
        there.
    append_dim, append_step, included_variables, excluded_variables, attrs, attrs_update_mode, permit_eval, \
slice_engine, persist_mem_slices, force_new, disable_rollback, dry_run, extra
        As in the settings.

    Raises
    ------
    UsageError
        If a setting is wrong or ``target_dir`` is missing.
    """

    append_dim: str
    append_step: str | int | float | None
    included_variables: list[str]
    excluded_variables: list[str]
    attrs: dict[str, Any]
    attrs_update_mode: Literal["keep", "replace", "update", "ignore"]
    permit_eval: bool
    slice_engine: str | None
    persist_mem_slices: bool
    force_new: bool
    disable_rollback: bool
    dry_run: bool
    extra: dict[str, Any]

    def __init__(self, config_dict: Mapping[str, Any] | Settings, *, target_dir: FileObj | None = None) -> None:
        self.settings = config_dict if isinstance(config_dict, Settings) else load_settings(config_dict)
        self._target_dir = target_dir
        if not isinstance(config_dict, Settings) and not self.settings.target_dir:
            raise UsageError("Missing 'target_dir' in configuration")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # the settings may hold secrets

    def __getattr__(self, name: str) -> Any:
        if name in Settings.__struct_fields__:
            return getattr(self.settings, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def target_dir(self) -> FileObj:
        """The cube; raise `UsageError` if it is an object that has no path."""
        if self._target_dir is not None:
            return self._target_dir
        if not self.settings.target_dir:
            raise UsageError("the target was given as an object, and has no path")
        return FileObj(self.settings.target_dir, self.settings.storage_options or None)

    @property
    def target_storage_options(self) -> dict[str, Any]:
        """Options of the target's file system."""
        return self.settings.storage_options

    @property
    def temp_dir(self) -> FileObj:
        """The folder for temporary files."""
        from zappend.temporary import temporary_folder

        return temporary_folder(self.settings)

    @property
    def zarr_version(self) -> int:
        """Format of a new cube."""
        return self.settings.zarr_format or 2

    @property
    def fixed_dims(self) -> dict[str, int] | None:
        """Sizes that dimensions must have; ``None`` if there is nothing said."""
        return self.settings.fixed_dims or None

    @property
    def variables(self) -> dict[str, Any]:
        """What is said of variables, by name, in plain dicts."""
        return {name: _said(variable) for name, variable in self.settings.variables.items()}

    @cached_property
    def slice_source(self) -> Callable[..., Any] | None:
        """The function or class that makes slices, not its name."""
        from zappend.callables import find_callable

        source = self.settings.slice_source
        return None if source is None else find_callable(source)

    @property
    def slice_source_kwargs(self) -> dict[str, Any] | None:
        """Keyword arguments for `slice_source`."""
        return self.settings.slice_source_kwargs or None

    @property
    def slice_storage_options(self) -> dict[str, Any] | None:
        """Options of the file system of slices."""
        return self.settings.slice_storage_options or None

    @property
    def slice_polling(self) -> tuple[float, float] | tuple[None, None]:
        """Interval and timeout in seconds; ``(None, None)`` where slices are not waited for."""
        polling = self.settings.polling
        return (None, None) if polling is None else (polling.interval, polling.timeout)

    @property
    def logging(self) -> dict[str, Any] | str | bool | None:
        """How to log, as it was set."""
        return self.settings.logging

    @property
    def profiling(self) -> dict[str, Any] | str | bool | None:
        """How to profile, as it was set, in plain dicts."""
        plain: dict[str, Any] | str | bool = msgspec.to_builtins(self.settings.profiling)
        return plain


def _said(settings: msgspec.Struct) -> dict[str, Any]:
    given = {key: value for key, value in asdict(settings).items() if value is not UNSET}
    return {key: _said(value) if isinstance(value, msgspec.Struct) else value for key, value in given.items()}


class _Seen(NamedTuple):
    label: Any
    metadata: DatasetMetadata | None


class Context:
    """The settings, and what the cube is before the slice: read when it is first asked for, and kept.

    Parameters
    ----------
    config
        A `Config`, or settings by name.
    open_cube
        Opens the cube; by default that at ``target_dir`` is opened.

    Raises
    ------
    UsageError
        If a setting is wrong or ``target_dir`` is missing.
    """

    def __init__(self, config: Config | Mapping[str, Any], open_cube: CubeOpener | None = None) -> None:
        self._config = config if isinstance(config, Config) else Config(config)
        self._open_cube = open_cube

    @property
    def config(self) -> Config:
        """The settings."""
        return self._config

    @property
    def last_append_label(self) -> Any:
        """The last label of the cube along the append dimension, an `xarray.DataArray` without dimensions.

        ``None`` if there is no cube yet, or none with labels.
        """
        return self._seen.label

    @property
    def target_metadata(self) -> DatasetMetadata | None:
        """What the cube looks like; ``None`` if there is none yet."""
        return self._seen.metadata

    def get_dataset_metadata(self, dataset: xr.Dataset) -> DatasetMetadata:
        """Return what `dataset` looks like with what the settings say over its own."""
        return DatasetMetadata.from_dataset(dataset, self._config.settings)

    @cached_property
    def _seen(self) -> _Seen:
        with (self._open_cube or self._open_target)() as cube:
            if cube is None:
                return _Seen(None, None)
            labels = cube.get(self._config.append_dim)
            label = labels[-1].load() if labels is not None and labels.ndim == 1 and labels.size > 0 else None
            return _Seen(label, self.get_dataset_metadata(cube))

    def _open_target(self) -> AbstractContextManager[xr.Dataset | None]:
        return open_cube(self._config.target_dir.uri, self._config.settings)


def open_cube(store: Any, settings: Settings) -> AbstractContextManager[xr.Dataset | None]:
    """Open the cube in `store`, a path, URL or store of zarr; ``None`` in place of it if there is none."""
    options = settings.storage_options if isinstance(store, str) else None
    try:
        return open_zarr(store, group=settings.group.strip("/"), storage_options=options, chunks=None)
    except FileNotFoundError:
        return nullcontext()
