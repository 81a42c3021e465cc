"""What is written, synced and removed in which order; watched at every call, on the disk itself."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from conftest import FolderCase, Scenario, both_ends, run

from zappend.testing import Call, Faults, FaultyFiles, Killed
from zappend.txn import rollback, transaction
from zappend.txn.local import FolderArea, LocalStorage
from zappend.txn.log import Log
from zappend.txn.store import is_document


class Watcher(Faults):
    """Checks each call on the files of one cube against the rules, and notes in `broken` which one it breaks.

    `unsynced` holds files that were written and folders in which an entry changed, until they are synced;
    `unsynced_log` the log objects whose entries changed; `unsynced_place` whether the entry of their folder did;
    `logged` the keys whose originals are durable and count.
    """

    def __init__(self, folder: FolderCase, at: int = 0, after: Watcher | None = None) -> None:
        super().__init__(at, lasting=True)
        self.root, self.place, self.home = str(folder.path), str(folder.place), str(folder.home)
        self.full = folder.durability == "full"
        self.area = FolderArea(self.place, "process", FaultyFiles())
        self.unsynced: set[str] = set(after.unsynced) if after else set()
        self.unsynced_log: set[str] = set(after.unsynced_log) if after else set()
        self.unsynced_place = False
        self.logged: set[str] = set()
        self.broken: list[str] = []
        self.checked = 0

    def rule(self, holds: object, rule: str) -> None:
        self.checked += 1
        if not holds:
            self.broken.append(f"{rule}: {self.calls[-1] if self.calls else ''}")

    def call(self, call: Call, do: Any, half: Any = None) -> Any:
        if call.name in ("rename", "link", "unlink") and not self.fired:
            self.check(call)
        result = super().call(call, do, half)
        folder, name = os.path.split(call.path)
        if call.name == "fsync":
            self.rule(self.full, "no sync at all with durability 'process'")
            self.unsynced.discard(call.path)
            if call.path == self.home:
                self.unsynced_place = False
            if call.path == self.place:
                self.unsynced_log.clear()
                self.logged = self.keys_in_log()
        elif name == "lock":
            pass
        elif call.name in ("write", "chmod"):
            self.unsynced.add(call.path)
        elif call.name in ("rename", "link", "unlink", "mkdir", "rmdir"):
            self.unsynced.discard(call.source or call.path)
            if folder == self.place:
                self.unsynced_log.add(name)
            elif call.path != self.place:
                self.unsynced.add(folder)
            elif call.name == "mkdir":
                self.unsynced_place = True
        return result

    def check(self, call: Call) -> None:
        folder, name = os.path.split(call.path)
        if call.name != "unlink" and self.full:
            self.rule(call.source not in self.unsynced, "a file is synced before it gets its name")
        if name.startswith(".zappend-") or name == "lock":
            return
        if call.path == f"{self.place}/undo" and call.name == "unlink":
            self.rule(not self.unsynced_target(), "all of the target is durable before the log goes")
        elif call.path == f"{self.place}/undo":
            self.rule(not self.unsynced_objects("undo-"), "a part is durable before the head that counts it")
            self.rule(not self.unsynced_objects("original-"), "an original is durable before the head that names it")
        elif call.path == f"{self.place}/decision" and call.name == "link":
            self.rule(not self.unsynced_target(), "chunks are durable before the decision")
            self.rule(not self.unsynced_objects(""), "what the decision counts is durable before it")
        elif folder == self.place and call.name == "unlink":
            self.rule(not self.full or "undo" not in self.unsynced_log, "the head is durably gone before all else goes")
        elif folder != self.place:
            self.check_key(call.path.removeprefix(f"{self.root}/"), call.name)

    def check_key(self, key: str, how: str) -> None:
        log = Log.found(self.area)
        if log is None:
            self.rule(False, "a key changes only under a log")
            return
        groups = list(log.redo_groups())
        if not log.committed:
            self.rule(not is_document(key), "documents wait for the decision")
            logged = self.logged if self.full else self.keys_in_log()
            self.rule(key in logged, "a key changes only when its original is durable in the log")
            self.rule(not (self.full and self.unsynced_place), "the folder of the log is durable before a key changes")
            return
        self.rule(not self.unsynced_objects(""), "the decision is durable before a key changes")
        put = {key for group in groups for key, _ in group.staged} | {d[0] for group in groups for d in group.documents}
        gone = {key for group in groups for key in group.gone}
        folders = tuple(folder for group in groups for folder in group.gone_prefixes)
        self.rule(key in put if how == "rename" else key in gone or key.startswith(folders), "only what is decided")

    def keys_in_log(self) -> set[str]:
        log = Log.found(self.area)
        return {*log.absent, *log.changed} if log else set()

    def unsynced_objects(self, prefix: str) -> set[str]:
        return {name for name in self.unsynced_log if self.full and name.startswith(prefix) and name[0] != "."}

    def unsynced_target(self) -> set[str]:
        # What is gone again needs no sync, but the folder in which it was does.
        return {path for path in self.unsynced if self.full and os.path.lexists(path) and self.place not in path}


@pytest.mark.attack(16, 17, 19, 23)
@pytest.mark.parametrize("durability", ["full", "process"])
def test_rules_hold_at_every_call(folder: FolderCase, scenario: Scenario, durability: Any) -> None:
    folder.durability = durability
    folder.reset(scenario.old)
    watcher = Watcher(folder)
    with folder.begin(watcher) as txn:
        scenario.work(txn)
    assert folder.cube() == scenario.new
    assert watcher.broken == []
    assert watcher.checked >= 4
    assert any(call.name == "fsync" for call in watcher.calls) == (durability == "full")


def test_rules_hold_for_a_rollback(folder: FolderCase, scenario: Scenario) -> None:
    folder.reset(scenario.old)
    old = folder.state()
    watcher = Watcher(folder)

    def work(txn: Any) -> None:
        scenario.work(txn)
        raise ZeroDivisionError

    raised = run(folder, work, watcher)
    assert isinstance(raised, ZeroDivisionError)
    assert not hasattr(raised, "__notes__"), raised.__notes__
    assert folder.state() == old
    assert watcher.broken == []
    assert watcher.checked >= 4


@pytest.mark.attack(18)
def test_recovery_syncs_what_the_dead_had_not(folder: FolderCase, scenario: Scenario) -> None:
    """However often it is killed: when the log goes, nothing that any of the processes changed is unsynced."""
    old, new = both_ends(folder, scenario)
    for at in itertools.count(1):
        folder.reset(scenario.old)
        first = Watcher(folder, at)
        run(folder, scenario.work, first)
        folder.bury()
        if not first.fired:
            break
        second = Watcher(folder, at % 7 * 3 + 6, after=first)
        try:
            rollback(folder.target(second))
        except Killed:
            folder.bury()
        third = Watcher(folder, after=second)
        rollback(folder.target(third))
        assert folder.state() in (old, new), at
        assert first.broken + second.broken + third.broken == [], at
    assert at > 50


def test_second_transaction_on_one_storage(folder: FolderCase) -> None:
    watcher = Watcher(folder)
    storage = LocalStorage(folder.path, files=FaultyFiles(watcher))
    for value in (b"1", b"2"):
        with transaction(storage) as txn:
            txn["a/0"] = value
            txn["zarr.json"] = value
    assert folder.cube() == {"a/0": b"2", "zarr.json": b"2"}
    assert watcher.broken == []
