"""Whether slices of one structure fit one cube: all that has to be compared but values. Pure.

Slices that come one after another mostly have the same structure, and the cube changes by its length alone, so what was
compared once holds for the next one, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zappend.agreement import check_encodings
from zappend.checks import cube_size, fixed_problems, refuse, structure_problems
from zappend.datatypes import Block
from zappend.encoding import Encoding
from zappend.errors import UsageError
from zappend.metadata import Cube, encodings_of
from zappend.settings import Settings
from zappend.slices import Slice
from zappend.variables import check_names

__all__ = ["Fit", "fit_to"]


@dataclass(frozen=True)
class Fit:
    """That slices of one structure fit `cube`.

    Attributes
    ----------
    cube
        The cube.
    structure
        `Slice.structure` of the slices.
    size
        How many labels the cube has.
    encodings
        How each array stores its values.
    constants
        Values of the last slice that do not depend on the append dimension, and the stored ones that they are equal to.
    """

    cube: Cube
    structure: tuple[object, ...]
    size: int
    encodings: Mapping[str, Encoding]
    constants: Mapping[str, tuple[Block, Block]]

    def holds_for(self, cube: Cube, new: Slice) -> bool:
        """Tell whether `cube` is the same object, and `new` has this structure."""
        return cube is self.cube and new.structure == self.structure


def fit_to(cube: Cube, new: Slice, settings: Settings) -> Fit:
    """Return that slices with the structure of `new` fit `cube`.

    Raises
    ------
    SliceError
        If they do not; the message names every difference.
    TargetError, UsageError
        If the cube cannot be appended to along this dimension, or another format or encoding is asked for than it has.
    """
    if settings.zarr_format not in (None, cube.zarr_format):
        raise UsageError(
            f"the target has Zarr format {cube.zarr_format}, and zarr_format is {settings.zarr_format}; a cube "
            f"keeps its format: leave out the setting, or begin anew with force_new"
        )
    # A dimension that the cube lacks is that of variables that were left out.
    sizes = {**settings.fixed_dims, **cube.sizes} if settings.fixed_dims else {}
    if sizes and (wrong := fixed_problems(sizes, settings, "the target")):
        raise UsageError(f"{'; '.join(wrong)}; a cube keeps its sizes: change fixed_dims, or begin anew with force_new")
    size = cube_size(cube, settings.append_dim)
    encodings = encodings_of(cube)
    check_names(settings, cube.arrays, "the target")
    check_encodings(cube, new, encodings, settings)
    refuse(new, structure_problems(cube, new, encodings, settings))
    return Fit(cube, new.structure, size, encodings, {})
