"""Object stores: requests that are killed, lost, late or refused, each of them once and for good.

The store is one in memory that behaves as S3 does: the tag of an object follows from its bytes, so it can come back.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from typing import Any

import pytest
from conftest import CUBE, SCENARIOS, ObjectCase, Scenario, both_ends, run
from test_txn_faults import each_fault

from zappend.errors import (
    CommitStateUnknown,
    Locked,
    LockLost,
    LogDamaged,
    LogVersionError,
    TargetError,
    TransactionClosed,
)
from zappend.testing import Faults, Killed, fail
from zappend.txn import rollback, transaction
from zappend.txn.lockbody import Body
from zappend.txn.objects import Unclear

LOST = Unclear("no answer")
FORBIDDEN = PermissionError("not allowed")


@pytest.fixture(params=[2**16, 0], ids=["log-in-lock", "log-beside-lock"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectCase:
    """A cube in a bucket, its log inside the lock object, or as objects of its own."""
    monkeypatch.setattr("zappend.txn.objectplace.INLINE", request.param)
    case = ObjectCase()
    case.inline = bool(request.param)
    return case


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("then", ["rollback", "again"])
def test_killed_at_every_request(bucket: ObjectCase, scenario: Scenario, then: str, when: Any) -> None:
    old, new = both_ends(bucket, scenario)
    seen = []
    for at, error in each_fault(bucket, scenario, when=when, lasting=True):
        assert isinstance(error, Killed), at
        bucket.bury()
        if then == "rollback":
            rollback(bucket.target())
            assert bucket.state() in (old, new), at
            seen.append(bucket.state() == new)
        else:
            assert run(bucket, scenario.work) is None
            assert bucket.state() == new, at
    assert seen == sorted(seen)
    assert then == "again" or {False, True} == set(seen)


def test_recovery_killed_at_every_request(bucket: ObjectCase, scenario: Scenario) -> None:
    old, new = both_ends(bucket, scenario)
    cut = 0
    for at, _ in each_fault(bucket, scenario, lasting=True):
        bucket.bury()
        wreck = dict(bucket.data)
        for again in itertools.count(1):
            bucket.data.clear()
            bucket.data.update(wreck)
            faults = Faults(again, lasting=True)
            try:
                rollback(bucket.target(faults))
            except Killed:
                cut += 1
            bucket.bury()
            if not faults.fired:
                break
            rollback(bucket.target())
            assert bucket.state() in (old, new), (at, again)
        assert bucket.state() in (old, new), at
    assert cut > 20


@pytest.mark.attack(14)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [LOST, FORBIDDEN], ids=["lost", "forbidden"])
def test_error_at_every_request(
    bucket: ObjectCase, scenario: Scenario, error: OSError, when: Any, lasting: bool
) -> None:
    if error is FORBIDDEN and when == "after":
        when = "before"  # what is refused was not done
    old, new = both_ends(bucket, scenario)
    told = 0
    for at, raised in each_fault(bucket, scenario, fault=fail(error), lasting=lasting, when=when):
        if raised is None:
            rollback(bucket.target())
            assert bucket.state() == new, at
            continue
        told += 1
        assert isinstance(raised, (OSError, CommitStateUnknown)), (at, raised)
        unknown = isinstance(raised, CommitStateUnknown)
        bucket.bury()
        rollback(bucket.target())
        assert bucket.state() == old or (unknown and bucket.state() == new), (at, raised)
    assert told > 5 or error is LOST


# Locks and logs that others deleted, and objects that arrive late.


def wreck(bucket: ObjectCase, work: Any, at: int) -> None:
    """Kill a transaction that does `work` before its request `at`."""
    bucket.reset(CUBE)
    assert isinstance(run(bucket, work, Faults(at, lasting=True)), Killed)
    bucket.bury()


def in_place(txn: Any) -> None:
    txn["a/0.0"] = b"0" * 70
    txn["a/.zarray"] = b"other array"
    txn["z/0"] = b"new"


@pytest.mark.attack(15, 25)
def test_lock_deleted_by_hand_while_the_log_is_hot(bucket: ObjectCase) -> None:
    refused = 0
    for at in itertools.count(1):
        bucket.reset(CUBE)
        faults = Faults(at, lasting=True)
        if run(bucket, in_place, faults) is None:
            break
        bucket.bury()
        wreck_state = bucket.state()
        if bucket.data.pop("cube.zappend/lock", None) is None:
            continue
        log = [key for key in bucket.data if key.startswith("cube.zappend/undo")]
        changed = bucket.cube() != CUBE
        if log and changed:
            with pytest.raises(LogDamaged, match="no lock that names it"):
                rollback(bucket.target())
            refused += 1
            bucket.data["cube.zappend/lock"] = wreck_state["cube.zappend/lock"] or b""
        rollback(bucket.target())
        assert not [key for key in bucket.data if "zappend" in key], at
    assert bool(refused) == (not bucket.inline)


@pytest.mark.attack(3, 11)
def test_part_of_a_log_that_arrives_late_is_swept_away(bucket: ObjectCase) -> None:
    _, new = both_ends(bucket, SCENARIOS[1])
    bucket.reset(SCENARIOS[1].old)
    seen: list[tuple[str, bytes]] = []

    def work(txn: Any) -> None:
        SCENARIOS[1].work(txn)
        seen.extend((key, value) for key, value in bucket.data.items() if key.startswith("cube.zappend/undo"))

    assert run(bucket, work) is None
    for key, value in seen:
        bucket.data[key] = value  # a copy of a request that was answered long ago
        assert rollback(bucket.target()).outcome == "clean"
        assert bucket.state() == new
        bucket.data[key] = value
        with bucket.begin() as txn:
            txn["late"] = b"1"
        assert bucket.state() == {**new, "cube/late": b"1"}
        del bucket.data["cube/late"]
    assert bool(seen) == (not bucket.inline)


@pytest.mark.parametrize("state", ["hot", "commit"])
@pytest.mark.attack(23)
def test_named_log_object_that_is_missing_or_another_is_refused(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zappend.txn.objectplace.INLINE", 0)
    bucket = ObjectCase()
    for at in itertools.count(3):
        wreck(bucket, SCENARIOS[1].work, at)
        found = Body.parse(bucket.data["cube.zappend/lock"])
        if found.state == state:
            break
    before = bucket.state()
    for name, _ in found.objects.values():
        for damaged in (None, b"other", before[f"cube.zappend/{name}"][:-1]):  # type: ignore[index]
            bucket.data.clear()
            bucket.data.update(before)  # type: ignore[arg-type]
            bucket.data.pop(f"cube.zappend/{name}")
            if damaged is not None:
                bucket.data[f"cube.zappend/{name}"] = damaged
            broken = {key: value for key, value in bucket.state().items() if key != "cube.zappend/lock"}
            with pytest.raises(LogDamaged, match=name):
                rollback(bucket.target())
            assert {key: value for key, value in bucket.state().items() if key != "cube.zappend/lock"} == broken


def test_damaged_or_newer_lock_is_refused(bucket: ObjectCase) -> None:
    wreck(bucket, SCENARIOS[1].work, 20)
    lock = bucket.data["cube.zappend/lock"]
    for data in (b"", lock[:-1], lock + b"\0", bytes([lock[0] ^ 1]) + lock[1:], lock[:60] + b"\xff" + lock[61:]):
        bucket.data["cube.zappend/lock"] = data
        before = bucket.state()
        with pytest.raises(LogDamaged):
            rollback(bucket.target())
        with pytest.raises(LogDamaged):
            bucket.begin().__enter__()
        assert bucket.state() == before
    newer = bytearray(lock[:-32])
    newer[8:10] = (2).to_bytes(2, "big")
    bucket.data["cube.zappend/lock"] = bytes(newer) + hashlib.sha256(newer).digest()
    with pytest.raises(LogVersionError):
        rollback(bucket.target())


def test_dry_run_changes_nothing(bucket: ObjectCase, scenario: Scenario) -> None:
    old, new = both_ends(bucket, scenario)
    outcomes = set()
    for at, _ in each_fault(bucket, scenario, lasting=True):
        bucket.bury()
        before = bucket.state()
        told = rollback(bucket.target(), dry_run=True)
        assert bucket.state() == before, at
        assert rollback(bucket.target()).outcome == told.outcome, at
        outcomes.add(told.outcome)
        assert bucket.state() in (old, new)
    assert outcomes == {"clean", "rolled back", "completed"}


# Who holds the lock.


@pytest.mark.attack(45)
def test_live_writer_is_told_of_and_not_robbed(bucket: ObjectCase) -> None:
    with bucket.begin() as txn:
        txn["a"] = b"1"
        for again in (bucket.begin, lambda: transaction(bucket.target(), lock_timeout=1000)):
            begun = bucket.clock.now()
            with pytest.raises(Locked, match="at work") as caught:
                again().__enter__()
            assert caught.value.holder["pid"] == os.getpid()
            assert bucket.clock.now() > begun
        with pytest.raises(Locked):
            rollback(bucket.target())
    assert bucket.state() == {"cube/a": b"1"}


def test_dead_writer_that_had_changed_nothing_is_waited_out(bucket: ObjectCase) -> None:
    wreck(bucket, lambda txn: txn.update({"z/0": b"new"}), 3)
    assert Body.parse(bucket.data["cube.zappend/lock"]).state == "open"
    begun = bucket.clock.now()
    assert rollback(bucket.target()).outcome == "clean"
    assert 60 <= bucket.clock.now() - begun < 61


@pytest.mark.attack(9, 10)
@pytest.mark.parametrize("break_lock", [False, True])
@pytest.mark.parametrize("key", ["a/0.0", "z/0"])
def test_requests_that_may_be_late_are_waited_out(bucket: ObjectCase, key: str, break_lock: bool) -> None:
    """What readers see is changed: a late request could bring it back, in a cube of a later writer."""
    for at in itertools.count(3):
        wreck(bucket, lambda txn: txn.update({key: b"changed"}), at)
        if bucket.cube() != CUBE:
            break
    begun = bucket.clock.now()
    rollback(bucket.target(), break_lock=break_lock)
    waited = bucket.clock.now() - begun
    assert waited == 0 if break_lock else waited >= 150
    assert bucket.cube() == CUBE


@pytest.mark.attack(1, 2, 6, 46)
@pytest.mark.parametrize("then", ["commit", "write", "roll back", "settled"])
def test_writer_that_lost_its_lock_changes_nothing(bucket: ObjectCase, then: str) -> None:
    bucket.reset(CUBE)
    txn = bucket.begin().__enter__()
    txn["z/0"] = b"mine"
    txn["a/.zarray"] = b"longer"
    bucket.bury()  # suspended: nothing is heard of it
    if then == "settled":
        rollback(bucket.target())
    else:
        with bucket.begin() as other:
            other["z/0"] = b"theirs"
            other["a/.zarray"] = b"other"
    expected = bucket.state()
    use = {"roll back": txn.rollback, "write": lambda: txn.update({"z/0": b"mine again"})}.get(then, txn.commit)
    with pytest.raises(LockLost, match="the lock was lost"):
        use()
    assert bucket.state() == expected
    if then == "write":
        with pytest.raises(TransactionClosed):
            txn.commit()
        assert bucket.state() == expected


@pytest.mark.attack(25)
def test_lock_deleted_by_hand_stops_the_commit(bucket: ObjectCase) -> None:
    bucket.reset(CUBE)
    txn = bucket.begin().__enter__()
    txn["z/0"] = b"mine"
    txn["a/.zarray"] = b"longer"
    del bucket.data["cube.zappend/lock"]
    with pytest.raises(LockLost, match="it was deleted"):
        txn.commit()
    assert {key: value for key, value in bucket.cube().items() if key != "z/0"} == CUBE


@pytest.mark.attack(24)
def test_document_changed_by_others(bucket: ObjectCase) -> None:
    for key in (".zmetadata", "a/.zarray"):
        bucket.reset(CUBE)
        txn = bucket.begin().__enter__()
        txn["a/.zarray"] = b"longer"
        txn[".zmetadata"] = b"summary"
        bucket.data[f"cube/{key}"] = b"foreign"
        with pytest.raises((TargetError, CommitStateUnknown), match=f"'{key}' of .* was changed by others"):
            txn.commit()
        assert bucket.data[f"cube/{key}"] == b"foreign"


@pytest.mark.attack(7)
def test_chunk_changed_by_others_is_not_overwritten(bucket: ObjectCase) -> None:
    bucket.reset(CUBE)
    txn = bucket.begin().__enter__()
    txn["a/0.0"] = b"mine"
    bucket.data["cube/a/0.0"] = b"foreign"
    with pytest.raises(TargetError, match=r"'a/0.0' of .* was changed by others"):
        txn["a/0.0"] = b"mine again"
    txn.rollback()
    assert bucket.cube() == CUBE


@pytest.mark.attack(21)
def test_stray_chunk_is_replaced(bucket: ObjectCase) -> None:
    bucket.reset({**CUBE, "a/2.0": b"stray"})
    with bucket.begin() as txn:
        txn.log_ahead(["a/2.0"])
        txn["a/2.0"] = b"mine"
    assert bucket.cube() == {**CUBE, "a/2.0": b"mine"}


@pytest.mark.attack(12)
def test_lock_of_a_finished_writer_is_taken_over_at_once(bucket: ObjectCase) -> None:
    for at in itertools.count(3):
        wreck(bucket, in_place, at)
        if Body.parse(bucket.data["cube.zappend/lock"]).state == "done":
            break
    begun = bucket.clock.now()
    assert rollback(bucket.target()).outcome == "clean"
    assert bucket.clock.now() == begun
    assert not [key for key in bucket.data if "zappend" in key]


def test_who_takes_over_and_fails_leaves_the_lock_that_tells_litter_from_logs(bucket: ObjectCase) -> None:
    """Found by a random schedule: without the lock, what a committed writer could not delete looked like its log."""
    for at in itertools.count(3):
        wreck(bucket, lambda txn: txn.update({"a/0.0": b"committed"}), at)
        if Body.parse(bucket.data["cube.zappend/lock"]).state == "done":
            break
    committed = bucket.cube()
    for failing in range(1, 12):
        before = dict(bucket.data)
        with contextlib.suppress(OSError):
            rollback(bucket.target(Faults(failing, fail(FORBIDDEN))))
        bucket.bury()
        rollback(bucket.target())
        assert bucket.state() == {f"cube/{key}": value for key, value in committed.items()}
        bucket.data.clear()
        bucket.data.update(before)


@pytest.mark.attack(7)
@pytest.mark.parametrize("planned", [False, True])
def test_commit_ends_when_no_creation_without_an_answer_can_come_late(bucket: ObjectCase, planned: bool) -> None:
    """A later writer may delete the key, and then a late creation would bring it back."""

    def work(txn: Any) -> None:
        if planned:
            txn.log_ahead(["z/0"])
        txn["z/0"] = b"new"

    bucket.reset(CUBE)
    probe = Faults()
    assert run(bucket, work, probe) is None
    at = next(i for i, call in enumerate(probe.calls, 1) if call.name == "put" and call.path == "z/0")
    for when in ("before", "after"):
        bucket.reset(CUBE)
        begun = bucket.clock.now()
        assert run(bucket, work, Faults(at, fail(LOST), when=when)) is None  # type: ignore[arg-type]
        assert bucket.clock.now() - begun >= 90
        assert bucket.state() == {f"cube/{key}": value for key, value in {**CUBE, "z/0": b"new"}.items()}
