"""Origins: Debian's docker-registry (Distribution 2.8), plain or with tokens, and the token server in front of it."""

import base64
import json
import re
import ssl
import threading
import time
import urllib.parse
import uuid
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certificates import Authority, Certificate
from processes import Process, free_port

ACCESS_LINE = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[0-9.]+" (?P<status>\d{3}) \d+ "[^"]*" "(?P<agent>[^"]*)"')
ISSUER = "tests issuer"
SERVICE = "tests registry"
QUIET_S = 0.5
"""Distribution logs a request when it has answered it."""


@dataclass(frozen=True)
class Asked:
    """A line of an origin's access log."""

    method: str
    path: str
    status: int
    agent: str

    @property
    def immutable(self) -> bool:
        """Whether it asked for content by its digest, which no later answer can change."""
        return "sha256:" in self.path


class Distribution:
    """A docker-registry process over a folder of contents."""

    def __init__(self, store: Path, folder: Path, *, writable: bool = False, tls: Certificate | None = None, auth: str = "",
                 address: str = "127.0.0.1", around: tuple[str, ...] = ()):
        """`around` is a command that runs the process, such as `ip netns exec far`; then `address` is one of that place."""
        port = free_port()
        self.authority = f"{'localhost' if tls else address}:{port}"
        self.url = f"{'https' if tls else 'http'}://{self.authority}"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / f"registry-{port}.yml"
        config.write_text(
            "version: 0.1\n"
            "log: {level: info}\n"
            "storage:\n"
            f"  filesystem: {{rootdirectory: {json.dumps(str(store))}}}\n"
            "  maintenance:\n"
            "    uploadpurging: {enabled: false}\n"
            f"    readonly: {{enabled: {json.dumps(not writable)}}}\n"
            f"http:\n  addr: {address}:{port}\n  secret: tests\n"
            + (f"  tls: {{certificate: {json.dumps(str(tls.cert_file))}, key: {json.dumps(str(tls.key_file))}}}\n" if tls else "")
            + auth
        )
        self.process = Process("docker-registry", [*around, "docker-registry", "serve", config], folder / f"registry-{port}.log")
        self.process.wait_for(lambda: "listening on" in self._text())

    def _text(self) -> str:
        return self.process.log.read_text(errors="replace")

    def asked(self) -> list[Asked]:
        """Every request so far, in order."""
        lines = ACCESS_LINE.finditer(self._text())
        return [Asked(line["method"], line["path"], int(line["status"]), line["agent"]) for line in lines]

    def settled(self) -> list[Asked]:
        """Every request, once nothing has come for a while: fetching ahead goes on after a client has left."""
        before, quiet_since = -1, time.monotonic()
        while time.monotonic() - quiet_since < QUIET_S:
            asked = self.asked()
            if len(asked) != before:
                before, quiet_since = len(asked), time.monotonic()
            time.sleep(0.05)
        return asked

    def stop(self) -> None:
        self.process.stop()


class TokenServer:
    """Signs bearer tokens for one user, as the token authentication specification of Distribution says."""

    def __init__(self, authority: Authority, folder: Path, username: str, password: str):
        tls = authority.issue("token-server", "localhost", "127.0.0.1")
        self.authority, self.folder = authority, folder
        self.asked: Counter[str] = Counter()
        """How many requests had the right password, a wrong one, or none."""
        self._right = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        self._key = load_pem_private_key(tls.key_file.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(tls.cert_file.read_bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert_file, tls.key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.realm = f"https://localhost:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def registry_auth(self) -> str:
        """The part of docker-registry's configuration that makes it ask for these tokens."""
        return (
            "auth:\n  token:\n"
            f"    realm: {self.realm}\n    service: {SERVICE}\n    issuer: {ISSUER}\n    rootcertbundle: {self.authority.ca_file}\n"
        )

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _token(self, scopes: list[str], allowed: bool) -> str:
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",") if allowed else []})
        claims = {"iss": ISSUER, "sub": "tests", "aud": SERVICE, "exp": now + 300, "nbf": now - 10, "iat": now}
        claims |= {"jti": str(uuid.uuid4()), "access": access}
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"x5c": self._chain})

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                self._answer(self.headers.get("Authorization"), query.get("scope", []))

            def do_POST(self):
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
                pair = f"{form.get('username', [''])[0]}:{form.get('password', [''])[0]}"
                self._answer("Basic " + base64.b64encode(pair.encode()).decode(), form.get("scope", [""])[0].split())

            def _answer(self, authorization, scopes):
                right = authorization == server._right
                server.asked["right" if right else "wrong" if authorization else "none"] += 1
                if authorization and not right:
                    return self._send(401, {"errors": [{"code": "UNAUTHORIZED"}]})
                token = server._token(scopes, allowed=right)
                self._send(200, {"token": token, "access_token": token, "expires_in": 300})

            def _send(self, status, content):
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler
