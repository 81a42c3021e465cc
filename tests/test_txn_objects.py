"""Object stores: requests that are killed, lost, late or refused, each of them once and for good.

The store is one in memory that behaves as S3 does: the tag of an object follows from its bytes, so it can come back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ObjectCase, Scenario, both_ends, run

from zappend.errors import CommitStateUnknown
from zappend.testing import Faults, Killed, fail
from zappend.txn import rollback
from zappend.txn.objects import Unclear

LOST = Unclear("no answer")
FORBIDDEN = PermissionError("not allowed")


@pytest.fixture(params=[2**16, 0], ids=["log-in-lock", "log-beside-lock"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectCase:
    """A cube in a bucket, its log inside the lock object, or as objects of its own."""
    monkeypatch.setattr("zappend.txn.objectstore.INLINE", request.param)
    return ObjectCase()


def each_fault(case: ObjectCase, scenario: Scenario, **how: Any) -> Iterator[tuple[int, BaseException | None]]:
    """Run `scenario` with a fault at request 1, 2, 3, …, until one is over before its fault; yield what it raised."""
    for at in itertools.count(1):
        case.reset(scenario.old)
        faults = Faults(at, **how)
        error = run(case, scenario.work, faults)
        if not faults.fired:
            assert error is None
            assert at > 10, "hardly anything was tried"
            print(f"{at - 1} points")
            return
        yield at, error


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
