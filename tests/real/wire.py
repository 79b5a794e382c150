"""HTTP/1.1 as a proxy sees it: heads are read, bodies pass through and are never held.

Everything here runs in one event loop in a thread of its own, so that checks stay plain functions.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from processes import free_port

PIECE_BYTES = 256 * 1024
MAX_HEAD_BYTES = BUFFER_BYTES = 1024 * 1024
BACKLOG = 512

Address = tuple[str, int]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Loop:
    """The event loop, started when it is first needed."""

    def __init__(self):
        self._lock, self._loop = threading.Lock(), None

    def run(self, work: Awaitable):
        """Runs it in the loop and returns what it returns."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="wire", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_loop = _Loop()


class Listener:
    """Serves connections on a free port of the loopback address. It can be closed and opened again: the port stays the same."""

    def __init__(self, serve: Serve, tls: ssl.SSLContext | None = None):
        self._serve, self._tls = serve, tls
        self.port = free_port()
        self.authority = f"127.0.0.1:{self.port}"
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task] = set()
        self.open()

    def open(self) -> None:
        """From now on connections are accepted."""
        if self._server is None:
            _loop.run(self._open())

    def close(self) -> None:
        """Connections are cut, and new ones are refused."""
        if self._server is not None:
            _loop.run(self._close())

    async def _open(self) -> None:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=MAX_HEAD_BYTES, ssl=self._tls, backlog=BACKLOG, reuse_address=True
        )

    async def _close(self) -> None:
        self._server.close()
        self._server = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections.add(task)
        try:
            # Whoever is gone, is gone: a proxy has nobody to tell.
            with contextlib.suppress(OSError, EOFError, Malformed, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            abort(writer)


class Malformed(Exception):
    """What came is not HTTP/1.1."""


@dataclass
class Head:
    start: str
    """The request line or the status line."""
    fields: list[tuple[str, str]]

    def get(self, name: str, default: str = "") -> str:
        return next((value for field, value in self.fields if field.lower() == name.lower()), default)

    def without(self, *names: str) -> "Head":
        return Head(self.start, [(field, value) for field, value in self.fields if field.lower() not in names])

    def encode(self) -> bytes:
        return "\r\n".join([self.start, *(f"{field}: {value}" for field, value in self.fields), "", ""]).encode("latin-1")

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start.split()[1])

    @property
    def closes(self) -> bool:
        return "close" in self.get("connection").lower()


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None if the peer has closed the connection before it."""
    first = await reader.read(1)
    if first and not first.isalpha():
        # A client that tries TLS first waits for its end otherwise.
        raise Malformed(f"not HTTP: {first!r}")
    try:
        text = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as end:
        if first:
            raise Malformed(f"cut in a head: {end.partial!r}") from end
        return None
    except asyncio.LimitOverrunError as end:
        raise Malformed("a very long head") from end
    start, *lines = text.decode("latin-1").rstrip("\r\n").split("\r\n")
    return Head(start, [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])


async def copy_body(head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, until_closed: bool = False) -> None:
    """Passes on the body that follows a head, chunks as they are. `until_closed`: without a length, it ends with the connection."""
    if "chunked" in head.get("transfer-encoding").lower():
        await _copy_chunks(reader, writer)
    elif head.get("content-length"):
        await _copy_bytes(int(head.get("content-length")), reader, writer)
    elif until_closed:
        while piece := await reader.read(PIECE_BYTES):
            await _send(piece, writer)


async def _copy_bytes(count: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while count > 0:
        piece = await reader.read(min(count, PIECE_BYTES))
        if not piece:
            raise EOFError("cut in a body")
        count -= len(piece)
        await _send(piece, writer)


async def _copy_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        line = await _read_line(reader)
        await _send(line, writer)
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            break
        await _copy_bytes(size + len(b"\r\n"), reader, writer)
    while (trailer := await _read_line(reader)) != b"\r\n":
        await _send(trailer, writer)
    await _send(b"\r\n", writer)


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError("cut in a chunked body")
    return line


async def _send(piece: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(piece)
    await writer.drain()


def has_body(method: str, answer: Head) -> bool:
    """Whether a body follows the head of an answer (RFC 9112, section 6.3)."""
    return method != "HEAD" and answer.status >= 200 and answer.status not in (204, 304)


async def pass_on(request: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: tuple) -> tuple[int, bool]:
    """Sends a request and its body to `upstream`, a connection that serves this request only, and its answer back.

    Returns the answer's status and whether the client's connection can be used again. If upstream ends without an answer, 502.
    """
    from_upstream, to_upstream = upstream
    method = request.start.split()[0]
    onward = request.without("connection")
    onward.fields.append(("Connection", "close"))
    to_upstream.write(onward.encode())
    sending = asyncio.create_task(copy_body(request, reader, to_upstream))
    try:
        answer = await _final_answer(from_upstream, writer)
        if answer is None:
            await respond(writer, 502, b"upstream closed the connection without an answer")
            return 502, False
        framed = answer.get("content-length") or answer.get("transfer-encoding") or not has_body(method, answer)
        again = bool(framed) and not request.closes and sending.done() and sending.exception() is None
        back = answer.without("connection")
        back.fields += [] if again else [("Connection", "close")]
        writer.write(back.encode())
        if has_body(method, answer):
            await copy_body(answer, from_upstream, writer, until_closed=True)
        await writer.drain()
        return answer.status, again
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        abort(to_upstream)


async def _final_answer(from_upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Head | None:
    """The head of the answer. Interim ones, such as 100 Continue, are passed on."""
    while True:
        try:
            answer = await read_head(from_upstream)
        except OSError:
            return None
        if answer is None or answer.status >= 200:
            return answer
        await _send(answer.encode(), writer)


async def respond(writer: asyncio.StreamWriter, status: int, body: bytes = b"", **fields: str) -> None:
    """Sends an answer of one's own, with a body of plain text."""
    head = Head(f"HTTP/1.1 {status} Tests", [("Content-Length", str(len(body))), *((k.replace("_", "-"), v) for k, v in fields.items())])
    await _send(head.encode() + body, writer)


def abort(writer: asyncio.StreamWriter) -> None:
    """Closes a connection: what is written goes out, and nobody waits for it."""
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()
