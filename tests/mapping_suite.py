"""What a mapping of keys to bytes must do, as functions that any test can call on any such mapping.

They use the keys below ``suite/`` and leave nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

Mapping = MutableMapping[str, bytes]


def check_reading(mapping: Mapping) -> None:
    assert "suite/a" not in mapping
    assert mapping.get("suite/a") is None
    assert mapping.get("suite/a", b"default") == b"default"
    with pytest.raises(KeyError, match="suite/a"):
        mapping["suite/a"]
    mapping["suite/a"] = b"1"
    assert "suite/a" in mapping
    assert mapping["suite/a"] == b"1"
    assert type(mapping["suite/a"]) is bytes
    assert "suite" not in mapping, "a folder is no key"
    assert 1 not in mapping
    assert "" not in mapping
    del mapping["suite/a"]


def check_writing(mapping: Mapping) -> None:
    mapping["suite/a"] = b"1"
    mapping["suite/a"] = b"22"
    assert mapping["suite/a"] == b"22"
    mapping["suite/a"] = b""
    assert mapping["suite/a"] == b""
    mapping["suite/a"] = bytearray(b"array")
    assert mapping["suite/a"] == b"array"
    mapping["suite/zarr.json"] = bytearray(b"document")
    assert mapping["suite/zarr.json"] == b"document"
    mapping["suite/a"] = memoryview(b"view")
    assert mapping["suite/a"] == b"view"
    del mapping["suite/a"], mapping["suite/zarr.json"]
    with pytest.raises(KeyError):
        del mapping["suite/a"]
    with pytest.raises(KeyError):
        mapping["suite/a"]


def check_listing(mapping: Mapping) -> None:
    before = sorted(mapping)
    assert len(mapping) == len(before)
    new = ["suite/a", "suite/b/0", "suite/b/zarr.json", "suite/b0"]
    for key in new:
        mapping[key] = key.encode()
    assert sorted(mapping) == sorted([*before, *new])
    assert len(mapping) == len(before) + 4
    assert sorted(mapping.keys()) == sorted(mapping)
    assert dict(mapping.items())["suite/b0"] == b"suite/b0"
    assert b"suite/a" in mapping.values()
    del mapping["suite/b/0"]
    assert sorted(mapping) == sorted([*before, "suite/a", "suite/b/zarr.json", "suite/b0"])
    for key in ("suite/a", "suite/b/zarr.json", "suite/b0"):
        del mapping[key]
    assert sorted(mapping) == before


def check_mixins(mapping: Mapping) -> None:
    mapping.update({"suite/a": b"a", "suite/b": b"b"})
    mapping.update([("suite/c", b"c")])
    mapping.update()
    assert mapping.setdefault("suite/a", b"other") == b"a"
    assert mapping.setdefault("suite/d", b"d") == b"d"
    assert mapping.pop("suite/a") == b"a"
    assert mapping.pop("suite/a", b"default") == b"default"
    with pytest.raises(KeyError):
        mapping.pop("suite/a")
    before = len(mapping)
    key, value = mapping.popitem()
    assert len(mapping) == before - 1
    assert key not in mapping
    mapping[key] = value
    for key in ("suite/b", "suite/c", "suite/d"):
        del mapping[key]


def check_bad_keys(mapping: Mapping) -> None:
    before = dict(mapping)
    for key in ("", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a\\b", "a\0b"):
        with pytest.raises(ValueError, match="is no key of a store"):
            mapping[key] = b""
        with pytest.raises(ValueError, match="is no key of a store"):
            mapping[key]
        with pytest.raises(ValueError, match="is no key of a store"):
            del mapping[key]
        assert key not in mapping
    for key in (".zappend/undo", ".zappend", "a/.zappend-1-0"):
        with pytest.raises(ValueError, match="where zappend keeps"):
            mapping[key] = b""
    for key in (1, None, b"a", ("a",)):
        with pytest.raises(TypeError, match="must be a str"):
            mapping[key] = b""  # type: ignore[index]
    assert dict(mapping) == before


def check_bad_values(mapping: Mapping) -> None:
    before = dict(mapping)
    for value in ("text", 1, None, [b"a"]):
        wrong: Any = value
        with pytest.raises(TypeError, match="must be bytes"):
            mapping["suite/a"] = wrong
        with pytest.raises(TypeError, match="must be bytes"):
            mapping.update({"suite/b": b"fine", "suite/a": wrong})
    assert dict(mapping) == before


def check_clear(mapping: Mapping) -> None:
    mapping["suite/a"] = b"1"
    mapping.clear()
    assert list(mapping) == []
    assert len(mapping) == 0
    assert "suite/a" not in mapping
    with pytest.raises(KeyError):
        mapping.popitem()
    mapping["suite/a"] = b"2"
    assert dict(mapping) == {"suite/a": b"2"}
    mapping.clear()


CHECKS: list[Callable[[Mapping], None]] = [
    check_reading,
    check_writing,
    check_listing,
    check_mixins,
    check_bad_keys,
    check_bad_values,
]
