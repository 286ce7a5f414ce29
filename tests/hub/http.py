"""HTTP of the stand-in Hub: requests, answers with ranges, a log of what was asked, and faults on demand."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.hub.repositories import HubError

BLOCK = 2**18


@dataclass(frozen=True)
class Seen:
    """
    One request, as the log keeps it.

    Args:
        origin (`str`): `hub`, or `storage` for the other origin that holds large files.
        status (`int`): What was answered; 0 where the connection was dropped.
        body_bytes (`int`): Read of the request's body.
        token (`str | None`): That came along.
        sent (`int`): Bytes of the answer's content.
    """

    origin: str
    method: str
    path: str
    status: int
    body_bytes: int
    token: str | None
    sent: int

    def __str__(self) -> str:
        return f"{self.method} {self.path} -> {self.status} ({self.body_bytes} bytes sent)"


@dataclass
class Fault:
    """What happens to requests that `method` and `path` (a regular expression, searched) fit, after `skip` of them."""

    method: str
    path: str
    status: int | None
    skip: int
    times: int
    headers: dict = field(default_factory=dict)
    action: Callable[[], object] | None = None


@dataclass
class Incoming:
    """A request: `path` still percent-encoded, `query` with lists of values, `body` to be read."""

    origin: str
    method: str
    path: str
    query: dict[str, list[str]]
    headers: http.client.HTTPMessage
    body: Body

    @property
    def token(self) -> str | None:
        sort, _, token = self.headers.get("Authorization", "").partition(" ")
        return token.strip() if sort.lower() == "bearer" else None

    def json(self) -> dict:
        try:
            return json.loads(self.body.read() or b"{}")
        except json.JSONDecodeError as error:
            raise HubError(400, "The body is not JSON") from error


@dataclass
class Answer:
    """`content`: bytes, a file that is sent without being read whole, or anything that becomes JSON."""

    content: object = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Cut:
    """What of an answer is sent: all of it, or for a `Range` the wanted bytes (206) or none (416)."""

    def __init__(self, answer: Answer, method: str, wanted: str):
        self.content, self.status, self.headers = answer.content, answer.status, dict(answer.headers)
        if not isinstance(self.content, bytes | Path):
            self.content = json.dumps(self.content).encode()
            self.headers.setdefault("Content-Type", "application/json; charset=utf-8")
        whole = self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)
        self.first, self.size = 0, whole
        if self.status == 200 and method in ("GET", "HEAD"):
            self.headers["Accept-Ranges"] = "bytes"
            if found := re.fullmatch(r"bytes=(?:(\d+)-(\d*)|-(\d+))", wanted):
                start, stop, tail = found.groups()
                self.first = max(0, whole - int(tail)) if tail else int(start)
                self.size = min(int(stop) + 1 if stop else whole, whole) - self.first
                self.status = 206 if self.size > 0 else 416
                output = f"{self.first}-{self.first + self.size - 1}" if self.size > 0 else "*"
                self.headers["Content-Range"] = f"bytes {output}/{whole}"
                self.size = max(0, self.size)
        self.headers["Content-Length"] = str(self.size)


class Body:
    """A request's body, of a known length or in chunks; `drain` reads what nobody wanted, or keep-alive breaks."""

    def __init__(self, file, headers):
        self.file, self.count, self.last = file, 0, False
        self.chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        self.left = 0 if self.chunked else int(headers.get("Content-Length") or 0)

    def block(self, size: int = BLOCK) -> bytes:
        """Up to `size` bytes; none at the end."""
        if self.left == 0 and self.chunked and not self.last:
            self.left = int(self.file.readline().split(b";")[0] or b"0", 16)
            self.last = self.left == 0
            if self.last:
                self.file.readline()
        data = self.file.read(min(size, self.left)) if self.left else b""
        if len(data) < min(size, self.left):
            raise ConnectionError("the client left in the middle of its body")
        self.left -= len(data)
        self.count += len(data)
        if self.chunked and self.left == 0 and not self.last:
            self.file.readline()  # the line end after a chunk
        return data

    def read(self) -> bytes:
        return b"".join(iter(self.block, b""))

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            for data in iter(self.block, b""):
                file.write(data)

    def drain(self) -> None:
        while self.block():
            pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16

    def log_message(self, *arguments) -> None:
        """The log of the Hub tells it."""

    def respond(self) -> None:
        parts = urlsplit(self.path)
        body = Body(self.rfile, self.headers)
        query = parse_qs(parts.query, keep_blank_values=True)
        incoming = Incoming(self.server.origin, self.command, parts.path, query, self.headers, body)
        try:
            answer = self.answer(incoming)
            if answer is not None:
                body.drain()
        except ConnectionError:
            answer = None
        # Noted before the client can know the answer, so that whoever has the answer finds the request in the log.
        cut = None if answer is None else Cut(answer, self.command, self.headers.get("Range", ""))
        status, sent = (cut.status, cut.size) if cut else (0, 0)
        token = incoming.token
        self.server.hub.note(Seen(incoming.origin, self.command, self.path, status, body.count, token, sent))
        if cut is None:
            self.drop()
        else:
            self.send(cut)

    def answer(self, incoming: Incoming) -> Answer | None:
        """None where the connection has to break."""
        try:
            fault = self.server.hub.fault_for(incoming)
            if fault is not None and fault.action is not None:
                fault.action()
            elif fault is not None and fault.status is None:
                incoming.body.block(max(1, incoming.body.left // 2))
                return None
            elif fault is not None:
                raise HubError(fault.status, "a fault on demand", headers=fault.headers)
            return self.server.app(incoming)
        except HubError as error:
            headers = {"X-Error-Message": error.message, **error.headers}
            if error.code:
                headers["X-Error-Code"] = error.code
            return Answer(error.body, error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

    def drop(self) -> None:
        """Resets the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.forget(self.connection)
        self.connection.close()
        self.close_connection = True

    def send(self, cut: Cut) -> None:
        self.send_response(cut.status)
        for name, value in cut.headers.items():
            self.send_header(name, value.encode("ascii", "replace").decode().replace("\n", " "))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(cut.content, bytes):
            self.wfile.write(cut.content[cut.first : cut.first + cut.size])
            return
        with cut.content.open("rb") as file:
            file.seek(cut.first)
            left = cut.size
            while left:
                data = file.read(min(BLOCK, left))
                self.wfile.write(data)
                left -= len(data)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # clients go away while the server waits for their next request
            super().handle()


class Listener(http.server.ThreadingHTTPServer):
    """
    One origin.

    Args:
        hub: Knows the faults, keeps the log.
        app (`Callable[[Incoming], Answer]`): Answers.
        origin (`str`): Its name in the log.
        port (`int`): 0 takes a free one.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub, app: Callable[[Incoming], Answer], origin: str, port: int = 0):
        self.hub, self.app, self.origin = hub, app, origin
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request, client_address) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def forget(self, request) -> None:
        self.connections.discard(request)

    def shutdown_request(self, request) -> None:
        self.forget(request)
        if request.fileno() != -1:
            super().shutdown_request(request)

    def stop(self) -> None:
        """Stops, and ends connections that clients keep alive."""
        self.shutdown()
        self.server_close()
        self.thread.join()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):  # the client was first
                connection.shutdown(socket.SHUT_RDWR)
