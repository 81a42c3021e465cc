"""A transaction is a mapping; every way to change it ends in the new cube, or, untouched, in the old one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, MutableMapping
from typing import Any

import mapping_suite
import pytest
from conftest import CUBE, Case, DictCase, FolderCase, Scenario, both_ends, run, small_log_objects

from zappend.errors import TargetError, TransactionClosed, UsageError
from zappend.testing import CountingMapping, Faults, Killed, LatencyMapping
from zappend.txn import Settlement, Transaction, rollback, transaction


@pytest.mark.parametrize("check", mapping_suite.CHECKS)
def test_contract(case: Case, check: Callable[[MutableMapping[str, bytes]], None]) -> None:
    case.reset(CUBE)
    with case.begin() as txn:
        check(txn)
        assert dict(txn) == CUBE
    assert case.cube() == CUBE


def test_contract_of_clear(case: Case) -> None:
    case.reset(CUBE)
    with case.begin() as txn:
        mapping_suite.check_clear(txn)
    assert case.cube() == {}


@pytest.mark.parametrize("wrapper", [CountingMapping, lambda inner: LatencyMapping(inner, 0.0)])
@pytest.mark.parametrize("check", mapping_suite.CHECKS[:4])
def test_contract_of_the_wrappers_for_tests(wrapper: Any, check: Callable[[MutableMapping[str, bytes]], None]) -> None:
    check(wrapper({}))


def _spill(txn: Any) -> None:
    txn.clear()
    for n in range(20):
        txn[f"a/{n}"] = bytes([n]) * 30
    txn["a/3"] = b"once more"
    del txn["a/4"]
    txn["a/zarr.json"] = b"document" * 20


def _fold(txn: Any) -> None:
    # A plain dict has no folders.
    if isinstance(txn, dict):
        for key in [key for key in txn if key.startswith("a/")]:
            del txn[key]
    else:
        txn.delete_folder("a/")


def _fold_and_write(txn: Any) -> None:
    txn["a/x"] = b"gone at once"
    _fold(txn)
    txn["a/y"] = b"staged"
    txn["a/1.0"] = b"staged"
    txn["a/2.0"] = b"staged, then deleted"
    del txn["a/2.0"]
    _fold(txn)
    txn["a/1.0"] = b"staged again"
    txn["a/.zarray"] = b"other"


def _log_ahead(txn: Any) -> None:
    if not isinstance(txn, dict):
        txn.log_ahead(["a/5.0", "n/0", "n/.zarray", "o/.zarray"], ["a/0.0", "a/7.0"])
    txn["a/5.0"] = b"5"
    txn["a/0.0"] = b"0"
    txn["a/6.0"] = b"not ahead"
    txn["n/.zarray"] = b"new array"


MUTATORS: dict[str, Callable[[Any], Any]] = {
    "set": lambda m: m.__setitem__("a/0.0", b"new"),
    "set new": lambda m: m.__setitem__("x/y/0", b"new"),
    "set document": lambda m: m.__setitem__("a/.zarray", b"new"),
    "set new document": lambda m: m.__setitem__("x/y/zarr.json", b"new"),
    "set twice": lambda m: (m.__setitem__("a/0.0", b"1"), m.__setitem__("a/0.0", b"2")),
    "set and delete": lambda m: (m.__setitem__("a/9", b"1"), m.__delitem__("a/9")),
    "set and delete document": lambda m: (m.__setitem__("n/zarr.json", b"1"), m.__delitem__("n/zarr.json")),
    "delete": lambda m: m.__delitem__("a/0.0"),
    "delete document": lambda m: m.__delitem__("b/.zarray"),
    "delete and set": lambda m: (m.__delitem__("a/0.0"), m.__setitem__("a/0.0", b"new")),
    "delete and set document": lambda m: (m.__delitem__(".zattrs"), m.__setitem__(".zattrs", b"new")),
    "update": lambda m: m.update({"a/0.0": b"u", "b/.zarray": b"u", "n/0": b"u"}),
    "pop": lambda m: m.pop("a/0.0"),
    "popitem": lambda m: [m.popitem() for _ in range(len(m))],
    "setdefault": lambda m: (m.setdefault("a/0.0", b"no"), m.setdefault("a/8", b"yes")),
    "clear": lambda m: m.clear(),
    "clear and write": lambda m: (m.clear(), m.__setitem__("a/0.0", b"1"), m.__setitem__("zarr.json", b"2")),
    "delete folder": _fold,
    "delete folder and write": _fold_and_write,
    "log ahead": _log_ahead,
    "many log objects": _spill,
    "nothing": lambda m: None,
}


@pytest.fixture(params=MUTATORS, ids=lambda name: name.replace(" ", "-"))
def mutate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    if request.param == "many log objects":
        small_log_objects(monkeypatch, 100)
    return MUTATORS[request.param]


@pytest.mark.attack(36, 44)
def test_commit_is_what_a_dict_does(case: Case, mutate: Callable[[Any], Any]) -> None:
    case.reset(CUBE)
    model = dict(CUBE)
    mutate(model)
    with case.begin() as txn:
        mutate(txn)
        assert dict(txn) == model, "reads see what was written"
        assert all((key in txn) == (key in model) for key in {*CUBE, *model, "a/9", "x/y/0"})
        assert sorted(txn.children("a/")) == sorted({k[2:].split("/")[0] for k in model if k.startswith("a/")})
    assert case.cube() == model
    assert txn.status == "committed"
    assert nothing_beside(case)


@pytest.mark.parametrize("end", ["exception", "interrupt", "rollback", "killed", "killed, next writer"])
def test_rollback_leaves_every_byte(case: Case, mutate: Callable[[Any], Any], end: str) -> None:
    case.reset(CUBE)
    old = case.state()
    faults = Faults(at=10**9, lasting=True)

    def work(txn: Transaction) -> None:
        mutate(txn)
        if end == "exception":
            raise ZeroDivisionError
        if end == "interrupt":
            raise KeyboardInterrupt
        if end == "rollback":
            txn.rollback()
            assert txn.status == "rolled back"
        else:
            faults._at = 1
            raise Killed

    raised = run(case, work, faults)
    expected = {"exception": ZeroDivisionError, "interrupt": KeyboardInterrupt, "rollback": type(None)}
    assert type(raised) is expected.get(end, Killed)
    case.bury()
    if end == "killed":
        rollback(case.target())
    elif end == "killed, next writer":
        with case.begin():
            pass
    assert case.state() == old


def nothing_beside(case: Case) -> bool:
    if isinstance(case, FolderCase):
        return sorted(os.listdir(case.home)) in (["cube.zarr"], []) and not any(
            ".zappend" in key for key in case.state()
        )
    return not any(key.startswith(".zappend") for key in case.data)


@pytest.mark.attack(33)
def test_new_target_is_removed_and_an_old_empty_one_stays(folder: FolderCase) -> None:
    def work(txn: Transaction) -> None:
        txn.update({"a/b/c/0": b"0", "zarr.json": b"{}"})
        raise ZeroDivisionError

    assert isinstance(run(folder, work), ZeroDivisionError)
    assert folder.state() == {}
    (folder.path / "a").mkdir(parents=True)
    assert isinstance(run(folder, work), ZeroDivisionError)
    assert folder.state() == {"cube.zarr": None, "cube.zarr/a": None}


@pytest.mark.attack(33)
def test_foreign_files_stay(folder: FolderCase) -> None:
    folder.place.mkdir()
    (folder.place / "notes.txt").write_bytes(b"not a log object")

    def work(txn: Transaction) -> None:
        txn["a/b/0"] = b"0"
        (folder.path / "a/b/foreign").write_bytes(b"by others")
        raise ZeroDivisionError

    assert isinstance(run(folder, work), ZeroDivisionError)
    assert {k for k, v in folder.state().items() if v is not None} == {
        "cube.zarr/a/b/foreign",
        "cube.zarr.zappend/notes.txt",
    }


@pytest.mark.attack(35)
def test_documents_are_held_back(case: Case) -> None:
    case.reset(CUBE)
    with case.begin() as txn:
        txn["a/.zarray"] = b"new"
        txn["n/zarr.json"] = b"new"
        del txn["b/0"]
        txn.delete_folder("b/")
        txn["b/0"] = b"staged"
        txn["n/0"] = b"chunk"
        cube = {key: value for key, value in case.cube().items() if not key.startswith(".zappend")}
        assert cube == {**CUBE, "n/0": b"chunk"}
    assert case.cube()["b/0"] == b"staged"


@pytest.mark.attack(34, 37)
def test_order_of_the_commit(case: Case) -> None:
    def written(old: Any, work: Callable[[Transaction], None]) -> list[str]:
        case.reset(old)
        faults = Faults()
        assert run(case, work, faults) is None
        calls = [c for c in faults.calls if c.name in ("set", "delete", "rename", "unlink")]
        keys = [os.path.relpath(c.path, folder_of(case)) if isinstance(case, FolderCase) else c.path for c in calls]
        return [key for key in keys if ".zappend" not in key]

    def work(txn: Transaction) -> None:
        for key in (".zmetadata", ".zgroup", ".zattrs", "zarr.json", "g/.zgroup", "g/a/.zarray", "g/a/0"):
            txn[key] = b"new"

    chunk, *array, last = written(None, work)
    assert (chunk, last) == ("g/a/0", "zarr.json")
    assert array == ["g/a/.zarray", "g/.zgroup", ".zattrs", ".zmetadata", ".zgroup"]
    assert written({".zgroup": b"old"}, work)[-4:] == [".zattrs", ".zgroup", ".zmetadata", "zarr.json"]

    def delete(txn: Transaction) -> None:
        txn.delete_folder("")
        txn["zarr.json"] = b"new"

    deleted = written(CUBE, delete)
    assert deleted[0] == "zarr.json", "first what is put"
    assert set(deleted[1:4]) == {".zattrs", ".zgroup", ".zmetadata"}, "then deletions, root first"
    assert deleted.index("a/.zarray") < deleted.index("a/0.0")


def folder_of(case: FolderCase) -> str:
    return os.path.realpath(case.path)


def test_log_ahead_is_one_object_without_reads() -> None:
    inner = CountingMapping({"a/.zarray": b"", "a/0": b"0"})
    with transaction(inner) as txn:
        txn.log_ahead([f"a/{n}" for n in range(1, 5000)], ["a/0"])
        reads, sets = inner.counts["get"], inner.counts["set"]
        assert sets == 1
        assert reads < 10
        txn.update({f"a/{n}": b"x" for n in range(5000)})
        assert inner.counts["set"] == sets + 5000, "no further log object"
        txn.rollback()
    assert inner.inner == {"a/.zarray": b"", "a/0": b"0"}


def test_key_that_is_both_new_and_changed_is_read(place: Case) -> None:
    place.reset(CUBE)

    def work(txn: Transaction) -> None:
        txn.log_ahead(["a/0.0", "a/2.0"], ["a/0.0"])
        txn["a/0.0"] = b"new"
        raise ZeroDivisionError

    run(place, work)
    assert place.cube() == CUBE


@pytest.mark.attack(43)
def test_update_logs_many_keys_together() -> None:
    inner = CountingMapping({})
    with transaction(inner) as txn:
        txn.update({f"a/{n}": b"x" for n in range(2500)})
        assert inner.counts["set"] < 2500 + 10


@pytest.mark.attack(43)
def test_clear_lists_nothing() -> None:
    inner = CountingMapping(dict(CUBE))
    with transaction(inner) as txn:
        lists = inner.counts["list"]
        txn.clear()
        assert inner.counts["list"] == lists
        assert inner.counts["delete"] == 0


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_ended_transaction_takes_no_work(case: Case, end: str) -> None:
    case.reset(CUBE)
    with case.begin() as txn:
        txn["a/0.0"] = b"new"
        getattr(txn, end)()
        state = case.state()
        for use in (
            lambda: txn["a/0.0"],
            lambda: "a/0.0" in txn,
            lambda: list(txn),
            lambda: txn.update({"a/0.0": b""}),
            lambda: txn.pop("a/0.0"),
            lambda: txn.clear(),
            lambda: txn.log_ahead(["a/9"]),
            lambda: txn.commit(),
            lambda: txn.rollback(),
            lambda: txn.__enter__(),
        ):
            with pytest.raises(TransactionClosed, match="start a new one"):
                use()
    assert case.state() == state
    assert txn.status == {"commit": "committed", "rollback": "rolled back"}[end]


def test_transaction_must_have_begun(place: Case) -> None:
    txn = place.begin()
    with pytest.raises(TransactionClosed, match="has not begun"):
        txn["a"] = b""
    with pytest.raises(TransactionClosed, match="has not begun"):
        txn.commit()
    assert place.state() == {}


def test_empty_transaction_changes_nothing(case: Case) -> None:
    for cube in (None, CUBE):
        case.reset(cube)
        old = case.state()
        with case.begin() as txn:
            pass
        assert txn.status == "committed"
        assert case.state() == old


def test_rollback_where_nothing_is_pending(case: Case) -> None:
    case.reset(CUBE)
    old = case.state()
    faults = Faults()
    assert rollback(case.target(faults)) == Settlement("clean", [], [])
    assert faults.calls == []
    assert case.state() == old


def test_dry_run_tells_and_changes_nothing(case: Case, scenario: Scenario) -> None:
    old, new = both_ends(case, scenario)
    case.reset(scenario.old)
    faults = Faults()
    run(case, scenario.work, faults)
    for at in range(5, len(faults.calls), 3):
        case.reset(scenario.old)
        run(case, scenario.work, Faults(at, lasting=True))
        case.bury()
        wreck = without_lock(case.state())
        told = rollback(case.target(), dry_run=True)
        assert without_lock(case.state()) == wreck
        done = rollback(case.target())
        assert told == done
        assert case.state() == {"rolled back": old, "completed": new}.get(done.outcome, case.state())
        if done.outcome == "completed":
            assert {k for k in done.written if not k.endswith("/")} <= set(scenario.new)


def without_lock(state: Any) -> Any:
    # Who looks takes the lock, so a dead one's lock file is gone afterwards; an empty place goes with it.
    return {k: v for k, v in state.items() if k not in ("cube.zarr.zappend/lock", "cube.zarr.zappend")}


def test_modes_of_files(folder: FolderCase) -> None:
    folder.reset(CUBE)
    os.chmod(folder.path / "a/0.0", 0o640)
    os.chmod(folder.path / ".zattrs", 0o604)
    umask = os.umask(0o027)
    try:

        def work(txn: Transaction) -> None:
            txn.update({"a/0.0": b"new", "a/9": b"new", ".zattrs": b"new", "zarr.json": b"new"})

        def fail(txn: Transaction) -> None:
            work(txn)
            raise ZeroDivisionError

        assert isinstance(run(folder, fail), ZeroDivisionError)
        assert mode(folder, "a/0.0") == 0o640, "put back"
        assert run(folder, work) is None
    finally:
        os.umask(umask)
    assert mode(folder, "a/0.0") == 0o640
    assert mode(folder, ".zattrs") == 0o604
    assert mode(folder, "a/9") == 0o640
    assert mode(folder, "zarr.json") == 0o640


def mode(folder: FolderCase, key: str) -> int:
    return stat.S_IMODE(os.stat(folder.path / key).st_mode)


def test_key_in_the_place_of_a_folder_can_be_rolled_back(folder: FolderCase) -> None:
    folder.reset(CUBE)
    old = folder.state()
    for key in ("a", "a/0.0/x"):

        def work(txn: Transaction, key: str = key) -> None:
            txn["b/0"] = b"new"
            txn[key] = b"cannot be"

        assert isinstance(run(folder, work), OSError)
        assert folder.state() == old


def test_document_that_has_no_room_is_refused_before_the_decision(folder: FolderCase) -> None:
    folder.reset(CUBE)
    (folder.path / "d/zarr.json/e").mkdir(parents=True)
    old = folder.state()

    def below_a_key(txn: Transaction) -> None:
        del txn["a/0.0"]
        txn["a/0.0/zarr.json"] = b"{}"

    def over_a_folder(txn: Transaction) -> None:
        txn["d/zarr.json"] = b"{}"

    def below_another(txn: Transaction) -> None:
        txn.update({"zarr.json": b"{}", "zarr.json/zarr.json": b"{}"})

    for work in (below_a_key, over_a_folder, below_another):
        assert isinstance(run(folder, work), TargetError)
        assert folder.state() == old


def test_links_to_folders_below_a_deleted_one(folder: FolderCase) -> None:
    folder.reset(CUBE)
    (folder.home / "elsewhere").mkdir()
    os.symlink(folder.home / "elsewhere", folder.path / "a" / "link")
    with folder.begin() as txn:
        txn.delete_folder("a/")
    assert (folder.home / "elsewhere").is_dir()
    assert not (folder.path / "a" / "0.0").exists()


def test_long_key(folder: FolderCase) -> None:
    key = "a/" + "x" * 250
    assert run(folder, lambda txn: txn.update({key: b"long", "zarr.json": b"{}"})) is None
    assert folder.cube()[key] == b"long"


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (1, UsageError),
        (None, UsageError),
        ([], UsageError),
        ("", TargetError),
        (b"cube", UsageError),
        ("nonsense://bucket/cube.zarr", TargetError),
        ("/no/such/parent/cube.zarr", TargetError),
    ],
)
def test_targets_that_are_none(target: Any, error: type[Exception]) -> None:
    for use in (transaction, rollback):
        with pytest.raises(error):
            use(target)


def test_wrong_durability(place: Case) -> None:
    with pytest.raises(UsageError, match="durability"):
        transaction({}, durability="some")  # type: ignore[arg-type]


@pytest.mark.attack(28)
def test_file_as_target_and_target_inside_a_group(folder: FolderCase) -> None:
    folder.reset(CUBE)
    for inner in ("a/0.0", "a"):
        with pytest.raises(TargetError):
            transaction(folder.path / inner)


def test_place_inside_a_target_whose_parent_cannot_be_written(
    folder: FolderCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.reset(CUBE)
    old = folder.state()
    access = os.access
    monkeypatch.setattr(
        "os.access", lambda path, mode: os.path.realpath(path) != os.path.realpath(folder.home) and access(path, mode)
    )

    def work(txn: Transaction) -> None:
        txn["a/0.0"] = b"new"
        assert (folder.path / ".zappend" / "undo").is_file()
        assert set(txn) == set(CUBE)
        assert ".zappend" not in list(txn.children(""))
        txn.clear()
        raise ZeroDivisionError

    assert isinstance(run(folder, work), ZeroDivisionError)
    assert folder.state() == old
    assert run(folder, lambda txn: txn.clear()) is None
    assert folder.state() == {"cube.zarr": None}


def test_repr_names_target_and_status() -> None:
    case = DictCase()
    with case.begin() as txn:
        assert "active" in repr(txn)
    assert "committed" in repr(txn)
    assert txn == txn
    assert len({txn}) == 1
