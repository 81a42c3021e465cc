"""Appends to S3 that are killed, and whose requests are lost, refused, repeated or late: the cube is old or new.

Clients of one test share their connections; time goes on only while one of them waits. Kills come before or after a
request that changes something, faults of the server at any request.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count, cycle, islice, product
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from conftest import ObjectCase
from faultlab import FORMATS, SHARDS, AppendJob, append_job, attempt, both_ends, days, small_chunks
from s3server import (
    ACCESS_DENIED,
    BUCKET,
    CONFLICT,
    DROP_ANSWER,
    DROP_REQUEST,
    HOLD,
    INTERNAL_ERROR,
    REPEAT,
    SLOW_DOWN,
    Fault,
    Request,
    S3Server,
    call,
    cut_answer,
    error_after,
    from_then_on,
    once,
)

import zappend
from zappend.errors import CommitStateUnknown, ZappendError
from zappend.testing import Call, Faults, Killed, SteppingClock
from zappend.txn.objects import Objects, Tag
from zappend.txn.objectstore import ObjectStorage
from zappend.txn.s3 import S3Objects
from zappend.txn.storage import Value

CUBE, PLACE = "c.zarr/", "c.zarr.zappend/"
CHANGES = ("PUT", "DELETE", "BULK_DELETE")
QUIET = 90.0

ALL = (*product(("create", "append", "partial"), FORMATS), SHARDS)

FAULTS: dict[str, Fault] = {
    "500": INTERNAL_ERROR,
    "503": SLOW_DOWN,
    "403": ACCESS_DENIED,
    "409": CONFLICT,
    "request lost": DROP_REQUEST,
    "answer lost": DROP_ANSWER,
    "answer cut": cut_answer(7),
    "answer cut in its head": cut_answer(7, in_body=False),
    "performed, but 500": error_after(),
}

ONCE: dict[str, Any] = {"retries": {"total_max_attempts": 1, "mode": "standard"}}


class Client(Objects):
    """Objects as a process of its own sees them; its requests that change something are calls of `faults`."""

    def __init__(self, objects: Objects, faults: Faults) -> None:
        self._objects = objects
        self._faults = faults
        self.name = objects.name
        self.quiet = objects.quiet
        self.identity = (objects.identity, id(self))

    def get(self, key: str) -> tuple[bytes, Tag] | None:
        return self._objects.get(key)

    def head(self, key: str) -> Tag | None:
        return self._objects.head(key)

    def put(self, key: str, data: Value, over: Tag | None) -> Tag:
        return self._faults.call(Call("put", key), lambda: self._objects.put(key, data, over))

    def delete(self, key: str, tag: Tag) -> None:
        self._faults.call(Call("delete", key), lambda: self._objects.delete(key, tag))

    def delete_many(self, keys: Iterable[str]) -> None:
        names = list(keys)
        self._faults.call(Call("delete_many", " ".join(names)), lambda: self._objects.delete_many(names))

    def list(self, prefix: str) -> Iterator[tuple[str, Tag]]:
        return self._objects.list(prefix)

    def children(self, prefix: str) -> Iterator[str]:
        return self._objects.children(prefix)

    def check(self) -> None:
        self._objects.check()


class WatchedClock(SteppingClock):
    """A clock that calls `before_sleep` whenever somebody begins to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.before_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.before_sleep()
        super().sleep(seconds)


class S3Case(ObjectCase):
    """A cube in a bucket of S3; each target is a client of its own."""

    def __init__(self, server: S3Server, **options: Any) -> None:
        super().__init__()
        self.server = server
        self.clock: WatchedClock = WatchedClock()
        fs = fsspec.filesystem("s3", **server.storage_options(), **options)
        self._objects = [S3Objects(fs, f"{BUCKET}/{prefix}") for prefix in (CUBE, PLACE)]
        self._objects[1].check()  # the probe of the server is made once in a process

    def reset(self, cube: Mapping[str, bytes] | None) -> None:
        self.restore({CUBE + key: value for key, value in (cube or {}).items()})

    def restore(self, objects: Mapping[str, bytes]) -> None:
        """Let the bucket hold `objects`, and nobody be alive."""
        self.bury()
        self.clock.before_sleep = lambda: None
        self.server.reset()
        for key, value in objects.items():
            self.server.put(key, value)
        self.server.set_policy(None)

    def target(self, faults: Faults | None = None, **options: Any) -> ObjectStorage:
        cube, place = (Client(objects, faults or Faults()) for objects in self._objects)
        return ObjectStorage(cube, place, clock=self.clock, calls_at_once=1, quiet=QUIET, **options)

    def state(self) -> dict[str, bytes | None]:
        return dict(self.server.objects())

    def cube(self) -> dict[str, bytes]:
        return {key.removeprefix(CUBE): value for key, value in self.server.objects(CUBE).items()}

    def place(self) -> dict[str, bytes]:
        return self.server.objects(PLACE)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def running(server: S3Server) -> S3Case:
    case = S3Case(server, config_kwargs=ONCE)
    for objects in case._objects:
        objects._reads.retries = 1
    return case


@pytest.fixture
def case(running: S3Case, quick: None) -> S3Case:
    """A cube on S3, whose client sends nothing a second time."""
    running.reset(None)
    return running


@pytest.fixture
def retrying(server: S3Server, quick: None) -> S3Case:
    """A cube on S3 with a client as it is by default: s3fs and botocore repeat what reads."""
    case = S3Case(server)
    case.reset(None)
    return case


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cubes be small, and clients not wait before they send something again."""
    small_chunks(monkeypatch)
    sleep = asyncio.sleep

    async def at_once(delay: float, result: Any = None) -> Any:
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", at_once)


def named(job: tuple[str, int]) -> str:
    return f"{job[0]}-v{job[1]}"


every_job = pytest.mark.parametrize("kind", ALL, ids=named)


# Kills.


def check_kills(case: S3Case, job: AppendJob, when: Any, then: str, points: slice = slice(None)) -> None:
    """Kill the append at requests that change something; then roll it back, or do it again."""
    old, new, calls = both_ends(case, job)
    tried = range(1, len(calls) + 1)[points]
    completed = []
    for at in tried:
        case.reset(job.old)
        assert isinstance(attempt(case, job.work, Faults(at, when=when, lasting=True)), Killed), at
        case.bury()
        if then == "rollback":
            zappend.rollback(case.target())
            assert case.state() in (old, new), (at, calls[at - 1])
            completed.append(case.state() == new)
        else:
            job.repeat(case.target())
            assert case.state() == new, (at, calls[at - 1])
    # One request decides.
    assert completed == sorted(completed)
    assert then != "rollback" or set(completed) == {False, True}
    print(f"{len(tried)} of {len(calls)} points")


@pytest.mark.parametrize(
    ("kind", "when", "then", "points"),
    [
        (("append", 3), "before", "rollback", slice(0, None, 4)),
        (("append", 3), "after", "again", slice(2, None, 6)),
        (("create", 2), "after", "rollback", slice(2, None, 8)),
    ],
)
def test_killed(case: S3Case, kind: tuple[str, int], when: str, then: str, points: slice) -> None:
    check_kills(case, append_job(*kind), when, then, points)


@pytest.mark.campaign
@every_job
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("then", ["rollback", "again"])
def test_killed_campaign(case: S3Case, kind: tuple[str, int], when: str, then: str) -> None:
    check_kills(case, append_job(*kind), when, then)


def check_killed_recoveries(case: S3Case, job: AppendJob, points: slice, again_points: slice) -> None:
    """Kill the append, and each recovery of it, at requests that change something."""
    old, new, calls = both_ends(case, job)
    cut = 0
    ends = Counter[str]()
    for at in range(1, len(calls) + 1)[points]:
        case.reset(job.old)
        attempt(case, job.work, Faults(at, when="after", lasting=True))
        case.bury()
        wreck = case.server.objects()
        recovery = Faults()
        zappend.rollback(case.target(recovery))
        settled = case.state()
        assert settled in (old, new), at
        for again in range(1, len(recovery.calls) + 1)[again_points]:
            case.restore(wreck)
            when: Any = "before" if again % 2 else "after"
            assert isinstance(attempt(case, zappend.rollback, Faults(again, when=when, lasting=True)), Killed)
            case.bury()
            zappend.rollback(case.target())
            assert case.state() == settled, (at, again)
            cut += 1
        ends["new" if settled == new else "old"] += 1
    assert cut
    print(f"{cut} points in recoveries to {dict(ends)}")


@pytest.mark.parametrize(
    ("kind", "points"), [(("append", 3), slice(5, None, 9)), (("create", 2), slice(9, 10))], ids=["v3", "v2"]
)
def test_recovery_killed(case: S3Case, kind: tuple[str, int], points: slice) -> None:
    check_killed_recoveries(case, append_job(*kind), points, slice(1, None, 7))


@pytest.mark.campaign
@every_job
def test_recovery_killed_campaign(case: S3Case, kind: tuple[str, int]) -> None:
    check_killed_recoveries(case, append_job(*kind), slice(None), slice(None))


# Faults of the server.


Points = Callable[[int], Iterable[tuple[int, str]]]
"""Chooses requests out of so many, and what happens to each."""


def check_reports(case: S3Case, job: AppendJob, points: Points, lasting: bool) -> Counter[str]:
    """Let requests of an append fail; what it reports must be true. Return how often it reported what."""
    case.reset(job.old)
    old = case.state()
    job.work(case.target())
    requests, new = case.server.requests, case.state()
    told: Counter[str] = Counter()
    for at, name in points(len(requests)):
        case.reset(job.old)
        case.server.set_policy((from_then_on if lasting else once)(at, FAULTS[name]))
        raised: BaseException | None = None
        try:
            job.work(case.target())
        except (OSError, ZappendError) as error:
            raised = error
        assert case.server.fired
        case.server.set_policy(None)
        where = str(requests[at - 1]), name, raised
        if raised is None:
            told["success"] += 1
            assert case.cube() == inside(new), where
            zappend.rollback(case.target())
            assert case.state() == new, where
        else:
            unknown = isinstance(raised, CommitStateUnknown)
            told["unknown" if unknown else "failure"] += 1
            writes = requests[at - 1].op in ("PUT", "DELETE")
            assert lasting or name == "403" or not writes, (where, "it could have been sent again")
            if not (lasting or unknown):
                assert case.cube() == inside(old), where
            zappend.rollback(case.target())
            assert case.state() == old or (unknown and case.state() == new), where
    print(f"{sum(told.values())} points: {dict(told)}")
    return told


def every_nth(step: int, names: Iterable[str] = FAULTS) -> Points:
    """Choose every `step`-th request, and the faults in turn."""
    return lambda requests: zip(range(step // 2 + 1, requests + 1, step), cycle(names))


def inside(state: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    return {key.removeprefix(CUBE): value for key, value in state.items() if key.startswith(CUBE)}


@pytest.mark.parametrize(("kind", "step"), [(("append", 3), 4), (("create", 2), 8)], ids=["append-v3", "create-v2"])
def test_fault_once(case: S3Case, kind: tuple[str, int], step: int) -> None:
    told = check_reports(case, append_job(*kind), every_nth(step), False)
    assert told["success"] > 0
    assert told["failure"] + told["unknown"] > 0


@pytest.mark.parametrize(("kind", "step"), [(("append", 3), 9), (("create", 2), 14)], ids=["append-v3", "create-v2"])
def test_fault_from_then_on(case: S3Case, kind: tuple[str, int], step: int) -> None:
    told = check_reports(case, append_job(*kind), every_nth(step), True)
    assert told["failure"] > 0
    assert told["unknown"] > 0


def test_fault_with_retries(retrying: S3Case) -> None:
    """All that reads is repeated below us, so that one fault never makes an append fail."""
    told = check_reports(retrying, append_job("append", 3), every_nth(12, ["503", "answer lost"]), False)
    assert told["success"] == sum(told.values())


@pytest.mark.campaign
@every_job
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("retries", ["case", "retrying"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault_campaign(
    request: pytest.FixtureRequest, kind: tuple[str, int], lasting: bool, retries: str, name: str
) -> None:
    case: S3Case = request.getfixturevalue(retries)
    check_reports(case, append_job(*kind), every_nth(1, [name]), lasting)


# Late requests.


class Late:
    """Lets request number `sent` arrive, or arrive again, when number `after` is over, if S3 would still take it."""

    def __init__(self, case: S3Case, sent: int, after: int, fault: Fault) -> None:
        self.status: int | None = None
        """With which status it ended; 0: it was too late; ``None``: it has not come, or was never sent."""
        self.request: Request | None = None
        self._case = case
        self._sent, self._after, self._fault = sent, after, fault
        self._time = 0.0
        self._seen = 0
        case.clock.before_sleep = self._before_sleep
        case.server.set_policy(self._policy)

    def _policy(self, request: Request) -> Fault | None:
        self._seen = request.number
        if request.number == self._sent:
            self.request, self._time = request, self._case.clock.now()
            return self._fault
        return call(lambda _: self.arrive()) if request.number > self._after else None

    def _before_sleep(self) -> None:
        if self._seen >= self._after:
            self.arrive()

    def arrive(self) -> None:
        """Let it come now, if it has not yet."""
        if self.request is not None and self.status is None:
            on_time = self._case.clock.now() - self._time <= QUIET
            self.status = self._case.server.release(self.request) if on_time else 0


class LateRequests:
    """One append with a request that is late, and the next append: of the same slice, or of another one.

    The first writer may die at that request. The outcome of both must be what they report.
    """

    def __init__(self, case: S3Case, zarr_format: int) -> None:
        self.case = case
        self.first = append_job("append", zarr_format)
        self.other = AppendJob(self.first.old, days(6), self.first.settings)
        self.tried: Counter[str] = Counter()
        case.reset(self.first.old)
        faults = Faults()
        self.first.work(case.target(faults))
        self.requests = case.server.requests
        changes = [request.number for request in self.requests if request.op in CHANGES]
        assert len(changes) == len(faults.calls)
        self.call_of = dict(zip(changes, count(1)))
        self.ends = {same: self._ends(same) for same in (True, False)}

    def _next(self, target: Any, same: bool) -> object:
        return self.first.repeat(target) if same else self.other.work(target)

    def _ends(self, same: bool) -> dict[tuple[bool, bool], dict[str, bytes]]:
        """Return what the cube is to be, by whether the first append and the next one took effect."""
        ends = {}
        for both in product((False, True), repeat=2):
            cube = dict(self.first.old or {})
            if both[0]:
                self.first.work(cube)
            if both[1]:
                self._next(cube, same)
            ends[both] = cube
        return ends

    def choices(self, seed: int) -> Iterator[tuple[int, int, Fault, bool, bool]]:
        """Choose requests, when they arrive, and what else happens."""
        chance = random.Random(seed)
        while True:
            sent = chance.choice(list(self.call_of))
            dies, same = chance.random() < 0.5, chance.random() < 0.5
            # Both appends have about as many requests; a dead writer has been watched for a while before.
            after = sent + int(chance.triangular(0, 2 * len(self.requests) - sent, 0))
            yield sent, after, chance.choice([HOLD, REPEAT]), dies, same

    def check(self, sent: int, after: int, fault: Fault, dies: bool, same: bool) -> None:
        case = self.case
        case.reset(self.first.old)
        late = Late(case, sent, after, fault)
        faults = Faults(self.call_of[sent] if dies else 0, when="after", lasting=True)
        first = outcome(lambda: self.first.work(case.target(faults)))
        case.bury()
        then = outcome(lambda: self._next(case.target(), same))
        late.arrive()
        case.server.set_policy(None)
        where = str(late.request), after, fault.name, dies, same, late.status, first, then
        assert late.request is not None
        assert late.request.fault is fault
        if then == {True}:
            self._judge(where, first, then, same)
        zappend.rollback(case.target())
        assert not case.place(), where
        self._judge(where, first, then, same)
        what = {200: "took effect", 204: "took effect", 0: "too late"}.get(late.status or 0, "was refused")
        self.tried[what] += 1
        self.tried[f"first: {sorted(first)}"] += 1
        self.tried[f"next: {sorted(then)}"] += 1

    def _judge(self, where: object, first: set[bool], then: set[bool], same: bool) -> None:
        assert self.case.cube() in [self.ends[same][both] for both in product(first, then)], where


def outcome(work: Callable[[], object]) -> set[bool]:
    """Do `work`; return whether it took effect, as far as it tells."""
    try:
        work()
    except (Killed, CommitStateUnknown):
        return {False, True}
    except (OSError, ZappendError):
        return {False}
    return {True}


def check_late(case: S3Case, zarr_format: int, pairs: int) -> None:
    late = LateRequests(case, zarr_format)
    for choice in islice(late.choices(zarr_format), pairs):
        late.check(*choice)
    print(f"{pairs} pairs: {dict(late.tried)}")
    assert late.tried["took effect"] > pairs / 20
    assert late.tried["was refused"] > pairs / 20


def test_late_requests(case: S3Case) -> None:
    check_late(case, 3, 10)


@pytest.mark.campaign
@pytest.mark.parametrize("zarr_format", FORMATS)
def test_late_requests_campaign(case: S3Case, zarr_format: int) -> None:
    check_late(case, zarr_format, 400)


def test_late_chunk_where_the_next_writer_has_none(case: S3Case) -> None:
    """Zarr leaves a chunk of fill values out; what a dead writer sent must not come to stand there."""

    def slice_of(first: int, value: float) -> xr.Dataset:
        values = np.full((2, 4), value, np.float32)
        return xr.Dataset({"sst": (("time", "x"), values)}, {"time": [first, first + 1]})

    cube: dict[str, bytes] = {}
    zappend.append(cube, [slice_of(first, 1) for first in (0, 2, 4, 6)], zarr_format=3)
    first = AppendJob(cube, slice_of(8, 7), {"threads": 1})
    case.reset(cube)
    faults = Faults()
    first.work(case.target(faults))
    chunk = "sst/c/4/0"
    at = 1 + [call.path for call in faults.calls].index(chunk)
    sent = next(request.number for request in case.server.requests if request.key == CUBE + chunk)
    case.reset(cube)
    late = Late(case, sent, 10**6, HOLD)
    assert isinstance(attempt(case, first.work, Faults(at, when="after", lasting=True)), Killed)
    case.bury()
    with zappend.transaction(case.target()) as txn:
        slice_of(8, np.nan).to_zarr(txn.store, append_dim="time")
    late.arrive()
    assert late.status is not None
    assert chunk not in case.cube()
