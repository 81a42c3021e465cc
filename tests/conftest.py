"""Cubes of keys and bytes for the tests of transactions: where they lie, and what is done to them."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from zappend.testing import Faults, FaultyFiles, FaultyMapping, MemoryObjects, SteppingClock
from zappend.txn import Transaction, transaction
from zappend.txn.local import LocalStorage
from zappend.txn.objectstore import ObjectStorage

hypothesis.settings.register_profile("zappend", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("zappend")

State = dict[str, bytes | None]
"""Everything there is: keys and their bytes; on disk also folders, as ``None``."""


class DictCase:
    """A cube in a dict."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def reset(self, cube: Mapping[str, bytes] | None) -> None:
        self.data.clear()
        self.data.update(cube or {})

    def target(self, faults: Faults | None = None) -> MutableMapping[str, bytes]:
        # Locks are by identity, so each wrapper has its own, and that of a dead one bothers nobody.
        return FaultyMapping(self.data, faults)

    def begin(self, faults: Faults | None = None) -> Transaction:
        return transaction(self.target(faults))

    def bury(self) -> None:
        pass

    def state(self) -> State:
        return dict(self.data)

    def cube(self) -> dict[str, bytes]:
        return dict(self.data)


class FolderCase:
    """A cube in a local folder, in a folder of its own, so that anything left beside it is seen."""

    def __init__(self, home: Path, durability: Any = "full") -> None:
        self.home = home
        self.path = home / "cube.zarr"
        self.place = home / "cube.zarr.zappend"
        self.durability = durability
        self._files: list[FaultyFiles] = []

    def reset(self, cube: Mapping[str, bytes] | None) -> None:
        for path in (self.path, self.place):
            shutil.rmtree(path, ignore_errors=True)
        for key, value in (cube or {}).items():
            path = self.path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)

    def target(self, faults: Faults | None = None) -> LocalStorage:
        files = FaultyFiles(faults, sync=False)
        self._files.append(files)
        return LocalStorage(self.path, durability=self.durability, files=files)

    def begin(self, faults: Faults | None = None) -> Transaction:
        return transaction(self.target(faults))

    def bury(self) -> None:
        """Do what the kernel does when a process is dead."""
        while self._files:
            self._files.pop().abandon()

    def state(self) -> State:
        return {
            str(path.relative_to(self.home)): None if path.is_dir() else path.read_bytes()
            for path in sorted(self.home.rglob("*"))
        }

    def cube(self) -> dict[str, bytes]:
        prefix = "cube.zarr/"
        return {k.removeprefix(prefix): v for k, v in self.state().items() if v is not None and k.startswith(prefix)}


class ObjectCase:
    """A cube in a bucket in memory; each target is a client of its own, in a process of its own."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.clock = SteppingClock()
        self.inline = True

    def reset(self, cube: Mapping[str, bytes] | None) -> None:
        self.bury()
        self.data.clear()
        self.data.update({f"cube/{key}": value for key, value in (cube or {}).items()})

    def target(self, faults: Faults | None = None, **options: Any) -> ObjectStorage:
        cube, place = (MemoryObjects(self.data, prefix, faults) for prefix in ("cube/", "cube.zappend/"))
        return ObjectStorage(cube, place, clock=self.clock, calls_at_once=1, **{"quiet": 90.0, **options})

    def begin(self, faults: Faults | None = None) -> Transaction:
        return transaction(self.target(faults))

    def bury(self) -> None:
        """Let no dead writer be heard of."""
        self.clock.forget()

    def state(self) -> State:
        return dict(self.data)

    def cube(self) -> dict[str, bytes]:
        return {key.removeprefix("cube/"): value for key, value in self.data.items() if key.startswith("cube/")}


Case = DictCase | FolderCase | ObjectCase


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty folder, in memory where there is such a file system: what is tried thousands of times is quick there."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(os.path.realpath(folder))


@pytest.fixture(params=["dict", "full", "process"])
def case(request: pytest.FixtureRequest, home: Path) -> Case:
    """A cube in a dict, and in a folder with either durability."""
    return DictCase() if request.param == "dict" else FolderCase(home, request.param)


@pytest.fixture(params=["dict", "folder"])
def place(request: pytest.FixtureRequest, home: Path) -> Case:
    """A cube in a dict, and in a folder: where durability makes no difference."""
    return DictCase() if request.param == "dict" else FolderCase(home, "process")


@pytest.fixture
def folder(home: Path) -> FolderCase:
    return FolderCase(home)


@dataclass(frozen=True)
class Scenario:
    """A cube, and a transaction's work on it that gives the same result when it is done again."""

    name: str
    old: Mapping[str, bytes] | None
    work: Callable[[Transaction], None]
    new: Mapping[str, bytes]
    max_body: int | None = None


CUBE = {
    ".zgroup": b"group",
    ".zattrs": b"attributes",
    ".zmetadata": b"old summary",
    "a/.zarray": b"old array",
    "a/0.0": b"0" * 50,
    "a/1.0": b"1" * 50,
    "b/.zarray": b"other array",
    "b/0": b"other",
}


def _create(txn: Transaction) -> None:
    txn.log_ahead(["a/0.0", "a/1.0"])
    txn["a/0.0"] = b"00"
    txn["a/1.0"] = b"11"
    txn["g/b/0"] = b"unplanned"
    for key in (".zgroup", ".zmetadata", "a/.zarray", "g/.zgroup", "g/b/.zarray", "g/empty/.zarray"):
        txn[key] = key.encode()


def _append(txn: Transaction) -> None:
    txn.log_ahead(["a/2.0", "c/0"], ["a/1.0"])
    txn.update({"a/2.0": b"two", "a/1.0": b"1" * 70})
    txn["c/0"] = b"new"
    txn["b/0"] = b"unplanned"
    txn["a/.zarray"] = b"longer array"
    txn[".zattrs"] = b"attributes"
    txn[".zmetadata"] = b"new summary"


def _overwrite(txn: Transaction) -> None:
    txn["a/0.0"] = b"first"
    txn["a/0.0"] = b"second"
    txn["a/1.0"] = b""
    txn.pop("b/0", None)


def _rewrite(txn: Transaction) -> None:
    txn["a/0.0"] = b"written, then deleted"
    txn.delete_folder("a/")
    txn["a/.zarray"] = b"rechunked"
    txn["a/c/0"] = b"staged" * 9
    txn["a/0.0"] = b"staged too" * 9
    txn["a/c/0"] = b"staged again" * 9
    txn.pop("b/0", None)
    txn["b/.zarray"] = b"emptied"
    txn[".zmetadata"] = b"new summary"


def _move(txn: Transaction) -> None:
    """Take the first of three chunks out, and let the others move up; what is done twice is done once."""
    if txn[".zmetadata"] == b"new summary":
        return
    txn.log_ahead(["c/1"], ["a/0.0", "b/0", "d/0"], by_reference=True)
    txn["c/2"] = b"written before it is moved"
    txn.copy({"a/0.0": "a/1.0", "b/0": "none/0", "c/0": "c/2", "c/1": "c/2", "d/0": "a/1.0"})
    del txn["a/1.0"]
    txn["c/2"] = b"written after it was moved"
    txn["a/.zarray"] = b"shorter array"
    txn[".zmetadata"] = b"new summary"


_REWRITTEN = {
    ".zgroup": b"group",
    ".zattrs": b"attributes",
    ".zmetadata": b"new summary",
    "a/.zarray": b"rechunked",
    "a/0.0": b"staged too" * 9,
    "a/c/0": b"staged again" * 9,
    "b/.zarray": b"emptied",
}

_MOVED = {
    ".zgroup": b"group",
    ".zattrs": b"attributes",
    ".zmetadata": b"new summary",
    "a/.zarray": b"shorter array",
    "a/0.0": b"1" * 50,
    "b/.zarray": b"other array",
    "c/0": b"written before it is moved",
    "c/1": b"written before it is moved",
    "c/2": b"written after it was moved",
    "d/0": b"1" * 50,
}

SCENARIOS = [
    Scenario(
        "create",
        None,
        _create,
        {
            "a/0.0": b"00",
            "a/1.0": b"11",
            "g/b/0": b"unplanned",
            **{
                key: key.encode()
                for key in (".zgroup", ".zmetadata", "a/.zarray", "g/.zgroup", "g/b/.zarray", "g/empty/.zarray")
            },
        },
    ),
    Scenario(
        "append",
        CUBE,
        _append,
        {
            **CUBE,
            "a/.zarray": b"longer array",
            "a/1.0": b"1" * 70,
            "a/2.0": b"two",
            "b/0": b"unplanned",
            "c/0": b"new",
            ".zmetadata": b"new summary",
        },
    ),
    Scenario(
        "overwrite",
        CUBE,
        _overwrite,
        {**{key: value for key, value in CUBE.items() if key != "b/0"}, "a/0.0": b"second", "a/1.0": b""},
    ),
    Scenario("move", CUBE, _move, _MOVED),
    Scenario("move with several log parts", CUBE, _move, _MOVED, max_body=20),
    Scenario("rewrite", CUBE, _rewrite, _REWRITTEN),
    Scenario("rewrite with several log parts", CUBE, _rewrite, _REWRITTEN, max_body=100),
]


@pytest.fixture(params=SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def scenario(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """Work on a cube, each kind of it once."""
    chosen: Scenario = request.param
    if chosen.max_body is not None:
        small_log_objects(monkeypatch, chosen.max_body)
    return chosen


def small_log_objects(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Make the log of a transaction consist of many objects."""
    monkeypatch.setattr("zappend.txn.store.MAX_BODY", size)
    monkeypatch.setattr("zappend.txn.log.MAX_BODY", size)


def run(case: Case, work: Callable[[Transaction], None], faults: Faults | None = None) -> BaseException | None:
    """Do `work` in one transaction; return what it raised."""
    try:
        with case.begin(faults) as txn:
            work(txn)
    except BaseException as error:
        if isinstance(error, (AssertionError, pytest.fail.Exception)):
            raise
        return error
    return None


def both_ends(case: Case, scenario: Scenario) -> tuple[State, State]:
    """Return the states before and after an undisturbed run."""
    case.reset(scenario.old)
    old = case.state()
    assert run(case, scenario.work) is None
    assert case.cube() == scenario.new
    return old, case.state()


@pytest.fixture
def forks() -> None:
    """Let a test fork: its children only work on files, take no lock of another thread, and leave by `os._exit`."""
    warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
