"""Any sequence of steps, against a plain dict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import Case, DictCase, FolderCase, ObjectCase
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zappend.testing import Faults, Killed
from zappend.txn import Transaction, rollback

KEYS = ["a/0", "a/1", "a/b/0", "a/zarr.json", "b/0", "b/.zarray", ".zgroup", ".zmetadata", "zarr.json", "c"]
FOLDERS = ["", "a/", "a/b/", "b/"]
KINDS = ["dict", "full", "process", "bucket"]
values = st.binary(max_size=4)


class Machine(RuleBasedStateMachine):
    """`model` is the cube as it is committed, `pending` as the transaction at hand sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.model: dict[str, bytes] = {}
        self.pending: dict[str, bytes] = {}
        self.txn: Transaction | None = None
        self.faults = Faults()
        self.case: Case = DictCase()

    def teardown(self) -> None:
        if self.txn is not None:
            self.txn.rollback()
        shutil.rmtree(self.home)

    @initialize(cube=st.dictionaries(st.sampled_from(KEYS), values), kind=st.sampled_from(KINDS))
    def start(self, cube: dict[str, bytes], kind: str) -> None:
        if kind in ("full", "process"):
            self.case = FolderCase(self.home, kind)
        else:
            self.case = DictCase() if kind == "dict" else ObjectCase()
        self.case.reset(cube)
        self.model = cube

    @precondition(lambda self: self.txn is None)
    @rule()
    def begin(self) -> None:
        self.faults = Faults()
        self.txn = self.case.begin(self.faults)
        self.txn.__enter__()
        self.pending = dict(self.model)

    @precondition(lambda self: self.txn is not None)
    @rule(key=st.sampled_from(KEYS), value=values)
    def set(self, key: str, value: bytes) -> None:
        self.running[key] = value
        self.pending[key] = value

    @precondition(lambda self: self.txn is not None)
    @rule(pairs=st.dictionaries(st.sampled_from(KEYS), values))
    def update(self, pairs: dict[str, bytes]) -> None:
        self.running.update(pairs)
        self.pending.update(pairs)

    @precondition(lambda self: self.txn is not None)
    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        assert self.running.pop(key, None) == self.pending.pop(key, None)

    @precondition(lambda self: self.txn is not None)
    @rule(prefix=st.sampled_from(FOLDERS))
    def delete_folder(self, prefix: str) -> None:
        self.running.delete_folder(prefix)
        self.pending = {key: value for key, value in self.pending.items() if not key.startswith(prefix)}

    @precondition(lambda self: self.txn is not None)
    @rule(keys=st.sets(st.sampled_from(KEYS)))
    def log_ahead(self, keys: set[str]) -> None:
        self.running.log_ahead([], sorted(keys))

    @precondition(lambda self: self.txn is not None)
    @rule()
    def commit(self) -> None:
        self.running.commit()
        self.model, self.txn = self.pending, None

    @precondition(lambda self: self.txn is not None)
    @rule()
    def roll_back(self) -> None:
        self.running.rollback()
        self.txn = None

    @precondition(lambda self: self.txn is not None)
    @rule(ahead=st.integers(1, 40), then=st.sampled_from(["rollback", "next writer"]))
    def crash(self, ahead: int, then: str) -> None:
        self.faults._at, self.faults._lasting = len(self.faults.calls) + ahead, True
        died = False
        try:
            self.running.commit()
        except Killed:
            died = True
        self.txn = None
        self.case.bury()
        if then == "rollback":
            rollback(self.case.target())
        else:
            with self.case.begin():
                pass
        if not died:
            assert self.case.cube() == self.pending
        assert self.case.cube() in (self.model, self.pending)
        self.model = self.case.cube()

    @precondition(lambda self: self.txn is not None)
    @invariant()
    def transaction_sees_its_changes(self) -> None:
        assert dict(self.running) == self.pending
        there, expected = set(self.running.children("")), {key.split("/")[0] for key in self.pending}
        assert there >= expected
        # A folder stays when its last key goes: it may be somebody's.
        assert there == expected or isinstance(self.case, FolderCase)
        assert sorted(self.running.keys_below("a/")) == sorted(key for key in self.pending if key.startswith("a/"))

    @precondition(lambda self: self.txn is None)
    @invariant()
    def nothing_else_is_there(self) -> None:
        assert self.case.cube() == self.model
        assert not any(".zappend" in key for key in self.case.state())

    @property
    def running(self) -> Any:
        assert self.txn is not None
        return self.txn


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)
TestMachine = Machine.TestCase


class LongMachine(Machine):
    """The same, for long."""


LongMachine.TestCase.settings = settings(Machine.TestCase.settings, max_examples=2000, stateful_step_count=200)
TestLongMachine = pytest.mark.campaign(LongMachine.TestCase)
