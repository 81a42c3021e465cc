"""Logs of released formats, read as the documentation of the format tells, and recovered by this version.

The logs are made by ``data/make_logs.py``. What reads them here knows the format, and nothing of zappend.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path
from typing import Any, NamedTuple

import commands
import msgpack
import pytest

from zappend.errors import LogVersionError
from zappend.txn import rollback, transaction

LOGS = Path(__file__).parent / "data" / "logs"
TXN = "c773fdef3889bdadbe809f1e8aaeea46"

COMMON = {"kind", "txn", "critical"}
UNDO = {"records", "folders"}
REDO = {"documents", "staged", "gone", "gone_prefixes"}
FIELDS = {
    "undo": COMMON | UNDO | {"parts", "last", "fingerprint"},
    "undo-part": COMMON | UNDO | {"seq", "previous"},
    "redo-part": COMMON | REDO | {"seq", "previous"},
    "decision": COMMON | REDO | {"parts", "last", "head"},
}

Cube = dict[str, bytes]


def files_in(folder: Path) -> Cube:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


BEFORE, AFTER = files_in(LOGS / "before"), files_in(LOGS / "after")


class Golden(NamedTuple):
    name: str
    version: tuple[int, int]
    decided: bool
    more: frozenset[str] = frozenset()


GOLDEN = [
    Golden("1.0-hot", (1, 0), False),
    Golden("1.0-decided", (1, 0), True),
    Golden("1.1-decided", (1, 1), True, frozenset({"comment"})),
    Golden("2.0-decided", (2, 0), True),
]
READABLE = [golden for golden in GOLDEN if golden.version[0] == 1]
DECIDED = [golden for golden in GOLDEN if golden.decided]
HOT = [golden for golden in GOLDEN if not golden.decided]


class LogObject(NamedTuple):
    version: tuple[int, int]
    body: dict[str, Any]
    digest: bytes


def read_object(data: bytes) -> LogObject:
    """Read one object: magic, versions, length, body, checksum."""
    magic, major, minor, length = struct.unpack(">8sHHQ", data[:20])
    assert magic == bytes.fromhex("8a7a6170700d0a1a")
    assert len(data) == 20 + length + 32
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()
    return LogObject((major, minor), msgpack.unpackb(data[20:-32]), hashlib.sha256(data).digest())


def read_log(golden: Golden) -> dict[str, LogObject]:
    files = files_in(LOGS / golden.name / "cube.zarr.zappend")
    del files["lock"]
    return {name: read_object(data) for name, data in files.items()}


def chain(log: dict[str, LogObject], kind: str, counting: LogObject) -> list[dict[str, Any]]:
    """Return the bodies of the parts that `counting` counts, having followed their hashes."""
    bodies, previous = [], b""
    for number in range(counting.body["parts"]):
        part = log[f"{kind}-{TXN}-{number:08d}"]
        assert part.body["seq"] == number
        assert part.body["previous"] == previous
        previous = part.digest
        bodies.append(part.body)
    assert counting.body["last"] == previous
    return bodies


def each(goldens: list[Golden]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("golden", goldens, ids=lambda golden: golden.name)


@each(GOLDEN)
def test_every_object_is_as_documented(golden: Golden) -> None:
    log = read_log(golden)
    kinds = {body["kind"] for _, body, _ in log.values()}
    assert kinds == ({"undo", "undo-part", "redo-part", "decision"} if golden.decided else {"undo", "undo-part"})
    for name, (version, body, _) in log.items():
        assert version == golden.version
        assert body["txn"] == TXN
        assert body["critical"] == []
        assert set(body) == FIELDS[body["kind"]] | golden.more
        assert name == body["kind"] if body["kind"] in ("undo", "decision") else name.startswith(body["kind"][:4])


@each(GOLDEN)
def test_what_the_log_says_is_what_was_there(golden: Golden) -> None:
    log = read_log(golden)
    head = log["undo"]
    groups = [head.body, *chain(log, "undo", head)]
    records = [(key, value) for group in groups for key, value in group["records"]]
    assert len(dict(records)) == len(records), "a key has one original"
    assert all(BEFORE.get(key) == value for key, value in records)
    assert {"a/0", "a/1", "a/2", "a/3", "c/0"} == set(dict(records))
    assert [folder for group in groups for folder in group["folders"]] == ["c"]
    roots = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
    hashes = {key: hashlib.sha256(BEFORE[key]).digest() if key in BEFORE else None for key in roots}
    assert head.body["fingerprint"] == hashes
    assert sum(name.startswith("undo-") for name in log) == head.body["parts"] >= 1


@each(HOT)
def test_undoing_by_hand_gives_the_old_cube(golden: Golden) -> None:
    log = read_log(golden)
    cube = files_in(LOGS / golden.name / "cube.zarr")
    assert cube != BEFORE
    for group in [log["undo"].body, *chain(log, "undo", log["undo"])]:
        for key, value in group["records"]:
            cube.pop(key, None)
            if value is not None:
                cube[key] = value
    assert cube == BEFORE


@each(DECIDED)
def test_redoing_by_hand_gives_the_new_cube(golden: Golden) -> None:
    log = read_log(golden)
    decision = log["decision"]
    assert decision.body["head"] == log["undo"].digest
    groups = [*chain(log, "redo", decision), decision.body]
    assert len(groups) > 3
    documents = {key: (old, new) for group in groups for key, old, new in group["documents"]}
    staged = {key: value for group in groups for key, value in group["staged"]}
    assert all(BEFORE.get(key) == old and AFTER[key] == new for key, (old, new) in documents.items())
    assert [prefix for group in groups for prefix in group["gone_prefixes"]] == ["b/"]
    gone = {key for group in groups for key in group["gone"]}
    written = staged | {key: new for key, (_, new) in documents.items()}
    cube = files_in(LOGS / golden.name / "cube.zarr")
    assert cube != AFTER
    kept = {key: value for key, value in cube.items() if key not in gone and not key.startswith("b/")}
    assert kept | written == AFTER


@each(READABLE)
@pytest.mark.parametrize("how", ["rollback", "next writer", "command line"])
def test_recovery(home: Path, golden: Golden, how: str) -> None:
    shutil.copytree(LOGS / golden.name, home, dirs_exist_ok=True)
    cube = home / "cube.zarr"
    outcome = "completed" if golden.decided else "rolled back"
    if how == "rollback":
        assert rollback(cube).outcome == outcome
    elif how == "next writer":
        with transaction(cube) as txn:
            txn["a/0"] = b"of a transaction that is rolled back"
            txn.rollback()
    else:
        done = commands.run("rollback", cube)
        assert done.code == 0
        assert outcome in done.out
    assert [path.name for path in home.iterdir()] == ["cube.zarr"]
    assert files_in(cube) == (AFTER if golden.decided else BEFORE)
    assert {path.name for path in cube.iterdir() if path.is_dir()} == (
        {"a", "b", "c"} if golden.decided else {"a", "b"}
    )


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["", "dry-run"])
def test_newer_major_version_is_refused(home: Path, options: tuple[str, ...]) -> None:
    shutil.copytree(LOGS / "2.0-decided", home, dirs_exist_ok=True)
    done = commands.run_process("rollback", *options, home / "cube.zarr")
    assert done.code == 5
    assert "2.0" in done.err
    assert len(done.err.splitlines()) == 1
    with pytest.raises(LogVersionError), transaction(home / "cube.zarr"):
        pass
    assert without_lock(home) == without_lock(LOGS / "2.0-decided")


def without_lock(folder: Path) -> Cube:
    return {name: data for name, data in files_in(folder).items() if not name.endswith(".zappend/lock")}
