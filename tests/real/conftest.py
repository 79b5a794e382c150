"""What the checks share: images, origins, certificates, edges. Logs of processes are shown when a check fails."""

import shutil
from pathlib import Path

import pytest

import images as image_builder
from certificates import Authority, Certificate
from edge import HOST, Edge, binary
from origin import Distribution, TokenServer
from region import Region
from stores import KINDS, Store

LOG_LINES = 60
USERNAME, PASSWORD = "puller", "correct horse battery staple"


@pytest.fixture(scope="session", autouse=True)
def built_binary():
    assert binary().exists(), f"{binary()} is missing: cargo build makes it, or run tests/run"


@pytest.fixture(scope="session")
def images() -> image_builder.Images:
    return image_builder.load()


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    # skopeo and podman take a folder in which every .crt file is an authority.
    trusted = authority.folder / "trusted"
    trusted.mkdir()
    shutil.copy(authority.ca_file, trusted)
    return authority


@pytest.fixture(scope="session")
def certificate(authority) -> Certificate:
    return authority.issue("edge", HOST, "localhost", "127.0.0.1")


@pytest.fixture(scope="session")
def hosts_file(tmp_path_factory) -> Path:
    """An /etc/hosts in which the edge has its Host name."""
    path = tmp_path_factory.mktemp("hosts") / "hosts"
    path.write_text(f"127.0.0.1 localhost {HOST}\n")
    return path


@pytest.fixture
def logs() -> list[Path]:
    """Logs to show if the check fails."""
    return []


@pytest.fixture
def origin(images, tmp_path, logs):
    """A docker-registry without authentication."""
    started = Distribution(images.store, tmp_path / "origin")
    logs.append(started.process.log)
    yield started
    started.stop()


@pytest.fixture
def token_server(authority, tmp_path):
    server = TokenServer(authority, tmp_path / "token-server", USERNAME, PASSWORD)
    yield server
    server.stop()


@pytest.fixture
def token_origin(images, tmp_path, logs, authority, token_server):
    """A docker-registry with TLS that wants a bearer token."""
    tls = authority.issue("origin", "localhost", "127.0.0.1")
    started = Distribution(images.store, tmp_path / "token-origin", tls=tls, auth=token_server.registry_auth())
    logs.append(started.process.log)
    yield started
    started.stop()


@pytest.fixture
def start_edge(certificate, tmp_path, logs):
    """Starts edges with TLS and plain listeners: `start_edge(tables)`, the text of the configuration's last tables."""
    started: list[Edge] = []

    def start(tables: str) -> Edge:
        edge_folder = tmp_path / f"edge-{len(started)}"
        logs.append(edge_folder / "outport.log")
        started.append(Edge(edge_folder, tables, certificate))
        return started[-1]

    yield start
    for edge in started:
        edge.stop()
        shutil.rmtree(edge.data, ignore_errors=True)


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """A store of each kind, started when it is first asked for: `stores(kind)`."""
    started: dict[str, Store] = {}

    def start(kind: str) -> Store:
        if kind not in started:
            started[kind] = KINDS[kind](tmp_path_factory.mktemp(f"store-{kind}"))
        return started[kind]

    yield start
    for store in started.values():
        store.stop()


@pytest.fixture
def start_region(certificate, tmp_path, logs):
    """Starts regions of two edges: `start_region(store, limits={...})`, as `Region` takes it."""
    started: list[Region] = []

    def start(store: Store, **options) -> Region:
        folder = tmp_path / f"region-{len(started)}"
        logs.extend(folder / f"edge-{number}" / "outport.log" for number in range(options.get("edges", 2)))
        started.append(Region(folder, store, certificate, **options))
        return started[-1]

    yield start
    for region in started:
        region.stop()
        for edge in region.edges:
            shutil.rmtree(edge.data, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        for log in item.funcargs.get("logs", []) if hasattr(item, "funcargs") else []:
            if log.exists():
                report.sections.append((str(log), "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])))
    return report
