"""A web server of files on a free port of 127.0.0.1, which can leave out what not every server has."""

from __future__ import annotations

import base64
import http.server
import re
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Self


class WebServer:
    """Serves the files of a folder, but no listing of it; a context manager.

    Attributes
    ----------
    ranges, lengths
        Whether it sends parts of files, and tells how long files are.
    password
        Of the user ``user``, if one is asked for.
    requests
        How many requests there were, by method and path.
    """

    def __init__(self, folder: Path) -> None:
        self.ranges = self.lengths = True
        self.password: str | None = None
        self.requests: Counter[str] = Counter()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self, folder))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="web server")

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, web: WebServer, folder: Path, *args: Any) -> None:
        self.web = web
        self.folder = folder
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.web.requests[f"{self.command} {path}"] += 1
        file = self.folder / path.lstrip("/")
        expected = self.web.password and base64.b64encode(f"user:{self.web.password}".encode()).decode()
        if expected and self.headers.get("Authorization") != f"Basic {expected}":
            self._answer(401, b"who are you?", {"WWW-Authenticate": "Basic"})
        elif not file.is_file():
            self._answer(404, b"not here", {})
        else:
            data = file.read_bytes()
            part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if part and self.web.ranges:
                first, last = int(part[1] or len(data) - int(part[2])), int((part[1] and part[2]) or len(data) - 1)
                where = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
                self._answer(206, data[first : last + 1], where)
            else:
                self._answer(200, data, {"Accept-Ranges": "bytes" if self.web.ranges else "none"})

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.web.lengths:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass
