"""Zarr's own state machines of stores and hierarchies on `txn.store`, which is committed or rolled back now and then.

In a transaction the machines compare the store with their model after each step. When it has ended, the target must
hold what they expect: read by Zarr's own stores, which know nothing of transactions.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import zarr
from conftest import Case, DictCase, FolderCase
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from zarr.abc.store import Store
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import SyncMixin
from zarr.storage import LocalStore, MemoryStore
from zarr.testing.stateful import (
    MAX_BINARY_SIZE,
    SyncStoreWrapper,
    ZarrHierarchyStateMachine,
    ZarrStoreStateMachine,
)
from zarr.testing.strategies import keys as zarr_keys

from zappend.txn import Transaction

OLD = {".zgroup": b"group", "old/.zarray": b"array", "old/0.0": b"chunk"}
"""In the target before the first transaction, which clears it."""

Values = dict[str, bytes]


class Reader(SyncMixin):
    """Reads everything that a store of Zarr has."""

    def read(self, store: Store) -> Values:
        values = {}
        for key in self._sync_iter(store.list()):
            value = self._sync(store.get(key, default_buffer_prototype()))
            assert value is not None, key
            values[key] = value.to_bytes()
        return values


class Place:
    """A cube and the transaction that is active on it."""

    def __init__(self, case: Case, ends: Counter[str]) -> None:
        self.case = case
        case.reset(OLD)
        self.committed: Values = OLD
        self._ends = ends
        self.begin()

    def begin(self) -> Store:
        self.txn: Transaction = self.case.begin()
        self.txn.__enter__()
        return self.txn.store

    def end(self, *, commit: bool) -> Store:
        """Commit or roll back, look at the target, and begin anew."""
        seen = Reader().read(self.txn.store)
        if commit:
            self.txn.commit()
            self.committed = seen
        else:
            self.txn.rollback()
        assert Reader().read(self.plain_store()) == self.committed
        assert not any(".zappend" in name for name in self.case.state())
        self._ends["committed" if commit else "rolled back"] += 1
        return self.begin()

    def plain_store(self) -> Store:
        if isinstance(self.case, FolderCase):
            return LocalStore(self.case.path, read_only=True)
        return MemoryStore({key: cpu.Buffer.from_bytes(value) for key, value in self.case.cube().items()})

    def close(self) -> None:
        """Spoil everything, and take that back."""
        for key in list(self.txn)[::2]:
            self.txn[key] = b"spoiled"
        self.txn["another/0"] = b"spoiled"
        self.txn.clear()
        self.txn["another/1"] = b"spoiled"
        self.end(commit=False)
        self.txn.rollback()


class StoreMachine(ZarrStoreStateMachine):
    """Any keys and values."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.kept: dict[str, Buffer] | None = None  # the model as it was last committed, ``None`` for `OLD`
        self.names: set[str] = set()
        self.folders: set[str] = set()
        super().__init__(place.txn.store)

    @rule(key=zarr_keys(), data=st.binary(min_size=0, max_size=MAX_BINARY_SIZE))
    def set(self, key: str, data: bytes) -> None:
        if isinstance(self.place.case, FolderCase):
            # A file system has no file where a folder is, or has once been: Zarr leaves it there when it is empty.
            parts = key.split("/")
            above = {"/".join(parts[:n]) for n in range(1, len(parts))}
            assume(key not in self.folders and not above & self.names)
            self.names.add(key)
            self.folders |= above
        super().set(key, data)

    @precondition(lambda self: self.model)
    @rule()
    def commit(self) -> None:
        self.check_commit()

    def check_commit(self) -> None:
        assert {key: value.to_bytes() for key, value in self.model.items()} == Reader().read(self.place.txn.store)
        self.store = SyncStoreWrapper(self.place.end(commit=True))
        self.kept = dict(self.model)

    @precondition(lambda self: self.model and self.kept is not None)
    @rule()
    def roll_back(self) -> None:
        self.store = SyncStoreWrapper(self.place.end(commit=False))
        self.model = dict(self.kept or {})

    def teardown(self) -> None:
        self.check_commit()
        self.place.close()


class HierarchyMachine(ZarrHierarchyStateMachine):
    """Groups and arrays."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.kept: tuple[Values, set[str], set[str]] | None = None
        super().__init__(place.txn.store)

    @precondition(lambda self: self.all_arrays or self.all_groups)
    @rule()
    def commit(self) -> None:
        self.check_commit()

    def check_commit(self) -> None:
        self.store = self.place.end(commit=True)
        model = Reader().read(self.model)
        assert model.keys() == self.place.committed.keys()
        self.check_arrays(self.place.plain_store())
        self.kept = model, set(self.all_groups), set(self.all_arrays)

    @precondition(lambda self: self.kept is not None)
    @rule()
    def roll_back(self) -> None:
        assert self.kept is not None
        self.store = self.place.end(commit=False)
        model, groups, arrays = self.kept
        self.model = MemoryStore({key: cpu.Buffer.from_bytes(value) for key, value in model.items()})
        self.all_groups, self.all_arrays = set(groups), set(arrays)
        self.check_arrays(self.place.plain_store())

    def check_arrays(self, store: Store) -> None:
        for path in self.all_arrays:
            ours, theirs = (zarr.open_array(one, path=path, mode="r")[...] for one in (store, self.model))
            assert ours.tobytes() == theirs.tobytes(), path

    def teardown(self) -> None:
        self.check_commit()
        self.place.close()


Machine = Callable[[Place], RuleBasedStateMachine]


def check(machine: Machine, kind: str, home: Path, examples: int, steps: int) -> None:
    ends: Counter[str] = Counter()

    def start() -> RuleBasedStateMachine:
        case = DictCase() if kind == "dict" else FolderCase(Path(tempfile.mkdtemp(dir=home)), "process")
        return machine(Place(case, ends))

    few: Any = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=[hypothesis.HealthCheck.filter_too_much, hypothesis.HealthCheck.too_slow],
    )
    run_state_machine_as_test(start, settings=few)
    assert ends["committed"] >= examples
    assert ends["rolled back"] >= examples
    print(", ".join(f"{count} {how}" for how, count in ends.items()))


@pytest.mark.parametrize("kind", ["dict", "folder"])
@pytest.mark.parametrize(("machine", "examples", "steps"), [(StoreMachine, 20, 25), (HierarchyMachine, 5, 15)])
def test_machine(home: Path, machine: Machine, examples: int, steps: int, kind: str) -> None:
    check(machine, kind, home, examples, steps)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["dict", "folder"])
@pytest.mark.parametrize(("machine", "examples", "steps"), [(StoreMachine, 300, 50), (HierarchyMachine, 40, 40)])
def test_machine_for_long(home: Path, machine: Machine, examples: int, steps: int, kind: str) -> None:
    check(machine, kind, home, examples, steps)
