"""The registry API as a careful client uses it: one connection, every status is an answer, a broken connection is told as such."""

import hashlib
import http.client
import json
import socket
import urllib.parse
from dataclasses import dataclass
from http.client import HTTPMessage

from images import INDEX, MANIFEST

TIMEOUT_S = 60
ACCEPT = ", ".join([MANIFEST, INDEX, "application/vnd.docker.distribution.manifest.v2+json", "*/*"])


class Lost(Exception):
    """No answer came: nobody knows whether the request had its effect."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes


class Api:
    """Asks one address. Not for several threads."""

    def __init__(self, authority: str):
        self.authority = authority
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, target: str, body=b"", **headers: str) -> Answer:
        """`body` is bytes, or an iterable of them that is sent in chunks. Header names have underscores for hyphens."""
        fields = {"Accept": ACCEPT} | {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self.authority, timeout=TIMEOUT_S)
                self._connection.connect()
                self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.request(method, target, body, fields, encode_chunked=not isinstance(body, bytes))
            answer = self._connection.getresponse()
            found = Answer(answer.status, answer.headers, answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Lost(f"{method} {target}: {error!r}") from error
        if found.status == 502:
            # The balancer's word for an edge that went away.
            raise Lost(f"{method} {target}: {found.body!r}")
        return found

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def expect(answer: Answer, *statuses: int) -> Answer:
    assert answer.status in statuses, (answer.status, answer.headers.items(), answer.body[:1000])
    return answer


def local(location: str) -> str:
    """A Location without scheme and host."""
    url = urllib.parse.urlsplit(location)
    return url.path + (f"?{url.query}" if url.query else "")


def with_query(location: str, **values: str) -> str:
    return location + ("&" if "?" in location else "?") + urllib.parse.urlencode(values)


def push_blob(api: Api, repository: str, content: bytes) -> str:
    """POST and one PUT."""
    digest = digest_of(content)
    session = local(expect(api.ask("POST", f"/v2/{repository}/blobs/uploads/"), 202).headers["Location"])
    expect(api.ask("PUT", with_query(session, digest=digest), content, Content_Type="application/octet-stream"), 201)
    return digest


def push_manifest(api: Api, repository: str, reference: str, manifest: dict) -> str:
    content = json.dumps(manifest).encode()
    expect(api.ask("PUT", f"/v2/{repository}/manifests/{reference}", content, Content_Type=manifest["mediaType"]), 201)
    return digest_of(content)


def read_whole(api: Api, repository: str, reference: str) -> dict[str, int]:
    """Reads a manifest and everything that it names, to the last byte. Every digest is compared.

    Returns the sizes of all that was read, by digest. The first is the manifest's own."""
    answer = expect(api.ask("GET", f"/v2/{repository}/manifests/{reference}"), 200)
    digest = digest_of(answer.body)
    assert answer.headers["Docker-Content-Digest"] == digest
    assert ":" not in reference or reference == digest, (reference, digest)
    found = {digest: len(answer.body)}
    manifest = json.loads(answer.body)
    for descriptor in manifest.get("manifests", []):
        found |= read_whole(api, repository, descriptor["digest"])
    for descriptor in [*filter(None, [manifest.get("config")]), *manifest.get("layers", [])]:
        if descriptor["digest"] not in found:
            blob = expect(api.ask("GET", f"/v2/{repository}/blobs/{descriptor['digest']}"), 200).body
            assert (digest_of(blob), len(blob)) == (descriptor["digest"], descriptor["size"])
            found[descriptor["digest"]] = len(blob)
    return found
