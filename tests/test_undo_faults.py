"""Kills and errors at every operation of an undo, and of commits that keep their undo logs: old or new, no more."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from conftest import Case, DictCase, FolderCase, ObjectCase, State
from faultlab import AppendJob, append_job, attempt, small_chunks
from s3server import S3Server
from test_edit_faults import EditJob, edit_job
from test_s3_faults import ONCE, S3Case

import zappend
from zappend.errors import CommitStateUnknown, UsageError, ZappendError
from zappend.testing import Call, Faults, Killed, fail
from zappend.txn.lockbody import Body

EIO = OSError(errno.EIO, "Input/output error")

KINDS = ("create", "append", "partial", "anew", "shards", "delete", "insert", "replace", "keep")

Job = AppendJob | EditJob


def kept_job(kind: str, zarr_format: int) -> Job:
    """Return an append or edit that keeps its undo log, and the one before it."""
    job: Job
    if kind in ("delete", "insert", "replace", "keep"):
        job = edit_job(kind, zarr_format)
    else:
        job = append_job({"anew": "replace"}.get(kind, kind), 3 if kind == "shards" else zarr_format)
    return replace(job, settings={**job.settings, "keep_undo": 2})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


@pytest.fixture(params=[(kind, form) for kind in KINDS for form in (2, 3)], ids=lambda param: f"{param[0]}-v{param[1]}")
def job(request: pytest.FixtureRequest, quick: None) -> Job:
    """An append or edit of each kind, in both formats."""
    return kept_job(*request.param)


def settled(case: Case) -> State:
    """Return everything there is, but for the lock of an object store, which must be done."""
    state = case.state()
    for key in [key for key in state if key.endswith("zappend/lock")]:
        value = state.pop(key)
        assert isinstance(case, ObjectCase)
        assert value is not None
        lock = Body.parse(value)
        assert lock.state == "done"
        assert lock.objects, "it names nothing"
        named = {entry[0] for entry in lock.objects.values() if isinstance(entry, tuple)}
        assert named == {name.rpartition("/")[2] for name in state if "zappend/" in name}
    return state


def heads(state: State) -> list[str]:
    return [name for name in state if "zappend/kept-" in name]


def cube_in(state: State) -> State:
    return {name: value for name, value in state.items() if ".zappend" not in name and "cube.zappend/" not in name}


def points(calls: list[Call], when: Any) -> list[int]:
    return [at for at, call in enumerate(calls, 1) if when != "torn" or call.name == "write"]


def done(case: Case, job: Job) -> tuple[State, State, list[Call]]:
    """Do the job; return the states before and after it, and its operations."""
    case.reset(job.old)
    before = settled(case)
    faults = Faults()
    job.work(case.target(faults))
    case.bury()
    return before, settled(case), faults.calls


def kill(case: Case, work: Callable[[Any], object], faults: Faults) -> None:
    """Do `work` until it is killed; on an object store it has now and then a request less, and may get to its end."""
    killed = False
    try:
        work(case.target(faults))
    except Killed:
        killed = True
    assert killed == faults.fired
    assert killed or isinstance(case, ObjectCase)
    case.bury()


def check_killed_undos(case: Case, job: Job, when: Any, step: slice = slice(None)) -> None:
    """Kill an undo at every operation; what is there then is settled, and undone if it was not."""
    done(case, job)
    faults = Faults()
    zappend.undo(case.target(faults))
    ends = []
    tried = points(faults.calls, when)[step]
    for at in tried:
        old, new, _ = done(case, job)
        kill(case, zappend.undo, Faults(at, when=when, lasting=True))
        zappend.rollback(case.target())
        state = settled(case)
        assert state in (old, new), (at, faults.calls[at - 1])
        ends.append(state == old)
        if state == new:
            zappend.undo(case.target())
            assert settled(case) == old, (at, faults.calls[at - 1])
        else:
            with pytest.raises(UsageError):
                zappend.undo(case.target())
    assert ends == sorted(ends)
    assert when == "torn" or step != slice(None) or set(ends) == {False, True}
    print(f"{len(tried)} of {len(faults.calls)} points")


def check_killed_commits(case: Case, job: Job, when: Any, step: slice = slice(None)) -> None:
    """Kill a commit that keeps its log at every operation; it is there with its log, or neither is."""
    old, new, calls = done(case, job)
    ends = []
    tried = points(calls, when)[step]
    for at in tried:
        case.reset(job.old)
        kill(case, job.work, Faults(at, when=when, lasting=True))
        zappend.rollback(case.target())
        state = settled(case)
        ends.append(state != old)
        if state != old:
            assert cube_in(state) == cube_in(new), (at, calls[at - 1])
            assert (len(state), len(heads(state))) == (len(new), 1), (at, calls[at - 1])
            zappend.undo(case.target())
            assert settled(case) == old, (at, calls[at - 1])
    assert ends == sorted(ends)
    assert when == "torn" or step != slice(None) or set(ends) == {False, True}
    print(f"{len(tried)} of {len(calls)} points")


# In a dict and in a folder.


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_in_a_dict(job: Job, when: str) -> None:
    check_killed_undos(DictCase(), job, when)
    check_killed_commits(DictCase(), job, when)


@pytest.mark.parametrize("kind", KINDS)
def test_undo_killed_before_every_operation(folder: FolderCase, kind: str) -> None:
    folder.durability = "process"
    check_killed_undos(folder, kept_job(kind, 2), "before")


@pytest.mark.parametrize("kind", ["append", "anew", "delete"])
def test_commit_killed_before_every_operation(folder: FolderCase, kind: str) -> None:
    folder.durability = "process"
    check_killed_commits(folder, kept_job(kind, 3), "before")


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after", "torn"])
def test_killed_at_every_operation_campaign(folder: FolderCase, job: Job, when: str) -> None:
    check_killed_undos(folder, job, when)
    check_killed_commits(folder, job, when)


@pytest.mark.parametrize("kind", ["append", "delete"])
def test_killed_when_older_logs_are_dropped(folder: FolderCase, kind: str) -> None:
    folder.durability = "process"
    check_dropping(folder, kept_job(kind, 2))


def check_dropping(case: Case, job: Job) -> None:
    """Kill a commit that keeps only its own log: there is one log, of the commit that is the last."""

    def first(target: Any) -> None:
        with zappend.transaction(target, keep_undo=1) as txn:
            txn["README"] = b"by hand"

    only = replace(job, settings={**job.settings, "keep_undo": 1})
    case.reset(job.old)
    before = settled(case)
    first(case.target())
    faults = Faults()
    only.work(case.target(faults))
    case.bury()
    for at in range(1, len(faults.calls) + 1):
        case.reset(job.old)
        first(case.target())
        old = settled(case)
        attempt(case, only.work, Faults(at, lasting=True))
        case.bury()
        zappend.rollback(case.target())
        state = settled(case)
        assert len(heads(state)) == 1
        zappend.undo(case.target())
        assert settled(case) == (before if state == old else cube_in(old)), (at, faults.calls[at - 1])


def check_errors(case: Case, job: Job, lasting: bool) -> None:
    """Let every operation of an undo fail."""
    done(case, job)
    faults = Faults()
    zappend.undo(case.target(faults))
    for at in range(1, len(faults.calls) + 1):
        old, new, _ = done(case, job)
        raised = attempt(case, zappend.undo, Faults(at, fail(EIO), lasting=lasting))
        where = at, faults.calls[at - 1], raised
        if raised is not None:
            assert isinstance(raised, (OSError, ZappendError)), where
            if not (lasting or isinstance(raised, CommitStateUnknown)):
                assert settled(case) == new, where
        case.bury()
        zappend.rollback(case.target())
        state = settled(case)
        if raised is None:
            assert state == old, where
        else:
            assert state == new or (isinstance(raised, CommitStateUnknown) and state == old), where


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("kind", ["partial", "insert"])
def test_errors(case: Case, kind: str, lasting: bool) -> None:
    check_errors(case, kept_job(kind, 3), lasting)


@pytest.mark.parametrize("kind", ["partial", "anew", "delete"])
def test_recovery_of_an_undo_killed_at_every_operation(folder: FolderCase, kind: str) -> None:
    folder.durability = "process"
    job = kept_job(kind, 2)
    done(folder, job)
    faults = Faults()
    zappend.undo(folder.target(faults))
    cut = 0
    for at in range(2, len(faults.calls) + 1, 11):
        again = 0
        while True:
            again += 1
            old, new, _ = done(folder, job)
            attempt(folder, zappend.undo, Faults(at, lasting=True))
            folder.bury()
            recovery = Faults(again, lasting=True)
            try:
                zappend.rollback(folder.target(recovery))
            except Killed:
                pass
            folder.bury()
            zappend.rollback(folder.target())
            assert settled(folder) in (old, new), (at, again)
            if not recovery.fired:
                break
            cut += 1
    assert cut > 10


# On object stores.


@pytest.mark.parametrize("kind", ["create", "partial", "delete"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_in_an_object_store(kind: str, when: str) -> None:
    check_killed_undos(ObjectCase(), kept_job(kind, 3), when, slice(None, None, 2))
    check_killed_commits(ObjectCase(), kept_job(kind, 3), when, slice(1, None, 2))


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_in_an_object_store_campaign(job: Job, when: str) -> None:
    check_killed_undos(ObjectCase(), job, when)
    check_killed_commits(ObjectCase(), job, when)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def running(server: S3Server) -> S3Case:
    return S3Case(server, config_kwargs=ONCE)


def test_killed_on_s3(running: S3Case) -> None:
    check_killed_undos(running, kept_job("partial", 2), "after", slice(3, None, 9))
    check_killed_commits(running, kept_job("append", 3), "before", slice(4, None, 9))


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_on_s3_campaign(running: S3Case, job: Job, when: str) -> None:
    check_killed_undos(running, job, when)
    check_killed_commits(running, job, when)
