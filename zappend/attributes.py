"""What the settings say of attributes: of the cube, also such that expressions compute, and of its variables.

An expression stands in double braces. It is evaluated when the slice is written, and sees the cube with it; the
documents, which are written last, then have its value. A text that is nothing but one expression becomes its value, a
number for example; in other text the value is written out.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from zappend.encoding import is_time_unit
from zappend.errors import UsageError, ZappendError
from zappend.metadata import Cube, Json
from zappend.settings import Settings
from zappend.slices import Slice, SliceVariable

if TYPE_CHECKING:
    import xarray as xr
    from zarr.abc.store import Store

    from zappend.expressions import Expression

__all__ = ["Template", "attrs_after", "described", "evaluated", "fixed_attrs", "templates"]

OPEN, CLOSE = "{{", "}}"

MOST_EXPRESSIONS = 100
"""Expressions in one attribute."""

MOST_CLOSINGS = 50
"""How many closing braces are tried as the end of an expression, which can have braces of its own."""

ALL = "*"

OF_ENCODING = {
    "_FillValue": "encoding.fill_value",
    "missing_value": "encoding.fill_value",
    "scale_factor": "encoding.scale_factor",
    "add_offset": "encoding.add_offset",
    "_Unsigned": "encoding.dtype",
    "_Encoding": "encoding.dtype",
    "dtype": "encoding.dtype",
    "calendar": "encoding.calendar",
    "_ARRAY_DIMENSIONS": "dims",
}
"""Attributes that say how values are stored, and the settings by which that is chosen."""

log = logging.getLogger(__name__)


# Of the cube.


@dataclass(frozen=True)
class Template:
    """An attribute with expressions.

    Attributes
    ----------
    name
        Of the attribute.
    parts
        Text and expressions, in order.
    """

    name: str
    parts: tuple[str | Expression, ...]

    def mentions(self, variable: str) -> bool:
        """Tell whether an expression has the name of `variable`, so that it may read it."""
        return any(not isinstance(part, str) and variable in part.source for part in self.parts)

    def value(self, dataset: xr.Dataset) -> Any:
        """Return the value of the attribute; raise `UsageError` if an expression has none."""
        try:
            values = [part if isinstance(part, str) else part.evaluate(dataset) for part in self.parts]
        except UsageError as error:
            raise UsageError(f"setting attrs.{self.name}: {error}") from error
        return values[0] if len(values) == 1 else "".join(map(str, values))


def fixed_attrs(settings: Settings) -> Json:
    """Return the attributes that the settings give the cube, but for those that expressions compute.

    Raises
    ------
    UsageError
        If one has a value that JSON has not.
    """
    return {
        name: _to_json(value, f"attrs.{name}")
        for name, value in settings.attrs.items()
        if not (settings.permit_eval and _has_expression(value))
    }


def attrs_after(attrs: Json, new: Slice | None, settings: Settings) -> Json:
    """Return what becomes of the attributes `attrs` of a cube with a slice, or with an edit that has none.

    Raises
    ------
    UsageError
        If the settings give one a value that JSON has not.
    """
    if not settings.attrs and settings.attrs_update_mode not in ("replace", "update"):
        return attrs
    kept = attrs if settings.attrs_update_mode != "replace" or new is None else {}
    own = new.attrs if settings.attrs_update_mode in ("replace", "update") and new is not None else {}
    return {**kept, **own, **fixed_attrs(settings)}


def templates(settings: Settings) -> tuple[Template, ...]:
    """Return the attributes with expressions, parsed and checked; none without the setting ``permit_eval``.

    Raises
    ------
    UsageError
        If something in an expression is not allowed, or braces open one and do not close it.
    """
    if settings.permit_eval:
        # Also such as nothing closes, which are no text, but mistyped.
        dynamic = [name for name, value in settings.attrs.items() if isinstance(value, str) and OPEN in value]
    elif dynamic := [name for name, value in settings.attrs.items() if _has_expression(value)]:
        log.warning("attrs.%s: {{ … }} is taken as text; permit_eval: true evaluates it", ", attrs.".join(dynamic))
        return ()
    return tuple(Template(name, tuple(_parts(name, settings.attrs[name]))) for name in dynamic)


def evaluated(those: tuple[Template, ...], store: Store, cube: Cube) -> Json:
    """Return the values of `those` attributes for the cube in `store`.

    Parameters
    ----------
    those
        Attributes with expressions, one at least.
    store
        Documents and chunks, as they become.
    cube
        What the documents say.

    Raises
    ------
    UsageError
        If an expression has no value, or xarray cannot open the cube.
    """
    with _opened(store, cube, those[0].name) as dataset:
        return {template.name: template.value(dataset) for template in those}


@contextmanager
def _opened(store: Store, cube: Cube, name: str) -> Iterator[xr.Dataset]:
    import xarray as xr

    how: dict[str, Any] = {"consolidated": cube.consolidated, "zarr_format": cube.zarr_format, "chunks": None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later xarray will decode in another way
            dataset = xr.open_zarr(store, **how)
    except (ZappendError, OSError):
        raise
    except Exception as error:
        # What is in a cube that xarray cannot decode is up to others.
        line = " ".join(str(error).split())
        raise UsageError(f"setting attrs.{name}: xarray cannot open the cube to evaluate it: {line}") from error
    with dataset:
        yield dataset


def _has_expression(value: Any) -> bool:
    return isinstance(value, str) and CLOSE in value.partition(OPEN)[2]


def _parts(name: str, value: str) -> Iterator[str | Expression]:
    if value.count(OPEN) > MOST_EXPRESSIONS:
        raise UsageError(f"setting attrs.{name}: it has more than {MOST_EXPRESSIONS} expressions")
    rest = value
    while rest:
        before, opening, rest = rest.partition(OPEN)
        if opening and not rest:
            raise UsageError(f"setting attrs.{name}: '{OPEN}' at its end opens an expression that is not there")
        if before:
            yield before
        if opening:
            expression, rest = _expression(name, rest)
            yield expression


def _expression(name: str, rest: str) -> tuple[Expression, str]:
    """Return the expression with which `rest` begins, and what follows its closing braces."""
    from zappend.expressions import is_complete, parse

    ends: list[int] = []
    end = rest.find(CLOSE)
    while end >= 0 and len(ends) < MOST_CLOSINGS:
        ends.append(end)
        end = rest.find(CLOSE, end + 1)
    if not ends:
        raise UsageError(f"setting attrs.{name}: '{OPEN}{rest[:40]}' opens an expression that '{CLOSE}' does not close")
    end = next((end for end in ends if is_complete(rest[:end])), ends[0])
    try:
        return parse(rest[:end]), rest[end + len(CLOSE) :]
    except UsageError as error:
        raise UsageError(f"setting attrs.{name}: {error}") from None


def _to_json(value: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # which JSON has only as text; expressions give the same
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_to_json(inner, where) for inner in value]
    if isinstance(value, Mapping):
        return {str(key): _to_json(inner, where) for key, inner in value.items()}
    if isinstance(value, date):  # as YAML and TOML have them
        return value.isoformat()
    raise UsageError(f"setting {where}: a {type(value).__name__} is no value of an attribute; JSON has none")


# Of variables.


def described(new: Slice, settings: Settings) -> Slice:
    """Return the slice with those attributes of its variables that the settings give them.

    Raises
    ------
    UsageError
        If an attribute says how values are stored, which is for other settings to choose.
    """
    if not any(variable.attrs for variable in settings.variables.values()):
        return new
    variables = dict(new.variables)
    for name, variable in new.variables.items():
        if attrs := variable_attrs(settings, variable, new.variables):
            ours, theirs = variable.attrs.get("units"), attrs.get("units")
            if ours is not None and theirs is not None and ours != theirs:
                log.warning(
                    "slice %s: variable %r has the units %r, and setting variables.%s.attrs.units says %r; "
                    "values are not converted",
                    new.name,
                    name,
                    ours,
                    name,
                    theirs,
                )
            variables[name] = replace(variable, attrs={**variable.attrs, **attrs})
    return replace(new, variables=variables)


def variable_attrs(settings: Settings, variable: SliceVariable, others: Mapping[str, SliceVariable]) -> Json:
    """Return the attributes that the settings give `variable`; those under its name win over those under ``*``.

    Raises
    ------
    UsageError
        If an attribute would tell readers something else of the values than what they are.
    """
    attrs: Json = {}
    for name in (ALL, variable.name):
        if name not in settings.variables:
            continue
        for key, value in settings.variables[name].attrs.items():
            if name == ALL and key == "units" and _counts_time(variable):
                continue
            where = f"variables.{name}.attrs.{key}"
            _check_meaning(variable, others, key, value, where)
            attrs[key] = _to_json(value, where)
    return attrs


def _check_meaning(
    variable: SliceVariable, others: Mapping[str, SliceVariable], key: str, value: Any, where: str
) -> None:
    name = variable.name
    instead = OF_ENCODING.get(key)
    if instead is None and key == "units" and (_counts_time(variable) or is_time_unit(value)):
        instead = "encoding.units"
    if instead:
        raise UsageError(
            f"setting {where}: the attribute {key} of {name!r} says how its values are stored, and is no free text; "
            f"set variables.{name}.{instead}"
        )
    bounds = others.get(value) if key in ("bounds", "climatology") and isinstance(value, str) else None
    if bounds is not None and bounds.kind != variable.kind:
        raise UsageError(
            f"setting {where}: {bounds.name!r} holds {bounds.kind}, and {name!r} {variable.kind}, so it cannot be that "
            f"of its bounds"
        )


def _counts_time(variable: SliceVariable) -> bool:
    return variable.kind in ("times", "durations")
