"""What a store can do at once beyond what every mapping can: list a folder, read many keys side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor

__all__ = ["children_of", "copy_many", "is_remote", "list_and_read", "read_many"]


def is_remote(store: Mapping[str, bytes]) -> bool:
    """Tell whether calls wait for a network, so that many at once cost hardly more time than one."""
    return bool(getattr(store, "is_remote", False))


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


def list_and_read(store: Mapping[str, bytes], keys: Collection[str]) -> tuple[list[str], dict[str, bytes | None]]:
    """Return the names at the root of the store, and at the same time the value of each of `keys`."""
    if not keys:
        return list(children_of(store, "")), {}
    with ThreadPoolExecutor(1, "zappend") as pool:
        listing = pool.submit(lambda: list(children_of(store, "")))
        found = read_many(store, keys)
        return listing.result(), found


def copy_many(store: MutableMapping[str, bytes], sources: Mapping[str, str]) -> None:
    """Give each key what another one holds, in this order; one whose source is not there is deleted."""
    if hasattr(store, "get_many"):
        store.copy(sources)  # type: ignore[attr-defined]
        return
    for key, source in sources.items():
        if source in store:
            store[key] = store[source]
        else:
            store.pop(key, None)
