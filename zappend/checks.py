"""Whether a slice fits a cube. Pure: each check returns what is wrong, so that one report has it all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zappend.absent import missing_value
from zappend.cf import to_stored
from zappend.datatypes import Block
from zappend.encoding import STANDARD_CALENDARS, Encoding, encoding_attrs, same
from zappend.errors import SliceError, TargetError, UsageError
from zappend.exact import EncodingError
from zappend.kinds import is_storable
from zappend.labels import label_faults, left_out
from zappend.metadata import Array, Cube
from zappend.settings import Settings
from zappend.slices import Slice, SliceVariable
from zappend.variables import dims_of

__all__ = [
    "check_dimension",
    "compare_constants",
    "cube_size",
    "fixed_problems",
    "own_problems",
    "reference_problems",
    "refuse",
    "size_problems",
    "structure_problems",
]

REFERENCES = ("bounds", "climatology", "coordinates", "geometry", "grid_mapping")
"""Attributes of CF that name variables without which values cannot be understood."""

ANY_LABELS = "mend them, or append_step 'any' takes labels as they are"

KEPT_BYTES = 2**25
"""Bytes of values that were compared, and are kept for the next slice, at most."""

STEP_TOLERANCE = 1e-3
"""Part of the least step of a coordinate by which it may differ from that of the cube."""


def refuse(new: Slice, problems: list[str]) -> None:
    """Raise `SliceError` with all `problems` of the slice in one line, if there are any."""
    if problems:
        raise SliceError(f"slice {new.name}: {'; '.join(problems)}")


def fixed_problems(sizes: Mapping[str, int], settings: Settings, where: str) -> list[str]:
    """Return which of the sizes, of what is named by `where`, are not those that the setting ``fixed_dims`` has.

    Raises
    ------
    UsageError
        If it has one of the append dimension.
    """
    if settings.append_dim in settings.fixed_dims:
        raise UsageError(f"setting fixed_dims: Size of append dimension {settings.append_dim!r} must not be fixed")
    has = ", ".join(map(repr, sizes)) or "none at all"
    return [
        f"Wrong size for fixed dimension {dim!r} in {where}: expected {size}, found {sizes[dim]}"
        if dim in sizes
        else f"Fixed dimension {dim!r} not found in {where}, which has {has}"
        for dim, size in settings.fixed_dims.items()
        if sizes.get(dim) != size
    ]


def own_problems(new: Slice, settings: Settings) -> list[str]:
    """Return what is wrong with the slice by itself, as far as its labels go.

    Raises
    ------
    SliceError
        If it has no labels at all, so that nothing else can be told of it.
    """
    dim = settings.append_dim
    if dim not in new.sizes:
        has = ", ".join(map(repr, new.sizes)) or "none at all"
        scalar = dim in new.variables and not new.variables[dim].dims
        hint = f", and {dim!r} as a scalar: the setting expand_dims makes a dimension of it" if scalar else ""
        way = "" if scalar else "; the setting expand_dims can give it one, append_dim name another"
        why = f"it has no dimension {dim!r} to append along; it has {has}{hint}{way}"
        refuse(new, [f"Append dimension {dim!r} not found in dataset: {why}"])
    if new.sizes[dim] == 0:
        refuse(new, [f"its dimension {dim!r} is empty"])
    return _dims_problems(new, settings) + _own_label_problems(new, settings)


def _dims_problems(new: Slice, settings: Settings) -> list[str]:
    """Compare the dimensions of variables with those that the settings say they have."""
    return [
        f"Dimension mismatch for variable {name!r}: expected {dims}, found {new.variables[name].dims} in dataset"
        for name in settings.variables
        if name in new.variables and (dims := dims_of(settings, name)) is not None and dims != new.variables[name].dims
    ]


def _own_label_problems(new: Slice, settings: Settings) -> list[str]:
    labels = new.labelled(settings.append_dim)
    if labels is None or settings.append_step == "any":
        return []
    try:
        faults = label_faults(labels.read(), labels.source or Encoding(labels.dtype, {}))
    except TypeError as error:
        return [f"variable {labels.name!r}: its labels have no order: {error}; {ANY_LABELS}"]
    return [f"variable {labels.name!r}: {', and '.join(faults)}; {ANY_LABELS}"] if faults else []


def reference_problems(new: Slice) -> list[str]:
    """Return where attributes name a variable that is not there, of a slice with which a cube begins.

    Only attributes without which values cannot be understood count. Others name what files leave out in practice:
    ``cell_measures``, which may lie in other files, ``ancillary_variables``, and ``formula_terms``. The attributes of a
    later slice are not stored; what it lacks of the cube is missing with or without a reference to it.
    """
    variables = new.variables
    holders: dict[tuple[str, str], list[str]] = {}
    for variable in variables.values():
        for key in REFERENCES:
            value = variable.attrs.get(key)
            for word in value.split() if isinstance(value, str) else ():
                # In the long form of grid_mapping, "crs: x y", the colon tells a grid mapping from its coordinates.
                if (name := word.rstrip(":")) not in variables:
                    holders.setdefault((name, key), []).append(variable.name)
    problems = []
    for (name, key), those in holders.items():
        more = f" and {len(those) - 3} more" if len(those) > 3 else ""
        problems.append(
            f"variable {name!r} is missing, which the attribute {key} of {', '.join(map(repr, those[:3]))}{more} names"
        )
    if problems:
        problems[-1] += "; add what is missing, or take its name out (xarray may keep such attributes in .encoding)"
    return problems


def check_dimension(cube: Cube, new: Slice, dim: str, groups: Callable[[], list[str]]) -> None:
    """Raise an error if no array of the cube has the dimension `dim`.

    Parameters
    ----------
    cube, new
        The cube and the slice.
    dim
        The append dimension.
    groups
        Finds the groups in the target; called only if it has no array.

    Raises
    ------
    UsageError
        If the slice lacks the dimension, too, so that the setting must be wrong.
    TargetError
        If the slice has it.
    """
    if any(dim in array.dims for array in cube.arrays.values()):
        return
    why = f"no array of the target has the dimension {dim!r} to append along"
    if not cube.arrays:
        inner = ", ".join(map(repr, groups()))
        raise TargetError(
            f"{why}: it has no arrays, but groups: {inner}; name one with group"
            if inner
            else f"{why}, as it is a group without arrays; force_new makes a cube of it"
        )
    has = ", ".join(dict.fromkeys(repr(d) for array in cube.arrays.values() for d in array.dims)) or "none"
    if dim not in new.sizes:
        raise UsageError(
            f"Append dimension {dim!r} not found in dataset of slice {new.name}, nor in the cube: append_dim is "
            f"{dim!r}; the cube has {has}"
        )
    raise TargetError(f"{why}; they have {has}")


def cube_size(cube: Cube, dim: str) -> int:
    """Return how many labels the cube has along `dim`, which it has; raise `TargetError` if its arrays do not agree."""
    sizes = {name: a.shape[a.dims.index(dim)] for name, a in cube.arrays.items() if dim in a.dims}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name!r} {size}" for name, size in sizes.items())
        raise TargetError(f"the arrays of the target differ in length along {dim!r}: {listed}")
    return next(iter(sizes.values()))


def structure_problems(cube: Cube, new: Slice, encodings: Mapping[str, Encoding], settings: Settings) -> list[str]:
    """Compare variables, sizes, dimensions and what the numbers mean."""
    dim = settings.append_dim
    problems = _missing_problems(cube, new, encodings, settings)
    problems += [
        f"variable {name!r} is not in the target; excluded_variables can leave it"
        for name in new.variables
        if name not in cube.arrays
    ]
    grid_mappings = {str(array.attrs.get("grid_mapping")) for array in cube.arrays.values()}
    cube_sizes = cube.sizes
    for name, size in new.sizes.items():
        if name != dim and cube_sizes.get(name, size) != size:
            problems.append(f"dimension {name!r} has size {size}, expected {cube_sizes[name]}")
    for name, variable in new.variables.items():
        array = cube.arrays.get(name)
        if array is None:
            continue
        if variable.dims != array.dims:
            problems.append(f"variable {name!r} has dimensions {variable.dims}, expected {array.dims}")
        problems += _kind_problems(variable, encodings[name])
        problems += _meaning_problems(variable, array, is_grid_mapping=name in grid_mappings)
    return problems


def _missing_problems(cube: Cube, new: Slice, encodings: Mapping[str, Encoding], settings: Settings) -> list[str]:
    dim = settings.append_dim
    missing = [name for name in cube.arrays if name not in new.variables]
    problems = []
    for name in missing:
        fills = dim not in cube.arrays[name].dims or missing_value(encodings[name]) is not None
        if name == dim and dim in cube.arrays[name].dims:
            lacking = f"its labels {name!r} are missing, and labels are never filled: give the slice some"
            problems.append(left_out(name, settings) or lacking)
        elif not fills:
            problems.append(
                f"variable {name!r} is missing, and cannot be filled: the target has no missing value for it"
            )
        elif settings.missing_variables == "refuse" and dims_of(settings, name) is None:
            problems.append(f"variable {name!r} is missing; missing_variables 'fill' fills it")
    return problems


def _kind_problems(variable: SliceVariable, encoding: Encoding) -> list[str]:
    """Compare what values are: times, numbers, strings; and the calendar of times."""
    name, kind = variable.name, variable.kind
    if not is_storable(kind, encoding.kind):
        return [f"variable {name!r} holds {kind} ({variable.dtype}), expected {encoding.kind} ({encoding.dtype})"]
    if kind == "times" and variable.source is not None and encoding.dtype.kind != "M":
        ours, theirs = variable.source.calendar, encoding.calendar
        if ours != theirs and {ours, theirs} - STANDARD_CALENDARS:
            return [f"variable {name!r} has the calendar {ours!r}, expected {theirs!r}"]
    return []


def _meaning_problems(variable: SliceVariable, array: Array, *, is_grid_mapping: bool) -> list[str]:
    """Compare the attributes that say what the numbers mean; all others are those of the first slice."""
    stored = encoding_attrs(array.attrs, array.dtype)
    ours = {key: value for key, value in array.attrs.items() if key not in stored}
    names = {
        key for key in (*ours, *variable.attrs) if key.startswith("flag_") or (is_grid_mapping and key != "coordinates")
    }
    if variable.dtype.kind not in "mM":
        names.add("units")
    return [
        f"variable {array.name!r} has {key} {variable.attrs.get(key)!r}, expected {ours.get(key)!r}"
        for key in sorted(names)
        if not same(variable.attrs.get(key), ours.get(key))
    ]


def compare_constants(
    new: Slice,
    encodings: Mapping[str, Encoding],
    constants: Mapping[str, Block],
    before: Mapping[str, tuple[Block, Block]],
) -> tuple[dict[str, tuple[Block, Block]], list[str]]:
    """Compare what does not depend on the append dimension with the stored `constants`.

    Returns
    -------
    equal
        The values of the slice, and those to which they are equal, by name, of what is not too large to be kept. Given
        as `before`, it spares comparing the same with the same again.
    problems
        What is not equal.
    """
    equal, problems, size = {}, [], 0
    for name, expected in constants.items():
        variable, encoding = new.variables[name], encodings[name]
        values = variable.read()
        if name in before and all(map(_are_identical, before[name], (values, expected))):
            equal[name] = before[name]
            size += values.nbytes + expected.nbytes
            continue
        try:
            found = to_stored(values, variable.source, encoding)
        except EncodingError as error:
            problems.append(f"variable {name!r}: {error}")
            continue
        if (where := _difference(found, expected, encoding, variable.dtype, variable.dims == (name,))) is None:
            size += values.nbytes + expected.nbytes
            if size <= KEPT_BYTES:
                equal[name] = values.copy(), expected  # a user may reuse the array for the next slice
        else:
            problems.append(
                f"variable {name!r} is not that of the target: {found[where]} at index {list(where)}, "
                f"expected {expected[where]}"
            )
    return equal, problems


def _are_identical(a: Block, b: Block) -> bool:
    """Tell whether two blocks hold the same bytes; of objects and NumPy's strings, which are not in them, no."""
    if a is b:
        return True
    return a.dtype == b.dtype and a.dtype.kind not in "OT" and a.shape == b.shape and a.tobytes() == b.tobytes()


def _difference(
    found: Block, expected: Block, encoding: Encoding, given: np.dtype[Any], is_grid: bool
) -> tuple[int, ...] | None:
    """Return where two stored constants differ: floats by more than rounding, or than a small part of a grid's step."""
    if found.dtype.kind not in "fc":
        alike = np.asarray(found == expected)
    elif encoding.is_time or encoding.is_duration:
        alike = np.isclose(found, expected, rtol=0, atol=0, equal_nan=True)
    else:
        digits = max(np.finfo(dtype).eps for dtype in (found.dtype, given) if dtype.kind in "fc")
        steps = np.abs(np.diff(expected)) if is_grid else np.empty(0)
        part = STEP_TOLERANCE * float(np.nanmin(steps)) if steps.size and np.isfinite(steps).any() else 0.0
        alike = np.isclose(found, expected, rtol=4 * float(digits), atol=part, equal_nan=True)
    return None if alike.all() else tuple(int(i) for i in np.argwhere(~alike)[0])


def size_problems(cube: Cube, new: Slice, dim: str, old_size: int, size: int, settings: Settings) -> list[str]:
    """Compare the number of labels with the chunks of the cube."""
    problems: list[str] = []
    if settings.slice_size == "any":
        return problems
    exempt = new.along(dim)
    those = {name: array for name, array in cube.arrays.items() if dim in array.dims and name not in exempt}
    chunks = [array.chunks[array.dims.index(dim)] for array in those.values()]
    for (name, array), chunk in zip(those.items(), chunks, strict=True):
        unit = "shard" if array.is_sharded else "chunk"
        if old_size % chunk:
            problems.append(f"the last {unit} of {name!r} holds only {old_size % chunk} of {chunk} labels")
        elif settings.slice_size == "chunk" and size != chunk:
            problems.append(f"it has {size} labels along {dim!r}, expected {chunk}, as a {unit} of {name!r}")
        elif size % chunk:
            problems.append(f"it has {size} labels along {dim!r}, expected a multiple of {chunk}, as {name!r}")
        else:
            continue
        way = "any" if any(old_size % each or size % each for each in chunks) else "aligned"
        return [f"{problems[0]}; slice_size {way!r} appends it all the same"]
    return problems
