"""The S3 server of the tests, and others, do what is said of them."""

from __future__ import annotations

import http.client
import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import fsspec
import obstore
import pytest
from adlfs import AzureBlobFileSystem
from aiobotocore.httpsession import AIOHTTPSession
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from fsspec.asyn import sync
from moto.s3.models import S3Backend
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import AzureStore, S3Store
from otherclouds import ACCOUNT, CONTAINER, KEY, NO_AZURITE, Azurite, azurite_command
from s3server import (
    ACCESS_DENIED,
    BUCKET,
    CONFLICT,
    DROP_ANSWER,
    DROP_REQUEST,
    HOLD,
    INTERNAL_ERROR,
    REGION,
    REPEAT,
    SIGNED,
    SLOW_DOWN,
    WAIT,
    Fault,
    Request,
    S3Server,
    call,
    cut_answer,
    error_after,
    every,
    from_then_on,
    once,
    plan,
)


class Once(AIOHTTPSession):
    """Sends each request once: aiohttp by itself repeats a PUT or DELETE whose connection ends without an answer."""

    async def _get_session(self, proxy_url: Any) -> Any:
        session = await super()._get_session(proxy_url)
        session._retry_connection = False
        return session


def file_system(options: dict[str, Any]) -> Any:
    """Return a file system that repeats nothing."""
    retries = {"total_max_attempts": 1, "mode": "standard"}
    result = fsspec.filesystem("s3", **options, config_kwargs={"retries": retries, "http_session_cls": Once})
    result.retries = 1
    return result


def create(fs: Any, key: str, data: bytes) -> str:
    return fs.call_s3("put_object", Bucket=BUCKET, Key=key, Body=data, IfNoneMatch="*")["ETag"]


def status(error: BaseException | None) -> int | None:
    """Return with which status the server refused, ``None`` if there was no answer."""
    response = getattr(error and error.__cause__, "response", None)
    return response["ResponseMetadata"]["HTTPStatusCode"] if response else None


def outcome(fs: Any, method: str, **arguments: Any) -> int | None:
    """Return the status of the answer, ``None`` if there was none."""
    try:
        return fs.call_s3(method, Bucket=BUCKET, **arguments)["ResponseMetadata"]["HTTPStatusCode"]
    except Exception as error:
        return status(error)


def store(server: S3Server) -> S3Store:
    return S3Store(
        BUCKET,
        endpoint=server.url,
        region=REGION,
        access_key_id="key",
        secret_access_key="secret",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def server(running: S3Server) -> S3Server:
    running.reset()
    return running


@pytest.fixture(scope="module")
def fs(running: S3Server) -> Any:
    return file_system(running.storage_options())


def test_files(server: S3Server, fs: Any) -> None:
    big = bytes(range(256)) * 50_000
    fs.pipe_file(f"{BUCKET}/a b/ü+%.bin", b"small")
    fs.pipe_file(f"{BUCKET}/big", big, chunksize=5 * 2**20)
    assert server.objects() == {"a b/ü+%.bin": b"small", "big": big}
    assert server.objects("a b/") == {"a b/ü+%.bin": b"small"}
    assert fs.cat_file(f"{BUCKET}/big") == big
    assert fs.find(BUCKET) == [f"{BUCKET}/a b/ü+%.bin", f"{BUCKET}/big"]
    fs.rm([f"{BUCKET}/big"])
    assert server.objects() == {"a b/ü+%.bin": b"small"}
    counts = server.counts()
    assert counts["COMPLETE_UPLOAD"] == 1
    assert counts["PUT_PART"] == 3
    assert counts["BULK_DELETE"] == 1
    assert counts["LIST"] == server.count("LIST") == 1
    assert server.count() == len(server.requests) == counts.total()


def test_others_write_unseen(server: S3Server) -> None:
    server.set_policy(every(lambda request: True, DROP_REQUEST))
    server.put("k/ü", b"1")
    server.put("k/ü", b"2")
    assert server.objects() == {"k/ü": b"2"}
    server.delete("k/ü")
    assert server.objects() == {}
    assert server.requests == []


@pytest.mark.parametrize("encoding", [{}, {"Transfer-Encoding": "chunked"}], ids=["whole", "chunked"])
def test_a_body_with_a_checksum_after_it(server: S3Server, encoding: dict[str, str]) -> None:
    pieces = [b"5\r\nfirst\r\n", b"7\r\n second\r\n", b"0\r\n", b"x-amz-checksum-crc32:rVkRRw==\r\n\r\n"]
    headers = {
        **dict(SIGNED),
        **encoding,
        "Content-Encoding": "aws-chunked",
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": "12",
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    try:
        for key in ("a", "b"):
            body = iter(pieces) if encoding else b"".join(pieces)
            connection.request("PUT", f"/{BUCKET}/{key}", body, headers, encode_chunked=bool(encoding))
            with connection.getresponse() as answer:
                assert (answer.status, answer.read()) == (200, b"")
    finally:
        connection.close()
    assert server.objects() == {"a": b"first second", "b": b"first second"}


def test_conditions(server: S3Server, fs: Any) -> None:
    etag = create(fs, "k", b"1")
    assert outcome(fs, "put_object", Key="k", Body=b"2", IfNoneMatch="*") == 412
    assert outcome(fs, "put_object", Key="k", Body=b"2", IfMatch='"0"') == 412
    assert outcome(fs, "delete_object", Key="k", IfMatch='"0"') == 412
    assert server.objects() == {"k": b"1"}
    assert outcome(fs, "put_object", Key="k", Body=b"2", IfMatch=etag) == 200
    assert outcome(fs, "delete_object", Key="k", IfMatch=etag) == 412
    assert server.objects() == {"k": b"2"}
    etag = fs.info(f"{BUCKET}/k")["ETag"]
    assert outcome(fs, "delete_object", Key="k", IfMatch=etag) == 204
    assert outcome(fs, "delete_object", Key="k", IfMatch=etag) == 404
    assert outcome(fs, "put_object", Key="k", Body=b"2", IfMatch=etag) == 404
    assert server.objects() == {}
    first, *_, last = server.requests
    assert (first.number, first.op, first.if_none_match, first.if_match, first.answered) == (1, "PUT", "*", None, 200)
    assert (last.number, last.op, last.if_none_match, last.if_match, last.answered) == (10, "PUT", None, etag, 404)
    assert [request.is_conditional for request in server.requests] == [True] * 6 + [False] + [True] * 3


def test_obstore(server: S3Server) -> None:
    bucket = store(server)
    etag = obstore.put(bucket, "k", b"1", mode="create")["e_tag"]
    with pytest.raises(AlreadyExistsError):
        obstore.put(bucket, "k", b"2", mode="create")
    obstore.put(bucket, "k", b"2", mode={"e_tag": etag})
    with pytest.raises(PreconditionError):
        obstore.put(bucket, "k", b"3", mode={"e_tag": etag})
    assert bytes(obstore.get(bucket, "k").bytes()) == b"2"
    assert [item["path"] for items in obstore.list(bucket) for item in items] == ["k"]
    obstore.delete(bucket, "k")
    assert [request.op for request in server.requests] == ["PUT"] * 4 + ["GET", "LIST", "BULK_DELETE"]


@pytest.mark.parametrize(
    ("fault", "seen", "performed"),
    [
        (DROP_REQUEST, None, False),
        (DROP_ANSWER, None, True),
        (cut_answer(), None, True),
        (cut_answer(20, in_body=False), None, True),
        (cut_answer(10**6), None, True),
        (INTERNAL_ERROR, 500, False),
        (SLOW_DOWN, 503, False),
        (ACCESS_DENIED, 403, False),
        (CONFLICT, 409, False),
        (error_after(), 500, True),
        (HOLD, None, False),
        (REPEAT, 200, True),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_faults(server: S3Server, fs: Any, fault: Fault, seen: int | None, performed: bool) -> None:
    fs.call_s3("list_objects_v2", Bucket=BUCKET)
    server.set_policy(once(lambda request: request.key == "k", fault))
    assert outcome(fs, "put_object", Key="other", Body=b"") == 200
    assert outcome(fs, "put_object", Key="k", Body=b"1", IfNoneMatch="*") == seen
    assert server.objects("k") == ({"k": b"1"} if performed else {})
    assert [(r.number, r.performed, r.answered) for r in server.fired] == [(2, [200] if performed else [], seen)]
    assert outcome(fs, "put_object", Key="k", Body=b"2") == 200, "later requests have no fault"
    assert server.objects("k") == {"k": b"2"}
    assert server.count() == 3


@pytest.mark.parametrize("fault", [cut_answer(), cut_answer(3), cut_answer(99)])
def test_a_body_is_cut(server: S3Server, fault: Fault) -> None:
    server.put("k", b"whole")
    server.set_policy(once(1, fault))
    with pytest.raises(obstore.exceptions.GenericError):
        bytes(obstore.get(store(server), "k").bytes())
    assert [str(request) for request in server.fired] == ["#1 GET k [200]->None"]


def test_a_cut_body_says_how_long_it_is(server: S3Server) -> None:
    server.set_policy(once(lambda request: request.op == "LIST", cut_answer(7)))
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    try:
        connection.request("GET", f"/{BUCKET}?list-type=2", headers=dict(SIGNED))
        with connection.getresponse() as answer, pytest.raises(http.client.IncompleteRead) as cut:
            answer.read()
    finally:
        connection.close()
    assert len(cut.value.partial) == 7
    assert cut.value.expected is not None
    assert cut.value.expected > 7
    assert len(server.fired) == 1


def test_from_then_on(server: S3Server, fs: Any) -> None:
    server.set_policy(from_then_on(2, INTERNAL_ERROR))
    assert [outcome(fs, "put_object", Key=key, Body=b"") for key in "abc"] == [200, 500, 500]
    server.set_policy(plan({1: SLOW_DOWN, 3: ACCESS_DENIED}))
    assert [outcome(fs, "put_object", Key=key, Body=b"") for key in "abc"] == [503, 200, 403]
    assert [request.number for request in server.fired] == [1, 3]
    assert sorted(server.objects()) == ["a", "b"]


def test_a_request_that_is_held_back_meets_its_condition_late(server: S3Server, fs: Any) -> None:
    server.set_policy(plan({1: HOLD, 2: HOLD, 3: HOLD}))
    for key in "abc":
        assert outcome(fs, "put_object", Key=key, Body=b"late", IfNoneMatch="*") is None
    first, second, third = server.kept
    server.put("b", b"other")
    server.set_policy(None)
    assert outcome(fs, "put_object", Key="d", Body=b"") == 200
    assert server.release(first) == 200
    assert server.release(2) == 412
    with pytest.raises(LookupError):
        server.release(first)
    assert server.kept == [third]
    assert server.objects() == {"a": b"late", "b": b"other", "d": b""}
    assert (first.performed, second.performed, third.performed) == ([200], [412], [])
    server.reset()
    assert server.kept == []


def test_a_request_is_repeated(server: S3Server, fs: Any) -> None:
    server.set_policy(once(1, REPEAT))
    assert outcome(fs, "put_object", Key="k", Body=b"1") == 200
    server.put("k", b"2")
    assert server.release(1) == 200
    assert server.objects() == {"k": b"1"}, "an unconditional request overwrites once more"
    assert server.requests[0].performed == [200, 200]


def test_a_call_blocks_only_its_request(server: S3Server, fs: Any) -> None:
    go = threading.Event()
    seen: list[Request] = []

    def look(request: Request) -> None:
        seen.append(request)
        assert go.wait(60)

    server.set_policy(plan({1: call(look), 2: call(seen.append, SLOW_DOWN)}))
    with ThreadPoolExecutor() as pool:
        try:
            blocked = pool.submit(outcome, fs, "put_object", Key="a", Body=b"")
            server.wait_for(lambda: server.count() == 1)
            assert outcome(fs, "put_object", Key="b", Body=b"") == 503
            assert outcome(fs, "put_object", Key="c", Body=b"") == 200
            assert list(server.objects()) == ["c"]
        finally:
            go.set()
        assert blocked.result() == 200
    assert [request.key for request in seen] == ["a", "b"]
    assert list(server.objects()) == ["a", "c"]


def _contend(options: dict[str, Any], rounds: int) -> list[int | None]:
    fs = file_system(options)
    return [outcome(fs, "put_object", Key=str(n), Body=b"", IfNoneMatch="*") for n in range(rounds)]


def test_processes_contend(server: S3Server) -> None:
    rounds = 20
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap(_contend, [(server.storage_options(), rounds)] * 2)
        pool.close()
        pool.join()
    assert all(sorted(pair) == [200, 412] for pair in zip(*results, strict=True))
    assert len(server.objects()) == rounds
    assert server.count("PUT") == 2 * rounds


def test_one_request_at_a_time(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that writes waits a while for another one between condition and write; none must come."""
    met = threading.Barrier(2)
    write = S3Backend.put_object

    def slow_write(*arguments: Any, **options: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            met.wait(0.5)
            raise AssertionError("two requests met their conditions at the same time")
        return write(*arguments, **options)

    def create_once(body: bytes) -> int:
        try:
            obstore.put(bucket, "k", body, mode="create")
        except AlreadyExistsError:
            return 0
        return 1

    monkeypatch.setattr(S3Backend, "put_object", slow_write)
    bucket = store(server)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(create_once, [b"0", b"1", b"2", b"3"])) == 1
    assert met.broken, "the first has waited"
    assert server.count() == 4


def test_there_is_one_at_a_time(running: S3Server) -> None:
    with pytest.raises(RuntimeError, match="already"):
        S3Server().__enter__()


def _serve_with_a_failure() -> tuple[str, set[str]]:
    """Return what leaving the context raised, and the threads that were left."""
    before = threading.enumerate()
    raised = "nothing"
    try:
        with S3Server() as server:
            server.set_policy(once(1, call(lambda request: 1 // 0)))
            connections = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(3)]
            for connection in connections:
                connection.connect()
            connections[0].request("PUT", f"/{BUCKET}/k", b"")
            with pytest.raises(http.client.RemoteDisconnected):
                connections[0].getresponse()
    except ZeroDivisionError as error:
        raised = type(error).__name__
    left = {thread.name for thread in threading.enumerate() if thread not in before}
    for connection in connections:
        connection.close()
    return raised, left


def test_the_end_raises_what_failed_and_leaves_no_thread() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(_serve_with_a_failure).get(WAIT) == ("ZeroDivisionError", set())
        pool.close()
        pool.join()


async def _azure(fs: AzureBlobFileSystem, method: str, key: str, *arguments: Any, **conditions: Any) -> tuple[int, str]:
    """Return the status of a refusal, 0 if there is none, and the ETag."""
    async with fs.service_client.get_blob_client(CONTAINER, key) as blob:
        try:
            answer = await getattr(blob, method)(*arguments, **conditions)
        except HttpResponseError as error:
            return error.status_code or -1, ""
        return 0, answer["etag"] if answer else ""


@pytest.mark.skipif(azurite_command() is None, reason=NO_AZURITE)
def test_azurite_honours_conditions() -> None:
    new = {"match_condition": MatchConditions.IfMissing, "overwrite": True}
    with Azurite() as server:
        fs = AzureBlobFileSystem(**server.storage_options())

        def do(method: str, *arguments: Any, **conditions: Any) -> tuple[int, str]:
            return sync(fs.loop, _azure, fs, method, "a/k", *arguments, **conditions)

        def same(etag: str) -> dict[str, Any]:
            return {"etag": etag, "match_condition": MatchConditions.IfNotModified}

        refused, first = do("upload_blob", b"1", **new)
        assert not refused
        assert do("upload_blob", b"2", **new) == (409, "")
        refused, second = do("upload_blob", b"1", overwrite=True, **same(first))
        assert not refused
        assert second != first, "each write has an ETag of its own"
        assert do("upload_blob", b"3", overwrite=True, **same(first)) == (412, "")
        assert do("delete_blob", **same(first)) == (412, "")
        assert server.objects() == {"a/k": b"1"}
        assert do("delete_blob", **same(second)) == (0, "")
        assert do("delete_blob", **same(second)) == (412, "")
        server.put("b", b"2")
        server.put("b", b"3")
        assert server.objects() == {"b": b"3"}
        server.reset()
        assert server.objects() == {}

        options = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}
        bucket = AzureStore(CONTAINER, account_name=ACCOUNT, account_key=KEY, endpoint=server.url, **options)
        etag = obstore.put(bucket, "o", b"1", mode="create")["e_tag"]
        obstore.put(bucket, "o", b"2", mode={"e_tag": etag})
        with pytest.raises(PreconditionError):
            obstore.put(bucket, "o", b"3", mode={"e_tag": etag})
        with pytest.raises(AlreadyExistsError):
            obstore.put(bucket, "o", b"3", mode="create")
        assert server.objects() == {"o": b"2"}
