"""What a transaction costs beside plain writes of the same keys: to a dict, and to a local folder."""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import zappend
from benchmarks.measure import Setting, Timed, alternate, place
from benchmarks.table import Table, table_of

Write = Callable[[dict[str, bytes]], object]
SIZES = {"1,000 keys of 1 kB": (1000, 1000), "50 keys of 1 MB": (50, 1_000_000)}
QUICK = {"10 keys of 1 kB": (10, 1000)}


def run(setting: Setting) -> list[Table]:
    tables = []
    for name, (keys, size) in (QUICK if setting.quick else SIZES).items():
        with place(setting.memory_folder) as folder:
            writes: dict[str, Write] = {
                "dict": partial(plainly, {}),
                "dict, txn[key] = …": partial(one_by_one, {}),
                "dict, txn.update(…)": partial(together, {}),
                "files": partial(to_files, folder / "plain"),
                "files, txn[key] = …": partial(one_by_one, folder / "single", durability="process"),
                "files, txn.update(…)": partial(together, folder / "update", durability="process"),
            }
            runs = {key: partial(prepare, write, keys, os.urandom(size)) for key, write in writes.items()}
            times = alternate(runs, setting.rounds)
        tables.append(table_of(f"{name}, in memory", times, ["dict", "files"]))
    return tables


def prepare(write: Write, keys: int, value: bytes, number: int) -> Timed:
    """Return the write of keys that are new in each round."""
    return partial(write, {f"array/{number}.{i}": value for i in range(keys)})


def plainly(target: dict[str, bytes], items: dict[str, bytes]) -> None:
    target.update(items)


def one_by_one(target: MutableMapping[str, bytes] | Path, items: dict[str, bytes], **options: Any) -> None:
    with zappend.transaction(target, **options) as txn:
        for key, value in items.items():
            txn[key] = value


def together(target: MutableMapping[str, bytes] | Path, items: dict[str, bytes], **options: Any) -> None:
    with zappend.transaction(target, **options) as txn:
        txn.update(items)


def to_files(root: Path, items: dict[str, bytes]) -> None:
    """Write each value to a temporary file, which is then renamed."""
    (root / "array").mkdir(parents=True, exist_ok=True)
    for key, value in items.items():
        path = f"{root}/{key}"
        with open(f"{path}.tmp", "wb", buffering=0) as file:
            file.write(value)
        os.rename(f"{path}.tmp", path)
