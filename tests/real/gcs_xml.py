"""The writing half of Google Cloud Storage's XML API, in front of fake-gcs-server.

The object_store crate writes through the XML API. fake-gcs-server answers its reads, lists and deletes, but a PUT with 400 "invalid
uploadType", and it has no multipart uploads (its issue 852). Here these requests become those of the JSON API, which it does have, with
`ifGenerationMatch`: what is stored, and who wins a race, remains fake-gcs-server's. All other requests pass through as they are.

Parts lie under PARTS in the same bucket until they are composed.
"""

import asyncio
import json
import re
import secrets
from urllib.parse import parse_qs, quote, unquote, urlsplit

from wire import BUFFER_BYTES, Address, Head, Listener, abort, copy_body, pass_on, read_head, respond

PARTS = "xml-parts/"
_BOUNDARY = "part-of-an-upload"
_XML = "application/xml"


class XmlFront:
    def __init__(self, server: Address):
        self._server = server
        self._listener = Listener(self._serve)

    @property
    def address(self) -> Address:
        return "127.0.0.1", self._listener.port

    def stop(self) -> None:
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        again = True
        while again and (request := await read_head(reader)):
            again = await _Request(self._server, request, reader, writer).answer()


class _Request:
    """One request of a client, and the connection that it came on."""

    def __init__(self, server: Address, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._server, self._head, self._reader, self._writer = server, head, reader, writer
        self.method, target, _ = head.start.split(" ")
        url = urlsplit(target)
        self.query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.bucket, _, key = url.path.lstrip("/").partition("/")
        self.key = unquote(key)

    async def answer(self) -> bool:
        """Answers, and tells whether the connection can be used again."""
        upload = self.query.get("uploadId")
        match self.method:
            case "POST" if "uploads" in self.query:
                await self._begin_upload()
            case "PUT" if upload:
                await self._put(_part_key(upload, int(self.query["partNumber"])), generation="")
            case "PUT" if "x-goog-copy-source" not in (name.lower() for name, _ in self._head.fields):
                await self._put(self.key, self._head.get("x-goog-if-generation-match"))
            case "POST" if upload:
                await self._complete_upload(upload)
            case "DELETE" if upload:
                await self._discard_parts(upload)
                await respond(self._writer, 204)
            case _:
                upstream = await asyncio.open_connection(*self._server, limit=BUFFER_BYTES)
                _, again = await pass_on(self._head, self._reader, self._writer, upstream)
                return again
        return True

    async def _begin_upload(self) -> None:
        upload = secrets.token_hex(16)
        names = f"<Bucket>{self.bucket}</Bucket><Key>{self.key}</Key><UploadId>{upload}</UploadId>"
        await self._respond_xml(f"<InitiateMultipartUploadResult>{names}</InitiateMultipartUploadResult>")

    async def _put(self, key: str, generation: str) -> None:
        """Stores the request's body under a key; with a generation, only if that is the object's (0: there is none)."""
        before = (
            f"--{_BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'name': key})}\r\n"
            f"--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        after = f"\r\n--{_BOUNDARY}--\r\n".encode()
        size = int(self._head.get("content-length"))
        condition = f"&ifGenerationMatch={generation}" if generation else ""
        ask = _Ask(self._server, "POST", f"/upload/storage/v1/b/{self.bucket}/o?uploadType=multipart{condition}")
        async with ask as (from_server, to_server):
            await ask.send_head(len(before) + size + len(after), f"multipart/related; boundary={_BOUNDARY}")
            to_server.write(before)
            await copy_body(self._head, self._reader, to_server)
            to_server.write(after)
            status, stored = await ask.answer(from_server)
        await self._respond_stored(status, stored)

    async def _complete_upload(self, upload: str) -> None:
        listed = await self._reader.readexactly(int(self._head.get("content-length")))
        numbers = sorted(int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", listed))
        sources = [{"name": _part_key(upload, number)} for number in numbers]
        place = f"/storage/v1/b/{self.bucket}/o/{quote(self.key, safe='')}/compose"
        status, stored = await self._ask_json("POST", place, {"sourceObjects": sources, "destination": {}})
        if status == 200:
            await self._discard_parts(upload)
        await self._respond_stored(status, stored, xml=f"<Bucket>{self.bucket}</Bucket><Key>{self.key}</Key>")

    async def _discard_parts(self, upload: str) -> None:
        _, listed = await self._ask_json("GET", f"/storage/v1/b/{self.bucket}/o?prefix={quote(_part_key(upload), safe='')}")
        for part in listed.get("items", []):
            await self._ask_json("DELETE", f"/storage/v1/b/{self.bucket}/o/{quote(part['name'], safe='')}")

    async def _ask_json(self, method: str, place: str, content: dict | None = None) -> tuple[int, dict]:
        body = json.dumps(content).encode() if content else b""
        ask = _Ask(self._server, method, place)
        async with ask as (from_server, to_server):
            await ask.send_head(len(body), "application/json")
            to_server.write(body)
            return await ask.answer(from_server)

    async def _respond_stored(self, status: int, stored: dict, xml: str = "") -> None:
        if status != 200:
            return await self._respond_xml(f"<Error><Code>{status}</Code><Message>{stored.get('error')}</Message></Error>", status)
        etag = f'"{stored["etag"]}"'
        content = f"<CompleteMultipartUploadResult>{xml}<ETag>{etag}</ETag></CompleteMultipartUploadResult>" if xml else ""
        await self._respond_xml(content, ETag=etag, x_goog_generation=stored["generation"])

    async def _respond_xml(self, content: str, status: int = 200, **fields: str) -> None:
        await respond(self._writer, status, content.encode(), Content_Type=_XML, **fields)


class _Ask:
    """A request to the JSON API, on a connection of its own."""

    def __init__(self, server: Address, method: str, target: str):
        self._server, self._start = server, f"{method} {target} HTTP/1.1"

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._streams = await asyncio.open_connection(*self._server, limit=BUFFER_BYTES)
        return self._streams

    async def __aexit__(self, *_) -> None:
        abort(self._streams[1])

    async def send_head(self, size_bytes: int, media_type: str) -> None:
        host, port = self._server
        fields = [("Host", f"{host}:{port}"), ("Content-Type", media_type), ("Content-Length", str(size_bytes)), ("Connection", "close")]
        self._streams[1].write(Head(self._start, fields).encode())
        await self._streams[1].drain()

    async def answer(self, from_server: asyncio.StreamReader) -> tuple[int, dict]:
        head = await read_head(from_server)
        if head is None:
            raise EOFError("fake-gcs-server closed the connection without an answer")
        if "chunked" in head.get("transfer-encoding"):
            body = await _read_chunks(from_server)
        else:
            body = await from_server.readexactly(int(head.get("content-length", "0")))
        return head.status, json.loads(body or b"{}") or {}


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    return b"".join(pieces)


def _part_key(upload: str, number: int | None = None) -> str:
    """The key of a part; without a number, what all keys of the upload begin with."""
    return f"{PARTS}{upload}/" + ("" if number is None else f"{number:05}")
