"""A log that is damaged, newer or another's is refused, and so is a target that is another; nothing is changed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from conftest import CUBE, Case, DictCase, FolderCase, run, small_log_objects

from zappend.errors import LogDamaged, LogVersionError, RecoveryRefused, TargetChanged, TransactionError
from zappend.testing import Faults, Killed
from zappend.txn import Transaction, rollback
from zappend.txn.record import DIGEST_SIZE, HEADER, MAGIC, digest, pack, unpack


def work(txn: Transaction) -> None:
    """Something of everything, in several objects."""
    txn["a/0.0"] = b"new"
    txn["a/5.0"] = b"new"
    txn["b/0"] = b"new"
    txn.delete_folder("a/")
    txn["a/1.0"] = b"staged" * 30
    txn["a/2.0"] = b"staged" * 30
    txn["a/.zarray"] = b"document"
    txn[".zmetadata"] = b"summary"


def wreck(case: Case, *, decided: bool) -> dict[str, bytes]:
    """Kill a transaction on `case` before or after its decision; return the objects of its log."""
    case.reset(CUBE)
    faults = Faults()
    assert run(case, work, faults) is None
    decisions = [n for n, c in enumerate(faults.calls, 1) if c.path.endswith("/decision") and c.name in ("set", "link")]
    case.reset(CUBE)
    assert isinstance(run(case, work, Faults(decisions[0] + decided, lasting=True)), Killed)
    case.bury()
    objects = log_of(case)
    assert ("decision" in objects) == decided
    assert sum(name.startswith("undo-") for name in objects) >= 2
    assert sum(name.startswith("redo-") for name in objects) >= 2
    return objects


def log_of(case: Case) -> dict[str, bytes]:
    if isinstance(case, DictCase):
        return {k.removeprefix(".zappend/"): v for k, v in case.data.items() if k.startswith(".zappend/")}
    skip = (".zappend-", "lock")
    return {p.name: p.read_bytes() for p in sorted(case.place.iterdir()) if not p.name.startswith(skip)}


def set_object(case: Case, name: str, data: bytes | None) -> None:
    if isinstance(case, DictCase):
        case.data.pop(f".zappend/{name}", None)
        if data is not None:
            case.data[f".zappend/{name}"] = data
    elif data is None:
        (case.place / name).unlink()
    else:
        (case.place / name).write_bytes(data)


def counts(name: str, decided: bool) -> bool:
    """Tell whether the object called `name` counts: without a decision, nothing counts what is to be redone."""
    return decided or not name.startswith("redo-")


def check_refused(case: Case, error: type[TransactionError], use: Callable[[], Any] | None = None) -> None:
    before = without_lock(case)
    with pytest.raises(error) as caught:
        (use or (lambda: rollback(case.target())))()
    assert caught.type is error
    assert without_lock(case) == before


def without_lock(case: Case) -> dict[str, bytes | None]:
    return {key: value for key, value in case.state().items() if not key.endswith(".zappend/lock")}


@pytest.fixture(autouse=True)
def _many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    small_log_objects(monkeypatch, 150)


@pytest.fixture(params=[False, True], ids=["undecided", "decided"])
def decided(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_wreck_is_settled(place: Case, decided: bool) -> None:
    wreck(place, decided=decided)
    assert rollback(place.target()).outcome == ("completed" if decided else "rolled back")
    assert (place.cube() == CUBE) != decided


def test_every_byte(decided: bool) -> None:
    case = DictCase()
    objects = wreck(case, decided=decided)
    sample = random.Random(7)
    before = dict(case.data)
    tried = 0
    for name, data in objects.items():
        if not counts(name, decided):
            continue
        for at in range(len(data)):
            for other in {data[at] ^ 1 << sample.randrange(8), data[at] ^ 0xFF, sample.randrange(256)} - {data[at]}:
                case.data[f".zappend/{name}"] = data[:at] + bytes([other]) + data[at + 1 :]
                with pytest.raises((LogDamaged, LogVersionError)):
                    rollback(case.target())
                tried += 1
        assert case.data.keys() == before.keys()
        case.data[f".zappend/{name}"] = data
    assert case.data == before
    assert tried > 2500


def test_every_length(place: Case, decided: bool) -> None:
    objects = wreck(place, decided=decided)
    for name, data in objects.items():
        if counts(name, decided):
            for length in [*range(0, len(data), 1 if isinstance(place, DictCase) else 17), len(data) - 1]:
                set_object(place, name, data[:length])
                check_refused(place, LogDamaged)
            for more in (b"\0", data):
                set_object(place, name, data + more)
                check_refused(place, LogDamaged)
            set_object(place, name, data)
    assert rollback(place.target()).outcome != "clean"


def test_missing_object(place: Case, decided: bool) -> None:
    for name in wreck(place, decided=decided):
        data = log_of(place)[name]
        set_object(place, name, None)
        if name in ("undo", "decision"):
            # Without its head a log is none, and without a decision it is undone: this is how the end looks.
            set_object(place, name, data)
        elif counts(name, decided):
            check_refused(place, LogDamaged)
            check_refused(place, LogDamaged, lambda: place.begin().__enter__())
            check_refused(place, LogDamaged, lambda: rollback(place.target(), dry_run=True))
            set_object(place, name, data)
    rollback(place.target())


def test_log_without_head_is_swept_away(place: Case, decided: bool) -> None:
    wreck(place, decided=decided)
    cube = {key: value for key, value in place.cube().items() if not key.startswith(".zappend")}
    set_object(place, "undo", None)
    assert rollback(place.target()).outcome == "clean"
    assert place.cube() == cube
    assert not any(".zappend" in key for key in place.state())


def test_objects_of_another_transaction(place: Case, decided: bool) -> None:
    other = wreck(place, decided=decided)
    mine = wreck(place, decided=decided)
    assert len(mine) == len(other)
    for (name, data), strange in zip(mine.items(), other.values(), strict=True):
        if name == "undo" or not counts(name, decided):
            continue
        set_object(place, name, strange)
        if name == "decision":
            # The decision of another transaction decides nothing here.
            assert rollback(place.target(), dry_run=True).outcome == "rolled back"
        else:
            check_refused(place, LogDamaged)
        set_object(place, name, data)
    set_object(place, "undo", other["undo"])
    check_refused(place, LogDamaged)


def test_exchanged_objects(place: Case, decided: bool) -> None:
    objects = wreck(place, decided=decided)
    parts = [name for name in objects if name.startswith("undo-")]
    set_object(place, parts[0], objects[parts[1]])
    set_object(place, parts[1], objects[parts[0]])
    check_refused(place, LogDamaged)


def reframed(data: bytes, *, major: int = 1, minor: int = 0, **fields: Any) -> bytes:
    body = msgpack.unpackb(data[HEADER.size : -DIGEST_SIZE])
    packed = msgpack.packb({**body, **fields})
    framed = HEADER.pack(MAGIC, major, minor, len(packed)) + packed
    return framed + digest(framed)


def test_decision_that_names_another_head(place: Case) -> None:
    objects = wreck(place, decided=True)
    set_object(place, "decision", reframed(objects["decision"], head=digest(b"another")))
    check_refused(place, LogDamaged)


def test_newer_versions(place: Case, decided: bool) -> None:
    objects = wreck(place, decided=decided)
    for name, data in objects.items():
        if counts(name, decided):
            for newer in (reframed(data, major=2), reframed(data, critical=["lease"])):
                set_object(place, name, newer)
                check_refused(place, LogVersionError)
                check_refused(place, LogVersionError, lambda: place.begin().__enter__())
            set_object(place, name, data)
    rollback(place.target())


def test_optional_fields_of_a_minor_version_are_passed_over(place: Case) -> None:
    objects = wreck(place, decided=True)
    set_object(place, "decision", reframed(objects["decision"], minor=1, comment="by a newer one"))
    assert rollback(place.target()).outcome == "completed"


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"kind": "undo"}), msgpack.packb({"kind": "undo", "critical": 1})],
)
def test_nonsense_with_a_right_checksum(place: Case, body: bytes) -> None:
    wreck(place, decided=False)
    framed = HEADER.pack(MAGIC, 1, 0, len(body)) + body
    set_object(place, "undo", framed + digest(framed))
    check_refused(place, LogDamaged)


def test_frame_is_as_documented() -> None:
    data = pack("undo-part", "t" * 32, records=[["a/0", b"0"], ["a/1", None]])
    assert data[:8] == b"\x8azapp\r\n\x1a"
    assert struct.unpack(">HHQ", data[8:20]) == (1, 0, len(data) - 20 - 32)
    assert msgpack.unpackb(data[20:-32])["records"] == [["a/0", b"0"], ["a/1", None]]
    assert unpack("x", data, "undo-part")["txn"] == "t" * 32
    with pytest.raises(LogDamaged, match="expected 'decision'"):
        unpack("x", data, "decision")


def set_key(case: Case, key: str, value: bytes | None) -> None:
    if isinstance(case, DictCase):
        case.data.pop(key, None)
        if value is not None:
            case.data[key] = value
    elif value is None:
        (case.path / key).unlink()
    else:
        (case.path / key).write_bytes(value)


@pytest.mark.parametrize("value", [b"edited by others", None])
@pytest.mark.parametrize("key", [".zgroup", ".zattrs", ".zmetadata"])
def test_root_changed_by_others(place: Case, decided: bool, key: str, value: bytes | None) -> None:
    wreck(place, decided=decided)
    set_key(place, key, value)
    check_refused(place, TargetChanged)
    check_refused(place, TargetChanged, lambda: place.begin().__enter__())
    check_refused(place, TargetChanged, lambda: rollback(place.target(), dry_run=True))
    set_key(place, key, CUBE[key])
    rollback(place.target())
    assert not any(".zappend" in key for key in place.state())


def test_document_changed_by_others_after_the_decision(place: Case) -> None:
    wreck(place, decided=True)
    set_key(place, "a/.zarray", b"edited by others")
    check_refused(place, TargetChanged)


def test_target_exchanged(folder: FolderCase, decided: bool) -> None:
    wreck(folder, decided=decided)
    folder.path.rename(folder.home / "old.zarr")
    check_refused(folder, TargetChanged)
    folder.path.mkdir()
    (folder.path / ".zgroup").write_bytes(b"another cube")
    check_refused(folder, TargetChanged)


def test_target_exchanged_where_no_document_was_to_change(folder: FolderCase) -> None:
    folder.reset(CUBE)

    def delete(txn: Transaction) -> None:
        del txn["a/0.0"]

    faults = Faults()
    run(folder, delete, faults)
    linked = [n for n, call in enumerate(faults.calls, 1) if call.name == "link"]
    folder.reset(CUBE)
    run(folder, delete, Faults(linked[0] + 1, lasting=True))
    folder.bury()
    (folder.path / ".zattrs").write_bytes(b"another cube")
    check_refused(folder, TargetChanged)


def test_document_changed_by_others_during_the_transaction(place: Case) -> None:
    place.reset(CUBE)

    def disturbed(txn: Transaction) -> None:
        work(txn)
        set_key(place, "a/.zarray", b"edited by others")

    error = run(place, disturbed)
    assert error is not None
    assert "changed by others" in str(error)
    assert place.cube() == {**CUBE, "a/.zarray": b"edited by others"}


def test_log_removed_by_others_during_the_transaction(place: Case) -> None:
    place.reset(CUBE)

    def disturbed(txn: Transaction) -> None:
        txn["a/0.0"] = b"new"
        set_object(place, "undo", None)
        txn.rollback()

    assert isinstance(run(place, disturbed), LogDamaged)


def test_refusals_are_one_kind() -> None:
    assert issubclass(LogDamaged, RecoveryRefused)
    assert issubclass(TargetChanged, RecoveryRefused)
    assert not issubclass(LogVersionError, RecoveryRefused)
