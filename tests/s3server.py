"""A real S3 server over loopback whose requests can be counted, lost, repeated, held back and refused."""

from __future__ import annotations

import http.client
import io
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import S3Backend, s3_backends
from werkzeug.test import run_wsgi_app

BUCKET = "bucket"
REGION = "us-east-1"
WAIT = 60.0
"""Seconds after which something that should have happened long ago counts as never happening."""


@dataclass
class Request:
    """A plain request of the bucket.

    `op` is one of GET, HEAD, PUT, DELETE, COPY, LIST, BULK_DELETE, CREATE_UPLOAD, PUT_PART, COMPLETE_UPLOAD,
    ABORT_UPLOAD; `key` is the prefix of a LIST. `performed` has the status with which each performance of the request
    ended (none: the bucket never saw it), `answered` the status that the client was sent (``None``: no answer, or one
    that was cut off).
    """

    number: int
    op: str
    method: str
    key: str
    if_match: str | None = None
    if_none_match: str | None = None
    size: int = 0
    fault: Fault | None = None
    performed: list[int] = field(default_factory=list)
    answered: int | None = None

    @property
    def is_conditional(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None

    def __str__(self) -> str:
        conditions = [f"If-Match {self.if_match}"] if self.if_match else []
        conditions += [f"If-None-Match {self.if_none_match}"] if self.if_none_match else []
        return " ".join([f"#{self.number}", self.op, self.key, *conditions, f"{self.performed}->{self.answered}"])


@dataclass(frozen=True)
class Fault:
    """What is done to a request. Use the constants and functions below."""

    name: str
    performs: bool = False
    answers: bool = False
    keeps: bool = False
    status: int = 0
    code: str = ""
    cut: int | None = None
    in_body: bool = True
    look: Callable[[Request], object] | None = None


NOTHING = Fault("nothing", performs=True, answers=True)
DROP_REQUEST = Fault("request lost")
"""The connection is closed; the bucket never sees the request."""
DROP_ANSWER = Fault("answer lost", performs=True)
"""The request is performed; the connection is closed without an answer."""
HOLD = Fault("held back", keeps=True)
"""The connection is closed without an answer; the request is performed by `S3Server.release`, or never."""
REPEAT = Fault("repeated", performs=True, answers=True, keeps=True)
"""The request is performed and answered, and performed once more by `S3Server.release`, or never."""


def cut_answer(after: int = 0, in_body: bool = True) -> Fault:
    """Perform the request; close the connection after `after` bytes of the answer's body, or of the whole answer.

    At least one byte is lacking always. An answer without a body is cut in its head.
    """
    return Fault("answer cut", performs=True, answers=True, cut=after, in_body=in_body)


def error(status: int, code: str) -> Fault:
    """Answer with an error instead of performing the request."""
    return Fault(f"refused with {status} {code}", answers=True, status=status, code=code)


def error_after(status: int = 500, code: str = "InternalError") -> Fault:
    """Perform the request; answer with an error nevertheless."""
    return Fault(f"performed, but {status} {code}", performs=True, answers=True, status=status, code=code)


def call(look: Callable[[Request], object], then: Fault = NOTHING) -> Fault:
    """Call a function in the server's thread before the request has its fault; other requests go on meanwhile."""
    return replace(then, name=f"called, {then.name}", look=look)


INTERNAL_ERROR = error(500, "InternalError")
SLOW_DOWN = error(503, "SlowDown")
ACCESS_DENIED = error(403, "AccessDenied")
CONFLICT = error(409, "ConditionalRequestConflict")

Policy = Callable[[Request], Fault | None]
"""Says what is done to a request; ``None``: nothing. It is called for one request at a time, in order of numbers."""

Which = int | Callable[[Request], bool]
"""The number of a request, or a predicate."""


def _is_hit(which: Which, request: Request) -> bool:
    return request.number == which if isinstance(which, int) else which(request)


def once(which: Which, fault: Fault) -> Policy:
    """Return a policy for one request: that with a number, or the first that fits."""
    done = False

    def policy(request: Request) -> Fault | None:
        nonlocal done
        if done or not _is_hit(which, request):
            return None
        done = True
        return fault

    return policy


def from_then_on(which: Which, fault: Fault) -> Policy:
    """Return a policy for one request, as `once`, and all after it."""
    begun = False

    def policy(request: Request) -> Fault | None:
        nonlocal begun
        begun = begun or _is_hit(which, request)
        return fault if begun else None

    return policy


def every(which: Callable[[Request], bool], fault: Fault) -> Policy:
    """Return a policy for all requests that fit."""
    return lambda request: fault if which(request) else None


def plan(faults: Mapping[int, Fault]) -> Policy:
    """Return a policy that has a fault for each of some numbers."""
    return lambda request: faults.get(request.number)


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def bytes(self) -> bytes:
        reason = http.client.responses.get(self.status, "")
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


SIGNED = [("Authorization", f"AWS4-HMAC-SHA256 Credential=key/20260101/{REGION}/s3/aws4_request, Signature=0")]
"""Whoever signs is the owner of the bucket, however wrong the signature; others must not overwrite or read."""


@dataclass(frozen=True)
class _Raw:
    """A request as it came, so that it can be performed again."""

    method: str
    uri: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for header, value in self.headers if header.lower() == name), None)

    def environ(self, port: int) -> dict[str, Any]:
        path, _, query = self.uri.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": self.uri,
            "REQUEST_URI": self.uri,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": f"127.0.0.1:{port}",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(self.body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.headers:
            variable = name.upper().replace("-", "_")
            if variable not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                variable = f"HTTP_{variable}"
            environ[variable] = f"{environ[variable]},{value}" if name.lower() in environ else value
        # The body is whole here, however it was sent.
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ["CONTENT_LENGTH"] = str(len(self.body))
        return environ


def _op(method: str, key: str, names: set[str], is_copy: bool) -> str | None:
    """Return what a request of the bucket is, ``None`` if it is about the bucket itself."""
    if not key:
        if method == "POST" and "delete" in names:
            return "BULK_DELETE"
        subresources = {"location", "versioning", "policy", "acl", "tagging", "lifecycle", "cors", "uploads"}
        return "LIST" if method == "GET" and not names & subresources else None
    if method == "POST":
        return "CREATE_UPLOAD" if "uploads" in names else "COMPLETE_UPLOAD"
    if "uploadId" in names:
        return {"PUT": "PUT_PART", "DELETE": "ABORT_UPLOAD"}.get(method, method)
    return "COPY" if method == "PUT" and is_copy else method


class S3Server:
    """A server of S3 on a free port of 127.0.0.1, with one empty bucket; a context manager.

    It serves in threads of this process; clients of other processes reach it by its `url`. What is behind it is moto,
    one request at a time, so that a conditional request is atomic. There can be one at a time in a process, as moto
    has one set of buckets. Leaving the context raises what failed in a thread, such as a `call` or moto itself.

    What differs from S3: moto disregards If-Match of CompleteMultipartUpload (If-None-Match it honours); it does not
    know ``If-Match: *`` and refuses it always; a PUT or DELETE with If-Match whose key is missing ends with 404
    NoSuchKey; signatures are not checked; concurrent conditional requests never end with 409
    ConditionalRequestConflict, except by `CONFLICT`.
    """

    _one = threading.Lock()

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """The requests since the policy was set, in order of their numbers, which begin at 1."""
        self._policy: Policy | None = None
        self._kept: list[tuple[Request, _Raw]] = []
        self._failures: list[BaseException] = []
        self._changed = threading.Condition()
        """Guards the records; it is notified when one of them changes."""
        self._mutex = threading.Lock()
        """Held while moto performs a request."""
        self._server: _Front | None = None

    # -- life

    def __enter__(self) -> Self:
        if not S3Server._one.acquire(blocking=False):
            raise RuntimeError("there is an S3 server in this process already")
        try:
            self._app = create_backend_app("s3")
            self._server = _Front(self._answer_and_tell, self._fail)
        except BaseException:
            S3Server._one.release()
            raise
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="S3 server")
        self._thread.start()
        self.reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._failures and error is None:
            raise self._failures[0]

    def close(self) -> None:
        """End all connections and threads; drop what is in the bucket."""
        if self._server is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()
        self._server = None
        self._backend.reset()
        S3Server._one.release()

    @property
    def port(self) -> int:
        assert self._server is not None, "the server is closed"
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def storage_options(self) -> dict[str, Any]:
        """Return the arguments of a file system of s3fs."""
        return {
            "key": "key",
            "secret": "secret",
            "client_kwargs": {"endpoint_url": self.url, "region_name": REGION},
            "use_listings_cache": False,
            "skip_instance_cache": True,
        }

    # -- the bucket, unseen by faults

    @property
    def _backend(self) -> S3Backend:
        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    def reset(self) -> None:
        """Empty the bucket; forget the policy, the requests and those kept back."""
        with self._changed:
            self._kept.clear()
        self.set_policy(None)
        with self._mutex:
            self._backend.reset()
            self._backend.create_bucket(BUCKET, REGION)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Return all keys that begin with `prefix`, and their bytes."""
        with self._mutex:
            keys = self._backend.get_bucket(BUCKET).keys
            return {name: keys[name].value for name in sorted(keys) if name.startswith(prefix)}

    def put(self, key: str, data: bytes) -> None:
        """Write as somebody else."""
        assert self._perform(_Raw("PUT", self._path(key), SIGNED, data)).status == 200

    def delete(self, key: str) -> None:
        """Delete as somebody else."""
        assert self._perform(_Raw("DELETE", self._path(key), SIGNED, b"")).status == 204

    def _path(self, key: str) -> str:
        return f"/{BUCKET}/{quote(key)}"

    # -- faults and records

    def set_policy(self, policy: Policy | None) -> None:
        """Treat requests by `policy` from now on; numbers begin anew. Requests that are kept back remain so."""
        with self._changed:
            self._policy = policy
            self.requests = []

    @property
    def fired(self) -> list[Request]:
        """The requests that had a fault."""
        with self._changed:
            return [request for request in self.requests if request.fault]

    @property
    def kept(self) -> list[Request]:
        """The requests that can be released."""
        with self._changed:
            return [request for request, _ in self._kept]

    def count(self, *ops: str) -> int:
        """Return how many requests of these kinds there were; of any kind, if none is named."""
        with self._changed:
            return sum(not ops or request.op in ops for request in self.requests)

    def counts(self) -> Counter[str]:
        with self._changed:
            return Counter(request.op for request in self.requests)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until `condition`, which is looked at when a request comes and when it is done with, holds."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(condition()), WAIT), "what was waited for did not happen"

    def release(self, which: Request | int) -> int:
        """Perform a request that was kept back, the latest of this number; return the status with which that ended.

        It is performed with its very headers, so that its conditions are checked now. It can be released once.
        """
        with self._changed:
            for index in reversed(range(len(self._kept))):
                request, raw = self._kept[index]
                if request is which or request.number == which:
                    del self._kept[index]
                    break
            else:
                raise LookupError(f"{which} is not kept back")
        status = self._perform(raw, request).status
        self._change()
        return status

    # -- what threads do

    def _change(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fail(self, failure: BaseException) -> None:
        with self._changed:
            self._failures.append(failure)

    def _perform(self, raw: _Raw, request: Request | None = None) -> _Answer:
        with self._mutex:
            chunks, line, fields = run_wsgi_app(self._app, raw.environ(self.port), buffered=True)
            body = b"".join(chunks)
            status, headers = int(line.split()[0]), list(fields)
            if request is not None:
                request.performed.append(status)
        if status not in (204, 304) and "content-length" not in {name.lower() for name, _ in headers}:
            headers.append(("Content-Length", str(len(body))))
        return _Answer(status, headers, b"" if raw.method == "HEAD" else body)

    def _record(self, raw: _Raw) -> Request | None:
        """Number a request and choose its fault, if it is one that counts."""
        parts = urlsplit(raw.uri)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        op = _op(raw.method, key, set(query), raw.header("x-amz-copy-source") is not None)
        if bucket != BUCKET or op is None:
            return None
        with self._changed:
            request = Request(
                len(self.requests) + 1,
                op,
                raw.method,
                query.get("prefix", "") if op == "LIST" else key,
                raw.header("if-match"),
                raw.header("if-none-match"),
                len(raw.body),
            )
            self.requests.append(request)
            request.fault = self._policy(request) if self._policy else None
            self._changed.notify_all()
            return request

    def _answer_and_tell(self, raw: _Raw) -> tuple[bytes, bool]:
        try:
            return self._answer(raw)
        finally:
            self._change()

    def _answer(self, raw: _Raw) -> tuple[bytes, bool]:
        """Do what is to be done; return the bytes to send, and whether the connection remains open after them."""
        request = self._record(raw)
        fault = (request and request.fault) or NOTHING
        if fault.look and request:
            fault.look(request)
        answer = self._perform(raw, request) if fault.performs else None
        if fault.keeps and request:
            with self._changed:
                self._kept.append((request, raw))
        if not fault.answers:
            return b"", False
        if fault.status:
            answer = _error(raw.method, fault.status, fault.code)
        assert answer is not None
        if fault.cut is not None:
            return _cut(answer, fault.cut, fault.in_body), False
        if request:
            request.answered = answer.status
        return answer.bytes(), True


def _error(method: str, status: int, code: str) -> _Answer:
    body = f"<Error><Code>{code}</Code><Message>{code} was asked for</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    return _Answer(status, headers, b"" if method == "HEAD" else body)


def _cut(answer: _Answer, after: int, in_body: bool) -> bytes:
    data = answer.bytes()
    if not answer.body:
        # The empty line at the end of the head has to be incomplete.
        return data[: min(after, len(data) - 3)]
    head = len(data) - len(answer.body)
    return data[: min(after + (head if in_body else 0), len(data) - 1)]


class _Front(ThreadingHTTPServer):
    """Accepts connections, each with a thread, and can end them all."""

    daemon_threads = False
    request_queue_size = 256

    def __init__(self, answer: Callable[[_Raw], tuple[bytes, bool]], fail: Callable[[BaseException], None]) -> None:
        self.answer = answer
        self.fail = fail
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        # A forked child may have this socket too, so that closing it here would not end the connection.
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)
        self.close_request(request)

    def hang_up(self) -> None:
        with self._guard:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        failure = sys.exception()
        # Clients are killed, and come in the midst of an answer to the end of their patience.
        if failure is not None and not isinstance(failure, ConnectionError):
            self.fail(failure)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Front

    def do_GET(self) -> None:
        body = self._body()
        if body is None:
            self.close_connection = True
            return
        data, remains = self.server.answer(_Raw(self.command, self.path, list(self.headers.items()), body))
        self.connection.sendall(data)
        self.close_connection = self.close_connection or not remains

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _body(self) -> bytes | None:
        """Read the body; return ``None`` if the client went before its end."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            return body if len(body) == length else None
        chunks: list[bytes] = []
        while True:
            line = self.rfile.readline()
            if not line:
                return None
            length = int(line.partition(b";")[0], 16)
            chunk = self.rfile.read(length)
            # After the last chunk there may be trailers, then an empty line.
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                pass
            if len(chunk) < length or not line:
                return None
            if not length:
                return b"".join(chunks)
            chunks.append(chunk)

    def log_message(self, format: str, *args: object) -> None:
        pass
