"""Power cuts at every call: whatever a disk may have kept, recovery makes the old cube or the new one of it.

A run is recorded once. Then, at every event of it, the power goes: each state that `powercut.Disk` may leave is put
into a folder, settled there by `rollback` or by the next transaction, and compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from conftest import CUBE, SCENARIOS, FolderCase, Scenario, State, run, small_log_objects
from faultlab import FORMATS, KINDS, append_job, small_chunks
from powercut import Disk, Event, RecordedFolder, digest_of, put_on_disk, read_from_disk

from zappend.testing import Call, Faults, Killed
from zappend.txn import Transaction, rollback, transaction
from zappend.txn.undo import undo

Digests = frozenset[bytes]


@dataclass(frozen=True)
class Effort:
    """How many pending changes are tried in all combinations, else how many samples."""

    most: int
    samples: int


QUICK = Effort(4, 2)
THOROUGH = Effort(12, 200)
EFFORTS = [pytest.param(QUICK, id="quick"), pytest.param(THOROUGH, id="thorough", marks=pytest.mark.campaign)]


@dataclass
class Recording:
    """What was done to a folder: the events, and which cubes may be found after a cut behind each of them."""

    before: State
    events: list[Event] = field(default_factory=list)
    allowed: list[Digests] = field(default_factory=list)  # one for before the first event, and one for each
    first: int = 0  # how many events the steps before the last one have

    def without(self, *dropped: int) -> Recording:
        """Return the same without some events."""
        events, allowed = list(self.events), list(self.allowed)
        for at in sorted(dropped, reverse=True):
            del events[at], allowed[at]  # the stricter of two: a step may end with this event
        return Recording(self.before, events, allowed, self.first - sum(at < self.first for at in dropped))


@dataclass(frozen=True)
class Finding:
    """A cut that does harm."""

    cut: int
    last: Event | None
    found: State
    what: str


@dataclass(frozen=True)
class Step:
    """What one process does: `do` returns which cubes may be found from then on, `during` are those until then."""

    do: Callable[[FolderCase], Digests]
    during: Digests


class Lab:
    """Records in one folder and recovers in another; knows what recovery makes of the states it has seen."""

    def __init__(self, home: Path, durability: str = "full") -> None:
        for name in ("run", "after"):
            (home / name).mkdir()
        self.durability = durability
        self.recorder = RecordedFolder(home / "run", durability)
        self.after = FolderCase(home / "after", durability)
        self.outcomes: dict[bytes, bytes | str] = {}  # of a state: what recovery makes of it, or the error it raises
        self.samples: list[State] = []
        self._now: State = {}

    def record(self, before: State, *steps: Step) -> Recording:
        """Record `steps`, one after the other."""
        self.recorder.record(before)
        recording = Recording(before, self.recorder.events)
        recording.allowed.append(steps[0].during)
        for step in steps:
            recording.first = len(recording.events)
            after = step.do(self.recorder)
            self.recorder.bury()
            recording.allowed += [step.during] * (len(recording.events) - recording.first)
            recording.allowed[-1] = after
        assert recording.events, "nothing happened"
        self.recorder.events = []
        return recording

    def recover(self, state: State) -> bytes | str:
        """Return the digest of what recovery makes of `state`, or the error that it raises."""
        key = digest_of(state)
        if key not in self.outcomes:
            put_on_disk(self.after.home, state, self._now)
            try:
                if len(self.outcomes) % 2:
                    rollback(self.after.target())
                else:
                    with self.after.begin():
                        pass
            except Exception as error:
                self.outcomes[key] = repr(error)
            self.after.bury()
            self._now = read_from_disk(self.after.home)
            self.outcomes.setdefault(key, digest_of(self._now))
            if len(self.outcomes) % 10 == 0:
                self.samples.append(state)
        return self.outcomes[key]

    def findings(self, recording: Recording, effort: Effort, first: int = 0) -> Iterator[Finding]:
        """Cut the power behind every event of `recording` from the `first` on; iterate over what goes wrong."""
        disk = Disk(recording.before)
        random = Random(len(recording.events))
        for cut in range(len(recording.events) + 1):
            last = recording.events[cut - 1] if cut else None
            if last:
                disk.apply(last)
            if cut < first:
                continue
            for state in disk.after_cut(effort.most, effort.samples, random):
                outcome = self.recover(state)
                if outcome not in recording.allowed[cut]:
                    what = outcome if isinstance(outcome, str) else "neither old nor new, or not what was reported"
                    yield Finding(cut, last, state, what)


def cubes(*states: State) -> Digests:
    return frozenset(digest_of(state) for state in states)


@dataclass(frozen=True)
class Program:
    """A transaction on a cube: `old` and `new` are all there is before and after it."""

    old: State
    new: State
    work: Callable[[FolderCase, Faults | None], BaseException | None]

    def commits(self) -> Step:
        def do(case: FolderCase) -> Digests:
            assert self.work(case, None) is None
            return cubes(self.new)

        return Step(do, cubes(self.old, self.new))

    def is_killed(self, at: int) -> Step:
        def do(case: FolderCase) -> Digests:
            assert isinstance(self.work(case, Faults(at, lasting=True)), Killed)
            return cubes(self.old, self.new)

        return Step(do, cubes(self.old, self.new))

    def is_recovered(self) -> Step:
        return Step(recover, cubes(self.old, self.new))

    def calls(self, case: FolderCase) -> list[Call]:
        """Return the calls of an undisturbed run."""
        put_on_disk(case.home, self.old)
        faults = Faults()
        assert self.work(case, faults) is None
        return faults.calls


def recover(case: FolderCase) -> Digests:
    rollback(case.target())
    return cubes(case.state())


def program(case: FolderCase, old: State, work: Callable[[FolderCase, Faults | None], BaseException | None]) -> Program:
    put_on_disk(case.home, old)
    assert work(case, None) is None
    return Program(old, case.state(), work)


def transacting(case: FolderCase, work: Callable[[Transaction], None], old: State) -> Program:
    return program(case, old, lambda case, faults: run(case, work, faults))


def start_of(lab: Lab, cube: Any) -> State:
    lab.recorder.reset(cube)
    return lab.recorder.state()


def check(lab: Lab, effort: Effort, **recordings: Recording) -> None:
    """Cut the power everywhere; none of the states that this gives may be a broken cube."""
    for name, recording in recordings.items():
        found = next(lab.findings(recording, effort, recording.first), None)
        assert found is None, (name, found)


@pytest.fixture(autouse=True)
def _silent(caplog: pytest.LogCaptureFixture) -> None:
    """That a transaction was cut off is a warning of each recovery."""
    caplog.set_level("ERROR", "zappend")


def later(txn: Transaction) -> None:
    """Another transaction, on the cube of any scenario."""
    txn["a/0.0"] = b"later"
    txn[".zattrs"] = b"later"


def log_in_parts(txn: Transaction) -> None:
    txn.log_ahead(["a/2.0"], ["a/0.0", "a/1.0", "b/0"])
    txn.update({"a/0.0": b"first", "a/2.0": b"third"})
    txn["c/0"] = b"unplanned"
    txn[".zattrs"] = b"new"


IN_PARTS = Scenario(
    "originals in several log parts",
    CUBE,
    log_in_parts,
    {**CUBE, "a/0.0": b"first", "a/2.0": b"third", "c/0": b"unplanned", ".zattrs": b"new"},
    max_body=60,
)


ALL = {scenario.name.replace(" ", "-"): scenario for scenario in [*SCENARIOS, IN_PARTS]}


def quick_for(*names: str) -> pytest.MarkDecorator:
    """Let the quick tests have only some of the scenarios."""
    marks = {name: () if name in names else (pytest.mark.campaign,) for name in ALL}
    params = [pytest.param(scenario, id=name, marks=marks[name]) for name, scenario in ALL.items()]
    return pytest.mark.parametrize("scenario", params, indirect=True)


@pytest.fixture(params=ALL.values(), ids=ALL)
def scenario(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    chosen: Scenario = request.param
    if chosen.max_body is not None:
        small_log_objects(monkeypatch, chosen.max_body)
    return chosen


def taken_back(work: Callable[[Transaction], None], old: State, begins: list[int]) -> Step:
    """A transaction that fails in the end; at which event it begins to be undone goes to `begins`."""

    def do(case: RecordedFolder) -> Digests:
        def failing(txn: Transaction) -> None:
            work(txn)
            begins.append(len(case.events))
            raise ZeroDivisionError

        assert isinstance(run(case, failing), ZeroDivisionError)
        return cubes(old)

    return Step(do, cubes(old))


@pytest.mark.attack(17, 19, 20)
@pytest.mark.parametrize("effort", EFFORTS)
def test_transaction(home: Path, scenario: Scenario, effort: Effort) -> None:
    """Committed and followed by another one, whose log meets what a cut brings back of the first; and taken back."""
    lab = Lab(home)
    first = transacting(lab.recorder, scenario.work, start_of(lab, scenario.old))
    second = transacting(lab.recorder, later, first.new)
    check(
        lab,
        effort,
        committed=lab.record(first.old, first.commits()),
        followed=lab.record(first.old, first.commits(), second.commits()),
        taken_back=lab.record(first.old, taken_back(scenario.work, first.old, [])),
    )
    assert len(lab.outcomes) > 200
    print(f"{len(lab.outcomes)} states")


def program_keeping(lab: Lab, scenario: Scenario) -> tuple[State, Step, Step]:
    """Return a cube, a step that commits the work on it and keeps its log, and one that takes that back."""
    old = start_of(lab, scenario.old)
    kept: list[State] = []

    def keeps(case: FolderCase) -> Digests:
        with transaction(case.target(), keep_undo=1) as txn:
            scenario.work(txn)
        kept.append(case.state())
        return cubes(kept[-1])

    def takes_back(case: FolderCase) -> Digests:
        undo(case.target())
        assert case.state() == old
        return cubes(old)

    return old, Step(keeps, cubes(old)), Step(takes_back, cubes(old))


@quick_for("append", "move", "rewrite-with-several-log-parts")
@pytest.mark.parametrize("effort", EFFORTS)
def test_log_kept_and_taken_back(home: Path, scenario: Scenario, effort: Effort) -> None:
    """After a cut in an undo there is what the commit left, with its log, or what was before it, without."""
    lab = Lab(home)
    old, keeps, takes_back = program_keeping(lab, scenario)
    recording = lab.record(old, keeps, takes_back)
    kept = recording.allowed[recording.first]
    for at in range(recording.first + 1, len(recording.allowed) - 1):
        recording.allowed[at] |= kept
    check(lab, effort, undone=recording)
    print(f"{len(lab.outcomes)} states")


def appending(lab: Lab, kind: str, zarr_format: int) -> Program:
    job = append_job(kind, zarr_format)

    def work(case: FolderCase, faults: Faults | None) -> None:
        job.work(case.target(faults))

    done = program(lab.recorder, start_of(lab, job.old), work)
    assert done.new != done.old
    return done


def check_append(lab: Lab, kind: str, zarr_format: int, effort: Effort) -> None:
    append = appending(lab, kind, zarr_format)
    check(lab, effort, committed=lab.record(append.old, append.commits()))
    assert len(lab.outcomes) > (4000 if effort is THOROUGH else 200)
    print(f"{len(lab.outcomes)} states")


@pytest.mark.parametrize(("kind", "zarr_format"), [("create", 3), ("append", 2), ("partial", 3), ("replace", 2)])
def test_append(home: Path, monkeypatch: pytest.MonkeyPatch, kind: str, zarr_format: int) -> None:
    small_chunks(monkeypatch)
    check_append(Lab(home), kind, zarr_format, Effort(3, 1))


@pytest.mark.campaign
@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_append_thorough(home: Path, monkeypatch: pytest.MonkeyPatch, kind: str, zarr_format: int) -> None:
    small_chunks(monkeypatch)
    check_append(Lab(home), kind, zarr_format, THOROUGH)


def before_syncs_of_folders(calls: list[Call]) -> list[int]:
    """Return the calls before which most is pending."""
    return [at for at, call in enumerate(calls, 1) if call.name == "fsync" and "/.zappend-" not in call.path]


@pytest.mark.attack(18)
@quick_for("append", "rewrite-with-several-log-parts")
@pytest.mark.parametrize("effort", EFFORTS)
def test_kill_and_then_a_cut_during_recovery(home: Path, scenario: Scenario, effort: Effort) -> None:
    """What a dead process had not synced, recovery sees; it may be gone after a cut."""
    lab = Lab(home)
    killed = transacting(lab.recorder, scenario.work, start_of(lab, scenario.old))
    calls = killed.calls(lab.recorder)
    kills = before_syncs_of_folders(calls) if effort is QUICK else list(range(4, len(calls) + 1))
    for at in kills:
        recording = lab.record(killed.old, killed.is_killed(at), killed.is_recovered())
        check(lab, Effort(3, 1) if effort is QUICK else Effort(8, 20), **{f"killed at {at}": recording})
    assert len(kills) > 3
    assert len(lab.outcomes) > 100
    print(f"{len(kills)} kills, {len(lab.outcomes)} states")


@quick_for("create", "originals-in-several-log-parts")
@pytest.mark.parametrize("effort", EFFORTS)
def test_cut_during_recovery_from_a_cut(home: Path, scenario: Scenario, effort: Effort) -> None:
    """After the second recovery the cube is the one that the first would have made."""
    lab = Lab(home)
    work = transacting(lab.recorder, scenario.work, start_of(lab, scenario.old))
    check(lab, QUICK, committed=lab.record(work.old, work.commits()))
    samples = [state for state in lab.samples if "cube.zarr.zappend" in state][:: 1 if effort is THOROUGH else 10]
    for state in samples:
        settled = frozenset([digest for digest in [lab.recover(state)] if isinstance(digest, bytes)])
        recording = lab.record(state, Step(recover, settled))
        assert recording.allowed[-1] == settled
        check(lab, QUICK, recovered=recording)
    assert len(samples) > 1
    print(f"{len(samples)} recoveries, {len(lab.outcomes)} states")


@pytest.mark.parametrize("kind", ["transaction", "append"])
def test_without_syncs_a_cube_breaks(home: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """With durability "process" nothing is promised after a power cut; here it is seen that a broken cube is."""
    lab = Lab(home, "process")
    if kind == "append":
        small_chunks(monkeypatch)
        done = appending(lab, "append", 3)
    else:
        done = transacting(lab.recorder, SCENARIOS[1].work, start_of(lab, SCENARIOS[1].old))
    recording = lab.record(done.old, done.commits())
    assert not any(event.name == "fsync" for event in recording.events)
    found = list(lab.findings(recording, Effort(2, 1)))
    harm = Counter("refused" if "LogDamaged" in finding.what else "wrong" for finding in found)
    assert set(harm) == {"refused", "wrong"}
    print(f"{harm['wrong']} broken cubes, {harm['refused']} recoveries refused, {len(lab.outcomes)} states")


# Planted bugs: a sync that is left out.


def needless(recording: Recording, at: int) -> str:
    """Return why the sync at event `at` of a committed transaction does not matter after a power cut; empty: it does.

    Recovery writes again what the decision names, so durable must be what it does not name.
    """
    events, path = recording.events, recording.events[at].path
    decision = next(n for n, event in enumerate(events) if event.name == "link")
    head_gone = next(n for n, event in enumerate(events) if event.name == "unlink" and event.path.endswith("/undo"))
    if ".zappend" in path.partition("/")[0]:
        return ""
    if "/.zappend-" in path:
        written = b"".join(e.data for e in events if e.name == "write" and e.handle == events[at].handle)
        key = next(event.path for event in events[at:] if event.source == path)
        again = any(event.name == "rename" and event.path == key for event in events[at + 2 : head_gone])
        return "there is nothing in the file" if not written else "the key is written again" if again else ""
    last = max((n for n in range(at) if events[n].name == "fsync" and events[n].path == path), default=0)
    again = any(event.name == "fsync" and event.path == path for event in events[at + 1 : head_gone])
    changed = {event.path for event in events[last:at] if event.name != "fsync" and in_folder(event.path, path)}
    redone = {event.path for event in events[decision:head_gone] if event.name in ("rename", "unlink")}
    if again and at > decision:
        return "it is synced again before the log goes; until then only readers of a wreck would miss it"
    if again and {name for name in changed if "/.zappend-" not in name} <= redone:
        return "what changed is changed again after the decision"
    return ""


def in_folder(path: str, folder: str) -> bool:
    return path.rpartition("/")[0] == folder


@pytest.mark.attack(17, 19)
@quick_for("append", "originals-in-several-log-parts")
def test_each_sync_of_a_commit_left_out(home: Path, scenario: Scenario) -> None:
    lab = Lab(home)
    first = transacting(lab.recorder, scenario.work, start_of(lab, scenario.old))
    second = transacting(lab.recorder, later, first.new)
    recording = lab.record(first.old, first.commits(), second.commits())
    caught = 0
    for at in range(recording.first):
        if recording.events[at].name == "fsync":
            broken = recording.without(at)
            found = next(lab.findings(broken, QUICK, at), None)
            if found is None and (why := needless(recording, at)):
                print(f"needless: {recording.events[at]}: {why}")
                continue
            assert found or next(lab.findings(broken, Effort(8, 100), at), None), (at, recording.events[at])
            caught += 1
    assert caught > 10
    print(f"{caught} caught, {len(lab.outcomes)} states")


def kind_of(synced: Event) -> str:
    place = "cube.zarr.zappend"
    if synced.path in ("", place, "cube.zarr"):
        return synced.path or "parent"
    if synced.path.startswith(f"{place}/"):
        return "log object"
    return "value" if "/.zappend-" in synced.path else "folder"


def test_each_kind_of_sync_of_a_recovery_left_out(home: Path) -> None:
    """Killed just before it could sync a folder: recovery must do so, and sync its own changes."""
    lab = Lab(home)
    caught: set[str] = set()
    kinds: set[str] = set()
    for scenario in SCENARIOS[:2]:
        killed = transacting(lab.recorder, scenario.work, start_of(lab, scenario.old))
        for at in before_syncs_of_folders(killed.calls(lab.recorder)):
            recording = lab.record(killed.old, killed.is_killed(at), killed.is_recovered())
            syncs: dict[str, list[int]] = {}
            for n, event in enumerate(recording.events):
                if n >= recording.first and event.name == "fsync":
                    syncs.setdefault(kind_of(event), []).append(n)
            kinds |= set(syncs)
            for kind in set(syncs) - caught:
                if next(lab.findings(recording.without(*syncs[kind]), Effort(3, 1), recording.first), None):
                    caught.add(kind)
    # A file of the log was synced before it got its name, by whoever wrote it: that is for those who did not care.
    assert kinds - caught == {"log object"}
    print(f"{sorted(caught)} caught, {len(lab.outcomes)} states")
