"""What a store can do at once beyond what every mapping can: list a folder, read many keys side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

__all__ = ["children_of", "read_many"]


def children_of(store: Mapping[str, bytes], prefix: str) -> Iterator[str]:
    """Iterate over the names directly below the folder `prefix`; a plain mapping is searched whole."""
    if hasattr(store, "children"):
        yield from store.children(prefix)
    else:
        yield from dict.fromkeys(k[len(prefix) :].partition("/")[0] for k in store if k.startswith(prefix))


def read_many(store: Mapping[str, bytes], keys: Iterable[str]) -> dict[str, bytes | None]:
    """Return the value of each of `keys`, ``None`` for one that is not there."""
    if hasattr(store, "get_many"):
        found: dict[str, bytes | None] = store.get_many(keys)
        return found
    return {key: store.get(key) for key in keys}
