"""Grow datacubes in plain Zarr by slices, all or nothing.

`append` grows a cube by slices, `insert` puts them between others, `replace` writes them over what is there, `delete`
and `keep` take labels out, `undo` takes the last of all these back, `transaction` makes any writing to a Zarr store all
or nothing, and `rollback` settles what a killed process left. The errors are those of ``zappend.errors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zappend.errors import ZappendError
from zappend.version import __version__

if TYPE_CHECKING:
    from zappend.api import append, delete, insert, keep, replace, rollback, transaction, undo

__all__ = [
    "ZappendError",
    "__version__",
    "append",
    "delete",
    "insert",
    "keep",
    "replace",
    "rollback",
    "transaction",
    "undo",
]


def __getattr__(name: str) -> object:
    # Numpy and xarray take most of a second to import, which 'zappend --help' need not wait for.
    if name in __all__:
        from zappend import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
