"""Kills, errors and interrupts at every single operation: afterwards the cube is old or new, and nothing is left."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Case, DictCase, FolderCase, Scenario, both_ends, run

from zappend.errors import CommitStateUnknown, TransactionError
from zappend.testing import Faults, FaultyFiles, Killed, fail
from zappend.txn import rollback, transaction
from zappend.txn.local import LocalStorage

ENOSPC = OSError(errno.ENOSPC, "No space left on device")
EIO = OSError(errno.EIO, "Input/output error")


def each_fault(case: Case, scenario: Scenario, **how: Any) -> Iterator[tuple[int, BaseException | None]]:
    """Run `scenario` with a fault at operation 1, 2, 3, …, until one is over before its fault; yield what it raised."""
    for at in itertools.count(1):
        case.reset(scenario.old)
        faults = Faults(at, **how)
        error = run(case, scenario.work, faults)
        if not faults.fired:
            assert error is None
            assert case.cube() == scenario.new
            assert at > 10, "hardly anything was tried"
            return
        yield at, error


@pytest.mark.attack(16)
@pytest.mark.parametrize("then", ["rollback", "again"])
def test_killed_before_every_operation(case: Case, scenario: Scenario, then: str) -> None:
    # To be killed behind one is to be killed before the next.
    check_kills(case, scenario, "before", then)


@pytest.mark.attack(49)
def test_killed_half_way_through_every_write(folder: FolderCase, scenario: Scenario) -> None:
    check_kills(folder, scenario, "torn", "rollback")


def check_kills(case: Case, scenario: Scenario, when: Any, then: str) -> None:
    """Kill the transaction at every operation; then settle it, or just do it again."""
    old, new = both_ends(case, scenario)
    seen = []
    for at, error in each_fault(case, scenario, when=when, lasting=True):
        assert isinstance(error, Killed), at
        case.bury()
        if then == "rollback":
            rollback(case.target())
            assert case.state() in (old, new), at
            seen.append(case.state() == new)
        else:
            assert run(case, scenario.work) is None
            assert case.state() == new, at
    # One point in the run decides: all kills before it give the old cube, all behind it the new one.
    assert seen == sorted(seen)
    assert then == "again" or {False, True} == set(seen)


def check_killed_recoveries(case: Case, scenario: Scenario, when: Any, step: int = 1) -> None:
    """Kill the transaction at every operation, or one in `step`, and every recovery of it at every one, too."""
    old, new = both_ends(case, scenario)
    cut = 0
    for at, _ in each_fault(case, scenario, when=when, lasting=True):
        case.bury()
        for again in itertools.count(1):
            if at % step:
                rollback(case.target())
                break
            faults = Faults(again, when=when, lasting=True)
            try:
                rollback(case.target(faults))
            except Killed:
                cut += 1
            case.bury()
            if not faults.fired:
                break
            first = case.state()
            rollback(case.target())
            assert case.state() in (old, new), (at, again)
            assert case.state() == old or first != old, "undone, then redone"
            # The same wreck again, for the next recovery.
            case.reset(scenario.old)
            run(case, scenario.work, Faults(at, when=when, lasting=True))
            case.bury()
        assert case.state() in (old, new), at
    assert cut > 20


def test_recovery_killed_before_every_operation_in_a_dict(scenario: Scenario) -> None:
    check_killed_recoveries(DictCase(), scenario, "before")


def test_recovery_killed_before_every_operation_in_a_folder(folder: FolderCase, scenario: Scenario) -> None:
    folder.durability = "process"
    check_killed_recoveries(folder, scenario, "before", step=6)


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "torn"])
@pytest.mark.parametrize("durability", ["full", "process"])
def test_recovery_killed_at_every_operation_campaign(
    folder: FolderCase, scenario: Scenario, when: Any, durability: Any
) -> None:
    folder.durability = durability
    check_killed_recoveries(folder, scenario, when)


@pytest.mark.attack(47)
@pytest.mark.parametrize(
    ("error", "lasting", "when"),
    [
        pytest.param(ENOSPC, True, "before", id="ENOSPC-lasting-before"),
        pytest.param(EIO, False, "before", id="EIO-once-before"),
        pytest.param(EIO, False, "after", id="EIO-once-after"),
        pytest.param(ENOSPC, False, "before", id="ENOSPC-once-before", marks=pytest.mark.campaign),
        pytest.param(ENOSPC, True, "after", id="ENOSPC-lasting-after", marks=pytest.mark.campaign),
        pytest.param(EIO, True, "before", id="EIO-lasting-before", marks=pytest.mark.campaign),
        pytest.param(EIO, True, "after", id="EIO-lasting-after", marks=pytest.mark.campaign),
    ],
)
def test_error_at_every_operation(case: Case, scenario: Scenario, error: OSError, lasting: bool, when: Any) -> None:
    old, new = both_ends(case, scenario)
    for at, raised in each_fault(case, scenario, fault=fail(error), lasting=lasting, when=when):
        check_after_failure(case, old, new, raised, at)
        if raised is not None:
            assert is_told(raised, error), (at, raised)


@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupt_at_every_operation(case: Case, scenario: Scenario, when: Any) -> None:
    old, new = both_ends(case, scenario)
    for at, raised in each_fault(case, scenario, fault=fail(KeyboardInterrupt), when=when):
        assert isinstance(raised, KeyboardInterrupt), (at, raised)
        # The lock is free, so nothing keeps the next one waiting.
        rollback(case.target())
        assert case.state() in (old, new), at


def check_after_failure(case: Case, old: Any, new: Any, raised: BaseException | None, at: int) -> None:
    """What was raised tells which cube it is; whatever was left is gone after a rollback."""
    if raised is None:
        assert rollback(case.target()).outcome in ("clean", "completed"), at
        assert case.state() == new, at
    elif isinstance(raised, CommitStateUnknown):
        rollback(case.target())
        assert case.state() in (old, new), at
    else:
        clean = not getattr(raised, "__notes__", None)
        settled = rollback(case.target())
        assert case.state() == old, at
        assert settled.outcome == "clean" or not clean, at


def is_told(raised: BaseException, error: BaseException) -> bool:
    """Tell whether `error` is what was raised, or what that was raised from, and says so."""
    if raised is error:
        return True
    told = str(error) in str(raised) or error.strerror in str(raised) or repr(error) in str(raised)
    return told and raised.__cause__ is error and isinstance(raised, (TransactionError, OSError))


@pytest.mark.parametrize("error", [ENOSPC, EIO], ids=["ENOSPC", "EIO"])
def test_error_at_every_call_of_a_mapping(scenario: Scenario, error: OSError) -> None:
    from zappend.testing import FaultyMapping
    from zappend.txn import transaction

    case = DictCase()
    old, new = both_ends(case, scenario)
    for at in itertools.count(1):
        case.reset(scenario.old)
        faults = Faults(at, fail(error))
        raised: BaseException | None = None
        try:
            with transaction(FaultyMapping(case.data, faults, reads=True)) as txn:
                scenario.work(txn)
        except (OSError, CommitStateUnknown) as caught:
            raised = caught
        if not faults.fired:
            break
        check_after_failure(case, old, new, raised, at)
    assert at > 25


def test_failing_write_that_is_swallowed_dooms_the_transaction(case: Case) -> None:
    case.reset({"a/0": b"0"})
    old = case.state()
    for at in itertools.count(1):
        faults = Faults(at, fail(OSError(errno.ENOSPC, "full")))

        def work(txn: Any) -> None:
            for key in ("a/0", "a/1"):
                try:
                    txn[key] = b"new"
                except (OSError, TransactionError):
                    continue

        raised = run(case, work, faults)
        if case.state() != old:
            break
        assert raised is not None
    assert at > 2


def test_original_error_survives_a_failing_rollback(case: Case) -> None:
    case.reset({"a/0": b"0", "a/1": b"1"})
    old = case.state()
    faults = Faults()

    def work(txn: Any) -> None:
        txn["a/0"] = b"new"
        faults._at, faults._lasting = len(faults.calls) + 1, True
        faults._fault = fail(OSError(errno.EIO, "gone"))
        raise ZeroDivisionError

    raised = run(case, work, faults)
    assert isinstance(raised, ZeroDivisionError)
    assert "zappend rollback" in raised.__notes__[0]
    assert rollback(case.target()).outcome == "rolled back"
    assert case.state() == old


def test_a_file_system_without_hard_links(folder: FolderCase) -> None:
    class Linkless(FaultyFiles):
        def link(self, source: str, to: str) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted", to)

    with transaction(LocalStorage(folder.path, files=Linkless())) as txn:
        txn["a/0"] = b"new"
    assert folder.cube() == {"a/0": b"new"}
    assert not folder.place.exists()
