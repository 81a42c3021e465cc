"""Writers and recoverers on one object store in random order, with requests that are late, lost or repeated.

A schedule is replayed with ``ZAPPEND_SEED=<seed>``; one that fails is made shorter first, and then told step by step.
"""

from __future__ import annotations

import itertools
import os
import re
import types
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

import pytest
from schedule import (
    CUBE,
    LONG,
    PLACE,
    READS,
    Attempt,
    Choices,
    Fate,
    Job,
    NumberedObjects,
    Process,
    Run,
    Setting,
    World,
    cube_of,
    seen_by_reader,
    shrink,
    state_of,
    wrong_end,
)

from zappend.errors import Locked
from zappend.testing import Call, Faults, MemoryObjects, SteppingClock
from zappend.txn import lease, rollback, transaction
from zappend.txn.lease import LEASE, LeaseLock
from zappend.txn.lockbody import Body
from zappend.txn.log import DECISION
from zappend.txn.objectplace import ObjectPlace
from zappend.txn.objects import Conflict, Tag, Unclear
from zappend.txn.objectstore import ObjectStorage
from zappend.txn.storage import Value

T = TypeVar("T")

QUICK, MANY = 300, 17_000
"""Schedules of one test."""

STORES = {"hashes": Setting(), "generations": Setting(objects=NumberedObjects)}
"""Tags that come back with the bytes, as on S3, and tags that never do."""


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zappend.txn.lease.logger.disabled", True)  # tens of thousands of warnings


# Random schedules.


def mixed_job(choices: Choices) -> Job:
    kind = choices.pick((5, 2, 1, 1, 1, 1))
    fails, planned = choices.chance(0.15), not choices.chance(0.3)
    if kind < 2:
        value = choices.one_of((b"1", b"2")) if kind else None
        return Job(append=choices.one_of(("P", "P", "Q", "p", "p", "q")), value=value, planned=planned, fails=fails)
    if kind == 2:
        return Job(shrink=True, fails=fails)
    if kind == 3:
        return Job(value=choices.one_of((b"in place", b"1", b"")), fails=fails)
    if kind == 4:
        return Job(staged=choices.one_of((b"staged", b"new")), fails=fails)
    return Job(attributes=choices.one_of((b"even", b"odd")), fails=fails)


def random_run(choices: Choices, setting: Setting, make: Callable[[Choices], Job] = mixed_job) -> Run:
    """Return two or three writers, and perhaps a recoverer, that have not begun."""
    run = Run(choices, setting, choices.one_of((("A",), ("A", "P"))), inline=choices.one_of((2**16, 0)))
    for name in "ABC"[: 2 + choices.pick((3, 1))]:
        run.writer(
            name,
            [make(choices) for _ in range(1 + choices.pick((2, 1)))],
            start=choices.one_of((0.0, 0.0, 70.0, 200.0)),
            tries=1 + choices.pick((2, 1)),
            timeout=choices.one_of((0.0, 5000.0)),
        )
    if choices.chance(0.4):
        run.recoverer("R", start=choices.one_of((0.0, 1.0, 100.0)), timeout=choices.one_of((0.0, 5000.0)))
    return run


def run_seeds(chosen: Sequence[str], setting: Setting) -> Counter[str]:
    """Run a schedule for each seed, and tell what came in all of them."""
    seen: Counter[str] = Counter()
    for seed in chosen:
        choices = Choices(seed)
        run = random_run(choices, setting)
        if run.finish():
            explain(seed, choices.made, setting)
        seen.update(fate.value for fate in run.world.fates.elements())
        seen.update(f"reported as {attempt.outcome}" for attempt in run.attempts)
        seen.update(type(attempt.error).__name__ for attempt in run.attempts if attempt.error is not None)
        seen.update(
            {
                "schedules": 1,
                "steps": run.world.steps,
                "late requests": run.world.delivered,
                "takeovers": run.world.monitor.takeovers,
                "late log objects that a person had to delete": run.told_to_delete,
                "schedules after which a stray chunk lay beyond the shape": run.had_strays,
                "schedules after which an object was left in the place for the next one": run.had_left_overs,
            }
        )
    return seen


def explain(seed: str, made: Sequence[int], setting: Setting) -> None:
    """Fail with the shortest schedule that fails as the one of `seed` did."""

    def again(given: Sequence[int]) -> Run:
        run = random_run(Choices(given=given), setting)
        run.finish()
        return run

    shortest = shrink(made, lambda given: again(given).world.problem is not None)
    run = again(shortest)
    pytest.fail(
        f"ZAPPEND_SEED={seed}; as a list of choices: {shortest}\n"
        + "\n".join(run.world.trace)
        + f"\n{run.world.problem}"
    )


def tell(seen: Counter[str]) -> None:
    print(", ".join(f"{count} {what}" for what, count in seen.most_common()))


def seeds(count: int, kind: str) -> Sequence[str]:
    """Return `count` seeds of this kind, or the one that is to be replayed."""
    return [os.environ["ZAPPEND_SEED"]] if "ZAPPEND_SEED" in os.environ else [f"{kind}-{i}" for i in range(count)]


@pytest.mark.parametrize("store", STORES)
def test_random_schedules(store: str) -> None:
    seen = run_seeds(seeds(QUICK, store), STORES[store])
    tell(seen)
    if seen["schedules"] > 1:
        assert all(seen[fate.value] for fate in Fate if fate is not Fate.ANSWERED)
        assert min(seen["late requests"], seen["takeovers"], seen["reported as failure"]) > 30
        assert seen["LockLost"] > 0
        assert seen["reported as success"] > QUICK


@pytest.mark.parametrize("store", STORES)
def test_writer_that_is_paused_again_and_again(store: str) -> None:
    # Once its changes in place are undone, the bytes that it found are there again, and on S3 their tags.
    setting = replace(STORES[store], fates=(Fate.PAUSED_AFTER, Fate.REPEATED), rate=0.5, faults=3)
    seen: Counter[str] = Counter()
    for seed in range(150):
        run = Run(Choices(f"{store}-{seed}"), setting)
        run.writer("A", [Job("P", value=b"1")])
        run.writer("B", [Job(value=b"2")], start=1, timeout=LONG)
        assert run.finish() == "", "\n".join([f"seed {seed}", *run.world.trace])
        seen.update(type(attempt.error).__name__ for attempt in run.attempts if attempt.error is not None)
        seen["takeovers"] += run.world.monitor.takeovers
    tell(seen)
    assert min(seen["LockLost"], seen["takeovers"]) > 15


@pytest.mark.campaign
@pytest.mark.parametrize("faults", [1, 2, 4])
@pytest.mark.parametrize("store", STORES)
def test_random_schedules_campaign(store: str, faults: int) -> None:
    tell(run_seeds(seeds(MANY, f"{store}-{faults}"), replace(STORES[store], faults=faults)))


def test_same_choices_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def story(choices: Choices) -> list[str]:
        monkeypatch.setattr(os, "urandom", Random(0).randbytes)
        run = random_run(choices, STORES["hashes"])
        run.finish()
        return [re.sub(r"since .* ago", "", line) for line in run.world.trace]

    for seed in range(20):
        choices = Choices(seed)
        first = story(choices)
        assert story(Choices(seed)) == first
        assert story(Choices(given=choices.made)) == first


# Faults that are planted, so that it is known that they would be found.


def _unconditional(patch: pytest.MonkeyPatch) -> None:
    """The lock is written over whatever is there."""
    put = MemoryObjects.put

    def put_anyway(self: MemoryObjects, key: str, data: Value, over: Tag | None) -> Tag:
        def do() -> Tag:
            self.data[PLACE + key] = bytes(data)
            return self._tag_at(key) or ""

        return self._call("put", key, do) if self.prefix == PLACE else put(self, key, data, over)

    patch.setattr(MemoryObjects, "put", put_anyway)


def _no_proof(patch: pytest.MonkeyPatch) -> None:
    """What was read counts as proved, whenever it was read."""
    patch.setattr(ObjectStorage, "_proofs", lambda self: -1)


def _no_lease(patch: pytest.MonkeyPatch) -> None:
    """A lock is taken over as soon as it is seen."""
    patch.setattr(LeaseLock, "_patience", lambda self, body, break_lock: 0.0)


def _unclear_is_failure(patch: pytest.MonkeyPatch) -> None:
    """A commit without an answer is taken for one that failed, and undone."""
    patch.setattr("zappend.txn.context.Transaction._is_undecided", lambda self: True)
    patch.setattr(LeaseLock, "abort", lambda self: None)


def _same_nonce(patch: pytest.MonkeyPatch) -> None:
    """All writes of the lock have the same nonce."""
    patch.setattr("zappend.txn.lease.os", types.SimpleNamespace(urandom=bytes, getpid=os.getpid))


def _commit_is_undone(patch: pytest.MonkeyPatch) -> None:
    """Who takes over a lock in commit makes it an abort."""
    inherited = lease._inherited

    def undone(body: Body, seconds: float) -> Body:
        taken = inherited(body, seconds)
        return replace(taken, state="abort") if body.state == "commit" else taken

    patch.setattr(lease, "_inherited", undone)


def _documents_at_once(patch: pytest.MonkeyPatch) -> None:
    """Documents are written as chunks are."""
    patch.setattr("zappend.txn.store.is_document", lambda key: False)


def _log_after_chunks(patch: pytest.MonkeyPatch) -> None:
    """Log objects are written, but the lock does not name them before the commit."""
    sync = ObjectPlace.sync
    patch.setattr(ObjectPlace, "sync", lambda self: sync(self) if DECISION in self.lease.entries else None)


def _no_wait(patch: pytest.MonkeyPatch) -> None:
    """Nobody waits for late requests."""


def _sweep_without_proof(patch: pytest.MonkeyPatch) -> None:
    """What was listed in the place is deleted, although the lock may have been lost before the listing."""
    patch.setattr(LeaseLock, "check", lambda self: None)


def _proof_without_a_look_at_the_clock(patch: pytest.MonkeyPatch) -> None:
    """Who has proved that he has the lock writes, however long ago that was."""
    patch.setattr(LeaseLock, "stay_sure", lambda self: None)


def rival_job(choices: Choices) -> Job:
    return choices.one_of((Job("p", fails=True), Job("q"), Job("Q"), Job(value=b"1", fails=True)))


ON_THE_WAY = (Fate.HELD, Fate.KILLED_HELD)
PAUSES = (Fate.PAUSED_BEFORE, Fate.PAUSED_AFTER)
PLANTS: dict[Callable[[pytest.MonkeyPatch], None], Setting] = {
    _unconditional: Setting(faults=0),
    _no_wait: Setting(fates=ON_THE_WAY, rate=0.1, wait=0.0),
    _no_proof: Setting(fates=PAUSES),
    _no_lease: Setting(faults=0),
    _unclear_is_failure: Setting(fates=(Fate.ANSWER_LOST, Fate.HELD), rate=0.1),
    _same_nonce: Setting(faults=0),
    _commit_is_undone: Setting(fates=(Fate.KILLED_AFTER,), rate=0.1),
    _documents_at_once: Setting(faults=0),
    _log_after_chunks: Setting(faults=0),
    _sweep_without_proof: Setting(fates=(Fate.PAUSED_AFTER, Fate.KILLED_BEFORE), rate=0.4),
    _proof_without_a_look_at_the_clock: Setting(fates=PAUSES, rate=0.2),
}


RIVALS = (_no_wait, _sweep_without_proof, _proof_without_a_look_at_the_clock)
"""Those that show when the same slice, and others, are appended and taken back."""


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__.strip("_"))
def test_planted_fault_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    make = rival_job if plant in RIVALS else mixed_job
    for seed in range(2000):
        with monkeypatch.context() as patch:
            plant(patch)
            run = random_run(Choices(seed), PLANTS[plant], make)
            found = run.finish()
        if found:
            print(f"{plant.__doc__} Seed {seed}: {found}")
            assert random_run(Choices(seed), replace(PLANTS[plant], wait=None), make).finish() == ""
            return
    pytest.fail("it was not found")


# One request that is late, at any moment of what follows.

QUIET = 90.0


class Delay(Faults):
    """What processes do after each other, numbered through; one request of the first comes late.

    Parameters
    ----------
    data
        The store.
    clock
        The common time.
    hold
        The number of the request; 0 for none.
    until
        The number of the request before which it comes.
    repeat
        Whether it had taken effect at once, and what comes late is a copy.

    Attributes
    ----------
    fate
        What became of it.
    problem
        What a reader found wrong first.
    """

    def __init__(self, data: dict[str, bytes], clock: SteppingClock, hold: int, until: int, *, repeat: bool) -> None:
        super().__init__()
        self.fate = "not sent"
        self.problem = ""
        self._data, self._clock = data, clock
        self._hold, self._until, self._repeat = hold, until, repeat
        self._late: Callable[[], object] | None = None
        self._sent = 0.0

    def call(self, call: Call, do: Callable[[], T], half: Callable[[], object] | None = None) -> T:
        self.calls.append(call)
        if len(self.calls) == self._until:
            self.arrive()
        if len(self.calls) == self._hold and call.name not in READS:
            if self._repeat:
                do()
            self._late, self._sent, self.fate = do, self._clock.now(), "on its way"
            raise Unclear("no answer")
        try:
            return do()
        finally:
            self.problem = self.problem or seen_by_reader(self._data)

    def arrive(self) -> None:
        """Carry out the late request, unless it is too old by now."""
        late, self._late = self._late, None
        if late is None:
            return
        if self._clock.now() >= self._sent + QUIET:
            self.fate = "too old"
            return
        try:
            late()
            self.fate = "carried out late"
        except Conflict:
            self.fate = "refused"
        self.problem = self.problem or seen_by_reader(self._data)


def after_each_other(jobs: Sequence[Job], hold: int = 0, until: int = 0, *, repeat: bool = False) -> Delay:
    """Do `jobs`, each in a process of its own, then recover; fail if anything is wrong."""
    data = {CUBE + key: value for key, value in cube_of(("A", "P")).items()}
    initial, clock = state_of(data), SteppingClock()
    delay = Delay(data, clock, hold, until, repeat=repeat)

    def storage() -> ObjectStorage:
        cube, place = (MemoryObjects(data, prefix, delay) for prefix in (CUBE, PLACE))
        return ObjectStorage(cube, place, clock=clock, calls_at_once=1, quiet=QUIET)

    attempts = []
    for job in jobs:
        attempts.append(attempt := Attempt(str(job)))
        attempt.carry_out(job, transaction(storage(), lock_timeout=1e6), data, lambda: len(delay.calls))
        assert not attempt.is_unexpected(), attempt.error
    delay.arrive()
    rollback(storage(), lock_timeout=1e6)
    assert (delay.problem or wrong_end(initial, attempts, data)) == "", (hold, until, attempts)
    assert [key for key in data if key.startswith(PLACE)] == [], (hold, until)
    return delay


PAIRS = {
    "append again after an abort": (Job("P", fails=True), Job("P")),
    "append chunks again after an abort": (Job("p", fails=True), Job("p")),
    "append other chunks after an abort": (Job("p", fails=True), Job("q")),
    "append after an append": (Job("P", value=b"1"), Job("Q", value=b"in place")),
    "append what was taken away": (Job(shrink=True), Job("P")),
    "take away what was appended": (Job("P"), Job(shrink=True)),
}


@pytest.mark.parametrize("repeat", [False, True], ids=["held", "repeated"])
@pytest.mark.parametrize("pair", PAIRS)
def test_each_request_late_at_each_moment(pair: str, repeat: bool) -> None:
    jobs = PAIRS[pair]
    first = len(after_each_other(jobs[:1]).calls)
    fates: Counter[str] = Counter()
    for hold in range(1, first + 1):
        for until in itertools.count(hold + 1):
            delay = after_each_other(jobs, hold, until, repeat=repeat)
            fates[delay.fate] += 1
            if delay.fate == "not sent" or until > len(delay.calls):
                break
    print(dict(fates))
    assert fates["carried out late"] > 20
    assert fates["refused"] > 20


# The lock alone: who has it, when it is taken over, and clocks that are wrong.


DAY = 86_400.0


class Contest:
    """Processes that want one lock."""

    def __init__(self, choices: Choices, setting: Setting | None = None) -> None:
        self.world = World(choices, setting or Setting(faults=0), cube_of(("A",)))
        self.waited: list[float] = []
        self.outcomes: list[str] = []

    def enter(
        self, name: str, *, stay: float = 30, start: float = 0, timeout: float = LONG, rate: float = 1
    ) -> Process:
        """Have a process take the lock, hold it for `stay` seconds, and prove now and then that it does."""
        process = self.world.process(name, rate)

        def work() -> None:
            process.clock.sleep(start * (rate or 1))
            begun = process.clock.now()
            lock = self.world.storage(process).lock()
            try:
                lock.acquire(timeout)
                self.waited.append(process.clock.now() - begun)
                for _ in range(6):
                    process.clock.sleep(stay / 6)
                    lock.check()
                    if self.world.monitor.holder is not process:
                        self.world.wrong(f"{name} has proved that it has the lock, which another has")
                lock.release()
            except Locked as error:
                self.outcomes.append(f"{name} {type(error).__name__}")
                lock.abandon()
            else:
                self.outcomes.append(f"{name} done")

        self.world.start(process, name, work)
        return process

    def at(self, time: float, do: Callable[[], None]) -> None:
        """Have `do` done at `time`."""
        process = self.world.process("fate")

        def work() -> None:
            process.clock.sleep(time)
            do()

        self.world.start(process, "fate", work)

    def run(self) -> None:
        """Run to the end; nobody who lives and beats may be robbed, and no lock be left."""
        self.world.run()
        assert self.world.problem is None, "\n".join(self.world.trace)
        assert self.world.monitor.robbed == 0, "\n".join(self.world.trace)


def test_contenders_get_the_lock_one_after_the_other() -> None:
    for seed in range(60):
        contest = Contest(Choices(seed))
        for name in "ABC":
            contest.enter(name, stay=70)
        contest.run()
        assert sorted(contest.outcomes) == ["A done", "B done", "C done"]
        assert PLACE + "lock" not in contest.world.data
    print(f"{seed + 1} schedules")


@pytest.mark.parametrize("rate", [0.5, 1, 2])
def test_dead_holder_is_taken_over_after_a_lease_of_the_watcher(rate: float) -> None:
    for seed in range(20):
        contest = Contest(Choices(seed))
        dead = contest.enter("A", stay=1000)
        contest.at(33, lambda dead=dead: setattr(dead, "dead", True))  # type: ignore[misc]
        contest.enter("B", start=40, rate=rate)
        contest.run()
        assert contest.outcomes == ["B done"]
        assert LEASE <= contest.waited[-1] < 1.2 * LEASE


def test_live_holder_is_never_robbed() -> None:
    for seed in range(20):
        contest = Contest(Choices(seed))
        contest.enter("A", stay=600)
        contest.enter("B", start=1, timeout=0)
        contest.enter("C", start=1, timeout=300)
        contest.enter("D", start=1)
        contest.run()
        assert sorted(contest.outcomes) == ["A done", "B Locked", "C Locked", "D done"]


@pytest.mark.parametrize("who", ["B", "AB"], ids=["watcher", "holder-and-watcher"])
def test_suspended_watcher_does_not_rob_a_live_holder(who: str) -> None:
    for seed, moment in itertools.product(range(3), range(2, 90, 11)):
        contest = Contest(Choices(seed))
        processes = {"A": contest.enter("A", stay=600), "B": contest.enter("B", start=1)}

        def suspend(contest: Contest = contest, processes: dict[str, Process] = processes) -> None:
            for name in who:
                processes[name].paused_until = contest.world.now + DAY

        contest.at(moment, suspend)
        contest.run()
        assert contest.outcomes == ["A done", "B done"]


WRONG_CLOCKS = {
    "slow": ("hashes", 0.5, 0.0),
    "fast": ("hashes", 2.0, 0.0),
    "set forward": ("hashes", 1.0, 1e5),
    "set back": ("generations", 1.0, -1e5),
    "frozen": ("generations", 0.0, 0.0),
}


@pytest.mark.parametrize("clock", WRONG_CLOCKS)
def test_wrong_clock_of_the_owner_lets_no_two_writers_commit(clock: str) -> None:
    # A clock that stands still tells nobody that his lease is over. Where tags come back with the bytes, what he then
    # still sends may find them, so that is only tried where they do not.
    store, rate, jump = WRONG_CLOCKS[clock]
    seen: Counter[str] = Counter()
    for seed in range(40):
        choices = Choices(seed)
        run = Run(choices, replace(STORES[store], fates=PAUSES, rate=0.1))
        owner = run.writer("A", [Job("P", value=b"1"), Job("P")], rate=rate)
        for name, start in (("B", 1.0), ("C", 80.0)):
            run.writer(name, [Job("Q")], start=start, timeout=5000)
        clocks = run.world.process("clocks")

        def set_clock(owner: Process = owner, world: World = run.world, clocks: Process = clocks) -> None:
            clocks.clock.sleep(world.choices.one_of((0.0, 3.0, 40.0, 100.0)))
            owner.clock.jump = jump

        run.world.start(clocks, "clocks", set_clock)
        assert run.finish() == "", "\n".join([f"seed {seed}", *run.world.trace])
        seen.update(type(attempt.error).__name__ for attempt in run.attempts if attempt.error is not None)
        seen["takeovers"] += run.world.monitor.takeovers
    tell(seen)
    assert seen["LockLost"] > 5
    assert seen["takeovers"] > 10
