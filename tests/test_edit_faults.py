"""Kills and errors at every operation of an edit: the cube is old or new, and nothing is left."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import xarray as xr
from conftest import DictCase, FolderCase
from faultlab import attempt, both_ends, days, small_chunks
from s3server import S3Server
from test_append_faults import check_errors, check_kills
from test_s3_faults import ONCE, S3Case

import zappend
from zappend.testing import Faults, Killed

CHUNKS: dict[str, dict[str, Any]] = {
    "sst": {"chunks": [2, 2, 4]},
    "flags": {"chunks": [3, 2, 2]},
    "note": {"chunks": [2]},
}

SHARDED = {**CHUNKS, "sst": {"chunks": [1, 2, 4], "shards": [2, 2, 4]}}


@dataclass(frozen=True)
class EditJob:
    """One edit of a cube that has the days 0 to 4, 7 and 8."""

    kind: str
    old: Mapping[str, bytes]
    settings: dict[str, Any]

    is_refused_twice = False

    def work(self, target: Any) -> None:
        match self.kind:
            case "delete":
                zappend.delete(target, index=[2, 3], **self.settings)
            case "scattered":
                zappend.delete(target, index=[1, 4, 6], **self.settings)
            case "keep":
                zappend.keep(target, 3, **self.settings)
            case "insert":
                zappend.insert(target, days(5, 2), slice_size="any", if_exists="skip", **self.settings)
            case "roll":
                zappend.append(target, days(9, 3), slice_size="any", keep_last=4, if_exists="skip", **self.settings)
            case "replace":
                zappend.replace(target, new_days(1, 3), **self.settings)

    def repeat(self, target: Any) -> None:
        """Do it unless it was done."""
        gone = {"delete": 2, "scattered": 1, "keep": 0}.get(self.kind)
        with zappend.transaction(target) as txn:
            labels = xr.open_zarr(txn.store, decode_times=False).time.values
            todo = gone is None or gone in labels
        if todo:
            self.work(target)


def new_days(first: int, count: int) -> xr.Dataset:
    """Return other values than `days` has."""
    new = days(first, count)
    return new.assign(flags=(new.flags + 1).assign_attrs(new.flags.attrs), note=new.note + "!")


KINDS = ("delete", "scattered", "keep", "insert", "replace", "roll")

ALL = [*((kind, zarr_format) for kind in KINDS for zarr_format in (2, 3)), ("delete", "shards"), ("insert", "shards")]


def edit_job(kind: str, form: Any) -> EditJob:
    """Return an edit of a cube of a format, or with shards."""
    cube: dict[str, bytes] = {}
    encodings = SHARDED if form == "shards" else CHUNKS
    zappend.append(
        cube,
        [days(0, 5), days(7, 2)],
        zarr_format=3 if form == "shards" else form,
        slice_size="any",
        variables={name: {"encoding": encoding} for name, encoding in encodings.items()},
    )
    return EditJob(kind, cube, {"threads": 1})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


@pytest.fixture(params=ALL, ids=lambda param: f"{param[0]}-{param[1]}")
def job(request: pytest.FixtureRequest, quick: None) -> EditJob:
    """An edit of each kind, in both formats, and of shards."""
    return edit_job(*request.param)


@pytest.mark.parametrize(("when", "then"), [("before", "rollback"), ("after", "again")])
def test_killed_in_a_dict(job: EditJob, when: str, then: str) -> None:
    check_kills(DictCase(), job, when, then)


def test_killed_before_every_operation(folder: FolderCase, job: EditJob) -> None:
    folder.durability = "process"
    check_kills(folder, job, "before", "rollback")


@pytest.mark.parametrize("kind", KINDS)
def test_killed_after_every_operation(folder: FolderCase, kind: str) -> None:
    folder.durability = "process"
    check_kills(folder, edit_job(kind, 2), "after", "again")


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after", "torn"])
@pytest.mark.parametrize("then", ["rollback", "again"])
def test_killed_at_every_operation_campaign(folder: FolderCase, job: EditJob, when: str, then: str) -> None:
    check_kills(folder, job, when, then)


def check_killed_recoveries(case: FolderCase, job: EditJob, step: int) -> None:
    """Kill the edit at every `step`-th operation, and each recovery of it at every operation.

    The edit is killed anew each time: what it left has files with two names, which a copy of it would not have.
    """
    old, new, calls = both_ends(case, job)
    cut = 0

    def wreck(at: int) -> None:
        case.reset(job.old)
        attempt(case, job.work, Faults(at, lasting=True))
        case.bury()

    for at in range(2, len(calls) + 1, step):
        wreck(at)
        recovery = Faults()
        zappend.rollback(case.target(recovery))
        settled = case.state()
        assert settled in (old, new), at
        for again in range(1, len(recovery.calls) + 1):
            wreck(at)
            assert isinstance(attempt(case, zappend.rollback, Faults(again, lasting=True)), Killed)
            case.bury()
            zappend.rollback(case.target())
            assert case.state() == settled, (at, again)
            cut += 1
    assert cut > 5
    print(f"{cut} points")


@pytest.mark.parametrize("kind", KINDS)
def test_recovery_killed_at_every_operation(folder: FolderCase, kind: str) -> None:
    folder.durability = "process"
    check_killed_recoveries(folder, edit_job(kind, 3), 41)


@pytest.mark.campaign
def test_recovery_killed_at_every_operation_campaign(folder: FolderCase, job: EditJob) -> None:
    folder.durability = "process"
    check_killed_recoveries(folder, job, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_error_at_every_operation(folder: FolderCase, kind: str) -> None:
    folder.durability = "process"
    check_errors(folder, edit_job(kind, 2), OSError(errno.ENOSPC, "No space left on device"), False, "before")


@pytest.mark.campaign
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_error_at_every_operation_campaign(folder: FolderCase, job: EditJob, lasting: bool, when: str) -> None:
    check_errors(folder, job, OSError(errno.EIO, "Input/output error"), lasting, when)


# On S3.


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def running(server: S3Server) -> S3Case:
    return S3Case(server, config_kwargs=ONCE)


def check_kills_on_s3(case: S3Case, job: EditJob, when: Any, points: slice) -> None:
    """Kill the edit at requests that change something; it is rolled back, then done again."""
    old, new, calls = both_ends(case, job)
    tried = range(1, len(calls) + 1)[points]
    for at in tried:
        case.reset(job.old)
        assert isinstance(attempt(case, job.work, Faults(at, when=when, lasting=True)), Killed), at
        case.bury()
        zappend.rollback(case.target())
        assert case.state() in (old, new), (at, calls[at - 1])
        job.repeat(case.target())
        assert case.state() == new, (at, calls[at - 1])
    print(f"{len(tried)} of {len(calls)} points")


@pytest.mark.parametrize(("kind", "form", "when"), [("delete", 3, "before"), ("insert", 2, "after")])
def test_killed_on_s3(running: S3Case, kind: str, form: int, when: str) -> None:
    check_kills_on_s3(running, edit_job(kind, form), when, slice(3, None, 15))


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_on_s3_campaign(running: S3Case, job: EditJob, when: str) -> None:
    check_kills_on_s3(running, job, when, slice(None))
