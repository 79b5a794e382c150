"""outport as a process."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path

from certificates import Certificate
from processes import Process, free_port

REPOSITORY = Path(__file__).resolve().parents[2]

UPSTREAM = "origin.test"
"""The `ns=` value and the path prefix of the upstream in most checks. Nothing answers under this name."""
HOST = "mirror.test"
"""The Host name that stands for that upstream."""


def binary() -> Path:
    """What `cargo build` made, or OUTPORT_BINARY."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return Path(os.environ.get("OUTPORT_BINARY", target / "debug" / "outport"))


def upstream(url: str, **keys) -> str:
    """An `[[upstream]]` table. Values are texts, numbers or lists of texts."""
    keys = {"name": UPSTREAM, "hosts": [HOST], "url": url} | keys
    return "[[upstream]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    """Looked up without regard to case."""
    body: bytes


class Edge:
    """One edge on free ports: plain HTTP, TLS if it has a certificate, and the operators' listener."""

    def __init__(self, folder: Path, tables: "str | Callable[[Edge], str]", certificate: Certificate | None = None,
                 around: tuple[str, ...] = (), *, region: str = "local", listeners: tuple[str, str] | None = None):
        """`tables` goes to the end of the configuration; a function gets the edge, to name its listeners. `around` is a command that
        runs the process, such as `ip netns exec near`. `listeners`: the plain one and the operators', where others must know them."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._around = folder, around
        self.plain, self.ops = listeners or (f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
        self.tls = f"127.0.0.1:{free_port()}" if certificate else None
        self.config = folder / "outport.toml"
        self.data = folder / "data"
        text = f'region = "{region}"\ndata_dir = "{self.data}"\n[listen]\nops = "{self.ops}"\n'
        if certificate:
            text += f'registry = "{self.tls}"\n[[listen.also]]\naddress = "{self.plain}"\n'
            text += f'[tls]\ncert_file = "{certificate.cert_file}"\nkey_file = "{certificate.key_file}"\n'
        else:
            text += f'registry = "{self.plain}"\n'
        self.config.write_text(text + (tables if isinstance(tables, str) else tables(self)))
        self.start()

    def start(self) -> None:
        self.process = Process("outport", [*self._around, binary(), "serve", "--config", self.config], self.folder / "outport.log")
        self.process.wait_for(self._ready)

    def _ready(self) -> bool:
        url = f"http://{self.ops}/readyz"
        if self._around and self.ops.startswith("127."):
            return subprocess.run([*self._around, "curl", "--silent", "--fail", "--output", "/dev/null", url]).returncode == 0
        return self.get(url).status == 200

    def stop(self, sign: int = signal.SIGTERM) -> int:
        return self.process.stop(sign)

    def get(self, url_or_path: str, method: str = "GET", **headers: str) -> Answer:
        """Asks the plain listener for a path, or any URL. Every status is an answer."""
        url = url_or_path if "://" in url_or_path else f"http://{self.plain}{url_or_path}"
        request = urllib.request.Request(url, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as answer:
            with answer:
                return Answer(answer.code, answer.headers, answer.read())

    def metrics(self) -> str:
        return self.get(f"http://{self.ops}/metrics").body.decode()
