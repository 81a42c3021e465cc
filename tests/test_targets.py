"""All that can be a target: the same contract, one lock for all spellings, and the same refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import obstore
import pytest
from conftest import CUBE
from faultlab import days
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from mapping_suite import CHECKS
from mapping_suite import Mapping as SuiteMapping
from otherclouds import CONTAINER, NO_AZURITE, Azurite, azurite_command
from s3fs import S3FileSystem
from s3server import BUCKET, REGION, S3Server
from zarr.core.buffer import cpu
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, WrapperStore

import zappend
from zappend.errors import Locked, TargetError, UsageError
from zappend.testing import Killed, SteppingClock
from zappend.txn import Transaction
from zappend.txn.lockbody import Body
from zappend.txn.storage import Storage
from zappend.txn.target import open_target

# Stores of which anybody can have one.


@dataclass
class Place:
    """Where a cube lies: how clients of their own name it, and what is really there."""

    prefix: str
    client: Callable[[], Any]
    put: Callable[[str, bytes], object]
    objects: Callable[[], dict[str, bytes]]
    options: dict[str, Any] = field(default_factory=dict)
    opened: dict[str, Storage] = field(default_factory=dict)
    """By the names of clients; some take a second to open."""

    def open(self, name: str = "first") -> Storage:
        if name not in self.opened:
            self.opened[name] = open_target(self.client(), **self.options)
        return self.opened[name]

    def begin(self) -> Transaction:
        return zappend.transaction(self.open())

    def fill(self, cube: dict[str, bytes]) -> None:
        for key, value in cube.items():
            self.put(self.prefix + key, value)

    def holds(self, cube: dict[str, bytes]) -> bool:
        """Tell whether there is this cube alone, or a lock that is done where none can be deleted safely."""
        found = self.objects()
        lock = f"{self.prefix.rstrip('/')}.zappend/lock"
        if lock in found and isinstance(self.client(), (ObjectStore, obstore.store.S3Store)):
            assert Body.parse(found.pop(lock)).state == "done"
        return found == {self.prefix + key: value for key, value in cube.items()}


class PlainFileSystem(AbstractFileSystem):
    """Files in a dict, with neither folders nor conditions."""

    protocol = "plain"
    cachable = False

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self.files = files

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path][start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.files[path] = bytes(value)

    def rm_file(self, path: str) -> None:
        if self.files.pop(path, None) is None:
            raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        below = f"{path}/"
        names = dict.fromkeys(key[len(below) :].partition("/")[0] for key in self.files if key.startswith(below))
        found = [self.info(below + name) for name in names]
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        if path in self.files:
            return {"name": path, "type": "file", "size": len(self.files[path])}
        if any(key.startswith(f"{path}/") for key in self.files):
            return {"name": path, "type": "directory", "size": 0}
        raise FileNotFoundError(path)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    if azurite_command() is None:
        pytest.skip(NO_AZURITE)
    with Azurite() as azurite:
        yield azurite


@pytest.fixture(scope="module", autouse=True)
def running_clock() -> Iterator[SteppingClock]:
    """The time of all clients: while one waits, the locks of the others are renewed, and no real time goes by."""
    clock = SteppingClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zappend.txn.objectstore.Clock", lambda: clock)
        yield clock


@pytest.fixture
def clock(running_clock: SteppingClock) -> SteppingClock:
    running_clock.forget()
    return running_clock


@pytest.fixture(scope="module")
def opened() -> dict[str, dict[str, Storage]]:
    """The clients of remote stores, by their kind."""
    return {}


def s3_options(server: S3Server) -> dict[str, Any]:
    return {"storage_options": server.storage_options()}


def s3_file_system(server: S3Server, **options: Any) -> Any:
    return fsspec.filesystem("s3", **server.storage_options(), **options)


def s3_store(server: S3Server, prefix: str = "c.zarr") -> Any:
    return obstore.store.S3Store(
        BUCKET,
        prefix=prefix,
        endpoint=server.url,
        region=REGION,
        access_key_id="key",
        secret_access_key="secret",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


S3_CLIENTS: dict[str, Callable[[S3Server], Any]] = {
    "FSMap": lambda server: s3_file_system(server).get_mapper(f"{BUCKET}/c.zarr"),
    "FsspecStore": lambda server: FsspecStore(s3_file_system(server, asynchronous=True), path=f"{BUCKET}/c.zarr"),
    "ObjectStore": lambda server: ObjectStore(s3_store(server)),
    "S3Store": s3_store,
}


def on_s3(kind: str, server: S3Server) -> Place:
    server.reset()
    if kind in S3_CLIENTS:
        return Place("c.zarr/", lambda: S3_CLIENTS[kind](server), server.put, server.objects)
    prefix = "" if kind == "bucket" else "c.zarr/"
    options = s3_options(server) | ({"locking": "unsafe"} if kind == "s3-unsafe" else {})
    return Place(prefix, lambda: f"s3://{BUCKET}/{prefix}", server.put, server.objects, options)


def on_azure(azurite: Azurite) -> Place:
    azurite.reset()
    options = {"storage_options": azurite.storage_options()}
    return Place("c.zarr/", lambda: f"az://{CONTAINER}/c.zarr", azurite.put, azurite.objects, options)


def in_memory_files() -> Place:
    files = MemoryFileSystem.store
    files.clear()
    return Place(
        "/x/c.zarr/",
        lambda: "memory://x/c.zarr",
        lambda path, data: MemoryFileSystem().pipe_file(path, data),
        lambda: {path: file.getvalue() for path, file in files.items()},
    )


def in_zarr_memory(wrap: Callable[[MemoryStore], Any], **options: Any) -> Place:
    held: dict[str, Any] = {}
    return Place(
        "",
        lambda: wrap(MemoryStore(held)),
        lambda key, data: held.__setitem__(key, cpu.Buffer.from_bytes(data)),
        lambda: {key: value.to_bytes() for key, value in held.items()},
        options,
    )


def in_folder(home: Path) -> Place:
    def put(key: str, data: bytes) -> None:
        path = home / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def objects() -> dict[str, bytes]:
        return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}

    return Place("c.zarr/", lambda: LocalStore(home / "c.zarr"), put, objects)


def in_obstore_memory() -> Place:
    store = obstore.store.MemoryStore()

    def objects() -> dict[str, bytes]:
        paths = [entry["path"] for batch in obstore.list(store) for entry in batch]
        return {path: bytes(obstore.get(store, path).bytes()) for path in paths}

    return Place("", lambda: store, lambda key, data: obstore.put(store, key, data), objects)


def in_plain_files() -> Place:
    files: dict[str, bytes] = {}
    return Place(
        "x/c.zarr/",
        lambda: PlainFileSystem(files).get_mapper("x/c.zarr"),
        files.__setitem__,
        lambda: dict(files),
        {"locking": "unsafe"},
    )


REMOTE = ("s3", "bucket", "s3-unsafe", "S3Store", "az")
SAME = ("FSMap", "FsspecStore", "ObjectStore")
"""Other names for what is behind one of `REMOTE`."""
LOCAL: dict[str, Callable[[Path], Place]] = {
    "memory": lambda home: in_memory_files(),
    "MemoryStore": lambda home: in_zarr_memory(lambda store: store),
    "LocalStore": in_folder,
    "obstore-MemoryStore": lambda home: in_obstore_memory(),
    "other-store": lambda home: in_zarr_memory(WrapperStore, locking="unsafe"),
    "other-file-system": lambda home: in_plain_files(),
}


def campaign(*kinds: str) -> list[Any]:
    return [pytest.param(kind, marks=pytest.mark.campaign) for kind in kinds]


@pytest.fixture
def place(request: pytest.FixtureRequest, opened: dict[str, dict[str, Storage]], clock: SteppingClock) -> Place:
    """A cube in a store of a kind, which the test names."""
    kind: str = request.param
    if kind in LOCAL:
        place = LOCAL[kind](request.getfixturevalue("home"))
    else:
        named = request.getfixturevalue("azurite" if kind == "az" else "server")
        place = on_azure(named) if kind == "az" else on_s3(kind, named)
        place.opened = opened.setdefault(kind, {})
    place.fill(CUBE)
    return place


def each_place(*kinds: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", kinds, indirect=True)


# What a transaction does, however it ends.


class Stop(Exception):
    """What goes wrong in a transaction."""


def set_anew(cube: SuiteMapping) -> None:
    cube["c/0"] = b"new"
    cube["c/.zarray"] = b"array"


def set_again(cube: SuiteMapping) -> None:
    cube["a/0.0"] = b"first"
    cube["a/0.0"] = b"second"
    cube["a/1.0"] = b""


def set_document(cube: SuiteMapping) -> None:
    cube["a/.zarray"] = b"longer"
    cube[".zmetadata"] = b"other summary"


def delete(cube: SuiteMapping) -> None:
    del cube["b/0"], cube["b/.zarray"]


def delete_and_set(cube: SuiteMapping) -> None:
    del cube["a/0.0"]
    cube["a/0.0"] = b"back"


def pop(cube: SuiteMapping) -> None:
    assert cube.pop("b/0") == CUBE["b/0"]
    assert cube.pop("b/0", b"gone") == b"gone"


def set_default(cube: SuiteMapping) -> None:
    assert cube.setdefault("a/0.0", b"not this") == CUBE["a/0.0"]
    assert cube.setdefault("c/0", b"this") == b"this"


def update(cube: SuiteMapping) -> None:
    cube.update({"a/0.0": b"updated", "c/0": b"new", "c/.zarray": b"array"})


def clear(cube: SuiteMapping) -> None:
    cube.clear()
    cube.update({".zgroup": b"group", "d/0": b"all that is left"})


def mix(cube: SuiteMapping) -> None:
    for mutate in (set_default, pop, set_anew, delete_and_set, set_again, set_document):
        mutate(cube)


MUTATORS = [set_anew, set_again, set_document, delete, delete_and_set, pop, set_default, update, clear, mix]
Mutate = Callable[[SuiteMapping], None]


def commit(place: Place, mutate: Mutate) -> bool:
    with place.begin() as txn:
        mutate(txn)
    return True


def fail(place: Place, mutate: Mutate) -> bool:
    with pytest.raises(Stop), place.begin() as txn:  # noqa: PT012
        mutate(txn)
        raise Stop
    return False


def lose(place: Place, mutate: Mutate) -> bool:
    """Let the process die in the midst of it; another client rolls back."""
    txn = place.begin().__enter__()
    mutate(txn)
    txn._lock.abandon()  # what the end of a process does
    assert zappend.rollback(place.open("second")).outcome != "completed"
    return False


def lose_decided(place: Place, mutate: Mutate) -> bool:
    """Let the process die right after its decision; another client finishes it."""

    def die(*arguments: object, **options: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zappend.txn.context.apply", die)
        with pytest.raises(Killed), place.begin() as txn:
            mutate(txn)
    assert zappend.rollback(place.open("second")).outcome == "completed"
    return True


ENDINGS = [commit, fail, lose, lose_decided]
End = Callable[[Place, Mutate], bool]

ends = pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)


def check_end(place: Place, mutate: Mutate, end: End) -> None:
    expected = dict(CUBE)
    if end(place, mutate):
        mutate(expected)
    assert place.holds(expected)
    assert zappend.rollback(place.open()).outcome == "clean"


@ends
@pytest.mark.parametrize("mutate", MUTATORS, ids=lambda mutate: mutate.__name__)
@each_place(*LOCAL, *campaign(*REMOTE, *SAME))
def test_every_mutator(place: Place, mutate: Mutate, end: End) -> None:
    check_end(place, mutate, end)


@ends
@each_place(*REMOTE)
def test_mutators(place: Place, end: End) -> None:
    check_end(place, mix, end)


@each_place(*SAME)
def test_mutators_under_other_names(place: Place) -> None:
    check_end(place, mix, lose)
    with place.begin() as txn:
        assert dict(txn) == CUBE


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@each_place(*REMOTE, *LOCAL, *campaign(*SAME))
def test_contract_of_a_mapping(place: Place, check: Callable[[SuiteMapping], None]) -> None:
    with place.begin() as txn:
        assert isinstance(txn, MutableMapping)
        assert dict(txn) == CUBE
        check(txn)
        assert dict(txn) == CUBE
    assert place.holds(CUBE)


# One lock.


def spellings_on_s3(request: pytest.FixtureRequest) -> list[tuple[Any, dict[str, Any]]]:
    server: S3Server = request.getfixturevalue("server")
    server.reset()
    options = s3_options(server)
    nested = {"s3": server.storage_options()}
    return [
        (f"s3://{BUCKET}/c.zarr", options),
        (f"s3://{BUCKET}/c.zarr/", options),
        (f"simplecache::s3://{BUCKET}/c.zarr", {"storage_options": nested}),
        (DirFileSystem(BUCKET, s3_file_system(server)).get_mapper("c.zarr"), {}),
        *((make(server), {}) for make in S3_CLIENTS.values()),
    ]


def spellings_in_folder(request: pytest.FixtureRequest) -> list[tuple[Any, dict[str, Any]]]:
    path = request.getfixturevalue("home") / "c.zarr"
    path.mkdir()
    return [
        (path, {}),
        (f"{path}/", {}),
        (f"file://{path}", {}),
        (f"simplecache::file://{path}", {}),
        (fsspec.filesystem("file").get_mapper(str(path)), {}),
        (FsspecStore.from_url(f"file://{path}"), {}),
        (LocalStore(path), {}),
        (obstore.store.LocalStore(path), {}),
        (ObjectStore(obstore.store.LocalStore(path)), {}),
    ]


def spellings_in_memory(request: pytest.FixtureRequest) -> list[tuple[Any, dict[str, Any]]]:
    MemoryFileSystem.store.clear()
    return [
        ("memory://x/c.zarr", {}),
        ("memory:///x/c.zarr/", {}),
        (fsspec.filesystem("memory").get_mapper("/x/c.zarr"), {}),
        (FsspecStore.from_url("memory://x/c.zarr"), {}),
    ]


def spellings_in_dict(request: pytest.FixtureRequest) -> list[tuple[Any, dict[str, Any]]]:
    held: dict[str, Any] = {}
    return [(MemoryStore(held), {}), (MemoryStore(held), {})]


@pytest.mark.parametrize(
    "make",
    [spellings_on_s3, spellings_in_folder, spellings_in_memory, spellings_in_dict],
    ids=lambda make: make.__name__,
)
def test_spellings_share_one_lock(
    request: pytest.FixtureRequest, clock: SteppingClock, make: Callable[[Any], list[tuple[Any, dict[str, Any]]]]
) -> None:
    """Whoever holds it, by whatever name, everybody else is told; and all see what was written by any name."""
    spellings = [open_target(target, **options) for target, options in make(request)]
    first = spellings[0]
    for number, other in enumerate(spellings):
        with zappend.transaction(first) as txn:
            assert txn.get("k", b"0") == str(number).encode()
            for use in (zappend.transaction(other).__enter__, lambda other=other: zappend.rollback(other)):
                with pytest.raises(Locked):
                    use()
        with zappend.transaction(other) as txn:
            txn["k"] = str(number + 1).encode()
            with pytest.raises(Locked):
                zappend.transaction(first).__enter__()
    print(f"{len(spellings)} spellings")


# Refusals.


def refusal(target: Any, **options: Any) -> str:
    """Return in which words a transaction on `target` is refused when it begins, at the latest."""
    with pytest.raises((TargetError, UsageError, OSError)) as caught:
        zappend.transaction(target, **options).__enter__()
    return f"{type(caught.value).__name__}: {caught.value}"


def test_unknown_protocol() -> None:
    assert "TargetError: cannot write to nowhere://x/c.zarr" in refusal("nowhere://x/c.zarr")


def test_password_is_not_told() -> None:
    message = refusal("nowhere://me:secret@x/c.zarr")
    assert "nowhere://x/c.zarr" in message
    assert "secret" not in message


@pytest.mark.parametrize("do", ["transaction", "rollback"])
def test_missing_bucket(server: S3Server, do: str) -> None:
    server.reset()
    url, options = "s3://elsewhere/c.zarr", s3_options(server)
    with pytest.raises(OSError, match=r"elsewhere|bucket"):
        zappend.rollback(url, **options) if do == "rollback" else zappend.transaction(url, **options).__enter__()
    assert server.objects() == {}


def test_store_opened_for_reading(home: Path) -> None:
    for store in (MemoryStore(read_only=True), LocalStore(home / "c.zarr", read_only=True)):
        assert "UsageError" in (message := refusal(store))
        assert "reading only" in message
    assert not list(home.iterdir())


def test_store_of_a_transaction() -> None:
    with zappend.transaction({}) as txn:
        assert "UsageError: the store of a transaction" in refusal(txn.store)


def test_unsafe_stores_take_a_word() -> None:
    held: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for target in (WrapperStore(MemoryStore(held)), PlainFileSystem(files).get_mapper("x/c.zarr")):
        assert "TargetError" in (message := refusal(target))
        assert "locking='unsafe'" in message
    assert not held
    assert not files


def test_what_is_no_target() -> None:
    for target in (1, None, [], b"path"):
        assert "UsageError: target must be" in refusal(target)
    for path in ("", "a\0b"):
        assert "is no path" in refusal(path)


@pytest.mark.effect("storage_options", "target_storage_options")
def test_options_under_either_name(server: S3Server) -> None:
    server.reset()
    options: Any = server.storage_options()
    cube: dict[str, bytes] = {}
    zappend.append(cube, days(0))
    for number, name in enumerate(("storage_options", "target_storage_options")):
        url = f"s3://{BUCKET}/{number}.zarr"
        zappend.append(url, days(0), **{name: options})
        with zappend.transaction(url, **{name: options}) as txn:
            assert dict(txn) == cube
        assert zappend.rollback(url, **{name: options}).outcome == "clean"
    both = {"storage_options": options, "target_storage_options": options}
    for use in (zappend.transaction, zappend.rollback, lambda target, **more: zappend.append(target, days(1), **more)):
        with pytest.raises(UsageError, match="one setting; give one of them"):
            use(url, **both)


def test_options_that_do_not_fit(home: Path) -> None:
    for target in (home / "c.zarr", {}, MemoryStore(), LocalStore(home / "c.zarr")):
        assert "UsageError: storage_options go with a URL" in refusal(target, storage_options={"anon": True})
    wrong: Any = "perhaps"
    assert "UsageError: locking must be" in refusal({}, locking=wrong)


class Careless(S3FileSystem):  # type: ignore[misc]
    """A client of a server that passes over one kind of condition."""

    forgets = ("", "")

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        if method == self.forgets[0]:
            options.pop(self.forgets[1], None)
        return await super()._call_s3(method, *arguments, **options)

    def call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        return fsspec.asyn.sync(self.loop, self._call_s3, method, *arguments, **options)


@pytest.mark.parametrize(("condition", "named"), [("IfNoneMatch", "If-None-Match"), ("IfMatch", "If-Match")])
def test_server_that_passes_over_conditions(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, condition: str, named: str
) -> None:
    server.reset()
    monkeypatch.setattr("zappend.txn.objects._probed", {})
    monkeypatch.setattr(Careless, "forgets", ("put_object", condition))
    target = Careless(**server.storage_options()).get_mapper(f"{BUCKET}/c.zarr")
    storage = open_target(target)
    for _ in range(2):
        assert f"passes over {named}, so" in (message := refusal(storage))
        assert "TargetError" in message
        assert server.objects() == {}
    with zappend.transaction(target, locking="unsafe") as txn:
        txn["k"] = b"v"
    assert server.objects() == {"c.zarr/k": b"v"}


def test_server_that_passes_over_conditions_of_deletes(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be written to, as obstore does. The lock, which cannot be deleted safely, stays and is in nobody's way."""
    server.reset()
    monkeypatch.setattr("zappend.txn.objects._probed", {})
    monkeypatch.setattr(Careless, "forgets", ("delete_object", "IfMatch"))
    storage = open_target(Careless(**server.storage_options()).get_mapper(f"{BUCKET}/c.zarr"))
    for value in (b"1", b"2"):
        with zappend.transaction(storage) as txn:
            txn["k"] = value
    assert server.objects("c.zarr/") == {"c.zarr/k": b"2"}
    assert set(server.objects()) <= {"c.zarr/k", "c.zarr.zappend/lock"}
