"""A function or class of the user: found by its name, and called with an item and what it asks for.

An item stands for the arguments: a list for positional ones, a dict for keywords, a tuple of both for both, anything
else for a single one. The processing context is handed over where there is a parameter of the name ``ctx``.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from zappend.errors import UsageError

__all__ = ["arguments", "call", "find_callable", "name_of", "shown"]

LONGEST_SHOWN = 60
"""Characters of an argument in a message."""


def find_callable(source: Any, setting: str = "slice_source") -> Callable[..., Any]:
    """Return what `source` names, or `source` itself if that can be called.

    Parameters
    ----------
    source
        A callable; or the name of one: ``module:name``, ``module.name``, or ``file.py:name``, relative to the current
        folder. A file is run each time that it is named here.
    setting
        What is looked for, for messages.

    Raises
    ------
    UsageError
        If there is none, or the module or file cannot be imported, then with the cause.
    """
    found: Any = _find(source, setting) if isinstance(source, str) else source
    if not callable(found):
        named = f" {source!r}" if isinstance(source, str) else ""
        raise UsageError(
            f"{setting}{named} must be a callable or the fully qualified name of a callable, but is of the type "
            f"{type(found).__name__}"
        )
    function: Callable[..., Any] = found
    return function


def _find(name: str, setting: str) -> Any:
    place, colon, path = name.rpartition(":")
    if colon and (place.endswith(".py") or os.sep in place):
        module, parts = _run_file(place, name, setting), path.split(".")
    elif colon:
        known, rest = _longest_module(place.split("."), name, setting)
        if known is None or rest:
            raise UsageError(f"{setting} {name!r}: there is no module {place!r}{_advice()}")
        module, parts = known, path.split(".")
    else:
        known, parts = _longest_module([part for part in name.split(".") if part], name, setting)
        if known is None or not parts:
            raise UsageError(f"{setting}: no attribute found named {name!r}{_advice()}")
        module = known
    found: Any = module
    for part in parts:
        try:
            found = getattr(found, part)
        except AttributeError:
            where = f"file {place!r}" if place.endswith(".py") else f"module {module.__name__!r}"
            raise UsageError(f"{setting} {name!r}: attribute {'.'.join(parts)!r} not found in {where}") from None
    return found


def _advice() -> str:
    return "; a function in a file is named as 'file.py:name'"


def _longest_module(parts: list[str], name: str, setting: str) -> tuple[ModuleType | None, list[str]]:
    """Return the module that the most of `parts` name, ``None`` if there is none, and the other parts."""
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            return importlib.import_module(module), parts[count:]
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise _failed(name, setting, module, error) from error  # one that the module itself imports
        except Exception as error:
            # Importing runs the user's code.
            raise _failed(name, setting, module, error) from error
    return None, parts


def _run_file(path: str, name: str, setting: str) -> ModuleType:
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise UsageError(f"{setting} {name!r}: there is no file {path}")
    # Neither a module that is installed, nor a file of the same name elsewhere, is to be taken for it.
    known_as = f"zappend_source_{abs(hash(path)):x}_{os.path.basename(path).removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(known_as, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{setting} {name!r}: {path} is no file of Python; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[known_as] = module  # where dataclasses and pickle look for it
    folder = os.path.dirname(path)
    sys.path.insert(0, folder)  # as for a script: what lies beside it can be imported
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[known_as]
        raise _failed(name, setting, path, error) from error
    finally:
        sys.path.remove(folder)
    return module


def _failed(name: str, setting: str, place: str, error: Exception) -> UsageError:
    return UsageError(f"{setting} {name!r}: {place} cannot be imported: {type(error).__name__}: {error}")


def arguments(item: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments that `item` stands for; raise `UsageError` for a wrong tuple."""
    if isinstance(item, list):
        return tuple(item), {}
    if isinstance(item, dict):
        return (), dict(item)
    if not isinstance(item, tuple):
        return (item,), {}
    if len(item) != 2:
        raise UsageError(f"tuple of form (args, kwargs) expected, not one of {len(item)}; a list holds arguments only")
    args, kwargs = item
    if not isinstance(args, (list, tuple)):
        raise UsageError(
            f"args in tuple of form (args, kwargs) must be a tuple or list, not {type(args).__name__}; a list holds "
            f"arguments only"
        )
    if not isinstance(kwargs, dict):
        raise UsageError(f"kwargs in tuple of form (args, kwargs) must be a dict, not {type(kwargs).__name__}")
    return tuple(args), dict(kwargs)


def call(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    context: Callable[[], Any] | None = None,
) -> Any:
    """Return what `function` returns; it gets `context()` if it has a parameter ``ctx``, as the first if that is it."""
    place = _place_of_ctx(function) if context is not None else None
    if place is None or context is None:
        return function(*args, **kwargs)
    if place == "first":
        return function(context(), *args, **kwargs)
    return function(*args, ctx=context(), **kwargs)


def _place_of_ctx(function: Callable[..., Any]) -> str | None:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # what is written in C may not tell
        return None
    ctx = parameters.get("ctx")
    if ctx is None or ctx.kind in (ctx.VAR_POSITIONAL, ctx.VAR_KEYWORD):
        return None
    is_first = next(iter(parameters)) == "ctx" and ctx.kind is not ctx.KEYWORD_ONLY
    return "first" if is_first and (ctx.default is ctx.empty or ctx.kind is ctx.POSITIONAL_ONLY) else "keyword"


def name_of(function: Callable[..., Any]) -> str:
    """Return what a user would call `function`."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def shown(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return arguments as text for a message; what may hold a secret is left out."""
    return ", ".join([*map(_shown, args), *(f"{name}=..." for name in kwargs)])


def _shown(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return repr(str(value))
    # Numbers of numpy show themselves so, too; texts of any kind and length do as file names and labels.
    is_number = getattr(value, "shape", None) == ()
    if not is_number and not isinstance(value, (str, int, float, datetime.date, datetime.timedelta)):
        return "None" if value is None else f"<{type(value).__name__}>"
    text = str(value) if is_number else repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."
