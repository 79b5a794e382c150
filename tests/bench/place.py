"""Where the rows are measured: content, images, certificates, one warm edge beside nginx and docker-registry, and folders that go away."""

import base64
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import bench
import loads
from certificates import Authority, Certificate
from content import Content, Item
from edge import UPSTREAM, Edge, upstream
from images import Images
from origin import Distribution
from peers import Floor, Nginx
from processes import Process

MANY = 18_000
"""Connections: what an edge may have here, and descriptors for its files."""
SETTLE_MOST_S, QUIET_S, QUIET_SHARE = 60, 0.5, 0.05


@dataclass
class Place:
    folder: Path
    content: Content
    images: Images
    long: bool
    pairs: int

    def __post_init__(self):
        self._numbers = count()

    def new_folder(self, name: str) -> Path:
        return self.folder / f"{name}-{next(self._numbers)}"

    @cached_property
    def certificate(self) -> Certificate:
        return Authority(self.folder / "authority").issue("server", "localhost", "127.0.0.1")

    @cached_property
    def one_suite(self) -> dict[str, str]:
        return loads.one_suite(self.folder)

    @contextmanager
    def origin(self, store: Path | None = None, **options):
        """A docker-registry, which only reads if nothing else is said."""
        started = Distribution(store or self.content.store, self.new_folder("origin"), **options)
        try:
            yield started
        finally:
            started.stop()

    @contextmanager
    def nginx(self):
        """On the servers' core, with the same content as files."""
        started = Nginx(self.content.files, self.new_folder("nginx"), self.certificate, loads.SERVER)
        try:
            yield started
        finally:
            started.stop()

    @contextmanager
    def floor(self):
        """On the servers' core, hyper with nothing behind it."""
        started = Floor(self.new_folder("floor"), loads.SERVER)
        try:
            yield started
        finally:
            started.stop()

    @contextmanager
    def edge(self, origin_url: str, *, around: tuple[str, ...] = (), tables: str = ""):
        """An edge that has nothing yet, with TLS and without, for anybody and for `ci` with the password `secret`."""
        folder = self.new_folder("edge")
        folder.mkdir(parents=True)
        password = folder / "ci.password"
        password.write_text("secret")
        started = Edge(folder, (
            '[access]\nanonymous_pull = ["**"]\nanonymous_push = ["**"]\n'
            f'[limits]\nconnections = {MANY}\nheader_timeout = "5m"\nidle_timeout = "30m"\n{tables}'
            f'[[principal]]\nname = "ci"\npassword_files = ["{password}"]\npull = ["**"]\n'
            + upstream(origin_url, tag_ttl="1d")
        ), self.certificate, around)
        try:
            yield started
        finally:
            started.stop()
            bench.forget(folder)

    @contextmanager
    def warm_edge(self, tables: str = ""):
        """An edge on the servers' core that has all the content, has verified it, and has nothing left to do."""
        with self.origin() as origin, self.edge(origin.url, around=loads.SERVER, tables=tables) as edge:
            self.warm(edge)
            self.warm(edge)
            settle(edge)
            yield edge

    def warm(self, edge: Edge) -> None:
        for blob in self.content.blobs.values():
            loads.pull(edge.plain, "--repository", f"{UPSTREAM}/{blob.repository}", "--blob", blob.digest)
        for manifest in self.content.manifests.values():
            loads.pull(edge.plain, "--repository", f"{UPSTREAM}/{manifest.repository}", "--reference", manifest.tag)


def settle(edge: Edge) -> None:
    """Waits until it does nothing: what a process opens for the first time it verifies beside serving it."""
    until = time.monotonic() + SETTLE_MOST_S
    while True:
        used = edge.process.processor_seconds()
        time.sleep(QUIET_S)
        if edge.process.processor_seconds() - used <= QUIET_S * QUIET_SHARE:
            return
        assert time.monotonic() < until, "the edge does not come to rest"


def blob_path(blob: Item) -> str:
    return f"/v2/{UPSTREAM}/{blob.repository}/blobs/{blob.digest}"


def cached_file(edge: Edge, blob: Item) -> Path:
    """Where it has a blob."""
    [file] = edge.data.glob(f"**/{blob.digest.removeprefix('sha256:')}")
    return file


def manifest_path(manifest: Item, *, tag: bool) -> str:
    return f"/v2/{UPSTREAM}/{manifest.repository}/manifests/{manifest.tag if tag else manifest.digest}"


def token(edge: Edge, manifest: Item) -> str:
    basic = base64.b64encode(b"ci:secret").decode()
    answer = edge.get(f"/oauth2/token?service=x&scope=repository:{UPSTREAM}/{manifest.repository}:pull", Authorization=f"Basic {basic}")
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["token"]


def costing(process: Process, load) -> dict:
    """What a load measured, with the processor seconds that a process has used meanwhile, also for 10^9 bytes where it has bytes."""
    before = process.processor_seconds()
    measured = load()
    used = process.processor_seconds() - before
    measured["processor_s"] = used
    if measured.get("bytes"):
        measured["processor_s_per_gb"] = used / (measured["bytes"] / 1e9)
        measured["bytes_per_s"] = measured["bytes"] / measured["seconds"]
    return measured
