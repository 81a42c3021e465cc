"""Make the golden logs beside this file: wrecks of transactions, exactly as a killed process leaves them on a disk.

    python tests/data/make_logs.py

``logs/before`` and ``logs/after`` are the cube that all transactions began with, and the one they were to make. Each
other folder holds a wreck, the cube and the log beside it, and is called after the version of its format:

    1.0-hot        killed in the middle of writing chunks, so it is to be undone
    1.0-decided    killed in the middle of writing documents, so it is to be finished
    1.1-decided    the same of a later minor version, which has one more field in each object
    2.0-decided    the same of a later major version, which must be refused

Every later zappend must read these. So files of a released version stay as they are: the script does nothing where a
folder is there already, and a new format gets new folders, and a line above.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from zappend.testing import Call, Faults, FaultyFiles, Killed
from zappend.txn import Transaction, record, transaction
from zappend.txn.local import LocalStorage

LOGS = Path(__file__).parent / "logs"

CUBE = {
    ".zgroup": b'{"zarr_format": 2}',
    ".zattrs": b'{"title": "before"}',
    ".zmetadata": b'{"metadata": "before"}',
    "a/.zarray": b'{"shape": [2]}',
    "a/0": b"first chunk",
    "a/1": b"second chunk",
    "b/.zarray": b'{"shape": [1]}',
    "b/0": b"\x00\xff\r\n\x1a",
    "b/1": b"beyond the shape",
}

HOLDER = {"user": "somebody", "host": "elsewhere", "pid": 1, "started": "2026-01-01T00:00:00+00:00"}


def work(txn: Transaction) -> None:
    """Something of everything that a log can hold."""
    txn.log_ahead(["a/2", "c/0"], ["a/0", "a/1"])
    txn["a/0"] = b"first chunk, changed"
    txn["a/1"] = b""
    txn["a/2"] = b"third chunk"
    txn["c/0"] = b"in a new folder"
    txn["a/3"] = b"unplanned"
    txn.delete_folder("b/")
    txn["b/.zarray"] = b'{"shape": [3]}'
    txn["b/0"] = b"staged " * 9
    txn["b/2"] = b"staged too " * 9
    txn["a/.zarray"] = b'{"shape": [4]}'
    txn["c/.zarray"] = b'{"shape": [1]}'
    del txn[".zattrs"]
    txn[".zmetadata"] = b'{"metadata": "after"}'


def is_chunk(call: Call) -> bool:
    return call.name == "rename" and call.path.endswith("cube.zarr/a/3")


def is_document(call: Call) -> bool:
    return call.name == "rename" and call.path.endswith("cube.zarr/b/.zarray")


def write(folder: Path, cube: Mapping[str, bytes]) -> None:
    for key, value in cube.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)


def run(path: Path, faults: Faults) -> None:
    """Do the work on the cube at `path`; the id of the transaction is always the same."""
    files = FaultyFiles(faults)
    txn = transaction(LocalStorage(path, files=files))
    txn._log.txn = hashlib.md5(b"golden", usedforsecurity=False).hexdigest()
    try:
        with txn:
            work(txn)
    except Killed:
        files.abandon()


def wreck(name: str, last: Callable[[Call], bool]) -> None:
    """Kill the work behind the call that `last` finds; keep what is left as `name`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / "cube.zarr"
        write(path, CUBE)
        faults = Faults()
        run(path, faults)
        if not (LOGS / "after").exists():
            shutil.copytree(path, LOGS / "after")
        at = next(number for number, call in enumerate(faults.calls, 1) if last(call))
        shutil.rmtree(path)
        write(path, CUBE)
        run(path, Faults(at + 1, lasting=True))
        (path.parent / "cube.zarr.zappend" / "lock").write_text(json.dumps(HOLDER, indent=1))
        shutil.copytree(path.parent, LOGS / name)


def with_one_more_field(kind: str, txn: str, **fields: Any) -> bytes:
    return record.pack(kind, txn, **fields, comment="a later version may say more")


def main() -> None:
    """Make all logs that are not there."""
    if not (LOGS / "before").exists():
        write(LOGS / "before", CUBE)
    wrecks = {"1.0-hot": is_chunk, "1.0-decided": is_document, "1.1-decided": is_document, "2.0-decided": is_document}
    for name, last in wrecks.items():
        major, minor = map(int, name.partition("-")[0].split("."))
        with (
            mock.patch.multiple(record, MAJOR=major, MINOR=minor),
            mock.patch("zappend.txn.store.MAX_BODY", 100),
            mock.patch("zappend.txn.log.MAX_BODY", 100),
            mock.patch("zappend.txn.log.pack", with_one_more_field if minor else record.pack),
        ):
            if not (LOGS / name).exists():
                wreck(name, last)


if __name__ == "__main__":
    main()
