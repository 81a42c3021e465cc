"""Damaged logs: an object that counts and is not exactly what was written is refused, and nothing is changed.

What does not count may be damaged as it likes: the transaction is settled all the same.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgpack
import pytest
from conftest import CUBE, Case, DictCase, FolderCase, run, small_log_objects
from faultlab import restore
from test_txn_log import check_refused, log_of, set_object, wreck

from zappend.errors import LogDamaged, LogVersionError, TransactionError
from zappend.testing import Faults, Killed
from zappend.txn import Transaction, rollback
from zappend.txn.record import DIGEST_SIZE, HEADER, MAGIC, digest

Objects = dict[str, bytes]
OUTCOMES = {False: "rolled back", True: "completed"}


class Damage(NamedTuple):
    """What is done to a log: objects that change, ``None`` for one that goes; and what recovery must answer.

    `ends` is ``None`` for a refusal with `error`, else the name of the outcome.
    """

    kind: str
    changes: dict[str, bytes | None]
    error: type[TransactionError] = LogDamaged
    ends: str | None = None


def counts(name: str, decided: bool) -> bool:
    """Tell whether the object called `name` counts: without a decision, nothing counts what is to be redone."""
    return decided or not name.startswith("redo-")


def reframed(data: bytes, *, major: int = 1, minor: int = 0, **fields: Any) -> bytes:
    """Return the object `data` with other versions or fields, and a checksum that fits."""
    body = msgpack.unpackb(data[HEADER.size : -DIGEST_SIZE])
    return framed(msgpack.packb({**body, **fields}), major, minor)


def framed(body: bytes, major: int = 1, minor: int = 0) -> bytes:
    data = HEADER.pack(MAGIC, major, minor, len(body)) + body
    return data + digest(data)


def damaged_bytes(data: bytes, sample: random.Random) -> Iterator[tuple[str, bytes]]:
    """Iterate over all that may happen to the bytes of one object."""
    for at, byte in enumerate(data):
        others = {byte ^ 1 << sample.randrange(8), byte ^ 0xFF, sample.randrange(256)} - {byte}
        while len(others) < 3:
            others |= {sample.randrange(256)} - {byte}
        for other in sorted(others):
            yield "a byte changed", data[:at] + bytes([other]) + data[at + 1 :]
    for length in range(len(data)):
        yield "cut", data[:length]
        if any(data[length:]):
            yield "zeros from one point on", data[:length].ljust(len(data), b"\0")
    for more in (b"\0", b"\n", data, bytes(4096), *(data[:n] for n in range(1, len(data), 16))):
        yield "extended", data + more
        yield "something before it", more + data


def damages(objects: Objects, strange: Objects, decided: bool) -> Iterator[Damage]:
    """Iterate over damages to the log `objects`; `strange` are those of another transaction."""
    sample = random.Random(7)
    names = [name for name in objects if counts(name, decided)]
    for name in names:
        for kind, data in damaged_bytes(objects[name], sample):
            yield Damage(kind, {name: data})
        for major in (0, 2, 256, 65535):
            yield Damage("another major version", {name: reframed(objects[name], major=major)}, LogVersionError)
        for critical in (["lease"], ["x", "y"]):
            newer = reframed(objects[name], critical=critical, minor=3)
            yield Damage("unknown critical feature", {name: newer}, LogVersionError)
        for other in (*names, "another"):
            yield Damage("of another kind", {name: reframed(objects[name], kind=f"{other}?")})
    for one, other in itertools.permutations(names, 2):
        yield Damage("one in the place of another", {one: objects[other]})
    for one, other in itertools.combinations(names, 2):
        yield Damage("exchanged", {one: objects[other], other: objects[one]})
    yield from damaged_members(objects, strange, names)
    yield from harmless(objects, strange, decided)


def damaged_members(objects: Objects, strange: Objects, names: list[str]) -> Iterator[Damage]:
    """Iterate over damages to what is there, the objects themselves being whole."""
    for name, other in zip(objects, strange, strict=True):
        if name not in ("undo", "decision") and name in names:
            yield Damage("missing", {name: None})
            yield Damage("of another transaction", {name: strange[other]})
            body = msgpack.unpackb(objects[name][HEADER.size : -DIGEST_SIZE])
            for fields in ({"seq": body["seq"] + 1}, {"previous": digest(b"?")}, {"txn": "0" * 32}, {"extra": 1}):
                yield Damage("another chain", {name: reframed(objects[name], **fields)})
    yield Damage("of another transaction", {"undo": strange["undo"]})
    for wrong in ({"parts": 99}, {"last": digest(b"?")}, {"txn": "0" * 32}, {"parts": "many"}, {"records": None}):
        yield Damage("another chain", {"undo": reframed(objects["undo"], **wrong)})
    if "decision" in names:
        for wrong in ({"head": digest(b"?")}, {"parts": 99}, {"last": digest(b"?")}, {"staged": 3}):
            yield Damage("another chain", {"decision": reframed(objects["decision"], **wrong)})


def harmless(objects: Objects, strange: Objects, decided: bool) -> Iterator[Damage]:
    """Iterate over damages that must not matter."""
    settled = OUTCOMES[decided]
    for name, data in objects.items():
        for copy in ("undo-" + "0" * 32 + "-00000000", f"{name}-00000009", ".zappend-" + "0" * 32 + "-undo"):
            if copy.startswith(("undo-", "redo-", ".zappend-")):
                yield Damage("a copy under another name", {copy: data}, ends=settled)
                yield Damage("rubbish under another name", {copy: data[5:]}, ends=settled)
        if not counts(name, decided):
            for kind, broken in itertools.islice(damaged_bytes(data, random.Random(1)), 0, None, 7):
                yield Damage(f"does not count: {kind}", {name: broken}, ends=settled)
            yield Damage("does not count: missing", {name: None}, ends=settled)
    for name, data in strange.items():
        if name not in ("undo", "decision"):
            yield Damage("more parts, of another transaction", {name: data}, ends=settled)
    # Undone, since the cube is still the old one: the end of an undone transaction, and its beginning, look like this.
    undone = OUTCOMES[False]
    yield Damage("decision of another transaction", {"decision": strange.get("decision")}, ends=undone)
    yield Damage("decision missing", {"decision": None}, ends=undone)
    changes = {"decision": reframed(objects["undo"], kind="decision", txn="0" * 32)}
    yield Damage("decision of a transaction that never was", changes, ends=undone)
    last = "decision" if decided else "undo"  # which no other object names by its hash
    yield Damage("optional fields", {last: reframed(objects[last], minor=7, comment="by a newer one")}, ends=settled)


class Patient:
    """A wreck that is damaged, tried and restored again and again."""

    def __init__(self, case: Case, decided: bool) -> None:
        self.case = case
        self.strange = wreck(case, decided=decided)
        self.objects = wreck(case, decided=decided)
        assert self.strange.keys() != self.objects.keys()
        self.wreck = case.state()
        self.cubes: dict[str, dict[str, bytes]] = {"rolled back": CUBE}
        if decided:
            rollback(case.target())
            self.cubes["completed"] = case.cube()
            restore(self.case, self.wreck)

    def treat(self, damage: Damage, use: Callable[[], Any] | None = None) -> None:
        """Damage the log, see what recovery says, and restore it."""
        for name, data in damage.changes.items():
            if data is not None or name in self.objects:
                set_object(self.case, name, data)
        if damage.ends is None:
            check_refused(self.case, damage.error, use)
            for name in damage.changes:
                set_object(self.case, name, self.objects[name])
        else:
            assert rollback(self.case.target()).outcome == damage.ends, damage.kind
            assert self.case.cube() == self.cubes[damage.ends], damage.kind
            assert not any(".zappend" in name for name in self.case.state()), damage.kind
            restore(self.case, self.wreck)


@pytest.fixture(autouse=True)
def _many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    small_log_objects(monkeypatch, 150)


@pytest.fixture(params=[False, True], ids=["undecided", "decided"])
def decided(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.attack(20, 23)
def test_damaged_logs() -> None:
    tried: Counter[str] = Counter()
    for decided in (False, True):
        patient = Patient(DictCase(), decided)
        for damage in damages(patient.objects, patient.strange, decided):
            patient.treat(damage)
            tried[damage.kind if damage.ends is None else f"{damage.kind} ({damage.ends})"] += 1
        assert patient.case.state() == patient.wreck
    for kind, count in tried.items():
        print(f"{count:6} {kind}")
    print(f"{tried.total():6} in all")
    assert tried.total() >= 10_000
    assert len(tried) > 20


def test_damaged_logs_in_a_folder_and_by_all_who_ask(place: Case, decided: bool) -> None:
    patient = Patient(place, decided)
    uses = (None, lambda: place.begin().__enter__(), lambda: rollback(place.target(), dry_run=True))
    tried = 0
    kinds: Counter[str] = Counter()
    for damage in damages(patient.objects, patient.strange, decided):
        # A few of each kind; of the kinds with thousands one in a few hundred.
        kinds[damage.kind] += 1
        if kinds[damage.kind] < 4 or kinds[damage.kind] % 211 == 0:
            for use in uses if damage.ends is None else uses[:1]:
                patient.treat(damage, use)
                tried += 1
    print(f"{tried} tried")
    assert tried > 150


@pytest.mark.campaign
def test_bursts(decided: bool) -> None:
    """What a disk, a copy or an editor may do: runs of bytes overwritten, lost, doubled or moved."""
    patient = Patient(DictCase(), decided)
    sample = random.Random(11)
    names = [name for name in patient.objects if counts(name, decided)]
    tried = 0
    while tried < 50_000:
        name = sample.choice(names)
        data = patient.objects[name]
        start, length = sample.randrange(len(data)), sample.choice([1, 2, 8, 64, 512])
        run = data[start : start + length]
        other = sample.choice([sample.randbytes(len(run)), b"", run + run, run[::-1], run.replace(b"\n", b"\r\n")])
        at = sample.choice([start, start, sample.randrange(len(data))])
        broken = data[:at] + other + data[at + length :]
        if broken != data:
            patient.treat(Damage("burst", {name: broken}))
            tried += 1
    print(f"{tried} tried")


@pytest.mark.attack(16)
def test_log_without_head_is_swept_away(place: Case, decided: bool) -> None:
    wreck(place, decided=decided)
    cube = {key: value for key, value in place.cube().items() if not key.startswith(".zappend")}
    set_object(place, "undo", None)
    assert rollback(place.target()).outcome == "clean"
    assert place.cube() == cube
    assert not any(".zappend" in key for key in place.state())


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"kind": "undo"}), msgpack.packb({"kind": "undo", "critical": 1})],
)
def test_nonsense_with_a_right_checksum(place: Case, body: bytes) -> None:
    wreck(place, decided=False)
    set_object(place, "undo", framed(body))
    check_refused(place, LogDamaged)


def test_what_has_no_name_of_a_log_object_stays(place: Case, decided: bool) -> None:
    objects = wreck(place, decided=decided)
    set_object(place, "undo.bak", objects["undo"])
    assert rollback(place.target()).outcome == OUTCOMES[decided]
    assert log_of(place) == {"undo.bak": objects["undo"]}


def test_an_original_that_is_lost(folder: FolderCase) -> None:
    """Nothing is restored then, neither it nor the others."""
    cube = {"a/0": b"zero", "a/1": b"one", "a/2": b"two"}

    def move(txn: Transaction) -> None:
        txn.log_ahead((), ["a/0", "a/1"], by_reference=True)
        txn.copy({"a/0": "a/1", "a/1": "a/2"})

    folder.reset(cube)
    faults = Faults()
    assert run(folder, move, faults) is None
    decision = next(n for n, call in enumerate(faults.calls, 1) if call.path.endswith("/decision"))
    folder.reset(cube)
    assert isinstance(run(folder, move, Faults(decision, lasting=True)), Killed)
    folder.bury()
    first, *_ = sorted(folder.place.glob("original-*"))
    first.unlink()
    before = folder.cube(), log_of(folder)
    with pytest.raises(LogDamaged, match=f"'{first.name}' is missing"):
        rollback(folder.target())
    assert (folder.cube(), log_of(folder)) == before
    assert folder.cube() != cube
