"""A target that is read but never written: what a dry run writes is kept in memory, as far as later slices need it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping

from zappend.errors import TargetError
from zappend.settings import Settings
from zappend.txn.storage import Storage

__all__ = ["DryRun", "checks_of"]


def checks_of(settings: Settings, *, created: bool, several: bool) -> list[str]:
    """Return what is checked of each slice under these settings, in words.

    Parameters
    ----------
    settings
        The settings of the append.
    created, several
        Whether the cube begins with the first slice, and whether there are more.
    """
    dim, step = settings.append_dim, settings.append_step
    labels = "come after the last one" if step is None else f"follow by append_step {step}"
    sizes = {"chunk": f"a chunk along {dim}", "aligned": f"whole chunks along {dim}"}
    made = "dimensions, variables, units and encodings make a cube"
    structure = {
        (False, False): "dimensions, variables, units and encodings are those of the cube",
        (True, False): made,
        (True, True): f"{made}, and are the same in all",
    }[created, created and several]
    if step is None and created and not several:
        labels = "are in order"
    is_compared = several or not created
    equal = "equal in all" if created else "equal to the cube's"
    return [
        structure,
        *([f"values that do not depend on {dim} are {equal}"] * is_compared),
        *([] if step == "any" else [f"labels of {dim} {labels}"]),
        *([f"its labels make {sizes[settings.slice_size]}"] if settings.slice_size in sizes and is_compared else []),
        *(f"{name} has the size {size}" for name, size in settings.fixed_dims.items()),
        "every value can be stored and reads back as it was",
    ]


class DryRun(MutableMapping[str, bytes]):
    """The keys of `storage` with those that were written here over them; nothing reaches the storage.

    Parameters
    ----------
    storage
        The target.
    prefix
        Where in it the cube lies: empty, or a folder that ends in a slash.
    force_new
        Begin as if there were no cube.

    Raises
    ------
    TargetError
        If a transaction is pending, so that it is not known what the target will be.
    """

    def __init__(self, storage: Storage, prefix: str = "", *, force_new: bool = False) -> None:
        if storage.is_pending():
            raise TargetError(
                f"{storage.name}: a transaction is running or was cut off; a dry run can tell nothing before it has "
                f"ended, or before 'zappend rollback {storage.name}'"
            )
        self._storage = storage
        self._gone = (prefix,) if force_new else ()
        self._written: dict[str, bytes] = {}
        self._origins: dict[str, str | None] = {}  # keys of the storage by what holds now what they held
        self._data: frozenset[str] = frozenset()
        self._sizes: dict[str, int] = {}

    def take_sizes(self) -> dict[str, int]:
        """Return how many bytes were written to each key since this was last called."""
        sizes, self._sizes = self._sizes, {}
        return sizes

    def forget(self, keys: Iterable[str]) -> None:
        """Do not keep what is written to `keys`: chunks that no later slice is compared with or adds to."""
        self._data = frozenset(keys)

    def __getitem__(self, key: str) -> bytes:
        value = self._written.get(key)
        if value is None and (origin := self._origin(key)) is not None:
            value = self._storage.get(origin)
        if value is None:
            raise KeyError(key)
        return value

    def _origin(self, key: str) -> str | None:
        """Return the key of the storage that holds what `key`, if it was not written to, holds now."""
        if key in self._origins:
            return self._origins[key]
        return None if key.startswith(self._gone) else key

    def __setitem__(self, key: str, value: bytes) -> None:
        self._sizes[key] = len(value)
        if key in self._data:
            self._written.pop(key, None)
        else:
            self._written[key] = value

    def __contains__(self, key: object) -> bool:
        if key in self._written:
            return True
        origin = self._origin(str(key))
        return origin is not None and self._storage.has(origin)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._written.pop(key, None)
        self._origins[key] = None

    def copy(self, sources: Mapping[str, str]) -> None:
        """Give each key what another one holds, without reading it; one whose source is not there is deleted."""
        for key, source in sources.items():
            if key in self._data:
                continue
            if source in self._written:
                self._written[key] = self._written[source]
            else:
                self._written.pop(key, None)
                self._origins[key] = self._origin(source)

    def __iter__(self) -> Iterator[str]:
        yield from self._written
        changed = self._written.keys() | self._origins.keys()
        yield from (key for key in self._origins if key not in self._written and key in self)
        yield from (k for k in self._storage.keys() if k not in changed and not k.startswith(self._gone))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        """Return the value of each of `keys`, ``None`` for one that is not there."""
        keys = list(keys)
        origins = {key: self._origin(key) for key in keys if key not in self._written}
        found = self._storage.get_many(origin for origin in origins.values() if origin is not None)
        return {key: self._written.get(key, found.get(origins.get(key) or "")) for key in keys}

    def children(self, prefix: str) -> Iterator[str]:
        """Iterate over the names directly below the folder `prefix`."""
        names = dict.fromkeys(key[len(prefix) :].partition("/")[0] for key in self._written if key.startswith(prefix))
        if not prefix.startswith(self._gone):
            children = self._storage.children(prefix)
            names.update(dict.fromkeys(name for name in children if self._origins.get(prefix + name, "") is not None))
        yield from names
