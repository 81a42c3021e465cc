"""Kills, errors and interrupts at every operation of an append: the cube is old or new, and nothing is left."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest
import zarr
from conftest import Case, DictCase, FolderCase, State
from faultlab import (
    FORMATS,
    KINDS,
    SHARDS,
    Job,
    append_job,
    attempt,
    both_ends,
    cube_of,
    restore,
    small_chunks,
    write_job,
)

import zappend
from zappend.errors import CommitStateUnknown, SliceError, ZappendError
from zappend.testing import Call, Faults, Killed, fail

ENOSPC = OSError(errno.ENOSPC, "No space left on device")
EIO = OSError(errno.EIO, "Input/output error")

APPENDS = [*((kind, zarr_format) for kind in KINDS for zarr_format in FORMATS), SHARDS]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


@pytest.fixture(params=APPENDS, ids=lambda param: f"{param[0]}-v{param[1]}")
def job(request: pytest.FixtureRequest, quick: None) -> Job:
    """An append of each kind, in both formats."""
    return append_job(*request.param)


@pytest.fixture(params=FORMATS, ids=lambda param: f"v{param}")
def writing(request: pytest.FixtureRequest, quick: None) -> Job:
    """A ``to_zarr`` into a transaction, in both formats."""
    return write_job(request.param)


# Kills in process.


def points(calls: list[Call], when: str) -> list[int]:
    return [at for at, call in enumerate(calls, 1) if when != "torn" or call.name == "write"]


def check_kills(case: Case, job: Job, when: Any, then: str) -> None:
    """Kill the work at every operation; then roll it back, or do it again.

    What is rolled back is byte for byte what `both_ends` began with, so that it can be done again is known.
    """
    old, new, calls = both_ends(case, job)
    completed = []
    for at in points(calls, when):
        case.reset(job.old)
        faults = Faults(at, when=when, lasting=True)
        assert isinstance(attempt(case, job.work, faults), Killed), at
        case.bury()
        if then == "rollback":
            completed.append(check_rollback(case, job, old, new))
        else:
            job.repeat(case.target())
            assert case.state() == new, (at, calls[at - 1])
    # One point in the run decides: all kills before it give the old cube, all behind it the new one.
    assert completed == sorted(completed)
    assert then != "rollback" or when == "torn" or set(completed) == {False, True}
    print(f"{len(points(calls, when))} points")


def check_rollback(case: Case, job: Job, old: State, new: State) -> bool:
    """Roll back; return whether that made the cube the new one."""
    settled = zappend.rollback(case.target())
    state = case.state()
    assert state == (new if settled.outcome == "completed" else old) or (settled.outcome == "clean" and state == new)
    if state == new and job.is_refused_twice:
        with pytest.raises(SliceError):
            job.work(case.target())
        assert case.state() == new
    return state == new


@pytest.mark.parametrize(("when", "then"), [("before", "rollback"), ("after", "again")])
def test_killed_in_a_dict(job: Job, when: str, then: str) -> None:
    check_kills(DictCase(), job, when, then)


def test_killed_before_every_operation(folder: FolderCase, job: Job) -> None:
    folder.durability = "process"
    check_kills(folder, job, "before", "rollback")


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_killed_after_every_operation(folder: FolderCase, zarr_format: int) -> None:
    check_kills(folder, append_job("append", zarr_format), "after", "again")


@pytest.mark.parametrize("then", ["rollback", "again"])
def test_killed_half_way_through_every_write(folder: FolderCase, job: Job, then: str) -> None:
    folder.durability = "process"
    check_kills(folder, job, "torn", then)


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after", "torn"])
@pytest.mark.parametrize("then", ["rollback", "again"])
def test_killed_at_every_operation_campaign(folder: FolderCase, job: Job, when: str, then: str) -> None:
    check_kills(folder, job, when, then)


@pytest.mark.parametrize("fault", [Killed, ENOSPC], ids=["killed", "ENOSPC"])
@pytest.mark.parametrize("kind", ["create", "append"])
def test_faults_with_default_threads(
    folder: FolderCase, monkeypatch: pytest.MonkeyPatch, kind: str, fault: BaseException
) -> None:
    # More than one, whatever there is; how often they try to make the same folder is up to them.
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    folder.durability = "process"
    job = append_job(kind, 2).with_threads()
    old, new, calls = both_ends(folder, job)
    fired = 0
    for at in range(1, len(calls) + 1):
        folder.reset(job.old)
        faults = Faults(at, fail(fault), lasting=True)
        try:
            job.work(folder.target(faults))
        except (Killed, OSError, ZappendError):
            assert faults.fired
        fired += faults.fired
        folder.bury()
        check_rollback(folder, job, old, new)
        job.repeat(folder.target())
        assert folder.state() == new, at
    assert fired > 0.8 * len(calls)
    print(f"{fired} points")


# Kills for real, in a child.


def check_kills_in_children(folder: FolderCase, job: Job, when: Any) -> None:
    old, new, calls = both_ends(folder, job)
    completed = []
    for at in range(1, len(calls) + 1):
        folder.reset(job.old)
        assert status_of_child(folder, job, Faults(at, die, when=when)) == -signal.SIGKILL, at
        completed.append(check_rollback(folder, job, old, new))
        job.repeat(folder.target())
        assert folder.state() == new, at
    assert completed == sorted(completed)
    print(f"{len(calls)} points")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def status_of_child(folder: FolderCase, job: Job, faults: Faults) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            job.work(folder.target(faults))
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("kind", ["create", "append"])
def test_child_killed_at_every_operation(folder: FolderCase, kind: str, zarr_format: int) -> None:
    folder.durability = "process"
    check_kills_in_children(folder, append_job(kind, zarr_format), "before")


@pytest.mark.campaign
@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("when", ["before", "after", "torn"])
def test_child_killed_at_every_operation_campaign(folder: FolderCase, job: Job, when: str) -> None:
    check_kills_in_children(folder, job, when)


# Kills of the recovery.


def check_killed_recoveries(case: Case, job: Job, step: int) -> None:
    """Kill the work at every `step`-th operation, and each recovery of it at every operation."""
    old, new, calls = both_ends(case, job)
    cut = 0
    for at in range(2, len(calls) + 1, step):
        case.reset(job.old)
        attempt(case, job.work, Faults(at, lasting=True))
        case.bury()
        wreck = case.state()
        recovery = Faults()
        zappend.rollback(case.target(recovery))
        settled = case.state()
        assert settled in (old, new), at
        for again in range(1, len(recovery.calls) + 1):
            restore(case, wreck)
            assert isinstance(attempt(case, zappend.rollback, Faults(again, lasting=True)), Killed)
            case.bury()
            zappend.rollback(case.target())
            assert case.state() == settled, (at, again)
            cut += 1
        job.repeat(case.target())
        assert case.state() == new, at
    assert cut > 5
    print(f"{cut} points")


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("kind", ["create", "partial", "replace"])
def test_recovery_killed_at_every_operation(folder: FolderCase, kind: str, zarr_format: int) -> None:
    folder.durability = "process"
    check_killed_recoveries(folder, append_job(kind, zarr_format), 41)


def test_recovery_killed_in_a_dict(job: Job) -> None:
    check_killed_recoveries(DictCase(), job, 5)


@pytest.mark.campaign
def test_recovery_killed_at_every_operation_campaign(folder: FolderCase, job: Job) -> None:
    folder.durability = "process"
    check_killed_recoveries(folder, job, 3)


# Errors and interrupts.


def check_errors(case: Case, job: Job, error: OSError, lasting: bool, when: Any) -> None:
    """Let every operation fail, once or from then on."""
    old, new, calls = both_ends(case, job)
    reported = 0
    for at in range(1, len(calls) + 1):
        case.reset(job.old)
        raised = attempt(case, job.work, Faults(at, fail(error), lasting=lasting, when=when))
        where = at, calls[at - 1], raised
        if raised is None:
            assert cube_of(case, case.state()) == cube_of(case, new), where
            zappend.rollback(case.target())
            assert case.state() == new, where
        else:
            assert isinstance(raised, (OSError, ZappendError)), where
            assert str(error.strerror) in str(raised), where
            unknown = isinstance(raised, CommitStateUnknown)
            if not (lasting or unknown):
                assert case.state() == old, where
            zappend.rollback(case.target())
            assert case.state() == old or (unknown and case.state() == new), where
            reported += 1
    assert reported > len(calls) / 2
    print(f"{len(calls)} points")


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("error", [ENOSPC, EIO], ids=["ENOSPC", "EIO"])
def test_error_in_a_dict(job: Job, error: OSError, lasting: bool) -> None:
    check_errors(DictCase(), job, error, lasting, "before")


@pytest.mark.parametrize(("zarr_format", "error", "lasting"), [(2, ENOSPC, True), (3, EIO, False)], ids=["v2", "v3"])
@pytest.mark.parametrize("kind", KINDS)
def test_error_at_every_operation(
    folder: FolderCase, kind: str, zarr_format: int, error: OSError, lasting: bool
) -> None:
    folder.durability = "full" if kind == "partial" else "process"
    check_errors(folder, append_job(kind, zarr_format), error, lasting, "before")


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("error", [ENOSPC, EIO], ids=["ENOSPC", "EIO"])
def test_error_at_every_operation_campaign(
    folder: FolderCase, job: Job, error: OSError, lasting: bool, when: str
) -> None:
    check_errors(folder, job, error, lasting, when)


def check_interrupts(case: Case, job: Job, when: Any) -> None:
    old, new, calls = both_ends(case, job)
    for at in range(1, len(calls) + 1):
        case.reset(job.old)
        raised = attempt(case, job.work, Faults(at, fail(KeyboardInterrupt), when=when))
        assert isinstance(raised, KeyboardInterrupt), (at, raised)
        zappend.rollback(case.target())
        assert case.state() in (old, new), at
    print(f"{len(calls)} points")


@pytest.mark.parametrize("kind", ["create", "partial"])
def test_interrupt_at_every_operation(place: Case, kind: str) -> None:
    check_interrupts(place, append_job(kind, 2), "before")


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupt_at_every_operation_campaign(folder: FolderCase, job: Job, when: str) -> None:
    check_interrupts(folder, job, when)


# Not ours, but as safe: xarray writes into a transaction.


def test_to_zarr_killed_at_every_operation(place: Case, writing: Job) -> None:
    with zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1}):
        check_kills(place, writing, "before", "rollback")
